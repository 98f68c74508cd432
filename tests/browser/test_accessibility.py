"""axe-core on every tab and dialog, in each language, empty and full."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from daily import some_daily
from playwright.sync_api import Browser, Page, expect
from visits import DESKTOP, PATIENCE, PHONE, check_accessible, open_page
from walk import (
    choose_motion,
    drop_request,
    mark_two,
    open_tab,
    pick_example,
    start,
    upload_clip,
    video_is_there,
    write_clip,
)

from motion_app.ui.markup import LANGUAGES

ADDRESSES = {language: "" if language == "en" else language for language in LANGUAGES}


def write_zip(folder: Path) -> Path:
    """A file that nobody looks into."""
    path = folder / "items.zip"
    path.write_bytes(b"PK\x05\x06" + bytes(18))
    return path


def heading_levels(page: Page) -> list[int]:
    return page.locator("h1:visible, h2:visible, h3:visible, h4:visible").evaluate_all(
        "all => all.map((heading) => Number(heading.tagName[1]))"
    )


@pytest.mark.parametrize("language", some_daily(LANGUAGES, "en"))
def test_a_scene_its_dialog_and_its_results(browser: Browser, server: str, language: str) -> None:
    page = open_page(browser, server + ADDRESSES[language], DESKTOP)
    assert page.evaluate("document.documentElement.lang") == language
    check_accessible(page)
    pick_example(page)
    mark_two(page)
    choose_motion(page, 1, "jump")
    check_accessible(page)
    page.locator(".motion-button").first.click()
    expect(page.locator(".motion-dialog .card").first).to_be_visible(timeout=PATIENCE)
    check_accessible(page)
    page.keyboard.press("Escape")
    for seed in (1, 2):
        drop_request(page, seed=seed, steps=1)
        start(page)
        video_is_there(page)
    for side, number in (("a", 0), ("b", 1)):
        page.locator(f".gallery-card [data-do=side_{side}]").nth(number).click()
    expect(page.locator("#compare-b video")).to_be_visible(timeout=PATIENCE)
    page.locator(".compare-mode").last.click()
    check_accessible(page)
    levels = heading_levels(page)
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("language", some_daily(LANGUAGES, "en"))
def test_the_other_tabs(browser: Browser, server: str, language: str, tmp_path: Path) -> None:
    page = open_page(browser, server + ADDRESSES[language], DESKTOP)
    open_tab(page, "motions")
    expect(page.locator(".motion-card").first).to_be_visible(timeout=PATIENCE)
    check_accessible(page)
    upload_clip(page, write_clip(tmp_path))
    check_accessible(page)
    open_tab(page, "study")
    expect(page.frame_locator("#demo-frame").locator("#agree")).to_be_visible(timeout=PATIENCE)
    page.locator("#study-source input").nth(1).check()  # a ZIP
    page.locator("#study-more > button").click()
    page.locator("#study-file input[type=file]").set_input_files(write_zip(tmp_path))
    expect(page.locator("#study-file .file-preview")).to_be_visible(timeout=PATIENCE)
    check_accessible(page)
    open_tab(page, "evaluate")
    expect(page.locator("#evaluate-score")).to_be_visible(timeout=PATIENCE)
    check_accessible(page)


def test_on_a_phone(browser: Browser, server: str) -> None:
    page = open_page(browser, server, PHONE)
    pick_example(page)
    mark_two(page)
    check_accessible(page)
