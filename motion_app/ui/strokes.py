"""Brush strokes on masks: lines of points with a radius, turned into pixels. Pure numpy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motion_app.errors import RequestError

MOST_POINTS = 4000  # of one stroke: a minute of drawing at the rate of a pointer


@dataclass(frozen=True)
class Stroke:
    """``points`` (x, y) and ``radius`` in pixels of the model frame; ``add`` False erases."""

    points: tuple[tuple[float, float], ...]
    radius: float
    add: bool = True


def stroke_of(
    shares: Sequence[Sequence[float]], radius: float, *, add: bool, height: int, width: int
) -> Stroke:
    """A stroke from what a browser sends: points as shares of the frame's width and height, and the
    ``radius`` as a share of its width. RequestError for none, too many, or points far outside."""
    points = np.asarray(shares, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not 1 <= len(points) <= MOST_POINTS:
        raise RequestError(
            f"a stroke has 1 to {MOST_POINTS} points of x and y, got an array of {points.shape}; "
            "draw it again, in shorter strokes"
        )
    if not (np.isfinite(points).all() and np.abs(points - 0.5).max() <= 1):
        raise RequestError("the stroke lies outside the picture; draw it on the picture")
    if not 0 < radius <= 0.5:
        raise RequestError(f"the brush has a radius of {radius:g} widths; choose 0 to 0.5")
    pixels = points * (width, height)  # (n, 2)
    return Stroke(tuple((float(x), float(y)) for x, y in pixels), radius * width, add)


def rasterise(stroke: Stroke, height: int, width: int) -> np.ndarray:
    """(height, width) bool: the pixels whose centre is within the radius of the line through the
    stroke's points. A stroke that is thinner than a pixel still marks those it passes through."""
    covered = np.zeros((height, width), dtype=bool)
    points = stroke.points if len(stroke.points) > 1 else (*stroke.points, *stroke.points)
    radius = max(stroke.radius, np.sqrt(0.5))  # half a pixel's diagonal
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        left, right = _bounds(min(x0, x1) - radius, max(x0, x1) + radius, width)
        top, bottom = _bounds(min(y0, y1) - radius, max(y0, y1) + radius, height)
        if left >= right or top >= bottom:
            continue
        x = np.arange(left, right) + 0.5  # (n,)
        y = np.arange(top, bottom)[:, None] + 0.5  # (m, 1)
        along_x, along_y = x1 - x0, y1 - y0
        length = along_x**2 + along_y**2
        share = ((x - x0) * along_x + (y - y0) * along_y) / length if length else 0.0 * x * y
        share = np.clip(share, 0, 1)  # (m, n): where on the line the nearest point lies
        distance = (x - x0 - share * along_x) ** 2 + (y - y0 - share * along_y) ** 2  # (m, n)
        covered[top:bottom, left:right] |= distance <= radius**2
    return covered


def _bounds(low: float, high: float, size: int) -> tuple[int, int]:
    return max(0, int(np.floor(low))), min(size, int(np.ceil(high)) + 1)


def paint(region: np.ndarray, strokes: Sequence[Stroke]) -> np.ndarray:
    """``region`` (H, W) bool with the strokes added and erased in their order."""
    painted = region.copy() if strokes else region
    for stroke in strokes:
        painted[rasterise(stroke, *region.shape)] = stroke.add
    return painted
