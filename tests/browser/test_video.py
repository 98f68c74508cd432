"""From Generate to the video in a real browser: progress, gallery, comparison, recipes, masks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from visits import DESKTOP, PATIENCE, PHONE, lively, open_page
from walk import (
    QUICK,
    UNENDING,
    a_request,
    drop_request,
    give_file,
    start,
    video_is_there,
    video_plays,
)


def generate(page: Page) -> None:
    """Press Generate and wait for the new video."""
    start(page)
    video_is_there(page)


def download(page: Page, button: str) -> bytes:
    with page.expect_download() as got:
        page.locator(button).click()
    return Path(got.value.path()).read_bytes()


def frames(page: Page) -> np.ndarray:
    with np.load(io.BytesIO(download(page, "#frames"))) as saved:
        return saved["frames"]


def test_generate_ends_with_a_video_that_plays_and_its_files(page: Page) -> None:
    lively(page)
    drop_request(page, seed=5)
    generate(page)
    player = "document.querySelector('#video video')"
    page.wait_for_function(f"{player}.duration > 0.5 && {player}.loop")
    box = f"{player}.getBoundingClientRect()"
    page.wait_for_function(f"{box}.top >= 0 && {box}.bottom <= innerHeight")  # without scrolling
    assert page.evaluate(f"{box}.width") >= DESKTOP["width"] / 2
    expect(page.locator("#references .reference img")).to_have_count(2)
    began = page.evaluate(f"{player}.currentTime")
    page.wait_for_function(f"began => {player}.currentTime !== began", arg=began)
    expect(page.locator("#status")).to_contain_text("seed 5")
    expect(page.locator("#facts")).to_contain_text("pocket")
    expect(page.locator("#announced [role=status]")).to_contain_text("seed 5")
    assert json.loads(download(page, "#recipe"))["seed"] == 5
    assert download(page, "#gif")[:4] == b"GIF8"
    assert download(page, "#masks-zip")[:2] == b"PK"
    assert download(page, "#mp4")[4:8] == b"ftyp"
    assert "/outputs" not in page.locator("body").inner_text()


def test_a_job_is_told_step_by_step_after_a_reload_too_and_after_cancel_the_next_one_is_made(
    page: Page,
) -> None:
    drop_request(page, steps=UNENDING)
    start(page)
    expect(page.locator("#status")).to_contain_text("step")
    expect(page.locator("#live img")).to_be_visible()
    page.reload()
    expect(page.locator("#status")).to_contain_text("so far")
    expect(page.locator("#status .bar")).to_be_visible()
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text("Everything you chose is kept")
    expect(page.locator("#cancel")).to_have_count(0)
    expect(page.locator(".gallery-card .state")).to_have_text("stopped")
    drop_request(page, seed=4)
    generate(page)
    expect(page.locator(".gallery-card")).to_have_count(2)


@pytest.mark.long
def test_a_reload_ends_with_the_video_of_the_job_that_was_running(page: Page) -> None:
    drop_request(page, steps=12)
    start(page)
    for _ in range(2):  # on its way at first, or there already
        page.reload()
        expect(page.locator("#video video")).to_be_visible(timeout=3 * PATIENCE)
    expect(page.locator(".gallery-card")).to_have_count(1)


def test_whoever_asks_for_less_motion_gets_a_video_that_waits_to_be_played(page: Page) -> None:
    drop_request(page, seed=6)
    generate(page)
    player = page.locator("#video video")
    expect(page.locator("#facts")).to_contain_text("pocket")
    player.evaluate("video => new Promise((seen) => setTimeout(seen, 500))")
    assert player.evaluate("video => video.paused")
    assert player.evaluate("video => video.currentTime") < 0.5
    player.evaluate("video => video.play()")
    video_plays(page)


def test_two_videos_are_compared_in_step_and_deleted_at_the_second_press(page: Page) -> None:
    for seed in (1, 2):
        drop_request(page, seed=seed)
        generate(page)
    page.locator(".gallery-card [data-do=side_a]").nth(0).click()
    expect(page.locator("#compare-hint")).to_contain_text("Choose the other side too")
    page.locator(".gallery-card [data-do=side_b]").nth(1).click()
    expect(page.locator("#compare-a video")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#compare-b video")).to_be_visible(timeout=PATIENCE)
    page.wait_for_function("document.querySelector('#compare-bar input').max > 1")
    both = "[...document.querySelectorAll('#compare video')]"
    page.locator("#compare-bar [data-part=play]").click()
    playing = f"{both}.every(video => !video.paused && video.currentTime > 0.3)"
    told = page.wait_for_function(f"{playing} && {both}.map(video => video.currentTime)")
    times = told.json_value()  # of one moment
    assert abs(times[0] - times[1]) < 0.2
    page.wait_for_function(f"{both}.every(video => video.currentTime < 0.25)")  # from the start
    page.locator("#compare-bar [data-part=play]").click()
    assert page.evaluate(f"{both}.every(video => video.paused)")
    page.locator("#compare-bar [data-part=seek]").fill("0.8")
    page.wait_for_function(f"{both}.every(video => Math.abs(video.currentTime - 0.8) < 0.02)")
    page.locator("#compare-bar [data-part=on]").click()
    page.wait_for_function(f"{both}.every(video => Math.abs(video.currentTime - 0.925) < 0.02)")

    expect(page.locator(".compare-table th[scope=row]")).to_have_text(["Seed"])
    page.locator("[data-mode=wipe].compare-mode").click()
    edges = page.locator("#compare video").evaluate_all(
        "pair => pair.map((video) => video.getBoundingClientRect().left)"
    )
    assert edges[0] == edges[1]  # one over the other
    page.get_by_label("How much of A is seen").fill("25")
    clip = "getComputedStyle(document.querySelector('#compare-b')).clipPath"
    assert "25%" in page.evaluate(clip)
    button = page.locator(".gallery-card [data-do=delete]").first
    button.click()
    expect(button).to_have_text("Really delete?")
    button.click()
    expect(page.locator(".gallery-card")).to_have_count(1, timeout=PATIENCE)
    expect(page.locator("#compare")).to_have_count(0)
    expect(page.locator("#video")).to_have_count(0)  # the deleted one was on show


def test_a_dropped_recipe_and_a_dropped_video_make_the_same_frames(
    browser: Browser, server: str, page: Page
) -> None:
    drop_request(page, seed=11, steps=3)
    generate(page)
    first = frames(page)
    video, recipe = download(page, "#mp4"), download(page, "#recipe")
    other = open_page(browser, server, DESKTOP)
    for name, content in (("video.mp4", video), ("recipe.json", recipe)):
        drop_request(other, seed=3)  # the page's own settings are others by then
        expect(other.locator("#seed input")).to_have_value("3")
        give_file(other, "#recipe-drop", name, content)
        expect(other.locator("#seed input")).to_have_value("11")
        expect(other.locator("#restore-notes")).to_contain_text("The recipe is in the page")
        expect(other.locator("#restore-notes .warning")).to_have_count(0)
        generate(other)
        assert np.array_equal(frames(other), first)


def test_a_recipe_that_cannot_be_replayed_says_why_and_changes_nothing(page: Page) -> None:
    request = a_request()
    request["objects"][0]["motion"] = "cartwheel"
    page.locator("#recipe-drop input[type=file]").set_input_files(
        {"name": "r.json", "mimeType": "application/json", "buffer": json.dumps(request).encode()}
    )
    expect(page.locator(".toast-body")).to_contain_text("cartwheel", timeout=PATIENCE)
    expect(page.locator("#restore-notes")).not_to_contain_text("The recipe is in the page")


def test_masks_come_over_the_video_and_go_again(page: Page) -> None:
    drop_request(page)
    generate(page)
    source = "document.querySelector('#video video').src"
    plain = page.evaluate(source)
    page.locator("#overlay input").check()
    page.wait_for_function(f"plain => {source} !== plain", arg=plain, timeout=PATIENCE)
    assert "with-masks" in page.evaluate(source)
    page.locator("#overlay input").uncheck()
    page.wait_for_function(f"!{source}.includes('with-masks')", timeout=PATIENCE)


def test_the_settings_of_a_video_come_back_and_presets_name_them(page: Page) -> None:
    drop_request(page, seed=8)
    generate(page)
    page.locator("#preset label", has_text="Paper").click()
    page.locator("#settings button").first.click()
    expect(page.locator("#steps-count input[type=number]")).to_have_value("50")
    page.locator("#use-again").click()
    expect(page.locator("#steps-count input[type=number]")).to_have_value(str(QUICK))
    expect(page.locator("#preset label.selected")).to_have_count(0)
    expect(page.locator("#seed input")).to_have_value("8")


def test_a_mistake_is_told_in_a_toast_and_in_the_status_line(page: Page) -> None:
    page.locator("#generate").click()
    expect(page.locator(".toast-body")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#status .warning")).to_be_visible()
    expect(page.locator("#cancel")).to_have_count(0)


def test_on_a_phone_the_gallery_fits(browser: Browser, server: str) -> None:
    page = open_page(browser, server, PHONE)
    drop_request(page)
    generate(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator("#videos button:visible").count() >= 4
