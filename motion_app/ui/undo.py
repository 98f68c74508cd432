"""What was done, to be undone and done again: a bounded stack of drafts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from motion_app.errors import RequestError
from motion_app.ui.drafts import SceneDraft

MOST_STEPS = 60


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
