"""The app in a process of its own, and a browser to visit it with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import postgres
import pytest
from playwright.sync_api import Browser, sync_playwright
from serving import RunningApp

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app with a folder of its own; the address of its page."""
    with RunningApp(tmp_path_factory.mktemp("server")) as app:
        yield app.url


@pytest.fixture(params=postgres.one_every_day("sqlite"))
def database(request: pytest.FixtureRequest) -> str | None:
    """As everywhere; what stands behind a page's calls is their tests' affair, so that browsers
    meet PostgreSQL in one whole visit every day, in all others on long runs."""
    return postgres.database_for(request)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()
