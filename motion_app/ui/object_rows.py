"""One row for each object: number, colour, name, motion with its preview, sentence, strength."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from motion_app.assignment import MAX_STRENGTH
from motion_app.geometry import ModelGeometry
from motion_app.scene import Motion
from motion_app.ui.overlay import css_colour, ink_on
from motion_app.ui.previews import MotionPreviews
from motion_app.ui.progress import note_html
from motion_app.ui.session import ObjectDraft, SceneDraft, object_warning

NO_MOTION = ""
FIELDS = 4  # name, motion, sentence, strength: what a person may write in a row


@dataclass(frozen=True, eq=False)
class ObjectRow:
    """The components of row ``index``, hidden until there is such an object."""

    index: int
    group: gr.Column
    head: gr.HTML
    name: gr.Textbox
    refine: gr.Button
    delete: gr.Button
    preview: gr.HTML
    motion: gr.Dropdown
    strength: gr.Slider
    sentence: gr.Textbox
    note: gr.HTML

    @classmethod
    def build(cls, index: int, choices: Sequence[tuple[str, str]]) -> ObjectRow:
        number = index + 1
        with gr.Column(visible=False, elem_classes="object-row") as group:
            with gr.Row(elem_classes="object-head"):
                head = gr.HTML(apply_default_css=False, min_width=26, scale=0)
                name = gr.Textbox(
                    label=f"Name of object {number}",
                    placeholder="name, e.g. red robot",
                    show_label=False,
                    container=False,
                    max_length=60,
                    max_lines=1,
                    min_width=80,
                    scale=3,
                )
                refine = gr.Button("Refine", size="sm", min_width=56, scale=0)
                delete = gr.Button("Delete", size="sm", min_width=56, scale=0)
            with gr.Row(elem_classes="object-motion"):
                preview = gr.HTML(apply_default_css=False, min_width=99, scale=0)
                motion = gr.Dropdown(
                    list(choices),
                    value=NO_MOTION,
                    label=f"Motion of object {number}",
                    min_width=120,
                )
            sentence = gr.Textbox(label=f"Sentence of object {number}", max_length=300, max_lines=3)
            strength = gr.Slider(
                *(0, MAX_STRENGTH / 2), value=1, step=0.05, label=f"Strength of motion {number}"
            )
            note = gr.HTML(apply_default_css=False)
        return cls(
            index, group, head, name, refine, delete, preview, motion, strength, sentence, note
        )

    @property
    def fields(self) -> list[Any]:
        """What Generate reads: FIELDS components in this order."""
        return [self.name, self.motion, self.sentence, self.strength]

    @property
    def outputs(self) -> list[Any]:
        """Everything that ``updates`` updates."""
        return [self.group, self.head, *self.fields, self.refine, self.preview, self.note]

    def updates(
        self,
        draft: SceneDraft | None,
        *,
        before: SceneDraft | None,
        geometry: ModelGeometry,
        previews: MotionPreviews,
        written: str = "",
    ) -> list[Any]:
        """One update for each output. What stays as it is is left alone, and so is the field
        ``written`` that the browser has just sent: an answer that comes late must not write over
        what a person has typed since."""
        item, selected = _at(draft, self.index)
        earlier, was_selected = _at(before, self.index)
        if (earlier, was_selected) == (item, selected):
            return [gr.skip()] * len(self.outputs)
        if item is None:
            return [gr.update(visible=False), *[gr.skip()] * (len(self.outputs) - 1)]
        return [
            gr.update(visible=True, elem_classes=_row_classes(selected)),
            head_html(self.index + 1, item, selected=selected),
            *_changed_fields(item, earlier, written),
            gr.update(variant="primary" if selected else "secondary"),
            previews.html(item.motion),
            note_html(object_warning(item, geometry), kind="warning"),
        ]


def _at(draft: SceneDraft | None, index: int) -> tuple[ObjectDraft | None, bool]:
    if draft is None or index >= len(draft.objects):
        return None, False
    return draft.objects[index], draft.selected == index


def _field_values(item: ObjectDraft) -> dict[str, Any]:
    motion = NO_MOTION if item.motion is None else item.motion.name
    fields = {"name": item.name, "motion": motion}
    return fields | {"sentence": item.sentence, "strength": item.strength}


def _changed_fields(item: ObjectDraft, earlier: ObjectDraft | None, written: str) -> list[Any]:
    """The row's fields in order, those the browser shows already skipped."""
    same_object = earlier is not None and earlier.slot == item.slot
    known = _field_values(earlier) if same_object else {}
    return [
        gr.skip() if name == written or known.get(name) == value else value
        for name, value in _field_values(item).items()
    ]


def _row_classes(selected: bool) -> list[str]:
    return ["object-row", "selected"] if selected else ["object-row"]


def head_html(number: int, item: ObjectDraft, *, selected: bool) -> str:
    """The object's number on its colour."""
    words = html.escape(
        f"Object {number}: {item.name or 'unnamed'}" + (", selected" if selected else "")
    )
    return (
        f'<span class="badge" style="background: {css_colour(item.slot)};'
        f' color: {ink_on(item.slot)}" role="img" aria-label="{words}">{number}</span>'
    )


def motion_choices(motions: Sequence[Motion]) -> list[tuple[str, str]]:
    """(what is shown, name) for the dropdowns; the first is no motion."""
    return [("none: text only", NO_MOTION)] + [
        (motion.name.replace("_", " "), motion.name) for motion in motions
    ]
