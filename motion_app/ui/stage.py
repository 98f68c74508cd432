"""The picture a person clicks on, and the row of example pictures, as HTML with their events."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import numpy as np

from motion_app.media import upscale
from motion_app.ui.examples import Example
from motion_app.ui.overlay import css_colour, picture_uri, picture_with_objects
from motion_app.ui.session import SceneDraft

STAGE_JS = (Path(__file__).parent / "stage.js").read_text(encoding="utf-8")
# Runs after every click, answered or refused.
CLEAR_WAITING_JS = (
    "() => { document.querySelectorAll('#stage [data-waiting]')"
    ".forEach((node) => delete node.dataset.waiting); }"
)
EXAMPLES_JS = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-example]");
  if (button) trigger("pick", { name: button.dataset.example });
});
"""
THUMBNAIL_WIDTH = 192  # px
EMPTY_STAGE = (
    '<div class="stage-empty"><p>Your picture will appear here, exactly as the model sees it.</p>'
    "<p>Pick an example or upload one to begin.</p></div>"
)


def new_stage() -> gr.HTML:
    """Events: ``point`` with x, y as shares of the frame and ``flip`` (the other kind of click than
    the one chosen); ``undo``; ``fresh`` (begin a new object)."""
    return gr.HTML(EMPTY_STAGE, js_on_load=STAGE_JS, elem_id="stage", apply_default_css=False)


def stage_html(draft: SceneDraft | None) -> str:
    """The fitted picture with masks, numbers and clicks."""
    if draft is None:
        return EMPTY_STAGE
    frame = draft.fitted.image
    height, width = frame.shape[:2]
    masks = np.stack([item.mask for item in draft.objects] or [np.zeros((height, width), bool)])
    slots = [item.slot for item in draft.objects]
    drawn = picture_with_objects(
        frame, masks[: len(slots)], slots, selected=draft.selected
    )  # (H', W', 3)
    return (
        '<div class="stage-frame" tabindex="0" role="group"'
        f' style="aspect-ratio: {width} / {height}"'
        f' aria-label="{html.escape(describe(draft))}"'
        ' aria-description="Click to mark an object. Keys: arrows move the cross, Enter marks, '
        'Shift+Enter excludes, N begins a new object, Ctrl+Z undoes.">'
        f'<img src="{picture_uri(drawn)}" alt="{html.escape(describe(draft))}" draggable="false">'
        f"{_click_dots(draft)}"
        '<span class="stage-cross" aria-hidden="true"></span>'
        '<span class="stage-sent" aria-hidden="true"></span></div>'
    )


def describe(draft: SceneDraft) -> str:
    """The picture in words."""
    if not draft.objects:
        return "The picture in the model's frame; no object is marked yet"
    names = ", ".join(
        f"{number} {item.name or 'unnamed'}" for number, item in enumerate(draft.objects, start=1)
    )
    return f"The picture in the model's frame with {len(draft.objects)} marked: {names}"


def _click_dots(draft: SceneDraft) -> str:
    """The selected object's clicks: plus for what belongs to it, minus for what does not."""
    if draft.selected is None:
        return ""
    item = draft.objects[draft.selected]
    height, width = draft.fitted.image.shape[:2]
    return "".join(
        f'<span class="stage-dot {"include" if click.positive else "exclude"}" aria-hidden="true"'
        f' style="left: {100 * click.x / width:.2f}%; top: {100 * click.y / height:.2f}%;'
        f' --dot: {css_colour(item.slot)}">{"+" if click.positive else "−"}</span>'
        for click in item.clicks
    )


def new_example_picker(examples: Sequence[Example]) -> gr.HTML:
    """Event ``pick`` with the example's ``name``."""
    return gr.HTML(
        examples_html(examples),
        js_on_load=EXAMPLES_JS,
        elem_id="examples",
        apply_default_css=False,
        visible=bool(examples),
    )


def examples_html(examples: Sequence[Example]) -> str:
    buttons = "".join(
        f'<button type="button" class="example" data-example="{html.escape(example.name)}"'
        f' title="{html.escape(example.title)}">'
        f'<img src="{picture_uri(_thumbnail(example.picture))}"'
        f' alt="{html.escape(example.description)}"></button>'
        for example in examples
    )
    return f'<div class="examples" role="group" aria-label="Example pictures">{buttons}</div>'


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    return upscale(picture[None], THUMBNAIL_WIDTH, round(height * THUMBNAIL_WIDTH / width))[0]
