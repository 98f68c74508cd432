"""Tasks shared among processes, each with its own loaded checkpoint on one thread.

A worker that loses its parent, however that died, reads the end of its pipe and leaves.
"""

from __future__ import annotations

import multiprocessing as mp
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from motion_app.errors import MotionAppError
from motion_app.settings import Settings


@dataclass(frozen=True)
class BenchSource:
    """How a worker makes its bench: ``model`` a folder, ``device`` None for the settings' own."""

    model: str
    settings: Settings
    device: str | None = None
    threads: int = 1


class Task(Protocol):
    """One piece of work; it and its answer can be pickled."""

    def run(self, bench: Any) -> Any:
        """Do it with the worker's bench."""
        ...


@dataclass(frozen=True)
class _Failure:
    words: str
    expected: bool


class Crew(AbstractContextManager["Crew"]):
    """``processes`` workers; with one, the work is done in this process."""

    def __init__(
        self, source: BenchSource, load: Callable[[BenchSource], Any], *, processes: int
    ) -> None:
        self._source, self._load = source, load
        self._own: Any = None
        self._pipes: list[Connection] = []
        self._workers: list[mp.process.BaseProcess] = []
        if processes > 1:
            context = mp.get_context("spawn")
            for _ in range(processes):
                ours, theirs = context.Pipe()
                worker = context.Process(target=_serve, args=(theirs, source, load), daemon=True)
                worker.start()
                theirs.close()
                self._pipes.append(ours)
                self._workers.append(worker)

    def __exit__(self, *failure: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for worker in self._workers:
            if failure[0] is not None:
                worker.terminate()
            worker.join()

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """(index, answer) of each task as it is done. Raises MotionAppError where a task did or a
        worker died, RuntimeError for any other failure of a task."""
        if not self._pipes:
            for index, task in enumerate(tasks):
                if self._own is None:
                    self._own = self._load(self._source)
                yield index, task.run(self._own)
            return
        waiting = iter(enumerate(tasks))
        busy: dict[Connection, int] = {}
        for pipe in self._pipes:
            self._hand_out(pipe, waiting, busy)
        while busy:
            for pipe in wait(list(busy)):
                index = busy.pop(pipe)
                answer = self._answer(pipe)
                self._hand_out(pipe, waiting, busy)
                yield index, answer

    def _hand_out(
        self, pipe: Connection, waiting: Iterator[tuple[int, Task]], busy: dict[Connection, int]
    ) -> None:
        index, task = next(waiting, (None, None))
        if task is not None:
            pipe.send(task)
            busy[pipe] = index

    def _answer(self, pipe: Connection) -> Any:
        try:
            answer = pipe.recv()
        except EOFError as error:
            raise MotionAppError(
                "a worker of the benchmark died, perhaps for want of memory; run the same command "
                "again with fewer --processes, what is done is kept"
            ) from error
        if isinstance(answer, _Failure):
            raise (MotionAppError if answer.expected else RuntimeError)(answer.words)
        return answer


def _serve(pipe: Connection, source: BenchSource, load: Callable[[BenchSource], Any]) -> None:
    """A worker's life."""
    bench = None
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            bench = load(source) if bench is None else bench
            answer = task.run(bench)
        except MotionAppError as error:
            answer = _Failure(str(error), expected=True)
        except Exception:
            answer = _Failure(traceback.format_exc(), expected=False)
        try:
            pipe.send(answer)
        except OSError:
            return
