"""What the administrator may know: before unblinding how it goes, after it every answer."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa

from motion_app.errors import RequestError
from motion_app.study.archive import StudyArchive
from motion_app.study.database import events, latest_answers, presentations, raters, studies
from motion_app.study.records import AnswerRow, Overview, RaterState

GOLD_SHARE = 1 / 3  # of the gold answers wrong, above which a rater is flagged
FAST_SHARE = 1 / 3  # of the median of all raters' median times
PLACE_CHANCE = 1e-3  # of so many answers at one place, were places chosen evenly


def unblinded(archive: StudyArchive) -> float | None:
    """When the study was unblinded, unix seconds; None while it is blind."""
    with archive.reading() as connection:
        return connection.scalar(sa.select(studies.c.unblinded).where(studies.c.id == archive.id))


def unblind(archive: StudyArchive, *, by: str = "administrator") -> float:
    """Open the results, once and for good; when that was is kept with how far the study had come.
    The time of the first opening."""
    with archive.engine.begin() as connection:
        opened = sa.select(studies.c.unblinded).where(studies.c.id == archive.id).with_for_update()
        when = connection.scalar(opened)
        if when is None:
            when = archive.clock()
            count = connection.scalar(_counted(archive))
            connection.execute(
                sa.update(studies).where(studies.c.id == archive.id).values(unblinded=when)
            )
            archive.note(connection, "unblinded", {"by": by, "answers": count})
    return when


def record(archive: StudyArchive) -> list[dict[str, object]]:
    """What was done to the study: ``at`` unix seconds, ``kind``, ``detail``."""
    query = sa.select(events).where(events.c.study == archive.id).order_by(events.c.serial)
    with archive.reading() as connection:
        return [
            {"at": row.at, "kind": row.kind, "detail": json.loads(row.detail)}
            for row in connection.execute(query)
        ]


def _counted(archive: StudyArchive) -> sa.Select[int]:
    return (
        sa.select(sa.func.count())
        .select_from(latest_answers.join(raters, raters.c.id == latest_answers.c.rater))
        .where(raters.c.study == archive.id)
    )


def answer_rows(archive: StudyArchive) -> list[AnswerRow]:
    """The latest answers, by rater, screen and question. RequestError before unblinding."""
    if unblinded(archive) is None:
        raise RequestError(
            "the results are hidden until the study is unblinded; unblind it on the admin page or "
            "with: study report --unblind"
        )
    return _rows(archive)


def _rows(archive: StudyArchive) -> list[AnswerRow]:
    a, p, r = latest_answers.c, presentations.c, raters.c
    query = (
        sa.select(
            r.slot,
            *(p.number, p.role, p.item, p.order, p.repeats),
            *(a.question, a.choice, a.coverage, a.revision, a.shown_ms, a.sequence),
            *(a.client_time, a.server_time),
        )
        .select_from(
            latest_answers.join(raters, r.id == a.rater).join(presentations, p.id == a.presentation)
        )
        .where(r.study == archive.id)
        .order_by(r.slot, p.number, a.question)
    )
    with archive.reading() as connection:
        found = connection.execute(query).all()
    return [_answer_row(archive, row) for row in found]


def _answer_row(archive: StudyArchive, row: sa.Row) -> AnswerRow:
    item, order = archive.items[row.item], tuple(json.loads(row.order))
    chosen = order[row.choice - 1]
    right = None
    if item.answer is not None:
        right = (chosen == item.answer) != row.question.endswith(".worst")
    return AnswerRow(
        rater=row.slot,
        number=row.number,
        role=row.role,
        item=item.name,
        question=row.question,
        place=row.choice,
        chosen=chosen,
        order=order,
        repeats=row.repeats,
        right=right,
        coverage=min(json.loads(row.coverage), default=0.0),
        revisions=row.revision,
        shown_ms=row.shown_ms,
        sequence=row.sequence,
        client_time=row.client_time / 1000,
        server_time=row.server_time,
    )


def overview(archive: StudyArchive) -> Overview:
    """How the study goes; nothing in it says what was preferred."""
    rows = defaultdict(list)
    for row in _rows(archive):
        rows[row.rater].append(row)
    count = sa.func.count().label("count")
    screens = (
        sa.select(presentations.c.slot, count)
        .where(presentations.c.study == archive.id)
        .group_by(presentations.c.slot)
    )
    slots = sa.select(raters).where(raters.c.study == archive.id).order_by(raters.c.slot)
    with archive.reading() as connection:
        planned: dict[int, int] = dict(row._tuple() for row in connection.execute(screens))
        seats = connection.execute(slots).all()
    seconds = {slot: screen_seconds(given) for slot, given in rows.items()}
    typical = statistics.median(value for value in seconds.values()) if seconds else 0.0
    asked = len(archive.config.asked)
    states = []
    for seat in seats:
        given = rows[seat.slot]
        gold = [row.right for row in given if row.role == "gold"]
        states.append(
            RaterState(
                number=seat.slot,
                handed_out=seat.handed_out is not None,
                joined=seat.joined,
                finished=seat.finished,
                done=_whole_screens(given, asked),
                screens=planned[seat.slot],
                seconds=seconds.get(seat.slot),
                coverage=_coverage(given),
                answered=max((row.server_time for row in given), default=None),
                gold=len(gold),
                gold_wrong=gold.count(False),
                flags=rater_flags(
                    given,
                    shown=archive.config.shown,
                    clip_seconds=archive.video.frames / archive.video.fps,
                    typical=typical,
                ),
            )
        )
    return Overview(
        title=archive.config.title,
        raters=tuple(states),
        answers=sum(len(given) for given in rows.values()),
        expected=asked * sum(planned.values()),
        unblinded=unblinded(archive),
        plan_digest=archive.plan_digest,
    )


def _coverage(rows: Sequence[AnswerRow]) -> float | None:
    watched = [row.coverage for row in rows if row.role != "practice"]
    return statistics.median(watched) if watched else None


def _whole_screens(rows: Sequence[AnswerRow], asked: int) -> int:
    counts: defaultdict[int, int] = defaultdict(int)
    for row in rows:
        counts[row.number] += 1
    return sum(count == asked for count in counts.values())


def screen_seconds(rows: Sequence[AnswerRow]) -> float:
    """Median over screens of the time from opening one to its last answer."""
    longest: dict[int, int] = {}
    for row in rows:
        if row.role != "practice":
            longest[row.number] = max(row.shown_ms, longest.get(row.number, 0))
    return statistics.median(longest.values()) / 1000 if longest else 0.0


def rater_flags(
    rows: Sequence[AnswerRow], *, shown: int, clip_seconds: float, typical: float
) -> tuple[str, ...]:
    """What speaks against one rater's answers. ``gold``: a third of the gold answers are wrong.
    ``fast``: the median screen took less time than one clip lasts, or a third of what it takes the
    others (``typical`` seconds). ``one place``: a place was chosen more often than chance allows.
    """
    flags = []
    gold = [row.right for row in rows if row.role == "gold"]
    if gold and gold.count(False) / len(gold) >= GOLD_SHARE:
        flags.append("gold")
    seconds = screen_seconds(rows)
    if any(row.role != "practice" for row in rows) and (
        seconds < clip_seconds or seconds < FAST_SHARE * typical
    ):
        flags.append("fast")
    # One question's places: the four of a screen tend to fall on the same candidate.
    question = min((row.question for row in rows), default="")
    places = [row.place for row in rows if row.role == "main" and row.question == question]
    if places:
        from scipy.special import bdtrc  # here: a server that starts has no answers to look at

        most = max(places.count(place) for place in set(places))
        if shown * bdtrc(most - 1, len(places), 1 / shown) < PLACE_CHANCE:
            flags.append("one place")
    return tuple(flags)
