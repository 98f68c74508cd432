"""Results on disk, whole or not there: of a batch and of a benchmark.

Results on disk, each in a folder that is whole or not there.

    <out>/results/<name>/       what an item made, and ``result.json`` about it
    <out>/unfinished/<name>.0/  where it is being made; a training's state survives a kill there
    <out>/logs/<name>.log       all that was said meanwhile, attempt after attempt

Any number of workers and programs may share ``out``, also two with the same item: a folder is made
under a name of its own and then renamed, which succeeds once. ``out`` must lie where a rename is
atomic and where all see it: a disk or a network file system, not an object store.

A benchmark's results on disk, one atomic file each, named by what they were made from.

Whatever kills the run, each file is either whole or not there, and the next run makes only what is
missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from motion_app.jobs.manifest import Item
from motion_app.media.results import make_folder
from motion_app.text_files import json_text, write_whole

RECORD = "result.json"
TRAINING_STATE = ".training"  # the ending of what the trainer resumes from
PART = ".part"
KEY_LETTERS = 20  # of a sha256 in a file's name


class Ledger:
    """The results in ``out``, which is made with the first of them."""

    def __init__(self, out: Path | str) -> None:
        self.out = Path(out).resolve()
        self.results = self.out / "results"
        self._unfinished = self.out / "unfinished"

    def place(self, item: Item) -> Path:
        """Where the result of ``item`` lies, or will."""
        return self.results / item.name

    def log(self, item: Item) -> Path:
        """Where the log of ``item`` lies, or would."""
        return self.out / "logs" / f"{item.name}.log"

    def record(self, item: Item) -> dict[str, Any] | None:
        """What is known of a finished item; None where it is not finished."""
        try:
            return json.loads((self.place(item) / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    @contextmanager
    def workspace(self, item: Item) -> Iterator[Path]:
        """A folder of this process alone to make ``item`` in: the one that a worker left behind
        where there is one, with a training's state and nothing else in it. Afterwards only that
        state is kept, and only where the item was not committed."""
        folder, lock = self._claim(item)
        with lock:
            try:
                _keep_training(folder)
                yield folder
            finally:
                if folder.is_dir():
                    _keep_training(folder)
                    if not any(folder.iterdir()):
                        folder.rmdir()
                Path(lock.name).unlink(missing_ok=True)

    def _claim(self, item: Item) -> tuple[Path, IO[str]]:
        """The first folder nobody works in. The claim is the kernel's lock on a file, so that a
        killed worker leaves none."""
        make_folder(self._unfinished)
        number = 0
        while True:
            folder = self._unfinished / f"{item.name}.{number}"
            lock = folder.with_name(f"{folder.name}.lock").open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock.fileno()).st_ino == os.stat(lock.name).st_ino:
                    return make_folder(folder), lock
            except BlockingIOError:
                number += 1
            except FileNotFoundError:
                pass  # whose lock it was has just finished and taken it away
            lock.close()

    def commit(self, item: Item, folder: Path, record: Mapping[str, Any]) -> bool:
        """Make ``folder`` the result of ``item``; False, and the folder is gone, where another
        worker was first."""
        text = json_text(record, indent=1) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")
        for path in (*folder.rglob("*"), folder):
            _to_disk(path)
        make_folder(self.results)
        try:
            os.rename(folder, self.place(item))
        except OSError:
            if self.record(item) is None:
                raise
            shutil.rmtree(folder)
            return False
        _to_disk(self.results)
        return True

    def discard(self, folder: Path) -> None:
        """Forget what was made of an item, its training's state too."""
        shutil.rmtree(folder, ignore_errors=True)


def _keep_training(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.name.endswith(TRAINING_STATE):
            path.unlink()


def _to_disk(path: Path) -> None:
    """A power cut after the rename finds the bytes there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def content_key(entries: Mapping[str, Any]) -> str:
    """sha256 of ``entries`` as canonical JSON."""
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class ResultStore:
    """The files of one benchmark in ``folder``; one run at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        for left in self.folder.rglob(f"*{PART}"):  # of a run that was killed
            left.unlink(missing_ok=True)

    def path(self, kind: str, name: str, key: str, suffix: str) -> Path:
        """Where the result of ``kind`` with this ``key`` lies, or will; ``name`` is for people."""
        slug = re.sub(r"[^\w.-]+", "-", name).strip("-.")
        return make_folder(self.folder / kind) / f"{slug}.{key[:KEY_LETTERS]}{suffix}"


def write_json(path: Path, entries: Any) -> None:
    """Plain JSON, whole or not at all."""
    text = json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """A compressed npz, whole or not at all."""

    contents: dict[str, Any] = dict(arrays)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, **contents)

    write_whole(path, write)
