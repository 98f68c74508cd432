"""The motions on disk. Reads the header of a safetensors file only (an 8-byte length and JSON), so
listing a library needs no torch and no weights."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from motion_app.errors import MotionFileError
from motion_app.scene import Motion

logger = logging.getLogger(__name__)

FORMAT = "motion-tokens/1"
SUFFIX = ".safetensors"
REQUIRED_KEYS = ("name", "phrase", "method", "base")
MAX_FILE_BYTES = 256 * 2**20  # ui.md, limits
MAX_HEADER_BYTES = 8 * 2**20  # 42 layers need some 6 KB; a longer header is an attack or a mistake


def read_header(path: Path | str) -> dict[str, Any]:
    """The JSON header of a safetensors file: tensor entries and ``__metadata__``.

    Raises MotionFileError for a file that is missing, too large, cut off, or no safetensors file.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise MotionFileError(
                f"{path.name} is {size / 2**20:.0f} MB; a motion file may have "
                f"{MAX_FILE_BYTES // 2**20} MB"
            )
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise MotionFileError(f"{path.name} is not a safetensors file, or was cut off")
            header = json.loads(file.read(length))
    except OSError as error:
        raise MotionFileError(f"{path.name} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MotionFileError(f"{path.name} is not a safetensors file: broken header") from error
    if not isinstance(header, dict):
        raise MotionFileError(f"{path.name} is not a safetensors file: broken header")
    _check_length(path, header, size - 8 - length)
    return header


def _check_length(path: Path, header: dict[str, Any], payload: int) -> None:
    """A download that stopped half-way has a whole header and too few bytes after it."""
    try:
        ends = [
            int(entry["data_offsets"][1])
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise MotionFileError(f"{path.name} is not a safetensors file: broken header") from error
    if max(ends, default=0) != payload:
        raise MotionFileError(
            f"{path.name} should hold {max(ends, default=0)} bytes of tokens but holds {payload}; "
            "copy or download it again"
        )


def read_motion(path: Path | str) -> Motion:
    """One motion file as the library lists it; MotionFileError where it is not one."""
    path = Path(path)
    metadata = read_header(path).get("__metadata__") or {}
    came = metadata.get("format")
    if came != FORMAT:
        raise MotionFileError(
            f'{path.name} has the format "{came or "none"}", expected "{FORMAT}"; published .pt '
            "files come in through the import-motion command"
        )
    missing = [key for key in REQUIRED_KEYS if not metadata.get(key)]
    if missing:
        raise MotionFileError(f"{path.name} lacks the metadata {', '.join(missing)}")
    preview_name = metadata.get("preview") or ""
    # Only a name beside the file: metadata comes from strangers and must not reach other folders.
    preview = path.parent / Path(preview_name).name if preview_name else None
    return Motion(
        name=metadata["name"],
        phrase=metadata["phrase"],
        path=path,
        base=metadata["base"],
        method=metadata["method"],
        preview=preview if preview is not None and preview.is_file() else None,
        track=_read_track(path, metadata.get("track") or ""),
        digest=file_digest(path),
    )


def _read_track(path: Path, text: str) -> tuple[tuple[float, float], ...] | None:
    if not text:
        return None
    try:
        return tuple((float(y), float(x)) for y, x in json.loads(text))  # (T, 2)
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise MotionFileError(f'the "track" of {path.name} is not a list of [y, x]') from error


def file_digest(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        """One line for every motion file that cannot be used, saying why."""
        return self._scan()[1]

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

    def _scan(self) -> tuple[list[Motion], list[str]]:
        motions: list[Motion] = []
        problems: list[str] = []
        for folder in self.folders:
            for path in sorted(folder.glob(f"*{SUFFIX}")):
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
        if not names:
            return f'there is no motion "{name}": the library is empty; train or import one first'
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        offer = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}"
        return f'there is no motion "{name}"; {offer}'
