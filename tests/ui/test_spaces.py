"""On a hosted Space: who may use the GPU, for how long, and what a visitor leaves behind."""

from __future__ import annotations

import asyncio
import contextvars
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
import yaml
from example_requests import request_of
from gradio_client import Client
from gradio_client.exceptions import AppError
from packaging.requirements import Requirement
from PIL import Image
from serving import RunningApp
from test_pipeline import motions, scene  # noqa: F401
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from motion_app.engine.footprint import Workload
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import MotionFileError, RequestError
from motion_app.jobs.kinds import train
from motion_app.jobs.progress import KeptInputs
from motion_app.jobs.timings import JobPart, JobSize, Timings
from motion_app.library.library import Library
from motion_app.library.motion_file import numbers_digest
from motion_app.models.checkpoint import Checkpoint
from motion_app.pocket.shipped import renew_results
from motion_app.request.request import build_request, parse_request
from motion_app.settings import ROOT, TOO_LONG_FOR_ZERO_GPU, Hosting, Limits, Settings
from motion_app.study.site.address import believe_private_networks
from motion_app.training.config import MotionTraining
from motion_app.training.inputs import ClipSelection, TrainingInputs
from motion_app.ui.lent_jobs import CallQueue
from motion_app.ui.markup import Texts
from motion_app.ui.pictures import Previews
from motion_app.ui.transfer import stream as stream_module
from motion_app.ui.transfer.gallery import shipped_html, shipped_results
from motion_app.ui.transfer.lesson_panel import LearningOffer
from motion_app.ui.zero_gpu import (
    ROOM,
    CallEnded,
    ZeroGpuEngine,
    ZeroGpuHost,
    refusal_words,
    train_lent,
    worker_steps,
)

POCKET = ROOT / "checkpoints" / "pocket"
SPACE = {"SPACE_ID": "someone/motions", "SYSTEM": "spaces"}
ZERO = {**SPACE, "SPACES_ZERO_GPU": "true"}
LENT_AT_MOST = 60  # seconds, of the fake ZeroGPU
LENT_TO_LEARN = 5000  # seconds: there is no GPU here, and the last video told how long a step takes


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


# where it runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Hosting()),
        ({"SPACES_ZERO_GPU": "true"}, Hosting()),
        (SPACE, Hosting("someone/motions")),
        (ZERO, Hosting("someone/motions", zero_gpu=True)),
    ],
)
def test_a_space_is_known_by_its_variables(variables: dict[str, str], expected: Hosting) -> None:
    assert Hosting.detect(variables) == expected


def test_a_space_serves_everybody_and_does_not_learn_unless_it_is_told_to(monkeypatch) -> None:
    hosted = Hosting("someone/motions")
    assert Hosting().settings().host == "127.0.0.1" and Hosting().settings().training
    assert hosted.settings().host == "0.0.0.0" and not hosted.settings().training
    assert hosted.settings(host="127.0.0.1").host == "127.0.0.1"
    monkeypatch.setenv("MOTION_APP_TRAINING", "true")
    assert hosted.settings().training
    monkeypatch.delenv("MOTION_APP_TRAINING")
    lent = Hosting("someone/motions", zero_gpu=True)
    assert lent.settings().training, "each visitor has a share of their own"
    monkeypatch.setenv("MOTION_APP_TRAINING", "false")
    assert not lent.settings().training


# what is done on the GPU ------------------------------------------------------------------------


def lent(engine: MotionEngine, **sizes: float) -> ZeroGpuEngine:
    """On a GPU that is there at once, as the decorator is outside of ZeroGPU."""
    workload = Workload(**{"step": 1e12, "decoding": 1e10, "weights": 10**6, **sizes})
    return ZeroGpuEngine(engine, workload, lend=lambda duration: lambda task: task)


def test_a_lent_gpu_makes_the_same_video_with_the_same_news(engine, motions) -> None:  # noqa: F811
    expected, told = [], []
    video = engine.generate(scene(motions), lambda report: expected.append(report))
    here = lent(engine)
    found = here.generate(scene(motions), lambda report: told.append(report))
    assert np.array_equal(found.frames, video.frames) and found.recipe == video.recipe
    for one, other in zip(expected, told, strict=True):
        assert np.array_equal(one.latents, other.latents)
        assert np.array_equal(here.preview(one.latents), engine.preview(one.latents))


def test_closing_the_call_stops_it_before_the_next_step(engine, motions) -> None:  # noqa: F811
    passes = []
    transformer = engine.backbone.transformer
    hook = transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    before = [block.attn1.processor for block in transformer.transformer_blocks]
    news = worker_steps(engine, scene(motions, steps=50))
    while getattr(next(news), "step", 0) < 2:
        continue
    news.close()
    hook.remove()
    assert len(passes) == 2
    assert [block.attn1.processor for block in transformer.transformer_blocks] == before
    assert not engine.backbone.prompts._known


def test_a_mistake_is_told_in_its_own_words_across_processes(engine, motions) -> None:  # noqa: F811
    request = scene(motions)
    gone = replace(motions[0], path=Path("gone.safetensors"))
    broken = replace(request, objects=(replace(request.objects[0], motion=gone),))
    *_, ended = worker_steps(engine, broken)
    assert isinstance(ended, CallEnded) and isinstance(ended.error, MotionFileError)
    with pytest.raises(MotionFileError, match="gone"):
        lent(engine).generate(broken)


def test_more_steps_ask_for_more_seconds_and_a_larger_model_for_more(engine, motions) -> None:  # noqa: F811
    here = lent(engine)
    asked = [here.seconds_for(scene(motions, steps=steps)) for steps in (10, 50, 200)]
    assert asked == sorted(set(asked)) and asked[0] >= 10
    larger = lent(engine, step=7e14, decoding=2e14, weights=22 * 10**9)
    assert larger.seconds_for(scene(motions, steps=50)) > 3 * asked[1]
    assert here.seconds_for(scene(motions)) == here.seconds_for(scene(motions, steps=3))
    led = here.seconds_for(scene(motions, steps=50, method="attention-flow"))
    assert led > 3 * asked[1], "what takes more work asks for more"


def test_what_was_timed_replaces_what_was_guessed(engine, motions) -> None:  # noqa: F811
    here = lent(engine, step=1e15)
    guessed = here.seconds_for(scene(motions, steps=300))
    here.generate(scene(motions, steps=3))
    assert here.seconds_for(scene(motions, steps=300)) < guessed / 4
    assert here.seconds_for(scene(motions, steps=300)) > here.seconds_for(scene(motions, steps=3))
    led = scene(motions, steps=300, method="attention-flow")
    assert here.seconds_for(led) > guessed, "it was another method that was timed"


def test_the_pocket_is_guessed_to_be_far_smaller_than_5b() -> None:
    work = Workload.of(Checkpoint.read(POCKET), item=2)
    assert work.weights > 10**6 and work.step < 1e12
    assert 0.1 <= work.step_seconds < 0.2 and 4 <= work.loading_seconds < 6


@pytest.mark.parametrize(
    ("title", "message", "words"),
    [
        ("ZeroGPU quota exceeded", "You have exceeded your quota (60s vs. 3s left).", "3s left"),
        ("ZeroGPU quota exceeded", "You have exceeded your quota.", "sign in to Hugging Face"),
        ("ZeroGPU illegal duration", "The requested GPU duration (90s)", "longer than a visitor"),
        ("ZeroGPU queue timeout", "No GPU was available after 60s. <a href='x'>Up</a>", "minute"),
        ("ZeroGPU client error", "Expired ZeroGPU proxy token", "reload"),
        ("ZeroGPU worker error", "GPU task aborted", "taken back after 77 s"),
        ("ZeroGPU worker error", "ValueError", "ValueError"),
    ],
)
def test_every_refusal_of_a_gpu_says_what_to_do(title: str, message: str, words: str) -> None:
    told = refusal_words(gr.Error(message, title=title), 77)
    assert words in told and "<" not in told and "\n" not in told


def test_a_refused_gpu_is_a_mistake_a_person_can_repair(engine, motions) -> None:  # noqa: F811
    here = lent(engine)

    def refuse(request: Any) -> Iterator[Any]:
        raise gr.Error("The requested GPU duration (90s)", title="ZeroGPU illegal duration")
        yield

    here.call = refuse
    with pytest.raises(RequestError, match="fewer steps"):
        here.generate(scene(motions))
    here.call = lambda request: (item for item in ())
    with pytest.raises(RequestError, match="taken back"):
        here.generate(scene(motions))


# jobs that are attended -------------------------------------------------------------------------

VISITOR = contextvars.ContextVar("visitor", default="nobody")


class _Steps:
    """A runner of four steps that says in whose context it ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def check(self, inputs, files, *, owner=""):
        return KeptInputs(dict(inputs))

    def check_line(self, inputs, active) -> None:
        pass

    def parts(self, inputs) -> tuple[JobPart, ...]:
        return (JobPart("generate", JobSize(400, 1)),)

    def run(self, work) -> dict[str, Any]:
        self.ran.append(VISITOR.get())
        for step in range(1, 401):
            work.stepped(None, step=step, steps=400, seconds=0.01, stage="denoising")
            work.check_stop()
            if work.row.inputs.get("long"):
                work._stop.wait(0.05)
        return {"made": work.row.id}


@pytest.fixture
def attended(tmp_path: Path) -> Iterator[tuple[CallQueue, _Steps]]:
    runner = _Steps()
    jobs = CallQueue(tmp_path, {"generate": runner}, limits=Limits())
    jobs.start()
    yield jobs, runner
    jobs.stop()


def test_a_job_is_done_by_who_follows_it_and_in_their_name(attended) -> None:
    jobs, runner = attended
    row = jobs.submit("generate", {}, owner="ann")
    watched = jobs.watch(row.id, every=0.01)
    assert [next(watched).row.state for _ in range(3)] == ["queued"] * 3 and runner.ran == []
    VISITOR.set("ann")
    *_, last = jobs.follow(row.id)
    assert last.row.state == "done" and runner.ran == ["ann"]
    *_, seen = watched
    assert seen.row.state == "done"
    *_, again = jobs.follow(row.id)
    assert again.row.state == "done" and len(runner.ran) == 1


def test_leaving_stops_the_job_and_a_second_follower_may_leave_without_harm(attended) -> None:
    jobs, runner = attended
    row = jobs.submit("generate", {"long": True}, owner="ann")
    following = jobs.follow(row.id, every=0.02)
    assert next(following).row.state == "running"
    second = jobs.follow(row.id, every=0.02)
    next(second)
    second.close()
    assert jobs.row(row.id).state == "running" and not next(following).stopping
    following.close()
    *_, last = jobs.watch(row.id)
    assert last.row.state == "cancelled" and last.step < 400 and len(runner.ran) == 1


def test_a_page_holds_one_call_open_for_a_job(attended, monkeypatch) -> None:
    """However often its button is pressed: each call holds a thread here."""
    jobs, _ = attended
    shown = stream_module.PanelChange

    def panel_of(_, owner, followed, following, progress) -> stream_module.PanelChange:
        return shown(progress.row.active, status=str(followed.leads(following.turn)))

    monkeypatch.setattr(stream_module.JobStream, "_panel_of", panel_of)
    monkeypatch.setattr(stream_module, "TICK_SECONDS", 0.02)
    stream = stream_module.JobStream(SimpleNamespace(jobs=jobs), Texts("en"), Previews(Limits()))
    row = jobs.submit("generate", {"long": True}, owner="ann")
    page, tab = stream_module.FollowedJobs(), stream_module.FollowedJobs()
    telling = stream.follow("ann", page, row.id)
    assert next(telling).busy
    for _ in range(5):
        assert list(stream.follow("ann", page, row.id)) == []
    assert next(telling).status == "True"  # it leads, as the last of them would
    page.look_at("another")
    assert next(telling).status == "False"
    elsewhere = stream.follow("ann", tab, row.id)
    assert next(elsewhere).busy
    elsewhere.close()
    telling.close()
    *_, last = jobs.watch(row.id)
    assert last.row.state == "cancelled"
    *_, ended = stream.follow("ann", page, row.id)  # the call is over: the next one tells
    assert not ended.busy


def test_visitors_do_not_wait_for_each_other(attended) -> None:
    jobs, _ = attended
    slow = jobs.submit("generate", {"long": True}, owner="ann")
    following = jobs.follow(slow.id, every=0.02)
    next(following)
    *_, last = jobs.follow(jobs.submit("generate", {}, owner="bob").id)
    assert last.row.state == "done" and jobs.row(slow.id).state == "running"
    assert next(following).ahead == 0
    following.close()
    with pytest.raises(RequestError, match="use generate"):
        jobs.check_unattended()


def test_jobs_that_nobody_came_for_make_room_for_others_and_can_be_run_again(
    attended, monkeypatch
) -> None:
    jobs, _ = attended
    jobs.limits = Limits(jobs=1)
    left = jobs.submit("generate", {}, owner="ann")
    with pytest.raises(RequestError, match="1 jobs are waiting already"):
        jobs.submit("generate", {}, owner="bob")
    monkeypatch.setattr("motion_app.ui.lent_jobs.LEFT_ALONE_SECONDS", 0.0)
    *_, last = jobs.follow(jobs.submit("generate", {}, owner="bob").id)
    assert last.row.state == "done" and jobs.row(left.id).state == "interrupted"
    jobs.again(left.id)
    *_, last = jobs.follow(left.id)
    assert last.row.state == "done"


# app.py as on ZeroGPU ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What ``space_visits`` saw, and what was asked of the fake ``spaces``."""
    folder = tmp_path_factory.mktemp("visits")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "space_visits.py")],
        env=space_environment(folder) | {"MOTION_APP_LENT_SECONDS": str(LENT_TO_LEARN)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return SimpleNamespace(**json.loads(done.stdout.splitlines()[-1]), log=log)


def space_environment(folder: Path) -> dict[str, str]:
    return (
        os.environ
        | ZERO
        | {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'fake_spaces'}",
            "FAKE_SPACES_LOG": str(folder / "log"),
            "MOTION_APP_OUTPUTS": str(folder / "outputs"),
            "MOTION_APP_CACHE": str(folder / "cache"),
            "MOTION_APP_MOTIONS": f'["{folder / "motions"}"]',
        }
    )


def test_a_spaces_visitors_are_told_apart_by_what_its_proxy_says() -> None:
    told: list[str] = []
    said: dict[str, str] = {}
    believe_private_networks(said)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append(scope["client"][0])

    behind = ProxyHeadersMiddleware(app, trusted_hosts=said["FORWARDED_ALLOW_IPS"])
    for way in ("203.0.113.9", "192.0.2.1, 203.0.113.9", "10.1.2.3, 203.0.113.9, 10.4.5.6"):
        headers = [(b"x-forwarded-for", way.encode())]
        scope = {"type": "http", "client": ("10.16.0.7", 1), "headers": headers, "scheme": "http"}
        asyncio.run(behind(scope, None, None))
    assert told == ["203.0.113.9"] * 3  # and not what a visitor wrote before


def test_importing_the_app_loads_the_model_and_decorates_one_function(visits) -> None:
    assert visits.page and visits.ready == "ready"
    decorated = [entry for entry in visits.log if "decorated" in entry]
    assert [(entry["decorated"], entry["duration"]) for entry in decorated] == [
        ("generate", "callable")
    ]


def test_no_model_of_the_gpu_computes_outside_of_a_call(visits) -> None:
    places = {(entry["computed"], entry["pid"]) for entry in visits.log if "computed" in entry}
    assert {name for name, _ in places} == {"transformer", "vae", "text_encoder"}
    assert visits.pid not in {pid for _, pid in places} and len({pid for _, pid in places}) == 1
    assert not [entry for entry in visits.log if "cuda" in entry]
    assert visits.clicks == "cpu"


def test_each_call_asks_for_seconds_and_more_steps_ask_for_more(visits) -> None:
    asked = [entry["asked"] for entry in visits.log if "asked" in entry]
    assert len(asked) == 5 and all(isinstance(seconds, int) for seconds in asked)
    assert asked[2] > max(asked[0], asked[1], asked[3])  # 200 steps, the others 3
    assert asked[4] >= 10  # a training


def test_a_visitor_gets_previews_and_the_video_of_their_own_request(visits) -> None:
    plain = MotionEngine.load(POCKET, device="cpu")
    for visit in (visits.first, visits.second, visits.again):
        assert visit["state"] == "done" and visit["previews"] >= 1, visit["message"]
    for visit, motion, seed in (
        (visits.first, visits.motions[0], 1),
        (visits.second, visits.motions[1], 2),  # once more in the next test
    ):
        request = build_request(
            parse_request(request_of(motion, seed, steps=3)),
            geometry=Checkpoint.read(POCKET).geometry,
            library=Library([POCKET / "motions"]),
            base=plain.fingerprint,
        )
        expected = plain.generate(request).frames.astype(int)
        found = np.load(visit["frames"])["frames"].astype(int)
        assert np.abs(found - expected).max() <= 1  # another number of threads may round otherwise


def test_a_visitor_leaves_nothing_to_the_next(visits) -> None:
    assert (visits.first["gallery"], visits.second["gallery"], visits.again["gallery"]) == (1, 1, 2)
    once, again = (np.load(visit["frames"])["frames"] for visit in (visits.second, visits.again))
    assert np.array_equal(once, again)


def test_a_visitor_who_leaves_stops_the_gpu_within_a_step(visits) -> None:
    assert visits.left["state"] == "cancelled"
    step = int(visits.left["message"].split("step ")[1].split(" ")[0])
    assert 2 <= step <= 5  # the page hears of a step after it was made


def test_a_visitor_learns_a_motion_on_the_gpu_that_is_lent_to_them(visits) -> None:
    learned = visits.learned
    assert learned["state"] == "done", learned["message"]
    assert (learned["seen"], learned["steps"], learned["whose"]) == (4, 4, "mine")
    assert learned["has_mover"], "it was pointed at"
    assert 10 <= visits.cost <= visits.most


def test_what_would_take_longer_than_is_lent_is_refused_with_its_cost(visits) -> None:
    assert f"a visitor is lent {LENT_TO_LEARN} s; choose fewer steps" in visits.training
    assert "use generate" in visits.unattended


def test_a_large_model_learns_elsewhere_and_says_so(engine, tiny_checkpoint: Path) -> None:
    host = ZeroGpuHost.__new__(ZeroGpuHost)  # without loading anything
    host.settings, host._error, host.look_seconds = Settings(), None, None
    host.__dict__["_checkpoint"] = Checkpoint.read(tiny_checkpoint)
    host._engine_done = threading.Event()
    host._engine_done.set()
    config = MotionTraining("hop", steps=20)
    host._engine = lent(engine)
    assert host.lent_seconds(steps=20) < host.lent_seconds(steps=200)
    host._check_cost(config)
    host._engine = lent(engine, step=7e14, decoding=2e14, weights=22 * 10**9)
    assert not host.learns and host.no_training == TOO_LONG_FOR_ZERO_GPU
    host.jobs = SimpleNamespace(timings=Timings())
    offer = LearningOffer.of(host, Texts("en"))
    assert "takes longer than the minutes of GPU" in offer.refusal and offer.command
    with pytest.raises(RequestError, match="a visitor is lent"):
        host._check_cost(MotionTraining("hop", steps=2000))


def test_a_timed_training_and_a_timed_video_replace_what_was_guessed(engine, motions) -> None:  # noqa: F811
    here, config = lent(engine, step=1e15), MotionTraining("hop", steps=300, batch=2)
    guessed = here.learning_seconds(config)
    alone = replace(scene(motions), objects=scene(motions).objects[:1])
    here.generate(alone)
    by_video = here.learning_seconds(config)
    assert by_video < guessed / 4
    here._remember("train", JobSize(300, 1, "fleximmt"), 64.0, 0.2)
    assert here.learning_seconds(config) == math.ceil(ROOM * (here.workload.loading_seconds + 64))
    longer = replace(config, steps=600)
    assert here.learning_seconds(longer) > here.learning_seconds(config) + 60


def test_learning_on_a_lent_gpu_gives_the_motion_that_learning_here_gives(
    engine, tmp_path: Path
) -> None:
    clip = sorted((ROOT / "assets" / "clips").glob("*.mp4"))[0]
    inputs = TrainingInputs("hop", "hops", "fox", (ClipSelection(clip),), steps=3)
    given = {"tokens": 4, "views": 2, "checkpoint_every": 2}
    config = inputs.config({}, **given)
    told: list[int] = []
    here = train(inputs, config, tmp_path / "here.safetensors", engine, mark=None)
    there = train_lent(
        inputs,
        config,
        tmp_path / "there.safetensors",
        lent(engine),
        None,
        on_progress=lambda report: told.append(report.step),
    )
    assert told == [1, 2, 3] and numbers_digest(here.path) == numbers_digest(there.path)

    def refuse(order: Any) -> Iterator[Any]:
        raise gr.Error("The requested GPU duration (90s)", title="ZeroGPU illegal duration")
        yield

    broke = lent(engine)
    broke.call = refuse
    with pytest.raises(RequestError, match=r"this training would hold the GPU.*choose fewer steps"):
        train_lent(inputs, config, tmp_path / "none.safetensors", broke, None)


# over HTTP --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("space")
    lent_at_most = {"FAKE_SPACES_MOST": str(LENT_AT_MOST)}
    with RunningApp(folder, **space_environment(folder), **lent_at_most) as running:
        yield Client(running.url, verbose=False)


def test_the_api_makes_a_video_while_its_call_is_open(client: Client) -> None:
    motion = client.predict(api_name="/motions")["motions"][0]["name"]
    assert client.predict(api_name="/model")["state"] == "ready"
    made = client.predict(request_of(motion, 4, steps=2), api_name="/generate")
    assert made["seed"] == 4 and made["steps"] == 2
    with pytest.raises(AppError, match="only while it is open"):
        client.predict(request_of(motion, 4, steps=2), api_name="/submit")


def test_a_video_that_is_too_long_for_a_visitor_is_refused_with_what_to_do(client: Client) -> None:
    motion = client.predict(api_name="/motions")["motions"][0]["name"]
    with pytest.raises(AppError, match="longer than a visitor may ask for at once; choose"):
        client.predict(request_of(motion, 4, steps=999), api_name="/generate")


def test_the_page_says_what_learning_costs_a_visitor(client: Client) -> None:
    import urllib.request

    page = urllib.request.urlopen(client.src, timeout=20).read().decode()
    assert "of your share of the GPU" in page and "minutes of GPU that are lent" not in page
    with pytest.raises(AppError, match="only while it is open"):
        client.predict([], "x", "is moving", "cat", api_name="/train_motion")


def test_the_demo_study_is_rated_there_too_and_shown_in_the_frame_of_the_hub(
    client: Client,
) -> None:
    with httpx.Client(base_url=client.src, follow_redirects=True, timeout=60) as visitor:
        page = visitor.get("study/~demo/")
        assert page.status_code == 200 and 'data-for="consent"' in page.text
        assert "frame-ancestors *" in page.headers["content-security-policy"]
        token = page.url.path.rpartition("/")[2]
        headers = {"Authorization": f"Rater {token}"}
        session = visitor.get(page.url.join("../api/session"), headers=headers).json()
    assert (session["items"], session["candidates"]) == (3, 6)


# what is shipped for it -------------------------------------------------------------------------


def test_the_readme_begins_with_settings_that_fit_what_is_required() -> None:
    _, front, _ = (ROOT / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(front)
    assert (ROOT / settings["app_file"]).is_file() and settings["sdk"] == "gradio"
    pinned = (ROOT / "requirements.txt").read_text()
    gradio = Requirement(next(line for line in pinned.splitlines() if line.startswith("gradio")))
    assert settings["sdk_version"] in gradio.specifier
    assert settings["python_version"] in ("3.11", "3.12")
    assert len(settings["short_description"]) <= 60


def test_shipped_results_can_be_taken_over_with_the_shipped_model() -> None:
    library = Library([POCKET / "motions"])
    base = Checkpoint.read(POCKET).fingerprint
    shipped = shipped_results(ROOT / "assets" / "results", model="pocket", texts=Texts("en"))
    assert len(shipped) >= 3
    for result in shipped:
        recipe = json.loads(result.recipe.read_text())
        assert recipe["base"] == base, "run: python -m motion_app pocket results"
        build_request(
            parse_request(recipe["request"]),
            geometry=Checkpoint.read(POCKET).geometry,
            library=library,
            base=base,
        )
        with Image.open(result.recipe.with_suffix(".webp")) as moving:
            assert moving.n_frames == recipe["frames"]
        assert result.name in shipped_html(shipped, Texts("en"))
    assert shipped_results(ROOT / "assets" / "results", model="other", texts=Texts("en")) == ()
    assert shipped_html((), Texts("en")) == ""


def test_a_broken_result_does_not_stop_the_others(tmp_path: Path) -> None:
    for name, content in (("1", "{"), ("2", '{"model": "pocket"}'), ("3", "[]")):
        (tmp_path / f"{name}.json").write_text(content)
    assert shipped_results(tmp_path, model="pocket", texts=Texts("en")) == ()


def test_results_are_made_anew_from_their_recipes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = request_of("", 3, steps=2)
    request["objects"][0]["motion"] = None
    (tmp_path / "1.json").write_text(json.dumps(request))
    engine, library = (
        MotionEngine.load(tiny_checkpoint, device="cpu"),
        Library([tiny_checkpoint / "motions"]),
    )
    (picture,) = renew_results(tmp_path, engine, library)
    recipe = json.loads((tmp_path / "1.json").read_text())
    assert recipe["seed"] == 3 and recipe["model"] == "tiny"
    with Image.open(picture) as moving:
        assert moving.n_frames == 13
    assert renew_results(tmp_path, engine, library) == [picture]
    assert json.loads((tmp_path / "1.json").read_text()) == recipe


def test_the_container_gets_what_the_app_needs_and_starts_it_for_others() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().split()
    for needed in (
        *("app.py", "motion_app", "checkpoints"),
        *("assets/examples", "assets/results", "assets/clips"),
    ):
        assert (ROOT / needed).exists() and needed not in ignored
    assert {".git", ".venv", "outputs", "data", "runs"} <= set(ignored)
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    command = json.loads(entry.removeprefix("ENTRYPOINT "))
    assert command == ["python", "app.py", "--host", "0.0.0.0"]
    assert "USER app" in lines and lines.index("USER app") < lines.index(entry)
