"""Where finished videos lie: under random names, in the folder of this process, for a while."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

KEEP_SECONDS = 3600.0  # as long as gradio keeps the copies it hands out


def new_result_folder(root: Path, *, keep: float = KEEP_SECONDS) -> Path:
    """A folder for one result, not made yet; results older than ``keep`` seconds are deleted.

    Its name is 128 random bits: who does not know it cannot ask for what is in it.
    """
    oldest = time.time() - keep
    for folder in root.glob("*"):
        if folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)
    return root / secrets.token_hex(16)
