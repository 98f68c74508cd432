"""What a study gives and takes: frozen records. Those the rater's page gets name no method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class VideoFormat:
    """What every candidate of a study has in common: ``width`` × ``height`` pixels, ``fps`` frames
    per second, ``frames`` frames. H.264, yuv420p."""

    width: int
    height: int
    fps: float
    frames: int


@dataclass(frozen=True)
class Rater:
    """One place in the study and who sits there. ``joined``, ``consented``, ``finished`` are unix
    seconds or None; ``number`` counts from 0 and is what exports call the rater."""

    id: str
    number: int
    joined: float | None
    consented: float | None
    finished: float | None


@dataclass(frozen=True)
class PersonalLink(Rater):
    """A place that was handed out by name, and the link to it."""

    token: str


@dataclass(frozen=True)
class PlannedScreen:
    """One screen of a slot, as it was drawn before the first answer: ``order`` are the methods from
    the first place to the last. It never leaves the server."""

    id: str
    number: int
    item: str
    role: str
    order: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """Where a rater stands. ``practice`` and ``items`` count screens, ``done`` those answered in
    full; ``next`` is the number of the first screen with an open question, None where there is
    none."""

    practice: int
    items: int
    done: int
    next: int | None
    finished: bool


@dataclass(frozen=True)
class Trial:
    """One screen as the rater may know it: ``candidates`` are media from place 1 on, ``answers``
    the places chosen so far, by question. ``id`` is random; gold items and repeats look like any
    other."""

    id: str
    number: int
    practice: bool
    caption: str
    first_frame: str
    references: tuple[str, ...]
    candidates: tuple[str, ...]
    questions: tuple[str, ...]
    answers: Mapping[str, int]


@dataclass(frozen=True)
class Answer:
    """One choice as the browser sends it.

    ``id``: 32 hex digits made by the client, the same when it is sent again. ``trial``: the id of
    the screen, or "" to trust ``number``. ``choice``: a place from 1. ``coverage``: the share of
    each candidate's frames that was shown, 0 to 1, by place. ``sequence`` counts the client's
    answers, ``changes`` how often this one was changed before, ``shown_ms`` is how long the screen
    had been open, ``client_time`` the browser's unix milliseconds.
    """

    id: str
    number: int
    question: str
    choice: int
    coverage: tuple[float, ...]
    trial: str = ""
    sequence: int = 0
    changes: int = 0
    shown_ms: int = 0
    client_time: int = 0


@dataclass(frozen=True)
class SavedAnswer:
    """What became of an answer: its ``revision`` counts from 0; ``new`` is False where the same
    choice was there already; ``done`` counts the rater's screens answered in full."""

    revision: int
    choice: int
    new: bool
    done: int


@dataclass(frozen=True)
class AnswerRow:
    """The latest answer to one question of one screen, unblinded: a row of the long table.

    ``rater`` is the slot's number, ``item`` the item's name; ``order`` the methods by place,
    ``chosen`` the method at ``place``; ``right`` is None where the item has no right answer;
    ``coverage`` is the least of the candidates'; ``revisions`` counts earlier answers; times are
    unix seconds.
    """

    rater: int
    number: int
    role: str
    item: str
    question: str
    place: int
    chosen: str
    order: tuple[str, ...]
    repeats: int | None
    right: bool | None
    coverage: float
    revisions: int
    shown_ms: int
    sequence: int
    client_time: float
    server_time: float


@dataclass(frozen=True)
class RaterState:
    """A rater as the administrator sees one before unblinding. ``seconds`` is the median time for a
    screen and ``coverage`` the median share that was watched of the candidate watched least, None
    before the first; ``answered`` is when the last answer came, unix seconds or None;
    ``gold_wrong`` of ``gold`` answers were wrong; ``flags`` are words: "gold", "fast", "one
    place"."""

    number: int
    handed_out: bool
    joined: float | None
    finished: float | None
    done: int
    screens: int
    seconds: float | None
    coverage: float | None
    answered: float | None
    gold: int
    gold_wrong: int
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """The study before unblinding: no share, no method."""

    title: str
    raters: tuple[RaterState, ...]
    answers: int
    expected: int
    unblinded: float | None
    plan_digest: str
