"""The study as the rater's page uses it: screens out, answers in.

Answers are only ever added; the latest revision counts. Everything may be called from many threads
and many processes at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from motion_app.errors import RequestError
from motion_app.study.enrolment import TRIES, Enrolment
from motion_app.study.links import new_id
from motion_app.study.records import Answer, Progress, SavedAnswer, Trial
from motion_app.study.schema import answers, latest_answers, presentations, raters


class StudyStore(Enrolment):
    """One study: ``StudyStore.create(...)`` or ``StudyStore.open(folder)``; then enrolment
    (``enter``, ``join``, ``consent``) and, for each rater, ``progress``, ``trial``, ``save``."""

    def progress(self, rater: str) -> Progress:
        """Where the rater stands."""
        with self.reading() as connection:
            return self._progress(connection, self._row(connection, rater))

    def _progress(self, connection: sa.Connection, row: sa.Row[Any]) -> Progress:
        answered = (
            sa.select(latest_answers.c.presentation, sa.func.count().label("count"))
            .where(latest_answers.c.rater == row.id)
            .group_by(latest_answers.c.presentation)
            .subquery()
        )
        query = (
            sa.select(presentations.c.role, sa.func.coalesce(answered.c.count, 0))
            .outerjoin(answered, answered.c.presentation == presentations.c.id)
            .where(presentations.c.study == self.id, presentations.c.slot == row.slot)
            .order_by(presentations.c.number)
        )
        screens = connection.execute(query).all()
        whole = [count == len(self.config.asked) for _, count in screens]
        practice = sum(role == "practice" for role, _ in screens)
        return Progress(
            practice=practice,
            items=len(screens) - practice,
            done=sum(whole),
            next=whole.index(False) if False in whole else None,
            finished=row.finished is not None,
        )

    def trial(self, rater: str, number: int) -> Trial:
        """Screen ``number`` of the rater; RequestError where the plan has no such screen."""
        with self.reading() as connection:
            row = self._row(connection, rater)
            screen = self._screen(connection, row, number)
            chosen = connection.execute(
                sa.select(latest_answers.c.question, latest_answers.c.choice).where(
                    latest_answers.c.rater == rater, latest_answers.c.presentation == screen.id
                )
            ).all()
        item = self.items[screen.item]
        return Trial(
            id=screen.id,
            number=number,
            practice=screen.role == "practice",
            caption=item.caption,
            first_frame=item.first_frame,
            references=item.references,
            candidates=tuple(item.candidates[method] for method in json.loads(screen.order)),
            questions=self.config.asked,
            answers=dict(row._tuple() for row in chosen),
        )

    def _screen(self, connection: sa.Connection, row: sa.Row[Any], number: int) -> sa.Row[Any]:
        screen = connection.execute(
            sa.select(presentations).where(
                presentations.c.study == self.id,
                presentations.c.slot == row.slot,
                presentations.c.number == number,
            )
        ).first()
        if screen is None:
            raise RequestError(f"this rater's plan has no screen {number}; reload the page")
        return screen

    def practise(self, rater: str, number: int, choices: Mapping[str, int]) -> dict[str, bool]:
        """Keep the answers to a practice screen; by question, whether each was right."""
        with self.reading() as connection:
            screen = self._screen(connection, self._row(connection, rater), number)
        if screen.role != "practice":
            raise RequestError(f"screen {number} is not for practice; send its answers one by one")
        order, right = json.loads(screen.order), self.items[screen.item].answer
        for question, choice in choices.items():
            self.save(rater, Answer(new_id(), number, question, choice, coverage=()))
        return {
            question: (order[choice - 1] == right) != question.endswith(".worst")
            for question, choice in choices.items()
        }

    def finish(self, rater: str) -> str:
        """The completion code; RequestError while something is unanswered."""
        progress = self.progress(rater)
        if progress.next is not None:
            missing = progress.practice + progress.items - progress.done
            raise RequestError(f"{missing} screens are not answered yet; go on with the next one")
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(raters)
                .where(raters.c.id == rater, raters.c.finished.is_(None))
                .values(finished=self.clock())
            )
        return self.config.completion_code or self.links.completion_code(rater)

    def save(self, rater: str, answer: Answer) -> SavedAnswer:
        """Keep an answer. Sending one again, or the choice that is there already, changes nothing.
        RequestError for an answer outside the rater's plan, before consent, after the end, or for
        videos that were not watched."""
        for _ in range(TRIES):
            try:
                with self.engine.begin() as connection:
                    saved, row = self._save(connection, rater, answer)
            except IntegrityError:  # another tab won; look again
                continue
            if row is not None and self.sink is not None:
                self.sink.append(row)
            return saved
        raise RequestError("the study is busy; the answer was not saved, send it again")

    def _save(
        self, connection: sa.Connection, rater: str, answer: Answer
    ) -> tuple[SavedAnswer, dict[str, Any] | None]:
        row = self._row(connection, rater, lock=True)
        screen = self._screen(connection, row, answer.number)
        mine = (answers.c.rater == rater, answers.c.presentation == screen.id)
        sent = connection.execute(
            sa.select(answers).where(answers.c.rater == rater, answers.c.id == answer.id)
        ).first()
        same = (*mine, answers.c.question == answer.question)
        latest = connection.execute(
            sa.select(answers).where(*same).order_by(answers.c.revision.desc()).limit(1)
        ).first()
        if sent is not None and (sent.presentation, sent.question) != (screen.id, answer.question):
            raise RequestError(f"the answer id {answer.id[:8]}… was used for another question")
        known = sent or (latest if latest is not None and latest.choice == answer.choice else None)
        if known is None:
            self._check(row, screen, answer)
            self._check_best_worst(connection, mine, answer)
            known_row = {
                **asdict(answer),
                "rater": rater,
                "presentation": screen.id,
                "revision": 0 if latest is None else latest.revision + 1,
                "coverage": json.dumps([round(float(share), 4) for share in answer.coverage]),
                "server_time": self.clock(),
            }
            del known_row["number"], known_row["trial"]
            connection.execute(sa.insert(answers).values(**known_row))
            saved = SavedAnswer(
                known_row["revision"], answer.choice, True, self._done(connection, row)
            )
            seen = {"item": screen.item, "role": screen.role, "order": json.loads(screen.order)}
            return saved, {"study": self.id, "number": answer.number, **known_row, **seen}
        return SavedAnswer(known.revision, known.choice, False, self._done(connection, row)), None

    def _done(self, connection: sa.Connection, row: sa.Row[Any]) -> int:
        """``Progress.done`` for every save, out of one index."""
        whole = (
            sa.select(answers.c.presentation)
            .where(answers.c.rater == row.id)
            .group_by(answers.c.presentation)
            .having(sa.func.count(answers.c.question.distinct()) == len(self.config.asked))
        )
        return connection.scalar(sa.select(sa.func.count()).select_from(whole.subquery())) or 0

    def _check(self, row: sa.Row[Any], screen: sa.Row[Any], answer: Answer) -> None:
        """RequestError for what no page of ours sends."""
        shown = len(json.loads(screen.order))
        if row.consented is None:
            raise RequestError("the rater has not agreed to take part yet; agree first")
        if row.finished is not None:
            raise RequestError("this rater has finished; answers cannot be changed any more")
        if answer.trial not in ("", screen.id):
            raise RequestError(f"screen {answer.number} is another one; reload the page")
        if len(answer.id) != 32 or not set(answer.id) <= set("0123456789abcdef"):
            raise RequestError(f'an answer\'s id is 32 hex digits, got "{answer.id[:40]}"')
        if answer.question not in self.config.asked:
            raise RequestError(
                f'this study asks {", ".join(self.config.asked)}; got "{answer.question[:20]}"'
            )
        if not 1 <= answer.choice <= shown:
            raise RequestError(f"a choice is a place from 1 to {shown}, got {answer.choice}")
        counters = (answer.sequence, answer.changes, answer.shown_ms, answer.client_time)
        if not all(0 <= value < 2**53 for value in counters):
            raise RequestError("an answer's counters and times are whole numbers from 0")
        if screen.role == "practice":
            return
        if len(answer.coverage) != shown or not all(0 <= share <= 1 for share in answer.coverage):
            raise RequestError(
                f"coverage is {shown} shares between 0 and 1, got {list(answer.coverage)[:9]}"
            )
        if min(answer.coverage) < self.config.coverage:
            raise RequestError(
                f"a candidate was watched to {min(answer.coverage):.0%}; "
                f"{self.config.coverage:.0%} are needed, watch it to the end"
            )

    def _check_best_worst(
        self, connection: sa.Connection, mine: tuple[Any, ...], answer: Answer
    ) -> None:
        question, dot, end = answer.question.partition(".")
        if not dot:
            return
        other = f"{question}.{'worst' if end == 'best' else 'best'}"
        chosen = connection.scalar(
            sa.select(answers.c.choice)
            .where(*mine, answers.c.question == other)
            .order_by(answers.c.revision.desc())
            .limit(1)
        )
        if chosen == answer.choice:
            raise RequestError(
                f"candidate {answer.choice} cannot be both best and worst; choose another one"
            )
