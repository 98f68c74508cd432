"""What a person asks for when a motion is to be learned, as plain JSON for a job and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motion_app.errors import RequestError
from motion_app.settings import DEFAULT_LIMITS, Limits
from motion_app.training.config import ClipTraining, MotionTraining
from motion_app.training.selection import ClipSelection
from motion_app.training.synmotion_config import SynMotionTraining

# Method → who sees the tokens while they are learned (None: the checkpoint's own way).
METHODS: Mapping[str, str | None] = {"fleximmt": None, "concat": "none", "synmotion": None}
MOST_STEPS = 20_000
MOST_LETTERS = 240


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
        if self.method not in METHODS:
            raise RequestError(
                f'unknown method "{str(self.method)[:40]}"; choose one of {", ".join(METHODS)}'
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
        if self.method == "synmotion":
            return SynMotionTraining.for_checkpoint(defaults, **chosen)
        return MotionTraining.for_checkpoint(defaults, mask=METHODS[self.method], **chosen)


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
