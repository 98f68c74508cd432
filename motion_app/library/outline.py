"""What the masks of a mover say of its motion: where its middle is, how large it is, and how far it
has turned."""

from __future__ import annotations

import numpy as np

from motion_app.library.motion_file import OUTLINE

BINS = 90  # directions that a silhouette is looked at in
MOST_TURN = np.pi / 3  # radians from one frame to the next


def outline(masks: np.ndarray) -> np.ndarray:
    """``masks`` (T, H, W) bool → (T, 6): the middle (y, x), height and width in pixels of the
    masks, by how much, in radians clockwise, it has turned since the first frame, and which share
    of it is not where it was, its middle held still. A frame without anything holds what the one
    before it has; (0, 6) where no frame has anything."""
    rows: list[tuple[float, ...]] = []
    first = before = None
    turned = 0.0
    for mask in masks:
        places = np.argwhere(mask)  # (n, 2)
        if not len(places):
            if rows:
                rows.append(rows[-1])
            continue
        middle = places.mean(0)
        sides = places.max(0) - places.min(0) + 1
        seen = _silhouette(places - middle)
        turned += 0.0 if before is None else _turn(before, seen)
        before = seen
        held = {(y, x) for y, x in np.round(places - middle).astype(int).tolist()}
        first = held if first is None else first
        rows.append((*middle, *sides, turned, len(first ^ held) / len(first | held)))
    missing = len(masks) - len(rows)
    return np.array([*rows[:1] * missing, *rows], float).reshape(-1, len(OUTLINE))


def _silhouette(places: np.ndarray) -> np.ndarray:
    """How far it reaches from its middle in each direction, (BINS,), as a share of the mean."""
    angles = np.arctan2(places[:, 0], places[:, 1]) % (2 * np.pi)
    reach = np.zeros(BINS)
    np.maximum.at(reach, (angles * BINS / (2 * np.pi)).astype(int) % BINS, np.hypot(*places.T))
    known = np.flatnonzero(reach)
    reach = np.interp(np.arange(BINS), known, reach[known], period=BINS)
    return reach / max(reach.mean(), 1e-9)


def _turn(before: np.ndarray, after: np.ndarray) -> float:
    """The turn of at most ``MOST_TURN`` radians that makes ``before`` most like ``after``; of
    those that do so equally the smallest."""
    most = int(MOST_TURN / (2 * np.pi) * BINS)
    turns = sorted(range(-most, most + 1), key=abs)
    missed = [float(np.square(np.roll(before, turn) - after).mean()) for turn in turns]
    bar = 1.02 * min(missed)
    best = next(turn for turn, miss in zip(turns, missed, strict=True) if miss <= bar)
    return best * 2 * np.pi / BINS
