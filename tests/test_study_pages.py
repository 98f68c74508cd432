"""The study over HTTP: who may do what, and what a rater's browser may know."""

from __future__ import annotations

import base64
import csv
import inspect
import io
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tiny_study import METHODS, SECRET, make_study

from motion_app.errors import RequestError
from motion_app.study.ledger import answer_rows, unblind
from motion_app.study.links import Visitor
from motion_app.study.pages import documents
from motion_app.study.pages.app import build_site
from motion_app.study.pages.door import COOKIE, TRIES, TRIES_SECONDS, Door, TooManyTries
from motion_app.study.pages.gate import MAX_BODY_BYTES
from motion_app.study.plan import CONSENT, QUESTIONS
from motion_app.study.server import StudySettings, build_study_app, study_secret
from motion_app.study.store import StudyStore
from motion_app.ui.study_tab import MadeStudy, StudyDesk, studies_html
from motion_app.ui.texts import Texts
from motion_app.video import write_video

WATCHED = [1.0, 1.0, 1.0]


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return make_study(tmp_path / "study")


@pytest.fixture
def client(store: StudyStore) -> Iterator[TestClient]:
    with TestClient(build_site(store, admin_secret=SECRET), raise_server_exceptions=False) as made:
        yield made


class Caller:
    """A rater who calls the endpoints as the page does."""

    def __init__(self, client: TestClient, token: str) -> None:
        self.client = client
        self.headers = {"Authorization": f"Rater {token}"}

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path, headers=self.headers)

    def post(self, path: str, body: object) -> httpx.Response:
        return self.client.post(path, headers=self.headers, json=body)

    def answer(
        self, number: int, question: str, choice: int, /, **changed: object
    ) -> httpx.Response:
        body = {
            "id": secrets.token_hex(16),
            "number": number,
            "item": self.get(f"/api/items/{number}").json()["id"],
            "question": question,
            "choice": choice,
            "coverage": WATCHED,
        }
        return self.post("/api/answers", {**body, **changed})


@pytest.fixture
def rater(client: TestClient, store: StudyStore) -> Caller:
    """One who has agreed to take part."""
    caller = Caller(client, store.hand_out(1)[0])
    assert caller.post("/api/consent", {"agreed": True}).json()["consented"]
    return caller


@pytest.fixture
def admin(client: TestClient) -> TestClient:
    assert client.post("/admin/login", data={"secret": SECRET}).status_code == 200
    return client


def answer_everything(caller: Caller, choice: int = 1) -> None:
    session = caller.get("/api/session").json()
    for number in range(session["practice"] + session["items"]):
        for question in session["questions"]:
            assert caller.answer(number, question["id"], choice).status_code == 200


# --- the rater


def test_a_visit_over_http_ends_with_the_raters_code(rater: Caller, store: StudyStore) -> None:
    refused = rater.post("/api/finish", {})
    assert refused.status_code == 409
    assert "not answered yet" in refused.json()["error"]
    answer_everything(rater)
    finished = rater.post("/api/finish", {}).json()
    token = rater.headers["Authorization"].removeprefix("Rater ")
    assert finished["code"] == store.links.completion_code(store.links.rater(token))
    assert finished["return_url"].endswith(finished["code"])
    assert rater.get("/api/session").json()["finished"]


def test_nothing_a_raters_browser_receives_names_a_method(
    client: TestClient, rater: Caller
) -> None:
    addresses = ["/", "/r/x", "/?lang=zh", "/api/session", "/api/items/99", "/nothing"]
    addresses += ["/static/" + name for name in documents.static_files()]
    session = rater.get("/api/session").json()
    for number in range(session["practice"] + session["items"]):
        addresses.append(f"/api/items/{number}")
        item = rater.get(f"/api/items/{number}").json()
        addresses += ["/" + item["first_frame"]]
        addresses += ["/" + media for media in (*item["references"], *item["candidates"])]
    received = [(address, rater.get(address)) for address in addresses]
    received.append(("practice", rater.post("/api/practice/0", {"choices": {"MF": 1}})))
    received.append(("answer", rater.answer(2, "MF", 9)))
    received.append(("finish", rater.post("/api/finish", {})))
    names = [name.lower() for method in METHODS for name in (method, method.replace("-", " "))]
    for address, response in received:
        everything = f"{address}\n{response.headers}\n".encode() + response.content
        told = [name for name in names if name.encode() in everything.lower()]
        assert not told, f"{address} tells {told}"
    assert len(received) > 30


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
    page = client.get("/").text
    assert "gold" not in page.lower()
    assert "admin" not in page.lower()


def test_an_answer_sent_twice_counts_once(rater: Caller, store: StudyStore) -> None:
    same = secrets.token_hex(16)
    for _ in range(2):
        assert rater.answer(2, "MF", 2, id=same).json()["saved"]
    rater.answer(2, "MF", 2)  # a double click: another id, the same choice
    unblind(store)
    rows = answer_rows(store)
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
    rater: Caller, store: StudyStore, changed: dict[str, object], why: str
) -> None:
    response = rater.answer(2, "MF", 1, **changed)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert why in response.json()["error"]
    assert "\n" not in response.json()["error"]
    assert store.progress(store.links.rater(rater.headers["Authorization"][6:])).done == 0


def test_nothing_is_shown_or_saved_before_consent(client: TestClient, store: StudyStore) -> None:
    caller = Caller(client, store.hand_out(1)[0])
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
    client: TestClient, store: StudyStore
) -> None:
    ids = {"prolific_pid": "p", "study_id": "s", "session_id": "x"}
    entry = {"open": store.links.open_token(), **ids}
    tokens = {client.post("/api/enter", json=entry).json()["token"] for _ in range(3)}
    assert tokens == {store.enter(Visitor("p"))}
    assert client.post("/api/enter", json={**entry, "open": "open.wrong"}).status_code == 401
    database = (store.folder / "study.sqlite").read_bytes()
    wal = store.folder / "study.sqlite-wal"
    assert b"prolific" not in database.lower() + (wal.read_bytes() if wal.exists() else b"")


def test_deleted_data_is_gone_and_the_link_with_it(rater: Caller, store: StudyStore) -> None:
    rater.answer(2, "MF", 1)
    assert rater.post("/api/delete", {"sure": False}).status_code == 400
    assert rater.post("/api/delete", {"sure": True}).json() == {"deleted": 1}
    assert rater.get("/api/session").status_code == 401
    unblind(store)
    assert answer_rows(store) == []


def test_wrong_practice_answers_name_the_right_place(rater: Caller, store: StudyStore) -> None:
    item = next(item for item in store.items.values() if item.kind == "practice")
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


def test_a_page_of_another_site_can_change_nothing(rater: Caller, store: StudyStore) -> None:
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

    monkeypatch.setattr(StudyStore, "progress", fail)
    response = rater.get("/api/session")
    assert response.status_code == 500
    assert "inner words" not in response.text and "Traceback" not in response.text
    assert "log says what" in response.json()["error"]


def test_templates_and_tables_are_not_served_as_files(client: TestClient) -> None:
    for name in ("rater.html", "texts.csv", "../app.py", "..%2fapp.py", "%2e%2e/app.py"):
        assert client.get(f"/static/{name}").status_code == 404
    for name in ("../study.sqlite", "..%2fstudy.sqlite", "study.sqlite"):
        assert client.get(f"/media/{name}").status_code == 404


# --- the administrator


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


def test_over_https_the_cookie_is_secure(store: StudyStore) -> None:
    site = build_site(store, admin_secret=SECRET)
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


def test_every_download_is_there_and_cells_are_guarded(tmp_path: Path) -> None:
    evil = '=HYPERLINK("http://evil.example","x")'
    store = make_study(tmp_path / "study", names={2: evil})
    with TestClient(build_site(store, admin_secret=SECRET)) as client:
        caller = Caller(client, store.hand_out(1)[0])
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


def test_links_that_were_handed_out_open_the_study(admin: TestClient, store: StudyStore) -> None:
    links = admin.post("/admin/api/links", json={"count": 2}).json()
    assert [link["number"] for link in links["personal"]] == [0, 1]
    for link in links["personal"]:
        assert Caller(admin, link["page"].removeprefix("r/")).get("/api/session").status_code == 200
    assert links["recruiting"].endswith("&SESSION_ID={{%SESSION_ID%}}")
    assert admin.post("/admin/api/links", json={"count": 9}).status_code == 400


# --- mounted anywhere


@pytest.mark.parametrize("prefix", ["/study", "/a/b"])
def test_under_any_prefix_pages_and_cookies_know_where_they_are(
    store: StudyStore, prefix: str
) -> None:
    outer = FastAPI()
    outer.mount(prefix, build_site(store, admin_secret=SECRET))
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


def test_the_page_follows_the_browsers_language(client: TestClient) -> None:
    chinese = client.get("/", headers={"Accept-Language": "zh-CN,zh;q=0.9"}).text
    assert '<html lang="zh-Hans">' in chinese and "开始之前" in chinese
    assert '<html lang="en">' in client.get("/", headers={"Accept-Language": "fr"}).text
    assert '<html lang="en">' in client.get("/?lang=en", headers={"Accept-Language": "zh"}).text


# --- the app's own tab


@pytest.fixture
def desk(tmp_path: Path) -> StudyDesk:
    """Two results of one scene, made by the browser "ann"."""
    clip = tmp_path / "reference.mp4"
    write_video(clip, np.full((8, 64, 96, 3), 90, np.uint8), 8)
    picture = cv2.imencode(".png", np.full((64, 96, 3), 90, np.uint8))[1].tobytes()
    request = {
        "image": "data:image/png;base64," + base64.b64encode(picture).decode(),
        "objects": [{"motion": "roll"}],
    }
    rows = []
    for place, method in enumerate(("fleximmt", "none")):
        folder = tmp_path / "jobs" / f"{place:032x}"
        folder.mkdir(parents=True)
        shutil.copy(clip, folder / "video.mp4")
        recipe = {"method": method, "prompt": "A ball rolls.", "request": request}
        (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
        rows.append(SimpleNamespace(id=folder.name, title=method, state="done", created=0.0))
    host = SimpleNamespace(
        settings=SimpleNamespace(outputs=tmp_path / "outputs", study_database=None),
        jobs=SimpleNamespace(
            rows=lambda owner, kind: rows if owner == "ann" else [],
            folder=lambda job: tmp_path / "jobs" / job,
        ),
        library=SimpleNamespace(list=lambda: [SimpleNamespace(name="roll", preview=clip)]),
    )
    return StudyDesk(host)


def test_a_study_made_in_the_page_is_served_and_its_maker_alone_has_the_secret(
    desk: StudyDesk,
) -> None:
    jobs = [job for _, job in desk.results("ann")]
    made = desk.create("ann", jobs, title="Balls", raters=2, form="single")
    assert desk.list("ann") == [made] and desk.list("ben") == []
    with TestClient(build_study_app(StudySettings(desk.folder))) as client:
        secret = desk.secret("ann", made.name)
        client.post(f"/{made.name}/admin/login", data={"secret": secret})
        assert client.get(f"/{made.name}/admin/api/progress").json()["title"] == "Balls"
    for owner, name in (("ben", made.name), ("ann", "../jobs"), ("ann", "0" * 16)):
        with pytest.raises(RequestError, match="no such study"):
            desk.secret(owner, name)


def test_nobody_makes_a_study_of_anothers_results(desk: StudyDesk) -> None:
    jobs = [job for _, job in desk.results("ann")]
    for owner, chosen in (("ben", jobs), ("ann", jobs[:1]), ("ann", [*jobs, "f" * 32])):
        with pytest.raises(RequestError, match="two results or more"):
            desk.create(owner, chosen, title="Balls", raters=2, form="single")
    with pytest.raises(RequestError, match="no title"):
        desk.create("ann", jobs, title=" ", raters=2, form="single")
    with pytest.raises(RequestError, match="names the method"):
        desk.create("ann", jobs, title="Is FlexiMMT better?", raters=2, form="single")
    assert desk.list("ann") == []


def test_a_title_in_the_list_is_shown_as_written() -> None:
    made = MadeStudy("0" * 16, "<b>x</b>", 0.0, 3, 1)
    shown = studies_html([made], Texts("zh"))
    assert "&lt;b&gt;" in shown and "<b>x" not in shown
    assert f"./study/{made.name}/admin/" in shown
