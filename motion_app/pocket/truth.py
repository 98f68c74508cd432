"""What a backbone in training is told of its clips beside their pixels: where each creature is,
which one it is, and how it has moved.

The renderer knows all of that. A linear head reads it from the video tokens after one of the
middle blocks, and its error joins the loss: a network of this size would need many more clips to
find out by pixels alone that a creature is one thing that its sentence moves. (Features aligned
with what is known already: Yu et al., arXiv 2410.06940.) The head is not part of what ships.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import nn

from motion_app.world.creatures import COLOURS, KINDS
from motion_app.world.world import RenderedClip

CELL = 8  # pixels along one side of a video token
POSE = 7  # numbers that say how a creature has moved since the first frame
PIXELS = 12.0  # a way that counts as 1


@dataclass(frozen=True, eq=False)
class Truth:
    """Of B clips with F latent frames on a grid of h × w tokens: ``cover`` (B, F, h, w) float16,
    the share of a token that creatures cover; ``pose`` (B, F, h, w, 7) float16, that of the
    creature which covers most of the token; ``colour`` and ``kind`` (B, F, h, w) int8, which one
    that is, 0 where nothing stands."""

    cover: np.ndarray
    pose: np.ndarray
    colour: np.ndarray
    kind: np.ndarray

    @classmethod
    def of(cls, clips: Sequence[RenderedClip]) -> Truth:
        """The truth of rendered clips, at the last video frame that each latent frame holds."""
        return cls.join([_truth_of(clip) for clip in clips])

    @classmethod
    def join(cls, parts: Sequence[Truth]) -> Truth:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def rows(self, rows: np.ndarray | slice) -> Truth:
        """Some of the clips."""
        return Truth(*(getattr(self, f.name)[rows] for f in fields(self)))


def _truth_of(clip: RenderedClip) -> Truth:
    frames = np.arange(0, clip.frames.shape[0], 2)  # (F,)
    masks = clip.masks[:, frames].astype(np.float32)  # (K, F, H, W)
    count, _, height, width = masks.shape
    grid = masks.reshape(count, len(frames), height // CELL, CELL, width // CELL, CELL)
    covers = grid.mean(axis=(3, 5))  # (K, F, h, w)
    owner = covers.argmax(axis=0)  # (F, h, w)
    creatures = clip.scene.creatures
    poses = np.stack([_pose(c.centres(), c.path, frames) for c in creatures])  # (K, F, 7)
    colours = np.array([list(COLOURS).index(c.colour) for c in creatures], np.int8)
    kinds = np.array([list(KINDS).index(c.kind) for c in creatures], np.int8)
    some = covers.sum(axis=0) > 0  # (F, h, w)
    pose = np.take_along_axis(poses[:, :, None, None], owner[None, ..., None], axis=0)[0]
    return Truth(
        covers.sum(axis=0).clip(max=1)[None].astype(np.float16),
        (pose * some[..., None])[None].astype(np.float16),  # (1, F, h, w, 7)
        (colours[owner] * some)[None].astype(np.int8),
        (kinds[owner] * some)[None].astype(np.int8),
    )


def _pose(centres: np.ndarray, path: object, frames: np.ndarray) -> np.ndarray:
    """(F, 7): the way from the first centre, both scales, the turn, the arm; each near 1 at most.
    ``centres`` (T, 2) in pixels."""
    way = (centres - centres[:1]) / PIXELS  # (T, 2)
    curves = (
        way[:, 0],
        way[:, 1],
        3 * (path.scale_x - 1),
        3 * (path.scale_y - 1),
        np.sin(path.rotation),
        1 - np.cos(path.rotation),
        path.arm,
    )
    return np.stack(curves, axis=1)[frames]


class TruthHead(nn.Module):
    """Reads ``Truth`` from video tokens (B, V, D) with one linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.parts = (1, POSE, len(COLOURS), len(KINDS))
        self.linear = nn.Linear(width, sum(self.parts))

    def loss(self, tokens: torch.Tensor, truth: Truth) -> torch.Tensor:
        """Mean error over the tokens: cross-entropy of the cover everywhere; where a creature
        stands, weighted by its cover, the pose's squared error and the cross-entropies of colour
        and kind. A scalar, near 5 for a head that knows nothing."""
        device = tokens.device
        told = self.linear(self.norm(tokens.float()))  # (B, V, parts)
        cover, pose, colour, kind = told.split(self.parts, dim=-1)
        true = {f.name: torch.from_numpy(getattr(truth, f.name)).to(device) for f in fields(truth)}
        share = true["cover"].float().flatten(1)  # (B, V)
        where = nnf.binary_cross_entropy_with_logits(cover[..., 0], share)
        miss = (pose - true["pose"].float().flatten(1, 3)).square().sum(dim=-1)  # (B, V)
        for logits, name in ((colour, "colour"), (kind, "kind")):
            labels = true[name].long().flatten(1)
            miss = miss + nnf.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return where + (share * miss).sum() / share.sum().clamp(min=1)


@contextmanager
def tokens_after(block: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collects the video tokens (B, V, D) that a transformer block gives while it is watched."""
    seen: list[torch.Tensor] = []
    handle = block.register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    try:
        yield seen
    finally:
        handle.remove()
