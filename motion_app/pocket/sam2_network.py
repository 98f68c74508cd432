"""The pocket's segmenter: a ``Sam2Model`` of about a million parameters, fresh or for export."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

IMAGE_SIZE = 256  # masks come out at 64 x 64: the best they can say about a creature is IoU .993

WINDOWS = [8, 8, 16, 8]  # the third stage is 16 x 16: its windows see the whole picture
STAGES = [24, 48, 96, 192]
VISION_CONFIG = {
    "model_type": "sam2_vision_model",
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": STAGES[0],
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "blocks_per_stage": [1, 2, 3, 1],
        "embed_dim_per_stage": STAGES,
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": WINDOWS,
        "window_positional_embedding_background_size": [8, 8],
        "global_attention_blocks": [],
    },
    "backbone_channel_list": STAGES[::-1],
    "backbone_feature_sizes": [[IMAGE_SIZE // s] * 2 for s in (4, 8, 16)],
    "fpn_hidden_size": 64,
}
PROMPT_CONFIG = {"hidden_size": 64, "image_size": IMAGE_SIZE, "patch_size": 16}
DECODER_CONFIG = {
    "hidden_size": 64,
    "mlp_dim": 128,
    "attention_downsample_rate": 1,
    "num_attention_heads": 4,
    "iou_head_hidden_dim": 64,
}

EMBEDDING_SCALE = 0.3  # small beside the positions, so that attention starts by place
LOOK_GAIN = 1.6  # of the query = key start: a third of a head's attention lies on the click itself


def new_sam2() -> Sam2Model:
    """A fresh network of about a million parameters.

    transformers' start (std 0.02 everywhere) is meant for weights that are loaded afterwards: mask
    logits are a product of two things that would both be nearly 0, and nothing moves for minutes.
    So every layer starts as torch would start it, and clicks and pixels look at each other by place
    (queries and keys share weights) before anything is learned.
    """
    model = Sam2Model(
        Sam2Config(
            vision_config=VISION_CONFIG,
            prompt_encoder_config=PROMPT_CONFIG,
            mask_decoder_config=DECODER_CONFIG,
        )
    )
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
        if isinstance(module, nn.Embedding):
            module.weight.data *= EMBEDDING_SCALE
    for name, module in model.mask_decoder.named_modules():
        if name.endswith(("token_to_image", "image_to_token")):
            nn.init.orthogonal_(module.q_proj.weight, gain=LOOK_GAIN)
            module.k_proj.weight.data.copy_(module.q_proj.weight.data)
    # Clicks and pixels must speak of places in the same random frequencies to find each other.
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(
        model.shared_image_embedding.positional_embedding
    )
    return model


def new_processor() -> Sam2Processor:
    """The processor of ``new_sam2``: pictures of any size become IMAGE_SIZE squared."""
    return Sam2Processor(
        Sam2ImageProcessor(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            mask_size={"height": IMAGE_SIZE // 4, "width": IMAGE_SIZE // 4},
        )
    )


def export_sam2(model: Sam2Model, folder: Path) -> None:
    """Writes fp16 weights, config and processor: ``Sam2Model.from_pretrained(folder)`` loads it."""
    copy.deepcopy(model).half().save_pretrained(folder)
    new_processor().save_pretrained(folder)
