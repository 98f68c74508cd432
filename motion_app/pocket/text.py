"""The pocket's words: a T5 tokenizer whose vocabulary is the world's captions plus single
letters."""

from __future__ import annotations

import string

from transformers import T5EncoderModel, T5TokenizerFast
from transformers.models.t5.configuration_t5 import T5Config

from motion_app.pocket.world import vocabulary

TEXT_TOKENS = 64  # three worded paths need 36; the rest is room for what people write
TEXT_WIDTH = 64


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
