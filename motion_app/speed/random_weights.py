"""Models with random weights, made where they are used: the size of a published one without its
download, and a tiny one for a dry run.

Speed and memory do not depend on what weights say; what does is told where it is measured: step
caches that go by a threshold, and when masks settle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
)
from torch import nn
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from motion_app.engine.backbone import Backbone, OpenPipeline
from motion_app.engine.footprint import Footprint, footprint_of
from motion_app.engine.memory import DeviceProfile
from motion_app.errors import RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.models.checkpoint import Checkpoint, PartWeights

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "snr_shift_scale": 1.0,
    "clip_sample": False,
    "set_alpha_to_one": True,
}
WORDS = ("A", "and", "robot", "fox", "is", "moving")


@dataclass(frozen=True)
class ModelSizes:
    """The contents of the configs of the three networks, ``motion`` tokens of each object, and of
    the whole: ``steps`` of a video."""

    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    motion: int
    steps: int = 50


MODELS = {
    "5b": ModelSizes(
        transformer={
            "num_attention_heads": 48,
            "attention_head_dim": 64,
            "in_channels": 32,
            "out_channels": 16,
            "time_embed_dim": 512,
            "text_embed_dim": 4096,
            "num_layers": 42,
            "sample_width": 90,
            "sample_height": 60,
            "sample_frames": 49,
            "patch_size": 2,
            "temporal_compression_ratio": 4,
            "max_text_seq_length": 226,
            "spatial_interpolation_scale": 1.875,
            "temporal_interpolation_scale": 1.0,
            "use_rotary_positional_embeddings": True,
            "use_learned_positional_embeddings": True,
        },
        vae={
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
            "block_out_channels": (128, 256, 256, 512),
            "latent_channels": 16,
            "layers_per_block": 3,
            "norm_num_groups": 32,
            "temporal_compression_ratio": 4,
            "sample_height": 480,
            "sample_width": 720,
            "scaling_factor": 0.7,
        },
        text_encoder={
            "vocab_size": 32128,
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10240,
            "num_layers": 24,
            "num_heads": 64,
            "feed_forward_proj": "gated-gelu",
        },
        motion=226,
    ),
    "tiny": ModelSizes(
        transformer={
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 8,
            "out_channels": 4,
            "time_embed_dim": 16,
            "text_embed_dim": 32,
            "num_layers": 2,
            "sample_width": 12,
            "sample_height": 8,
            "sample_frames": 5,
            "patch_size": 2,
            "temporal_compression_ratio": 2,
            "max_text_seq_length": 32,
            "spatial_interpolation_scale": 1.0,
            "temporal_interpolation_scale": 1.0,
            "use_rotary_positional_embeddings": True,
            "use_learned_positional_embeddings": True,
        },
        vae={
            "down_block_types": ("CogVideoXDownBlock3D",) * 2,
            "up_block_types": ("CogVideoXUpBlock3D",) * 2,
            "block_out_channels": (8, 8),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 2,
            "temporal_compression_ratio": 2,
            "sample_height": 16,
            "sample_width": 24,
            "scaling_factor": 0.7,
        },
        text_encoder={
            "vocab_size": 128,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 1,
            "num_heads": 2,
            "feed_forward_proj": "gated-gelu",
        },
        motion=8,
        steps=12,
    ),
}


def sizes_named(shape: str) -> ModelSizes:
    """RequestError lists the shapes there are."""
    if shape not in MODELS:
        raise RequestError(f'unknown shape "{shape}"; choose one of {", ".join(MODELS)}')
    return MODELS[shape]


def random_backbone(
    shape: str, device: torch.device, dtype: torch.dtype, *, text_encoder: bool = True
) -> Backbone:
    """A backbone of that ``shape`` with everything on ``device`` in ``dtype``: the weights are
    drawn there and never were elsewhere. ``text_encoder`` False leaves that one out. RequestError
    for an unknown shape."""
    sizes = sizes_named(shape)
    with made_on(device, dtype):
        transformer = CogVideoXTransformer3DModel(**sizes.transformer)
        vae = AutoencoderKLCogVideoX(**sizes.vae)
        encoder = (
            T5EncoderModel(T5Config(**sizes.text_encoder, dropout_rate=0.0))
            if text_encoder
            else None
        )
    positions = transformer.patch_embed
    positions.pos_embedding = positions.pos_embedding.to(dtype)  # which diffusers makes in float64
    parts = {"transformer": transformer, "vae": vae, "text_encoder": encoder}
    for part in parts.values():
        if part is not None:
            part.eval().requires_grad_(False)
    pipe = OpenPipeline(
        tokenizer=spelling_tokenizer(), scheduler=CogVideoXDDIMScheduler(**SCHEDULER), **parts
    )
    pipe.set_progress_bar_config(disable=True)
    checkpoint = Checkpoint(
        folder=Path(f"{shape}-random"),
        transformer=dict(transformer.config),
        vae=dict(vae.config),
        defaults=GenerationDefaults(name=f"{shape} with random weights", steps=sizes.steps),
        geometry=ModelGeometry.from_configs(transformer.config, vae.config),
    )
    return Backbone(pipe, checkpoint, DeviceProfile(device, dtype))


def footprint_on(backbone: Backbone, *, item: int) -> Footprint:
    """The footprint of a model that has no files, estimated from its sizes as that of one that
    has."""
    parts = {
        name: PartWeights.count({key: p.numel() for key, p in network.named_parameters()})
        for name in ("transformer", "vae", "text_encoder")
        if isinstance(network := getattr(backbone.pipe, name), nn.Module)
    }
    checkpoint = backbone.checkpoint
    return footprint_of(checkpoint.geometry, checkpoint.vae, parts, item=item)


@contextmanager
def made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Networks made inside have their weights there, in that type, from the beginning."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def spelling_tokenizer() -> T5TokenizerFast:
    """Some words are one piece each; anything else is spelled."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,'!?-"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS]
    return T5TokenizerFast(vocab=[*pieces, *((letter, -8.0) for letter in letters)], extra_ids=0)
