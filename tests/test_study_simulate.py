"""What synthetic raters prefer comes back through the store and through the real HTTP calls."""

from __future__ import annotations

import json

import pytest

from motion_app import cli
from motion_app.errors import RequestError
from motion_app.study.simulate import known_preference, simulate_study, summary

pytestmark = pytest.mark.usefixtures("small_heap")


@pytest.mark.parametrize("form", ["single", "pair", "best_worst"])
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
    assert cli.main(["study", "simulate", "--raters", "2", "--items", "3", "--methods", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert result["raters"] == 2 and len(result["cells"]) == 8
    assert any(line.startswith("MF") and "method A" in line for line in lines)


def test_a_preference_sums_to_one_and_differs_by_question():
    table = known_preference(("A", "B", "C"), ("MF", "TC"))
    assert all(sum(row.values()) == pytest.approx(1) for row in table.values())
    assert max(table["MF"], key=table["MF"].get) == "A"
    assert max(table["TC"], key=table["TC"].get) == "B"


def test_sizes_that_make_no_study_are_refused():
    with pytest.raises(RequestError, match="9 methods"):
        simulate_study(methods=9)
