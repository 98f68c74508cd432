"""Time-to-Move: what is pasted, and where it holds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from motion_app.engine.systems.paste import latent_masks
from motion_app.engine.systems.placing import Course, ToldObject, pasted
from motion_app.library.motion_clip import MotionClip
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import ROOT
from motion_app.world.world import SHIPPED_MOTIONS, render_reference

GEOMETRY = Checkpoint.read(ROOT / "checkpoints" / "pocket").geometry


def told(name: str, mask: np.ndarray) -> ToldObject:
    drawn = render_reference(name).rendered
    return ToldObject(mask, lambda: MotionClip(drawn.frames, 8.0, drawn.masks[0]))


def box(top: int, left: int, side: int = 16) -> np.ndarray:
    mask = np.zeros((64, 96), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize("name", SHIPPED_MOTIONS)
def test_the_object_goes_the_movers_way_in_its_own_size(name):
    place = Course.of(told(name, box(24, 40, 8)))
    true = render_reference(name).rendered.tracks[0][:, ::-1]  # (T, 2), x and y
    ours, theirs = place.path() - place.path()[0], true - true[0]
    assert np.abs(ours - place.scale * theirs).max() < 1.0
    assert place.path()[0] == pytest.approx([43.5, 27.5])


def test_what_is_pasted_is_the_picture_first_and_then_the_object_moved():
    picture = np.full((64, 96, 3), 200, np.uint8)
    mask = box(40, 10)
    picture[mask] = (220, 20, 20)
    course = Course.of(told("walk right", mask))
    frames, masks = pasted(picture, [(mask, course)], GEOMETRY.frames)
    assert np.array_equal(frames[0], picture)
    shift = np.nonzero(masks[-1])[1].mean() - np.nonzero(mask)[1].mean()
    assert shift > 20, "it has walked to the right"
    red = (frames[..., 0] > 150) & (frames[..., 1] < 90)
    assert (red[-1] == masks[-1])[masks[-1]].mean() > 0.9
    assert not red[-1][mask & ~masks[-1]].any(), "behind it there is background"


def test_latents_follow_the_frames_at_which_they_end():
    masks = np.zeros((13, 64, 96), bool)
    for t in range(13):
        masks[t, 16:32, 4 * t : 4 * t + 16] = True
    found = latent_masks(masks, GEOMETRY)
    assert found.shape == (GEOMETRY.latent_frames, 16, 24)
    for f in range(GEOMETRY.latent_frames):
        assert found[f, 4:8, 2 * f : 2 * f + 4].all() and found[f].sum() == 16


def test_only_what_is_inside_the_objects_is_held_once_the_start_is_over(tiny_checkpoint):
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.engine.systems.paste import PasteSettings, TimeToMove

    engine = MotionEngine.load(tiny_checkpoint, device="cpu")
    g = engine.geometry
    mask = np.zeros((g.height, g.width), bool)
    mask[8:20, 8:20] = True
    clip = np.repeat(mask[None], g.frames, axis=0)
    thing = ToldObject(mask, lambda: MotionClip(np.zeros((*clip.shape, 3), np.uint8), 8.0, clip))
    scene = SimpleNamespace(
        image=np.full((g.height, g.width, 3), 90, np.uint8),
        objects=(thing,),
        backbone=engine.backbone,
        timesteps=(999, 749, 499, 249),
        after=lambda step: (999, 749, 499, 249, None)[step + 1],
        share=lambda part: round(part * 4),
    )
    system = TimeToMove(scene, PasteSettings(start=0.25, hold=0.5))
    drawing = torch.Generator().manual_seed(0)
    noise = torch.randn(system.latents.shape, generator=drawing)
    system.initial_latents(noise)
    latents = torch.randn(system.latents.shape, generator=drawing)
    assert not torch.isclose(system.after_step(0, latents), latents).any()
    held = system.after_step(1, latents)
    inside = system.inside.expand_as(latents)
    assert torch.equal(held[~inside], latents[~inside]) and inside.any()
    assert not torch.isclose(held[inside], latents[inside]).any()
    assert torch.equal(system.after_step(2, latents), latents)
