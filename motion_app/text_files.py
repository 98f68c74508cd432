"""Text files of strangers: UTF-8 or UTF-16 with or without a byte order mark, the line endings of
any system, CSV as spreadsheets write it, one record a line, and paths as Windows writes them.

What operating systems and editors leave in folders, which nobody means by naming a folder. Files of
this program's own that are whole or not there.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from motion_app.errors import RequestError
from motion_app.wording import as_named

MARKS = (  # the longer first: UTF-16's mark begins UTF-32's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
SEPARATOR_LINE = re.compile(r'\s*"?sep=([,;\t])"?[,;\t]*\s*', re.IGNORECASE)  # Excel's own
DRIVE = re.compile(r"[A-Za-z]:[/\\]|\\\\")
MARK = "\ufeff"
# Beside every hidden name (.DS_Store, ._clip.mp4 and .Trashes of macOS, .ipynb_checkpoints,
# .~lock.a.csv#, .clip.mp4.swp): macOS in archives, Windows, Synology, editors, Office, compilers.
PATTERNS = (
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs*.db", "desktop.ini", "$recycle.bin"),
    *("system volume information", "@eadir", "@tmp", "#recycle", "lost+found"),
    *("~$*", "*~", "#*#", "*.swp", "*.swo", "*.swx", "__pycache__"),
)


def decoded(content: bytes, what: str) -> str:
    """The text in ``content``, line endings as they came. RequestError where it is none; ``what``
    names it there."""
    marked = [(mark, encoding) for mark, encoding in MARKS if content.startswith(mark)]
    mark, encoding = marked[0] if marked else (b"", json.detect_encoding(content))
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RequestError(
            f"{what} is not {encoding.upper()} text: line {line} has the byte "
            f"0x{error.object[error.start]:02x} (place {error.start}); save it as UTF-8, in Excel "
            'as "CSV UTF-8"'
        ) from error


def read_text(path: Path | str, what: str = "") -> str:
    """The text of a file. RequestError, which calls it ``what`` or else by its name, for one that
    cannot be read or is no text."""
    path = Path(path)
    what = what or path.name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{what} cannot be read: {error.strerror}") from error
    return decoded(content, what)


def parsed_json(text: str, what: str) -> Any:
    """``text`` as JSON; RequestError where it is none."""
    try:
        return json.loads(text.removeprefix(MARK))
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python takes
        raise RequestError(f"{what} is not JSON: {error}") from error


def read_json(path: Path | str, what: str = "") -> Any:
    """The JSON in a file. RequestError as ``read_text``, and where it is no JSON."""
    path = Path(path)
    what = what or path.name
    return parsed_json(read_text(path, what), what)


def records(text: str) -> Iterator[tuple[int, str]]:
    """The lines that hold something, each with its number from 1.

    Lines end at "\\n" alone: U+2028, U+0085 and others at which ``str.splitlines`` splits may stand
    inside a JSON string as they are. A byte order mark before a line, which files put together
    leave there, is no part of it.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        record = line.removeprefix(MARK)
        if record.strip():
            yield number, record


def json_text(record: Any, **options: Any) -> str:
    """``record`` as JSON that can be written as UTF-8: letters as they are, but for halves of
    surrogate pairs, which JSON allows and UTF-8 does not."""
    text = json.dumps(record, ensure_ascii=False, **options)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(record, ensure_ascii=True, **options)
    return text


# tables -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CsvRow:
    """``line``: of the file, where the row begins; ``cells``: column → text without white space
    around it, "" where there is none."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class CsvTable:
    """A CSV file with a header: the columns that have a name, and the rows that hold something."""

    columns: tuple[str, ...]
    rows: tuple[CsvRow, ...]


def read_table(
    path: Path | str, known: Sequence[str] = (), *, optional: Sequence[str] = ()
) -> CsvTable:
    """A CSV file as a spreadsheet writes it: cells between commas, semicolons or tabs, whichever
    gives the first row the most ``known`` columns; rows and columns without content are left out.
    At its end a row may lack the cells of ``optional`` columns.

    RequestError for a file that is no such table, a column that comes twice or has content but no
    name, and a row with more or fewer cells than the first.
    """
    path = Path(path)
    text = read_text(path).removeprefix(MARK)
    rows = [row for row in _rows(path, text, known) if _holds(row[1])]
    if not rows:
        return CsvTable((), ())
    columns = [as_named(cell) for cell in rows[0][1]]
    named = [name for name in columns if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f'{path.name} has the column "{twice}" twice; keep one')
    table = [_row(path, line, row, columns, set(optional)) for line, row in rows[1:]]
    return CsvTable(tuple(named), tuple(table))


def read_rows(path: Path | str, known: Sequence[str] = ()) -> list[tuple[int, list[str]]]:
    """A CSV file that may lack a header: (line, cells) of every row that holds something, its cells
    as they are. ``known`` and RequestError as ``read_table``."""
    path = Path(path)
    text = read_text(path).removeprefix(MARK)
    return [row for row in _rows(path, text, known) if _holds(row[1])]


def _holds(cells: Sequence[str]) -> bool:
    """Whether there is more in a row than white space and signs between cells."""
    return re.search(r"[^\s,;]", "".join(cells)) is not None


def _row(
    path: Path, line: int, cells: Sequence[str], columns: Sequence[str], optional: set[str]
) -> CsvRow:
    lacking = [name for name in columns[len(cells) :] if name and name not in optional]
    if lacking:
        raise RequestError(
            f"line {line} of {path.name} has not as many cells as the first line: it ends before "
            f'the column "{lacking[0]}"; fill it in'
        )
    for place, cell in enumerate(cells):
        if not cell.strip() or (place < len(columns) and columns[place]):
            continue
        if place >= len(columns):
            raise RequestError(
                f"line {line} of {path.name} has not as many cells as the first line: "
                f'"{cell[:40]}" is one too many; quote a cell that holds the sign between cells'
            )
        raise RequestError(
            f'line {line} of {path.name} has "{cell[:40]}" in column {place + 1}, which has no '
            "name in the first line; name it or empty it"
        )
    padded = [*cells, *[""] * (len(columns) - len(cells))]
    return CsvRow(line, {n: c.strip() for n, c in zip(columns, padded, strict=False) if n})


def _rows(path: Path, text: str, known: Sequence[str]) -> list[tuple[int, list[str]]]:
    """(line, cells) of every row, between the delimiter that Excel's first line names or that fits
    the first row best."""
    first, _, rest = text.partition("\n")
    told = SEPARATOR_LINE.fullmatch(first)
    if told:
        return _parsed(path, rest, told[1], before=1)
    return _parsed(path, text, _delimiter(text, known))


def _delimiter(text: str, known: Sequence[str]) -> str:
    """What stands between the cells of the first row that holds something; a comma where nothing
    speaks for another."""
    names = set(known)

    def fit(delimiter: str) -> tuple[int, int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            cells = next((row for row in reader if _holds(row)), [])
        except csv.Error:
            return 0, 0
        return sum(as_named(cell) in names for cell in cells), len(cells)

    return max(DELIMITERS, key=fit)


def _parsed(
    path: Path, text: str, delimiter: str, *, before: int = 0
) -> list[tuple[int, list[str]]]:
    """Rows with the line each begins at, counted on from ``before``; a quoted cell may hold line
    breaks."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    begins = before + 1
    try:
        for cells in reader:
            rows.append((begins, cells))
            begins = before + reader.line_num + 1
    except csv.Error as error:
        raise RequestError(
            f"{path.name} cannot be read as a CSV file with {DELIMITERS[delimiter]} between its "
            f"cells: the row that begins in line {begins}: {error}; quote cells as spreadsheets do"
        ) from error
    return rows


# paths ------------------------------------------------------------------------------------------
def located(folder: Path | str, written: str) -> Path:
    """What a text means by a path that starts from ``folder``: as it stands where there is such a
    file; else with Windows' backslashes for slashes, and with its letters encoded as the disk has
    them (macOS writes them in parts). A path to nothing comes back with slashes. RequestError for
    the path of another machine's drive, which leads nowhere here."""
    folder = Path(folder)
    as_it_stands = folder / written
    if "\0" in written or _exists(as_it_stands):
        return as_it_stands
    if DRIVE.match(written):
        raise RequestError(
            f'"{written[:200]}" is a path of a Windows drive; write it from the folder of the file '
            "it stands in"
        )
    place = folder / written.replace("\\", "/")
    return place if _exists(place) else _alike(place)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than the system has
        return False


def _alike(path: Path) -> Path:
    """``path`` with each part as the disk writes it; ``path`` itself where there is none."""
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if not _exists(found / part):
            try:
                names = [p.name for p in found.iterdir() if as_named(p.name) == as_named(part)]
            except OSError:
                names = []
            if len(names) != 1:
                return path
            part = names[0]
        found /= part
    return found


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


def file_digest(path: Path, before: bytes = b"") -> str:
    """sha256 of a file, hexadecimal; of what comes ``before`` it too."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha256(before)).hexdigest()


STAGING = ".new-"  # before a folder's name: what will lie there is still being made
STAGED_SECONDS = 86_400.0  # after which nobody is writing there any more


def remove_staged(folder: Path) -> None:
    """What a program that was killed had begun in ``folder`` goes, once nobody writes there any
    more."""
    for staged in folder.glob(f"{STAGING}*"):
        with suppress(OSError):  # it has just gone
            if staged.stat().st_mtime < time.time() - STAGED_SECONDS:
                shutil.rmtree(staged, ignore_errors=True)


class Reserve:
    """Room that is held back on the disk of ``file``, ``most`` bytes, for what must go on where the
    disk is full: it is given back ``step`` by ``step``."""

    def __init__(self, file: Path, *, most: int, step: int) -> None:
        self.file, self.most, self.step = file, most, step

    def hold(self) -> None:
        """Take as much as there is, up to ``most``."""
        with suppress(OSError), self.file.open("ab", buffering=0) as file:
            while (missing := self.most - file.tell()) > 0:
                file.write(bytes(missing))

    def free(self) -> bool:
        """A part of it back to the disk; False where nothing is left."""
        try:
            held = self.file.stat().st_size
            os.truncate(self.file, max(0, held - self.step))
        except OSError:
            return False
        return held > 0


def write_whole(path: Path, write: Callable[[Path], object], *, ending: str = ".part") -> None:
    """Let ``write`` make a hidden file beside ``path`` and put it there in one step: a kill leaves
    the old file or the new one, never half. ``ending``: of the hidden file, for writers that go by
    it. The folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{ending}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
