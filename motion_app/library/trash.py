"""Deleted motions, which can be brought back for a while.

A deleted motion lies with its clip and its owner's mark in a folder of its own, below a hidden one
of the library's folder; that folder's name tells when it was deleted, and its token.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motion_app.errors import MotionFileError
from motion_app.library.changing import changing
from motion_app.library.motion_file import SUFFIX
from motion_app.library.owners import Ownership
from motion_app.library.quota import Origins
from motion_app.settings import Limits
from motion_app.text_files import listed

TRASH = ".trash"
TRASH_DAYS = 7.0  # how long a deleted motion can be brought back
NOT_IN_TRASH = "this motion is not in the trash any more; import or learn it"
PLACE = re.compile(r"(\d+)-([0-9a-f]{32})")


@dataclass(frozen=True)
class DeletedMotion:
    """A motion in the trash. ``token``: 128 random bits by which it is brought back; ``deleted``:
    unix seconds."""

    token: str
    name: str
    deleted: float


class Trash:
    """That of some folders of the library. Whoever puts something in or takes it out holds the lock
    of the folder."""

    def __init__(self, folders: Sequence[Path], origins: Origins) -> None:
        self._folders, self._origins = folders, origins

    def places(self) -> list[Path]:
        """The folder of each deleted motion, the oldest first."""
        homes = [folder / TRASH for folder in self._folders]
        found = [place for home in homes if home.is_dir() for place in home.iterdir()]
        return sorted((p for p in found if PLACE.fullmatch(p.name)), key=_when)

    def find(self, token: str) -> Path:
        """The folder of the motion with that token; MotionFileError where there is none."""
        for place in self.places():
            if place.name.endswith(f"-{token}") and len(token) == 32:
                return place
        raise MotionFileError(NOT_IN_TRASH)

    def made_room_for(self, place: Path) -> bool:
        """Make a place in the trash, where there is no room in place of all others."""
        for emptying in (False, True):
            if emptying:
                for other in self.places():
                    shutil.rmtree(other, ignore_errors=True)
            try:
                place.mkdir(parents=True)
                return True
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
        return False

    def older(self, before: float) -> list[Path]:
        """Those of before that time, unix seconds."""
        return [place for place in self.places() if _deleted(place) <= before]

    def overfull(self, newest: Path, limits: Limits) -> list[Path]:
        """What must go so that ``newest``, which was just deleted, can stay: first the oldest of
        its owner, where one has more than one may have, and of the address it was deleted from,
        then the oldest of all."""
        places = [place for place in self.places() if place != newest]
        owner, address = _owner(newest), self._origins.of(newest)
        own = {place for place in places if _owner(place) == owner}
        near = {place for place in places if address and self._origins.of(place) == address}
        going: list[Path] = []
        for alike, most in ((own, limits.trash_per_owner), (near, limits.trash_per_address)):
            there = [place for place in places if place in alike and place not in going]
            too_many = len(there) + 1 - most
            going += there[: max(too_many, 0)]
        sizes = {place: _size(place) for place in places if place not in going}
        left = sum(sizes.values()) + _size(newest) - limits.trash_gigabytes * 2**30

        def turn(place: Path) -> tuple[bool, bool, float]:
            return place not in own, place not in near, _deleted(place)

        for place in sorted(sizes, key=turn):
            if left <= 0:
                break
            going.append(place)
            left -= sizes[place]
        return going

    def throw_away(self, places: Sequence[Path]) -> None:
        """For good; nobody is bringing one of them back meanwhile."""
        for place in places:
            with changing(place.parent.parent):
                shutil.rmtree(place, ignore_errors=True)
                self._origins.moved(place, None)


def _deleted(place: Path) -> float:
    return float(place.name.partition("-")[0])


def _when(place: Path) -> tuple[float, int]:
    """The name's second, and of several in one second the order in which they came."""
    try:
        return _deleted(place), place.stat().st_mtime_ns
    except OSError:  # it has just been brought back
        return _deleted(place), 0


def _owner(place: Path) -> str:
    file = next(listed(place, f"*{SUFFIX}"), None)
    return "" if file is None else Ownership.read(file).mark


def _size(place: Path) -> int:
    try:
        return sum(file.stat().st_size for file in place.iterdir())
    except OSError:  # it has just been brought back
        return 0
