"""Reference clips → cached latents: random views, encoded once (docs/method.md, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from motion_app.engine.backbone import Backbone
from motion_app.errors import MediaError
from motion_app.geometry import ModelGeometry, mask_to_grid
from motion_app.media.files import Clip

ROUGH_SHARE, DROPPED = 0.5, 0.1  # of lagging masks that lose cells or grow, and of their cells


@dataclass(frozen=True)
class ViewConfig:
    """How a reference clip is varied, so that its layout is not learned with its motion.

    ``count`` views in all. Each is magnified by a factor from ``zoom`` relative to the largest
    centred crop (below 1 the border is repeated outwards) and moved by up to ``shift`` of the
    frame's size; both keep the aspect ratio. ``permute_colours`` shuffles red, green and blue.
    """

    count: int = 12
    zoom: tuple[float, float] = (1.0, 1.3)
    shift: float = 0.1
    permute_colours: bool = False


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the VAE says of n views, a normal distribution for each number: ``mean``, which is its
    mode too, and ``deviation``, both (n, F, C, H', W') float32 on the CPU, scaled as the
    transformer takes latents."""

    mean: Tensor
    deviation: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def draw(self, views: np.ndarray, generator: torch.Generator | None) -> Tensor:
        """Latents (B, F, C, H', W') of the views with these numbers: a sample of the distribution
        drawn from ``generator``, its mean where that is None."""
        mean = self.mean[views]
        if generator is None:
            return mean
        return mean + self.deviation[views] * torch.randn(mean.shape, generator=generator)


@dataclass(frozen=True, eq=False)
class CachedViews:
    """``latents`` of n whole views, F latent frames each; ``images`` of their first video frames
    encoded alone, F = 1, as a picture is at inference: a clip's own first latent frame is 3 to 7%
    away from it, because the encoder normalises over time. ``object_masks`` (n, F, h, w) bool where
    the clips came with masks, else None; ``frames`` (n, F, H, W, 3) uint8, the video frame in the
    middle of those that each latent frame encodes, to be looked at."""

    latents: Posterior
    images: Posterior
    object_masks: Tensor | None
    frames: np.ndarray


def draw_views(
    clips: Sequence[Clip],
    geometry: ModelGeometry,
    config: ViewConfig,
    *,
    seed: int,
    masks: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Random windows of the clips in the model frame, clips in turn.

    ``masks``: per clip (T', H0, W0) bool of its one object. Returns frames (n, T, H, W, 3) uint8
    and masks (n, T, H, W) bool or None. Raises MediaError for a clip shorter than the model's T
    frames.
    """
    for number, clip in enumerate(clips):
        if len(clip.frames) < geometry.frames:
            needed = geometry.frames / geometry.fps
            raise MediaError(
                f"clip {number + 1} gives {len(clip.frames)} frames at {geometry.fps:g} per "
                f"second; this model learns from {geometry.frames}: use a clip of at least "
                f"{needed:.1f} s"
            )
    rng = np.random.default_rng(seed)
    views, view_masks = [], []
    for i in range(config.count):
        clip = clips[i % len(clips)]
        first = int(rng.integers(len(clip.frames) - geometry.frames + 1))
        window = slice(first, first + geometry.frames)
        matrix = _view_matrix(rng, clip.frames.shape[1:3], geometry, config, plain=i < len(clips))
        frames = _warp(clip.frames[window], matrix, geometry)  # (T, H, W, 3)
        if config.permute_colours and i >= len(clips):
            frames = frames[..., rng.permutation(3)]
        views.append(frames)
        if masks is not None:
            grey = masks[i % len(clips)][window].astype(np.uint8) * 255
            view_masks.append(_warp(grey, matrix, geometry) > 127)
    return np.stack(views), np.stack(view_masks) if masks is not None else None


def _view_matrix(
    rng: np.random.Generator,
    size: tuple[int, int],
    geometry: ModelGeometry,
    config: ViewConfig,
    *,
    plain: bool,
) -> np.ndarray:
    """(2, 3) affine from a clip's pixels to the model frame. ``plain``: the centred crop itself, so
    that every clip is seen once as it is."""
    height, width = size
    scale = max(geometry.height / height, geometry.width / width)
    dx = dy = 0.0
    if not plain:
        scale *= rng.uniform(*config.zoom)
        dx = rng.uniform(-config.shift, config.shift) * geometry.width
        dy = rng.uniform(-config.shift, config.shift) * geometry.height
    # Pixel centres: the clip's middle goes to the frame's middle, then moves by (dx, dy).
    x = (geometry.width - 1) / 2 + dx - scale * (width - 1) / 2
    y = (geometry.height - 1) / 2 + dy - scale * (height - 1) / 2
    return np.array([[scale, 0.0, x], [0.0, scale, y]])


def _warp(frames: np.ndarray, matrix: np.ndarray, geometry: ModelGeometry) -> np.ndarray:
    size = (geometry.width, geometry.height)
    flags = cv2.INTER_AREA if matrix[0, 0] < 1 else cv2.INTER_CUBIC
    return np.stack(
        [
            cv2.warpAffine(frame, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
            for frame in frames
        ]
    )


def grid_masks(masks: np.ndarray, geometry: ModelGeometry) -> np.ndarray:
    """Masks (..., T, H, W) bool of every frame on the token grid, (..., F, h, w) bool: a latent
    frame shows the mean of the video frames it encodes (the first frame stands alone)."""
    cells = []
    for group in geometry.frame_groups():
        shown = masks[..., group, :, :].mean(axis=-3) >= 0.5  # (..., H, W)
        cells.append(mask_to_grid(shown, geometry.grid_height, geometry.grid_width))
    grid = np.stack(cells, axis=-3)  # (..., latent frames, h, w)
    step = geometry.patch_size_t
    if step is None:
        return grid
    spare = geometry.spare_latent_frames
    grid = np.concatenate([grid[..., :spare, :, :], grid], axis=-3)
    shape = (*grid.shape[:-3], geometry.grid_frames, step, *grid.shape[-2:])
    return grid.reshape(shape).any(axis=-3)  # a token that shows it in one of its frames


def lagging(masks: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """``masks`` (F, h, w), bool or a bit for each object, as a generation knows them at a ``noise``
    from 0 to 1: each frame shows where the objects were a share of the way before, at full noise
    mostly where they began; half of them rough."""
    frames = len(masks)
    pace = 0.0 if rng.random() < noise**4 else rng.uniform(1 - noise, 1)
    known = masks[(np.arange(frames) * pace).round().astype(int)]
    if rng.random() >= ROUGH_SHARE:
        return known
    if rng.random() < 0.5:
        return known * (rng.random(known.shape) >= DROPPED)
    grown = np.pad(known, ((0, 0), (1, 1), (1, 1)))
    around = grown[:, :-2, 1:-1] | grown[:, 2:, 1:-1] | grown[:, 1:-1, :-2] | grown[:, 1:-1, 2:]
    return np.where(known == 0, around, known)


def encode_views(backbone: Backbone, frames: np.ndarray) -> Posterior:
    """(n, T, H, W, 3) uint8 → the posterior of their latents, (n, F, C, H', W'); a first frame
    alone, T = 1, gives F = 1."""
    means, deviations = zip(*(backbone.encode_clip(view) for view in frames), strict=True)
    return Posterior(torch.cat(means), torch.cat(deviations))


def cache_views(
    backbone: Backbone,
    clips: Sequence[Clip],
    config: ViewConfig,
    *,
    seed: int,
    masks: Sequence[np.ndarray] | None = None,
) -> CachedViews:
    """Draws the views and encodes them, once for the whole training."""
    geometry = backbone.geometry
    frames, view_masks = draw_views(clips, geometry, config, seed=seed, masks=masks)
    grids = None if view_masks is None else torch.from_numpy(grid_masks(view_masks, geometry))
    middles = [(group.start + group.stop - 1) // 2 for group in geometry.frame_groups()]
    latents, images = encode_views(backbone, frames), encode_views(backbone, frames[:, :1])
    return CachedViews(latents, images, grids, frames[:, middles])
