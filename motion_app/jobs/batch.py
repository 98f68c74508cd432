"""A batch: what is still to be done, handed out until each item has its end.

A manifest worked off: items handed to workers until each has its end, or a person says stop.

What is still to be done, what comes next, and when to give up: pure bookkeeping, no processes.

Every worker takes the next item from one backlog when it is free, so that nobody waits for a slow
one.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal, Protocol

from motion_app.jobs.manifest import Item
from motion_app.jobs.results import Ledger

logger = logging.getLogger(__name__)
LOOK_SECONDS = 0.5  # between looks at whether to stop
GRACE_SECONDS = 25.0  # to drop what is being made; SLURM kills 30 s after its SIGTERM
FAILED = 1  # exit code where an item was given up
# How an attempt ended: made now; found made by another; a person's mistake; trouble of the machine;
# dropped because the program was asked to stop.
Ending = Literal["made", "found", "mistake", "fault", "dropped"]


class Pool(Protocol):
    """Who makes the items, giving an Attempt of each: ``Workers`` or ``RayWorkers``."""

    @property
    def size(self) -> int: ...

    @property
    def free(self) -> int: ...

    def give(self, item: Item) -> None: ...

    def collect(self, timeout: float) -> list[Done | Lost]: ...

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
class BatchOutcome:
    """How a run ended. ``kept``: items that were there before; ``left``: those without an end
    because of ``signal`` (0: none came); ``lost`` workers were replaced."""

    items: int
    kept: int
    answers: tuple[Attempt, ...]
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


class _BatchRun:
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

    def work_off(self, pool: Pool, stop: StopRequest) -> None:
        while not self.backlog.over and not stop.times:
            while pool.free and (item := self.backlog.next()) is not None:
                pool.give(item)
            ready = self.backlog.wait()
            soon = ready if ready else LOOK_SECONDS  # 0: an item waits for a worker
            self._hear(pool.collect(min(LOOK_SECONDS, soon)))
        if stop.times:
            self._drop(pool, stop)

    def _drop(self, pool: Pool, stop: StopRequest) -> None:
        """A first signal asks the workers, a second one does not."""
        asked = stop.times
        self._tell("stopping: what is being made is dropped, what is made is kept")
        pool.stop()
        ends = time.monotonic() + GRACE_SECONDS
        while self.backlog.busy and stop.times == asked and time.monotonic() < ends:
            self._hear(pool.collect(LOOK_SECONDS))

    def _hear(self, news: Sequence[Done | Lost]) -> None:
        for one in news:
            if isinstance(one, Done):
                self._settle(replace(one.answer, item=one.task))
                continue
            self.lost += 1
            if one.task is None:
                self._tell("a worker that had nothing to do was lost and is replaced")
                continue
            failure = self.backlog.lost(one.task, one.message)
            ending = "given up" if failure else "it is made again"
            self._tell(f"{one.task.id}: a worker was lost, {one.message}; {ending}")

    def _settle(self, answer: Attempt) -> None:
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


@dataclass(frozen=True, eq=False)
class Attempt:
    """How one attempt at ``item`` ended, ``message`` saying why it failed; ``seconds`` it took."""

    item: Item
    ending: Ending
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Patience:
    """A fault is tried again ``retries`` times, after ``first_wait`` seconds and then twice as long
    each time up to ``longest_wait``; an item whose workers die ``deaths`` times is given up."""

    retries: int = 3
    deaths: int = 3
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def wait(self, failures: int) -> float:
        """Seconds after so many failures, the first being 1."""
        return min(self.longest_wait, self.first_wait * 2.0 ** min(failures - 1, 60))


def run_batch(
    items: Sequence[Item],
    ledger: Ledger,
    hire: Callable[[int], Pool],
    *,
    patience: Patience = Patience(),
    on_news: Callable[[News], None] | None = None,
    stop: StopRequest | None = None,
) -> BatchOutcome:
    """Make what is missing of ``items``. ``hire`` gives the workers for so many items and is not
    called where none is missing. Killed at any moment and run again it ends with the same
    results."""
    started = time.monotonic()
    missing = [item for item in items if ledger.record(item) is None]
    run = _BatchRun(items, missing, patience, on_news or (lambda news: None))
    stop = stop or StopRequest()
    if missing:
        with stop.listening():
            pool = hire(len(missing))
            try:
                run.work_off(pool, stop)
            finally:
                pool.close()
    backlog = run.backlog
    return BatchOutcome(
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


@dataclass(frozen=True, eq=False)
class Failure:
    """An item that was given up. ``why``: "mistake", "fault" or "deaths"."""

    item: Item
    why: str
    message: str


class Backlog:
    """The items of one run. ``now`` gives seconds of a clock that never goes back."""

    def __init__(
        self,
        items: Iterable[Item],
        patience: Patience = Patience(),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh = deque(items)
        self._again: list[tuple[float, int, Item]] = []
        self._numbers = itertools.count()
        self._patience, self._now = patience, now
        self._out: set[str] = set()
        self._faults: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self.answers: list[Attempt] = []
        self.failures: list[Failure] = []
        self.retries = 0

    @property
    def over(self) -> bool:
        """Nothing is to be done and nobody is at it."""
        return not (self._fresh or self._again or self._out)

    @property
    def left(self) -> int:
        """Items without an end."""
        return len(self._fresh) + len(self._again) + len(self._out)

    @property
    def busy(self) -> int:
        """Items somebody is at."""
        return len(self._out)

    def next(self) -> Item | None:
        """An item for a free worker; None where none is ready now."""
        if self._again and self._again[0][0] <= self._now():
            item = heapq.heappop(self._again)[2]
        elif self._fresh:
            item = self._fresh.popleft()
        else:
            return None
        self._out.add(item.name)
        return item

    def wait(self) -> float | None:
        """Seconds until an item is ready; None where none waits."""
        if self._fresh:
            return 0.0
        return max(0.0, self._again[0][0] - self._now()) if self._again else None

    def settle(self, answer: Attempt) -> Failure | None:
        """An attempt is over; the failure where its item is given up with it."""
        item = answer.item
        self._out.discard(item.name)
        if answer.ending == "dropped":
            self._fresh.appendleft(item)
        elif answer.ending == "mistake":
            return self._give_up(item, "mistake", answer.message)
        elif answer.ending == "fault":
            self._faults[item.name] += 1
            if self._faults[item.name] > self._patience.retries:
                return self._give_up(item, "fault", answer.message)
            self._later(item, self._faults[item.name])
        else:
            self.answers.append(answer)
        return None

    def lost(self, item: Item, message: str) -> Failure | None:
        """The worker died over ``item``; the failure where that was once too often."""
        self._out.discard(item.name)
        self._deaths[item.name] += 1
        deaths = self._deaths[item.name]
        if deaths >= self._patience.deaths:
            return self._give_up(item, "deaths", f"{deaths} workers died over it; {message}")
        self._later(item, deaths)
        return None

    def _later(self, item: Item, failures: int) -> None:
        self.retries += 1
        ready = self._now() + self._patience.wait(failures)
        heapq.heappush(self._again, (ready, next(self._numbers), item))

    def _give_up(self, item: Item, why: str, message: str) -> Failure:
        failure = Failure(item, why, message)
        self.failures.append(failure)
        return failure


@dataclass(frozen=True, eq=False)
class Done:
    """A worker's ``answer`` to its task."""

    task: Any
    answer: Any


@dataclass(frozen=True, eq=False)
class Lost:
    """A worker died, over ``task`` where it had one."""

    task: Any
    message: str
