"""A job under way: its progress, its time, and how it ends.

One job in memory while it waits and runs: what its runner sees, what watchers are told, and how one
run of it ended, whatever came of it. A job has one part or several, which are done one after the
other: two motions are learned, then the video is made with them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from motion_app.errors import GenerationCancelled, MotionAppError, one_line, server_fault
from motion_app.jobs.folder import JobRow, State
from motion_app.jobs.timings import JobPart, JobSize, Measurement, Timings

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.1  # between looks at whether to stop while something is waited for
# The stages of both kinds, in their order; "done" is the last of every job, however it ended.
STAGES = (
    *("queued", "loading", "preparing", "encoding_clips", "denoising", "training"),
    *("decoding", "saving", "done"),
)
INTERRUPTED = "the program was stopped while this was being made; nothing that you chose is lost"
OUT_OF_MEMORY = (
    "the device ran out of memory; wait until nothing else uses it, or ask for fewer objects or a "
    "smaller checkpoint"
)
# Waits for the loaded model, the given seconds at most; None says that it is still loading.
WaitForEngine = Callable[[float], "MotionEngine | None"]

if TYPE_CHECKING:  # torch comes with these, and the page opens before it is there
    from motion_app.engine.pipeline import MotionEngine
    from motion_app.scene import StepReport
    from motion_app.training.trainer import TrainingReport

    News = StepReport | TrainingReport


@dataclass(frozen=True, eq=False)
class JobProgress:
    """Where a job stands.

    ``row.state`` tells how it ended once ``stage`` is "done". ``ahead``: jobs before it while it is
    queued. ``elapsed`` seconds since it joined the line, and of a job that has ended those from its
    start to its end. ``step`` of ``steps`` are finished, 0 before the first; ``step_seconds`` is
    the mean of them, None before the first. ``seconds_left`` is measured, None where nothing was.
    ``news``: what the last step told. ``stopping``: asked to stop, and about to. ``stage``, steps
    and news are those of part ``part`` of ``parts``, counted from 0.
    """

    row: JobRow
    stage: str
    ahead: int = 0
    elapsed: float = 0.0
    step: int = 0
    steps: int = 0
    step_seconds: float | None = None
    seconds_left: float | None = None
    news: News | None = None
    stopping: bool = False
    part: int = 0
    parts: tuple[JobPart, ...] = ()


@dataclass(frozen=True, eq=False)
class KeptInputs:
    """What a job keeps of what it was given: ``row``, plain JSON, in the database, and ``files``,
    their bytes by name, in its folder."""

    row: dict[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


class Runner(Protocol):
    """How jobs of one kind are done."""

    def check(
        self, inputs: Mapping[str, Any], files: Sequence[str], *, owner: str = ""
    ) -> KeptInputs:
        """The inputs as the job keeps them, or the MotionAppError that can be told at submit.
        ``files``: the names of those that came with the job; ``owner``: the job's. May take its
        time."""

    def check_line(self, inputs: Mapping[str, Any], active: Sequence[JobRow]) -> None:
        """Raise the RequestError for a job that cannot be made beside the ``active`` ones, of any
        kind, which wait or run. Quick: the line is held up."""

    def parts(self, inputs: Mapping[str, Any]) -> tuple[JobPart, ...]:
        """What is done one after the other, at least one."""

    def run(self, work: Work) -> dict[str, Any]:
        """Do it and return the outcome, plain JSON. Ask ``work`` at every step whether to go on,
        and tell it of each part after the first (``next_part``)."""


class Work:
    """A job between ``submit`` and its end. The runner calls ``enter``, ``stepped``, ``next_part``
    and ``check_stop`` from its thread; everything else belongs to the queue."""

    def __init__(
        self,
        row: JobRow,
        folder: Path,
        parts: Sequence[JobPart],
        changed: threading.Condition,
    ) -> None:
        self.row = row
        self.folder = folder
        self.parts = tuple(parts)
        self.version = 0
        self.ahead = 0
        self.expected: tuple[Measurement | None, ...] = (None,) * len(self.parts)
        self._changed = changed
        self.ending: State = "cancelled"
        self._stop = threading.Event()
        self._joined = time.monotonic()
        self._stage = "queued"
        self._measured: list[tuple[str, Measurement]] = []
        self._enter_part(0)

    def _enter_part(self, part: int) -> None:
        """Its clock and its steps are at their beginning."""
        self._part = part
        self._began: float | None = None
        self._step = 0
        self._steps = self.size.steps
        self._times: list[float] = []
        self._last_step_at = time.monotonic()
        self._news: News | None = None

    @property
    def size(self) -> JobSize:
        """Of the part at hand."""
        return self.parts[self._part].size

    # for the runner

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def check_stop(self) -> None:
        """Raise GenerationCancelled where the job was asked to stop."""
        if self.stopping:
            done = f"after step {self._step} of {self._steps}" if self._step else "before step 1"
            raise GenerationCancelled(f"stopped {done}, as asked")

    def enter(self, stage: str) -> None:
        """The next stage; the clock of a measurement begins with the first after "loading"."""
        with self._changed:
            if self._began is None and stage not in ("queued", "loading"):
                self._began = time.monotonic()
            self._stage = stage
            self._tell()

    def next_part(self) -> None:
        """The part at hand is done, and the next begins."""
        with self._changed:
            self._measure()
            self._enter_part(self._part + 1)
            self.enter("preparing")

    def stepped(self, news: News, *, step: int, steps: int, seconds: float, stage: str) -> bool:
        """A step is done, in so many ``seconds``; ``stage`` is what comes now. False: stop."""
        with self._changed:
            self._news, self._step, self._steps = news, step, steps
            self._times.append(seconds)
            self._last_step_at = time.monotonic()
        self.enter(stage)
        return not self.stopping

    # for the queue

    def ask_to_stop(self, ending: State) -> None:
        """It will end as "cancelled" by a person or "interrupted" by the program; the first asked
        counts."""
        with self._changed:
            if not self.stopping:
                self.ending = ending
            self._stop.set()
            self._tell()

    def placed(self, ahead: int, timings: Timings) -> None:
        """So many jobs are before it, and what is like its parts took as long as ``timings``
        say."""
        with self._changed:
            self.ahead = ahead
            self.expected = tuple(timings.nearest(part.kind, part.size) for part in self.parts)
            self._tell()

    def begin(self, row: JobRow) -> None:
        """Its turn has come; ``row`` says so."""
        with self._changed:
            self.row = row
            self.enter("loading")

    @property
    def step_seconds(self) -> float | None:
        return sum(self._times) / len(self._times) if self._times else None

    @property
    def seconds(self) -> float:
        """From the first stage of the part at hand until now."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def measurements(self) -> list[tuple[str, Measurement]]:
        """What there is to learn from it at its end: the kind of each part and how long that took.
        Left out are those that made no step, or were resumed so that only some of their steps were
        seen."""
        self._measure()
        return list(self._measured)

    def _measure(self) -> None:
        if self.step_seconds is None or len(self._times) < self._steps:
            return
        measured = Measurement(
            seconds=self.seconds,
            steps=self._steps,
            objects=self.size.objects,
            step_seconds=self.step_seconds,
            tail_seconds=time.monotonic() - self._last_step_at,
            method=self.size.method,
        )
        kind = self.parts[self._part].kind
        self._measured.append((kind, measured))
        self.expected = tuple(
            measured if known is None and part.kind == kind else known
            for known, part in zip(self.expected, self.parts, strict=True)
        )

    def seconds_left(self) -> float | None:
        """By the steps of the part at hand, and by ``expected`` for all else; None where that is
        missing."""
        left = self._part_seconds_left()
        for expected, part in list(zip(self.expected, self.parts, strict=True))[self._part + 1 :]:
            if left is None or expected is None:
                return None
            left += expected.seconds_for(part.size.steps)
        return left

    def _part_seconds_left(self) -> float | None:
        expected, each = self.expected[self._part], self.step_seconds
        if each is not None and self._step and self._step < self._steps:
            tail = 0.0 if expected is None else expected.tail_seconds
            return (self._steps - self._step) * each + tail
        if expected is None:
            return None
        if self._step:
            return max(0.0, expected.tail_seconds - (time.monotonic() - self._last_step_at))
        return max(0.0, expected.seconds_for(self.size.steps) - self.seconds)

    def progress(self, seconds_left: float | None) -> JobProgress:
        """As it is now."""
        over = not self.row.active
        return JobProgress(
            row=self.row,
            stage="done" if over else self._stage,
            ahead=self.ahead if self.row.state == "queued" else 0,
            elapsed=_ran(self.row) if over else time.monotonic() - self._joined,
            step=self._step,
            steps=self._steps,
            step_seconds=self.step_seconds,
            seconds_left=None if over or self.stopping else seconds_left,
            news=self._news,
            stopping=self.stopping and not over,
            part=self._part,
            parts=self.parts,
        )

    def _tell(self) -> None:
        self.version += 1
        self._changed.notify_all()


def engine_for(work: Work, wait_for_engine: WaitForEngine) -> MotionEngine:
    """The engine, once it is loaded; raises what loading raised, or that the job was stopped."""
    while (engine := wait_for_engine(POLL_SECONDS)) is None:
        work.check_stop()
    return engine


def _ran(row: JobRow) -> float:
    """Seconds from the start of a job that has ended to its end; 0 where it never began."""
    if row.started is None or row.finished is None:
        return 0.0
    return max(0.0, row.finished - row.started)


def ended(row: JobRow, work: Work | None = None) -> JobProgress:
    """The last progress of a job: with its last step where ``work`` still knows it."""
    if work is not None:
        work.row = row
        return work.progress(None)
    return JobProgress(row=row, stage="done", elapsed=_ran(row))


def attempt(runner: Runner, work: Work) -> dict[str, Any]:
    """Let ``runner`` do the job; returns how it ended, as changes of its row. Raises nothing."""
    try:
        return {"state": "done", "outcome": runner.run(work)}
    except GenerationCancelled as stopped:
        interrupted = work.ending == "interrupted"
        return {
            "state": work.ending,
            "message": INTERRUPTED if interrupted else one_line(stopped),
        }
    except MotionAppError as error:
        return {"state": "failed", "message": one_line(error)}
    except BaseException as error:  # also what would end a thread: the others' jobs wait
        if _is_out_of_memory(error):
            logger.error("job %s ran out of memory", work.row.id, exc_info=error)
            return {"state": "failed", "message": OUT_OF_MEMORY}
        message = server_fault(logger, error, f"job {work.row.id} failed,")
        return {"state": "failed", "message": message}


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's own, PyTorch's for a GPU (by name: this runs without torch) and, which is a plain
    RuntimeError, that of its allocator for the CPU."""
    named = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or named or "DefaultCPUAllocator" in str(error)
