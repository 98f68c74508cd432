"""What synthetic raters prefer comes back from the study itself and through the real HTTP calls."""

from __future__ import annotations

import json

import postgres
import pytest
import sqlalchemy as sa
from daily import some_daily

from motion_app.__main__ import main
from motion_app.errors import RequestError
from motion_app.study import database as schema
from motion_app.study.simulate import Crowd, Waits, simulate_study, summary
from motion_app.study.synthetic_raters import known_preference


# The form "single" comes back over HTTP every day.
@pytest.mark.parametrize("form", some_daily(["single", "pair", "best_worst"], "pair", "best_worst"))
def test_the_known_table_comes_back_from_the_store(form):
    found = simulate_study(raters=12, items=6, methods=3, form=form, seed=4, http=False)
    assert len(found.cells) == 12 and all(cell.inside for cell in found.cells)
    assert found.answers == 12 * (6 + 1 + 1 + 2) * (8 if form == "best_worst" else 4)
    assert summary(found).endswith("12 of 12 intervals hold the truth")


def test_the_known_table_comes_back_over_http():
    found = simulate_study(raters=6, items=6, methods=3, seed=1)
    assert all(cell.inside for cell in found.cells)
    assert [rater.flags for rater in found.report.raters] == [()] * 6
    assert found.answers == 6 * (6 + 1 + 1 + 2) * 4


def test_the_command_prints_the_table_and_json_last(capsys):
    given = ["--raters", "2", "--items", "3", "--methods", "2", "--at-once", "2", "--pace", "0.01"]
    assert main(["study", "simulate", *given]) == 0
    came = capsys.readouterr()
    lines = came.out.splitlines()
    result = json.loads(lines[-1])
    assert result["raters"] == 2 and len(result["cells"]) == 8
    assert (result["at_once"], result["pace"]) == (2, 0.01)
    assert 0 < result["save_ms"]["median"] <= result["save_ms"]["p95"] <= result["save_ms"]["p99"]
    assert set(result["seconds"]) == {"drawing", "creation", "answering", "report"}
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert any(line.startswith("MF") and "method A" in line for line in lines)
    assert any(line.startswith("a save took") for line in lines)
    assert "item 6/6" in came.err and "rater 2/2" in came.err


@pytest.mark.parametrize("database", postgres.one_every_day("postgresql"), indirect=True)
def test_everybody_at_once_in_any_database_and_nothing_is_left_of_it(database):
    crowd = Crowd(at_once=6, pace=0.02)
    found = simulate_study(raters=6, items=2, methods=2, crowd=crowd, database=database)
    assert found.answers == 6 * (2 + 1 + 1 + 2) * 4 and found.saves.p99 >= found.saves.median > 0
    if database is not None:
        engine = schema.connect(database)
        with engine.connect() as connection:
            for table in schema.metadata.sorted_tables:
                assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0
        engine.dispose()


def test_a_rater_thinks_before_every_answer_and_that_is_no_wait(monkeypatch):
    thoughts: list[float] = []
    monkeypatch.setattr("motion_app.study.synthetic_raters.time.sleep", thoughts.append)
    found = simulate_study(raters=4, items=2, methods=2, http=False, crowd=Crowd(pace=900.0))
    assert len(thoughts) == 4 * (2 + 1 + 1) * 4  # practice is not thought about
    assert 600 < sum(thoughts) / len(thoughts) < 1200
    assert found.phases.answering < 600 and 0 < found.saves.p99 < 600_000


def test_waits_are_percentiles_in_milliseconds():
    assert Waits.of([k / 1000 for k in range(101)]) == Waits(50, 95, 99)
    assert Waits.of([]) == Waits(0, 0, 0)


def test_a_preference_sums_to_one_and_differs_by_question():
    table = known_preference(("A", "B", "C"), ("MF", "TC"))
    assert all(sum(row.values()) == pytest.approx(1) for row in table.values())
    assert max(table["MF"], key=table["MF"].get) == "A"
    assert max(table["TC"], key=table["TC"].get) == "B"


def test_sizes_that_make_no_study_are_refused():
    with pytest.raises(RequestError, match="0 raters at once"):
        Crowd(at_once=0)
    with pytest.raises(RequestError, match="9 methods"):
        simulate_study(methods=9)
