"""Workers in processes of their own, each with its models loaded once: of batches and benchmarks.

Tasks are given to whoever is free. A worker hears from its parent through a pipe alone: what to do
next, to drop what it does, and, when the parent is gone however it died, the end of the pipe.
Signals meant for the whole program, as Ctrl-C in a terminal, are the parent's affair.

One attempt at one item of a batch, whatever comes of it: made in a folder of its own, logged,
committed.
"""

from __future__ import annotations

import errno
import faulthandler
import logging
import multiprocessing as mp
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass
from functools import cache, partial
from io import RawIOBase, TextIOBase
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from motion_app.errors import GenerationCancelled, MotionAppError, disk_trouble, one_line
from motion_app.jobs.batch import Attempt, Done, Ending, Lost
from motion_app.jobs.kinds import GoOn, Make, WorkerConfig
from motion_app.jobs.manifest import Item
from motion_app.jobs.results import Ledger

logger = logging.getLogger(__name__)
MOST_STILLBORN = 3  # workers in a row that die before they begin
LEAVE_SECONDS = 5.0
LOOK_SECONDS = 60.0  # one wait for news
Open = Callable[[WorkerConfig], Any]  # what the tasks of one worker are done with
Opened = Callable[[], Any]  # that, opened when it is first asked for
Do = Callable[[Any, Opened, GoOn], Any]  # one task; its answer, which can be pickled
# What a machine gets over, or another one has not. A missing file or a wrong path is a mistake.
PASSING = {
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EBUSY", "ECONNREFUSED", "ECONNRESET", "EDQUOT", "EHOSTUNREACH", "EIO"),
        *("EMFILE", "ENETUNREACH", "ENFILE", "ENOMEM", "ENOSPC", "EPIPE", "ESTALE", "ETIMEDOUT"),
    )
    if hasattr(errno, name)
}


class Task(Protocol):
    """One piece of a benchmark's work; it and its answer can be pickled."""

    def run(self, opened: Any) -> Any:
        """Do it with what the worker has opened."""
        ...


@dataclass(frozen=True)
class _Failure:
    words: str
    expected: bool


@dataclass(eq=False)
class _Worker:
    process: mp.process.BaseProcess
    config: WorkerConfig
    ready: bool = False
    task: Any = None


class Workers(AbstractContextManager["Workers"]):
    """One process for each of ``configs``, which does tasks by ``do`` with what ``opens`` opens;
    both must be found by import there."""

    def __init__(self, configs: Sequence[WorkerConfig], opens: Open, do: Do) -> None:
        self._open, self._do = opens, do
        self._context = mp.get_context("spawn")
        self._workers: dict[Connection, _Worker] = {}
        self._stopping = False
        self._stillborn = 0
        for config in configs:
            self._start(config)

    @property
    def size(self) -> int:
        return len(self._workers)

    @property
    def free(self) -> int:
        """Workers that wait for a task."""
        return sum(worker.ready and worker.task is None for worker in self._workers.values())

    @property
    def pids(self) -> list[int]:
        """Of the workers that are making something."""
        busy = [worker for worker in self._workers.values() if worker.task is not None]
        return [worker.process.pid for worker in busy if worker.process.pid is not None]

    def give(self, task: Any) -> None:
        """Let a free worker do ``task``."""
        pipe, worker = next(
            (pipe, worker)
            for pipe, worker in self._workers.items()
            if worker.ready and worker.task is None
        )
        worker.task = task
        try:
            pipe.send(task)
        except OSError:  # it has just died; ``collect`` reads that from the pipe
            logger.info("a worker died before it began %s", task)

    def collect(self, timeout: float) -> list[Done | Lost]:
        """What happened, waiting up to ``timeout`` seconds for it. MotionAppError where workers die
        before they begin."""
        news: list[Done | Lost] = []
        told = wait(list(self._workers), timeout) if self._workers else []
        for pipe, worker in list(self._workers.items()):
            if pipe not in told:
                continue
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                news.append(self._replace(pipe))
                continue
            if not worker.ready:
                worker.ready, self._stillborn = True, 0
            else:
                # Its own task, not the copy that came back.
                news.append(Done(worker.task, message))
                worker.task = None
        return news

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """(index, answer) of each task as it is done by ``run_task``. Raises MotionAppError where a
        task did or a worker died, RuntimeError for any other failure of a task."""
        waiting, places = iter(enumerate(tasks)), {}
        for index, task in waiting:
            places[id(task)] = index
            while not self.free:
                yield from self._mapped(places)
            self.give(task)
        while places:
            yield from self._mapped(places)

    def _mapped(self, places: dict[int, int]) -> Iterator[tuple[int, Any]]:
        for one in self.collect(LOOK_SECONDS):
            if isinstance(one, Lost):
                raise MotionAppError(
                    "a worker of the benchmark died, perhaps for want of memory; run the same "
                    "command again with fewer --processes, what is done is kept"
                )
            if isinstance(one.answer, _Failure):
                kind = MotionAppError if one.answer.expected else RuntimeError
                raise kind(one.answer.words)
            yield places.pop(id(one.task)), one.answer

    def _start(self, config: WorkerConfig) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, config, self._open, self._do), daemon=True
        )
        process.start()
        theirs.close()
        self._workers[ours] = _Worker(process, config)

    def _replace(self, pipe: Connection) -> Lost:
        """Take a dead worker out and another one in."""
        worker = self._workers.pop(pipe)
        pipe.close()
        worker.process.join(LEAVE_SECONDS)
        code = worker.process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"killed by signal {-code}"
        self._stillborn += not worker.ready
        if self._stillborn >= MOST_STILLBORN:
            raise MotionAppError(
                f"{MOST_STILLBORN} workers in a row ended before they began ({how}); see what they "
                "wrote above, and ask for fewer workers where memory is short"
            )
        if not self._stopping:
            self._start(worker.config)
        return Lost(worker.task, f"the last was {how}")

    def stop(self) -> None:
        """Ask every worker to drop its task at the next step and to leave; start no other."""
        self._stopping = True
        for pipe in self._workers:
            try:
                pipe.send(None)
            except OSError:
                logger.info("a worker was gone already")

    def close(self) -> None:
        """Let the workers go, by force those that are still at something."""
        self._stopping = True
        for pipe, worker in self._workers.items():
            pipe.close()
            if worker.task is not None or not worker.ready:
                worker.process.kill()
        ends = time.monotonic() + LEAVE_SECONDS
        for worker in self._workers.values():
            worker.process.join(max(0.0, ends - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def __exit__(self, *failure: object) -> None:
        self.close()


class ThisProcess(AbstractContextManager["ThisProcess"]):
    """``Workers.map`` without another process: a failure of a task is raised as it is."""

    def __init__(self, config: WorkerConfig, opens: Open) -> None:
        self._opened = cache(partial(opens, config))

    def map(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        return ((index, task.run(self._opened())) for index, task in enumerate(tasks))

    def __exit__(self, *failure: object) -> None:
        pass


def _serve(pipe: Connection, config: WorkerConfig, opens: Open, do: Do) -> None:
    """A worker's life. What cannot be opened is told of each task that needed it."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    faulthandler.enable()
    opened = cache(partial(opens, config))
    try:
        pipe.send(None)
        while (task := pipe.recv()) is not None:
            # Nothing comes while it works but the word to stop, or the end of the pipe.
            pipe.send(do(task, opened, lambda: not pipe.poll()))
    except (EOFError, OSError):
        return


def run_task(task: Task, opened: Opened, go_on: GoOn) -> Any:
    """One piece of a benchmark's work, for ``Workers.map``."""
    try:
        return task.run(opened())
    except MotionAppError as error:
        return _Failure(str(error), expected=True)
    except Exception:
        return _Failure(traceback.format_exc(), expected=False)


def attempt(out: Path, item: Item, opened: Opened, go_on: GoOn) -> Attempt:
    """``handle``, of a batch whose results are in ``out``, with what has a workshop's ``make``."""

    def make(item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
        return opened().make(item, folder, go_on)

    return handle(item, Ledger(out), make, go_on)


def handle(item: Item, ledger: Ledger, make: Make, go_on: GoOn) -> Attempt:
    """Make ``item`` and commit it, unless it is there. Raises nothing but what ends a process."""
    started = time.time()
    if ledger.record(item) is not None:
        return Attempt(item, "found")
    try:
        with captured(item, ledger) as log:
            ending, message = _attempt(item, ledger, make, go_on, log)
    except OSError as error:  # what cannot be cleared away, on a disk that is gone
        ending, message = "fault", disk_trouble(error) or one_line(error)
    return Attempt(item, ending, message, round(time.time() - started, 3))


def _attempt(
    item: Item, ledger: Ledger, make: Make, go_on: GoOn, log: LogLines
) -> tuple[Ending, str]:
    started = time.time()
    log.write(f"{_clock()} {item.kind} {item.id}, by process {os.getpid()} of {_host()}\n")
    try:
        with ledger.workspace(item) as folder:
            try:
                outcome = make(item, folder, go_on)
            except MotionAppError as error:
                if not (isinstance(error, GenerationCancelled) or is_passing(error)):
                    ledger.discard(folder)
                raise
            ended = time.time()
            record = {
                "id": item.id,
                "kind": item.kind,
                "key": item.key,
                "outcome": outcome,
                "started": started,
                "finished": ended,
                "seconds": round(ended - started, 3),
                "host": _host(),
            }
            first = ledger.commit(item, folder, record)
    except GenerationCancelled as stopped:
        log.write(f"{_clock()} dropped: {one_line(stopped)}\n")
        return "dropped", one_line(stopped)
    except Exception as error:
        traceback.print_exc(file=log)
        mistake = isinstance(error, MotionAppError) and not is_passing(error)
        named = "" if isinstance(error, MotionAppError) else f"{type(error).__name__}: "
        trouble = disk_trouble(error) if is_passing(error) else None
        message = trouble or named + one_line(error)
        return "mistake" if mistake else "fault", message
    log.write(f"{_clock()} {'committed' if first else 'another worker was first'}\n")
    return "made" if first else "found", ""


def is_passing(error: BaseException) -> bool:
    """Whether a MotionAppError was made of trouble of the machine: a full disk is no mistake of who
    wrote the manifest."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return True
        if isinstance(cause, OSError) and cause.errno in PASSING:
            return True
        cause = cause.__cause__
    return False


class LogLines(TextIOBase):
    """Lines of a log. What the disk has no room for is left out: an item that can be made without
    its log is made."""

    def __init__(self, file: RawIOBase | None) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """As a text file's; nothing where there is no file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.write(text.encode("utf-8", "replace"))
        return len(text)


@contextmanager
def captured(item: Item, ledger: Ledger) -> Iterator[LogLines]:
    """What this process writes to standard output and error goes behind the log of ``item``, a
    crash of compiled code and the package's own log lines included; yields it. Where it cannot be
    opened all goes on where it went before."""
    try:
        log_file = ledger.log(item)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = log_file.open("ab", buffering=0)
    except OSError as error:
        told = disk_trouble(error) or one_line(error)
        logger.warning("%s is made without a log: %s", item.id, told)
        yield LogLines(None)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    lines = logging.getLogger("motion_app")
    level = lines.level
    with file:
        log = LogLines(file)
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        lines.addHandler(handler)
        lines.setLevel(logging.INFO)
        for stream, _ in kept:
            os.dup2(file.fileno(), stream)
        try:
            with redirect_stdout(log), redirect_stderr(log):
                yield log
        finally:
            lines.setLevel(level)
            lines.removeHandler(handler)
            handler.close()
            for printed in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    printed.flush()
            for stream, own in kept:
                os.dup2(own, stream)
                os.close(own)


def _clock() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _host() -> str:
    return socket.gethostname()
