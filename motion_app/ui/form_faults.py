"""What is wrong with a form, all of it at once: a line below each field, until that is changed."""

from __future__ import annotations

import html
from collections.abc import Mapping

import gradio as gr

from motion_app.errors import RequestError
from motion_app.ui.boundary import MOST_TOLD
from motion_app.ui.markup import note_html, script


class FormFaults(RequestError):
    """``faults``: what is wrong, a line each, by the name of the field."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(faults.values()))
        self.faults = dict(faults)


class FieldNotes:
    """The places of those lines. Made inside the form's layout, one ``below`` each field."""

    def __init__(self) -> None:
        self._notes: dict[str, gr.HTML] = {}
        self._fields: dict[str, gr.components.Component] = {}

    def below(self, name: str, field: gr.components.Component | None = None) -> None:
        """The place for what is wrong with ``field``, or for all that belongs to no field."""
        self._notes[name] = gr.HTML("", elem_classes="field-note", apply_default_css=False)
        if field is not None:
            self._fields[name] = field

    @property
    def outputs(self) -> list[gr.HTML]:
        """What ``shown`` gives the values of."""
        return list(self._notes.values())

    def shown(self, faults: Mapping[str, str]) -> list[str]:
        """``faults`` in their places, and in one toast; what has no place stands in the last."""
        if faults:
            gr.Warning(html.escape("; ".join(faults.values())[:MOST_TOLD]))
        told = dict(faults)
        notes = [told.pop(name, "") for name in self._notes]
        notes[-1] = "; ".join([*filter(None, notes[-1:]), *told.values()])
        return [note_html(note[:MOST_TOLD], kind="warning") for note in notes]

    def wire(self) -> None:
        """A line goes when its field is changed."""
        for name, field in self._fields.items():
            field.change(
                None,
                outputs=[self._notes[name]],
                js=script("field_mended"),
                api_visibility="private",
            )
