"""What step 4 shows of a job while it waits, runs and ends, as a stream of panels. No gradio here:
``video_panel`` turns a panel into the components' updates."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from motion_app.errors import RequestError
from motion_app.jobs.store import JobRow
from motion_app.jobs.work import JobProgress
from motion_app.scene import StepReport
from motion_app.ui.finished import Result, slots_of
from motion_app.ui.following import Following
from motion_app.ui.gallery import MOST_SHOWN, Thumbnails, View, gallery_html
from motion_app.ui.overlay import animation_uri, preview_frames
from motion_app.ui.progress import announcement, in_words, note_html, progress_html
from motion_app.ui.texts import Texts

if TYPE_CHECKING:
    from motion_app.ui.host import ModelHost

KIND = "generate"
TICK_SECONDS = 1.0  # how often a waiting page is told that time passes
PREVIEW_SECONDS = 0.7  # between two previews: each is decoded and sent


@dataclass(frozen=True)
class Panel:
    """What shall change in step 4; None leaves a part as it is.

    ``busy``: a job is at work, and ``stopping`` if it was asked to end; ``status``, ``live`` and
    ``gallery`` are HTML, ``announced`` words for a screen reader; ``result`` a video to show, or
    "hidden" to put the shown one away; ``failure`` what a toast has to say.
    """

    busy: bool | None = None
    stopping: bool = False
    status: str | None = None
    announced: str | None = None
    live: str | None = None
    result: Result | Literal["hidden"] | None = None
    gallery: str | None = None
    failure: str | None = None


class JobStream:
    """Panels of the jobs of any browser; what is one browser's own is in ``owner`` and
    ``Following``."""

    def __init__(self, host: ModelHost, texts: Texts) -> None:
        self.host, self.texts = host, texts
        self.empty = f'<div class="video-empty">{texts("video.empty")}</div>'
        self._thumbnails = Thumbnails()

    def own(self, owner: str, job: str) -> JobRow:
        """The owner's job of that id; RequestError for anybody else's, in the words for one that
        does not exist."""
        row = self.host.jobs.row(job)
        if row.owner != owner or row.kind != KIND:
            raise RequestError("this video is not there any more; reload the page")
        return row

    def result(self, row: JobRow) -> Result:
        """The files of a job that is done."""
        if row.state != "done":
            raise RequestError("this video is not finished")
        return Result(row, self.host.jobs.folder(row.id))

    def gallery(self, owner: str, following: Following) -> str:
        """The owner's videos as HTML."""
        rows = self.host.jobs.rows(owner, kind=KIND, limit=MOST_SHOWN)
        view = View(time.time(), following.job, following.pair.sides, lent=self.host.lent)
        return gallery_html(
            rows, lambda row: self._thumbnails(row, self.host.jobs.folder(row.id)), view, self.texts
        )

    def attach(self, owner: str, following: Following) -> Iterator[Panel]:
        """When a page is opened: the owner's running job goes on being told, else the last video is
        shown again."""
        rows = self.host.jobs.rows(owner, kind=KIND)
        active = [row for row in rows if row.active]
        if active:
            yield from self.follow(owner, following, active[0].id)
            return
        last = next((row for row in rows if row.state == "done"), None)
        if last is None:
            yield Panel(gallery=self.gallery(owner, following))
        else:
            yield self.show(owner, following, last)

    def show(self, owner: str, following: Following, row: JobRow) -> Panel:
        """A job that has ended comes into the panel."""
        following.look_at(row.id)
        return self._ended(owner, following, row)

    def follow(self, owner: str, following: Following, job: str) -> Iterator[Panel]:
        """The panel at every change of a job, to its end. When another one has come into the panel
        meanwhile, only the gallery is told how this one ended."""
        turn = following.look_at(job)
        line: tuple[int, str] | None = None
        preview = _PreviewClock()
        with closing(self.host.jobs.follow(job, every=TICK_SECONDS)) as told:
            for progress in told:
                row = progress.row
                if not following.leads(turn):
                    if not row.active:
                        yield Panel(gallery=self.gallery(owner, following))
                    continue
                if not row.active:
                    ended = self._ended(owner, following, row)
                    yield replace(ended, failure=row.message if row.state == "failed" else None)
                    continue
                panel = self._running(progress, draw=preview.due(progress.news))
                if line is None:
                    panel = replace(panel, live=panel.live or self.empty, result="hidden")
                if line != (progress.ahead, row.state):
                    line = (progress.ahead, row.state)
                    panel = replace(panel, gallery=self.gallery(owner, following))
                yield panel

    def _running(self, progress: JobProgress, *, draw: bool) -> Panel:
        return Panel(
            busy=True,
            stopping=progress.stopping,
            status=progress_html(progress, self.texts),
            announced=announcement(progress, self.texts),
            live=self._live(progress.news, progress.row) if draw else None,
        )

    def _ended(self, owner: str, following: Following, row: JobRow) -> Panel:
        gallery = self.gallery(owner, following)
        if row.state == "done":
            words = self._facts(row)
            note = note_html(words)
            return Panel(
                False, False, note, words, live="", result=self.result(row), gallery=gallery
            )
        if row.state == "cancelled":
            words, kind = self.texts("video.cancelled"), "quiet"
        else:
            words, kind = self.texts(f"video.why_{row.state}", message=row.message), "warning"
        return Panel(
            *(False, False, note_html(words, kind=kind), words),
            live=self.empty,
            result="hidden",
            gallery=gallery,
        )

    def _facts(self, row: JobRow) -> str:
        """In one line: how long it took, and what it takes to see it again."""
        made = row.outcome
        return self.texts(
            "video.done_in",
            seconds=in_words(made["seconds"], self.texts),
            seed=made["seed"],
            steps=made["steps"],
            guidance=f"{made['guidance']:g}",
        )

    def _live(self, report: StepReport, row: JobRow) -> str:
        """A step's picture of the video to be, with the masks the next step will use."""
        engine = self.host.engine()
        frames = preview_frames(
            engine.preview(report.latents), report.masks, slots_of(row)
        )  # (F, H', W', 3)
        seconds = engine.geometry.frames / engine.geometry.fps
        alt = self.texts("video.live_alt", step=report.step, steps=report.steps)
        picture = animation_uri(frames, len(frames) / seconds)
        return (
            f'<figure class="live"><img src="{picture}" alt="{html.escape(alt)}">'
            f"<figcaption>{self.texts('video.live')}</figcaption></figure>"
        )


class _PreviewClock:
    """When a preview is worth its time: at a new step, and not too soon after the last one."""

    def __init__(self) -> None:
        self._last = -PREVIEW_SECONDS
        self._drawn: object = None

    def due(self, news: object) -> bool:
        now = time.monotonic()
        new = isinstance(news, StepReport) and news is not self._drawn
        if not new or now - self._last < PREVIEW_SECONDS:
            return False
        self._last, self._drawn = now, news
        return True
