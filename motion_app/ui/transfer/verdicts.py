"""Whether the model knows the like of a picture, found out behind the calls that ask: the model may
be loading, or at work on somebody's video for minutes, and a call that waited for it would hold a
thread and two of the six connections of its browser. No gradio here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from motion_app.ui.transfer.session import MOST_JUDGED, Session

logger = logging.getLogger(__name__)
MOMENT_SECONDS = 2.0  # how long a call waits for what an idle model finds out in less
IDLE_SECONDS = 10.0  # after which the thread ends


@dataclass(frozen=True, eq=False)
class _Asked:
    session: Session
    image: np.ndarray  # (H, W, 3) uint8, the session's own fitted picture


class Verdicts:
    """One picture after the other; of each session the last one alone. ``knows`` waits for the
    model; None where it cannot tell."""

    def __init__(self, knows: Callable[[np.ndarray], bool | None]) -> None:
        self._knows = knows
        self._line: list[_Asked] = []  # the first is being looked at
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def awaited(self, session: Session) -> bool:
        """Whether a picture of the session was not judged yet."""
        with self._changed:
            return any(asked.session is session for asked in self._line)

    def ask(self, session: Session, *, wait: float = MOMENT_SECONDS) -> bool:
        """Find out about the session's picture; True where that was done within ``wait`` seconds,
        else it is in ``session.judged`` later."""
        draft = session.draft
        if draft is None or any(image is draft.fitted.image for image, _ in session.judged):
            return True
        asked = _Asked(session, draft.fitted.image)
        with self._changed:
            waiting = (other for other in self._line[1:] if other.session is not session)
            self._line = [*self._line[:1], *waiting, asked]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="verdicts", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: asked not in self._line, wait)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._line), IDLE_SECONDS):
                    self._thread = None
                    return
                asked = self._line[0]
            try:
                self._judge(asked)
            except Exception:
                logger.exception("a picture could not be judged")
            with self._changed:
                self._line = [other for other in self._line if other is not asked]
                self._changed.notify_all()

    def _judge(self, asked: _Asked) -> None:
        session, image = asked.session, asked.image
        known = self._knows(image)
        if known is not None:
            with session.lock:
                session.judged = (*session.judged, (image, known))[-MOST_JUDGED:]
