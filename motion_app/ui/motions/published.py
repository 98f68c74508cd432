"""The motions of the hub's repository that the deployment names, to be brought into the library."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence

import gradio as gr

from motion_app.errors import MotionFileError
from motion_app.host import ModelHost
from motion_app.library.published import MotionRepository, PublishedMotion, RepositoryListing
from motion_app.scene import Motion
from motion_app.ui.boundary import in_one_line, listen
from motion_app.ui.markup import Texts, method_text, note_html, script
from motion_app.ui.motion_cards import moves_how
from motion_app.ui.motions.form import TrainingState


class HubPanel:
    """Build it inside a column where ``host.published`` is a repository."""

    def __init__(self, host: ModelHost, repository: MotionRepository, texts: Texts) -> None:
        self.host = host
        self.repository = repository
        self.texts = texts
        with gr.Accordion(texts("motions.hub"), open=False, elem_id="motion-hub"):
            # Events: ``look``, and ``bring`` with the ``file`` of a motion.
            self.shown = gr.HTML(
                self._framed("", texts("motions.hub_look")),
                js_on_load=script("hub"),
                elem_id="hub-motions",
                apply_default_css=False,
            )

    def wire_look(self, state: gr.State) -> None:
        """Bind what changes nothing."""
        listen(self.shown.look, self.look, inputs=[state], outputs=[self.shown])

    def look(self, state: TrainingState) -> str:
        """What the repository holds now, or why that cannot be told."""
        try:
            return self._listed(self.repository.recent(), state)
        except MotionFileError as error:
            return self._framed(_alert(error), self.texts("motions.hub_look"))

    def bring(self, state: TrainingState, file: str) -> str:
        """The motion in ``file``, one of those listed, into the library; the list as it is then, or
        why it could not be brought in."""
        try:
            listing = self.repository.recent()
            entry = next((one for one in listing.motions if one.file == file), None)
            if entry is None:
                raise MotionFileError(self.texts("motions.hub_gone"))
            motion = self.host.import_published_motion(
                self.repository, entry, listing.revision, by=state.user
            )
        except MotionFileError as error:
            return self._framed(_alert(error), self.texts("motions.hub_look"))
        gr.Info(self.texts("motions.imported", name=html.escape(motion.name)))
        state.brought = motion.digest
        return self._listed(listing, state)

    def _listed(self, listing: RepositoryListing, state: TrainingState) -> str:
        here = self.host.library.seen_by(state.user).list()
        base, texts = self.host.base(), self.texts
        items = "".join(_item_html(one, base, here, texts) for one in listing.motions)
        none = f"<p>{html.escape(texts('motions.hub_none'))}</p>"
        title = html.escape(texts("motions.problems", n=len(listing.problems)))
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in listing.problems)
        problems = (
            f'<details class="motion-problems"><summary>{title}</summary><ul>{lines}</ul></details>'
        )
        body = f"<ul>{items}</ul>" if items else none
        return self._framed(
            body + (problems if listing.problems else ""), texts("motions.hub_again")
        )

    def _framed(self, body: str, look: str) -> str:
        """``body`` between what the repository is and how one's own motions come there."""
        repository = html.escape(self.repository.name)
        helped = html.escape(self.texts("motions.hub_help", repo=self.repository.name))
        to_publish = html.escape(self.texts("motions.hub_publish"))
        command = f"python -m motion_app motions push NAME --repo {repository}"
        return (
            f'<div class="hub" data-shown="{time.time()}"><p class="quiet">{helped}</p>{body}'
            f'<div class="motion-acts"><button type="button" data-look>{html.escape(look)}</button>'
            f'</div><p class="quiet">{to_publish} <code>{command}</code></p></div>'
        )


def _alert(error: MotionFileError) -> str:
    return f'<div role="alert">{note_html(in_one_line(error), kind="warning")}</div>'


def _item_html(
    entry: PublishedMotion, base: str | None, here: Sequence[Motion], texts: Texts
) -> str:
    motion = entry.motion
    how = moves_how(motion, texts) or f"“… {motion.phrase}”"
    size = texts("motions.hub_size", n=f"{entry.size / 2**20:.1f}")
    said = html.escape(texts("motions.hub_bring_of", name=motion.name))
    if base is not None and motion.base != base:
        act = f'<span class="tag tag-off">{html.escape(texts("motions.other"))}</span>'
    elif any(_same(motion, other) for other in here):
        act = f'<span class="tag">{html.escape(texts("motions.hub_here"))}</span>'
    else:
        act = (
            f'<button type="button" data-file="{html.escape(entry.file)}" aria-label="{said}">'
            f"{html.escape(texts('motions.hub_bring'))}</button>"
        )
    method = html.escape(method_text(motion.method, texts))
    return (
        f'<li><div><b>{html.escape(motion.name)}</b> <span class="tag">{method}</span>'
        f'<br><span class="quiet">{html.escape(how)} · {html.escape(size)}</span></div>'
        f'<div class="motion-acts">{act}</div></li>'
    )


def _same(motion: Motion, other: Motion) -> bool:
    """Whether two are one motion, as far as their headers tell; it may have been renamed."""
    if motion.base != other.base or motion.method != other.method:
        return False
    if motion.created or other.created:
        return motion.created == other.created
    return motion.name == other.name
