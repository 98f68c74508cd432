"""What a person does to a motion that is still to be learned: brings a clip, trims, crops and
points, writes its words."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from motion_app.errors import CheckpointError, MediaError, RequestError
from motion_app.host import ModelHost
from motion_app.jobs import runners
from motion_app.library.library import Library
from motion_app.library.motion_clip import MotionClip
from motion_app.media.files import upscale
from motion_app.methods import ENCODED, REFINED
from motion_app.scene import Click
from motion_app.training.inputs import ClipSelection
from motion_app.training.suggestion import name_from
from motion_app.ui.api.files import let_go, received
from motion_app.ui.motions.clips import DraftClip
from motion_app.ui.pictures import display_size, draw_objects, enlarge_masks, picture_uri
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.lessons import (
    FIELDS,
    LONGEST_WORDS,
    NOUN,
    ClipLook,
    SceneLesson,
    free_name,
)
from motion_app.ui.transfer.object_draft import ObjectDraft
from motion_app.ui.transfer.session import Action, Session
from motion_app.wording import NEUTRAL_PHRASE
from motion_app.world.clips import ExampleClip

logger = logging.getLogger(__name__)
MARKED, MARKED_HEIGHT = 3, 96  # frames of a clip that was looked at, and their height in px
MOMENT_SECONDS = 1.0  # how long a look at a clip waits for the device
METHOD = "method"  # what is chosen of a lesson besides its words
Values = Mapping[str, Any]
KeepClip = Callable[[str, Path, str], Path]  # of an owner, an upload, what it is called


@dataclass(frozen=True, eq=False)
class ReadClip:
    """A clip that was decoded for the object of this ``key``; ``name``, ``noun`` and ``phrase`` as
    far as they are known."""

    key: int
    clip: DraftClip
    name: str = ""
    noun: str = NOUN
    phrase: str = NEUTRAL_PHRASE
    look: ClipLook | None = None


class LessonActions:
    """``read``, ``pointed`` and ``look`` take their time and want no lock; the rest changes a
    draft."""

    def __init__(
        self, host: ModelHost, keep_clip: KeepClip, examples: Sequence[ExampleClip] = ()
    ) -> None:
        self.examples = {clip.name: clip for clip in examples}
        self.host, self.limits = host, host.settings.limits
        self._keep_clip = keep_clip

    def begin(self, session: Session, values: Values) -> Callable[[], None]:
        """A clip that is brought, or pointed at, is read and looked at now; what is returned gives
        it to its object, and wants the session's lock."""
        kind, draft = values["kind"], session.scene()
        bring = kind != "clip_point"
        change = self.teach if bring else self.with_clip
        if kind == "clip_point":
            read = self.pointed(draft, values)
        elif kind == "clip_example":
            read = self.read_example(session.owner, draft, values)
        else:
            read = self.read(session.owner, draft, values)
        read = self.looked(draft, read)

        def end() -> None:
            draft, index = change(session.scene(), read)
            key = "transfer.did_clip" if bring else "transfer.did_clip_choose"
            session.put(draft, Action(key, {"number": index + 1}))

        return end

    def read(self, owner: str, draft: SceneDraft, values: Values) -> ReadClip:
        """The uploaded clip for an object of ``draft``, at its liveliest part and cropped to what
        moves. Raises MediaError, and RequestError where nothing is learned here."""
        self.check_enabled()
        upload = received({"path": values.get("path")}, most_megabytes=self.limits.clip_megabytes)
        item = draft.objects[self._index(draft, values)]
        name = str(values.get("name") or upload.name)[:LONGEST_WORDS]
        try:
            clip = DraftClip.read(
                upload, self.host.geometry(), self.limits, name=name, suggest=True
            )
        except MediaError as error:  # the name it was uploaded under is the page's own
            raise MediaError(str(error).replace(upload.name, name)) from error
        kept = replace(clip.selection, file=self._keep_clip(owner, upload, name))
        let_go(upload)  # a page uploads it for this alone, under a name of its own
        return ReadClip(item.key, replace(clip, selection=kept))

    def read_example(self, owner: str, draft: SceneDraft, values: Values) -> ReadClip:
        """As ``read``, for a clip that ships with the app."""
        self.check_enabled()
        example = self.examples.get(str(values.get("name")))
        if example is None:
            raise RequestError("that clip is not there any more; reload the page")
        item = draft.objects[self._index(draft, values)]
        file, geometry = example.file, self.host.geometry()
        clip = DraftClip.read(file, geometry, self.limits, suggest=True)
        kept = replace(clip.selection, file=self._keep_clip(owner, file, file.name))
        words = (example.name, example.noun, example.phrase)
        return ReadClip(item.key, replace(clip, selection=kept), *words)

    def check_enabled(self) -> None:
        """RequestError where nothing is learned here."""
        if not self.host.learns:
            raise RequestError(self.host.no_training or runners.TURNED_OFF)

    def teach(self, draft: SceneDraft, read: ReadClip) -> tuple[SceneDraft, int]:
        """Its object is to have the motion of the clip; and which that is. What another object
        learns from the same clip is this one's too. RequestError where it was deleted meanwhile."""
        index = self._index(draft, {"object": read.key})
        others = _besides(draft, index)
        file = read.clip.selection.file
        known = next((other for other in others if other.clip.selection.file == file), None)
        if known is not None:
            lesson = replace(known, clip=replace(read.clip, selection=known.clip.selection))
        else:
            name = free_name(self.host.library, others, read.name or name_from(read.clip.name))
            lesson = SceneLesson(read.clip, name, read.noun, read.phrase, look=read.look)
            if self.host.has_encoder:  # which is quick, and a press away from the others
                lesson = lesson.learned_by(ENCODED)
        return draft.changed(index, lambda item: item.taught(lesson)), index

    def looked(self, draft: SceneDraft, read: ReadClip) -> ReadClip:
        """With what the motion encoder sees of the clip; as it is where there is none, and where it
        has no time: the job that needs the motion looks then."""
        index = next((k for k, one in enumerate(draft.objects) if one.key == read.key), None)
        if not self.host.looks or index is None:
            return read
        try:
            answer = self.look(read.clip.selection)
        except (MediaError, RequestError) as error:
            logger.info("nothing is seen of a clip: %s", error)
            return replace(read, look=ClipLook(""))
        except CheckpointError as error:  # which the job will tell
            logger.warning("no clip is looked at: %s", error)
            return read
        if answer is None:
            return read
        seen, seconds = answer
        picture = picture_uri(marked_frames(seen, draft.objects[index].slot))
        return replace(read, look=ClipLook(picture, seconds))

    def look(self, selection: ClipSelection) -> tuple[MotionClip, float] | None:
        """What the motion encoder saw of a clip, which is kept for who asks for its motion, and the
        seconds that took. None while the model is loading, or at work for longer than a moment on
        something else. Raises as ``look_at_selection``."""
        engine = self.host.wait_for_engine(0.0)
        if engine is None:
            return None
        from motion_app.training.seen_clips import look_at_selection  # torch comes with it

        with self.host.lock.ticket() as ticket:
            if not ticket.wait(MOMENT_SECONDS):
                return None
            began = time.perf_counter()
            seen = look_at_selection(selection, engine, self._mark)
            self.host.look_seconds = time.perf_counter() - began
        return seen, self.host.look_seconds

    def _mark(self, frame: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
        return self.host.segmenter().segment(frame, clicks).mask

    def with_look(self, draft: SceneDraft, read: ReadClip) -> SceneDraft:
        """All objects whose motion comes of just that part of the clip know what was seen."""
        for index, item in enumerate(draft.objects):
            lesson = item.lesson
            if lesson is not None and lesson.clip.selection == read.clip.selection:
                told = replace(lesson, look=read.look)
                draft = draft.changed(index, lambda one, told=told: replace(one, lesson=told))
        return draft

    def chosen(self, draft: SceneDraft, values: Values) -> ReadClip:
        """The clip of an object as it is after a choice."""
        item = draft.objects[self._index(draft, values)]
        return ReadClip(item.key, self._lesson(item).clip)

    def pointed(self, draft: SceneDraft, values: Values) -> ReadClip:
        """The clip of an object, cropped to what moves where a person pointed."""
        item = draft.objects[self._index(draft, values)]
        lesson = self._lesson(item)
        clip = lesson.clip.pointed(_entry(values), self.host.geometry(), self.limits)
        return ReadClip(item.key, clip)

    def with_clip(self, draft: SceneDraft, read: ReadClip) -> tuple[SceneDraft, int]:
        """What was chosen of an object's clip."""
        index = self._index(draft, {"object": read.key})
        return self._cut(draft, index, read.clip, read.look), index

    def choose(self, draft: SceneDraft, index: int, values: Values) -> SceneDraft:
        """What was trimmed, cropped or pointed at in an object's clip."""
        return self._cut(
            draft, index, self._lesson(draft.objects[index]).clip.chosen(_entry(values))
        )

    def write(self, draft: SceneDraft, index: int, values: Values) -> SceneDraft:
        """The text of one of FIELDS, or the method, for all objects that are to have the motion."""
        name = str(values["kind"]).removeprefix("lesson_")
        text = str(values.get("text") or "")[:LONGEST_WORDS]
        if name not in (*FIELDS, METHOD):
            raise RequestError(f"a lesson has no {name[:40]}; reload the page")
        if name == METHOD and not self.host.has_encoder:
            raise RequestError("this model has no motion encoder; reload the page")
        lesson = self._lesson(draft.objects[index])
        for place, item in enumerate(draft.objects):
            if item.lesson is not None and item.lesson.same_as(lesson):
                one = item.lesson
                changed = one.learned_by(text) if name == METHOD else one.worded(name, text)
                draft = draft.changed(place, lambda one, changed=changed: one.taught(changed))
        return draft

    def refine(self, draft: SceneDraft, index: int, values: Values) -> SceneDraft:
        """The motion of an object that one look gave is to be refined, as a motion of its own; for
        all objects that have it."""
        item = draft.objects[index]
        if item.looked is None or item.motion is None or not self.host.has_encoder:
            raise RequestError("this motion cannot be refined any more; bring its clip again")
        others = [one.lesson for one in draft.objects if one.lesson is not None]
        name = free_name(self.host.library, others, f"{item.motion.name} refined")
        told = replace(item.looked, name=name, made=time.time()).learned_by(REFINED)
        for place, one in enumerate(draft.objects):
            if one.looked is not None and one.motion == item.motion:
                lesson = replace(told, clip=one.looked.clip)
                draft = draft.changed(place, lambda one, lesson=lesson: one.taught(lesson))
        return draft

    def problems(self, draft: SceneDraft) -> list[dict[str, str]]:
        """For every object what is wrong with what it is to learn, by field."""
        library, geometry = self.host.library, self.host.geometry()
        return [_wrong(item, draft.objects, library, geometry) for item in draft.objects]

    def _cut(
        self, draft: SceneDraft, index: int, clip: DraftClip, look: ClipLook | None = None
    ) -> SceneDraft:
        """Another part of an object's clip. It is a motion of its own from then on, under a name of
        its own: other objects go on with what they had of the clip."""
        lesson = replace(self._lesson(draft.objects[index]), clip=clip, look=look)
        others = [other for other in _besides(draft, index) if not other.same_as(lesson)]
        if any(other.name == lesson.name for other in others):
            lesson = replace(lesson, name=free_name(self.host.library, others, lesson.name))
        return draft.changed(index, lambda item: item.taught(lesson))

    @staticmethod
    def _lesson(item: ObjectDraft) -> SceneLesson:
        if item.lesson is None:
            raise RequestError("this motion is not to be learned any more; reload the page")
        return item.lesson

    @staticmethod
    def _index(draft: SceneDraft, values: Values) -> int:
        keys = [str(item.key) for item in draft.objects]
        if str(values.get("object")) not in keys:
            raise RequestError("the object that was to learn from it is gone; mark it again")
        return keys.index(str(values["object"]))


def _besides(draft: SceneDraft, index: int) -> list[SceneLesson]:
    """What the other objects of a scene have still to learn."""
    objects = (*draft.objects[:index], *draft.objects[index + 1 :])
    return [item.lesson for item in objects if item.lesson is not None]


def marked_frames(clip: MotionClip, slot: int) -> np.ndarray:
    """Frames of ``clip`` side by side, from its first to its last, with what moves in them in the
    colour of ``slot``: (H, MARKED · W, 3) uint8."""
    places = np.linspace(0, len(clip.frames) - 1, MARKED).round().astype(int)
    width, height = display_size(*clip.frames.shape[1:3])
    size = (round(width * MARKED_HEIGHT / height), MARKED_HEIGHT)
    drawn = [
        draw_objects(
            upscale(clip.frames[t : t + 1], *size)[0],
            enlarge_masks(clip.masks[t : t + 1], *size),
            [slot],
            numbered=False,
        )
        for t in places
    ]
    return np.concatenate(drawn, axis=1)


def _entry(values: Values) -> dict[str, Any]:
    return {name: values.get(name) for name in ("start", "stop", "box", "mover")}


def _wrong(
    item: ObjectDraft, objects: Sequence[ObjectDraft], library: Library, geometry: Any
) -> dict[str, str]:
    if item.lesson is None:
        return {}
    others = [one.lesson for one in objects if one is not item and one.lesson is not None]
    return item.lesson.problems(library, others, geometry)
