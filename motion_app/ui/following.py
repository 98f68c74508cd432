"""Which of its jobs one browser tab is looking at."""

from __future__ import annotations

import threading
from typing import Any

from motion_app.ui.pair import Pair


class Following:
    """``job``: the id of the one whose progress or video is in the panel, None before the first;
    ``pair``: those being compared. Lives in a ``gr.State``.

    Several streams of progress can be open, since a person may look at one job while another runs;
    the one that began last leads and writes into the panel."""

    def __init__(self) -> None:
        self.job: str | None = None
        self.pair = Pair()
        self._turn = 0
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Following:
        """gr.State copies its first value for every browser: each begins with nothing."""
        return Following()

    def look_at(self, job: str | None) -> int:
        """``job`` comes into the panel; the turn of the stream that shows it."""
        with self._lock:
            self._turn += 1
            self.job = job
            return self._turn

    def leads(self, turn: int) -> bool:
        """No other stream has begun since."""
        with self._lock:
            return self._turn == turn
