"""The sha256 of files, remembered while their size and time of change stay the same: a base model
has twenty gigabytes, and a run may be resumed often."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from motion_app.library import file_digest


class Digests:
    """``remembered``: the file they are kept in between runs; one that is broken is made anew."""

    def __init__(self, remembered: Path) -> None:
        self._file = remembered
        self._changed = False
        try:
            kept = json.loads(remembered.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        self._kept: dict[str, list[str]] = kept if isinstance(kept, dict) else {}

    def of(self, path: Path) -> str:
        """The digest of one file; OSError where it cannot be read."""
        return self.made(str(path.resolve()), [path], lambda: file_digest(path))

    def made(self, name: str, files: Sequence[Path], make: Callable[[], str]) -> str:
        """What ``make`` says of ``files``, made again when one of them has changed."""
        states = [file.stat() for file in files]
        state = " ".join(f"{s.st_size}-{s.st_mtime_ns}-{s.st_ino}" for s in states)
        known = self._kept.get(name)
        if not (isinstance(known, list) and len(known) == 2 and known[0] == state):
            known = self._kept[name] = [state, make()]
            self._changed = True
        return known[1]

    def save(self) -> None:
        """Keep them for the next run, in one step."""
        if self._changed:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part = self._file.with_name(f"{self._file.name}.{secrets.token_hex(4)}.part")
            part.write_text(json.dumps(self._kept, sort_keys=True), encoding="utf-8")
            os.replace(part, self._file)
            self._changed = False
