"""The study as the rater's page uses it: screens out, answers in.

Answers are only ever added; the latest revision counts. Everything may be called from many threads
and many processes at once; what comes while one transaction is under way is stored in the next, all
of it together, and acknowledged after it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from motion_app.errors import RequestError
from motion_app.study.acceptance import KeptAnswer, accept, check_form
from motion_app.study.archive import StudyArchive
from motion_app.study.database import AWAY, answers, latest_answers
from motion_app.study.links import new_id
from motion_app.study.raters import TRIES, Raters
from motion_app.study.records import Answer, PlannedScreen, Progress, Rater, SavedAnswer, Trial

logger = logging.getLogger(__name__)

TOGETHER = 64  # answers in one transaction; it holds the lock for some 20 ms

Sent = tuple[str, Answer]  # the rater's id and what was sent


class Answers:
    """The answers of a study's ``raters``, and the screens they are given to."""

    def __init__(self, archive: StudyArchive, raters: Raters) -> None:
        self.archive, self.raters = archive, raters

    def progress(self, rater: str) -> Progress:
        """Where the rater stands."""
        with self.archive.reading() as connection:
            return self._progress(connection, self.raters.row(connection, rater))

    def first_media(self, rater: Rater | None = None) -> list[str]:
        """The files of the first screen, in an order that tells nothing; of somebody without a
        place, those that most places begin with."""
        with self.archive.reading() as connection:
            screens = self.archive.screens(connection, 0 if rater is None else rater.number)
        item = self.archive.items[screens[0].item]
        return sorted({item.first_frame, *item.references, *item.candidates.values()})

    def outlook(self) -> Progress:
        """What awaits whoever takes a place: every place has as many screens."""
        with self.archive.reading() as connection:
            screens = self.archive.screens(connection, 0)
        practice = sum(screen.role == "practice" for screen in screens)
        return Progress(practice, len(screens) - practice, done=0, next=0, finished=False)

    def _progress(self, connection: sa.Connection, row: sa.Row[Any]) -> Progress:
        query = (
            sa.select(latest_answers.c.presentation, sa.func.count())
            .where(latest_answers.c.rater == row.id)
            .group_by(latest_answers.c.presentation)
        )
        answered: dict[str, int] = dict(entry._tuple() for entry in connection.execute(query))
        screens = self.archive.screens(connection, row.slot)
        whole = [answered.get(screen.id) == len(self.archive.config.asked) for screen in screens]
        practice = sum(screen.role == "practice" for screen in screens)
        return Progress(
            practice=practice,
            items=len(screens) - practice,
            done=sum(whole),
            next=whole.index(False) if False in whole else None,
            finished=row.finished is not None,
        )

    def trial(self, rater: str, number: int) -> Trial:
        """Screen ``number`` of the rater; RequestError where the plan has no such screen."""
        with self.archive.reading() as connection:
            row = self.raters.row(connection, rater)
            screen = _numbered(self.archive.screens(connection, row.slot), number)
            chosen = connection.execute(
                sa.select(latest_answers.c.question, latest_answers.c.choice).where(
                    latest_answers.c.rater == rater, latest_answers.c.presentation == screen.id
                )
            ).all()
        item = self.archive.items[screen.item]
        return Trial(
            id=screen.id,
            number=number,
            practice=screen.role == "practice",
            caption=item.caption,
            first_frame=item.first_frame,
            references=item.references,
            candidates=tuple(item.candidates[method] for method in screen.order),
            questions=self.archive.config.asked,
            answers=dict(row._tuple() for row in chosen),
        )

    def practise(self, rater: str, number: int, choices: Mapping[str, int]) -> dict[str, bool]:
        """Keep the answers to a practice screen; by question, whether each was right."""
        with self.archive.reading() as connection:
            screens = self.archive.screens(connection, self.raters.row(connection, rater).slot)
        screen = _numbered(screens, number)
        if screen.role != "practice":
            raise RequestError(f"screen {number} is not for practice; send its answers one by one")
        given = [
            (rater, Answer(new_id(), number, question, choice, coverage=()))
            for question, choice in choices.items()
        ]
        for outcome in self.save_all(given):
            if isinstance(outcome, RequestError):
                raise outcome
        right = self.archive.items[screen.item].answer
        return {
            question: (screen.order[choice - 1] == right) != question.endswith(".worst")
            for question, choice in choices.items()
        }

    def finish(self, rater: str) -> str:
        """The completion code; RequestError while something is unanswered."""
        progress = self.progress(rater)
        if progress.next is not None:
            missing = progress.practice + progress.items - progress.done
            raise RequestError(f"{missing} screens are not answered yet; go on with the next one")
        return self.raters.finish(rater)

    def save(self, rater: str, answer: Answer) -> SavedAnswer:
        """Keep an answer. Sending one again, or the choice that is there already, changes nothing.
        RequestError for an answer outside the rater's plan, before consent, after the end, or for
        videos that were not watched; LinkError for a rater who is not known."""
        (outcome,) = self.save_all([(rater, answer)])
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    def save_all(self, sent: Sequence[Sent]) -> list[SavedAnswer | RequestError]:
        """Keep the answers of many raters in one transaction, as ``save`` keeps one; what became of
        each, in their order. Those of one rater are taken in their order."""
        for _ in range(TRIES):
            try:
                with self.archive.engine.begin() as connection:
                    outcomes, rows = self._save_all(connection, sent)
            except IntegrityError:  # another program won; look again
                continue
            for row in rows:
                self.archive.tell(row)
            return outcomes
        raise RequestError("the study is busy; the answer was not saved, send it again")

    def _save_all(
        self, connection: sa.Connection, sent: Sequence[Sent]
    ) -> tuple[list[SavedAnswer | RequestError], list[dict[str, Any]]]:
        """The outcomes, and what the sink is told."""
        people = self.raters.locked(connection, {rater for rater, _ in sent})
        placed = [self._placed(connection, people, rater, answer) for rater, answer in sent]
        histories = self._histories(connection, sent, placed)
        outcomes: list[tuple[KeptAnswer, bool] | RequestError] = []
        rows, told, now = [], [], self.archive.clock()
        for (rater, answer), screen in zip(sent, placed, strict=True):
            if isinstance(screen, RequestError):
                outcomes.append(screen)
                continue
            try:
                kept, new = accept(
                    self.archive.config, people[rater], screen, histories[rater], answer, now
                )
            except RequestError as error:
                outcomes.append(error)
                continue
            outcomes.append((kept, new))
            if new:
                histories[rater].append(kept)
                row = _row_of(rater, kept, answer, now)
                rows.append(row)
                seen = {"item": screen.item, "role": screen.role, "order": list(screen.order)}
                told.append({"number": answer.number, **row, **seen})
        if rows:
            connection.execute(sa.insert(answers), rows)
        done = self._done(connection, people)
        return [
            outcome
            if isinstance(outcome, RequestError)
            else SavedAnswer(outcome[0].revision, outcome[0].choice, outcome[1], done.get(rater, 0))
            for (rater, _), outcome in zip(sent, outcomes, strict=True)
        ], told

    def _placed(
        self,
        connection: sa.Connection,
        people: Mapping[str, Rater],
        rater: str,
        answer: Answer,
    ) -> PlannedScreen | RequestError:
        """The screen that an answer is for, or why it is for none."""
        if rater not in people:
            return self.raters.unknown(connection, rater)
        try:
            check_form(self.archive.config, answer)
            return _numbered(self.archive.screens(connection, people[rater].number), answer.number)
        except RequestError as error:
            return error

    def _histories(
        self,
        connection: sa.Connection,
        sent: Sequence[Sent],
        placed: Sequence[PlannedScreen | RequestError],
    ) -> dict[str, list[KeptAnswer]]:
        """By rater what was kept on the screens answered now, and under the ids sent now."""
        screens, names = [], []
        for (rater, answer), screen in zip(sent, placed, strict=True):
            if isinstance(screen, PlannedScreen):
                screens.append((rater, screen.id))
                names.append((rater, answer.id))
        found: dict[str, list[KeptAnswer]] = {rater: [] for rater, _ in screens}
        a = answers.c
        for key, wanted in ((a.presentation, screens), (a.id, names)) if screens else ():
            query = sa.select(a.rater, a.id, a.presentation, a.question, a.revision, a.choice)
            for row in connection.execute(query.where(sa.tuple_(a.rater, key).in_(wanted))):
                found[row.rater].append(KeptAnswer(*row[1:]))
        return found

    def _done(self, connection: sa.Connection, people: Collection[str]) -> dict[str, int]:
        """``Progress.done`` of those who have any, out of one index."""
        whole = (
            sa.select(answers.c.rater)
            .where(answers.c.rater.in_(people))
            .group_by(answers.c.rater, answers.c.presentation)
            .having(sa.func.count(answers.c.question.distinct()) == len(self.archive.config.asked))
            .subquery()
        )
        query = sa.select(whole.c.rater, sa.func.count()).group_by(whole.c.rater)
        return dict(row._tuple() for row in connection.execute(query))


class AnswerWriter:
    """One writer for all who answer at once; takes answers from any thread. A commit costs the same
    for one answer as for fifty: those that come while one is under way wait for the next, together.
    Its thread lives while there is something to write."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._waiting: deque[tuple[Sent, Future[SavedAnswer]]] = deque()
        self._lock = threading.Lock()
        self._writing = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="answers")

    def save(self, rater: str, answer: Answer) -> Future[SavedAnswer]:
        """Done once the answer is stored for good; its exception is what ``Answers.save`` would
        raise. Answers of one thread are stored in their order."""
        future: Future[SavedAnswer] = Future()
        with self._lock:
            if not self._writing:
                self._pool.submit(self._write)
                self._writing = True
            self._waiting.append(((rater, answer), future))
        return future

    def _write(self) -> None:
        while batch := self._next():
            outcomes = self._saved([sent for sent, _ in batch])
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _next(self) -> list[tuple[Sent, Future[SavedAnswer]]]:
        """What waits, without those that nobody waits for any more; empty: the thread may go."""
        with self._lock:
            batch: list[tuple[Sent, Future[SavedAnswer]]] = []
            while self._waiting and len(batch) < TOGETHER:
                entry = self._waiting.popleft()
                if entry[1].set_running_or_notify_cancel():
                    batch.append(entry)
            self._writing = bool(batch)
            return batch

    def _saved(self, sent: Sequence[Sent]) -> list[SavedAnswer | BaseException]:
        try:
            return [*self._answers.save_all(sent)]
        except BaseException as error:
            if len(sent) == 1 or isinstance(error, AWAY):
                return [error] * len(sent)
            kind = type(error).__name__  # its text may hold raters and their answers
            logger.error("%d answers, not stored together: %s; now one by one", len(sent), kind)
        return [outcome for one in sent for outcome in self._saved([one])]  # the fault is one's own


def _numbered(screens: Sequence[PlannedScreen], number: int) -> PlannedScreen:
    if not 0 <= number < len(screens):
        raise RequestError(f"this rater's plan has no screen {number}; reload the page")
    return screens[number]


def _row_of(rater: str, kept: KeptAnswer, answer: Answer, now: float) -> dict[str, Any]:
    """A row of ``answers``."""
    row = {
        **vars(answer),
        "rater": rater,
        "presentation": kept.presentation,
        "revision": kept.revision,
        "coverage": json.dumps([round(float(share), 4) for share in answer.coverage]),
        "server_time": now,
    }
    del row["number"], row["trial"]
    return row


class Study:
    """``archive`` is the study as it was created and never changes; ``raters`` come and go;
    ``answers`` are given by raters and are only ever added."""

    def __init__(self, archive: StudyArchive) -> None:
        self.archive = archive
        self.raters = Raters(archive)
        self.answers = Answers(archive, self.raters)

    @classmethod
    def open(cls, folder: Path | str, *, database: str | None = None) -> Study:
        """The study made in ``folder``, as ``StudyArchive.open`` finds it."""
        return cls(StudyArchive.open(folder, database=database))

    def close(self) -> None:
        """Let go of the database and hand on what the copy still holds."""
        self.archive.close()
