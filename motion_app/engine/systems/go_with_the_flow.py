"""Go-with-the-Flow: the video starts from noise that already moves as its objects shall.

Written from the description of the method (arXiv 2501.08331). A model that was trained on on noise
warped by the clips' own flow follows the noise it is given; sampling is the stock pipeline's. Each
object's flow is that of its motion's clip inside its mover, carried over to the object; the ground
stands still (FlexiMMT, supplement A.2).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from motion_app.engine.adapters import GatedAdapters, adapted
from motion_app.engine.layers import AttentionLayer
from motion_app.engine.systems.model_adapter import model_adapter
from motion_app.engine.systems.noise_warping import degraded, warped_noise
from motion_app.engine.systems.placing import Course, ToldObject, latent_times, moved, moved_mask
from motion_app.engine.systems.scene import SystemScene, Unsteered
from motion_app.geometry import ModelGeometry

METHOD = "go-with-the-flow"
NOISE = 1  # which of the seed's further random numbers these are


@dataclass(frozen=True)
class FlowNoiseSettings:
    """``degradation``: the share of ordinary noise, as published; at 1 nothing is told and the
    model is the stock one. ``fineness``: cells of noise along a pixel's side, where 4 are
    published."""

    degradation: float = 0.5
    fineness: int = 2


class GoWithTheFlow(Unsteered):
    """Warped noise to start from, and the adapter of a model that has learned to follow it."""

    def __init__(self, scene: SystemScene, settings: FlowNoiseSettings) -> None:
        self.scene, self.settings = scene, settings
        self.adapter = model_adapter(scene, METHOD) if settings.degradation < 1 else None

    def initial_latents(self, noise: Tensor) -> Tensor:
        if self.adapter is None:
            return noise
        g = self.scene.backbone.geometry
        moving = warped_noise(
            torch.from_numpy(placed_flow(self.scene.objects, g))[None],
            latent_times(g),
            channels=noise.shape[2],
            ratio=g.spatial_ratio,
            fineness=self.settings.fineness,
            draw=self.scene.generator(NOISE),
        )
        return degraded(moving.to(noise), noise, self.settings.degradation)

    @contextmanager
    def installed(self, layers: Sequence[AttentionLayer]) -> Iterator[None]:
        if self.adapter is None:
            yield
            return
        with adapted(layers, GatedAdapters([self.adapter])):
            yield


def clip_flow(frames: np.ndarray) -> np.ndarray:
    """Flow (T - 1, H, W, 2) float32, x and y in pixels, from each of ``frames`` (T, H, W, 3) uint8
    to the next."""
    method: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([method.calc(a, b, None) for a, b in itertools.pairwise(grey)])


def placed_flow(things: Sequence[ToldObject], geometry: ModelGeometry) -> np.ndarray:
    """Flow (T - 1, H, W, 2) float32 of the video in which each of ``things`` moves as its mover
    does: inside the mover's mask, carried over and scaled; 0 elsewhere. What is listed last is in
    front."""
    flow = np.zeros((geometry.frames - 1, geometry.height, geometry.width, 2), np.float32)
    for thing in things:
        course = Course.of(thing)
        matrix = course.from_reference()
        for t, field in enumerate(clip_flow(thing.clip.frames)):
            inside = moved_mask(thing.masks[t], matrix)
            flow[t][inside] = course.scale * moved(field, matrix)[inside]
    return flow
