"""Motions that objects are to have and that are still to be learned, from a clip each: as far as a
person has described them, as a job learns them, and once they are learned. No gradio here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from motion_app.errors import MotionFileError, RequestError
from motion_app.geometry import ModelGeometry
from motion_app.library.library import Library
from motion_app.methods import ENCODED, METHOD_TABLE, WAYS
from motion_app.scene import Motion
from motion_app.settings import Limits
from motion_app.training.inputs import ClipSelection, TrainingInputs
from motion_app.ui.motions.clips import DraftClip
from motion_app.wording import NEUTRAL_PHRASE

NOUN = "thing"  # what moves in a clip of which nothing is known, as in ``ClipTraining``
LONGEST_WORDS = 80  # letters of a field
FIELDS = ("name", "noun", "phrase")
SLACK_SECONDS = 2.0  # a motion's file tells whole seconds


@dataclass(frozen=True)
class ClipLook:
    """What the motion encoder saw of a lesson's clip, in ``seconds``: ``picture``, the address of
    frames with the mover marked. "" where it could not tell what moves."""

    picture: str
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class SceneLesson:
    """What is to be learned: the ``clip`` with what is chosen of it, and what stands in the fields.
    ``steps`` None is the checkpoint's own number for ``method``, one of WAYS. ``look``: what the
    motion encoder saw, None before. ``made``: unix seconds; the motion that comes of it is
    younger."""

    clip: DraftClip
    name: str
    noun: str = NOUN
    phrase: str = NEUTRAL_PHRASE
    steps: int | None = None
    method: str = WAYS[0]
    look: ClipLook | None = None
    made: float = field(default_factory=time.time)

    @property
    def motion(self) -> Motion:
        """The motion as it can be named before it is learned: of no file, and of no model yet."""
        phrase = self.phrase.strip() or NEUTRAL_PHRASE
        return Motion(self.name.strip(), phrase, Path(), "", noun=self.noun.strip())

    def inputs(self) -> TrainingInputs:
        """What the job learns; RequestError for what cannot be learned."""
        return TrainingInputs(
            name=self.name.strip(),
            phrase=self.phrase.strip(),
            noun=self.noun.strip(),
            clips=(self.clip.selection,),
            method=self.method,
            steps=self.steps,
        )

    def same_as(self, other: SceneLesson) -> bool:
        """Whether one training gives the motion of both: of one part of one clip, in one word."""
        aside: dict[str, Any] = {"made": 0, "look": None}
        return self.to_json() | aside == other.to_json() | aside

    def learned_by(self, method: str) -> SceneLesson:
        """By another of WAYS; RequestError for any other."""
        if method not in WAYS:
            raise RequestError(
                f'"{method[:40]}" is no way to learn a motion; choose one of {", ".join(WAYS)}'
            )
        return self if method == self.method else replace(self, method=method)

    @property
    def ready(self) -> bool:
        """Nothing is left to be learned: one look was enough, and it was taken."""
        return self.method == ENCODED and self.look is not None and bool(self.look.picture)

    def worded(self, name: str, text: str) -> SceneLesson:
        """Another ``name``, ``noun`` or ``phrase``; the same where it is what it was."""
        text = " ".join(text.split())
        return self if text == getattr(self, name) else replace(self, **{name: text})

    def problems(
        self, library: Library, others: Sequence[SceneLesson], geometry: ModelGeometry
    ) -> dict[str, str]:
        """What is wrong, by the field it stands beside: the key of a text, "" for none. ``others``:
        the lessons of the same scene's other objects, of which some may be this one."""
        wrong = {name: "transfer.lesson_empty" for name in FIELDS if not getattr(self, name)}
        start, stop = self.clip.span
        if not self.clip.selection.file.is_file():
            wrong["clip"] = "transfer.lesson_gone"
        elif not self.clip.moving:
            wrong["clip"] = "transfer.lesson_still"
        elif stop - start < geometry.frames:
            wrong["clip"] = "transfer.lesson_short"
        elif METHOD_TABLE[self.method].encoder and self.look and not self.look.picture:
            wrong["clip"] = "transfer.lesson_unseen"
        if self.name and any(
            self.name == other.name and not self.same_as(other) for other in others
        ):
            wrong["name"] = "transfer.lesson_twice"
        elif self.name:
            try:
                library.new_path(self.name)
            except MotionFileError:
                wrong["name"] = "transfer.lesson_taken"
        return wrong

    def learned(self, library: Library) -> Motion | None:
        """The motion that came of it, whichever job learned it; None before."""
        words = tuple(getattr(self, name) for name in FIELDS)
        for motion in library.list():
            alike = (motion.name, motion.noun, motion.phrase) == words
            if alike and motion.created and _seconds(motion.created) > self.made - SLACK_SECONDS:
                return motion
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the clip by its file's name."""
        words = {name: getattr(self, name) for name in (*FIELDS, "steps", "method", "made")}
        look = None if self.look is None else asdict(self.look)
        clip = {"called": self.clip.name, "clip": self.clip.selection.to_json()}
        return {**words, "look": look, **clip}

    @classmethod
    def from_json(
        cls, entries: Mapping[str, Any], folder: Path, geometry: ModelGeometry, limits: Limits
    ) -> SceneLesson:
        """Read back ``to_json``, the clip being in ``folder``; it is decoded again. Raises
        MediaError and RequestError."""
        selection = ClipSelection.from_json(entries["clip"], folder)
        clip = DraftClip.read(selection.file, geometry, limits, name=str(entries["called"]))
        words = {name: entries[name] for name in (*FIELDS, "steps", "made")}
        look = entries.get("look") and ClipLook(**entries["look"])
        kept = cls(replace(clip, selection=selection), look=look, **words)
        return kept.learned_by(str(entries.get("method", kept.method)))


def free_name(library: Library, others: Sequence[SceneLesson], name: str) -> str:
    """``name``, or with a number behind it that makes it no motion's and no other lesson's."""
    return library.free_name(name, besides={other.name for other in others})


def _seconds(created: str) -> float:
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0


def asked_of_job(lessons: Sequence[SceneLesson]) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """What a job of the kind "generate" is told of them, and the clips' files by their names.
    RequestError for a clip that is not there any more."""
    asked, files = [], {}
    for lesson in lessons:
        inputs = lesson.inputs()
        for clip in inputs.clips:
            if not clip.file.is_file():
                raise RequestError(
                    f"the clip {lesson.clip.name} is not on the server any more; give it again"
                )
            files[clip.file.name] = clip.file
        asked.append(inputs.to_json())
    return asked, files
