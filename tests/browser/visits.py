"""How the browser tests come to the page."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 120_000  # ms; on a free machine everything here takes a few seconds
DESKTOP = {"width": 1366, "height": 768}
PHONE = {"width": 390, "height": 844}


def open_page(browser: Browser, server: str, viewport: dict[str, int]) -> Page:
    """A page of a browser that was never here before."""
    page = browser.new_context(viewport=viewport).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server)
    expect(page.locator("#generate")).to_be_visible(timeout=PATIENCE)
    return page
