"""The results as files: the long table (CSV, Parquet), JSON, a LaTeX table, and the codebook that
says what every column means."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from motion_app.study.plan import QUESTIONS
from motion_app.study.records import AnswerRow
from motion_app.study.report import PAPER_ORDER, StudyReport, paper_row

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet would run such a cell


@dataclass(frozen=True)
class Column:
    """One column of the long table; ``kind`` is Arrow's name of its type."""

    name: str
    kind: str
    meaning: str
    read: Callable[[AnswerRow], Any]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


COLUMNS = (
    Column("rater", "int32", "number of the rater, from 0; not who it was", lambda r: r.rater),
    Column("screen", "int32", "place in the rater's own order, from 0", lambda r: r.number),
    Column(
        "role",
        "string",
        "practice, main, gold (the right answer is known) or repeat (of an earlier screen); "
        "shares count main alone",
        lambda r: r.role,
    ),
    Column("item", "string", "name of the item, as it was given", lambda r: r.item),
    Column(
        "question",
        "string",
        "which question; in a best–worst study with .best or .worst",
        lambda r: r.question,
    ),
    Column("chosen", "string", "the method that was chosen", lambda r: r.chosen),
    Column("place", "int32", "the place it stood at, from 1", lambda r: r.place),
    Column(
        "order", "string", "the methods by place, with | between", lambda r: " | ".join(r.order)
    ),
    Column("repeats", "int32", "the screen that this one repeats, or empty", lambda r: r.repeats),
    Column("right", "bool", "gold and practice: whether it was right, or empty", lambda r: r.right),
    Column(
        "coverage",
        "float64",
        "share of frames shown before the answer, of the candidate shown least",
        lambda r: r.coverage,
    ),
    Column("revisions", "int32", "how many answers came before this one", lambda r: r.revisions),
    Column("shown_ms", "int64", "ms from opening the screen to the answer", lambda r: r.shown_ms),
    Column("sequence", "int64", "the browser's count of answers sent", lambda r: r.sequence),
    Column("client_time", "string", "the browser's clock, UTC", lambda r: _moment(r.client_time)),
    Column("server_time", "string", "the server's clock, UTC", lambda r: _moment(r.server_time)),
)


def guarded(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text that starts like one gets an
    apostrophe. Numbers stay numbers."""
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        return "'" + cell
    return "" if cell is None else cell


def to_csv(rows: Sequence[AnswerRow]) -> bytes:
    """The long table, one answer a row, UTF-8."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])
    writer.writerows([[guarded(column.read(row)) for column in COLUMNS] for row in rows])
    return file.getvalue().encode("utf-8")


def to_parquet(rows: Sequence[AnswerRow], *, counted: str = "") -> bytes:
    """The long table with its types; ``counted``, who is counted, is kept in its metadata."""
    import pyarrow as pa  # a tenth of a second that only this export needs
    from pyarrow import parquet

    kinds = {"bool": pa.bool_()}
    schema = pa.schema([(c.name, kinds.get(c.kind) or pa.type_for_alias(c.kind)) for c in COLUMNS])
    schema = schema.with_metadata({"counted": counted})
    columns = {column.name: [column.read(row) for row in rows] for column in COLUMNS}
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def to_json(report: StudyReport) -> bytes:
    """The whole report."""
    return json.dumps(report.to_json(), ensure_ascii=False, indent=2).encode("utf-8")


def to_latex(report: StudyReport) -> str:
    """The human half of the paper's Table 1: a row for each method, percent with three decimals,
    the best of a column in bold where it is surely ahead of the runner-up; needs the package
    booktabs."""
    names = [name for name in PAPER_ORDER if any(q.id == name for q in report.questions)]
    table = {method: paper_row(report, method) for method in report.methods}
    leaders = {question.id: question.leader for question in report.questions}
    lines = [
        "% " + report.counted,
        "% percent of " + ", ".join(f"{q.shares[0].total} ({q.id})" for q in report.questions),
        r"\begin{tabular}{l" + "c" * len(names) + "}",
        r"\toprule",
        "Method & " + " & ".join(rf"{name} $\uparrow$" for name in names) + r" \\",
        r"\midrule",
    ]
    for method, row in table.items():
        cells = [
            rf"\textbf{{{cell}}}" if leaders[name] == method else cell
            for cell, name in zip(row, names, strict=True)
        ]
        lines.append(" & ".join([latex_text(method), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex_text(text: str) -> str:
    """``text`` with LaTeX's own signs written out."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: "\\" + sign for sign in "&%$#_{}"}
    return "".join(signs.get(letter, letter) for letter in text)


def codebook(report: StudyReport) -> str:
    """What the columns, the questions and the numbers mean, as Markdown."""
    lines = [
        f"# Codebook: {report.title}",
        "",
        f"{len(report.raters)} raters, {report.items} items, {report.answers} answers; "
        f"form `{report.form}`; plan SHA-256 `{report.plan_digest}`.",
        "",
        report.counted + " The long table holds everybody's answers.",
        "",
        "## The long table (answers.csv, answers.parquet)",
        "",
        "One row is the latest answer of one rater to one question of one screen. In the CSV a "
        "text cell that starts with = + - @ has an apostrophe before it.",
        "",
        "| column | type | meaning |",
        "|---|---|---|",
        *(f"| {c.name} | {c.kind} | {c.meaning.replace('|', chr(92) + '|')} |" for c in COLUMNS),
        "",
        "## Questions",
        "",
        *(f"- `{question.id}`: {QUESTIONS[question.id]}" for question in report.questions),
        "",
        "## The report (results.json)",
        "",
        "- `shares`: votes of main screens; `interval` is a 95% two-way bootstrap over raters and "
        "items. With zero votes `ceiling` is 3 / votes (the rule of three, were all votes "
        "independent) and `cautious_ceiling` is 3 / the smaller of raters and items.",
        "- `differences`: of two methods' shares on the screens that showed both, with a 95% "
        "two-way bootstrap interval; `p` of a permutation test in which each rater's whole sum "
        "changes its sign, `p_holm` corrected by Holm for all pairs. `leader`: the method whose "
        "interval of the difference to the runner-up lies above 0; tables print it in bold.",
        "- `fleiss_kappa`, `krippendorff_alpha` (nominal): agreement between raters, with a 95% "
        "interval over raters and items; `self_agreement`: repeats answered alike, with Wilson's "
        "95% interval.",
        "- `as_if_independent`: `cochran_q`, `mcnemar` (exact; `p_holm` corrected by Holm) and "
        "`position_bias` (χ² of chosen places) take every vote for independent of every other. "
        "They are not: these p values are too small, and stand here for comparison alone.",
        "- `analysis`: who is counted and by which rule, what the study had registered, and "
        "whether the rule was changed before it was unblinded (`blind`).",
        "- `scores` (best–worst): (best − worst) / shown. `strengths` (pairs): Bradley–Terry.",
        "- `flags`: `gold` a third or more of the gold answers wrong; `fast` less time than a "
        "clip lasts or a third of the others' median; `one place` one place chosen more often "
        "than chance allows (p < 0.001).",
    ]
    return "\n".join(lines) + "\n"


def export_all(rows: Sequence[AnswerRow], report: StudyReport) -> dict[str, bytes]:
    """File name → content of everything there is to download."""
    return {
        "answers.csv": to_csv(rows),
        "answers.parquet": to_parquet(rows, counted=report.counted),
        "results.json": to_json(report),
        "table.tex": to_latex(report).encode("utf-8"),
        "codebook.md": codebook(report).encode("utf-8"),
    }
