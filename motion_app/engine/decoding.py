"""Latents back to pixels: the finished video, and a cheap preview while it is made."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import CogVideoXImageToVideoPipeline
from torch import Tensor

from motion_app.errors import CheckpointError
from motion_app.geometry import ModelGeometry


class LatentDecoder:
    """The VAE's way back, for one checkpoint on ``device``."""

    def __init__(
        self, pipe: CogVideoXImageToVideoPipeline, geometry: ModelGeometry, device: torch.device
    ) -> None:
        self.pipe = pipe
        self.geometry = geometry
        self.device = device

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (1, F, C, H', W') as frames (T, H, W, 3) uint8, as the stock pipeline does it.

        On the CPU the clip is decoded twice over in one batch: at batch 1 PyTorch's 3-D convolution
        takes a path ten times slower. Raises CheckpointError for another number of frames than T.
        """
        copies = 2 if self.device.type == "cpu" else 1
        latents = latents.to(self.device, self.pipe.vae.dtype).repeat(copies, 1, 1, 1, 1)
        video = self.pipe.decode_latents(latents)[0]  # (3, T, H, W)
        if video.shape[1] != self.geometry.frames:
            raise CheckpointError(
                f"the VAE decoded {video.shape[1]} frames, expected {self.geometry.frames}; "
                "its config and weights do not belong together"
            )
        return _to_pixels(video.movedim(0, -1))  # (T, H, W, 3)

    def preview(self, latents: np.ndarray) -> np.ndarray:
        """``draw_preview`` by this VAE's own colours."""
        return draw_preview(latents, self.colours, self.geometry)

    @cached_property
    @torch.no_grad()
    def colours(self) -> np.ndarray:
        """(C + 1, 3) float32, the linear map from latent channels to colour that fits this VAE
        best: least squares from the latents of a patchwork of colours to its pixels."""
        size = (self.geometry.height, self.geometry.width)
        draws = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
        picture = F.interpolate(draws, size, mode="nearest") * 2 - 1  # (2, 3, H, W)
        vae = self.pipe.vae
        encoded = vae.encode(picture[:, :, None].to(self.device, vae.dtype)).latent_dist.mode()
        latents = encoded[:, :, 0].float().cpu() * self.pipe.vae_scaling_factor_image
        small = F.interpolate(picture, latents.shape[-2:], mode="area")  # (2, 3, H', W')
        rows = _with_one(latents.movedim(1, -1).flatten(0, 2))  # (2 * H' * W', C + 1)
        return torch.linalg.lstsq(rows, small.movedim(1, -1).flatten(0, 2)).solution.numpy()


def draw_preview(latents: np.ndarray, colours: np.ndarray, geometry: ModelGeometry) -> np.ndarray:
    """Latents (F, C, H', W') float as frames (F, H, W, 3) uint8, one per latent frame; ``colours``
    as ``LatentDecoder.colours``. On the CPU, wherever the VAE is."""
    channels = torch.as_tensor(latents).float().movedim(1, -1)  # (F, H', W', C)
    pixels = (_with_one(channels) @ torch.from_numpy(colours)).movedim(-1, 1)  # (F, 3, H', W')
    size = (geometry.height, geometry.width)
    pixels = F.interpolate(pixels, size, mode="bilinear")  # (F, 3, H, W)
    return _to_pixels(pixels.movedim(1, -1))  # (F, H, W, 3)


def _with_one(channels: Tensor) -> Tensor:
    """(…, C) → (…, C + 1): a constant channel for the offset."""
    return F.pad(channels, (0, 1), value=1.0)


def _to_pixels(values: Tensor) -> np.ndarray:
    """Values around [-1, 1] as uint8, rounded as diffusers does."""
    return ((values.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
