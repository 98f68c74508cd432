"""What a system is told of a generation, and the system that does nothing.

A system never sees the renderer's truth nor a motion's tokens: it gets the picture, the marked
objects, and each object's reference clip with the masks of what moves in it.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motion_app.engine.backbone import Backbone
from motion_app.engine.layers import AttentionLayer
from motion_app.engine.steering import GenerationSteering
from motion_app.errors import MotionFileError
from motion_app.library.motion_clip import MotionClip, read_motion_clip
from motion_app.methods import CLIP_METHODS
from motion_app.scene import GenerationRequest, Motion, SceneObject

NO_MOVER = (
    'the motion "{name}" keeps its reference clip but not what moves in it; point at that with: '
    "python -m motion_app motions add-clip --mover"
)


@dataclass(frozen=True, eq=False)
class ToldObject:
    """An object with a motion: its ``mask`` (H, W) bool in the picture, its motion's ``clip`` and
    the ``masks`` (T, H, W) bool of what moves there, all in the model frame; the motion's ``file``
    and the object's ``strength`` for who reads more of it."""

    mask: np.ndarray
    clip: MotionClip
    masks: np.ndarray
    file: Path = Path()
    strength: float = 1.0


@dataclass(frozen=True, eq=False)
class SystemScene:
    """``image`` (H, W, 3) uint8; ``objects``: those with a motion, the hindmost first, so that the
    order in which they are listed says nothing. ``text``: conditional and unconditional states
    (1, L, text width), the latter None without guidance. ``timesteps``: of the steps, noisiest
    first. ``features``: what was computed of clips before, kept from one video to the next.
    ``steering``: of the motion tokens, where the method has them."""

    backbone: Backbone
    image: np.ndarray
    objects: tuple[ToldObject, ...]
    text: tuple[Tensor, Tensor | None]
    guidance: float
    timesteps: tuple[int, ...]
    seed: int
    features: MutableMapping[tuple, Any]
    steering: GenerationSteering | None = None

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        request: GenerationRequest,
        *,
        text: tuple[Tensor, Tensor | None],
        features: MutableMapping[tuple, Any],
        steering: GenerationSteering | None = None,
    ) -> SystemScene:
        """The scene of a ``request`` whose steps and guidance are filled in; clips are told where
        the method is. MotionFileError for a motion that lacks its clip, or the masks of what moves
        in it."""
        chosen = request.options
        if chosen.steps is None or chosen.guidance is None:
            raise ValueError("the request has no steps or no guidance")
        told = [
            _told(item, item.motion, backbone)
            for item in request.objects
            if item.motion is not None and chosen.method in CLIP_METHODS
        ]
        return cls(
            backbone=backbone,
            image=request.image,
            objects=tuple(sorted(told, key=_depth)),
            text=text,
            guidance=chosen.guidance,
            timesteps=tuple(backbone.timesteps(chosen.steps)),
            seed=chosen.seed,
            features=features,
            steering=steering,
        )

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def after(self, step: int) -> int | None:
        """The noise level that ``step``, from 0, leads to; None behind the last: no noise."""
        return self.timesteps[step + 1] if step + 1 < self.steps else None

    def share(self, part: float) -> int:
        """How many steps a ``part`` of the schedule is, 0 to 1."""
        return round(part * self.steps)

    def generator(self, purpose: int) -> torch.Generator:
        """Random numbers of this seed that the pipeline does not draw."""
        mixed = np.random.SeedSequence([self.seed, purpose]).generate_state(1, np.uint64)
        return torch.Generator("cpu").manual_seed(int(mixed[0] >> 1))


class Unsteered:
    """A ``System`` that is the stock pipeline; others change what they change."""

    def initial_latents(self, noise: Tensor) -> Tensor:
        return noise

    def installed(self, layers: Sequence[AttentionLayer]) -> AbstractContextManager[None]:
        return nullcontext()

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        return latents


def _told(item: SceneObject, motion: Motion, backbone: Backbone) -> ToldObject:
    clip = read_motion_clip(motion.path, name=motion.name).for_model(backbone.geometry)
    if clip.masks is None or not clip.masks[0].any():
        raise MotionFileError(NO_MOVER.format(name=motion.name))
    return ToldObject(item.mask, clip, clip.masks, motion.path, item.strength)


def _depth(thing: ToldObject) -> tuple[int, bytes]:
    """What stands lower in the picture is nearer."""
    return int(np.nonzero(thing.mask)[0].max()), np.packbits(thing.mask).tobytes()
