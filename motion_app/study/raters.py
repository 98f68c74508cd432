"""Who takes part: slots handed out, taken, agreed to, and given back."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from motion_app.errors import RequestError
from motion_app.study.acceptance import check_link, check_open
from motion_app.study.archive import StudyArchive
from motion_app.study.database import answers, lapsed, raters
from motion_app.study.links import (
    BegunElsewhere,
    Browser,
    LinkEnded,
    LinkError,
    PlaceGone,
    Recruit,
    new_id,
)
from motion_app.study.records import PersonalLink, Rater

HOUR_SECONDS = 3600
MOMENT_SECONDS = 0.05
TRIES = 20  # of a transaction that lost a race; each loss means that another one won


class StudyFull(RequestError):
    """Every place of the study is taken."""

    reason = "full"

    def __init__(self) -> None:
        super().__init__("the study has all the raters it needs; thank you for coming")


class Raters:
    """The raters of a study. A place that is free goes first; then the one that was taken longest
    ago by somebody who never answered, once ``place_hours`` are over."""

    def __init__(self, archive: StudyArchive) -> None:
        self.archive = archive

    def hand_out(self, count: int = 1) -> list[str]:
        """Keep the first ``count`` free slots back for people who get a personal link, which keeps
        its place until it is released; their tokens."""
        free = self._free().order_by(raters.c.slot).limit(count).with_for_update()
        with self.archive.engine.begin() as connection:
            found = list(connection.scalars(free))
            while len(found) < count and (again := self._reclaim(connection)) is not None:
                found.append(again)
            if len(found) < count:
                raise RequestError(f"{count} links were asked for; {len(found)} slots are free")
            connection.execute(
                sa.update(raters)
                .where(raters.c.id.in_(found))
                .values(handed_out=self.archive.clock())
            )
        return [self.archive.links.token(rater) for rater in found]

    def links(self) -> list[PersonalLink]:
        """The personal links handed out so far, by place."""
        query = sa.select(raters).where(
            raters.c.study == self.archive.id, raters.c.handed_out.is_not(None)
        )
        with self.archive.reading() as connection:
            return [
                PersonalLink(**vars(_rater(row)), token=self.archive.links.token(row.id))
                for row in connection.execute(query.order_by(raters.c.slot))
            ]

    def find(self, visitor: Recruit | Browser | None = None) -> str | None:
        """The token of a visitor who came before, None for another one while there is a place to be
        had. StudyFull where there is none, LinkEnded where the study has closed. Nothing is
        taken."""
        check_open(self.archive.config, self.archive.clock())
        with self.archive.reading() as connection:
            known = self._known(connection, visitor)
            if known is not None:
                return self.archive.links.token(known)
            if not self._has_place(connection):
                raise StudyFull
        return None

    def enter(self, visitor: Recruit | Browser | None = None) -> str:
        """The token of a free slot, or for a visitor who came before, of the same slot again.
        StudyFull where there is none, LinkEnded where the study has closed."""
        check_open(self.archive.config, self.archive.clock())
        for _ in range(TRIES):
            try:
                with self.archive.engine.begin() as connection:
                    found = self._take(connection, visitor)
            except IntegrityError:  # the same visitor entered in another tab just now
                continue
            if found is not None:
                return self.archive.links.token(found)
            time.sleep(MOMENT_SECONDS)
        raise RequestError("the study is busy; try again in a moment")

    def _take(self, connection: sa.Connection, visitor: Recruit | Browser | None) -> str | None:
        """The rater whose place it is; None where others are about to take all that are left, or to
        leave them."""
        values: dict[str, Any] = {"joined": self.archive.clock()}
        if visitor is not None:
            values |= visitor.hashes(self.archive.links)
        known = self._known(connection, visitor)
        if known is not None:
            return known
        free = self._free().order_by(raters.c.slot)
        found = connection.scalar(free.limit(1).with_for_update(skip_locked=True))
        if found is None:
            found = self._reclaim(connection)
        if found is None:  # the last ones may be in the hands of others just now
            left = self._has_place(connection)
            known = self._known(connection, visitor)  # in this order: who took it is seen
            if known is None and not left:
                raise StudyFull
            return known
        connection.execute(sa.update(raters).where(raters.c.id == found).values(**values))
        return found

    def _came(self, visitor: Recruit | Browser | None) -> sa.Select[str]:
        known = "" if visitor is None else visitor.hashes(self.archive.links)["pid_hash"]
        return self._of_study(raters.c.pid_hash == known)

    def _known(self, connection: sa.Connection, visitor: Recruit | Browser | None) -> str | None:
        """The rater that the visitor was before. An id is no secret: BegunElsewhere where answers
        were given under it, in another session of the recruiting service or in none."""
        known = connection.scalar(self._came(visitor))
        if known is None or not isinstance(visitor, Recruit):
            return known
        answered = connection.scalar(sa.select(_answered(sa.literal(known))))
        session = visitor.hashes(self.archive.links)["session_hash"] if visitor.session else None
        same = self._of_study(raters.c.id == known, raters.c.session_hash == session)
        if answered and (session is None or connection.scalar(same) is None):
            raise BegunElsewhere
        return known

    def _has_place(self, connection: sa.Connection) -> bool:
        queries = (self._free(), self._silent())
        return any(connection.scalar(query.limit(1)) is not None for query in queries)

    def _free(self) -> sa.Select[str]:
        return self._of_study(raters.c.joined.is_(None), raters.c.handed_out.is_(None))

    def _of_study(self, *conditions: sa.ColumnElement[bool]) -> sa.Select[str]:
        return sa.select(raters.c.id).where(raters.c.study == self.archive.id, *conditions)

    def _silent(self) -> sa.Select[str]:
        """Raters by the open link who have had their place for ``place_hours`` and never answered,
        not even for practice; the longest first."""
        since = sa.func.coalesce(raters.c.consented, raters.c.joined)
        hours = self.archive.config.place_hours
        return self._of_study(
            raters.c.handed_out.is_(None),
            since < self.archive.clock() - hours * HOUR_SECONDS if hours else sa.false(),
            ~_answered(raters.c.id),
        ).order_by(since)

    def _reclaim(self, connection: sa.Connection) -> str | None:
        """Free the place of one who never answered; the id of its next rater, None where there is
        no such place, or others have it in their hands."""
        query = self._silent().limit(1).with_for_update(skip_locked=True)
        found = connection.scalar(query)
        # An answer that was stored between the query's look and its lock is seen by a second look:
        # whoever stores one holds the same lock until it is there.
        if found is None or connection.scalar(sa.select(_answered(sa.literal(found)))):
            return None
        row = self.row(connection, found)
        connection.execute(
            sa.insert(lapsed).values(rater=found, study=self.archive.id, at=self.archive.clock())
        )
        self._vacate(connection, row, "place lapsed")
        return connection.scalar(self._of_study(raters.c.slot == row.slot))

    def join(self, token: str) -> Rater:
        """The rater of a token; the first time it is used is kept. LinkError for a token that is
        not this study's, or whose data was deleted."""
        rater = self.get(self.archive.links.rater(token))
        if rater.joined is not None:
            return rater
        with self.archive.engine.begin() as connection:
            connection.execute(
                sa.update(raters)
                .where(raters.c.id == rater.id, raters.c.joined.is_(None))
                .values(joined=self.archive.clock())
            )
        return self.get(rater.id)

    def get(self, rater: str) -> Rater:
        """LinkError for an id that is not known."""
        with self.archive.reading() as connection:
            return _rater(self.row(connection, rater))

    def link_ended(self, token: str) -> bool:
        """Whether a token was good once and its days are over."""
        if self.archive.config.link_days is None and self.archive.config.closes is None:
            return False
        try:
            if self.archive.links.is_open(token):
                check_open(self.archive.config, self.archive.clock())
                return False
            rater = self.get(self.archive.links.rater(token))
            check_link(self.archive.config, rater, self.archive.clock())
        except LinkError as error:
            return isinstance(error, LinkEnded)
        return False

    def consent(self, rater: str) -> Rater:
        """Keep that the rater agreed, and when first."""
        with self.archive.engine.begin() as connection:
            row, now = self.row(connection, rater, lock=True), self.archive.clock()
            if row.consented is None:
                connection.execute(
                    sa.update(raters)
                    .where(raters.c.id == rater)
                    .values(consented=now, joined=row.joined or now)
                )
        return self.get(rater)

    def delete(self, rater: str) -> int:
        """Delete everything about a rater and free the slot for somebody else; how many answers
        went. The link is worth nothing afterwards."""

        def vacate(connection: sa.Connection) -> int:
            return self._vacate(connection, self.row(connection, rater, lock=True), "rater deleted")

        gone = self.archive.change(vacate)
        self.archive.tell({"deleted_rater": rater})
        return gone

    def release(self, number: int, *, joined: float | None) -> int:
        """Free the slot of somebody who gave up, or of a personal link that nobody used; how many
        answers were deleted. ``joined``: when who sits there joined, as the caller saw it.

        RequestError for a slot that is free, of a rater who finished, or taken by another one by
        now.
        """
        query = sa.select(raters).where(raters.c.study == self.archive.id, raters.c.slot == number)

        def vacate(connection: sa.Connection) -> tuple[str, int]:
            row = connection.execute(query.with_for_update()).first()
            if row is None or (row.joined is None and row.handed_out is None):
                raise RequestError(f"place {number} is free already; nothing was released")
            if row.joined != joined:
                raise RequestError(f"somebody else has taken place {number} by now; look again")
            if row.finished is not None:
                raise RequestError(
                    f"rater {number} has finished and keeps the place; to leave the answers out, "
                    f"report with --without {number}"
                )
            return row.id, self._vacate(connection, row, "place released")

        rater, gone = self.archive.change(vacate)
        self.archive.tell({"deleted_rater": rater})
        return gone

    def _vacate(self, connection: sa.Connection, row: sa.Row[Any], kind: str) -> int:
        gone = connection.execute(sa.delete(answers).where(answers.c.rater == row.id)).rowcount
        connection.execute(sa.delete(raters).where(raters.c.id == row.id))
        connection.execute(
            sa.insert(raters).values(id=new_id(), study=self.archive.id, slot=row.slot)
        )
        self.archive.note(connection, kind, {"rater": row.slot, "answers": gone})
        return gone

    def finish(self, rater: str) -> str:
        """Keep that the rater is through, and when first; the completion code."""
        with self.archive.engine.begin() as connection:
            connection.execute(
                sa.update(raters)
                .where(raters.c.id == rater, raters.c.finished.is_(None))
                .values(finished=self.archive.clock())
            )
        config, links = self.archive.config, self.archive.links
        return config.completion_code or links.completion_code(rater)

    def row(self, connection: sa.Connection, rater: str, *, lock: bool = False) -> sa.Row[Any]:
        """The rater's row, held until the transaction ends where it is to be changed (``lock``).
        LinkError for an id that is not known."""
        query = sa.select(raters).where(raters.c.id == rater, raters.c.study == self.archive.id)
        row = connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            raise self.unknown(connection, rater)
        return row

    def locked(self, connection: sa.Connection, known: Collection[str]) -> dict[str, Rater]:
        """The raters by id, held until the transaction ends; in one order, so that two programs
        never wait for each other."""
        query = (
            sa.select(raters)
            .where(raters.c.study == self.archive.id, raters.c.id.in_(known))
            .order_by(raters.c.id)
            .with_for_update()
        )
        return {row.id: _rater(row) for row in connection.execute(query)}

    def unknown(self, connection: sa.Connection, rater: str) -> LinkError:
        """What is said to a link whose rater is no more."""
        study = self.archive.id
        gone = sa.select(lapsed.c.at).where(lapsed.c.rater == rater, lapsed.c.study == study)
        if connection.scalar(gone) is None:
            return LinkError(
                "this link is not known any more; its data was deleted, or its place given back"
            )
        hours = self.archive.config.place_hours
        return PlaceGone(
            f"nothing was answered from this place within {hours:g} hours, and "
            "somebody else has it by now; open the study's link again for another place"
        )


def _answered(rater: sa.ColumnElement[str]) -> sa.Exists:
    return sa.exists().where(answers.c.rater == rater)


def _rater(row: sa.Row[Any]) -> Rater:
    return Rater(row.id, row.slot, row.joined, row.consented, row.finished)
