"""A browser to visit the app with: one for all tests of this folder that run in one process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright
from postgres import database_of_pages  # noqa: F401
from serving import RunningApp
from visits import DESKTOP, PATIENCE, open_page

HERE = Path(__file__).parent
# The shell without the browser's own windows, each of which is a page, too, that has to be drawn.
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium-headless-shell") or "/usr/bin/chromium"
)
CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--process-per-site"),
]
SITE = "http://127.0.0.1/"  # of every server here, whatever its port
LEFT = "cookies,local_storage,indexeddb,service_workers,cache_storage,file_systems"


class OneBrowser:
    """Chromium, begun when it is first asked for and again where it broke off.

    A page's scripts take longer to read than to run. So a test's first page of a language is opened
    by a visitor who was here before, whose browser still has them, but nothing else: an empty page
    stays open, and with it the process that has read them."""

    def __init__(self) -> None:
        self._playwright: Playwright | None = None
        self._chromium: Browser | None = None
        self._known: dict[str, Page] = {}  # the empty ones, by their locale
        self._lent: set[str] = set()

    def get(self) -> Browser:
        if self._chromium is None or not self._chromium.is_connected():
            self.close()
            self._playwright = sync_playwright().start()
            self._chromium = self._playwright.chromium.launch(
                executable_path=CHROMIUM, args=CHROMIUM_FLAGS
            )
            _make_patient(self._chromium)
            self._chromium.known_page = self.known_page
        return self._chromium

    def known_page(
        self, *, viewport: dict[str, int], locale: str = "en-US", color_scheme: str = "light"
    ) -> Page:
        """One of a visitor who has the scripts already; of a new one where the test has that. Its
        films stand still, as drawing them takes half a core; see ``lively``."""
        if locale in self._lent:
            page = self._chromium.new_context(locale=locale).new_page()
        else:
            self._lent.add(locale)
            if locale not in self._known:
                self._known[locale] = _empty_page(self._chromium.new_context(locale=locale))
                self._known[locale].on("close", lambda _: self._known.pop(locale, None))
            page = self._known[locale].context.new_page()
        page.set_viewport_size(viewport)
        page.emulate_media(color_scheme=color_scheme, reduced_motion="reduce")
        return page

    def clear(self) -> None:
        """No test finds anything of the one before, but the scripts."""
        self._lent.clear()
        if not self._chromium.is_connected():
            return
        known = {page.context: page for page in self._known.values()}
        for context in self._chromium.contexts:
            if context in known:
                _forget(context, known[context])
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


def _empty_page(context: BrowserContext) -> Page:
    """One that no server is asked for, in the process of all pages of ``SITE`` in the context."""
    page = context.new_page()
    page.route(SITE, lambda route: route.fulfill(body=""))
    page.goto(SITE)
    return page


def _forget(context: BrowserContext, empty: Page) -> None:
    """Close its pages but the ``empty`` one and take away all that they have left."""
    pages = [page for page in context.pages if page != empty]
    origins = {"/".join(page.url.split("/")[:3]) for page in pages}
    for page in pages:
        page.close()
    context.clear_cookies()
    broom = context.new_cdp_session(empty)
    for origin in origins:
        if origin.startswith("http"):
            broom.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": LEFT})
    broom.detach()


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
