"""``speed gpu``: a dry run of all of it, where little is installed, and what ends a case early."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from torch._subclasses import FakeTensorMode
from transformers import T5Config

from motion_app.engine.memory import LADDER
from motion_app.errors import RequestError
from motion_app.speed import full_run, gpu_parts, random_weights
from motion_app.speed.clock import Clock, OutOfTime
from motion_app.speed.full_run import Memory
from motion_app.speed.gpu import PARTS, GpuOptions, measure_gpu, stopped_at_the_end
from motion_app.speed.gpu_parts import Workbench, cases
from motion_app.speed.gpu_report import GpuReport
from motion_app.speed.random_weights import MODELS, random_backbone
from motion_app.speed.rivals import SHAPES, StepRivals

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
TINY = GpuOptions("tiny", "cpu", compiler="eager")
SETTING = {"shape": "tiny", "device": "cpu", "dtype": "float32", "torch": "", "diffusers": ""}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def bench_in(folder: Path, *, minutes: float = 60) -> Workbench:
    report = GpuReport(folder, SETTING)
    return Workbench("tiny", CPU, torch.float32, Clock(minutes), report, compiler="eager")


def test_all_of_it_runs_dry_and_a_second_run_measures_nothing_again(tmp_path):
    heard = []
    report = measure_gpu(tmp_path, minutes=60, options=TINY, tell=heard.append)
    found = json.loads((tmp_path / "report.json").read_text())
    assert set(found["cases"]) == set(report.cases) and found["bars"] == []
    for name, rounds in (("steps/stock", 3), ("steps/dense_2", 3), ("kernels/native", 2)):
        assert len(found["cases"][name]["runs"]) == rounds
        assert found["cases"][name]["peak_over_held_gib"] > 0
    whole = {f"videos/{name}" for name in ("ours", "stock", "mag", "pab", "faster", "taylorseer")}
    assert whole <= set(found["cases"])
    ours, cached = found["cases"]["videos/ours"], found["cases"]["videos/mag"]
    assert ours["rest"] == pytest.approx(1) and cached["rest"] < 0.9
    assert ours["steps"] == MODELS["tiny"].steps and ours["finite"]
    for name in ("memory/group-offload-fp8", "learning/checkpointed", "compiled/attention"):
        assert name in found["cases"]
    # What this machine has not is said, and nothing else is missing.
    assert {"memory/capped_24", "memory/capped_12"} <= set(found["skipped"])
    assert {name for name in found["skipped"] if "capped" not in name} <= {
        "memory/model-offload-int8"
    }
    tables = (tmp_path / "report.md").read_text()
    assert "| motions_2 |" in tables and "cannot be capped" in tables
    heard.clear()
    again = measure_gpu(tmp_path, minutes=60, options=TINY, tell=heard.append)
    assert again.cases == found["cases"]
    with pytest.raises(RequestError, match="begun with shape 'tiny', and this is .*'5b'"):
        GpuReport.open(tmp_path, report.setting | {"shape": "5b"})


def test_it_needs_nothing_but_torch_diffusers_transformers_and_numpy(tmp_path):
    words = ["speed", "gpu", "--shape", "tiny", "--device", "cpu", "--minutes", "60"]
    words += ["--parts", "steps", "learning", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "tests/bare.py", *words],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["done"] == ["steps", "kernels", "learning/checkpointed", "learning/whole"]
    assert found == json.loads((tmp_path / "report.json").read_text())


def test_what_does_not_fit_into_the_minutes_is_left_out_and_named(tmp_path):
    report = measure_gpu(tmp_path, minutes=0, options=TINY)
    names = {case.name for case in cases(bench_in(tmp_path))}
    assert set(report.skipped) == names and not report.cases
    assert all("are left" in reason for reason in report.skipped.values())
    tables = (tmp_path / "report.md").read_text()
    assert "| steps | left out: it needs about" in tables
    chosen = replace(TINY, parts=("steps",))
    again = measure_gpu(tmp_path, minutes=60, options=chosen)
    assert again.done == ["steps", "kernels"] and not again.skipped


@pytest.mark.parametrize("interrupts", [signal.SIG_IGN, signal.default_int_handler])
def test_a_case_that_outlasts_the_minutes_is_stopped(interrupts):
    """In a script's background, where interrupts are ignored, too."""
    before = signal.signal(signal.SIGINT, interrupts)
    try:
        stopped_in_time()
        assert signal.getsignal(signal.SIGINT) is interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def stopped_in_time() -> None:
    with pytest.raises(OutOfTime, match="in the middle"), stopped_at_the_end(Clock(0.02 / 60)):
        while True:
            time.sleep(0.001)
    with pytest.raises(KeyboardInterrupt), stopped_at_the_end(Clock(60)):
        raise KeyboardInterrupt  # a person's own


def test_a_video_is_left_at_the_step_at_which_the_minutes_are_over():
    backbone = random_backbone("tiny", CPU, torch.float32)
    rivals = StepRivals(backbone, motion=4, feature_layers=1)
    asked = []

    def in_time() -> bool:
        asked.append(1)
        return len(asked) < 3

    with pytest.raises(OutOfTime, match="after step 3 of 9"):
        full_run.generate(backbone, rivals, motions=1, steps=9, in_time=in_time)
    assert len(asked) == 3


def test_one_way_that_runs_out_of_memory_takes_no_other_with_it(tmp_path, monkeypatch):
    def full(self, objects):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 61 GiB")

    monkeypatch.setattr(StepRivals, "dense", full)
    report = measure_gpu(tmp_path, minutes=60, options=replace(TINY, parts=("steps",)))
    assert "61 GiB" in report.skipped["steps/dense_2"]
    assert {"steps/stock", "steps/motions_2", "kernels/native"} <= set(report.cases)


def test_a_case_that_fails_is_written_down_and_the_next_one_runs(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(Workbench, "step_rivals", broken)
    report = measure_gpu(tmp_path, minutes=60, options=replace(TINY, parts=("steps",)))
    assert "no kernel image" in report.skipped["steps"] and report.done == ["kernels"]


def test_under_a_cap_the_profile_steps_down_as_the_app_does(tmp_path, monkeypatch):
    bench = bench_in(tmp_path)
    bench.model()
    bench.memory.known = True
    asked: list[str] = []

    @contextmanager
    def capped(gibibytes):
        yield 10**9  # room for all of the tiny model, so that the estimate is the largest profile

    def generate(backbone, rivals, **options):
        asked.append(backbone.profile.placement.name)
        if len(asked) < 4:
            raise torch.OutOfMemoryError("full")
        return found

    found = full_run.VideoTimes(1.0, 0.1, 0.2, 0.3, 3, 1.0, 1.0, True)
    monkeypatch.setattr(bench.memory, "capped", capped)
    monkeypatch.setattr(bench.memory, "begin", lambda: None)
    monkeypatch.setattr(bench.memory, "figures", dict)
    monkeypatch.setattr(bench.memory, "give_back", lambda: None)
    monkeypatch.setattr(gpu_parts, "generate", generate)
    bench.capped(12)
    assert asked == [placement.name for placement in LADDER[:4]]
    figures = bench.report.cases["memory/capped_12"]
    assert figures["profile"] == "group-offload" and figures["estimated"] == "resident"


def test_a_cap_leaves_for_tensors_what_the_context_does_not_take(monkeypatch):
    gib = 2**30
    told: list[float] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (119 * gib, 140 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20.5 * gib)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: told.append(share)
    )
    with (
        pytest.raises(ValueError, match="inside"),
        Memory(torch.device("cuda")).capped(12) as room,
    ):
        assert room == 11.5 * gib
        raise ValueError("inside")
    assert told == [pytest.approx(11.5 / 140), 1.0]


def test_the_5b_shape_is_that_of_the_published_configs():
    published = json.loads((ROOT / "tests/fixtures/configs/cogvideox-5b-i2v.json").read_text())
    sizes = MODELS["5b"]
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(**sizes.transformer)
        vae = AutoencoderKLCogVideoX(**sizes.vae)
    text = T5Config(**sizes.text_encoder)
    # An encoder has no output embeddings that could be tied.
    ours = {"transformer": transformer.config, "vae": vae.config, "text_encoder": vars(text)}
    for part, config in ours.items():
        for key, value in published[part].items():
            if not key.startswith("_") and key not in ("tie_word_embeddings", "model_type"):
                found = json.loads(json.dumps(config[key]))
                assert found == value or key == "dropout_rate", (part, key)


@pytest.fixture
def short_5b(monkeypatch):
    """All sizes of 5B but for the numbers of layers."""
    sizes = MODELS["5b"]
    short = replace(
        sizes,
        transformer={**sizes.transformer, "num_layers": 2},
        text_encoder={**sizes.text_encoder, "num_layers": 1},
    )
    monkeypatch.setitem(random_weights.MODELS, "5b", short)


def test_on_a_gpu_the_weights_are_made_there_and_a_step_stays_there(short_5b):
    with FakeTensorMode():  # sizes, types and places without the numbers, and without a GPU
        backbone = random_backbone("5b", torch.device("cuda"), torch.bfloat16)
        parts = (backbone.pipe.transformer, backbone.pipe.vae, backbone.pipe.text_encoder)
        tensors = [tensor for part in parts for tensor in part.state_dict().values()]
        assert {(t.device.type, t.dtype) for t in tensors} == {("cuda", torch.bfloat16)}
        rivals = StepRivals(backbone, motion=226, feature_layers=1)
        assert rivals.sizes == replace(SHAPES["5b"], layers=2)
        rivals.stock()
        assert rivals.prediction.shape == (2, 13, 16, 60, 90)
        assert rivals.prediction.device.type == "cuda"
        assert rivals.prediction.dtype == torch.bfloat16


def test_every_way_of_a_step_has_the_5b_sizes(short_5b):
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        backbone = random_backbone("5b", CPU, torch.bfloat16)
        rivals = StepRivals(backbone, motion=226, feature_layers=1)
    scenes = {objects: rivals.scene_of(objects) for objects in (2, 5)}  # real: plans look into them
    rivals.scene_of = scenes.get
    for objects in scenes:
        with fake:
            keys = rivals.key_values(objects)
        assert keys[0][0].shape == (1, 48, 226 * objects, 64) and len(keys) == 2
        rivals.key_values = lambda objects, keys=keys: keys
        steering = rivals.steering(objects)
        with fake:
            rivals.run(steering)
        assert rivals.prediction.shape == (2, 13, 16, 60, 90)
        assert steering.features().shape == (13, 30, 45, 3072)
        del rivals.key_values


def test_bars_are_told_from_the_figures(tmp_path):
    step = {"peak_over_held_gib": 4.0, "runs": []}
    memory = {"peak_gib": 8.0, "reserved_gib": 9.5}
    times = full_run.VideoTimes(80.0, 0.3, 1.5, 5.0, 50, 1.0, 1.0, True)
    videos = vars(times) | memory
    report = GpuReport(
        tmp_path,
        SETTING | {"shape": "5b"},
        {
            "steps/stock": step | {"seconds": 1.4},
            "steps/motions_2": step | {"seconds": 1.54, "peak_over_held_gib": 4.4},
            "steps/dense_2": step | {"seconds": 3.85},
            "steps/rmpm": step | {"seconds": 0.0154},
            "steps/own_keys_and_values": {"gib": 0.25},
            "videos/ours": videos,
            "videos/mag": videos | {"seconds": 40.0, "rest": 0.5},
            "videos/first-block": videos | {"seconds": 30.0, "rest": 1.0},  # nothing was skipped
            "memory/capped_12": videos | {"profile": "group-offload"},
        },
    )
    found = {bar.what: bar for bar in report.bars()}
    assert found["a step with 2 motions, over stock"].value == pytest.approx(1.1)
    assert not found["a step with 2 motions, over stock"].reached
    assert found["the dense-mask way, over ours"].value == pytest.approx(2.5)
    assert found["the dense-mask way, over ours"].reached
    assert found["RMPM, share of a step"].value == pytest.approx(100 * 0.0154 / 1.5554)
    extra = found["memory over stock, beside the motions' own keys and values"]
    assert extra.value == pytest.approx(0.15) and extra.reached
    assert found["the same with a cache"].value == 40.0
    assert found["the smallest profile"].value == 9.5
    assert found["learning a motion"].value is None and not found["learning a motion"].reached
    tables = report.tables()
    assert "| learning a motion | ≤ 24 GiB | not measured | no |" in tables
    assert "| capped_12 → group-offload | 50 | 80.0 |" in tables


def test_parts_and_shapes_that_are_not_there_are_refused(tmp_path):
    assert tuple(dict.fromkeys(case.part for case in cases(bench_in(tmp_path)))) == PARTS
    with pytest.raises(RequestError, match="5b, tiny"):
        measure_gpu(tmp_path, minutes=1, options=GpuOptions("7b", "cpu"))
