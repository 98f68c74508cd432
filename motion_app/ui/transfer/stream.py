"""What step 4 shows of a job while it waits, runs and ends, panel by panel. No gradio here:
``video`` turns a panel into the components' updates.

A page asks for the next panel every half second, in a call that ends at once: a browser opens six
connections to a server at most, for all its tabs together, so that no tab may keep one. Nor does
such a call go through gradio's line, whose answers come over a second connection: six tabs that
hold theirs would wait for the first one for ever. Only where a job is done inside the call that
follows it (``ui.zero_gpu``) a call stays open and streams.

Which of its jobs one browser tab is looking at.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from motion_app.errors import RequestError
from motion_app.jobs.folder import JobRow
from motion_app.jobs.progress import JobProgress
from motion_app.scene import StepReport
from motion_app.ui.markup import Texts, announcement, in_words, note_html, progress_html
from motion_app.ui.motion_cards import gain_words
from motion_app.ui.pictures import Previews, animation_uri, preview_frames
from motion_app.ui.transfer.compare import ComparedVideos
from motion_app.ui.transfer.gallery import (
    MOST_SHOWN,
    GalleryView,
    gallery_html,
)
from motion_app.ui.transfer.result import Result, slots_of
from motion_app.ui.visitor import BrowserState

if TYPE_CHECKING:
    from motion_app.host import ModelHost

KIND = "generate"
ASK_SECONDS = 0.5  # between two looks of a page at a job that it follows
ASKS_PER_SECOND = 50  # of all pages together: where more follow, each asks less often
FOLLOWS_SECONDS = 15.0  # since a page asked last
TICK_SECONDS = 1.0  # how often a waiting page is told that time passes
PREVIEW_SECONDS = 0.7  # between two previews: each is decoded and sent
DRAWN_JOBS = 4  # whose last preview is kept


@dataclass(frozen=True)
class PanelChange:
    """What shall change in step 4; None leaves a part as it is.

    ``busy``: a job is at work, and ``stopping`` if it was asked to end; ``status``, ``live`` and
    ``gallery`` are HTML, ``announced`` words for a screen reader; ``result`` a video to show, or
    "hidden" to put the shown one away; ``arrives``: a person waits for it, so that it comes into
    view; ``failure`` what a toast has to say; ``asks`` whether the page is to ask again and again;
    ``learned`` changes with every motion that a job brought into the library.
    """

    busy: bool | None = None
    stopping: bool = False
    status: str | None = None
    announced: str | None = None
    live: str | None = None
    result: Result | Literal["hidden"] | None = None
    arrives: bool = False
    gallery: str | None = None
    failure: str | None = None
    asks: bool | None = None
    pace: float | None = None
    learned: str | None = None


class JobStream:
    """Panels of the jobs of any browser; what is one browser's own is in ``owner`` and
    ``FollowedJobs``."""

    def __init__(self, host: ModelHost, texts: Texts, previews: Previews) -> None:
        self.host, self.texts, self._previews = host, texts, previews
        self._paces: dict[int, tuple[float, float]] = {}  # of each follower, and when it asked
        self._drawn = LastDrawn()
        self.empty = f'<div class="video-empty">{texts("video.empty")}</div>'

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

    def gallery(self, owner: str, followed: FollowedJobs) -> str:
        """The owner's videos as HTML."""
        rows = self.host.jobs.rows(owner, kind=KIND, limit=MOST_SHOWN)
        view = GalleryView(time.time(), followed.job, followed.compared.sides, lent=self.host.lent)
        return gallery_html(
            rows,
            lambda row: self._previews.video(row, self.host.jobs.folder(row.id)),
            view,
            self.texts,
        )

    def attach(self, owner: str, followed: FollowedJobs) -> Iterator[PanelChange]:
        """When a page is opened: the owner's running job goes on being told, else the last video is
        shown again."""
        active = self._active(owner)
        if active is None:
            yield self._at_rest(owner, followed)
        else:
            yield from self.follow(owner, followed, active.id)

    def arrive(self, owner: str, followed: FollowedJobs) -> PanelChange:
        """As ``attach``, for a page that asks again."""
        active = self._active(owner)
        if active is None:
            return self._at_rest(owner, followed)
        return self.begin(owner, followed, active.id)

    def _active(self, owner: str) -> JobRow | None:
        return next((row for row in self.host.jobs.rows(owner, kind=KIND) if row.active), None)

    def _at_rest(self, owner: str, followed: FollowedJobs) -> PanelChange:
        """The last video, where there is one."""
        rows = self.host.jobs.rows(owner, kind=KIND)
        last = next((row for row in rows if row.state == "done"), None)
        if last is None:
            return PanelChange(gallery=self.gallery(owner, followed))
        return replace(self.show(owner, followed, last), arrives=False)

    def show(self, owner: str, followed: FollowedJobs, row: JobRow) -> PanelChange:
        """A job that has ended comes into the panel."""
        followed.look_at(row.id)
        return self._ended(owner, followed, row)

    def follow(self, owner: str, followed: FollowedJobs, job: str) -> Iterator[PanelChange]:
        """The panel at every change of a job, to its end. When another one has come into the panel
        meanwhile, only the gallery is told how this one ended. A job that is followed already goes
        on being told there, and comes back into the panel: a page holds one call open for it."""
        following = FollowedJob(job, followed.look_at(job))
        if not followed.open_stream(following):
            return
        try:
            with closing(self.host.jobs.follow(job, every=TICK_SECONDS)) as told:
                for progress in told:
                    panel = self._panel_of(owner, followed, following, progress)
                    if panel is not None:
                        yield panel
        finally:
            followed.close_stream(following)

    def begin(self, owner: str, followed: FollowedJobs, job: str) -> PanelChange:
        """``job`` comes into the panel; what comes next ``ask`` tells."""
        followed.add(FollowedJob(job, followed.look_at(job)))
        panel = self.ask(owner, followed)
        return panel if panel.asks is False else replace(panel, asks=True)

    def ask(self, owner: str, followed: FollowedJobs) -> PanelChange:
        """What is new of the jobs that are followed, at once."""
        leading, gallery = PanelChange(), None
        for following in followed.jobs:
            progress = self._now(following.job)
            if progress is None or not progress.row.active:
                followed.remove(following)
            if progress is None:  # tidied away, or deleted in another tab
                gallery = self.gallery(owner, followed)
                if followed.leads(following.turn):
                    leading = PanelChange(False, status="", live=self.empty, result="hidden")
                continue
            panel = self._panel_of(owner, followed, following, progress)
            if panel is not None:
                gallery = panel.gallery or gallery
                leading = panel if followed.leads(following.turn) else leading
        pace = self._new_pace(followed) if followed.jobs else None
        return replace(leading, gallery=gallery, asks=None if followed.jobs else False, pace=pace)

    def _new_pace(self, followed: FollowedJobs) -> float | None:
        """How often this page is to ask, None where it does so already."""
        now, own = time.monotonic(), id(followed)
        paces = {
            other: told
            for other, told in list(self._paces.items())
            if now - told[1] < FOLLOWS_SECONDS
        }
        before = paces.get(own, (ASK_SECONDS, now))[0]
        pace = pace_of(len(paces | {own: before}))
        self._paces = {**paces, own: (pace, now)}
        return None if abs(pace - before) < 0.25 * before else pace

    def _now(self, job: str) -> JobProgress | None:
        try:
            return next(self.host.jobs.watch(job))
        except RequestError:
            return None

    def _panel_of(
        self, owner: str, followed: FollowedJobs, following: FollowedJob, progress: JobProgress
    ) -> PanelChange | None:
        """The panel for ``progress``; None where another job is in the panel and this one goes
        on."""
        row = progress.row
        if not followed.leads(following.turn):
            return None if row.active else PanelChange(gallery=self.gallery(owner, followed))
        if not row.active:
            ended = self._ended(owner, followed, row)
            failure = row.message if row.state == "failed" else None
            learned = f"{row.id} {row.state}" if row.inputs.get("learn") else None
            return replace(ended, failure=failure, learned=learned)
        panel = self._running(progress, following.due(progress.news))
        if progress.part:
            panel = replace(panel, learned=f"{row.id} {progress.part}")
        if following.line is None:
            panel = replace(panel, live=panel.live or self.empty, result="hidden")
        if following.line != (progress.ahead, row.state):
            following.line = (progress.ahead, row.state)
            panel = replace(panel, gallery=self.gallery(owner, followed))
        return panel

    def _running(self, progress: JobProgress, due: StepReport | None) -> PanelChange:
        return PanelChange(
            busy=True,
            stopping=progress.stopping,
            status=progress_html(progress, self.texts),
            announced=announcement(progress, self.texts),
            live=None if due is None else self._live(due, progress.row),
        )

    def _ended(self, owner: str, followed: FollowedJobs, row: JobRow) -> PanelChange:
        gallery = self.gallery(owner, followed)
        if row.state == "done":
            words = self._facts(row)
            note = note_html(words)
            shown = PanelChange(False, False, note, words, live="", gallery=gallery)
            return replace(shown, result=self.result(row), arrives=True)
        if row.state == "cancelled":
            words, kind = self.texts("video.cancelled"), "quiet"
        else:
            words, kind = self.texts(f"video.why_{row.state}", message=row.message), "warning"
        return PanelChange(
            *(False, False, note_html(words, kind=kind), words),
            live=self.empty,
            result="hidden",
            gallery=gallery,
        )

    def _facts(self, row: JobRow) -> str:
        """In one line: how long it took, what it takes to see it again, and what refining a motion
        for it gained."""
        made = row.outcome
        gains = [
            f"{one['name']}: {gain_words(one['clip_errors'], self.texts)}"
            for one in made.get("learned") or ()
            if one.get("clip_errors")
        ]
        told = self.texts(
            "video.done_in",
            seconds=in_words(made["seconds"], self.texts),
            seed=made["seed"],
            steps=made["steps"],
            guidance=f"{made['guidance']:g}",
        )
        return " ".join([told, *gains])

    def _live(self, report: StepReport, row: JobRow) -> str:
        """A step's picture of the video to be, with the masks the next step will use; drawn once
        for all who follow the job."""
        return self._drawn(row.id, report, lambda: self._draw(report, row))

    def _draw(self, report: StepReport, row: JobRow) -> str:
        engine = self.host.engine()
        slots = slots_of(row) if len(report.masks) else ()  # without a picture nothing is marked
        frames = preview_frames(
            engine.preview(report.latents), report.masks, slots
        )  # (F, H', W', 3)
        seconds = engine.geometry.frames / engine.geometry.fps
        alt = self.texts("video.live_alt", step=report.step, steps=report.steps)
        picture = animation_uri(frames, len(frames) / seconds)
        return (
            f'<figure class="live"><img src="{picture}" alt="{html.escape(alt)}">'
            f"<figcaption>{self.texts('video.live')}</figcaption></figure>"
        )


class LastDrawn:
    """What was last drawn of each of the newest jobs: many who follow one see the same, and to draw
    it takes a core longer than to send it."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[StepReport, str]] = {}
        self._lock = threading.Lock()

    def __call__(self, job: str, report: StepReport, draw: Callable[[], str]) -> str:
        """What ``draw`` makes of ``report``, made once however many ask at a time."""
        with self._lock:
            known = self._of.pop(job, None)
            drawn = known[1] if known is not None and known[0] is report else draw()
            self._of[job] = (report, drawn)
            while len(self._of) > DRAWN_JOBS:
                del self._of[next(iter(self._of))]
            return drawn


def pace_of(followers: int) -> float:
    """Seconds between two looks of each of so many pages."""
    return max(ASK_SECONDS, followers / ASKS_PER_SECOND)


class FollowedJob:
    """What a page was told of ``job`` so far. ``turn``: see ``FollowedJobs``; ``line``: its place
    and state as last told, None before the first panel."""

    def __init__(self, job: str, turn: int) -> None:
        self.job, self.turn = job, turn
        self.line: tuple[int, str] | None = None
        self._last = -PREVIEW_SECONDS
        self._drawn: object = None

    def due(self, news: object) -> StepReport | None:
        """The step to draw: a preview is worth its time at a new one, and not too soon after the
        last."""
        now = time.monotonic()
        if not isinstance(news, StepReport) or news is self._drawn or not len(news.latents):
            return None
        if now - self._last < PREVIEW_SECONDS:
            return None
        self._last, self._drawn = now, news
        return news


class FollowedJobs(BrowserState):
    """``job``: the id of the one whose progress or video is in the panel, None before the first;
    ``compared``: those being compared; ``jobs``: those that are asked about again and again;
    ``troubles``: what went wrong with them and was not told yet, in words.

    Several jobs can be followed, since a person may look at one while another runs; the one
    that began last leads and writes into the panel."""

    def __init__(self) -> None:
        self.job: str | None = None
        self.compared = ComparedVideos()
        self.jobs: tuple[FollowedJob, ...] = ()
        self.troubles: tuple[str, ...] = ()
        self._streams: dict[str, FollowedJob] = {}  # by job: what a call that is open tells
        self._turn = 0
        self._lock = threading.Lock()

    def look_at(self, job: str | None) -> int:
        """``job`` comes into the panel; the turn of what shows it."""
        with self._lock:
            self._turn += 1
            self.job = job
            return self._turn

    def add(self, following: FollowedJob) -> None:
        """``following`` is asked from now on, in the place of another one of its job."""
        with self._lock:
            others = (other for other in self.jobs if other.job != following.job)
            self.jobs = (*others, following)

    def remove(self, following: FollowedJob) -> None:
        """``following`` has come to its end."""
        with self._lock:
            self.jobs = tuple(other for other in self.jobs if other is not following)

    def open_stream(self, following: FollowedJob) -> bool:
        """Whether a call may tell of the job of ``following``; False where another one does, which
        leads from now on."""
        with self._lock:
            told = self._streams.setdefault(following.job, following)
            told.turn, told.line = following.turn, None  # all of it is drawn anew
            return told is following

    def close_stream(self, following: FollowedJob) -> None:
        """The call has ended."""
        with self._lock:
            self._streams.pop(following.job, None)

    def leads(self, turn: int) -> bool:
        """No other has begun since."""
        with self._lock:
            return self._turn == turn
