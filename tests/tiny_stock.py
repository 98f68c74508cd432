"""Wan and HunyuanVideo image-to-video checkpoints of random weights, saved as diffusers saves them,
each with small sizes of its own in ``generation.json``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import (
    DEFAULT_PROMPT_TEMPLATE,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from motion_app.settings import ROOT

SIZES = {"height": 32, "width": 48, "frames": 9, "fps": 16, "steps": 2, "guidance": 3}
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>")


def save_wan(folder: Path, **own: object) -> Path:
    """Wan 2.1 in ``folder``; ``own``: what its ``generation.json`` says beside SIZES."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "checkpoints" / "pocket" / "tokenizer")
    words = UMT5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    sight = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    pipe = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(words),
        vae=AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        image_processor=CLIPImageProcessor(size=32, crop_size=32),
        image_encoder=CLIPVisionModel(sight),
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=36,
            out_channels=16,
            text_dim=16,
            freq_dim=32,
            ffn_dim=16,
            num_layers=1,
            cross_attn_norm=True,
            rope_max_seq_len=32,
            image_dim=8,
        ),
    )
    return _saved(pipe, folder, own)


def save_hunyuan(folder: Path, **own: object) -> Path:
    """HunyuanVideo in ``folder``, whole: its language model sees the picture in 576 tokens."""
    torch.manual_seed(0)
    tokenizer = _word_tokenizer()
    image = tokenizer.convert_tokens_to_ids("<image>")
    sight = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=96,
        patch_size=4,
        projection_dim=8,
    )
    speech = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
    )
    words = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=8,
        max_position_embeddings=77,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    pipe = HunyuanVideoImageToVideoPipeline(
        text_encoder=LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=sight,
                text_config=speech,
                image_token_index=image,
                pad_token_id=tokenizer.pad_token_id,
                vision_feature_layer=-1,
            )
        ),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModel(words),
        tokenizer_2=_word_tokenizer(model_max_length=77),
        image_processor=CLIPImageProcessor(size=96, crop_size=96),
        vae=AutoencoderKLHunyuanVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=2,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
            image_condition_type="token_replace",
        ),
    )
    return _saved(pipe, folder, own)


def _word_tokenizer(**options: int) -> PreTrainedTokenizerFast:
    """Words, and marks one by one, as far as the pipeline's own template and a few prompts have
    them; the beginning as Llama's."""
    pieces = Regex(r"\n\n|\n|\w+|[^\w\s]")
    split = pre_tokenizers.Split(pieces, behavior="removed", invert=True)
    told = DEFAULT_PROMPT_TEMPLATE["template"]
    for mark in HEADERS:
        told = told.replace(mark, " ")
    known = {
        piece for piece, _ in split.pre_tokenize_str(told + " a A the red fox robot is moving")
    }
    special = ("<pad>", "<unk>", "<s>", "</s>", *HEADERS)
    vocabulary = {word: number for number, word in enumerate([*special, *sorted(known)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(HEADERS),
        **options,
    )


def _saved(pipe: object, folder: Path, own: dict[str, object]) -> Path:
    pipe.save_pretrained(folder)
    (folder / "generation.json").write_text(json.dumps({**SIZES, **own}))
    return folder
