"""The Evaluate tab's pieces of HTML: cards to choose from, what metrics mean, tables, and what a
video says of its own making."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from motion_app.evaluation.catalogue import METRICS, Metric
from motion_app.evaluation.networks import WeightStore
from motion_app.evaluation.report import ARROWS, Report, catalogue_id, paper_cell, paper_tables
from motion_app.evaluation.scoring import ScoreProgress
from motion_app.media.provenance import Verification
from motion_app.media.watermark import DETECTED
from motion_app.ui.markup import Texts


@dataclass(frozen=True)
class Choice:
    """A finished video to choose; ``picture`` a data address or ""."""

    id: str
    title: str
    picture: str
    chosen: bool


def choices_html(choices: Sequence[Choice], texts: Texts) -> str:
    """Cards that are pressed to choose."""
    if not choices:
        return f'<p class="evaluate-none">{html.escape(texts("evaluate.none_made"))}</p>'
    cards = []
    for choice in choices:
        title = html.escape(choice.title)
        label = html.escape(texts("evaluate.pick_label", name=choice.title))
        picture = f'<img src="{choice.picture}" alt="">' if choice.picture else ""
        cards.append(
            f'<button type="button" data-id="{html.escape(choice.id)}" class="evaluate-card" '
            f'role="checkbox" aria-checked="{str(choice.chosen).lower()}" aria-label="{label}">'
            f'{picture}<span class="evaluate-tick" aria-hidden="true">✓</span>'
            f"<span>{title}</span></button>"
        )
    return f'<div class="evaluate-cards">{"".join(cards)}</div>'


def metric_words(metric: Metric, texts: Texts) -> str:
    """Where a metric comes from, in a few words."""
    if metric.stand_in_for:
        return texts("evaluate.stand_in", paper=metric.stand_in_for)
    if metric.paper:
        return texts("evaluate.from_paper", paper=metric.paper)
    return texts("evaluate.own_metric")


def metrics_html(weights: WeightStore, texts: Texts) -> str:
    """What each metric means; those without weights are grey and say what they need."""
    here, absent = [], []
    for metric in METRICS.values():
        missing = weights.missing(metric.networks)
        facts = [metric_words(metric, texts), texts(f"evaluate.better_{metric.better or 'none'}")]
        if missing:
            facts.append(texts("evaluate.needs", what=", ".join(missing)))
        line = (
            f"<dt>{html.escape(metric.id)}</dt>"
            f"<dd>{html.escape(texts(f'evaluate.about.{metric.id}'))}"
            f'<span class="quiet"> {html.escape(" · ".join(facts))}</span></dd>'
        )
        (absent if missing else here).append(line)
    groups = [
        f'<details class="evaluate-about"><summary>{html.escape(texts(key))}</summary>'
        f'<dl class="{kind}">{"".join(lines)}</dl></details>'
        for key, lines, kind in (
            ("evaluate.metrics_about", here, ""),
            ("evaluate.unavailable", absent, "absent"),
        )
        if lines
    ]
    return "".join(groups)


def progress_html(progress: ScoreProgress, texts: Texts, *, stopping: bool) -> str:
    """What is measured now, and a bar."""
    share = round(100 * progress.done / progress.total)
    title = texts("evaluate.working", item=progress.item)
    if stopping:
        title = texts("evaluate.stopping")
    metric = progress.metric or texts("evaluate.reading")
    step = texts("evaluate.step", done=progress.done + 1, total=progress.total, metric=metric)
    so_far = texts("evaluate.so_far", seconds=f"{progress.elapsed:.0f}")
    label = html.escape(texts("evaluate.progress_label"))
    return (
        f'<div class="progress"><p><strong>{html.escape(title)}</strong> '
        f"<span>{html.escape(step)}</span></p>"
        f'<div class="bar" role="progressbar" aria-label="{label}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{share}"><span style="width: {share}%"></span></div>'
        f'<p class="quiet">{html.escape(so_far)}</p></div>'
    )


def report_html(report: Report, texts: Texts) -> str:
    """Averages by method, every video, and the notes."""
    metrics = report.measured_metrics
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report.footnotes())
    notes = f"<h4>{html.escape(texts('evaluate.notes'))}</h4><ul>{notes}</ul>" if notes else ""
    if not metrics:
        nothing = html.escape(texts("evaluate.nothing_measured"))
        return f'<div class="evaluate-report"><p class="note warning">{nothing}</p>{notes}</div>'
    heads = [_head(report, metric, texts) for metric in metrics]
    video, method = texts("evaluate.column_video"), texts("evaluate.column_method")
    by_method = _table([html.escape(method), *heads], report.method_cells(), names=1)
    by_video = _table(
        [html.escape(video), html.escape(method), *heads], report.item_cells(), names=2
    )
    return (
        f'<div class="evaluate-report"><h3>{html.escape(texts("evaluate.by_method"))}</h3>'
        f'<p class="quiet">{html.escape(texts("evaluate.mean_interval"))}</p>{by_method}'
        f"<h3>{html.escape(texts('evaluate.by_video'))}</h3>{by_video}{notes}</div>"
    )


def _head(report: Report, metric: str, texts: Texts) -> str:
    """A column's heading, explained on hover."""
    about = html.escape(texts(f"evaluate.about.{metric}"))
    kind = ' class="stand-in"' if METRICS[metric].stand_in_for else ""
    return f'<abbr title="{about}"{kind}>{html.escape(report.heading(metric))}</abbr>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, names: int) -> str:
    """A table that scrolls by itself; ``heads`` are HTML, cells are text. Intervals stand below
    their means."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = ""
    for row in rows:
        cells = [f'<th scope="row">{html.escape(row[0])}</th>']
        cells += [f'<td class="word">{html.escape(cell)}</td>' for cell in row[1:names]]
        for cell in row[names:]:
            mean, space, interval = html.escape(cell).partition(" [")
            small = f"<small>[{interval}</small>" if space else ""
            cells.append(f"<td>{mean}{small}</td>")
        body += f"<tr>{''.join(cells)}</tr>"
    return (
        f'<div class="evaluate-scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def paper_html(texts: Texts) -> str:
    """The papers' own tables, as printed."""
    tables = []
    for table in paper_tables():
        heads = []
        for column in table.columns:
            metric = METRICS.get(catalogue_id(column))
            arrow = "" if metric is None else ARROWS[metric.better]
            heads.append(html.escape(column + arrow))
        rows = [[name, *map(paper_cell, cells)] for name, cells in table.values.items()]
        method = html.escape(texts("evaluate.column_method"))
        tables.append(
            f'<h4>{html.escape(table.title)} <span class="quiet">{html.escape(table.source)}. '
            f"{html.escape(table.note)}</span></h4>{_table([method, *heads], rows, names=1)}"
        )
    title, words = html.escape(texts("evaluate.paper_title")), texts("evaluate.paper_help")
    return (
        f'<details class="evaluate-about evaluate-report"><summary>{title}</summary>'
        f'<p class="quiet">{html.escape(words)}</p>{"".join(tables)}</details>'
    )


def verdict_html(found: Verification, name: str, texts: Texts) -> str:
    """``found`` on the file ``name`` in words: a headline, then each piece of evidence."""
    known = found.detected or found.tagged or found.c2pa == "valid"
    rows = (
        (found.detected, "video.mark", _watermark_words(found, texts)),
        (found.tagged, "video.tag", texts("video.tag_yes" if found.tagged else "video.tag_no")),
        (found.recipe, "video.recipe", _recipe_words(found, texts)),
        (found.c2pa == "valid", "video.c2pa", _signature_words(found, texts)),
    )
    lines = "".join(
        f'<div class="{"yes" if holds else "no"}"><dt>{texts(key)}</dt><dd>{words}</dd></div>'
        for holds, key, words in rows
    )
    headline = texts("video.verdict_yes" if known else "video.verdict_no")
    note = "" if known else f'<p class="quiet">{texts("video.verdict_doubt")}</p>'
    return (
        f'<section class="verdict"><h3>{headline}</h3>'
        f'<p class="quiet">{html.escape(name)}</p><dl>{lines}</dl>{note}</section>'
    )


def _watermark_words(found: Verification, texts: Texts) -> str:
    z = f"{found.z:.1f}"
    if not found.detected:
        return texts("video.mark_no", z=z, needed=f"{DETECTED:g}")
    words = texts("video.mark_yes", z=z, needed=f"{DETECTED:g}")
    if found.payload is None:
        return words
    return f"{words} {texts('video.payload', payload=found.payload)}"


def _recipe_words(found: Verification, texts: Texts) -> str:
    if not found.recipe:
        return texts("video.recipe_no")
    fits = {True: "video.recipe_fits", False: "video.recipe_other", None: "video.recipe_yes"}
    return texts(fits[found.payload_fits])


def _signature_words(found: Verification, texts: Texts) -> str:
    return texts(f"video.c2pa_{found.c2pa}", signer=html.escape(found.signer or ""))
