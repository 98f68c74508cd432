"""A path drawn on the picture in a real browser, up to the video in which the object goes along
it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Browser, Page, expect
from test_transfer import drag, frame_of
from visits import PATIENCE, PHONE, open_page
from walk import (
    choose_motion,
    click_object,
    example_boxes,
    mark_two,
    middle,
    objects_are,
    pick_example,
    set_steps,
    start,
    toast,
    video_is_there,
)

from motion_app.evaluation.trackers import colour_track
from motion_app.media.files import decode_data_uri, read_clip, read_mask

PATHS = ".stage-paths g"
A_PATH = "a drawn path"


def hold_path(page: Page) -> None:
    page.locator(".stage-frame").focus()
    page.keyboard.press("a")
    expect(page.locator('[data-tool="path"]')).to_have_attribute("aria-checked", "true")


def motion_of(page: Page, number: int) -> str:
    return f".motion-button[data-number='{number}']"


def test_a_drag_draws_a_path_in_the_place_of_a_motion_and_the_object_goes_along_it(
    page: Page, tmp_path: Path
) -> None:
    pick_example(page)
    hold_path(page)
    one, two = (middle(box) for box in example_boxes()[:2])
    drag(page, one, (0.5, 0.5))
    assert "click on the thing first" in toast(page)
    page.keyboard.press("p")
    mark_two(page)
    for number in (1, 2):
        choose_motion(page, number, "jump")
    hold_path(page)
    away = (0.5, 0.3) if one[0] < two[0] else (0.2, 0.3)
    drag(page, one, away)
    row = page.locator(motion_of(page, 1))
    expect(row).to_contain_text(A_PATH, timeout=PATIENCE)
    expect(page.locator(PATHS)).to_have_count(1)
    expect(page.locator(".object-row.selected .badge")).to_have_text("1")
    undo = page.locator("#undo")
    expect(undo).to_have_attribute("title", re.compile("path of object 1"))
    undo.click()
    expect(row).to_have_attribute("data-motion", "jump", timeout=PATIENCE)
    expect(page.locator(PATHS)).to_have_count(0)
    page.locator("#redo").click()
    expect(row).to_contain_text(A_PATH, timeout=PATIENCE)
    drag(page, two, (0.8, 0.2))
    expect(page.locator(PATHS)).to_have_count(2, timeout=PATIENCE)
    page.get_by_role("button", name="Remove the path of object 2").click()
    expect(page.locator(PATHS)).to_have_count(1, timeout=PATIENCE)
    choose_motion(page, 2, "jump")
    page.reload()
    objects_are(page, 2)
    expect(page.locator(PATHS)).to_have_count(1, timeout=PATIENCE)
    set_steps(page, 12)
    start(page)
    video_is_there(page)
    with page.expect_download() as download:
        page.locator("#recipe").click()
    recipe = json.loads(Path(download.value.path()).read_text())
    drawn, moved = recipe["request"]["objects"]
    assert drawn["motion"] is None and moved["motion"] == "jump" and "path" not in moved
    gone = 96 * (drawn["path"][-1][0] - drawn["path"][0][0])
    address = page.locator("#video video").evaluate("video => video.currentSrc")
    frames = frames_of(page.request.get(address).body(), tmp_path / "video.mp4")
    track = colour_track(frames, read_mask(decode_data_uri(drawn["mask"])))  # (T, 2) y and x
    assert (track[-1, 1] - track[0, 1]) * np.sign(gone) > 0.4 * abs(gone)


def frames_of(video: bytes, file: Path) -> np.ndarray:
    """(T, 64, 96, 3) uint8."""
    file.write_bytes(video)
    frames = read_clip(file).frames
    return np.stack([cv2.resize(f, (96, 64), interpolation=cv2.INTER_AREA) for f in frames])


def test_the_keyboard_draws_a_path_too(page: Page) -> None:
    pick_example(page)
    click_object(page, example_boxes()[0])
    objects_are(page, 1)
    hold_path(page)
    for key in ("Enter", *["ArrowRight"] * 6, *["ArrowUp"] * 4, "Enter"):
        page.keyboard.press(key)
    expect(page.locator(motion_of(page, 1))).to_contain_text(A_PATH, timeout=PATIENCE)
    expect(page.locator(PATHS)).to_have_count(1)
    expect(page.locator(".stage-frame")).to_be_focused()


def test_a_finger_draws_a_path_and_the_page_stays_as_wide_as_the_phone(
    browser: Browser, server: str
) -> None:
    page = open_page(browser, server, PHONE)
    pick_example(page)
    click_object(page, example_boxes()[0])
    objects_are(page, 1)
    page.locator('[data-tool="path"]').click()
    frame, (x, y) = frame_of(page), middle(example_boxes()[0])
    at = {"x": frame["x"] + x * frame["width"], "y": frame["y"] + y * frame["height"]}
    finger = page.context.new_cdp_session(page)
    send = "Input.dispatchTouchEvent"
    finger.send(send, {"type": "touchStart", "touchPoints": [at]})
    for step in range(1, 9):
        points = [{"x": at["x"] + 10 * step, "y": at["y"] - 8 * step}]
        finger.send(send, {"type": "touchMove", "touchPoints": points})
    finger.send(send, {"type": "touchEnd", "touchPoints": []})
    expect(page.locator(motion_of(page, 1))).to_contain_text(A_PATH, timeout=PATIENCE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
