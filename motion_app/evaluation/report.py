"""The rows of an evaluation, their averages, and how they are written: CSV, Markdown, LaTeX.

The papers' own figures stand in tables of their own beneath: other data, other hardware, and
never in a column with a stand-in.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from motion_app.evaluation.metrics import bootstrap_interval

MEASURED, NOT_MEASURED = "measured", "not measured"
PAPER_ROWS = Path(__file__).parent / "paper_rows.yaml"
ALL_VIDEOS = "all videos"  # the item of a row that is of a whole set
COLUMNS = (
    *("item", "method", "metric", "implementation", "weights", "value", "status"),
    *("stand_in_for", "parts"),
)
# Columns the papers print under a name that is our reading of it here.
PRINTED = MappingProxyType({"TF": "TF[released]", "FF": "FF[released]"})
ARROWS = {"up": " ↑", "down": " ↓", "": ""}
LATEX_ARROWS = {"up": r" $\uparrow$", "down": r" $\downarrow$", "": ""}
LATEX_SPECIAL = str.maketrans(
    {
        **{sign: "\\" + sign for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def distinct_names(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """``names`` in their order, with a number added to one that came before or is ``taken``."""
    used = set(taken)
    distinct = []
    for name in names:
        chosen, number = name, 1
        while chosen in used:
            number += 1
            chosen = f"{name} ({number})"
        used.add(chosen)
        distinct.append(chosen)
    return distinct


@dataclass(frozen=True)
class Row:
    """One measurement. ``value`` None has its reason in ``status``; ``parts`` the values of the
    single objects where there are several; ``weights`` the files or "none"; ``stand_in_for`` the
    paper's metric that this is not."""

    item: str
    method: str
    metric: str
    implementation: str
    weights: str
    value: float | None
    status: str
    parts: tuple[float, ...] = ()
    stand_in_for: str = ""
    better: str = ""


@dataclass(frozen=True)
class Source:
    """Where a video's pixels came from, or the ``problem`` for which it was not scored."""

    item: str
    method: str
    source: str
    remarks: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Average:
    """Mean of ``count`` videos with its 95 % bootstrap interval; None for fewer than two."""

    mean: float
    count: int
    interval: tuple[float, float] | None = None

    def words(self, digits: int = 3) -> str:
        if self.interval is None:
            return f"{self.mean:.{digits}f}"
        low, high = self.interval
        return f"{self.mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


@dataclass(frozen=True)
class PaperTable:
    """Some rows of a published table. ``values`` by method: a figure for each column, or its mean
    and deviation as a pair."""

    title: str
    source: str
    note: str
    columns: tuple[str, ...]
    values: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Report:
    """All rows of an evaluation, in the order they were measured."""

    rows: tuple[Row, ...]
    sources: tuple[Source, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.metric for row in self.rows))

    @property
    def measured_metrics(self) -> tuple[str, ...]:
        """Those with a value anywhere: the columns of a table."""
        found = {row.metric for row in self.rows if row.value is not None}
        return tuple(metric for metric in self.metrics if metric in found)

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(source.method for source in self.sources))

    def cell(self, item: str, metric: str) -> Row | None:
        """The row of a video, by name, and a metric."""
        return next((r for r in self.rows if (r.item, r.metric) == (item, metric)), None)

    def average(self, method: str, metric: str) -> Average | None:
        """Of the method's videos that have a value; None where none has."""
        values = [
            row.value
            for row in self.rows
            if (row.method, row.metric) == (method, metric) and row.value is not None
        ]
        if not values:
            return None
        interval = bootstrap_interval(np.array(values)) if len(values) > 1 else None
        return Average(float(np.mean(values)), len(values), interval)

    def heading(self, metric: str, arrows: Mapping[str, str] = ARROWS) -> str:
        """A column's name with its good direction, and a mark on a stand-in."""
        row = next(row for row in self.rows if row.metric == metric)
        return metric + arrows[row.better] + (" *" if row.stand_in_for else "")

    def footnotes(self) -> list[str]:
        """What a reader must know: stand-ins, what was not measured, where pixels came from."""
        notes = []
        stand_ins = {row.metric: row.stand_in_for for row in self.rows if row.stand_in_for}
        if stand_ins:
            pairs = ", ".join(f"{metric} (not {paper})" for metric, paper in stand_ins.items())
            notes.append(
                f"* Stand-ins without weights: {pairs}. Not to be compared with the papers' own."
            )
        for source in sorted({s.source for s in self.sources if s.source}):
            names = ", ".join(s.item for s in self.sources if s.source == source)
            notes.append(f"Scored from {source}: {names}.")
        for remark in dict.fromkeys(r for s in self.sources for r in s.remarks):
            notes.append(f"{remark[0].upper()}{remark[1:]}.")
        notes += [f"Not scored: {s.item}: {s.problem}." for s in self.sources if s.problem]
        return notes + self._gaps()

    def _gaps(self) -> list[str]:
        """Metrics without a value, or with one for a part, of videos that could be read."""
        broken = {source.item for source in self.sources if source.problem}
        found: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row.status != MEASURED and row.item not in broken:
                found.setdefault((row.metric, row.status), []).append(row.item)
        whole = len(self.sources) - len(broken)
        return [
            f"{metric}: {status}" + ("." if len(items) >= whole else f" ({', '.join(items)}).")
            for (metric, status), items in found.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Rows, averages by method and metric, and notes as plain JSON."""
        averages = {
            method: {
                metric: asdict(average)
                for metric in self.measured_metrics
                if (average := self.average(method, metric)) is not None
            }
            for method in self.methods
        }
        return {
            "rows": [asdict(row) for row in self.rows],
            "averages": averages,
            "sources": [asdict(source) for source in self.sources],
            "notes": self.footnotes(),
        }

    def to_csv(self) -> str:
        """One line for each row; numbers with all their digits."""
        file = io.StringIO()
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            parts = " ".join(f"{part:.6g}" for part in row.parts)
            cells = {key: _inert(value) for key, value in asdict(row).items()}
            writer.writerow({**cells, "parts": parts})
        return file.getvalue()

    def to_markdown(self) -> str:
        """Averages by method, every video, notes, and the papers' own tables."""
        metrics = self.measured_metrics
        headings = [self.heading(metric) for metric in metrics]
        parts = ["## By method", markdown_table(["method", *headings], self.method_cells())]
        parts += ["## By video", markdown_table(["video", "method", *headings], self.item_cells())]
        parts.append("\n".join(f"- {note}" for note in self.footnotes()))
        parts.append("## The papers' own figures")
        for table in paper_tables():
            rows = [[name, *map(paper_cell, cells)] for name, cells in table.values.items()]
            parts += [f"{table.title} ({table.source}). {table.note}"]
            parts.append(markdown_table(["method", *table.columns], rows))
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_latex(self) -> str:
        """Averages by method as a booktabs table, and FlexiMMT's own in a second one."""
        heads = [self.heading(m, LATEX_ARROWS) for m in self.measured_metrics]
        ours = _latex_table(["Method", *heads], self.method_cells())
        notes = "\n".join(f"% {note}" for note in self.footnotes())
        table = paper_tables()[0]
        rows = [[name, *map(paper_cell, cells)] for name, cells in table.values.items()]
        theirs = _latex_table(["Method", *table.columns], rows)
        return f"{ours}\n{notes}\n\n% {table.title}, {table.source}. {table.note}\n{theirs}\n"

    def method_cells(self) -> list[list[str]]:
        """Text of the table by method: its name and an average for each measured metric."""
        return [
            [method, *(_words(self.average(method, m)) for m in self.measured_metrics)]
            for method in self.methods
        ]

    def item_cells(self) -> list[list[str]]:
        """Text of the table by video: its name, method and a value for each measured metric."""
        rows = []
        for source in self.sources:
            cells = [self.cell(source.item, metric) for metric in self.measured_metrics]
            texts = [f"{c.value:.3f}" if c and c.value is not None else "–" for c in cells]
            rows.append([source.item, source.method, *texts])
        return rows


def _words(average: Average | None) -> str:
    return "–" if average is None else average.words()


def _inert(value: Any) -> Any:
    """A name that a spreadsheet would take for a formula gets a quote in front."""
    return "'" + value if isinstance(value, str) and value[:1] in "=+-@" and value else value


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; bars inside cells are escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    escaped = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _latex_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A booktabs tabular. Headings may hold LaTeX arrows; all else is escaped."""
    names = []
    for heading in headings:
        name, space, arrow = heading.partition(" $")
        names.append(name.translate(LATEX_SPECIAL) + space + arrow)
    lines = [" & ".join(names) + r" \\", r"\midrule"]
    lines += [" & ".join(c.translate(LATEX_SPECIAL) for c in row) + r" \\" for row in rows]
    columns = "l" + "r" * (len(headings) - 1)
    body = "\n".join(["\\toprule", *lines, "\\bottomrule"]).replace("–", "--")
    return f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}"


def paper_cell(value: Any) -> str:
    """A figure of a paper as printed, with its deviation where there is one."""
    if isinstance(value, (list, tuple)):
        return f"{value[0]:g} ± {value[1]:g}"
    return "–" if value is None else f"{value:g}"


def catalogue_id(column: str) -> str:
    """The metric of the catalogue that a column of a paper's table is, as printed there."""
    return PRINTED.get(column, column)


@cache
def paper_tables() -> tuple[PaperTable, ...]:
    """The published rows that ship with the app; the first is FlexiMMT's table 1."""
    entries = yaml.safe_load(PAPER_ROWS.read_text(encoding="utf-8"))
    return tuple(
        PaperTable(
            title=entry["title"],
            source=entry["source"],
            note=entry["note"],
            columns=tuple(entry["columns"]),
            values={name: tuple(cells) for name, cells in entry["rows"].items()},
        )
        for entry in entries
    )
