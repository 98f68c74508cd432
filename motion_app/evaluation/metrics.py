"""Metrics as pure functions of arrays; numpy in and out, no models."""

from __future__ import annotations

import numpy as np


def resample_track(track: np.ndarray, length: int) -> np.ndarray:
    """``track`` [T, 2] linearly resampled to [length, 2] over the same time span."""
    at = np.linspace(0, len(track) - 1, length)
    index = np.arange(len(track))
    return np.stack([np.interp(at, index, track[:, axis]) for axis in range(2)], axis=1)


def assignment_similarity(
    track: np.ndarray, reference_track: np.ndarray, *, still: float = 1.0
) -> float:
    """How alike two centroid tracks move, from -1 to 1.

    ``track`` [T, 2] and ``reference_track`` [T', 2] in pixels (y, x). Each is taken relative to its
    first point and resampled to the longer length; the value is the cosine of the flattened arrays.
    0 if either never gets ``still`` pixels away from where it began.
    """
    length = max(len(track), len(reference_track))
    offsets = []
    for points in (np.asarray(track, float), np.asarray(reference_track, float)):
        offset = resample_track(points - points[:1], length)
        if np.linalg.norm(offset, axis=1).max() < still:
            return 0.0
        offsets.append(offset.ravel())
    a, b = offsets
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def mask_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two bool arrays of one shape; 1 when both are empty."""
    union = np.logical_or(mask, truth).sum()
    return float(np.logical_and(mask, truth).sum() / union) if union else 1.0


def bootstrap_interval(
    values: np.ndarray, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values`` [n]; pass paired differences to
    compare two methods on the same cases."""
    values = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
