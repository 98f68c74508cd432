"""Models of others as a choice of a request: the same video from every entry, in its own size, with
a recipe that replays, and cancelled within a step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from near_workers import work_nearby
from PIL import Image

from motion_app.__main__ import main
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError, RequestError
from motion_app.jobs import kinds
from motion_app.jobs.content_keys import Ingredients
from motion_app.jobs.manifest import read_manifest
from motion_app.jobs.models import Models
from motion_app.jobs.queue import JobQueue
from motion_app.jobs.runners import GenerationRunner, TrainingRunner
from motion_app.library.library import Library
from motion_app.media.files import encode_data_uri, read_clip
from motion_app.media.provenance import read_recipe, verify_video
from motion_app.models.stock_files import HUNYUAN, WAN
from motion_app.request.request import build_request, parse_request
from motion_app.settings import Limits, Settings
from motion_app.study.sources import ResultFolder, method_label, sources_from_results

LIMITS = Limits(jobs=100, jobs_per_session=100)
NAMES = ("tiny-wan", "tiny-hunyuan")


@pytest.fixture(scope="module")
def settings(tiny_checkpoint: Path, stock_models: tuple[Path, ...]) -> Settings:
    named = tuple(str(folder) for folder in stock_models)
    return Settings(model=str(tiny_checkpoint), device="cpu", stock_models=named, motions=())


@pytest.fixture(scope="module")
def models(settings: Settings) -> Models:
    return Models(settings)


def entries(**changes: Any) -> dict[str, Any]:
    picture = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    mask = np.zeros((32, 48), dtype=bool)
    mask[:, :16] = True
    item = {"mask": encode_data_uri(mask), "sentence": "A red fox is moving.", "name": "fox"}
    request = {"image": encode_data_uri(picture), "objects": [item], "seed": 5, "method": "none"}
    return {**request, **changes}


def frames_of(folder: Path) -> np.ndarray:
    with np.load(folder / "frames.npz") as kept:
        return kept["frames"]


@pytest.mark.parametrize(("name", "model"), zip(NAMES, (WAN, HUNYUAN), strict=True))
def test_a_request_that_names_another_model_is_made_by_it(models, tmp_path, name, model):
    frame = models.checkpoint()
    request = build_request(
        parse_request(entries(stock=name)),
        geometry=frame.geometry,
        library=Library([tmp_path]),
        base=None,
    )
    told = []
    made = kinds.generate(request, tmp_path, frame, told.append, open_stock=models.stock)
    assert [(report.step, report.steps) for report in told] == [(1, 2), (2, 2)]
    assert (made["seed"], made["steps"], made["guidance"]) == (5, 2, 3.0), "its own, not the app's"
    with np.load(tmp_path / "frames.npz") as kept:
        assert kept["frames"].shape == (9, 32, 48, 3) and float(kept["fps"]) == 16.0
        assert kept["masks"].tolist() == [[[[True, False, False]] * 2]], "those of the first frame"
    clip = read_clip(tmp_path / made["video"])
    assert clip.fps == 16.0 and clip.frames.shape == (9, 32, 48, 3)
    seen = verify_video(tmp_path / made["video"])
    assert seen.tagged and seen.recipe
    recipe = read_recipe(tmp_path / made["video"])
    assert recipe == json.loads((tmp_path / "recipe.json").read_text())
    assert (recipe["model"], recipe["licence"]) == (model.title, model.licence)
    assert recipe["stock"] == name and recipe["base"] == frame.fingerprint
    again = parse_request(recipe)
    assert again.options.stock == name and again.options.steps == 2


def test_it_is_told_no_motion_and_its_files_are_named_when_they_lack(models):
    with pytest.raises(RequestError, match=r'"stock" is "tiny-wan" with the method "fleximmt"'):
        parse_request(entries(stock="tiny-wan", method="fleximmt"))
    with (
        pytest.raises(CheckpointError, match=r"choose one of tiny-wan, tiny-hunyuan, or get Wan"),
        models.stock("somebody/else"),
    ):
        pass


def test_an_engine_makes_no_video_of_another_model(models):
    request = build_request(
        parse_request(entries(stock="tiny-wan")),
        geometry=models.checkpoint().geometry,
        library=Library([]),
        base=None,
    )
    with pytest.raises(ValueError, match="asks for another model"):
        models.engine().generate(request)


def test_one_of_them_is_kept_and_an_engine_makes_room_for_one_that_needs_it(settings, monkeypatch):
    models = Models(settings)
    with models.stock("tiny-wan") as first, models.stock("tiny-wan") as second:
        assert first is second
    engine = models.engine()
    with models.stock("tiny-hunyuan") as other:
        assert other is not first and models.engine() is engine, "there is room for both"
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=400_000))
    with (
        pytest.raises(CheckpointError, match=r"about 0\.0 GB of main memory at 32 bits a weight"),
        models.stock("tiny-wan"),
    ):
        models.stock("tiny-hunyuan").__enter__()
    assert models._engine is None


def test_an_engine_comes_back_as_it_was(models):
    request = build_request(
        parse_request(entries(steps=1)),
        geometry=models.checkpoint().geometry,
        library=Library([]),
        base=None,
    )
    engine = models.engine()
    before = engine.generate(request)
    with engine.set_aside():
        assert not engine._busy.acquire(blocking=False), "who asks it for a video waits"
    assert np.array_equal(engine.generate(request).frames, before.frames)


# the line of jobs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(models: Models) -> MotionEngine:
    return models.engine()


@pytest.fixture
def queue(engine: MotionEngine, models: Models, tmp_path: Path) -> Iterator[JobQueue]:
    shared: dict[str, Any] = {
        "wait_for_engine": lambda seconds: engine,
        "library": Library([tmp_path / "motions"]),
        "defaults": lambda: engine.defaults,
        "limits": LIMITS,
    }
    generation = GenerationRunner(
        geometry=lambda: engine.geometry,
        base=lambda: engine.fingerprint,
        training=TrainingRunner(segmenter=lambda: None, **shared),
        stock=lambda: {"tiny-wan": models.stock_files("tiny-wan").model},
        open_stock=models.stock,
        **shared,
    )
    queue = JobQueue(tmp_path / "jobs", {"generate": generation}, limits=LIMITS)
    queue.start()
    yield queue
    queue.stop()


def submit(queue: JobQueue, request: dict[str, Any]) -> str:
    return queue.submit("generate", {"request": request}, owner="me").id


def test_a_job_is_made_by_it_and_its_recipe_makes_the_video_again(queue):
    job = submit(queue, entries(stock="tiny-wan"))
    *_, last = queue.watch(job)
    assert last.row.state == "done", last.row.message
    assert last.parts[0].size.method == "none: tiny-wan", "its time is no other method's"
    recipe = json.loads((queue.folder(job) / "recipe.json").read_text())
    again = submit(queue, recipe)
    *_, last = queue.watch(again)
    assert last.row.state == "done", last.row.message
    assert np.array_equal(frames_of(queue.folder(job)), frames_of(queue.folder(again)))


def test_a_job_names_no_model_but_those_that_are_offered(queue, stock_models):
    for name in ("tiny-hunyuan", str(stock_models[0])):
        with pytest.raises(RequestError, match=r"not offered here; choose one of tiny-wan, or"):
            submit(queue, entries(stock=name))


def test_cancelling_a_job_stops_it_within_the_step(queue, models):
    with models.stock("tiny-wan") as generator:
        pass
    passes: list[str] = []
    hook = generator.pipe.transformer.register_forward_pre_hook(
        lambda *_: passes.append(queue.cancel(job).id) if not passes else passes.append("")
    )
    try:
        job = submit(queue, entries(stock="tiny-wan", steps=40))
        *_, last = queue.watch(job)
    finally:
        hook.remove()
    assert last.row.state == "cancelled" and len(passes) == 2, "both halves of the one step"
    assert not (queue.folder(job) / "video.mp4").exists()


# command line, batches, studies -----------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "request.json").write_text(json.dumps(entries()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOTION_APP_MODEL", settings.model)
    monkeypatch.setenv("MOTION_APP_DEVICE", "cpu")
    monkeypatch.setenv("MOTION_APP_STOCK_MODELS", json.dumps(settings.stock_models))
    monkeypatch.setenv("MOTION_APP_MOTIONS", json.dumps([str(tmp_path / "library")]))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], line: str) -> dict[str, Any]:
    code = main(line.split())
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out.splitlines()[-1])


def test_every_entry_makes_the_same_video(place, capsys, stock_models, monkeypatch):
    work_nearby(monkeypatch)
    run(capsys, "generate request.json --stock tiny-wan --out one")
    run(capsys, "generate one/recipe.json --out two")
    run(capsys, f"generate request.json --stock {stock_models[0]} --out three")
    item = {"kind": "generate", "id": "it", "request": "request.json", "stock": "tiny-wan"}
    (place / "manifest.jsonl").write_text(json.dumps(item))
    run(capsys, "batch manifest.jsonl --out four")
    made = [frames_of(place / name) for name in ("one", "two", "three")]
    (result,) = (place / "four" / "results").glob("it*")
    made.append(frames_of(result))
    assert all(np.array_equal(frames, made[0]) for frames in made)


def test_a_method_or_another_model_is_chosen_anew(place, capsys):
    run(capsys, "generate request.json --stock tiny-wan --out one")
    with pytest.raises(RequestError, match="told no motion"):
        parse_request(
            {**json.loads((place / "request.json").read_text()), "stock": "x"}
            | {"method": "concat"}
        )
    made = run(capsys, "generate one/recipe.json --method none --steps 1 --out own")
    assert "stock" not in read_recipe(place / "own" / "video.mp4") and made["profile"]


def test_clicks_and_the_command_for_cases_take_it_too(place, capsys):
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(place / "image.png")
    assert (
        main(
            [
                "stock",
                "--model",
                "tiny-wan",
                "--picture",
                "image.png",
                "--prompt",
                "Go.",
                "--out",
                "made",
            ]
        )
        == 0
    )
    assert read_clip(place / "made" / "image.mp4").fps == 16.0
    assert (
        main(
            [
                "stock",
                "--model",
                "gone/away",
                "--picture",
                "image.png",
                "--prompt",
                "Go.",
                "--out",
                "other",
            ]
        )
        == 2
    )
    assert "nobody fetched a model of that name" in capsys.readouterr().err


def test_what_a_result_is_made_from_knows_the_models_files(place):
    def key(**changes: Any) -> str:
        line = {"kind": "generate", "id": "it", "request": "request.json", **changes}
        (place / "manifest.jsonl").write_text(json.dumps(line))
        known = Ingredients(Settings(), remembered=place / "known.json")
        (item,) = read_manifest(place / "manifest.jsonl", known)
        return item.key

    plain = key()
    assert key(stock=None) == plain, "what is older stays known"
    keys = {name: key(stock=name) for name in NAMES}
    assert len({plain, *keys.values()}) == 3
    folder = Settings().stock_models[0]
    assert key(stock=folder) == keys["tiny-wan"], "by its contents, not by its name"


def test_a_study_of_results_names_the_model(place, capsys):
    run(capsys, "generate request.json --stock tiny-wan --out wan")
    run(capsys, "generate request.json --steps 1 --out own")
    recipes = [json.loads((place / name / "recipe.json").read_text()) for name in ("wan", "own")]
    assert [method_label(recipe) for recipe in recipes] == [WAN.title, "none"]
    for name, recipe in zip(("wan", "own"), recipes, strict=True):
        recipe["request"]["objects"][0]["motion"] = "hop"
        (place / name / "recipe.json").write_text(json.dumps(recipe))
    (item,) = sources_from_results(
        [ResultFolder(place / name) for name in ("wan", "own")],
        reference=lambda motion: place / "own" / "video.mp4",
    )
    assert set(item.videos) == {WAN.title, "none"}


def test_a_setting_that_cannot_hold_is_refused(settings, tmp_path, stock_models):
    other = tmp_path / "other" / "tiny-wan"
    other.mkdir(parents=True)
    with pytest.raises(CheckpointError, match='two of the models of others are called "tiny-wan"'):
        Models(
            settings.model_copy(update={"stock_models": (str(stock_models[0]), str(other))})
        ).check()
