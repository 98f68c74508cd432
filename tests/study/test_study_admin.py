"""The administrator's page over HTTP: who comes in, what is hidden, what is recorded."""

from __future__ import annotations

import csv
import inspect
import io
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from postgres import database_of_pages  # noqa: F401
from tiny_study import METHODS, SECRET, Caller, answer_everything, make_study

from motion_app.study.answers import Study
from motion_app.study.site.app import build_site
from motion_app.study.site.guard import (
    COOKIE,
    TRIES,
    TRIES_IN_ALL,
    TRIES_SECONDS,
    Door,
    TooManyTries,
)


@pytest.fixture
def admin(client: TestClient) -> TestClient:
    assert client.post("/admin/login", data={"secret": SECRET}).status_code == 200
    return client


def test_the_admin_pages_open_by_the_secret_alone(client: TestClient) -> None:
    closed = ("progress", "links", "results")
    for name in closed:
        assert client.get(f"/admin/api/{name}").status_code == 401
    assert client.get("/admin/download/answers.csv").status_code == 401
    assert client.post("/admin/api/unblind", json={"confirm": "Rolling balls"}).status_code == 401
    assert 'name="secret"' in client.get("/admin/").text
    wrong = client.post("/admin/login", data={"secret": "wrong"})
    assert wrong.status_code == 403 and COOKIE not in wrong.cookies
    right = client.post("/admin/login", data={"secret": SECRET}, follow_redirects=False)
    assert right.status_code == 303 and SECRET not in right.headers["location"]
    flags = right.headers["set-cookie"].lower()
    assert "httponly" in flags and "samesite=strict" in flags and "path=/admin" in flags
    assert SECRET not in flags
    assert client.get("/admin/api/progress").status_code == 200
    client.post("/admin/logout")
    assert client.get("/admin/api/progress").status_code == 401


def test_over_https_the_cookie_is_secure(study: Study) -> None:
    site = build_site(study, admin_secret=SECRET)
    with TestClient(site, base_url="https://testserver") as client:
        response = client.post("/admin/login", data={"secret": SECRET}, follow_redirects=False)
    assert "secure" in response.headers["set-cookie"].lower()


def test_a_secret_in_the_address_opens_nothing(client: TestClient) -> None:
    assert client.get(f"/admin/api/progress?secret={SECRET}").status_code == 401
    assert client.post(f"/admin/login?secret={SECRET}").status_code == 403


def test_a_cookie_that_was_changed_or_is_old_or_of_another_study_is_refused() -> None:
    now = [1000.0]
    door = Door(SECRET, name="a", clock=lambda: now[0])
    cookie = door.knock(SECRET, "here")
    assert door.admits(cookie)
    assert not Door(SECRET, name="b", clock=lambda: now[0]).admits(cookie)
    assert not Door(SECRET + "!", name="a", clock=lambda: now[0]).admits(cookie)
    assert not door.admits("9" + cookie)
    assert not door.admits(cookie[:-1]) and not door.admits("") and not door.admits("ä.b")
    now[0] += 13 * 3600
    assert not door.admits(cookie)


def test_wrong_secrets_close_the_door_for_a_minute_to_who_sent_them() -> None:
    now = [0.0]
    door = Door(SECRET, clock=lambda: now[0])
    for _ in range(TRIES):
        assert door.knock("wrong", "there") is None
    with pytest.raises(TooManyTries):
        door.knock(SECRET, "there")
    assert door.knock(SECRET, "elsewhere")
    now[0] += TRIES_SECONDS + 1
    assert door.knock(SECRET, "there")


def test_nobody_else_shuts_out_who_was_inside_before_nor_who_comes_anew() -> None:
    now = [0.0]
    door = Door(SECRET, clock=lambda: now[0])
    known = door.known()
    for _ in range(TRIES):  # behind a proxy all have its address
        door.knock("wrong", "proxy")
    with pytest.raises(TooManyTries):
        door.knock(SECRET, "proxy")
    for forged in ("", known + "0", "0" + known, Door(SECRET + "!", clock=door._clock).known()):
        with pytest.raises(TooManyTries):
            door.knock(SECRET, "proxy", known=forged)
    assert not door.admits(known)
    assert door.knock(SECRET, "proxy", known=known)
    for _ in range(TRIES):  # a browser that was stolen is shut out as any other
        door.knock("wrong", "proxy", known=known)
    with pytest.raises(TooManyTries):
        door.knock(SECRET, "proxy", known=known)
    for number in range(TRIES_IN_ALL):
        door.knock("wrong", f"10.0.0.{number}")
    with pytest.raises(TooManyTries):
        door.knock("wrong", "10.0.0.1")
    assert door.knock(SECRET, "192.0.2.1")


def test_all_of_one_network_is_one_visitor() -> None:
    door = Door(SECRET, clock=lambda: 0.0)
    for number in range(TRIES):
        door.knock("wrong", f"2001:db8::{number}")
    with pytest.raises(TooManyTries):
        door.knock(SECRET, "2001:db8::ffff")
    assert door.knock(SECRET, "2001:db8:0:1::1")


def test_a_browser_that_was_inside_is_known_again(client: TestClient) -> None:
    client.post("/admin/login", data={"secret": SECRET})
    client.cookies.delete("study_admin")
    known = dict(client.cookies)
    assert set(known) == {"study_known"} and client.get("/admin/api/progress").status_code == 401
    client.cookies.clear()
    for _ in range(TRIES):
        client.post("/admin/login", data={"secret": "wrong"})
    assert client.post("/admin/login", data={"secret": SECRET}).status_code == 429
    client.cookies.update(known)
    assert client.post("/admin/login", data={"secret": SECRET}).status_code == 200


def test_secrets_are_compared_in_constant_time() -> None:
    for method in (Door.knock, Door.admits):
        assert "compare_digest" in inspect.getsource(method)


def test_too_many_tries_are_told_with_when_to_come_back(client: TestClient) -> None:
    for _ in range(TRIES):
        client.post("/admin/login", data={"secret": "wrong"})
    response = client.post("/admin/login", data={"secret": SECRET})
    assert response.status_code == 429
    assert 0 < int(response.headers["retry-after"]) <= TRIES_SECONDS + 1


def test_results_stay_hidden_until_the_title_is_typed_and_it_is_recorded(
    admin: TestClient, rater: Caller
) -> None:
    answer_everything(rater)
    before = admin.get("/admin/api/progress")
    assert all(method not in before.text for method in METHODS)
    for path in ("/admin/api/results", "/admin/download/answers.csv"):
        assert admin.get(path).status_code == 403
    assert admin.post("/admin/api/unblind", json={"confirm": "Rolling"}).status_code == 400
    assert admin.post("/admin/api/unblind", json={"confirm": "Rolling balls"}).status_code == 200
    record = admin.get("/admin/api/progress").json()["record"]
    assert [entry["kind"] for entry in record] == ["unblinded"]
    results = admin.get("/admin/api/results").json()
    for question in results["questions"]:
        assert sum(share["votes"] for share in question["shares"]) == 2
    assert results["figures"]["shares"]["figure"]["data"]
    assert b"Plotly" in admin.get("/admin/plots.js").content


def test_every_download_is_there_and_cells_are_guarded(
    tmp_path: Path, database: str | None
) -> None:
    evil = '=HYPERLINK("http://evil.example","x")'
    study = make_study(tmp_path / "study", names={2: evil}, database=database)
    with TestClient(build_site(study, admin_secret=SECRET)) as client:
        caller = Caller(client, study.raters.hand_out(1)[0])
        caller.post("/api/consent", {"agreed": True})
        answer_everything(caller)
        client.post("/admin/login", data={"secret": SECRET})
        client.post("/admin/api/unblind", json={"confirm": "Rolling balls"})
        files = ("answers.csv", "answers.parquet", "results.json", "table.tex", "codebook.md")
        found = {name: client.get(f"/admin/download/{name}") for name in files}
        assert client.get("/admin/download/study.sqlite").status_code == 404
    for name, response in found.items():
        assert response.status_code == 200 and response.content
        assert response.headers["content-disposition"] == f'attachment; filename="{name}"'
    rows = list(csv.DictReader(io.StringIO(found["answers.csv"].text)))
    assert "'" + evil in {row["item"] for row in rows}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(tuple("=+-@"))]
    assert found["answers.parquet"].content[:4] == b"PAR1"


def test_the_administrator_frees_the_place_of_somebody_who_gave_up(
    admin: TestClient, rater: Caller, study: Study
) -> None:
    rater.answer(2, "MF", 1)
    seat = admin.get("/admin/api/progress").json()["raters"][0]
    assert seat["answered"] == pytest.approx(time.time(), abs=60)
    stale = {"number": 0, "joined": seat["joined"] - 1}
    assert admin.post("/admin/api/release", json=stale).status_code == 400
    told = admin.post("/admin/api/release", json={"number": 0, "joined": seat["joined"]})
    assert told.json() == {"deleted": 1}
    assert rater.get("/api/session").status_code == 401
    after = admin.get("/admin/api/progress").json()
    assert after["raters"][0]["joined"] is None and after["answers"] == 0
    assert [entry["kind"] for entry in after["record"]] == ["place released"]
    admin.post("/admin/logout")
    assert admin.post("/admin/api/release", json=stale).status_code == 401


def test_links_that_were_handed_out_open_the_study(admin: TestClient, study: Study) -> None:
    links = admin.post("/admin/api/links", json={"count": 2}).json()
    assert [link["number"] for link in links["personal"]] == [0, 1]
    for link in links["personal"]:
        assert Caller(admin, link["page"].removeprefix("r/")).get("/api/session").status_code == 200
    assert links["recruiting"].endswith("&SESSION_ID={{%SESSION_ID%}}")
    assert admin.post("/admin/api/links", json={"count": 9}).status_code == 400
