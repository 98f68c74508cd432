"""How much of the library one browser may fill, and all of them together."""

from __future__ import annotations

from pathlib import Path

from motion_app.errors import MotionFileError
from motion_app.library.motion_file import SUFFIX
from motion_app.library.owners import Ownership
from motion_app.settings import Limits
from motion_app.text_files import listed


def check_room(folder: Path, owner: str, more: int, limits: Limits) -> None:
    """MotionFileError where the ``owner``, a browser's token, or all who made motions in ``folder``
    may keep no ``more`` bytes there. The machine's own user, "", is not counted."""
    if not owner:
        return
    count, own, everybody = 0, more, more
    for path in listed(folder, f"*{SUFFIX}"):
        ownership = Ownership.read(path)
        size = _size(path) + _size(path.with_suffix(".mp4"))
        everybody += size if ownership.mark else 0
        if ownership.of(owner):
            count, own = count + 1, own + size
    if count >= limits.motions_per_owner:
        raise MotionFileError(
            f"you have {count} motions in this library, as many as one may have here; delete one "
            "first, or export it and keep the file"
        )
    for full, most in (
        (own, limits.motion_gigabytes_per_owner),
        (everybody, limits.library_gigabytes),
    ):
        if full > most * 2**30:
            whose = "your motions" if full is own else "the motions of all who use this server"
            raise MotionFileError(
                f"{whose} would fill {full / 2**30:.2f} GB, and {most:g} GB are allowed; delete "
                "one first, or export it and keep the file"
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it has just been deleted, or there is none
        return 0
