"""Many tabs of one browser: none keeps a connection, so that every one of them is served at once.

A browser opens six connections to a server over HTTP/1.1, for all its tabs together."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from visits import DESKTOP, PATIENCE, listens
from walk import QUICK, UNENDING, drop_request, start

TABS = 6


@pytest.fixture
def context(browser: Browser) -> BrowserContext:
    return browser.new_context(viewport=DESKTOP)


def open_tabs(context: BrowserContext, server: str, count: int) -> list[Page]:
    """One after the other, each of them with its gallery: all of the page has been loaded."""
    tabs = []
    for _ in range(count):
        tabs.append(context.new_page())
        tabs[-1].goto(server)
        listens(tabs[-1])
    return tabs


def test_with_six_tabs_open_cancel_acts_at_once_and_another_tab_loads(
    context: BrowserContext, server: str
) -> None:
    (first,) = open_tabs(context, server, 1)
    drop_request(first, steps=UNENDING)
    start(first)
    tabs = [first, *open_tabs(context, server, TABS - 1)]
    for tab in tabs:  # each of them follows the job
        expect(tab.locator("#cancel")).to_be_visible()
    (late,) = open_tabs(context, server, 1)
    expect(late.locator("#cancel")).to_be_visible()
    tabs[3].locator("#cancel").click()
    stopped = re.compile("Stopping|Everything you chose is kept")
    expect(tabs[3].locator("#status")).to_contain_text(stopped)
    for tab in (*tabs, late):
        expect(tab.locator("#status")).to_contain_text("Everything you chose is kept")


def test_a_page_at_rest_keeps_no_connection(context: BrowserContext, server: str) -> None:
    page = context.new_page()
    asked: dict[str, str] = {}
    page.on("request", lambda request: asked.update({request.url: "open"}))
    page.on("requestfinished", lambda request: asked.pop(request.url, None))
    page.on("requestfailed", lambda request: asked.pop(request.url, None))
    page.goto(server)
    listens(page)
    drop_request(page, steps=QUICK)
    start(page)
    expect(page.locator("#video video")).to_be_visible(timeout=2 * PATIENCE)
    page.wait_for_timeout(2000)
    assert not [url for url in asked if "gradio_api" in url and "/file=" not in url]
