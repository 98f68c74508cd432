"""One attempt at one item, whatever comes of it: made in a folder of its own, logged, committed."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from motion_app.errors import GenerationCancelled, MotionAppError
from motion_app.jobs.attempt import one_line
from motion_app.jobs.backlog import Answer, Ending
from motion_app.jobs.ledger import Ledger
from motion_app.jobs.manifest import Item

GoOn = Callable[[], bool]  # False: drop what is being made
Make = Callable[[Item, Path, GoOn], dict[str, Any]]  # into the folder; the outcome as plain JSON

# What a machine gets over, or another one has not. A missing file or a wrong path is a mistake.
PASSING = {
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EBUSY", "ECONNREFUSED", "ECONNRESET", "EDQUOT", "EHOSTUNREACH", "EIO"),
        *("EMFILE", "ENETUNREACH", "ENFILE", "ENOMEM", "ENOSPC", "EPIPE", "ESTALE", "ETIMEDOUT"),
    )
    if hasattr(errno, name)
}


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
