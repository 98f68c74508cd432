"""A manifest: one job a line, as JSON, checked as a whole before anything runs.

    {"kind": "generate", "id": "fox-1", "image": "fox.png", "objects": [...], "seed": 1}
    {"kind": "generate", "request": "request.json", "seed": 2, "method": "concat"}
    {"kind": "train", "name": "hop", "phrase": "is hopping", "noun": "fox", "clips": ["hop.mp4"]}
    {"kind": "evaluate", "video": "fox.mp4", "request": "fox.recipe.json"}

Paths start from the manifest's folder, those inside a request file from that file's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motion_app.errors import MotionAppError, RequestError
from motion_app.jobs.content_keys import Ingredients
from motion_app.text_files import read_text, records

KINDS = ("generate", "train", "evaluate")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
KEY_LETTERS = 20  # of a key in a folder's name


@dataclass(frozen=True, eq=False)
class Item:
    """One line. ``entries`` is the line complete in itself, its paths absolute; ``key`` the sha256
    of everything its result is made from, file contents and model included."""

    id: str
    kind: str
    line: int
    key: str
    entries: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.id}.{self.key[:KEY_LETTERS]}"


def read_manifest(path: Path | str, ingredients: Ingredients) -> tuple[Item, ...]:
    """The items of a manifest, in its order. RequestError tells every line that cannot be run and
    why."""
    path = Path(path)
    written = list(records(read_text(path, f"the manifest {path.name}")))
    if not written:
        raise RequestError(f"the manifest {path.name} holds no job; write one JSON object a line")
    items: list[Item] = []
    faults: list[str] = []
    for number, text in written:
        try:
            items.append(_item(number, text, path.resolve().parent, ingredients))
        except MotionAppError as error:
            faults.append(f"line {number}: {error}")
        except OSError as error:
            name = Path(str(error.filename)).name
            faults.append(f"line {number}: {name} cannot be read: {error.strerror}")
    faults += _repeated(items)
    if faults:
        raise RequestError(
            f"{len(faults)} of {len(written)} lines of {path.name} cannot be run, so none was: "
            + "; ".join(faults)
        )
    return tuple(items)


def _item(number: int, text: str, folder: Path, ingredients: Ingredients) -> Item:
    entries = _object(text)
    kind, name = entries.pop("kind", None), entries.pop("id", None)
    if kind not in KINDS:
        shown = "is missing" if kind is None else f"is {str(kind)[:40]!r}"
        raise RequestError(f'"kind" {shown}; choose one of {", ".join(KINDS)}')
    if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
        raise RequestError(
            f'"id" is {str(name)[:40]!r}; it names a folder: 1 to 80 letters, digits, "-", "_" and '
            '".", the first a letter or digit'
        )
    prepared = ingredients.of(kind, entries, folder)
    return Item(name or f"{kind}-{prepared.key[:12]}", kind, number, prepared.key, prepared.entries)


def _object(text: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RequestError(f'the key "{twice}" is written twice; keep one')
        return dict(pairs)

    def refuse(word: str) -> None:
        raise RequestError(f"{word} is no number that JSON has; write a finite one")

    try:
        entries = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"this is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise RequestError(f"a job is one JSON object, got {type(entries).__name__}")
    return entries


def _repeated(items: Iterable[Item]) -> list[str]:
    """Two results cannot lie in one folder."""
    first: dict[str, Item] = {}
    faults = []
    for item in items:
        known = first.setdefault(item.id.lower(), item)
        if known is item:
            continue
        if known.key == item.key:
            faults.append(
                f"line {item.line}: it asks for the same as line {known.line}; leave it out, or "
                "give it an id of its own"
            )
        else:
            faults.append(
                f'line {item.line}: the id "{item.id}" is that of line {known.line}; choose another'
            )
    return faults


@dataclass(frozen=True)
class Shard:
    """Part ``number``, from 0, of ``count``: what one of several programs takes of a manifest."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise RequestError(
                f"the shard is {self.number}/{self.count}; the first number must lie between 0 and "
                f"{self.count - 1}"
            )

    def take(self, items: Iterable[Item]) -> tuple[Item, ...]:
        """Every ``count``-th item, so that long and short ones are spread alike."""
        return tuple(item for place, item in enumerate(items) if place % self.count == self.number)


def shard_of(text: str, environment: Mapping[str, str]) -> Shard:
    """ "3/20", or "env": what SLURM, accelerate, torchrun or SkyPilot say of this process.
    RequestError for anything else."""
    if text != "env":
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None:
            raise RequestError(f'the shard is "{text[:40]}"; write NUMBER/COUNT or env')
        return Shard(int(match[1]), int(match[2]))
    for number, count in (
        ("RANK", "WORLD_SIZE"),
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
        ("SLURM_PROCID", "SLURM_NTASKS"),
        ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
    ):
        if environment.get(number, "").isdigit() and environment.get(count, "").isdigit():
            first = environment.get("SLURM_ARRAY_TASK_MIN", "0") if "ARRAY" in number else "0"
            return Shard(int(environment[number]) - int(first), int(environment[count]))
    raise RequestError(
        "the shard is to come from the environment, which has none of RANK, SLURM_ARRAY_TASK_ID, "
        "SLURM_PROCID and SKYPILOT_NODE_RANK with its count; write NUMBER/COUNT"
    )
