"""A manifest worked off: items handed to a crew until each has its end, or a person says stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from motion_app.jobs.backlog import Answer, Backlog, Failure, Patience
from motion_app.jobs.ledger import Ledger
from motion_app.jobs.manifest import Item
from motion_app.jobs.process_crew import Lost

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between looks at whether to stop
GRACE_SECONDS = 25.0  # to drop what is being made; SLURM kills 30 s after its SIGTERM
FAILED = 1  # exit code where an item was given up


class Crew(Protocol):
    """Who makes the items: ``ProcessCrew`` or ``RayCrew``."""

    @property
    def size(self) -> int: ...

    @property
    def free(self) -> int: ...

    def give(self, item: Item) -> None: ...

    def collect(self, timeout: float) -> list[Answer | Lost]: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class News:
    """``done`` of ``total`` items have their end; ``text`` is what happened last, in words."""

    done: int
    total: int
    text: str


class StopRequest:
    """Whether a person or a scheduler wants the program to end, by which signal, and how
    urgently."""

    def __init__(self) -> None:
        self.signal = 0
        self.times = 0

    def ask(self, signum: int, frame: object = None) -> None:
        self.signal, self.times = signum, self.times + 1

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """SIGINT and SIGTERM come here; outside the main thread there is nothing to listen to."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a run ended. ``kept``: items that were there before; ``left``: those without an end
    because of ``signal`` (0: none came); ``lost`` workers were replaced."""

    items: int
    kept: int
    answers: tuple[Answer, ...]
    failures: tuple[Failure, ...]
    left: int
    retries: int
    lost: int
    seconds: float
    signal: int

    @property
    def exit_code(self) -> int:
        """0 where every item has a result, 128 + the signal that stopped it, else 1."""
        if self.signal and self.left:
            return 128 + self.signal
        return FAILED if self.failures else 0

    def to_json(self, ledger: Ledger) -> dict[str, Any]:
        """The summary as plain JSON."""
        made = [answer for answer in self.answers if answer.ending == "made"]
        by_kind: dict[str, list[float]] = {}
        for answer in made:
            by_kind.setdefault(answer.item.kind, []).append(answer.seconds)
        return {
            "items": self.items,
            "made": len(made),
            "kept": self.kept + len(self.answers) - len(made),
            "failed": len(self.failures),
            "left": self.left,
            "retries": self.retries,
            "workers_lost": self.lost,
            "seconds": round(self.seconds, 1),
            "seconds_per_item": {kind: round(fmean(s), 2) for kind, s in sorted(by_kind.items())},
            "failures": [
                {
                    "id": failure.item.id,
                    "line": failure.item.line,
                    "why": failure.why,
                    "message": failure.message,
                    "log": str(ledger.log(failure.item)),
                }
                for failure in self.failures
            ],
            "results": str(ledger.results),
            "exit_code": self.exit_code,
        }


def run_batch(
    items: Sequence[Item],
    ledger: Ledger,
    hire: Callable[[int], Crew],
    *,
    patience: Patience = Patience(),
    on_news: Callable[[News], None] | None = None,
    stop: StopRequest | None = None,
) -> Outcome:
    """Make what is missing of ``items``. ``hire`` gives the crew for so many items and is not
    called where none is missing. Killed at any moment and run again it ends with the same
    results."""
    started = time.monotonic()
    missing = [item for item in items if ledger.record(item) is None]
    run = _Run(items, missing, patience, on_news or (lambda news: None))
    stop = stop or StopRequest()
    if missing:
        with stop.listening():
            crew = hire(len(missing))
            try:
                run.work_off(crew, stop)
            finally:
                crew.close()
    backlog = run.backlog
    return Outcome(
        items=len(items),
        kept=len(items) - len(missing),
        answers=tuple(backlog.answers),
        failures=tuple(backlog.failures),
        left=backlog.left,
        retries=backlog.retries,
        lost=run.lost,
        seconds=time.monotonic() - started,
        signal=stop.signal,
    )


class _Run:
    def __init__(
        self,
        items: Sequence[Item],
        missing: Sequence[Item],
        patience: Patience,
        on_news: Callable[[News], None],
    ) -> None:
        self.backlog = Backlog(missing, patience)
        self.lost = 0
        self._total = len(items)
        self._on_news = on_news
        if len(missing) < len(items):
            self._tell(f"{len(items) - len(missing)} were there already")

    def work_off(self, crew: Crew, stop: StopRequest) -> None:
        while not self.backlog.over and not stop.times:
            while crew.free and (item := self.backlog.next()) is not None:
                crew.give(item)
            ready = self.backlog.wait()
            soon = ready if ready else LOOK_SECONDS  # 0: an item waits for a worker
            self._hear(crew.collect(min(LOOK_SECONDS, soon)))
        if stop.times:
            self._drop(crew, stop)

    def _drop(self, crew: Crew, stop: StopRequest) -> None:
        """A first signal asks the workers, a second one does not."""
        asked = stop.times
        self._tell("stopping: what is being made is dropped, what is made is kept")
        crew.stop()
        ends = time.monotonic() + GRACE_SECONDS
        while self.backlog.busy and stop.times == asked and time.monotonic() < ends:
            self._hear(crew.collect(LOOK_SECONDS))

    def _hear(self, news: Sequence[Answer | Lost]) -> None:
        for one in news:
            if isinstance(one, Answer):
                self._settle(one)
                continue
            self.lost += 1
            if one.item is None:
                self._tell("a worker that had nothing to do was lost and is replaced")
                continue
            failure = self.backlog.lost(one.item, one.message)
            ending = "given up" if failure else "it is made again"
            self._tell(f"{one.item.id}: a worker was lost, {one.message}; {ending}")

    def _settle(self, answer: Answer) -> None:
        failure = self.backlog.settle(answer)
        words = {
            "made": f"made in {answer.seconds:.1f} s",
            "found": "another program made it",
            "dropped": "dropped",
            "mistake": f"cannot be made: {answer.message}",
            "fault": f"failed: {answer.message}; " + ("given up" if failure else "tried again"),
        }
        self._tell(f"{answer.item.id}: {words[answer.ending]}")

    def _tell(self, text: str) -> None:
        self._on_news(News(self._total - self.backlog.left, self._total, text))
