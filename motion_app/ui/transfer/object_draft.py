"""One object as far as a person has described it: its mask and how it came about, and its words.

Brush strokes are lines of points with a radius, turned into pixels. Where a picture is fitted to
the frame in another way, places on it move with what they were on. No gradio here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from motion_app.errors import RequestError
from motion_app.evaluation.metrics import mask_iou
from motion_app.geometry import FittedImage
from motion_app.methods import ENCODED
from motion_app.request.paths import DIGITS, from_picture, moved_path, read_path, to_picture
from motion_app.request.paths import MOST_POINTS as MOST_PATH_POINTS
from motion_app.request.phrases import occurrences
from motion_app.scene import Box, Click, DrawnPath, Motion
from motion_app.wording import NEUTRAL_PHRASE

if TYPE_CHECKING:
    from motion_app.models.clicks import Segmentation
    from motion_app.ui.transfer.lessons import SceneLesson

ARTICLES = ("a ", "an ", "the ")
LONGEST_NAME, LONGEST_SENTENCE, LONGEST_PROMPT = 60, 300, 2000  # letters
ALIKE = 0.95  # intersection over union of two answers that nobody tells apart
MOST_POINTS = 4000  # of one stroke: a minute of drawing at the rate of a pointer
SHORTEST_PATH = 0.015  # of the frame's diagonal: less is a press, not a line
PATH_SLACK = 0.001  # of it: how far a path may be from what was drawn
PATH_UNITS = 30_000  # of it: the grid on which that is told
Segment = Callable[[np.ndarray, Sequence[Click], Box | None], "Segmentation"]


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

    def told_apart(self) -> list[int]:
        """Those worth choosing from, the chosen one among them: of answers that are all but the
        same one stands for all."""
        masks = [self.mask(k) for k in range(len(self.scores))]
        kept = [self.chosen]
        for k in range(len(masks)):
            if all(mask_iou(masks[k], masks[other]) <= ALIKE for other in kept):
                kept.append(k)
        return sorted(kept)

    def mask(self, k: int) -> np.ndarray:
        """(H, W) bool."""
        bits = np.unpackbits(self.packed[k], count=self.shape[0] * self.shape[1])
        return bits.astype(bool).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class ObjectDraft:
    """``key`` tells the object from all others of its scene for good; ``slot`` is its colour.

    ``region`` (H, W) bool is what clicks and ``box`` gave, or was imported; ``mask`` is it with the
    ``strokes`` on top. A ``name`` of "" is not known. ``wording``: the motion words where they are
    not the motion's own. ``lesson``: how the ``motion`` is to be learned, where it still is,
    ``looked``: and how it was made, where one look was enough, so that it can be refined.
    ``path``: a line to go along in a motion's place, as shares of the frame.
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
    lesson: SceneLesson | None = None
    path: DrawnPath | None = None
    looked: SceneLesson | None = None

    @property
    def phrase(self) -> str:
        if self.wording is not None:
            return self.wording
        return NEUTRAL_PHRASE if self.motion is None else self.motion.phrase

    @property
    def nameless(self) -> bool:
        """Neither its name nor its sentence says what it is."""
        return not self.name and self.sentence == compose_sentence("", self.phrase)

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

    def _combined(self, found: Segmentation, *, add: bool) -> ObjectDraft:
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
        """Another motion, in the place of a path; its phrase takes the old one's place in the
        sentence, edited or not."""
        if motion == self.motion and self.lesson is None and self.path is None:
            return self
        new_phrase = NEUTRAL_PHRASE if motion is None else motion.phrase
        places = occurrences(self.phrase, self.sentence)
        sentence = self.sentence
        if len(places) == 1:
            start, stop = places[0]
            sentence = sentence[:start] + new_phrase + sentence[stop:]
        told = replace(self, motion=motion, sentence=sentence, wording=None)
        return replace(told, lesson=None, path=None, looked=None)

    def along(self, path: DrawnPath) -> ObjectDraft:
        """It goes along ``path``, in the place of a motion or of another path."""
        return replace(self.moved_by(None), path=path)

    def taught(self, lesson: SceneLesson) -> ObjectDraft:
        """The motion that ``lesson`` will bring; the same where it is that lesson already."""
        if lesson is self.lesson:
            return self
        return replace(self.moved_by(lesson.motion), lesson=lesson)

    def settled(self, motion: Motion) -> ObjectDraft:
        """Its lesson was learned and is now ``motion``, or its motion is called otherwise now; its
        words stay."""
        looked = self.looked
        if self.lesson is not None:
            looked = self.lesson if self.lesson.method == ENCODED else None
        return replace(self, motion=motion, lesson=None, looked=looked)


def compose_sentence(name: str, phrase: str) -> str:
    """red robot, is moving → "A red robot is moving."; without a name "The object is moving"."""
    noun = " ".join(name.split()) or "the object"
    if not noun.lower().startswith(ARTICLES):
        noun = ("an " if noun[0].lower() in "aeiou" else "a ") + noun
    return f"{noun[0].upper()}{noun[1:]} {phrase}."


@dataclass(frozen=True)
class Stroke:
    """``points`` (x, y) and ``radius`` in pixels of the model frame; ``add`` False erases."""

    points: tuple[tuple[float, float], ...]
    radius: float
    add: bool = True


def stroke_of(
    shares: Sequence[Sequence[float]], radius: float, *, add: bool, height: int, width: int
) -> Stroke:
    """A stroke from what a browser sends: points as shares of the frame's width and height, and the
    ``radius`` as a share of its width. RequestError for none, too many, or points far outside."""
    points = np.asarray(shares, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not 1 <= len(points) <= MOST_POINTS:
        raise RequestError(
            f"a stroke has 1 to {MOST_POINTS} points of x and y, got an array of {points.shape}; "
            "draw it again, in shorter strokes"
        )
    if not (np.isfinite(points).all() and np.abs(points - 0.5).max() <= 1):
        raise RequestError("the stroke lies outside the picture; draw it on the picture")
    if not 0 < radius <= 0.5:
        raise RequestError(f"the brush has a radius of {radius:g} widths; choose 0 to 0.5")
    pixels = points * (width, height)  # (n, 2)
    return Stroke(tuple((float(x), float(y)) for x, y in pixels), radius * width, add)


def path_of(shares: Sequence[Sequence[float]], *, height: int, width: int) -> DrawnPath | None:
    """The line that a browser sends, as shares of a frame of that size, without the points that
    change nothing to the eye; None for one too short to be meant. RequestError for no line."""
    if not 1 <= len(shares) <= MOST_POINTS:
        raise RequestError(
            f"a path has 1 to {MOST_POINTS} points, got {len(shares)}; draw it again, in one go"
        )
    points = np.array(shares, np.float64) * (width, height)  # (n, 2)
    if not (np.isfinite(points).all() and np.abs(np.array(shares) - 0.5).max() <= 1):
        raise RequestError("the path lies outside the picture; draw it on the picture")
    size = float(np.hypot(width, height))
    if np.abs(points - points[0]).max() < SHORTEST_PATH * size:
        return None
    scale = PATH_UNITS / size
    line = (points * scale).round().astype(np.int32)
    kept = cv2.approxPolyDP(line[:, None], PATH_SLACK * PATH_UNITS, closed=False)[:, 0]  # (m, 2)
    thinned = kept[np.linspace(0, len(kept) - 1, min(len(kept), MOST_PATH_POINTS)).astype(int)]
    return read_path((thinned / scale / (width, height)).round(DIGITS).tolist())


def rasterise(stroke: Stroke, height: int, width: int) -> np.ndarray:
    """(height, width) bool: the pixels whose centre is within the radius of the line through the
    stroke's points. A stroke that is thinner than a pixel still marks those it passes through."""
    covered = np.zeros((height, width), dtype=bool)
    points = stroke.points if len(stroke.points) > 1 else (*stroke.points, *stroke.points)
    radius = max(stroke.radius, np.sqrt(0.5))  # half a pixel's diagonal
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        left, right = _bounds(min(x0, x1) - radius, max(x0, x1) + radius, width)
        top, bottom = _bounds(min(y0, y1) - radius, max(y0, y1) + radius, height)
        if left >= right or top >= bottom:
            continue
        x = np.arange(left, right) + 0.5  # (n,)
        y = np.arange(top, bottom)[:, None] + 0.5  # (m, 1)
        along_x, along_y = x1 - x0, y1 - y0
        length = along_x**2 + along_y**2
        share = ((x - x0) * along_x + (y - y0) * along_y) / length if length else 0.0 * x * y
        share = np.clip(share, 0, 1)  # (m, n): where on the line the nearest point lies
        distance = (x - x0 - share * along_x) ** 2 + (y - y0 - share * along_y) ** 2  # (m, n)
        covered[top:bottom, left:right] |= distance <= radius**2
    return covered


def _bounds(low: float, high: float, size: int) -> tuple[int, int]:
    return max(0, int(np.floor(low))), min(size, int(np.ceil(high)) + 1)


def paint(region: np.ndarray, strokes: Sequence[Stroke]) -> np.ndarray:
    """``region`` (H, W) bool with the strokes added and erased in their order."""
    painted = region.copy() if strokes else region
    for stroke in strokes:
        painted[rasterise(stroke, *region.shape)] = stroke.add
    return painted


def framed_box(box: Box, fitted: FittedImage) -> Box | None:
    """A box of the original picture in the model frame, cut to it; None where less than a pixel is
    left."""
    height, width = fitted.image.shape[:2]
    x0, y0 = from_picture(fitted, box.x0, box.y0)
    x1, y1 = from_picture(fitted, box.x1, box.y1)
    x0, x1 = (float(np.clip(x, 0, width)) for x in (x0, x1))
    y0, y1 = (float(np.clip(y, 0, height)) for y in (y0, y1))
    return Box(x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None


def moved_click(click: Click, before: FittedImage, after: FittedImage) -> Click | None:
    """The click on the same thing in another fit; None where that is cut off."""
    x, y = from_picture(after, *to_picture(before, click.x, click.y))
    height, width = after.image.shape[:2]
    inside = 0 <= x < width and 0 <= y < height
    return Click(x, y, click.positive) if inside else None


def moved_box(box: Box, before: FittedImage, after: FittedImage) -> Box | None:
    """The box around the same things, cut to the frame; None where less than a pixel is left."""
    corners = (to_picture(before, box.x0, box.y0), to_picture(before, box.x1, box.y1))
    return framed_box(Box(*corners[0], *corners[1]), after)


def moved_stroke(stroke: Stroke, before: FittedImage, after: FittedImage) -> Stroke:
    """The stroke along the same line; its radius follows the mean of the two scales."""
    points = tuple(from_picture(after, *to_picture(before, x, y)) for x, y in stroke.points)
    scale = np.sqrt(np.prod(_scales(after)) / np.prod(_scales(before)))
    return Stroke(points, float(stroke.radius * scale), stroke.add)


def _scales(fitted: FittedImage) -> tuple[float, float]:
    """Pixels of the frame for a pixel of the picture, in x and in y."""
    box_x0, box_y0, box_x1, box_y1 = fitted.box
    x0, y0, x1, y1 = fitted.place
    return (x1 - x0) / (box_x1 - box_x0), (y1 - y0) / (box_y1 - box_y0)


def moved_mask(mask: np.ndarray, before: FittedImage, after: FittedImage) -> np.ndarray:
    """A mask (H, W) bool of one fit in another: the nearest pixel, nothing where none was seen."""
    height, width = after.image.shape[:2]
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    old_x, old_y = from_picture(before, *to_picture(after, x, y))
    columns, rows = np.floor(old_x).astype(int), np.floor(old_y).astype(int)
    seen_x = (columns >= 0) & (columns < mask.shape[1])
    seen_y = (rows >= 0) & (rows < mask.shape[0])
    moved = np.zeros((height, width), dtype=bool)
    moved[np.ix_(seen_y, seen_x)] = mask[np.ix_(rows[seen_y], columns[seen_x])]
    return moved  # (H, W)


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


def noun_at(objects: Sequence[NamedBox], x: float, y: float) -> str:
    """The noun of the smallest box around (x, y), in pixels of the picture; "" without one."""
    around = [item for item in objects if item.holds(x, y)]
    return min(around, key=lambda item: item.area).noun if around else ""


def refitted(
    item: ObjectDraft, before: FittedImage, after: FittedImage, segment: Segment
) -> ObjectDraft:
    """The same with the picture fitted another way, ``segment`` asked again where it was."""
    strokes = tuple(moved_stroke(stroke, before, after) for stroke in item.strokes)
    item = replace(item, path=item.path and moved_path(item.path, before, after))
    clicks = [moved_click(click, before, after) for click in item.clicks]
    clicks = [click for click in clicks if click is not None]
    box = None if item.box is None else moved_box(item.box, before, after)
    if box is not None or any(click.positive for click in clicks):
        made = replace(item, strokes=strokes).with_prompt(clicks, box, after.image, segment)
        return made if item.candidates is None else made.choosing(item.candidates.chosen)
    if item.prompted:  # all that it answered is cut off
        region = np.zeros(after.image.shape[:2], dtype=bool)
    else:
        region = moved_mask(item.region, before, after)
    bare = replace(item, clicks=(), box=None, candidates=None, strokes=strokes)
    return replace(bare, region=region, mask=paint(region, strokes))
