"""One generation on a thread of its own, watched step by step and stopped within one."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from motion_app.errors import GenerationCancelled
from motion_app.jobs.device import DeviceLock
from motion_app.scene import GeneratedVideo, GenerationRequest, StepReport

if TYPE_CHECKING:  # the engine needs torch, which the page does without until the model is loaded
    from motion_app.engine.pipeline import MotionEngine

Stage = Literal["queued", "loading", "preparing", "denoising", "decoding", "done"]
# Waits for the loaded model, the given seconds at most; None says that it is still loading.
WaitForEngine = Callable[[float], "MotionEngine | None"]
MakeRequest = Callable[["MotionEngine"], GenerationRequest]
POLL_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class Progress:
    """Where a job stands. ``ahead``: jobs before it while "queued"; ``elapsed`` seconds since the
    start; ``report`` the last finished step; ``step_seconds`` the mean of the steps so far, None
    before the first one."""

    stage: Stage
    elapsed: float
    ahead: int = 0
    report: StepReport | None = None
    step_seconds: float | None = None

    @property
    def steps_left(self) -> int | None:
        return None if self.report is None else self.report.steps - self.report.step


class GenerationJob:
    """Runs one request when its turn on the device comes.

    ``id``: 128 random bits in hexadecimal. ``start`` it once, follow ``progress``, take ``result``.
    """

    def __init__(
        self, make_request: MakeRequest, *, wait_for_engine: WaitForEngine, lock: DeviceLock
    ) -> None:
        self.id = secrets.token_hex(16)
        self.seconds = 0.0
        self._make_request = make_request
        self._wait_for_engine = wait_for_engine
        self._ticket = lock.ticket()
        self._cancelled = threading.Event()
        self._changed = threading.Condition()
        self._stage: Stage = "queued"
        self._report: StepReport | None = None
        self._step_seconds: list[float] = []
        self._version = 0
        self._video: GeneratedVideo | None = None
        self._error: BaseException | None = None
        self._started = time.monotonic()
        # A daemon: closing the app does not wait for a video nobody will see.
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self) -> GenerationJob:
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Ask it to stop: at once while it waits, else at the end of the current step."""
        self._cancelled.set()

    @property
    def running(self) -> bool:
        return self._stage != "done"

    @property
    def cancelling(self) -> bool:
        return self._cancelled.is_set() and self.running

    @property
    def step_seconds(self) -> float:
        """Mean seconds of the steps so far; 0 before the first."""
        return sum(self._step_seconds) / max(1, len(self._step_seconds))

    def progress(self, *, every: float = 1.0) -> Iterator[Progress]:
        """A Progress at every change, and after ``every`` seconds without one; ends with "done"."""
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._version != seen, every)  # noqa: B023
                seen, now = self._version, self._snapshot()
            yield now
            if now.stage == "done":
                return

    def result(self) -> GeneratedVideo:
        """The video of a job that is done, or the error that ended it."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._video

    def _snapshot(self) -> Progress:
        return Progress(
            stage=self._stage,
            elapsed=time.monotonic() - self._started,
            ahead=self._ticket.ahead,
            report=self._report,
            step_seconds=self.step_seconds if self._step_seconds else None,
        )

    def _run(self) -> None:
        try:
            with self._ticket:
                while not self._ticket.wait(POLL_SECONDS):
                    self._stop_if_cancelled()
                self._enter("loading")
                while (engine := self._wait_for_engine(POLL_SECONDS)) is None:
                    self._stop_if_cancelled()
                self._enter("preparing")
                began = time.monotonic()
                request = self._make_request(engine)
                self._stop_if_cancelled()
                video = engine.generate(request, on_step=self._stepped)
                self._stop_if_cancelled()
                self.seconds = time.monotonic() - began
                self._video = video
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error
        finally:
            self._enter("done")

    def _stepped(self, report: StepReport) -> bool:
        with self._changed:
            self._report = report
            self._step_seconds.append(report.seconds)
        self._enter("decoding" if report.step == report.steps else "denoising")
        return not self._cancelled.is_set()

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise GenerationCancelled("stopped before the first step, as asked")

    def _enter(self, stage: Stage) -> None:
        with self._changed:
            self._stage = stage
            self._version += 1
            self._changed.notify_all()
