"""Videos that are being scored, and what was found.

The scoring runs on a thread of its own for a page that asks how far it is. HTML of the tab: cards
to choose from, what metrics mean, tables, plots, and what a video says of its own making."""

from __future__ import annotations

import html
import secrets
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.errors import GenerationCancelled
from motion_app.evaluation.catalogue import METRICS, Metric
from motion_app.evaluation.features import VideoPicture
from motion_app.evaluation.figures import PlotWords, flow_figure, over_time_figure, tracks_picture
from motion_app.evaluation.networks import WeightStore
from motion_app.evaluation.report import ARROWS, Report, catalogue_id, paper_cell, paper_tables
from motion_app.evaluation.scoring import ScoreProgress, Scores
from motion_app.media.provenance import Verification
from motion_app.media.watermark import DETECTED
from motion_app.ui.boundary import listen
from motion_app.ui.markup import Texts, note_html, script
from motion_app.ui.visitor import BrowserState

LEFT_SECONDS = 300.0  # without a question: a hidden page asks once a minute, a closed one never
Steps = Generator[ScoreProgress, None, Scores]


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
    here: list[str] = []
    absent: list[str] = []
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


class ScoringRun:
    """One scoring, from its first step. Making one takes that step, which raises what is wrong with
    the choice. ``turn`` is how many may be at work at once.

    ``progress``: the measurement that comes next; ``scores``: what was found, None before the end
    and for a run that was stopped; ``error``: what broke it.
    """

    def __init__(self, steps: Steps, turn: threading.Semaphore) -> None:
        self.progress = next(steps)
        self.scores: Scores | None = None
        self.error: Exception | None = None
        self._stop = threading.Event()
        self._asked = time.monotonic()
        self._thread = threading.Thread(
            target=self._work, args=(steps, turn), name="scoring", daemon=True
        )
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def ask(self) -> bool:
        """Whether it has come to its end; somebody still wants to know."""
        self._asked = time.monotonic()
        return self.over

    def stop(self) -> None:
        """End before the next measurement."""
        self._stop.set()

    def _work(self, steps: Steps, turn: threading.Semaphore) -> None:
        try:
            while not turn.acquire(timeout=0.2):
                self._check()
            try:
                while True:
                    self._check()
                    self.progress = next(steps)
            finally:
                turn.release()
        except StopIteration as finished:
            self.scores = finished.value
        except GenerationCancelled:
            pass
        except Exception as error:
            self.error = error
        finally:
            steps.close()

    def _check(self) -> None:
        if self.stopping or time.monotonic() - self._asked > LEFT_SECONDS:
            raise GenerationCancelled("stopped")


class EvaluationState(BrowserState):
    """What one browser does here: the ids of the ``chosen`` jobs, the ``uploads`` in the table of
    methods, the ``scoring`` at work, the ``error`` of the last one where it was not told yet, and
    what can be drawn of its last scores."""

    def __init__(self) -> None:
        self.chosen: list[str] = []
        self.uploads: tuple[Path, ...] = ()
        self.pictures: tuple[VideoPicture, ...] = ()
        self.scoring: ScoringRun | None = None
        self.error: Exception | None = None


class ResultsPanel:
    """Build it inside ``gr.Blocks``, then ``wire`` it. ``outputs`` is what ``kept`` and ``updates``
    update."""

    def __init__(self, texts: Texts) -> None:
        self.texts = t = texts
        empty = f'<p class="evaluate-none">{t("evaluate.empty")}</p>'
        self.table = gr.HTML(
            empty,
            js_on_load=script("scores_in_view"),
            apply_default_css=False,
            elem_id="evaluate-table",
        )
        with gr.Row(visible=False, elem_id="evaluate-files") as self.files:
            self.downloads = [
                gr.DownloadButton(t(f"evaluate.download_{kind}"), size="sm", min_width=120)
                for kind in ("csv", "tex", "md")
            ]
        with gr.Column(visible=False, elem_id="evaluate-plots") as self.plots:
            gr.HTML(f"<h3>{t('evaluate.plots')}</h3>", apply_default_css=False)
            self.shown = gr.Dropdown(
                [], label=t("evaluate.plot_video"), type="index", elem_id="evaluate-shown"
            )
            self.nothing = gr.HTML(apply_default_css=False)
            captions = [t(f"evaluate.{name}_label") for name in ("tracks", "flow", "time")]
            gr.HTML(note_html(captions[0]), apply_default_css=False)
            self.tracks = gr.Image(
                label=captions[0],
                show_label=False,
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_id="evaluate-tracks",
                alt_text=t("evaluate.tracks_alt"),
            )
            gr.HTML(note_html(captions[1]), apply_default_css=False)
            self.flow = gr.Plot(label=captions[1], show_label=False, elem_id="evaluate-flow")
            gr.HTML(note_html(captions[2]), apply_default_css=False)
            self.over_time = gr.Plot(label=captions[2], show_label=False, elem_id="evaluate-time")
        gr.HTML(paper_html(t), apply_default_css=False, elem_id="evaluate-paper")

    @property
    def outputs(self) -> list[Any]:
        return [self.table, self.files, *self.downloads, self.plots, self.shown, *self._plotted]

    @property
    def _plotted(self) -> list[Any]:
        return [self.nothing, self.tracks, self.flow, self.over_time]

    def wire(self, state: gr.State) -> None:
        """Bind the choice of the video that is drawn."""
        listen(self.shown.input, self.draw, inputs=[state, self.shown], outputs=self._plotted)

    def kept(self) -> list[Any]:
        """Nothing changes."""
        return [gr.skip()] * len(self.outputs)

    def updates(self, state: EvaluationState, scores: Scores) -> list[Any]:
        """``scores`` on show."""
        report, state.pictures = scores.report, scores.pictures
        names = [picture.item for picture in scores.pictures]
        return [
            report_html(report, self.texts),
            gr.update(visible=True),
            *(gr.update(value=str(path)) for path in _written(report)),
            gr.update(visible=bool(names)),
            gr.update(choices=names, value=names[0] if names else None),
            *self.draw(state, 0),
        ]

    def draw(self, state: EvaluationState, shown: int | None) -> list[Any]:
        """The plots of one scored video."""
        if shown is None or shown >= len(state.pictures):
            return [""] + [gr.update(visible=False)] * 3
        picture, words = state.pictures[shown], self._words()
        drawn = [
            tracks_picture(picture),
            flow_figure(picture, words),
            over_time_figure([picture], words),
        ]
        nothing = all(thing is None for thing in drawn)
        note = note_html(self.texts("evaluate.no_plot")) if nothing else ""
        return [note, *(gr.update(value=thing, visible=thing is not None) for thing in drawn)]

    def _words(self) -> PlotWords:
        names = ("speed", "direction", "share", "frame", "likeness", "reference", "embedding")
        return PlotWords(**{name: self.texts(f"evaluate.plot_{name}") for name in names})


def _written(report: Report) -> list[Path]:
    """report.csv, .tex and .md in a new folder of gradio's own temporary one, which it empties."""
    root = Path(gr.utils.get_upload_folder()) / secrets.token_hex(16)
    root.mkdir(parents=True)
    files = {"csv": report.to_csv(), "tex": report.to_latex(), "md": report.to_markdown()}
    for ending, text in files.items():
        (root / f"report.{ending}").write_text(text, encoding="utf-8")
    return [root / f"report.{ending}" for ending in files]
