"""A cheap look at latents while a video is made: a linear map from their channels to colour."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from motion_app.geometry import ModelGeometry


def draw_preview(latents: np.ndarray, colours: np.ndarray, geometry: ModelGeometry) -> np.ndarray:
    """Latents (F, C, H', W') float as frames (F, H, W, 3) uint8, one per latent frame; ``colours``
    as ``fit_colours`` gives them. On the CPU, wherever the VAE is."""
    channels = torch.as_tensor(latents).float().movedim(1, -1)  # (F, H', W', C)
    pixels = (_with_one(channels) @ torch.from_numpy(colours)).movedim(-1, 1)  # (F, 3, H', W')
    size = (geometry.height, geometry.width)
    pixels = F.interpolate(pixels, size, mode="bilinear")  # (F, 3, H, W)
    return to_pixels(pixels.movedim(1, -1))  # (F, H, W, 3)


def patchwork(geometry: ModelGeometry) -> Tensor:
    """(2, 3, H, W) float32 in [-1, 1]: pictures of colours side by side, the same every time."""
    draws = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(draws, (geometry.height, geometry.width), mode="nearest") * 2 - 1


def fit_colours(pictures: Tensor, latents: Tensor) -> np.ndarray:
    """(C + 1, 3) float32, the linear map from latent channels to colour that fits a VAE best: least
    squares from ``latents`` (n, C, H', W') of ``pictures`` (n, 3, H, W) to their pixels."""
    small = F.interpolate(pictures, latents.shape[-2:], mode="area")  # (n, 3, H', W')
    rows = _with_one(latents.movedim(1, -1).flatten(0, 2))  # (n * H' * W', C + 1)
    return torch.linalg.lstsq(rows, small.movedim(1, -1).flatten(0, 2)).solution.numpy()


def to_pixels(values: Tensor) -> np.ndarray:
    """Values around [-1, 1] as uint8, rounded as diffusers does."""
    return ((values.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _with_one(channels: Tensor) -> Tensor:
    """(…, C) → (…, C + 1): a constant channel for the offset."""
    return F.pad(channels, (0, 1), value=1.0)
