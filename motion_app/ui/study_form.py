"""The form that makes a study: where its videos come from, and everything that can be chosen."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from motion_app.errors import RequestError
from motion_app.study.creation import end_of_day
from motion_app.study.plan import QUESTIONS, AnalysisRule, Form, QuestionOrder
from motion_app.study.upload import LAYOUT
from motion_app.ui.form_faults import FieldNotes, FormFaults
from motion_app.ui.markup import Texts, script
from motion_app.ui.uploads import upload_box

MOST_RATERS = 500
RESULTS, ZIP, BENCHMARK = SOURCES = ("results", "zip", "benchmark")
LEAST_RESULTS = 2


@dataclass(frozen=True)
class StudyRequest:
    """What was filled in: the ``jobs`` of results, an ``upload``, which is a ZIP file, or the name
    of a ``benchmark``'s run. ``options`` are those of ``create_study``."""

    title: str
    jobs: tuple[str, ...]
    upload: Path | None
    options: dict[str, Any]
    benchmark: str = ""


class StudyForm:
    """Built inside a column; ``inputs`` are what ``read`` takes, in this order."""

    def __init__(self, texts: Texts) -> None:
        self.notes = FieldNotes()
        self.source = gr.Radio(
            [(texts(f"study.from_{name}"), name) for name in SOURCES],
            value=RESULTS,
            label=texts("study.source"),
            elem_id="study-source",
        )
        self.results = gr.CheckboxGroup(
            label=texts("study.results"), info=texts("study.results_info"), choices=[]
        )
        self.notes.below("results", self.results)
        with gr.Group(visible=False, elem_id="study-upload") as self.upload_group:
            self.upload = upload_box(
                "items", texts("study.upload"), height=110, elem_id="study-file"
            )
            gr.HTML(
                folder_html(texts),
                js_on_load=script("morph", "study_folder"),
                apply_default_css=False,
                elem_id="study-folder",
            )
            gr.HTML(layout_html(texts), apply_default_css=False)
        self.notes.below("upload", self.upload)
        self.benchmark = gr.Dropdown(
            [],
            label=texts("study.benchmark"),
            info=texts("study.benchmark_info"),
            visible=False,
            elem_id="study-benchmark",
        )
        self.notes.below("benchmark", self.benchmark)
        self.title = gr.Textbox(label=texts("study.title"), max_length=200, elem_id="study-title")
        self.notes.below("title", self.title)
        form = gr.Dropdown(
            [(texts(f"study.form_{name}"), name) for name in get_args(Form)],
            value="single",
            label=texts("study.form"),
        )
        raters = gr.Number(
            20,
            label=texts("study.raters"),
            precision=0,
            minimum=1,
            maximum=MOST_RATERS,
            elem_id="study-raters",
        )
        with gr.Accordion(texts("study.more"), open=False, elem_id="study-more"):
            self.inputs = [self.source, self.results, self.upload, self.benchmark]
            self.inputs += [self.title, form, raters]
            self.inputs += _details(texts, self.notes)
        self.notes.below("all")

    def wire(self) -> None:
        """Show what belongs to the chosen source, and what is wrong until it is mended."""
        self.notes.wire()
        self.source.change(
            None,
            inputs=[self.source],
            outputs=[self.results, self.upload_group, self.benchmark],
            js=script("study_source"),
            api_visibility="private",
        )


def _details(texts: Texts, notes: FieldNotes) -> list[Any]:
    """What ``read`` takes after the first seven."""

    def number(name: str, value: float, **given: Any) -> gr.Number:
        bounds = {"precision": 0, "minimum": 0, **given}
        return gr.Number(value, label=texts(f"study.{name}"), **bounds)

    def choice(name: str, names: Sequence[str], **given: Any) -> gr.Dropdown:
        choices = [(texts(f"study.{name}_{one}"), one) for one in names]
        return gr.Dropdown(choices, value=names[0], label=texts(f"study.{name}"), **given)

    questions = gr.CheckboxGroup(
        list(QUESTIONS), value=list(QUESTIONS), label=texts("study.questions")
    )
    with gr.Row():
        order = choice("question_order", get_args(QuestionOrder), min_width=150)
        analysis = choice("analysis", get_args(AnalysisRule), min_width=150)
    with gr.Row():
        items = number("items_per_rater", 0, min_width=120)
        repeats = number("repeats", 5, maximum=50, min_width=120)
    with gr.Row():
        practice = number("practice", 2, maximum=20, min_width=120)
        gold = gr.Textbox(
            label=texts("study.gold"),
            placeholder=texts("study.gold_own"),
            max_length=4,
            min_width=120,
        )
    notes.below("gold", gold)
    with gr.Row():
        closes = gr.Textbox(
            label=texts("study.closes"), placeholder="2027-01-31", max_length=20, min_width=120
        )
        link_days = number("link_days", 0, maximum=3650, min_width=120)
    notes.below("closes", closes)
    consent = gr.Textbox(
        label=texts("study.consent"), placeholder=texts("study.consent_own"), lines=3
    )
    with gr.Row():
        minutes = number("minutes", 0, maximum=600, min_width=120)
        contact = gr.Textbox(label=texts("study.contact"), max_length=200, min_width=120)
    with gr.Row():
        code = gr.Textbox(label=texts("study.code"), max_length=40, min_width=120)
        seed = number("seed", 0, min_width=120)
    found = [questions, order, analysis, items, repeats, practice, gold, closes, link_days]
    return [*found, consent, minutes, contact, code, seed]


def read_form(
    texts: Texts,
    source: str,
    jobs: Sequence[str] | None,
    upload: str | None,
    benchmark: str | None,
    title: str,
    form: str,
    raters: float | None,
    *details: Any,
) -> StudyRequest:
    """What the inputs of ``StudyForm`` hold. FormFaults for what is missing or cannot be read; the
    rest is checked by whoever makes the study."""
    questions, order, analysis, items, repeats, practice, gold, closes, link_days = details[:9]
    consent, minutes, contact, code, seed = details[9:]
    faults: dict[str, str] = {}
    if source == ZIP and not upload:
        faults["upload"] = texts("study.no_items")
    if source == BENCHMARK and not benchmark:
        faults["benchmark"] = texts("study.no_benchmark")
    if source == RESULTS and len(jobs or ()) < LEAST_RESULTS:
        faults["results"] = texts("study.too_few_results", count=len(jobs or ()))
    if not (title or "").strip():
        faults["title"] = texts("study.no_title")
    parsed: dict[str, Any] = {}
    for name, given, read in (("gold", gold, _count), ("closes", closes, end_of_day)):
        try:
            parsed[name] = read(given) if (given or "").strip() else None
        except RequestError as error:
            faults[name] = str(error)
    if faults:
        raise FormFaults(faults)
    options = {
        "form": form,
        "raters": max(1, min(int(raters or 1), MOST_RATERS)),
        "questions": tuple(name for name in QUESTIONS if name in (questions or ())),
        "question_order": order,
        "analysis": analysis,
        "items_per_rater": int(items) if items else None,
        "repeat_share": float(repeats or 0) / 100,
        "practice": int(practice or 0),
        **parsed,
        "link_days": int(link_days) if link_days else None,
        "minutes": int(minutes) if minutes else None,
        "contact": (contact or "").strip() or None,
        "completion_code": (code or "").strip() or None,
        "seed": int(seed or 0),
    }
    if (consent or "").strip():
        options["consent"] = consent.strip()
    return StudyRequest(
        title=title or "",
        jobs=tuple(jobs or ()) if source == RESULTS else (),
        upload=Path(upload) if source == ZIP and upload else None,
        options=options,
        benchmark=benchmark or "" if source == BENCHMARK else "",
    )


def _count(text: str) -> int:
    given = text.strip()
    if not given.isdecimal():
        raise RequestError(f'"{given}" is no number of gold items; write 0, 1, 2, …')
    return int(given)


def folder_html(texts: Texts) -> str:
    """The button that takes a folder, and what became of it."""
    said = " ".join(
        f'data-{name}="{html.escape(texts(f"study.folder_{name}"))}"'
        for name in ("packing", "empty", "unread")
    )
    return (
        f'<button type="button" class="tool">{html.escape(texts("study.folder"))}</button>'
        f'<input type="file" webkitdirectory hidden><p class="note" role="status" {said}></p>'
    )


def layout_html(texts: Texts) -> str:
    """What the ZIP file or the folder is to hold."""
    return (
        f"<details class='study-layout'><summary>{html.escape(texts('study.layout'))}</summary>"
        f"<pre>{html.escape(LAYOUT)}</pre><p>{html.escape(texts('study.layout_csv'))}</p></details>"
    )
