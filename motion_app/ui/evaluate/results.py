"""Videos that are being scored, on a thread of their own for a page that asks how far it is, and
what was found: tables, files and plots."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.errors import GenerationCancelled
from motion_app.evaluation.features import VideoPicture
from motion_app.evaluation.figures import PlotWords, flow_figure, over_time_figure, tracks_picture
from motion_app.evaluation.report import Report
from motion_app.evaluation.scoring import ScoreProgress, Scores
from motion_app.ui.boundary import listen
from motion_app.ui.evaluate.views import paper_html, report_html
from motion_app.ui.markup import Texts, note_html
from motion_app.ui.visitor import BrowserState

LEFT_SECONDS = 300.0  # without a question: a hidden page asks once a minute, a closed one never
Steps = Generator[ScoreProgress, None, Scores]


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
    methods, the ``scoring`` at work, and what can be drawn of its last scores."""

    def __init__(self) -> None:
        self.chosen: list[str] = []
        self.uploads: tuple[Path, ...] = ()
        self.pictures: tuple[VideoPicture, ...] = ()
        self.scoring: ScoringRun | None = None


class ResultsPanel:
    """Build it inside ``gr.Blocks``, then ``wire`` it. ``outputs`` is what ``kept`` and ``updates``
    update."""

    def __init__(self, texts: Texts) -> None:
        self.texts = t = texts
        empty = f'<p class="evaluate-none">{t("evaluate.empty")}</p>'
        self.table = gr.HTML(empty, apply_default_css=False, elem_id="evaluate-table")
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
