"""How much memory and time a checkpoint takes, told before its weights are read.

Weights are counted from the safetensors headers, in the type they will be used in (CogVideoX 1.5
stores its text encoder in float32). Activations follow from the sizes: what a forward pass keeps
at its fullest moment, fitted to ``PeakMemory`` on small models, to which tests hold it. A GPU's own
context and fragmentation are left out; ``memory.RESERVE`` is for those.

How long a video takes on a GPU that was never timed, from how much there is to compute.

A first guess alone: what was measured replaces it. The rates are those of half an H200, the GPU
that ZeroGPU lends, with room; they were not measured with this program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from motion_app.geometry import ModelGeometry
from motion_app.models.checkpoint import Checkpoint, PartWeights

GIGABYTE = 1e9
# Fitted: tensors of the transformer's width per token, at 2 and 4 bytes a number, for the stock
# attention; and those that motion keys, gathered groups and their outputs add.
STOCK_UNITS = {2: 13.0, 4: 12.1}
STEERED_UNITS = 5.0
# Fitted: the VAE's decoder beside its caches, in tensors of its last stage's input and of latents.
DECODER_UNITS, DECODER_LATENT_UNITS = 4.1, 3.3
ENCODER_UNITS = 8.5
ATTENTION_AND_PRODUCTS = 150e12  # of bfloat16 operations a second, in the transformer
CONVOLUTIONS = 30e12  # the same in the VAE
TO_DEVICE = 2e9  # bytes of weights a second, from main memory or a local disk
LEAST_STEP = 0.1  # s: a small model waits for its kernels to start
LEARNING_PASSES = 3  # forward, forward again, backward: weights are frozen, none has a gradient
START = 4.0  # s: a process, its libraries, the first kernels


@dataclass(frozen=True)
class Footprint:
    """Bytes. ``item`` of one number in use; ``denoising``, ``decoding`` (whole frames),
    ``decoding_tiled`` and ``encoding`` are activations."""

    parts: Mapping[str, PartWeights]
    item: int
    denoising: int
    decoding: int
    decoding_tiled: int
    encoding: int

    def bytes_of(self, part: str, item: float | None = None) -> int:
        """All weights of ``part``; 0 where the checkpoint has none."""
        found = self.parts.get(part)
        return 0 if found is None else round(found.weights * (self.item if item is None else item))

    def streamed_bytes(self, part: str, item: float | None = None) -> int:
        """What of ``part`` is on the device while blocks come and go: two of them, one at work and
        one on its way, and what is in none."""
        found = self.parts.get(part)
        if found is None:
            return 0
        item = self.item if item is None else item
        return round((2 * found.largest_block + found.outside) * item)

    @property
    def weight_bytes(self) -> int:
        """All weights of all parts."""
        return sum(self.bytes_of(part) for part in self.parts)


def footprint(checkpoint: Checkpoint, *, item: int) -> Footprint:
    """The footprint of a checkpoint at its own sizes, ``item`` bytes a number; CheckpointError for
    a broken file."""
    return footprint_of(
        checkpoint.geometry,
        checkpoint.vae,
        checkpoint.weights,
        item=item,
        guided=checkpoint.defaults.guidance > 1,
    )


def footprint_of(
    geometry: ModelGeometry,
    vae: Mapping[str, Any],
    parts: Mapping[str, PartWeights],
    *,
    item: int,
    guided: bool = True,
) -> Footprint:
    """The footprint of sizes alone."""
    tile = tile_size(vae)
    whole = (geometry.height, geometry.width)
    tiled = (min(whole[0], tile[0]), min(whole[1], tile[1]))
    return Footprint(
        parts=parts,
        item=item,
        denoising=denoising_bytes(geometry, batch=2 if guided else 1, item=item),
        decoding=decoding_bytes(geometry, vae, size=whole, item=item),
        decoding_tiled=decoding_bytes(geometry, vae, size=tiled, item=item),
        encoding=encoding_bytes(geometry, vae, item=item),
    )


def tile_size(vae: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) in pixels of the VAE's tiles: half its own size as diffusers has it, enlarged
    to where the overlaps of a sixth and a fifth are whole latent pixels; others do not join."""
    ratio = 2 ** (len(vae["block_out_channels"]) - 1)
    height, width = vae.get("sample_height", 480) // 2, vae.get("sample_width", 720) // 2
    return -(-height // (6 * ratio)) * 6 * ratio, -(-width // (5 * ratio)) * 5 * ratio


def denoising_bytes(geometry: ModelGeometry, *, batch: int, item: int, steered: bool = True) -> int:
    """Activations of one forward pass of the transformer, motions of a text's length included
    where ``steered``."""
    tokens = geometry.text_tokens + geometry.video_tokens
    units = STOCK_UNITS[4 if item >= 4 else 2] + (STEERED_UNITS if steered else 0.0)
    return round(batch * tokens * geometry.width_tokens * units * item)


def decoding_bytes(
    geometry: ModelGeometry, vae: Mapping[str, Any], *, size: tuple[int, int], item: int
) -> int:
    """Activations of decoding pictures of ``size`` (height, width), frames two latents at a time:
    every normalisation keeps the latents of its batch and every convolution two frames for the
    next, and while a batch is decoded those of the one before are still there."""
    channels = list(vae["block_out_channels"])[::-1]
    depth = vae.get("layers_per_block", 3) + 1
    latents = geometry.latent_channels
    time_steps = round(math.log2(geometry.temporal_ratio))
    copies = 2 if geometry.latent_frames > 3 else 1
    first = min(geometry.latent_frames, 3)  # an odd latent joins the first batch
    kept = 0.0
    frames, scale = first, 2 ** (len(channels) - 1)
    for stage, width in enumerate(channels):
        area = size[0] * size[1] / scale**2
        kept += depth * (4 * latents * frames + 4 * width) * area
        if stage < time_steps:
            frames = 2 * frames - 1
        scale //= 2 if stage < len(channels) - 1 else 1
    area = size[0] * size[1]
    work = (DECODER_UNITS * channels[-2] + DECODER_LATENT_UNITS * latents) * frames * area
    video = 2 * 3 * geometry.frames * geometry.height * geometry.width
    return round((copies * kept + work + video) * item)


def encoding_bytes(geometry: ModelGeometry, vae: Mapping[str, Any], *, item: int) -> int:
    """Activations of encoding a clip, nine frames at a time; for training alone."""
    frames = min(geometry.frames, 9)
    area = geometry.height * geometry.width
    return round(ENCODER_UNITS * frames * area * vae["block_out_channels"][0] * item)


def training_bytes(
    geometry: ModelGeometry, footprint: Footprint, *, tokens: int, batch: int
) -> int:
    """Learning one motion at this size: the transformer, each layer's input kept for gradient
    checkpointing, one layer computed again with what its backward pass needs, and four float32
    copies of the motion (weights, gradient and AdamW's two moments). Encoders are elsewhere."""
    rows = geometry.text_tokens + geometry.video_tokens
    kept = geometry.layers * batch * rows * geometry.width_tokens * footprint.item
    again = 2 * denoising_bytes(geometry, batch=batch, item=footprint.item)
    learned = 4 * 4 * geometry.layers * tokens * geometry.width_tokens
    return footprint.bytes_of("transformer") + kept + again + learned


@dataclass(frozen=True)
class Workload:
    """``step`` and ``decoding`` in operations, ``weights`` in bytes; of one video of one model.
    ``halves``: passes of the transformer in a step, two with guidance."""

    step: float
    decoding: float
    weights: int
    halves: int = 2

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, item: int) -> Workload:
        """That of a checkpoint at its own sizes and guidance; ``item`` bytes a number."""
        transformer = checkpoint.weights["transformer"]
        halves = 2 if checkpoint.defaults.guidance > 1 else 1
        return cls(
            step=halves * pass_operations(checkpoint.geometry, transformer.weights),
            decoding=decoding_operations(checkpoint.geometry, checkpoint.vae),
            weights=footprint(checkpoint, item=item).weight_bytes,
            halves=halves,
        )

    @property
    def loading_seconds(self) -> float:
        """Until a new process has the weights on the GPU."""
        return START + self.weights / TO_DEVICE

    @property
    def step_seconds(self) -> float:
        """Of one denoising step."""
        return LEAST_STEP + self.step / ATTENTION_AND_PRODUCTS

    @property
    def rest_seconds(self) -> float:
        """Before the first step and after the last: picture and words, frames."""
        return 1.0 + 1.5 * self.decoding / CONVOLUTIONS

    def learning_step_seconds(self, batch: int, *, denoising: float | None = None) -> float:
        """Of one training step on ``batch`` views: forward, forward again for what was not kept,
        and backward, each as long as a pass of a denoising step. ``denoising``: seconds of such a
        step where one was timed; at most so long then, as a small model has room for a batch."""
        passes = LEARNING_PASSES / self.halves
        if denoising is not None:
            return passes * batch * denoising
        return passes * (LEAST_STEP + batch * self.step / ATTENTION_AND_PRODUCTS)

    def learning_rest_seconds(self, views: int) -> float:
        """Before the first training step and after the last: so many views are encoded, at about
        what decoding one video takes."""
        return 1.0 + views * (self.rest_seconds - 1.0)


def pass_operations(geometry: ModelGeometry, weights: int) -> float:
    """One forward pass of the transformer: two operations for each weight and token, and attention
    of every token with every other."""
    tokens = geometry.text_tokens + geometry.video_tokens
    attention = 4.0 * geometry.layers * tokens**2 * geometry.width_tokens
    return 2.0 * weights * tokens + attention


def decoding_operations(geometry: ModelGeometry, vae: Mapping[str, Any]) -> float:
    """The VAE's decoder: 3 × 3 × 3 convolutions, two in each of its blocks at each of its sizes."""
    channels = list(vae["block_out_channels"])  # from the pixels to the latents
    blocks = vae.get("layers_per_block", 3) + 1
    pixels = geometry.frames * geometry.height * geometry.width
    return sum(
        2.0 * 27 * 2 * blocks * width**2 * pixels / 4**stage for stage, width in enumerate(channels)
    )
