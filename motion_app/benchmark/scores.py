"""Scores of one video of a case, and how rows of scores compare.

One video of a case, judged: the catalogue's metrics, and what only ground truth allows.

The references' tracks and first masks are the renderer's; of the video itself only the first
frame's masks are used.

What a benchmark found, and how rows of it compare: paired, scene by scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from motion_app.benchmark.answer import RightAnswer
from motion_app.benchmark.scenes import BenchmarkCase, CaseObject
from motion_app.benchmark.variants import Suite
from motion_app.errors import MotionAppError
from motion_app.evaluation import metrics as m
from motion_app.evaluation.catalogue import METRICS, Metric, lacking
from motion_app.evaluation.features import VideoFeatures
from motion_app.evaluation.metrics import bootstrap_interval
from motion_app.evaluation.networks import Judges, WeightStore
from motion_app.evaluation.report import Average
from motion_app.evaluation.trackers import MOVING_CONTRAST, FlowPair, colour_masks, colour_track
from motion_app.evaluation.videos import LOSSLESS, EvaluationItem, JudgedObject, OpenedItem
from motion_app.geometry import ModelGeometry
from motion_app.training.views import grid_masks

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
TRUTH = "true clip"  # the renderer's own continuation: what a perfect method would get
STILL = "still picture"  # the first frame held: what doing nothing gets
Chosen = Callable[[CaseObject], bool]


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
    return tuple(m.mask_iou(mask[1:], true[1:]) for mask, true in pairs)


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


@dataclass(frozen=True)
class Cost:
    """Of one video: the mean of its ``seconds`` on this machine, and the median of its ``calls``,
    videos that the transformer saw, both halves of the guidance counted; None where an earlier
    version made them all."""

    seconds: float
    calls: float | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """Everything that was measured.

    ``scores`` and ``videos`` by (case id, row); ``made_with`` what all videos depend on; ``gaps``
    what is missing and why; ``propagation`` IoU by rule and noise level, scene by scene; ``figure``
    the picture of features and masks by step.
    """

    made_with: Mapping[str, Any]
    model: str
    motions: tuple[str, ...]
    ids: tuple[str, ...]
    suites: tuple[Suite, ...]
    external: tuple[str, ...]
    scores: Mapping[tuple[str, str], CaseScores]
    videos: Mapping[tuple[str, str], Path]
    gaps: tuple[str, ...]
    propagation: tuple[Mapping[str, list[float]], ...]
    figure: Path | None

    def rows(self, suite: Suite) -> tuple[str, ...]:
        """The rows of a suite's table that have a score, the renderer's own last."""
        names = [variant.name for variant in suite.variants] + [*self.external, STILL, TRUTH]
        found = {row for _, row in self.scores}
        ids = {case.id for case in suite.cases}
        scored = {row for case, row in self.scores if case in ids} & found
        return tuple(name for name in names if name in scored)

    def suite(self, name: str) -> Suite | None:
        return next((suite for suite in self.suites if suite.name == name), None)


def by_case(
    outcome: Outcome,
    suite: Suite,
    row: str,
    metric: str,
    *,
    objects: int | None = None,
    chosen: Chosen | None = None,
) -> dict[str, float]:
    """Mean over each case's objects, by case id; a case without a value is left out.

    ``objects``: only cases of so many. ``chosen``: only those of a case's objects; metrics with one
    value for the whole video have none then.
    """
    found = {}
    for case in suite.cases:
        scores = outcome.scores.get((case.id, row))
        values = () if scores is None else scores.values.get(metric, ())
        if chosen is not None:
            values = _of_chosen(case, values, chosen)
        if values and objects in (None, len(case.objects)):
            found[case.id] = float(np.mean(values))
    return found


def _of_chosen(case: BenchmarkCase, values: tuple[float, ...], chosen: Chosen) -> tuple[float, ...]:
    if len(values) != len(case.objects):
        return ()
    pairs = zip(values, case.objects, strict=True)
    return tuple(value for value, thing in pairs if chosen(thing))


def average(values: Mapping[str, float]) -> Average | None:
    """Mean over cases with its 95% bootstrap interval; None without any."""
    if not values:
        return None
    numbers = np.array([values[case] for case in sorted(values)])
    interval = bootstrap_interval(numbers) if len(numbers) > 1 else None
    return Average(float(numbers.mean()), len(numbers), interval)


def paired_difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Average | None:
    """Mean of ours minus theirs over the cases both have, with the 95% bootstrap interval of that
    mean, cases being resampled; None where they share none."""
    shared = sorted(set(ours) & set(theirs))
    return average({case: ours[case] - theirs[case] for case in shared})


def share_of_objects(outcome: Outcome, suite: Suite, row: str, metric: str) -> tuple[int, int]:
    """How many of how many objects have a value above one half."""
    values = [
        value
        for case in suite.cases
        if (case.id, row) in outcome.scores
        for value in outcome.scores[case.id, row].values.get(metric, ())
    ]
    return sum(value > 0.5 for value in values), len(values)


def settled_steps(outcome: Outcome, suite: Suite, row: str) -> list[int]:
    """The step on which RMPM stopped, for each case's video; 0 where it never did."""
    steps = []
    for case in suite.cases:
        path = outcome.videos.get((case.id, row))
        if path is not None:
            with np.load(path, allow_pickle=False) as kept:
                steps.append(int(kept["settled"]))
    return steps


def costs_by_row(outcome: Outcome) -> dict[str, Cost]:
    """What a video of each row costs, of the rows that were made here."""
    seconds: dict[str, list[float]] = {}
    calls: dict[str, list[int]] = {}
    for (_, row), path in outcome.videos.items():
        with np.load(path, allow_pickle=False) as kept:
            seconds.setdefault(row, []).append(float(kept["seconds"]))
            if "calls" in kept:  # earlier versions did not count them
                calls.setdefault(row, []).append(int(kept["calls"]))
    found = {}
    for row, values in seconds.items():
        counted = float(np.median(calls[row])) if row in calls else None
        found[row] = Cost(round(float(np.mean(values)), 2), counted)
    return found


def seconds_by_row(outcome: Outcome) -> dict[str, float]:
    """Mean seconds of generating a video, by row."""
    return {row: cost.seconds for row, cost in costs_by_row(outcome).items()}
