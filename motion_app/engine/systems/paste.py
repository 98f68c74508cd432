"""Time-to-Move: the object is cut out, dragged along its motion's path, and denoised into place.

Written from the description of the method (arXiv 2511.08633). A crude video is pasted together from
the picture alone. Denoising begins from its noised latents, and while the noise is still strong
what lies inside the pasted objects is put back after every step: the path holds there, and the
model is free everywhere else. No weights and no training; what the mover does beyond going and
growing is not told.

Beside methods that move objects otherwise, or not at all, it leads those for which a path was drawn
(``AlongPaths``). There the rest of the video is not told where it stands, and a model that is free
behind an object leaves one more where it was: the whole way is put back with it, for a while.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from motion_app.engine.systems.placing import Course, pasted
from motion_app.engine.systems.scene import SystemScene, Unsteered
from motion_app.geometry import ModelGeometry, mask_to_grid


@dataclass(frozen=True)
class PasteSettings:
    """Shares of the schedule: up to ``start`` the whole video is held to the pasted one, up to
    ``hold`` the objects in it. The published ones for CogVideoX-5B: 4 and 9 of 50 steps."""

    start: float = 0.08
    hold: float = 0.18


@dataclass(frozen=True)
class PathSettings(PasteSettings):
    """``hold`` as above; up to ``behind`` all of the way is held, too. Chosen on the pocket, where
    half as long leaves objects where they were."""

    hold: float = 0.75
    behind: float = 0.5


class TimeToMove(Unsteered):
    """The pasted video's latents, put back at each step's noise; one noise for all steps, the
    pipeline's own."""

    def __init__(self, scene: SystemScene, settings: PasteSettings) -> None:
        self.scene = scene
        backbone = scene.backbone
        placed = [(thing.mask, Course.of(thing)) for thing in scene.objects]
        frames, self.masks = pasted(scene.image, placed, backbone.geometry.frames)
        self.latents = backbone.padded(backbone.encode_clip(frames)[0])  # (1, F, C, H', W')
        self.inside = self._on_latents(self.masks)
        self.start, self.hold = scene.share(settings.start), scene.share(settings.hold)
        self.noise: Tensor | None = None

    def initial_latents(self, noise: Tensor) -> Tensor:
        self.noise = noise
        return self._noised(noise, self.scene.timesteps[0]) if self.start else noise

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        done = step + 1
        if done > max(self.start, self.hold) or self.noise is None:
            return latents
        told = self._noised(latents, self.scene.after(step))
        if done <= self.start:
            return told
        return torch.where(self.inside.to(latents.device), told, latents)

    def _on_latents(self, masks: np.ndarray) -> Tensor:
        """Masks (T, H, W) bool as (1, F, 1, H', W') bool."""
        backbone = self.scene.backbone
        inside = torch.from_numpy(latent_masks(masks, backbone.geometry))  # (F, H', W')
        return backbone.padded(inside[None, :, None].float()) > 0

    def _noised(self, like: Tensor, timestep: int | None) -> Tensor:
        kept = self.scene.backbone.kept(timestep)
        clean = self.latents.to(like)
        if self.noise is None:
            raise ValueError("no noise was drawn yet")
        return kept**0.5 * clean + (1 - kept) ** 0.5 * self.noise.to(like)


class AlongPaths(TimeToMove):
    """The objects of a scene whose paths were drawn, each put back with half a latent around it.
    Where another object stands in the picture, the way is left to that one."""

    def __init__(self, scene: SystemScene, settings: PathSettings) -> None:
        super().__init__(scene, settings)
        margin = scene.backbone.geometry.spatial_ratio // 2
        grown = np.stack([_grown(mask, margin) for mask in self.masks])  # (T, H, W)
        way = grown.any(axis=0) & ~_grown(scene.others, margin)
        self.inside = self._on_latents(grown)
        self.way = self._on_latents(grown | way)
        self.behind = scene.share(settings.behind)

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        held = super().after_step(step, latents)
        if step + 1 <= self.start or step + 1 > self.behind:
            return held
        told = self._noised(latents, self.scene.after(step))
        return torch.where(self.way.to(latents.device), told, held)


def _grown(mask: np.ndarray, margin: int) -> np.ndarray:
    """``mask`` (H, W) bool with so many pixels around it."""
    around = np.ones((2 * margin + 1,) * 2, np.uint8)
    return cv2.dilate(mask.astype(np.uint8), around) > 0


def latent_masks(masks: np.ndarray, geometry: ModelGeometry) -> np.ndarray:
    """Masks (T, H, W) bool on the latents, (F, H', W') bool: the first frame and then every one at
    which a latent frame ends."""
    chosen = masks[:: geometry.temporal_ratio]  # (F, H, W)
    ratio = geometry.spatial_ratio
    return mask_to_grid(chosen, geometry.height // ratio, geometry.width // ratio)
