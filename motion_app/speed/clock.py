"""So many minutes, and no more."""

from __future__ import annotations

import time


class OutOfTime(Exception):
    """The minutes are over in the middle of something."""


class Clock:
    """``minutes`` from when it is made."""

    def __init__(self, minutes: float) -> None:
        self.began = time.monotonic()
        self.minutes = minutes

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that remain; 0 when they are over."""
        return max(0.0, 60 * self.minutes - self.spent)
