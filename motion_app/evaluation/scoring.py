"""Videos and metrics in, a report out. Page, command line and API come here.

A metric never scores what is missing: each pair of a video and a metric has a row, with a value or
with the reason why there is none.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from motion_app.errors import GenerationCancelled, MotionAppError, RequestError
from motion_app.evaluation.catalogue import METRICS, Metric, lacking
from motion_app.evaluation.features import VideoFeatures, VideoPicture
from motion_app.evaluation.metrics import frechet_distance
from motion_app.evaluation.networks import Judges
from motion_app.evaluation.report import (
    ALL_VIDEOS,
    MEASURED,
    NOT_MEASURED,
    Report,
    Row,
    Source,
    distinct_names,
)
from motion_app.evaluation.videos import EvaluationItem, Segment, open_item
from motion_app.library.library import Library
from motion_app.settings import DEFAULT_LIMITS, Limits


@dataclass(frozen=True)
class ScoreProgress:
    """``done`` of ``total`` pairs of a video and a metric; ``item`` and ``metric`` come next;
    ``elapsed`` seconds."""

    done: int
    total: int
    item: str
    metric: str
    elapsed: float


@dataclass(frozen=True, eq=False)
class Scores:
    """The report, and what can be drawn of each video."""

    report: Report
    pictures: tuple[VideoPicture, ...] = ()


@dataclass(eq=False)
class _Sets:
    """Features for the metrics of whole sets, by metric and method: of videos, and of references
    by what is in them."""

    videos: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)
    references: dict[tuple[str, str], dict[bytes, np.ndarray]] = field(default_factory=dict)

    def add(self, metric: Metric, video: VideoFeatures) -> None:
        key = (metric.id, video.opened.item.method)
        self.videos.setdefault(key, []).append(metric.features(video, video.frames))
        clips = self.references.setdefault(key, {})
        for thing in video.opened.objects:
            if thing.reference is None:
                continue
            frames = np.ascontiguousarray(thing.reference.frames)  # two clips may have one name
            key_of_clip = hashlib.sha256(repr(frames.shape).encode() + frames.tobytes()).digest()
            if key_of_clip not in clips:
                clips[key_of_clip] = metric.features(video, frames)

    def row(self, metric: Metric, method: str) -> Row:
        key = (metric.id, method)
        videos, clips = self.videos.get(key, []), list(self.references.get(key, {}).values())
        if min(len(videos), len(clips)) < 2:
            reason = (
                f"needs two videos and two reference clips at least, has {len(videos)} and "
                f"{len(clips)}"
            )
            return _row(ALL_VIDEOS, method, metric, reason=reason)
        value = frechet_distance(np.stack(videos), np.stack(clips))
        return _row(ALL_VIDEOS, method, metric, values=(value,))


def check_metrics(ids: Sequence[str]) -> list[Metric]:
    """The metrics of these ids in the catalogue's order; RequestError for an unknown or no id."""
    unknown = [name for name in ids if name not in METRICS]
    if unknown:
        raise RequestError(f"unknown metrics {', '.join(unknown)}; known: {', '.join(METRICS)}")
    if not ids:
        raise RequestError("no metric is chosen; choose at least one")
    return [metric for name, metric in METRICS.items() if name in ids]


def score_steps(
    items: Sequence[EvaluationItem],
    metrics: Sequence[str],
    *,
    judges: Judges,
    library: Library,
    limits: Limits = DEFAULT_LIMITS,
    segment: Segment | None = None,
) -> Generator[ScoreProgress, None, Scores]:
    """Score ``items`` by the ids in ``metrics``; yields before each measurement and returns the
    scores. Closing the generator stops it there. RequestError for unknown ids and no item."""
    chosen = check_metrics(metrics)
    if not items:
        raise RequestError("no video is chosen; choose or upload at least one")
    started, total = time.monotonic(), len(items) * len(chosen)
    rows: list[Row] = []
    sources: list[Source] = []
    pictures: list[VideoPicture] = []
    sets = _Sets()
    for number, item in enumerate(distinctly_named(items)):
        done = number * len(chosen)
        yield ScoreProgress(done, total, item.name, "", time.monotonic() - started)
        try:
            opened = open_item(item, library=library, limits=limits, segment=segment)
        except MotionAppError as error:
            sources.append(Source(item.name, item.method, "", problem=str(error)))
            rows += [_row(item.name, item.method, m, reason=str(error)) for m in chosen]
            continue
        sources.append(Source(item.name, item.method, opened.source, opened.remarks))
        video = VideoFeatures(opened, judges)
        for place, metric in enumerate(chosen):
            elapsed = time.monotonic() - started
            yield ScoreProgress(done + place, total, item.name, metric.id, elapsed)
            row = _measured(metric, video, sets)
            rows += [] if row is None else [row]
        pictures.append(video.picture())
    methods = dict.fromkeys(item.method for item in items)
    for metric in chosen:
        if metric.features is not None and not judges.store.missing(metric.networks):
            rows += [sets.row(metric, method) for method in methods]
    return Scores(Report(tuple(rows), tuple(sources)), tuple(pictures))


def distinctly_named(items: Sequence[EvaluationItem]) -> list[EvaluationItem]:
    """The items with a number added to the names that came before, and to that of whole sets."""
    names = distinct_names([item.name for item in items], taken=[ALL_VIDEOS])
    return [replace(item, name=name) for item, name in zip(items, names, strict=True)]


def _measured(metric: Metric, video: VideoFeatures, sets: _Sets) -> Row | None:
    """One row; None for a metric of sets, whose rows come at the end."""
    item = video.opened.item
    missing = judges_missing(metric, video.judges)
    reason = f"needs {missing}" if missing else lacking(metric, video)
    if reason:
        return _row(item.name, item.method, metric, reason=reason)
    try:
        if metric.features is not None:
            sets.add(metric, video)
            return None
        values = metric.measure(video)
    except MotionAppError as error:
        return _row(item.name, item.method, metric, reason=str(error))
    left_out = ""
    if metric.needs == "references":
        problems = [f"{o.name}: {o.problem}" for o in video.opened.objects if o.reference is None]
        left_out = "; ".join(problems)
    return _row(item.name, item.method, metric, values=values, remark=left_out)


def judges_missing(metric: Metric, judges: Judges) -> str:
    """In words, which weights this machine lacks for ``metric``, or ""."""
    return ", ".join(judges.store.missing(metric.networks))


def _row(
    item: str,
    method: str,
    metric: Metric,
    *,
    values: tuple[float, ...] = (),
    reason: str = "",
    remark: str = "",
) -> Row:
    status = MEASURED if not reason else f"{NOT_MEASURED}: {reason}"
    if values and remark:
        status = f"{MEASURED} in part: {remark}"
    value = float(np.mean(values)) if values else None
    return Row(
        item=item,
        method=method,
        metric=metric.id,
        implementation=metric.implementation,
        weights=metric.weights_id,
        value=value,
        status=status,
        parts=tuple(float(part) for part in values) if len(values) > 1 else (),
        stand_in_for=metric.stand_in_for,
        better=metric.better,
    )


def score_videos(
    items: Sequence[EvaluationItem],
    metrics: Sequence[str],
    *,
    judges: Judges,
    library: Library,
    limits: Limits = DEFAULT_LIMITS,
    segment: Segment | None = None,
    on_progress: Callable[[ScoreProgress], bool] | None = None,
) -> Scores:
    """``score_steps`` to its end. ``on_progress`` returns False to stop, which raises
    GenerationCancelled."""
    steps = score_steps(
        items, metrics, judges=judges, library=library, limits=limits, segment=segment
    )
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        if on_progress is not None and not on_progress(progress):
            steps.close()
            raise GenerationCancelled("stopped")
