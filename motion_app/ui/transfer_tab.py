"""The Transfer tab: picture → objects → motions → video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from motion_app.errors import MediaError, RequestError
from motion_app.geometry import FIT_MODES
from motion_app.media import read_image
from motion_app.scene import Click, Motion
from motion_app.ui.boundary import listen
from motion_app.ui.examples import Example
from motion_app.ui.host import ModelHost
from motion_app.ui.object_rows import ObjectRow, motion_choices
from motion_app.ui.previews import MotionPreviews
from motion_app.ui.progress import note_html, step_heading
from motion_app.ui.session import ObjectDraft, SceneDraft, Session, object_warning
from motion_app.ui.stage import CLEAR_WAITING_JS, new_example_picker, new_stage, stage_html
from motion_app.ui.texts import Texts
from motion_app.ui.video_panel import VideoPanel

PICTURE_FILES = [
    *(".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif", ".avif", ".bmp", ".tif", ".tiff", ".gif")
]
FITS = dict(zip(("Crop", "Pad", "Stretch"), FIT_MODES, strict=True))
INCLUDE, EXCLUDE = "include", "exclude"


class TransferTab:
    """Build it inside ``gr.Blocks``. Holds components and what is shared by all browsers; what a
    person does is in their ``Session``."""

    def __init__(
        self, host: ModelHost, texts: Texts, examples: Sequence[Example], session: gr.State
    ) -> None:
        self.host = host
        self.texts = texts
        self.limits = host.settings.limits
        self.examples = {example.name: example for example in examples}
        self.previews = MotionPreviews(self.limits)
        self.session = session
        with gr.Row(elem_id="steps"):
            with gr.Column(elem_classes="step", min_width=200):
                self._build_picture(examples)
            with gr.Column(elem_classes="step", min_width=280):
                self._build_objects()
            with gr.Column(elem_classes="step", min_width=280):
                self._build_motions()
            with gr.Column(elem_classes="step", min_width=280):
                self.video = VideoPanel(host, texts)
        self.scene_outputs = [
            *(self.stage, self.fit_note, self.hint, self.motion_hint),
            *(output for row in self.rows for output in row.outputs),
        ]

    def _build_picture(self, examples: Sequence[Example]) -> None:
        gr.HTML(step_heading(1, "Picture", "Pick an example, or bring your own."))
        self.picker = new_example_picker(examples)
        self.upload = gr.File(
            label="Upload a picture",
            file_types=PICTURE_FILES,
            height=120,
            elem_id="upload",
        )
        self.fit = gr.Radio(
            list(FITS.items()),
            value=FIT_MODES[0],
            label="Fit to the model's frame",
            elem_id="fit",
        )
        self.fit_note = gr.HTML(apply_default_css=False)

    def _build_objects(self) -> None:
        gr.HTML(step_heading(2, "Objects", "Click each thing that shall move."))
        self.stage = new_stage()
        self.hint = gr.HTML(hint_html(None, self.host), apply_default_css=False, elem_id="hint")
        self.kind = gr.Radio(
            [("＋ belongs to it", INCLUDE), ("－ does not", EXCLUDE)],
            value=INCLUDE,
            label="The next click",
            elem_id="click-kind",
        )
        with gr.Row():
            self.fresh = gr.Button("New object", size="sm", min_width=100, elem_id="new-object")
            self.undo = gr.Button("Undo click", size="sm", min_width=100, elem_id="undo")

    def _build_motions(self) -> None:
        gr.HTML(step_heading(3, "Motions", "Choose how each object moves."))
        self.motion_hint = gr.HTML(motion_hint_html(None), apply_default_css=False)
        choices = motion_choices(self.host.motions())
        self.rows = [ObjectRow.build(index, choices) for index in range(self.limits.objects)]

    def wire(self, banner: gr.HTML) -> None:
        """Bind every event. ``banner`` is renewed after each video."""
        self._wire_picture()
        self._wire_clicks()
        for row in self.rows:
            self._wire_row(row)
        fields = [field for row in self.rows for field in row.fields]
        self.video.wire(self.session, fields, self.read_rows, banner)

    def _wire_picture(self) -> None:
        session, show = self.session, self.scene_outputs
        chosen = [
            listen(self.picker.pick, self.pick_example, inputs=[session, self.fit], outputs=show),
            listen(
                self.upload.upload,
                self.upload_picture,
                inputs=[session, self.fit, self.upload],
                outputs=[self.upload, *show],
                api_name="upload_picture",
            ),
        ]
        for event in chosen:
            listen(event.then, self.prepare_clicks, inputs=[session])
        listen(
            self.fit.input,
            self.change_fit,
            inputs=[session, self.fit],
            outputs=show,
            api_name="change_fit",
        )

    def _wire_clicks(self) -> None:
        session, show = self.session, self.scene_outputs
        point = listen(
            self.stage.point,
            self.click,
            inputs=[session, self.kind],
            outputs=show,
            trigger_mode="multiple",
            concurrency_limit=None,
        )
        for ended in (point.success, point.failure):
            ended(None, js=CLEAR_WAITING_JS, api_visibility="private")
        for index, event in enumerate((self.fresh.click, self.stage.fresh)):
            name = {} if index else {"api_name": "new_object"}
            outputs = [self.kind, *show]
            listen(event, self.new_object, inputs=[session], outputs=outputs, **name)
        for index, event in enumerate((self.undo.click, self.stage.undo)):
            name = {} if index else {"api_name": "undo_click"}
            listen(event, self.undo_click, inputs=[session], outputs=show, **name)

    def _wire_row(self, row: ObjectRow) -> None:
        """A row's own edits update that row alone; Refine and Delete show the whole scene anew."""
        session, show = self.session, self.scene_outputs
        edits: list[tuple[Callable[..., Any], Callable[..., Any], Any]] = [
            (row.motion.input, self._set_motion(row), row.motion),
            (row.name.blur, self._rename(row), row.name),
            (row.name.submit, self._rename(row), row.name),
            (row.sentence.blur, self._set_sentence(row), row.sentence),
            (row.sentence.submit, self._set_sentence(row), row.sentence),
            (row.strength.release, self._set_strength(row), row.strength),
        ]
        for event, handler, component in edits:
            listen(event, handler, inputs=[session, component], outputs=row.outputs)
        listen(row.refine.click, self._refine(row), inputs=[session], outputs=show)
        listen(row.delete.click, self._delete(row), inputs=[session], outputs=show)

    # pictures

    def pick_example(self, session: Session, fit: str, event: gr.EventData) -> list[Any]:
        """An example by its name."""
        example = self.examples.get(str(event.name))
        if example is None:
            raise RequestError("that example is not there any more; reload the page")
        draft = SceneDraft.of(example.picture, fit, self.host.geometry(), example.objects)
        return self._replace(session, draft)

    def upload_picture(self, session: Session, fit: str, path: str | None) -> Iterator[list[Any]]:
        """A picture file. The upload box is emptied first, so that it takes another one even when
        this one is refused."""
        yield [None, *[gr.skip()] * len(self.scene_outputs)]
        if not path:
            raise MediaError("no picture arrived; choose a PNG, JPEG, WebP or HEIC file")
        picture = read_image(Path(path), limits=self.limits)
        draft = SceneDraft.of(picture, fit, self.host.geometry())
        yield [None, *self._replace(session, draft)]

    def change_fit(self, session: Session, fit: str) -> list[Any]:
        """The same picture in the model's frame in another way; clicks stay on what they marked."""
        if session.draft is None:
            return self._show(None, None)

        def refit(draft: SceneDraft) -> SceneDraft:
            fitted = draft.refitted(fit, self.host.geometry(), self._segment(session))
            lost = len(draft.objects) - len(fitted.objects)
            if lost:
                gr.Warning(f"{lost} marked outside the new frame, and not kept.", title="Fit")
            return fitted

        return self._edit(session, refit)

    def prepare_clicks(self, session: Session) -> None:
        """Encode the picture before the first click needs it."""
        if self.host.clicks_ready and session.draft is not None:
            with session.lock:
                self._with_picture(session, session.draft.fitted.image)

    # clicks

    def click(self, session: Session, kind: str, event: gr.EventData) -> list[Any]:
        """A click at ``event.x``, ``event.y``, shares of the frame."""
        height, width = session.scene().fitted.image.shape[:2]
        positive = (kind == INCLUDE) != bool(event.flip)
        click = Click(float(event.x) * width, float(event.y) * height, positive)
        if not self.host.clicks_ready:
            gr.Info(
                "Your click is kept and answered as soon as the model is there.", title="Loading"
            )
        return self._edit(
            session,
            lambda draft: draft.clicked(click, self._segment(session), most=self.limits.objects),
        )

    def new_object(self, session: Session) -> list[Any]:
        """The next click begins a new object."""
        return [INCLUDE, *self._edit(session, lambda draft: draft.changed_selection(None))]

    def undo_click(self, session: Session) -> list[Any]:
        """Take the last click back."""
        return self._edit(session, SceneDraft.undone)

    def _segment(self, session: Session) -> Callable[[np.ndarray, Sequence[Click]], np.ndarray]:
        def segment(image: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
            self._with_picture(session, image)
            return session.segmenter.predict(clicks).mask

        return segment

    def _with_picture(self, session: Session, image: np.ndarray) -> None:
        if session.segmenter is None:
            session.segmenter = self.host.segmenter()
        session.segmenter.set_image(image)

    # rows

    def _set_motion(self, row: ObjectRow) -> Callable[[Session, str], list[Any]]:
        def set_motion(session: Session, name: str) -> list[Any]:
            motion = self._motion(name)
            return self._edit_row(session, row, lambda item: item.moved_by(motion), "motion")

        return set_motion

    def _rename(self, row: ObjectRow) -> Callable[[Session, str], list[Any]]:
        def rename(session: Session, name: str) -> list[Any]:
            return self._edit_row(session, row, lambda item: item.renamed(name.strip()), "name")

        return rename

    def _set_sentence(self, row: ObjectRow) -> Callable[[Session, str], list[Any]]:
        def set_sentence(session: Session, sentence: str) -> list[Any]:
            return self._edit_row(session, row, lambda item: item.rewritten(sentence), "sentence")

        return set_sentence

    def _set_strength(self, row: ObjectRow) -> Callable[[Session, float], list[Any]]:
        def set_strength(session: Session, strength: float) -> list[Any]:
            return self._edit_row(
                session, row, lambda item: item.with_strength(strength), "strength"
            )

        return set_strength

    def _refine(self, row: ObjectRow) -> Callable[[Session], list[Any]]:
        def refine(session: Session) -> list[Any]:
            return self._edit(session, lambda draft: draft.changed_selection(row.index))

        return refine

    def _delete(self, row: ObjectRow) -> Callable[[Session], list[Any]]:
        def delete(session: Session) -> list[Any]:
            return self._edit(session, lambda draft: draft.without(row.index))

        return delete

    def _motion(self, name: str | None) -> Motion | None:
        return None if not name else self.host.library.find(name)

    def read_rows(self, session: Session, values: Sequence[Any]) -> SceneDraft:
        """The draft with what stands in the rows now: text still being typed counts."""
        with session.lock:
            draft = session.scene()
            for row in self.rows[: len(draft.objects)]:
                start = row.index * len(row.fields)
                name, motion, sentence, strength = values[start : start + len(row.fields)]
                change = {
                    "name": str(name or "").strip(),
                    "motion": self._motion(motion),
                    "sentence": str(sentence or "").strip(),
                    "strength": float(strength),
                }
                draft = draft.changed(row.index, lambda item, c=change: replace(item, **c))
            session.draft = draft
            return draft

    # what is shown

    def _replace(self, session: Session, draft: SceneDraft) -> list[Any]:
        with session.lock:
            before, session.draft = session.draft, draft
            return self._show(draft, before)

    def _edit(self, session: Session, change: Callable[[SceneDraft], SceneDraft]) -> list[Any]:
        with session.lock:
            before = session.scene()
            session.draft = change(before)
            return self._show(session.draft, before)

    def _edit_row(
        self,
        session: Session,
        row: ObjectRow,
        change: Callable[[ObjectDraft], ObjectDraft],
        written: str,
    ) -> list[Any]:
        with session.lock:
            before = session.draft
            if before is None or row.index >= len(before.objects):
                return [gr.skip()] * len(row.outputs)
            session.draft = before.changed(row.index, change)
            return self._row_updates(row, session.draft, before, written)

    def _show(self, draft: SceneDraft | None, before: SceneDraft | None) -> list[Any]:
        updates = [
            stage_html(draft),
            note_html("" if draft is None else draft.fitted.summary()),
            hint_html(draft, self.host),
            motion_hint_html(draft),
        ]
        for row in self.rows:
            updates += self._row_updates(row, draft, before)
        return updates

    def _row_updates(
        self,
        row: ObjectRow,
        draft: SceneDraft | None,
        before: SceneDraft | None,
        written: str = "",
    ) -> list[Any]:
        return row.updates(
            draft,
            before=before,
            geometry=self.host.geometry(),
            previews=self.previews,
            written=written,
        )

    def library_updates(self) -> list[Any]:
        """The dropdowns' choices as the library is now."""
        return [gr.update(choices=motion_choices(self.host.motions()))] * len(self.rows)


def hint_html(draft: SceneDraft | None, host: ModelHost) -> str:
    """What the next click does, and what is wrong with the masks so far."""
    if draft is None:
        return note_html("Choose a picture first.")
    if draft.selected is not None:
        number = draft.selected + 1
        text = f"The next click refines object {number}. Press “New object” to mark another thing."
        warning = object_warning(draft.objects[draft.selected], host.geometry())
        return note_html(text) + note_html(
            warning and f"Object {number}: {warning}", kind="warning"
        )
    if draft.objects:
        return note_html("Click on the next object.")
    return note_html("Click on the first object.")


def motion_hint_html(draft: SceneDraft | None) -> str:
    if draft is None or not draft.objects:
        return note_html("Objects appear here as soon as you mark them.")
    return ""
