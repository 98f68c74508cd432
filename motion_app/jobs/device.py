"""One lock for each device: who came first goes first, and everyone can see their place."""

from __future__ import annotations

import threading
from types import TracebackType


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
