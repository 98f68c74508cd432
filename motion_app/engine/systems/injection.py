"""Attention in which some pairs of video tokens look at each other as other tokens do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Tokens = tuple[Tensor, Tensor, Tensor]  # query, key, value (B, heads, L + V, d)


@dataclass(frozen=True, eq=False)
class Stand:
    """Who stands in for the video tokens at ``targets`` (n,) int64 among the video's V: ``query``
    and ``key`` (1, heads, n, d)."""

    targets: Tensor
    query: Tensor
    key: Tensor


def attend_stood_in(
    tokens: Tokens,
    stands: Sequence[Stand],
    *,
    text: int,
    frames: int,
    same: bool,
    across: bool,
) -> Tensor:
    """Attention (B, heads, L + V, d) in which the logits of pairs of video tokens of one of
    ``stands`` are those of who stands in for them: pairs of the ``same`` of the ``frames``, those
    ``across`` two of them, or both. All other logits, and all values, are the tokens' own.

    Exact and without a mask: the own channels and those of who stands in lie side by side, and of
    each key one of the two is empty.
    """
    query, key, value = tokens
    output = F.scaled_dot_product_attention(query, key, value)
    if not (same or across):
        return output
    frame_of = torch.arange(key.shape[2] - text, device=key.device) // (
        (key.shape[2] - text) // frames
    )  # (V,)
    for stand in stands:
        frame = frame_of[stand.targets]  # (n,)
        # Where both kinds of pairs are stood in for, all rows see the same keys.
        parts = [slice(None)] if same and across else [frame == f for f in frame.unique()]
        for part in parts:
            rows = stand.targets[part]  # (r,)
            if same and across:
                replaced = torch.ones_like(frame, dtype=torch.bool)
            else:
                replaced = (frame == frame_of[rows[0]]) == same  # (n,)
            output[:, :, text + rows] = _rows(
                query[:, :, text + rows], stand.query[:, :, part], key, value, stand, replaced, text
            )
    return output


def _rows(
    own: Tensor,
    other: Tensor,
    key: Tensor,
    value: Tensor,
    stand: Stand,
    replaced: Tensor,
    text: int,
) -> Tensor:
    """Rows with the queries ``own`` (B, heads, r, d) and ``other`` (1, heads, r, d); the keys of
    ``stand`` that are ``replaced`` (n,) meet the latter, all others the former."""
    at = text + stand.targets[replaced]
    mine = key.index_fill(2, at, 0.0)
    theirs = torch.zeros_like(key).index_copy(
        2, at, stand.key[:, :, replaced].to(key).expand(len(key), -1, -1, -1)
    )
    width = own.shape[-1]
    return F.scaled_dot_product_attention(
        torch.cat([own, other.to(own).expand_as(own)], dim=-1),
        torch.cat([mine, theirs], dim=-1),  # (B, heads, L + V, 2d)
        F.pad(value, (0, width)),
        scale=width**-0.5,
    )[..., :width]
