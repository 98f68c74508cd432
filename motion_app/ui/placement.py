"""Where a place in one fit of a picture lies in another fit of the same picture."""

from __future__ import annotations

import numpy as np

from motion_app.geometry import FittedImage
from motion_app.scene import Box, Click
from motion_app.ui.strokes import Stroke


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
