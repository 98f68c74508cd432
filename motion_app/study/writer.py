"""One writer for all who answer at once: what has come meanwhile is stored in one transaction, and
acknowledged after it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from motion_app.errors import RequestError
from motion_app.study.database import AWAY
from motion_app.study.records import Answer, SavedAnswer

logger = logging.getLogger(__name__)

TOGETHER = 64  # answers in one transaction; it holds the lock for some 20 ms

Sent = tuple[str, Answer]  # the rater's id and what was sent


class AnswerStore(Protocol):
    """What a writer writes into; ``StudyStore`` is one."""

    def save_all(self, sent: Sequence[Sent]) -> list[SavedAnswer | RequestError]:
        """Store them in one transaction; when this returns they are on the disk."""


class AnswerWriter:
    """Takes answers from any thread. A commit costs the same for one answer as for fifty: those
    that come while one is under way wait for the next, together. Its thread lives while there is
    something to write."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._waiting: deque[tuple[Sent, Future[SavedAnswer]]] = deque()
        self._lock = threading.Lock()
        self._writing = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="answers")

    def save(self, rater: str, answer: Answer) -> Future[SavedAnswer]:
        """Done once the answer is stored for good; its exception is what ``StudyStore.save`` would
        raise. Answers of one thread are stored in their order."""
        future: Future[SavedAnswer] = Future()
        with self._lock:
            if not self._writing:
                self._pool.submit(self._write)
                self._writing = True
            self._waiting.append(((rater, answer), future))
        return future

    def _write(self) -> None:
        while batch := self._next():
            outcomes = self._saved([sent for sent, _ in batch])
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _next(self) -> list[tuple[Sent, Future[SavedAnswer]]]:
        """What waits, without those that nobody waits for any more; empty: the thread may go."""
        with self._lock:
            batch: list[tuple[Sent, Future[SavedAnswer]]] = []
            while self._waiting and len(batch) < TOGETHER:
                entry = self._waiting.popleft()
                if entry[1].set_running_or_notify_cancel():
                    batch.append(entry)
            self._writing = bool(batch)
            return batch

    def _saved(self, sent: Sequence[Sent]) -> list[SavedAnswer | BaseException]:
        try:
            return [*self._store.save_all(sent)]
        except BaseException as error:
            if len(sent) == 1 or isinstance(error, AWAY):
                return [error] * len(sent)
            kind = type(error).__name__  # its text may hold raters and their answers
            logger.error("%d answers, not stored together: %s; now one by one", len(sent), kind)
        return [outcome for one in sent for outcome in self._saved([one])]  # the fault is one's own
