"""Workers in processes of their own: of a batch and of a benchmark.

Tasks shared among processes, each with its own loaded checkpoint on one thread.

A worker that loses its parent, however that died, reads the end of its pipe and leaves.

Workers of a batch as processes of this machine, each with its own device or share of the
processors.

A worker hears from its parent through a pipe alone: what to do next, to drop what it does, and,
when the parent is gone however it died, the end of the pipe. Signals meant for the whole program,
as Ctrl-C in a terminal, are the parent's affair.

One attempt at one item, whatever comes of it: made in a folder of its own, logged, committed.
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
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, Protocol

from motion_app.errors import GenerationCancelled, MotionAppError
from motion_app.jobs.batch import Answer, Ending, Lost
from motion_app.jobs.kinds import Bench, GoOn, Make
from motion_app.jobs.manifest import Item
from motion_app.jobs.queue import one_line
from motion_app.jobs.results import Ledger
from motion_app.settings import Settings

logger = logging.getLogger(__name__)
MOST_STILLBORN = 3  # workers in a row that die before they begin
LEAVE_SECONDS = 5.0
Open = Callable[[Bench], Any]  # a Workshop, or what has its ``make``
# What a machine gets over, or another one has not. A missing file or a wrong path is a mistake.
PASSING = {
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EBUSY", "ECONNREFUSED", "ECONNRESET", "EDQUOT", "EHOSTUNREACH", "EIO"),
        *("EMFILE", "ENETUNREACH", "ENFILE", "ENOMEM", "ENOSPC", "EPIPE", "ESTALE", "ETIMEDOUT"),
    )
    if hasattr(errno, name)
}


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
                worker = context.Process(
                    target=_serve_tasks, args=(theirs, source, load), daemon=True
                )
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


def _serve_tasks(pipe: Connection, source: BenchSource, load: Callable[[BenchSource], Any]) -> None:
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


@dataclass(eq=False)
class _Worker:
    process: mp.process.BaseProcess
    bench: Bench
    ready: bool = False
    item: Item | None = None


class ProcessCrew:
    """One process for each of ``benches``; ``open_workshop`` is called in each when its first item
    comes, and must be found by import there."""

    def __init__(self, out: Path, benches: Sequence[Bench], open_workshop: Open) -> None:
        self._out, self._open = Path(out), open_workshop
        self._context = mp.get_context("spawn")
        self._workers: dict[Connection, _Worker] = {}
        self._stopping = False
        self._stillborn = 0
        for bench in benches:
            self._hire(bench)

    @property
    def size(self) -> int:
        return len(self._workers)

    @property
    def free(self) -> int:
        """Workers that wait for an item."""
        return sum(worker.ready and worker.item is None for worker in self._workers.values())

    @property
    def pids(self) -> list[int]:
        """Of the workers that are making something."""
        busy = [worker for worker in self._workers.values() if worker.item is not None]
        return [worker.process.pid for worker in busy]

    def give(self, item: Item) -> None:
        """Let a free worker make ``item``."""
        pipe, worker = next(
            (pipe, worker)
            for pipe, worker in self._workers.items()
            if worker.ready and worker.item is None
        )
        worker.item = item
        try:
            pipe.send(item)
        except OSError:  # it has just died; ``collect`` reads that from the pipe
            logger.info("a worker died before it began %s", item.id)

    def collect(self, timeout: float) -> list[Answer | Lost]:
        """What happened, waiting up to ``timeout`` seconds for it. MotionAppError where workers die
        before they begin."""
        news: list[Answer | Lost] = []
        for pipe in wait(list(self._workers), timeout) if self._workers else []:
            worker = self._workers[pipe]
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                news.append(self._bury(pipe))
                continue
            if message is None:
                worker.ready, self._stillborn = True, 0
            else:
                # Its own item, not the copy that came back.
                news.append(replace(message, item=worker.item))
                worker.item = None
        return news

    def _hire(self, bench: Bench) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve_items, args=(theirs, self._out, bench, self._open), daemon=True
        )
        process.start()
        theirs.close()
        self._workers[ours] = _Worker(process, bench)

    def _bury(self, pipe: Connection) -> Lost:
        """Take a dead worker out and another one in."""
        worker = self._workers.pop(pipe)
        pipe.close()
        worker.process.join(LEAVE_SECONDS)
        code = worker.process.exitcode
        how = f"killed by signal {-code}" if (code or 0) < 0 else f"exit code {code}"
        self._stillborn += not worker.ready
        if self._stillborn >= MOST_STILLBORN:
            raise MotionAppError(
                f"{MOST_STILLBORN} workers in a row ended before they began ({how}); see what they "
                "wrote above, and ask for fewer --workers where memory is short"
            )
        if not self._stopping:
            self._hire(worker.bench)
        return Lost(worker.item, f"the last was {how}")

    def stop(self) -> None:
        """Ask every worker to drop its item at the next step and to leave; hire nobody."""
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
            if worker.item is not None or not worker.ready:
                worker.process.kill()
        ends = time.monotonic() + LEAVE_SECONDS
        for worker in self._workers.values():
            worker.process.join(max(0.0, ends - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()


def _serve_items(pipe: Connection, out: Path, bench: Bench, open_workshop: Open) -> None:
    """A worker's life."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(bench.threads)
    faulthandler.enable()
    ledger = Ledger(out)
    make = opened_late(bench, open_workshop)
    try:
        pipe.send(None)
        while (item := pipe.recv()) is not None:
            # Nothing comes while it works but the word to stop, or the end of the pipe.
            pipe.send(handle(item, ledger, make, lambda: not pipe.poll()))
    except (EOFError, OSError):
        return


def opened_late(bench: Bench, open_workshop: Open) -> Callable[[Item, Path, GoOn], dict[str, Any]]:
    """``make`` of a workshop that is opened with the first item, where its failure is told."""
    opened = []

    def make(item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
        if not opened:
            opened.append(open_workshop(bench))
        return opened[0].make(item, folder, go_on)

    return make


def handle(item: Item, ledger: Ledger, make: Make, go_on: GoOn) -> Answer:
    """Make ``item`` and commit it, unless it is there. Raises nothing but what ends a process."""
    started = time.time()
    if ledger.record(item) is not None:
        return Answer(item, "found")
    try:
        with captured(ledger.log(item)) as log:
            ending, message = _attempt(item, ledger, make, go_on, log)
    except OSError as error:  # the log itself, on a full disk
        ending, message = "fault", one_line(error)
    return Answer(item, ending, message, round(time.time() - started, 3))


def _attempt(
    item: Item, ledger: Ledger, make: Make, go_on: GoOn, log: IO[str]
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
        return "mistake" if mistake else "fault", named + one_line(error)
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


@contextmanager
def captured(log: Path) -> Iterator[IO[str]]:
    """What this process writes to standard output and error goes behind ``log``, a crash of
    compiled code and the package's own log lines included; yields the open file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    lines = logging.getLogger("motion_app")
    level = lines.level
    with log.open("a", buffering=1, encoding="utf-8") as file:
        handler = logging.FileHandler(log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        lines.addHandler(handler)
        lines.setLevel(logging.INFO)
        for stream, _ in kept:
            os.dup2(file.fileno(), stream)
        try:
            yield file
        finally:
            lines.setLevel(level)
            lines.removeHandler(handler)
            handler.close()
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            for stream, own in kept:
                os.dup2(own, stream)
                os.close(own)


def _clock() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _host() -> str:
    return socket.gethostname()
