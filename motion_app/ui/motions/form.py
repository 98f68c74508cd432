"""The form of a training: the clips with what is chosen in each, the words, the settings.

Each clip stands there with its frames, two trim handles, a crop box, and a point on the mover. What
a person sees are the frames the model will be given, whatever the file's codec.
"""

from __future__ import annotations

import html
import json
import math
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import ModelGeometry
from motion_app.host import ModelHost
from motion_app.library.library import DeletedMotion
from motion_app.library.owners import LibraryUser
from motion_app.media.file_types import CLIP_CHOICES
from motion_app.media.files import read_clip, upscale
from motion_app.settings import Limits
from motion_app.training.config import training_caption
from motion_app.training.inputs import METHODS, MOST_STEPS, ClipSelection, TrainingInputs
from motion_app.training.mover import moves
from motion_app.ui.boundary import listen
from motion_app.ui.markup import Texts, note_html, script
from motion_app.ui.pictures import picture_uri
from motion_app.ui.visitor import BrowserState

COLUMNS = 10  # of the sheet of frames
FRAME_HEIGHT = 135  # px
WORDS = ("span", "too_short", "play", "pause", "whole", "nobody")
VALIDATIONS = 5  # videos on the way, where they are wanted
SEEN_WHOLE = 95  # percent of a clip's picture; what is cut below that is told


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
    def read(cls, file: Path, geometry: ModelGeometry, limits: Limits) -> DraftClip:
        """Decodes the clip at the model's frame rate; MediaError where it cannot be used."""
        clip = read_clip(file, fps=geometry.fps, short_side=FRAME_HEIGHT, limits=limits)
        height, width = clip.frames.shape[1:3]
        size = (max(2, round(width * FRAME_HEIGHT / height)), FRAME_HEIGHT)
        return cls(
            key=secrets.token_hex(8),
            name=file.name,
            selection=ClipSelection(file),
            fps=clip.fps,
            count=len(clip.frames),
            size=size,
            sheet=picture_uri(frame_sheet(upscale(clip.frames, *size))),
            moving=moves(clip.frames),
        )

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


def frame_sheet(frames: np.ndarray) -> np.ndarray:
    """``frames`` (T, H, W, 3) uint8 in rows of COLUMNS, in reading order; the rest black."""
    count, height, width = frames.shape[:3]
    rows = math.ceil(count / COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
    sheet[:count] = frames
    grid = sheet.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, COLUMNS * width, 3)


def new_editor() -> gr.HTML:
    """Events: ``choose`` with a clip's ``key``, ``start``, ``stop``, ``box`` and ``mover``;
    ``remove`` with its ``key``."""
    return gr.HTML(
        "", js_on_load=script("clip_editor"), elem_id="clip-editor", apply_default_css=False
    )


def changed_clips(
    clips: Sequence[DraftClip], key: str, entry: Mapping[str, Any] | None
) -> tuple[DraftClip, ...]:
    """The clips with that of ``key`` as ``entry`` says, or without it (None)."""
    if all(clip.key != key for clip in clips):
        raise RequestError("this clip is gone; upload it again")
    if entry is None:
        return tuple(clip for clip in clips if clip.key != key)
    return tuple(clip.chosen(entry) if clip.key == key else clip for clip in clips)


def editor_html(clips: Sequence[DraftClip], *, least: int, texts: Texts) -> str:
    """All clips; ``least`` frames are needed of each."""
    words = {word: texts(f"motions.clip_{word}") for word in WORDS}
    cards = "".join(_clip_html(number, clip, texts) for number, clip in enumerate(clips, start=1))
    told = html.escape(json.dumps(words, ensure_ascii=False))
    return f'<div class="clips" data-least="{least}" data-words="{told}">{cards}</div>'


def _clip_html(number: int, clip: DraftClip, texts: Texts) -> str:
    chosen = clip.selection
    start = round(chosen.start * clip.fps)
    stop = clip.count if chosen.stop is None else round(chosen.stop * clip.fps)
    width, height = clip.size
    known = {"box": chosen.box, "mover": chosen.mover}
    name = html.escape(clip.name)
    label = html.escape(texts("motions.clip_stage", n=number))
    return (
        f'<section class="clip" data-key="{clip.key}" data-count="{clip.count}"'
        f' data-fps="{clip.fps:g}" data-columns="{COLUMNS}"'
        f' data-known="{html.escape(json.dumps(known))}" aria-label="{name}">'
        f'<header><b class="clip-number">{number}</b><span class="clip-name" title="{name}">{name}'
        f'</span><button type="button" class="clip-remove" aria-label="'
        f'{html.escape(texts("motions.clip_remove", name=clip.name))}">×</button></header>'
        f'<div class="clip-stage" role="img" aria-label="{label}" style="--width: {width};'
        f' --height: {height}; background-image: url({clip.sheet})"><span class="clip-box"></span>'
        '<span class="clip-mover"></span></div>'
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


class TrainingState(BrowserState):
    """Of one browser tab: the clips so far, the training on show (its ``job`` id), the motion it
    deleted last, and who the ``user`` of the library is. ``serial`` counts who follows a job: an
    older follower stops when a newer one begins. ``pictured`` is when (``time.monotonic``) the job
    was last drawn, 0 before, and ``video_step`` the step of the video on show."""

    def __init__(self) -> None:
        self.clips: tuple[DraftClip, ...] = ()
        self.job = ""
        self.deleted: DeletedMotion | None = None
        self.user = LibraryUser()
        self.serial = 0
        self.pictured = 0.0
        self.video_step: int | None = None
        self.lock = threading.RLock()

    def follow(self) -> int:
        """The serial of a new follower."""
        with self.lock:
            self.serial += 1
            self.pictured, self.video_step = 0.0, None
            return self.serial


class TrainingForm:
    """Build it inside a column, then ``wire`` it. ``fields`` are the inputs of ``read``."""

    def __init__(self, host: ModelHost, texts: Texts) -> None:
        self.host = host
        self.texts = texts
        self.limits = host.settings.limits
        self._build_clips()
        self._build_words()
        self._build_settings()
        self.train = gr.Button(texts("motions.train"), variant="primary", elem_id="train")

    @property
    def fields(self) -> list[gr.components.Component]:
        """What a person says besides the clips."""
        return [
            self.name,
            self.phrase,
            self.noun,
            self.method,
            self.steps,
            self.validate,
            self.still,
        ]

    def _build_clips(self) -> None:
        self.upload = gr.File(
            label=self.texts("motions.clips", n=self.limits.reference_clips),
            file_count="multiple",
            file_types=list(CLIP_CHOICES),
            height=110,
            elem_id="clip-upload",
        )
        self.editor = new_editor()
        self.clip_note = gr.HTML(apply_default_css=False, elem_id="clip-note")

    def _build_words(self) -> None:
        texts = self.texts
        with gr.Row():
            self.name = gr.Textbox(
                label=texts("motions.name"),
                placeholder=texts("motions.name_example"),
                min_width=120,
                elem_id="motion-name",
            )
            self.noun = gr.Textbox(
                label=texts("motions.noun"),
                placeholder="tiger",
                min_width=120,
                elem_id="motion-noun",
            )
            self.phrase = gr.Textbox(
                label=texts("motions.phrase"),
                placeholder="walks on snow",
                min_width=140,
                elem_id="motion-phrase",
            )
        self.caption = gr.HTML(
            caption_html("", "", texts), apply_default_css=False, elem_id="motion-caption"
        )

    def _build_settings(self) -> None:
        texts, defaults = self.texts, self.host.defaults()
        with gr.Accordion(texts("motions.settings"), open=False):
            self.method = gr.Radio(
                [(texts(f"motions.method_{method}"), method) for method in METHODS],
                value=next(iter(METHODS)),
                label=texts("motions.method"),
                elem_id="training-method",
            )
            own = [self._own_steps(defaults.training_of(method)) for method in METHODS]
            self.steps = gr.Slider(
                *(1, max(1000, 2 * max(own))),
                value=own[0],
                step=1,
                label=texts("motions.steps"),
                elem_id="training-steps",
            )
            self.validate = gr.Checkbox(
                value=True, label=texts("motions.validate", n=VALIDATIONS), elem_id="validate"
            )
            self.still = gr.Checkbox(label=texts("motions.still"), elem_id="training-still")

    @staticmethod
    def _own_steps(training: Mapping[str, Any]) -> int:
        return min(MOST_STEPS // 2, int(training.get("steps", 2000)))

    def wire(self, state: gr.State) -> None:
        """Bind every event but the start."""
        clips = [state, self.editor, self.clip_note]
        listen(
            self.upload.upload,
            self.add_clips,
            inputs=[state, self.upload],
            outputs=[*clips, self.upload],
        )
        listen(
            self.editor.choose,
            self.choose,
            inputs=[state],
            outputs=[self.clip_note],
            trigger_mode="multiple",  # none of a person's choices is dropped
        )
        listen(self.editor.remove, self.remove, inputs=[state], outputs=clips)
        listen(
            self.method.change,
            lambda method: self._own_steps(self.host.defaults().training_of(method)),
            inputs=[self.method],
            outputs=[self.steps],
        )
        # One event for both fields: the answers of two might come in the other order.
        listen(
            partial(gr.on, [self.noun.change, self.phrase.change]),
            lambda noun, phrase: caption_html(noun, phrase, self.texts),
            inputs=[self.noun, self.phrase],
            outputs=[self.caption],
            trigger_mode="always_last",
        )

    def add_clips(self, state: TrainingState, files: list[str] | None) -> list[Any]:
        """Uploaded clips join those there are; one that cannot be read takes none with it."""
        files = files or []
        room = self.limits.reference_clips - len(state.clips)
        if len(files) > room:
            raise RequestError(
                f"{len(files)} clips came and {room} more fit; at most "
                f"{self.limits.reference_clips} are allowed"
            )
        geometry = self.host.geometry()
        read = tuple(DraftClip.read(Path(file), geometry, self.limits) for file in files)
        with state.lock:
            state.clips += read
        return [*self._show_clips(state), None]

    def choose(self, state: TrainingState, event: gr.EventData) -> str:
        """What was trimmed, cropped or pointed at; the page shows it already."""
        entry = dict(event._data or {})
        with state.lock:
            state.clips = changed_clips(state.clips, str(entry.get("key")), entry)
        return self._clip_note(state)

    def remove(self, state: TrainingState, event: gr.EventData) -> list[Any]:
        """Without one of the clips."""
        with state.lock:
            state.clips = changed_clips(state.clips, str((event._data or {}).get("key")), None)
        return self._show_clips(state)

    def _show_clips(self, state: TrainingState) -> list[Any]:
        shown = editor_html(state.clips, least=self.host.geometry().frames, texts=self.texts)
        return [state, shown, self._clip_note(state)]

    def _clip_note(self, state: TrainingState) -> str:
        """What is worth knowing about the clips as they are."""
        pointed = sum(clip.selection.mover is not None for clip in state.clips)
        notes = [*self._clip_notes(state)]
        if len(state.clips) == 1:
            notes.append(note_html(self.texts("motions.one_clip")))
        if 0 < pointed < len(state.clips):
            some = self.texts("motions.some_movers", n=pointed, all=len(state.clips))
            notes.append(note_html(some, kind="warning"))
        return "".join(notes)

    def _clip_notes(self, state: TrainingState) -> Iterator[str]:
        """What is worth knowing about single clips."""
        geometry = self.host.geometry()
        for number, clip in enumerate(state.clips, start=1):
            if not clip.moving:
                yield note_html(self.texts("motions.still_clip", n=number), kind="warning")
            seen = round(100 * clip.seen(geometry))
            if seen < SEEN_WHOLE:
                yield note_html(self.texts("motions.clip_cut", n=number, seen=seen))

    @staticmethod
    def read(
        state: TrainingState,
        name: str,
        phrase: str,
        noun: str,
        method: str,
        steps: float,
        validate: bool,
        still: bool = False,
    ) -> TrainingInputs:
        """What is to be learned, as ``fields`` and the clips of ``state`` say it. RequestError for
        a clip in which nothing moves, unless the motion is to stand ``still``."""
        held = [clip.name for clip in state.clips if not clip.moving]
        if held and not still:
            raise RequestError(
                f"nothing moves in {held[0]}; take another clip, or say in the settings that the "
                "motion is to stand still"
            )
        count = int(steps or 0)
        return TrainingInputs(
            name=(name or "").strip(),
            phrase=(phrase or "").strip(),
            noun=(noun or "").strip(),
            clips=tuple(clip.selection for clip in state.clips),
            method=method,
            steps=count,
            validate_every=max(1, count // VALIDATIONS) if validate else None,
            still=bool(still),
        )


def caption_html(noun: str, phrase: str, texts: Texts) -> str:
    """The caption the clips are learned with, as it stands."""
    noun, phrase = (noun or "").strip(), (phrase or "").strip()
    known = training_caption(noun or "…", phrase or "…")
    return (
        f'<p class="motion-caption"><span class="quiet">{html.escape(texts("motions.caption"))}'
        f"</span> “{html.escape(known)}”</p>"
    )
