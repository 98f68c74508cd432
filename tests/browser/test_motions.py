"""The Motions tab in a real browser: the library, the clips, and a training that survives a
reload."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from motion_app.host import ModelHost
from motion_app.media.files import write_video
from motion_app.settings import Limits, load_settings
from motion_app.ui.markup import Texts
from motion_app.ui.motions.tab import MotionsTab
from motion_app.ui.page import STYLE
from motion_app.ui.pictures import Previews
from motion_app.ui.visitor import PageVisit
from motion_app.world.world import draw_scene, render

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PATIENCE = 240_000  # ms; on a free machine each takes a few seconds
OWNER = "5" * 32


def known_browser(visit: PageVisit) -> PageVisit:
    """As the page does it with what the browser keeps."""
    visit.owner = OWNER
    return visit


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("app")
    settings = load_settings(outputs=folder / "outputs", motions=(folder / "motions",))
    host, texts = ModelHost(settings), Texts("en")
    with gr.Blocks(fill_width=True) as page:
        session = gr.State(PageVisit())
        with gr.Tabs(), gr.Tab("Motions"):
            tab = MotionsTab(host, texts, Previews(Limits()))
        tab.wire(session)
        tab.attach(page.load(known_browser, [session], [session]), session)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, css_paths=[STYLE])
    host.start()
    host.engine()
    yield address
    host.stop()
    page.close()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, server: str):
    opened = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
    opened.set_default_timeout(PATIENCE)
    opened.goto(server)
    expect(opened.locator(".motion-card").first).to_be_visible(timeout=PATIENCE)
    yield opened
    opened.context.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scene = draw_scene(np.random.default_rng(2), objects=1, motions=["jump"])
    path = tmp_path_factory.mktemp("clips") / "jump.mp4"
    write_video(path, np.concatenate([render(scene).frames] * 2), 8.0)
    return path


def upload(page: Page, clip: Path) -> None:
    page.set_input_files("#clip-upload input[type=file]", str(clip))
    expect(page.locator(".clip")).to_have_count(1, timeout=PATIENCE)


def test_an_exported_motion_comes_back_and_its_deletion_is_undone(page: Page, tmp_path: Path):
    cards = page.locator(".motion-card")
    count = cards.count()
    with page.expect_download() as download:
        page.locator("[data-what=export]").first.click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    page.locator("#motion-import button").first.click()
    page.set_input_files("#motion-file input[type=file]", str(file))
    expect(page.locator("#motion-file")).to_contain_text(file.stem, timeout=PATIENCE)
    page.locator("#motion-import").get_by_label("Name", exact=True).fill("mine")
    page.click("#motion-import-button")
    mine = page.locator(".motion-card:has-text('mine')")
    expect(mine).to_be_visible(timeout=PATIENCE)
    mine.locator("[data-what=delete]").click()
    expect(cards).to_have_count(count, timeout=PATIENCE)
    page.click(".motion-undo button")
    expect(cards).to_have_count(count + 1, timeout=PATIENCE)
    page.fill(".motion-search input", "mine")
    expect(page.locator(".motion-card:visible")).to_have_count(1)


def test_handles_trim_and_a_drag_crops(page: Page, clip: Path):
    upload(page, clip)
    facts = page.locator(".clip-facts")
    expect(facts).to_contain_text("26 frames")
    page.locator(".clip-start").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(facts).to_contain_text("0.5–3.3 s, 22 frames")
    page.locator(".clip-stage").scroll_into_view_if_needed()
    box = page.locator(".clip-stage").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
    page.mouse.up()
    expect(page.locator(".clip-box")).to_be_visible()
    expect(page.locator("[data-number='0']")).to_have_value("20")
    page.click(".clip-clear")
    expect(page.locator(".clip-box")).to_be_hidden()


def test_a_reload_finds_the_training_and_it_can_be_cancelled_and_resumed(page: Page, clip: Path):
    upload(page, clip)
    for field, words in (("name", "leap"), ("noun", "cat"), ("phrase", "leaps")):
        page.locator(f"#motion-{field}").locator("input, textarea").fill(words)
    expect(page.locator("#motion-caption")).to_contain_text("A cat leaps.", timeout=PATIENCE)
    page.click("#train")
    status = page.locator("#training-status")
    expect(status).to_contain_text("step", timeout=PATIENCE)
    page.reload()
    expect(status).to_contain_text("leap · learning", timeout=PATIENCE)
    expect(page.locator(".curve svg")).to_be_visible(timeout=PATIENCE)
    page.click("#training-cancel")
    expect(status).to_contain_text("was cancelled", timeout=PATIENCE)
    page.locator(".training [data-what=again]").click()
    expect(status).to_contain_text("learning", timeout=PATIENCE)
    page.click("#training-cancel")
    expect(status).to_contain_text("was cancelled", timeout=PATIENCE)
