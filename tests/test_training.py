"""Learning a motion, on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from motion_app.engine.motion_tokens import MotionTokens
from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import CheckpointError, GenerationCancelled, MediaError, RequestError
from motion_app.pocket.world import WorldConfig, draw_scene, render
from motion_app.training.clips import ViewConfig, draw_views, grid_masks
from motion_app.training.trainer import MotionTraining, TrainingReport, train_motion
from motion_app.video import Clip

TINY = {
    "steps": 6,
    "batch": 2,
    "tokens": 3,
    "views": 3,
    "learning_rate": 0.05,
    "checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def reference() -> tuple[Clip, np.ndarray]:
    scene = draw_scene(
        np.random.default_rng(2), WorldConfig(height=32, width=48), objects=1, motions=["jump"]
    )
    clip = render(scene)
    return Clip(clip.frames, 8.0), clip.masks[0]


def learned(path: Path) -> torch.Tensor:
    return torch.stack(list(MotionTokens.load(path).layers)).detach()


@pytest.mark.parametrize("mask", ["dmem", "given", "none"])
def test_killed_and_resumed_training_is_undisturbed_training(
    mask: str, engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    clip, object_mask = reference
    config = MotionTraining(name="jump", noun="red cat", mask=mask, **TINY)
    masks = [object_mask]
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    train_motion([clip], config, engine=engine, out=whole, masks=masks)

    def killed_at_three(report: TrainingReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_motion(
            [clip], config, engine=engine, out=broken, masks=masks, on_progress=killed_at_three
        )
    steps = []
    train_motion(
        [clip],
        config,
        engine=engine,
        out=broken,
        masks=masks,
        on_progress=lambda report: steps.append(report.step),
    )
    assert steps == [3, 4, 5, 6], "it goes on from the last checkpoint, step 2"
    assert torch.equal(learned(whole), learned(broken))
    assert not broken.with_name(broken.name + ".training").exists()


def test_training_moves_the_tokens_and_nothing_else(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    before = {n: p.clone() for n, p in engine.pipe.transformer.named_parameters()}
    processors = dict(engine.pipe.transformer.attn_processors)
    losses = []
    motion = train_motion(
        [reference[0]],
        MotionTraining(name="jump", noun="red cat", **TINY),
        engine=engine,
        out=tmp_path / "jump.safetensors",
        track=[(1.0, 2.0), (3.0, 4.0)],
        on_progress=lambda report: losses.append(report.loss),
    )
    assert all(torch.equal(before[n], p) for n, p in engine.pipe.transformer.named_parameters())
    assert engine.pipe.transformer.attn_processors == processors
    assert motion.base == engine.fingerprint and motion.track == ((1.0, 2.0), (3.0, 4.0))
    assert motion.preview is not None and motion.preview.stat().st_size > 0
    assert len(losses) == 6 and np.isfinite(losses).all()


def test_cancelling_keeps_what_was_learned(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "jump.safetensors"
    config = MotionTraining(name="jump", noun="red cat", **TINY)
    with pytest.raises(GenerationCancelled, match="step 1 of 6"):
        train_motion([reference[0]], config, engine=engine, out=out, on_progress=lambda _: False)
    assert out.with_name(out.name + ".training").exists() and not out.exists()
    other = MotionTraining(name="jump", noun="red cat", **{**TINY, "steps": 7})
    with pytest.raises(RequestError, match="other settings"):
        train_motion([reference[0]], other, engine=engine, out=out)


def test_views_keep_the_mask_on_the_object(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray]
) -> None:
    clip, mask = reference
    frames, masks = draw_views(
        [clip], engine.geometry, ViewConfig(count=4, zoom=(0.8, 1.2)), seed=0, masks=[mask]
    )
    assert frames.shape == (4, 13, 32, 48, 3) and masks.shape == (4, 13, 32, 48)
    assert np.array_equal(frames[0], clip.frames) and np.array_equal(masks[0], mask)
    colour = np.median(clip.frames[0][mask[0]], axis=0)
    for view, where in zip(frames, masks, strict=True):
        assert np.abs(np.median(view[0][where[0]], axis=0) - colour).max() < 40
    assert grid_masks(masks, engine.geometry).shape == (4, 7, 8, 12)


def test_mistakes_are_named(
    engine: MotionEngine, reference: tuple[Clip, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    config = MotionTraining(name="x", noun="red cat", **TINY)
    with pytest.raises(RequestError, match="no reference clip"):
        train_motion([], config, engine=engine, out=out)
    short = Clip(reference[0].frames[:5], 8.0)
    with pytest.raises(MediaError, match="at least 1.6 s"):
        train_motion([short], config, engine=engine, out=out)
    for wrong in ({"steps": 0}, {"name": " "}, {"noun": ""}, {"mask": "magic"}):
        with pytest.raises(RequestError):
            MotionTraining(**{"name": "x", **wrong})
    with pytest.raises(CheckpointError, match="colour"):
        MotionTraining.for_checkpoint({"colour": 1}, name="x")
