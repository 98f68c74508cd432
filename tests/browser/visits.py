"""How the browser tests come to the page."""

from __future__ import annotations

from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 120_000  # ms; on a free machine everything here takes a few seconds
expect.set_options(timeout=PATIENCE)  # for all that says no other
DESKTOP = {"width": 1366, "height": 768}
PHONE = {"width": 390, "height": 844}


def open_page(browser: Browser, server: str, viewport: dict[str, int]) -> Page:
    """A page of a browser that was never here before."""
    page = browser.new_context(viewport=viewport).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server)
    expect(page.locator("#generate")).to_be_visible(timeout=PATIENCE)
    for panel in ("#sources", "#stage", "#objects"):  # its scripts have drawn it, and listen
        expect(page.locator(f"{panel} .mount > *").first).to_be_attached(timeout=PATIENCE)
    return page


def check_accessible(page: Page) -> None:
    """axe-core finds nothing wrong with what is shown, of whatever severity; a label says what is
    written on its button too."""
    rules = {"label-content-name-mismatch": {"enabled": True}}  # a newer one, off by itself
    found = Axe().run(page, options={"rules": rules}).response["violations"]
    told = [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]}"
        for rule in found
        for node in rule["nodes"]
    ]
    assert not told, "\n".join(told)
