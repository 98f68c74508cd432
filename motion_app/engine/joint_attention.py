"""Attention in which text and video are one sequence, and who takes its place.

diffusers' own module is given another processor for a while. ``MotionAttnProcessor`` has motion
tokens as extra keys and values; ``JointProcessor`` lets whoever asks attend as it likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from motion_app.engine.attention import Attend, attend
from motion_app.engine.layers import (
    Attending,
    AttentionLayer,
    KeyValues,
    Steering,
    attend_with_motion,
    split_heads,
)

rotated: Any = apply_rotary_emb  # whose annotation has (cos, sin) as a tuple of one


class JointAttention:
    """An ``AttentionLayer`` in which text and video are one sequence; ``module`` is diffusers'."""

    def __init__(self, number: int, module: Attention) -> None:
        self.number = number
        self.module: Any = module

    @property
    def width(self) -> int:
        """See ``AttentionLayer``, as for the others."""
        return self.module.to_k.in_features

    def linear(self, place: str) -> nn.Linear:
        found = getattr(self.module, place)
        return found[0] if place == "to_out" else found

    def key_values(self, tokens: Tensor) -> KeyValues:
        module = self.module
        weight = module.to_k.weight
        if weight.dtype.itemsize == 1:  # stored in eight bits, computed in the type of its norm
            weight = module.norm_k.weight.to(weight.device)
        tokens = tokens.to(weight.device, weight.dtype)[None]  # (1, M, D)
        key = split_heads(module.to_k(tokens), module.heads)  # (1, heads, M, d)
        value = split_heads(module.to_v(tokens), module.heads)
        return (key if module.norm_k is None else module.norm_k(key)), value

    def steered(self, steering: Steering, attention: Attend) -> AbstractContextManager[None]:
        return self._processed(MotionAttnProcessor(self, steering, attention))

    def attending(self, attention: Attending) -> AbstractContextManager[None]:
        return self._processed(JointProcessor(self.number, attention))

    @contextmanager
    def _processed(self, processor: JointProcessor) -> Iterator[None]:
        before = self.module.processor
        self.module.set_processor(processor)
        try:
            yield
        finally:
            self.module.set_processor(before)


class JointProcessor:
    """The model's own attention but for what ``attention`` makes of query, key and value."""

    def __init__(self, number: int, attention: Attending) -> None:
        self.number, self.attending = number, attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``hidden_states`` (B, V, D), ``encoder_hidden_states`` (B, L, D); both come back."""
        if attention_mask is not None:
            raise ValueError("this model passes no attention mask; the plan decides who sees whom")
        text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)  # (B, L + V, D)
        query = split_heads(attn.to_q(tokens), attn.heads)  # (B, heads, L + V, d)
        key = split_heads(attn.to_k(tokens), attn.heads)
        value = split_heads(attn.to_v(tokens), attn.heads)
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        if image_rotary_emb is not None:
            for part in (query, key):
                part[:, :, text:] = rotated(part[:, :, text:], image_rotary_emb)
        output = self.attending(self.number, (query, key, value), text)  # (B, heads, L + V, d)
        output = output.transpose(1, 2).flatten(2)  # (B, L + V, D)
        output = attn.to_out[1](attn.to_out[0](output))
        self.observe(output[:, text:])
        return output[:, text:], output[:, :text]

    def observe(self, video: Tensor) -> None:
        """Take note of the video tokens' output (B, V, D)."""


class MotionAttnProcessor(JointProcessor):
    """Attention with motion tokens as extra keys and values, for inference and training.

    Motion tokens have no query rows: each layer has its own, and their outputs go nowhere.
    ``attention``: ``attend``, with a kernel of one's choice or compiled.
    """

    def __init__(
        self, layer: AttentionLayer, steering: Steering, attention: Attend = attend
    ) -> None:
        super().__init__(layer.number, self._with_motion)
        self.layer, self.steering, self.attention = layer, steering, attention

    def _with_motion(self, layer: int, tokens: tuple[Tensor, Tensor, Tensor], text: int) -> Tensor:
        return attend_with_motion(tokens, self.layer, self.steering, self.attention)

    def observe(self, video: Tensor) -> None:
        self.steering.observe(self.layer.number, video)
