"""What a person can do to a scene, each as a function of plain values. No gradio here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import CENTRE, FIT_MODES
from motion_app.host import ModelHost
from motion_app.library.owners import LibraryUser
from motion_app.media.files import decode_data_uri, read_mask, read_picture
from motion_app.request.request import MAX_STRENGTH, RequestFile, build_request, check_picture
from motion_app.scene import Box, Click, Motion
from motion_app.ui.pictures import COLOURS
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.lesson_actions import METHOD, LessonActions
from motion_app.ui.transfer.lessons import FIELDS
from motion_app.ui.transfer.object_draft import (
    LONGEST_NAME,
    LONGEST_PROMPT,
    LONGEST_SENTENCE,
    ObjectDraft,
    Segment,
    stroke_of,
)
from motion_app.ui.transfer.picture import Example
from motion_app.ui.transfer.session import Action, Session, Verdicts

if TYPE_CHECKING:
    from motion_app.models.words import FoundObject

Values = Mapping[str, Any]
FORESEEN_SECONDS = 0.2  # a click that takes longer is slow


@dataclass(frozen=True, eq=False)
class Finding:
    """What was found for ``words`` in ``picture``, a draft's own."""

    picture: np.ndarray
    words: str
    found: tuple[FoundObject, ...]


class SceneActions:
    """``act(session, values)`` does what ``values["kind"]`` says. Everything that comes from a
    browser is checked here; RequestError or MediaError say what is wrong with it."""

    def __init__(
        self,
        host: ModelHost,
        examples: Sequence[Example],
        lessons: LessonActions | None = None,
    ) -> None:
        self.host, self.lessons = host, lessons
        self.limits = host.settings.limits
        self.verdicts = Verdicts(host.knows_when_ready)
        self.examples = {example.name: example for example in examples}
        self._on_masks: dict[str, Callable[[Session, SceneDraft, Values], SceneDraft]] = {
            "point": self._point,
            "box": self._box,
            "stroke": self._stroke,
            "path": self._path,
            "candidate": self._candidate,
            "clear": self._clear,
            "mask": self._mask,
            "more": self._more,
        }
        self._on_objects: dict[str, Callable[[SceneDraft, int, Values], SceneDraft]] = {
            "name": self._name,
            "sentence": self._sentence,
            "strength": self._strength,
            "colour": self._colour,
            "move": self._move,
            "shown": self._shown,
            "path_remove": lambda draft, index, values: draft.moved_by(index, None),
            "delete": lambda draft, index, values: draft.without(index),
        }
        if lessons is not None:
            self._on_objects |= {f"lesson_{name}": lessons.write for name in (*FIELDS, METHOD)}
            self._on_objects |= {"clip_choose": lessons.choose, "lesson_refine": lessons.refine}

    def begin(self, session: Session, values: Values) -> Callable[[], None]:
        """What of an action takes its time is done now; what is returned does the rest of it, which
        wants the session's lock. Raises what either raises."""
        kind = values.get("kind")
        if kind == "find":
            finding = self.look_for(session, values)
            return lambda: self.add_found(session, finding)
        if kind in ("clip", "clip_example", "clip_point") and self.lessons is not None:
            return self.lessons.begin(session, values)
        if kind == "clip_choose" and self.lessons is not None and self.host.looks:
            return self._begin_look(self.lessons, session, values)
        return lambda: self.act(session, values)

    def _begin_look(
        self, lessons: LessonActions, session: Session, values: Values
    ) -> Callable[[], None]:
        """The choice counts at once, so that a later one stands; what is seen of it comes after."""
        self.act(session, values)
        draft = session.scene()
        read = lessons.looked(draft, lessons.chosen(draft, values))
        return lambda: session.go_on_with(lessons.with_look(session.scene(), read))

    def act(self, session: Session, values: Values) -> None:
        """One action. The session's draft and history are what it made of them."""
        kind = values.get("kind")
        with session.lock:
            if kind in ("undo", "redo"):
                getattr(session, kind)()
            elif kind == "grid":
                session.grid = not session.grid
            elif kind == "over":
                session.clear(Action("transfer.did_over"))
            elif kind == "words":
                check_picture(self.host.geometry(), given=False)
                draft = SceneDraft.of_words(self.host.geometry())
                session.put(draft, Action("transfer.did_words"))
            elif kind == "example":
                self._example(session, values)
            elif kind == "fit":
                self._fit(session, values)
            elif kind in self._on_masks:
                self._change_mask(session, str(kind), values)
            elif kind in ("select", "fresh"):
                self._select(session, values)
            elif kind == "motion" or kind in self._on_objects:
                self._change_object(session, str(kind), values)
            elif kind in ("prompt", "prompt_edit", "prompt_compose"):
                self._prompt(session, str(kind), values)
            else:
                raise RequestError(f"the page asked for {kind!r}, which is unknown; reload it")

    def picture(self, session: Session, source: Path | bytes) -> None:
        """A picture file begins a new scene."""
        check_picture(self.host.geometry(), given=True)
        picture = read_picture(source, limits=self.limits)
        draft = SceneDraft.of(picture.pixels, session.fit, self.host.geometry())
        draft = replace(draft, notes=picture.notes)
        session.put(draft, Action("transfer.did_picture"))

    def restore(self, session: Session, request_file: RequestFile) -> None:
        """The scene of a request that is complete in itself. RequestError, MediaError, or
        MotionFileError for a motion that is not in the library."""
        request = build_request(
            request_file,
            geometry=self.host.geometry(),
            library=self.host.library.seen_by(session.user),
            base=self.host.base(),
            limits=self.limits,
        )
        restored = SceneDraft.of_request(request, self.host.geometry())
        session.put(restored, Action("transfer.did_restore"))

    def foresee(self, session: Session, values: Values) -> tuple[np.ndarray, int] | None:
        """The mask (H, W) bool that a click at "x", "y" would give, and its colour's slot. None
        where clicks are not ready or slow, where the session is busy, and where it gives none."""
        if not self.host.clicks_ready or self.host.lent or not session.foresees:
            return None
        if not session.lock.acquire(blocking=False):
            return None
        try:
            before = session.draft
            if before is None or before.from_words:
                return None
            self._segmenter(session).set_image(before.fitted.image)
            began = time.perf_counter()
            after = self._point(session, before, {**values, "positive": True})
            slow = time.perf_counter() - began > FORESEEN_SECONDS
            session.slow_clicks = session.slow_clicks + 1 if slow else 0
            item = after.objects[after.selected]
            return item.mask, item.slot
        except RequestError:  # one object too many: the click itself will say so
            return None
        finally:
            session.lock.release()

    def encode(self, session: Session) -> None:
        """Encode the picture before the first click needs it."""
        with session.lock:
            draft = session.draft
            if self.host.clicks_ready and draft is not None and not draft.from_words:
                self._segmenter(session).set_image(draft.fitted.image)

    # words

    def look_for(self, session: Session, values: Values) -> Finding:
        """What the words, with commas between, name in the picture. It may take seconds, so the
        session is not locked. RequestError where nothing is named, or no finder is set up."""
        picture = _pictured(session).picture
        words = _text(values, LONGEST_SENTENCE)
        finder = self.host.finder()
        return Finding(picture, words, tuple(finder.find(picture, words.split(","))))

    def add_found(self, session: Session, finding: Finding) -> None:
        """New objects for what was found. RequestError where nothing new was, or where the picture
        is another one by now."""
        with session.lock:
            draft, most = session.scene(), self.limits.objects
            if draft.picture is not finding.picture:
                raise RequestError("the picture was changed meanwhile; look for the words again")
            after = draft.with_found(finding.found, self._segment(session), most=most)
            count = len(after.objects) - len(draft.objects)
            if not count and finding.found and len(draft.objects) >= most:
                raise RequestError(
                    f"there are {most} objects already, which is the most; delete one first"
                )
            if not count:
                raise RequestError(
                    f"nothing new was found for “{finding.words}”; use other words, or click on it"
                )
            session.put(after, Action("transfer.did_find", {"count": count}))

    # pictures

    def _example(self, session: Session, values: Values) -> None:
        check_picture(self.host.geometry(), given=True)
        example = self.examples.get(str(values.get("name")))
        if example is None:
            raise RequestError("that example is not there any more; reload the page")
        draft = SceneDraft.of(example.picture, session.fit, self.host.geometry(), example.objects)
        session.put(draft, Action("transfer.did_picture"))

    def _fit(self, session: Session, values: Values) -> None:
        fit = values.get("fit")
        if fit not in FIT_MODES:
            raise RequestError(f"unknown fit {fit!r}; choose one of {', '.join(FIT_MODES)}")
        if session.draft is None:
            session.fit = fit
            return
        shift = _share(values, "shift") if "shift" in values else CENTRE
        known = session.draft.fitted
        if fit == known.mode and ("shift" not in values or shift == known.shift):
            return
        segment = self._segment(session)
        fitted = session.draft.refitted(fit, self.host.geometry(), segment, shift=shift)
        burst = "shift" if "shift" in values else ""  # a crop that is moved on and on is one step
        session.put(fitted, Action("transfer.did_fit", burst=burst))

    # masks

    def _change_mask(self, session: Session, kind: str, values: Values) -> None:
        draft = self._on_masks[kind](session, _pictured(session), values)
        number = 1 + (draft.selected if draft.selected is not None else len(draft.objects) - 1)
        session.put(draft, Action(f"transfer.did_{kind}", {"number": number}))

    def _point(self, session: Session, draft: SceneDraft, values: Values) -> SceneDraft:
        height, width = draft.frame_size
        x, y = _share(values, "x") * width, _share(values, "y") * height
        click = Click(min(x, width - 1e-3), min(y, height - 1e-3), bool(values.get("positive")))
        return draft.clicked(click, self._segment(session), most=self.limits.objects)

    def _box(self, session: Session, draft: SceneDraft, values: Values) -> SceneDraft:
        height, width = draft.frame_size
        x0, x1 = sorted(_share(values, name) * width for name in ("x0", "x1"))
        y0, y1 = sorted(_share(values, name) * height for name in ("y0", "y1"))
        box = Box(x0, y0, x1, y1)
        return draft.boxed(box, self._segment(session), most=self.limits.objects)

    def _stroke(self, session: Session, draft: SceneDraft, values: Values) -> SceneDraft:
        height, width = draft.frame_size
        stroke = stroke_of(
            *(_points(values), _number(values, "radius")),
            add=bool(values.get("add")),
            height=height,
            width=width,
        )
        return draft.painted(stroke, most=self.limits.objects)

    def _path(self, session: Session, draft: SceneDraft, values: Values) -> SceneDraft:
        return draft.led(_points(values))

    def _more(self, session: Session, draft: SceneDraft, values: Values) -> SceneDraft:
        return draft.more(self._segment(session), most=self.limits.objects)

    def _candidate(self, session: Session, draft: SceneDraft, values: Values) -> SceneDraft:
        k = int(_number(values, "choice"))
        return draft.changed(self._selected(draft), lambda item: item.choosing(k))

    def _clear(self, session: Session, draft: SceneDraft, values: Values) -> SceneDraft:
        return draft.changed(self._selected(draft), ObjectDraft.cleared)

    def _mask(self, session: Session, draft: SceneDraft, values: Values) -> SceneDraft:
        """A mask file for the selected object, or a new one: at the size of the picture or of the
        frame, as in a request."""
        mask = read_mask(decode_data_uri(str(values.get("file"))), limits=self.limits)
        fitted, frame = draft.fitted, draft.frame_size
        if mask.shape not in (frame, fitted.source_size):
            raise RequestError(
                f"the mask is {mask.shape[1]}×{mask.shape[0]}; it must have the size of the "
                f"picture, {fitted.source_size[1]}×{fitted.source_size[0]}, or of the model's "
                f"frame, {frame[1]}×{frame[0]}"
            )
        if mask.shape != frame:
            mask = fitted.fit_mask(mask)
        return draft.masked(mask, most=self.limits.objects)

    @staticmethod
    def _selected(draft: SceneDraft) -> int:
        if draft.selected is None:
            raise RequestError("no object is selected; press “Refine” on one first")
        return draft.selected

    def _segment(self, session: Session) -> Segment:
        return lambda image, clicks, box: self._segmenter(session).segment(image, clicks, box)

    def _segmenter(self, session: Session) -> Any:
        if session.segmenter is None:
            session.segmenter = self.host.segmenter()
        return session.segmenter

    # objects

    def _select(self, session: Session, values: Values) -> None:
        draft = session.scene()
        index = None if values["kind"] == "fresh" else _index(draft, values)
        session.put(draft.changed_selection(index), Action("transfer.did_select"))

    def _change_object(self, session: Session, kind: str, values: Values) -> None:
        draft = session.scene()
        index = _index(draft, values)
        if index is None:
            return  # it was deleted before this came
        burst = f"{kind} {values.get('object')} {values.get('turn')}" if "turn" in values else ""
        told = "lesson" if kind.startswith("lesson_") else kind
        action = Action(f"transfer.did_{told}", {"number": index + 1}, burst)
        if kind == "motion":
            found = self._find(session.user, values.get("motion"))
            session.put(draft.moved_by(index, found), action)
        else:
            session.put(self._on_objects[kind](draft, index, values), action)

    def _name(self, draft: SceneDraft, index: int, values: Values) -> SceneDraft:
        name = _text(values, LONGEST_NAME)
        return draft.changed(index, lambda item: item.renamed(name))

    def _sentence(self, draft: SceneDraft, index: int, values: Values) -> SceneDraft:
        sentence = _text(values, LONGEST_SENTENCE)
        return draft.changed(index, lambda item: item.rewritten(sentence))

    def _strength(self, draft: SceneDraft, index: int, values: Values) -> SceneDraft:
        strength = _number(values, "text")
        if not 0 <= strength <= MAX_STRENGTH:
            raise RequestError(f"the strength is {strength:g}; choose 0 to {MAX_STRENGTH:g}")
        return draft.changed(index, lambda item: item.with_strength(strength))

    def _find(self, user: LibraryUser, name: Any) -> Motion | None:
        """By its name alone: a path of the server's is no motion of the page's."""
        if not name:
            return None
        named = [motion for motion in self.host.motions(user) if motion.name == name]
        if named:
            return named[0]
        return self.host.library.seen_by(user).find(str(name).removesuffix(".safetensors"))

    def _colour(self, draft: SceneDraft, index: int, values: Values) -> SceneDraft:
        slot = int(_number(values, "slot"))
        if not 0 <= slot < len(COLOURS):
            raise RequestError(f"there is no colour {slot}; choose 0 to {len(COLOURS) - 1}")
        return draft.recoloured(index, slot)

    def _move(self, draft: SceneDraft, index: int, values: Values) -> SceneDraft:
        return draft.reordered(index, 1 if _number(values, "step") > 0 else -1)

    def _shown(self, draft: SceneDraft, index: int, values: Values) -> SceneDraft:
        return draft.changed(index, ObjectDraft.toggled)

    def _prompt(self, session: Session, kind: str, values: Values) -> None:
        draft = session.scene()
        burst = ""
        if kind == "prompt_compose":
            prompt = None
        elif kind == "prompt_edit":
            prompt = draft.full_prompt()
        elif draft.prompt is None:
            return  # typed before it was composed again
        else:
            prompt, burst = _text(values, LONGEST_PROMPT), f"prompt {values.get('turn')}"
        session.put(draft.with_prompt(prompt), Action("transfer.did_prompt", burst=burst))


def _pictured(session: Session) -> SceneDraft:
    """The draft, where there is a picture to mark something in."""
    draft = session.scene()
    if draft.from_words:
        raise RequestError("there is no picture to mark anything in; bring one first")
    return draft


def serial_of(values: Values) -> int:
    """The number of an edit, by which the page knows that it was heard; 0 for other actions."""
    serial = values.get("serial")
    return serial if isinstance(serial, int) else 0


def _number(values: Values, name: str) -> float:
    try:
        number = float(values[name])
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f'"{name}" must be a number; reload the page') from error
    if not math.isfinite(number):
        raise RequestError(f'"{name}" is {number}; reload the page')
    return number


def _share(values: Values, name: str) -> float:
    share = _number(values, name)
    if not 0 <= share <= 1:
        raise RequestError(f'"{name}" is {share:g}, outside the picture; mark inside it')
    return share


def _points(values: Values) -> list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in values.get("points", ())]
    except (TypeError, ValueError) as error:
        raise RequestError(f"a line needs points of x and y: {error}") from error


def _text(values: Values, longest: int) -> str:
    text = str(values.get("text") or "").strip()
    if len(text) > longest:
        raise RequestError(f"the text has {len(text)} letters; at most {longest} are allowed")
    return text


def _index(draft: SceneDraft, values: Values) -> int | None:
    """The place of the object whose key came; None where it is not there any more."""
    key = int(_number(values, "object"))
    return next((k for k, item in enumerate(draft.objects) if item.key == key), None)
