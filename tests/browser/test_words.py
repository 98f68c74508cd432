"""The page of a text-to-video model in a real browser: a thing in words becomes a video."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from serving import RunningApp
from visits import DESKTOP, PATIENCE, ROOT, open_page
from walk import objects_are, start, video_is_there


def test_a_video_is_made_of_words_alone(
    browser: Browser, text_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("words")
    clicks = {"MOTION_APP_SEGMENTER": str(ROOT / "checkpoints" / "pocket" / "sam2")}
    with RunningApp(folder, "--model", str(text_checkpoint), **clicks) as app:
        page = open_page(browser, app.url, DESKTOP)
        page.locator("#fit button", has_text="Without a picture").click()
        objects_are(page, 1)  # while the model may still be loading
        expect(page.locator(".stage-empty")).to_contain_text("the model makes the first frame too")
        name = page.locator(".object-row input[data-field=name]")
        name.fill("red fox")
        name.press("Tab")
        sentence = page.locator(".object-row textarea[data-field=sentence]")
        expect(sentence).to_have_value("A red fox is moving.", timeout=PATIENCE)
        page.locator("#settings button").first.click()
        page.locator("#method-family label", has_text="No motion").click()
        expect(page.locator("#method input")).to_have_value("None: the stock model")
        start(page)
        video_is_there(page)
        expect(page.locator(".toast-body.error")).to_have_count(0)
        assert "Traceback" not in app.log.read_text()
        page.locator("#fit button", has_text="Without a picture").click()
        objects_are(page, 0)
