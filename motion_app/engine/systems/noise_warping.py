"""Noise that moves: white in each frame, and carried along by flow from one to the next.

Written from the description of the method (arXiv 2501.08331). A canvas of finer cells than the
latents holds unit noise and a weight, of how much of the picture a cell speaks for. With each frame
its cells go where the flow takes them. One that goes to several places is split among them, several
that meet are joined; both keep the noise unit and white. Of each block of cells a latent gets the
weighted mean, scaled to unit again.

Cells of a batch lie in one row, B·h·w, so that everything is done at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Canvas:
    """``noise`` (N, C) and ``weights`` (N,) float32 of N = B·h·w cells; ``size``: (B, h, w)."""

    noise: Tensor
    weights: Tensor
    size: tuple[int, int, int]

    @classmethod
    def fresh(cls, size: tuple[int, int, int], channels: int, draw: torch.Generator) -> Canvas:
        """White noise, every cell of weight 1."""
        cells = size[0] * size[1] * size[2]
        return cls(torch.randn(cells, channels, generator=draw), torch.ones(cells), size)

    def read(self, block: int) -> Tensor:
        """(B, C, h / block, w / block): each block's weighted mean, scaled to unit variance."""
        batch, height, width = self.size
        cut = (batch, height // block, block, width // block, block)
        heavy = (self.noise * self.weights[:, None]).unflatten(0, cut).sum(dim=(2, 4))
        squares = self.weights.square().unflatten(0, cut).sum(dim=(2, 4))  # (B, H', W')
        return (heavy / squares.sqrt()[..., None]).movedim(-1, 1)


def links(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Which cell goes to which: sources and targets (n,) int64, as positions in B·h·w.

    ``flow`` (B, h, w, 2): x and y in cells, at the earlier frame's cells. Each goes to the nearest
    cell at its end; a cell that nobody reaches looks back along its own flow. What would come from
    outside is left out.
    """
    batch, height, width, _ = flow.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([columns, rows], dim=-1)  # (h, w, 2) x and y
    cells = torch.arange(batch * height * width)
    starts = (cells // (height * width) * height * width).view(batch, height, width)

    def positions(ends: Tensor) -> tuple[Tensor, Tensor]:
        """Of cells (B, h, w, 2) float, and whether each is inside; both (B·h·w,)."""
        x, y = ends.round().long().unbind(-1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return (starts + y * width + x).flatten(), inside.flatten()

    forward, arrives = positions(places + flow)
    sources, targets = cells[arrives], forward[arrives]
    missed = torch.ones(len(cells), dtype=torch.bool)
    missed[targets] = False
    back, known = positions(places - flow)
    looking = missed & known
    return torch.cat([sources, back[looking]]), torch.cat([targets, cells[looking]])


def warped(canvas: Canvas, flow: Tensor, draw: torch.Generator) -> Canvas:
    """``canvas`` a frame later, by ``flow`` (B, h, w, 2) in cells; a cell that nothing comes to is
    new."""
    sources, targets = links(flow)
    cells, channels = canvas.noise.shape
    parts = torch.bincount(sources, minlength=cells)[sources].float()  # (n,)
    arrivals = torch.bincount(targets, minlength=cells)  # (N,)
    moving = (sources != targets) | (parts > 1) | (arrivals[targets] > 1)
    sources, targets, parts = sources[moving], targets[moving], parts[moving]
    pieces = canvas.noise[sources] / parts.sqrt()[:, None]  # (n, C)
    split = torch.nonzero(parts > 1)[:, 0]
    pieces[split] += _apart(sources[split], parts[split], channels, draw)
    shares = canvas.weights[sources] / parts
    reached, place = targets.unique(return_inverse=True)
    heavy = torch.zeros(len(reached), channels).index_add_(0, place, shares[:, None] * pieces)
    squares = torch.zeros(len(reached)).index_add_(0, place, shares.square())
    noise, weights = canvas.noise.clone(), canvas.weights.clone()
    noise[reached] = heavy / squares.sqrt()[:, None]
    weights[reached] = torch.zeros(len(reached)).index_add_(0, place, shares)
    new = torch.nonzero(arrivals == 0)[:, 0]
    noise[new] = torch.randn(len(new), channels, generator=draw)
    weights[new] = 1.0
    means = weights.view(canvas.size[0], -1).mean(dim=1, keepdim=True)
    return Canvas(noise, (weights.view(canvas.size[0], -1) / means).flatten(), canvas.size)


def _apart(sources: Tensor, parts: Tensor, channels: int, draw: torch.Generator) -> Tensor:
    """What the pieces (n,) of the cells ``sources``, each of so many ``parts``, differ by: noise
    whose mean over the pieces of a cell is 0, (n, C). With the cell's own share the pieces are unit
    and independent."""
    own = torch.randn(len(sources), channels, generator=draw)
    split, place = sources.unique(return_inverse=True)
    means = torch.zeros(len(split), channels).index_add_(0, place, own / parts[:, None])
    return own - means[place]


def warped_noise(
    flow: Tensor,
    times: Sequence[int],
    *,
    channels: int,
    ratio: int,
    fineness: int,
    draw: torch.Generator,
) -> Tensor:
    """Noise for latents, (B, F, C, H', W') float32, that goes with ``flow`` (B, T - 1, H, W, 2), x
    and y in pixels from each frame to the next.

    ``times`` (F,): the frame that each latent frame is of; ``ratio``: pixels along a latent's side;
    ``fineness``: cells along a pixel's.
    """
    batch, _, height, width, _ = flow.shape
    size = (batch, height * fineness, width * fineness)
    canvas = Canvas.fresh(size, channels, draw)
    frames = {0: canvas.read(ratio * fineness)}
    for t in range(max(times)):
        finer = flow[:, t].repeat_interleave(fineness, 1).repeat_interleave(fineness, 2)
        canvas = warped(canvas, finer.float() * fineness, draw)
        if t + 1 in times:
            frames[t + 1] = canvas.read(ratio * fineness)
    return torch.stack([frames[t] for t in times], dim=1)


def degraded(noise: Tensor, fresh: Tensor, share: float | Tensor) -> Tensor:
    """``noise`` of which a ``share``, 0 to 1, gives way to ``fresh`` noise of the same shape; unit
    as they are. At 1 it is the fresh noise itself."""
    return (share * fresh + (1 - share) * noise) / (share**2 + (1 - share) ** 2) ** 0.5
