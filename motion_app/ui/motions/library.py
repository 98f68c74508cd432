"""The library as a panel, and how a motion file comes into it.

The library of motions as a panel: cards, import, export, deleting and bringing back.

An uploaded motion file on its way into the library: our own form, or the authors'. No gradio.
"""

from __future__ import annotations

import html
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from motion_app.errors import MotionFileError, RequestError
from motion_app.host import ModelHost
from motion_app.library.library import keep_owner
from motion_app.library.motion_file import read_motion
from motion_app.scene import NEUTRAL_PHRASE, Motion
from motion_app.ui.boundary import listen
from motion_app.ui.markup import note_html, script, titled_html
from motion_app.ui.motion_cards import library_html, new_cards
from motion_app.ui.motions.training import TrainingState
from motion_app.ui.pictures import Previews
from motion_app.ui.texts import Texts

MOTION_FILES = [".safetensors", ".pt"]
EXPORT_SECONDS = 3600.0  # how long an exported file can be fetched


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
                outputs=[state, cards, self.import_file, self.import_name],
            )
        )

    def show_cards(self, state: TrainingState) -> str:
        """The library as it is now."""
        motions = self.host.library.list()
        return library_html(
            motions,
            base=self.host.base(),
            deletable=frozenset(m.digest for m in motions if self._deletable(m, state)),
            deleted=state.deleted,
            problems=self.host.library.problems(),
            previews=self.previews,
            texts=self.texts,
        )

    def _deletable(self, motion: Motion, state: TrainingState) -> bool:
        """What one made or brought in oneself, and at one's own machine what nobody did."""
        return self.host.library.writable(motion) and state.user.may_change(motion.path)

    def act(self, state: TrainingState, event: gr.EventData) -> list[Any]:
        """Export or delete the motion of a card."""
        data = event._data or {}
        digest = str(data.get("digest"))
        motion = next((m for m in self.host.library.list() if m.digest == digest), None)
        if motion is None:
            raise MotionFileError("this motion is not in the library any more; reload the page")
        if data.get("what") == "export":
            file = self.host.library.export_file(motion, new_export_folder())
            return [gr.skip(), gr.skip(), gr.update(value=str(file))]
        if not self._deletable(motion, state):
            why = "not_yours" if self.host.library.writable(motion) else "not_deletable"
            raise MotionFileError(self.texts(f"motions.{why}", name=motion.name))
        state.deleted = self.host.library.delete(motion.path, by=state.user)
        return [state, self.show_cards(state), gr.update(value=None)]

    def restore(self, state: TrainingState, event: gr.EventData) -> list[Any]:
        """Bring back what was deleted last."""
        token = str((event._data or {}).get("token"))
        if state.deleted is None or state.deleted.token != token:
            raise MotionFileError("this can be undone no more; import or learn the motion again")
        self.host.library.restore(token, by=state.user)
        state.deleted = None
        return [state, self.show_cards(state)]

    def bring(self, state: TrainingState, file: str | None, name: str, phrase: str) -> list[Any]:
        """Import an uploaded motion."""
        if file is None:
            raise RequestError("no file has been chosen; choose an exported motion")
        owner = state.user.owner
        motion = bring_in(self.host, Path(file), name=name, phrase=phrase, owner=owner)
        gr.Info(self.texts("motions.imported", name=html.escape(motion.name)))
        return [state, self.show_cards(state), None, ""]


def new_export_folder() -> Path:
    """A folder for one exported motion, in gradio's own temporary one; old ones are removed. Its
    name is 128 random bits: who does not know it cannot ask for what is in it."""
    root = Path(get_upload_folder()) / "exports"
    before = time.time() - EXPORT_SECONDS
    for folder in root.glob("*"):
        if folder.stat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)
    return root / secrets.token_hex(16)


def bring_in(
    host: ModelHost, file: Path, *, name: str = "", phrase: str = "", owner: str = ""
) -> Motion:
    """Check ``file`` against the loaded model and put it into the library as ``owner``'s.

    ``name`` "" keeps its own; a published ``.pt`` knows no name and no ``phrase`` of its own: its
    file's name and the neutral phrase are taken. Raises MotionFileError.
    """
    if file.suffix.lower() == ".pt":
        return _bring_published(host, file, name=name, phrase=phrase, owner=owner)
    if phrase.strip():
        raise RequestError("an exported motion keeps its own phrase; leave that field empty")
    geometry = host.geometry()
    return host.library.import_file(
        file,
        name=name,
        base=host.base(),
        layers=geometry.layers,
        width=geometry.width_tokens,
        limits=host.settings.limits,
        owner=owner,
    )


def _bring_published(host: ModelHost, file: Path, *, name: str, phrase: str, owner: str) -> Motion:
    """The authors' file, bound to the loaded model."""
    from motion_app.engine.motion_tokens import convert_published

    engine = host.engine()
    chosen = name.strip() or file.stem
    out = host.library.new_path(chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    convert_published(
        file,
        out,
        layers=engine.geometry.layers,
        width=engine.geometry.width_tokens,
        base=engine.fingerprint,
        name=chosen,
        phrase=phrase.strip() or NEUTRAL_PHRASE,
        limits=host.settings.limits,
    )
    keep_owner(out, owner)
    return read_motion(out)
