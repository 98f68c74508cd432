"""Puts the trained networks together as an ordinary diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
)

from motion_app.pocket.network import SCHEDULER_CONFIG, Backbone

GENERATION = {
    "name": "pocket",
    "height": 64,
    "width": 96,
    "frames": 13,
    "fps": 8,
    "steps": 12,
    "guidance": 6.0,
    "motion_in_unconditional": False,
    "export": {"width": 576, "height": 384},
    "segmenter": "sam2",
    # Measured (measure_propagation): on 96 tokens a frame and 6 layers, frame 1 alone with all
    # layers carries masks furthest; the release's settings are for 1,350 tokens and 42 layers.
    "rmpm": {"window": 1, "layer_share": 1.0},
    "motion_training": {
        "steps": 150,
        "batch": 3,
        "tokens": 64,
        "init_distribution": "normal",
        "init_scale": 1.0,
        "learning_rate": 0.03,
        "noisy_share": 0.7,
        "delta_weight": 0.0,
        "moving_weight": 4.0,
        "image_dropout": 0.0,
        "views": 16,
        "zoom": [0.85, 1.2],
        "shift": 0.12,
        "permute_colours": True,
    },
    "synmotion_training": {
        "steps": 200,
        "batch": 3,
        "learning_rate": 0.003,
        "lora_learning_rate": 0.003,
        "rank": 8,
        "lora_alpha": 8.0,
        "refiner_width": 64,
        "refiner_heads": 4,
        "refiner_feed_forward": 128,
        "noisy_share": 0.7,
        "moving_weight": 4.0,
        "image_dropout": 0.0,
        "image_noise": [],
        "views": 16,
        "zoom": [0.85, 1.2],
        "shift": 0.12,
        "permute_colours": True,
        "spv": "rendered",
        "spv_clips": 24,
    },
}


def save_checkpoint(
    folder: Path, vae: AutoencoderKLCogVideoX, backbone: Backbone, *, scheduler: str = "ddim"
) -> None:
    """Writes the pipeline in fp16 safetensors and ``generation.json`` beside it. Motions and the
    segmenter already in ``folder`` stay.

    The text encoder (0.4 MB) stays float32: transformers loads a model in the type it was saved in,
    diffusers in float32, and the stock pipeline wants all its parts to agree.
    """
    kinds = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
    pipeline = CogVideoXImageToVideoPipeline(
        tokenizer=backbone.tokenizer,
        text_encoder=backbone.text_encoder,
        vae=vae,
        transformer=backbone.transformer,
        scheduler=kinds[scheduler](**SCHEDULER_CONFIG),
    )
    vae.half()
    backbone.transformer.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    vae.float()
    backbone.transformer.float()
    for config in folder.glob("*/config.json"):  # diffusers notes where a part was loaded from
        entries = json.loads(config.read_text())
        if entries.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(entries, indent=2) + "\n")
    generation = folder / "generation.json"
    if not generation.exists():
        generation.write_text(json.dumps(GENERATION, indent=2) + "\n")
