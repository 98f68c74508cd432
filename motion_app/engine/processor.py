"""The one attention processor: CogVideoX attention with motions as extra keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from einops import rearrange
from torch import Tensor

from motion_app.engine.attention import Attend, AttentionPlan, attend

KeyValues = tuple[Tensor, Tensor]


class Steering(Protocol):
    """What the processors of all layers share: the state of one generation or one training step."""

    def key_values(self, layer: int, attn: Attention) -> KeyValues:
        """Motion keys and values of all objects, (1 or B, heads, ΣM, d) each, in object order."""

    def plans(self, layer: int, query: Tensor, key: Tensor) -> Sequence[AttentionPlan]:
        """One plan per equal share of the batch, given query (B, heads, L + V, d) and the keys
        without motion, (B, heads, L + V, d), both after QK norm and RoPE."""

    def observe(self, layer: int, video: Tensor) -> None:
        """Take note of the video tokens' attention output (B, V, D), before gate and residual."""


class MotionAttnProcessor:
    """CogVideoX attention with motion tokens as extra keys and values, for inference and training.

    Motion tokens have no query rows: each layer has its own, and their outputs go nowhere.
    ``attention``: ``attend``, with a kernel of one's choice or compiled.
    """

    def __init__(self, layer: int, steering: Steering, attention: Attend = attend) -> None:
        self.layer = layer
        self.steering = steering
        self.attention = attention

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``hidden_states`` (B, V, D), ``encoder_hidden_states`` (B, L, D); both come back."""
        if attention_mask is not None:
            raise ValueError("CogVideoX passes no attention mask; the plan decides who sees whom")
        text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)  # (B, L + V, D)
        query = split_heads(attn.to_q(tokens), attn.heads)  # (B, heads, L + V, d)
        key = split_heads(attn.to_k(tokens), attn.heads)
        value = split_heads(attn.to_v(tokens), attn.heads)
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        if image_rotary_emb is not None:
            query[:, :, text:] = apply_rotary_emb(query[:, :, text:], image_rotary_emb)
            key[:, :, text:] = apply_rotary_emb(key[:, :, text:], image_rotary_emb)
        # A cache may leave out the unconditional half; the conditional one is the last.
        plans = self.steering.plans(self.layer, query, key)[-len(query) :]
        motion_key, motion_value = self.steering.key_values(self.layer, attn)
        key = _insert(key, motion_key, text)  # (B, heads, L + ΣM + V, d)
        value = _insert(value, motion_value, text)
        output = torch.cat(
            [
                self.attention(*share, plan)
                for *share, plan in zip(
                    *(part.chunk(len(plans)) for part in (query, key, value)), plans, strict=True
                )
            ]
        )  # (B, heads, L + V, d)
        output = rearrange(output, "b heads s d -> b s (heads d)")
        output = attn.to_out[1](attn.to_out[0](output))  # (B, L + V, D)
        self.steering.observe(self.layer, output[:, text:])
        return output[:, text:], output[:, :text]


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, S, heads * d) → (B, heads, S, d)."""
    return rearrange(tokens, "b s (heads d) -> b heads s d", heads=heads)


def _insert(tokens: Tensor, motion: Tensor, text: int) -> Tensor:
    """Motion (1 or B, heads, ΣM, d) between text and video of ``tokens`` (B, heads, L + V, d)."""
    motion = motion.to(tokens).expand(len(tokens), -1, -1, -1)
    return torch.cat([tokens[:, :, :text], motion, tokens[:, :, text:]], dim=2)
