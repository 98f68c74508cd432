"""Videos from words alone, asked for as a job, by a manifest and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from motion_app.__main__ import main
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import RequestError
from motion_app.jobs.content_keys import Ingredients
from motion_app.jobs.kinds import WorkerConfig, Workshop
from motion_app.jobs.manifest import Item, read_manifest
from motion_app.jobs.queue import JobQueue
from motion_app.jobs.runners import GenerationRunner, TrainingRunner
from motion_app.library.library import Library
from motion_app.media.files import encode_data_uri
from motion_app.media.provenance import read_recipe
from motion_app.request.phrases import PromptTokenizer
from motion_app.settings import Settings
from motion_app.study.sources import ResultFolder, sources_from_results

ROBOT = {"sentence": "A red robot is moving.", "name": "robot"}
WORDS = {"image": None, "objects": [ROBOT], "method": "none", "seed": 5}


def frames_of(folder: Path) -> np.ndarray:
    with np.load(folder / "frames.npz") as kept:
        return kept["frames"]


def test_a_job_makes_it_and_its_recipe_is_a_job_again(text_checkpoint: Path, tmp_path: Path):
    engine = MotionEngine.load(text_checkpoint, device="cpu")
    shared: dict[str, Any] = {
        "wait_for_engine": lambda seconds: engine,
        "library": Library([tmp_path / "motions"]),
        "defaults": lambda: engine.defaults,
        "tokenizer": lambda: PromptTokenizer.load(engine.backbone.checkpoint),
    }
    generation = GenerationRunner(
        geometry=lambda: engine.geometry,
        base=lambda: engine.fingerprint,
        training=TrainingRunner(segmenter=lambda: None, **shared),
        **shared,
    )
    queue = JobQueue(tmp_path, {"generate": generation})
    queue.start()
    try:
        made = []
        for request in (WORDS, None):
            asked = request or read_recipe(made[0] / "recipe.json")
            job = queue.submit("generate", {"request": asked}, owner="me").id
            *_, last = queue.watch(job)
            assert last.row.state == "done", last.row.message
            made.append(queue.folder(job))
    finally:
        queue.stop()
    assert np.array_equal(frames_of(made[0]), frames_of(made[1]))
    assert read_recipe(made[0] / "video.mp4")["request"]["image"] is None
    assert not (made[0] / "masks").exists()
    with pytest.raises(RequestError, match="was made without a picture"):
        sources_from_results([ResultFolder(made[0])], reference=lambda motion: None)


@pytest.fixture
def settings(text_checkpoint: Path, tmp_path: Path) -> Settings:
    return Settings(model=str(text_checkpoint), motions=(tmp_path / "library",))


def read(settings: Settings, folder: Path, *lines: dict[str, Any]) -> tuple[Item, ...]:
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    return read_manifest(manifest, Ingredients(settings, remembered=folder / "known.json"))


def test_a_manifest_makes_and_scores_it(settings: Settings, tmp_path: Path):
    video = {"kind": "generate", **WORDS}
    left_out = {key: value for key, value in video.items() if key != "image"}
    one, other = read(settings, tmp_path, video, {**video, "seed": 6})
    (same,) = read(settings, tmp_path, left_out)
    assert one.key != other.key and one.key == same.key
    shop, folder = Workshop(WorkerConfig(settings)), tmp_path / "made"
    shop.make(one, folder, lambda: True)
    score = {
        "kind": "evaluate",
        "video": str(folder / "video.mp4"),
        "metrics": ["temporal_flickering"],
    }
    (scored,) = read(settings, tmp_path, {**score, "request": str(folder / "recipe.json")})
    shop.make(scored, tmp_path / "scores", lambda: True)
    assert "temporal_flickering" in (tmp_path / "scores" / "report.csv").read_text()
    pictured = {**video, "image": encode_data_uri(np.zeros((32, 48, 3), np.uint8))}
    with pytest.raises(RequestError, match='object 1 has no "mask"'):
        read(settings, tmp_path, pictured)


def test_the_command_leaves_the_picture_out(text_checkpoint: Path, tmp_path: Path, capsys):
    picture, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(picture)
    Image.fromarray(np.full((32, 48), 255, np.uint8)).save(mask)
    pictured = {**WORDS, "image": "image.png", "objects": [{**ROBOT, "mask": "mask.png"}]}
    file = tmp_path / "request.json"
    file.write_text(json.dumps(pictured))
    asked = ["generate", str(file), "--out", str(tmp_path / "out"), "--model", str(text_checkpoint)]
    assert main(asked) == 2
    assert "takes no picture" in capsys.readouterr().err
    assert main([*asked, "--no-picture"]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["masks"] == [] and read_recipe(Path(made["video"]))["request"]["image"] is None
