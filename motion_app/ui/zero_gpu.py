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
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import gradio as gr
import numpy as np

from motion_app.errors import GenerationCancelled, MotionAppError, RequestError
from motion_app.host import ModelHost
from motion_app.jobs.kinds import Mark
from motion_app.jobs.models import Models
from motion_app.jobs.progress import Runner
from motion_app.jobs.runners import GENERATE, TRAIN, GenerationRunner, TrainingRunner
from motion_app.jobs.timings import JobSize, Measurement, Timings
from motion_app.library.motion_file import read_motion
from motion_app.media import sandbox
from motion_app.methods import METHOD_TABLE
from motion_app.scene import GeneratedVideo, GenerationRequest, Motion
from motion_app.settings import TOO_LONG_FOR_ZERO_GPU, Settings
from motion_app.training.config import ClipTraining
from motion_app.training.inputs import TrainingInputs, training_config
from motion_app.ui.lent_jobs import (
    CallQueue,
    OnProgress,
    TrainingOrder,
    check_lent_seconds,
    learning_seconds,
)

if TYPE_CHECKING:
    from motion_app.acceleration import Acceleration
    from motion_app.engine.footprint import Workload
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.engine.run import OnStep
    from motion_app.training.trainer import TrainingReport

logger = logging.getLogger(__name__)
ROOM = 1.3  # a call that outlasts what it asked for is stopped; one that asks for less comes sooner
LEAST_SECONDS = 10
RESIDENT = ("resident", "resident-tiled")  # a lent GPU has room, and no time to move weights


@dataclass(frozen=True, eq=False)
class CallStarted:
    """The first news of a call: what draws previews, as ``previews.fit_colours`` gives them."""

    colours: np.ndarray


@dataclass(frozen=True, eq=False)
class CallEnded:
    """The last news of a call: the ``video``, None of a training, or why there is none, and the
    seconds it took."""

    seconds: float
    video: GeneratedVideo | None = None
    error: MotionAppError | None = None


Order = GenerationRequest | TrainingOrder


def worker_steps(engine: MotionEngine, order: Order) -> Generator[Any, None, None]:
    """The one thing that is done on the GPU: the video of a request, or a training, with the news
    of each step between a ``CallStarted`` and a ``CallEnded``. Closing the generator stops it
    before the next step; nothing of an order stays with the engine."""
    started = time.monotonic()
    news: SimpleQueue[Any] = SimpleQueue()
    turn, left = threading.Semaphore(0), threading.Event()

    def on_step(report: Any) -> bool:
        news.put(report)
        turn.acquire()  # the next step begins when this one was taken
        return not left.is_set()

    def work() -> None:
        try:
            news.put(CallStarted(engine.colours))
            video = None
            if isinstance(order, TrainingOrder):
                order.made_by(engine, on_step)
            else:
                video = engine.generate(order, on_step)
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
            if not isinstance(item, CallStarted):
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

        def generate(order: Order) -> Generator[Any, None, None]:
            yield from worker_steps(engine, order)

        self.call = lend(duration=self.seconds_for)(generate)

    def seconds_for(self, order: Order) -> int:
        """How long a call for ``order`` asks for the GPU: by the last such call that was timed,
        else by how much there is to compute."""
        if isinstance(order, TrainingOrder):
            return self.learning_seconds(order.config)
        size, work = self._size(order), self.workload
        measured = self._timings.nearest(GENERATE, size)
        if measured is None:
            each = work.step_seconds * METHOD_TABLE[size.method].work
            making = work.rest_seconds + size.steps * each
        else:
            making = measured.seconds_for(size.steps)
        return self._asked(making)

    def learning_seconds(self, config: ClipTraining) -> int:
        """The same for a training."""
        size = JobSize(config.steps, 1, config.method)
        timed = self._timings.nearest(TRAIN, size)
        video = self._timings.nearest(GENERATE, JobSize(self.defaults.steps, 1, "fleximmt"))
        return self._asked(learning_seconds(config, self.workload, timed=timed, video=video))

    def _asked(self, seconds: float) -> int:
        return max(LEAST_SECONDS, math.ceil(ROOM * (self.workload.loading_seconds + seconds)))

    def _size(self, request: GenerationRequest) -> JobSize:
        chosen = request.options
        steps = chosen.steps or self.defaults.steps
        return JobSize(steps, len(request.objects), chosen.method)

    def generate(self, request: GenerationRequest, on_step: OnStep | None = None) -> GeneratedVideo:
        """As ``MotionEngine.generate``, on a GPU that is lent for it. RequestError says in words
        why none was, or that it was taken back."""
        ended, times = self._told(request, on_step, "video")
        if ended.video is None:
            raise RuntimeError("a call ended without a video and without a reason")
        step = sum(times) / len(times)
        size = self._size(request)
        self._remember(GENERATE, size, ended.seconds, step)
        return ended.video

    def train(self, order: TrainingOrder, on_progress: OnProgress | None = None) -> None:
        """Learn what ``order`` says, on a GPU that is lent for it; the motion lies in its file
        then. Raises as ``train_motion``, and RequestError as ``generate``."""
        before = [0.0]

        def seconds(report: TrainingReport) -> float:
            before.append(report.seconds)
            return before[-1] - before[-2]

        ended, times = self._told(order, on_progress, "training", seconds)
        if times:  # none were left to learn where it goes on from the last of them
            size = JobSize(order.config.steps, 1, order.config.method)
            step = sum(times) / len(times)
            whole = ended.seconds + (size.steps - len(times)) * step  # of one that goes on
            self._remember(TRAIN, size, whole, step)

    def _told(
        self,
        order: Order,
        on_step: Callable[[Any], bool | None] | None,
        what: str,
        seconds_of: Callable[[Any], float] = lambda report: report.seconds,
    ) -> tuple[CallEnded, list[float]]:
        """Make the call and hand its news on; its end, and the seconds of each step."""
        ended: CallEnded | None = None
        times: list[float] = []
        try:
            with closing(self.call(order)) as news:
                for item in news:
                    if isinstance(item, CallStarted):
                        self._colours = item.colours
                    elif isinstance(item, CallEnded):
                        ended = item
                    else:
                        times.append(seconds_of(item))
                        if on_step is not None and on_step(item) is False:
                            raise GenerationCancelled(
                                f"stopped after step {item.step} of {item.steps}, as asked"
                            )
        except gr.Error as error:
            raise RequestError(refusal_words(error, self.seconds_for(order), what)) from error
        if ended is None:
            raise RequestError(f"the GPU was taken back before the {what} was finished; try again")
        if ended.error is not None:
            raise ended.error
        return ended, times

    def _remember(self, kind: str, size: JobSize, seconds: float, step: float) -> None:
        measured = Measurement(seconds, size.steps, size.objects, step, method=size.method)
        self._timings.remember(kind, measured)

    def preview(self, latents: np.ndarray) -> np.ndarray:
        """As ``MotionEngine.preview``, on this process's CPU."""
        from motion_app.engine.previews import draw_preview

        if self._colours is None:
            raise RuntimeError("previews come from calls, and none has begun")
        return draw_preview(latents, self._colours, self.geometry)


def train_lent(
    inputs: TrainingInputs,
    config: ClipTraining,
    out: Path,
    engine: ZeroGpuEngine,
    mark: Mark,
    *,
    on_progress: OnProgress | None = None,
) -> Motion:
    """As ``kinds.train``, on a GPU that is lent for it."""
    order = TrainingOrder.of(inputs, config, out, mark, fps=engine.geometry.fps)
    engine.train(order, on_progress)
    return read_motion(out)


class ZeroGpuModels(Models):
    """What is loaded on ZeroGPU."""

    @property
    def clicks_device(self) -> str:
        return "cpu"  # a click takes a moment, and would cost a visitor seconds of GPU

    @cached_property
    def stock_models(self) -> tuple[str, ...]:
        """None: nothing but the checkpoint is moved to a lent GPU."""
        if super().stock_models:
            logger.warning("ZeroGPU has no models of others: left out")
        return ()

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

    def __init__(self, settings: Settings, *, lend: Callable[..., Any]) -> None:
        self._lend = lend
        super().__init__(settings)
        self._started = time.monotonic()
        self._load()

    @property
    def no_training(self) -> str:
        """Why no motion is learned, where it is not by the settings."""
        return TOO_LONG_FOR_ZERO_GPU if self.settings.training else ""

    @property
    def learns(self) -> bool:
        """Where a motion can be learned within what a visitor is lent."""
        seconds = self.lent_seconds() if self.settings.training else None
        return seconds is not None and seconds <= self.settings.lent_seconds

    def lent_seconds(
        self,
        method: str = "fleximmt",
        steps: int | None = None,
        *,
        validate_every: int | None = None,
    ) -> float | None:
        """As ``ModelHost.lent_seconds``; None where the model could not be loaded."""
        if self._engine is None:
            return None
        training = self.defaults().training_of(method)
        given = {"name": "a motion", "steps": steps, "validate_every": validate_every}
        config = training_config(method, training, **given)
        return self._lent_engine.learning_seconds(config)

    @property
    def _lent_engine(self) -> ZeroGpuEngine:
        return cast("ZeroGpuEngine", self.engine())

    def _check_cost(self, config: ClipTraining) -> None:
        seconds = self._lent_engine.learning_seconds(config)
        check_lent_seconds(seconds, self.settings.lent_seconds)

    def _runners(self) -> dict[str, Runner]:
        known = super()._runners()
        training = cast(TrainingRunner, known[TRAIN])
        training = replace(training, train=train_lent, check_cost=self._check_cost)
        generation = replace(cast(GenerationRunner, known[GENERATE]), training=training)
        return {GENERATE: generation, TRAIN: training}

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
        """What does here for the page, for generating and for learning."""
        from motion_app.engine.footprint import Workload

        engine = super()._new_engine(folder)
        workload = Workload.of(engine.backbone.checkpoint, item=engine.profile.dtype.itemsize)
        return cast("MotionEngine", ZeroGpuEngine(engine, workload, lend=self._lend))


def _differences(asked: Acceleration, had: Acceleration) -> str:
    names = [name for name, value in vars(asked).items() if getattr(had, name) != value]
    return ", ".join(f"{name}={getattr(asked, name)}" for name in names)


def refusal_words(error: gr.Error, seconds: int, what: str = "video") -> str:
    """What a visitor is told where ``spaces`` refused a call that asked for so many ``seconds``,
    for a "video" or a "training". Its own sentence is kept: it says how much is left, and until
    when."""
    title = str(getattr(error, "title", "")).lower()
    said = " ".join(re.sub(r"<[^>]+>", " ", str(error.message)).split()).rstrip(".")
    draft = "the preset draft or " if what == "video" else ""
    fewer = f"choose {draft}fewer steps"
    if "illegal duration" in title:
        return (
            f"this {what} would hold the GPU for about {seconds} s, longer than a visitor may ask "
            f"for at once; {fewer}, or duplicate the Space onto a GPU of your own ({said})"
        )
    if "quota" in title or "credits" in title:
        return (
            f"your share of the GPU is used up for now, and this {what} needs about {seconds} s of "
            f"it; sign in to Hugging Face for more, {fewer}, or come back later ({said})"
        )
    if "queue" in title or "no gpu" in said.lower():
        return f"no GPU is free at the moment; try again in a minute ({said})"
    if "aborted" in said.lower():
        return (
            f"the GPU was taken back after {seconds} s, before the {what} was finished; {fewer} "
            "and try again"
        )
    if "proxy token" in said.lower():
        return "the page was open for too long to be lent a GPU; reload it and try again"
    return f"the lent GPU answered with an error; try again ({said})"
