"""The folders of jobs: how one is made, which are too old or too many, and which belong to none."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from motion_app.errors import RequestError
from motion_app.jobs.store import EndedJob

SECONDS_PER_HOUR = 3600.0
STAGING = ".new-"  # before a folder's name: its job is still being handed in


def write_files(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Make ``folder`` with ``files`` by name, bytes or a path to copy. RequestError for a name that
    is more than a file name, or for a disk that takes no more."""
    try:
        folder.mkdir(parents=True)
        for name, content in files.items():
            if not name or name.startswith(".") or re.search(r"[/\\\x00]", name):
                raise RequestError(f'"{name[:80]}" is no file name; use letters, digits, "-", "_"')
            if isinstance(content, Path):
                shutil.copyfile(content, folder / name)
            else:
                (folder / name).write_bytes(content)
    except OSError as error:
        raise RequestError(
            f"the job's files cannot be written: {error.strerror}; try again in a while"
        ) from error


def outlived(
    jobs: Sequence[EndedJob], *, now: float, keep_hours: float, keep_bytes: float
) -> list[EndedJob]:
    """The jobs to delete, oldest first: those that ended more than ``keep_hours`` before ``now``,
    and the oldest until the others fit into ``keep_bytes``."""
    oldest = now - keep_hours * SECONDS_PER_HOUR
    kept = sum(job.bytes for job in jobs)
    going = []
    for job in sorted(jobs, key=lambda job: job.ended):
        if job.ended >= oldest and kept <= keep_bytes:
            break
        going.append(job)
        kept -= job.bytes
    return going


def size_of(folder: Path) -> int:
    """Bytes of all files in it; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def remove_orphans(folder: Path, known: set[str], *, keep_hours: float, staged: bool) -> None:
    """Delete the folders of no job in ``known``, once they are older than ``keep_hours``: a program
    that was killed while it deleted leaves some. ``staged``: also those of jobs that were never
    handed in to the end, at once (at start, when nobody can be at it)."""
    oldest = time.time() - keep_hours * SECONDS_PER_HOUR
    for path in folder.iterdir():
        if path.name.startswith(STAGING):
            going = staged
        else:
            going = path.name not in known and _changed_at(path) < oldest
        if going:
            shutil.rmtree(path, ignore_errors=True)


def _changed_at(path: Path) -> float:
    """Seconds since 1970; of what has just vanished: now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
