"""Laws of the writer that stores many raters' answers together."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from sqlalchemy.exc import DataError, OperationalError

from motion_app.errors import RequestError
from motion_app.study.answers import TOGETHER, AnswerWriter, Sent
from motion_app.study.links import new_id
from motion_app.study.records import Answer, SavedAnswer

PATIENCE = 30


class Ledger:
    """Stores in memory, when ``open`` is set; raises ``faults`` for the raters they are kept by."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self.stored: list[str] = []
        self.faults: dict[str, Exception] = {}

    def save_all(self, sent: Sequence[Sent]) -> list[SavedAnswer | RequestError]:
        names = [rater for rater, _ in sent]
        self.batches.append(names)
        self.entered.release()
        assert self.open.wait(PATIENCE)
        for name in names:
            if name in self.faults:
                raise self.faults[name]
        self.stored += names
        return [
            RequestError("no screen 99") if answer.number == 99 else SavedAnswer(0, 1, True, 0)
            for _, answer in sent
        ]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def answer(number: int = 0) -> Answer:
    return Answer(new_id(), number, "MF", 1, coverage=())


def test_what_comes_while_one_is_stored_is_stored_together_in_its_order(ledger):
    writer = AnswerWriter(ledger)
    first = writer.save("a", answer())
    assert ledger.entered.acquire(timeout=PATIENCE)
    later = [writer.save(name, answer()) for name in "bcdb"]
    assert not first.done() and not any(future.done() for future in later)
    ledger.open.set()
    assert [future.result(PATIENCE).new for future in (first, *later)] == [True] * 5
    assert ledger.batches == [["a"], ["b", "c", "d", "b"]]


def test_nothing_is_acknowledged_before_it_is_stored(ledger):
    writer = AnswerWriter(ledger)
    ledger.open.set()
    stored_when_told: list[int] = []
    futures = [writer.save(f"rater {k}", answer()) for k in range(3 * TOGETHER)]
    for k, future in enumerate(futures):
        future.result(PATIENCE)
        stored_when_told.append(len(ledger.stored) - k)
    assert min(stored_when_told) >= 1 and max(map(len, ledger.batches)) <= TOGETHER


def test_a_refused_answer_refuses_no_other_ones(ledger):
    writer = AnswerWriter(ledger)
    ledger.open.set()
    good, bad = writer.save("a", answer()), writer.save("b", answer(99))
    assert good.result(PATIENCE).new
    with pytest.raises(RequestError, match="no screen 99"):
        bad.result(PATIENCE)


def test_one_answer_that_the_database_does_not_take_does_not_keep_the_others_out(ledger):
    ledger.faults["b"] = DataError("insert", None, ValueError("value too long"))
    writer = AnswerWriter(ledger)
    futures = {name: writer.save(name, answer()) for name in "abc"}
    ledger.open.set()
    assert futures["a"].result(PATIENCE).new and futures["c"].result(PATIENCE).new
    with pytest.raises(DataError, match="too long"):
        futures["b"].result(PATIENCE)


def test_a_database_that_is_away_is_asked_once_for_all_and_asked_again_afterwards(ledger):
    ledger.faults["a"] = OperationalError("begin", None, OSError("no route"))
    writer = AnswerWriter(ledger)
    blocker = writer.save("x", answer())
    assert ledger.entered.acquire(timeout=PATIENCE)
    futures = [writer.save(name, answer()) for name in "abc"]
    ledger.open.set()
    assert blocker.result(PATIENCE).new
    for future in futures:
        with pytest.raises(OperationalError, match="no route"):
            future.result(PATIENCE)
    assert ledger.batches == [["x"], ["a", "b", "c"]]
    ledger.faults.clear()
    assert writer.save("a", answer()).result(PATIENCE).new


def test_an_answer_that_nobody_waits_for_any_more_before_its_turn_is_left_out(ledger):
    writer = AnswerWriter(ledger)
    first = writer.save("a", answer())
    assert ledger.entered.acquire(timeout=PATIENCE)
    gone, kept = writer.save("b", answer()), writer.save("c", answer())
    assert gone.cancel()
    ledger.open.set()
    assert first.result(PATIENCE).new and kept.result(PATIENCE).new
    assert ledger.stored == ["a", "c"]
