"""The main job in a real browser, on the checkpoint and the examples that ship with the app."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PATIENCE = 120_000  # ms; on a free machine everything here takes a few seconds
DESKTOP = {"width": 1366, "height": 768}
PHONE = {"width": 390, "height": 844}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``python app.py`` as a person starts it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = os.environ | {"MOTION_APP_CACHE": str(tmp_path_factory.mktemp("cache"))}
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while not answers(url):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() - began < 240, log.read_text()
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


def open_page(browser: Browser, server: str, viewport: dict[str, int]) -> Page:
    page = browser.new_context(viewport=viewport).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server)
    expect(page.locator("#generate")).to_be_visible(timeout=PATIENCE)
    return page


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    opened = open_page(browser, server, DESKTOP)
    yield opened
    opened.context.close()


def example_boxes() -> list[tuple[float, float, float, float]]:
    """The first example's objects, as shares of its width and height."""
    notes = sorted((ROOT / "assets" / "examples").glob("*.json"))[0]
    picture = notes.with_suffix(".png").read_bytes()
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    boxes = [item["box"] for item in json.loads(notes.read_text())["objects"]]
    return [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes]


def pick_example(page: Page) -> None:
    page.locator("#examples button").first.click()
    expect(page.locator(".stage-frame img")).to_be_visible(timeout=PATIENCE)


def click_object(page: Page, box: tuple[float, float, float, float]) -> None:
    """A click a little below the middle: on the body, off the face."""
    stage = page.locator(".stage-frame")
    stage.scroll_into_view_if_needed()
    frame = stage.bounding_box()
    x = (box[0] + box[2]) / 2
    y = 0.42 * box[1] + 0.58 * box[3]
    stage.click(position={"x": x * frame["width"], "y": y * frame["height"]})


def mark_two(page: Page) -> None:
    first, second = example_boxes()[:2]
    click_object(page, first)
    expect(page.locator(".object-row .badge")).to_have_count(1, timeout=PATIENCE)
    page.locator("#new-object").click()
    expect(page.locator("#hint")).to_contain_text("Click on the next object", timeout=PATIENCE)
    click_object(page, second)
    expect(page.locator(".object-row .badge")).to_have_count(2, timeout=PATIENCE)


def choose_motion(page: Page, number: int, choice: int) -> str:
    """Pick the ``choice``-th motion of object ``number``'s list; its name."""
    page.get_by_label(f"Motion of object {number}").click()
    option = page.get_by_role("option").nth(choice)
    name = option.get_attribute("aria-label") or option.inner_text()
    option.click()
    expect(page.locator(".object-row .preview img")).to_have_count(number, timeout=PATIENCE)
    return name.strip()


def set_steps(page: Page, steps: int) -> None:
    field = page.locator("#steps-count input[type=number]")
    if not field.is_visible():
        page.locator("#settings button").first.click()
    field.fill(str(steps))
    field.press("Tab")


def toast(page: Page) -> str:
    message = page.locator(".toast-body").last
    expect(message).to_be_visible(timeout=PATIENCE)
    text = message.inner_text()
    page.locator(".toast-close").last.click()
    expect(page.locator(".toast-body")).to_have_count(0, timeout=PATIENCE)  # it fades out
    return text


def test_the_page_opens_while_the_model_may_still_be_loading(page: Page) -> None:
    banner = page.locator("#banner")
    expect(banner).to_contain_text(re.compile("loading|not measured yet"))
    pick_example(page)
    expect(banner).to_contain_text("not measured yet", timeout=2 * PATIENCE)


def test_example_two_clicks_two_motions_and_the_video_plays(page: Page) -> None:
    pick_example(page)
    mark_two(page)
    for number in (1, 2):
        choose_motion(page, number, choice=number)
    page.locator("#generate").click()
    expect(page.locator("#status")).to_contain_text("step", timeout=PATIENCE)
    expect(page.locator("#live img")).to_be_visible(timeout=PATIENCE)
    video = page.locator("#video video")
    expect(video).to_be_visible(timeout=2 * PATIENCE)
    page.wait_for_function("document.querySelector('#video video').duration > 0.5")
    began = video.evaluate("player => player.currentTime")
    page.wait_for_function(
        "began => document.querySelector('#video video').currentTime !== began", arg=began
    )
    expect(page.locator("#status")).to_contain_text("seed 0")
    expect(page.locator("#banner")).to_contain_text("measured on the last one")
    with page.expect_download() as download:
        page.locator("#recipe").click()
    recipe = json.loads(Path(download.value.path()).read_text())
    assert recipe["seed"] == 0
    assert len(recipe["request"]["objects"]) == 2
    assert all(item["motion"] for item in recipe["objects"])


def test_cancel_stops_within_a_step_and_keeps_the_inputs(page: Page) -> None:
    pick_example(page)
    mark_two(page)
    choose_motion(page, 1, choice=1)
    set_steps(page, 100)
    page.locator("#generate").click()
    expect(page.locator("#live img")).to_be_visible(timeout=PATIENCE)
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text(
        "Everything you chose is kept", timeout=PATIENCE
    )
    stopped = int(re.search(r"step (\d+)", page.locator("#status").inner_text()).group(1))
    assert stopped < 100
    expect(page.locator(".object-row .badge")).to_have_count(2)
    expect(page.locator("#generate")).to_be_enabled()
    expect(page.locator("#cancel")).to_have_count(0)


def test_mistakes_are_told_in_words_and_nothing_is_lost(page: Page) -> None:
    page.locator("#generate").click()
    assert "no picture yet" in toast(page)
    pick_example(page)
    page.locator("#generate").click()
    assert "nothing is marked yet" in toast(page).lower()
    mark_two(page)
    choose_motion(page, 1, choice=1)
    page.get_by_label("Sentence of object 1").fill("An <b>odd</b> thing.")
    page.locator("#generate").click()
    assert "<b>odd</b>" in toast(page)  # shown as written, not as markup
    expect(page.locator(".object-row .note.warning")).to_contain_text("exactly once")
    page.locator("#upload input[type=file]").set_input_files(
        {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture at all"}
    )
    assert "notes.png cannot be read as a picture" in toast(page)
    expect(page.locator(".object-row .badge")).to_have_count(2)
    expect(page.locator("#upload input[type=file]")).to_have_count(1, timeout=PATIENCE)


def test_the_keyboard_alone_marks_and_takes_back(page: Page) -> None:
    pick_example(page)
    box = example_boxes()[0]
    page.locator(".stage-frame").focus()
    for key, share in (("Arrow{}", (box[0] + box[2]) / 2), ("", 0.42 * box[1] + 0.58 * box[3])):
        presses = round((share - 0.5) / 0.02)
        towards = ("Right", "Left") if key else ("Down", "Up")
        for _ in range(abs(presses)):
            page.keyboard.press("Arrow" + towards[presses < 0])
    page.keyboard.press("Enter")
    expect(page.locator(".object-row .badge")).to_have_count(1, timeout=PATIENCE)
    expect(page.locator(".stage-frame")).to_be_focused()
    page.keyboard.press("Control+z")
    expect(page.locator(".object-row .badge")).to_have_count(0, timeout=PATIENCE)


def test_two_browsers_do_not_see_each_others_objects(
    browser: Browser, server: str, page: Page
) -> None:
    pick_example(page)
    mark_two(page)
    other = open_page(browser, server, DESKTOP)
    expect(other.locator(".stage-empty")).to_be_visible()
    expect(other.locator(".object-row .badge")).to_have_count(0)
    other.context.close()


def test_on_a_phone_the_steps_are_stacked_and_nothing_overflows(
    browser: Browser, server: str
) -> None:
    page = open_page(browser, server, PHONE)
    pick_example(page)
    mark_two(page)
    tops = page.locator("#steps > .step").evaluate_all(
        "steps => steps.map((step) => step.getBoundingClientRect().top)"
    )
    lefts = page.locator("#steps > .step").evaluate_all(
        "steps => steps.map((step) => step.getBoundingClientRect().left)"
    )
    assert tops == sorted(set(tops))
    assert len(set(lefts)) == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.context.close()


def test_every_picture_has_words_and_every_field_a_label(page: Page) -> None:
    pick_example(page)
    mark_two(page)
    assert page.locator("img:visible:not([alt])").count() == 0
    unlabelled = page.locator("#steps input:visible, #steps textarea:visible").evaluate_all(
        "fields => fields.filter((field) => !(field.labels?.length || field.ariaLabel"
        " || field.title)).map((field) => field.outerHTML.slice(0, 200))"
    )
    assert unlabelled == []
