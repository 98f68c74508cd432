"""Videos that are being scored on a thread of their own, for a page that asks how far it is. No
gradio here."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

from motion_app.errors import GenerationCancelled
from motion_app.evaluation.scoring import ScoreProgress, Scores

LEFT_SECONDS = 300.0  # without a question: a hidden page asks once a minute, a closed one never
Steps = Generator[ScoreProgress, None, Scores]


class ScoringRun:
    """One scoring, from its first step. Making one takes that step, which raises what is wrong with
    the choice. ``turn`` is how many may be at work at once.

    ``progress``: the measurement that comes next; ``scores``: what was found, None before the end
    and for a run that was stopped; ``error``: what broke it.
    """

    def __init__(self, steps: Steps, turn: threading.Semaphore) -> None:
        self.progress = next(steps)
        self.scores: Scores | None = None
        self.error: Exception | None = None
        self._stop = threading.Event()
        self._asked = time.monotonic()
        self._thread = threading.Thread(
            target=self._work, args=(steps, turn), name="scoring", daemon=True
        )
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def ask(self) -> bool:
        """Whether it has come to its end; somebody still wants to know."""
        self._asked = time.monotonic()
        return self.over

    def stop(self) -> None:
        """End before the next measurement."""
        self._stop.set()

    def _work(self, steps: Steps, turn: threading.Semaphore) -> None:
        try:
            while not turn.acquire(timeout=0.2):
                self._check()
            try:
                while True:
                    self._check()
                    self.progress = next(steps)
            finally:
                turn.release()
        except StopIteration as finished:
            self.scores = finished.value
        except GenerationCancelled:
            pass
        except Exception as error:
            self.error = error
        finally:
            steps.close()

    def _check(self) -> None:
        if self.stopping or time.monotonic() - self._asked > LEFT_SECONDS:
            raise GenerationCancelled("stopped")
