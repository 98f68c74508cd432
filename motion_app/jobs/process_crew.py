"""Workers of a batch as processes of this machine, each with its own device or share of the
processors.

A worker hears from its parent through a pipe alone: what to do next, to drop what it does, and,
when the parent is gone however it died, the end of the pipe. Signals meant for the whole program,
as Ctrl-C in a terminal, are the parent's affair.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from motion_app.errors import MotionAppError
from motion_app.jobs.backlog import Answer
from motion_app.jobs.handling import GoOn, handle
from motion_app.jobs.ledger import Ledger
from motion_app.jobs.manifest import Item
from motion_app.jobs.workshop import Bench

logger = logging.getLogger(__name__)

MOST_STILLBORN = 3  # workers in a row that die before they begin
LEAVE_SECONDS = 5.0
Open = Callable[[Bench], Any]  # a Workshop, or what has its ``make``


@dataclass(frozen=True, eq=False)
class Lost:
    """A worker died, over ``item`` where it had one."""

    item: Item | None
    message: str


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
            target=_serve, args=(theirs, self._out, bench, self._open), daemon=True
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


def _serve(pipe: Connection, out: Path, bench: Bench, open_workshop: Open) -> None:
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
