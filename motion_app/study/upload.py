"""Items that come as a ZIP file: unpacked with care, then read as a folder or a CSV file is."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

from motion_app.errors import RequestError
from motion_app.settings import Limits
from motion_app.study.sources import SourceItem, read_sources
from motion_app.text_files import listed

MOST_FILES = 20_000
CHUNK = 2**20
LAYOUT = """items.zip
  fox/
    caption.txt
    first_frame.png
    reference_1.mp4
    METHOD A.mp4
    METHOD B.mp4
  cat/
    …"""


def read_upload(file: Path, folder: Path, limits: Limits) -> list[SourceItem]:
    """The items of the ZIP ``file``, unpacked into ``folder``: folders of items, or one CSV file
    and what it names, in a folder of their own or not. RequestError for what is none of these, too
    large, or leads out of the folder; an item's own faults as ``read_sources`` tells them."""
    folder.mkdir(parents=True, exist_ok=True)
    unpack(file, folder, most_bytes=int(limits.study_megabytes * 2**20))
    try:
        return _read(file, folder)
    except RequestError as error:  # where it was unpacked is nobody's business
        told = str(error).replace(f"{folder}/", "").replace(str(folder), file.name)
        raise RequestError(told) from error


def _read(file: Path, folder: Path) -> list[SourceItem]:
    home = folder
    while True:
        inside = list(listed(home))
        tables = [path for path in inside if path.suffix.lower() == ".csv"]
        if len(tables) > 1:
            names = ", ".join(path.name for path in tables)
            raise RequestError(f"{file.name} has the tables {names}; keep one of them")
        if tables:
            return read_sources(tables[0], within=folder)
        folders = [path for path in inside if path.is_dir()]
        if len(folders) != 1 or not any(path.is_dir() for path in listed(folders[0])):
            return read_sources(home)
        home = folders[0]


def unpack(file: Path, folder: Path, *, most_bytes: int) -> None:
    """Every file of a ZIP, of at most ``most_bytes`` in all as they really are, whatever it says of
    itself."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > MOST_FILES:
                raise RequestError(
                    f"{file.name} holds {len(entries)} files; at most {MOST_FILES} are expected"
                )
            left = most_bytes
            for entry in entries:
                left -= _unpack_one(archive, entry, folder, left)
                if left < 0:
                    raise RequestError(
                        f"{file.name} holds more than {most_bytes / 2**20:.0f} MB; leave out "
                        "items, or make the study on the command line"
                    )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        # RuntimeError: it asks for a password
        raise RequestError(f"{file.name} is no ZIP file that can be read: {error}") from error


def _unpack_one(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, left: int) -> int:
    """How many bytes it has; one more than ``left`` where there are more."""
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(entry.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or is_link:
        raise RequestError(
            f'the file "{entry.filename[:80]}" leads out of the ZIP file; pack the folder anew'
        )
    target = folder.joinpath(*path.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(entry) as source, target.open("wb") as copy:
        while chunk := source.read(min(CHUNK, left + 1 - written)):
            copy.write(chunk)
            written += len(chunk)
            if written > left:
                break
    return written
