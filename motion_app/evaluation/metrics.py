"""Metrics as pure functions of arrays; numpy in and out, no models.

Here: embeddings, centroid tracks, masks, intervals. Point tracks and optical flow against a
reference are in ``motion_fidelity`` and, by the formulas of FlexiMMT's release, in
``released_fidelity``, what a video's own pixels and features tell in ``video_quality``; this module
exports them all. Sources: FlexiMMT (docs/method.md, section 10) and the
metrics SynMotion takes from VBench (docs/synmotion.md, section 4).
"""

from __future__ import annotations

import numpy as np

from motion_app.errors import MotionAppError
from motion_app.evaluation.motion_fidelity import (
    FlowHistograms,
    flow_fidelity,
    flow_histograms,
    trajectory_fidelity,
)
from motion_app.evaluation.released_fidelity import (
    flow_fidelity_released,
    trajectory_fidelity_released,
)
from motion_app.evaluation.video_quality import (
    aesthetic_quality,
    dynamic_degree,
    flow_score,
    frechet_distance,
    i2v_subject,
    imaging_quality,
    is_dynamic,
    motion_smoothness,
    subject_consistency,
    temporal_flickering,
)

__all__ = [
    "FlowHistograms",
    "adjacent_consistency",
    "aesthetic_quality",
    "appearance_consistency",
    "appearance_over_time",
    "assignment_similarity",
    "bootstrap_interval",
    "dynamic_degree",
    "flow_fidelity",
    "flow_fidelity_released",
    "flow_histograms",
    "flow_score",
    "follows_own",
    "frechet_distance",
    "i2v_subject",
    "imaging_quality",
    "is_dynamic",
    "mask_iou",
    "motion_smoothness",
    "resample_track",
    "subject_consistency",
    "temporal_consistency",
    "temporal_flickering",
    "text_similarity",
    "trajectory_fidelity",
    "trajectory_fidelity_released",
]

FOLLOWS = 0.3  # similarity above which an object follows its own motion


def unit_rows(embeddings: np.ndarray, *, rows: int = 1) -> np.ndarray:
    """``embeddings`` [T, D] as float64 of length 1 each; MotionAppError for fewer than ``rows``
    rows or a row of zeros, which has no direction."""
    embeddings = np.asarray(embeddings, float)
    if embeddings.ndim != 2 or len(embeddings) < rows:
        raise MotionAppError(
            f"embeddings have the shape {embeddings.shape}; expected [T, D] with T of at least "
            f"{rows}: use a longer video"
        )
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)  # [T, 1]
    if not lengths.all():
        raise MotionAppError("an embedding is all zeros; expected a direction: check the extractor")
    return embeddings / lengths


def appearance_over_time(embeddings: np.ndarray) -> np.ndarray:
    """Cosine [T - 1] of frame 1 to each later frame, of image ``embeddings`` [T, D]."""
    unit = unit_rows(embeddings, rows=2)
    return unit[1:] @ unit[0]


def appearance_consistency(embeddings: np.ndarray) -> float:
    """AC: mean cosine of frame 1 to all later frames, of image ``embeddings`` [T, D]; -1 to 1.
    FlexiMMT, section 4.1."""
    return float(appearance_over_time(embeddings).mean())


def temporal_consistency(embeddings: np.ndarray) -> float:
    """TC: mean cosine over all pairs of different frames, of image ``embeddings`` [T, D]; -1 to 1.
    FlexiMMT, as its release computes it; ``adjacent_consistency`` is the other reading."""
    unit = unit_rows(embeddings, rows=2)
    first, second = np.triu_indices(len(unit), k=1)
    return float((unit @ unit.T)[first, second].mean())


def adjacent_consistency(embeddings: np.ndarray) -> float:
    """Mean cosine of each frame to the next, of image ``embeddings`` [T, D]; -1 to 1. SynMotion's
    Temporal Consistency."""
    unit = unit_rows(embeddings, rows=2)
    return float((unit[1:] * unit[:-1]).sum(axis=1).mean())


def text_similarity(embeddings: np.ndarray, text: np.ndarray) -> float:
    """TS, and SynMotion's CLIP-T: mean cosine of image ``embeddings`` [T, D] to the caption's
    embedding ``text`` [D], not scaled; -1 to 1, for CLIP some 0.2 to 0.4."""
    unit = unit_rows(embeddings)
    return float((unit @ unit_rows(np.asarray(text)[None])[0]).mean())


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


def follows_own(own: float, other: float) -> bool:
    """Whether an object moves as it should: more like its ``own`` reference than FOLLOWS, and more
    than like the most similar ``other``. docs/method.md, section 10."""
    return own > FOLLOWS and own > other


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
