"""What one browser has chosen so far, and the way back. No gradio here.

What was done, to be undone and done again: a bounded stack of drafts. Whether the model knows the
like of a picture is found out behind the calls that ask: it may be loading, or at work on
somebody's video for minutes, and a call that waited for it would hold a thread and two of the six
connections of its browser.
"""

from __future__ import annotations

import logging
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from motion_app.errors import RequestError
from motion_app.geometry import FIT_MODES
from motion_app.ui.markup import Texts
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.visitor import PageVisit

if TYPE_CHECKING:
    from motion_app.library.library import Library
    from motion_app.models.clicks import ClickSegmenter

logger = logging.getLogger(__name__)
MOST_STEPS = 60
MOST_BYTES = 256 * 2**20  # of the pictures and masks of one session, steps to undo included
MOST_SLOW = 4
MOST_JUDGED = 8  # pictures: for the way back to one before
MOMENT_SECONDS = 2.0  # how long a call waits for what an idle model finds out in less
IDLE_SECONDS = 10.0  # after which the thread ends


class Session(PageVisit):
    """The scene of one browser tab, and whose it is. ``fit``: how the next picture is fitted.
    ``grid``: the model's tokens are shown. ``settings``: how the video is to be made, by name.
    ``slow_clicks``: so many in a row, of those that were answered before they were made.
    ``judged``: fitted pictures with whether the model knows their like; ``unnamed``: the keys of
    objects whose name was asked for; ``sheets``: the clips whose frames the page has. ``drawn``
    counts what the page was told, ``heard`` is the last edit of the page that is in it. ``lock`` is
    held while the draft changes, so that a slow click and a quick edit do not undo one another.

    Its arrays have ``most_bytes``: the oldest steps go first. While it rests, its draft and its
    steps lie in a file without a name.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        super().__init__()
        self.most_bytes = most_bytes
        self._draft: SceneDraft | None = None
        self._history = History()
        self._resting: IO[bytes] | None = None
        self._dropped = False
        self.fit = FIT_MODES[0]
        self.grid = False
        self.settings: Mapping[str, Any] = {}
        self.slow_clicks = 0
        self.judged: tuple[tuple[np.ndarray, bool], ...] = ()
        self.unnamed: frozenset[int] = frozenset()
        self.sheets: frozenset[str] = frozenset()
        self.drawn = time.time_ns() // 1_000_000  # above the count of any session before it
        self.heard = 0
        self.segmenter: ClickSegmenter | None = None
        self.lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self.most_bytes)

    @property
    def draft(self) -> SceneDraft | None:
        """The scene as it is; None before there is a picture."""
        with self.lock:
            self._wake()
            return self._draft

    @property
    def history(self) -> History:
        """The way back."""
        with self.lock:
            self._wake()
            return self._history

    def rest(self) -> None:
        """Write draft and steps to a file and let go of them, and of what the click model knows of
        the picture. Not while somebody is at them."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            self.segmenter, self.judged = None, ()
            if self._draft is None or self._resting is not None:
                return
            file = tempfile.TemporaryFile()  # noqa: SIM115  open for as long as the session rests
            pickle.dump((self._draft, self._history), file, protocol=pickle.HIGHEST_PROTOCOL)
            self.resting_bytes = file.tell()
            self._resting = file
            self._draft, self._history, self.held_bytes = None, History(), 0
        except OSError as error:  # a full disk
            logger.warning("a session stays in memory: %s", error)
        finally:
            self.lock.release()

    def drop(self) -> None:
        """The scene is gone; the next call is told so."""
        with self.lock:
            if self._resting is not None:
                self._resting.close()
                self._resting, self.resting_bytes, self._dropped = None, 0, True

    def _wake(self) -> None:
        if self._resting is not None:
            self._resting.seek(0)
            self._draft, self._history = pickle.load(self._resting)
            self._resting.close()
            self._resting, self.resting_bytes = None, 0
            self.held_bytes = held_bytes(self._draft, self._history)

    def _keep(self, draft: SceneDraft | None, history: History) -> None:
        """``draft`` and ``history`` from now on, without the steps that are too much."""
        held = held_bytes(draft, history)
        while held > self.most_bytes and (history.past or history.future):
            if history.past:
                history = History(history.past[1:], history.future)
            else:
                history = History((), history.future[1:])
            held = held_bytes(draft, history)
        self._draft, self._history, self.held_bytes = draft, history, held

    @property
    def foresees(self) -> bool:
        """Clicks are fast enough here to show what one would give before it is made."""
        return self.slow_clicks < MOST_SLOW

    @property
    def unfamiliar(self) -> bool:
        """The picture was judged, and the model does not know its like."""
        image = None if self.draft is None else self.draft.fitted.image
        return any(picture is image and not known for picture, known in self.judged)

    @property
    def begun(self) -> bool:
        """Whether there is a scene, or was one that was let go."""
        return self.draft is not None or self._dropped

    def scene(self) -> SceneDraft:
        """The draft; RequestError before there is a picture."""
        if self.draft is None and self._dropped:
            raise RequestError(
                "the picture was let go after a long time without a click; bring it again"
            )
        if self.draft is None:
            raise RequestError(Texts()("transfer.no_picture"))
        return self.draft

    def put(self, draft: SceneDraft, action: Action) -> None:
        """Go on with ``draft``, which ``action`` made; where it is the one there is, nothing was
        done. To select another object is no step of its own."""
        with self.lock:
            before, history = self.draft, self.history
            if draft is before:
                return
            if before is not None and draft.question is before.question:
                draft = replace(draft, question=None)  # it was left as it is
            if before is None or not _same_but_selection(before, draft):
                history = history.did(action, before)
            self._keep(draft, history)
            self.fit, self._dropped = draft.fitted.mode, False

    def go_on_with(self, draft: SceneDraft) -> None:
        """A scene that was kept elsewhere: no step leads back from it."""
        with self.lock:
            self._keep(draft, self.history)
            self.fit, self._dropped = draft.fitted.mode, False

    def settle(self, library: Library) -> None:
        """What was to be learned and is has come into the ``library``, where others may be called
        otherwise now."""
        draft = self.draft
        if draft is None:
            return
        settled = draft.settled(library.seen_by(self.user))
        if settled is not draft:
            self.go_on_with(settled)

    def new_sheets(self) -> dict[str, dict[str, str]]:
        """The frames of the clips that are learned from, as "sheets" by clip, where the page has
        others; then it has these."""
        lessons = () if self.draft is None else self.draft.lessons
        sheets = {lesson.clip.key: lesson.clip.sheet for lesson in lessons}
        if self.sheets == sheets.keys():
            return {}
        self.sheets = frozenset(sheets)
        return {"sheets": sheets}

    def clear(self, action: Action) -> None:
        """Begin anew, with nothing; it can be undone."""
        with self.lock:
            if self.draft is not None:
                self._keep(None, self.history.did(action, self.draft))

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
            history, draft = way(self.draft)
            self._keep(draft, history)
            if draft is not None:
                self.fit = draft.fitted.mode


def held_bytes(draft: SceneDraft | None, history: History) -> int:
    """Bytes of all arrays in them, and of the frames of clips, each counted once."""
    held, seen = 0, set()
    waiting: list[Any] = [draft, history]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        if isinstance(value, np.ndarray):
            held += value.nbytes
        elif isinstance(value, str):
            held += len(value)
        elif isinstance(value, tuple):
            waiting.extend(value)
        elif is_dataclass(value):
            waiting.extend(getattr(value, entry.name) for entry in fields(value))
        else:
            continue
        seen.add(id(value))
    return held


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


@dataclass(frozen=True, eq=False)
class _Asked:
    session: Session
    image: np.ndarray  # (H, W, 3) uint8, the session's own fitted picture


class Verdicts:
    """One picture after the other; of each session the last one alone. ``knows`` waits for the
    model; None where it cannot tell."""

    def __init__(self, knows: Callable[[np.ndarray], bool | None]) -> None:
        self._knows = knows
        self._line: list[_Asked] = []  # the first is being looked at
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def awaited(self, session: Session) -> bool:
        """Whether a picture of the session was not judged yet."""
        with self._changed:
            return any(asked.session is session for asked in self._line)

    def ask(self, session: Session, *, wait: float = MOMENT_SECONDS) -> bool:
        """Find out about the session's picture; True where that was done within ``wait`` seconds,
        else it is in ``session.judged`` later."""
        draft = session.draft
        if (
            draft is None
            or draft.from_words
            or any(image is draft.fitted.image for image, _ in session.judged)
        ):
            return True
        asked = _Asked(session, draft.fitted.image)
        with self._changed:
            waiting = (other for other in self._line[1:] if other.session is not session)
            self._line = [*self._line[:1], *waiting, asked]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="verdicts", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: asked not in self._line, wait)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: bool(self._line), IDLE_SECONDS):
                    self._thread = None
                    return
                asked = self._line[0]
            try:
                self._judge(asked)
            except Exception:
                logger.exception("a picture could not be judged")
            with self._changed:
                self._line = [other for other in self._line if other is not asked]
                self._changed.notify_all()

    def _judge(self, asked: _Asked) -> None:
        session, image = asked.session, asked.image
        known = self._knows(image)
        if known is not None:
            with session.lock:
                session.judged = (*session.judged, (image, known))[-MOST_JUDGED:]
