"""What is asked for when a motion is to be learned, and of which clips.

What a person asks for when a motion is to be learned, as plain JSON for a job and back.

What of a reference clip counts: a span of time, a part of the picture, and who moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.errors import MediaError, RequestError
from motion_app.media.files import Clip, read_clip
from motion_app.methods import LEARNED
from motion_app.scene import Motion
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.training.config import ClipTraining, LoraTraining, MotionTraining, SynMotionTraining

MOST_STEPS = 20_000
MOST_LETTERS = 240
SMALLEST_SIDE = 16  # px of a crop; less is a slip of the hand, and too little to learn from


@dataclass(frozen=True)
class TrainingInputs:
    """One motion to learn: its ``name``, the words of its caption "A {noun} {phrase}.", the clips
    and what of them counts. ``steps`` None is the checkpoint's own; ``validate_every`` None shows
    no video on the way. ``still``: the motion is to stand still. RequestError for what cannot be
    learned."""

    name: str
    phrase: str
    noun: str
    clips: tuple[ClipSelection, ...]
    method: str = "fleximmt"
    steps: int | None = None
    validate_every: int | None = None
    still: bool = False

    def __post_init__(self) -> None:
        for key in ("name", "phrase", "noun"):
            text = getattr(self, key)
            if not isinstance(text, str) or not text.strip() or len(text) > MOST_LETTERS:
                raise RequestError(
                    f"the {key} of the motion is {str(text)[:40]!r}; write 1 to {MOST_LETTERS} "
                    "characters"
                )
        if self.method not in LEARNED:
            raise RequestError(
                f'unknown method "{str(self.method)[:40]}"; choose one of {", ".join(LEARNED)}'
            )
        for key in ("steps", "validate_every"):
            count = getattr(self, key)
            if count is not None and not (type(count) is int and 1 <= count <= MOST_STEPS):
                raise RequestError(
                    f"{key} is {count}; it must be a whole number from 1 to {MOST_STEPS}"
                )
        if not self.clips:
            raise RequestError("no reference clip came; give at least one")
        pointed = sum(clip.mover is not None for clip in self.clips)
        if pointed not in (0, len(self.clips)):
            raise RequestError(
                f"the moving thing is pointed at in {pointed} of {len(self.clips)} clips; point at "
                "it in every clip or in none"
            )

    def awaited(self) -> Motion:
        """The motion as it can be named before it is learned: of no file, and of no model yet."""
        name, phrase, noun = self.name.strip(), self.phrase.strip(), self.noun.strip()
        return Motion(name, phrase, Path(), "", method=self.method, noun=noun)

    def check_count(self, limits: Limits = DEFAULT_LIMITS) -> None:
        """RequestError for more clips than this deployment takes."""
        if len(self.clips) > limits.reference_clips:
            raise RequestError(
                f"{len(self.clips)} clips came; at most {limits.reference_clips} are allowed"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; files by their names, one entry per clip in ``clips``, ``trim`` ([start,
        stop]), ``crop`` and ``mover``."""
        return {
            "name": self.name,
            "phrase": self.phrase,
            "noun": self.noun,
            "method": self.method,
            "steps": self.steps,
            "validate_every": self.validate_every,
            "still": self.still,
            "clips": [clip.file.name for clip in self.clips],
            "trim": [[clip.start, clip.stop] for clip in self.clips],
            "crop": [None if clip.box is None else list(clip.box) for clip in self.clips],
            "mover": [None if clip.mover is None else list(clip.mover) for clip in self.clips],
        }

    @classmethod
    def from_json(cls, entries: Mapping[str, Any], folder: Path) -> TrainingInputs:
        """Read back ``to_json``, the clips being in ``folder``; RequestError for another form."""
        missing = [key for key in ("name", "phrase", "noun", "clips") if key not in entries]
        if missing:
            raise RequestError(f"the training lacks {', '.join(missing)}; give all of them")
        files = entries["clips"]
        if not isinstance(files, (list, tuple)):
            raise RequestError(f"clips must be a list of file names, got {str(files)[:40]}")
        columns = [_column(entries, key, len(files)) for key in ("trim", "crop", "mover")]
        clips = tuple(
            _selection(file, trim, crop, mover, folder)
            for file, trim, crop, mover in zip(files, *columns, strict=True)
        )
        return cls(
            **{key: entries[key] for key in ("name", "phrase", "noun")},
            clips=clips,
            method=entries.get("method") or "fleximmt",
            steps=entries.get("steps"),
            validate_every=entries.get("validate_every"),
            still=bool(entries.get("still")),
        )

    def config(self, defaults: Mapping[str, Any], **given: Any) -> ClipTraining:
        """The settings of the training, over the checkpoint's own ``defaults`` for the method;
        ``given`` are settings of the method beyond what is asked here."""
        chosen = {
            "name": self.name.strip(),
            "phrase": self.phrase.strip(),
            "noun": self.noun.strip(),
            "steps": self.steps,
            "validate_every": self.validate_every,
            **given,
        }
        return training_config(self.method, defaults, **chosen)


def training_config(method: str, defaults: Mapping[str, Any], **given: Any) -> ClipTraining:
    """The settings of a training by ``method``: a checkpoint's own ``defaults`` under what is
    ``given``, of which None means not given."""
    for kind in (SynMotionTraining, LoraTraining):
        if method == kind.method:
            return kind.for_checkpoint(defaults, **given)
    return MotionTraining.by(method, defaults, **given)


def _column(entries: Mapping[str, Any], key: str, count: int) -> list[Any]:
    column = entries.get(key)
    if column is None:
        return [None] * count
    if not isinstance(column, (list, tuple)) or len(column) != count:
        raise RequestError(f"{key} must have one entry for each of the {count} clips")
    return list(column)


def _selection(file: Any, trim: Any, crop: Any, mover: Any, folder: Path) -> ClipSelection:
    span = [None, None] if trim is None else trim
    if not isinstance(span, (list, tuple)) or len(span) != 2:
        raise RequestError(f"trim must be [start, stop] in seconds, got {str(trim)[:40]}")
    entry = {"file": file, "start": span[0], "stop": span[1], "box": crop, "mover": mover}
    return ClipSelection.from_json(entry, folder)


@dataclass(frozen=True)
class ClipSelection:
    """A clip's ``file`` and what of it counts.

    ``start`` and ``stop``: seconds, None for the end. ``box``: (x0, y0, x1, y1) and ``mover``:
    (x, y), a point on the moving thing in the first frame after ``start``; both are shares, 0 to
    1, of the whole upright picture from its upper left, so that they hold at every size.
    """

    file: Path
    start: float = 0.0
    stop: float | None = None
    box: tuple[float, float, float, float] | None = None
    mover: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check_span(self.file.name, self.start, self.stop)
        if self.box is not None:
            _check_box(self.file.name, self.box)
        if self.mover is not None:
            _check_mover(self.file.name, self.mover, self.box)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the file by its name alone."""
        return {**asdict(self), "file": self.file.name}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], folder: Path) -> ClipSelection:
        """Read back ``to_json``, the file being in ``folder``; RequestError for another form."""
        try:
            box, mover, stop = entry.get("box"), entry.get("mover"), entry.get("stop")
            return cls(
                folder / Path(str(entry["file"])).name,
                start=float(entry.get("start") or 0.0),
                stop=None if stop is None else float(stop),
                box=None if box is None else _numbers(box, 4),
                mover=None if mover is None else _numbers(mover, 2),
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise RequestError(
                f"a clip must be {{file, start, stop, box, mover}}, got {str(entry)[:80]}"
            ) from error


def _numbers(values: Any, count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count:
        raise ValueError(f"{count} numbers expected")
    return numbers


def _check_span(name: str, start: float, stop: float | None) -> None:
    if not (math.isfinite(start) and start >= 0):
        raise RequestError(f"{name} shall start at {start} s; give 0 or more")
    if stop is not None and not (math.isfinite(stop) and stop > start):
        raise RequestError(
            f"{name} shall stop at {stop:g} s but starts at {start:g} s; stop it later"
        )


def _check_box(name: str, box: tuple[float, float, float, float]) -> None:
    x0, y0, x1, y1 = box
    if not (all(map(math.isfinite, box)) and 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        numbers = ", ".join(f"{side:g}" for side in box)
        raise RequestError(
            f"the box of {name} is ({numbers}); it is x0, y0, x1, y1 as shares of width and "
            "height, each from 0 to 1, with x0 < x1 and y0 < y1"
        )


def _check_mover(
    name: str, mover: tuple[float, float], box: tuple[float, float, float, float] | None
) -> None:
    x, y = mover
    x0, y0, x1, y1 = box or (0.0, 0.0, 1.0, 1.0)
    if not (all(map(math.isfinite, mover)) and x0 <= x < x1 and y0 <= y < y1):
        where = "inside its box, " if box is not None else ""
        raise RequestError(
            f"the mover of {name} is at ({x:g}, {y:g}); it must lie {where}between ({x0:g}, {y0:g})"
            f" and ({x1:g}, {y1:g}), as shares of width and height"
        )


@dataclass(frozen=True, eq=False)
class SelectedClip:
    """``clip`` holds the selected part alone; ``mover`` (x, y) in its pixels, None where nobody was
    pointed at."""

    clip: Clip
    mover: tuple[float, float] | None = None


def read_selection(
    selection: ClipSelection, *, fps: float, limits: Limits = DEFAULT_LIMITS
) -> SelectedClip:
    """The clip at ``fps`` frames per second, trimmed and cropped; MediaError as ``read_clip``."""
    return select(read_clip(selection.file, fps=fps, limits=limits), selection)


def select(clip: Clip, selection: ClipSelection) -> SelectedClip:
    """Exactly the frames with ``start`` <= i / fps < ``stop`` and the pixels inside the box, whose
    sides are rounded to whole pixels. MediaError where nothing is left."""
    name = selection.file.name
    seconds = len(clip.frames) / clip.fps
    first = _ticks(selection.start, clip.fps)
    last = len(clip.frames) if selection.stop is None else _ticks(selection.stop, clip.fps)
    frames = clip.frames[first:last]  # (T', H0, W0, 3)
    if not len(frames):
        raise MediaError(
            f"nothing of {name} is left from {selection.start:g} s on: it is {seconds:.1f} s long; "
            "trim it less"
        )
    height, width = frames.shape[1:3]
    x0, y0, x1, y1 = 0, 0, width, height
    if selection.box is not None:
        sides = zip(selection.box, (width, height, width, height), strict=True)
        x0, y0, x1, y1 = (round(share * size) for share, size in sides)
        if min(x1 - x0, y1 - y0) < SMALLEST_SIDE:
            raise MediaError(
                f"the box of {name} is {x1 - x0}×{y1 - y0} pixels; draw it at least "
                f"{SMALLEST_SIDE} wide and high"
            )
    cropped = Clip(np.ascontiguousarray(frames[:, y0:y1, x0:x1]), clip.fps)
    if selection.mover is None:
        return SelectedClip(cropped)
    x = min(max(selection.mover[0] * width - x0, 0.0), x1 - x0 - 1.0)
    y = min(max(selection.mover[1] * height - y0, 0.0), y1 - y0 - 1.0)
    return SelectedClip(cropped, (x, y))


def _ticks(seconds: float, fps: float) -> int:
    """The first i with i / fps >= seconds; a rounding error does not skip one."""
    return math.ceil(seconds * fps - 1e-6)
