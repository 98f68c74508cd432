"""The Motions tab: the library, and learning a new motion from clips."""

from __future__ import annotations

import html
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from motion_app.errors import MotionFileError, RequestError
from motion_app.scene import Motion
from motion_app.training.config import training_caption
from motion_app.training.inputs import METHODS, MOST_STEPS, TrainingInputs
from motion_app.ui.boundary import listen
from motion_app.ui.clip_editor import (
    CLIP_FILES,
    DraftClip,
    changed_clips,
    editor_html,
    new_editor,
)
from motion_app.ui.host import ModelHost
from motion_app.ui.library_cards import library_html, new_cards
from motion_app.ui.motion_import import bring_in
from motion_app.ui.previews import MotionPreviews
from motion_app.ui.progress import note_html
from motion_app.ui.session import Session
from motion_app.ui.texts import Texts
from motion_app.ui.training_desk import TrainingDesk, submit_training, training_command
from motion_app.ui.training_panel import (
    curve_html,
    new_rows,
    rows_html,
    status_html,
    validation_html,
    view_html,
)

MOTION_FILES = [".safetensors", ".pt"]
VALIDATIONS = 5  # videos on the way, where they are wanted
TICK_SECONDS = 1.0
EXPORT_SECONDS = 3600.0  # how long an exported file can be fetched
PICTURE_SECONDS = 2.0  # between two pictures of who saw the tokens
# gradio has no download without a second click: the hidden button is pressed for the person.
DOWNLOAD_JS = (
    "() => setTimeout(() => { const it = document.querySelector('#motion-download');"
    " if (it) (it.querySelector('a, button') || it).click(); }, 150)"
)
OnChange = Callable[[Any], Any]


class MotionsTab:
    """Build it inside a ``gr.Tab``, then ``wire`` it. Holds components and what is shared by all
    browsers; what a person does is in their ``TrainingDesk``."""

    def __init__(self, host: ModelHost, texts: Texts) -> None:
        self.host = host
        self.texts = texts
        self.limits = host.settings.limits
        self.previews = MotionPreviews(self.limits)
        self.desk = gr.State(TrainingDesk())
        with gr.Row(elem_id="motions-tab"):
            with gr.Column(elem_classes="step motions-library", min_width=300):
                self._build_library()
            with gr.Column(elem_classes="step motions-training", min_width=300):
                self._build_training()

    def _build_library(self) -> None:
        texts = self.texts
        gr.HTML(_heading(texts("motions.library"), texts("motions.library_help")))
        self.cards = new_cards()
        self.download = gr.DownloadButton("download", visible="hidden", elem_id="motion-download")
        with gr.Accordion(texts("motions.import"), open=False, elem_id="motion-import"):
            gr.HTML(note_html(texts("motions.import_help")))
            self.import_file = gr.File(
                label=texts("motions.import_file"),
                file_types=MOTION_FILES,
                height=110,
                elem_id="motion-file",
            )
            with gr.Row():
                self.import_name = gr.Textbox(
                    label=texts("motions.import_name"),
                    placeholder=texts("motions.import_own"),
                    min_width=120,
                )
                self.import_phrase = gr.Textbox(label=texts("motions.import_phrase"), min_width=120)
            self.import_button = gr.Button(
                texts("motions.import_button"), size="sm", elem_id="motion-import-button"
            )

    def _build_training(self) -> None:
        texts = self.texts
        gr.HTML(_heading(texts("motions.train_title"), texts("motions.train_help")))
        if not self.host.settings.training:
            command = html.escape(training_command())
            why = texts("motions.train_off_lent" if self.host.lent else "motions.train_off")
            gr.HTML(
                f'<div class="training-off"><p>{html.escape(why)}</p>'
                f"<pre>{command}</pre><p>{html.escape(texts('motions.train_then'))}</p></div>",
                apply_default_css=False,
                elem_id="training-off",
            )
        with gr.Column(visible=self.host.settings.training) as self.form:
            self._build_form()
        with gr.Column(visible=self.host.settings.training):
            self.status = gr.HTML(apply_default_css=False, elem_id="training-status")
            self.cancel = gr.Button(
                texts("motions.cancel"), size="sm", visible=False, elem_id="training-cancel"
            )
            self.curve = gr.HTML(apply_default_css=False, elem_id="training-curve")
            self.validation = gr.HTML(apply_default_css=False, elem_id="training-validation")
            self.view = gr.HTML(apply_default_css=False, elem_id="training-masks")
            gr.HTML(f'<h3 class="motions-sub">{html.escape(texts("motions.trainings"))}</h3>')
            self.rows = new_rows()

    def _build_form(self) -> None:
        texts, defaults = self.texts, self.host.defaults()
        self.upload = gr.File(
            label=texts("motions.clips", n=self.limits.reference_clips),
            file_count="multiple",
            file_types=CLIP_FILES,
            height=110,
            elem_id="clip-upload",
        )
        self.editor = new_editor()
        self.clip_note = gr.HTML(apply_default_css=False, elem_id="clip-note")
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
        self.train = gr.Button(texts("motions.train"), variant="primary", elem_id="train")

    @staticmethod
    def _own_steps(training: dict[str, Any]) -> int:
        return min(MOST_STEPS // 2, int(training.get("steps", 2000)))

    def wire(self, session: gr.State, on_change: OnChange | None = None) -> None:
        """Bind every event. ``on_change`` is given each event after which the library may be
        another one, so that the page can bind to its ``then`` what shows the choices again."""
        self._on_change = on_change or (lambda event: None)
        self._wire_library(session)
        self._wire_form()
        self._wire_trainings(session)

    def attach(self, event: Any, session: gr.State) -> None:
        """After ``event``, the page's load, show the library and this browser's trainings, and
        follow the one that runs."""
        shown = listen(
            event.then, self.arrive, inputs=[session, self.desk], outputs=[self.cards, self.rows]
        )
        self._follow_after(shown, session)

    def _wire_library(self, session: gr.State) -> None:
        desk, cards = self.desk, self.cards
        acted = listen(cards.act, self.act, inputs=[desk], outputs=[desk, cards, self.download])
        acted.then(None, js=_download_if_any(DOWNLOAD_JS), inputs=[self.download])
        self._on_change(acted)
        self._on_change(listen(cards.restore, self.restore, inputs=[desk], outputs=[desk, cards]))
        self._on_change(
            listen(
                self.import_button.click,
                self.bring,
                inputs=[desk, self.import_file, self.import_name, self.import_phrase],
                outputs=[desk, cards, self.import_file, self.import_name],
            )
        )

    def _wire_form(self) -> None:
        desk = self.desk
        clips = [desk, self.editor, self.clip_note]
        listen(
            self.upload.upload,
            self.add_clips,
            inputs=[desk, self.upload],
            outputs=[*clips, self.upload],
        )
        listen(
            self.editor.choose,
            self.choose,
            inputs=[desk],
            outputs=[self.clip_note],
            trigger_mode="multiple",  # none of a person's choices is dropped
        )
        listen(self.editor.remove, self.remove, inputs=[desk], outputs=clips)
        listen(
            self.method.change,
            lambda method: self._own_steps(self.host.defaults().training_of(method)),
            inputs=[self.method],
            outputs=[self.steps],
        )
        for field in (self.noun, self.phrase):
            listen(
                field.change,
                lambda noun, phrase: caption_html(noun, phrase, self.texts),
                inputs=[self.noun, self.phrase],
                outputs=[self.caption],
                trigger_mode="always_last",
            )

    def _wire_trainings(self, session: gr.State) -> None:
        begun = listen(
            self.train.click,
            self.begin,
            inputs=[
                *(session, self.desk, self.name, self.phrase, self.noun),
                *(self.method, self.steps, self.validate),
            ],
            outputs=[self.rows],
        )
        self._follow_after(begun, session, only_success=True)
        acted = listen(
            self.rows.job, self.act_on_job, inputs=[session, self.desk], outputs=[self.rows]
        )
        self._follow_after(acted, session, only_success=True)
        listen(
            self.cancel.click,
            self.stop,
            inputs=[session, self.desk],
            outputs=[self.cancel],
            queue=False,
        )

    def _follow_after(self, event: Any, session: gr.State, *, only_success: bool = False) -> None:
        followed = listen(
            event.success if only_success else event.then,
            self.follow,
            inputs=[session, self.desk],
            outputs=[
                *(self.status, self.cancel, self.curve, self.validation, self.view),
                *(self.rows, self.cards),
            ],
            concurrency_limit=None,
        )
        self._on_change(followed)

    # the library

    def show_cards(self, desk: TrainingDesk) -> str:
        """The library as it is now."""
        motions = self.host.library.list()
        return library_html(
            motions,
            base=self.host.base(),
            deletable=frozenset(m.digest for m in motions if self._deletable(m, desk)),
            deleted=desk.deleted,
            problems=self.host.library.problems(),
            previews=self.previews,
            texts=self.texts,
        )

    def _deletable(self, motion: Motion, desk: TrainingDesk) -> bool:
        """On a server for strangers (training is off there) only what one brought in oneself."""
        own = self.host.settings.training or motion.digest in desk.brought
        return own and self.host.library.writable(motion)

    def arrive(self, session: Session, desk: TrainingDesk) -> tuple[str, str]:
        """The library, and the trainings of this browser; the newest that is active is shown."""
        self.host.library.empty_trash()
        rows = self.host.jobs.rows(session.owner, kind="train")
        desk.job = next((row.id for row in rows if row.active), "")
        return self.show_cards(desk), rows_html(rows, shown=desk.job, texts=self.texts)

    def act(self, desk: TrainingDesk, event: gr.EventData) -> list[Any]:
        """Export or delete the motion of a card."""
        data = event._data or {}
        digest = str(data.get("digest"))
        motion = next((m for m in self.host.library.list() if m.digest == digest), None)
        if motion is None:
            raise MotionFileError("this motion is not in the library any more; reload the page")
        if data.get("what") == "export":
            file = self.host.library.export_file(motion, new_export_folder())
            return [gr.skip(), gr.skip(), gr.update(value=str(file))]
        if not self._deletable(motion, desk):
            raise MotionFileError(f'the motion "{motion.name}" is not yours to delete')
        desk.deleted = self.host.library.delete(motion.path)
        return [desk, self.show_cards(desk), gr.update(value=None)]

    def restore(self, desk: TrainingDesk, event: gr.EventData) -> list[Any]:
        """Bring back what was deleted last."""
        token = str((event._data or {}).get("token"))
        if desk.deleted is None or desk.deleted.token != token:
            raise MotionFileError("this can be undone no more; import or learn the motion again")
        self.host.library.restore(token)
        desk.deleted = None
        return [desk, self.show_cards(desk)]

    def bring(self, desk: TrainingDesk, file: str | None, name: str, phrase: str) -> list[Any]:
        """Import an uploaded motion."""
        if file is None:
            raise RequestError("no file has been chosen; choose an exported motion")
        motion = bring_in(self.host, Path(file), name=name, phrase=phrase)
        desk.brought |= {motion.digest}
        gr.Info(self.texts("motions.imported", name=html.escape(motion.name)))
        return [desk, self.show_cards(desk), None, ""]

    # the clips

    def add_clips(self, desk: TrainingDesk, files: list[str] | None) -> list[Any]:
        """Uploaded clips join those there are; one that cannot be read takes none with it."""
        room = self.limits.reference_clips - len(desk.clips)
        if len(files or ()) > room:
            raise RequestError(
                f"{len(files)} clips came and {room} more fit; at most "
                f"{self.limits.reference_clips} are allowed"
            )
        geometry = self.host.geometry()
        read = tuple(DraftClip.read(Path(file), geometry, self.limits) for file in files or ())
        with desk.lock:
            desk.clips += read
        return [*self._show_clips(desk), None]

    def choose(self, desk: TrainingDesk, event: gr.EventData) -> str:
        """What was trimmed, cropped or pointed at; the page shows it already."""
        entry = dict(event._data or {})
        with desk.lock:
            desk.clips = changed_clips(desk.clips, str(entry.get("key")), entry)
        return self._clip_note(desk)

    def remove(self, desk: TrainingDesk, event: gr.EventData) -> list[Any]:
        """Without one of the clips."""
        with desk.lock:
            desk.clips = changed_clips(desk.clips, str((event._data or {}).get("key")), None)
        return self._show_clips(desk)

    def _show_clips(self, desk: TrainingDesk) -> list[Any]:
        shown = editor_html(desk.clips, least=self.host.geometry().frames, texts=self.texts)
        return [desk, shown, self._clip_note(desk)]

    def _clip_note(self, desk: TrainingDesk) -> str:
        """What is worth knowing about the clips as they are."""
        pointed = sum(clip.selection.mover is not None for clip in desk.clips)
        notes = []
        if len(desk.clips) == 1:
            notes.append(note_html(self.texts("motions.one_clip")))
        if 0 < pointed < len(desk.clips):
            some = self.texts("motions.some_movers", n=pointed, all=len(desk.clips))
            notes.append(note_html(some, kind="warning"))
        return "".join(notes)

    # the trainings

    def begin(
        self,
        session: Session,
        desk: TrainingDesk,
        name: str,
        phrase: str,
        noun: str,
        method: str,
        steps: float,
        validate: bool,
    ) -> str:
        """Put a training into the line."""
        count = int(steps or 0)
        inputs = TrainingInputs(
            name=(name or "").strip(),
            phrase=(phrase or "").strip(),
            noun=(noun or "").strip(),
            clips=tuple(clip.selection for clip in desk.clips),
            method=method,
            steps=count,
            validate_every=max(1, count // VALIDATIONS) if validate else None,
        )
        desk.job = submit_training(self.host, inputs, owner=session.owner).id
        return self._show_rows(session, desk)

    def _show_rows(self, session: Session, desk: TrainingDesk) -> str:
        rows = self.host.jobs.rows(session.owner, kind="train")
        return rows_html(rows, shown=desk.job, texts=self.texts)

    def act_on_job(self, session: Session, desk: TrainingDesk, event: gr.EventData) -> str:
        """Show, resume or delete one of this browser's trainings."""
        data = event._data or {}
        job_id, what = str(data.get("id")), data.get("what")
        if all(row.id != job_id for row in self.host.jobs.rows(session.owner, kind="train")):
            raise RequestError("this training is gone; reload the page")
        if what == "delete":
            self.host.jobs.delete(job_id)
            desk.job = "" if desk.job == job_id else desk.job
        elif what in ("again", "show"):
            if what == "again":
                self.host.jobs.again(job_id)
            desk.job = job_id
        return self._show_rows(session, desk)

    def stop(self, session: Session, desk: TrainingDesk) -> Any:
        """Cancel the training on show; it stops within a step and can be resumed."""
        if any(row.id == desk.job for row in self.host.jobs.rows(session.owner, kind="train")):
            self.host.jobs.cancel(desk.job)
        return gr.update(value=self.texts("motions.stopping"), interactive=False)

    def follow(self, session: Session, desk: TrainingDesk) -> Iterator[list[Any]]:
        """The training on show, until it ends or another one is shown."""
        serial, job_id = desk.follow(), desk.job
        if not job_id:
            yield [gr.skip()] * 7
            return
        pictured, video_step = 0.0, None
        for progress in self.host.jobs.watch(job_id, every=TICK_SECONDS):
            if desk.serial != serial:
                return
            news, done = progress.news, progress.stage == "done"
            video = None if news is None else news.validation
            fresh_video = video is not None and video.step != video_step
            video_step = video.step if fresh_video else video_step
            now = time.monotonic()
            picture = done or now - pictured > PICTURE_SECONDS
            pictured = now if picture else pictured
            first = pictured == now and video_step is None
            yield [
                status_html(progress, self.texts),
                self._cancel_update(progress.stopping, done),
                curve_html(progress, self.texts) if picture else gr.skip(),
                validation_html(progress, self.texts) if fresh_video or first else gr.skip(),
                view_html(progress, self.texts) if picture else gr.skip(),
                self._show_rows(session, desk) if done or picture else gr.skip(),
                self.show_cards(desk) if done else gr.skip(),
            ]

    def _cancel_update(self, stopping: bool, done: bool) -> Any:
        if done:
            return gr.update(visible=False)
        said = "motions.stopping" if stopping else "motions.cancel"
        return gr.update(visible=True, value=self.texts(said), interactive=not stopping)


def caption_html(noun: str, phrase: str, texts: Texts) -> str:
    """The caption the clips are learned with, as it stands."""
    noun, phrase = (noun or "").strip(), (phrase or "").strip()
    known = training_caption(noun or "…", phrase or "…")
    return (
        f'<p class="motion-caption"><span class="quiet">{html.escape(texts("motions.caption"))}'
        f"</span> “{html.escape(known)}”</p>"
    )


def new_export_folder() -> Path:
    """A folder for one exported motion, in gradio's own temporary one; old ones are removed. Its
    name is 128 random bits: who does not know it cannot ask for what is in it."""
    root = Path(get_upload_folder()) / "exports"
    before = time.time() - EXPORT_SECONDS
    for folder in root.glob("*"):
        if folder.stat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)
    return root / secrets.token_hex(16)


def _heading(title: str, help_text: str) -> str:
    return (
        f'<div class="step-heading motions-heading"><h2>{html.escape(title)}</h2>'
        f'<p class="quiet">{html.escape(help_text)}</p></div>'
    )


def _download_if_any(script: str) -> str:
    return f"(file) => {{ if (file) ({script})(); }}"
