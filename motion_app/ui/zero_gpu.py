"""ZeroGPU: a hosted Space without a GPU of its own, which is lent one for each call that needs it.

The weights are "moved" to the GPU while the app is imported, on the main thread. A call of a
function that ``spaces.GPU`` decorated runs in a forked process, where they really are on one; what
goes in and comes out is pickled. So all that needs the GPU is one function, ``worker_steps``, and
this process, which serves the pages, computes on its CPU alone: clicks, previews, files.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from motion_app import sandbox
from motion_app.errors import GenerationCancelled, MotionAppError, RequestError
from motion_app.hosting import TOO_LONG_FOR_ZERO_GPU
from motion_app.jobs.attended import AttendedQueue
from motion_app.jobs.generation import KIND
from motion_app.jobs.timing import JobSize, Measurement, Timings
from motion_app.models import Models
from motion_app.scene import GeneratedVideo, GenerationRequest, StepReport
from motion_app.settings import Settings
from motion_app.ui.host import ModelHost

if TYPE_CHECKING:
    from motion_app.engine.acceleration import Acceleration
    from motion_app.engine.pipeline import MotionEngine, OnStep
    from motion_app.engine.workload import Workload

logger = logging.getLogger(__name__)

ROOM = 1.3  # a call that outlasts what it asked for is stopped; one that asks for less comes sooner
LEAST_SECONDS = 10
RESIDENT = ("resident", "resident-tiled")  # a lent GPU has room, and no time to move weights


@dataclass(frozen=True, eq=False)
class Begun:
    """The first news of a call: what draws previews, as ``LatentDecoder.colours``."""

    colours: np.ndarray


@dataclass(frozen=True, eq=False)
class Ended:
    """The last news of a call: the ``video``, or why there is none, and the seconds it took."""

    seconds: float
    video: GeneratedVideo | None = None
    error: MotionAppError | None = None


News = Begun | StepReport | Ended


def worker_steps(engine: MotionEngine, request: GenerationRequest) -> Generator[News, None, None]:
    """The one thing that is done on the GPU: the video of ``request``, a step at a time. Closing
    the generator stops it before the next step; nothing of a request stays with the engine."""
    started = time.monotonic()
    news: SimpleQueue[News | BaseException] = SimpleQueue()
    turn, left = threading.Semaphore(0), threading.Event()

    def on_step(report: StepReport) -> bool:
        news.put(report)
        turn.acquire()  # the next step begins when this one was taken
        return not left.is_set()

    def work() -> None:
        try:
            news.put(Begun(engine.colours))
            video = engine.generate(request, on_step)
            news.put(Ended(time.monotonic() - started, video))
        except MotionAppError as error:
            news.put(Ended(time.monotonic() - started, error=error))
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
            if isinstance(item, Ended):
                return
            if isinstance(item, StepReport):
                turn.release()
    finally:
        left.set()
        turn.release()
        working.join()
        engine.prompts.forget()


class LentEngine:
    """The engine as the process that serves the pages has it: it knows the model and lets calls
    generate. ``lend`` is ``spaces.GPU``."""

    def __init__(
        self, engine: MotionEngine, workload: Workload, *, lend: Callable[..., Any]
    ) -> None:
        self.geometry, self.defaults = engine.geometry, engine.defaults
        self.fingerprint, self.profile = engine.fingerprint, engine.profile
        self.folder = engine.folder
        self.workload = workload
        self._colours: np.ndarray | None = None
        self._timings = Timings()

        def generate(request: GenerationRequest) -> Generator[News, None, None]:
            yield from worker_steps(engine, request)

        self.call = lend(duration=self.seconds_for)(generate)

    def seconds_for(self, request: GenerationRequest) -> int:
        """How long a call for ``request`` asks for the GPU: by the last such call that was timed,
        else by how much there is to compute."""
        size, work = self._size(request), self.workload
        measured = self._timings.nearest(KIND, size)
        if measured is None:
            making = work.rest_seconds + size.steps * work.step_seconds
        else:
            making = measured.seconds_for(size.steps)
        return max(LEAST_SECONDS, math.ceil(ROOM * (work.loading_seconds + making)))

    def _size(self, request: GenerationRequest) -> JobSize:
        return JobSize(request.steps or self.defaults.steps, len(request.objects))

    def generate(self, request: GenerationRequest, on_step: OnStep | None = None) -> GeneratedVideo:
        """As ``MotionEngine.generate``, on a GPU that is lent for it. RequestError says in words
        why none was, or that it was taken back."""
        ended: Ended | None = None
        times: list[float] = []
        try:
            with closing(self.call(request)) as news:
                for item in news:
                    if isinstance(item, Begun):
                        self._colours = item.colours
                    elif isinstance(item, Ended):
                        ended = item
                    else:
                        times.append(item.seconds)
                        if on_step is not None and on_step(item) is False:
                            raise GenerationCancelled(
                                f"stopped after step {item.step} of {item.steps}, as asked"
                            )
        except gr.Error as error:
            raise RequestError(in_words(error, self.seconds_for(request))) from error
        if ended is None:
            raise RequestError("the GPU was taken back before the video was finished; try again")
        if ended.video is None:
            raise ended.error
        self._remember(self._size(request), ended.seconds, times)
        return ended.video

    def _remember(self, size: JobSize, seconds: float, times: Sequence[float]) -> None:
        step_seconds = sum(times) / len(times)
        measured = Measurement(seconds, size.steps, size.objects, step_seconds)
        self._timings.remember(KIND, measured)

    def preview(self, latents: np.ndarray) -> np.ndarray:
        """As ``MotionEngine.preview``, on this process's CPU."""
        from motion_app.engine.decoding import draw_preview

        return draw_preview(latents, self._colours, self.geometry)


class LentModels(Models):
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


class LentHost(ModelHost):
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

    def _new_models(self) -> LentModels:
        return LentModels(self.settings)

    def _new_jobs(self) -> AttendedQueue:
        settings = self.settings
        return AttendedQueue(settings.outputs, self._runners(), limits=settings.limits)

    def _load_engine(self, folder: Path) -> None:
        from motion_app.engine.workload import Workload

        super()._load_engine(folder)
        engine = self._engine
        workload = Workload.read(
            folder, item=engine.profile.dtype.itemsize, guided=engine.defaults.guidance > 1
        )
        self._engine = LentEngine(engine, workload, lend=self._lend)


def _differences(asked: Acceleration, had: Acceleration) -> str:
    names = [name for name, value in vars(asked).items() if getattr(had, name) != value]
    return ", ".join(f"{name}={getattr(asked, name)}" for name in names)


def in_words(error: gr.Error, seconds: int) -> str:
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
