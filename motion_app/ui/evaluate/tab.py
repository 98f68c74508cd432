"""The Evaluate tab: choose videos and metrics, get tables, plots and files."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.errors import RequestError
from motion_app.evaluation.catalogue import METRICS, default_ids
from motion_app.evaluation.networks import WeightStore
from motion_app.evaluation.scoring import ScoreProgress, Scores, score_steps
from motion_app.evaluation.videos import (
    MOST_VIDEOS,
    EvaluationItem,
    item_of_result,
    pair_uploads,
    row_labels,
)
from motion_app.host import ModelHost
from motion_app.jobs.folder import JobRow
from motion_app.media.provenance import read_recipe, verify_video
from motion_app.request.request import parse_request
from motion_app.settings import Limits
from motion_app.ui.boundary import listen
from motion_app.ui.evaluate.results import (
    Choice,
    EvaluationState,
    ResultsPanel,
    ScoringRun,
    choices_html,
    metrics_html,
    progress_html,
    verdict_html,
)
from motion_app.ui.markup import Texts, note_html, script, step_heading, title_of
from motion_app.ui.pictures import Previews
from motion_app.ui.uploads import upload_box
from motion_app.ui.visitor import PageVisit

ASK_SECONDS = 0.5  # between two looks at a scoring
AT_WORK = 2  # scorings at once, of all browsers


class EvaluateTab:
    """Build it inside a ``gr.Tab``, then ``wire`` it."""

    def __init__(self, host: ModelHost, texts: Texts, previews: Previews) -> None:
        self.host, self.texts = host, texts
        self.previews = previews
        self.weights = WeightStore(host.settings.judges)
        self.state = gr.State(EvaluationState())
        self.timer = gr.Timer(ASK_SECONDS, active=False)
        self.turn = threading.BoundedSemaphore(AT_WORK)
        with gr.Row(elem_id="evaluate-inputs"):
            with gr.Column(elem_classes="step", min_width=300, scale=3):
                self._build_videos()
            with gr.Column(elem_classes="step", min_width=280, scale=2):
                self._build_metrics()
        with gr.Column(elem_classes="step", elem_id="evaluate-results"):
            self.results = ResultsPanel(texts)
        self.verify = VerifyPanel(texts, limits=host.settings.limits)

    def _build_videos(self) -> None:
        t = self.texts
        gr.HTML(step_heading(1, t("evaluate.videos_title"), t("evaluate.videos_help")))
        with gr.Row(elem_classes="evaluate-tools"):
            gr.HTML(f"<strong>{t('evaluate.made_here')}</strong>", apply_default_css=False)
            self.every = gr.Button(t("evaluate.choose_all"), size="sm", min_width=80, scale=0)
            self.none = gr.Button(t("evaluate.choose_none"), size="sm", min_width=80, scale=0)
            self.refresh = gr.Button(t("evaluate.refresh"), size="sm", min_width=80, scale=0)
        self.picker = gr.HTML(
            choices_html((), t),
            js_on_load=script("evaluate_cards"),
            apply_default_css=False,
            elem_id="evaluate-made",
        )
        with gr.Row():
            self.videos = upload_box(
                "clip",
                t("evaluate.upload_videos"),
                file_count="multiple",
                height=120,
                elem_id="evaluate-videos",
            )
            self.extras = upload_box(
                "beside",
                t("evaluate.upload_extras"),
                file_count="multiple",
                height=120,
                elem_id="evaluate-extras",
            )
        gr.HTML(note_html(t("evaluate.extras_help")), apply_default_css=False)
        self.methods = gr.Dataframe(
            headers=[t(f"evaluate.column_{name}") for name in ("video", "method", "with")],
            datatype=["str", "str", "str"],
            column_count=(3, "fixed"),
            static_columns=[0, 2],
            interactive=True,
            visible=False,
            label=t("evaluate.methods_table"),
            elem_id="evaluate-methods",
        )

    def _build_metrics(self) -> None:
        t = self.texts
        gr.HTML(step_heading(2, t("evaluate.metrics_title"), t("evaluate.metrics_help")))
        ids = default_ids(self.weights)
        marked = [(name + (" *" if METRICS[name].stand_in_for else ""), name) for name in ids]
        self.metrics = gr.CheckboxGroup(
            marked, value=ids, label=t("evaluate.metrics_label"), elem_id="evaluate-metrics"
        )
        gr.HTML(
            metrics_html(self.weights, t), apply_default_css=False, elem_id="evaluate-explained"
        )
        with gr.Row():
            self.score = gr.Button(
                t("evaluate.score"), variant="primary", min_width=120, elem_id="evaluate-score"
            )
            self.cancel = gr.Button(
                t("evaluate.cancel"), visible=False, min_width=80, elem_id="evaluate-cancel"
            )
        self.status = gr.HTML(apply_default_css=False, elem_id="evaluate-status")

    def wire(self, visit: gr.State, *, tab: gr.Tab | None = None) -> None:
        """Bind the events. ``tab``: where it is built; its videos are looked for when it opens."""
        looks = [self.refresh.click] if tab is None else [self.refresh.click, tab.select]
        for event in looks:
            listen(event, self.look, inputs=[visit, self.state], outputs=[self.picker])
        listen(self.picker.pick, self.pick, inputs=[visit, self.state], outputs=[self.picker])
        for button, handler in ((self.every, self.pick_every), (self.none, self.pick_none)):
            listen(button.click, handler, inputs=[visit, self.state], outputs=[self.picker])
        listen(  # one event for both: the answers of two might come in the other order
            partial(gr.on, [self.videos.change, self.extras.change]),
            self.list_uploads,
            inputs=[self.state, self.videos, self.extras, self.methods],
            outputs=[self.methods],
            trigger_mode="always_last",
        )
        outputs = [self.score, self.cancel, self.status, *self.results.outputs, self.timer]
        inputs = [visit, self.state, self.videos, self.extras, self.methods, self.metrics]
        listen(self.score.click, self.run, inputs=inputs, outputs=outputs)
        listen(self.timer.tick, self.ask, inputs=[self.state], outputs=outputs, queue=False)
        listen(
            self.cancel.click,
            self.ask_stop,
            inputs=[self.state],
            outputs=[self.cancel],
            queue=False,
        )
        self.results.wire(self.state)
        self.verify.wire()

    # choosing

    def _rows(self, visit: PageVisit) -> list[JobRow]:
        rows = self.host.jobs.rows(visit.owner, kind="generate")
        return [row for row in rows if row.state == "done"]

    def _title(self, row: JobRow) -> str:
        return row.title or title_of(parse_request(row.inputs["request"]), self.texts)

    def look(self, visit: PageVisit, state: EvaluationState) -> str:
        """The cards of this browser's finished videos; those that are gone are chosen no more."""
        rows = self._rows(visit)
        state.chosen = [row.id for row in rows if row.id in state.chosen]
        choices = []
        for row in rows:
            thumbnail = self.previews.video(row, self.host.jobs.folder(row.id))
            picture = "" if thumbnail is None else thumbnail.still
            choices.append(Choice(row.id, self._title(row), picture, row.id in state.chosen))
        return choices_html(choices, self.texts)

    def pick(self, visit: PageVisit, state: EvaluationState, event: gr.EventData) -> str:
        """Choose a card, or choose it no more."""
        picked = str(event.id)
        if picked in state.chosen:
            state.chosen.remove(picked)
        else:
            state.chosen.append(picked)
        return self.look(visit, state)

    def pick_every(self, visit: PageVisit, state: EvaluationState) -> str:
        state.chosen = [row.id for row in self._rows(visit)]
        return self.look(visit, state)

    def pick_none(self, visit: PageVisit, state: EvaluationState) -> str:
        state.chosen = []
        return self.look(visit, state)

    def list_uploads(
        self,
        state: EvaluationState,
        videos: Sequence[str] | None,
        extras: Sequence[str] | None,
        methods: Any,
    ) -> Any:
        """The table of uploaded videos, one row for each; methods already given are kept."""
        items = self._uploaded(state, videos, extras, methods)
        state.uploads = tuple(Path(path) for path in videos or ())
        rows = []
        for label, item in zip(row_labels(state.uploads), items, strict=True):
            comes = []
            if item.request is not None:
                inside = not any(str(extra).endswith(".json") for extra in extras or ())
                comes.append(self.texts(f"evaluate.with_{'recipe' if inside else 'request'}"))
            if item.references:
                comes.append(self.texts("evaluate.with_references", n=len(item.references)))
            words = ", ".join(comes) or self.texts("evaluate.with_nothing")
            rows.append([label, item.method, words])
        return gr.update(value=rows, visible=bool(rows))

    def _uploaded(
        self,
        state: EvaluationState,
        videos: Sequence[str] | None,
        extras: Sequence[str] | None,
        methods: Any,
    ) -> list[EvaluationItem]:
        files = [Path(path) for path in videos or ()]
        given = {} if methods is None else {str(r[0]): str(r[1]) for r in _cells(methods)}
        limits = self.host.settings.limits
        return pair_uploads(
            files,
            [Path(path) for path in extras or ()],
            read_recipe=lambda path: read_recipe(path, limits=limits),
            methods=carried_methods(given, state.uploads, files),
            method=self.texts("evaluate.default_method"),
        )

    def _made(self, visit: PageVisit, state: EvaluationState) -> list[EvaluationItem]:
        return [
            item_of_result(
                self.host.jobs.folder(row.id),
                name=self._title(row),
                video=row.outcome["video"],
                recipe=row.outcome["recipe"],
                frames=row.outcome.get("frames", ""),
            )
            for row in self._rows(visit)
            if row.id in state.chosen
        ]

    # scoring

    def ask_stop(self, state: EvaluationState) -> Any:
        """Stop before the next measurement."""
        if state.scoring is not None:
            state.scoring.stop()
        return gr.update(value=self.texts("evaluate.stopping"), interactive=False)

    def run(
        self,
        visit: PageVisit,
        state: EvaluationState,
        videos: Sequence[str] | None,
        extras: Sequence[str] | None,
        methods: Any,
        metrics: Sequence[str],
    ) -> list[Any]:
        """Begin to score what was chosen; ``ask`` tells how far it is, in calls that end at
        once."""
        if state.scoring is not None:
            state.scoring.stop()
        items = [*self._made(visit, state), *self._uploaded(state, videos, extras, methods)]
        if not items:
            raise RequestError(self.texts("evaluate.no_videos"))
        if len(items) > MOST_VIDEOS:
            raise RequestError(
                f"{len(items)} videos are chosen; at most {MOST_VIDEOS} are scored at once"
            )
        steps = score_steps(
            items,
            metrics,
            judges=self.host.models.judges(device="cpu"),  # a GPU is for jobs
            library=self.host.library.seen_by(visit.user),
            limits=self.host.settings.limits,
            segment=self.host.mark_at,
        )
        state.scoring = ScoringRun(steps, self.turn)  # a mistake is told before anything is hidden
        shown = progress_html(state.scoring.progress, self.texts, stopping=False)
        return self._panel(busy=True, status=shown)

    def ask(self, state: EvaluationState) -> list[Any]:
        """How far the scoring is, or its report. Why there is none is told the next time: an answer
        is what to show, or an error."""
        error, state.error = state.error, None
        if error is not None:
            raise error
        scoring = state.scoring
        if scoring is not None and not scoring.ask():
            shown = progress_html(scoring.progress, self.texts, stopping=scoring.stopping)
            return self._panel(busy=None, status=shown)
        state.scoring = None
        if scoring is None:
            return self._panel(busy=False, status="")
        if scoring.error is not None:
            state.error = scoring.error
            return [*self._panel(busy=False, status="")[:-1], gr.skip()]  # the timer goes on
        if scoring.scores is None:
            return self._panel(busy=False, status=note_html(self.texts("evaluate.stopped")))
        return self._finished(state, scoring.scores, scoring.progress)

    def _panel(self, *, busy: bool | None, status: str, results: Sequence[Any] = ()) -> list[Any]:
        """One update for each output; without ``results`` they stay as they are. ``busy``: None
        while it is as it was."""
        shown = results or self.results.kept()
        if busy is None:
            return [gr.skip(), gr.skip(), status, *shown, gr.skip()]
        stop = gr.update(visible=busy)
        if not busy:
            stop = gr.update(visible=False, value=self.texts("evaluate.cancel"), interactive=True)
        start, timer = gr.update(interactive=not busy), gr.Timer(active=busy)
        return [start, stop, status, *shown, timer]

    def _finished(self, state: EvaluationState, scores: Scores, last: ScoreProgress) -> list[Any]:
        report = scores.report
        done = self.texts(
            "evaluate.done",
            videos=len(report.sources),
            values=sum(row.value is not None for row in report.rows),
            seconds=f"{last.elapsed:.1f}",
        )
        results = self.results.updates(state, scores)
        return self._panel(busy=False, status=note_html(done), results=results)


class VerifyPanel:
    """Build it inside ``gr.Blocks``, in any tab, then ``wire``."""

    def __init__(self, texts: Texts, *, limits: Limits) -> None:
        self.texts, self.limits = texts, limits
        with gr.Column(elem_id="verify"):
            gr.HTML(
                f"<h2>{texts('video.verify')}</h2>"
                f'<p class="quiet">{texts("video.verify_help")}</p>',
                apply_default_css=False,
            )
            self.file = upload_box(
                "clip", texts("video.verify_drop"), height=100, elem_id="verify-file"
            )
            self.verdict = gr.HTML(
                js_on_load=script("announce"),
                apply_default_css=False,
                elem_id="verdict",
            )

    def wire(self) -> None:
        listen(self.file.upload, self.verify, inputs=[self.file], outputs=[self.file, self.verdict])

    def verify(self, path: str | None) -> Iterator[list[Any]]:
        """The verdict on an uploaded video. The box is emptied first, so that it takes another file
        even when this one is refused."""
        yield [None, ""]
        if path is None:
            raise RequestError("no file arrived; choose a video")
        found = verify_video(path, limits=self.limits)
        yield [None, verdict_html(found, Path(path).name, self.texts)]


def carried_methods(
    given: Mapping[str, str], before: Sequence[Path], now: Sequence[Path]
) -> dict[str, str]:
    """The methods ``given`` in a table of the videos ``before``, by the labels of those of ``now``:
    a file keeps its method where another row went. The table tells labels alone, which count the
    files of one name, so that they move."""
    kept: dict[Path, list[str]] = {}  # a file that was uploaded twice has two rows
    for path, label in zip(before, row_labels(before), strict=True):
        kept.setdefault(path, []).append(given.get(label, ""))
    methods = {}
    for path, label in zip(now, row_labels(now), strict=True):
        methods[label] = kept[path].pop(0) if kept.get(path) else ""
    return methods


def _cells(table: Any) -> list[list[Any]]:
    """The rows of a gr.Dataframe, which come as a pandas frame."""
    return table.to_numpy().tolist() if hasattr(table, "to_numpy") else list(table)
