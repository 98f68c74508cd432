"""What ``study …`` of the command line does. Options and settings in, the JSON that is printed last
out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from motion_app.cli.parser import (
    Result,
    add_command,
    add_group,
)
from motion_app.errors import RequestError
from motion_app.library.library import Library
from motion_app.settings import Settings
from motion_app.text_files import read_text

ANALYSES = ("all", "finished", "unflagged")


def create(options: argparse.Namespace, settings: Settings) -> Result:
    """Make a study; nothing is asked of anybody yet."""
    from motion_app.study.creation import create_study
    from motion_app.study.items import VideoChoice

    config = {
        "form": options.form,
        "raters": options.raters,
        "items_per_rater": options.items_per_rater,
        "pairs_per_item": options.pairs_per_item,
        "repeat_share": options.repeats,
        "seed": options.seed,
        "questions": None if options.questions is None else tuple(options.questions.split(",")),
        "consent": None if options.consent is None else read_text(options.consent),
        "completion_code": options.completion_code,
        "link_days": options.link_days,
        "place_hours": options.place_hours,
        "analysis": options.analysis,
        "closes": options.closes,
        "question_order": options.question_order,
        "minutes": options.minutes,
        "contact": options.contact,
    }
    created = create_study(
        options.out,
        _sources(options.source, settings),
        title=options.title,
        database=_database(options, settings),
        dataset=options.dataset,
        video=VideoChoice(options.size, options.fps, options.frames),
        practice=options.practice,
        gold=options.gold,
        limits=settings.limits,
        on_item=lambda done, total: _show("item", done, total),
        **{key: value for key, value in config.items() if value is not None},
    )
    archive, prepared = created.study.archive, created.prepared
    video = prepared.video
    return {
        "study": str(options.out),
        "methods": list(archive.config.methods),
        "items": {
            kind: sum(item.kind == kind for item in prepared.items)
            for kind in ("main", "gold", "practice")
        },
        "raters": archive.config.raters,
        "plan_sha256": archive.plan_digest,
        "video": f"{video.width}x{video.height}, {video.frames} frames at {video.fps:g} per second",
        "cut": prepared.cut,
        "held": prepared.held,
        "resized": prepared.resized,
        "open_link": archive.links.open_token(),
    }


def _sources(given: list[str], settings: Settings) -> list[Any]:
    """One folder of items or CSV file; or results, each a folder or NAME=FOLDER."""
    from motion_app.study.sources import ResultFolder, read_sources, sources_from_results

    results = []
    for text in given:
        label, sign, folder = text.rpartition("=")
        results.append(ResultFolder(Path(folder), label if sign else None))
    if any((result.path / "recipe.json").is_file() for result in results) or len(given) > 1:
        library = Library(settings.motion_folders())
        return sources_from_results(results, reference=library.preview_of)
    return read_sources(given[0])


def _database(options: argparse.Namespace, settings: Settings) -> str | None:
    secret = settings.study_database
    return options.database or (None if secret is None else secret.get_secret_value())


def report(options: argparse.Namespace, settings: Settings) -> Result:
    """The results, as a page and JSON; hidden until the study is unblinded."""
    from motion_app.study.figures import report_html
    from motion_app.study.report import paper_row, study_report
    from motion_app.study.unblinding import unblind

    archive = _open(options, settings)
    if options.unblind:
        unblind(archive, by="command line")
    _choose_analysis(archive, options)
    result = study_report(archive)
    page = options.out or Path(options.study) / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(report_html(result), encoding="utf-8")
    return {
        "report": str(page),
        "raters": len(result.raters),
        "answers": result.answers,
        "percent": {method: paper_row(result, method) for method in result.methods},
        "counted": result.counted,
        "flagged": [rater.number for rater in result.raters if rater.flags],
    }


def export(options: argparse.Namespace, settings: Settings) -> Result:
    """Everything there is to download, into a folder."""
    from motion_app.study.exports import export_all
    from motion_app.study.report import study_report
    from motion_app.study.unblinding import answer_rows

    archive = _open(options, settings)
    rows = answer_rows(archive)
    _choose_analysis(archive, options)
    files = export_all(rows, study_report(archive))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (options.out / name).write_bytes(content)
    return {"files": [str(options.out / name) for name in files], "answers": len(rows)}


def _choose_analysis(archive: Any, options: argparse.Namespace) -> None:
    """Who is counted, where it is said; it stays so until somebody says otherwise."""
    from motion_app.study.analysis_set import BY_HAND, choose_analysis

    if options.without is not None:
        choose_analysis(archive, BY_HAND, without=options.without, by="command line")
    elif options.analysis is not None:
        choose_analysis(archive, options.analysis, by="command line")


def simulate(options: argparse.Namespace, settings: Settings) -> Result:
    """A throw-away study with synthetic raters, over the real HTTP endpoints."""
    from motion_app.study.simulate import Crowd, simulate_study, summary

    found = simulate_study(
        raters=options.raters,
        items=options.items,
        methods=options.methods,
        seed=options.seed,
        crowd=Crowd(options.at_once, options.pace),
        database=options.database,
        on_progress=_show,
    )
    sys.stdout.write(summary(found) + "\n")
    return found.to_json()


def _show(what: str, done: int, total: int) -> None:
    sys.stderr.write(f"\r{what} {done}/{total}" + "\n" * (done == total))
    sys.stderr.flush()


def _open(options: argparse.Namespace, settings: Settings) -> Any:
    from motion_app.study.archive import StudyArchive

    return StudyArchive.open(options.study, database=_database(options, settings))


def add_commands(actions: Any) -> None:
    """``study …`` with its options."""
    study = add_group(actions, "study", "ask people which video is best")
    _add_create(add_command(study, "create", create, "make a study and draw its plan"))
    for name, run, about in (
        ("report", report, "the results as a page"),
        ("export", export, "the results as CSV, Parquet, JSON and LaTeX"),
    ):
        parser = add_command(study, name, run, about)
        parser.add_argument("study", type=Path, metavar="DIR", help="the study's folder")
        out = "report.html" if name == "report" else "DIR"
        parser.add_argument("--out", type=Path, required=name == "export", metavar=out)
        counted = parser.add_mutually_exclusive_group()
        counted.add_argument("--analysis", choices=ANALYSES, help="who is counted; recorded")
        counted.add_argument(
            "--without", type=_raters, metavar="3,17", help="raters not counted; recorded"
        )
        if name == "report":
            parser.add_argument("--unblind", action="store_true", help="recorded, for good")
        _add_database(parser)
    parser = add_command(study, "simulate", simulate, "a throw-away study with synthetic raters")
    parser.add_argument("--raters", type=int, default=8)
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--methods", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="raters at once (4)")
    parser.add_argument(
        "--pace", type=float, default=0.0, metavar="SECONDS", help="of thought before an answer (0)"
    )
    _add_database(parser)


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        help="a folder of items, a CSV file, or results of this app, each DIR or NAME=DIR",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--title", required=True)
    parser.add_argument("--form", choices=("single", "pair", "best_worst"))
    parser.add_argument("--questions", metavar="MF,TC,TS,AC")
    parser.add_argument("--raters", type=int)
    parser.add_argument("--items-per-rater", type=int)
    parser.add_argument("--pairs-per-item", type=int, help="of the form pair (1)")
    parser.add_argument("--repeats", type=float, help="share of items shown twice (0.05)")
    parser.add_argument("--practice", type=int, default=2, help="items with feedback")
    parser.add_argument("--gold", type=int, help="items with a plain answer (1 in 20)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--consent", type=Path, metavar="TEXT", help="file with your own text")
    parser.add_argument("--completion-code", help="one for all; without it each rater has one")
    parser.add_argument(
        "--link-days", type=int, metavar="N", help="from the first opening; without it for good"
    )
    parser.add_argument(
        "--place-hours",
        type=float,
        metavar="N",
        help="until a place whose rater answered nothing may go to another (2); 0: never",
    )
    parser.add_argument(
        "--analysis", choices=ANALYSES, help="who is to be counted, registered beforehand (all)"
    )
    parser.add_argument(
        "--closes", type=_date, metavar="2027-01-31", help="the last day on which it is answered"
    )
    parser.add_argument("--question-order", choices=("fixed", "random"), help="for each rater")
    parser.add_argument("--minutes", type=int, help="that it takes, beside the consent")
    parser.add_argument("--contact", help="for questions, beside the consent")
    parser.add_argument("--size", type=_size, metavar="WxH", help="of all videos, in pixels")
    parser.add_argument("--fps", type=float)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--dataset", metavar="NAME", help="of the Hub, to copy every answer to")
    _add_database(parser)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database", metavar="postgresql://…", help="without it: SQLite")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f'"{text}" is no size; write it as 576x384')
    return int(width), int(height)


def _date(text: str) -> float:
    from motion_app.study.creation import end_of_day

    try:
        return end_of_day(text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _raters(text: str) -> tuple[int, ...]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f'"{text}" is no list of rater numbers; write 3,17')
    return tuple(int(part) for part in text.split(","))
