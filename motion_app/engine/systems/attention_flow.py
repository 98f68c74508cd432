"""MotionClone, and its form for several objects: the video's attention is led to move as a clip's.

Where a token of the first frame looks in each later frame tells where what it shows has gone. One
pass of the clip, lightly noised, gives that of the reference; while noise is strong, the latents
of the video are moved down the gradient of how far theirs is from it.

``MotionClone`` (arXiv 2406.05338) compares the largest entry of each row, for the whole picture,
and corrects the noise once a step. ``AttentionFlow`` compares where each object's tokens go on the
mean, as DiTFlow (arXiv 2412.07776) has it for a whole picture and MultiMotion (arXiv 2512.07500)
within the masks of objects, and takes some steps of Adam. Written afresh from these descriptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from motion_app.engine.backbone import Backbone
from motion_app.engine.systems.placing import Course, ToldObject
from motion_app.engine.systems.scene import SystemScene, Unsteered
from motion_app.geometry import ModelGeometry, mask_to_grid

Grid = tuple[int, int, int]  # F, h, w
REFERENCE_SEED = 0  # of the noise in which the clip is read, whatever the video's


@dataclass(frozen=True)
class CloneSettings:
    """``guided``: the share of the steps that are, as published; ``weight`` of the gradient.
    ``depth`` of the block whose attention is read, 0 to 1: on the pocket the last one tells where
    things go. ``level``: the noise level at which the clip is read, of 1000."""

    guided: float = 0.4
    weight: float = 2000.0
    depth: float = 1.0
    level: int = 400


@dataclass(frozen=True)
class FlowSettings:
    """As ``CloneSettings``; ``iterations`` of Adam at ``rate`` on each guided step; ``sharpness``
    of the map of which the mean place is taken."""

    guided: float = 0.5
    iterations: int = 5
    rate: float = 0.02
    sharpness: float = 2.0
    depth: float = 1.0
    level: int = 400


def frame_maps(query: Tensor, key: Tensor, rows: Tensor, grid: Grid, sharpness: float) -> Tensor:
    """Where tokens ``rows`` (n,) int64 of the first frame look in each later one: probabilities
    (F - 1, n, h·w), of the mean over heads. ``query``, ``key`` (heads, V, d) of the video."""
    frames, height, width = grid
    heads, _, channels = query.shape
    later = key[:, height * width :]  # (heads, (F - 1)·h·w, d)
    logits = torch.einsum("hnd,hmd->nm", query[:, rows].float(), later.float())
    logits = logits.unflatten(1, (frames - 1, height * width)).movedim(0, 1)  # (F - 1, n, h·w)
    return (logits * sharpness / (heads * math.sqrt(channels))).softmax(dim=-1)


def mean_flow(maps: Tensor, rows: Tensor, grid: Grid) -> Tensor:
    """How far tokens ``rows`` go on the mean to each later frame, (F - 1, 2) x and y in tokens."""
    _, height, width = grid
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y], dim=-1).flatten(0, 1).to(maps)  # (h·w, 2)
    return (maps @ places - places[rows]).mean(dim=1)


def cells_of(mask: np.ndarray, geometry: ModelGeometry) -> Tensor:
    """The tokens (n,) int64 of the first frame that ``mask`` (H, W) bool covers; the one at its
    centre where it covers none."""
    height, width = geometry.grid_height, geometry.grid_width
    found = np.flatnonzero(mask_to_grid(mask, height, width))
    if not len(found):
        y, x = (part.mean() / geometry.pixels_per_token for part in np.nonzero(mask))
        found = np.array([int(y) * width + int(x)])
    return torch.from_numpy(found)


class AttentionReader:
    """Query and key of one block, (heads, V, d), for latents that go through the model as far as
    that block. ``depth``: which block, 0 to 1."""

    def __init__(self, backbone: Backbone, depth: float) -> None:
        self.backbone = backbone
        layers = backbone.attention_layers()
        self.layer = layers[round(depth * (len(layers) - 1))]

    def read(
        self, latents: Tensor, condition: Tensor, text: Tensor, level: int
    ) -> tuple[Tensor, Tensor]:
        """``latents`` and ``condition`` (1, F, C, H', W'), ``text`` (1, L, text width); with
        gradient to the latents where gradients are on."""
        seen: list[Tensor] = []

        def listen(layer: int, tokens: tuple[Tensor, Tensor, Tensor], text: int) -> Tensor:
            query, key, _ = tokens
            seen[:] = [query[0, :, text:], key[0, :, text:]]
            return F.scaled_dot_product_attention(*tokens)

        timestep = torch.tensor([level], device=latents.device)
        with self.backbone.shortened(self.layer.number + 1), self.layer.attending(listen):
            self.backbone.predict(latents, condition, text, timestep)
        query, key = seen
        return query, key


class Led(Unsteered):
    """What both have in common: the picture as the model reads it, the gradient, the reference."""

    def __init__(self, scene: SystemScene, *, guided: float, depth: float, level: int) -> None:
        self.scene, self.level = scene, level
        self.reader = AttentionReader(scene.backbone, depth)
        self.grid = scene.backbone.geometry.grid
        self.guided = scene.share(guided)
        self.condition: Tensor | None = None

    def miss(self, query: Tensor, key: Tensor) -> Tensor:
        """How far the video's attention is from the clips', a number."""
        raise NotImplementedError

    def gradient(self, latents: Tensor, step: int) -> Tensor:
        """Of ``miss`` by ``latents`` (1, F, C, H', W') as they are before ``step``."""
        backbone = self.scene.backbone
        if self.condition is None:
            self.condition = _picture(backbone, self.scene.image[None], latents)
        with torch.enable_grad():
            varied = latents.detach().float().requires_grad_()
            text = self.scene.text[0].to(latents.device)
            read = self.reader.read(varied, self.condition, text, self.scene.timesteps[step])
            return torch.autograd.grad(self.miss(*read), varied)[0]

    def reference(self, thing: ToldObject) -> tuple[Tensor, Tensor]:
        """Query and key of the clip of ``thing``; computed once a clip."""
        base = self.scene.backbone.checkpoint.fingerprint
        layer = self.reader.layer.number
        name = ("attention", base, thing.clip.digest(), layer, self.level)
        if name not in self.scene.features:
            self.scene.features[name] = self._read(thing)
        return self.scene.features[name]

    def _read(self, thing: ToldObject) -> tuple[Tensor, Tensor]:
        backbone, frames = self.scene.backbone, thing.clip.frames
        device = backbone.profile.device
        clean = backbone.padded(backbone.encode_clip(frames)[0]).to(device)
        generator = torch.Generator("cpu").manual_seed(REFERENCE_SEED)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noisy = backbone.noisy(clean, noise, torch.tensor([self.level], device=device))
        text = backbone.prompts.encode("", guided=False)[0].to(device)
        with torch.no_grad():
            return self.reader.read(noisy, _picture(backbone, frames[:1], clean), text, self.level)


class MotionClone(Led):
    """The noise of each step is corrected by the gradient; the clean estimate stays."""

    def __init__(self, scene: SystemScene, settings: CloneSettings) -> None:
        super().__init__(scene, guided=settings.guided, depth=settings.depth, level=settings.level)
        self.weight = settings.weight
        self.rows = torch.arange(self.grid[1] * self.grid[2])
        self.largest = [
            frame_maps(*self.reference(thing), self.rows, self.grid, 1.0).max(dim=-1)
            for thing in scene.objects
        ]
        self.before: Tensor | None = None

    def initial_latents(self, noise: Tensor) -> Tensor:
        self.before = noise
        return noise

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        before, self.before = self.before, latents
        if step >= self.guided or before is None:
            return latents
        backbone = self.scene.backbone
        noise_here = 1 - backbone.kept(self.scene.timesteps[step])
        noise_then = 1 - backbone.kept(self.scene.after(step))
        slope = self.gradient(before, step).to(latents)
        self.before = latents - self.weight * (noise_here * noise_then) ** 0.5 * slope
        return self.before

    def miss(self, query: Tensor, key: Tensor) -> Tensor:
        maps = frame_maps(query, key, self.rows, self.grid, 1.0)  # (F - 1, h·w, h·w)
        parts = [
            (maps.gather(-1, indices[..., None])[..., 0] - values).square().mean()
            for values, indices in self.largest
        ]
        return torch.stack(parts).sum()


class AttentionFlow(Led):
    """Each object's tokens are led along the way that its motion's mover takes in its clip."""

    def __init__(self, scene: SystemScene, settings: FlowSettings) -> None:
        super().__init__(scene, guided=settings.guided, depth=settings.depth, level=settings.level)
        self.settings = settings
        geometry = scene.backbone.geometry
        self.rows = [cells_of(thing.mask, geometry) for thing in scene.objects]
        self.flows = [self._flow_of(thing, geometry) for thing in scene.objects]

    def initial_latents(self, noise: Tensor) -> Tensor:
        return self._led(noise, 0)

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        return self._led(latents, step + 1)

    def _led(self, latents: Tensor, step: int) -> Tensor:
        if step >= self.guided:
            return latents
        varied = latents.detach().float().clone()
        optimiser = torch.optim.Adam([varied], lr=self.settings.rate)
        for _ in range(self.settings.iterations):
            varied.grad = self.gradient(varied, step)
            optimiser.step()
        return varied.to(latents)

    def miss(self, query: Tensor, key: Tensor) -> Tensor:
        pairs = zip(self.rows, self.flows, strict=True)
        parts = [(self._flow(query, key, rows) - flow).square().mean() for rows, flow in pairs]
        return torch.stack(parts).sum()

    def _flow_of(self, thing: ToldObject, geometry: ModelGeometry) -> Tensor:
        """The clip's flow in the object's size."""
        query, key = self.reference(thing)
        return Course.of(thing).scale * self._flow(query, key, cells_of(thing.masks[0], geometry))

    def _flow(self, query: Tensor, key: Tensor, rows: Tensor) -> Tensor:
        maps = frame_maps(query, key, rows, self.grid, self.settings.sharpness)
        return mean_flow(maps, rows.to(maps.device), self.grid)


def _picture(backbone: Backbone, frame: np.ndarray, latents: Tensor) -> Tensor:
    """``frame`` (1, H, W, 3) uint8 as the condition beside ``latents``."""
    picture = backbone.encode_clip(frame)[0][:, 0]  # (1, C, H', W')
    return backbone.image_condition(picture.to(latents), latents)
