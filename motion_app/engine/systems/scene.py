"""What a system is told of a generation, and the system that does nothing.

A system never sees the renderer's truth nor a motion's tokens: it gets the picture, the marked
objects, and each object's reference clip with the masks of what moves in it.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motion_app.engine.backbone import Backbone
from motion_app.engine.layers import AttentionLayer, System
from motion_app.engine.steering import GenerationSteering
from motion_app.engine.systems.placing import ToldObject, drawn_object
from motion_app.errors import MotionFileError
from motion_app.library.motion_clip import read_motion_clip
from motion_app.methods import CLIP_METHODS
from motion_app.scene import GenerationRequest, SceneObject

NO_MOVER = (
    'the motion "{name}" keeps its reference clip but not what moves in it; point at that with: '
    "python -m motion_app motions add-clip --mover"
)


@dataclass(frozen=True, eq=False)
class SystemScene:
    """``image`` (H, W, 3) uint8; ``objects``: those that are told their motion, the hindmost
    first, so that the order in which they are listed says nothing. ``others`` (H, W) bool: where
    the picture shows objects without a path. ``text``: conditional and unconditional states
    (1, L, text width), the latter None without guidance. ``timesteps``: of the steps, noisiest
    first. ``features``: what was computed of clips before, kept from one video to the next.
    ``steering``: of the motion tokens, where the method has them."""

    backbone: Backbone
    image: np.ndarray
    objects: tuple[ToldObject, ...]
    others: np.ndarray
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
        """The scene of a ``request`` whose steps and guidance are filled in; paths that were drawn
        are always told, clips where the method is. MotionFileError for a motion that lacks its
        clip, or the masks of what moves in it."""
        chosen = request.options
        if chosen.steps is None or chosen.guidance is None:
            raise ValueError("the request has no steps or no guidance")
        others = np.zeros(request.picture.shape[:2], bool)
        for item in request.objects:
            if item.path is None:
                others |= item.mask
        by_clip = chosen.method in CLIP_METHODS
        told = [_told(item, by_clip, request.picture, backbone) for item in request.objects]
        return cls(
            backbone=backbone,
            image=request.picture,
            objects=tuple(sorted(filter(None, told), key=_depth)),
            text=text,
            guidance=chosen.guidance,
            timesteps=tuple(backbone.timesteps(chosen.steps)),
            seed=chosen.seed,
            features=features,
            steering=steering,
            others=others,
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


class Together:
    """Several systems as one ``System``: each goes on with what the one before it leaves."""

    def __init__(self, parts: Sequence[System]) -> None:
        self.parts = tuple(parts)

    def initial_latents(self, noise: Tensor) -> Tensor:
        for part in self.parts:
            noise = part.initial_latents(noise)
        return noise

    @contextmanager
    def installed(self, layers: Sequence[AttentionLayer]) -> Iterator[None]:
        with ExitStack() as acting:
            for part in self.parts:
                acting.enter_context(part.installed(layers))
            yield

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        for part in self.parts:
            latents = part.after_step(step, latents)
        return latents


def _told(
    item: SceneObject, by_clip: bool, image: np.ndarray, backbone: Backbone
) -> ToldObject | None:
    if item.path is not None:
        return drawn_object(image, item.mask, item.path, backbone.geometry)
    if item.motion is None or not by_clip:
        return None
    name = item.motion.name
    clip = read_motion_clip(item.motion.path, name=name).for_model(backbone.geometry)
    if clip.masks is None or not clip.masks[0].any():
        raise MotionFileError(NO_MOVER.format(name=name))
    return ToldObject(item.mask, lambda: clip, item.motion.path, item.strength)


def _depth(thing: ToldObject) -> tuple[int, bytes]:
    """What stands lower in the picture is nearer."""
    return int(np.nonzero(thing.mask)[0].max()), np.packbits(thing.mask).tobytes()
