"""What a button is called holds what is written on it: who speaks to the page says what they
see."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect
from visits import DESKTOP, open_page
from walk import TABS, drop_request, open_tab

UPLOADS = {
    "en": {"#evaluate-videos": "Upload videos", "#clip-upload": "Reference clips"},
    "zh": {"#evaluate-videos": "上传视频", "#clip-upload": "参考视频"},
}
# Buttons whose name lacks what is written on them, as [name, text] pairs. What is hidden from
# screen readers, and letters of no language (✓ × …), are not compared.
MISNAMED = r"""
() => [...document.querySelectorAll("[aria-label]")]
  .filter((it) => it.matches("button, a, summary, [role=button], [role=tab], [role=option]"))
  .filter((it) => it.getClientRects().length)
  .map((it) => {
    const copy = it.cloneNode(true);
    copy.querySelectorAll("[aria-hidden=true], svg, style").forEach((part) => part.remove());
    const plain = (text) => text.replace(/[^\p{L}\p{N}]+/gu, " ").trim().toLowerCase();
    return [plain(it.getAttribute("aria-label")), plain(copy.textContent)];
  })
  .filter(([name, text]) => text && !name.includes(text))
"""


@pytest.mark.parametrize("language", UPLOADS)
def test_every_button_is_called_what_is_written_on_it(
    browser: Browser, server: str, language: str
) -> None:
    page = open_page(browser, server + ("" if language == "en" else language), DESKTOP)
    if language == "en":
        drop_request(page)
        expect(page.get_by_label("Motion of object 1")).to_contain_text("jump")
    for tab in TABS:
        open_tab(page, tab)
        assert page.evaluate(MISNAMED) == []
    for place, label in UPLOADS[language].items():
        button = page.locator(f"{place} button.upload-container")
        name = button.get_attribute("aria-label")
        assert label in name and "Click to upload or drop files" not in name


@pytest.mark.parametrize(("path", "language"), [("", "en"), ("zh", "zh")])
def test_each_page_declares_its_language(
    browser: Browser, server: str, path: str, language: str
) -> None:
    """As it is sent; ``test_accessibility`` asks the page that was opened."""
    answer = browser.new_context().request.get(server + path)
    assert f'lang="{language}"' in answer.text()[:100]
