"""A path that a person drew for an object: a line over the picture, along which the object goes.

Places lie on the picture as it came, in the model frame, or in another fit of the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from motion_app.geometry import FittedImage
from motion_app.scene import DrawnPath

MOST_POINTS = 1000
FARTHEST = 100.0  # pictures away from the upper left corner: an object may leave, but not for good
DIGITS = 6  # of a share: far below a pixel, and the same when a recipe is read again


def read_path(points: Any) -> DrawnPath:
    """``points`` [[x, y], …] from outside, as shares of a picture; ValueError says why it is no
    path."""
    try:
        path = tuple((float(x), float(y)) for x, y in points)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "write a list of [x, y], in shares of the picture's width and height"
        ) from error
    if not 2 <= len(path) <= MOST_POINTS:
        raise ValueError(
            f"a path has 2 to {MOST_POINTS} points, the first where the object is taken up, and "
            f"this one {len(path)}"
        )
    if not (np.isfinite(path).all() and np.abs(path).max() <= FARTHEST):
        raise ValueError(
            "it leads nowhere; points are shares of the picture, 0 to 1 inside it and no more "
            f"than {FARTHEST:g} beyond"
        )
    return path


def framed_path(path: DrawnPath, fitted: FittedImage) -> DrawnPath:
    """A path in shares of the picture as it came, in shares of the model frame."""
    height, width = fitted.source_size

    def place(x: float, y: float) -> tuple[float, float]:
        return from_picture(fitted, x * width, y * height)

    return _path_of(path, fitted.image.shape, place)


def moved_path(path: DrawnPath, before: FittedImage, after: FittedImage) -> DrawnPath:
    """A path in shares of one fit's frame along the same line in another's."""
    height, width = before.image.shape[:2]

    def place(x: float, y: float) -> tuple[float, float]:
        return from_picture(after, *to_picture(before, x * width, y * height))

    return _path_of(path, after.image.shape, place)


def _path_of(
    path: DrawnPath,
    frame: Sequence[int],
    place: Callable[[float, float], tuple[float, float]],
) -> DrawnPath:
    """``place`` of each point, in pixels of the ``frame`` (H, W, …), as shares of it."""
    height, width = frame[:2]
    places = [place(x, y) for x, y in path]
    return tuple((round(x / width, DIGITS), round(y / height, DIGITS)) for x, y in places)


def way_along(path: DrawnPath, count: int, *, height: int, width: int) -> np.ndarray:
    """(count, 2) how far, in pixels x and y of a frame of that size, one is from the beginning of
    the ``path`` who goes along it in ``count`` frames, as fast in one as in another."""
    points = np.array(path) * (width, height)  # (n, 2)
    lengths = np.hypot(*np.diff(points, axis=0).T)  # (n - 1,)
    gone = np.concatenate([[0.0], np.cumsum(lengths)])  # (n,)
    at = np.linspace(0.0, gone[-1], count)
    return np.stack([np.interp(at, gone, part) for part in (points - points[0]).T], axis=1)


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
