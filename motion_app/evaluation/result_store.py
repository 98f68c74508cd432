"""A benchmark's results on disk, one atomic file each, named by what they were made from.

Whatever kills the run, each file is either whole or not there, and the next run makes only what is
missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.results import make_folder

PART = ".part"
KEY_LETTERS = 20  # of a sha256 in a file's name


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


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file beside ``path`` and put it there in one step."""
    part = path.with_name(f"{path.stem}.{os.getpid()}{PART}")
    write(part)
    os.replace(part, path)


def write_json(path: Path, entries: Any) -> None:
    """Plain JSON, whole or not at all."""
    text = json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """A compressed npz, whole or not at all."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_whole(path, write)
