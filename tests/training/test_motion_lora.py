"""A motion LoRA: what learns when, from what, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from motion_app.engine.pipeline import MotionEngine
from motion_app.errors import GenerationCancelled, RequestError
from motion_app.library.motion_file import check_motion_file
from motion_app.media.files import Clip
from motion_app.training.config import LoraTraining
from motion_app.training.inputs import training_config
from motion_app.training.motion_lora import LoraRun, prepare_lora, within_frames
from motion_app.training.seen_clips import seen_clip
from motion_app.training.trainer import train_motion
from motion_app.world.world import RenderedClip, WorldConfig, draw_scene, render

HEIGHT, WIDTH = 32, 48
TEXT, FRAMES, CELLS = 3, 3, 4
SMALL = {
    "steps": 6,
    "batch": 2,
    "rank": 2,
    "lora_alpha": 2.0,
    "learning_rate": 0.02,
    "spatial_share": 0.5,
    "checkpoint_every": 2,
    "validation_steps": 2,
}


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def rendered() -> RenderedClip:
    world = WorldConfig(height=HEIGHT, width=WIDTH)
    return render(draw_scene(np.random.default_rng(2), world, objects=1, motions=["jump"]))


@pytest.fixture(scope="module")
def reference(rendered: RenderedClip) -> Clip:
    return Clip(rendered.frames, 8.0)


def settings(**changes) -> LoraTraining:
    return LoraTraining(**{"name": "hop", "noun": "red fox", **SMALL, **changes})


def a_run(engine: MotionEngine, rendered: RenderedClip, out: Path, **changes) -> LoraRun:
    config, clips = settings(**changes), [Clip(rendered.frames, 8.0)]
    seen = seen_clip(clips, [rendered.masks[0]], engine.geometry)
    return LoraRun(prepare_lora(clips, seen, config, engine.backbone), config, engine.backbone, out)


def learn(engine, reference, rendered, out: Path, *, stop: int | None = None, **changes):
    def until(news) -> bool:
        return news.step != stop

    return train_motion(
        [reference],
        settings(**changes),
        engine=engine,
        out=out,
        masks=[rendered.masks[0]],
        on_progress=until,
    )


def numbers(run: LoraRun, name: str) -> torch.Tensor:
    return torch.cat([part.detach().flatten() for part in run.adapters[name].parameters()])


def test_single_frames_are_learned_first_and_then_left_alone(engine, rendered, tmp_path):
    run = a_run(engine, rendered, tmp_path / "m.safetensors")
    seen = []
    for _ in range(6):
        before = {name: numbers(run, name) for name in run.adapters}
        run.advance()
        seen.append(
            tuple(name for name in before if not torch.equal(before[name], numbers(run, name)))
        )
    assert seen == [("spatial",)] * 3 + [("motion",)] * 3
    rates = [run.config.learning_rate * share for share in (1.0, 0.75, 0.25)]
    run.step = 0
    for step in range(6):
        run.step = step
        assert run.annealed() * run.config.learning_rate == pytest.approx(rates[step % 3])


def test_without_the_split_the_motion_learns_from_the_first_step_on(engine, rendered, tmp_path):
    run = a_run(engine, rendered, tmp_path / "m.safetensors", spatial_share=0.0)
    split = a_run(engine, rendered, tmp_path / "n.safetensors")
    assert list(run.adapters) == ["motion"]
    assert torch.equal(numbers(run, "motion"), numbers(split, "motion")), "both begin alike"
    before = numbers(run, "motion")
    run.advance()
    assert not torch.equal(before, numbers(run, "motion"))


def test_within_frames_nothing_tells_of_another_frame():
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randn(2, 2, TEXT + FRAMES * CELLS, 8, generator=generator) for _ in range(3)]
    attend = within_frames(FRAMES)
    made = attend(0, tuple(tokens), TEXT)
    last = slice(TEXT + 2 * CELLS, None)
    for part in tokens:
        part[:, :, last] += 1.0
    changed = attend(0, tuple(tokens), TEXT)
    assert torch.equal(made[:, :, : TEXT + 2 * CELLS], changed[:, :, : TEXT + 2 * CELLS])
    assert not torch.equal(made[:, :, last], changed[:, :, last])
    tokens[1][:, :, :TEXT] += 1.0
    assert not torch.allclose(attend(0, tuple(tokens), TEXT)[:, :, TEXT:], changed[:, :, TEXT:])


def test_what_is_learned_is_a_whole_motion_of_the_method(engine, reference, rendered, tmp_path):
    motion = learn(engine, reference, rendered, tmp_path / "hop.safetensors", validate_every=3)
    assert motion.method == "i2vedit" and motion.has_lora and not motion.has_tokens
    assert motion.has_clip and motion.has_mover and motion.steps == 6 and motion.preview
    layers = engine.backbone.attention_layers()
    check_motion_file(
        motion.path, base=engine.fingerprint, layers=len(layers), width=layers[0].width
    )


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_killed_and_taken_up_again_it_ends_the_same(engine, reference, rendered, tmp_path, stop):
    whole = learn(engine, reference, rendered, tmp_path / "whole.safetensors")
    out = tmp_path / "broken.safetensors"
    with pytest.raises(GenerationCancelled, match=f"step {stop} of 6"):
        learn(engine, reference, rendered, out, stop=stop)
    with pytest.raises(RequestError, match="other settings"):
        learn(engine, reference, rendered, out, spatial_share=0.0)
    again = learn(engine, reference, rendered, out)
    from motion_app.library.motion_file import numbers_digest

    assert numbers_digest(again.path) == numbers_digest(whole.path)


def test_the_model_is_as_before(engine, reference, rendered, tmp_path):
    transformer = engine.backbone.transformer
    before = dict(transformer.attn_processors)
    weights = {name: part.clone() for name, part in transformer.state_dict().items()}
    learn(engine, reference, rendered, tmp_path / "hop.safetensors")
    assert transformer.attn_processors == before
    after = transformer.state_dict()
    assert all(torch.equal(part, after[name]) for name, part in weights.items())


def test_a_clip_whose_mover_nobody_can_tell_is_refused(engine, tmp_path):
    still = Clip(np.full((13, HEIGHT, WIDTH, 3), 90, np.uint8), 8.0)
    with pytest.raises(RequestError, match="point at it"):
        train_motion([still], settings(), engine=engine, out=tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spatial_share": 1.0}, "spatial_share is 1.0"),
        ({"adapted": ("to_x",)}, "adapted is to_x"),
        ({"rank": 0}, "rank is 0; it must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(RequestError, match=words):
        settings(**changes)


def test_its_settings_are_the_checkpoints_own():
    config = training_config("i2vedit", {"rank": 8, "zoom": [0.9, 1.1]}, name="hop", noun="fox")
    assert isinstance(config, LoraTraining) and config.rank == 8 and config.zoom == (0.9, 1.1)
    assert LoraTraining("hop", steps=1).spatial_steps == 0, "the motion is learned at all"
    assert LoraTraining("hop").learned_by == LoraTraining("hop").shown_by == "i2vedit"
