"""Who takes part: slots handed out, taken, agreed to, and given back."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from motion_app.errors import RequestError
from motion_app.study.acceptance import check_link
from motion_app.study.archive import StudyArchive
from motion_app.study.links import LinkEnded, LinkError, Visitor, new_id
from motion_app.study.records import Rater
from motion_app.study.schema import answers, raters

MOMENT_SECONDS = 0.05
TRIES = 20  # of a transaction that lost a race; each loss means that another one won


class Enrolment(StudyArchive):
    """The raters of a study."""

    def hand_out(self, count: int = 1) -> list[str]:
        """Keep the first ``count`` free slots back for people who get a personal link; their
        tokens."""
        free = self._free().order_by(raters.c.slot).limit(count).with_for_update()
        with self.engine.begin() as connection:
            found = list(connection.scalars(free))
            if len(found) < count:
                raise RequestError(f"{count} links were asked for; {len(found)} slots are free")
            connection.execute(
                sa.update(raters).where(raters.c.id.in_(found)).values(handed_out=self.clock())
            )
        return [self.links.token(rater) for rater in found]

    def tokens(self) -> list[str | None]:
        """The personal links handed out so far, by slot; None where a slot has none."""
        query = sa.select(raters).where(raters.c.study == self.id).order_by(raters.c.slot)
        with self.reading() as connection:
            return [
                None if row.handed_out is None else self.links.token(row.id)
                for row in connection.execute(query)
            ]

    def enter(self, visitor: Visitor | None = None) -> str:
        """The token of a free slot, or for a visitor who came before, of the same slot again.
        RequestError where the study is full."""
        for _ in range(TRIES):
            try:
                with self.engine.begin() as connection:
                    found = self._take(connection, visitor)
            except IntegrityError:  # the same visitor entered in another tab just now
                continue
            if found is not None:
                return self.links.token(found)
            time.sleep(MOMENT_SECONDS)
        raise RequestError("the study is busy; try again in a moment")

    def _take(self, connection: sa.Connection, visitor: Visitor | None) -> str | None:
        """The rater whose place it is; None where others are about to take all that are left, or to
        leave them."""
        values: dict[str, Any] = {"joined": self.clock()}
        if visitor is not None:
            hashed = self.links.hashed
            values["pid_hash"] = hashed("pid", visitor.pid)
            values["study_hash"] = hashed("study", visitor.study)
            values["session_hash"] = hashed("session", visitor.session)
        came = sa.select(raters.c.id).where(
            raters.c.study == self.id, raters.c.pid_hash == values.get("pid_hash", "")
        )
        known = connection.scalar(came)
        if known is not None:
            return known
        free = self._free().order_by(raters.c.slot)
        found = connection.scalar(free.limit(1).with_for_update(skip_locked=True))
        if found is None:  # the last ones may be in the hands of others just now
            left = connection.scalar(free.limit(1))
            known = connection.scalar(came)  # in this order: whoever took the last one is seen
            if known is None and left is None:
                raise RequestError("the study has all the raters it needs; thank you for coming")
            return known
        connection.execute(sa.update(raters).where(raters.c.id == found).values(**values))
        return found

    def _free(self) -> sa.Select[tuple[str]]:
        return sa.select(raters.c.id).where(
            raters.c.study == self.id, raters.c.joined.is_(None), raters.c.handed_out.is_(None)
        )

    def join(self, token: str) -> Rater:
        """The rater of a token; the first time it is used is kept. LinkError for a token that is
        not this study's, or whose data was deleted."""
        rater = self.rater(self.links.rater(token))
        if rater.joined is not None:
            return rater
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(raters)
                .where(raters.c.id == rater.id, raters.c.joined.is_(None))
                .values(joined=self.clock())
            )
        return self.rater(rater.id)

    def rater(self, rater: str) -> Rater:
        """LinkError for an id that is not known."""
        with self.reading() as connection:
            return rater_of(self._row(connection, rater))

    def link_ended(self, token: str) -> bool:
        """Whether a token was good once and its days are over."""
        if self.config.link_days is None:
            return False
        try:
            check_link(self.config, self.rater(self.links.rater(token)), self.clock())
        except LinkError as error:
            return isinstance(error, LinkEnded)
        return False

    def consent(self, rater: str) -> Rater:
        """Keep that the rater agreed, and when first."""
        with self.engine.begin() as connection:
            row = self._row(connection, rater, lock=True)
            if row.consented is None:
                connection.execute(
                    sa.update(raters)
                    .where(raters.c.id == rater)
                    .values(consented=self.clock(), joined=row.joined or self.clock())
                )
        return self.rater(rater)

    def delete_rater(self, rater: str) -> int:
        """Delete everything about a rater and free the slot for somebody else; how many answers
        went. The link is worth nothing afterwards."""
        with self.engine.begin() as connection:
            row = self._row(connection, rater, lock=True)
            gone = self._vacate(connection, row, "rater deleted")
        self._tell_sink(row.id)
        return gone

    def release(self, number: int, *, joined: float | None) -> int:
        """Free the slot of somebody who gave up, or of a personal link that nobody used; how many
        answers were deleted. ``joined``: when who sits there joined, as the caller saw it.

        RequestError for a slot that is free, of a rater who finished, or taken by another one by
        now.
        """
        query = sa.select(raters).where(raters.c.study == self.id, raters.c.slot == number)
        with self.engine.begin() as connection:
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
            gone = self._vacate(connection, row, "place released")
        self._tell_sink(row.id)
        return gone

    def _vacate(self, connection: sa.Connection, row: sa.Row[Any], kind: str) -> int:
        gone = connection.execute(sa.delete(answers).where(answers.c.rater == row.id)).rowcount
        connection.execute(sa.delete(raters).where(raters.c.id == row.id))
        connection.execute(sa.insert(raters).values(id=new_id(), study=self.id, slot=row.slot))
        self.note(connection, kind, {"rater": row.slot, "answers": gone})
        return gone

    def _tell_sink(self, rater: str) -> None:
        if self.sink is not None:
            self.sink.append({"study": self.id, "deleted_rater": rater})


def rater_of(row: sa.Row[Any]) -> Rater:
    """The record of a row of ``raters``."""
    return Rater(row.id, row.slot, row.joined, row.consented, row.finished)
