"""The tables of a benchmark in which SynMotion learned with less than all of itself, beside its
supplement's ablations."""

from __future__ import annotations

from motion_app.evaluation.benchmark_tables import (
    FOLLOWS,
    MARGIN,
    Table,
    difference_table,
    heading,
    words,
)
from motion_app.evaluation.outcome import Outcome, average, by_case
from motion_app.evaluation.report import paper_cell, paper_tables
from motion_app.evaluation.suites import MAIN, Suite
from motion_app.evaluation.variants import FULL, PACK_METHOD, SYNMOTION_NAMES

SUBJECT = "colour_constancy[dis]"  # how much of the subject is kept, as far as it can be measured
COMPARED = (FOLLOWS, MARGIN, "TF[dis]", "TF[colour]", "FF[dis]", SUBJECT, "leak_change")
HERE = (FOLLOWS, MARGIN, "TF[dis]", SUBJECT)
PAPER_COLUMNS = ("motion_accuracy", "subject_accuracy")


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
        metrics=COMPARED,
        title=f"Full SynMotion minus each other row{_of(suite)}",
    )


def supplement_table(outcome: Outcome, suite: Suite) -> Table | None:
    """Measured figures beside the supplement's rows that show the same; None without reduced
    ones."""
    if not _reduced(outcome, suite):
        return None
    printed: dict[str, tuple] = {}
    for table in paper_tables():
        if set(PAPER_COLUMNS) <= set(table.columns):
            places = [table.columns.index(name) for name in PAPER_COLUMNS]
            for name, cells in table.values.items():
                printed.setdefault(name, tuple(cells[place] for place in places))
    body = []
    for row in outcome.rows(suite):
        paper = printed.get(SYNMOTION_NAMES.get(row, ""))
        if paper is not None:
            here = (words(average(by_case(outcome, suite, row, metric))) for metric in HERE)
            body.append((row, *here, *map(paper_cell, paper)))
    headings = (*(f"{heading(m)}, here" for m in HERE), *(f"{m}, paper" for m in PAPER_COLUMNS))
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
