"""A browser that has the page's scripts already is still a visitor who was never here."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page
from visits import DESKTOP, open_page

KEEP = """() => { localStorage.setItem("left", "behind"); document.cookie = "left=behind"; }"""
FOUND = """() => [localStorage.getItem("left"), document.cookie.includes("left=")]"""


@pytest.mark.parametrize("visit", range(2))
def test_nothing_is_found_of_the_test_before(page: Page, visit: int) -> None:
    assert page.evaluate(FOUND) == [None, False]
    page.evaluate(KEEP)
    page.reload()
    assert page.evaluate(FOUND) == ["behind", True]


def test_a_second_page_is_another_visitors(browser: Browser, server: str, page: Page) -> None:
    page.evaluate(KEEP)
    assert open_page(browser, server, DESKTOP).evaluate(FOUND) == [None, False]
