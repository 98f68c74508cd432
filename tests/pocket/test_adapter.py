"""An adapter of the whole backbone, trained on noise that moves."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import RequestError
from motion_app.models.adapters import offered_methods
from motion_app.models.checkpoint import Checkpoint
from motion_app.pocket import adapter as adapter_module
from motion_app.pocket import vae as vae_module
from motion_app.pocket.adapter import (
    LESSONS,
    UNITS,
    AdapterLesson,
    AdapterRun,
    AdapterTraining,
    WarpedNoise,
    draw_lesson,
    draw_shares,
    moving_parts,
    train_adapter,
)
from motion_app.pocket.train import ADAPTER_STAGES
from motion_app.world.world import WorldConfig, draw_scene, render

WORLD = WorldConfig(height=32, width=48)
TRAINING = AdapterTraining(steps=6, batch=4, rank=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def engine(tiny_checkpoint, tmp_path_factory) -> MotionEngine:
    folder = tmp_path_factory.mktemp("adapter") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    return MotionEngine.load(folder, device="cpu")


@pytest.fixture(scope="module")
def lessons(engine, tmp_path_factory) -> dict[str, AdapterLesson]:
    """Of few clips, drawn once."""
    folder, backbone = tmp_path_factory.mktemp("clips"), engine.backbone
    with pytest.MonkeyPatch.context() as patched:
        for module in (adapter_module, vae_module):
            patched.setattr(module, "CHUNK", 8)
        yield {
            name: draw_lesson(
                name, folder, backbone.pipe.vae, engine.geometry, count=16, seed=1, config=WORLD
            )
            for name in LESSONS
        }


@pytest.fixture(scope="module")
def clips(lessons) -> AdapterLesson:
    return lessons["warped-noise"]


@pytest.fixture(autouse=True)
def few_to_gauge(monkeypatch):
    monkeypatch.setattr(adapter_module, "GAUGE_CLIPS", 8)


def test_flow_is_kept_of_what_moves_and_of_nothing_else():
    clip = render(draw_scene(np.random.default_rng(3), WORLD, objects=1, motions=["walk right"]))
    kept = moving_parts([clip], None)[0]
    assert kept.shape == (12, 32, 48, 2) and kept.dtype == np.int8
    outside = ~clip.masks[0, :-1]
    assert not kept[outside].any()
    step = np.diff(clip.tracks[0], axis=0)[:, ::-1]  # (12, 2), x and y
    found = [k[m].mean(axis=0) / UNITS for k, m in zip(kept, ~outside, strict=True)]
    assert np.abs(np.stack(found) - step).max() < 0.6


def test_what_is_known_of_a_clip_is_its_own_wherever_it_is_kept(lessons):
    assert set(lessons) == set(ADAPTER_STAGES)
    picture = lessons["any-frame"].clips.take(np.arange(1))[1].shape[1:]
    for lesson, shape in zip(lessons.values(), ((12, 32, 48, 2), (3, *picture)), strict=True):
        assert len(lesson) == 16
        known = lesson.known(np.array([1, 9]))
        assert known.shape[1:] == shape and known.float().abs().max() > 0.5
        assert torch.equal(lesson.known(np.array([9]))[0], known[1])
        assert not torch.equal(known[0], known[1])


def test_another_frame_stands_in_the_first_ones_place(lessons):
    lesson, picked = lessons["any-frame"], np.arange(8)
    first = lesson.clips.take(picked)[1]
    drawn = [lesson.pictures(picked, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert drawn[0].shape == first.shape and torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    kept = lesson.known(picked).float()  # (8, 3, C, H', W')
    assert all((kept == pictures[:, None]).flatten(2).all(-1).any(1).all() for pictures in drawn)
    assert not (drawn[0] == first).flatten(1).all(1).any()


def test_half_of_the_shares_are_slight():
    shares = draw_shares(np.random.default_rng(0), 4000).flatten()
    assert shares.min() >= 0 and shares.max() < 1
    assert abs((shares < 0.2).float().mean() - 0.6) < 0.04, "half, and a fifth of the rest"


def test_learning_lowers_the_loss_and_touches_no_weight_of_the_model(engine, clips, tmp_path):
    backbone = engine.backbone
    before = {name: part.clone() for name, part in backbone.transformer.state_dict().items()}
    run = AdapterRun(tmp_path / "state.pt", clips, replace(TRAINING, steps=40), backbone)
    picked, draw = np.arange(4), torch.Generator().manual_seed(0)
    noise, (clean, pictures, _) = clips.moving(picked, draw), clips.clips.take(picked)
    levels = torch.full((4,), 900)

    def loss(share: float = 1.0) -> float:
        with torch.no_grad():
            return float(run.missed(clean, noise, pictures, levels, [""] * 4, share=share))

    first = loss()
    for _ in range(20):
        run.advance()
    assert loss() < 0.97 * first and loss(share=0.0) == first
    after = backbone.transformer.state_dict()
    assert all(torch.equal(after[name], part) for name, part in before.items())
    assert not any(module._forward_hooks for module in backbone.transformer.modules())


def test_a_training_that_was_cut_short_goes_on_as_if_it_had_not_been(engine, clips, tmp_path):
    whole = AdapterRun(tmp_path / "whole.pt", clips, TRAINING, engine.backbone)
    losses = [whole.advance() for _ in range(4)]
    part = AdapterRun(tmp_path / "part.pt", clips, TRAINING, engine.backbone)
    for _ in range(2):
        part.advance()
    part.save()
    resumed = AdapterRun(tmp_path / "part.pt", clips, TRAINING, engine.backbone)
    assert resumed.step == 2 and [resumed.advance() for _ in range(2)] == losses[2:]
    assert resumed.losses == losses
    with pytest.raises(RequestError, match="other settings"):
        AdapterRun(tmp_path / "part.pt", clips, replace(TRAINING, rank=4), engine.backbone)


@pytest.mark.parametrize(
    ("name", "method"), [("warped-noise", "go-with-the-flow"), ("any-frame", "flexiact")]
)
def test_what_is_finished_is_written_and_then_the_method_is_offered(
    name, method, engine, lessons, tmp_path
):
    backbone, file, lesson = engine.backbone, tmp_path / "state.pt", lessons[name]
    folder = backbone.checkpoint.folder
    out = folder / "adapters" / f"{name}.safetensors"
    cut = train_adapter(file, lesson, lesson, replace(TRAINING, minutes=0), backbone, out)
    assert cut is None and not out.exists() and file.exists()
    assert method not in offered_methods(Checkpoint.read(folder))
    gauge = train_adapter(file, lesson, lesson, TRAINING, backbone, out)
    assert gauge is not None and set(gauge) == {"with", "without", "gap"}
    assert gauge["gap"] == pytest.approx(1 - gauge["with"] / gauge["without"])
    assert method in offered_methods(Checkpoint.read(folder))


def test_nothing_learned_the_gauge_of_any_frame_is_zero(engine, lessons, tmp_path):
    run = AdapterRun(tmp_path / "state.pt", lessons["any-frame"], TRAINING, engine.backbone)
    assert run.gauge(lessons["any-frame"])["gap"] == 0
    assert isinstance(lessons["warped-noise"], WarpedNoise)
