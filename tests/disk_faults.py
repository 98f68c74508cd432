"""Disks that are full, a real one of a few kilobytes and one that is full from a moment on; and
somebody who may not write everywhere."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NEEDS_ROOM = ("open", "os.mkdir")
KILLED = 9  # how a process ends that is ended at such a moment
NOBODY = 65534  # the user and the group without rights


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own with so much room, at ``folder``."""
    folder.mkdir(parents=True)
    room = f"size={kilobytes}k"
    mount = ["mount", "-t", "tmpfs", "-o", room, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nobody but root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Nothing more fits onto the disk of ``folder``; the file that takes all its room."""
    ballast = folder / ".ballast"
    for size in (4096, 1):
        with ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


@contextmanager
def without_rights() -> Iterator[None]:
    """This process may write no more than anybody, also where it is root's."""
    if os.geteuid() != 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


class FullFrom:
    """The disk of ``folder`` is full from the ``moment``-th time that something there asks for
    room, counted from 0: every later time is refused too, while what frees room goes on. ``kill``
    ends the process instead. ``asked``: how often it was."""

    def __init__(self, folder: Path, moment: int, *, kill: bool = False) -> None:
        self.folder, self.moment, self.kill = str(folder), moment, kill
        self.asked = 0
        self.on = False
        self._lock = threading.Lock()
        sys.addaudithook(self._hear)

    def __enter__(self) -> "FullFrom":
        self.on = True
        return self

    def __exit__(self, *of: object) -> None:
        self.on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or not self._counts(event, arguments):
            return
        with self._lock:
            self.asked += 1
            if self.asked <= self.moment:
                return
        if self.kill:
            os._exit(KILLED)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def _counts(self, event: str, arguments: tuple[Any, ...]) -> bool:
        steps = (*NEEDS_ROOM, "os.rename", "os.remove", "os.rmdir") if self.kill else NEEDS_ROOM
        if event not in steps or not str(arguments[0]).startswith(self.folder):
            return False
        if event != "open":
            return True
        mode, flags = str(arguments[1] or ""), int(arguments[2] or 0)
        return any(letter in mode for letter in "wax+") or bool(flags & WRITES)
