"""A clip taken back to the noise from which the model would make it (DDIM inversion).

The deterministic sampler walks down its noise levels; here the same steps are walked up. What is
not known on the way, the prediction at the noisier end, is taken from the latents that are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from motion_app.engine.backbone import Backbone
from motion_app.engine.systems.scene import SystemScene, ToldObject

NOTHING = 1e-6  # of the variance: the noisiest level of a schedule that ends in pure noise


@dataclass(frozen=True, eq=False)
class Inverted:
    """A clip at noise levels: ``latents`` by level and its first frame as the ``condition`` that
    goes with them, (1, F, C, H', W') float32 on the CPU each, padded."""

    latents: Mapping[int, Tensor]
    condition: Tensor


def inverted(scene: SystemScene, thing: ToldObject, *, steps: int) -> Inverted:
    """The clip of ``thing`` at all noise levels of the ``scene``; computed once a clip. ``steps``:
    at least so many, the scene's own among them."""
    levels = finer_levels(scene, steps)
    base = scene.backbone.checkpoint.fingerprint
    key = ("inverted", base, thing.clip.digest(), levels, scene.timesteps)
    if key not in scene.features:
        found = invert(scene.backbone, thing, levels)
        kept = {level: found.latents[level] for level in scene.timesteps}
        scene.features[key] = Inverted(kept, found.condition)
    return scene.features[key]


def finer_levels(scene: SystemScene, steps: int) -> tuple[int, ...]:
    """The noise levels of the ``scene`` with as many between as make ``steps``, noisiest first; as
    many as there are where that is fewer."""
    finer = scene.backbone.timesteps(min(steps, scene.backbone.training_steps))
    return tuple(sorted({*finer, *scene.timesteps}, reverse=True))


@torch.no_grad()
def invert(backbone: Backbone, thing: ToldObject, levels: tuple[int, ...]) -> Inverted:
    """The clip of ``thing`` at ``levels``, noisiest first, with its own first frame as the picture
    and no words."""
    device = backbone.profile.device
    frames = thing.clip.frames
    latents = backbone.padded(backbone.encode_clip(frames)[0]).to(device)  # (1, F, C, H', W')
    picture = backbone.encode_clip(frames[:1])[0][:, 0].to(device)  # (1, C, H', W')
    condition = backbone.image_condition(picture, latents)
    text = backbone.prompts.encode("", guided=False)[0].to(device)
    found: dict[int, Tensor] = {}
    before: int | None = None
    for level in reversed(levels):
        timestep = torch.tensor([level], device=device)
        prediction = backbone.predict(latents, condition, text, timestep).float()
        clean = backbone.clean_estimate(latents, prediction, level)
        latents = _raised(latents, clean, here=backbone.kept(before), above=backbone.kept(level))
        found[level] = latents.cpu()
        before = level
    return Inverted(found, condition.cpu())


def _raised(latents: Tensor, clean: Tensor, *, here: float, above: float) -> Tensor:
    """``latents``, of which a share ``here`` of the variance is clean, at the share ``above``. The
    noise in them is what remains beside the estimate ``clean`` when they are read as of there;
    where nothing clean is left there, what remains beside it here."""
    if above < NOTHING:
        return (latents - here**0.5 * clean) / (1 - here) ** 0.5
    noise = (latents - above**0.5 * clean) / (1 - above) ** 0.5
    clean = (latents - (1 - here) ** 0.5 * noise) / here**0.5
    return above**0.5 * clean + (1 - above) ** 0.5 * noise
