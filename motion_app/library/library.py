"""The motions on disk: listed, found, brought in, sent out, deleted and brought back.

Listing reads the headers of the files only, so it needs no torch and no weights.

Whoever changes the library does it as ``changing`` has it: nobody is there twice, and nothing half.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import logging
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from motion_app.errors import MotionFileError, other_base
from motion_app.library.changing import changing, move_motion, staging
from motion_app.library.motion_clip import read_motion_clip
from motion_app.library.motion_file import (
    MAX_LETTERS,
    SUFFIX,
    check_motion_file,
    check_words,
    read_motion,
)
from motion_app.library.motion_parcel import pack_motion, rename_motion, unpack_motion
from motion_app.library.owners import (
    LibraryUser,
    Ownership,
    keep_owner,
    owner_file,
    show_to_all,
)
from motion_app.library.quota import Origins, check_room
from motion_app.library.trash import NOT_IN_TRASH, TRASH, TRASH_DAYS, DeletedMotion, Trash
from motion_app.scene import Motion
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.text_files import file_digest, listed, remove_staged

logger = logging.getLogger(__name__)
NOT_YOURS = (
    'the motion "{name}" is not yours: only the browser that learned or imported it can change it, '
    "or who runs this server, with: python -m motion_app motions"
)
MODEL_FILE = "model_index.json"  # beside a folder of motions: they were shipped with that model


Whose = Literal["mine", "shared", "shipped"]  # shared: by somebody else


class Library:
    """The motions in some folders, the first folder first.

    Cheap to ask often: a file is read again only when its size or its time of change differ.
    ``limits``: how much the trash may hold, and those who bring motions in.
    """

    def __init__(self, folders: Sequence[Path | str], *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        self.limits = limits
        self._origins = Origins()
        own = [folder for folder in self.folders if not is_shipped(folder)]
        self._trash = Trash(own, self._origins)
        self._cache: dict[Path, tuple[tuple[int, int], Motion]] = {}
        self._user: LibraryUser | None = None

    def seen_by(self, user: LibraryUser) -> Library:
        """The same library as ``user`` sees it: without other people's private motions."""
        view = copy.copy(self)
        view._user = user
        return view

    def list(self) -> list[Motion]:
        """Readable motions, sorted by name. Broken files are logged and listed by ``problems``."""
        return self._scan()[0]

    def problems(self) -> list[str]:
        """One line for every motion file that cannot be used, saying why, and for every name that
        means two motions of one base model."""
        motions, problems = self._scan()
        return problems + _namesakes(motions)

    def names(self) -> set[str]:
        """Of all motions there are, whoever may see them: no two get the same."""
        everything = copy.copy(self)
        everything._user = None
        return {motion.name for motion in everything._scan()[0]}

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
            first = candidates[0]
            raise other_base(f'the motion "{first.name}"', first.base, str(base))
        return fitting[0]

    def preview_of(self, name: str) -> Path | None:
        """The reference clip of the motion of that name, None without one; MotionFileError where
        motions of one name have different clips."""
        named = [motion for motion in self.list() if motion.name == name]
        try:
            clips = {file_digest(m.preview): m for m in named if m.preview is not None}
        except OSError as error:
            raise MotionFileError(
                f'the clip of the motion "{name}" cannot be read: {error.strerror}'
            ) from error
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

    def whose(self, motion: Motion) -> Whose:
        """Of whom the motion is for who sees the library; for nobody in particular as for who sits
        at this machine."""
        if not self.writable(motion):
            return "shipped"
        user = LibraryUser(local=True) if self._user is None else self._user
        return "mine" if user.may_change(motion.path) else "shared"

    def free_name(self, name: str, *, besides: Collection[str] = ()) -> str:
        """``name``, or with the first number behind it that makes it no other motion's and none of
        ``besides``."""
        name, taken = name.strip(), self.names().union(besides)
        numbers = (f" {number}" for number in itertools.count(2))
        longest = MAX_LETTERS["name"]
        return next(
            free
            for ending in itertools.chain([""], numbers)
            if (free := name[: longest - len(ending)] + ending) not in taken
        )

    def check_room(self, user: LibraryUser) -> None:
        """MotionFileError where ``user`` has as much as one may keep here."""
        check_room(self.home, user, 0, self.limits, self._origins)

    def new_path(self, name: str) -> Path:
        """Where a new motion of this name is to be written. MotionFileError for a name that is
        taken, empty, too long or unprintable."""
        name = name.strip()
        self._check_name(name, taken=self.names())
        stem = re.sub(r"[^\w.-]+", "-", name).strip("-._") or "motion"
        path = self.home / f"{stem}{SUFFIX}"
        number = 2
        while path.exists() or path.with_suffix(".mp4").exists():  # its preview goes there
            path = self.home / f"{stem}-{number}{SUFFIX}"
            number += 1
        return path

    def _check_name(self, name: str, *, taken: set[str]) -> None:
        if not name:
            raise MotionFileError("the motion has no name; give it one, for example jump")
        check_words("the new motion", "name", name, MAX_LETTERS["name"])
        if name in taken:
            raise MotionFileError(f'there is a motion "{name}" already; choose another name')

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
        address: str = "",
        private: bool = False,
        yielding: bool = False,
        counted: bool = False,
    ) -> Motion:
        """Bring in an exported motion, its preview with it, under its own or another ``name``.

        ``base``, ``layers`` and ``width`` are the loaded model's; None leaves that check out.
        ``owner``: the token of the browser it belongs to from now on, "" for nobody's; ``private``
        shows it to no other. A name that is taken is refused, or ``yielding`` it gets a number.
        ``counted`` refuses what is more than its owner, or who comes from the same ``address``, may
        keep here: not what was learned, whose training would be lost.
        Every number in the file is looked at first. Raises MotionFileError; nothing is written
        then.
        """
        source = Path(source)
        checked = check_motion_file(source, base=base, layers=layers, width=width, limits=limits)
        if checked.has_clip:
            read_motion_clip(source, name=checked.name)
        chosen = (name or "").strip() or checked.name
        self._check_name(chosen, taken=set() if yielding else self.names())
        with changing(self.home) as home, staging(home) as staged:
            if counted:
                user = LibraryUser(owner, address=address)
                check_room(home, user, source.stat().st_size, limits, self._origins)
            chosen = self.free_name(chosen) if yielding else chosen
            out = self.new_path(chosen)  # again: others may have been quicker
            unpack_motion(source, staged / out.name, name=chosen)
            keep_owner(staged / out.name, owner, private=private)
            owner_file(out).unlink(missing_ok=True)  # of one that was taken away by hand
            self._origins.note(out, address)
            move_motion(staged, home)
        return read_motion(out)

    def export_file(self, motion: Motion, folder: Path) -> Path:
        """Write ``motion`` into ``folder`` as one file that carries its preview."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MotionFileError(f"{folder.name} cannot be made: {error.strerror}") from error
        return pack_motion(motion, folder / motion.path.name)

    def rename(
        self, name_or_path: str | Path, name: str, *, by: LibraryUser | None = None
    ) -> Motion:
        """Give a motion another ``name``; its file, preview and owner stay. ``by`` as of
        ``delete``. MotionFileError for a name that ``new_path`` refuses too."""
        name = name.strip()
        with self._theirs(name_or_path, by) as motion:
            if name != motion.name:
                self._check_name(name, taken=self.names())
                rename_motion(motion.path, name)
        return read_motion(motion.path)

    def share(
        self, name_or_path: str | Path, shared: bool = True, *, by: LibraryUser | None = None
    ) -> Motion:
        """Show a motion to all, or to its owner alone. ``by`` as of ``delete``."""
        with self._theirs(name_or_path, by) as motion:
            if not (shared or Ownership.read(motion.path).mark):
                raise MotionFileError(
                    f'nobody in particular made the motion "{motion.name}", so that nobody would '
                    "see it; move its file out of the library instead"
                )
            show_to_all(motion.path, shared)
        return motion

    def delete(self, name_or_path: str | Path, *, by: LibraryUser | None = None) -> DeletedMotion:
        """Move a motion and its preview into the trash, from which the oldest go where it is full;
        on a disk so full that there is no room for that it goes for good, with "" for a token.
        ``by``: who asks, None for the machine's own user. MotionFileError for one that a model
        ships with, that is somebody else's, or that is not there."""
        with self._theirs(name_or_path, by) as motion:
            token, now = secrets.token_hex(16), time.time()
            place = motion.path.parent / TRASH / f"{int(now)}-{token}"
            going = (motion.path, motion.preview, owner_file(motion.path))  # listed no more first
            kept = self._trash.made_room_for(place)
            self._origins.moved(motion.path, place if kept else None)
            if kept and by is not None and by.address:
                self._origins.note(place, by.address)
            for file in going:
                if file is not None and file.is_file():
                    file.rename(place / file.name) if kept else file.unlink()
        if kept:
            self._trash.throw_away(self._trash.overfull(place, self.limits))
        return DeletedMotion(token if kept else "", motion.name, now)

    @contextmanager
    def _theirs(self, name_or_path: str | Path, by: LibraryUser | None) -> Iterator[Motion]:
        """The motion of that name, its folder locked; MotionFileError where it may not be changed
        by whom."""
        path = self._own(name_or_path).path
        with changing(path.parent):
            motion = read_motion(path)  # as it is now
            if by is not None and not by.may_change(path):
                raise MotionFileError(NOT_YOURS.format(name=motion.name))
            yield motion

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
            "motions that were learned or imported here can be changed"
        )

    def restore(self, token: str, *, by: LibraryUser | None = None) -> Motion:
        """Bring a deleted motion back to where it was; MotionFileError where that place is taken,
        the trash has been emptied, or the motion is not of who asks, as in ``delete``."""
        place = self._trash.find(token)
        with changing(place.parent.parent) as home:
            file = next(listed(place, f"*{SUFFIX}"), None)
            if file is None:
                raise MotionFileError(NOT_IN_TRASH)
            left = owner_file(home / file.name)
            if left.is_file() and not (home / file.name).exists():
                left.rename(place / left.name)  # the program was killed while it deleted
            motion = read_motion(file)
            if by is not None and not by.may_change(file):
                raise MotionFileError(NOT_YOURS.format(name=motion.name))
            if motion.name in self.names() or any((home / f.name).exists() for f in listed(place)):
                raise MotionFileError(
                    f'there is another motion "{motion.name}" by now; delete that one first'
                )
            move_motion(place, home)
            self._origins.moved(place, home / file.name)
            shutil.rmtree(place)  # what an operating system left there goes too
        return read_motion(home / file.name)

    def empty_trash(self, *, days: float = TRASH_DAYS) -> int:
        """Remove for good what was deleted more than ``days`` days ago, and what was left by a
        program that was killed while it wrote; how many motions."""
        before = time.time() - days * 86_400
        old = self._trash.older(before)
        self._trash.throw_away(old)
        for folder in self.folders:
            remove_staged(folder)
        return len(old)

    def _scan(self) -> tuple[list[Motion], list[str]]:
        motions: list[Motion] = []
        problems: list[str] = []
        for folder in self.folders:
            for path in listed(folder, f"*{SUFFIX}"):
                if self._user is not None and not self._user.may_see(path):
                    continue
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
        super().__init__(library.folders, limits=library.limits)
        self._cache, self._user = library._cache, library._user
        self._origins, self._trash = library._origins, library._trash
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
        "clip_errors": motion.clip_errors,
        "path": str(motion.path),
    }
