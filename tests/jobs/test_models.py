"""One way to load: a setting holds for every entry of the program, or every entry refuses it in the
same words, before anything is loaded."""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from motion_app.__main__ import build_parser, main
from motion_app.benchmark.references import MARKED, lesson
from motion_app.benchmark.tasks import load_runner
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import MotionAppError
from motion_app.host import ModelHost
from motion_app.jobs.content_keys import Ingredients
from motion_app.jobs.kinds import WorkerConfig, Workshop
from motion_app.jobs.manifest import Item, read_manifest
from motion_app.jobs.models import Models
from motion_app.jobs.ray_workers import Actor
from motion_app.jobs.workers import attempt
from motion_app.media.files import write_video
from motion_app.models import clicks
from motion_app.models.clicks import ClickSegmenter
from motion_app.models.stock import StockGenerator
from motion_app.request.phrases import PromptTokenizer
from motion_app.settings import ROOT, Settings, load_settings

POCKET = ROOT / "checkpoints" / "pocket"
ENTRIES: dict[str, str] = {
    "generate": "generate request.json --out out",
    "train-motion": "train-motion clip.mp4 --name hop --phrase hops --noun fox --mover 0.4,0.5"
    " --steps 1 --out hop.safetensors",
    "make-spv": "make-spv image.png --out out",
    "segment": "segment image.png --point 10,10,1 --out out.png",
    "evaluate video": "evaluate video clip.mp4 --reference clip.mp4 --metrics TF[dis] --json",
    "evaluate benchmark": "evaluate benchmark --out out --processes 1 --cases 1:1",
    "batch": "batch manifest.jsonl --out out",
    "pocket measure": "pocket measure --out out --cases 1 --processes 1",
    "pocket results": "pocket results --out out",
    "pocket study": "pocket study --out out --scenes 1 --steps 1",
    "pocket showcase": "pocket showcase --out out.gif --cases 0",
    "pocket train": "pocket train --stages motions --runs out --out out",
    "pocket train, encoder": "pocket train --stages encoder --runs out --out out",
    "pocket train, adapter": "pocket train --stages any-frame --runs out --out out",
    "bench": "bench generate --json",
    "transfer": "transfer image.png --click 10,10 --out out",
    "motions encode": "motions encode clip.mp4 --name hop --phrase hops --noun fox --mover 0.4,0.5"
    " --out hop.safetensors",
    "motions add-clip": "motions add-clip jump.safetensors clip.mp4 --mover 0.4,0.5",
    "stock": "stock --model gone --picture image.png --prompt rain --out out",
}
# Whatever a deployment sets, they load none of its models: files, drawings, studies, estimates, and
# the measurement that goes where nothing is set up.
LOAD_NOTHING = {
    *("verify", "import-motion", "memory", "speed gpu", "pocket render", "pocket examples"),
    *(f"motions {what}" for what in ("list", "delete", "rename", "share", "restore", "export")),
    *(f"motions {what}" for what in ("import", "pull", "push")),
    *(f"study {what}" for what in ("create", "report", "export", "simulate")),
}


@pytest.fixture
def place(tmp_path: Path, tiny_checkpoint: Path, monkeypatch) -> Iterator[Path]:
    """The working folder of every command: a picture, a mask, a request, a clip in which a square
    moves, and a manifest of all kinds of jobs; the tiny checkpoint is the model."""
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(tmp_path / "image.png")
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    only = {"mask": "mask.png", "sentence": "A red robot is moving."}
    request = {"image": "image.png", "objects": [only]}
    (tmp_path / "request.json").write_text(json.dumps(request))
    frames = np.full((13, 64, 96, 3), 90, np.uint8)
    for t, frame in enumerate(frames):
        frame[20:44, 24 + 2 * t : 48 + 2 * t] = (250, 40, 40)
    write_video(tmp_path / "clip.mp4", frames, 8, comment="")
    motion = {"name": "hop", "phrase": "hops", "noun": "fox", "clips": ["clip.mp4"], "steps": 1}
    lines = [
        {"kind": "generate", "id": "video", "request": "request.json"},
        {"kind": "train", "id": "hop", **motion, "mover": [[0.4, 0.5]]},
        {"kind": "evaluate", "id": "score", "video": "clip.mp4", "references": ["clip.mp4"]}
        | {"metrics": ["TF[dis]"]},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shutil.copy(POCKET / "motions" / "jump.safetensors", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOTION_APP_MODEL", str(tiny_checkpoint))
    monkeypatch.setenv("MOTION_APP_MOTIONS", json.dumps([str(tmp_path / "library")]))
    monkeypatch.setenv("MOTION_APP_OUTPUTS", str(tmp_path / "outputs"))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def items(place: Path) -> dict[str, Item]:
    known = Ingredients(Settings(kernel="torch"), remembered=place / "known.json")
    return {item.kind: item for item in read_manifest(place / "manifest.jsonl", known)}


WRONG = {
    "KERNEL": ("no_such_kernel", 'the attention kernel "no_such_kernel" does not run on '),
    "DEVICE": ("cuda:99", "the device cuda:99 was asked for, but PyTorch finds "),
    "PROFILE": ("no-such-profile", 'unknown memory profile "no-such-profile"; choose one of '),
    "CACHE_STEPS": ("no-such-cache", 'unknown cache "no-such-cache"; choose one of '),
    "SECOND_DEVICE": ("gpu one", 'unknown device "gpu one"; choose cpu, cuda, cuda:1 …'),
    "STOCK_MODELS": ('["gone/away"]', '"gone/away" is no folder, and nobody fetched a model of '),
    "SEGMENTER": ("gone.pt", "there is no SAM 2 checkpoint gone.pt; check the path"),
}


PAIRS = [
    # daily each command with one setting or two, and so through them all
    pytest.param(*pair, marks=() if number % (len(WRONG) - 1) == 0 else pytest.mark.long)
    for number, pair in enumerate(itertools.product(ENTRIES, WRONG))
]


@pytest.fixture(params=WRONG)
def refusal(request, place: Path, monkeypatch) -> str:
    """What a wrong setting is told as; from here on nothing can be loaded."""
    value, words = WRONG[request.param]
    monkeypatch.setenv(f"MOTION_APP_{request.param}", value)
    for loader in (MotionEngine, ClickSegmenter, clicks.OriginalSegmenter, StockGenerator):
        monkeypatch.setattr(loader, "load", None)
    with pytest.raises(MotionAppError) as caught:
        Models(load_settings()).check()
    assert str(caught.value).startswith(words)
    return str(caught.value)


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The words of every command that can be run."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from commands(below)
            return
    yield parser.prog.partition(" ")[2]


def test_of_every_command_it_is_known_whether_it_loads_a_model():
    known = [name.partition(",")[0] for name in ENTRIES]
    assert set(commands(build_parser())) == {*known, *LOAD_NOTHING}
    assert not LOAD_NOTHING & set(known)


@pytest.mark.parametrize(("entry", "refusal"), PAIRS, indirect=["refusal"])
def test_every_command_refuses_a_wrong_setting_in_the_same_words(entry, refusal, capsys):
    assert main(ENTRIES[entry].split()) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"error: {refusal}\n")


def test_the_page_and_every_worker_refuse_it_in_the_same_words(refusal, place, monkeypatch):
    settings = load_settings()
    host = ModelHost(settings)
    host.start()
    try:
        with pytest.raises(MotionAppError) as caught:
            host.engine()
        assert str(caught.value) == host.status().message == refusal
    finally:
        host.stop()
    monkeypatch.undo()
    monkeypatch.chdir(place)
    config = pickle.loads(pickle.dumps(WorkerConfig(settings, threads=1)))
    do = partial(attempt, place)
    workers = [
        lambda: Workshop(config).make(items(place)["generate"], place, lambda: True),
        lambda: load_runner(config),
        lambda: Actor(config, Workshop, do).node(),
    ]
    for work in workers:
        with pytest.raises(MotionAppError) as caught:
            work()
        assert str(caught.value) == refusal


def test_the_option_of_a_command_is_refused_as_the_setting_is(place, capsys):
    lines = {**ENTRIES, "speed gpu": "speed gpu --out out --shape tiny", "memory": "memory"}
    for entry, line in lines.items():
        assert main([*line.split(), "--device", "nowhere"]) == 2, entry
        told = capsys.readouterr().err
        assert told == 'error: unknown device "nowhere"; choose cpu, cuda, cuda:1 …\n', entry


# an original checkpoint of SAM 2 ------------------------------------------------------------------


class Asked(MotionAppError):
    """The segmenter that was asked for."""


@pytest.fixture
def original(place: Path, monkeypatch) -> str:
    """A ``.pt`` file as the segmenter; what is said when it is loaded, on which device."""
    (place / "mine.pt").write_bytes(b"")
    monkeypatch.setenv("MOTION_APP_SEGMENTER", str(place / "mine.pt"))
    monkeypatch.setenv("MOTION_APP_DEVICE", "cpu")

    def load(path: Path | str, *, device: Any = None) -> None:
        raise Asked(f"{path} on {device}")

    monkeypatch.setattr(clicks.OriginalSegmenter, "load", load)
    monkeypatch.setattr(ClickSegmenter, "load", None)
    return f"{place / 'mine.pt'} on cpu"


@pytest.mark.parametrize("entry", ["segment", "train-motion"])
def test_a_command_that_clicks_takes_the_original_checkpoint(entry, original, capsys):
    assert main(ENTRIES[entry].split()) == 2
    assert capsys.readouterr().err == f"error: {original}\n"


def test_every_worker_and_the_page_take_it_too(original, place, tmp_path):
    settings = load_settings()
    host = ModelHost(settings)
    host.start()
    try:
        with pytest.raises(Asked, match=original):
            host.segmenter()
    finally:
        host.stop()
    workshop = Workshop(WorkerConfig(settings, threads=1))
    with pytest.raises(Asked, match=original):
        workshop.make(items(place)["train"], place, lambda: True)
    runner = load_runner(WorkerConfig(settings))
    taught = lesson(MARKED, "jump", runner.engine.geometry)
    with pytest.raises(Asked, match=original):
        runner.learn(taught, tmp_path / "jump.safetensors", steps=1)


def test_the_reference_of_a_score_is_marked_by_it(original, place, capsys):
    assert main(ENTRIES["evaluate video"].split()) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert original in row["status"]
    scored = Workshop(WorkerConfig(load_settings(), threads=1)).make(
        items(place)["evaluate"], place, lambda: True
    )
    assert original in scored["rows"][0]["status"]


# what follows from it -----------------------------------------------------------------------------


def test_the_kernel_of_a_deployment_runs_in_its_workers(place, monkeypatch):
    settings = Settings(kernel="_native_math", motions=())
    engine = WorkerConfig(settings, "cpu", 1).models().engine()
    assert engine.runtime.acceleration.kernel == "_native_math"
    made = Workshop(WorkerConfig(settings, "cpu", 1)).make(
        items(place)["generate"], place, lambda: True
    )
    recipe = json.loads((place / made["recipe"]).read_text())
    assert "_native_math" in json.dumps(recipe)


def test_results_are_made_anew_where_a_setting_may_change_their_numbers(place):
    def keys(**settings: Any) -> dict[str, str]:
        known = Ingredients(Settings(**settings), remembered=place / "known.json")
        made = read_manifest(place / "manifest.jsonl", known)
        return {item.kind: item.key for item in made}

    plain = keys()
    for same in ({"device": "cpu"}, {"profile": "model-offload"}, {"keep_text_encoder": False}):
        assert keys(**same) == plain, same
    for other in (
        {"kernel": "_native_math"},
        {"compiled": True},
        {"cache_steps": "pab"},
        {"profile": "model-offload-fp8"},
    ):
        changed = keys(**other)
        assert changed["generate"] != plain["generate"], other
        assert changed["train"] != plain["train"], other
    marked = keys(segmenter="facebook/sam2.1-hiera-tiny")
    assert marked["train"] != plain["train"] and marked["generate"] == plain["generate"]


def test_one_engine_and_one_segmenter_are_kept(tiny_checkpoint, monkeypatch):
    models = Models(Settings(model=str(tiny_checkpoint), device="cpu", segmenter="a/b"))
    assert models.engine() is models.engine(tiny_checkpoint)
    loaded = []
    monkeypatch.setattr(ClickSegmenter, "load", lambda *a, **b: loaded.append(a) or object())
    assert models.segmenter() is models.segmenter(tiny_checkpoint) and len(loaded) == 1
    assert models.judges() is models.judges() is not models.judges(device="meta")


def test_nothing_is_imported_for_settings_that_need_no_look():
    code = (
        "import sys; from motion_app.jobs.models import Models, running_of;"
        "from motion_app.settings import Settings;"
        "Models(Settings(device='cpu')).check(); running_of(Settings());"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_nobody_else_loads_a_model():
    """Two ways to load are two sets of settings that count."""
    loaders = {"MotionEngine", "ClickSegmenter", "OriginalSegmenter", "ObjectFinder"}
    loaders.add("StockGenerator")
    found = set()
    for path in (ROOT / "motion_app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            name, _, method = called.rpartition(".")
            if (name in loaders and method == "load") or called in (
                *("load_segmenter", "Acceleration"),
            ):
                found.add(path.relative_to(ROOT / "motion_app").as_posix())
    own = {"models/clicks.py", "acceleration.py"}  # where they are defined
    own.add("speed/gpu_parts.py")  # measures each kernel and cache by name, on random weights
    assert found - own == {"jobs/models.py"}


def test_a_click_does_not_wait_while_the_tokenizer_is_read(tmp_path, monkeypatch):
    """The page's first click may come while the model's libraries are imported."""
    plain, begun, go_on = PromptTokenizer.load_if_there, threading.Event(), threading.Event()

    def slow(checkpoint):
        begun.set()
        assert go_on.wait(60)
        return plain(checkpoint)

    monkeypatch.setattr(PromptTokenizer, "load_if_there", slow)
    host = ModelHost(Settings(outputs=tmp_path, model=str(POCKET)))
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(host.tokenizer)
        assert begun.wait(60)
        assert host.tokenizer(wait=False) is None
        go_on.set()
        tokenizer = loading.result()
    assert tokenizer is not None and host.tokenizer(wait=False) is tokenizer
