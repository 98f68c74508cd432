"""Who may change a motion of the library: the browser that made or imported it, and this machine's
own user.

Beside ``jump.safetensors`` lies ``jump.owner``: the sha256 of the browser's token, not the token,
which opens that browser's videos. A motion without one is the machine's user's.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

OWNER_SUFFIX = ".owner"
ADDRESS = "address:"  # before a job's owner who is known by nothing else


@dataclass(frozen=True)
class Visitor:
    """Who asks. ``owner``: the token of a browser or a client's session, "" for one that has none;
    ``local``: sits at this machine, and nobody else uses the server."""

    owner: str = ""
    local: bool = False

    def may_change(self, motion_file: Path) -> bool:
        """Whether the motion in that file is theirs."""
        mark = owner_mark(motion_file)
        if not mark:
            return self.local
        return bool(self.owner) and hmac.compare_digest(mark, _mark(self.owner))


def owner_file(motion_file: Path) -> Path:
    """Where a motion's owner is kept."""
    return motion_file.with_suffix(OWNER_SUFFIX)


def owner_mark(motion_file: Path) -> str:
    """The owner's mark, "" where nobody in particular made the motion."""
    try:
        return owner_file(motion_file).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        return "unreadable"  # somebody's, and nobody's who could prove it


def keep_owner(motion_file: Path, owner: str) -> None:
    """The motion of that file is ``owner``'s from now on, "" for nobody's."""
    if owner:
        motion_file.parent.mkdir(parents=True, exist_ok=True)
        owner_file(motion_file).write_text(_mark(owner) + "\n", encoding="ascii")
    else:
        owner_file(motion_file).unlink(missing_ok=True)


def token_of(job_owner: str) -> str:
    """A job's owner as the owner of a motion: an address, which many share, is nobody's."""
    return "" if job_owner.startswith(ADDRESS) else job_owner


def _mark(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()
