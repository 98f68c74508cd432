"""Which of its jobs one browser tab is looking at."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from motion_app.ui.pair import Pair

if TYPE_CHECKING:
    from motion_app.ui.job_stream import Telling


class Following:
    """``job``: the id of the one whose progress or video is in the panel, None before the first;
    ``pair``: those being compared; ``tellings``: of the jobs that are asked about again and again.
    Lives in a ``gr.State``.

    Several jobs can be followed, since a person may look at one while another runs; the telling
    that began last leads and writes into the panel."""

    def __init__(self) -> None:
        self.job: str | None = None
        self.pair = Pair()
        self.tellings: tuple[Telling, ...] = ()
        self._turn = 0
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Following:
        """gr.State copies its first value for every browser: each begins with nothing."""
        return Following()

    def look_at(self, job: str | None) -> int:
        """``job`` comes into the panel; the turn of the telling that shows it."""
        with self._lock:
            self._turn += 1
            self.job = job
            return self._turn

    def tell(self, telling: Telling) -> None:
        """``telling`` is asked from now on, in the place of another one of its job."""
        with self._lock:
            others = (other for other in self.tellings if other.job != telling.job)
            self.tellings = (*others, telling)

    def told(self, telling: Telling) -> None:
        """``telling`` has come to its end."""
        with self._lock:
            self.tellings = tuple(other for other in self.tellings if other is not telling)

    def leads(self, turn: int) -> bool:
        """No other telling has begun since."""
        with self._lock:
            return self._turn == turn
