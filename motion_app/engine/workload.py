"""How long a video takes on a GPU that was never timed, from how much there is to compute.

A first guess alone: what was measured replaces it. The rates are those of half an H200, the GPU
that ZeroGPU lends, with room; they were not measured with this program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motion_app.engine.footprint import read_footprint
from motion_app.geometry import ModelGeometry, read_config

ATTENTION_AND_PRODUCTS = 150e12  # of bfloat16 operations a second, in the transformer
CONVOLUTIONS = 30e12  # the same in the VAE
TO_DEVICE = 2e9  # bytes of weights a second, from main memory or a local disk
LEAST_STEP = 0.1  # s: a small model waits for its kernels to start
START = 4.0  # s: a process, its libraries, the first kernels


@dataclass(frozen=True)
class Workload:
    """``step`` and ``decoding`` in operations, ``weights`` in bytes; of one video of one model."""

    step: float
    decoding: float
    weights: int

    @classmethod
    def read(cls, folder: Path, *, item: int, guided: bool) -> Workload:
        """That of a checkpoint on disk at its own sizes; ``item`` bytes a number. Reads headers
        and JSON alone; CheckpointError for a broken one."""
        geometry = ModelGeometry.from_folder(folder)
        needs = read_footprint(folder, item=item)
        return cls(
            step=(2 if guided else 1)
            * pass_operations(geometry, needs.parts["transformer"].weights),
            decoding=decoding_operations(geometry, read_config(folder, "vae")),
            weights=needs.weight_bytes,
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
