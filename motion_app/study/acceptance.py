"""Which answers are taken, and what becomes of one that is sent again. No database here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from motion_app.errors import RequestError
from motion_app.study.links import LinkEnded
from motion_app.study.plan import StudyConfig
from motion_app.study.records import Answer, PlannedScreen, Rater

HEX = frozenset("0123456789abcdef")
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class KeptAnswer:
    """An answer as the database has it, or is about to: ``presentation`` is the screen's id."""

    id: str
    presentation: str
    question: str
    revision: int
    choice: int


def check_link(config: StudyConfig, rater: Rater, now: float) -> None:
    """LinkEnded for a rater who has not finished ``link_days`` days after the link was first
    opened, or when the study closed. ``now``: unix seconds."""
    if rater.finished is None:
        check_open(config, now)
    end = link_end(config, rater)
    if end is not None and now > end:
        raise LinkEnded(
            f"this link ended {config.link_days} days after it was first opened; what was answered "
            "until then is kept; ask whoever invited you for a new one"
        )


def check_open(config: StudyConfig, now: float) -> None:
    """LinkEnded after the study's closing date."""
    if config.closes is not None and now > config.closes:
        raise LinkEnded("this study has closed; what was answered until then is kept")


def link_end(config: StudyConfig, rater: Rater) -> float | None:
    """When an unfinished rater's link ends, unix seconds; None where it does not, or not yet."""
    if rater.finished is not None:
        return None
    ends = [] if config.closes is None else [config.closes]
    if config.link_days is not None and rater.joined is not None:
        ends.append(rater.joined + config.link_days * DAY_SECONDS)
    return min(ends, default=None)


def check_form(config: StudyConfig, answer: Answer) -> None:
    """RequestError for what no page of ours sends, whoever sends it and to whatever screen."""
    if len(answer.id) != 32 or not HEX.issuperset(answer.id):
        raise RequestError(f'an answer\'s id is 32 hex digits, got "{answer.id[:40]}"')
    if answer.question not in config.asked:
        raise RequestError(
            f'this study asks {", ".join(config.asked)}; got "{answer.question[:20]}"'
        )
    counters = (answer.sequence, answer.changes, answer.shown_ms, answer.client_time)
    if not all(0 <= value < 2**53 for value in counters):
        raise RequestError("an answer's counters and times are whole numbers from 0")


def accept(
    config: StudyConfig,
    rater: Rater,
    screen: PlannedScreen,
    history: Iterable[KeptAnswer],
    answer: Answer,
    now: float,
) -> tuple[KeptAnswer, bool]:
    """What counts once ``answer`` has been taken, and whether that is new: a revision under its own
    id, or what is there already where it was sent before or chooses the same again.

    ``history``: the rater's answers on the screen, and whatever else was kept under the answer's
    id; ``now``: unix seconds. RequestError before consent, after the end, for a place that is not
    on the screen, or for videos that were not watched; LinkEnded for a link whose days are over.
    """
    here, sent = [], None
    for kept in history:
        if kept.presentation == screen.id:
            here.append(kept)
        if kept.id == answer.id:
            sent = kept
    if sent is not None and (sent.presentation, sent.question) != (screen.id, answer.question):
        raise RequestError(f"the answer id {answer.id[:8]}… was used for another question")
    latest = _latest(here, answer.question)
    known = sent or (latest if latest is not None and latest.choice == answer.choice else None)
    if known is not None:
        return known, False
    check_link(config, rater, now)
    _check(config, rater, screen, answer)
    _check_best_worst(here, answer)
    revision = 0 if latest is None else latest.revision + 1
    return KeptAnswer(answer.id, screen.id, answer.question, revision, answer.choice), True


def _latest(here: Iterable[KeptAnswer], question: str) -> KeptAnswer | None:
    same = (kept for kept in here if kept.question == question)
    return max(same, key=lambda kept: kept.revision, default=None)


def _check(config: StudyConfig, rater: Rater, screen: PlannedScreen, answer: Answer) -> None:
    shown = len(screen.order)
    if rater.consented is None:
        raise RequestError("the rater has not agreed to take part yet; agree first")
    if rater.finished is not None:
        raise RequestError("this rater has finished; answers cannot be changed any more")
    if answer.trial not in ("", screen.id):
        raise RequestError(f"screen {answer.number} is another one; reload the page")
    if not 1 <= answer.choice <= shown:
        raise RequestError(f"a choice is a place from 1 to {shown}, got {answer.choice}")
    if screen.role == "practice":
        return
    if len(answer.coverage) != shown or not all(0 <= share <= 1 for share in answer.coverage):
        raise RequestError(
            f"coverage is {shown} shares between 0 and 1, got {list(answer.coverage)[:9]}"
        )
    if min(answer.coverage) < config.coverage:
        raise RequestError(
            f"a candidate was watched to {min(answer.coverage):.0%}; "
            f"{config.coverage:.0%} are needed, watch it to the end"
        )


def _check_best_worst(here: Iterable[KeptAnswer], answer: Answer) -> None:
    question, dot, end = answer.question.partition(".")
    if not dot:
        return
    other = _latest(here, f"{question}.{'worst' if end == 'best' else 'best'}")
    if other is not None and other.choice == answer.choice:
        raise RequestError(
            f"candidate {answer.choice} cannot be both best and worst; choose another one"
        )
