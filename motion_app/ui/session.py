"""What one browser has chosen so far, and the way back. No gradio here."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from motion_app.errors import RequestError
from motion_app.geometry import FIT_MODES
from motion_app.ui.drafts import SceneDraft, request_entries
from motion_app.ui.undo import Action, History

if TYPE_CHECKING:
    from motion_app.segmentation import ClickSegmenter

__all__ = ["SceneDraft", "Session", "request_entries"]


class Session:
    """Of one browser tab. ``owner``: the browser's own random token, by which its jobs are found
    again. ``fit``: how the next picture is fitted. ``grid``: the model's tokens are shown.
    ``drawn`` counts what the page was told, ``heard`` is the last edit of the page that is in it.
    ``lock`` is held while the draft changes, so that a slow click and a quick edit do not undo one
    another."""

    def __init__(self) -> None:
        self.owner = secrets.token_hex(16)
        self.draft: SceneDraft | None = None
        self.history = History()
        self.fit = FIT_MODES[0]
        self.grid = False
        self.drawn = time.time_ns() // 1_000_000  # above the count of any session before it
        self.heard = 0
        self.segmenter: ClickSegmenter | None = None
        self.lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """gr.State copies its first value for every browser: each begins with nothing."""
        return Session()

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
            if before is None or not _same_but_selection(before, draft):
                self.history = self.history.did(action, before)
            self.draft, self.fit = draft, draft.fitted.mode

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
