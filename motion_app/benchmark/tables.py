"""The tables of a benchmark's report, as headings and rows of text.

The tables of a benchmark in which SynMotion learned with less than all of itself, beside its
supplement's ablations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motion_app.benchmark.outcome import (
    STILL,
    TRUTH,
    Outcome,
    average,
    by_case,
    costs_by_row,
    paired_difference,
    settled_steps,
    share_of_objects,
)
from motion_app.benchmark.propagation import NOISE_LEVELS
from motion_app.benchmark.scenes import COUNT_NAMES, CaseObject
from motion_app.benchmark.scores import ALL_METRICS
from motion_app.benchmark.variants import (
    FULL,
    MAIN,
    PACK_METHOD,
    PAPER_NAMES,
    SYNMOTION_NAMES,
    Suite,
)
from motion_app.evaluation.metrics import bootstrap_interval
from motion_app.evaluation.report import (
    ARROWS,
    Average,
    catalogue_id,
    markdown_table,
    paper_cell,
    paper_tables,
)
from motion_app.methods import METHOD_TABLE, method_title

FOLLOWS, MARGIN = "follows_own[colour]", "own_minus_other[colour]"
ASSIGNED = (FOLLOWS, "own_motion[colour]", "other_motion[colour]", MARGIN)
FAITHFUL = (
    *("AC", "TC", "TS", "TF[released]", "FF[released]", "TF", "FF"),
    *("TF[dis]", "TF[colour]", "FF[dis]"),
)
RIGHT = ("right_overlap", "right_difference")
CLEAN = (
    *("leak_share", "leak_change", "temporal_flickering", "colour_constancy[dis]"),
    "mask_iou[colour]",
)
COMPARED = (
    *(FOLLOWS, MARGIN, "TF[released]", "FF[released]", "TF", "FF"),
    *("TF[dis]", "TF[colour]", "FF[dis]", "leak_change", *RIGHT),
)
PAPER_COLUMNS = ("AC", "TC", "TS", "TF", "FF")
NOTHING = "–"
BODY_GROUPS: Mapping[str, Callable[[CaseObject], bool]] = {
    "same kind of body as the reference": lambda o: o.body == o.reference_body,
    "another kind of body": lambda o: o.body != o.reference_body,
    "no limbs, reference has": lambda o: o.body == "ghost" and o.reference_body != "ghost",
}
SUBJECT = "colour_constancy[dis]"  # how much of the subject is kept, as far as it can be measured
SYNMOTION_COMPARED = (FOLLOWS, MARGIN, "TF[dis]", "TF[colour]", "FF[dis]", SUBJECT, "leak_change")
HERE = (FOLLOWS, MARGIN, "TF[dis]", SUBJECT)
SYNMOTION_COLUMNS = ("motion_accuracy", "subject_accuracy")


@dataclass(frozen=True)
class Table:
    """``note``: what a reader must know under it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self, level: int = 2) -> str:
        parts = [f"{'#' * level} {self.title}", markdown_table(self.headings, self.rows), self.note]
        return "\n\n".join(part for part in parts if part)


def heading(metric: str) -> str:
    """A metric's name with its good direction, and a mark on a stand-in."""
    entry = ALL_METRICS[metric]
    return metric + ARROWS[entry.better] + (" *" if entry.stand_in_for else "")


def told(suite: Suite, row: str) -> str:
    """What the method of a ``row`` is told of the motions; nobody here knows of another's."""
    drawn = {STILL: "nothing", TRUTH: "the answer"}
    methods = {v.name: v.note or METHOD_TABLE[v.method].told for v in suite.variants}
    return drawn.get(row) or methods.get(row, NOTHING)


def words(value: Average | None, digits: int = 2) -> str:
    return NOTHING if value is None else value.words(digits)


def metric_table(
    outcome: Outcome, suite: Suite, metrics: Sequence[str], title: str, note: str = ""
) -> Table | None:
    """Every row's mean over the suite's cases; metrics nobody was measured by are left out."""
    rows = outcome.rows(suite)
    values = {
        (row, metric): by_case(outcome, suite, row, metric) for row in rows for metric in metrics
    }
    shown = [metric for metric in metrics if any(values[row, metric] for row in rows)]
    if not shown:
        return None
    headings, body = ["method", "told", "scenes"], []
    counted = FOLLOWS in shown
    headings += ["objects on their own motion"] if counted else []
    for row in rows:
        scenes = sum((case.id, row) in outcome.scores for case in suite.cases)
        cells = [row, told(suite, row), str(scenes)]
        if counted:
            followed, objects = share_of_objects(outcome, suite, row, FOLLOWS)
            cells.append(f"{followed} of {objects}")
        cells += [words(average(values[row, metric])) for metric in shown]
        body.append(tuple(cells))
    return Table(title, (*headings, *map(heading, shown)), tuple(body), note)


def difference_table(
    outcome: Outcome,
    suite: Suite,
    *,
    ours: str = FULL.name,
    rows: Collection[str] | None = None,
    metrics: Sequence[str] = COMPARED,
    title: str = "Full FlexiMMT minus each other row",
) -> Table | None:
    """How far the row ``ours`` is ahead of each other one of ``rows`` (None: of all), paired by
    scene."""
    rows = [
        row
        for row in outcome.rows(suite)
        if row not in (ours, TRUTH) and (rows is None or row in rows)
    ]
    found = {
        (row, metric): paired_difference(
            by_case(outcome, suite, ours, metric), by_case(outcome, suite, row, metric)
        )
        for row in rows
        for metric in metrics
    }
    shown = [metric for metric in metrics if any(found[row, metric] for row in rows)]
    if not shown:
        return None
    body = []
    for row in rows:
        counts = [found[row, metric].count for metric in shown if found[row, metric]]
        cells = [words(found[row, metric]) for metric in shown]
        body.append((row, told(suite, row), str(max(counts, default=0)), *cells))
    return Table(
        title,
        ("method", "told", "scenes", *map(heading, shown)),
        tuple(body),
        "Differences scene by scene, with 95% bootstrap intervals of their mean; scenes are "
        "resampled, as the objects of one are not independent. An interval without 0 is a "
        "difference that this many scenes can show.",
    )


def cost_table(outcome: Outcome, suite: Suite) -> Table | None:
    """What each method is told, and what a video of it takes."""
    costs = costs_by_row(outcome)
    body = []
    for row in outcome.rows(suite):
        if row in costs:
            calls = costs[row].calls
            counted = NOTHING if calls is None else f"{calls:g}"
            body.append((row, told(suite, row), counted, f"{costs[row].seconds:.1f} s"))
    if not body:
        return None
    return Table(
        "What each method is told, and what it costs",
        ("method", "told", "model calls a video", "seconds here"),
        tuple(body),
        "A method that is told the path does not have to understand the motion: where only the way "
        "of a centre is measured it is ahead by that alone. Model calls: videos that the "
        "transformer sees, both halves of the guidance counted, the median; what is computed once "
        "of a reference clip and kept is in the video that needed it first. Seconds: the mean, "
        "with everything that ran beside it.",
    )


def differences(outcome: Outcome, suite: Suite, metric: str) -> dict[str, Average]:
    """``difference_table``'s figures of one metric, by row."""
    ours = by_case(outcome, suite, FULL.name, metric)
    rows = [row for row in outcome.rows(suite) if row not in (FULL.name, TRUTH)]
    found = {row: paired_difference(ours, by_case(outcome, suite, row, metric)) for row in rows}
    return {row: value for row, value in found.items() if value is not None}


def count_table(outcome: Outcome, suite: Suite) -> Table | None:
    """Following and margin by the number of objects in the scene."""
    counts = sorted({len(case.objects) for case in suite.cases})
    if len(counts) < 2 or FOLLOWS not in outcome.ids:
        return None
    body = []
    for row in outcome.rows(suite):
        cells = []
        for metric in (FOLLOWS, MARGIN):
            for count in counts:
                cells.append(words(average(by_case(outcome, suite, row, metric, objects=count))))
        body.append((row, *cells))
    names = [COUNT_NAMES.get(count, str(count)) for count in counts]
    headings = [f"{m}, {name}" for m in ("follow their own", "own − other") for name in names]
    return Table("By the number of objects", ("method", *headings), tuple(body))


def body_table(outcome: Outcome, suite: Suite) -> Table | None:
    """The main scenes' objects by how their body compares with the reference's."""
    if not any(thing.body for case in suite.cases for thing in case.objects):
        return None
    body = []
    for row in outcome.rows(suite):
        cells = []
        for chosen in BODY_GROUPS.values():
            found = by_case(outcome, suite, row, FOLLOWS, chosen=chosen)
            cells.append(words(average(found)))
        body.append((row, *cells))
    return Table(
        "Objects that follow their own motion, by body",
        ("method", *BODY_GROUPS),
        tuple(body),
        "The main scenes' objects, sorted afterwards; the groups were not drawn for this.",
    )


def movement_table(outcome: Outcome, suite: Suite, title: str) -> Table | None:
    """How far each row is ahead of the still picture in ``right_overlap``, by movement."""
    names = sorted({thing.motion for case in suite.cases for thing in case.objects})
    metric, body = RIGHT[0], []
    for row in outcome.rows(suite):
        cells = []
        for name in names:
            ours, still = (
                by_case(outcome, suite, each, metric, chosen=lambda o, name=name: o.motion == name)
                for each in (row, STILL)
            )
            cells.append(words(paired_difference(ours, still)))
        if row != STILL and any(cell != NOTHING for cell in cells):
            body.append((row, told(suite, row), *cells))
    if not body:
        return None
    return Table(
        title,
        ("method", "told", *names),
        tuple(body),
        "How far a row is ahead of the still picture in *right_overlap*, scene by scene. Below 0 a "
        "picture that does nothing is nearer to the right answer; *true clip* has all that can be "
        "had.",
    )


def propagation_table(outcome: Outcome) -> Table | None:
    """RMPM's IoU with the true masks by rule and noise level."""
    if not outcome.propagation:
        return None
    body = []
    for rule in outcome.propagation[0]:
        found = np.array([scene[rule] for scene in outcome.propagation])  # (scenes, levels)
        cells = []
        for column in found.T:
            low, high = bootstrap_interval(column) if len(column) > 1 else (None, None)
            spread = "" if low is None else f" [{low:.2f}, {high:.2f}]"
            cells.append(f"{column.mean():.2f}{spread}")
        body.append((rule, *cells))
    return Table(
        "RMPM's masks against true ones",
        ("rule", *(f"{level:g}" for level in NOISE_LEVELS)),
        tuple(body),
        "Mean IoU on the token grid, latent frames after the first, of rendered scenes "
        f"({len(outcome.propagation)}) noised to these shares of the timesteps. Window and layers "
        "are the checkpoint's own; \"centred\": each frame's mean feature is taken away first.",
    )


def stop_table(outcome: Outcome, suites: Sequence[Suite]) -> Table | None:
    """The step on which the dynamic stop fired, by row."""
    body = []
    for suite in suites:
        for row in outcome.rows(suite):
            steps = settled_steps(outcome, suite, row)
            fired = [step for step in steps if step]
            if not fired and not row.startswith(("RMPM", FULL.name)):
                continue
            spread = f"{min(fired)} to {max(fired)}" if fired else NOTHING
            middle = f"{np.median(fired):g}" if fired else NOTHING
            scenes = f"{suite.name}, {len(steps)}"
            body.append((row, scenes, middle, spread, str(len(steps) - len(fired))))
    if not body:
        return None
    steps = outcome.made_with["steps"]
    return Table(
        f"The step of {steps} on which RMPM's dynamic stop fires",
        ("row", "scenes", "median", "range", "never"),
        tuple(body),
    )


def paper_table(outcome: Outcome, suite: Suite) -> Table:
    """Measured figures beside the rows of the papers that show the same."""
    printed = {}
    for table in paper_tables():
        if table.columns == PAPER_COLUMNS:
            printed.update(table.values)
    rows = outcome.rows(suite)
    own = (*map(catalogue_id, PAPER_COLUMNS), FOLLOWS, MARGIN, "TF[dis]", "FF[dis]")
    here = {(row, m): average(by_case(outcome, suite, row, m)) for row in rows for m in own}
    shown = [metric for metric in own if any(here[row, metric] for row in rows)]
    body = []
    for row in rows:
        paper = printed.get(PAPER_NAMES.get(row) or method_title(row))
        if paper is not None:
            cells = [words(here[row, metric]) for metric in shown]
            body.append((row, *cells, *map(paper_cell, paper)))
    headings = [f"{heading(metric)}, here" for metric in shown]
    headings += [f"{name}, paper" for name in PAPER_COLUMNS]
    return Table(
        "Beside the papers' own figures",
        ("method", *headings),
        tuple(body),
        "The papers' are of 200 real pictures with CogVideoX-5B at 720×480: read which row is "
        "ahead of which, not one figure beside another. A stand-in never fills the column of a "
        "network that is not on this machine, and the papers' TF and FF stand beside "
        "TF[released] and FF[released] alone. concat stands beside FlexiAct and none beside "
        "CogVideoX-5B-I2V as the same kind of method, not the same weights.",
    )


def reduced_table(outcome: Outcome, suite: Suite) -> Table | None:
    """How far full SynMotion is ahead of what was learned with less, paired by scene; None where
    nothing was."""
    reduced = _reduced(outcome, suite)
    if not reduced:
        return None
    return difference_table(
        outcome,
        suite,
        ours=PACK_METHOD,
        rows=[*reduced, FULL.name, "none"],
        metrics=SYNMOTION_COMPARED,
        title=f"Full SynMotion minus each other row{_of(suite)}",
    )


def supplement_table(outcome: Outcome, suite: Suite) -> Table | None:
    """Measured figures beside the supplement's rows that show the same; None without reduced
    ones."""
    if not _reduced(outcome, suite):
        return None
    printed: dict[str, tuple] = {}
    for table in paper_tables():
        if set(SYNMOTION_COLUMNS) <= set(table.columns):
            places = [table.columns.index(name) for name in SYNMOTION_COLUMNS]
            for name, cells in table.values.items():
                printed.setdefault(name, tuple(cells[place] for place in places))
    body = []
    for row in outcome.rows(suite):
        paper = printed.get(SYNMOTION_NAMES.get(row, ""))
        if paper is not None:
            here = (words(average(by_case(outcome, suite, row, metric))) for metric in HERE)
            body.append((row, *here, *map(paper_cell, paper)))
    headings = (*(f"{heading(m)}, here" for m in HERE), *(f"{m}, paper" for m in SYNMOTION_COLUMNS))
    return Table(
        f"Beside SynMotion's own ablations{_of(suite)}",
        ("method", *headings),
        tuple(body),
        "The supplement's tables 3 and 4: percent of yes from a judge, text to video with "
        "HunyuanVideo, 26 motions of 20 clips each. Read which row is ahead of which, not one "
        "figure beside another.",
    )


def _reduced(outcome: Outcome, suite: Suite) -> list[str]:
    """The rows to compare with full SynMotion; none where that itself is missing."""
    rows = outcome.rows(suite)
    found = [variant.name for variant in suite.variants if variant.reduced]
    return [row for row in found if row in rows] if PACK_METHOD in rows else []


def _of(suite: Suite) -> str:
    return "" if suite.name == MAIN else f", {suite.name}"
