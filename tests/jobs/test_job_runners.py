"""Laws of making videos and learning motions as jobs, on a tiny random model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from motion_app.engine import pipeline
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError, MotionAppError, RequestError
from motion_app.host import ModelHost
from motion_app.jobs import kinds
from motion_app.jobs.progress import JobProgress
from motion_app.jobs.queue import JobQueue
from motion_app.jobs.runners import KEPT_REQUEST, GenerationRunner, TrainingRunner, check_generation
from motion_app.library.library import Library
from motion_app.media.files import encode_data_uri
from motion_app.media.provenance import read_recipe
from motion_app.request import phrases, request, written
from motion_app.request.kept import read_request
from motion_app.request.phrases import PromptTokenizer
from motion_app.request.request import build_request, parse_request
from motion_app.request.written import request_to_json
from motion_app.scene import Options
from motion_app.settings import Limits, Settings
from motion_app.training import trainer
from motion_app.ui.transfer.draft import SceneDraft, request_of

LIMITS = Limits(jobs=100, jobs_per_session=100)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> MotionEngine:
    return MotionEngine.load(checkpoint, device="cpu")


def line_of(
    engine: MotionEngine, folder: Path, *, base_known: bool = True, training: bool = True
) -> JobQueue:
    """A line with both kinds of jobs, its library in ``folder``."""
    shared = {
        "wait_for_engine": lambda seconds: engine,
        "library": Library([folder / "motions"]),
        "defaults": lambda: engine.defaults,
        "tokenizer": lambda: PromptTokenizer.load(engine.backbone.checkpoint),
        "limits": LIMITS,
    }

    def no_segmenter() -> None:
        raise CheckpointError("this model names no segmenter")

    learning = TrainingRunner(segmenter=no_segmenter, enabled=training, **shared)
    generation = GenerationRunner(
        geometry=lambda: engine.geometry,
        base=lambda: engine.fingerprint if base_known else None,
        training=learning,
        **shared,
    )
    return JobQueue(folder, {"generate": generation, "train": learning}, limits=LIMITS)


@pytest.fixture
def queue(engine: MotionEngine, tmp_path: Path) -> Iterator[JobQueue]:
    queue = line_of(engine, tmp_path)
    queue.start()
    yield queue
    queue.stop()


def end(queue: JobQueue, job: str) -> JobProgress:
    *_, last = queue.watch(job)
    return last


def video_of(**changes: Any) -> dict[str, Any]:
    """A request for a picture larger than the model's frame."""
    picture = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    mask = np.zeros((70, 90), dtype=bool)
    mask[20:50, 20:60] = True
    item = {"mask": encode_data_uri(mask), "sentence": "A red fox is moving.", "name": "fox"}
    request = {"image": encode_data_uri(picture), "objects": [item], "seed": 5, "fit": "pad"}
    return {**request, **changes}


def make_video(queue: JobQueue, **changes: Any) -> str:
    return queue.submit("generate", {"request": video_of(**changes)}, owner="me").id


def learn(queue: JobQueue, clip: Path, *, name: str = "hop", steps: int = 4, **changes: Any) -> str:
    inputs = {"name": name, "phrase": "is jumping", "noun": "red cat", "clips": ["clip.mp4"]}
    files = {"clip.mp4": clip}
    return queue.submit("train", {**inputs, "steps": steps, **changes}, owner="me", files=files).id


# videos -----------------------------------------------------------------------------------------


def test_words_too_long_for_the_model_are_refused_when_a_job_is_handed_in(
    queue: JobQueue, clip: Path
) -> None:
    with pytest.raises(RequestError, match=r"the prompt has 41 tokens, the model reads 24"):
        make_video(queue, prompt="left " * 40)
    with pytest.raises(RequestError, match=r"the prompt has \d+ tokens, the model reads 24"):
        learn(queue, clip, noun="red cat " * 20)


def test_a_video_job_leaves_every_file_its_outcome_names(queue: JobQueue) -> None:
    job = make_video(queue)
    row = end(queue, job).row
    assert row.state == "done", row.message
    folder = queue.folder(job)
    for name in ("video", "gif", "recipe", "frames", "masks_zip"):
        assert not Path(row.outcome[name]).is_absolute()
        assert (folder / row.outcome[name]).stat().st_size > 0
    assert (row.outcome["seed"], row.outcome["steps"], row.outcome["guidance"]) == (5, 3, 3.0)
    assert row.outcome["seconds"] > 0
    recipe = json.loads((folder / row.outcome["recipe"]).read_text())
    assert read_recipe(folder / row.outcome["video"]) == recipe


def test_the_frames_of_a_job_are_those_of_its_request(
    queue: JobQueue, engine: MotionEngine
) -> None:
    job = make_video(queue)
    row = end(queue, job).row
    asked = build_request(
        parse_request(video_of()), geometry=engine.geometry, library=Library([]), base=None
    )
    kept = read_request(
        queue.folder(job) / KEPT_REQUEST, row.inputs["request"], library=Library([]), base=None
    )
    assert kept.checked and "data:" not in json.dumps(row.inputs)
    assert np.array_equal(asked.image, kept.image)
    assert np.array_equal(asked.objects[0].mask, kept.objects[0].mask)
    with np.load(queue.folder(job) / row.outcome["frames"]) as saved:
        assert np.array_equal(saved["frames"], engine.generate(asked).frames)


def test_stages_come_in_their_order_with_the_news_of_every_step(queue: JobQueue) -> None:
    stages, news = [], []
    for progress in queue.watch(make_video(queue)):
        if progress.stage not in stages:
            stages.append(progress.stage)
        if progress.news is not None and progress.news not in news:
            news.append(progress.news)
    known = ["queued", "loading", "preparing", "denoising", "decoding", "saving", "done"]
    assert stages == [stage for stage in known if stage in stages]
    assert [report.step for report in news] == sorted(report.step for report in news)
    assert news[-1].step == 3 and news[-1].masks.shape[0] == 1


def test_a_video_is_stopped_within_a_step_and_made_again_as_asked_first(queue: JobQueue) -> None:
    job = make_video(queue, steps=200)
    for progress in queue.watch(job):
        if progress.step == 2:
            queue.cancel(job)
    assert progress.row.state == "cancelled"
    assert progress.step in (2, 3, 4)  # a tiny step takes no longer than telling of it
    assert "of 200, as asked" in progress.row.message
    whole = end(queue, make_video(queue, steps=4)).row
    assert whole.state == "done"


def test_the_time_of_a_video_is_measured(queue: JobQueue) -> None:
    end(queue, make_video(queue))
    measured = queue.timings.last("generate")
    assert (measured.steps, measured.objects) == (3, 1)
    assert 0 < measured.step_seconds * 3 <= measured.seconds
    assert 0 < measured.tail_seconds <= measured.rest_seconds


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 0}, "steps"),
        ({"unheard": 1}, "unheard"),
        ({"image": "picture.png"}, "data: URI"),
        ({"image": "/etc/passwd"}, "data: URI"),
        ({"image": "data:image/png;base64,AAAA"}, "image|picture"),
        ({"objects": [{"mask": "mask.png", "sentence": "A fox is moving."}]}, "data: URI"),
        ({"prompt": " "}, "prompt is empty"),
    ],
)
def test_a_wrong_request_is_told_when_it_is_handed_in(
    queue: JobQueue, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(MotionAppError, match=told):
        make_video(queue, **changes)
    assert queue.rows("me") == []


@pytest.mark.parametrize("motion", ["nothing like it", "../motions/x.safetensors", "a/b"])
def test_a_motion_that_is_not_in_the_library_is_told_when_it_is_handed_in(
    queue: JobQueue, motion: str
) -> None:
    item = {**video_of()["objects"][0], "motion": motion}
    with pytest.raises(MotionAppError, match=r"no motion|the file|library"):
        make_video(queue, objects=[item])


@pytest.mark.parametrize("inputs", [{}, {"request": 3}, {"request": {}, "badge": "yes"}])
def test_inputs_of_another_form_are_refused(queue: JobQueue, inputs: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        queue.submit("generate", inputs, owner="me")


def test_what_is_checked_once_passes_again(engine: MotionEngine) -> None:
    sources = {"geometry": engine.geometry, "library": Library([])}
    sources["tokenizer"] = engine.backbone.tokenizer
    checked = check_generation(video_of(), **sources)
    for again in (checked, request_to_json(checked)):
        found = check_generation(again, **sources)
        assert request_to_json(found) == request_to_json(checked)
        assert found.checked and found.clauses == checked.clauses


def test_a_model_that_is_not_there_fails_the_job_in_words(tmp_path: Path, checkpoint: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    host = ModelHost(Settings(model=str(broken), outputs=tmp_path / "out", motions=(tmp_path,)))
    job = host.jobs.submit("generate", {"request": video_of()}, owner="me").id
    (broken / "model_index.json").unlink()
    host.start()
    first = end(host.jobs, job).row
    host.jobs.again(job)
    second = end(host.jobs, job).row
    host.stop()
    assert [first.state, second.state] == ["failed", "failed"]
    assert "model" in first.message and first.message == second.message
    assert host.measured is None


# motions ----------------------------------------------------------------------------------------


def tokens(path: str | Path) -> torch.Tensor:
    return torch.stack(list(MotionTokens.load(Path(path)).layers)).detach()


def test_a_learned_motion_is_in_the_library_when_it_is_finished_and_not_before(
    queue: JobQueue, clip: Path, tmp_path: Path
) -> None:
    job = learn(queue, clip)
    library = Library([tmp_path / "motions"])
    for progress in queue.watch(job):
        if progress.stage in ("encoding_clips", "training"):
            assert library.list() == []
    row = progress.row
    assert row.state == "done", row.message
    (motion,) = library.list()
    assert (motion.name, motion.phrase, str(motion.path)) == (
        *("hop", "is jumping"),
        row.outcome["motion"],
    )
    assert motion.preview is not None
    assert row.outcome["steps"] == 4 and np.isfinite(row.outcome["last_loss"])
    made = make_video(
        queue,
        objects=[
            {
                **video_of()["objects"][0],
                "sentence": "A red fox is jumping.",
                "phrase": "is jumping",
                "motion": "hop",
            }
        ],
    )
    assert end(queue, made).row.state == "done"


@pytest.mark.timeout(600)  # a program of its own and two trainings, perhaps on a busy machine
def test_a_training_that_was_killed_and_resumed_is_an_undisturbed_one(
    killed_jobs: dict[str, tuple[Path, str]], engine: MotionEngine, clip: Path
) -> None:
    folder, job = killed_jobs["training"]
    queue = line_of(engine, folder)
    queue.start()
    assert queue.row(job).state == "interrupted"
    assert Library([folder / "motions"]).list() == []
    queue.again(job)
    steps = [now.step for now in queue.watch(job, every=0.01) if now.stage == "training"]
    resumed = queue.row(job)
    assert resumed.state == "done", resumed.message
    assert min(step for step in steps if step) > 4  # its checkpoints are two steps apart
    assert queue.timings.last("train") is None  # half a training says nothing of a whole one
    whole = end(queue, learn(queue, clip, name="whole", steps=16)).row
    queue.stop()
    assert torch.equal(tokens(resumed.outcome["motion"]), tokens(whole.outcome["motion"]))
    assert not list(folder.glob("jobs/*/*.training"))


def test_a_cancelled_training_goes_on_where_it_was(queue: JobQueue, clip: Path) -> None:
    job = learn(queue, clip, steps=30)
    for progress in queue.watch(job, every=0.01):
        if progress.step >= 3:
            queue.cancel(job)
    stopped = progress.step
    assert progress.row.state == "cancelled" and 3 <= stopped < 30
    queue.again(job)
    steps = [now.step for now in queue.watch(job, every=0.01) if now.step]
    row = queue.row(job)
    assert row.state == "done", row.message
    assert steps[0] > stopped


def test_a_name_that_is_taken_is_told_when_the_training_is_handed_in(
    queue: JobQueue, clip: Path
) -> None:
    first = learn(queue, clip, steps=30)
    with pytest.raises(RequestError, match='"hop" is being learned already'):
        learn(queue, clip, name=" hop ")
    row = end(queue, first).row
    assert row.state == "done", row.message
    with pytest.raises(MotionAppError, match='"hop" already'):
        learn(queue, clip)


def test_a_training_whose_name_was_taken_meanwhile_gets_another_one(
    engine: MotionEngine, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = line_of(engine, tmp_path)
    late = learn(queue, clip, name="hop")
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-other")
    other = line_of(engine, tmp_path.parent / f"{tmp_path.name}-other")
    with monkeypatch.context() as earlier:  # a motion made in the same second is the same motion
        then = datetime.now(UTC) - timedelta(hours=1)
        earlier.setattr(trainer, "datetime", SimpleNamespace(now=lambda zone: then))
        other.start()
        made = Path(end(other, late).row.outcome["motion"])
    other.stop()
    (tmp_path / "motions").mkdir()
    taken = Path(shutil.copy(made, tmp_path / "motions"))
    before = taken.read_bytes()
    queue.start()
    row = end(queue, late).row
    queue.stop()
    assert (row.state, row.outcome["name"]) == ("done", "hop 2"), row.message
    assert taken.read_bytes() == before
    assert [motion.name for motion in Library([tmp_path / "motions"]).list()] == ["hop", "hop 2"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"clips": ["other.mp4"]}, "other.mp4 did not come"),
        ({"clips": []}, "no reference clip"),
        ({"clips": ["clip.mp4"] * 13}, "13 clips"),
        ({"steps": 0}, "steps"),
        ({"method": "magic"}, "magic"),
        ({"noun": " "}, "noun"),
        ({"name": "a\nb"}, "unprintable"),
        ({"trim": [[3, 1]]}, "stop"),
        ({"crop": [[0, 0, 2, 2]]}, "box"),
    ],
)
def test_a_wrong_training_is_told_when_it_is_handed_in(
    queue: JobQueue, clip: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(MotionAppError, match=told):
        learn(queue, clip, **changes)
    assert queue.rows("me") == [] and list(queue.files.iterdir()) == []


def test_training_that_is_turned_off_says_so(
    engine: MotionEngine, clip: Path, tmp_path: Path
) -> None:
    queue = line_of(engine, tmp_path, training=False)
    with pytest.raises(RequestError, match="turned off"):
        learn(queue, clip)
    queue.stop()


def count(monkeypatch: pytest.MonkeyPatch, *places: tuple[Any, str]) -> dict[str, int]:
    """How often each function is called from now on, by its name; one that several modules import
    is counted in all of them."""
    counted: dict[str, int] = {}

    def counting(name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return function(*arguments, **named)

        return call

    for module, name in places:
        counted[name] = 0
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return counted


def test_one_press_of_generate_checks_once_and_encodes_each_picture_once(
    queue: JobQueue, engine: MotionEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = MotionTokens.fresh(layers=2, tokens=3, width=32, generator=torch.Generator())
    about = MotionMetadata(name="hop", phrase="is jumping", base=engine.fingerprint)
    (tmp_path / "motions").mkdir()
    tokens.save(tmp_path / "motions" / "hop.safetensors", about)
    hop = Library([tmp_path / "motions"]).find("hop")
    g = engine.geometry
    draft = SceneDraft.of(np.full((g.height, g.width, 3), 90, np.uint8), "crop", g)
    for number, side in enumerate((slice(0, 20), slice(24, 44))):
        mask = np.zeros((g.height, g.width), bool)
        mask[4:28, side] = True
        draft = draft.changed_selection(None).masked(mask, most=8)
        named = draft.changed(number, lambda item: item.renamed("fox"))
        draft = named.moved_by(number, hop)
    counted = count(
        monkeypatch,
        *((request, name) for name in ("read_image", "read_mask", "find_clauses")),
        *((written, "encode_data_uri"), (kinds, "parse_request")),
        *((pipeline, "checked_request"), (phrases, "phrase_spans"), (phrases, "_read_pieces")),
    )
    asked = {"request": request_of(draft, Options(seed=3)), "badge": False}
    job = queue.submit("generate", asked, owner="me").id
    row = end(queue, job).row
    assert row.state == "done", row.message
    assert counted == {
        "parse_request": 0,  # the page brings what was typed as Options
        "checked_request": 0,  # of the engine, which is told that it was checked
        "find_clauses": 1,
        "phrase_spans": 1,
        "_read_pieces": 1,  # the tokens of the prompt
        "encode_data_uri": 3,  # a picture and two masks, in the recipe
        "read_image": 0,
        "read_mask": 0,
    }
    recipe = json.loads((queue.folder(job) / "recipe.json").read_text())
    assert recipe["seed"] == 3
    assert [item["motion"] for item in recipe["objects"]] == ["hop", "hop"]
