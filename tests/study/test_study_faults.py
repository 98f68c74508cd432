"""What happens to answers when something breaks: the real server in its own process, on SQLite and
on PostgreSQL, with several raters at once."""

from __future__ import annotations

import base64
import secrets
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import postgres
import pytest
import sqlalchemy as sa
from serving import RunningApp
from tiny_study import Caller, make_study

from motion_app.study import database as schema
from motion_app.study.answers import Study
from motion_app.study.links import LinkSigner, new_id, new_secret

METHODS = ("FlexiMMT", "I2VEdit")
RATERS, ITEMS, QUESTIONS = 8, 6, 4
THOUGHT = 0.02  # seconds before an answer
PATIENCE = 120.0


@dataclass
class Site:
    """A server and where its studies lie; ``postgres`` is None on SQLite."""

    app: RunningApp
    database: str | None
    postgres: postgres.Server | None

    @contextmanager
    def study(self, *, raters: int = RATERS, items: int = ITEMS) -> Iterator[Study]:
        """A new study that the server finds by itself."""
        folder = self.app.folder / "outputs" / "studies" / new_id()
        made = make_study(
            folder,
            methods=METHODS,
            items=items,
            practice=0,
            raters=raters,
            database=self.database,
        )
        with closing(made):
            yield made

    def caller(self, study: Study, token: str) -> Caller:
        address = self.app.url + study.archive.folder.name
        return Caller(httpx.Client(base_url=address, timeout=PATIENCE), token)


@contextmanager
def site_on(backend: str, folder: Path) -> Iterator[Site]:
    (folder / "outputs" / "studies").mkdir(parents=True)
    if backend == "sqlite":
        with RunningApp(folder, "--study-only") as app:
            yield Site(app, None, None)
        return
    with postgres.server() as server:
        database = postgres.new_database(str(server.folder), "faults")
        with RunningApp(folder, "--study-only", MOTION_APP_STUDY_DATABASE=database) as app:
            yield Site(app, database, server)


@pytest.fixture(scope="module", params=postgres.one_every_day("sqlite"))
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with site_on(request.param, tmp_path_factory.mktemp("faults")) as made:
        yield made


@dataclass
class Visit:
    """A rater who, as the page does, sends what was not acknowledged again, under the same id.
    ``saved`` are the acknowledged answers; ``troubles`` what came instead of acknowledgements."""

    caller: Caller
    saved: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def insist(self, send: Callable[[], httpx.Response]) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                response = send()
            except httpx.TransportError as error:
                self.troubles.append(type(error).__name__)
            else:
                if response.status_code == 200:
                    return response.json()
                assert (response.status_code, error_of(response)) == (503, AWAY)
                self.troubles.append("503")
            time.sleep(0.1)
        pytest.fail(f"no answer in {PATIENCE:g} s; {Counter(self.troubles)}")

    def take_part(self) -> str:
        session = self.insist(lambda: self.caller.post("/api/consent", {"agreed": True}))
        for number in range(session["items"]):
            item = self.insist(lambda number=number: self.caller.get(f"/api/items/{number}"))
            for place, question in enumerate(session["questions"]):
                time.sleep(THOUGHT)
                body = answer(item, question["id"], 1 + (number + place) % 2)
                self.insist(lambda body=body: self.caller.post("/api/answers", body))
                self.saved.append(body)
        return self.insist(lambda: self.caller.post("/api/finish", {}))["code"]


AWAY = "the study's database does not answer just now; send it again in a moment"


def error_of(response: httpx.Response) -> str:
    """The one line of a refusal."""
    (error,) = response.json().values()
    assert error and "\n" not in error and "Traceback" not in error
    return error


def answer(item: dict[str, Any], question: str, choice: int) -> dict[str, Any]:
    return {
        "id": secrets.token_hex(16),
        "number": item["number"],
        "item": item["id"],
        "question": question,
        "choice": choice,
        "coverage": [1.0, 1.0],
    }


@contextmanager
def crowd(site: Site, study: Study) -> Iterator[tuple[list[Visit], list[Future[str]]]]:
    """Everybody answers at once; what the block does happens when a quarter has been answered."""
    visits = [Visit(site.caller(study, token)) for token in study.raters.hand_out(RATERS)]
    with ThreadPoolExecutor(RATERS) as pool:
        codes = [pool.submit(visit.take_part) for visit in visits]
        quarter = RATERS * ITEMS * QUESTIONS // 4
        while sum(len(visit.saved) for visit in visits) < quarter:
            time.sleep(0.005)
            for code in codes:
                assert not code.done() or code.exception() is None, code.exception()
        yield visits, codes


def rows(study: Study) -> list[sa.Row[Any]]:
    query = (
        sa.select(schema.answers)
        .join(schema.raters, schema.raters.c.id == schema.answers.c.rater)
        .where(schema.raters.c.study == study.archive.id)
        .order_by(schema.answers.c.serial)
    )
    with study.archive.reading() as connection:
        return list(connection.execute(query))


def check_everything_is_there_once(
    study: Study, visits: list[Visit], codes: list[Future[str]]
) -> None:
    stored = rows(study)
    assert Counter(row.id for row in stored) == Counter(b["id"] for v in visits for b in v.saved)
    assert len(stored) == RATERS * ITEMS * QUESTIONS and {row.revision for row in stored} == {0}
    chosen = {row.id: (row.presentation, row.question, row.choice) for row in stored}
    for visit in visits:
        for body in visit.saved:
            assert chosen[body["id"]] == (body["item"], body["question"], body["choice"])
    assert len({code.result() for code in codes}) == RATERS


def test_a_killed_server_has_every_answer_it_acknowledged_once_and_everybody_finishes(
    site: Site,
) -> None:
    with site.study() as study:
        with crowd(site, study) as (visits, codes):
            site.app.kill()
            acknowledged = [body["id"] for visit in visits for body in list(visit.saved)]
            assert len(acknowledged) < RATERS * ITEMS * QUESTIONS
            found = Counter(row.id for row in rows(study))
            assert all(found[name] == 1 for name in acknowledged)
            site.app.start()
        assert any(visit.troubles for visit in visits)
        check_everything_is_there_once(study, visits, codes)


@pytest.mark.parametrize("site", postgres.backends(), indirect=True)  # another fault in each
def test_a_database_that_stands_still_under_load_loses_nothing_and_the_server_goes_on(
    site: Site,
) -> None:
    with site.study() as study:
        started = site.app.process
        with crowd(site, study) as (visits, codes):
            if site.postgres is None:
                hold_the_lock(study)
            else:
                stop_and_start(site, site.postgres, visits)
        check_everything_is_there_once(study, visits, codes)
        assert site.app.process is started and started.poll() is None
        told = site.app.log.read_text()
        assert "Traceback" not in told and visits[0].saved[0]["id"] not in told


def hold_the_lock(study: Study) -> None:
    """Another program writes into the same file: raters wait, and see no error."""
    with closing(
        sqlite3.connect(study.archive.folder / "study.sqlite", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(1)
        before = len(rows(study))
        time.sleep(0.5)
        assert len(rows(study)) == before
        other.execute("ROLLBACK")


def stop_and_start(site: Site, server: postgres.Server, visits: list[Visit]) -> None:
    """Everybody is told in one line meanwhile; what needs no database goes on."""
    server.stop()
    refused = visits[0].caller.get("/api/session")
    assert (refused.status_code, error_of(refused)) == (503, AWAY)
    assert int(refused.headers["retry-after"]) > 0
    assert httpx.get(site.app.url, timeout=PATIENCE).status_code == 200
    until = time.monotonic() + PATIENCE
    while not all("503" in visit.troubles for visit in visits):
        assert time.monotonic() < until, [visit.troubles for visit in visits]
        time.sleep(0.02)
    server.start()
    assert "the study's database does not answer" in site.app.log.read_text()


def test_two_tabs_that_answer_at_once_leave_one_history_of_each_answer(site: Site) -> None:
    with site.study(raters=1, items=3) as study:
        (token,) = study.raters.hand_out()
        tabs = [site.caller(study, token) for _ in range(2)]
        session = tabs[0].post("/api/consent", {"agreed": True}).json()
        items = [tabs[0].get(f"/api/items/{number}").json() for number in range(3)]
        barrier = threading.Barrier(2)

        def fill(tab: int) -> None:
            for item in items:
                for question in session["questions"]:
                    barrier.wait()
                    body = answer(item, question["id"], 1 + tab)
                    assert tabs[tab].post("/api/answers", body).status_code == 200

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(fill, range(2)))
        stored = rows(study)
        for item in items:
            seen = tabs[1].get(f"/api/items/{item['number']}").json()["answers"]
            for question in session["questions"]:
                key = (item["id"], question["id"])
                history = [row for row in stored if (row.presentation, row.question) == key]
                assert [row.revision for row in history] == [0, 1]
                assert {row.choice for row in history} == {1, 2}
                assert seen[question["id"]] == history[-1].choice
        with ThreadPoolExecutor(2) as pool:
            finished = list(pool.map(lambda tab: tab.post("/api/finish", {}).json(), tabs))
        assert finished[0] == finished[1] and finished[0]["code"]
        kept = tabs[1].get("/api/items/0").json()["answers"]["MF"]
        late = tabs[1].post("/api/answers", answer(items[0], "MF", 3 - kept))
        assert late.status_code == 400 and "finished" in error_of(late)
        assert len(rows(study)) == len(stored)


def test_a_request_that_is_played_again_changes_nothing(site: Site) -> None:
    with site.study(raters=1, items=2) as study:
        (token,) = study.raters.hand_out()
        tabs = [site.caller(study, token) for _ in range(6)]
        tabs[0].post("/api/consent", {"agreed": True})
        item = tabs[0].get("/api/items/0").json()
        body = answer(item, "MF", 1)
        with ThreadPoolExecutor(len(tabs)) as pool:
            came = list(pool.map(lambda tab: tab.post("/api/answers", body), tabs))
        assert {response.status_code for response in came} == {200} and len(rows(study)) == 1
        assert tabs[0].post("/api/answers", answer(item, "MF", 2)).status_code == 200
        assert tabs[1].post("/api/answers", body).status_code == 200
        assert tabs[2].get("/api/items/0").json()["answers"] == {"MF": 2}
        assert [row.choice for row in rows(study)] == [1, 2]


def test_an_answer_whose_acknowledgement_was_lost_is_stored_once(site: Site) -> None:
    with site.study(raters=1, items=2) as study:
        caller = site.caller(study, study.raters.hand_out()[0])
        caller.post("/api/consent", {"agreed": True})
        body = answer(caller.get("/api/items/1").json(), "TC", 2)
        request = caller.client.build_request(
            "POST", "/api/answers", headers=caller.headers, json=body
        )
        head = f"POST {request.url.path} HTTP/1.1\r\n".encode()
        head += b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw)
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", site.app.port)) as connection:
                connection.sendall(head + b"\r\n" + request.content)  # and gone
        assert caller.post("/api/answers", body).status_code == 200
        time.sleep(0.5)  # for those that are still on their way
        assert [(row.id, row.choice) for row in rows(study)] == [(body["id"], 2)]


def test_forged_requests_are_refused_in_one_line_and_store_nothing(site: Site) -> None:
    with site.study(raters=3, items=2) as study:
        mine, theirs = study.raters.hand_out(2)
        caller, other = site.caller(study, mine), site.caller(study, theirs)
        for one in (caller, other):
            one.post("/api/consent", {"agreed": True})
        item, foreign = (one.get("/api/items/0").json() for one in (caller, other))
        good = answer(item, "MF", 1)
        bodies = {
            "another one": {**good, "item": foreign["id"]},
            "no screen 99": {**good, "number": 99},
            "no screen -1": {**good, "number": -1},
            "from 1 to 2": {**good, "choice": 3},
            "this study asks": {**good, "question": "XX"},
            "32 hex digits": {**good, "id": "1; DROP TABLE answers"},
            "watched to 10%": {**good, "coverage": [1.0, 0.1]},
            "2 shares": {**good, "coverage": [1.0]},
            "is wrong": {**good, "rater": study.archive.links.rater(theirs)},
        }
        for said, body in bodies.items():
            refused = caller.post("/api/answers", body)
            assert refused.status_code == 400 and said in error_of(refused), refused.text
        for token in forged_tokens(study, mine, theirs):
            refused = site.caller(study, token).post("/api/answers", good)
            assert refused.status_code == 401 and "link" in error_of(refused)
        for entry in ("open.", "open", study.archive.links.open_token()[:-2] + "AA", mine, ""):
            refused = caller.client.post("/api/enter", json={"open": entry})
            assert refused.status_code == 401 and "not valid" in error_of(refused)
        foreign_page = {**caller.headers, "Origin": "https://elsewhere.example"}
        refused = caller.client.post("/api/answers", headers=foreign_page, json=good)
        assert refused.status_code == 403 and "another site" in error_of(refused)
        for path in ("/admin/api/progress", "/admin/api/links", "/admin/download/answers.csv"):
            assert caller.get(path).status_code == 401
        assert rows(study) == [] and len(study.raters.hand_out(1)) == 1


def forged_tokens(study: Study, mine: str, theirs: str) -> list[str]:
    """Links that look like links."""
    rater, _, signature = mine.partition(".")
    unsigned = base64.urlsafe_b64encode(bytes(16)).rstrip(b"=").decode()
    return [
        rater,
        f"{rater}.",
        f"{rater}.{unsigned}",
        f"{theirs.partition('.')[0]}.{signature}",
        f"{new_id()}.{signature}",
        study.archive.links.open_token(),
        LinkSigner(study.archive.id, new_secret()).token(rater),
        LinkSigner(new_id(), study.archive.links.secret).token(rater),
        "../../admin",
    ]


def test_a_link_whose_place_was_given_back_or_whose_data_was_deleted_opens_nothing(
    site: Site,
) -> None:
    with site.study(raters=2, items=1) as study:
        gone, released = (site.caller(study, token) for token in study.raters.hand_out(2))
        for caller in (gone, released):
            caller.post("/api/consent", {"agreed": True})
        item = released.get("/api/items/0").json()
        assert released.post("/api/answers", answer(item, "MF", 1)).status_code == 200
        assert gone.post("/api/delete", {"sure": True}).json() == {"deleted": 0}
        rater = study.raters.join(released.headers["Authorization"].removeprefix("Rater "))
        assert study.raters.release(rater.number, joined=rater.joined) == 1
        for caller in (gone, released):
            for response in (
                caller.get("/api/session"),
                caller.get("/api/items/0"),
                caller.post("/api/answers", answer(item, "MF", 2)),
                caller.post("/api/finish", {}),
            ):
                assert response.status_code == 401 and "not known any more" in error_of(response)
        assert rows(study) == []
