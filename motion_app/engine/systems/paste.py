"""Time-to-Move: the object is cut out, dragged along its motion's path, and denoised into place.

Written from the description of the method (arXiv 2511.08633). A crude video is pasted together from
the picture alone. Denoising begins from its noised latents, and while the noise is still strong
what lies inside the pasted objects is put back after every step: the path holds there, and the
model is free everywhere else. No weights and no training; what the mover does beyond going and
growing is not told.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from motion_app.engine.systems.placing import Course, moved
from motion_app.engine.systems.scene import SystemScene, Unsteered
from motion_app.geometry import ModelGeometry, mask_to_grid

BEHIND = 3  # px that are filled in around an object: its edge is mixed with the background


@dataclass(frozen=True)
class PasteSettings:
    """Shares of the schedule: up to ``start`` the whole video is held to the pasted one, up to
    ``hold`` the objects in it. The published ones for CogVideoX-5B: 4 and 9 of 50 steps."""

    start: float = 0.08
    hold: float = 0.18


class TimeToMove(Unsteered):
    """The pasted video's latents, put back at each step's noise; one noise for all steps, the
    pipeline's own."""

    def __init__(self, scene: SystemScene, settings: PasteSettings) -> None:
        self.scene = scene
        backbone = scene.backbone
        frames, masks = pasted(scene)
        latents = backbone.padded(backbone.encode_clip(frames)[0])  # (1, F, C, H', W')
        inside = torch.from_numpy(latent_masks(masks, backbone.geometry))  # (F, H', W')
        inside = backbone.padded(inside[None, :, None].float())  # (1, F, 1, H', W')
        self.latents, self.inside = latents, inside > 0
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

    def _noised(self, like: Tensor, timestep: int | None) -> Tensor:
        kept = self.scene.backbone.kept(timestep)
        clean = self.latents.to(like)
        if self.noise is None:
            raise ValueError("no noise was drawn yet")
        return kept**0.5 * clean + (1 - kept) ** 0.5 * self.noise.to(like)


def pasted(scene: SystemScene) -> tuple[np.ndarray, np.ndarray]:
    """The crude video (T, H, W, 3) uint8, and (T, H, W) bool where its objects are; the picture
    itself comes first."""
    every = np.any([thing.mask for thing in scene.objects], axis=0)
    around = cv2.dilate(every.astype(np.uint8), np.ones((2 * BEHIND + 1,) * 2, np.uint8))
    behind = cv2.inpaint(scene.image, around, BEHIND, cv2.INPAINT_TELEA).astype(np.float32)
    picture = scene.image.astype(np.float32)
    placed = [(thing, Course.of(thing)) for thing in scene.objects]
    count = scene.backbone.geometry.frames
    frames = np.empty((count, *picture.shape), np.float32)
    masks = np.zeros((count, *picture.shape[:2]), bool)
    for t in range(count):
        frame = behind
        for thing, place in placed:
            matrix = place.from_object(t)
            cover = moved(thing.mask.astype(np.float32), matrix)  # (H, W), soft at its edge
            frame = np.where(cover[..., None] > 0, _over(frame, picture, cover, matrix), frame)
            masks[t] |= cover > 0.5
        frames[t] = frame
    frames[0] = picture
    return frames.round().clip(0, 255).astype(np.uint8), masks


def _over(
    frame: np.ndarray, picture: np.ndarray, cover: np.ndarray, matrix: np.ndarray
) -> np.ndarray:
    share = cover[..., None]
    return share * moved(picture, matrix) + (1 - share) * frame


def latent_masks(masks: np.ndarray, geometry: ModelGeometry) -> np.ndarray:
    """Masks (T, H, W) bool on the latents, (F, H', W') bool: the first frame and then every one at
    which a latent frame ends."""
    chosen = masks[:: geometry.temporal_ratio]  # (F, H, W)
    ratio = geometry.spatial_ratio
    return mask_to_grid(chosen, geometry.height // ratio, geometry.width // ratio)
