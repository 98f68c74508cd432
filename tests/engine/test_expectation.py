"""What a video is said to take before the first one: measured on such a device, else estimated."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from motion_app.engine.expectation import Expectation
from motion_app.engine.footprint import Workload
from motion_app.models.checkpoint import Checkpoint
from motion_app.speed.random_weights import MODELS, random_backbone

CUDA = torch.device("cuda")


@pytest.fixture
def h200(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")


@pytest.fixture
def checkpoint() -> Checkpoint:
    """The 5B shape, with the numbers of weights that its files would name."""
    read = random_backbone("5b", torch.device("meta"), torch.bfloat16).checkpoint
    counts = dict.fromkeys(("transformer", "vae", "text_encoder"))
    sizes = SimpleNamespace(weights=5_570_000_000, largest_block=1, outside=1)
    read.__dict__["weights"] = dict.fromkeys(counts, sizes)
    return read


def table(folder: Path, device: str, **figures: float) -> None:
    folder.mkdir()
    cases = {"videos/ours": {"seconds": 84.0, "step_seconds": 1.5, "steps": 50, **figures}}
    report = {"setting": {"device": device, "shape": "5b"}, "cases": cases}
    (folder / "report.json").write_text(json.dumps(report))


def test_a_table_of_this_very_device_says_it(h200, checkpoint, tmp_path):
    table(tmp_path / "a100", "NVIDIA A100", seconds=999.0)
    table(tmp_path / "h200", "NVIDIA H200")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text("{}")
    found = Expectation.of(checkpoint, CUDA, tables=tmp_path)
    assert found == Expectation(9.0, 1.5, "NVIDIA H200")
    assert found.seconds_for(50) == 84.0 and found.seconds_for(20) == 39.0
    assert found.worth_saying(50) and not found.worth_saying(20)


def test_without_one_it_is_estimated_and_says_so(h200, checkpoint, tmp_path):
    table(tmp_path / "a100", "NVIDIA A100")
    found = Expectation.of(checkpoint, CUDA, tables=tmp_path)
    work = Workload.of(checkpoint, item=2)
    assert found == Expectation(work.rest_seconds, work.step_seconds)
    assert found.measured_on == "" and found.worth_saying(MODELS["5b"].steps)


def test_a_table_of_5b_says_nothing_of_another_model(h200, tiny_checkpoint, tmp_path):
    table(tmp_path / "h200", "NVIDIA H200")
    found = Expectation.of(Checkpoint.read(tiny_checkpoint), CUDA, tables=tmp_path)
    assert found.measured_on == "" and not found.worth_saying(50)


def test_on_a_cpu_5b_is_hours_and_the_pocket_nothing_to_speak_of(checkpoint, tiny_checkpoint):
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    assert Expectation.of(checkpoint, cpu).seconds_for(50) > 10 * 3600
    assert not Expectation.of(Checkpoint.read(tiny_checkpoint), cpu).worth_saying(50)
