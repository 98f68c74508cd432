"""The study over HTTP: who may do what, and what a rater's browser may know."""

from __future__ import annotations

import html
import json
import re
import secrets
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from postgres import database_of_pages  # noqa: F401
from test_study_items import draw_items
from tiny_study import METHODS, SECRET, Caller, answer_everything, make_study

from motion_app.errors import RequestError
from motion_app.media.provenance import read_recipe
from motion_app.study import database as schema
from motion_app.study.answers import Answers, Study
from motion_app.study.creation import create_study
from motion_app.study.links import Recruit, new_id
from motion_app.study.plan import CONSENT, QUESTIONS
from motion_app.study.site import documents
from motion_app.study.site import rater as rater_calls
from motion_app.study.site.app import StudySettings, build_site, build_study_app, study_secret
from motion_app.study.site.guard import MAX_BODY_BYTES
from motion_app.study.sources import read_sources
from motion_app.study.unblinding import answer_rows, unblind


@pytest.fixture
def admin(client: TestClient) -> TestClient:
    assert client.post("/admin/login", data={"secret": SECRET}).status_code == 200
    return client


# --- the rater


def test_a_visit_over_http_ends_with_the_raters_code(rater: Caller, study: Study) -> None:
    refused = rater.post("/api/finish", {})
    assert refused.status_code == 409
    assert "not answered yet" in refused.json()["error"]
    answer_everything(rater)
    finished = rater.post("/api/finish", {}).json()
    token = rater.headers["Authorization"].removeprefix("Rater ")
    assert finished["code"] == study.archive.links.completion_code(study.archive.links.rater(token))
    assert finished["return_url"].endswith(finished["code"])
    assert rater.get("/api/session").json()["finished"]


def everything_received(rater: Caller) -> dict[str, bytes]:
    """Every byte a rater's browser may ever get, headers included, by address."""
    addresses = ["/", "/r/x", "/r/x?lang=zh", "/?lang=zh", "/api/session", "/api/items/99"]
    addresses += ["/nothing", "/favicon.ico", "/admin/"]
    addresses += ["/static/" + path.name for path in documents.STATIC.iterdir()]
    session = rater.get("/api/session").json()
    for number in range(session["practice"] + session["items"]):
        addresses.append(f"/api/items/{number}")
        item = rater.get(f"/api/items/{number}").json()
        addresses += ["/" + item["first_frame"]]
        addresses += ["/" + media for media in (*item["references"], *item["candidates"])]
    received = {address: rater.get(address) for address in addresses}
    received["practice"] = rater.post("/api/practice/0", {"choices": {"MF": 1}})
    received["answer"] = rater.answer(session["practice"], "MF", 9)
    received["finish"] = rater.post("/api/finish", {})
    return {
        address: f"{address}\n{response.headers}\n".encode() + response.content
        for address, response in received.items()
    }


def test_nothing_a_raters_browser_receives_names_a_method(rater: Caller) -> None:
    received = everything_received(rater)
    names = [name.lower() for method in METHODS for name in (method, method.replace("-", " "))]
    for address, content in received.items():
        told = [name for name in names if name.encode() in content.lower()]
        assert not told, f"{address} tells {told}"
    assert len(received) > 30


def test_videos_of_a_created_study_tell_neither_method_nor_file_nor_recipe(
    tmp_path: Path, database: str | None
) -> None:
    source = draw_items(tmp_path / "results of spring", 1, methods=METHODS)
    files = [*source.rglob("*.mp4"), *source.rglob("*.png")]
    assert read_recipe(source / "item-0" / "FlexiMMT.mp4") == {"method": "FlexiMMT"}
    study = create_study(
        tmp_path / "study", read_sources(source), title="T", raters=1, database=database
    ).study
    with TestClient(build_site(study, admin_secret=SECRET)) as client:
        caller = Caller(client, study.raters.hand_out(1)[0])
        caller.post("/api/consent", {"agreed": True})
        received = everything_received(caller)
    study.close()
    names = {*METHODS, *(path.name for path in files), "item-0", "results of spring", "recipe"}
    names |= {"AI-generated", str(tmp_path)}
    for address, content in received.items():
        told = [name for name in names if name.lower().encode() in content.lower()]
        assert not told, f"{address} tells {told}"
    assert sum(address.endswith(".mp4") for address in received) == 4 * (1 + len(METHODS))


def test_headers_of_clips_do_not_tell_which_were_made_together(rater: Caller) -> None:
    item = rater.get("/api/items/2").json()
    for name in item["candidates"]:
        response = rater.get("/" + name)
        assert response.status_code == 200
        assert "last-modified" not in response.headers
        assert response.headers["etag"].strip('"') in name
        assert re.fullmatch(r"media/[0-9a-f]{32}\.mp4", name)
        part = rater.client.get("/" + name, headers={"Range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")


def test_a_rater_page_knows_nothing_of_what_the_administrator_watches_for(
    client: TestClient,
) -> None:
    page = client.get("/r/x").text
    assert "gold" not in page.lower()
    assert "admin" not in page.lower()


def test_an_answer_sent_twice_counts_once(rater: Caller, study: Study) -> None:
    same = secrets.token_hex(16)
    for _ in range(2):
        assert rater.answer(2, "MF", 2, id=same).json()["saved"]
    rater.answer(2, "MF", 2)  # a double click: another id, the same choice
    unblind(study.archive)
    rows = answer_rows(study.archive)
    assert [(row.place, row.revisions) for row in rows] == [(2, 0)]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"choice": 4}, "place from 1 to 3"),
        ({"choice": 0}, "place from 1 to 3"),
        ({"question": "XX"}, "this study asks"),
        ({"item": "0" * 32}, "reload the page"),
        ({"coverage": [1.0, 1.0]}, "3 shares"),
        ({"coverage": [1.0, 0.5, 1.0]}, "watch it to the end"),
        ({"id": "not hex"}, "32 hex digits"),
        ({"number": 77}, "no screen 77"),
        ({"choice": "x"}, "choice is wrong"),
        ({"extra": 1}, "extra is wrong"),
        ({"shown_ms": -1}, "whole numbers from 0"),
    ],
)
def test_an_answer_outside_the_plan_is_refused_in_one_line(
    rater: Caller, study: Study, changed: dict[str, object], why: str
) -> None:
    response = rater.answer(2, "MF", 1, **changed)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert why in response.json()["error"]
    assert "\n" not in response.json()["error"]
    assert (
        study.answers.progress(study.archive.links.rater(rater.headers["Authorization"][6:])).done
        == 0
    )


def test_nothing_is_shown_or_saved_before_consent(client: TestClient, study: Study) -> None:
    caller = Caller(client, study.raters.hand_out(1)[0])
    assert caller.get("/api/items/0").status_code == 403
    assert caller.post("/api/consent", {"agreed": False}).status_code == 400
    assert not caller.get("/api/session").json()["consented"]


@pytest.mark.parametrize("header", ["", "Rater", "Rater x.y", "Bearer abc", "Rater open.x"])
def test_a_wrong_token_opens_nothing(client: TestClient, header: str) -> None:
    for path in ("/api/session", "/api/items/0"):
        response = client.get(path, headers={"Authorization": header})
        assert response.status_code == 401
        assert list(response.json()) == ["error"]


def test_one_recruit_has_one_place_however_often_the_link_is_opened(
    client: TestClient, study: Study
) -> None:
    ids = {"prolific_pid": "a person", "study_id": "a project", "session_id": "a visit"}
    entry = {"open": study.archive.links.open_token(), "agreed": True, **ids}
    tokens = {client.post("/api/enter", json=entry).json()["token"] for _ in range(3)}
    assert tokens == {study.raters.enter(Recruit("a person"))}
    assert client.post("/api/enter", json={**entry, "open": "open.wrong"}).status_code == 401
    with study.archive.reading() as connection:
        tables = [connection.execute(sa.select(t)).all() for t in schema.metadata.sorted_tables]
    assert not [given for given in ids.values() if given in str(tables)]


@pytest.mark.parametrize("session", ["a visit", ""])
def test_an_id_alone_opens_nothing_that_was_answered(
    client: TestClient, study: Study, session: str
) -> None:
    ids = {"prolific_pid": "a person", "session_id": session}
    entry = {"open": study.archive.links.open_token(), "agreed": True, **ids}
    token = client.post("/api/enter", json=entry).json()["token"]
    assert Caller(client, token).answer(2, "MF", 1).status_code == 200
    strange = [{"session_id": "another"}, {"session_id": ""}]
    for changed in ({"agreed": agreed, **ids} for agreed in (True, False) for ids in strange):
        refused = client.post("/api/enter", json=entry | changed)
        assert refused.status_code == 400 and refused.json()["reason"] == "begun"
        assert "token" not in refused.text
    again = client.post("/api/enter", json=entry)
    assert again.json().get("token") == (token if session else None)
    assert study.answers.trial(study.raters.join(token).id, 2).answers
    assert Caller(client, token).get("/api/session").status_code == 200  # one's own link


def test_a_place_is_taken_by_agreeing_and_not_by_opening_the_link(
    client: TestClient, study: Study
) -> None:
    opened = {"open": study.archive.links.open_token()}
    for _ in range(study.archive.config.raters + 1):  # more lookers than there are places
        looked = client.post("/api/enter?lang=zh", json={**opened, "browser": new_id()}).json()
        assert looked["token"] is None and looked["page"] is None
    session = looked["session"]
    assert not session["consented"] and (session["practice"], session["items"]) == (2, 2)
    assert session["questions"][0]["text"] == documents.question_text("MF", "zh")
    browser = {**opened, "browser": new_id()}
    taken = [client.post("/api/enter", json={**browser, "agreed": True}).json() for _ in range(2)]
    assert taken[0]["token"] == taken[1]["token"] and taken[0]["session"]["consented"]
    again = client.post("/api/enter", json=browser).json()  # it came back before it was told
    assert again["token"] == taken[0]["token"]
    assert len(study.raters.hand_out(study.archive.config.raters - 1)) == 2
    full = client.post("/api/enter", json={**opened, "browser": new_id()})
    assert (full.status_code, full.json()["reason"]) == (400, "full")


UNFILLED = [
    *("{{%PROLIFIC_PID%}}", "{{PROLIFIC_PID}}", "%PROLIFIC_PID%", "${PROLIFIC_PID}", "[PID]"),
    *("%7B%7B%25PROLIFIC_PID%25%7D%7D", "%257B%257BPROLIFIC_PID%257D%257D", "<id>", "*|PID|*"),
    *("${e://Field/PID}", "__PROLIFIC_PID__", "PROLIFIC-PID", "workerId", "Participant ID"),
    *("undefined", "NULL", "None", "NaN", "n/a", "[object Object]", "-", "0", "0000-0000", "-1"),
    *("", " ", "\u00a0", "\u200b", "%20", "%09%0a", "\t", "???", "ASSIGNMENT_ID_NOT_AVAILABLE"),
]


@pytest.mark.parametrize("given", UNFILLED)
def test_a_link_whose_placeholder_was_not_filled_in_seats_nobody(
    client: TestClient, study: Study, given: str
) -> None:
    entry = {"open": study.archive.links.open_token(), "prolific_pid": given, "agreed": True}
    refused = client.post("/api/enter", json=entry)
    assert (refused.status_code, refused.json()["reason"]) == (400, "identity")
    said = {"en": "recruiting service fills your ID in", "zh": "平台会自动填入您的 ID"}
    for name, (language, words) in zip(("PROLIFIC_PID", "prolific_pid"), said.items(), strict=True):
        query = {name: given, "lang": language}
        page = client.get(f"/r/{study.archive.links.open_token()}", params=query)
        assert page.status_code == 400 and words in page.text
    assert len(study.raters.hand_out(study.archive.config.raters)) == study.archive.config.raters


def test_a_placeholder_in_a_link_as_the_admin_page_gives_it_out_is_refused_with_its_words(
    client: TestClient, admin: TestClient
) -> None:
    link = admin.get("/admin/api/links").json()["recruiting"]
    page = client.get(f"/{link}")
    assert page.status_code == 400 and "says “{{%PROLIFIC_PID%}}”" in page.text


@pytest.mark.parametrize(
    "given", ["5f3e1d2c4b5a69788796a5b4", "p1", "anna@example.org", "A1B2=", "李雷", "nullius", "7"]
)
def test_an_id_is_the_same_person_in_whatever_encoding(study: Study, given: str) -> None:
    forms = (given, f" {given}\u200b", quote(given), quote(quote(given)))
    assert len({study.raters.enter(Recruit(form)) for form in forms}) == 1


def test_a_late_rater_whose_place_was_given_away_is_told_and_gets_another(
    tmp_path: Path, database: str | None
) -> None:
    study = make_study(tmp_path / "hours", raters=2, place_hours=3, database=database)
    with TestClient(build_site(study, admin_secret=SECRET)) as client:

        def come(name: str) -> httpx.Response:
            entry = {"open": study.archive.links.open_token(), "prolific_pid": name, "agreed": True}
            return client.post("/api/enter", json=entry)

        late, eager = (Caller(client, come(name).json()["token"]) for name in ("late", "eager"))
        assert eager.answer(2, "MF", 1).status_code == 200
        item = late.get("/api/items/2").json()["id"]
        assert come("third").json()["reason"] == "full"
        start = study.archive.clock()
        study.archive.clock = lambda: start + 3.1 * 3600
        assert late.get("/api/session").status_code == 200  # nobody needed it yet
        assert come("third").status_code == 200
        sent = {"id": new_id(), "number": 2, "item": item, "question": "MF", "choice": 1}
        calls = [late.get("/api/session"), late.get("/api/items/2"), late.post("/api/finish", {})]
        calls.append(late.post("/api/answers", {**sent, "coverage": [1.0] * 3}))
        calls.append(late.post("/api/delete", {"sure": True}))
        for refused in calls:
            assert (refused.status_code, refused.json()["reason"]) == (410, "place_gone")
            assert "within 3 hours" in refused.json()["error"]
        assert come("late").json()["reason"] == "full"
        study.raters.release(0, joined=study.archive.clock())
        assert Caller(client, come("late").json()["token"]).get("/api/items/2").status_code == 200
        assert eager.answer(2, "TC", 1).status_code == 200  # who has answered keeps the place
    study.close()


def test_deleted_data_is_gone_and_the_link_with_it(rater: Caller, study: Study) -> None:
    rater.answer(2, "MF", 1)
    assert rater.post("/api/delete", {"sure": False}).status_code == 400
    assert rater.post("/api/delete", {"sure": True}).json() == {"deleted": 1}
    assert rater.get("/api/session").status_code == 401
    unblind(study.archive)
    assert answer_rows(study.archive) == []


def test_wrong_practice_answers_name_the_right_place(rater: Caller, study: Study) -> None:
    item = next(item for item in study.archive.items.values() if item.kind == "practice")
    shown = rater.get("/api/items/0").json()["candidates"]
    right = shown.index("media/" + item.candidates[item.answer]) + 1
    wrong = right % 3 + 1
    checked = rater.post("/api/practice/0", {"choices": dict.fromkeys(QUESTIONS, wrong)}).json()
    assert checked["expected"] == dict.fromkeys(QUESTIONS, right)
    assert not checked["passed"] and not any(checked["right"].values())
    part = rater.post("/api/practice/0", {"choices": {"MF": right}}).json()
    assert part["right"] == {"MF": True} and not part["passed"]  # three were not answered
    assert rater.post("/api/practice/0", {"choices": dict.fromkeys(QUESTIONS, right)}).json()[
        "passed"
    ]
    assert rater.post("/api/practice/2", {"choices": {"MF": 1}}).status_code == 400


# --- the way in


def test_every_response_has_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/api/session", "/nothing", "/static/rater.js", "/media/x", "/admin/"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"  # a token is in the address
        assert "access-control-allow-origin" not in headers


def test_a_page_of_another_site_can_change_nothing(rater: Caller, study: Study) -> None:
    for foreign in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        headers = {**rater.headers, **foreign}
        response = rater.client.post("/api/delete", headers=headers, json={"sure": True})
        assert response.status_code == 403
    own = {**rater.headers, "Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
    assert rater.client.post("/api/finish", headers=own, json={}).status_code == 409


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "kind",
    [
        *(
            "application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ),
        *(
            "text/plain",
            "application/octet-stream",
            "video/mp4",
            "APPLICATION/JSON; charset=utf-16",
        ),
        *("x/y", ""),
    ],
)
def test_a_body_is_limited_whatever_it_calls_itself_and_whoever_sends_it(
    admin: TestClient, rater: Caller, kind: str
) -> None:
    stranger = TestClient(admin.app)  # before the login
    paths = ("/api/answers", "/api/enter", "/admin/login", "/admin/api/unblind", "/r/x", "/nothing")
    for path in paths:
        for caller, headers in ((stranger, {}), (admin, {}), (admin, rater.headers)):
            whole = b"A" * (MAX_BODY_BYTES + 1)
            pieces = (b"A" * 1000 for _ in range(MAX_BODY_BYTES // 1000 + 2))
            for body in (whole, pieces):
                sent = caller.post(path, content=body, headers={**headers, "Content-Type": kind})
                assert sent.status_code == 413 and "64 KB" in sent.json()["error"]


def test_a_large_body_is_refused_with_and_without_a_stated_length(rater: Caller) -> None:
    large = b"x" * (MAX_BODY_BYTES + 1)
    stated = rater.client.post("/api/answers", headers=rater.headers, content=large)
    streamed = rater.client.post(
        "/api/answers", headers=rater.headers, content=iter([large[:40_000], large[:40_000]])
    )
    assert (stated.status_code, streamed.status_code) == (413, 413)
    assert "64 KB" in stated.json()["error"]


def test_a_fault_of_the_server_shows_no_trace(
    client: TestClient, rater: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("inner words")

    monkeypatch.setattr(Answers, "progress", fail)
    response = rater.get("/api/session")
    assert response.status_code == 500
    assert "inner words" not in response.text and "Traceback" not in response.text
    assert "log says what" in response.json()["error"]


def test_templates_and_tables_are_not_served_as_files(client: TestClient) -> None:
    outside = ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "..%5capp.py", "%2fetc%2fpasswd", "%00")
    templates = ("rater.html", "texts.csv", "..%2ftemplates%2ftexts.csv", "../templates/rater.html")
    for name in (*outside, *templates, "", "nothing.js"):
        refused = client.get(f"/static/{name}")
        assert refused.status_code == 404 and list(refused.json()) == ["error"], name
    for name in ("../study.sqlite", "..%2fstudy.sqlite", "study.sqlite"):
        assert client.get(f"/media/{name}").status_code == 404


def test_a_link_that_has_ended_says_so_on_a_page_and_to_every_call_but_deletion(
    tmp_path: Path, database: str | None
) -> None:
    study = make_study(tmp_path / "study", database=database, link_days=3)
    with TestClient(build_site(study, admin_secret=SECRET)) as client:
        token = study.raters.hand_out(1)[0]
        caller = Caller(client, token)
        caller.post("/api/consent", {"agreed": True})
        assert caller.answer(2, "MF", 1).status_code == 200
        sent = {"id": secrets.token_hex(16), "number": 2, "question": "TC", "choice": 1}
        sent |= {"item": caller.get("/api/items/2").json()["id"], "coverage": [1.0, 1.0, 1.0]}
        assert client.get(f"/r/{token}").status_code == 200
        start = study.archive.clock()
        study.archive.clock = lambda: start + 4 * 86_400
        for language, said in (("en", "This link has ended"), ("zh", "此链接已到期")):
            page = client.get(f"/r/{token}?lang={language}")
            assert page.status_code == 410 and said in page.text and token not in page.text
        calls = [caller.get("/api/session"), caller.get("/api/items/2")]
        calls.append(caller.post("/api/answers", sent))
        calls += [caller.post("/api/finish", {}), caller.post("/api/practice/0", {"choices": {}})]
        for refused in calls:
            assert refused.status_code == 410
            assert "ended 3 days after it was first opened" in refused.json()["error"]
        assert (
            study.answers.progress(study.archive.links.rater(token)).done == 0
        )  # one of four questions
        assert caller.post("/api/delete", {"sure": True}).json() == {"deleted": 1}
    study.close()


def test_clips_are_served_whole_or_in_parts_with_headers_that_tell_nothing(
    rater: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "/" + rater.get("/api/items/0").json()["candidates"][0]
    whole = rater.client.get(address)
    monkeypatch.setattr(rater_calls, "SMALL_BYTES", 10)
    streamed = rater.client.get(address)
    assert whole.content == streamed.content and dict(whole.headers) == dict(streamed.headers)
    assert "last-modified" not in whole.headers and "immutable" in whole.headers["cache-control"]
    part = rater.client.get(address, headers={"Range": "bytes=4-11"})
    assert part.status_code == 206 and part.content == whole.content[4:12]
    assert rater.client.head(address).headers["content-length"] == str(len(whole.content))
    assert rater.client.post(address).status_code == 405


def test_a_script_is_asked_for_at_every_visit_and_sent_again_only_when_it_changed(
    client: TestClient,
) -> None:
    first = client.get("/static/rater.js")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert first.content == (documents.STATIC / "rater.js").read_bytes()
    for came, given in ((304, first.headers["etag"]), (200, '"another"')):
        again = client.get("/static/rater.js", headers={"If-None-Match": given})
        assert again.status_code == came and (came == 200) == bool(again.content)
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["cache-control"] == "no-cache"
        assert again.headers["x-content-type-options"] == "nosniff"
    assert client.post("/static/rater.js").status_code == 405
    assert client.head("/static/rater.js").headers["content-length"] == str(len(first.content))


def test_words_that_look_like_a_tag_stay_words(tmp_path: Path) -> None:
    title = "</script><b title='x'>\"bold\"</b>{{admin.title}}"
    study = make_study(tmp_path / "study", title=title)
    with TestClient(build_site(study, admin_secret=SECRET)) as client:
        client.post("/admin/login", data={"secret": SECRET})
        page = client.get("/admin/").text
        shown = re.search("<title>(.*?) · ", page)
        assert html.unescape(shown[1]) == title and not set(shown[1]) & set("<>'\"")
        token = f"{study.archive.links.open_token()}?PROLIFIC_PID=<b>{{{{pid}}}}"
        told = client.get(f"/r/{token}").text
        assert "&lt;b&gt;{{pid}}" in told and "<b>" not in told
    study.close()


# --- mounted anywhere


@pytest.mark.parametrize("prefix", ["/study", "/a/b"])
def test_under_any_prefix_pages_and_cookies_know_where_they_are(study: Study, prefix: str) -> None:
    outer = FastAPI()
    outer.mount(prefix, build_site(study, admin_secret=SECRET))
    with TestClient(outer) as client:
        assert f'<base href="{prefix}/">' in client.get(f"{prefix}/r/x").text
        login = client.post(
            f"{prefix}/admin/login", data={"secret": SECRET}, follow_redirects=False
        )
        assert login.headers["location"] == f"{prefix}/admin/"
        assert f"path={prefix}/admin" in login.headers["set-cookie"].lower()
        assert client.get(f"{prefix}/admin/api/progress").status_code == 200
        assert client.get(f"{prefix}/static/rater.js").status_code == 200


def test_a_folder_of_studies_serves_each_below_its_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_study(tmp_path / name, title=f"Study {name}")
    outer = FastAPI()
    outer.mount("/study", build_study_app(StudySettings(tmp_path)))
    with TestClient(outer) as client:
        for name in ("one", "two"):
            assert f'<base href="/study/{name}/">' in client.get(f"/study/{name}/r/x").text
            secret = study_secret(tmp_path / name)
            client.post(f"/study/{name}/admin/login", data={"secret": secret})
            progress = client.get(f"/study/{name}/admin/api/progress").json()
            assert progress["title"] == f"Study {name}"
        make_study(tmp_path / "three")  # while the server runs
        assert client.get("/study/three/").status_code == 200
        for name in ("four", "..", "%2e%2e", ""):
            assert client.get(f"/study/{name}/api/session").status_code == 404


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_without_a_link_a_person_is_asked_for_it_and_told_of_no_study(tmp_path: Path) -> None:
    make_study(tmp_path / "secret-name", title="Secret title").close()
    with TestClient(build_study_app(StudySettings(tmp_path))) as client:
        for address in ("/", "/secret-name/"):
            page = client.get(address, headers=BROWSER)
            assert page.status_code == 200 and "Please use your own link" in page.text
            assert "secret title" not in page.text.lower() and 'href="r/' not in page.text
        assert "secret" not in client.get("/", headers=BROWSER).text.lower()
        chinese = client.get("/", headers={**BROWSER, "Accept-Language": "zh-CN"})
        assert "请使用您的链接" in chinese.text


def test_a_wrong_address_is_a_page_for_people_and_json_for_scripts(tmp_path: Path) -> None:
    make_study(tmp_path / "one").close()
    with TestClient(build_study_app(StudySettings(tmp_path))) as client:
        for address in ("/two", "/one/nothing", "/one/r/x/y", "/one/media/x.mp4", "/one/r/"):
            page = client.get(address, headers=BROWSER)
            assert page.status_code == 404 and "There is no such page" in page.text
            assert page.headers["content-security-policy"]
            assert list(client.get(address).json()) == ["error"]
        for address in ("/favicon.ico", "/one/favicon.ico"):
            assert client.get(address).headers["content-type"] == "image/svg+xml"
        assert client.get("/static/notice.css").status_code == 200
        assert client.get("/static/notice.html").status_code == 404


def test_a_study_whose_database_is_away_says_so_in_words(tmp_path: Path) -> None:
    make_study(tmp_path / "one").close()
    note = json.loads((tmp_path / "one" / "study.json").read_text())
    (tmp_path / "one" / "study.json").write_text(json.dumps({**note, "database": "elsewhere"}))
    with TestClient(build_study_app(StudySettings(tmp_path))) as client:
        page = client.get("/one/r/x", headers=BROWSER)
        assert page.status_code == 503 and "cannot be opened now" in page.text
        assert list(client.get("/one/api/session").json()) == ["error"]


def test_a_studys_secret_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    secret = study_secret(tmp_path)
    assert len(secret) >= 20 and study_secret(tmp_path) == secret
    assert (tmp_path / "admin-secret").stat().st_mode & 0o077 == 0


def test_what_cannot_be_served_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="study create"):
        build_study_app(StudySettings(tmp_path / "nowhere"))
    with pytest.raises(RequestError, match="at least 12"):
        build_study_app(StudySettings(tmp_path, admin_secret="short"))


# --- texts


def test_questions_and_consent_are_the_studys_own_words_and_have_a_translation() -> None:
    english, chinese = documents.table("en"), documents.table("zh")
    for name, words in QUESTIONS.items():
        assert english["question." + name] == documents.question_text(name, "en") == words
        assert documents.question_text(name, "zh") != words
    assert english["consent.text"] == CONSENT
    assert documents.consent_text("Our own words.", "zh") == "Our own words."
    assert english.keys() == chinese.keys()
    assert all(english.values()) and all(chinese.values())


def test_both_languages_fill_the_same_places() -> None:
    fields = re.compile(r"\{(\w+)\}")
    for key, words in documents.table("en").items():
        translated = documents.table("zh")[key]
        assert sorted(set(fields.findall(words))) == sorted(set(fields.findall(translated))), key


def test_every_text_the_scripts_ask_for_is_in_the_table() -> None:
    asked = set()
    for path in documents.STATIC.glob("*.js"):
        asked |= set(re.findall(r'"((?:[a-z]+)\.(?:[a-z_]+))"', path.read_text(encoding="utf-8")))
    known = documents.table("en").keys()
    prefixes = {key.partition(".")[0] for key in known}
    missing = {key for key in asked if key.partition(".")[0] in prefixes} - known
    assert not missing
    assert len(asked) > 40


@pytest.mark.parametrize(
    ("page", "scripts"),
    [
        ("/r/x", ("rater", "item", "player", "clips", "screens", "entrance", "copying", "outbox")),
        ("/admin/", ("admin", "results", "copying")),
    ],
)
def test_a_page_holds_the_texts_of_its_scripts(
    client: TestClient, page: str, scripts: tuple[str, ...]
) -> None:
    client.post("/admin/login", data={"secret": SECRET})
    given = re.search(r'id="texts">(.*?)</script>', client.get(page).text, re.S)
    texts = json.loads(given[1])
    known = documents.table("en").keys()
    for name in scripts:
        script = (documents.STATIC / f"{name}.js").read_text(encoding="utf-8")
        asked = set(re.findall(r'"([a-z]+\.[a-z_]+)"', script)) & known
        assert asked <= texts.keys(), name


def test_the_page_follows_the_browsers_language(client: TestClient) -> None:
    chinese = client.get("/r/x", headers={"Accept-Language": "zh-CN,zh;q=0.9"}).text
    assert '<html lang="zh-Hans">' in chinese and "开始之前" in chinese
    assert '<html lang="en">' in client.get("/r/x", headers={"Accept-Language": "fr"}).text
    assert '<html lang="en">' in client.get("/r/x?lang=en", headers={"Accept-Language": "zh"}).text
