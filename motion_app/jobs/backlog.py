"""What is still to be done, what comes next, and when to give up: pure bookkeeping, no processes.

Every worker takes the next item from one backlog when it is free, so that nobody waits for a slow
one.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from motion_app.jobs.manifest import Item

# How an attempt ended: made now; found made by another; a person's mistake; trouble of the machine;
# dropped because the program was asked to stop.
Ending = Literal["made", "found", "mistake", "fault", "dropped"]


@dataclass(frozen=True, eq=False)
class Answer:
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
        self.answers: list[Answer] = []
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

    def settle(self, answer: Answer) -> Failure | None:
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
