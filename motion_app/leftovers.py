"""What operating systems and editors leave in folders, which nobody means by naming a folder."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

# Beside every hidden name (.DS_Store, ._clip.mp4 and .Trashes of macOS, .ipynb_checkpoints,
# .~lock.a.csv#, .clip.mp4.swp): macOS in archives, Windows, Synology, editors, Office, compilers.
PATTERNS = (
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs*.db", "desktop.ini", "$recycle.bin"),
    *("system volume information", "@eadir", "@tmp", "#recycle", "lost+found"),
    *("~$*", "*~", "#*#", "*.swp", "*.swo", "*.swx", "__pycache__"),
)


def is_leftover(path: Path | PurePosixPath | str) -> bool:
    """Whether a name, or any part of a relative path, is such a leftover or hidden."""
    parts = PurePosixPath(str(path).replace("\\", "/")).parts
    return any(_left(part) for part in parts if part not in (".", "..", "/"))


def _left(name: str) -> bool:
    name = name.casefold()
    return name.startswith(".") or any(fnmatchcase(name, pattern) for pattern in PATTERNS)


def listed(folder: Path, pattern: str = "*") -> Iterator[Path]:
    """What lies in ``folder`` and fits ``pattern``, in the order of the names, leftovers left out.
    OSError where the folder cannot be read."""
    return (path for path in sorted(folder.glob(pattern)) if not is_leftover(path.name))
