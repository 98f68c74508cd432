"""AnyV2V: back to noise, beside the video, in the place of its own queries and keys."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from motion_app.engine.layers import System
from motion_app.engine.pipeline import MotionEngine
from motion_app.engine.systems.anyv2v import (
    AnyV2V,
    InjectionSettings,
    Stand,
    _raised,
    attend_stood_in,
    finer_levels,
    invert,
)
from motion_app.engine.systems.placing import ToldObject, everywhere, regions
from motion_app.engine.systems.scene import SystemScene, Unsteered
from motion_app.evaluation.metrics import psnr
from motion_app.library.motion_clip import MotionClip
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import ROOT
from motion_app.world.world import render_reference

TEXT, FRAMES, CELLS = 3, 3, 4
VIDEO = FRAMES * CELLS


@pytest.fixture(scope="module")
def engine(tiny_checkpoint) -> MotionEngine:
    return MotionEngine.load(tiny_checkpoint, device="cpu")


def told(engine: MotionEngine, seed: int, left: int = 4) -> ToldObject:
    """A square that drifts to the right over noise, and an object of its size at ``left``."""
    g = engine.geometry
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (g.frames, g.height, g.width, 3), dtype=np.uint8)
    masks = np.zeros(frames.shape[:3], bool)
    for t in range(g.frames):
        masks[t, 8:24, 8 + t : 24 + t] = True
    mask = np.zeros((g.height, g.width), bool)
    mask[8:24, left : left + 16] = True
    return ToldObject(mask, lambda: MotionClip(frames, 8.0, masks))


def scene(engine: MotionEngine, *things: ToldObject, steps: int = 4) -> SystemScene:
    backbone, g = engine.backbone, engine.geometry
    return SystemScene(
        backbone=backbone,
        image=np.full((g.height, g.width, 3), 90, np.uint8),
        objects=things,
        others=np.zeros((g.height, g.width), bool),
        text=backbone.prompts.encode("A red robot is moving.", guided=True),
        guidance=6.0,
        timesteps=tuple(backbone.timesteps(steps)),
        seed=0,
        features={},
    )


def sampled(
    engine: MotionEngine, told: SystemScene, system: System, calls: list[int] | None = None
) -> torch.Tensor:
    """The latents; ``calls`` grows by the videos in each pass."""
    backbone = engine.backbone
    with (
        torch.no_grad(),
        system.installed(backbone.attention_layers()),
        backbone.counted() as counts,
    ):
        latents = backbone.denoise(
            told.image,
            told.text,
            steps=told.steps,
            guidance=told.guidance,
            seed=told.seed,
            on_step=lambda step, clean: True,
            system=system,
        )
    if calls is not None:
        calls.extend(counts)
    return latents


@pytest.mark.parametrize(("same", "across"), [(1, 0), (0, 1), (1, 1), (0, 0)])
def test_pairs_that_are_stood_in_for_are_exact(same, across):
    draw = torch.Generator().manual_seed(3)
    tokens = tuple(torch.randn(2, 2, TEXT + VIDEO, 8, generator=draw) for _ in range(3))
    one, other = torch.tensor([0, 1, 5, 8, 9]), torch.tensor([2, 3, 6])
    stands = [
        Stand(targets, *torch.randn(2, 1, 2, len(targets), 8, generator=draw))
        for targets in (one, other)
    ]
    query, key, value = tokens
    logits = query @ key.mT  # (2, 2, L + V, L + V)
    for stand in stands:
        theirs = stand.query @ stand.key.mT  # (1, 2, n, n)
        for i, row in enumerate(stand.targets.tolist()):
            for j, column in enumerate(stand.targets.tolist()):
                if same if row // CELLS == column // CELLS else across:
                    logits[:, :, TEXT + row, TEXT + column] = theirs[:, :, i, j]
    expected = (logits / 8**0.5).softmax(-1) @ value
    found = attend_stood_in(
        tokens, stands, text=TEXT, frames=FRAMES, same=bool(same), across=bool(across)
    )
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_levels_of_the_inversion_hold_those_of_the_video(engine):
    for steps in (1, 4, 7, 12, 50):
        video = scene(engine, steps=steps)
        for asked in (1, 50, 5000):
            levels = finer_levels(video, asked)
            assert set(video.timesteps) <= set(levels) and len(levels) >= min(asked, 1000)
            assert list(levels) == sorted(levels, reverse=True)


def test_a_clip_is_inverted_once(engine):
    told_scene = scene(engine, told(engine, 1), told(engine, 2, 30))
    with engine.backbone.counted() as calls:
        AnyV2V(told_scene, InjectionSettings(inversion_steps=8))
    assert sum(calls) == 16 and len(told_scene.features) == 2
    with engine.backbone.counted() as calls:
        AnyV2V(told_scene, InjectionSettings(inversion_steps=8, placed=True))
    assert not calls


def test_with_nothing_injected_it_is_plain_sampling_from_the_clips_noise(engine):
    told_scene = scene(engine, told(engine, 1))
    system = AnyV2V(told_scene, InjectionSettings(0, 0, 0, inversion_steps=8))
    start = system.initial_latents(torch.zeros(1))

    class FromThere(Unsteered):
        def initial_latents(self, noise):
            return start.to(noise)

    plain = sampled(engine, told_scene, FromThere())
    assert torch.allclose(sampled(engine, told_scene, system), plain, atol=1e-5)
    injected = AnyV2V(told_scene, InjectionSettings(1, 1, 1, inversion_steps=8))
    assert not torch.allclose(sampled(engine, told_scene, injected), plain, atol=1e-2)


@pytest.mark.parametrize("share", ["features", "same", "across"])
def test_each_share_does_something_and_only_for_so_long(engine, share):
    shares = {"features": 0.0, "same": 0.0, "across": 0.0, "pairs_from": 0.0}
    told_scene = scene(engine, told(engine, 1))

    calls: list[int] = []

    def made(**given) -> torch.Tensor:
        settings = InjectionSettings(**{**shares, **given}, inversion_steps=8)
        calls.clear()
        return sampled(engine, told_scene, AnyV2V(told_scene, settings), calls)

    half = made(**{share: 0.5})
    assert calls == [3, 3, 2, 2], "the clip comes along for half of the steps"
    assert not torch.allclose(half, made(), atol=1e-4)
    assert not torch.allclose(half, made(**{share: 1.0}), atol=1e-4)


def test_a_clip_told_twice_is_the_clip(engine):
    thing = told(engine, 1)
    settings = InjectionSettings(inversion_steps=8)
    once, twice = scene(engine, thing), scene(engine, thing, thing)
    one = sampled(engine, once, AnyV2V(once, settings))
    two = sampled(engine, twice, AnyV2V(twice, settings))
    assert torch.allclose(one, two, atol=1e-4)


def test_a_region_goes_where_the_mover_goes_and_the_nearer_object_is_in_front(engine):
    things = (told(engine, 1, 4), told(engine, 2, 12))
    times, size = (0, 4, 8, 12), (8, 12)  # cells of four pixels
    first, second = regions(things, times, size)
    assert not set(first.targets) & set(second.targets)
    for frame, t in enumerate(times):
        here = second.targets[second.targets // 96 == frame]
        assert set(here % 96 // 12) == {2, 3, 4, 5}
        assert (here % 12).min() in {3 + t // 4} and len(here) == 16
    # The clip's square is at 8, the object at 12: a cell comes from the one on its left.
    assert np.array_equal(second.sources, second.targets - 1)
    alone = regions(things[:1], times, size)[0]
    assert np.array_equal(alone.sources, alone.targets + 1)
    assert np.array_equal(everywhere(5).sources, np.arange(5))


def test_placed_noise_is_the_clips_inside_and_the_pipelines_elsewhere(engine):
    told_scene = scene(engine, told(engine, 1))
    system = AnyV2V(told_scene, InjectionSettings(inversion_steps=8, placed=True))
    shape = system.clips[0].latents[told_scene.timesteps[0]].shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    start = system.initial_latents(noise)
    changed = (start != noise).any(dim=2)[0]  # (F, H', W')
    places = regions(told_scene.objects, system.times, tuple(shape[3:]))[0]
    expected = torch.zeros(changed.numel(), dtype=torch.bool)
    expected[places.targets] = True
    assert torch.equal(changed.flatten(), expected) and 0 < expected.sum() < len(expected)


@pytest.mark.parametrize("above", [0.0, 0.04, 0.3])
def test_a_step_up_is_undone_by_the_samplers_step_down(above):
    """With the same reading of what is noise, whatever the model says."""
    draw = torch.Generator().manual_seed(0)
    latents, clean = torch.randn(2, 3, 4, 2, 2, generator=draw)
    here = 0.36
    raised = _raised(latents, clean, here=here, above=above)
    if above == 0:  # all of it is noise, and the estimate is all that is clean
        noise, estimate = raised, clean
    else:
        noise = (latents - above**0.5 * clean) / (1 - above) ** 0.5
        estimate = (raised - (1 - above) ** 0.5 * noise) / above**0.5
    down = here**0.5 * estimate + (1 - here) ** 0.5 * noise
    assert torch.allclose(down, latents, atol=1e-5)


@pytest.mark.long
def test_inversion_and_sampling_restore_a_clip():
    """What the paper's own model does in 500 steps, the pocket in 50: 35 dB."""
    checkpoint = Checkpoint.read(ROOT / "checkpoints" / "pocket")
    engine = MotionEngine.load(checkpoint, device="cpu")
    frames = render_reference("walk right").rendered.frames
    clip = SimpleNamespace(clip=MotionClip(frames, 8.0))
    text = engine.backbone.prompts.encode("", guided=False)
    told_scene = replace(scene(engine, steps=50), image=frames[0], text=text, guidance=1.0)
    found = invert(engine.backbone, clip, told_scene.timesteps)

    class FromThere(Unsteered):
        def initial_latents(self, noise):
            return found.latents[told_scene.timesteps[0]].to(noise)

    made = engine.backbone.decode(sampled(engine, told_scene, FromThere()))
    latents = engine.backbone.encode_clip(frames)[0]
    assert psnr(made, engine.backbone.decode(latents)) >= 35
