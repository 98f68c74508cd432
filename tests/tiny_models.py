"""CogVideoX checkpoints with random weights, from a picture and from words alone, small enough for
laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from motion_app.engine.joint_attention import JointAttention

WORDS = "a the red blue robot fox cat is moving jumping spinning walks and left right up then"


def tiny_tokenizer() -> T5TokenizerFast:
    """Words as pieces, letters for all other words; offsets and round trip as in the real one."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,'!?-"
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [("▁" + word, -3.0) for word in [*WORDS.split(), "A", "The"]]
    vocab += [(letter, -8.0) for letter in letters]
    return T5TokenizerFast(vocab=vocab, extra_ids=0)


def attention_layers(transformer: CogVideoXTransformer3DModel) -> list[JointAttention]:
    """Those of a transformer without the rest of its model."""
    blocks = transformer.transformer_blocks
    return [JointAttention(number, block.attn1) for number, block in enumerate(blocks)]


def tiny_pipeline(**transformer_options) -> CogVideoXImageToVideoPipeline:
    """Two layers of width 32, rotary and learned positions as in 5B-I2V, 13 frames of 48×32 pixels
    as 7 latent frames of 8×12 tokens, 24 text tokens."""
    torch.manual_seed(0)
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 8,
        "out_channels": 4,
        "time_embed_dim": 16,
        "text_embed_dim": 32,
        "num_layers": 2,
        "sample_width": 24,
        "sample_height": 16,
        "sample_frames": 13,
        "patch_size": 2,
        "temporal_compression_ratio": 2,
        "max_text_seq_length": 24,
        "spatial_interpolation_scale": 1.0,
        "use_rotary_positional_embeddings": True,
        "use_learned_positional_embeddings": True,
    }
    transformer = CogVideoXTransformer3DModel(**{**sizes, **transformer_options})
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=2,
        sample_height=32,
        sample_width=48,
    )
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=128, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
        )
    )
    scheduler = CogVideoXDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=1.0,
        clip_sample=False,
        set_alpha_to_one=True,
    )
    return CogVideoXImageToVideoPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=scheduler,
    )


# What 5B and 2B know of where a token is, and what 5B-I2V adds.
POSITIONS = {
    "rotary": {"use_learned_positional_embeddings": False},
    "sines": {
        "use_learned_positional_embeddings": False,
        "use_rotary_positional_embeddings": False,
    },
    "learned": {},
}


def tiny_text_pipeline(positions: str = "rotary") -> CogVideoXPipeline:
    """The same of a text-to-video model, with one of POSITIONS."""
    pipe = tiny_pipeline(in_channels=4, **POSITIONS[positions])
    return CogVideoXPipeline(**pipe.components)


def stock_latents(
    pipe: CogVideoXImageToVideoPipeline | CogVideoXPipeline, **told: Any
) -> np.ndarray:
    """What a tiny stock pipeline makes of what it is ``told`` in three steps."""
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(
        height=32,
        width=48,
        num_frames=13,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        max_sequence_length=24,
        **told,
    )
    return latents.frames.detach().numpy()
