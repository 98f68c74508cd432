"""The line of jobs: who waits behind whom, for how long, and how many one person may have in it.
And the device's own line, in which the jobs are one among others: one lock for each device, who
came first goes first, and everyone can see their place.

Jobs take turns: each visitor's first one comes before anybody's second. A visitor is an address, or
an owner where none is known.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from types import TracebackType

from motion_app.errors import RequestError
from motion_app.jobs.folder import JobRow
from motion_app.jobs.progress import Work
from motion_app.jobs.timings import Timings
from motion_app.settings import Limits


class Line:
    """The jobs that run or wait, who runs first. Whoever asks or changes it holds the lock of the
    queue that it is of."""

    def __init__(self) -> None:
        self._works: dict[str, Work] = {}  # in the order of their turns
        self._addresses: dict[str, str] = {}  # where one is known
        self._came: dict[str, int] = {}  # the order in which they came
        self._turns = itertools.count()

    def __iter__(self) -> Iterator[Work]:
        return iter(tuple(self._works.values()))

    def find(self, job_id: str) -> Work | None:
        """The job of that id; None for one that neither runs nor waits."""
        return self._works.get(job_id)

    @property
    def rows(self) -> list[JobRow]:
        """Of all that run or wait."""
        return [work.row for work in self]

    @property
    def waiting(self) -> list[Work]:
        """Those that do not run yet."""
        return [work for work in self if work.row.state == "queued"]

    @property
    def running(self) -> list[Work]:
        """Those that run."""
        return [work for work in self if work.row.state == "running"]

    def join(self, work: Work, address: str = "") -> None:
        """One more, behind all others until ``take_turns``; ``address``: where its owner comes
        from, "" where that is not known."""
        self._works[work.row.id] = work
        self._came[work.row.id] = next(self._turns)
        if address:
            self._addresses[work.row.id] = address

    def leave(self, job_id: str) -> None:
        """A job has ended."""
        for known in (self._works, self._addresses, self._came):
            known.pop(job_id, None)

    def clear(self) -> None:
        """Nobody is there any more."""
        for known in (self._works, self._addresses, self._came):
            known.clear()

    def take_turns(self, timings: Timings) -> None:
        """Who runs, then each visitor's first job in the order they came, then the second ones;
        everyone who waits hears their place."""
        before: Counter[str] = Counter()
        ranks = {}
        for work in sorted(self, key=lambda work: self._came[work.row.id]):
            waits = work.row.state == "queued"
            visitor = self._addresses.get(work.row.id) or work.row.owner
            ranks[work.row.id] = (before[visitor] if waits else -1, self._came[work.row.id])
            before[visitor] += waits
        self._works = {job: self._works[job] for job in sorted(ranks, key=lambda job: ranks[job])}
        for ahead, work in enumerate(self):
            if work.row.state == "queued":
                work.placed(ahead, timings)

    def seconds_left(self, work: Work) -> float | None:
        """To its end, with those before it; None unless all of them were measured."""
        total = 0.0
        for before in self:
            left = before.seconds_left()
            if left is None:
                return None
            total += left
            if before is work:
                break
        return total

    def check_quota(self, owner: str, address: str, limits: Limits) -> None:
        """RequestError where ``owner``, all of the same ``address``, or all together have as many
        in the line as ``limits`` allow."""
        rows = self.rows
        own = sum(row.owner == owner for row in rows)
        if own >= limits.jobs_per_session:
            raise RequestError(
                f"{own} of your jobs are waiting or running, and {limits.jobs_per_session} is "
                "the most; wait for one, or cancel it"
            )
        near = sum(known == address for known in self._addresses.values()) if address else 0
        if near >= limits.jobs_per_address:
            raise RequestError(
                f"{near} jobs of your address are waiting or running, and "
                f"{limits.jobs_per_address} is the most; wait for one, or cancel it"
            )
        if len(rows) >= limits.jobs:
            raise RequestError(
                f"{len(rows)} jobs are waiting already, and {limits.jobs} is the most; try again "
                "in a while"
            )


class DeviceLock:
    """A fair lock. gradio's own queue does not guard the device: a cancelled handler may run on
    while the next one begins."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: list[Ticket] = []

    def __len__(self) -> int:
        """Tickets out: the one at work and those who wait."""
        with self._changed:
            return len(self._line)

    def ticket(self) -> Ticket:
        """Take the last place in the line. Give it back with ``release`` or as a context."""
        with self._changed:
            ticket = Ticket(self)
            self._line.append(ticket)
            return ticket


class Ticket:
    """A place in the line of one DeviceLock."""

    def __init__(self, lock: DeviceLock) -> None:
        self._lock = lock

    @property
    def ahead(self) -> int:
        """How many go first: 0 for the one whose turn it is, and after ``release``."""
        with self._lock._changed:
            return self._lock._line.index(self) if self in self._lock._line else 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the turn, at most ``timeout`` seconds (None: for good); True once it came."""
        with self._lock._changed:
            return self._lock._changed.wait_for(self._is_first, timeout)

    def release(self) -> None:
        """Leave the line, whether the turn had come or not. Twice is as good as once."""
        with self._lock._changed:
            if self in self._lock._line:
                self._lock._line.remove(self)
                self._lock._changed.notify_all()

    def _is_first(self) -> bool:
        return bool(self._lock._line) and self._lock._line[0] is self

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
