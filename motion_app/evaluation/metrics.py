"""Metrics as pure functions of arrays; numpy in and out, no models.

Sources: FlexiMMT (docs/method.md, section 10) and the metrics SynMotion takes from VBench
(docs/synmotion.md, section 4).

How alike two videos move: point tracks (TF) and optical flow (FF). Pure numpy.

Both compare an object of a video with a reference clip that may have another size, length and
object: positions never count, only directions and relative speeds. These are our own readings of
the papers' two fidelities; ``released_fidelity`` has the formulas behind the papers' figures.

What a video's own pixels, flow and features tell, and the distance of two sets of videos.

Pure numpy. Definitions as SynMotion uses them (docs/synmotion.md, section 4), most of them
VBench's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from motion_app.errors import MotionAppError

FOLLOWS = 0.3  # similarity above which an object follows its own motion
MAGNITUDE_BINS = 20
DIRECTION_BINS = 18
CAP_PERCENTILE = 99.0
PSNR_AT_MOST = 99.0  # dB, of equal pictures
STILL = 0.05  # pixels a frame: below it a displacement has no direction, only noise
logger = logging.getLogger(__name__)
DYNAMIC_SHARE = 0.05  # of the pixels of a frame: the fastest
DYNAMIC_SPEED = 6.0 / 256  # of the shorter side, per frame at some 8 fps
DYNAMIC_PAIRS = 4.0 / 16  # of the sampled frames


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


def psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays of one shape, PSNR_AT_MOST for equal
    ones."""
    error = np.square(frames.astype(float) - truth.astype(float)).mean()
    return PSNR_AT_MOST if error == 0 else float(10 * np.log10(255**2 / error))


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


def temporal_flickering(frames: np.ndarray) -> float:
    """1 - mean absolute difference of consecutive ``frames`` [T, H, W, 3] uint8 over 255, all
    pixels; 0 to 1. VBench. Real motion lowers it: it is meant for static clips."""
    pairs = len(_video(frames)) - 1
    error = sum(np.abs(frames[t + 1].astype(np.int16) - frames[t]).mean() for t in range(pairs))
    return float(1 - error / pairs / 255)


def motion_smoothness(frames: np.ndarray, reconstructed: np.ndarray) -> float:
    """1 - mean absolute error over 255 of every second frame against its reconstruction from its
    neighbours; 0 to 1. VBench.

    ``frames`` [T, H, W, 3] uint8; ``reconstructed`` [(T - 1) // 2, H, W, 3] uint8 stands for frames
    2, 4, … counted from 1, those that have a neighbour on both sides.
    """
    dropped = _video(frames, least=3)[1:-1:2]
    if dropped.shape != reconstructed.shape:
        raise MotionAppError(
            f"reconstructed frames have the shape {reconstructed.shape}; expected {dropped.shape}"
        )
    return float(1 - np.abs(dropped.astype(np.int16) - reconstructed).mean() / 255)


def _video(frames: np.ndarray, *, least: int = 2) -> np.ndarray:
    if frames.ndim != 4 or len(frames) < least or frames.dtype != np.uint8:
        raise MotionAppError(
            f"frames have the shape {frames.shape} of {frames.dtype}; expected [T, H, W, 3] of "
            f"uint8 with T of at least {least}: use a longer video"
        )
    return frames


def flow_score(flow: np.ndarray) -> float:
    """Mean length of ``flow`` [T - 1, H, W, 2], pixels a frame. It has no good direction: a still
    video wins or loses it. SynMotion prints it without a definition; this is EvalCrafter's."""
    return float(np.linalg.norm(flow, axis=-1).mean())


def is_dynamic(flow: np.ndarray) -> bool:
    """VBench's rule for one video. ``flow`` [N - 1, H, W, 2] in pixels between N frames sampled at
    some 8 a second. A pair moves where the mean of its fastest 5 % of pixels is above 6/256 of the
    shorter side; the video is dynamic from round(N / 4) such pairs on, at least one."""
    speeds = np.linalg.norm(flow, axis=-1).reshape(len(flow), -1)  # [N - 1, H * W]
    fastest = max(1, int(speeds.shape[1] * DYNAMIC_SHARE))
    top = np.partition(speeds, -fastest, axis=1)[:, -fastest:].mean(axis=1)
    moving = int((top > DYNAMIC_SPEED * min(flow.shape[1:3])).sum())
    return moving >= max(1, round(DYNAMIC_PAIRS * (len(flow) + 1)))


def dynamic_degree(dynamic: np.ndarray) -> float:
    """Share of videos that are dynamic; ``dynamic`` [videos] bool, from ``is_dynamic``."""
    return float(np.mean(dynamic))


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of rows of ``a`` [T, D] with ``b`` [T, D] or [D]."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def subject_consistency(features: np.ndarray) -> float:
    """Mean over frames 2 to T of half the cosine to frame 1 and half that to the frame before,
    negative ones as 0; ``features`` [T, D]; 0 to 1. VBench: DINO features give Subject Consistency,
    CLIP image features Background Consistency."""
    if len(features) < 2:
        raise MotionAppError("features of one frame; expected two at least: use a longer video")
    first = np.maximum(_cosines(features[1:], features[0]), 0)
    before = np.maximum(_cosines(features[1:], features[:-1]), 0)
    return float((first + before).mean() / 2)


def i2v_subject(features: np.ndarray, image: np.ndarray) -> float:
    """0.4 of the best cosine of a frame to the input image + 0.3 of the mean and 0.3 of the least
    cosine of neighbouring frames; ``features`` [T, D] and ``image`` [D] from DINO. VBench-I2V."""
    if len(features) < 2:
        raise MotionAppError("features of one frame; expected two at least: use a longer video")
    neighbours = _cosines(features[1:], features[:-1])
    best = _cosines(features, image).max()
    return float(0.4 * best + 0.3 * neighbours.mean() + 0.3 * neighbours.min())


def aesthetic_quality(scores: np.ndarray) -> float:
    """Mean over frames of LAION's aesthetic ``scores`` [T], which run to 10, over 10. VBench."""
    return float(np.mean(scores) / 10)


def imaging_quality(scores: np.ndarray) -> float:
    """Mean over frames of MUSIQ-SPAQ ``scores`` [T], which run to 100, over 100. VBench."""
    return float(np.mean(scores) / 100)


def frechet_distance(features: np.ndarray, reference_features: np.ndarray) -> float:
    """‖μ1 - μ2‖² + Tr(Σ1 + Σ2 - 2 (Σ1 Σ2)^½) of two sets of ``features`` [n, D] and [m, D].

    The trace of the root is the sum of the roots of the eigenvalues of Σ1 Σ2. Of FVD, with the
    features of a video network. MotionAppError for fewer than two rows in a set; from D rows down
    the covariance is singular and the distance says little, which is logged.
    """
    sets = [np.asarray(rows, float) for rows in (features, reference_features)]
    for rows in sets:
        if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != sets[0].shape[1]:
            raise MotionAppError(
                f"features have the shapes {sets[0].shape} and {sets[1].shape}; expected [n, D] "
                "and [m, D] with two videos at least in each"
            )
    if min(len(rows) for rows in sets) <= sets[0].shape[1]:
        logger.warning(
            "Fréchet distance of %d and %d videos with %d features: the covariances are singular",
            len(sets[0]),
            len(sets[1]),
            sets[0].shape[1],
        )
    means = [rows.mean(axis=0) for rows in sets]
    covariances = [np.atleast_2d(np.cov(rows, rowvar=False)) for rows in sets]
    return gaussian_distance(means[0], covariances[0], means[1], covariances[1])


def gaussian_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """The Fréchet distance of two Gaussians, squared; means [D], covariances [D, D]."""
    # The product of two covariances is similar to a positive one: what is negative is rounding.
    roots = np.sqrt(np.linalg.eigvals(covariance @ other_covariance).real.clip(min=0))
    spread = np.trace(covariance) + np.trace(other_covariance) - 2 * roots.sum()
    return float(((mean - other_mean) ** 2).sum() + spread)
