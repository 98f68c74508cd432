"""Reference clips as a person sees them: a sheet of frames, two trim handles, a crop box, and a
point on the mover. What is seen are the frames the model will be given, whatever the file's codec.
No gradio here.
"""

from __future__ import annotations

import html
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry
from motion_app.media.files import Clip, read_clip, upscale
from motion_app.settings import Limits
from motion_app.training.inputs import ClipSelection
from motion_app.training.mover import moves
from motion_app.training.suggestion import suggest_selection
from motion_app.ui.markup import Texts
from motion_app.ui.pictures import picture_uri
from motion_app.world.clips import ExampleClip

COLUMNS = 10  # of the sheet of frames
FRAME_HEIGHT = 135  # px
WORDS = ("span", "too_short", "play", "pause", "whole", "nobody")


@dataclass(frozen=True, eq=False)
class DraftClip:
    """An uploaded clip and what was chosen of it. ``key`` names it in the page; ``sheet`` is a
    picture of its ``count`` frames at ``fps``, each ``size`` (width, height) in pixels; ``moving``:
    whether anything moves in it."""

    key: str
    name: str
    selection: ClipSelection
    fps: float
    count: int
    size: tuple[int, int]
    sheet: str
    moving: bool = True

    @classmethod
    def read(
        cls,
        file: Path,
        geometry: ModelGeometry,
        limits: Limits,
        *,
        name: str = "",
        suggest: bool = False,
    ) -> DraftClip:
        """Decodes the clip at the model's frame rate; MediaError where it cannot be used. ``name``:
        what a person calls the file, where that is not its name here; ``suggest`` chooses the part
        that ``suggest_selection`` names, else all of it is chosen."""
        clip = _frames_of(file, geometry, limits)
        height, width = clip.frames.shape[1:3]
        size = (max(2, round(width * FRAME_HEIGHT / height)), FRAME_HEIGHT)
        chosen = suggest_selection(file, clip, geometry) if suggest else ClipSelection(file)
        return cls(
            key=secrets.token_hex(8),
            name=name or file.name,
            selection=chosen,
            fps=clip.fps,
            count=len(clip.frames),
            size=size,
            sheet=picture_uri(frame_sheet(upscale(clip.frames, *size))),
            moving=moves(clip.frames),
        )

    @property
    def span(self) -> tuple[int, int]:
        """The first chosen frame and the one after the last."""
        chosen = self.selection
        stop = self.count if chosen.stop is None else round(chosen.stop * self.fps)
        return round(chosen.start * self.fps), stop

    def pointed(
        self, entry: Mapping[str, Any], geometry: ModelGeometry, limits: Limits
    ) -> DraftClip:
        """With what the page says now, where it says for the first time who moves: the crop goes
        around that one. The clip is decoded again."""
        told = self.chosen({**entry, "box": None})
        clip = _frames_of(self.selection.file, geometry, limits)
        start, stop = told.span
        chosen = suggest_selection(
            *(self.selection.file, clip, geometry),
            span=(min(start, len(clip.frames) - 1), stop),
            point=told.selection.mover,
        )
        return replace(told, selection=chosen)

    def seen(self, geometry: ModelGeometry) -> float:
        """The share, 0 to 1, of the chosen part of the picture that learning sees: the middle of it
        in the shape of the model's frame."""
        x0, y0, x1, y1 = self.selection.box or (0.0, 0.0, 1.0, 1.0)
        shape = (x1 - x0) * self.size[0] / ((y1 - y0) * self.size[1])
        frame = geometry.width / geometry.height
        return min(shape / frame, frame / shape)

    def chosen(self, entry: Mapping[str, Any]) -> DraftClip:
        """With what the page says now; RequestError where it cannot be."""
        file = self.selection.file
        selection = ClipSelection.from_json({**entry, "file": file.name}, file.parent)
        whole = selection.stop is not None and selection.stop >= self.count / self.fps
        return replace(self, selection=replace(selection, stop=None) if whole else selection)


def _frames_of(file: Path, geometry: ModelGeometry, limits: Limits) -> Clip:
    return read_clip(file, fps=geometry.fps, short_side=FRAME_HEIGHT, limits=limits)


def frame_sheet(frames: np.ndarray) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 in rows of COLUMNS, in reading order; the rest black."""
    count, height, width = frames.shape[:3]
    rows = math.ceil(count / COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
    sheet[:count] = frames
    grid = sheet.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, COLUMNS * width, 3)


def changed_clips(
    clips: Sequence[DraftClip], key: str, entry: Mapping[str, Any] | None
) -> tuple[DraftClip, ...]:
    """The clips with that of ``key`` as ``entry`` says, or without it (None)."""
    if all(clip.key != key for clip in clips):
        raise RequestError("this clip is gone; upload it again")
    if entry is None:
        return tuple(clip for clip in clips if clip.key != key)
    return tuple(clip.chosen(entry) if clip.key == key else clip for clip in clips)


def editor_html(clips: Sequence[DraftClip], *, geometry: ModelGeometry, texts: Texts) -> str:
    """All clips of a form."""
    cards = "".join(
        _clip_html(clip, texts, number=number, inside=f"background-image: url({clip.sheet})")
        for number, clip in enumerate(clips, start=1)
    )
    return _clips_html(cards, "", geometry, texts)


def lone_clip_html(clip: DraftClip, *, geometry: ModelGeometry, texts: Texts) -> str:
    """One clip where the page is changed in place: its frames come by its key, and what the server
    knows of it stands around it, where the browser may have another answer on its way."""
    chosen = clip.selection
    start, stop = clip.span
    told = {"start": start, "stop": stop, "box": chosen.box, "mover": chosen.mover}
    attributes = f' data-key="clips" data-chosen="{html.escape(json.dumps(told))}"'
    return _clips_html(_clip_html(clip, texts, own=True), attributes, geometry, texts)


def _clips_html(cards: str, attributes: str, geometry: ModelGeometry, texts: Texts) -> str:
    words = {word: texts(f"motions.clip_{word}") for word in WORDS}
    told = html.escape(json.dumps(words, ensure_ascii=False))
    return (
        f'<div class="clips" data-least="{geometry.frames}" data-words="{told}"'
        f' data-shape="{geometry.width / geometry.height:.6g}"{attributes}>{cards}</div>'
    )


def _clip_html(
    clip: DraftClip, texts: Texts, *, number: int = 1, inside: str = "", own: bool = False
) -> str:
    """``inside``: more style of the picture; ``own``: it belongs to the browser once it is
    there."""
    start, stop = clip.span
    width, height = clip.size
    known = {"box": clip.selection.box, "mover": clip.selection.mover}
    name = html.escape(clip.name)
    label = html.escape(texts("motions.clip_stage", n=number))
    counted = "" if own else f'<b class="clip-number">{number}</b>'
    return (
        f'<section class="clip"{" data-own" if own else ""} data-key="{clip.key}"'
        f' data-count="{clip.count}"'
        f' data-fps="{clip.fps:g}" data-columns="{COLUMNS}"'
        f' data-known="{html.escape(json.dumps(known))}" aria-label="{name}">'
        f'<header>{counted}<span class="clip-name" title="{name}">{name}'
        f'</span><button type="button" class="clip-remove" aria-label="'
        f'{html.escape(texts("motions.clip_remove", name=clip.name))}">×</button></header>'
        f'<div class="clip-stage" role="img" aria-label="{label}" style="--width: {width};'
        f' --height: {height}; {inside}"><span class="clip-cut"></span>'
        '<span class="clip-box"></span><span class="clip-mover"></span></div>'
        f'<div class="clip-trim"><button type="button" class="clip-play"></button>'
        f'<div class="clip-rail"><i class="clip-chosen"></i>'
        f'<input type="range" class="clip-start" min="0" max="{clip.count - 1}" value="{start}"'
        f' aria-label="{html.escape(texts("motions.clip_start"))}">'
        f'<input type="range" class="clip-stop" min="1" max="{clip.count}" value="{stop}"'
        f' aria-label="{html.escape(texts("motions.clip_stop"))}"></div></div>'
        '<p class="clip-facts" aria-live="polite"></p>'
        f"{_tools_html(texts)}</section>"
    )


def _tools_html(texts: Texts) -> str:
    """Two kinds of pointing, and the same in numbers for the keyboard."""
    sides = "".join(
        f'<label>{html.escape(texts(f"motions.clip_{side}"))}<input type="number" min="0" max="100"'
        f' step="1" data-number="{place}"></label>'
        for place, side in enumerate(("left", "top", "right", "bottom", "mover_x", "mover_y"))
    )
    return (
        '<div class="clip-tools" role="group">'
        f'<button type="button" data-tool="crop" aria-pressed="true">'
        f"{html.escape(texts('motions.clip_crop'))}</button>"
        f'<button type="button" data-tool="mover" aria-pressed="false">'
        f"{html.escape(texts('motions.clip_point'))}</button>"
        f'<button type="button" class="clip-clear" hidden></button></div>'
        f'<details class="clip-numbers"><summary>{html.escape(texts("motions.clip_numbers"))}'
        f"</summary><div>{sides}</div></details>"
    )


def example_clips_html(examples: Sequence[ExampleClip], texts: Texts) -> str:
    """A button for each clip that ships; "" where there is none."""
    if not examples:
        return ""
    buttons = "".join(
        f'<button type="button" class="tool" data-act="clip_example" data-key="try-{name}"'
        f' data-name="{name}" aria-label="{html.escape(texts("transfer.try_clip_of", name=name))}"'
        f">{html.escape(name)}</button>"
        for name in (html.escape(clip.name) for clip in examples)
    )
    words = html.escape(texts("transfer.try_clips"))
    return f'<p class="try-clips" data-key="try"><span class="quiet">{words}</span> {buttons}</p>'
