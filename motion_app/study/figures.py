"""The report's pictures, drawn by plotly: JSON for a page that has plotly.js, or one HTML file that
shows everything and needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from motion_app.study.report import QuestionReport, StudyReport, percent
from motion_app.study.statistics import Interval

# Okabe and Ito's colours: told apart by nearly everyone, on light and on dark.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#b8a800")
INK = "#7d8590"  # readable on both
ROW_PIXELS = 34


def share_figure(report: StudyReport) -> go.Figure:
    """Each method's share with its interval, a panel for each question."""
    figure = _panels(report)
    for column, question in enumerate(report.questions, start=1):
        for share, colour in zip(question.shares, COLOURS, strict=False):
            interval = share.interval
            high = interval.high if share.ceiling is None else share.ceiling
            figure.add_trace(
                go.Scatter(
                    x=[100 * interval.value],
                    y=[share.method],
                    error_x={
                        "type": "data",
                        "symmetric": False,
                        "array": [100 * (high - interval.value)],
                        "arrayminus": [100 * (interval.value - interval.low)],
                        "thickness": 2,
                        "width": 5,
                    },
                    mode="markers",
                    marker={"color": colour, "size": 7},
                    hovertemplate=(
                        f"{html.escape(share.method)}: %{{x:.1f}}%<br>{share.votes:,} of "
                        f"{share.total:,}<extra></extra>"
                    ),
                    showlegend=False,
                ),
                row=1,
                col=column,
            )
        figure.update_xaxes(
            range=[-4, 104],
            tickmode="array",
            tickvals=[0, 50, 100],
            ticktext=["0", "50%", "100"],
            tickangle=0,
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    return _styled(figure, rows=len(report.methods))


def place_figure(report: StudyReport) -> go.Figure:
    """How often each place on the screen was chosen; the line is even use."""
    figure = _panels(report)
    for column, question in enumerate(report.questions, start=1):
        places = list(range(1, len(question.places) + 1))
        total = sum(question.places) or 1
        figure.add_trace(
            go.Bar(
                x=places,
                y=[100 * count / total for count in question.places],
                marker={"color": COLOURS[0]},
                hovertemplate="Candidate %{x}: %{y:.1f}%<extra></extra>",
                showlegend=False,
            ),
            row=1,
            col=column,
        )
        figure.add_hline(
            y=100 / len(places), line={"color": INK, "width": 1, "dash": "dot"}, row=1, col=column
        )
        figure.update_xaxes(tickmode="array", tickvals=places, row=1, col=column)
    figure.update_yaxes(ticksuffix="%", rangemode="tozero")
    return _styled(figure, rows=5)


def rater_figure(report: StudyReport) -> go.Figure:
    """Raters by their median time for a screen and the share of repeats answered alike; flagged
    ones are crosses."""
    figure = go.Figure()
    groups: tuple[tuple[str, str, str, Callable[[bool], bool]], ...] = (
        ("no flag", COLOURS[0], "circle", lambda flagged: not flagged),
        ("flagged", COLOURS[5], "x", lambda flagged: flagged),
    )
    for name, colour, symbol, belongs in groups:
        raters = [r for r in report.raters if belongs(bool(r.flags)) and r.repeats]
        figure.add_trace(
            go.Scatter(
                x=[rater.seconds for rater in raters],
                y=[100 * rater.repeats_alike / rater.repeats for rater in raters],
                text=[f"Rater {r.number} {', '.join(r.flags)}".strip() for r in raters],
                mode="markers",
                name=name,
                marker={"color": colour, "symbol": symbol, "size": 10},
                hovertemplate="%{text}<br>%{x:.0f} s, %{y:.0f}%<extra></extra>",
            )
        )
    figure.update_xaxes(title="median seconds for a screen", rangemode="tozero")
    figure.update_yaxes(title="repeats alike", ticksuffix="%", range=[-5, 105])
    figure.update_layout(legend={"orientation": "h", "y": 1.12, "x": 0})
    return _styled(figure, rows=6)


FIGURES: tuple[tuple[str, str, Callable[[StudyReport], go.Figure]], ...] = (
    ("shares", "Share of the votes, with 95% intervals over raters and items", share_figure),
    ("places", "Places that were chosen", place_figure),
    ("raters", "How the raters worked", rater_figure),
)


def figures_json(report: StudyReport) -> dict[str, dict[str, Any]]:
    """Name → ``{"title", "figure"}``, plain JSON as plotly.js takes it."""
    return {
        name: {"title": title, "figure": draw(report).to_plotly_json()}
        for name, title, draw in _figures(report)
    }


def _figures(report: StudyReport) -> Sequence[tuple[str, str, Callable[[StudyReport], go.Figure]]]:
    """Those that have something to show: without repeats nobody's agreement can be drawn."""
    repeated = any(rater.repeats for rater in report.raters)
    return [entry for entry in FIGURES if entry[0] != "raters" or repeated]


def _panels(report: StudyReport) -> go.Figure:
    titles = [question.id for question in report.questions]
    return make_subplots(
        rows=1,
        cols=len(titles),
        subplot_titles=titles,
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )


def _styled(figure: go.Figure, *, rows: int) -> go.Figure:
    figure.update_layout(
        height=120 + ROW_PIXELS * rows,
        margin={"l": 10, "r": 10, "t": 40, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "family": "system-ui, sans-serif", "size": 13},
        bargap=0.35,
        dragmode=False,
    )
    grid = {"gridcolor": "rgba(125,133,144,.25)", "zeroline": False, "automargin": True}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    return figure


STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --page: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --page: #0d1117 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 68rem; margin: 2.5rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem }
p, dd, caption { color: var(--soft) } .table { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .75rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap } th:first-child, td:first-child { text-align: left }
thead th { color: var(--soft); font-weight: 500 } .best { font-weight: 650 }
.figure { overflow-x: auto } .figure > div { min-width: 40rem }
summary { cursor: pointer; margin: 2.5rem 0 .5rem } summary h2 { display: inline }
code { font-size: .85em; overflow-wrap: anywhere }
"""


def report_html(report: StudyReport) -> str:
    """The whole report as one file: tables, figures, plotly.js inside."""
    figures = "".join(
        f'<section><h2>{html.escape(title)}</h2><div class="figure">'
        + to_html(
            draw(report),
            full_html=False,
            include_plotlyjs=False,
            config={"displayModeBar": False, "responsive": True},
        )
        + "</div></section>"
        for _, title, draw in _figures(report)
    )
    counted = f"<p>{html.escape(report.counted)}</p>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(report.title)}</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script>"
        f"<h1>{html.escape(report.title)}</h1>"
        f"<p>{len(report.raters)} raters, {report.items} items, {report.answers:,} answers"
        + (f". Plan <code>{report.plan_digest}</code>" if report.plan_digest else "")
        + "</p>"
        f"<h2>Percent of the votes</h2>{_share_table(report)}{counted}{figures}"
        f"{_form_table(report, counted)}"
        f"<h2>Differences between methods</h2>{_pair_table(report)}{counted}"
        f"<h2>Agreement</h2>{_agreement_table(report)}{counted}"
        f"{_folded('Raters', _rater_table(report) + counted)}</html>\n"
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Cells that are ready HTML."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _folded(title: str, content: str) -> str:
    return f"<details><summary><h2>{title}</h2></summary>{content}</details>"


def _share_table(report: StudyReport) -> str:
    """A share in bold is surely ahead of the runner-up's."""
    rows = []
    for k, method in enumerate(report.methods):
        cells = [html.escape(method)]
        for question in report.questions:
            share = question.shares[k]
            mark = ' class="best"' if question.leader == method else ""
            high = share.interval.high if share.ceiling is None else share.ceiling
            cells.append(
                f"<span{mark}>{percent(share.votes, share.total)}</span> "
                f"<small>[{100 * share.interval.low:.1f}, {100 * high:.1f}]</small>"
            )
        rows.append(cells)
    return _table(["Method", *(question.id for question in report.questions)], rows)


def _form_table(report: StudyReport, counted: str) -> str:
    """Best–worst scores or Bradley–Terry strengths; nothing where the form has neither."""
    if report.form == "single":
        return ""
    rows = []
    for k, method in enumerate(report.methods):
        cells = [html.escape(method)]
        for question in report.questions:
            if question.scores is not None:
                score = question.scores[k]
                cells.append(
                    f"{score.value:+.3f} <small>[{score.low:+.2f}, {score.high:+.2f}]</small>"
                )
            elif question.strengths is not None:
                cells.append(f"{question.strengths[k]:.3f}")
        rows.append(cells)
    title = "Bradley–Terry strengths" if report.form == "pair" else "Best minus worst, per showing"
    table = _table(["Method", *(q.id for q in report.questions)], rows)
    return f"<h2>{title}</h2>{table}{counted}"


def _interval(found: Interval | None) -> str:
    if found is None:
        return "–"
    return f"{found.value:.3f} <small>[{found.low:.2f}, {found.high:.2f}]</small>"


def _chance(p: float | None) -> str:
    if p is None:
        return "–"
    return "&lt; 0.0001" if p < 1e-4 else f"{p:.4f}"


def _agreement_table(report: StudyReport) -> str:
    def row(question: QuestionReport) -> list[str]:
        same = question.self_agreement
        alike = "–" if same is None else f"{same.value:.0%} of {question.repeats}"
        kappa, alpha = question.fleiss_kappa, question.krippendorff_alpha
        return [question.id, _interval(kappa), _interval(alpha), alike]

    head = ["Question", "Fleiss κ", "Krippendorff α", "Repeats alike"]
    return _table(head, [row(question) for question in report.questions])


def _pair_table(report: StudyReport) -> str:
    rows = [
        [
            f"{question.id}: {html.escape(pair.first)} – {html.escape(pair.second)}",
            f"{100 * pair.interval.value:+.1f} <small>[{100 * pair.interval.low:+.1f}, "
            f"{100 * pair.interval.high:+.1f}]</small>",
            _chance(pair.p),
            _chance(pair.p_holm),
        ]
        for question in report.questions
        for pair in question.differences
    ]
    return _table(["Pair", "difference in points", "p", "p (Holm)"], rows)


def _rater_table(report: StudyReport) -> str:
    rows = [
        [
            str(rater.number),
            f"{rater.answers:,}",
            f"{rater.gold_wrong} of {rater.gold}",
            f"{rater.repeats_alike} of {rater.repeats}",
            f"{rater.seconds:.0f}",
            ", ".join(rater.flags) or "–",
        ]
        for rater in report.raters
    ]
    head = ["Rater", "answers", "gold wrong", "repeats alike", "s per screen", "flags"]
    return _table(head, rows)
