"""Captions that are told to their creatures by place, as FlexiMMT's attention tells motions.

A backbone of five billion parameters knows whose words are whose. So small a one learns that ten
times slower than how things move, so in a share of its clips the attention says it: a creature's
motion words are seen by the video tokens of that creature alone, by the engine's own rules
(``engine/visibility.py``, FlexiMMT Eq. 5 to 11). The masks lag behind the creature, the more the
noisier the clip is: they show nothing that the noisy clip does not show itself, and are what
a generation has at that step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import T5TokenizerFast

from motion_app.geometry import mask_to_grid
from motion_app.training.views import lagging
from motion_app.wording import NEUTRAL_PHRASE

CLOSED = -1e4  # no weight is left by it, in bfloat16 either
TAKES_PART = 0.85  # of the creatures of a grounded clip; the others' words are free text


@dataclass(frozen=True)
class Caption:
    """``text``, and where the motion words of each creature lie in it: ``spans`` of characters, in
    the creatures' order; none for a caption that is left out."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()


def drawn_caption(
    said: Sequence[tuple[str, str]], rng: np.random.Generator, *, neutral_share: float
) -> Caption:
    """``said``: (subject, motion words) of each creature. Sentences in random order, a
    ``neutral_share`` of them with neutral motion words."""
    phrases = [NEUTRAL_PHRASE if rng.random() < neutral_share else words for _, words in said]
    spans, parts, start = [(0, 0)] * len(said), [], 0
    for k in rng.permutation(len(said)):
        subject = said[k][0]
        parts.append(f"{subject} {phrases[k]}.")
        spans[k] = (start + len(subject) + 1, start + len(parts[-1]) - 1)
        start += len(parts[-1]) + 1
    return Caption(" ".join(parts), tuple(spans))


def token_codes(masks: np.ndarray, grid: tuple[int, int], ratio: int) -> np.ndarray:
    """Masks (N, T, H, W) bool of up to eight creatures on the token grid: (F, h, w) uint8, bit k
    where creature k lies. Frame 1 stands alone, each later one is the mean of ``ratio`` frames."""
    count, frames = masks.shape[:2]
    later = masks[:, 1:].reshape(count, (frames - 1) // ratio, ratio, *masks.shape[2:])
    shown = np.concatenate([masks[:, :1], later.mean(axis=2) >= 0.5], axis=1)  # (N, F, H, W)
    bits = (1 << np.arange(count, dtype=np.uint8))[:, None, None, None]
    return (mask_to_grid(shown, *grid) * bits).sum(axis=0, dtype=np.uint8)


def grounded_bias(
    captions: Sequence[Caption],
    codes: np.ndarray,
    noise: Sequence[float],
    tokenizer: T5TokenizerFast,
    rng: np.random.Generator,
    *,
    share: float,
    text: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """What is added to the attention's logits, (B, L + V, L + V) float32 on ``device``: 0 or
    ``CLOSED``. Only (B, L + V) is brought there: of a large batch the whole is a gigabyte.

    ``codes`` (B, F, h, w) uint8 as of ``token_codes``, ``noise`` from 0 to 1 of each clip; a
    ``share`` of the clips is grounded, in the others all see all. ``text`` is L.
    """
    offsets = tokenizer(
        [caption.text for caption in captions],
        padding="max_length",
        max_length=text,
        truncation=True,
        return_offsets_mapping=True,
        return_tensors="np",
    )["offset_mapping"]  # (B, L, 2) characters; padding is (0, 0)
    starts, stops = offsets[..., 0], offsets[..., 1]
    video = codes[0].size
    owners = np.zeros((len(captions), text + video), np.uint8)  # bits, as codes
    free = np.ones(owners.shape, bool)  # seen by all
    for b, caption in enumerate(captions):
        if rng.random() >= share:
            continue
        kept = 0
        for k, (start, stop) in enumerate(caption.spans):
            if rng.random() < TAKES_PART:
                words = (starts[b] < stop) & (stops[b] > start) & (stops[b] > starts[b])
                owners[b, :text] |= (words << k).astype(np.uint8)
                kept |= 1 << k
        if not kept:
            continue
        free[b] = np.concatenate([owners[b, :text] == 0, np.zeros(video, bool)])
        owners[b, text:] = lagging(codes[b], noise[b], rng).reshape(-1) & kept
    own, open_ = (torch.from_numpy(part).to(device) for part in (owners, free))
    seen = (own[:, :, None] & own[:, None]) != 0
    seen |= open_[:, :, None] | open_[:, None]
    seen[:, text:, text:] = True
    return torch.where(seen, 0.0, CLOSED)
