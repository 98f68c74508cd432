"""What a study is made from: a folder of items, a CSV file, or results made in the app.

A folder holds one folder for each item: ``caption.txt``, ``first_frame.png`` (or .jpg, .webp),
``reference.mp4`` (or ``reference_1.mp4``, …) and a video for each method, named after it. A gold or
practice item of one's own has a folder that starts with ``gold-`` or ``practice-``, and
``answer.txt`` with the method that is right.

A CSV file has the columns item, caption, first_frame, references (with ; between), optionally kind
and answer, and one for each method; paths count from the file's own folder.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from motion_app.errors import RequestError
from motion_app.media import decode_data_uri
from motion_app.study.plan import Kind

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".gif")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
OWN_COLUMNS = ("item", "caption", "first_frame", "references", "kind", "answer")
KINDS = get_args(Kind)


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


def read_sources(path: Path | str) -> list[SourceItem]:
    """The items of a folder or a CSV file. RequestError names what is missing where."""
    path = Path(path)
    if path.is_dir():
        items = [_read_folder(folder) for folder in sorted(path.iterdir()) if folder.is_dir()]
    elif path.suffix.lower() == ".csv":
        items = _read_table(path)
    else:
        raise RequestError(f"{path} is neither a folder of items nor a .csv file; give one of them")
    if not items:
        raise RequestError(f"{path} holds no items; each is a folder, or a row of the CSV file")
    names = [item.name for item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RequestError(
            f'{names.count(twice[0])} items of {path.name} are called "{twice[0]}"; give each a '
            "name of its own"
        )
    return items


def _read_folder(folder: Path) -> SourceItem:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    clips = [file for file in files if file.suffix.lower() in VIDEOS]
    references = [file for file in clips if file.stem.startswith("reference")]
    pictures = [f for f in files if f.stem == "first_frame" and f.suffix.lower() in PICTURES]
    kind = next((name for name in KINDS if folder.name.startswith(name + "-")), "main")
    caption = folder / "caption.txt"
    for found, wanted in (
        (pictures, "a first_frame.png"),
        (references, "a reference.mp4"),
        (caption.is_file(), "a caption.txt"),
        (kind == "main" or (folder / "answer.txt").is_file(), "an answer.txt"),
    ):
        if not found:
            raise RequestError(f'the item "{folder.name}" has no {wanted[2:].strip()}; add one')
    videos = [file for file in clips if file not in references]
    _check_one_each(folder, pictures, by=lambda file: file.stem)
    _check_one_each(folder, videos, by=lambda file: file.stem)
    return SourceItem(
        name=folder.name,
        caption=_text(caption),
        first_frame=pictures[0],
        references=tuple(references),
        videos={file.stem: file for file in videos},
        kind=kind,
        answer=None if kind == "main" else _text(folder / "answer.txt"),
    )


def _check_one_each(folder: Path, files: Sequence[Path], by: Callable[[Path], str]) -> None:
    """RequestError where two files would stand for one thing: the second must not be lost."""
    first: dict[str, Path] = {}
    for file in files:
        other = first.setdefault(by(file), file)
        if other is not file:
            raise RequestError(
                f'the item "{folder.name}" has both {other.name} and {file.name}; keep one of '
                "them, or give the other a name of its own"
            )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} cannot be read as UTF-8 text: {error}") from error


def _read_table(path: Path) -> list[SourceItem]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    missing = [name for name in OWN_COLUMNS[:4] if name not in columns]
    if missing:
        raise RequestError(f"{path.name} has no column {', '.join(missing)}; add it")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise RequestError(
            f'{path.name} has the column "{twice[0]}" {columns.count(twice[0])} times; give each '
            "column a name of its own"
        )
    methods = [name for name in columns if name not in OWN_COLUMNS]
    return [_read_row(path, line, row, methods) for line, row in enumerate(rows, start=2)]


def _read_row(path: Path, line: int, row: Mapping[str, Any], methods: Sequence[str]) -> SourceItem:
    where = f"line {line} of {path.name}"
    if None in row or None in row.values():
        raise RequestError(f"{where} has not as many cells as the first line; quote commas")

    def file(column: str, text: str) -> Path:
        found = path.parent / text.strip()
        if not text.strip() or not found.is_file():
            raise RequestError(f'{where}, column {column}: there is no file "{text.strip()}"')
        return found

    kind = row.get("kind") or "main"
    if kind not in KINDS:
        raise RequestError(f'{where}: kind is one of {", ".join(KINDS)}, got "{kind}"')
    return SourceItem(
        name=row["item"].strip() or str(line),
        caption=row["caption"].strip(),
        first_frame=file("first_frame", row["first_frame"]),
        references=tuple(file("references", part) for part in row["references"].split(";")),
        videos={method: file(method, row[method]) for method in methods},
        kind=kind,
        answer=(row.get("answer") or "").strip() or None,
    )


@dataclass(frozen=True)
class ResultFolder:
    """A result made in the app: a folder with ``video.mp4`` and ``recipe.json``. ``label`` is the
    name it is compared under; None takes the recipe's method and ablations."""

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
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        recipe["request"]["image"], recipe["request"]["objects"], recipe["prompt"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder} is no result of this app: its recipe.json is missing or incomplete"
        ) from error
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
    without."""
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
