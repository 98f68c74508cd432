"""A browser to visit the app with: one for all tests of this folder that run in one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright
from postgres import database_of_pages  # noqa: F401
from serving import RunningApp
from visits import DESKTOP, PATIENCE, open_page

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
LEFT = "cookies,local_storage,indexeddb,service_workers,cache_storage,file_systems"


class OneBrowser:
    """Chromium, begun when it is first asked for and again where it broke off.

    A page's scripts take longer to read than to run. So a test's first page of either size is
    opened by a visitor who was here before, whose browser still has them, but nothing else."""

    def __init__(self) -> None:
        self._playwright: Playwright | None = None
        self._chromium: Browser | None = None
        self._known: dict[int, BrowserContext] = {}  # by the width of their pages
        self._lent: set[int] = set()

    def get(self) -> Browser:
        if self._chromium is None or not self._chromium.is_connected():
            self.close()
            self._playwright = sync_playwright().start()
            self._chromium = self._playwright.chromium.launch(
                executable_path=CHROMIUM, args=CHROMIUM_FLAGS
            )
            _make_patient(self._chromium)
            self._chromium.known_context = self.known_context
        return self._chromium

    def known_context(self, *, viewport: dict[str, int]) -> BrowserContext:
        """One that has the scripts already, a fresh one where the test has that."""
        width = viewport["width"]
        if width in self._lent:
            return self._chromium.new_context(viewport=viewport)
        self._lent.add(width)
        if width not in self._known:
            self._known[width] = self._chromium.new_context(viewport=viewport)
            self._known[width].on("close", lambda _: self._known.pop(width, None))
        return self._known[width]

    def clear(self) -> None:
        """No test finds anything of the one before, but the scripts."""
        self._lent.clear()
        if not self._chromium.is_connected():
            return
        for context in self._chromium.contexts:
            if context in self._known.values():
                _forget(context)
            else:
                context.close()

    def close(self) -> None:
        """Playwright keeps an event loop in the thread, beside which tests can run no other."""
        self._known.clear()
        playwright, self._playwright, self._chromium = self._playwright, None, None
        if playwright is not None:
            playwright.stop()


def _make_patient(chromium: Browser) -> None:
    """No page of it gives up after the library's 30 s."""
    plain = chromium.new_context

    def new_context(**options: Any) -> BrowserContext:
        context = plain(**options)
        context.set_default_timeout(PATIENCE)
        return context

    chromium.new_context = new_context


def _forget(context: BrowserContext) -> None:
    """Close its pages and take away all that they have left."""
    origins = {"/".join(page.url.split("/")[:3]) for page in context.pages}
    for page in context.pages:
        page.close()
    context.clear_cookies()
    broom = context.new_page()
    for origin in origins:
        if origin.startswith("http"):
            context.new_cdp_session(broom).send(
                "Storage.clearDataForOrigin", {"origin": origin, "storageTypes": LEFT}
            )
    broom.close()


ONE = OneBrowser()


@pytest.fixture(scope="session")
def server(app: RunningApp) -> str:
    """The address of the app's page."""
    return app.url


@pytest.fixture
def browser() -> Iterator[Browser]:
    """What a test opens in it is closed after the test, whatever became of it."""
    yield ONE.get()
    ONE.clear()


@pytest.fixture
def page(browser: Browser, server: str) -> Page:
    return open_page(browser, server, DESKTOP)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path.parent != HERE:
        ONE.close()
