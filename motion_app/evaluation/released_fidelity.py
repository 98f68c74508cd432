"""TF and FF by the formulas of the FlexiMMT authors' release, which made the papers' figures.

Where they differ from ours (``metrics``): the shorter of two videos counts as far as it
goes, the longer one's rest is cut off; every step of a track counts, one that stands still with
nothing and one that jitters like any other; hidden points count as seen; speeds above the cap are
left out; an object whose mask is empty scores 0 in that pair of frames. Pure numpy, in float32 as
the release computes, because a speed at the edge of a bin would else fall on its other side.
"""

from __future__ import annotations

import numpy as np

from motion_app.evaluation.metrics import (
    CAP_PERCENTILE,
    DIRECTION_BINS,
    MAGNITUDE_BINS,
    check_flow,
    check_tracks,
)

LEAST_LENGTH = 1e-8  # added to a step's length, so that a step of none has no direction
LEAST = 1e-6  # added to mean speeds and counts; the least cap


def trajectory_fidelity_released(tracks: np.ndarray, reference_tracks: np.ndarray) -> float:
    """TF as FlexiMMT's release computes it; -1 to 1.

    ``tracks`` [n, T, 2] and ``reference_tracks`` [m, T', 2] in pixels, axes in any one order. Each
    step of a track is a unit vector. Two tracks are as alike as the mean cosine over all steps that
    both have; each of the n counts with the best of the m. Raises MotionAppError for arrays of
    another shape.
    """
    frames = check_tracks(tracks, "tracks"), check_tracks(reference_tracks, "reference tracks")
    units, others = (_unit_steps(each, min(frames)) for each in (tracks, reference_tracks))
    alike = np.einsum("isd,jsd->ijs", units, others).mean(axis=2)  # [n, m]
    return float(alike.max(axis=1).mean())


def _unit_steps(tracks: np.ndarray, frames: int) -> np.ndarray:
    """Displacements [n, frames - 1, 2] of length 1, or 0 where nothing moves."""
    moved = np.diff(np.asarray(tracks, np.float32)[:, :frames], axis=1)  # [n, S, 2]
    return moved / (np.linalg.norm(moved, axis=2, keepdims=True) + np.float32(LEAST_LENGTH))


def flow_fidelity_released(
    flow: np.ndarray,
    masks: np.ndarray,
    reference_flow: np.ndarray,
    reference_masks: np.ndarray,
) -> float:
    """FF as FlexiMMT's release computes it; 0 to 1.

    ``flow`` [T - 1, H, W, 2] (x, y) in pixels a frame and ``masks`` [T - 1, H, W] bool, those of
    each pair's first frame; the reference likewise at its own size and length. The mean over the
    pairs of frames that both have, of the mean of two Bhattacharyya coefficients: of the speeds
    over their own mean, up to the larger 99th percentile, and of the directions. Raises
    MotionAppError for arrays of other shapes.
    """
    check_flow(flow, masks, "the video")
    check_flow(reference_flow, reference_masks, "the reference")
    pairs = zip(flow, masks, reference_flow, reference_masks, strict=False)
    values = []
    for field, inside, other_field, other_inside in pairs:
        vectors = np.asarray(field, np.float32)[np.asarray(inside, bool)]  # [P, 2]
        others = np.asarray(other_field, np.float32)[np.asarray(other_inside, bool)]
        values.append(_pair_fidelity(vectors, others) if len(vectors) and len(others) else 0.0)
    return float(np.mean(values))


def _pair_fidelity(vectors: np.ndarray, others: np.ndarray) -> float:
    """One pair of frames, of flow [P, 2] and [P', 2] float32."""
    speeds = [_relative_speeds(each) for each in (vectors, others)]
    cap = max(LEAST, *(float(np.percentile(each, CAP_PERCENTILE)) for each in speeds))
    by_speed = [_shares(each, MAGNITUDE_BINS, (0.0, cap)) for each in speeds]
    angles = [np.arctan2(each[:, 1], each[:, 0]) for each in (vectors, others)]
    by_direction = [_shares(each, DIRECTION_BINS, (-np.pi, np.pi)) for each in angles]
    return float(np.mean([np.sqrt(a * b).sum() for a, b in (by_speed, by_direction)]))


def _relative_speeds(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1)  # [P] float32
    return lengths / (lengths.mean() + np.float32(LEAST))


def _shares(values: np.ndarray, bins: int, span: tuple[float, float]) -> np.ndarray:
    """How ``values`` [P] inside ``span`` are distributed over ``bins``."""
    counts, _ = np.histogram(values, bins, range=span)
    return counts / (counts.sum() + LEAST)
