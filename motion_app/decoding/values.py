"""Picture values of any number type as eight bits."""

from __future__ import annotations

import numpy as np

SIXTEEN = 65535
NARROW = (SIXTEEN + 1) // 4  # 16-bit values all below it are the numbers of a smaller range


def eight_bit(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Numbers of any shape as uint8, and which of them became black and white where that had to be
    guessed.

    Not guessed: integers up to 255 are taken as they are, and integers whose largest is between a
    quarter and the whole of 16 bits by that range. Floating point from 0 to 1 or 0 to 255 has those
    ends; everything else its own largest value, and its smallest where that is below 0. What is not
    finite counts as black.
    """
    whole = np.issubdtype(values.dtype, np.integer)
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if whole and low >= 0 and high <= 255:
        return values.astype(np.uint8), None
    if whole and low >= 0 and NARROW <= high <= SIXTEEN:
        return (values.astype(np.uint16) >> 8).astype(np.uint8), None
    if not whole and low >= 0 and high <= 255:
        high = 1.0 if high <= 1 else 255.0
    scaled = (values - low) * (255.0 / max(high - low, np.finfo(np.float64).tiny))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8), (low, high)


def is_narrow(upper: np.ndarray) -> bool:
    """Whether 16-bit values with these ``upper`` bytes lie in a small part of their range."""
    return bool(upper.max(initial=0) < NARROW >> 8)
