"""One object as far as a person has described it: its mask and how it came about, and its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from motion_app.errors import RequestError
from motion_app.request.phrases import occurrences
from motion_app.scene import NEUTRAL_PHRASE, Box, Click, Motion
from motion_app.ui.transfer.marks import Stroke, paint

ARTICLES = ("a ", "an ", "the ")


class Answer(Protocol):
    """What a segmenter says to one prompt: ``masks`` (n, H, W) bool, ``scores`` (n,) in [0, 1]."""

    masks: np.ndarray
    scores: np.ndarray
    best: int


Segment = Callable[[np.ndarray, Sequence[Click], Box | None], Answer]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The answers to the last prompt, to choose from. ``packed`` (n, ceil(H·W / 8)) uint8 holds
    their bits: an undo stack keeps many of them."""

    packed: np.ndarray
    shape: tuple[int, int]
    scores: tuple[float, ...]
    chosen: int

    @classmethod
    def of(cls, masks: np.ndarray, scores: np.ndarray, chosen: int) -> Candidates:
        """From masks (n, H, W) bool and their scores."""
        packed = np.packbits(masks.reshape(len(masks), -1), axis=1)
        return cls(packed, masks.shape[1:], tuple(float(score) for score in scores), int(chosen))

    def mask(self, k: int) -> np.ndarray:
        """(H, W) bool."""
        bits = np.unpackbits(self.packed[k], count=self.shape[0] * self.shape[1])
        return bits.astype(bool).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class ObjectDraft:
    """``key`` tells the object from all others of its scene for good; ``slot`` is its colour.

    ``region`` (H, W) bool is what clicks and ``box`` gave, or was imported; ``mask`` is it with the
    ``strokes`` on top. A ``name`` of "" is not known. ``wording``: the motion words where they are
    not the motion's own.
    """

    key: int
    slot: int
    region: np.ndarray
    mask: np.ndarray
    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    candidates: Candidates | None = None
    strokes: tuple[Stroke, ...] = ()
    name: str = ""
    motion: Motion | None = None
    sentence: str = ""
    strength: float = 1.0
    shown: bool = True
    wording: str | None = None

    @property
    def phrase(self) -> str:
        if self.wording is not None:
            return self.wording
        return NEUTRAL_PHRASE if self.motion is None else self.motion.phrase

    @property
    def prompted(self) -> bool:
        """Its region answers clicks and a box, which are kept and can be added to."""
        return bool(self.clicks) or self.box is not None

    def clicked(self, click: Click, image: np.ndarray, segment: Segment) -> ObjectDraft:
        """A click more. What was drawn or imported stays: a positive click adds what it finds
        there, a negative one takes it away. RequestError for a negative click on nothing."""
        if self.prompted or not self.mask.any():
            clicks = (*self.clicks, click)
            if self.box is None and not any(known.positive for known in clicks):
                raise RequestError("the first click must include: press on the object itself")
            return self.with_prompt(clicks, self.box, image, segment)
        found = segment(image, (replace(click, positive=True),), None)
        return self._combined(found, add=click.positive)

    def boxed(self, box: Box, image: np.ndarray, segment: Segment) -> ObjectDraft:
        """A box around it, in the place of one before; it adds to what was drawn or imported."""
        if self.prompted or not self.mask.any():
            return self.with_prompt(self.clicks, box, image, segment)
        return self._combined(segment(image, (), box), add=True)

    def with_prompt(
        self, clicks: Sequence[Click], box: Box | None, image: np.ndarray, segment: Segment
    ) -> ObjectDraft:
        """The best answer to clicks and box, with the strokes on top as before."""
        answer = segment(image, tuple(clicks), box)
        candidates = Candidates.of(answer.masks, answer.scores, answer.best)
        return replace(self, clicks=tuple(clicks), box=box)._showing(candidates)

    def _combined(self, found: Answer, *, add: bool) -> ObjectDraft:
        masks = self.mask | found.masks if add else self.mask & ~found.masks  # (n, H, W)
        candidates = Candidates.of(masks, found.scores, found.best)
        return replace(self, strokes=())._showing(candidates)

    def _showing(self, candidates: Candidates) -> ObjectDraft:
        region = candidates.mask(candidates.chosen)
        mask = paint(region, self.strokes)
        return replace(self, candidates=candidates, region=region, mask=mask)

    def choosing(self, k: int) -> ObjectDraft:
        """Candidate ``k`` of the last prompt; RequestError where there is none."""
        if self.candidates is None or not 0 <= k < len(self.candidates.scores):
            raise RequestError(f"there is no candidate {k + 1}; click on the object first")
        if k == self.candidates.chosen:
            return self
        return self._showing(replace(self.candidates, chosen=k))

    def painted(self, stroke: Stroke) -> ObjectDraft:
        mask = paint(self.mask, (stroke,))
        return replace(self, strokes=(*self.strokes, stroke), mask=mask)

    def masked(self, mask: np.ndarray) -> ObjectDraft:
        """A mask (H, W) bool from outside, in the place of everything before."""
        return replace(
            self, region=mask, mask=mask, clicks=(), box=None, candidates=None, strokes=()
        )

    def cleared(self) -> ObjectDraft:
        """Nothing marked; its words and its motion stay."""
        return self if not self.mask.any() else self.masked(np.zeros_like(self.mask))

    def renamed(self, name: str) -> ObjectDraft:
        """Another name; a sentence that was not edited follows it."""
        name = " ".join(name.split())
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

    def toggled(self) -> ObjectDraft:
        """Its mask hidden on the picture, or shown again."""
        return replace(self, shown=not self.shown)

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
        return replace(self, motion=motion, sentence=sentence, wording=None)


def compose_sentence(name: str, phrase: str) -> str:
    """red robot, is moving → "A red robot is moving."; without a name "The object is moving"."""
    noun = " ".join(name.split()) or "the object"
    if not noun.lower().startswith(ARTICLES):
        noun = ("an " if noun[0].lower() in "aeiou" else "a ") + noun
    return f"{noun[0].upper()}{noun[1:]} {phrase}."
