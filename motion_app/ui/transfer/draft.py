"""A picture, its objects and their motions as far as they are chosen. No gradio here.

``SceneDraft`` is frozen; every action of a person makes the next one from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motion_app.errors import RequestError
from motion_app.evaluation.metrics import mask_iou
from motion_app.geometry import CENTRE, FittedImage, ModelGeometry, fit_image
from motion_app.library.library import Library
from motion_app.media.files import PictureNote
from motion_app.request.paths import to_picture
from motion_app.request.phrases import phrase_spans
from motion_app.scene import (
    Box,
    Click,
    GenerationRequest,
    Motion,
    Options,
    SceneObject,
    prompt_of,
)
from motion_app.ui.transfer.lessons import SceneLesson
from motion_app.ui.transfer.object_draft import (
    LONGEST_NAME,
    NamedBox,
    ObjectDraft,
    Segment,
    Stroke,
    compose_sentence,
    framed_box,
    noun_at,
    path_of,
    refitted,
)
from motion_app.wording import NEUTRAL_PHRASE

if TYPE_CHECKING:
    from motion_app.models.words import FoundObject

SAME_SHARE = 0.6  # of what two masks cover together
FAR_SHARE = 0.04  # of the frame's diagonal: a mark so far from an object may mean another thing
EMPTY_GREY = 236  # where there is no picture
OWN_SHARE = 0.2  # of the smaller of two masks: with less in common they are two things


@dataclass(frozen=True, eq=False)
class Question:
    """A mark far from the selected object began a new one: was it more of that one? ``before``: the
    draft it was made on, ``mark`` the click or the box."""

    before: SceneDraft
    mark: Click | Box

    @property
    def index(self) -> int:
        """The object that was selected."""
        return self.before.selected


@dataclass(frozen=True, eq=False)
class SceneDraft:
    """``picture`` (H0, W0, 3) uint8 as it came, ``fitted`` the same in the model frame.

    ``selected``: the object the next click refines, None where it begins a new one; ``named``: what
    is known to be on the picture; ``prompt``: the whole prompt where it was edited, None where it
    is composed of the objects' sentences; ``notes``: what had to be done to the picture;
    ``question``: what the last mark leaves open. ``from_words``: there is no picture but an empty
    frame, in which the one object is everywhere.
    """

    picture: np.ndarray
    fitted: FittedImage
    named: tuple[NamedBox, ...] = ()
    objects: tuple[ObjectDraft, ...] = ()
    selected: int | None = None
    prompt: str | None = None
    notes: tuple[PictureNote, ...] = ()
    question: Question | None = None
    from_words: bool = False

    @classmethod
    def of(
        cls,
        picture: np.ndarray,
        fit: str,
        geometry: ModelGeometry,
        named: Sequence[NamedBox] = (),
    ) -> SceneDraft:
        fitted = fit_image(picture, geometry.height, geometry.width, fit)
        return cls(picture=picture, fitted=fitted, named=tuple(named))

    @classmethod
    def of_words(cls, geometry: ModelGeometry, sentence: str = "") -> SceneDraft:
        """Of a video from words alone."""
        whole = np.ones((geometry.height, geometry.width), bool)
        frame = np.full((*whole.shape, 3), EMPTY_GREY, np.uint8)
        sentence = sentence or compose_sentence("", NEUTRAL_PHRASE)
        thing = ObjectDraft(0, 0, whole, whole, sentence=sentence)
        return cls(frame, fit_image(frame, *whole.shape), objects=(thing,), from_words=True)

    @classmethod
    def of_request(cls, request: GenerationRequest, geometry: ModelGeometry) -> SceneDraft:
        """The draft that ``request_of`` makes this request of. The picture is the fitted one:
        a request has no other."""
        if request.image is None and not request.objects:
            return cls.of_words(geometry, request.full_prompt())
        objects = tuple(
            ObjectDraft(
                *(key, key, item.mask, item.mask),
                name=item.name,
                motion=item.motion,
                sentence=item.sentence,
                strength=item.strength,
                wording=_wording(item),
                path=item.path,
            )
            for key, item in enumerate(request.objects)
        )
        if request.image is None:
            bare = cls.of_words(geometry)
            return replace(bare, objects=objects, prompt=request.options.prompt)
        fitted = fit_image(request.image, geometry.height, geometry.width)
        return cls(request.image, fitted, objects=objects, prompt=request.options.prompt)

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the model frame in pixels."""
        return self.fitted.image.shape[:2]

    def scene_objects(self) -> tuple[SceneObject, ...]:
        """The objects as a request has them."""
        return tuple(
            SceneObject(
                *(item.mask, item.sentence, item.phrase, item.motion, item.strength, item.name),
                path=item.path,
            )
            for item in self.objects
        )

    @property
    def lessons(self) -> list[SceneLesson]:
        """What is still to be learned for its objects, in their order; what is for more than one
        object once."""
        found: list[SceneLesson] = []
        for item in self.objects:
            lesson = item.lesson
            if lesson is not None and not any(lesson.same_as(other) for other in found):
                found.append(lesson)
        return found

    @property
    def clips(self) -> list[Path]:
        """The files of the clips that its motions are still to be learned from, or may be refined
        with."""
        told = [one for item in self.objects for one in (item.lesson, item.looked) if one]
        return [lesson.clip.selection.file for lesson in told]

    def settled(self, library: Library) -> SceneDraft:
        """With the motions that were learned meanwhile, and the others as they are called now; the
        same where nothing changed."""
        draft, now = self, {motion.path: motion for motion in library.list()}
        for index, item in enumerate(self.objects):
            motion = item.motion and now.get(item.motion.path)
            if item.lesson is not None:
                motion = item.lesson.learned(library)
            elif motion == item.motion:
                continue
            if motion is not None:
                draft = draft.changed(index, lambda one, motion=motion: one.settled(motion))
        return draft

    def full_prompt(self) -> str:
        """The edited prompt, or the one composed of the sentences."""
        return prompt_of(self.scene_objects(), self.prompt)

    # the mask of the selected object, or of a new one

    def clicked(self, click: Click, segment: Segment, *, most: int) -> SceneDraft:
        """A click on the selected object, or the first on a new one. One on another object selects
        that one; one on another thing begins an object, and asks whether it was meant to.

        ``segment`` answers clicks and box; ``most`` objects are allowed. Raises RequestError for
        one more, and what ``segment`` raises.
        """
        if click.positive and self._far(click.x, click.y, click.x, click.y):
            room = len(self.objects) < most
            other = self._object_at(click.x, click.y)
            if other is not None:
                return self.changed_selection(other)
            if room and self._another_thing(segment(self.fitted.image, (click,), None).mask):
                return self._begun(click, segment, most)
        return self._refined(click, segment, most)

    def boxed(self, box: Box, segment: Segment, *, most: int) -> SceneDraft:
        """A box around the selected object, or around a new one: one that touches nothing of the
        selected object begins another, and asks whether it was meant to."""
        room = len(self.objects) < most
        if room and self._far(box.x0, box.y0, box.x1, box.y1):
            return self._begun(box, segment, most)
        return self._refined(box, segment, most)

    def more(self, segment: Segment, *, most: int) -> SceneDraft:
        """The ``question`` answered: the mark belongs to the object that was selected before it.
        RequestError where there is no question."""
        if self.question is None:
            raise RequestError("there is nothing to decide any more; mark the object again")
        return self.question.before._refined(self.question.mark, segment, most)

    def _begun(self, mark: Click | Box, segment: Segment, most: int) -> SceneDraft:
        """A new object although one was selected, with the question."""
        before = replace(self, question=None)
        begun = before.changed_selection(None)._refined(mark, segment, most)
        return replace(begun, question=Question(before, mark))

    def _refined(self, mark: Click | Box, segment: Segment, most: int) -> SceneDraft:
        """A click or a box for the selected object, or for a new one."""
        image = self.fitted.image
        if isinstance(mark, Box):
            index, known = self._target((mark.x0 + mark.x1) / 2, (mark.y0 + mark.y1) / 2, most)
            return self._with(index, known.boxed(mark, image, segment))
        index, known = self._target(mark.x, mark.y, most)
        return self._with(index, known.clicked(mark, image, segment))

    def _far(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        """Whether nothing of the selected object is near this part of the frame."""
        if self.selected is None or not self.objects[self.selected].mask.any():
            return False
        near = FAR_SHARE * float(np.hypot(*self.frame_size))
        rows, columns = np.nonzero(self.objects[self.selected].mask)
        away_x = np.maximum(0, np.maximum(x0 - columns - 1, columns - x1))
        away_y = np.maximum(0, np.maximum(y0 - rows - 1, rows - y1))
        return float(np.hypot(away_x, away_y).min()) > near

    def _object_at(self, x: float, y: float) -> int | None:
        """The object whose mask is shown there, the smallest of several."""
        row, column = int(y), int(x)
        there = [k for k, item in enumerate(self.objects) if item.shown and item.mask[row, column]]
        return min(there, key=lambda k: int(self.objects[k].mask.sum()), default=None)

    def _another_thing(self, mask: np.ndarray) -> bool:
        """Whether ``mask`` has next to nothing in common with the selected object."""
        known = self.objects[self.selected].mask
        return bool((mask & known).sum() <= OWN_SHARE * min(mask.sum(), known.sum()))

    def painted(self, stroke: Stroke, *, most: int) -> SceneDraft:
        """A stroke on the selected object; one that adds may begin a new object."""
        if self.selected is None and not stroke.add:
            raise RequestError("there is nothing to erase from; select an object first")
        index, known = self._target(*stroke.points[0], most)
        return self._with(index, known.painted(stroke))

    def led(self, shares: Sequence[Sequence[float]]) -> SceneDraft:
        """A line drawn on the picture, as shares of the frame: the path of the object on which it
        begins, else of the selected one. A press alone selects the object. RequestError where no
        object is meant."""
        height, width = self.frame_size
        path = path_of(shares, height=height, width=width)
        x, y = (min(max(share, 0.0), 1 - 1e-6) for share in shares[0])
        there = self._object_at(x * width, y * height)
        index = self.selected if there is None else there
        if index is None or (path is None and there is None):
            raise RequestError(
                "press on an object and drag: it goes along the line that you draw"
                if self.objects
                else "nothing is marked yet; click on the thing first, then draw its path"
            )
        draft = self.changed_selection(index)
        return draft if path is None else draft.changed(index, lambda item: item.along(path))

    def masked(self, mask: np.ndarray, *, most: int) -> SceneDraft:
        """A mask (H, W) bool of the model frame for the selected object, or for a new one."""
        if not mask.any():
            raise RequestError("the mask is empty: the object must be white; choose another file")
        rows, columns = np.nonzero(mask)
        index, known = self._target(float(columns.mean()), float(rows.mean()), most)
        return self._with(index, known.masked(mask))

    def with_found(
        self, found: Sequence[FoundObject], segment: Segment, *, most: int
    ) -> SceneDraft:
        """New objects for what was found in the picture, the surest first: by their own masks, or
        by what ``segment`` makes of their boxes. What is cut off by the fit is left out, as is one
        that an object covers already, and what is more than ``most``."""
        draft = self.changed_selection(None)
        for item in found:
            if len(draft.objects) >= most:
                break
            added = draft._found(item, segment, most=most)
            if added is None:
                continue
            mask = added.objects[-1].mask
            if mask.any() and not any(_same(mask, known.mask) for known in draft.objects):
                draft = added
        return draft

    def _found(self, item: FoundObject, segment: Segment, *, most: int) -> SceneDraft | None:
        """One more object, with none selected; None for what lies outside the frame."""
        if item.mask is not None:
            mask = self.fitted.fit_mask(item.mask)
            added = self.masked(mask, most=most) if mask.any() else None
        else:
            box = framed_box(item.box, self.fitted)
            added = None if box is None else self.boxed(box, segment, most=most)
        if added is None:
            return None
        last, name = len(added.objects) - 1, item.words[:LONGEST_NAME]
        return added.changed(last, lambda one: one.renamed(name)).changed_selection(None)

    def _target(self, x: float, y: float, most: int) -> tuple[int, ObjectDraft]:
        """The selected object and its place, or a new one named after what is at (x, y)."""
        if self.selected is not None:
            return self.selected, self.objects[self.selected]
        if len(self.objects) >= most:
            raise RequestError(
                f"there are {len(self.objects)} objects already, and {most} is the most; "
                "delete one first"
            )
        noun = noun_at(self.named, *to_picture(self.fitted, x, y))
        nothing = np.zeros(self.frame_size, dtype=bool)
        key = 1 + max((item.key for item in self.objects), default=-1)
        taken = {item.slot for item in self.objects}
        slot = next(slot for slot in range(len(self.objects) + 1) if slot not in taken)
        sentence = compose_sentence(noun, NEUTRAL_PHRASE)
        fresh = ObjectDraft(key, slot, nothing, nothing, name=noun, sentence=sentence)
        return len(self.objects), fresh

    def _with(self, index: int, item: ObjectDraft) -> SceneDraft:
        objects = (*self.objects[:index], item, *self.objects[index + 1 :])
        return replace(self, objects=objects, selected=index)

    # the objects

    def changed_selection(self, index: int | None) -> SceneDraft:
        """The next click goes to object ``index``; None begins a new one."""
        return self if index == self.selected else replace(self, selected=index)

    def changed(self, index: int, change: Callable[[ObjectDraft], ObjectDraft]) -> SceneDraft:
        """Object ``index`` replaced by ``change`` of it; the draft itself where that is the same.
        In an edited prompt the object's old phrase gives way to its new one."""
        item = change(self.objects[index])
        if item is self.objects[index]:
            return self
        objects = (*self.objects[:index], item, *self.objects[index + 1 :])
        return replace(self, objects=objects, prompt=self._prompt_with(index, item))

    def _prompt_with(self, index: int, item: ObjectDraft) -> str | None:
        if self.prompt is None or item.phrase == self.objects[index].phrase:
            return self.prompt
        try:
            span = phrase_spans(self.prompt, self.scene_objects())[index]
        except RequestError:
            return self.prompt  # already at odds; the warning beside it says how
        if span is None:
            return self.prompt
        return self.prompt[: span[0]] + item.phrase + self.prompt[span[1] :]

    def moved_by(self, index: int, motion: Motion | None) -> SceneDraft:
        return self.changed(index, lambda item: item.moved_by(motion))

    def without(self, index: int) -> SceneDraft:
        """Object ``index`` deleted; the next click begins a new one if it was the selected one."""
        selected = self.selected
        if selected is not None:
            selected = None if selected == index else selected - (selected > index)
        objects = self.objects[:index] + self.objects[index + 1 :]
        return replace(self, objects=objects, selected=selected)

    def reordered(self, index: int, step: int) -> SceneDraft:
        """Object ``index`` swapped with the one ``step`` places on; the same where none is there.
        The selection stays on its object."""
        other = index + step
        if not 0 <= other < len(self.objects):
            return self
        objects = list(self.objects)
        objects[index], objects[other] = objects[other], objects[index]
        places = {index: other, other: index}
        selected = places.get(self.selected, self.selected)
        return replace(self, objects=tuple(objects), selected=selected)

    def recoloured(self, index: int, slot: int) -> SceneDraft:
        """Another colour; an object that has it takes this one's, so that all stay different."""
        old = self.objects[index].slot
        swapped = {old: slot, slot: old}
        objects = tuple(
            replace(item, slot=swapped[item.slot]) if item.slot in swapped else item
            for item in self.objects
        )
        return self if slot == old else replace(self, objects=objects)

    def with_prompt(self, prompt: str | None) -> SceneDraft:
        """The whole prompt in other words; None composes it again."""
        return self if prompt == self.prompt else replace(self, prompt=prompt)

    def refitted(
        self, fit: str, geometry: ModelGeometry, segment: Segment, *, shift: float = CENTRE
    ) -> SceneDraft:
        """The same picture fitted another way, ``shift`` as in ``fit_image``. Clicks, boxes and
        strokes move with what they were on; masks that answer clicks are made anew, others move.
        What is cut off altogether goes."""
        size = (geometry.height, geometry.width)
        fresh = fit_image(self.picture, *size, fit, shift=shift)
        moved = [(item, refitted(item, self.fitted, fresh, segment)) for item in self.objects]
        kept = [after for before, after in moved if after.mask.any() or not before.mask.any()]
        keys = [item.key for item in kept]
        selected = None if self.selected is None else self.objects[self.selected].key
        return replace(
            self,
            fitted=fresh,
            objects=tuple(kept),
            selected=keys.index(selected) if selected in keys else None,
        )


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks mean one thing: found twice, by two words or beside a click."""
    return mask_iou(one, other) > SAME_SHARE


def _wording(item: SceneObject) -> str | None:
    own = NEUTRAL_PHRASE if item.motion is None else item.motion.phrase
    return None if item.phrase == own else item.phrase


def request_of(draft: SceneDraft, options: Options) -> GenerationRequest:
    """What is asked by the draft with these ``options`` and its own prompt. The job checks it, as
    it does what the command line asks. RequestError where nothing is marked."""
    if not draft.objects:
        raise RequestError("nothing is marked yet; click on an object in the picture first")
    image = None if draft.from_words else draft.fitted.image
    request = GenerationRequest(image, draft.scene_objects(), options)
    return request.with_options(prompt=draft.prompt)
