"""From frames to the arrays the metrics take. What needs no weights is named for what it is."""

from __future__ import annotations

import numpy as np


def colour_track(
    frames: np.ndarray, mask: np.ndarray, *, reach: float = 70.0, window: float = 1.2
) -> np.ndarray:
    """Centroid track [T, 2] in pixels (y, x) of an object with one dominant colour.

    ``frames`` (T, H, W, 3) uint8, ``mask`` (H, W) bool in the first frame. In each frame the pixels
    within ``reach`` (RGB distance) of the object's median colour are averaged, searched around the
    last centroid within ``window`` times the object's larger side. Where fewer than a tenth of
    the first frame's pixels are found, the last centroid stands.
    """
    colour = np.median(frames[0][mask].astype(float), axis=0)
    rows, columns = np.nonzero(mask)
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    centre = np.array([rows.mean(), columns.mean()])
    grid = np.stack(np.indices(mask.shape), axis=-1)  # (H, W, 2)
    track, first_count = [], None
    for frame in frames:
        near = np.linalg.norm(frame.astype(float) - colour, axis=-1) < reach
        near &= np.abs(grid - centre).max(axis=-1) < window * side
        if first_count is None:
            first_count = near.sum()
        if near.sum() > 0.1 * first_count:
            centre = grid[near].mean(axis=0)
        track.append(centre)
    return np.stack(track)


def colour_masks(frames: np.ndarray, mask: np.ndarray, *, reach: float = 70.0) -> np.ndarray:
    """(T, H, W) bool: pixels of the object's median colour near its track, holes not filled."""
    colour = np.median(frames[0][mask].astype(float), axis=0)
    rows, columns = np.nonzero(mask)
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    grid = np.stack(np.indices(mask.shape), axis=-1)
    track = colour_track(frames, mask, reach=reach)
    near = np.linalg.norm(frames.astype(float) - colour, axis=-1) < reach  # (T, H, W)
    close = np.abs(grid[None] - track[:, None, None]).max(axis=-1) < 0.75 * side
    return near & close
