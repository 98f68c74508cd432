"""A file that a box does not take: the page says in its own words what came, what is taken there
and what to do, and takes what came beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from visits import DESKTOP, open_page
from walk import DROP, give_file, open_tab, write_clip

from motion_app.ui.markup import Texts
from motion_app.ui.motions.form import WORDS
from motion_app.ui.uploads import refusal

BOXES = {  # by the tab: place and kind
    "transfer": (("#upload", "picture"), ("#recipe-drop", "recipe")),
    "motions": (("#clip-upload", "clip"), ("#motion-file", "motion")),
    "study": (("#study-file", "items"),),
    "evaluate": (
        *(("#evaluate-videos", "clip"), ("#evaluate-extras", "beside"), ("#verify-file", "clip")),
    ),
}


def told(page: Page, words: str) -> None:
    """In a toast, which may fade at any time."""
    expect(page.locator(".toast-body", has_text=words).first).to_be_visible()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_box_says_what_came_what_it_takes_and_what_to_do(
    browser: Browser, server: str, language: str
) -> None:
    texts = Texts(language)
    page = open_page(browser, server + ("" if language == "en" else language), DESKTOP)
    for tab, boxes in BOXES.items():
        open_tab(page, tab)
        if tab == "motions":
            page.locator("#motion-import .label-wrap").click()
        if tab == "study":
            page.get_by_role("radio").nth(1).check()
        for number, (place, kind) in enumerate(boxes):
            name = f"notes {number}.txt"
            give_file(page, place, name, b"no such thing")
            told(page, refusal(kind, [name], texts))
    assert "Invalid" not in page.locator("body").inner_text()


def test_what_is_dropped_beside_it_is_taken(browser: Browser, server: str, tmp_path: Path) -> None:
    page = open_page(browser, server, DESKTOP)
    page.evaluate(DROP, ["#upload button", "<b>thesis</b>.pdf", "application/pdf", "bm8="])
    told(page, refusal("picture", ["<b>thesis</b>.pdf"], Texts("en")))
    open_tab(page, "motions")
    clip = write_clip(tmp_path)
    (tmp_path / "notes.txt").write_text("no clip")
    page.locator("#clip-upload input[type=file]").set_input_files([tmp_path / "notes.txt", clip])
    told(page, refusal("clip", ["notes.txt"], Texts("en")))
    expect(page.locator(".clip")).to_have_count(1)


def test_two_at_once_are_both_told_of(browser: Browser, server: str) -> None:
    page = open_page(browser, server, DESKTOP)
    for name in ("thesis.pdf", "notes.txt"):  # the second one while the first is answered
        page.evaluate(DROP, ["#upload button", name, "text/plain", "bm8="])
    for name in ("thesis.pdf", "notes.txt"):
        told(page, refusal("picture", [name], Texts("en")))


COUNT_LISTENERS = """() => {
  const plain = EventTarget.prototype.addEventListener;
  window.added = 0;
  EventTarget.prototype.addEventListener = function (kind, ...rest) {
    if (this === document.body && kind === "drop") window.added += 1;
    return plain.call(this, kind, ...rest);
  };
}"""


def test_nobody_more_hears_of_files_when_the_page_changes(browser: Browser, server: str) -> None:
    page = open_page(browser, server, DESKTOP)
    page.evaluate(COUNT_LISTENERS)
    for tab in BOXES:
        open_tab(page, tab)
    page.evaluate(DROP, ["#evaluate-videos button", "notes.txt", "text/plain", "bm8="])
    told(page, refusal("clip", ["notes.txt"], Texts("en")))
    assert page.evaluate("added") == 0


def test_a_first_mistake_on_any_tab_is_told_in_the_language_of_the_page(
    browser: Browser, server: str
) -> None:
    page = open_page(browser, f"{server}zh", DESKTOP)
    texts = Texts("zh")
    for tab, button, keys in (
        ("transfer", "#generate", ["transfer.no_picture"]),
        ("motions", "#train", [f"motions.no_{key}" for key in WORDS]),
        ("study", "#study-create", ["study.no_title"]),
        ("evaluate", "#evaluate-score", ["evaluate.no_videos"]),
    ):
        open_tab(page, tab)
        page.locator(button).click()
        for key in keys:
            told(page, texts(key))
