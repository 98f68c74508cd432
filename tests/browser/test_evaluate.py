"""The Evaluate tab in a real browser: results of this browser and uploads of another method."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from daily import some_daily
from playwright.sync_api import Browser, Page, expect
from visits import PATIENCE

from motion_app.benchmark.scenes import BenchmarkCase, tuning_cases
from motion_app.host import ModelHost
from motion_app.jobs.folder import JobRow
from motion_app.library.library import Library
from motion_app.media.files import write_video
from motion_app.media.results import save_result
from motion_app.models.checkpoint import Checkpoint
from motion_app.request.written import request_to_json
from motion_app.scene import GeneratedVideo
from motion_app.settings import ROOT, Limits, Settings
from motion_app.ui.evaluate.results import ScoringRun, Steps
from motion_app.ui.evaluate.tab import EvaluateTab
from motion_app.ui.markup import Texts
from motion_app.ui.page import launch_options
from motion_app.ui.pictures import Previews
from motion_app.ui.visitor import PageVisit

POCKET = ROOT / "checkpoints" / "pocket"
MOTIONS = Library([POCKET / "motions"]).list()
OWNER = secrets.token_hex(16)


class KnownVisit(PageVisit):
    """A browser whose token is known, so that it has results from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = OWNER


def asked(case: BenchmarkCase) -> dict[str, Any]:
    return request_to_json(case.request(case.chosen(MOTIONS)))


def rendered_result(case: BenchmarkCase, method: str) -> GeneratedVideo:
    """A perfect video of a case: the renderer's own. ``method`` "still" repeats its first frame."""
    frames = case.rendered.frames
    if method == "still":
        frames = frames[:1].repeat(len(frames), axis=0)
    request = asked(case)
    recipe = {"request": {**request, "method": "fleximmt"}, "base": "pocket", "seed": 0}
    masks = np.zeros((2, 4, 8, 12), bool)
    return GeneratedVideo(frames, masks, recipe, 8.0)


def add_results(host: ModelHost, cases: list[BenchmarkCase]) -> None:
    for number, case in enumerate(cases):
        job = secrets.token_hex(16)
        saved = save_result(rendered_result(case, "fleximmt"), host.jobs.folder(job))
        files = {"video": saved.video.name, "recipe": saved.recipe.name, "frames": "frames.npz"}
        host.jobs.store.add(
            JobRow(
                id=job,
                kind="generate",
                owner=OWNER,
                state="done",
                title=" · ".join(f"creature: {m.name}" for m in case.chosen(MOTIONS)),
                created=time.time() + number,
                inputs={
                    "request": asked(case),
                    "badge": False,
                },
                outcome=files,
            )
        )


@pytest.fixture(scope="module")
def cases() -> list[BenchmarkCase]:
    names = [motion.name for motion in MOTIONS]
    return tuning_cases(names, {2: 3}, geometry=Checkpoint.read(POCKET).geometry)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cases: list[BenchmarkCase]) -> Iterator[str]:
    """The tab alone, in English and, at /zh, in Chinese."""
    host = ModelHost(Settings(outputs=tmp_path_factory.mktemp("outputs"), model=str(POCKET)))
    add_results(host, cases)
    with gr.Blocks(analytics_enabled=False, fill_width=True) as page:
        evaluate_page(host, "en")
    with page.route("中文", "/zh", show_in_navbar=False):
        evaluate_page(host, "zh")
    _, url, _ = page.launch(
        server_name="127.0.0.1",
        server_port=None,
        prevent_thread_lock=True,
        quiet=True,
        allowed_paths=[str(host.jobs.files)],
        **launch_options(),
    )
    host.start()
    yield url
    page.close()
    host.stop()


def evaluate_page(host: ModelHost, language: str) -> None:
    session = gr.State(KnownVisit())
    gr.Navbar(visible=False)
    with gr.Tabs():
        with gr.Tab("One"):
            gr.Markdown("Another tab")
        with gr.Tab("Evaluate", id="evaluate") as tab:
            evaluate = EvaluateTab(host, Texts(language), Previews(Limits()))
    evaluate.wire(session, tab=tab)


def open_tab(browser: Browser, url: str, *, width: int = 1366, dark: bool = False) -> Page:
    page = browser.known_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    page.goto(url)
    page.get_by_role("tab", name="Evaluate").click()
    expect(page.locator(".evaluate-card").first).to_be_visible(timeout=PATIENCE)
    return page


@pytest.fixture
def page(browser: Browser, server: str) -> Page:
    return open_tab(browser, server)


def score(page: Page) -> None:
    page.locator("#evaluate-score").click()
    expect(page.locator("#evaluate-table table").first).to_be_visible(timeout=PATIENCE)


def test_chosen_results_get_a_table_plots_and_files(page: Page) -> None:
    cards = page.locator(".evaluate-card")
    expect(cards).to_have_count(3)
    for k in range(2):
        cards.nth(k).click()
        expect(cards.nth(k)).to_have_attribute("aria-checked", "true")
    score(page)
    by_method, by_video = page.locator("#evaluate-table table").all()
    expect(by_method.locator("tbody tr")).to_have_count(1)
    expect(by_video.locator("tbody tr")).to_have_count(2)
    expect(by_method).to_contain_text("TF[dis] ↑ *")
    expect(page.locator("#evaluate-table")).to_contain_text("Scored from lossless frames")
    follows = by_method.locator("thead th").all_inner_texts().index("follows_own[colour] ↑")
    value = by_method.locator("tbody tr").first.locator("th, td").nth(follows).inner_text()
    assert float(value.split()[0]) >= 0.75  # the renderer's own video does what was asked
    expect(page.locator("#evaluate-flow .js-plotly-plot")).to_be_visible()
    expect(page.locator("#evaluate-tracks img")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="LaTeX table").click()
    assert "\\toprule" in Path(download.value.path()).read_text()


def test_uploads_are_paired_named_by_method_and_a_broken_one_is_listed(
    page: Page, cases: list[BenchmarkCase], tmp_path: Path
) -> None:
    good, broken = tmp_path / "good.mp4", tmp_path / "broken.mp4"
    write_video(good, cases[0].rendered.frames.repeat(2, 1).repeat(2, 2), 8.0, comment="")
    broken.write_bytes(b"no video at all")
    reference = tmp_path / "good.1.mp4"
    reference.write_bytes(cases[0].chosen(MOTIONS)[0].preview.read_bytes())
    page.locator("#evaluate-videos input[type=file]").set_input_files([good, broken])
    expect(page.locator("#evaluate-methods")).to_contain_text("good.mp4")
    page.locator("#evaluate-extras input[type=file]").set_input_files([reference])
    expect(page.locator("#evaluate-methods")).to_contain_text("1 reference clip")
    score(page)
    report = page.locator("#evaluate-table")
    expect(report).to_contain_text("Not scored: broken")
    expect(report).to_contain_text("compressed as it came: good")
    expect(report.locator("table").nth(1).locator("tbody tr").nth(1)).to_contain_text("–")


def test_two_uploads_of_one_name_are_two_rows_each_by_the_method_it_was_given(
    page: Page, cases: list[BenchmarkCase], tmp_path: Path
) -> None:
    files = []
    for k, case in enumerate(cases[:2]):
        (tmp_path / str(k)).mkdir()
        files.append(tmp_path / str(k) / "output.mp4")
        write_video(files[-1], case.rendered.frames, 8.0, comment="")
    page.locator("#evaluate-videos input[type=file]").set_input_files(files)
    table = page.locator("#evaluate-methods")
    expect(table).to_contain_text("output.mp4 (2)", timeout=PATIENCE)
    for row, method in enumerate(("ours", "theirs")):
        cell = table.locator(f"[data-testid='cell-{row}-1']")
        cell.dblclick()
        cell.locator("textarea, input").fill(method)
        page.keyboard.press("Enter")
        expect(cell.locator("[data-editable]")).to_have_text(method)
    score(page)
    rows = page.locator("#evaluate-table table").nth(1).locator("tbody tr")
    told = [row.locator("th, td").all_inner_texts()[:2] for row in rows.all()]
    assert told == [["output", "ours"], ["output (2)", "theirs"]]


def test_nothing_chosen_is_told_in_words(page: Page) -> None:
    page.locator("#evaluate-score").click()
    expect(page.locator(".toast-body").first).to_contain_text("No video is chosen")
    expect(page.locator("#evaluate-score")).to_be_enabled()


def test_cancel_stops_and_keeps_the_choice(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    work = ScoringRun._work

    def after_cancel(run: ScoringRun, steps: Steps, turn: threading.Semaphore) -> None:
        """The first measurement ends when it is stopped, however quick the machine is."""

        def held() -> Steps:
            yield next(steps)
            assert run._stop.wait(PATIENCE / 1000)
            return (yield from steps)

        work(run, held(), turn)

    monkeypatch.setattr(ScoringRun, "_work", after_cancel)
    page.get_by_role("button", name="Choose all").click()
    expect(page.locator('.evaluate-card[aria-checked="true"]')).to_have_count(3)
    page.locator("#evaluate-score").click()
    page.locator("#evaluate-cancel").click()
    expect(page.locator("#evaluate-status")).to_contain_text("Stopped", timeout=PATIENCE)
    expect(page.locator('.evaluate-card[aria-checked="true"]')).to_have_count(3)
    expect(page.locator("#evaluate-cancel")).to_be_hidden()


def test_metrics_without_weights_say_what_they_need(page: Page) -> None:
    absent = page.locator("#evaluate-explained details").nth(1)
    absent.locator("summary").click()
    expect(absent).to_contain_text("needs CLIP ViT-B/32, not measured")
    assert page.locator("#evaluate-metrics label").filter(has_text=re.compile("^AC$")).count() == 0


@pytest.mark.parametrize("width", some_daily([390, 1366], 390))
def test_nothing_overflows_in_either_language(browser: Browser, server: str, width: int) -> None:
    for path in ("", "zh"):
        page = open_tab(browser, server + path, width=width)
        page.locator(".evaluate-card").first.click()
        score(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
