"""One video of a case, judged: the catalogue's metrics, and what only ground truth allows.

The references' tracks and first masks are the renderer's; of the video itself only the first
frame's masks are used. The right answer is the target's own creature doing the motion that it was
given, as the renderer draws it, the scene's other creatures too. Where a video has each object is
found in the same way in the video and in the answer, so that the answer is equal to itself.

A track tells only where something goes. Whether it crouches, grows or spins shows in its shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from motion_app.benchmark.scenes import BenchmarkCase
from motion_app.errors import MotionAppError
from motion_app.evaluation import metrics as m
from motion_app.evaluation.catalogue import METRICS, Metric, lacking
from motion_app.evaluation.features import VideoFeatures
from motion_app.evaluation.metrics import mask_iou, resample_times
from motion_app.evaluation.networks import Judges, WeightStore
from motion_app.evaluation.trackers import MOVING_CONTRAST, FlowPair, colour_masks, colour_track
from motion_app.evaluation.videos import LOSSLESS, EvaluationItem, JudgedObject, OpenedItem
from motion_app.geometry import ModelGeometry
from motion_app.training.views import grid_masks
from motion_app.world.world import RenderedClip, empty_scene

SCORING = 1  # goes up when a measure here or its meaning changes, so that kept scores are redone
NEARBY = 0.75  # of an object's larger side: what is nearer to its centre is its own affair
# The catalogue's weightless ones that say something of a rendered scene.
BY_COLOUR = (
    *("follows_own[colour]", "own_motion[colour]", "other_motion[colour]"),
    "own_minus_other[colour]",
)
RENDERED = (
    *BY_COLOUR,
    *("TF[dis]", "TF[colour]", "FF[dis]", "leak_share"),
    *("leak_change", "colour_constancy[dis]", "mask_iou[colour]"),
    *("right_overlap", "right_difference"),
)
PICTURED = ("TF[dis]", "FF[dis]", "leak_share", "leak_change", "temporal_flickering")
OF_PAPERS = ("AC", "TC", "TS", "TF[released]", "FF[released]", "TF", "FF")
LIMB_REACH = 0.45  # of an object's larger side: how far from its body's colour its limbs may be


class RightAnswer:
    """The truth ``rendered`` of a scene whose objects have the first-frame ``masks`` (H, W) bool
    each, held against videos of it."""

    def __init__(self, rendered: RenderedClip, masks: Sequence[np.ndarray]) -> None:
        self.rendered, self.first = rendered, list(masks)

    @cached_property
    def background(self) -> np.ndarray:
        """(H, W, 3) uint8: the scene without creatures."""
        return empty_scene(self.rendered.scene)

    @cached_property
    def masks(self) -> np.ndarray:
        """(N, T, H, W) bool: where each object is found in the answer itself."""
        return self.found(self.rendered.frames)

    def found(self, frames: np.ndarray) -> np.ndarray:
        """(N, T, H, W) bool: where each object is in ``frames`` (T, H, W, 3) uint8: what is not
        background, each pixel with the object whose body's colour is nearest to it in the
        picture."""
        apart = np.abs(frames.astype(int) - self.background).max(axis=-1) > MOVING_CONTRAST
        bodies = _bodies(frames, self.first)  # (N, T, H, W)
        distances = np.stack([[_distance(frame) for frame in body] for body in bodies])
        nearest = distances.argmin(axis=0)  # (T, H, W)
        reach = LIMB_REACH * np.array([_side(mask) for mask in self.first])
        near = distances < reach[:, None, None, None]
        own = nearest == np.arange(len(self.first))[:, None, None, None]
        return apart & near & own

    def overlaps(self, frames: np.ndarray) -> tuple[float, ...]:
        """For each object of a video ``frames`` (T', H, W, 3) uint8: intersection over union with
        where the answer has it, the mean of frames 2 to T; 0 to 1."""
        found = self.found(self._timed(frames))
        pairs = zip(found[:, 1:], self.masks[:, 1:], strict=True)
        return tuple(frame_overlap(ours, true) for ours, true in pairs)

    def differences(self, frames: np.ndarray) -> tuple[float, ...]:
        """For each object: how far the colours of ``frames`` (T', H, W, 3) uint8 are from the
        answer's, 0 to 255, in the pixels where the object really is; the mean of frames 2 to T."""
        timed, true = self._timed(frames), self.rendered.frames
        change = np.abs(timed.astype(float) - true).mean(axis=-1)  # (T, H, W)
        return tuple(inside_mean(change[1:], mask[1:]) for mask in self.rendered.masks)

    def _timed(self, frames: np.ndarray) -> np.ndarray:
        """``frames`` over the same time span in as many frames as the answer, the nearest each."""
        count = len(self.rendered.frames)
        return frames[resample_times(len(frames), count)] if len(frames) != count else frames


def frame_overlap(masks: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames of the intersection over union of ``masks`` and ``truth`` (T, H, W) bool."""
    return float(np.mean([mask_iou(a, b) for a, b in zip(masks, truth, strict=True)]))


def inside_mean(values: np.ndarray, masks: np.ndarray) -> float:
    """Mean over frames of the mean of ``values`` (T, H, W) inside ``masks`` (T, H, W) bool; frames
    whose mask is empty do not count. MotionAppError where all are."""
    means = [value[mask].mean() for value, mask in zip(values, masks, strict=True) if mask.any()]
    if not means:
        raise MotionAppError("the object is hidden in every frame after the first")
    return float(np.mean(means))


def _bodies(frames: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """(N, T, H, W) bool: pixels of each object's median colour near its track, where no other
    object's is nearer to the pixel's."""
    colours = [np.median(frames[0][mask].astype(float), axis=0) for mask in masks]
    far = np.stack([np.linalg.norm(frames.astype(float) - c, axis=-1) for c in colours])
    best = far.argmin(axis=0) == np.arange(len(masks))[:, None, None, None]
    return np.stack([colour_masks(frames, mask) for mask in masks]) & best


def _distance(body: np.ndarray) -> np.ndarray:
    """(H, W): pixels from each pixel to the nearest one of ``body`` (H, W) bool; without any, all
    are out of reach."""
    if not body.any():
        return np.full(body.shape, np.inf, np.float32)
    return cv2.distanceTransform((~body).astype(np.uint8), cv2.DIST_L2, 5)


def _side(mask: np.ndarray) -> int:
    rows, columns = np.nonzero(mask)
    return int(max(np.ptp(rows), np.ptp(columns))) + 1


@dataclass(frozen=True, eq=False)
class CaseScores:
    """``values`` by metric, one for each object or one for the video; ``problems``: why a metric
    has none."""

    values: Mapping[str, tuple[float, ...]]
    problems: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"values": dict(self.values), "problems": dict(self.problems)}

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> CaseScores:
        values = {name: tuple(parts) for name, parts in entries["values"].items()}
        return cls(values, entries["problems"])


class CaseVideo(VideoFeatures):
    """Features of a video of ``case``. ``token_masks`` (N, F, h, w) bool are those its last step
    used, None where they are no more than the first frame's; the references' flow is kept in
    ``shared`` for all videos."""

    def __init__(
        self,
        case: BenchmarkCase,
        frames: np.ndarray,
        fps: float,
        *,
        judges: Judges,
        shared: dict[str, FlowPair],
        geometry: ModelGeometry | None = None,
        token_masks: np.ndarray | None = None,
    ) -> None:
        self.case, self.geometry, self.token_masks = case, geometry, token_masks
        masks = [thing.mask for thing in case.objects]
        self.answer = None if case.rendered is None else RightAnswer(case.rendered, masks)
        self._shared = shared
        self._reference_names = {id(o.reference.frames): o.reference.name for o in case.objects}
        objects = tuple(
            JudgedObject(thing.name, thing.phrase, thing.mask, thing.reference)
            for thing in case.objects
        )
        item = EvaluationItem(case.id, "", Path(case.id))
        opened = OpenedItem(item, frames, fps, LOSSLESS, case.caption, case.image, objects)
        super().__init__(opened, judges)

    def flow(self, kind: str, frames: np.ndarray) -> FlowPair:
        """As the base class, but a reference's is computed once for all videos."""
        name = self._reference_names.get(id(frames))
        if name is None:
            return super().flow(kind, frames)
        key = f"{kind} {name}"
        if key not in self._shared:
            self._shared[key] = super().flow(kind, frames)
        return self._shared[key]


def _margins(video: VideoFeatures) -> tuple[float, ...]:
    own = METRICS["own_motion[colour]"].measure(video)
    if len(own) < 2:
        return own
    other = METRICS["other_motion[colour]"].measure(video)
    return tuple(a - b for a, b in zip(own, other, strict=True))


def _centroid_trajectories(video: VideoFeatures) -> tuple[float, ...]:
    pairs = [
        (video.centroid_track(thing), video.centroid_track(thing.reference))
        for thing in video.opened.objects
    ]
    return tuple(m.trajectory_fidelity(ours[None], theirs[None]) for ours, theirs in pairs)


def background(video: VideoFeatures) -> np.ndarray:
    """(T, H, W) bool: pixels that are far from every object in the first and in this frame."""
    frames = video.frames
    rows, columns = np.indices(frames.shape[1:3])
    outside = np.ones(frames.shape[:3], bool)
    for thing in video.opened.objects:
        found = np.nonzero(thing.mask)
        reach = NEARBY * (max(np.ptp(found[0]), np.ptp(found[1])) + 1)
        for t, (y, x) in enumerate(colour_track(frames, thing.mask)):
            outside[t] &= np.maximum(np.abs(rows - y), np.abs(columns - x)) > reach
    outside &= outside[:1]
    if not outside.any(axis=(1, 2)).all():
        raise MotionAppError("the objects fill the picture; there is no background to look at")
    return outside


def _changes(video: VideoFeatures) -> np.ndarray:
    """[pixels of the background of frames 2 to T]: the mean over the colours of how far each is
    from its colour in the first frame. The renderer's backgrounds stand still, so that any change
    is something that has left its object."""
    outside = background(video)[1:]
    change = np.abs(video.frames[1:].astype(float) - video.frames[0]).mean(axis=-1)
    return change[outside]


def _leaking_change(video: VideoFeatures) -> tuple[float, ...]:
    return (float(_changes(video).mean()),)


def _leaking_share(video: VideoFeatures) -> tuple[float, ...]:
    return (float((_changes(video) > MOVING_CONTRAST).mean()),)


def _propagated(video: CaseVideo) -> tuple[float, ...]:
    if video.token_masks is None:
        raise MotionAppError("no masks were propagated")
    found = np.stack([colour_masks(video.frames, o.mask) for o in video.opened.objects])
    truth = grid_masks(found, video.geometry)  # (N, F, h, w)
    pairs = zip(video.token_masks, truth, strict=True)
    return tuple(mask_iou(mask[1:], true[1:]) for mask, true in pairs)


def _answer(video: CaseVideo) -> RightAnswer:
    if video.answer is None:
        raise MotionAppError("no renderer drew the scene, so nobody knows the right answer")
    return video.answer


def _overlaps(video: CaseVideo) -> tuple[float, ...]:
    return _answer(video).overlaps(video.frames)


def _differences(video: CaseVideo) -> tuple[float, ...]:
    return _answer(video).differences(video.frames)


OWN_METRICS = MappingProxyType(
    {
        metric.id: metric
        for metric in (
            Metric("own_minus_other[colour]", "colour-track", "", "up", measure=_margins),
            Metric(
                *("TF[colour]", "colour-track", "", "up"),
                stand_in_for="TF",
                measure=_centroid_trajectories,
            ),
            Metric("leak_share", "exact", "", "down", measure=_leaking_share),
            Metric("leak_change", "exact", "", "down", measure=_leaking_change),
            Metric("mask_iou[colour]", "colour-masks", "", "up", measure=_propagated),
            Metric("right_overlap", "right answer", "", "up", measure=_overlaps),
            Metric("right_difference", "right answer", "", "down", measure=_differences),
        )
    }
)
ALL_METRICS = MappingProxyType({**METRICS, **OWN_METRICS})


def metric_ids(store: WeightStore, *, rendered: bool) -> tuple[str, ...]:
    """What is measured on this machine: FlexiMMT's own, and our reading of two of them, where the
    weights are, and the stand-ins that fit rendered scenes or pictures of the real world."""
    here = [name for name in OF_PAPERS if not store.missing(METRICS[name].networks)]
    return (*here, *(RENDERED if rendered else PICTURED))


def colour_scores(
    case: BenchmarkCase, frames: np.ndarray, *, geometry: ModelGeometry
) -> CaseScores:
    """Which motion each object follows in ``frames`` (T, H, W, 3), by its colour's track."""
    judges = Judges(WeightStore(Path(), caches=False))  # none is asked
    video = CaseVideo(case, frames, geometry.fps, judges=judges, shared={}, geometry=geometry)
    return score_case(video, BY_COLOUR)


def score_case(video: CaseVideo, ids: tuple[str, ...]) -> CaseScores:
    """All of ``ids`` on one video; what cannot be measured has its reason."""
    values: dict[str, tuple[float, ...]] = {}
    problems: dict[str, str] = {}
    for id in ids:
        metric = ALL_METRICS[id]
        reason = lacking(metric, video)
        if reason:
            problems[id] = reason
            continue
        try:
            values[id] = tuple(float(value) for value in metric.measure(video))
        except MotionAppError as error:
            problems[id] = str(error)
    return CaseScores(values, problems)


def fitted_frames(case: BenchmarkCase, frames: np.ndarray) -> np.ndarray:
    """``frames`` (T, H', W', 3) of another method at the case's own size. MotionAppError for
    another shape of picture: cutting it is not for us to choose."""
    height, width = case.image.shape[:2]
    tall, wide = frames.shape[1:3]
    if abs(wide / tall - width / height) > 0.02 * width / height:
        raise MotionAppError(
            f"the video is {wide}×{tall}, the case {width}×{height}; expected the same shape: "
            "generate at the case's size or a multiple of it"
        )
    if (tall, wide) == (height, width):
        return frames
    return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames])
