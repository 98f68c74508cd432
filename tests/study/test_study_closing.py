"""The closing date, the order of questions, and what stands beside the consent."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from tiny_study import SECRET, Caller, agreed, answer_everything, make_study

from motion_app.errors import RequestError
from motion_app.study.creation import end_of_day
from motion_app.study.links import LinkEnded
from motion_app.study.site.app import build_site

NOW = 1.8e9


def test_after_the_last_day_nobody_answers_and_who_finished_finds_the_code(tmp_path) -> None:
    study = make_study(tmp_path / "study", closes=NOW, items=1, practice=0)
    study.archive.clock = lambda: NOW - 1
    with TestClient(build_site(study, admin_secret=SECRET)) as client:
        through, half = agreed(client, study), agreed(client, study)
        answer_everything(through)
        code = through.post("/api/finish", {}).json()["code"]
        links = study.raters.links()
        opening = study.archive.links.open_token()
        late = {"id": "0" * 32, "number": 0, "item": half.get("/api/items/0").json()["id"]}
        late |= {"question": "MF", "choice": 1, "coverage": [1.0] * 3}
        study.archive.clock = lambda: NOW + 1
        assert half.post("/api/answers", late).status_code == 410
        assert half.get("/api/session").status_code == 410
        assert client.get(f"/r/{links[1].token}").status_code == 410
        assert client.get(f"/r/{opening}").status_code == 410
        entry = {"open": opening, "browser": "0" * 32, "agreed": True}
        assert client.post("/api/enter", json=entry).status_code == 410
        assert through.get("/api/session").status_code == 200
        assert through.post("/api/finish", {}).json()["code"] == code
        assert half.post("/api/delete", {"sure": True}).status_code == 200  # always
    with pytest.raises(LinkEnded):
        study.raters.enter()
    study.close()


def test_questions_come_in_an_order_of_the_rater_s_own_where_that_was_chosen(tmp_path) -> None:
    study = make_study(tmp_path / "study", question_order="random", raters=12)
    with TestClient(build_site(study, admin_secret=SECRET)) as client:
        orders = []
        for token in study.raters.hand_out(12):
            rater = Caller(client, token)
            asked = [q["id"] for q in rater.get("/api/session").json()["questions"]]
            assert asked == [q["id"] for q in rater.get("/api/session").json()["questions"]]
            orders.append(tuple(asked))
    assert len(set(orders)) > 4 and {frozenset(order) for order in orders} == {
        frozenset(study.archive.config.questions)
    }
    study.close()


def test_duration_and_contact_are_told_before_consent(tmp_path) -> None:
    study = make_study(tmp_path / "study", minutes=12, contact="me@lab.example")
    with TestClient(build_site(study, admin_secret=SECRET)) as client:
        session = Caller(client, study.raters.hand_out(1)[0]).get("/api/session").json()
    assert (session["minutes"], session["contact"]) == (12, "me@lab.example")
    study.close()


def test_a_day_ends_at_midnight_here() -> None:
    assert end_of_day("2027-02-01") - end_of_day("2027-01-31") == 86_400
    with pytest.raises(RequestError, match='"soon" is no date'):
        end_of_day("soon")
