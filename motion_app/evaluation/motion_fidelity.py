"""How alike two videos move: point tracks (TF) and optical flow (FF). Pure numpy.

Both compare an object of a video with a reference clip that may have another size, length and
object: positions never count, only directions and relative speeds. These are our own readings of
the papers' two fidelities; ``released_fidelity`` has the formulas behind the papers' figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motion_app.errors import MotionAppError

MAGNITUDE_BINS = 20
DIRECTION_BINS = 18
CAP_PERCENTILE = 99.0
STILL = 0.05  # pixels a frame: below it a displacement has no direction, only noise


def resample_times(length: int, count: int) -> np.ndarray:
    """``count`` indices [count] of ``length`` frames or steps, over the same time span."""
    return np.linspace(0, length - 1, count).round().astype(int)


def trajectory_fidelity(
    tracks: np.ndarray,
    reference_tracks: np.ndarray,
    *,
    visible: np.ndarray | None = None,
    reference_visible: np.ndarray | None = None,
    still: float = STILL,
) -> float:
    """TF: how well the moves of an object's points are found again in a reference; -1 to 1.

    ``tracks`` [n, T, 2] and ``reference_tracks`` [m, T', 2] in pixels, axes in any one order;
    ``visible`` [n, T] and ``reference_visible`` [m, T'] bool. Each step of a track is a unit
    vector. Two tracks are as alike as the mean cosine over the steps in which at least one of them
    moves (``still`` pixels or more) and both are visible; where only one moves it is 0, and a
    static track is like nothing. Each of the n tracks counts with the best of the m. The longer
    of the two is read at the other's times. FlexiMMT (docs/method.md, section 10), after FlexiAct.

    Raises MotionAppError for arrays of another shape.
    """
    frames = check_tracks(tracks, "tracks"), check_tracks(reference_tracks, "reference tracks")
    steps = min(frames) - 1
    units, moves, seen = _unit_steps(tracks, visible, steps, still)
    others, other_moves, other_seen = _unit_steps(reference_tracks, reference_visible, steps, still)
    counted = (moves[:, None] | other_moves[None]) & seen[:, None] & other_seen[None]  # [n, m, S]
    cosines = np.einsum("isd,jsd->ijs", units, others) * counted
    alike = cosines.sum(axis=2) / np.maximum(counted.sum(axis=2), 1)  # [n, m]
    return float(alike.max(axis=1).mean())


def check_tracks(tracks: np.ndarray, what: str) -> int:
    """How many frames ``tracks`` [n, T, 2] have; MotionAppError for another shape."""
    shape = np.shape(tracks)
    if len(shape) != 3 or shape[0] < 1 or shape[1] < 2 or shape[2] != 2:
        raise MotionAppError(
            f"{what} have the shape {shape}; expected [points, frames, 2] with one point and two "
            "frames at least: check that the object's mask is not empty"
        )
    return shape[1]


def _unit_steps(
    tracks: np.ndarray, visible: np.ndarray | None, steps: int, still: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit displacements [n, S, 2] (0 where still), and bool [n, S]: does it move, is it seen."""
    at = resample_times(np.shape(tracks)[1], steps + 1)
    moved = np.diff(np.asarray(tracks, float)[:, at], axis=1)  # [n, S, 2]
    lengths = np.linalg.norm(moved, axis=2)  # [n, S]
    moves = lengths >= still
    units = np.where(moves[..., None], moved / np.maximum(lengths, still)[..., None], 0.0)
    if visible is None:
        return units, moves, np.ones_like(moves)
    shown = np.asarray(visible, bool)[:, at]
    return units, moves, shown[:, 1:] & shown[:, :-1]


@dataclass(frozen=True, eq=False)
class FlowHistograms:
    """Shares that sum to 1: ``magnitude`` [20] of speed over its own mean, from 0 to ``cap``, and
    ``direction`` [18] from -180 to 180 degrees (0 right, 90 down)."""

    magnitude: np.ndarray
    direction: np.ndarray
    cap: float


def flow_histograms(vectors: np.ndarray, *, cap: float | None = None) -> FlowHistograms:
    """Histograms of flow ``vectors`` [P, 2] (x, y) in pixels. ``cap`` None: their 99th percentile;
    faster pixels count in the last bin. The vectors must not all be zero."""
    speeds = relative_speeds(vectors)
    cap = _cap(speeds) if cap is None else cap
    magnitude, _ = np.histogram(np.minimum(speeds, cap), MAGNITUDE_BINS, range=(0, cap))
    angles = np.arctan2(vectors[:, 1], vectors[:, 0])
    direction, _ = np.histogram(angles, DIRECTION_BINS, range=(-np.pi, np.pi))
    return FlowHistograms(magnitude / len(vectors), direction / len(vectors), cap)


def relative_speeds(vectors: np.ndarray) -> np.ndarray:
    """Lengths [P] of ``vectors`` [P, 2] over their own mean."""
    speeds = np.linalg.norm(np.asarray(vectors, float), axis=1)
    return speeds / speeds.mean()


def _cap(speeds: np.ndarray) -> float:
    return float(np.percentile(speeds, CAP_PERCENTILE))


def flow_fidelity(
    flow: np.ndarray,
    masks: np.ndarray,
    reference_flow: np.ndarray,
    reference_masks: np.ndarray,
    *,
    still: float = STILL,
) -> float:
    """FF: how alike speeds and directions are distributed inside an object's masks; 0 to 1.

    ``flow`` [T - 1, H, W, 2] (x, y) in pixels a frame and ``masks`` [T - 1, H, W] bool, those of
    each pair's first frame; the reference likewise at its own size and length, the longer one being
    read at the other's times. A pair's value is the mean of two Bhattacharyya coefficients, of the
    speeds' and of the directions' histograms (``FlowHistograms``; the cap is the larger of the two
    99th percentiles). Where neither moves (mean speed below ``still``) it is 1, where one does 0.
    Pairs in which a mask is empty do not count. FlexiMMT, section 4.1 (docs/method.md, section 10).

    Raises MotionAppError for arrays of other shapes and where no pair is left.
    """
    check_flow(flow, masks, "the video")
    check_flow(reference_flow, reference_masks, "the reference")
    pairs = min(len(flow), len(reference_flow))
    ours, theirs = (resample_times(len(field), pairs) for field in (flow, reference_flow))
    values = []
    for t, s in zip(ours, theirs, strict=True):
        vectors = flow[t][np.asarray(masks[t], bool)]  # [P, 2]
        others = reference_flow[s][np.asarray(reference_masks[s], bool)]
        if len(vectors) and len(others):
            values.append(_pair_fidelity(vectors, others, still))
    if not values:
        raise MotionAppError(
            "the object's mask is empty in every frame of the video or of its reference; "
            "mark the object"
        )
    return float(np.mean(values))


def check_flow(flow: np.ndarray, masks: np.ndarray, what: str) -> None:
    """MotionAppError unless ``flow`` is [pairs, H, W, 2] and ``masks`` [pairs, H, W]."""
    shape = np.shape(flow)
    if len(shape) != 4 or shape[0] < 1 or shape[3] != 2 or shape[:3] != np.shape(masks):
        raise MotionAppError(
            f"flow {shape} and masks {np.shape(masks)} of {what} do not fit; expected "
            "[pairs, H, W, 2] and [pairs, H, W]"
        )


def _pair_fidelity(vectors: np.ndarray, others: np.ndarray, still: float) -> float:
    moves = [np.linalg.norm(v, axis=1).mean() >= still for v in (vectors, others)]
    if not all(moves):
        return float(not any(moves))
    cap = max(_cap(relative_speeds(vectors)), _cap(relative_speeds(others)))
    a, b = flow_histograms(vectors, cap=cap), flow_histograms(others, cap=cap)
    speeds = np.sqrt(a.magnitude * b.magnitude).sum()
    directions = np.sqrt(a.direction * b.direction).sum()
    return float((speeds + directions) / 2)
