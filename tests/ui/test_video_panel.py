"""Step 4 below the page: what is shown of a job, the gallery, presets, recipes, verdicts."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from motion_app.engine.expectation import Expectation
from motion_app.engine.memory import Outlook
from motion_app.errors import MotionFileError, RequestError
from motion_app.geometry import ExportSize, GenerationDefaults
from motion_app.host import HostStatus
from motion_app.jobs.folder import ACTIVE, TERMINAL, JobRow
from motion_app.jobs.progress import STAGES, JobProgress, KeptInputs, Work
from motion_app.jobs.queue import JobQueue
from motion_app.jobs.runners import KEPT_REQUEST
from motion_app.jobs.timings import JobPart, JobSize, Measurement
from motion_app.library.library import Library
from motion_app.media.files import encode_data_uri
from motion_app.media.provenance import Verification, read_recipe
from motion_app.media.results import save_result
from motion_app.methods import ENCODED, FAMILIES, METHOD_TABLE, METHODS, REFINED, methods_there
from motion_app.models.adapters import find_adapter, offered_methods
from motion_app.models.checkpoint import Checkpoint
from motion_app.models.stock_files import HUNYUAN, WAN, StockOutlook, StockPart
from motion_app.request.request import parse_request
from motion_app.scene import GeneratedVideo, Options, StepReport
from motion_app.settings import ROOT, Limits
from motion_app.ui.evaluate.results import verdict_html
from motion_app.ui.markup import (
    LANGUAGES,
    Texts,
    announcement,
    banner_html,
    in_words,
    note_html,
    progress_html,
    title_of,
)
from motion_app.ui.pictures import Previews, css_colour
from motion_app.ui.transfer.compare import (
    ComparedJob,
    ComparedVideos,
    differences_html,
    differing_facts,
)
from motion_app.ui.transfer.gallery import (
    MOST_SHOWN,
    GalleryView,
    gallery_html,
    when,
)
from motion_app.ui.transfer.replay import Environment, installed_versions, replay_of
from motion_app.ui.transfer.result import (
    DOWNLOADS,
    OverlayVideos,
    Result,
    SavedFrames,
    masked_frames,
    references_html,
)
from motion_app.ui.transfer.settings import (
    BIGGEST_SEED,
    Chosen,
    GenerationSettings,
    preset_of,
    presets,
)
from motion_app.ui.transfer.stream import (
    DRAWN_JOBS,
    FollowedJobs,
    JobStream,
    LastDrawn,
    PanelChange,
)

EN, ZH = Texts("en"), Texts("zh")
HEIGHT, WIDTH, FRAMES, MOMENTS = 32, 48, 13, 4
PATIENCE = 60.0  # s


# a quick maker of videos ------------------------------------------------------------------------


def entries(**options: Any) -> dict[str, Any]:
    """A request of two objects, complete in itself."""
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 4:20, 4:20], masks[1, 8:28, 28:44] = True, True
    objects = [
        {"mask": encode_data_uri(mask), "sentence": f"A {name} is moving.", "name": name}
        for mask, name in zip(masks, ("robot", "fox"), strict=True)
    ]
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    request = {"image": encode_data_uri(image), "objects": objects, "seed": 7}
    return {**request, "steps": 3, "guidance": 6.0, **options}


def made_video(request: dict[str, Any]) -> GeneratedVideo:
    noise = np.random.default_rng(request["seed"])
    frames = noise.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    masks = np.zeros((len(request["objects"]), MOMENTS, 4, 6), dtype=bool)
    for moment in range(MOMENTS):
        masks[:, moment, 1:3, moment : moment + 2] = True
    recipe = {"request": request, "base": "b" * 64, "model": "tiny", "seed": request["seed"]}
    return GeneratedVideo(frames, masks, {**recipe, "steps": 3, "guidance": 6.0}, 8.0)


class QuickRunner:
    """Makes a video of noise in three steps; ``go`` is waited for before each of them."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.fault: Exception | None = None

    def check(self, inputs: dict[str, Any], files: list[str], *, owner: str = "") -> KeptInputs:
        parse_request(inputs["request"])
        return KeptInputs(dict(inputs))

    def check_line(self, inputs: dict[str, Any], active: list[JobRow]) -> None:
        """Any number may wait."""

    def parts(self, inputs: dict[str, Any]) -> tuple[JobPart, ...]:
        return (JobPart("generate", JobSize(3, len(inputs["request"]["objects"]))),)

    def run(self, work: Work) -> dict[str, Any]:
        request = work.row.inputs["request"]
        for step in (1, 2, 3):
            while not self.go.wait(0.01):
                work.check_stop()
            if self.fault is not None:
                raise self.fault
            work.stepped(step_report(step), step=step, steps=3, seconds=0.01, stage="denoising")
            work.check_stop()
        saved = save_result(made_video(request), work.folder)
        files = {name: str(getattr(saved, name).relative_to(work.folder)) for name in DOWNLOADS}
        numbers = {"seed": request["seed"], "steps": 3, "guidance": 6.0, "seconds": 0.5}
        return {**files, **numbers}


def step_report(step: int) -> StepReport:
    masks = np.zeros((2, MOMENTS, 4, 6), dtype=bool)
    return StepReport(step, 3, 0.01, np.zeros((MOMENTS, 4, 8, 12)), masks, False)


class Site:
    """A queue of quick videos and a stream of panels over it."""

    def __init__(self, folder: Path) -> None:
        self.runner = QuickRunner()
        self.jobs = JobQueue(folder, {"generate": self.runner})
        engine = SimpleNamespace(
            preview=lambda latents: np.zeros((MOMENTS, HEIGHT, WIDTH, 3), np.uint8),
            geometry=SimpleNamespace(frames=FRAMES, fps=8.0),
        )
        host = SimpleNamespace(jobs=self.jobs, engine=lambda: engine, lent=False)
        self.stream = JobStream(host, EN, Previews(Limits()))
        self.jobs.start()

    def submit(self, owner: str = "ann", **options: Any) -> str:
        inputs = {"request": entries(**options), "badge": False}
        return self.jobs.submit("generate", inputs, owner=owner, title="robot · fox").id

    def finished(self, owner: str = "ann", **options: Any) -> str:
        job = self.submit(owner, **options)
        list(self.stream.follow(owner, FollowedJobs(), job))
        return job


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "outputs")
    yield site
    site.runner.go.set()
    site.jobs.stop()


def until(panels: Iterator[PanelChange], wanted: Any) -> PanelChange:
    """The first panel that is ``wanted``."""
    began = time.monotonic()
    for panel in panels:
        if wanted(panel):
            return panel
        assert time.monotonic() - began < PATIENCE
    raise AssertionError("the stream ended before")


# following a job --------------------------------------------------------------------------------


def test_following_a_job_ends_with_its_video(site: Site) -> None:
    followed = FollowedJobs()
    panels = list(site.stream.follow("ann", followed, site.submit()))
    assert panels[0].busy and panels[0].result == "hidden"
    assert all(panel.busy for panel in panels[:-1])
    last = panels[-1]
    assert last.busy is False and last.failure is None and "seed 7" in last.status
    assert isinstance(last.result, Result) and last.result.video.is_file()
    assert all(last.result.file(key).is_file() for key in DOWNLOADS)
    assert last.result.row.id in last.gallery


def test_a_page_opened_in_the_middle_sees_the_same_job_to_its_end(site: Site) -> None:
    site.runner.go.clear()
    job = site.submit()
    closed = site.stream.follow("ann", FollowedJobs(), job)
    assert next(closed).busy
    closed.close()  # the browser goes away, and the job does not
    followed = FollowedJobs()
    opened = site.stream.attach("ann", followed)
    assert next(opened).busy and followed.job == job
    site.runner.go.set()
    assert isinstance(list(opened)[-1].result, Result)


def test_a_step_is_drawn_once_for_all_pages_that_follow_its_job() -> None:
    drawn, steps = LastDrawn(), [step_report(number) for number in (1, 2)]
    calls: list[tuple[str, int]] = []

    def ask(job: str, report: StepReport) -> str:
        def draw() -> str:
            time.sleep(0.01)  # the others come meanwhile
            calls.append((job, report.step))
            return f"{job} {report.step}"

        return drawn(job, report, draw)

    with ThreadPoolExecutor(8) as pages:
        for report in steps:
            assert set(pages.map(ask, ["job"] * 8, [report] * 8)) == {f"job {report.step}"}
    assert calls == [("job", 1), ("job", 2)]
    for number in range(DRAWN_JOBS):
        ask(f"other {number}", steps[1])
    ask("job", steps[1])  # of too many the oldest is drawn again
    assert calls.count(("job", 2)) == 2


def test_a_page_opened_after_the_end_shows_the_last_video(site: Site) -> None:
    first, second = site.finished(seed=1), site.finished(seed=2)
    (panel,) = site.stream.attach("ann", FollowedJobs())
    assert panel.result.row.id == second != first
    assert panel.gallery.count('class="gallery-card"') == 2


def test_a_page_without_videos_shows_none(site: Site) -> None:
    site.finished("bob")
    (panel,) = site.stream.attach("ann", FollowedJobs())
    assert panel.result is None and "gallery-card" not in panel.gallery


def test_nobody_sees_or_reaches_the_videos_of_another(site: Site) -> None:
    job = site.finished("bob")
    assert job not in site.stream.gallery("ann", FollowedJobs())
    with pytest.raises(RequestError, match="not there any more"):
        site.stream.own("ann", job)
    assert site.stream.own("bob", job).id == job


def test_after_cancel_the_next_one_starts_at_once(site: Site) -> None:
    site.runner.go.clear()
    job = site.submit()
    panels = site.stream.follow("ann", FollowedJobs(), job)
    until(panels, lambda panel: "running" in (panel.gallery or ""))
    site.jobs.cancel(job)
    last = list(panels)[-1]
    assert last.busy is False and EN("video.cancelled") in last.status and last.failure is None
    site.runner.go.set()
    assert isinstance(
        list(site.stream.follow("ann", FollowedJobs(), site.submit()))[-1].result, Result
    )


def test_a_failure_is_told_in_the_status_line_and_once_as_news(site: Site) -> None:
    site.runner.fault = MotionFileError("the motion hop has gone")
    panels = list(site.stream.follow("ann", FollowedJobs(), site.submit()))
    assert panels[-1].failure == "the motion hop has gone"
    assert "the motion hop has gone" in panels[-1].status and "warning" in panels[-1].status
    (attached,) = site.stream.attach("ann", FollowedJobs())
    assert attached.failure is None and attached.result is None


def test_who_looks_at_another_video_is_left_in_peace(site: Site) -> None:
    old = site.finished(seed=1)
    site.runner.go.clear()
    followed = FollowedJobs()
    panels = site.stream.follow("ann", followed, site.submit(seed=2))
    next(panels)
    shown = site.stream.show("ann", followed, site.jobs.row(old))
    assert shown.result.row.id == old
    site.runner.go.set()
    rest = list(panels)
    assert (
        rest == [PanelChange(gallery=rest[-1].gallery)]
        and 'aria-current="true"' in rest[-1].gallery
    )


def asked(site: Site, followed: FollowedJobs, first: PanelChange) -> list[PanelChange]:
    """What a page is told that asks again and again, to the end."""
    panels, ends = [first], time.monotonic() + PATIENCE
    while panels[-1].asks is not False:
        assert time.monotonic() < ends
        time.sleep(0.005)
        panels.append(site.stream.ask("ann", followed))
    return panels


def test_a_page_that_asks_again_and_again_is_told_to_the_end_and_asks_no_more(site: Site) -> None:
    site.runner.go.clear()
    followed = FollowedJobs()
    first = site.stream.begin("ann", followed, site.submit())
    assert first.busy and first.asks and first.result == "hidden"
    began = time.monotonic()
    for _ in range(20):
        site.stream.ask("ann", followed)
    assert time.monotonic() - began < PATIENCE  # no question waits for news
    site.runner.go.set()
    *_, last = asked(site, followed, first)
    assert last.busy is False and isinstance(last.result, Result) and last.failure is None
    assert last.result.row.id in last.gallery
    assert site.stream.ask("ann", followed) == PanelChange(asks=False)


def test_a_page_that_comes_in_the_middle_asks_and_one_that_comes_after_does_not(
    site: Site,
) -> None:
    site.runner.go.clear()
    job, followed = site.submit(), FollowedJobs()
    here = site.stream.arrive("ann", followed)
    assert here.busy and here.asks and followed.job == job
    site.runner.go.set()
    assert isinstance(asked(site, followed, here)[-1].result, Result)
    late = site.stream.arrive("ann", FollowedJobs())
    assert late.result.row.id == job and not late.asks


def test_who_asks_about_one_video_and_looks_at_another_is_told_in_the_gallery_alone(
    site: Site,
) -> None:
    old = site.finished(seed=1)
    site.runner.go.clear()
    followed = FollowedJobs()
    job = site.submit(seed=2)
    site.stream.begin("ann", followed, job)
    site.stream.show("ann", followed, site.jobs.row(old))
    assert site.stream.ask("ann", followed) == PanelChange()
    site.runner.go.set()
    *between, last = asked(site, followed, PanelChange())
    assert all(panel == PanelChange() for panel in between)
    assert last == PanelChange(gallery=last.gallery, asks=False) and job in last.gallery


def test_a_job_that_is_gone_is_asked_about_no_more(site: Site) -> None:
    site.runner.go.clear()
    followed = FollowedJobs()
    job = site.submit()
    site.stream.begin("ann", followed, job)
    site.jobs.cancel(job)
    list(site.jobs.watch(job))
    site.jobs.delete(job)  # in another tab
    panel = site.stream.ask("ann", followed)
    assert panel.asks is False and panel.busy is False and job not in panel.gallery


def test_the_stream_that_began_last_leads() -> None:
    followed = FollowedJobs()
    first, second = followed.look_at("a"), followed.look_at("b")
    assert not followed.leads(first) and followed.leads(second) and followed.job == "b"
    assert copy.deepcopy(followed).job is None


def test_a_result_whose_files_were_tidied_away_is_told_in_words(site: Site) -> None:
    result = site.stream.result(site.jobs.row(site.finished()))
    result.video.unlink()
    with pytest.raises(RequestError, match="tidied away"):
        result.file("video")


# words ------------------------------------------------------------------------------------------


def a_row(state: str = "running", **fields: Any) -> JobRow:
    known = {"id": "a" * 32, "kind": "generate", "owner": "ann", "title": "fox", "created": 0.0}
    made = {"seed": 7, "frames": "frames.npz"} if state == "done" else {}
    asked = {"request": {"seed": 7, "objects": [], "method": "fleximmt"}}
    return JobRow(**{**known, "inputs": asked, "state": state, "outcome": made, **fields})


@pytest.mark.parametrize("language", LANGUAGES)
def test_everything_a_job_can_be_has_words_in_every_language(language: str) -> None:
    texts = Texts(language)
    for stage in STAGES:
        assert progress_html(JobProgress(a_row(), stage), texts)
    for state in (*ACTIVE, *TERMINAL):
        assert gallery_html([a_row(state)], lambda row: None, GalleryView(0.0), texts)
    for method in METHODS:
        assert texts(f"video.method_{method}") and texts(f"video.about_{method}")
    for family in FAMILIES:
        assert texts(f"video.family_{family}")
    for c2pa in ("absent", "valid", "invalid", "unchecked"):
        found = Verification(0.0, False, None, None, False, False, c2pa, "a <firm>")
        assert "<firm>" not in verdict_html(found, "x.mp4", texts)


def test_seconds_are_written_as_people_say_them() -> None:
    assert [in_words(s, EN) for s in (0.42, 12.4, 200)] == ["0.4 s", "12 s", "3 min 20 s"]
    assert in_words(200, ZH) == "3 分 20 秒"
    assert in_words(59.7, EN) == "1 min 0 s"


def test_time_per_video_is_not_claimed_before_it_was_measured() -> None:
    ready = HostStatus("ready", "pocket", "cpu", 4.0)
    assert "not measured yet" in banner_html(ready, None, steps=12, texts=EN)
    measured = Measurement(seconds=10.0, steps=4, objects=2, step_seconds=2.0)
    assert "26 s per video of 12 steps" in banner_html(ready, measured, steps=12, texts=EN)


def test_before_the_first_video_the_banner_says_what_a_large_one_will_take():
    guessed = Expectation(rest_seconds=10.0, step_seconds=5.0)
    known = Expectation(10.0, 1.6, "NVIDIA H200 <x>")
    ready = HostStatus("ready", "5b", "cuda", 4.0, expected=guessed)
    told = banner_html(ready, None, steps=50, texts=EN)
    assert "about 4 min 20 s per video of 50 steps (estimated" in told
    loading = replace(ready, state="loading", expected=known)
    told = banner_html(loading, None, steps=50, texts=EN)
    assert "about 1 min 30 s" in told and "measured on another NVIDIA H200 &lt;x&gt;" in told
    assert "estimated" not in told
    small = replace(ready, expected=Expectation(1.0, 0.5))
    assert "not measured yet" in banner_html(small, None, steps=12, texts=EN)
    measured = Measurement(250.0, 50, 2, 4.0)
    assert "measured on the last one" in banner_html(ready, measured, steps=50, texts=EN)


@pytest.mark.parametrize("texts", [EN, ZH])
def test_the_banner_says_what_the_model_takes_and_by_which_profile(texts: Texts) -> None:
    def shown(state: str, **fields: Any) -> str:
        status = HostStatus(state, "5b", "cuda:0" if state == "ready" else "", 4.0, **fields)
        return banner_html(status, None, steps=12, texts=texts)

    small = Outlook("cuda:0", "model-offload", 15 * 10**9, 23 * 10**9, 21 * 10**9, 60 * 10**9)
    assert "model-offload" not in shown("loading")
    waiting = shown("loading", memory=small)
    assert "15.0 GB" in waiting and "model-offload" in waiting and "⚠" not in waiting
    for short, amount in (
        (replace(small, device_free=10**10), "10.0 GB"),
        (replace(small, main_free=9 * 10**9), "9.0 GB"),
    ):
        assert "⚠" in shown("loading", memory=short) and amount in shown("loading", memory=short)
    assert "3.2 GB" in shown("loading", fetched=(3_200_000_000, 22_000_000_000))
    ready = shown("ready", memory=small, profile="model-offload")
    assert "model-offload" in ready and "15.0 GB" in ready
    after = shown("ready", memory=small, profile="group-offload", too_large="model-offload")
    assert after.index("group-offload") < after.index("model-offload") and "15.0" not in after


def test_progress_says_step_pace_and_time_left() -> None:
    report = StepReport(3, 12, 0.5, np.zeros(1), np.zeros(1), False)
    numbers = {"step": 3, "steps": 12, "step_seconds": 0.5, "seconds_left": 4.5, "elapsed": 2.0}
    now = JobProgress(a_row(), "denoising", news=report, **numbers)
    text = progress_html(now, EN)
    assert "step 3 of 12" in text and "about 4.5 s left" in text and 'aria-valuenow="25"' in text
    stopping = progress_html(replace(now, stopping=True), EN)
    assert "left" not in stopping and "Stopping" in stopping


def test_a_screen_reader_hears_of_quarters_not_of_every_step() -> None:
    told = [
        announcement(JobProgress(a_row(), "denoising", step=step, steps=50), EN)
        for step in range(51)
    ]
    assert len(set(told)) == 5
    waiting = [announcement(JobProgress(a_row(), "queued", ahead=n), EN) for n in (2, 1, 0)]
    assert len(set(waiting)) == 3


def test_what_a_person_wrote_is_never_markup() -> None:
    assert "<b>" not in note_html("<b>bold</b>")
    failed = HostStatus("failed", "x", "", 0.0, "<script>")
    assert "<script>" not in banner_html(failed, None, steps=1, texts=EN)
    row = a_row("done", title='<img src=x onerror="alert(1)">')
    assert "<img src=x" not in gallery_html([row], lambda row: None, GalleryView(0.0), EN)


# presets and settings ---------------------------------------------------------------------------


def test_presets_are_the_checkpoints_own_half_of_it_and_the_papers() -> None:
    known = presets(GenerationDefaults(steps=12, guidance=4.5))
    assert [(p.name, p.steps, p.guidance) for p in known] == [
        ("draft", 6, 4.5),
        ("standard", 12, 4.5),
        ("paper", 50, 6.0),
    ]
    assert all(preset_of(known, steps=p.steps, guidance=p.guidance) == p.name for p in known)
    assert preset_of(known, steps=13, guidance=4.5) is None
    assert presets(GenerationDefaults(steps=1))[0].steps == 1


FIELDS = {"seed": 0, "steps": 12, "guidance": 6, "method": "fleximmt"}


def test_a_kept_seed_is_used_and_zero_is_a_seed() -> None:
    chosen = Chosen.of(FIELDS, locked=True, badge=False)
    assert chosen == Chosen(Options(seed=0, steps=12, guidance=6.0), badge=False)


def test_a_seed_that_is_not_kept_is_drawn_anew_each_time() -> None:
    drawn = [Chosen.of(FIELDS, locked=False, badge=False).options.seed for _ in range(8)]
    assert len(set(drawn)) > 1 and all(0 <= seed < 2**31 for seed in drawn)
    assert Chosen.of({**FIELDS, "seed": None}, locked=False, badge=False).options.seed >= 0


@pytest.mark.parametrize("word", ["seed", "steps", "guidance"])
def test_an_empty_number_is_refused_by_its_name(word: str) -> None:
    with pytest.raises(RequestError, match=word):
        Chosen.of({**FIELDS, word: None}, locked=True, badge=False)


def test_a_checkpoint_without_an_encoder_offers_none_and_still_opens_a_recipe_of_one() -> None:
    there = methods_there(METHODS, encoder=False)
    assert set(METHODS) - set(there) == {ENCODED, REFINED}
    with gr.Blocks():
        settings = GenerationSettings(GenerationDefaults(), EN, badge_forced=False, methods=there)
    listed = [name for f in FAMILIES for _, name in settings.open_family(f)["choices"]]
    assert sorted(listed) == sorted(there)
    request = parse_request({"image": "data:,", "objects": [], "method": ENCODED})
    restored = dict(zip(settings.restorable, settings.restored(request), strict=True))
    shown = restored[settings.method]
    assert shown["value"] == ENCODED and ENCODED in [name for _, name in shown["choices"]]


def test_every_method_is_found_in_its_family_with_what_it_is_told_and_costs() -> None:
    with gr.Blocks():
        settings = GenerationSettings(GenerationDefaults(), EN, badge_forced=False)
    listed = []
    for family in FAMILIES:
        opened = settings.open_family(family)
        names = [name for _, name in opened["choices"]]
        assert opened["value"] == names[0] and opened["info"].startswith("Told: ")
        assert all(METHOD_TABLE[name].family == family for name in names)
        listed += names
    assert sorted(listed) == sorted(METHODS)
    assert settings.methods == METHODS
    request = parse_request({"image": "data:,", "objects": [], "method": "time-to-move"})
    restored = dict(zip(settings.restorable, settings.restored(request), strict=True))
    assert restored[settings.family] == "clips"
    assert restored[settings.method]["value"] == "time-to-move"


OFFERED = {"tiny-wan": WAN, "lab/hunyuan": HUNYUAN}


def offering(free: float = 139.0, texts: Texts = EN) -> GenerationSettings:
    """Settings of a page that offers two models of others, with so many GB free."""

    def outlook(name: str) -> StockOutlook:
        parts = {"transformer": StockPart(16 * 10**9, 10**9), "vae": StockPart(10**9, 10**7)}
        taken = {"item": 2, "device_free": int(free * 1e9), "main_free": 40 * 10**9}
        return StockOutlook.of(OFFERED[name].title, parts, **taken)

    with gr.Blocks():
        return GenerationSettings(
            GenerationDefaults(steps=12),
            texts,
            badge_forced=False,
            stock=OFFERED,
            outlook=outlook,
        )


def test_a_page_that_offers_no_model_of_others_shows_no_choice() -> None:
    with gr.Blocks():
        settings = GenerationSettings(GenerationDefaults(), EN, badge_forced=False)
    assert settings.stock is None and "stock" not in settings.controls
    assert settings.chosen([True, False, *FIELDS.values()]).options.stock is None


def test_a_model_of_others_is_chosen_where_no_motion_is_told_and_brings_its_numbers() -> None:
    settings = offering()
    assert settings.stock.list.visible is False, "the methods' first is told motions"
    shown, *untouched = settings.leave_stock("stock", "")
    assert shown["visible"] and shown["value"] == "" and len(untouched) == 3
    shown, steps, guidance, preset = settings.choose_stock("tiny-wan")
    assert shown["value"] == "tiny-wan" and "Apache 2.0" in shown["info"]
    assert "81 frames at 16 per second, about 832×480" in shown["info"]
    assert "34.0 GB of weights, 139.0 GB are free" in shown["info"]
    assert (steps["value"], guidance["value"], preset) == (50, 5.0, None)
    hidden, steps, _, preset = settings.leave_stock("tokens", "tiny-wan")
    assert hidden["visible"] is False and hidden["value"] == ""
    assert (steps["value"], preset) == (12, "standard"), "the checkpoint's own again"
    values = {**FIELDS, "method": "none", "stock": "tiny-wan"}
    assert settings.chosen([True, False, *values.values()]).options.stock == "tiny-wan"
    values["stock"] = ""
    assert settings.chosen([True, False, *values.values()]).options.stock is None


@pytest.mark.parametrize("texts", [EN, ZH])
@pytest.mark.parametrize(("free", "key"), [(139.0, "fits"), (24.0, "waits"), (1.0, "too_large")])
def test_licence_regions_and_memory_are_said_beside_it(free, key, texts) -> None:
    told = offering(free, texts).stock.about("lab/hunyuan")
    assert told.startswith(f"{HUNYUAN.title}: {texts('video.stock_licence_hunyuan')}")
    assert told.endswith(texts(f"video.stock_{key}", taken="34.0", free=f"{free:.1f}"))
    assert "South Korea" in texts("video.stock_licence_hunyuan") or texts is ZH


def test_a_recipe_of_another_model_is_restored_where_it_is_offered_and_noted_where_not() -> None:
    request = parse_request(entries(method="none", stock="tiny-wan", steps=50, guidance=5.0))
    settings = offering()
    restored = dict(zip(settings.restorable, settings.restored(request), strict=True))
    assert restored[settings.stock.list]["value"] == "tiny-wan"
    assert restored[settings.stock.list]["visible"] and restored[settings.family] == "stock"
    named = {"lock": True, "badge": False, **FIELDS, "method": "none", "stock": "tiny-wan"}
    returned = dict(zip(settings.returnable, settings.returned(named), strict=True))
    assert returned[settings.stock.list]["value"] == "tiny-wan"
    returned = settings.returned({"lock": True, "badge": False, **FIELDS})
    assert returned[0] is True, "of a page that was left before there were any"
    recipe = {"request": entries(method="none", stock="tiny-wan"), "base": "b", "model": WAN.title}
    here = Environment("pocket", "other", "cpu", {})
    library = Library([])
    (note,) = replay_of(recipe, library=library, environment=here).notes
    assert note.kind == "warning" and "Wan 2.1" in note.text(EN) and "not offered" in note.text(EN)
    here = replace(here, stock=("tiny-wan",))
    assert not replay_of(recipe, library=library, environment=here).notes


def test_what_lacks_its_weights_is_no_choice_but_a_recipe_may_name_it() -> None:
    lacking = "go-with-the-flow"
    offered = [name for name in METHODS if name != lacking]
    with gr.Blocks():
        settings = GenerationSettings(GenerationDefaults(), EN, badge_forced=False, methods=offered)
    listed = [name for _, name in settings.open_family("clips")["choices"]]
    assert listed and lacking not in listed
    request = parse_request({"image": "data:,", "objects": [], "method": lacking})
    restored = dict(zip(settings.restorable, settings.restored(request), strict=True))
    assert lacking in [name for _, name in restored[settings.method]["choices"]]


def test_the_page_offers_what_the_shipped_checkpoint_can_do() -> None:
    shipped = Checkpoint.read(ROOT / "checkpoints" / "pocket")
    offered = offered_methods(shipped)
    for name, method in METHOD_TABLE.items():
        there = bool(method.adapter) and find_adapter(shipped, method.adapter) is not None
        encodes = shipped.has_encoder or not method.encoder
        assert (name in offered) == ((not method.adapter or there) and encodes)


@pytest.mark.parametrize("forced", [True, False])
def test_a_forced_badge_cannot_be_switched_off(forced: bool) -> None:
    with gr.Blocks():
        settings = GenerationSettings(GenerationDefaults(), EN, badge_forced=forced)
    assert settings.chosen([True, False, *FIELDS.values()]).badge == forced
    assert settings.chosen([True, True, *FIELDS.values()]).badge
    assert list(settings.controls) == list(FIELDS)


# the gallery ------------------------------------------------------------------------------------


def test_a_title_names_the_objects_and_their_motions() -> None:
    request = entries()
    request["objects"][0]["motion"] = "walk_left"
    request["objects"][1]["name"] = ""
    assert title_of(parse_request(request), EN) == "robot: walk left · object 2"


def test_a_card_offers_what_its_state_allows() -> None:
    def actions(state: str) -> list[str]:
        html = gallery_html([a_row(state)], lambda row: None, GalleryView(0.0), EN)
        return re.findall(r'data-do="(\w+)"', html)

    assert actions("done") == ["show", "side_a", "side_b", "delete"]
    assert actions("queued") == actions("running") == ["show", "stop"]
    for state in ("failed", "cancelled", "interrupted"):
        assert actions(state) == ["show", "again", "delete"]


def test_the_gallery_keeps_the_order_and_shows_no_more_than_fit() -> None:
    rows = [a_row("done", id=f"{n:032x}") for n in range(MOST_SHOWN + 3)]
    ids = re.findall(r'data-id="(\w+)"', gallery_html(rows, lambda row: None, GalleryView(0.0), EN))
    assert ids == [row.id for row in rows[:MOST_SHOWN]]


def test_the_sides_of_the_comparison_are_marked_on_their_cards() -> None:
    rows = [a_row("done", id=letter * 32) for letter in "ab"]
    view = GalleryView(0.0, compared=("a" * 32, "b" * 32))
    html = gallery_html(rows, lambda row: None, view, EN)
    assert re.findall(r'aria-pressed="(\w+)"', html) == ["true", "false", "false", "true"]


def test_a_side_is_chosen_and_pressed_again_left() -> None:
    compared = ComparedVideos().chosen("a", "x").chosen("b", "y")
    assert compared.sides == ("x", "y")
    assert compared.chosen("a", "x").sides == (None, "y")
    assert compared.without("y").sides == ("x", None)


def compared_rows() -> tuple[JobRow, JobRow]:
    item = {"name": "fox", "motion": "jump", "sentence": "A fox jumps.", "strength": 1.0}
    one = {"seed": 1, "steps": 4, "guidance": 6.0, "method": "fleximmt", "objects": [item]}
    other = {**one, "method": "concat", "objects": [{**item, "strength": 0.5}]}
    return tuple(
        a_row("done", id=letter * 32, inputs={"request": request}, outcome={"seed": 1})
        for letter, request in (("a", one), ("b", other))
    )


def test_what_differs_between_two_recipes_is_told_and_nothing_else() -> None:
    one, other = compared_rows()
    assert differing_facts(one, other, EN) == {
        "Method": ("FlexiMMT", "Concatenation"),
        "object 1: Strength": ("1", "0.5"),
    }
    assert differing_facts(one, one, EN) == {}
    card = gallery_html(
        [one, other], lambda row: None, GalleryView(0.0, compared=("a" * 32, None)), EN
    )
    assert re.findall(r'class="gallery-unlike">([^<]*)', card) == [
        "unlike A: method, object 1: Strength"
    ]
    assert "FlexiMMT · seed 1" in card and "Concatenation · seed 1" in card


def test_another_picture_is_a_difference_though_the_words_are_the_same(tmp_path: Path) -> None:
    one, _ = compared_rows()
    jobs = []
    for shade in (0, 9):
        folder = tmp_path / str(shade)
        folder.mkdir()
        image, masks = np.full((4, 6, 3), shade, np.uint8), np.ones((1, 4, 6), bool)
        np.savez(folder / KEPT_REQUEST, image=image, masks=masks)
        jobs.append(ComparedJob(one, folder / "video.mp4"))
    assert "Picture" in differences_html(*jobs, EN) and "Masks" not in differences_html(*jobs, EN)
    assert EN("video.no_difference") in differences_html(jobs[0], jobs[0], EN)


def test_the_references_stand_beside_the_result_in_their_objects_colours() -> None:
    row, _ = compared_rows()
    moved = Library([ROOT / "checkpoints" / "pocket" / "motions"]).find("jump")
    told = references_html(row, lambda name: moved, Previews(Limits()), EN)
    assert "data:image/webp;base64," in told and "fox" in told and "jump" in told
    assert f"--colour: {css_colour(0)}" in told
    gone = references_html(row, lambda name: None, Previews(Limits()), EN)
    assert EN("video.reference_gone") in gone and "<img" not in gone


def test_time_is_told_in_the_largest_unit_that_fits() -> None:
    told = [when(seconds, EN) for seconds in (5, 61, 7200, 3 * 86400)]
    assert told == ["just now", "1 min ago", "2 h ago", "3 d ago"]


def test_a_finished_card_shows_its_own_frames(site: Site) -> None:
    site.finished()
    html = site.stream.gallery("ann", FollowedJobs())
    assert 'srcset="data:image/jpeg;base64,' in html and 'src="data:image/webp;base64,' in html
    assert str(site.jobs.files) not in html


# masks over the video ---------------------------------------------------------------------------


def test_masks_are_drawn_where_they_are_and_nowhere_else() -> None:
    frames = np.full((FRAMES, 64, 96, 3), 128, np.uint8)
    masks = np.zeros((1, MOMENTS, 8, 12), dtype=bool)
    masks[0, 0, 2:4, 1:3] = True
    masks[0, 1:, 5:7, 8:11] = True
    drawn = masked_frames(SavedFrames(frames, masks, 8.0), [2], size=(288, 192))
    changed = (drawn != 128).any(axis=3)
    early, late = (slice(44, 100), slice(20, 76)), (slice(116, 172), slice(188, 268))
    assert changed[0][early].any() and not changed[0][late].any()
    for frame in changed[1:]:
        assert frame[late].any() and not frame[early].any()
        frame[late] = False
        # what is left is the number's disc, at the upper left of the mask
        assert frame.sum() < 400


def test_the_video_with_masks_is_made_once_and_is_marked_as_generated(site: Site) -> None:
    job = site.finished()
    folder, row = site.jobs.folder(job), site.jobs.row(job)
    overlays = OverlayVideos(ExportSize(96, 64))
    path = overlays(folder, row.outcome, [0, 1], badge=False)
    stamp = path.stat().st_mtime_ns
    assert overlays(folder, row.outcome, [0, 1], badge=False).stat().st_mtime_ns == stamp
    assert read_recipe(path)["request"] == row.inputs["request"]
    assert not list(folder.glob("unfinished*"))


def test_frames_that_have_gone_are_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="make the video again"):
        SavedFrames.read(tmp_path / "frames.npz")


# recipes ----------------------------------------------------------------------------------------


HERE = Environment("tiny", "b" * 64, "cpu", {"torch": "2.11.0"})


def a_recipe(**fields: Any) -> dict[str, Any]:
    known = {"base": "b" * 64, "model": "tiny", "device": "cpu", "objects": [{}, {}]}
    return {"request": entries(), **known, "versions": {"torch": "2.11.0+cpu"}, **fields}


def keys(recipe: dict[str, Any], library: Library | None = None) -> list[str]:
    found = replay_of(recipe, library=library or Library([]), environment=HERE)
    assert all(note.text(texts) for note in found.notes for texts in (EN, ZH))
    return [note.key.removeprefix("video.replay_") for note in found.notes]


def test_a_recipe_made_here_restores_its_request_without_a_word() -> None:
    found = replay_of(a_recipe(), library=Library([]), environment=HERE)
    assert found.request == parse_request(entries()) and found.notes == ()


def test_a_bare_request_is_a_recipe_of_which_nothing_else_is_known() -> None:
    assert keys(entries()) == []


def test_everything_that_may_change_the_video_is_told() -> None:
    assert keys(a_recipe(base="c" * 64)) == ["base"]
    assert keys(a_recipe(versions={"torch": "2.10.0"})) == ["versions"]
    assert keys(a_recipe(device="cuda")) == ["versions"]
    assert keys(a_recipe(request=entries(without=["rmpm"]))) == ["ablation"]


def test_a_motion_that_is_missing_is_named() -> None:
    request = entries()
    request["objects"][0]["motion"] = "cartwheel"
    with pytest.raises(MotionFileError, match="cartwheel"):
        replay_of(a_recipe(request=request), library=Library([]), environment=HERE)


def test_a_recipe_whose_pictures_lie_elsewhere_is_refused() -> None:
    with pytest.raises(RequestError, match="holds its pictures"):
        replay_of(entries(image="/etc/passwd"), library=Library([]), environment=HERE)


def test_a_seed_that_a_browser_cannot_hold_is_refused() -> None:
    assert keys(entries(seed=BIGGEST_SEED)) == []
    with pytest.raises(RequestError, match="command line"):
        replay_of(entries(seed=BIGGEST_SEED + 1), library=Library([]), environment=HERE)


def test_versions_are_read_without_importing_anything() -> None:
    assert set(installed_versions(("numpy", "no-such-package"))) == {"numpy"}


@pytest.fixture(scope="module")
def maker(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The tiny engine and a library with one strong motion."""
    import torch

    from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
    from motion_app.engine.pipeline import MotionEngine

    engine = MotionEngine.load(tiny_checkpoint, device="cpu")
    folder = tmp_path_factory.mktemp("library")

    def learn(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = {"layers": 2, "tokens": 4, "width": 32, "scale": 3.0, "distribution": "normal"}
        tokens = MotionTokens.fresh(**sizes, generator=generator)
        metadata = MotionMetadata(name="hop", phrase="is jumping", base=engine.fingerprint)
        tokens.save(folder / "hop.safetensors", metadata)

    learn(0)
    return SimpleNamespace(engine=engine, folder=folder, learn=learn)


def test_a_dropped_video_makes_the_same_frames_again_bit_for_bit(
    maker: SimpleNamespace, tmp_path: Path
) -> None:
    from motion_app.request.request import build_request

    library = Library([maker.folder])
    request = entries(guidance=3.0)
    request["objects"][0] |= {
        "motion": "hop",
        "phrase": "is jumping",
        "sentence": "A red robot is jumping.",
    }
    options = {"geometry": maker.engine.geometry, "library": library, "base": None}
    first = maker.engine.generate(build_request(parse_request(request), **options))
    saved = save_result(first, tmp_path, export=ExportSize(288, 192))
    here = Environment(
        maker.engine.defaults.name, maker.engine.fingerprint, "cpu", installed_versions()
    )
    for dropped in (saved.video, saved.recipe):
        replay = replay_of(read_recipe(dropped), library=library, environment=here)
        assert replay.notes == ()
        again = maker.engine.generate(build_request(replay.request, **options))
        assert np.array_equal(again.frames, first.frames)
        assert np.array_equal(again.masks, first.masks)
    maker.learn(1)  # the motion is learned anew under its old name
    changed = replay_of(read_recipe(saved.video), library=library, environment=here)
    assert [note.key for note in changed.notes] == ["video.replay_motion"]
    assert changed.notes[0].kind == "warning" and "hop" in changed.notes[0].text(EN)


def test_a_request_survives_the_way_through_a_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(a_recipe()), encoding="utf-8")
    replay = replay_of(read_recipe(path), library=Library([]), environment=HERE)
    assert replay.request.model_dump() == parse_request(entries()).model_dump()


# verdicts ---------------------------------------------------------------------------------------


def test_a_verdict_says_what_was_found_and_what_it_is_worth() -> None:
    made = Verification(41.2, True, 5, True, True, True, "absent", None)
    html = verdict_html(made, "video.mp4", EN)
    assert EN("video.verdict_yes") in html and "Z = 41.2" in html and "payload is 5" in html
    other = replace(made, payload_fits=False)
    assert EN("video.recipe_other") in verdict_html(other, "video.mp4", EN)
    found = Verification(0.3, False, None, None, False, False, "absent", None)
    html = verdict_html(found, "holiday.mp4", EN)
    assert EN("video.verdict_no") in html and EN("video.verdict_doubt") in html
    assert "Z = 0.3" in html and 'class="yes"' not in html
