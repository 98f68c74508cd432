"""A workshop for the laws of workers: it makes nothing of worth, and fails as it is told to."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

from motion_app.errors import GenerationCancelled, RequestError
from motion_app.jobs.kinds import GoOn, WorkerConfig
from motion_app.jobs.manifest import Item


def play_item(name: str, line: int = 1, **does: Any) -> Item:
    """``die``, ``fault``: in so many first attempts; ``mistake``; ``diary``: where attempts are
    noted; ``until``: a file it waits for; ``state``: it leaves a training's state."""
    return Item(name, "generate", line, (name.encode().hex() * 20)[:64], does)


class PlayWorkshop:
    def __init__(self, config: WorkerConfig) -> None:
        self.config = config

    def make(self, item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
        does = item.entries
        attempt = note(Path(does["diary"]), item.id)
        (folder / "half.txt").write_text("half")
        if does.get("state"):
            (folder / "hop.safetensors.training").write_text(f"{attempt}")
        if attempt <= does.get("die", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if attempt <= does.get("fault", 0):
            raise OSError(errno.ENOSPC, "No space left on device")
        if does.get("mistake"):
            raise RequestError("the fox has no name; give it one")
        while does.get("until") and not Path(does["until"]).exists():
            if not go_on():
                raise GenerationCancelled("stopped, as asked")
            time.sleep(0.02)
        (folder / "whole.txt").write_text(item.id)
        return {"file": "whole.txt", "threads": self.config.threads}


def note(diary: Path, name: str) -> int:
    """Write an attempt down; which one it is, from 1."""
    with diary.open("a") as file:
        file.write(f"{name}\n")
    return attempts(diary, name)


def attempts(diary: Path, name: str) -> int:
    return diary.read_text().splitlines().count(name) if diary.exists() else 0


def broken(config: WorkerConfig) -> PlayWorkshop:
    """A workshop that does not open: a mistake of who set it up."""
    raise RequestError("the model is not there; check its name")
