"""The outcome of an unblinded study, as the administrator's page shows it and hands it out.

The statistics are imported when they are asked for: they take longer to load than all the rest, and
until a study is unblinded its pages do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from motion_app.study.ledger import answer_rows
from motion_app.study.store import StudyStore

DOWNLOADS: Mapping[str, str] = MappingProxyType(
    {
        "answers.csv": "text/csv; charset=utf-8",
        "answers.parquet": "application/vnd.apache.parquet",
        "results.json": "application/json",
        "table.tex": "application/x-tex; charset=utf-8",
        "codebook.md": "text/markdown; charset=utf-8",
    }
)


def describe_results(store: StudyStore) -> dict[str, Any]:
    """The report as JSON, each share also in percent as the paper prints it, and the figures."""
    from motion_app.study.figures import figures_json
    from motion_app.study.report import percent, study_report

    report = study_report(store)
    shown = report.to_json()
    for question in shown["questions"]:
        for share in question["shares"]:
            share["percent"] = percent(share["votes"], share["total"])
    return {**shown, "figures": figures_json(report)}


def download(store: StudyStore, name: str) -> bytes:
    """The file ``name`` of DOWNLOADS, made from the latest answers."""
    from motion_app.study import exports
    from motion_app.study.report import study_report

    if name == "answers.csv":
        return exports.to_csv(answer_rows(store))
    if name == "answers.parquet":
        return exports.to_parquet(answer_rows(store))
    report = study_report(store)
    if name == "results.json":
        return exports.to_json(report)
    if name == "table.tex":
        return exports.to_latex(report).encode()
    return exports.codebook(report).encode()


def plot_script() -> bytes:
    """plotly's own script, which comes with its package: the page fetches nothing from outside."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().encode()
