"""The pictures that come with the app, and what is on them.

An example is ``NAME.png`` beside ``NAME.json``::

    {"title": "A robot and a cat", "objects": [{"noun": "red robot", "box": [x0, y0, x1, y1]}]}

with boxes in pixels of that picture. The nouns pre-fill the sentences of what a person clicks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion_app.errors import MediaError, MotionAppError
from motion_app.media.files import read_image
from motion_app.text_files import listed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedBox:
    """A thing on a picture: ``box`` (x0, y0, x1, y1) in its pixels."""

    noun: str
    box: tuple[float, float, float, float]

    @property
    def area(self) -> float:
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)

    def holds(self, x: float, y: float) -> bool:
        x0, y0, x1, y1 = self.box
        return x0 <= x <= x1 and y0 <= y <= y1


@dataclass(frozen=True, eq=False)
class Example:
    """``name`` is the file's stem; ``picture`` (H, W, 3) uint8."""

    name: str
    title: str
    picture: np.ndarray
    objects: tuple[NamedBox, ...]

    @property
    def description(self) -> str:
        """What is on the picture, for those who do not see it."""
        nouns = " and ".join(item.noun for item in self.objects)
        return f"{self.title}: {nouns}" if nouns else self.title


def noun_at(objects: Sequence[NamedBox], x: float, y: float) -> str:
    """The noun of the smallest box around (x, y), in pixels of the picture; "" without one."""
    around = [item for item in objects if item.holds(x, y)]
    return min(around, key=lambda item: item.area).noun if around else ""


def load_examples(folder: Path | str) -> tuple[Example, ...]:
    """All examples of a folder in the order of their names; broken ones are logged and left out."""
    examples = []
    for path in listed(Path(folder), "*.png"):
        try:
            examples.append(load_example(path))
        except MotionAppError as error:
            logger.warning("example left out: %s", error)
    return tuple(examples)


def load_example(path: Path) -> Example:
    """One example; MediaError where the picture or its JSON cannot be used."""
    notes = path.with_suffix(".json")
    try:
        entries = json.loads(notes.read_text(encoding="utf-8-sig")) if notes.is_file() else {}
        objects = tuple(
            NamedBox(str(item["noun"]), tuple(float(side) for side in item["box"]))
            for item in entries.get("objects", ())
        )
        title = str(entries.get("title") or path.stem.replace("_", " ").capitalize())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MediaError(
            f'{notes.name} must hold {{"title", "objects": [{{"noun", "box"}}]}}: {error}'
        ) from error
    if any(len(item.box) != 4 for item in objects):
        raise MediaError(f'{notes.name}: every "box" needs x0, y0, x1, y1')
    return Example(path.stem, title, read_image(path), objects)
