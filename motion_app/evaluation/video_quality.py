"""What a video's own pixels, flow and features tell, and the distance of two sets of videos.

Pure numpy. Definitions as SynMotion uses them (docs/synmotion.md, section 4), most of them
VBench's.
"""

from __future__ import annotations

import logging

import numpy as np

from motion_app.errors import MotionAppError

logger = logging.getLogger(__name__)

DYNAMIC_SHARE = 0.05  # of the pixels of a frame: the fastest
DYNAMIC_SPEED = 6.0 / 256  # of the shorter side, per frame at some 8 fps
DYNAMIC_PAIRS = 4.0 / 16  # of the sampled frames


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
