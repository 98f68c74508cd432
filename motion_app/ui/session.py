"""What one browser has chosen so far: a picture, its objects, their motions. No gradio here.

``SceneDraft`` is frozen; every action of a person makes the next one from it. ``Session`` is the
one place that holds the current draft, and lives in ``gr.State``.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import FittedImage, ModelGeometry, fit_image, mask_to_grid
from motion_app.media import encode_data_uri
from motion_app.phrases import occurrences
from motion_app.scene import NEUTRAL_PHRASE, Click, Motion
from motion_app.ui.examples import NamedBox, noun_at

if TYPE_CHECKING:
    from motion_app.jobs.generation import GenerationJob
    from motion_app.segmentation import ClickSegmenter

Segment = Callable[[np.ndarray, Sequence[Click]], np.ndarray]
ARTICLES = ("a ", "an ", "the ")


@dataclass(frozen=True, eq=False)
class Mark:
    """A click and the mask (H, W) bool that it and those before it gave."""

    click: Click
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class ObjectDraft:
    """One object as far as it is known. ``slot`` picks its colour and stays when others go; a
    ``name`` of "" is not known; ``sentence`` says what it does, in words."""

    slot: int
    marks: tuple[Mark, ...] = ()
    name: str = ""
    motion: Motion | None = None
    sentence: str = ""
    strength: float = 1.0

    @property
    def mask(self) -> np.ndarray | None:
        return self.marks[-1].mask if self.marks else None

    @property
    def phrase(self) -> str:
        return NEUTRAL_PHRASE if self.motion is None else self.motion.phrase

    @property
    def clicks(self) -> tuple[Click, ...]:
        return tuple(mark.click for mark in self.marks)

    def renamed(self, name: str) -> ObjectDraft:
        """Another name; a sentence that was not edited follows it."""
        if name == self.name:
            return self
        written = self.sentence != compose_sentence(self.name, self.phrase)
        sentence = self.sentence if written else compose_sentence(name, self.phrase)
        return replace(self, name=name, sentence=sentence)

    def rewritten(self, sentence: str) -> ObjectDraft:
        """The same object where nothing changes, as in all of these."""
        sentence = sentence.strip()
        return self if sentence == self.sentence else replace(self, sentence=sentence)

    def with_strength(self, strength: float) -> ObjectDraft:
        return self if strength == self.strength else replace(self, strength=strength)

    def moved_by(self, motion: Motion | None) -> ObjectDraft:
        """Another motion; its phrase takes the old one's place in the sentence, edited or not."""
        if motion == self.motion:
            return self
        new_phrase = NEUTRAL_PHRASE if motion is None else motion.phrase
        places = occurrences(self.phrase, self.sentence)
        sentence = self.sentence
        if len(places) == 1:
            start, stop = places[0]
            sentence = sentence[:start] + new_phrase + sentence[stop:]
        return replace(self, motion=motion, sentence=sentence)


def compose_sentence(name: str, phrase: str) -> str:
    """red robot, is moving → "A red robot is moving."; without a name "The object is moving"."""
    noun = " ".join(name.split()) or "the object"
    if not noun.lower().startswith(ARTICLES):
        noun = ("an " if noun[0].lower() in "aeiou" else "a ") + noun
    return f"{noun[0].upper()}{noun[1:]} {phrase}."


@dataclass(frozen=True, eq=False)
class SceneDraft:
    """``picture`` (H0, W0, 3) uint8 as it came, ``fitted`` the same in the model frame.

    ``selected``: the object the next click refines, None where it begins a new one; ``named``: what
    is known to be on the picture; ``click_order``: the slots clicked on, oldest first.
    """

    picture: np.ndarray
    fitted: FittedImage
    named: tuple[NamedBox, ...] = ()
    objects: tuple[ObjectDraft, ...] = ()
    selected: int | None = None
    click_order: tuple[int, ...] = ()

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

    def clicked(self, click: Click, segment: Segment, *, most: int) -> SceneDraft:
        """A click on the selected object, or the first on a new one.

        ``segment`` gives the mask (H, W) bool of some clicks; ``most`` objects are allowed. Raises
        RequestError for one more, and what ``segment`` raises.
        """
        if self.selected is None:
            if len(self.objects) >= most:
                raise RequestError(
                    f"there are {len(self.objects)} objects already, and {most} is the most; "
                    "delete one first"
                )
            if not click.positive:
                raise RequestError("the first click must include: press on the object itself")
            noun = noun_at(self.named, *to_picture(self.fitted, click))
            sentence = compose_sentence(noun, NEUTRAL_PHRASE)
            known = ObjectDraft(self._free_slot(), name=noun, sentence=sentence)
            index = len(self.objects)
        else:
            index, known = self.selected, self.objects[self.selected]
        mask = segment(self.fitted.image, (*known.clicks, click))
        changed = replace(known, marks=(*known.marks, Mark(click, mask)))
        objects = (*self.objects[:index], changed, *self.objects[index + 1 :])
        order = (*self.click_order, known.slot)
        return replace(self, objects=objects, selected=index, click_order=order)

    def undone(self) -> SceneDraft:
        """Without the last click, whichever object it was on; an object without clicks goes."""
        if not self.click_order:
            raise RequestError("there is no click to take back")
        slot = self.click_order[-1]
        index = next(i for i, item in enumerate(self.objects) if item.slot == slot)
        known = self.objects[index]
        if len(known.marks) == 1:
            return self.without(index)
        changed = replace(known, marks=known.marks[:-1])
        objects = (*self.objects[:index], changed, *self.objects[index + 1 :])
        return replace(self, objects=objects, selected=index, click_order=self.click_order[:-1])

    def without(self, index: int) -> SceneDraft:
        """Object ``index`` deleted; the next click begins a new one if it was the selected one."""
        slot = self.objects[index].slot
        selected = self.selected
        if selected is not None:
            selected = None if selected == index else selected - (selected > index)
        return replace(
            self,
            objects=self.objects[:index] + self.objects[index + 1 :],
            selected=selected,
            click_order=tuple(clicked for clicked in self.click_order if clicked != slot),
        )

    def changed_selection(self, index: int | None) -> SceneDraft:
        """The next click goes to object ``index``; None begins a new one."""
        return replace(self, selected=index)

    def changed(self, index: int, change: Callable[[ObjectDraft], ObjectDraft]) -> SceneDraft:
        """Object ``index`` replaced by ``change`` of it."""
        objects = list(self.objects)
        objects[index] = change(objects[index])
        return replace(self, objects=tuple(objects))

    def refitted(self, fit: str, geometry: ModelGeometry, segment: Segment) -> SceneDraft:
        """The same picture fitted another way. Clicks move with what they were on and the masks are
        made anew; objects whose clicks are cut off go."""
        fresh = SceneDraft.of(self.picture, fit, geometry, self.named)
        kept = []
        for item in self.objects:
            marks: list[Mark] = []
            for click in item.clicks:
                moved = to_frame(fresh.fitted, self.fitted, click)
                if moved is not None and (marks or moved.positive):
                    clicks = (*(mark.click for mark in marks), moved)
                    marks.append(Mark(moved, segment(fresh.fitted.image, clicks)))
            if marks:
                kept.append(replace(item, marks=tuple(marks)))
        order = tuple(item.slot for item in kept for _ in item.marks)
        return replace(fresh, objects=tuple(kept), click_order=order)

    def _free_slot(self) -> int:
        taken = {item.slot for item in self.objects}
        return next(slot for slot in range(len(self.objects) + 1) if slot not in taken)


def to_picture(fitted: FittedImage, click: Click) -> tuple[float, float]:
    """(x, y) in pixels of the original picture under a click in the model frame."""
    box_x0, box_y0, box_x1, box_y1 = fitted.box
    x0, y0, x1, y1 = fitted.place
    return (
        box_x0 + (click.x - x0) / (x1 - x0) * (box_x1 - box_x0),
        box_y0 + (click.y - y0) / (y1 - y0) * (box_y1 - box_y0),
    )


def to_frame(fitted: FittedImage, before: FittedImage, click: Click) -> Click | None:
    """A click in the frame of ``before`` as one in that of ``fitted``; None where it is cut off."""
    x, y = to_picture(before, click)
    box_x0, box_y0, box_x1, box_y1 = fitted.box
    x0, y0, x1, y1 = fitted.place
    moved_x = x0 + (x - box_x0) / (box_x1 - box_x0) * (x1 - x0)
    moved_y = y0 + (y - box_y0) / (box_y1 - box_y0) * (y1 - y0)
    height, width = fitted.image.shape[:2]
    if not (0 <= moved_x < width and 0 <= moved_y < height):
        return None
    return Click(moved_x, moved_y, click.positive)


def object_warning(item: ObjectDraft, geometry: ModelGeometry) -> str:
    """What would make this object's video fail, in one sentence; "" where nothing would."""
    if item.mask is None or not item.mask.any():
        return "nothing is marked; click on the object"
    if not mask_to_grid(item.mask, geometry.grid_height, geometry.grid_width).any():
        side = geometry.smallest_object
        return (
            f"too small for the model: the mask has {int(item.mask.sum())} frame pixels, and "
            f"about {side}×{side} are needed"
        )
    if item.motion is not None and len(occurrences(item.phrase, item.sentence)) != 1:
        return f"the sentence must contain “{item.phrase}” exactly once"
    return ""


def request_entries(draft: SceneDraft, *, seed: int, steps: int, guidance: float) -> dict[str, Any]:
    """The draft as the JSON of a request file, so that the page and the command line are checked by
    the same code (``assignment.parse_request``). RequestError where nothing is marked."""
    if not draft.objects:
        raise RequestError("nothing is marked yet; click on an object in the picture first")
    return {
        "image": encode_data_uri(draft.fitted.image),
        "objects": [
            {
                "mask": encode_data_uri(item.mask),
                "sentence": item.sentence,
                "phrase": item.phrase,
                "motion": None if item.motion is None else item.motion.name,
                "strength": float(item.strength),
                "name": item.name,
            }
            for item in draft.objects
        ],
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
    }


class Session:
    """Of one browser tab. ``owner``: the browser's own random token, by which its jobs are found
    again. ``finished``: a video is on show. ``lock`` is held while the draft changes, so that a
    slow click and a quick edit do not undo one another."""

    def __init__(self) -> None:
        self.owner = secrets.token_hex(16)
        self.draft: SceneDraft | None = None
        self.job: GenerationJob | None = None
        self.segmenter: ClickSegmenter | None = None
        self.finished = False
        self.lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """gr.State copies its first value for every browser: each begins with nothing."""
        return Session()

    def scene(self) -> SceneDraft:
        """The draft; RequestError before there is a picture."""
        if self.draft is None:
            raise RequestError("there is no picture yet; upload one or pick an example")
        return self.draft

    def close(self) -> None:
        """The browser has gone: nobody waits for its video."""
        if self.job is not None:
            self.job.cancel()
