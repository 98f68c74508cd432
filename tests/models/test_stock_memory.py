"""What the published models of others take: networks of their configs on the meta device, counted,
and where that lets them lie. The configs are those of the repositories' ``config.json`` files, as
far as they say how many weights there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    HunyuanVideoTransformer3DModel,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    UMT5Config,
    UMT5EncoderModel,
)

from motion_app.errors import CheckpointError
from motion_app.models.stock_files import (
    BY_LAYER,
    BY_PART,
    RESIDENT,
    ROOM,
    StockFiles,
    StockOutlook,
    StockPart,
)

GB = 10**9
UMT5_XXL = UMT5Config(
    vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64
)
CLIP_H = CLIPVisionConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
)
LLAVA_LLAMA3 = LlavaConfig(
    vision_config=CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    ),
    text_config=LlamaConfig(
        vocab_size=128320,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ),
)
CLIP_L = CLIPTextConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
)
PUBLISHED: dict[str, dict[str, Callable[[], torch.nn.Module]]] = {
    "Wan2.1-I2V-14B": {
        "transformer": lambda: WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=40,
            attention_head_dim=128,
            in_channels=36,
            out_channels=16,
            text_dim=4096,
            freq_dim=256,
            ffn_dim=13824,
            num_layers=40,
            cross_attn_norm=True,
            image_dim=1280,
            added_kv_proj_dim=5120,
        ),
        "text_encoder": lambda: UMT5EncoderModel(UMT5_XXL),
        "image_encoder": lambda: CLIPVisionModel(CLIP_H),
        "vae": AutoencoderKLWan,
    },
    "Wan2.2-TI2V-5B": {
        "transformer": lambda: WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=24,
            attention_head_dim=128,
            in_channels=48,
            out_channels=48,
            text_dim=4096,
            freq_dim=256,
            ffn_dim=14336,
            num_layers=30,
            cross_attn_norm=True,
        ),
        "text_encoder": lambda: UMT5EncoderModel(UMT5_XXL),
        "vae": lambda: AutoencoderKLWan(
            base_dim=160,
            decoder_base_dim=256,
            z_dim=48,
            dim_mult=[1, 2, 4, 4],
            num_res_blocks=2,
            temperal_downsample=[False, True, True],
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
            is_residual=True,
        ),
    },
    "HunyuanVideo-I2V": {
        "transformer": lambda: HunyuanVideoTransformer3DModel(
            in_channels=16,
            out_channels=16,
            num_attention_heads=24,
            attention_head_dim=128,
            num_layers=20,
            num_single_layers=40,
            num_refiner_layers=2,
            guidance_embeds=True,
            text_embed_dim=4096,
            pooled_projection_dim=768,
            image_condition_type="token_replace",
        ),
        "text_encoder": lambda: LlavaForConditionalGeneration(LLAVA_LLAMA3),
        "text_encoder_2": lambda: CLIPTextModel(CLIP_L),
        "vae": AutoencoderKLHunyuanVideo,
    },
}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request) -> tuple[str, dict[str, StockPart]]:
    """A model's name and its parts, no byte of which is anywhere."""
    with init_empty_weights():
        networks = {part: make() for part, make in PUBLISHED[request.param].items()}
    for network in networks.values():
        getattr(network, "tie_weights", lambda: None)()  # a file holds what is shared once
    counted = {
        part: StockPart.count([tensor.numel() for tensor in network.parameters()])
        for part, network in networks.items()
    }
    return request.param, counted


# Billions of weights of the transformer and in all, as published or read off the repositories.
WEIGHTS = {
    "Wan2.1-I2V-14B": (16.4, 22.8),
    "Wan2.2-TI2V-5B": (5.0, 11.4),
    "HunyuanVideo-I2V": (12.8, 21.6),
}
# Where each lies, by the GB that are free on the GPU.
PLACES = {
    "Wan2.1-I2V-14B": {80: RESIDENT, 48: BY_PART, 24: BY_LAYER},
    "Wan2.2-TI2V-5B": {80: RESIDENT, 48: RESIDENT, 24: BY_PART, 12: BY_LAYER},
    "HunyuanVideo-I2V": {80: RESIDENT, 48: BY_PART, 24: BY_LAYER},
}


def test_the_published_models_have_the_weights_they_are_known_for(published):
    name, parts = published
    transformer, whole = WEIGHTS[name]
    assert parts["transformer"].weights / GB == pytest.approx(transformer, rel=0.03)
    assert sum(part.weights for part in parts.values()) / GB == pytest.approx(whole, rel=0.03)


def test_what_does_not_fit_beside_its_activations_waits_in_main_memory(published):
    name, parts = published
    for free, where in PLACES[name].items():
        found = StockOutlook.of(name, parts, item=2, device_free=free * GB, main_free=64 * GB)
        assert found.where == where and found.fits, (free, found)
        assert found.device_bytes < ROOM * free * GB
        assert found.main_bytes == 2 * sum(part.weights for part in parts.values())


def test_more_than_the_machine_has_is_refused_with_both_numbers(published):
    name, parts = published
    need = 2 * sum(part.weights for part in parts.values()) / GB
    small = StockOutlook.of(name, parts, item=2, device_free=24 * GB, main_free=16 * GB)
    with pytest.raises(CheckpointError, match=rf"about {need:.1f} GB of main memory at 16.* 16"):
        small.check()
    laptop = StockOutlook.of(name, parts, item=4, device_free=None, main_free=32 * GB)
    with pytest.raises(
        CheckpointError, match=rf"about {2 * need:.1f} GB of main memory at 32.* 25"
    ):
        laptop.check()
    tiny = StockOutlook.of(name, parts, item=2, device_free=GB // 8, main_free=64 * GB)
    with pytest.raises(CheckpointError, match="of the GPU at 16 bits a weight, and 0.1 GB can"):
        tiny.check()
    StockOutlook.of(name, parts, item=4, device_free=None, main_free=128 * GB).check()


def test_the_files_are_counted_as_the_networks_are(stock_models):
    from diffusers import DiffusionPipeline

    for folder in stock_models:
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        networks = {n: m for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
        counted = StockFiles.find(folder).parts
        assert {name: part.weights for name, part in counted.items()} == {
            name: sum(tensor.numel() for tensor in network.parameters())
            for name, network in networks.items()
        }
