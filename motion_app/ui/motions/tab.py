"""The Motions tab: the library, and learning a new motion from clips."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.errors import MotionAppError, MotionFileError, RequestError
from motion_app.host import KEEPS_PHRASE, ModelHost
from motion_app.jobs.progress import JobProgress
from motion_app.ui.api.files import new_export_folder
from motion_app.ui.boundary import in_one_line, listen
from motion_app.ui.form_faults import FieldNotes, FormFaults
from motion_app.ui.markup import Texts, note_html, script, titled_html
from motion_app.ui.motion_cards import library_html, new_cards
from motion_app.ui.motions.form import TrainingForm, TrainingState
from motion_app.ui.motions.published import HubPanel
from motion_app.ui.motions.training import (
    curve_html,
    new_rows,
    rows_html,
    status_html,
    submit_training,
    training_command,
    validation_html,
    view_html,
)
from motion_app.ui.own_motions import change_motion, hidden_ones, motion_asked_for
from motion_app.ui.pictures import Previews
from motion_app.ui.uploads import upload_box
from motion_app.ui.visitor import PageVisit, library_user
from motion_app.world.clips import ExampleClip

TICK_SECONDS = 1.0
PICTURE_SECONDS = 2.0  # between two pictures of who saw the tokens
OnChange = Callable[[Any], Any]


class MotionsTab:
    """Build it inside a ``gr.Tab``, then ``wire`` it. Holds components and what is shared by all
    browsers; what a person does is in their ``TrainingState``."""

    def __init__(
        self,
        host: ModelHost,
        texts: Texts,
        previews: Previews,
        clips: Sequence[ExampleClip] = (),
    ) -> None:
        self.host = host
        self.texts = texts
        self.clips = clips
        self.state = gr.State(TrainingState())
        with gr.Row(elem_id="motions-tab"):
            with gr.Column(elem_classes="step motions-library", min_width=300):
                self.library = LibraryPanel(host, texts, previews)
            with gr.Column(elem_classes="step motions-training", min_width=300):
                self._build_training()

    def _build_training(self) -> None:
        texts = self.texts
        gr.HTML(titled_html(texts("motions.train_title"), texts("motions.train_help")))
        if not self.host.learns:
            command = html.escape(training_command())
            why = texts("motions.train_off_lent" if self.host.lent else "motions.train_off")
            gr.HTML(
                f'<div class="training-off"><p>{html.escape(why)}</p>'
                f"<pre>{command}</pre><p>{html.escape(texts('motions.train_then'))}</p></div>",
                apply_default_css=False,
                elem_id="training-off",
            )
        with gr.Column(visible=self.host.learns):
            self.form = TrainingForm(self.host, texts, self.clips)
        with gr.Column(visible=self.host.learns):
            self.status = gr.HTML(apply_default_css=False, elem_id="training-status")
            self.cancel = gr.Button(
                texts("motions.cancel"), size="sm", visible=False, elem_id="training-cancel"
            )
            self.curve = gr.HTML(apply_default_css=False, elem_id="training-curve")
            self.validation = gr.HTML(apply_default_css=False, elem_id="training-validation")
            self.view = gr.HTML(apply_default_css=False, elem_id="training-masks")
            gr.HTML(f'<h3 class="motions-sub">{html.escape(texts("motions.trainings"))}</h3>')
            self.rows = new_rows()
        self.timer = gr.Timer(TICK_SECONDS, active=False)
        # The last training that ended: the library may be another one. No gr.State: of what is
        # answered outside the line, the page hears of no change of those.
        self.learned = gr.Textbox(visible="hidden", show_label=False)

    def wire(self, visit: gr.State, on_change: OnChange | None = None) -> None:
        """Bind every event. ``on_change`` is given each event after which the library may be
        another one, so that the page can bind to its ``then`` what shows the choices again."""
        self._on_change = on_change or (lambda event: None)
        self.library.wire(self.state, self._on_change)
        self.form.wire(self.state)
        self._wire_trainings(visit)
        changed = listen(
            self.learned.change,
            self.library.show_cards,
            inputs=[self.state],
            outputs=[self.library.cards],
        )
        self._on_change(changed)

    def attach(self, event: Any, visit: gr.State) -> None:
        """After ``event``, the page's load, show the library and this browser's trainings, and
        follow the one that runs."""
        shown = listen(
            event.then,
            self.arrive,
            inputs=[visit, self.state],
            outputs=[self.library.cards, self.rows],
        )
        self._follow_after(shown, visit)

    def show_library_after(self, event: Any) -> None:
        """After ``event`` the library may be another one."""
        library = self.library
        listen(event.then, library.show_cards, inputs=[self.state], outputs=[library.cards])

    def _wire_trainings(self, visit: gr.State) -> None:
        begun = listen(
            self.form.train.click,
            self.begin,
            inputs=[visit, self.state, *self.form.fields],
            outputs=[self.rows, *self.form.notes.outputs],
        )
        self._follow_after(begun, visit, only_success=True)
        acted = listen(
            self.rows.job, self.act_on_job, inputs=[visit, self.state], outputs=[self.rows]
        )
        self._follow_after(acted, visit, only_success=True)
        listen(
            self.cancel.click,
            self.stop,
            inputs=[visit, self.state],
            outputs=[self.cancel],
            queue=False,
        )

        self._listen_for_news(self.timer.tick, self.ask, visit, queue=False)

    def _follow_after(self, event: Any, visit: gr.State, *, only_success: bool = False) -> None:
        if self.host.lent:
            once = {"concurrency_limit": None, "trigger_mode": "multiple"}
            listen(event.success, self.attend, inputs=[visit, self.state], **once)
        self._listen_for_news(event.success if only_success else event.then, self.follow, visit)

    def _listen_for_news(
        self,
        event: Callable[..., Any],
        handler: Callable[..., Any],
        visit: gr.State,
        *,
        queue: bool = True,
    ) -> None:
        outputs = [
            *(self.status, self.cancel, self.curve, self.validation, self.view),
            *(self.rows, self.learned, self.timer),
        ]
        inputs = [visit, self.state]
        options = {"concurrency_limit": None, "queue": queue}
        listen(event, handler, inputs=inputs, outputs=outputs, **options)

    def arrive(
        self, visit: PageVisit, state: TrainingState, request: gr.Request
    ) -> tuple[str, str]:
        """The library, and the trainings of this browser; the newest that is active is shown."""
        state.user = library_user(visit.owner, request, self.host.settings)
        self.host.library.empty_trash()
        rows = self.host.jobs.rows(visit.owner, kind="train")
        state.job = next((row.id for row in rows if row.active), "")
        return self.library.show_cards(state), rows_html(rows, shown=state.job, texts=self.texts)

    def begin(self, visit: PageVisit, state: TrainingState, *fields: Any) -> list[Any]:
        """Put a training into the line, or tell all that is wrong with what was filled in."""
        notes = self.form.notes
        try:
            inputs = self.form.read(self.texts, self.host.library, state, *fields)
            owner, address = visit.owner, visit.address
            state.job = submit_training(self.host, inputs, owner=owner, address=address).id
        except FormFaults as error:
            return [gr.skip(), *notes.shown(error.faults)]
        except MotionAppError as error:
            return [gr.skip(), *notes.shown({"all": in_one_line(error)})]
        return [self._show_rows(visit, state), *notes.shown({})]

    def _show_rows(self, visit: PageVisit, state: TrainingState) -> str:
        rows = self.host.jobs.rows(visit.owner, kind="train")
        return rows_html(rows, shown=state.job, texts=self.texts)

    def act_on_job(self, visit: PageVisit, state: TrainingState, event: gr.EventData) -> str:
        """Show, resume or delete one of this browser's trainings."""
        data = event._data or {}
        job_id, what = str(data.get("id")), data.get("what")
        if all(row.id != job_id for row in self.host.jobs.rows(visit.owner, kind="train")):
            raise RequestError("this training is gone; reload the page")
        if what == "delete":
            self.host.jobs.delete(job_id)
            state.job = "" if state.job == job_id else state.job
        elif what in ("again", "show"):
            if what == "again":
                self.host.jobs.again(job_id, address=visit.address)
            state.job = job_id
        return self._show_rows(visit, state)

    def stop(self, visit: PageVisit, state: TrainingState) -> Any:
        """Cancel the training on show; it stops within a step and can be resumed."""
        if any(row.id == state.job for row in self.host.jobs.rows(visit.owner, kind="train")):
            self.host.jobs.cancel(state.job)
        return gr.update(value=self.texts("motions.stopping"), interactive=False)

    def follow(self, visit: PageVisit, state: TrainingState) -> list[Any]:
        """The training on show as it is; the timer asks how it goes on, in calls that end at once:
        a browser opens few connections, for all its tabs together."""
        state.follow()
        *panel, timer = self.ask(visit, state)
        return [*panel, timer if timer != gr.skip() else gr.Timer(active=True)]

    def attend(self, visit: PageVisit, state: TrainingState) -> Iterator[None]:
        """Where a GPU is lent to a call: the training on show is done in this one, and stopped when
        its page is left."""
        rows = self.host.jobs.rows(visit.owner, kind="train")
        if any(row.id == state.job and row.active for row in rows):
            for _ in self.host.jobs.follow(state.job):
                yield None

    def ask(self, visit: PageVisit, state: TrainingState) -> list[Any]:
        """What is new of the training on show."""
        serial = state.serial
        progress = self._progress(state.job)
        if progress is None:
            return [*[gr.skip()] * 7, gr.Timer(active=False)]
        news, done = progress.news, progress.stage == "done"
        video = None if news is None else news.validation
        with state.lock:
            if state.serial != serial:  # another training is on show by now
                return [gr.skip()] * 8
            fresh_video = video is not None and video.step != state.video_step
            state.video_step = video.step if fresh_video else state.video_step
            now = time.monotonic()
            picture = done or now - state.pictured > PICTURE_SECONDS
            first = picture and state.video_step is None
            state.pictured = now if picture else state.pictured
        return [
            status_html(progress, self.texts),
            self._cancel_update(progress.stopping, done),
            curve_html(progress, self.texts) if picture else gr.skip(),
            validation_html(progress, self.texts) if fresh_video or first else gr.skip(),
            view_html(progress, self.texts) if picture else gr.skip(),
            self._show_rows(visit, state) if picture else gr.skip(),
            f"{state.job} {serial}" if done else gr.skip(),
            gr.Timer(active=False) if done else gr.skip(),
        ]

    def _progress(self, job: str) -> JobProgress | None:
        """Where the job stands; None where there is none, or no more."""
        try:
            return next(self.host.jobs.watch(job)) if job else None
        except RequestError:
            return None

    def _cancel_update(self, stopping: bool, done: bool) -> Any:
        if done:
            return gr.update(visible=False)
        said = "motions.stopping" if stopping else "motions.cancel"
        return gr.update(visible=True, value=self.texts(said), interactive=not stopping)


class LibraryPanel:
    """Build it inside a column, then ``wire`` it."""

    def __init__(self, host: ModelHost, texts: Texts, previews: Previews) -> None:
        self.host = host
        self.texts = texts
        self.previews = previews
        gr.HTML(titled_html(texts("motions.library"), texts("motions.library_help")))
        self.cards = new_cards()
        self.download = gr.DownloadButton("download", visible="hidden", elem_id="motion-download")
        with gr.Accordion(texts("motions.import"), open=False, elem_id="motion-import"):
            seen = "private" if host.settings.private_motions else "shared"
            told = f"{texts('motions.import_help')} {texts(f'motions.import_{seen}')}"
            gr.HTML(note_html(told))
            self.notes = FieldNotes()
            self.import_file = upload_box(
                "motion", texts("motions.import_file"), height=110, elem_id="motion-file"
            )
            self.notes.below("file", self.import_file)
            with gr.Row():
                self.import_name = gr.Textbox(
                    label=texts("motions.import_name"),
                    placeholder=texts("motions.import_own"),
                    min_width=120,
                )
                self.import_phrase = gr.Textbox(label=texts("motions.import_phrase"), min_width=120)
            self.notes.below("name", self.import_name)
            self.notes.below("phrase", self.import_phrase)
            self.import_button = gr.Button(
                texts("motions.import_button"), size="sm", elem_id="motion-import-button"
            )
        repository = host.published
        self.hub = None if repository is None else HubPanel(host, repository, texts)

    def wire(self, state: gr.State, on_change: Callable[[Any], Any]) -> None:
        """Bind every event; ``on_change`` is given those after which the library may be another
        one."""
        cards = self.cards
        acted = listen(cards.act, self.act, inputs=[state], outputs=[state, cards, self.download])
        acted.then(None, js=script("download"), inputs=[self.download])
        on_change(acted)
        on_change(listen(cards.restore, self.restore, inputs=[state], outputs=[state, cards]))
        on_change(
            listen(
                self.import_button.click,
                self.bring,
                inputs=[state, self.import_file, self.import_name, self.import_phrase],
                outputs=[state, cards, self.import_file, self.import_name, *self.notes.outputs],
            )
        )
        self.notes.wire()
        if self.hub is not None:
            shown = self.hub.shown
            self.hub.wire_look(state)
            on_change(
                listen(shown.bring, self.bring_published, inputs=[state], outputs=[shown, cards])
            )

    def show_cards(self, state: TrainingState) -> str:
        """The library as it is now."""
        library = self.host.library.seen_by(state.user)
        motions = library.list()
        return library_html(
            motions,
            base=self.host.base(),
            whose={motion.digest: library.whose(motion) for motion in motions},
            private=hidden_ones(motions),
            deleted=state.deleted,
            problems=self.host.library.problems(),
            previews=self.previews,
            texts=self.texts,
            brought=state.brought,
        )

    def act(self, state: TrainingState, event: gr.EventData) -> list[Any]:
        """What a card's button says: export its motion, or change what is one's own."""
        values = event._data or {}
        library = self.host.library.seen_by(state.user)
        motion = motion_asked_for(library, values)
        if values.get("what") == "export":
            file = library.export_file(motion, new_export_folder(motion))
            return [gr.skip(), gr.skip(), gr.update(value=str(file))]
        deleted = change_motion(library, motion, values, state.user, self.texts)
        state.deleted = deleted or state.deleted
        return [state, self.show_cards(state), gr.update(value=None)]

    def restore(self, state: TrainingState, event: gr.EventData) -> list[Any]:
        """Bring back what was deleted last."""
        token = str((event._data or {}).get("token"))
        if state.deleted is None or state.deleted.token != token:
            raise MotionFileError("this can be undone no more; import or learn the motion again")
        self.host.library.restore(token, by=state.user)
        state.deleted = None
        return [state, self.show_cards(state)]

    def bring_published(self, state: TrainingState, event: gr.EventData) -> list[Any]:
        """Import a motion of the hub's repository."""
        shown = self.hub.bring(state, str((event._data or {}).get("file")))
        return [shown, self.show_cards(state)]

    def bring(self, state: TrainingState, file: str | None, name: str, phrase: str) -> list[Any]:
        """Import an uploaded motion, or tell all that is wrong with what was filled in."""
        try:
            chosen = self._checked(file, name, phrase)
            motion = self.host.import_motion(chosen, name=name, phrase=phrase, by=state.user)
        except FormFaults as error:
            return [*[gr.skip()] * 4, *self.notes.shown(error.faults)]
        except MotionAppError as error:
            return [*[gr.skip()] * 4, *self.notes.shown({"file": in_one_line(error)})]
        gr.Info(self.texts("motions.imported", name=html.escape(motion.name)))
        state.brought = motion.digest
        return [state, self.show_cards(state), None, "", *self.notes.shown({})]

    def _checked(self, file: str | None, name: str, phrase: str) -> Path:
        """The chosen file; FormFaults for all that can be told before it is read."""
        faults: dict[str, str] = {}
        if file is None:
            faults["file"] = self.texts("motions.no_file")
        elif phrase.strip() and Path(file).suffix.lower() != ".pt":
            faults["phrase"] = KEEPS_PHRASE
        try:
            if name.strip():
                self.host.library.new_path(name)
        except MotionFileError as error:
            faults["name"] = str(error)
        if faults or file is None:
            raise FormFaults(faults)
        return Path(file)
