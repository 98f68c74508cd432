"""What a benchmark found, and how rows of it compare: paired, scene by scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.benchmark.scenes import BenchmarkCase, CaseObject
from motion_app.benchmark.scores import CaseScores
from motion_app.benchmark.variants import Suite
from motion_app.evaluation.metrics import bootstrap_interval
from motion_app.evaluation.report import Average

TRUTH = "true clip"  # the renderer's own continuation: what a perfect method would get
STILL = "still picture"  # the first frame held: what doing nothing gets
Chosen = Callable[[CaseObject], bool]


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
