"""Where a motion takes an object: the reference's mover carried over to it, frame by frame.

From each frame's mask of the mover come a place (its centroid) and a size (the root of its area).
The object goes the mover's way from its own place, in its own size, and grows as the mover grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from motion_app.engine.systems.scene import ToldObject


@dataclass(frozen=True, eq=False)
class Course:
    """``centres`` (T, 2) (x, y) in pixels and ``sizes`` (T,) of the mover; ``centre`` and ``size``
    of the object in the picture."""

    centres: np.ndarray
    sizes: np.ndarray
    centre: np.ndarray
    size: float

    @classmethod
    def of(cls, thing: ToldObject) -> Course:
        """A frame without the mover holds what the one before had."""
        centres, sizes = [], []
        for mask in thing.masks:
            if mask.any():
                centres.append(_centre(mask))
                sizes.append(float(mask.sum()) ** 0.5)
            else:
                centres.append(centres[-1])
                sizes.append(sizes[-1])
        own = float(thing.mask.sum()) ** 0.5
        return cls(np.stack(centres), np.array(sizes), _centre(thing.mask), own)

    @property
    def scale(self) -> float:
        """Pixels of the object for one of the reference."""
        return self.size / self.sizes[0]

    def path(self) -> np.ndarray:
        """(T, 2) the object's centres (x, y) in pixels."""
        return self.centre + self.scale * (self.centres - self.centres[0])

    def from_object(self, t: int) -> np.ndarray:
        """(2, 3) affine: the picture's pixels of the object to where they are in frame ``t``."""
        return _similarity(self.sizes[t] / self.sizes[0], self.centre, self.path()[t])

    def from_reference(self) -> np.ndarray:
        """(2, 3) affine from any frame of the reference to the same frame of the video."""
        return _similarity(self.scale, self.centres[0], self.centre)


def moved(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``pixels`` (H, W) or (H, W, C) of float32 at the places to which ``matrix`` (2, 3) takes
    them, 0 elsewhere."""
    height, width = pixels.shape[:2]
    return cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR)


def moved_mask(mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``mask`` (H, W) bool where ``matrix`` (2, 3) takes it."""
    return moved(mask.astype(np.float32), matrix) > 0.5


def _centre(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def _similarity(scale: float, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    shift = target - scale * source
    return np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])
