"""How much of the library one browser may fill, one address, and all of them together."""

from __future__ import annotations

import threading
from pathlib import Path

from motion_app.errors import MotionFileError
from motion_app.library.motion_file import SUFFIX
from motion_app.library.owners import LibraryUser, Ownership
from motion_app.settings import Limits
from motion_app.text_files import listed


class Origins:
    """The addresses that motions, and those in the trash, came from since the program began: for
    quotas alone, and written nowhere. A browser can call itself anything, its address it cannot.
    """

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}
        self._lock = threading.Lock()

    def note(self, place: Path, address: str) -> None:
        """What lies at ``place`` came from ``address``; "" for who sits at this machine."""
        with self._lock:
            if address:
                self._known[place] = address
            else:
                self._known.pop(place, None)

    def of(self, place: Path) -> str:
        """The address, "" where it is not known."""
        return self._known.get(place, "")

    def moved(self, place: Path, to: Path | None) -> None:
        """What lay at ``place`` lies at ``to`` now, or nowhere."""
        with self._lock:
            address = self._known.pop(place, "")
            if address and to is not None:
                self._known[to] = address


def check_room(
    folder: Path, user: LibraryUser, more: int, limits: Limits, origins: Origins
) -> None:
    """MotionFileError where the ``user``, all of the same address, or all who made motions in
    ``folder`` may keep no ``more`` bytes there. Who sits at this machine, without a token and an
    address, is not counted."""
    if not (user.owner or user.address):
        return
    count, own, nearby, near, everybody = 0, more, 0, more, more
    for path in listed(folder, f"*{SUFFIX}"):
        ownership, address = Ownership.read(path), origins.of(path)
        size = _size(path) + _size(path.with_suffix(".mp4"))
        everybody += size if ownership.mark or address else 0
        if ownership.of(user.owner):
            count, own = count + 1, own + size
        if address and address == user.address:
            nearby, near = nearby + 1, near + size
    for there, most, whose in (
        (count, limits.motions_per_owner, "you have"),
        (nearby, limits.motions_per_address, "from your address there are"),
    ):
        if there >= most:
            raise MotionFileError(
                f"{whose} {there} motions in this library, as many as one may have here; delete "
                "one first, or export it and keep the file"
            )
    for full, most_gigabytes, whose in (
        (own, limits.motion_gigabytes_per_owner, "your motions"),
        (near, limits.motion_gigabytes_per_address, "the motions from your address"),
        (everybody, limits.library_gigabytes, "the motions of all who use this server"),
    ):
        if full > most_gigabytes * 2**30:
            raise MotionFileError(
                f"{whose} would fill {full / 2**30:.2f} GB, and {most_gigabytes:g} GB are allowed; "
                "delete one first, or export it and keep the file"
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it has just been deleted, or there is none
        return 0
