"""A batch on a disk that is full, or whose logs may not be written: an item that can be made is
made, one that cannot fails in a sentence, and the next run ends as if nothing had been."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disk_faults import fill, small_disk
from play_workshop import play_item

from motion_app.errors import RequestError
from motion_app.jobs.batch import Attempt, BatchOutcome, Done, Patience, run_batch
from motion_app.jobs.kinds import GoOn
from motion_app.jobs.manifest import Item
from motion_app.jobs.results import RECORD, Ledger
from motion_app.jobs.workers import handle

QUICK = Patience(retries=1, first_wait=0.01)
Make = Callable[[Item, Path, GoOn], dict[str, Any]]


def chatty(item: Item, folder: Path, go_on: GoOn) -> dict[str, Any]:
    """An item of 20 KB that says much on its way."""
    if item.id == "mistaken":
        raise RequestError("the fox has no name; give it one")
    for _ in range(200):
        sys.stdout.write("a line of what is going on " * 4 + "\n")
        sys.stderr.write("and of what went wrong" * 4 + "\n")
        logging.getLogger("motion_app.x").info("a line of the log")
    (folder / "video.mp4").write_bytes(bytes(20_000))
    return {"video": "video.mp4"}


class OneWorker:
    """Makes one item after another in this process."""

    size, free = 1, 1

    def __init__(self, ledger: Ledger, make: Make = chatty) -> None:
        self._ledger, self._make = ledger, make
        self._done: list[Done] = []

    def give(self, item: Item) -> None:
        self._done.append(Done(item, handle(item, self._ledger, self._make, lambda: True)))

    def collect(self, timeout: float) -> list[Done]:
        done, self._done = self._done, []
        return done

    def stop(self) -> None:
        """Nothing waits."""

    close = stop


def run(ledger: Ledger, *items: Item) -> BatchOutcome:
    return run_batch(items, ledger, lambda missing: OneWorker(ledger), patience=QUICK)


def endings(ledger: Ledger, *items: Item) -> list[Attempt]:
    return [handle(item, ledger, chatty, lambda: True) for item in items]


def test_an_item_is_made_where_its_log_finds_no_room(tmp_path: Path, capfd: Any) -> None:
    fox, mistaken = play_item("fox"), play_item("mistaken")
    ledger = Ledger(tmp_path / "out")
    with small_disk(tmp_path / "out" / "logs", 64) as logs:
        fill(logs)
        answers = endings(ledger, fox, mistaken)
        assert [answer.ending for answer in answers] == ["made", "mistake"]
        assert answers[1].message == "the fox has no name; give it one"
        assert (ledger.place(fox) / "video.mp4").stat().st_size == 20_000
    sys.stdout.write("what comes afterwards is heard again\n")
    sys.stdout.flush()
    assert "is heard again" in capfd.readouterr().out


def test_an_item_is_made_where_no_log_can_be_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path / "out")
    ledger.out.mkdir()
    (ledger.out / "logs").write_text("no folder")
    (answer,) = endings(ledger, play_item("fox"))
    assert answer.ending == "made" and "made without a log" in caplog.text
    outcome = run(ledger, play_item("fox"), play_item("mistaken"))
    summary = outcome.to_json(ledger)  # names where the log would be
    assert [one["message"] for one in summary["failures"]] == ["the fox has no name; give it one"]


def test_on_a_full_disk_items_fail_in_a_sentence_and_a_restart_makes_them(tmp_path: Path) -> None:
    items = [play_item(name) for name in ("fox", "cat", "hen")]
    with small_disk(tmp_path / "out", 512) as out:
        ledger = Ledger(out)
        assert [answer.ending for answer in endings(ledger, items[0])] == ["made"]
        kept = (ledger.place(items[0]) / RECORD).read_bytes()
        ballast = fill(out)
        outcome = run(ledger, *items)
        assert [failure.item.id for failure in outcome.failures] == ["cat", "hen"]  # each had a try
        for failure in outcome.failures:
            assert failure.why == "fault" and "disk is full" in failure.message
            assert str(tmp_path) not in failure.message
        assert outcome.kept == 1 and (ledger.place(items[0]) / RECORD).read_bytes() == kept
        assert len(list(out.rglob("video.mp4"))) == 1  # half of one does not stay
        ballast.unlink()
        again = run(ledger, *items)
        assert again.exit_code == 0 and (again.kept, len(again.answers)) == (1, 2)
        assert not [left for left in (out / "unfinished").rglob("*") if left.is_file()]
