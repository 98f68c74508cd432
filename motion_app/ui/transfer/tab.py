"""The Transfer tab: picture → objects → motions → video."""

from __future__ import annotations

import html
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.errors import MediaError, MotionAppError, RequestError
from motion_app.host import ModelHost
from motion_app.library.owners import LibraryUser
from motion_app.media.file_types import CLIP_CHOICES
from motion_app.request.request import RequestFile
from motion_app.ui.api.files import let_go
from motion_app.ui.boundary import in_one_line, listen
from motion_app.ui.markup import MOUNT, Texts, note_html, script, step_heading
from motion_app.ui.own_motions import MotionDialog
from motion_app.ui.pictures import Previews
from motion_app.ui.transfer.actions import SceneActions, serial_of
from motion_app.ui.transfer.canvas import canvas_html, foreseen_uri, mask_file, masks_file
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.kept_drafts import KeptDraft, KeptDrafts
from motion_app.ui.transfer.lesson_actions import LessonActions
from motion_app.ui.transfer.lesson_panel import LearningOffer, asked_html
from motion_app.ui.transfer.picture import Example, examples_html, find_html, fit_html, sources_html
from motion_app.ui.transfer.rows import object_problems, rows_html
from motion_app.ui.transfer.session import Session
from motion_app.ui.transfer.video import VideoPanel
from motion_app.ui.uploads import upload_box
from motion_app.world.clips import ExampleClip

EXPORTS = {"export": mask_file, "export_all": masks_file}


class TransferTab:
    """Build it inside ``gr.Blocks``. Holds components and what is shared by all browsers; what a
    person does is in their ``Session``."""

    def __init__(
        self,
        host: ModelHost,
        texts: Texts,
        examples: Sequence[Example],
        session: gr.State,
        previews: Previews,
        kept: KeptDrafts,
        clips: Sequence[ExampleClip] = (),
        *,
        timer: gr.Timer,
    ) -> None:
        self.host, self.texts, self.session = host, texts, session
        self.timer = timer  # while it runs, the page asks for what was found out meanwhile
        self.lessons = LessonActions(host, kept.keep_clip, clips)
        self.actions = SceneActions(host, examples, self.lessons)
        self.kept = kept
        self.dialog = MotionDialog(host, texts, previews)
        with gr.Row(elem_id="steps"):
            with gr.Column(elem_classes="step", min_width=200):
                self._build_picture(examples)
            with gr.Column(elem_classes="step", min_width=280):
                self._build_objects()
            with gr.Column(elem_classes="step", min_width=280):
                self._build_motions()
            with gr.Column(elem_classes="step", min_width=280):
                self.video = VideoPanel(host, texts, previews)
        self.gallery = self.video.build_gallery()
        self.scene_outputs = [self.canvas, self.fit, self.objects]

    def _build_picture(self, examples: Sequence[Example]) -> None:
        texts = self.texts
        gr.HTML(step_heading(1, texts("transfer.picture"), texts("transfer.picture_help")))
        self.picker = self._panel("examples", ("morph", "buttons"), examples_html(examples, texts))
        self.upload = upload_box("picture", texts("transfer.upload"), height=110, elem_id="upload")
        self.refused = gr.HTML(
            "", elem_classes="field-note", apply_default_css=False, elem_id="upload-note"
        )
        self._panel("sources", ("morph", "sources"), sources_html(texts))
        self.fit = self._panel("fit", ("morph", "fit"), self._fit(Session()))
        self.find = []
        if self.host.settings.finder is not None:
            self.find.append(self._panel("find", ("morph", "find"), find_html(texts)))

    def _build_objects(self) -> None:
        texts = self.texts
        gr.HTML(step_heading(2, texts("transfer.objects"), texts("transfer.objects_help")))
        self.canvas = self._panel("stage", ("morph", "canvas"), self._canvas(Session()))

    def _build_motions(self) -> None:
        texts = self.texts

        def preview(values: dict[str, Any]) -> str:
            """A motion's preview by its digest, for a card that is seen."""
            return self.dialog.preview(values)

        gr.HTML(step_heading(3, texts("transfer.motions"), texts("transfer.motions_help")))
        self.objects = self._panel(
            "objects",
            ("morph", "search", "own_motions", "cards", "clip_editor", "lessons", "objects"),
            self._rows(Session()),
            value="",
            html_template=MOUNT
            + '<dialog class="motion-dialog"></dialog>'
            + f'<dialog class="clip-dialog">{asked_html(texts)}</dialog>',
            cards=self.dialog.cards(LibraryUser()),
            sheets={},
            endings=list(CLIP_CHOICES),
            server_functions=[preview],
        )

    @staticmethod
    def _panel(name: str, scripts: Sequence[str], markup: str, **options: Any) -> gr.HTML:
        """HTML that the browser changes in place, so that focus and what is typed stay. Its one
        event is "act", with what a person did."""
        return gr.HTML(
            **{"html_template": MOUNT, **options},
            js_on_load=script("in_view", *scripts),
            elem_id=name,
            apply_default_css=False,
            markup=markup,
        )

    def wire(self, banner: gr.HTML) -> None:
        """Bind every event. ``banner`` is renewed after each video."""
        show = self.scene_outputs
        for panel in (self.picker, self.fit, *self.find, self.canvas, self.objects):
            acted = listen(
                panel.act,
                self.act,
                inputs=[self.session],
                outputs=show,
                concurrency_limit=None,
            )
            acted.then(
                None,
                js=script("scene_answered").replace("PANEL", str(panel.elem_id)),
                api_visibility="private",
            )
            if panel in (self.picker, self.fit):
                self._prepare_after(acted.success)
        listen(
            self.canvas.foresee,
            self.foresee,
            inputs=[self.session],
            outputs=[self.canvas],
            trigger_mode="always_last",
            concurrency_limit=None,
            queue=False,
        )
        uploaded = listen(
            self.upload.upload,
            self.upload_picture,
            inputs=[self.session, self.upload],
            outputs=[self.upload, self.refused, *show],
        )
        self._prepare_after(uploaded.success)
        self.video.wire(
            self.session,
            [self.objects],  # its value is what is being typed and was not heard yet
            self.read_rows,
            self.redraw_rows,
            banner,
            restore=self.restore,
            scene_outputs=show,
        )

    # what happens

    def act(self, session: Session, event: gr.EventData) -> list[Any]:
        """One action of a person on the scene, and what the page shows then."""
        values = event.action if isinstance(event.action, dict) else {}
        kind = values.get("kind")
        if kind in EXPORTS:
            name, address = EXPORTS[kind](session.scene())
            file = {"name": name, "address": address, "mark": secrets.token_hex(4)}
            return [gr.update(download=file), gr.skip(), gr.skip()]
        if kind in ("point", "box", "more", "find") and not self.host.clicks_ready:
            gr.Info(self.texts("transfer.click_kept"), title=self.texts("transfer.loading"))
        end = self.actions.begin(session, values)
        with session.lock:
            before, fit = session.draft, session.fit
            end()
            session.heard = max(session.heard, serial_of(values))
            self._tell_lost(before, session.draft, str(kind))
            return self._show(session, picture=self._refitted(before, session, fit))

    def foresee(self, session: Session, event: gr.EventData) -> Any:
        """What a click would give at the place where the pointer rests."""
        foreseen = self.actions.foresee(session, dict(event._data or {}))
        address = "" if foreseen is None else foreseen_uri(*foreseen)
        told = {"address": address, "more": session.foresees, "mark": secrets.token_hex(4)}
        return gr.update(foreseen=told)

    def _tell_lost(self, before: SceneDraft | None, after: SceneDraft | None, kind: str) -> None:
        if kind != "fit" or before is None or after is None:
            return
        lost = len(before.objects) - len(after.objects)
        if lost:
            words = self.texts("transfer.fit_lost", count=lost)
            gr.Warning(words, title=self.texts("transfer.fit"))

    @staticmethod
    def _refitted(before: SceneDraft | None, session: Session, fit: str) -> bool:
        if before is None or session.draft is None:
            return before is not session.draft or fit != session.fit
        return before.fitted is not session.draft.fitted

    def upload_picture(self, session: Session, path: str | None) -> Iterator[list[Any]]:
        """A picture file. The upload box is emptied first, so that it takes another one even when
        this one is refused, which stands below the box."""
        same = [gr.skip()] * len(self.scene_outputs)
        yield [None, "", *same]
        try:
            if not path:
                raise MediaError("no picture arrived; choose a PNG, JPEG, WebP or HEIC file")
            with session.lock:
                self.actions.picture(session, Path(path))
                let_go(Path(path))  # the scene is kept elsewhere, and goes when it is deleted
                shown = self._show(session)
        except MotionAppError as error:
            yield [gr.skip(), note_html(in_one_line(error), kind="warning"), *same]
            raise
        yield [gr.skip(), "", *shown]  # after the lock: another thread may close this generator

    def prepare(self, session: Session) -> Iterator[list[Any]]:
        """Encode the picture before the first click needs it, and say where the model does not know
        its like. Where that takes longer, the timer asks for it: updates of ``canvas`` and it."""
        yield [gr.skip(), gr.skip()]
        self.actions.encode(session)
        if not self.actions.verdicts.ask(session):
            yield [gr.skip(), gr.Timer(active=True)]
        elif session.unfamiliar:
            with session.lock:
                session.drawn += 1
                shown = gr.update(markup=self._canvas(session))
            yield [shown, gr.skip()]

    def judged_late(self, session: Session) -> tuple[Any, bool]:
        """The update of ``canvas`` with what was found out of a picture behind the calls that
        asked, and whether there is more to come."""
        waiting = self.actions.verdicts.awaited(session)
        if not session.unfamiliar:
            return gr.skip(), waiting
        with session.lock:
            session.drawn += 1
            return gr.update(markup=self._canvas(session)), waiting

    def _prepare_after(self, event: Callable[..., Any]) -> None:
        options = {"trigger_mode": "multiple", "concurrency_limit": None}
        outputs = [self.canvas, self.timer]
        listen(event, self.prepare, inputs=[self.session], outputs=outputs, **options)

    def restore(self, session: Session, request_file: RequestFile) -> list[Any]:
        """The scene of a recipe's request, as updates of ``scene_outputs``. Raises RequestError,
        MediaError, or MotionFileError for a motion that is not in the library."""
        with session.lock:
            self.actions.restore(session, request_file)
            return self._show(session)

    def read_rows(self, session: Session, values: Sequence[Any]) -> SceneDraft:
        """The draft with what is being typed: what stands in the fields now counts."""
        try:
            edits = json.loads(str(values[0])) if values and values[0] else []
            edits = [dict(edit) for edit in edits]
        except (ValueError, TypeError) as error:
            raise RequestError(f"the page sent fields that are no JSON: {error}") from error
        with session.lock:
            for edit in edits:
                if serial_of(edit) > session.heard:
                    self.actions.act(session, edit)
            session.settle(self.host.library)
            if not session.begun:
                raise RequestError(self.texts("transfer.no_picture"))
            draft = session.scene()
            self._tell_problems(draft)
            self._ask_for_names(session, draft)
            return draft

    def _tell_problems(self, draft: SceneDraft) -> None:
        """RequestError with all that is wrong with the objects, where it is more than one thing;
        beside each row stands its own."""
        told = [
            f"{self.texts('video.object', n=number)}: {self.texts(problem.key, **problem.values)}"
            for number, problems in enumerate(object_problems(draft, self.host.geometry()), start=1)
            for problem in problems
            if problem.fatal
        ]
        wrong = [
            f"{self.texts('video.object', n=number)}: {self.texts(key)}"
            for number, faults in enumerate(self.lessons.problems(draft), start=1)
            for key in faults.values()
        ]
        if wrong or len(told) > 1:
            raise RequestError(" ".join([*told, *wrong]))

    def redraw_rows(self, session: Session) -> Any:
        """The update of ``objects`` with what was found wrong."""
        with session.lock:
            session.drawn += 1
            return gr.update(markup=self._rows(session))

    def show_learned(self, session: Session) -> Any:
        """The update of ``objects`` with what the library has now: rows and cards."""
        with session.lock:
            session.drawn += 1
            session.settle(self.host.library)
            self._keep(session)
            cards = self.dialog.cards(session.user)
            return gr.update(markup=self._rows(session), cards=cards, **session.new_sheets())

    def _ask_for_names(self, session: Session, draft: SceneDraft) -> None:
        """RequestError, once, for objects whose sentence says nothing of what they are; whoever
        asks again goes on without."""
        nameless = [item for item in draft.objects if item.nameless]
        new = [item for item in nameless if item.key not in session.unnamed]
        session.unnamed = frozenset(item.key for item in nameless)
        if new:
            numbers = ", ".join(str(draft.objects.index(item) + 1) for item in nameless)
            raise RequestError(self.texts("transfer.name_wanted", numbers=numbers))

    # what is kept

    def _keep(self, session: Session) -> None:
        """What the page shows is what a reload finds."""
        if session.draft is None:
            self.kept.forget(session.owner, session.tab)
        else:
            kept = KeptDraft(session.draft, session.settings)
            self.kept.keep(session.owner, session.tab, kept)

    def keep_settings(self, session: Session, *values: Any) -> None:
        """How the video is to be made, as far as it is chosen."""
        session.settings = self.video.settings.named(values)
        if session.draft is not None:
            self._keep(session)

    def restore_kept_on(self, event: Callable[..., Any]) -> None:
        """At ``event``, once the session's owner is known: the scene of before."""
        settings = self.video.settings
        restored = listen(
            event,
            self.restore_kept,
            inputs=[self.session],
            outputs=[*self.scene_outputs, *settings.returnable],
        )
        restored.success(
            None, js=script("scene_answered").replace("PANEL", ""), api_visibility="private"
        )
        self._prepare_after(restored.success)
        listen(
            partial(gr.on, [field.change for field in settings.fields]),
            self.keep_settings,
            inputs=[self.session, *settings.fields],
            trigger_mode="always_last",
        )

    def restore_kept(self, session: Session) -> list[Any]:
        """The scene that was kept for this tab or browser, where nothing was begun yet."""
        nothing = [gr.skip()] * (len(self.scene_outputs) + len(self.video.settings.returnable))
        with session.lock:
            found = None
            if session.draft is None:
                library = self.host.library.seen_by(session.user)
                options = {"geometry": self.host.geometry(), "library": library}
                found = self.kept.find(session.owner, session.tab, **options)
            if found is None:
                return nothing
            session.go_on_with(found.draft)
            session.settings = found.settings
            if found.lost:
                gr.Warning(
                    html.escape(self.texts("transfer.kept_lost", names=", ".join(found.lost)))
                )
            return [*self._show(session), *self.video.settings.returned(found.settings)]

    # what is shown

    def _show(self, session: Session, *, picture: bool = True) -> list[Any]:
        """One update for each of ``scene_outputs``; ``picture`` False leaves the fits alone."""
        session.drawn += 1
        session.settle(self.host.library)
        self._keep(session)
        fit = gr.skip()
        if picture:
            fit = gr.update(markup=self._fit(session))
        stage, rows = self._canvas(session), self._rows(session)
        return [gr.update(markup=stage), fit, gr.update(markup=rows, **session.new_sheets())]

    def _fit(self, session: Session) -> str:
        geometry, hours = self.host.geometry(), self.host.settings.limits.draft_hours
        return fit_html(session.draft, session.fit, geometry, self.texts, hours=hours)

    def _problems(self, session: Session) -> list[Any]:
        draft = session.draft
        return [] if draft is None else object_problems(draft, self.host.geometry())

    def _canvas(self, session: Session) -> str:
        return canvas_html(
            session.draft,
            history=session.history,
            grid=session.grid,
            drawn=session.drawn,
            problems=self._problems(session),
            geometry=self.host.geometry(),
            texts=self.texts,
            unfamiliar=session.unfamiliar,
        )

    def _rows(self, session: Session) -> str:
        return rows_html(
            session.draft,
            problems=self._problems(session),
            heard=session.heard,
            drawn=session.drawn,
            texts=self.texts,
            counted=self._counted(session.draft),
            unnamed=session.unnamed,
            offer=LearningOffer.of(self.host, self.texts, tuple(self.lessons.examples.values())),
            wrong=[] if session.draft is None else self.lessons.problems(session.draft),
        )

    def _counted(self, draft: SceneDraft | None) -> tuple[int, int] | None:
        """The prompt's tokens and how many the model reads; not while its tokenizer is loaded."""
        tokenizer = None if draft is None or not draft.objects else self.host.tokenizer(wait=False)
        if tokenizer is None:
            return None
        return tokenizer.count(draft.full_prompt()), tokenizer.text_tokens

    def change_own(self, session: Session, event: gr.EventData) -> Any:
        """What is asked of one of one's own motions, and the update of ``objects`` then."""
        self.dialog.change(session.user, dict(event._data or {}))
        return self.show_learned(session)

    def library_update(self, session: Session) -> Any:
        """The update of ``objects`` for the library as it is now: other cards to choose from, and
        other names of what was chosen."""
        with session.lock:
            before = session.draft
            session.settle(self.host.library)
            if session.draft is not before:
                return self.show_learned(session)
            return gr.update(cards=self.dialog.cards(session.user))
