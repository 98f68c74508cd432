"""What one browser has chosen so far, and the way back. No gradio here.

What was done, to be undone and done again: a bounded stack of drafts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from motion_app.errors import RequestError
from motion_app.geometry import FIT_MODES
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.visitor import PageVisit

if TYPE_CHECKING:
    import numpy as np

    from motion_app.models.clicks import ClickSegmenter

MOST_STEPS = 60
MOST_SLOW = 4
MOST_JUDGED = 8  # pictures: for the way back to one before


class Session(PageVisit):
    """The scene of one browser tab, and whose it is. ``fit``: how the next picture is fitted.
    ``grid``: the model's tokens are shown. ``settings``: how the video is to be made, by name.
    ``slow_clicks``: so many in a row, of those that were answered before they were made.
    ``judged``: fitted pictures with whether the model knows their like; ``unnamed``: the keys of
    objects whose name was asked for. ``drawn`` counts what the page was told, ``heard`` is the last
    edit of the page that is in it. ``lock`` is held while the draft changes, so that a slow click
    and a quick edit do not undo one another."""

    def __init__(self) -> None:
        super().__init__()
        self.draft: SceneDraft | None = None
        self.history = History()
        self.fit = FIT_MODES[0]
        self.grid = False
        self.settings: Mapping[str, Any] = {}
        self.slow_clicks = 0
        self.judged: tuple[tuple[np.ndarray, bool], ...] = ()
        self.unnamed: frozenset[int] = frozenset()
        self.drawn = time.time_ns() // 1_000_000  # above the count of any session before it
        self.heard = 0
        self.segmenter: ClickSegmenter | None = None
        self.lock = threading.RLock()

    @property
    def foresees(self) -> bool:
        """Clicks are fast enough here to show what one would give before it is made."""
        return self.slow_clicks < MOST_SLOW

    @property
    def unfamiliar(self) -> bool:
        """The picture was judged, and the model does not know its like."""
        image = None if self.draft is None else self.draft.fitted.image
        return any(picture is image and not known for picture, known in self.judged)

    def scene(self) -> SceneDraft:
        """The draft; RequestError before there is a picture."""
        if self.draft is None:
            raise RequestError("there is no picture yet; upload one or pick an example")
        return self.draft

    def put(self, draft: SceneDraft, action: Action) -> None:
        """Go on with ``draft``, which ``action`` made; where it is the one there is, nothing was
        done. To select another object is no step of its own."""
        with self.lock:
            before = self.draft
            if draft is before:
                return
            if before is not None and draft.question is before.question:
                draft = replace(draft, question=None)  # it was left as it is
            if before is None or not _same_but_selection(before, draft):
                self.history = self.history.did(action, before)
            self.draft, self.fit = draft, draft.fitted.mode

    def clear(self, action: Action) -> None:
        """Begin anew, with nothing; it can be undone."""
        with self.lock:
            if self.draft is not None:
                self.history = self.history.did(action, self.draft)
                self.draft = None

    def undo(self) -> None:
        """Back by one action; RequestError where there is none."""
        self._travel(self.history.undone)

    def redo(self) -> None:
        """Forward again by one action."""
        self._travel(self.history.redone)

    def _travel(
        self, way: Callable[[SceneDraft | None], tuple[History, SceneDraft | None]]
    ) -> None:
        with self.lock:
            self.history, self.draft = way(self.draft)
            if self.draft is not None:
                self.fit = self.draft.fitted.mode


def _same_but_selection(one: SceneDraft, other: SceneDraft) -> bool:
    same = one.fitted is other.fitted and one.prompt == other.prompt
    return (
        same
        and len(one.objects) == len(other.objects)
        and all(a is b for a, b in zip(one.objects, other.objects, strict=True))
    )


@dataclass(frozen=True)
class Action:
    """What a person did: ``key`` and ``values`` of its text. Actions in a row with the same
    ``burst`` are one step, as the letters typed into a field are; "" is never one with another."""

    key: str
    values: Mapping[str, object] = field(default_factory=dict)
    burst: str = ""


@dataclass(frozen=True, eq=False)
class Step:
    """An action, and the draft it was done to when it is undone, or led to when it is redone."""

    action: Action
    draft: SceneDraft | None


@dataclass(frozen=True, eq=False)
class History:
    """``past`` and ``future`` with the nearest step last."""

    past: tuple[Step, ...] = ()
    future: tuple[Step, ...] = ()

    def did(self, action: Action, before: SceneDraft | None) -> History:
        """After one more action on the draft ``before``; what was undone is gone."""
        if action.burst and self.past and self.past[-1].action.burst == action.burst:
            return History(self.past, ())
        return History((*self.past, Step(action, before))[-MOST_STEPS:], ())

    def undone(self, now: SceneDraft | None) -> tuple[History, SceneDraft | None]:
        """Without the last action, and the draft before it; RequestError where there is none."""
        if not self.past:
            raise RequestError("there is nothing to undo")
        step = self.past[-1]
        future = (*self.future, Step(step.action, now))
        return History(self.past[:-1], future), step.draft

    def redone(self, now: SceneDraft | None) -> tuple[History, SceneDraft | None]:
        """The inverse of ``undone``."""
        if not self.future:
            raise RequestError("there is nothing to redo")
        step = self.future[-1]
        past = (*self.past, Step(step.action, now))
        return History(past, self.future[:-1]), step.draft
