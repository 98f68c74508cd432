"""How a folder of motions is changed, by several threads and programs at once.

Whoever changes it holds the kernel's lock on it. A new motion is written in a hidden folder and
moved in with its own file last, which is what makes it one of the library: a kill at any moment
leaves all of it or nothing that is listed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from motion_app.errors import MotionFileError
from motion_app.library.motion_file import SUFFIX
from motion_app.text_files import STAGING, listed

LOCK_SECONDS = 30.0  # that another one may hold the folder, to write a large file
LOCK_POLL_SECONDS = 0.02
LOCK = ".lock"  # where a folder cannot be locked itself, as on NFS


@contextmanager
def changing(folder: Path) -> Iterator[Path]:
    """``folder``, made where it is missing, while nobody else changes it: no thread and no other
    program. MotionFileError where it cannot be written, or is held for too long."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        try:
            yield folder
        finally:
            os.close(lock)
    except OSError as error:
        raise MotionFileError(
            f"the library cannot be changed: {error.strerror}; who runs this server must see "
            f"to the folder {folder.name}"
        ) from error


def _lock(folder: Path) -> int:
    """A descriptor that holds ``folder`` until it is closed, or its program is gone. The lock is on
    the folder itself: no file of it is left in there."""
    lock = os.open(folder, os.O_RDONLY)
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError as error:
            if error.errno == errno.EBADF:  # NFS locks only what is open for writing
                os.close(lock)
                lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                continue
            if not isinstance(error, BlockingIOError) or time.monotonic() > until:
                os.close(lock)
                raise
        time.sleep(LOCK_POLL_SECONDS)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder inside ``folder``, which goes with whatever is still in it."""
    staged = folder / f"{STAGING}{secrets.token_hex(8)}"
    try:
        staged.mkdir()
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def move_motion(source: Path, out: Path) -> None:
    """A motion's files from one folder into another; the motion itself last, which lists it."""
    for file in sorted(listed(source), key=lambda file: file.suffix == SUFFIX):
        file.rename(out / file.name)
