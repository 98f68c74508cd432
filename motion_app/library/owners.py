"""Whose a motion is, and who may see it.

A motion is changed by the browser that made or imported it, and by this machine's own user. Beside
``jump.safetensors`` lies ``jump.owner``: the sha256 of the browser's token, not the token, which
opens that browser's videos; a second line "private" hides the motion from everybody else. A motion
without one is shared, and the machine's user's.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from motion_app.text_files import write_whole

OWNER_SUFFIX = ".owner"
PRIVATE = "private"
ADDRESS = "address:"  # before a job's owner who is known by nothing else


@dataclass(frozen=True)
class Ownership:
    """``mark``: sha256 of the owner's token, "" for nobody's in particular."""

    mark: str = ""
    private: bool = False

    @classmethod
    def read(cls, motion_file: Path) -> Ownership:
        """Of the motion in that file."""
        try:
            lines = owner_file(motion_file).read_text(encoding="ascii").split()
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError):
            lines = []
        # one that cannot be read is somebody's, and nobody's who could prove it
        return cls(lines[0] if lines else "unreadable", PRIVATE in lines[1:])

    def of(self, owner: str) -> bool:
        """Whether ``owner``, a token, is the one."""
        return bool(owner) and hmac.compare_digest(self.mark, _mark(owner))


@dataclass(frozen=True)
class LibraryUser:
    """Who asks. ``owner``: the token of a browser or a client's session, "" for one that has none;
    ``local``: sits at this machine, and nobody else uses the server; ``address``: where others come
    from, for quotas alone."""

    owner: str = ""
    local: bool = False
    address: str = ""

    def may_change(self, motion_file: Path) -> bool:
        """Whether the motion in that file is theirs."""
        ownership = Ownership.read(motion_file)
        return ownership.of(self.owner) if ownership.mark else self.local

    def made(self, motion_file: Path) -> bool:
        """Whether it was they who made or brought in the motion in that file."""
        return Ownership.read(motion_file).of(self.owner)

    def may_see(self, motion_file: Path) -> bool:
        """Whether the motion in that file is shared, or theirs."""
        ownership = Ownership.read(motion_file)
        return not ownership.private or self.local or ownership.of(self.owner)


def owner_file(motion_file: Path) -> Path:
    """Where a motion's owner is kept."""
    return motion_file.with_suffix(OWNER_SUFFIX)


def keep_owner(motion_file: Path, owner: str, *, private: bool = False) -> None:
    """The motion of that file is ``owner``'s from now on and, where it is ``private``, for nobody
    else to see; with "" for an owner it is nobody's in particular, and for all."""
    if owner:
        _write(motion_file, Ownership(_mark(owner), private))
    else:
        owner_file(motion_file).unlink(missing_ok=True)


def show_to_all(motion_file: Path, shared: bool) -> None:
    """The motion of that file is shared, or private, from now on; its owner stays."""
    _write(motion_file, Ownership(Ownership.read(motion_file).mark, not shared))


def _write(motion_file: Path, ownership: Ownership) -> None:
    lines = [ownership.mark, *([PRIVATE] if ownership.private else [])]
    text = "\n".join(lines) + "\n"
    write_whole(owner_file(motion_file), lambda part: part.write_text(text, encoding="ascii"))


def token_of(job_owner: str) -> str:
    """A job's owner as the owner of a motion: an address, which many share, is nobody's."""
    return "" if job_owner.startswith(ADDRESS) else job_owner


def _mark(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()
