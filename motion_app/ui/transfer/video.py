"""Step 4 of the Transfer tab: settings, Generate, progress, the video; and the gallery below."""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from motion_app.errors import MotionAppError, RequestError
from motion_app.host import ModelHost
from motion_app.jobs.folder import JobRow
from motion_app.request.request import RequestFile
from motion_app.scene import Motion
from motion_app.settings import ROOT
from motion_app.ui.boundary import listen, shown_error
from motion_app.ui.markup import Texts, host_banner, note_html, script, step_heading, title_of
from motion_app.ui.pictures import Previews
from motion_app.ui.transfer.compare import ComparedJob
from motion_app.ui.transfer.draft import SceneDraft, request_of
from motion_app.ui.transfer.gallery import GalleryPanel, shipped_results
from motion_app.ui.transfer.lessons import asked_of_job
from motion_app.ui.transfer.replay import Environment, Replay, installed_versions, read_replay
from motion_app.ui.transfer.result import OverlayVideos, Result, ResultPanel
from motion_app.ui.transfer.session import Session
from motion_app.ui.transfer.settings import Chosen, GenerationSettings
from motion_app.ui.transfer.stream import ASK_SECONDS, KIND, FollowedJobs, JobStream, PanelChange

ReadRows = Callable[[Session, Sequence[Any]], SceneDraft]
RESULTS = ROOT / "assets" / "results"
RestoreScene = Callable[[Session, RequestFile], list[Any]]


class VideoPanel:
    """The components of step 4 and what they do. ``build_gallery`` makes the part for below the
    four steps; then ``wire``, and ``attach_on`` the event that opens the page."""

    def __init__(self, host: ModelHost, texts: Texts, previews: Previews) -> None:
        self.host, self.texts = host, texts
        self.stream = JobStream(host, texts, previews)
        self.overlays = OverlayVideos(host.defaults().export)
        self.followed = gr.State(FollowedJobs())
        gr.HTML(step_heading(4, texts("video.heading"), texts("video.heading_help")))
        self.settings = GenerationSettings(
            host.defaults(),
            texts,
            badge_forced=host.settings.badge,
            methods=host.methods(),
            stock=host.stock(),
            outlook=host.models.stock_outlook,
        )
        self.notes = gr.HTML(apply_default_css=False, elem_id="restore-notes")
        with gr.Row():
            self.generate_button = gr.Button(
                texts("video.generate"), variant="primary", min_width=120, elem_id="generate"
            )
            self.cancel_button = gr.Button(
                texts("video.cancel"), visible=False, min_width=80, elem_id="cancel"
            )
        self.status = gr.HTML(apply_default_css=False, elem_id="status")
        self.announced = gr.HTML(
            js_on_load=script("announce"), apply_default_css=False, elem_id="announced"
        )
        self.live = gr.HTML(self.stream.empty, apply_default_css=False, elem_id="live")
        self.previews = previews
        self.timer = gr.Timer(ASK_SECONDS, active=False)
        # What a job learned last: the library is another one. No gr.State: of what is answered
        # outside the line, the page hears of no change of those.
        self.learned = gr.Textbox(visible="hidden", show_label=False, elem_id="learned")

    def build_gallery(self) -> GalleryPanel:
        """The video on show, the browser's own videos, the comparison and the drop zone, as wide as
        the page."""
        self.result = ResultPanel(self.texts, self.previews, self._motion_named)
        shipped = shipped_results(RESULTS, model=self.host.defaults().name, texts=self.texts)
        self.gallery = GalleryPanel(self.texts, fps=self.host.geometry().fps, shipped=shipped)
        return self.gallery

    def _motion_named(self, name: str) -> Motion | None:
        return next((item for item in self.host.library.list() if item.name == name), None)

    def wire(
        self,
        session: gr.State,
        fields: Sequence[Any],
        read_rows: ReadRows,
        redraw_rows: Callable[[Session], Any],
        banner: gr.HTML,
        *,
        restore: RestoreScene,
        scene_outputs: Sequence[Any],
    ) -> None:
        """Bind the buttons. ``fields``: all rows' fields, which ``read_rows`` understands
        and ``redraw_rows`` draws anew with what is wrong in them;
        ``banner`` is renewed after each video; ``restore`` makes the updates of ``scene_outputs``
        for the scene of a recipe."""
        self._read_rows, self._redraw_rows, self._restore_scene = read_rows, redraw_rows, restore
        self.states = [session, self.followed]
        self.outputs = [
            *(self.cancel_button, self.status, self.announced, self.live),
            *(*self.result.outputs, self.gallery.html, banner, self.learned, self.timer),
        ]
        self.settings.wire()
        self._wire_generation(fields)
        self._wire_gallery()
        restored = [*scene_outputs, *self.settings.restorable, self.notes]
        self._restored_parts = len(restored)
        dropped = listen(
            self.gallery.drop.upload,
            self.restore_file,
            inputs=[session, self.gallery.drop],
            outputs=[self.gallery.drop, *restored],
        )
        again = listen(
            self.result.again.click, self.restore_shown, inputs=self.states, outputs=restored
        )
        taken = listen(
            self.gallery.shipped_cards.act, self.take_over, inputs=[session], outputs=restored
        )
        for event in (dropped, again, taken):
            event.success(None, js=script("to_steps"), api_visibility="private")

    def _wire_generation(self, fields: Sequence[Any]) -> None:
        submitted = listen(
            self.generate_button.click,
            self.submit,
            inputs=[*self.states, *self.settings.fields, *fields],
            outputs=[self.settings.seed, self.status, self.notes, *fields],
            concurrency_limit=None,
        )
        self._stream_on(submitted.success, self.follow_submitted)
        listen(
            self.timer.tick,
            self.ask,
            inputs=self.states,
            outputs=self.outputs,
            queue=False,
        )
        listen(
            self.cancel_button.click,
            self.cancel,
            inputs=self.states,
            outputs=[self.cancel_button],
            queue=False,
        )
        overlay = self.result.overlay
        listen(
            overlay.input,
            self.show_overlay,
            inputs=[*self.states, overlay],
            outputs=[self.result.player],
            show_progress="minimal",  # it is rendered when first asked for
        )

    def _wire_gallery(self) -> None:
        gallery, compare = self.gallery.html, self.gallery.compare.outputs
        self._stream_on(gallery.act, self.act)
        listen(
            gallery.side,
            self.choose_side,
            inputs=self.states,
            outputs=[gallery, *compare],
        )
        listen(
            gallery.remove,
            self.delete,
            inputs=self.states,
            outputs=[*self.outputs, *compare],
        )

    def _stream_on(self, event: Callable[..., Any], handler: Callable[..., Any]) -> None:
        """Bind a stream of panels. Several may be open in one browser."""
        options = {"trigger_mode": "multiple", "concurrency_limit": None}
        listen(event, handler, inputs=self.states, outputs=self.outputs, **options)

    def attach_on(self, event: Callable[..., Any]) -> None:
        """At ``event``, once the session's owner is known: the browser's running job goes on being
        told, or its last video is shown again."""
        self._stream_on(event, self.attach)

    # one video

    def submit(self, session: Session, followed: FollowedJobs, *values: Any) -> Iterator[list[Any]]:
        """A new job from what is on the page: yields the seed it uses. A mistake is told in the
        status line as well as by the toast."""
        own = len(self.settings.fields)
        try:
            chosen = self.settings.chosen(values[:own])
            row = self._new_job(session, self._read_rows(session, values[own:]), chosen)
        except Exception as error:
            shown = shown_error(error)
            told = mistake_html(html.unescape(str(shown.message)))
            yield [gr.skip(), told, gr.skip(), self._redraw_rows(session)]
            raise shown from error
        followed.look_at(row.id)
        yield [chosen.options.seed, "", "", gr.skip()]

    def _new_job(self, session: Session, draft: SceneDraft, chosen: Chosen) -> JobRow:
        request = request_of(draft, chosen.options)
        learn, files = asked_of_job(draft.lessons)
        inputs = {
            "request": request,
            "badge": chosen.badge,
            "colours": [item.slot for item in draft.objects],
            "learn": learn,
        }
        title = title_of(request, self.texts)
        who = {"owner": session.owner, "address": session.address}
        return self.host.jobs.submit(KIND, inputs, title=title, files=files, **who)

    def follow_submitted(self, session: Session, followed: FollowedJobs) -> Iterator[list[Any]]:
        """The progress of the job that was just handed in, then its video."""
        if followed.job is not None:
            yield from self._followed(session.owner, followed, followed.job)

    def _followed(self, owner: str, followed: FollowedJobs, job: str) -> Iterator[list[Any]]:
        """The first panel of ``job``; the timer asks for the others. On a lent device the call has
        to stay open, and streams them."""
        if self.host.lent:
            yield from self._told(self.stream.follow(owner, followed, job))
        else:
            yield from self._told([self.stream.begin(owner, followed, job)])

    def ask(self, session: Session, followed: FollowedJobs) -> list[Any]:
        """What is new of the jobs that are followed. What went wrong is told the next time: an
        answer is what to show, or an error."""
        if followed.troubles:
            first, *rest = followed.troubles
            followed.troubles = tuple(rest)
            raise RequestError(first)
        troubles: list[str] = []
        panel = self.stream.ask(session.owner, followed)
        updates = self._updates(panel, troubles.append)
        if panel.failure is not None:
            troubles.append(panel.failure)
        followed.troubles = tuple(troubles)
        return [*updates[:-1], gr.skip()] if troubles else updates  # the timer goes on

    def attach(self, session: Session, followed: FollowedJobs) -> Iterator[list[Any]]:
        """See ``attach_on``."""
        if self.host.lent:
            panels: Iterable[PanelChange] = self.stream.attach(session.owner, followed)
        else:
            panels = [self.stream.arrive(session.owner, followed)]
        for panel in panels:
            yield self._updates(panel)  # an old failure is in the status line, and no news

    def cancel(self, session: Session, followed: FollowedJobs) -> Any:
        """Stop what is in the panel at the end of its current step."""
        if followed.job is not None:
            self.host.jobs.cancel(self.stream.own(session.owner, followed.job).id)
        return gr.update(value=self.texts("video.stopping_short"), interactive=False)

    def show_overlay(self, session: Session, followed: FollowedJobs, on: bool) -> Any:
        """The video in the player with its masks, or without."""
        if followed.job is None:
            return gr.skip()
        result = self._result(session, followed.job)
        if not on:
            return str(result.video)
        badge = bool(result.row.inputs.get("badge"))
        path = self.overlays(result.folder, result.row.outcome, result.slots, badge=badge)
        return str(path)

    def _result(self, session: Session, job: str) -> Result:
        return self.stream.result(self.stream.own(session.owner, job))

    # the gallery

    def act(
        self, session: Session, followed: FollowedJobs, event: gr.EventData
    ) -> Iterator[list[Any]]:
        """Show a card's video or its progress, run it again, or stop it."""
        owner, action = session.owner, str(event.action)
        row = self.stream.own(owner, str(event.id))
        if action == "stop":
            self.host.jobs.cancel(row.id)
            yield self._updates(PanelChange(gallery=self.stream.gallery(owner, followed)))
            return
        if action == "again":
            row = self.host.jobs.again(row.id, address=session.address)
        if row.active:
            yield from self._followed(owner, followed, row.id)
        else:
            yield self._updates(self.stream.show(owner, followed, row))

    def choose_side(
        self, session: Session, followed: FollowedJobs, event: gr.EventData
    ) -> list[Any]:
        """A card's video comes to side A or B of the comparison, or leaves it."""
        row = self.stream.own(session.owner, str(event.id))
        side = "a" if event.action == "side_a" else "b"
        followed.compared = followed.compared.chosen(side, row.id)
        gallery = self.stream.gallery(session.owner, followed)
        return [gallery, *self._pair_updates(session, followed)]

    def delete(self, session: Session, followed: FollowedJobs, event: gr.EventData) -> list[Any]:
        """A card's video goes, from the panel and the comparison too."""
        row = self.stream.own(session.owner, str(event.id))
        self.host.jobs.delete(row.id)
        followed.compared = followed.compared.without(row.id)
        panel = PanelChange()
        if followed.job == row.id:
            followed.look_at(None)
            panel = PanelChange(busy=False, status="", live=self.stream.empty, result="hidden")
        panel = replace(panel, gallery=self.stream.gallery(session.owner, followed))
        return [*self._updates(panel), *self._pair_updates(session, followed)]

    def _pair_updates(self, session: Session, followed: FollowedJobs) -> list[Any]:
        """The two videos chosen for comparison."""
        results = [
            None if job is None else self._result(session, job) for job in followed.compared.sides
        ]
        chosen = [
            None if found is None else ComparedJob(found.row, found.video) for found in results
        ]
        return self.gallery.compare.updates(*chosen)

    # recipes

    def restore_file(self, session: Session, path: str | None) -> Iterator[list[Any]]:
        """A recipe, or a video made here, as a new scene. The drop zone is emptied first, so that
        it takes another file even when this one is refused."""
        yield [None, *[gr.skip()] * self._restored_parts]
        if path is None:
            raise RequestError("no file arrived; drop a recipe (JSON) or a video made here")
        yield [None, *self._restored(session, Path(path))]

    def restore_shown(self, session: Session, followed: FollowedJobs) -> list[Any]:
        """The recipe of the video on show as a new scene."""
        if followed.job is None:
            raise RequestError("no video is on show; choose one in the gallery")
        return self._restored(session, self._result(session, followed.job).file("recipe"))

    def take_over(self, session: Session, event: gr.EventData) -> list[Any]:
        """The recipe of a video that came with the app as a new scene."""
        values = event.action if isinstance(event.action, dict) else {}
        result = self.gallery.shipped.get(str(values.get("name")))
        if result is None:
            raise RequestError("this result is not there any more; reload the page")
        return self._restored(session, result.recipe)

    def _restored(self, session: Session, path: Path) -> list[Any]:
        replay = read_replay(
            path,
            library=self.host.library.seen_by(session.user),
            environment=self._environment(),
            limits=self.host.settings.limits,
        )
        scene = self._restore_scene(session, replay.request)
        return [*scene, *self.settings.restored(replay.request), self._told_notes(replay)]

    def _told_notes(self, replay: Replay) -> str:
        lines = [note_html(note.text(self.texts), kind=note.kind) for note in replay.notes]
        return note_html(self.texts("video.replay_ready")) + "".join(lines)

    def _environment(self) -> Environment:
        status = self.host.status()
        engine = self.host.wait_for_engine(0.0) if status.state == "ready" else None
        base = None if engine is None else engine.fingerprint
        versions, stock = installed_versions(), tuple(self.host.stock())
        return Environment(status.name, base, status.device, versions, stock)

    # updates

    def _told(self, panels: Iterable[PanelChange]) -> Iterator[list[Any]]:
        """The updates of each panel; a failure is a toast too."""
        for panel in panels:
            yield self._updates(panel)
            if panel.failure is not None:
                raise RequestError(panel.failure)

    def _updates(self, panel: PanelChange, warn: Callable[[str], Any] | None = None) -> list[Any]:
        """One update for each of ``outputs``. ``warn`` is told why a video cannot be shown; None
        for a toast."""
        busy, stopping = panel.busy, panel.stopping
        cancel = self.texts("video.stopping_short" if stopping else "video.cancel")
        ended = busy is False and panel.result is not None
        return [
            gr.skip()
            if busy is None
            else gr.update(visible=busy, value=cancel, interactive=not stopping),
            *(_or_skip(part) for part in (panel.status, panel.announced, panel.live)),
            *self._result_updates(panel, warn or _toast),
            _or_skip(panel.gallery),
            host_banner(self.host, self.texts) if ended else gr.skip(),
            _or_skip(panel.learned),
            self._timer_update(panel),
        ]

    def _timer_update(self, panel: PanelChange) -> Any:
        """Whether the page asks again, and how soon: later where many do."""
        if panel.asks is False:
            return gr.Timer(active=False)
        if panel.asks is None and panel.pace is None:
            return gr.skip()
        return gr.Timer(panel.pace or ASK_SECONDS, active=True)

    def _result_updates(self, panel: PanelChange, warn: Callable[[str], Any]) -> list[Any]:
        if panel.result is None:
            return self.result.kept()
        if panel.result == "hidden":
            return self.result.hidden()
        try:
            return self.result.updates(panel.result, arrives=panel.arrives)
        except MotionAppError as error:
            warn(str(error))
            return self.result.hidden()


def mistake_html(words: str) -> str:
    """What is wrong with what was asked: the page takes it away once something is changed. The mark
    makes each a new one, also in the same words."""
    mark = secrets.token_hex(4)
    return f'<div class="mistake" data-mark="{mark}">{note_html(words, kind="warning")}</div>'


def _toast(words: str) -> None:
    gr.Warning(html.escape(words))


def _or_skip(part: str | None) -> Any:
    return gr.skip() if part is None else part
