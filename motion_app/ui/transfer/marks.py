"""Marks on a picture: strokes, and places when its fit changes.

Brush strokes on masks: lines of points with a radius, turned into pixels. Pure numpy.

Where a place in one fit of a picture lies in another fit of the same picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import FittedImage
from motion_app.scene import Box, Click

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


def to_picture(fitted: FittedImage, x: float, y: float) -> tuple[float, float]:
    """(x, y) in pixels of the original picture under a place in the model frame."""
    box_x0, box_y0, box_x1, box_y1 = fitted.box
    x0, y0, x1, y1 = fitted.place
    return (
        box_x0 + (x - x0) / (x1 - x0) * (box_x1 - box_x0),
        box_y0 + (y - y0) / (y1 - y0) * (box_y1 - box_y0),
    )


def from_picture(fitted: FittedImage, x: float, y: float) -> tuple[float, float]:
    """The inverse of ``to_picture``; outside the frame for what was cut off."""
    box_x0, box_y0, box_x1, box_y1 = fitted.box
    x0, y0, x1, y1 = fitted.place
    return (
        x0 + (x - box_x0) / (box_x1 - box_x0) * (x1 - x0),
        y0 + (y - box_y0) / (box_y1 - box_y0) * (y1 - y0),
    )


def framed_box(box: Box, fitted: FittedImage) -> Box | None:
    """A box of the original picture in the model frame, cut to it; None where less than a pixel is
    left."""
    height, width = fitted.image.shape[:2]
    x0, y0 = from_picture(fitted, box.x0, box.y0)
    x1, y1 = from_picture(fitted, box.x1, box.y1)
    x0, x1 = (float(np.clip(x, 0, width)) for x in (x0, x1))
    y0, y1 = (float(np.clip(y, 0, height)) for y in (y0, y1))
    return Box(x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None


def moved_click(click: Click, before: FittedImage, after: FittedImage) -> Click | None:
    """The click on the same thing in another fit; None where that is cut off."""
    x, y = from_picture(after, *to_picture(before, click.x, click.y))
    height, width = after.image.shape[:2]
    inside = 0 <= x < width and 0 <= y < height
    return Click(x, y, click.positive) if inside else None


def moved_box(box: Box, before: FittedImage, after: FittedImage) -> Box | None:
    """The box around the same things, cut to the frame; None where less than a pixel is left."""
    corners = (to_picture(before, box.x0, box.y0), to_picture(before, box.x1, box.y1))
    return framed_box(Box(*corners[0], *corners[1]), after)


def moved_stroke(stroke: Stroke, before: FittedImage, after: FittedImage) -> Stroke:
    """The stroke along the same line; its radius follows the mean of the two scales."""
    points = tuple(from_picture(after, *to_picture(before, x, y)) for x, y in stroke.points)
    scale = np.sqrt(np.prod(_scales(after)) / np.prod(_scales(before)))
    return Stroke(points, float(stroke.radius * scale), stroke.add)


def _scales(fitted: FittedImage) -> tuple[float, float]:
    """Pixels of the frame for a pixel of the picture, in x and in y."""
    box_x0, box_y0, box_x1, box_y1 = fitted.box
    x0, y0, x1, y1 = fitted.place
    return (x1 - x0) / (box_x1 - box_x0), (y1 - y0) / (box_y1 - box_y0)


def moved_mask(mask: np.ndarray, before: FittedImage, after: FittedImage) -> np.ndarray:
    """A mask (H, W) bool of one fit in another: the nearest pixel, nothing where none was seen."""
    height, width = after.image.shape[:2]
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    old_x, old_y = from_picture(before, *to_picture(after, x, y))
    columns, rows = np.floor(old_x).astype(int), np.floor(old_y).astype(int)
    seen_x = (columns >= 0) & (columns < mask.shape[1])
    seen_y = (rows >= 0) & (rows < mask.shape[0])
    moved = np.zeros((height, width), dtype=bool)
    moved[np.ix_(seen_y, seen_x)] = mask[np.ix_(rows[seen_y], columns[seen_x])]
    return moved  # (H, W)
