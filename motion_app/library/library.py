"""The motions on disk: listed, found, brought in, sent out, deleted and brought back.

Listing reads the headers of the files only, so it needs no torch and no weights.

A motion is changed by the browser that made or imported it, and by this machine's own user. Beside
``jump.safetensors`` lies ``jump.owner``: the sha256 of the browser's token, not the token, which
opens that browser's videos. A motion without one is the machine's user's.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import logging
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motion_app.errors import MotionFileError
from motion_app.library.motion_clip import read_motion_clip
from motion_app.library.motion_file import (
    MAX_LETTERS,
    SUFFIX,
    check_motion_file,
    check_words,
    file_digest,
    pack_motion,
    read_motion,
    unpack_motion,
)
from motion_app.scene import Motion
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.text_files import listed

logger = logging.getLogger(__name__)
NOT_YOURS = (
    'the motion "{name}" is not yours: only the browser that learned or imported it can delete it '
    "or bring it back, or who runs this server, with: python -m motion_app motions delete"
)
TRASH = ".trash"
TRASH_DAYS = 7.0  # how long a deleted motion can be brought back
MODEL_FILE = "model_index.json"  # beside a folder of motions: they were shipped with that model
OWNER_SUFFIX = ".owner"
ADDRESS = "address:"  # before a job's owner who is known by nothing else


@dataclass(frozen=True)
class DeletedMotion:
    """A motion in the trash. ``token``: 128 random bits by which it is brought back; ``deleted``:
    unix seconds."""

    token: str
    name: str
    deleted: float


class Library:
    """The motions in some folders, the first folder first.

    Cheap to ask often: a file is read again only when its size or its time of change differ.
    """

    def __init__(self, folders: Sequence[Path | str]) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        self._cache: dict[Path, tuple[tuple[int, int], Motion]] = {}

    def list(self) -> list[Motion]:
        """Readable motions, sorted by name. Broken files are logged and listed by ``problems``."""
        return self._scan()[0]

    def problems(self) -> list[str]:
        """One line for every motion file that cannot be used, saying why, and for every name that
        means two motions of one base model."""
        motions, problems = self._scan()
        return problems + _namesakes(motions)

    def find(self, name_or_path: str | Path, *, base: str | None = None) -> Motion:
        """The motion of that name, or in that file.

        ``base``: fingerprint of the loaded base model; a motion made for another one is refused,
        and of several with one name that made for it is chosen. None takes any. Raises
        MotionFileError.
        """
        path = Path(name_or_path)
        if path.suffix == SUFFIX:
            candidates = [read_motion(path)]
        else:
            motions = self.list()
            candidates = [motion for motion in motions if motion.name == str(name_or_path)]
            if not candidates:
                raise MotionFileError(self._unknown(str(name_or_path), motions))
        fitting = [motion for motion in candidates if base is None or motion.base == base]
        if not fitting:
            raise MotionFileError(
                f'the motion "{candidates[0].name}" was learned on the base model '
                f"{candidates[0].base[:12]}, but {str(base)[:12]} is loaded; load that model, or "
                "learn the motion again on this one"
            )
        return fitting[0]

    def preview_of(self, name: str) -> Path | None:
        """The reference clip of the motion of that name, None without one; MotionFileError where
        motions of one name have different clips."""
        named = [motion for motion in self.list() if motion.name == name]
        clips = {file_digest(m.preview): m for m in named if m.preview is not None}
        if len(clips) > 1:
            files = " and ".join(sorted(str(motion.path.name) for motion in clips.values()))
            raise MotionFileError(
                f'{len(clips)} motions of the library are called "{name}" and have different '
                f"clips ({files}); delete one, or import it again under another name"
            )
        return next(iter(clips.values())).preview if clips else None

    @property
    def home(self) -> Path:
        """The folder new motions go into; MotionFileError where every folder is a model's own."""
        for folder in self.folders:
            if not is_shipped(folder):
                return folder
        raise MotionFileError(
            "the library has no folder that may be written; set MOTION_APP_MOTIONS to one"
        )

    def writable(self, motion: Motion) -> bool:
        """Whether it may be deleted: the motions that a model ships with may not."""
        return motion.path.parent in self.folders and not is_shipped(motion.path.parent)

    def new_path(self, name: str) -> Path:
        """Where a new motion of this name is to be written. MotionFileError for a name that is
        taken, empty, too long or unprintable."""
        name = name.strip()
        if not name:
            raise MotionFileError("the motion has no name; give it one, for example jump")
        check_words("the new motion", "name", name, MAX_LETTERS["name"])
        if any(motion.name == name for motion in self.list()):
            raise MotionFileError(f'there is a motion "{name}" already; choose another name')
        stem = re.sub(r"[^\w.-]+", "-", name).strip("-._") or "motion"
        path = self.home / f"{stem}{SUFFIX}"
        number = 2
        while path.exists() or path.with_suffix(".mp4").exists():  # its preview goes there
            path = self.home / f"{stem}-{number}{SUFFIX}"
            number += 1
        return path

    def import_file(
        self,
        source: Path | str,
        *,
        name: str | None = None,
        base: str | None = None,
        layers: int | None = None,
        width: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        owner: str = "",
    ) -> Motion:
        """Bring in an exported motion, its preview with it, under its own or another ``name``.

        ``base``, ``layers`` and ``width`` are the loaded model's; None leaves that check out.
        ``owner``: the token of the browser it belongs to from now on, "" for nobody's. Every number
        in the file is looked at first. Raises MotionFileError; nothing is written then.
        """
        source = Path(source)
        checked = check_motion_file(source, base=base, layers=layers, width=width, limits=limits)
        if checked.has_clip:
            read_motion_clip(source, name=checked.name)
        chosen = (name or "").strip() or checked.name
        out = self.new_path(chosen)
        try:
            keep_owner(out, owner)  # first: nobody else may change it when it is listed
            unpack_motion(source, out, name=chosen)
        except OSError as error:
            owner_file(out).unlink(missing_ok=True)
            raise MotionFileError(f"{out.name} cannot be written: {error.strerror}") from error
        return read_motion(out)

    def export_file(self, motion: Motion, folder: Path) -> Path:
        """Write ``motion`` into ``folder`` as one file that carries its preview."""
        folder.mkdir(parents=True, exist_ok=True)
        return pack_motion(motion, folder / motion.path.name)

    def delete(self, name_or_path: str | Path, *, by: LibraryUser | None = None) -> DeletedMotion:
        """Move a motion and its preview into the trash. ``by``: who asks, None for the machine's
        own user. MotionFileError for one that a model ships with, that is somebody else's, or that
        is not there."""
        motion = self._own(name_or_path)
        if by is not None and not by.may_change(motion.path):
            raise MotionFileError(NOT_YOURS.format(name=motion.name))
        deleted = DeletedMotion(secrets.token_hex(16), motion.name, time.time())
        place = motion.path.parent / TRASH / f"{int(deleted.deleted)}-{deleted.token}"
        place.mkdir(parents=True)
        for file in (motion.preview, motion.path, owner_file(motion.path)):
            if file is not None and file.is_file():
                file.rename(place / file.name)
        return deleted

    def _own(self, name_or_path: str | Path) -> Motion:
        """The motion of that name, of several the one that may be written."""
        if Path(name_or_path).suffix == SUFFIX:
            candidates = [self.find(name_or_path)]
        else:
            candidates = [item for item in self.list() if item.name == str(name_or_path)]
        own = [motion for motion in candidates if self.writable(motion)]
        if own:
            return own[0]
        motion = candidates[0] if candidates else self.find(name_or_path)
        raise MotionFileError(
            f'the motion "{motion.name}" belongs to its model or lies outside the library; only '
            "motions that were learned or imported here can be deleted"
        )

    def restore(self, token: str, *, by: LibraryUser | None = None) -> Motion:
        """Bring a deleted motion back to where it was; MotionFileError where that place is taken,
        the trash has been emptied, or the motion is not of who asks, as in ``delete``."""
        place = next((place for place in self._trash() if place.name.endswith(f"-{token}")), None)
        if place is None or len(token) != 32:
            raise MotionFileError("this motion is not in the trash any more; import or learn it")
        home = place.parent.parent
        files = sorted(listed(place), key=lambda file: file.suffix == SUFFIX)  # motion last
        motion = read_motion(next(file for file in files if file.suffix == SUFFIX))
        if by is not None and not by.may_change(motion.path):
            raise MotionFileError(NOT_YOURS.format(name=motion.name))
        if any((home / file.name).exists() for file in files) or any(
            other.name == motion.name for other in self.list()
        ):
            raise MotionFileError(
                f'there is another motion "{motion.name}" by now; delete that one first'
            )
        for file in files:
            file.rename(home / file.name)
        shutil.rmtree(place)  # what an operating system left there goes too
        return read_motion(home / motion.path.name)

    def empty_trash(self, *, days: float = TRASH_DAYS) -> int:
        """Remove for good what was deleted more than ``days`` days ago; how many motions."""
        before = time.time() - days * 86_400
        old = [place for place in self._trash() if float(place.name.split("-")[0]) <= before]
        for place in old:
            shutil.rmtree(place, ignore_errors=True)
        return len(old)

    def _trash(self) -> list[Path]:
        pattern = re.compile(r"\d+-[0-9a-f]{32}")
        folders = [folder / TRASH for folder in self.folders if not is_shipped(folder)]
        places = [place for folder in folders if folder.is_dir() for place in folder.iterdir()]
        return [place for place in places if pattern.fullmatch(place.name)]

    def _scan(self) -> tuple[list[Motion], list[str]]:
        motions: list[Motion] = []
        problems: list[str] = []
        for folder in self.folders:
            for path in listed(folder, f"*{SUFFIX}"):
                try:
                    motions.append(self._read_cached(path))
                except MotionFileError as error:
                    logger.warning("motion left out of the library: %s", error)
                    problems.append(str(error))
        return sorted(motions, key=lambda motion: motion.name), problems

    def _read_cached(self, path: Path) -> Motion:
        try:
            stat = path.stat()
        except OSError as error:
            raise MotionFileError(f"{path.name} cannot be read: {error.strerror}") from error
        stamp = (stat.st_mtime_ns, stat.st_size)
        known = self._cache.get(path)
        if known is None or known[0] != stamp:
            known = (stamp, read_motion(path))
            self._cache[path] = known
        return known[1]

    def _unknown(self, name: str, motions: list[Motion]) -> str:
        names = sorted({motion.name for motion in motions})
        name = name[:80]  # to compare megabytes, which may come, takes gigabytes
        if not names:
            return f'there is no motion "{name}": the library is empty; train or import one first'
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        offer = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}"
        return f'there is no motion "{name}"; {offer}'


class AwaitedLibrary(Library):
    """``library`` as it will be once the motions ``awaited`` are learned: ``find`` gives those too,
    as they are described so far."""

    def __init__(self, library: Library, awaited: Sequence[Motion]) -> None:
        super().__init__(library.folders)
        self._cache = library._cache
        self._awaited = {motion.name: motion for motion in awaited}

    def find(self, name_or_path: str | Path, *, base: str | None = None) -> Motion:
        """As ``Library.find``; one that is awaited is for whichever model learns it."""
        awaited = self._awaited.get(str(name_or_path))
        return super().find(name_or_path, base=base) if awaited is None else awaited


def _namesakes(motions: Sequence[Motion]) -> list[str]:
    """A line for each motion that ``find`` passes over for another one of its name."""
    first: dict[tuple[str, str], Motion] = {}
    lines = []
    for motion in motions:
        taken = first.setdefault((motion.name, motion.base), motion)
        if taken.digest != motion.digest:
            lines.append(
                f'{motion.path.name} is called "{motion.name}" as {taken.path.name} is, which is '
                "the one used by that name; import it again under another name"
            )
    return lines


def is_shipped(folder: Path) -> bool:
    """Whether the folder belongs to a checkpoint, whose motions are read only."""
    return (folder.parent / MODEL_FILE).is_file()


def motion_entry(motion: Motion) -> dict[str, Any]:
    """A motion as plain JSON."""
    return {
        "name": motion.name,
        "phrase": motion.phrase,
        "noun": motion.noun,
        "method": motion.method,
        "base": motion.base,
        "steps": motion.steps,
        "created": motion.created,
        "preview": None if motion.preview is None else str(motion.preview),
        "track": motion.track,
        "has_clip": motion.has_clip,
        "has_mover": motion.has_mover,
        "path": str(motion.path),
    }


@dataclass(frozen=True)
class LibraryUser:
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
