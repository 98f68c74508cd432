"""A browser that keeps nothing: the page works without memory and says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect
from serving import RunningApp
from visits import DESKTOP, PATIENCE, listens, open_page
from walk import QUICK, drop_request

BLOCKED = """
const refuse = () => { throw new DOMException("Access is denied.", "SecurityError"); };
Object.defineProperty(window, "localStorage", { get: refuse });
Object.defineProperty(window, "sessionStorage", { get: refuse });
Object.defineProperty(document, "cookie", { configurable: true, get: refuse, set: refuse });
"""


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app of a deployment that may be shown in frames, as a Space's."""
    with RunningApp(tmp_path_factory.mktemp("framed"), MOTION_APP_FRAMES="*") as app:
        yield app.url


@pytest.fixture
def elsewhere(tmp_path: Path, framed: str, server: str) -> Iterator[str]:
    """Another site's page with the app in a frame that may run scripts and nothing else, and with
    one that may not be shown in frames."""
    frame = f'<iframe sandbox="allow-scripts" src="{framed}" width="1300" height="700"></iframe>'
    frame += f'<iframe src="{server}"></iframe>'
    (tmp_path / "index.html").write_text(f"<!doctype html><title>x</title>{frame}")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    site = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{site.server_port}/index.html"
    site.shutdown()
    site.server_close()


def makes_a_video(page: Page | FrameLocator) -> None:
    listens(page)
    drop_request(page, steps=QUICK)
    page.locator("#generate").click()
    expect(page.locator("#video video")).to_be_visible(timeout=2 * PATIENCE)
    expect(page.locator(".gallery-card")).to_have_count(1)


def test_with_site_data_blocked_the_page_works_and_says_that_it_forgets(
    browser: Browser, server: str
) -> None:
    context = browser.new_context(viewport=DESKTOP)
    context.add_init_script(BLOCKED)
    page = context.new_page()
    page.goto(server)
    expect(page.locator("#forgets")).to_contain_text("keeps nothing")
    expect(page.locator("#forgets")).to_be_visible()
    makes_a_video(page)
    page.goto(f"{server}zh")
    expect(page.locator("#forgets")).to_contain_text("不为本页保存")


def test_in_a_sandboxed_frame_the_page_works_and_says_that_it_forgets(
    browser: Browser, elsewhere: str
) -> None:
    page = browser.new_context(viewport=DESKTOP).new_page()
    page.goto(elsewhere)
    frame = page.frame_locator("iframe").first
    expect(frame.locator("#forgets")).to_be_visible()
    makes_a_video(frame)
    refused = page.frame_locator("iframe").nth(1)
    expect(refused.locator("#transfer, #tabs")).to_have_count(0)


def test_a_browser_that_keeps_things_is_told_nothing(browser: Browser, server: str) -> None:
    page = open_page(browser, server, DESKTOP)
    expect(page.locator("#forgets")).to_be_hidden()


def test_a_strangers_page_without_an_origin_gets_no_answer(server: str) -> None:
    for path in ("", "config", "gradio_api/info", "gradio_api/startup-events"):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(server + path, headers={"Origin": "null"}))
        assert refused.value.code == 403
    wrong = {"Origin": "null", "X-Page-Word": "0" * 32}
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(server + "config", headers=wrong))
    assert refused.value.code == 403
