"""The pocket's networks: a small CogVideoX transformer, a T5 encoder and its words; and how they
are put together, with what the checkpoint says of itself, as an ordinary diffusers folder.

The tokenizer's vocabulary is the world's captions plus single letters.
"""

from __future__ import annotations

import json
import logging
import string
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb, get_3d_rotary_pos_embed
from torch import nn
from transformers import T5EncoderModel, T5TokenizerFast
from transformers.models.t5.configuration_t5 import T5Config

from motion_app.pocket.vae import PATCH_SIZE
from motion_app.world.world import vocabulary

log = logging.getLogger(__name__)
SCHEDULER_CONFIG = {
    "num_train_timesteps": 1000,
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
TEXT_TOKENS = 64  # three worded paths need 36; the rest is room for what people write
TEXT_WIDTH = 64
GENERATION = {
    "name": "pocket",
    "height": 64,
    "width": 96,
    "frames": 13,
    "fps": 8,
    "steps": 12,
    "guidance": 2.5,
    "motion_in_unconditional": False,
    "export": {"width": 576, "height": 384},
    "segmenter": "sam2",
    # Measured (measure_propagation): on 96 tokens a frame and 6 layers, frame 1 alone with all
    # layers, each frame's mean taken away, carries masks furthest; the release's settings are for
    # 1,350 tokens and 42 layers.
    "rmpm": {"window": 1, "layer_share": 1.0, "centre": True},
    "motion_training": {
        "steps": 150,
        "batch": 3,
        "tokens": 64,
        "init_distribution": "normal",
        "init_scale": 1.0,
        "learning_rate": 0.03,
        "mask_reach": "lagging",
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
    "lora_training": {
        "steps": 120,
        "batch": 2,
        "rank": 8,
        "lora_alpha": 8.0,
        "learning_rate": 0.003,
        "noisy_share": 0.7,
        "moving_weight": 4.0,
    },
    # Measured: three clips invert to noise of a deviation of 1.0 to 1.2, and without to 0.5 to 0.7.
    "systems": {"i2vedit": {"noise": 0.02}},
}


def new_transformer(*, layers: int, heads: int, head_dim: int) -> CogVideoXTransformer3DModel:
    """CogVideoX-5B-I2V's architecture in small: rotary and learned positions, image on channels."""
    model = CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=16,
        out_channels=8,
        time_embed_dim=heads * head_dim,
        text_embed_dim=TEXT_WIDTH,
        num_layers=layers,
        sample_width=24,
        sample_height=16,
        sample_frames=13,
        patch_size=PATCH_SIZE,
        temporal_compression_ratio=2,
        max_text_seq_length=TEXT_TOKENS,
        spatial_interpolation_scale=1.0,
        temporal_interpolation_scale=1.0,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )
    for block in model.transformer_blocks:
        for norm in (block.norm1, block.norm2):
            nn.init.zeros_(norm.linear.weight)
            nn.init.zeros_(norm.linear.bias)
    for layer in (model.norm_out.linear, model.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def rotary_embedding(
    model: CogVideoXTransformer3DModel, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin), each (V, head_dim), for the full-size clip, as the stock pipeline computes it."""
    c = model.config
    grid = (c.sample_height // c.patch_size, c.sample_width // c.patch_size)
    frames = (c.sample_frames - 1) // c.temporal_compression_ratio + 1
    return get_3d_rotary_pos_embed(
        embed_dim=c.attention_head_dim,
        crops_coords=((0, 0), grid),
        grid_size=grid,
        temporal_size=frames,
        device=torch.device(device),
    )


class MatrixAttnProcessor:
    """The stock attention as two matrix products and a softmax. In bfloat16 on a CPU with AVX-512,
    forward and backward take a third of the time of PyTorch's fused kernel; training only."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``hidden_states`` (B, V, D), ``encoder_hidden_states`` (B, L, D); both come back.
        ``attention_mask`` (B, L + V, L + V) is added to the logits."""
        text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)  # (B, L + V, D)
        query, key, value = (
            project(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )  # each (B, heads, L + V, d)
        query, key = attn.norm_q(query), attn.norm_k(key)
        query, key = (
            torch.cat([x[:, :, :text], apply_rotary_emb(x[:, :, text:], image_rotary_emb)], dim=2)
            for x in (query, key)
        )
        query, key = query.to(value.dtype) * query.shape[-1] ** -0.5, key.to(value.dtype)
        logits = query @ key.transpose(-1, -2)  # (B, heads, L + V, L + V)
        if attention_mask is not None:
            logits += attention_mask[:, None].to(logits.dtype)
        output = logits.softmax(-1) @ value  # (B, heads, L + V, d)
        output = attn.to_out[0](output.transpose(1, 2).flatten(2))  # (B, L + V, D)
        return output[:, text:], output[:, :text]


class PocketNetwork(nn.Module):
    """Text encoder and transformer as one module, so that one optimiser and one average hold
    both."""

    def __init__(self, *, layers: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.tokenizer = new_tokenizer()
        self.text_encoder: T5EncoderModel = new_text_encoder(len(self.tokenizer))
        self.transformer = new_transformer(layers=layers, heads=heads, head_dim=head_dim)

    def load_shipped(self, checkpoint: Path) -> bool:
        """Takes over the weights of a finished checkpoint folder where there is one of this shape,
        and tells whether it did; the optimiser then starts afresh, with its short warm-up."""
        if not (checkpoint / "transformer" / "config.json").exists():
            return False
        for name, kind in (
            ("transformer", CogVideoXTransformer3DModel),
            ("text_encoder", T5EncoderModel),
        ):
            shipped = kind.from_pretrained(checkpoint / name, torch_dtype=torch.float32)
            try:
                getattr(self, name).load_state_dict(shipped.state_dict())
            except RuntimeError as error:
                reason = str(error).splitlines()[-1].strip()
                log.warning("%s starts afresh, the shipped one is another shape: %s", name, reason)
                return False
        log.info("starting from the shipped weights")
        return True

    def forward(
        self,
        captions: list[str],
        noisy: torch.Tensor,
        image: torch.Tensor,
        timesteps: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """v-prediction (B, F, C, H', W') for ``noisy`` of that shape, ``image`` latents (B, C, H',
        W') on the first frame's channels, ``timesteps`` (B,) int64; ``bias`` (B, L + V, L + V) is
        added to every layer's attention logits."""
        ids = self.tokenizer(
            captions,
            padding="max_length",
            max_length=TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(noisy.device)
        text = self.text_encoder(ids).last_hidden_state  # (B, L, 64); pads are live tokens
        condition = torch.zeros_like(noisy)
        condition[:, 0] = image
        return self.transformer(
            hidden_states=torch.cat([noisy, condition], dim=2),
            encoder_hidden_states=text,
            timestep=timesteps,
            image_rotary_emb=rotary,
            attention_kwargs=None if bias is None else {"attention_mask": bias},
            return_dict=False,
        )[0]


def new_tokenizer() -> T5TokenizerFast:
    """Known words are one piece each; anything else is spelled. No SentencePiece training is
    needed."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces += [(f"▁{word}", -1.0) for word in vocabulary() if len(word) > 1]
    pieces += [(f"▁{word}", -1.0) for word in vocabulary() if len(word) == 1]
    pieces += [("▁", -3.0)]
    letters = string.ascii_letters + string.digits + ",.;:!?'\"-()"
    pieces += [(letter, -6.0) for letter in letters]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def new_text_encoder(vocabulary_size: int) -> T5EncoderModel:
    """Two T5 layers of width 64; trained jointly with the transformer."""
    config = T5Config(
        vocab_size=vocabulary_size,
        d_model=TEXT_WIDTH,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def save_checkpoint(
    folder: Path, vae: AutoencoderKLCogVideoX, backbone: PocketNetwork, *, scheduler: str = "ddim"
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
