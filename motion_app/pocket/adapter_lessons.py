"""What adapters of the whole backbone are trained on: rendered clips with something beside.

"warped-noise", of Go-with-the-Flow (arXiv 2501.08331): the noise that is taken away from a clip
moves along with it, by flow inside each creature, and is mixed with ordinary noise by a share that
is drawn. "any-frame", of FlexiAct (arXiv 2505.03730): any frame of the clip stands in its first
one's place.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from motion_app.engine.systems.go_with_the_flow import clip_flow
from motion_app.engine.systems.noise_warping import degraded, warped_noise
from motion_app.engine.systems.placing import latent_times
from motion_app.geometry import ModelGeometry
from motion_app.pocket.vae import (
    CHUNK,
    LatentClips,
    chunk_scenes,
    encode_clips,
    encode_frames,
    read_clips,
)
from motion_app.text_files import write_whole
from motion_app.world.world import RenderedClip, WorldConfig, render

log = logging.getLogger(__name__)
UNITS = 4  # flow is kept as whole quarters of a pixel, in one byte
SLIGHT = 0.2  # below this share of ordinary noise half of all samples are drawn
FINENESS = 2  # cells of noise along a pixel's side, see ``warped_noise``
FRAMES = 3  # of each clip, that stand in its first one's place
DrawBeside = Callable[[Sequence[RenderedClip], AutoencoderKLCogVideoX], np.ndarray]


class AdapterLesson(ABC):
    """``clips``, and ``beside``: per chunk what else is known of them, (n, ...) memory-mapped."""

    name: ClassVar[str]

    def __init__(
        self, clips: LatentClips, beside: Sequence[np.ndarray], geometry: ModelGeometry
    ) -> None:
        self.clips, self.beside, self.geometry = clips, beside, geometry

    def __len__(self) -> int:
        return len(self.clips)

    @abstractmethod
    def noise(self, picked: np.ndarray, rng: np.random.Generator, draw: torch.Generator) -> Tensor:
        """(B, F, C, H', W'), padded, for the clips ``picked``."""

    @abstractmethod
    def pictures(self, picked: np.ndarray, rng: np.random.Generator) -> Tensor:
        """What the model is given in their first frames' place, (B, C, H', W')."""

    def known(self, picked: np.ndarray) -> Tensor:
        """What ``beside`` has of the clips ``picked``, (B, ...)."""
        found = [divmod(int(i), CHUNK) for i in picked]
        return torch.from_numpy(np.stack([self.beside[chunk][row] for chunk, row in found]))

    def _shape(self, batch: int) -> tuple[int, ...]:
        g = self.geometry
        frame = (g.height // g.spatial_ratio, g.width // g.spatial_ratio)
        return (batch, g.padded_latent_frames, g.latent_channels, *frame)


class WarpedNoise(AdapterLesson):
    """``beside``: flow, (n, T - 1, H, W, 2) int8 in UNITS of a pixel, 0 where no creature is."""

    name = "warped-noise"

    def noise(self, picked: np.ndarray, rng: np.random.Generator, draw: torch.Generator) -> Tensor:
        moving = self.moving(picked, draw)
        fresh = torch.randn(moving.shape, generator=draw)
        return degraded(moving, fresh, draw_shares(rng, len(picked)))

    def pictures(self, picked: np.ndarray, rng: np.random.Generator) -> Tensor:
        return self.clips.take(picked)[1]

    def moving(self, picked: np.ndarray, draw: torch.Generator) -> Tensor:
        """Noise (B, F, C, H', W') that moves as the clips do."""
        g = self.geometry
        return warped_noise(
            self.known(picked).float() / UNITS,
            latent_times(g),
            channels=g.latent_channels,
            ratio=g.spatial_ratio,
            fineness=FINENESS,
            draw=draw,
        )


class AnyFrame(AdapterLesson):
    """``beside``: FRAMES frames of each clip, encoded alone, (n, FRAMES, C, H', W') float16."""

    name = "any-frame"

    def noise(self, picked: np.ndarray, rng: np.random.Generator, draw: torch.Generator) -> Tensor:
        return torch.randn(self._shape(len(picked)), generator=draw)

    def pictures(self, picked: np.ndarray, rng: np.random.Generator) -> Tensor:
        chosen = torch.from_numpy(rng.integers(FRAMES, size=len(picked)))
        return self.known(picked).float()[torch.arange(len(picked)), chosen]


LESSONS: dict[str, type[AdapterLesson]] = {
    lesson.name: lesson for lesson in (WarpedNoise, AnyFrame)
}


def draw_lesson(
    name: str,
    folder: Path,
    vae: AutoencoderKLCogVideoX,
    geometry: ModelGeometry,
    *,
    count: int,
    seed: int,
    config: WorldConfig,
) -> AdapterLesson:
    """The lesson ``name`` of at least ``count`` clips under ``folder``, drawn as ``encode_clips``
    draws them; what is there already is taken."""
    encode_clips(folder, vae, count=count, seed=seed, config=config)
    chunks = -(-count // CHUNK)
    files = [folder / f"{number:04d}-{name}.npy" for number in range(chunks)]
    for number, file in enumerate(files):
        if not file.exists():
            clips = [render(scene) for scene in chunk_scenes(seed, number, config, CHUNK)]
            found = DRAWN[name](clips, vae)
            write_whole(file, lambda part, found=found: np.save(part, found), ending=".npy")
            log.info("%s: %d clips", name, (number + 1) * CHUNK)
    known = read_clips(folder)
    clips = LatentClips(
        known.latents[:chunks],
        known.images[:chunks],
        known.codes[:chunks],
        known.sentences[: chunks * CHUNK],
    )
    return LESSONS[name](clips, [np.load(file, mmap_mode="r") for file in files], geometry)


def moving_parts(clips: Sequence[RenderedClip], vae: AutoencoderKLCogVideoX) -> np.ndarray:
    """Flow of ``clips`` inside their creatures, (n, T - 1, H, W, 2) int8 in UNITS of a pixel."""
    found = []
    for clip in clips:
        inside = clip.masks[:, :-1].any(axis=0)  # (T - 1, H, W)
        flow = clip_flow(clip.frames) * inside[..., None]
        found.append(np.clip(np.round(flow * UNITS), -127, 127).astype(np.int8))
    return np.stack(found)


def any_frames(clips: Sequence[RenderedClip], vae: AutoencoderKLCogVideoX) -> np.ndarray:
    """FRAMES frames of each of ``clips``, evenly spaced and the first not among them, each encoded
    alone: (n, FRAMES, C, H', W') float16."""
    found = []
    for clip in clips:
        chosen = np.linspace(0, len(clip.frames) - 1, FRAMES + 1).round().astype(int)[1:]
        found.append(encode_frames(vae, clip.frames[chosen][:, None])[1])
    return np.stack(found)


DRAWN: dict[str, DrawBeside] = {WarpedNoise.name: moving_parts, AnyFrame.name: any_frames}


def draw_shares(rng: np.random.Generator, count: int) -> Tensor:
    """Shares of ordinary noise (count, 1, 1, 1, 1) float32: half of them below SLIGHT, since that
    is where noise can be followed, the others anywhere."""
    slight = rng.random(count) < 0.5
    drawn = rng.random(count) * np.where(slight, SLIGHT, 1.0)
    return torch.from_numpy(drawn).float().view(-1, 1, 1, 1, 1)
