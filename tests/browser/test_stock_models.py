"""A model of others in a real browser: chosen where no motion is told, described, and at work."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect
from visits import PATIENCE, lively
from walk import drop_request, start, video_is_there, video_plays

NUMBER = "input[type=number]"


def test_the_page_lets_a_model_of_others_make_the_video(page: Page) -> None:
    page.locator("#settings button").first.click()
    expect(page.locator("#stock-model")).to_be_hidden()  # the first method is told motions
    drop_request(page, method="none", steps=3)
    choice = page.locator("#stock-model")
    expect(choice).to_contain_text("The loaded checkpoint, without motions")
    choice.locator("input").click()
    page.get_by_role("option", name=re.compile("tiny-wan")).click()
    expect(choice).to_contain_text(
        "Wan 2.1 image-to-video: licence Apache 2.0. 9 frames at 16 per second"
    )
    expect(page.locator(f"#steps-count {NUMBER}")).to_have_value("2")  # its own
    expect(page.locator(f"#guidance {NUMBER}")).to_have_value("3")
    lively(page)
    start(page)
    video_is_there(page)
    video_plays(page)
    facts = page.locator(".facts").first
    expect(facts).to_contain_text("tiny-wan", timeout=PATIENCE)
    expect(facts).to_contain_text("Wan 2.1 image-to-video")
    page.locator("#method-family label", has_text="Learned motions").click()
    expect(choice).to_be_hidden()
    page.locator("#use-again").click()
    expect(choice.locator("input")).to_have_value(re.compile("tiny-wan"))
