"""Whether anything moves in a clip: a motion cannot be learned from a picture that is held."""

from __future__ import annotations

import cv2
import numpy as np

from motion_app.errors import RequestError

LOOKED_AT = 180  # px of the shorter side: noise of cameras and codecs is averaged away
CONTRAST = 8  # of 255, more than what codecs do to a picture that is held
LEAST = 0.001  # of the picture, a patch far smaller than a token


def moves(frames: np.ndarray) -> bool:
    """Whether anything changes in ``frames`` (T, H, W, 3) uint8: whether more than ``LEAST`` of the
    picture takes values that lie more than ``CONTRAST`` apart."""
    height, width = frames.shape[1:3]
    scale = min(1.0, LOOKED_AT / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    low = high = None
    for frame in frames:
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        low = small if low is None else np.minimum(low, small)
        high = small if high is None else np.maximum(high, small)
    if low is None:
        return False
    return float(((high - low).max(axis=-1) > CONTRAST).mean()) > LEAST


def check_movement(frames: np.ndarray, name: str) -> None:
    """RequestError where nothing moves in ``frames`` (T, H, W, 3) uint8 of the clip ``name``."""
    if not moves(frames):
        raise RequestError(
            f"nothing moves in {name}, in the part of it that was chosen; choose another part or "
            "clip, or say that the motion is to stand still (--still, or the box on the page)"
        )
