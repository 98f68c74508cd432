"""What a study is made from: a folder of items, a CSV file, or results made in the app.

A folder holds one folder for each item: ``caption.txt``, ``first_frame.png`` (or .jpg, .webp),
``reference.mp4`` (or ``reference_1.mp4``, …) and a video for each method, named after it. A gold or
practice item of one's own has a folder that starts with ``gold-`` or ``practice-``, and
``answer.txt`` with the method that is right.

A CSV file has the columns item, caption, first_frame, references (with ; between), optionally kind
and answer, and one for each method; paths count from the file's own folder. What operating systems
and editors leave in folders is no item and no file of one.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from motion_app.errors import RequestError
from motion_app.media.file_types import CLIP_FILES, CLIP_KINDS, STILL_FILES, is_unread_video
from motion_app.media.files import decode_data_uri
from motion_app.study.plan import Kind
from motion_app.text_files import CsvRow, listed, located, read_json, read_table, read_text
from motion_app.wording import as_named, lookalike

VIDEOS, PICTURES = CLIP_FILES, STILL_FILES
OWN_COLUMNS = ("item", "caption", "first_frame", "references", "kind", "answer")
OPTIONAL_COLUMNS = ("kind", "answer")
STUDY_ITEMS = "study_items"  # the folder of items that a benchmark's run leaves beside its report
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class SourceItem:
    """An item as it was found. ``first_frame`` is a file or its bytes; ``videos`` is method → file.
    ``answer`` is None for the items that are compared."""

    name: str
    caption: str
    first_frame: Path | bytes
    references: tuple[Path, ...]
    videos: Mapping[str, Path]
    kind: Kind = "main"
    answer: str | None = None


def read_sources(path: Path | str, *, within: Path | None = None) -> list[SourceItem]:
    """The items of a folder or a CSV file. RequestError names what is missing where. ``within``:
    the folder that a stranger's table may name files of; None for all of this machine."""
    path = Path(path)
    if path.is_dir():
        items = [_read_folder(folder) for folder in listed(path) if folder.is_dir()]
    elif path.suffix.lower() == ".csv":
        items = _read_table(path, within)
    else:
        raise RequestError(f"{path} is neither a folder of items nor a .csv file; give one of them")
    if not items:
        raise RequestError(f"{path} holds no items; each is a folder, or a row of the CSV file")
    names = [item.name for item in items]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f'{path.name} has two items called "{twice}"; rename one')
    return items


def _read_folder(folder: Path) -> SourceItem:
    files = [file for file in listed(folder) if file.is_file()]
    clips = [file for file in files if file.suffix.lower() in VIDEOS]
    for file in files:
        if is_unread_video(file):
            raise RequestError(
                f'the item "{folder.name}" has {file.name}, which is no clip this app reads; use '
                f"{CLIP_KINDS}"
            )
    references = [file for file in clips if file.stem.lower().startswith("reference")]
    pictures = [
        f for f in files if f.stem.lower() == "first_frame" and f.suffix.lower() in PICTURES
    ]
    texts = {file.name.lower(): file for file in files}
    kind: Kind = next((name for name in KINDS if folder.name.startswith(name + "-")), "main")
    for found, wanted in (
        (pictures, "first_frame.png"),
        (references, "reference.mp4"),
        ("caption.txt" in texts, "caption.txt"),
        (kind == "main" or "answer.txt" in texts, "answer.txt"),
    ):
        if not found:
            raise RequestError(f'the item "{folder.name}" has no {wanted}; add one')
    if len(pictures) > 1:
        names = ", ".join(file.name for file in pictures)
        raise RequestError(f'the item "{folder.name}" has {names}; keep one of them')
    return SourceItem(
        name=as_named(folder.name),
        caption=_text(texts["caption.txt"]),
        first_frame=pictures[0],
        references=tuple(references),
        videos=_by_method(folder, [file for file in clips if file not in references]),
        kind=kind,
        answer=None if kind == "main" else as_named(_text(texts["answer.txt"])),
    )


def _by_method(folder: Path, clips: Sequence[Path]) -> dict[str, Path]:
    """Each clip by its method, which is its name without the ending."""
    videos: dict[str, Path] = {}
    for file in clips:
        method = as_named(file.stem)
        if method in videos:
            raise RequestError(
                f'the item "{folder.name}" has {videos[method].name} and {file.name}, both of the '
                f'method "{method}"; keep one of them'
            )
        videos[method] = file
    return videos


def _text(file: Path) -> str:
    """The text without white space around it, its lines ended by "\\n"."""
    text = read_text(file, str(file)).replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text).strip()


def _read_table(path: Path, within: Path | None) -> list[SourceItem]:
    table = read_table(path, OWN_COLUMNS, optional=OPTIONAL_COLUMNS)
    missing = [name for name in OWN_COLUMNS if name not in (*table.columns, *OPTIONAL_COLUMNS)]
    if missing:
        raise RequestError(_lacking(path, missing, table.columns))
    methods = [name for name in table.columns if name not in OWN_COLUMNS]
    return [_read_row(path, row, methods, within) for row in table.rows]


def _lacking(path: Path, missing: Sequence[str], columns: Sequence[str]) -> str:
    found = ", ".join(columns[:10]) or "none"
    return (
        f"{path.name} has no column {', '.join(missing)}; add it. Its columns are {found}"
        + lookalike(missing, columns)
    )


def _read_row(path: Path, row: CsvRow, methods: Sequence[str], within: Path | None) -> SourceItem:
    where, cells = f"line {row.line} of {path.name}", row.cells

    def file(column: str, text: str) -> Path:
        if not text:
            raise RequestError(f"{where}, column {column}: the cell is empty; name a file")
        found = located(path.parent, text)
        if within is not None and not found.resolve().is_relative_to(within.resolve()):
            raise RequestError(f'{where}, column {column}: "{text[:80]}" is not in the file')
        if not found.is_file():
            beside = listed(found.parent) if found.parent.is_dir() else ()
            raise RequestError(
                f'{where}, column {column}: there is no file "{text}"'
                + lookalike((file.name for file in beside), [found.name])
            )
        return found

    given = as_named(cells.get("kind", "")) or "main"
    kind = next((name for name in KINDS if name == given), None)
    if kind is None:
        raise RequestError(
            f'{where}: kind is one of {", ".join(KINDS)}, got "{given}"' + lookalike(KINDS, [given])
        )
    references = [part.strip() for part in cells["references"].split(";") if part.strip()]
    return SourceItem(
        name=as_named(cells["item"]) or str(row.line),
        caption=unicodedata.normalize("NFC", cells["caption"]),
        first_frame=file("first_frame", cells["first_frame"]),
        references=tuple(file("references", part) for part in references or [""]),
        videos={method: file(method, cells[method]) for method in methods},
        kind=kind,
        answer=as_named(cells.get("answer", "")) or None,
    )


@dataclass(frozen=True)
class ResultFolder:
    """A result made in the app: a folder with ``video.mp4`` and ``recipe.json``. ``label`` is the
    name it is compared under; None takes the recipe's own, see ``method_label``."""

    path: Path
    label: str | None = None


def sources_from_results(
    results: Sequence[ResultFolder], *, reference: Callable[[str], Path | None]
) -> list[SourceItem]:
    """Items from results: those of one scene (picture, caption and motions alike) stand side by
    side. ``reference`` gives the reference clip of a motion by its name. RequestError where a scene
    lacks a method, has one twice, or a motion has no clip."""
    scenes: dict[str, list[tuple[str, Path, dict[str, Any]]]] = {}
    for result in results:
        recipe = _recipe(result.path)
        label = result.label or method_label(recipe)
        scenes.setdefault(_scene(recipe), []).append((label, result.path / "video.mp4", recipe))
    every = {label for found in scenes.values() for label, _, _ in found}
    return [
        _scene_item(f"scene {number}", found, every, reference)
        for number, found in enumerate(scenes.values(), start=1)
    ]


def _recipe(folder: Path) -> dict[str, Any]:
    try:
        recipe = read_json(folder / "recipe.json")
        recipe["request"]["image"], recipe["request"]["objects"], recipe["prompt"]
    except (RequestError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder} is no result of this app: its recipe.json is missing or incomplete"
        ) from error
    if recipe["request"]["image"] is None:
        raise RequestError(
            f"{folder} was made without a picture, which a study shows beside the videos; choose "
            "results that begin with one"
        )
    if not (folder / "video.mp4").is_file():
        raise RequestError(f"{folder} has no video.mp4; choose a finished result")
    return recipe


def _motions(recipe: Mapping[str, Any]) -> list[str]:
    return [entry.get("motion") or "" for entry in recipe["request"]["objects"]]


def _scene(recipe: Mapping[str, Any]) -> str:
    scene = [recipe["request"]["image"], recipe["prompt"], *_motions(recipe)]
    return hashlib.sha256(json.dumps(scene).encode()).hexdigest()


def method_label(recipe: Mapping[str, Any]) -> str:
    """What a result is compared under: the method of its recipe or request, and what it went
    without; or the model of others that made it."""
    if recipe.get("stock"):
        return str(recipe.get("title") or recipe["stock"])
    without = recipe.get("without") or []
    ending = f" without {', '.join(without)}" if without else ""
    return str(recipe.get("method", "fleximmt")) + ending


def _scene_item(
    name: str,
    found: Sequence[tuple[str, Path, dict[str, Any]]],
    every: set[str],
    reference: Callable[[str], Path | None],
) -> SourceItem:
    labels = [label for label, _, _ in found]
    recipe = found[0][2]
    caption = recipe["prompt"]
    if len(set(labels)) < len(labels):
        raise RequestError(
            f'two results of "{caption}" are both called {labels[0]}; leave one out, or name them '
            "with NAME=FOLDER"
        )
    if set(labels) != every:
        lacking = ", ".join(sorted(every - set(labels)))
        raise RequestError(f'"{caption}" was not made with {lacking}; make it, or leave it out')
    clips = {motion: reference(motion) for motion in _motions(recipe) if motion}
    if not clips or None in clips.values():
        missing = ", ".join(motion for motion, clip in clips.items() if clip is None)
        raise RequestError(
            f'"{caption}" has no reference clip to show for {missing or "any object"}; '
            "its motion needs a preview"
        )
    return SourceItem(
        name=name,
        caption=caption,
        first_frame=decode_data_uri(recipe["request"]["image"]),
        references=tuple(clip for clip in clips.values() if clip is not None),
        videos={label: video for label, video, _ in found},
    )
