"""Who is counted: registered, chosen, recorded, told."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from tiny_study import SECRET, Caller, agreed, answer_everything, make_study

from motion_app.errors import RequestError
from motion_app.study.analysis_set import BY_HAND, analysis_set, choose_analysis
from motion_app.study.answers import Study
from motion_app.study.plan import StudyConfig
from motion_app.study.report import study_report
from motion_app.study.unblinding import record, unblind


@pytest.fixture
def crowd(client: TestClient, study: Study) -> list[Caller]:
    """Raters 0 and 1 finish, 2 answers one question: 0 in a second, 1 takes his time."""
    raters = [agreed(client, study) for _ in range(3)]
    for number, rater in enumerate(raters[:2]):
        session = rater.get("/api/session").json()
        for screen in range(session["practice"] + session["items"]):
            for question in session["questions"]:
                rater.answer(screen, question["id"], 1, shown_ms=1 + 30_000 * number)
        assert rater.post("/api/finish", {}).status_code == 200
    raters[2].answer(2, "MF", 1, shown_ms=30_000)
    return raters


def test_a_set_says_who_came_who_is_through_and_who_is_flagged(
    crowd: list[Caller], study: Study
) -> None:
    found = analysis_set(study.archive)
    assert (found.rule, found.registered, found.chosen, found.blind) == ("all", "all", None, True)
    assert (found.seats, found.joined, found.unfinished, found.flagged) == (3, 3, (2,), (0,))
    assert found.sentence() == (
        "Counted: everybody who joined (as registered), 3 raters. "
        "3 of 3 joined, 1 unfinished, 1 flagged; left out: nobody."
    )


def test_a_rule_leaves_out_whom_it_says_and_the_report_counts_the_others(
    crowd: list[Caller], study: Study
) -> None:
    unblind(study.archive)
    for rule, without, left_out in (
        ("finished", (), (2,)),
        ("unflagged", (), (0, 2)),
        (BY_HAND, (1,), (1,)),
        ("all", (), ()),
    ):
        choose_analysis(study.archive, rule, without=without, by="test")
        report = study_report(study.archive)
        assert report.left_out == report.analysis.left_out == left_out, rule
        assert {rater.number for rater in report.raters} == {0, 1, 2} - set(left_out), rule
        assert report.counted == report.analysis.sentence()


def test_every_change_is_recorded_and_whether_it_was_made_blind(
    crowd: list[Caller], study: Study
) -> None:
    choose_analysis(study.archive, "finished", by="test")
    choose_analysis(study.archive, "finished", by="test")  # as it is already
    assert analysis_set(study.archive).blind
    unblind(study.archive)
    assert analysis_set(study.archive).blind
    late = choose_analysis(study.archive, BY_HAND, without=(2, 0), by="test")
    assert not late.blind and "chosen after unblinding; registered: everybody" in late.sentence()
    told = [(entry["kind"], entry["detail"].get("set")) for entry in record(study.archive)]
    assert told == [
        ("analysis chosen", "finished"),
        ("unblinded", None),
        ("analysis chosen", BY_HAND),
    ]
    assert record(study.archive)[-1]["detail"]["left_out"] == [0, 2]


def test_what_cannot_be_chosen_is_refused_and_not_recorded(
    crowd: list[Caller], study: Study
) -> None:
    for rule, without, said in (
        ("best", (), 'got "best"'),
        (BY_HAND, (7,), "no rater 7"),
        (BY_HAND, (0, 1, 2), "everybody would be left out"),
    ):
        with pytest.raises(RequestError, match=said):
            choose_analysis(study.archive, rule, without=without, by="test")
    assert record(study.archive) == []


def test_the_study_s_own_rule_holds_from_the_start(tmp_path) -> None:
    study = make_study(tmp_path / "study", analysis="unflagged")
    assert analysis_set(study.archive).rule == "unflagged"
    study.close()
    with pytest.raises(RequestError, match="analysis is wrong"):
        StudyConfig.build(title="x", methods=("A", "B"), analysis="by hand")


def test_the_administrator_chooses_on_the_page(client: TestClient, study: Study) -> None:
    answer_everything(agreed(client, study))
    given = {"rule": BY_HAND, "without": []}
    assert client.post("/admin/api/analysis", json=given).status_code == 401
    client.post("/admin/login", data={"secret": SECRET})
    assert client.get("/admin/api/progress").json()["analysis"]["rule"] == "all"
    assert client.post("/admin/api/analysis", json=given).json()["rule"] == BY_HAND
    wrong = client.post("/admin/api/analysis", json={"rule": BY_HAND, "without": [9]})
    assert wrong.status_code == 400 and "no rater 9" in wrong.json()["error"]
    client.post("/admin/api/unblind", json={"confirm": "Rolling balls"})
    report = client.get("/admin/api/results").json()
    assert report["analysis"]["rule"] == BY_HAND and report["analysis"]["blind"]
    latex = client.get("/admin/download/table.tex").text
    assert latex.startswith("% Counted: those chosen by hand (chosen before unblinding")
