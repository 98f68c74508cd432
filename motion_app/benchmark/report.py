"""A benchmark's outcome as files: Markdown, CSV, LaTeX, charts, contact sheets, and the tables for
a README. Nothing in them depends on when or in how many runs the work was done, but for the seconds
that videos took."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motion_app.benchmark import tables
from motion_app.benchmark.charts import (
    SheetRow,
    draw_sheet,
    interval_chart,
    line_chart,
    png_bytes,
    spread,
)
from motion_app.benchmark.outcome import Outcome, average, by_case
from motion_app.benchmark.propagation import NOISE_LEVELS
from motion_app.benchmark.references import LARGER, MIRRORED, WORDED
from motion_app.benchmark.scenes import BenchmarkCase
from motion_app.benchmark.scores import ALL_METRICS
from motion_app.benchmark.strata import LIMITS, MIXED, SHAPES
from motion_app.benchmark.tables import (
    FOLLOWS,
    MARGIN,
    RIGHT,
    Table,
    reduced_table,
    supplement_table,
)
from motion_app.benchmark.variants import MAIN, PACKS, RULES, Suite
from motion_app.evaluation.report import MEASURED, NOT_MEASURED, Report, Row, Source
from motion_app.media.results import make_folder
from motion_app.text_files import write_whole

SHEETS = {MAIN: 12, PACKS: 6}  # cases drawn as contact sheets; four of every other suite
COLUMNS = 7
COMPARED = {
    SHAPES: "Motions of shape",
    MIRRORED: "References mirrored",
    LARGER: "References of 1.5 times the size",
    WORDED: "Sentences that name each motion",
    MIXED: "Sentences whose words could be mixed up",
}
SHEET_ENDS = 3  # of a row's videos, the best and the worst, are on its sheet
LISTED_GAPS = 40
RIGHT_NOTE = (
    "The right answer is the renderer's own continuation, in which each creature does the motion "
    "that it was given. *right_overlap*: intersection over union of where a creature is in the "
    "video and in the answer, the mean of all frames after the first; the answer has 1. "
    "*right_difference*: mean difference of colours, of 255, in the pixels where the creature "
    "should be. The *still picture* is the first frame held: what doing nothing gets."
)


def write_report(outcome: Outcome, folder: Path) -> dict[str, str]:
    """Write everything into ``folder``; paths by name."""
    make_folder(folder)
    texts = {
        "report.md": markdown(outcome),
        "readme_tables.md": readme_tables(outcome),
        "scores.csv": scores_csv(outcome),
        "cases.csv": cases_csv(outcome),
        "report.tex": latex(outcome),
        **charts(outcome),
    }
    for name, text in texts.items():
        _write(folder / name, text.encode())
    for name, picture in contact_sheets(outcome).items():
        make_folder((folder / name).parent)
        _write(folder / name, png_bytes(picture))
    if outcome.figure is not None:
        _write(folder / "steps.png", outcome.figure.read_bytes())
    return {name: str(folder / name) for name in texts}


def _write(path: Path, content: bytes) -> None:
    write_whole(path, lambda part: part.write_bytes(content))


def all_tables(outcome: Outcome) -> list[Table]:
    """Every table there is something to say in, main scenes first."""
    main = outcome.suites[0]
    found = [
        tables.cost_table(outcome, main),
        tables.metric_table(outcome, main, tables.ASSIGNED, "Does each object do its own motion"),
        tables.metric_table(outcome, main, tables.FAITHFUL, "How faithful the motion is"),
        tables.metric_table(outcome, main, tables.RIGHT, "Beside the right answer", RIGHT_NOTE),
        tables.metric_table(outcome, main, tables.CLEAN, "What happens beside the objects"),
        tables.difference_table(outcome, main),
        tables.count_table(outcome, main),
        tables.movement_table(outcome, main, "The main scenes' motions, one by one"),
        tables.body_table(outcome, main),
        *(table for suite in outcome.suites[1:] for table in _suite_tables(outcome, suite)),
        tables.propagation_table(outcome),
        tables.stop_table(outcome, _with_stops(outcome)),
        tables.paper_table(outcome, main),
        *(reduced_table(outcome, suite) for suite in outcome.suites),
        *(supplement_table(outcome, suite) for suite in outcome.suites),
    ]
    return [table for table in found if table is not None]


def _with_stops(outcome: Outcome) -> list[Suite]:
    return [suite for suite in outcome.suites if suite.name in (MAIN, RULES)]


def _suite_table(outcome: Outcome, suite: Suite) -> Table | None:
    metrics = (FOLLOWS, MARGIN, "TF[dis]", "FF[dis]", "leak_change", "mask_iou[colour]")
    metrics += tables.RIGHT
    return tables.metric_table(
        outcome, suite, metrics, _title(suite), f"{suite.about[0].upper()}{suite.about[1:]}."
    )


def _suite_tables(outcome: Outcome, suite: Suite) -> list[Table | None]:
    """The table of a suite beside the main one; where methods are compared, differences too."""
    found = [_suite_table(outcome, suite)]
    if suite.name in COMPARED:
        title = f"{_title(suite)}: full FlexiMMT minus each other row"
        found.append(tables.difference_table(outcome, suite, title=title))
    if suite.name == SHAPES:
        found.append(tables.movement_table(outcome, suite, f"{_title(suite)}, one by one"))
    return found


def _title(suite: Suite) -> str:
    titles = {name: f"Limit, {name}" for name in LIMITS} | {RULES: "RMPM's rules"} | COMPARED
    return titles.get(suite.name, suite.name.capitalize())


def markdown(outcome: Outcome) -> str:
    """The whole report."""
    parts = ["# Benchmark", _about(outcome)]
    parts += [table.markdown() for table in all_tables(outcome)]
    notes = [
        "\\* Stand-ins that need no weights; they are never to be compared with the papers' "
        "metrics of similar name.",
        "*true clip* is the renderer's own continuation of each first frame, scored the same way: "
        "what a perfect method would get, and what the stand-ins lose by themselves.",
        "*told*: what a method is told of a motion besides the picture and where its objects are.",
        "A scene's value is the mean of its objects; figures are means over scenes with 95% "
        "bootstrap intervals.",
    ]
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    if outcome.gaps:
        listed = [f"- {gap}" for gap in outcome.gaps[:LISTED_GAPS]]
        more = len(outcome.gaps) - LISTED_GAPS
        listed += [f"- and {more} more like these, in scores.csv"] if more > 0 else []
        parts += ["## Not measured", "\n".join(listed)]
    return "\n\n".join(parts) + "\n"


def _about(outcome: Outcome) -> str:
    made = outcome.made_with
    lines = [
        f"Model *{outcome.model}* ({made['model'][:12]}), {made['steps']} steps on {made['device']}"
        f"; torch {made['torch']}, diffusers {made['diffusers']}.",
        f"Motions in the library: {', '.join(outcome.motions)}.",
        "Every generation starts from the first frame, its masks and neutral sentences; later "
        "frames' true masks are used to judge alone.",
    ]
    for suite in outcome.suites:
        counts = {n: sum(len(c.objects) == n for c in suite.cases) for n in (1, 2, 3)}
        scenes = ", ".join(f"{count} of {n}" for n, count in counts.items() if count)
        lines.append(f"- *{suite.name}*: {suite.about}; scenes by objects: {scenes}")
    return "\n".join(lines[:3]) + "\n\n" + "\n".join(lines[3:])


def readme_tables(outcome: Outcome) -> str:
    """The tables of a README's evidence, each in as few columns as tell the story."""
    main = outcome.suites[0]
    follow = {row: average(by_case(outcome, main, row, FOLLOWS)) for row in outcome.rows(main)}
    margin = tables.differences(outcome, main, MARGIN)
    body = []
    for row in outcome.rows(main):
        cells = [
            tables.words(average(by_case(outcome, main, row, metric)))
            for metric in ("own_motion[colour]", "other_motion[colour]", MARGIN, *tables.RIGHT)
        ]
        share = "–" if follow[row] is None else f"{follow[row].mean:.0%}"
        told = tables.told(main, row)
        body.append((row, told, share, *cells, tables.words(margin.get(row))))
    headings = ("method", "told", "follow their own", "own", "other", "own − other")
    headings += ("right overlap", "right difference", "fleximmt ahead by in own − other")
    if any(value is not None for value in follow.values()):
        found = [Table("Methods and ablations", headings, tuple(body))]
    else:
        found = [tables.metric_table(outcome, main, tables.FAITHFUL, "Methods and ablations")]
    found.append(tables.cost_table(outcome, main))
    found += [_suite_table(outcome, suite) for suite in outcome.suites[1:]]
    found += [
        tables.propagation_table(outcome),
        tables.stop_table(outcome, _with_stops(outcome)),
    ]
    return "\n\n".join(t.markdown(3) for t in found if t is not None) + "\n"


def _rows(outcome: Outcome) -> list[Row]:
    rows = []
    for (case, method), scores in sorted(outcome.scores.items()):
        for id in outcome.ids:
            metric = ALL_METRICS[id]
            values = scores.values.get(id, ())
            status = MEASURED if values else f"{NOT_MEASURED}: {scores.problems.get(id, '')}"
            rows.append(
                Row(
                    item=case,
                    method=method,
                    metric=id,
                    implementation=metric.implementation,
                    weights=metric.weights_id,
                    value=float(np.mean(values)) if values else None,
                    status=status,
                    parts=tuple(values) if len(values) > 1 else (),
                    stand_in_for=metric.stand_in_for,
                    better=metric.better,
                )
            )
    return rows


def scores_csv(outcome: Outcome) -> str:
    """One line for each case, row and metric; then one for each gap."""
    gaps = [Row("", "", "", "", "", None, f"{NOT_MEASURED}: {problem}") for problem in outcome.gaps]
    return Report((*_rows(outcome), *gaps), ()).to_csv()


def cases_csv(outcome: Outcome) -> str:
    """One line for each object of each case."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = ("suite", "case", "seed", "object", "name", "body", "motion", "reference_body")
    writer.writerow(heads)
    for suite in outcome.suites:
        for case in suite.cases:
            for k, o in enumerate(case.objects):
                start = (suite.name, case.id, case.seed, k + 1)
                writer.writerow((*start, o.name, o.body, o.motion, o.reference_body))
    return file.getvalue()


def latex(outcome: Outcome) -> str:
    """The main suite's averages as a booktabs table, and FlexiMMT's own."""
    main = outcome.suites[0]
    ids = {case.id for case in main.cases}
    named = outcome.rows(main)
    rows = [
        row
        for row in _rows(outcome)
        if row.item in ids and row.method in named and row.value is not None
    ]
    return Report(tuple(rows), tuple(Source("", name, "") for name in named)).to_latex()


def charts(outcome: Outcome) -> dict[str, str]:
    """SVG texts by file name."""
    main = outcome.suites[0]
    drawn = {}
    for metric, name, words in (
        (MARGIN, "differences.svg", "own − other"),
        (FOLLOWS, "follow_differences.svg", "share on their own motion"),
        ("TF[colour]", "tf_differences.svg", "TF[colour]"),
    ):
        found = tables.differences(outcome, main, metric)
        if found:
            title = f"How far full FlexiMMT is ahead: {words}"
            axis = "difference, scene by scene; 95% bootstrap intervals"
            drawn[name] = interval_chart(title, found, axis=axis)
    if outcome.propagation:
        lines = {
            rule: np.mean([scene[rule] for scene in outcome.propagation], axis=0).tolist()
            for rule in outcome.propagation[0]
        }
        drawn["rmpm.svg"] = line_chart(
            "RMPM's masks against true ones",
            NOISE_LEVELS,
            lines,
            axes=("noise left, share of the timesteps", "mean IoU"),
        )
    return drawn


def contact_sheets(outcome: Outcome) -> dict[str, np.ndarray]:
    """Pictures (H, W, 3) uint8 by file name: one of a case, the true clip above every variant's
    video; and one of each variant."""
    sheets = {}
    for suite in outcome.suites:
        if suite.name == RULES:
            continue
        for case in _spread_cases(suite.cases, SHEETS.get(suite.name, 4)):
            sheets[f"sheets/{case.id}.png"] = contact_sheet(outcome, suite, case)
    main = outcome.suites[0]
    for variant in main.variants:
        drawn = system_sheet(outcome, main, variant.name)
        if drawn is not None:
            sheets[f"sheets/of {variant.name.replace('/', ' ')}.png"] = drawn
    return sheets


def _spread_cases(cases: Sequence[BenchmarkCase], count: int) -> list[BenchmarkCase]:
    picked = np.unique(np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int))
    return [cases[index] for index in picked]


def contact_sheet(outcome: Outcome, suite: Suite, case: BenchmarkCase) -> np.ndarray:
    """One case: the clips that it should move like, the truth, and every video."""
    rows = [
        SheetRow(f"reference {k}", spread(o.reference.frames, COLUMNS), o.motion)
        for k, o in enumerate(case.objects, start=1)
    ]
    if case.rendered is not None:
        rows.append(SheetRow("true clip", spread(case.rendered.frames, COLUMNS)))
    for variant in suite.variants:
        path = outcome.videos.get((case.id, variant.name))
        if path is None:
            continue
        with np.load(path, allow_pickle=False) as kept:
            frames = kept["frames"]
        rows.append(
            SheetRow(
                variant.name, spread(frames, COLUMNS), _score_words(outcome, case, variant.name)
            )
        )
    title = f"{case.id}: " + " · ".join(f"{o.name}: {o.motion}" for o in case.objects)
    return draw_sheet(rows, title=title)


def _score_words(outcome: Outcome, case: BenchmarkCase, row: str) -> str:
    values = outcome.scores[case.id, row].values.get(MARGIN, ())
    return f"own - other {', '.join(f'{v:.2f}' for v in values)}" if values else ""


def system_sheet(outcome: Outcome, suite: Suite, row: str) -> np.ndarray | None:
    """The videos of one ``row``, each under the right answer: those nearest to it first, by
    ``right_overlap``, and those farthest from it last; None without any."""
    found = by_case(outcome, suite, row, RIGHT[0])
    ranked = sorted(found, key=lambda case: (-found[case], case))
    chosen = ranked
    if len(ranked) > 2 * SHEET_ENDS:
        chosen = [*ranked[:SHEET_ENDS], *ranked[-SHEET_ENDS:]]
    rows = []
    for case in (case for id in chosen for case in suite.cases if case.id == id):
        path = outcome.videos.get((case.id, row))
        if path is None or case.rendered is None:
            continue
        with np.load(path, allow_pickle=False) as kept:
            frames = kept["frames"]
        motions = ", ".join(thing.motion for thing in case.objects)
        rows.append(SheetRow(case.id, spread(case.rendered.frames, COLUMNS), motions))
        rows.append(SheetRow(row, spread(frames, COLUMNS), f"overlap {found[case.id]:.2f}"))
    return draw_sheet(rows, title=f"{row}: best and worst") if rows else None
