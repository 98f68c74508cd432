"""What the method asks of an attention layer, whose model it may be, and of what steers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from motion_app.engine.attention import Attend, AttentionPlan

KeyValues = tuple[Tensor, Tensor]
# A layer's number, its query, key and value (B, heads, L + V, d) after QK norm and RoPE, and L: the
# attention's output (B, heads, L + V, d), before the output projection.
Attending = Callable[[int, tuple[Tensor, Tensor, Tensor], int], Tensor]


class AttentionLayer(Protocol):
    """One attention layer of a model, in which motions act."""

    number: int  # from 0

    @property
    def width(self) -> int:
        """D, the width of a token."""

    def linear(self, place: str) -> nn.Linear:
        """The projection "to_q", "to_k", "to_v" or "to_out"."""

    def key_values(self, tokens: Tensor) -> KeyValues:
        """Keys and values of ``tokens`` (M, D) that are in no place of the video, (1, heads, M, d)
        each: projected and normed as the layer's own, no RoPE. With gradient to the tokens."""

    def steered(self, steering: Steering, attention: Attend) -> AbstractContextManager[None]:
        """Attend as ``steering`` has it while inside; whatever happens there, the layer is as
        before on leaving."""

    def attending(self, attention: Attending) -> AbstractContextManager[None]:
        """Have ``attention`` in the place of the layer's own while inside; as before on leaving."""


class System(Protocol):
    """What acts on the stock pipeline from outside during one generation. Latents are as the
    pipeline has them, (1, F, C, H', W'), padded."""

    def initial_latents(self, noise: Tensor) -> Tensor:
        """What denoising starts from, given the noise that the pipeline drew."""

    def installed(self, layers: Sequence[AttentionLayer]) -> AbstractContextManager[None]:
        """Act in the attention ``layers`` while inside; nothing is left of it on leaving."""

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        """What becomes of the ``latents`` after step ``step``, counted from 0."""


class Steering(Protocol):
    """What all layers share: the state of one generation or one training step."""

    def key_values(self, layer: AttentionLayer) -> KeyValues:
        """Motion keys and values of all objects, (1 or B, heads, ΣM, d) each, in object order."""

    def plans(self, layer: int, query: Tensor, key: Tensor) -> Sequence[AttentionPlan]:
        """One plan per equal share of the batch, given query (B, heads, L + V, d) and the keys
        without motion, (B, heads, L + V, d), both after QK norm and RoPE."""

    def observe(self, layer: int, video: Tensor) -> None:
        """Take note of the video tokens' attention output (B, V, D), before gate and residual."""


def attend_with_motion(
    tokens: tuple[Tensor, Tensor, Tensor],
    layer: AttentionLayer,
    steering: Steering,
    attention: Attend,
) -> Tensor:
    """Attention (B, heads, L + V, d) of the queries, keys and values (B, heads, L + V, d) that
    ``tokens`` are, with the motions of ``steering`` as further keys and values. Motion tokens have
    no query rows: each layer has its own, and their outputs would go nowhere."""
    query, key, value = tokens
    # A cache may leave out the unconditional half; the conditional one is the last.
    plans = steering.plans(layer.number, query, key)[-len(query) :]
    shares = [part.chunk(len(plans)) for part in (query, key, value)]
    motions = [
        motion.to(part).expand(len(part), -1, -1, -1).chunk(len(plans))
        for motion, part in zip(steering.key_values(layer), (key, value), strict=True)
    ]
    outputs = [
        attention(asked, plan.layout.arrange(k, moves_k), plan.layout.arrange(v, moves_v), plan)
        for asked, k, v, moves_k, moves_v, plan in zip(*shares, *motions, plans, strict=True)
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)  # (B, heads, L + V, d)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, S, heads * d) → (B, heads, S, d)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)
