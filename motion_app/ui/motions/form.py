"""The form of a training: the clips with what is chosen in each, the words, the settings."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.errors import MotionFileError, RequestError
from motion_app.host import ModelHost
from motion_app.jobs.runners import TRAIN, training_size
from motion_app.library.library import Library
from motion_app.library.owners import LibraryUser
from motion_app.library.trash import DeletedMotion
from motion_app.methods import LEARNED, methods_there
from motion_app.training.config import own_steps, training_caption
from motion_app.training.inputs import MOST_STEPS, TrainingInputs
from motion_app.ui.boundary import listen
from motion_app.ui.form_faults import FieldNotes, FormFaults
from motion_app.ui.markup import Texts, in_words, note_html, script
from motion_app.ui.motions.clips import (
    DraftClip,
    changed_clips,
    editor_html,
    example_clips_html,
)
from motion_app.ui.uploads import upload_box
from motion_app.ui.visitor import BrowserState
from motion_app.world.clips import ExampleClip

WORDS = ("name", "noun", "phrase")  # in which a motion is told
VALIDATIONS = 5  # videos on the way, where they are wanted
SEEN_WHOLE = 95  # percent of a clip's picture; what is cut below that is told


def new_editor() -> gr.HTML:
    """Events: ``choose`` with a clip's ``key``, ``start``, ``stop``, ``box`` and ``mover``;
    ``remove`` with its ``key``."""
    return gr.HTML(
        "",
        js_on_load=script("clip_editor", "clip_form"),
        elem_id="clip-editor",
        apply_default_css=False,
    )


class TrainingState(BrowserState):
    """Of one browser tab: the clips so far, the training on show (its ``job`` id), the motion it
    deleted last, the digest of the one it ``brought`` in last, and who the ``user`` of the library
    is. ``serial`` counts who follows a job: an older follower stops when a newer one begins.
    ``pictured`` is when (``time.monotonic``) the job was last drawn, 0 before, and ``video_step``
    the step of the video on show."""

    def __init__(self) -> None:
        self.clips: tuple[DraftClip, ...] = ()
        self.job = ""
        self.deleted: DeletedMotion | None = None
        self.brought = ""
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

    def __init__(self, host: ModelHost, texts: Texts, examples: Sequence[ExampleClip] = ()) -> None:
        self.host = host
        self.examples = {clip.name: clip for clip in examples}
        self.texts = texts
        self.limits = host.settings.limits
        self.notes = FieldNotes()
        self._build_clips()
        self._build_words()
        self._build_settings()
        self.cost = gr.HTML(
            self.cost_html(self.method.value, self.steps.value, self.validate.value),
            apply_default_css=False,
            elem_id="training-cost",
        )
        self.notes.below("all")
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
        self.upload = upload_box(
            "clip",
            self.texts("motions.clips", n=self.limits.reference_clips),
            file_count="multiple",
            height=110,
            elem_id="clip-upload",
        )
        self.tried = gr.HTML(
            example_clips_html(list(self.examples.values()), self.texts),
            js_on_load=script("clip_examples"),
            elem_id="clip-examples",
            apply_default_css=False,
        )
        self.editor = new_editor()
        self.clip_note = gr.HTML(apply_default_css=False, elem_id="clip-note")
        self.notes.below("clips", self.editor)

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
        for name in WORDS:
            self.notes.below(name, getattr(self, name))
        self.caption = gr.HTML(
            caption_html("", "", texts), apply_default_css=False, elem_id="motion-caption"
        )

    def _build_settings(self) -> None:
        texts, defaults = self.texts, self.host.defaults()
        with gr.Accordion(texts("motions.settings"), open=False):
            methods = methods_there(LEARNED, encoder=self.host.has_encoder)
            self.method = gr.Radio(
                [(texts(f"motions.method_{method}"), method) for method in methods],
                value=self.host.ways[0],
                label=texts("motions.method"),
                elem_id="training-method",
            )
            own = {m: self._own_steps(m, defaults.training_of(m)) for m in methods}
            self.steps = gr.Slider(
                *(1, max(1000, 2 * max(own.values()))),
                value=own[self.method.value],
                step=1,
                label=texts("motions.steps"),
                elem_id="training-steps",
            )
            self.validate = gr.Checkbox(
                value=True, label=texts("motions.validate", n=VALIDATIONS), elem_id="validate"
            )
            self.still = gr.Checkbox(label=texts("motions.still"), elem_id="training-still")

    @staticmethod
    def _own_steps(method: str, training: Mapping[str, Any]) -> int:
        return min(MOST_STEPS // 2, max(1, own_steps(method, training)))

    def wire(self, state: gr.State) -> None:
        """Bind every event but the start."""
        self.notes.wire()
        clips = [state, self.editor, self.clip_note]
        listen(
            self.upload.upload,
            self.add_clips,
            inputs=[state, self.upload],
            outputs=[*clips, self.upload],
        )
        listen(
            self.tried.pick,
            self.try_example,
            inputs=[state],
            outputs=[*clips, self.name, self.noun, self.phrase],
        )
        listen(
            self.editor.choose,
            self.choose,
            inputs=[state],
            outputs=[self.clip_note],
        )
        listen(self.editor.remove, self.remove, inputs=[state], outputs=clips)
        listen(
            self.method.input,  # "change" also comes when it is first shown, and undid the steps
            lambda method: self._own_steps(method, self.host.defaults().training_of(method)),
            inputs=[self.method],
            outputs=[self.steps],
        )
        fields = [self.method, self.steps, self.validate]
        listen(
            partial(gr.on, [field.change for field in fields]),
            self.cost_html,
            inputs=fields,
            outputs=[self.cost],
            trigger_mode="always_last",
        )
        # One event for both fields: the answers of two might come in the other order.
        listen(
            partial(gr.on, [self.noun.change, self.phrase.change]),
            lambda noun, phrase: caption_html(noun, phrase, self.texts),
            inputs=[self.noun, self.phrase],
            outputs=[self.caption],
            trigger_mode="always_last",
        )

    def cost_html(self, method: str, steps: float, validate: bool) -> str:
        """What it costs a visitor who is lent a GPU; elsewhere how long each method takes here."""
        count = int(steps or 0) or None
        every = _every(count or 0) if validate else None
        seconds = self.host.lent_seconds(method, count, validate_every=every)
        if seconds is None:
            return note_html(self._times(method, count), kind="quiet")
        most = self.host.settings.lent_seconds
        told = {"seconds": in_words(seconds, self.texts), "most": in_words(most, self.texts)}
        kind = "quiet" if seconds <= most else "warning"
        return note_html(self.texts("motions.lent_cost", **told), kind=kind)

    def _times(self, chosen: str, steps: int | None) -> str:
        """What each method takes on this machine, as far as that was measured: with ``steps`` of
        the one that is ``chosen``, the others' own."""
        defaults, texts = self.host.defaults(), self.texts
        told = []
        for method in methods_there(LEARNED, encoder=self.host.has_encoder):
            own = own_steps(method, defaults.training_of(method))
            count = steps if own and steps and method == chosen else own
            size = training_size(method, count)
            measured = self.host.jobs.timings.nearest(TRAIN, size)
            seconds = self.host.look_seconds
            if own:
                seconds = None if measured is None else measured.seconds_for(count)
            known = "untimed" if seconds is None else "timed"
            words = texts(
                f"motions.{known if own else known + '_look'}",
                steps=count,
                seconds=in_words(seconds or 0.0, texts),
            )
            told.append(f"{texts(f'motions.method_{method}')}: {words}")
        return texts("motions.times", times=" · ".join(told))

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

    def try_example(self, state: TrainingState, event: gr.EventData) -> list[Any]:
        """A clip that ships joins those there are, with its words in the fields."""
        example = self.examples.get(str((event._data or {}).get("name")))
        if example is None:
            raise RequestError("that clip is not there any more; reload the page")
        shown = self.add_clips(state, [str(example.file)])[:-1]
        name = self.host.library.free_name(example.name)
        return [*shown, name, example.noun, example.phrase]

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
        shown = editor_html(state.clips, geometry=self.host.geometry(), texts=self.texts)
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
        texts: Texts,
        library: Library,
        state: TrainingState,
        name: str,
        phrase: str,
        noun: str,
        method: str,
        steps: float,
        validate: bool,
        still: bool = False,
    ) -> TrainingInputs:
        """What is to be learned, as ``fields`` and the clips of ``state`` say it. FormFaults for
        all that can be told of them at once: a name that ``library`` has, a clip in which nothing
        moves, unless the motion is to stand ``still``; RequestError for the rest."""
        words = {"name": name, "noun": noun, "phrase": phrase}
        words = {key: (text or "").strip() for key, text in words.items()}
        faults = {key: texts(f"motions.no_{key}") for key in words if not words[key]}
        held = [clip.name for clip in state.clips if not clip.moving]
        if not state.clips:
            faults["clips"] = texts("motions.no_clip")
        elif held and not still:
            faults["clips"] = texts("motions.nothing_moves", clip=held[0])
        try:
            if words["name"]:
                library.new_path(words["name"])
        except MotionFileError as error:
            faults["name"] = str(error)
        if faults:
            raise FormFaults(faults)
        count = int(steps or 0)
        return TrainingInputs(
            **words,
            clips=tuple(clip.selection for clip in state.clips),
            method=method,
            steps=count,
            validate_every=_every(count) if validate else None,
            still=bool(still),
        )


def _every(steps: int) -> int:
    """After how many of so many steps a video is made."""
    return max(1, steps // VALIDATIONS)


def caption_html(noun: str, phrase: str, texts: Texts) -> str:
    """The caption the clips are learned with, as it stands."""
    noun, phrase = (noun or "").strip(), (phrase or "").strip()
    known = training_caption(noun or "…", phrase or "…")
    return (
        f'<p class="motion-caption"><span class="quiet">{html.escape(texts("motions.caption"))}'
        f"</span> “{html.escape(known)}”</p>"
    )
