"""What a training step compares: noisy views, the velocity the model predicts and the true one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from motion_app.engine.pipeline import MotionEngine
from motion_app.training.clips import CachedViews
from motion_app.training.config import ClipTraining


@dataclass(frozen=True, eq=False)
class NoisyViews:
    """A batch on its way into the transformer: ``latents``, ``noise`` and ``condition`` (the first
    frame's own latents, then zeros) are (B, F, C, H', W') float32, ``timesteps`` (B,) int64."""

    latents: Tensor
    noise: Tensor
    condition: Tensor
    timesteps: Tensor

    def rows(self, rows: slice) -> NoisyViews:
        """Some of the batch."""
        parts = (self.latents, self.noise, self.condition, self.timesteps)
        return NoisyViews(*(part[rows] for part in parts))


def draw_noise(
    views: CachedViews,
    picked: np.ndarray,
    config: ClipTraining,
    engine: MotionEngine,
    *,
    rng: np.random.Generator,
    generator: torch.Generator,
    image_noise: tuple[float, ...] = (),
) -> NoisyViews:
    """Latents of the ``picked`` views (B,) int64, noise, timesteps and image conditions, on the
    transformer's device. ``image_noise``: mean and deviation of ln σ of the noise on the images."""
    device = engine.pipe.transformer.device
    drawing = generator if config.sample_latents else None
    latents = padded(views.latents.draw(picked, drawing), engine)
    images = views.images.draw(picked, drawing)[:, 0]  # (B, C, H', W')
    noise = torch.randn(latents.shape, generator=generator)
    total = engine.pipe.scheduler.config.num_train_timesteps
    shares = 1 - config.noisy_share * torch.rand(len(latents), generator=generator)
    timesteps = (shares * total).long().clamp(0, total - 1)  # (B,)
    keep = torch.from_numpy(rng.random(len(latents)) >= config.image_dropout).to(latents)
    if image_noise:
        mean, deviation = image_noise
        sigma = (mean + deviation * torch.randn(len(latents), generator=generator)).exp()
        added = torch.randn(images.shape, generator=generator)
        images = images + sigma[:, None, None, None] * added
    condition = image_condition(images * keep[:, None, None, None], latents, engine)
    return NoisyViews(*(part.to(device) for part in (latents, noise, condition, timesteps)))


def padded(latents: Tensor, engine: MotionEngine) -> Tensor:
    """``latents`` (B, F, C, H', W') with the first frame repeated in front where a token spans
    several latent frames and F does not divide, as the stock pipeline has it."""
    spare = engine.geometry.padded_latent_frames - latents.shape[1]
    return torch.cat([latents[:, :spare], latents], dim=1)


def image_condition(images: Tensor, latents: Tensor, engine: MotionEngine) -> Tensor:
    """What the stock pipeline hands the transformer beside ``latents`` (B, F, C, H', W'), padded,
    for pictures encoded alone, ``images`` (B, C, H', W'): these in front, zeros after, of the shape
    of ``latents``."""
    vae, geometry = engine.pipe.vae.config, engine.geometry
    if vae.invert_scale_latents:  # 1.5 reads its picture divided by the factor, not multiplied
        images = images / vae.scaling_factor**2
    condition = torch.zeros_like(latents)
    repeated = 1 + geometry.padded_latent_frames - geometry.latent_frames
    condition[:, :repeated] = images[:, None]
    return condition


def ofs_input(transformer: nn.Module, latents: Tensor) -> Tensor | None:
    """The stock pipeline's own constant, for CogVideoX 1.5 alone."""
    return None if transformer.config.ofs_embed_dim is None else latents.new_full((1,), 2.0)


def velocity_miss(
    draws: NoisyViews,
    text: Tensor,
    engine: MotionEngine,
    *,
    rotary: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Predicted minus true velocity (B, F, C, H', W') float32, and ᾱ (B, 1, 1, 1, 1); ``text``
    (B, L, text width)."""
    transformer, scheduler = engine.pipe.transformer, engine.pipe.scheduler
    noisy = scheduler.add_noise(draws.latents, draws.noise, draws.timesteps)
    with _fast_bfloat16(transformer):
        velocity = transformer(
            hidden_states=torch.cat([noisy, draws.condition], dim=2).to(transformer.dtype),
            encoder_hidden_states=text.to(transformer.dtype),
            timestep=draws.timesteps,
            ofs=ofs_input(transformer, draws.latents),
            image_rotary_emb=rotary,
            return_dict=False,
        )[0].float()  # (B, F, C, H', W')
    kept = scheduler.alphas_cumprod.to(draws.latents)[draws.timesteps].view(-1, 1, 1, 1, 1)
    target = kept.sqrt() * draws.noise - (1 - kept).sqrt() * draws.latents
    return velocity - target, kept


def weighted_error(miss: Tensor, draws: NoisyViews, config: ClipTraining) -> Tensor:
    """The mean square of ``miss``, places that differ from the first frame ``moving_weight`` times
    as heavy as others."""
    latents = draws.latents
    moving = (latents - latents[:, :1]).abs().mean(dim=2, keepdim=True) > 0.2
    weights = 1 + (config.moving_weight - 1) * moving.float()
    return (miss.square() * weights / weights.mean()).mean()


def _fast_bfloat16(transformer: nn.Module) -> AbstractContextManager:
    """bfloat16 where it is the fast type: a float32 model on a CPU with AVX-512 BF16 computes its
    matrix products four times as fast. Tokens and optimiser stay float32."""
    wanted = transformer.device.type == "cpu" and transformer.dtype == torch.float32
    if wanted and torch.cpu._is_avx512_bf16_supported():
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
