"""ZeroGPU: a hosted Space without a GPU of its own, which is lent one for each call that needs it.

The weights are "moved" to the GPU while the app is imported, on the main thread. A call of a
function that ``spaces.GPU`` decorated runs in a forked process, where they really are on one; what
goes in and comes out is pickled. So all that needs the GPU is one function, ``worker_steps``, and
this process, which serves the pages, computes on its CPU alone: clicks, previews, files.

Jobs that are done inside the call that follows them, where the device is lent to each call.

On ZeroGPU a call brings its visitor's own share of the GPU with it, and gives it back when it ends:
there is no line of ours, and no thread of ours that could work on after the visitor has left.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
import numpy as np

from motion_app.errors import GenerationCancelled, MotionAppError, RequestError
from motion_app.host import ModelHost
from motion_app.jobs.models import Models
from motion_app.jobs.progress import JobProgress, Work, attempt
from motion_app.jobs.queue import JobQueue
from motion_app.jobs.runners import GENERATE
from motion_app.jobs.timings import JobSize, Measurement, Timings
from motion_app.media import sandbox
from motion_app.methods import METHOD_TABLE
from motion_app.scene import GeneratedVideo, GenerationRequest, StepReport
from motion_app.settings import TOO_LONG_FOR_ZERO_GPU, Settings

if TYPE_CHECKING:
    from motion_app.acceleration import Acceleration
    from motion_app.engine.footprint import Workload
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.engine.run import OnStep

logger = logging.getLogger(__name__)
ROOM = 1.3  # a call that outlasts what it asked for is stopped; one that asks for less comes sooner
LEAST_SECONDS = 10
RESIDENT = ("resident", "resident-tiled")  # a lent GPU has room, and no time to move weights
LEFT_ALONE_SECONDS = 120.0  # nobody waits before following: who has not come by then has left


@dataclass(frozen=True, eq=False)
class CallStarted:
    """The first news of a call: what draws previews, as ``previews.fit_colours`` gives them."""

    colours: np.ndarray


@dataclass(frozen=True, eq=False)
class CallEnded:
    """The last news of a call: the ``video``, or why there is none, and the seconds it took."""

    seconds: float
    video: GeneratedVideo | None = None
    error: MotionAppError | None = None


CallReport = CallStarted | StepReport | CallEnded


def worker_steps(
    engine: MotionEngine, request: GenerationRequest
) -> Generator[CallReport, None, None]:
    """The one thing that is done on the GPU: the video of ``request``, a step at a time. Closing
    the generator stops it before the next step; nothing of a request stays with the engine."""
    started = time.monotonic()
    news: SimpleQueue[CallReport | BaseException] = SimpleQueue()
    turn, left = threading.Semaphore(0), threading.Event()

    def on_step(report: StepReport) -> bool:
        news.put(report)
        turn.acquire()  # the next step begins when this one was taken
        return not left.is_set()

    def work() -> None:
        try:
            news.put(CallStarted(engine.colours))
            video = engine.generate(request, on_step)
            news.put(CallEnded(time.monotonic() - started, video))
        except MotionAppError as error:
            news.put(CallEnded(time.monotonic() - started, error=error))
        except BaseException as error:
            news.put(error)

    working = threading.Thread(target=work, name="generate")
    working.start()
    try:
        while True:
            item = news.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, CallEnded):
                return
            if isinstance(item, StepReport):
                turn.release()
    finally:
        left.set()
        turn.release()
        working.join()
        engine.backbone.prompts.forget()


class ZeroGpuEngine:
    """The engine as the process that serves the pages has it: it knows the model and lets calls
    generate. ``lend`` is ``spaces.GPU``."""

    def __init__(
        self, engine: MotionEngine, workload: Workload, *, lend: Callable[..., Any]
    ) -> None:
        self.geometry, self.defaults = engine.geometry, engine.defaults
        self.fingerprint, self.profile = engine.fingerprint, engine.profile
        self.workload = workload
        self._colours: np.ndarray | None = None
        self._timings = Timings()

        def generate(request: GenerationRequest) -> Generator[CallReport, None, None]:
            yield from worker_steps(engine, request)

        self.call = lend(duration=self.seconds_for)(generate)

    def seconds_for(self, request: GenerationRequest) -> int:
        """How long a call for ``request`` asks for the GPU: by the last such call that was timed,
        else by how much there is to compute."""
        size, work = self._size(request), self.workload
        measured = self._timings.nearest(GENERATE, size)
        if measured is None:
            each = work.step_seconds * METHOD_TABLE[size.method].work
            making = work.rest_seconds + size.steps * each
        else:
            making = measured.seconds_for(size.steps)
        return max(LEAST_SECONDS, math.ceil(ROOM * (work.loading_seconds + making)))

    def _size(self, request: GenerationRequest) -> JobSize:
        chosen = request.options
        steps = chosen.steps or self.defaults.steps
        return JobSize(steps, len(request.objects), chosen.method)

    def generate(self, request: GenerationRequest, on_step: OnStep | None = None) -> GeneratedVideo:
        """As ``MotionEngine.generate``, on a GPU that is lent for it. RequestError says in words
        why none was, or that it was taken back."""
        ended: CallEnded | None = None
        times: list[float] = []
        try:
            with closing(self.call(request)) as news:
                for item in news:
                    if isinstance(item, CallStarted):
                        self._colours = item.colours
                    elif isinstance(item, CallEnded):
                        ended = item
                    else:
                        times.append(item.seconds)
                        if on_step is not None and on_step(item) is False:
                            raise GenerationCancelled(
                                f"stopped after step {item.step} of {item.steps}, as asked"
                            )
        except gr.Error as error:
            raise RequestError(refusal_words(error, self.seconds_for(request))) from error
        if ended is None:
            raise RequestError("the GPU was taken back before the video was finished; try again")
        if ended.video is not None:
            self._remember(self._size(request), ended.seconds, times)
            return ended.video
        raise ended.error or RuntimeError("a call ended without a video and without a reason")

    def _remember(self, size: JobSize, seconds: float, times: Sequence[float]) -> None:
        step_seconds = sum(times) / len(times)
        measured = Measurement(seconds, size.steps, size.objects, step_seconds, method=size.method)
        self._timings.remember(GENERATE, measured)

    def preview(self, latents: np.ndarray) -> np.ndarray:
        """As ``MotionEngine.preview``, on this process's CPU."""
        from motion_app.engine.previews import draw_preview

        if self._colours is None:
            raise RuntimeError("previews come from calls, and none has begun")
        return draw_preview(latents, self._colours, self.geometry)


class ZeroGpuModels(Models):
    """What is loaded on ZeroGPU."""

    @property
    def clicks_device(self) -> str:
        return "cpu"  # a click takes a moment, and would cost a visitor seconds of GPU

    @cached_property
    def acceleration(self) -> Acceleration:
        """What of the settings can be had here."""
        asked = super().acceleration
        had = replace(
            asked,
            profile=asked.profile if asked.profile in RESIDENT else None,
            kernel="torch",
            compiled=False,
            second_device=None,
            keep_text_encoder=True,
        )
        if had != asked:
            logger.warning("ZeroGPU has no %s: left out", _differences(asked, had))
        return had


class ZeroGpuHost(ModelHost):
    """A ModelHost on ZeroGPU. Making one loads everything, on the thread that does it, which must
    be the one that imported ``spaces``."""

    lent = True
    no_training = TOO_LONG_FOR_ZERO_GPU

    def __init__(self, settings: Settings, *, lend: Callable[..., Any]) -> None:
        self._lend = lend
        super().__init__(settings)
        self._started = time.monotonic()
        self._load()

    def start(self) -> None:
        """Begin to take jobs."""
        self.jobs.start()
        threading.Thread(target=sandbox.warm, name="warm-sandbox", daemon=True).start()

    def _new_models(self) -> ZeroGpuModels:
        return ZeroGpuModels(self.settings)

    def _new_jobs(self) -> CallQueue:
        settings = self.settings
        return CallQueue(settings.outputs, self._runners(), limits=settings.limits)

    def _new_engine(self, folder: Path) -> MotionEngine:
        """What does here for the page and for generating; nothing is learned."""
        from motion_app.engine.footprint import Workload

        engine = super()._new_engine(folder)
        workload = Workload.of(engine.backbone.checkpoint, item=engine.profile.dtype.itemsize)
        return cast("MotionEngine", ZeroGpuEngine(engine, workload, lend=self._lend))


def _differences(asked: Acceleration, had: Acceleration) -> str:
    names = [name for name, value in vars(asked).items() if getattr(had, name) != value]
    return ", ".join(f"{name}={getattr(asked, name)}" for name in names)


def refusal_words(error: gr.Error, seconds: int) -> str:
    """What a visitor is told where ``spaces`` refused a call that asked for so many ``seconds``.
    Its own sentence is kept: it says how much is left, and until when."""
    title = str(getattr(error, "title", "")).lower()
    said = " ".join(re.sub(r"<[^>]+>", " ", str(error.message)).split()).rstrip(".")
    fewer = "choose the preset draft or fewer steps"
    if "illegal duration" in title:
        return (
            f"this video would hold the GPU for about {seconds} s, longer than a visitor may ask "
            f"for at once; {fewer}, or duplicate the Space onto a GPU of your own ({said})"
        )
    if "quota" in title or "credits" in title:
        return (
            f"your share of the GPU is used up for now, and this video needs about {seconds} s of "
            f"it; sign in to Hugging Face for more, {fewer}, or come back later ({said})"
        )
    if "queue" in title or "no gpu" in said.lower():
        return f"no GPU is free at the moment; try again in a minute ({said})"
    if "aborted" in said.lower():
        return (
            f"the GPU was taken back after {seconds} s, before the video was finished; {fewer} and "
            "try again"
        )
    if "proxy token" in said.lower():
        return "the page was open for too long to be lent a GPU; reload it and try again"
    return f"the lent GPU answered with an error; try again ({said})"


class CallQueue(JobQueue):
    """A JobQueue without a worker: the first who follows a waiting job does it, in the context of
    their own call, and stops it by leaving."""

    def start(self) -> None:
        """Open the folder, so that a mistake is told now."""
        with self._changed:
            self._stopping = False
            self.store  # noqa: B018

    def follow(self, job_id: str, *, every: float = 1.0) -> Generator[JobProgress, None, None]:
        """Do the job if it waits, telling of it as ``watch`` does; closing the iterator stops the
        job within one step. One that somebody else does is only watched."""
        work = self._claim(job_id)
        if work is None:
            yield from self.watch(job_id, every=every)
            return
        # The caller's context says whose share of the GPU is used.
        context = copy_context()
        threading.Thread(target=context.run, args=(self._do, work), name="attended-job").start()
        try:
            yield from self.watch(job_id, every=every)
        finally:
            work.ask_to_stop("cancelled")  # nothing to one that has ended

    def check_unattended(self) -> None:
        """RequestError always: a job is done only while somebody follows it."""
        raise RequestError(
            "a GPU is lent to a call only while it is open, so that no job can run behind it; use "
            "generate, which waits for the video"
        )

    def _check_quota(self, owner: str, address: str = "") -> None:
        """Jobs that nobody came to follow make room first; no worker would ever take them."""
        with self._changed:
            self.store  # noqa: B018  what waits from before counts
            for work in list(self._works.values()):
                waited = work.progress(None).elapsed
                if work.row.state == "queued" and waited > LEFT_ALONE_SECONDS:
                    self._end(work, "interrupted", message="its page was left; run it again")
            super()._check_quota(owner, address)

    def _claim(self, job_id: str) -> Work | None:
        """The job, if it waits, as begun; None for any other."""
        with self._changed:
            row = self.row(job_id)
            work = self._works.get(job_id)
            if work is None or row.state != "queued" or self._stopping:
                return None
            work.begin(self.store.update(job_id, state="running", started=time.time()))
            return work

    def _do(self, work: Work) -> None:
        self._settle(work, attempt(self._runner(work.row.kind), work))

    def _moved(self) -> None:
        """Nobody waits for anybody else."""
        for work in self._works.values():
            if work.row.state == "queued":
                work.placed(0, self.timings)
        self._changed.notify_all()

    def _seconds_left(self, work: Work) -> float | None:
        return work.seconds_left()
