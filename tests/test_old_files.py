"""What version 1 of the program left behind is opened, resumed and replayed by this one.

The files are those of ``fixtures/version_1``, made by ``make.py`` there with a checkpoint of its
own that lies among them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from near_workers import work_nearby

from motion_app.__main__ import main
from motion_app.benchmark import campaign
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError
from motion_app.jobs import content_keys
from motion_app.jobs.queue import JobQueue
from motion_app.jobs.runners import GenerationRunner, TrainingRunner
from motion_app.library.library import Library
from motion_app.library.motion_file import check_motion_file
from motion_app.media.provenance import read_recipe
from motion_app.settings import Limits
from motion_app.study import unblinding
from motion_app.study.answers import Study
from motion_app.study.links import new_id
from motion_app.study.plan import Plan, StudyConfig, draw_plan
from motion_app.study.records import Answer

KEPT = Path(__file__).resolve().parent / "fixtures" / "version_1"
MADE_WITH = json.loads((KEPT / "made_with.json").read_text())
FOR_GOOD = Limits(jobs_per_session=100, keep_hours=1e6)
METHODS = ("fleximmt", "synmotion", "lora-average")
NEAR = 3.0  # of 255, the mean difference of frames made on another processor


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything, with the settings and the libraries' versions of then: content keys
    name both."""
    torch.set_num_threads(1)
    folder = tmp_path / "old"
    shutil.copytree(KEPT, folder)
    monkeypatch.setenv("MOTION_APP_MODEL", str(folder / "checkpoint"))
    monkeypatch.setenv("MOTION_APP_MOTIONS", json.dumps([str(folder / "motions")]))
    monkeypatch.setenv("MOTION_APP_DEVICE", "cpu")
    for module in (content_keys, campaign):
        monkeypatch.setattr(module, "version", MADE_WITH["versions"].__getitem__)
    return folder


@pytest.fixture(scope="module")
def engine() -> MotionEngine:
    return MotionEngine.load(KEPT / "checkpoint", device="cpu")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    """The JSON a command prints last."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out.splitlines()[-1])


def coarse(frames: np.ndarray) -> np.ndarray:
    """Means of 4×4 pixels, (T, H/4, W/4, 3)."""
    count, height, width, _ = frames.shape
    return frames.reshape(count, height // 4, 4, width // 4, 4, 3).mean(axis=(2, 4))


def assert_near(frames: np.ndarray, kept: Path) -> None:
    was = np.load(kept).astype(float)
    assert was.shape == coarse(frames).shape
    assert np.abs(coarse(frames) - was).mean() < NEAR


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


# motions and recipes ----------------------------------------------------------------------------


def test_the_checkpoint_is_known_by_the_name_it_had(engine):
    assert engine.fingerprint == MADE_WITH["base"]


def test_every_old_motion_is_whole_and_fits_its_model(engine):
    library = Library([KEPT / "motions"])
    found = {motion.name: motion.method for motion in library.list()}
    assert found == {
        "jump": "fleximmt",
        "sway": "fleximmt",
        "jump synmotion": "synmotion",
    }
    assert not library.problems()
    sizes = {"layers": engine.geometry.layers, "width": engine.geometry.width_tokens}
    for motion in library.list():
        check_motion_file(motion.path, base=engine.fingerprint, **sizes)
        assert motion.phrase == "is moving" and motion.steps == 2 and motion.preview is not None


@pytest.mark.parametrize("method", METHODS)
def test_an_old_recipe_makes_its_video_again(old, capsys, method):
    recipe = old / "recipes" / f"{method}.json"
    run(capsys, "generate", recipe, "--out", old / "again")
    with np.load(old / "again" / "frames.npz") as made:
        assert_near(made["frames"], old / "recipes" / f"{method}.npy")
    was, now = (json.loads(file.read_text()) for file in (recipe, old / "again" / "recipe.json"))
    assert was.keys() <= now.keys()
    for name in ("seed", "steps", "guidance", "prompt", "method", "objects", "base", "request"):
        assert now[name] == was[name], name


def test_the_mark_and_the_recipe_inside_an_old_video_are_still_found(old, capsys):
    video = old / "recipes" / "lora-average.mp4"
    assert read_recipe(video) == json.loads(video.with_suffix(".json").read_text())
    said = run(capsys, "verify", video)
    assert said["detected"] and said["payload_fits"] and said["tagged"] and said["recipe"]


# jobs -------------------------------------------------------------------------------------------


@pytest.fixture
def line(old: Path, engine: MotionEngine) -> Iterator[JobQueue]:
    """The old line of jobs with its runners, not started."""
    shared = {
        "wait_for_engine": lambda seconds: engine,
        "library": Library([old / "motions"]),
        "defaults": lambda: engine.defaults,
        "limits": FOR_GOOD,
    }

    def no_segmenter() -> None:
        raise CheckpointError("this model names no segmenter")

    training = TrainingRunner(segmenter=no_segmenter, **shared)
    generation = GenerationRunner(
        geometry=lambda: engine.geometry,
        base=lambda: engine.fingerprint,
        training=training,
        **shared,
    )
    runners = {"generate": generation, "train": training}
    line = JobQueue(old / "jobs", runners, limits=FOR_GOOD)
    yield line
    line.stop()


def by_title(line: JobQueue) -> dict:
    return {row.title: row for row in line.rows("me")}


def test_an_old_line_of_jobs_is_opened_as_a_kill_left_it(line):
    states = {title: row.state for title, row in by_title(line).items()}
    assert states == {
        "done": "done",
        "cancelled": "cancelled",
        "interrupted": "interrupted",
        "running": "interrupted",
        "queued": "queued",
    }
    done = by_title(line)["done"]
    for name in ("video", "recipe", "masks_zip"):
        assert (line.folder(done.id) / done.outcome[name]).is_file()


def test_what_an_old_line_had_not_done_is_done_now(line, old):
    left = [by_title(line)[title].id for title in ("running", "interrupted", "cancelled")]
    training = line.folder(left[1])
    state = training / "motion.safetensors.training"
    assert state.is_file()
    line.start()
    for job in left:
        line.again(job)
    steps = {}
    for job in [by_title(line)["queued"].id, *left]:
        steps[job] = [now.step for now in line.watch(job, every=0.01)]
    ended = by_title(line)
    assert {row.state for row in ended.values()} == {"done"}, [r.message for r in ended.values()]
    assert min(step for step in steps[left[1]] if step) > 1, "a training goes on where it was"
    assert {"hop"} <= {motion.name for motion in Library([old / "motions"]).list()}
    for title in ("running", "queued", "cancelled"):
        assert (line.folder(ended[title].id) / ended[title].outcome["video"]).is_file()


def test_the_video_of_an_old_job_can_be_made_again(line):
    line.start()
    done = by_title(line)["done"]
    again = line.submit("generate", done.inputs, owner="me", title="again")
    *_, last = line.watch(again.id)
    assert last.row.state == "done", last.row.message
    was, now = (read_recipe(line.folder(j.id) / "video.mp4") for j in (done, again))
    assert was["request"] == now["request"]


# batches and benchmarks -------------------------------------------------------------------------


def test_a_batch_that_was_half_done_is_finished_and_nothing_is_made_twice(old, capsys, monkeypatch):
    work_nearby(monkeypatch)
    out = old / "batch" / "out"
    kept = contents(out / "results")
    (state,) = out.glob("unfinished/*/*.training")
    checked = run(capsys, "batch", old / "batch" / "manifest.jsonl", "--out", out, "--check")
    expected = 3 if MADE_WITH["format"] == content_keys.FORMAT else 0
    assert (checked["items"], checked["kept"]) == (5, expected)
    ended = run(capsys, "batch", old / "batch" / "manifest.jsonl", "--out", out)
    assert (ended["made"], ended["kept"], ended["failed"]) == (5 - expected, expected, 0)
    assert kept.items() <= contents(out / "results").items()
    names = {path.name.partition(".")[0] for path in (out / "results").iterdir()}
    assert names == {"one", "two", "three", "hop", "scores"}
    assert not state.exists(), "the training goes on from its state"


def test_a_benchmark_that_was_half_done_is_finished_and_keeps_its_videos(old, capsys):
    out = old / "benchmark"
    kept = contents(out)
    options = "--steps 1 --methods fleximmt,none --processes 1 --device cpu --rmpm-cases 1"
    options += " --strata none --cases 1:1,2:1 --movements jump,sway"
    answer = run(capsys, "evaluate", "benchmark", "--out", out, *options.split(), "--without", "")
    assert answer["scenes"]["main"] == 2
    made = contents(out)
    assert kept.items() <= made.items()
    of_first = [name for name in made if name.startswith("videos/one-000")]
    assert len(of_first) == 2 and len(set(of_first) & set(kept)) == 1, "it is known by its key"
    assert len([name for name in made if name.startswith("videos/two-000")]) >= 2
    assert "| none | caption | 2 |" in (out / "report.md").read_text()


# studies ----------------------------------------------------------------------------------------


@pytest.fixture
def study(old: Path) -> Iterator[Study]:
    store = Study.open(old / "study")
    yield store
    store.close()


def test_an_old_study_goes_on_with_its_raters_and_answers(study):
    before = unblinding.overview(study.archive)
    assert [state.done for state in before.raters] == [3, 1, 0, 0]
    assert [state.joined is not None for state in before.raters] == [True, True, True, False]
    assert before.raters[3].handed_out and before.unblinded is None
    finished, half = (study.raters.join(token).id for token in tokens(study)[:2])
    assert study.answers.progress(finished).finished and not study.answers.progress(half).finished
    asked = study.archive.config.asked
    assert study.answers.trial(half, 1).answers == {asked[0]: 1}
    for number in (1, 2):
        for question in asked:
            study.answers.save(half, answer(number, question))
    after = unblinding.overview(study.archive)
    assert after.raters[1].done == 3 and after.answers == before.answers + 2 * len(asked) - 1


def tokens(study: Study) -> list[str]:
    """A personal link of every slot, as they were given out."""
    with study.archive.reading() as connection:
        slots = connection.exec_driver_sql("SELECT id FROM raters ORDER BY slot").all()
    return [study.archive.links.token(rater) for (rater,) in slots]


def answer(number: int, question: str) -> Answer:
    return Answer(id=new_id(), number=number, question=question, choice=2, coverage=(1.0, 1.0, 1.0))


def test_the_plan_of_an_old_study_is_the_one_that_would_be_drawn_now(study):
    made = study.archive
    plan: Plan = draw_plan(StudyConfig(**dict(made.config)), list(made.items.values()))
    assert plan.digest() == study.archive.plan_digest


def test_the_files_of_an_old_study_are_served(study):
    for item in study.archive.items.values():
        for name in (item.first_frame, *item.references, *item.candidates.values()):
            assert study.archive.media_path(name).is_file()


def test_a_closed_study_gives_the_results_it_gave(old, capsys):
    out = old / "closed_study" / "now"
    run(capsys, "study", "export", old / "closed_study", "--out", out)
    kept = old / "closed_study" / "export"
    assert (out / "answers.csv").read_bytes() == (kept / "answers.csv").read_bytes()
    was, now = (json.loads((f / "results.json").read_text()) for f in (kept, out))
    assert was.keys() <= now.keys()
    for name in ("plan_digest", "answers", "items", "methods"):
        assert now[name] == was[name]
