"""What gradio keeps of visits is bounded, the next call is that of who has fewest at work, and what
a call or a file takes is counted."""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from motion_app.errors import MediaError, RequestError
from motion_app.geometry import ModelGeometry
from motion_app.media.sandbox import MemoryClaims
from motion_app.settings import Limits
from motion_app.ui import bodies
from motion_app.ui.bodies import UPLOAD, BodyLimit
from motion_app.ui.boundary import GuardedBlocks
from motion_app.ui.launch import UploadFolder
from motion_app.ui.sessions import (
    AT_ONCE,
    LEFT_SECONDS,
    STATELESS_SECONDS,
    FairQueue,
    LightState,
    Sessions,
)
from motion_app.ui.transfer.draft import SceneDraft
from motion_app.ui.transfer.session import Action, Session

GEOMETRY = ModelGeometry(
    *(64, 96, 13, 8.0, 7, 16, 24, 64, 2, 2, 16, 32, 4),
    spatial_ratio=2,
    temporal_ratio=2,
    patch_size=2,
)
MEGABYTE = 2**20


def draft_of(megabytes: float) -> SceneDraft:
    side = int((megabytes * MEGABYTE / 3) ** 0.5)
    picture = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return SceneDraft.of(picture, "crop", GEOMETRY)


# sessions ---------------------------------------------------------------------------------------


@pytest.fixture
def sessions() -> Sessions:
    with GuardedBlocks() as page:
        gr.State(Session())
        gr.HTML("")
    limits = Limits(sessions=50, rest_minutes=1, sessions_gigabytes=8 / 1024)
    made = Sessions(limits)
    made.set_blocks(page)
    return made


def visit(sessions: Sessions, name: str, megabytes: float = 0) -> Session:
    """A page's session with a picture of that size."""
    state = sessions[name]
    (key,) = [key for key, block in sessions.blocks.blocks.items() if isinstance(block, gr.State)]
    session: Session = state[key]
    if megabytes:
        session.put(draft_of(megabytes), Action("picture"))
    return session


def ago(sessions: Sessions, name: str, seconds: float) -> None:
    sessions.time_last_used[name] -= datetime.timedelta(seconds=seconds)


def test_a_programs_call_leaves_nothing_behind(sessions: Sessions) -> None:
    for number in range(30):
        ago_name = f"call-{number}"
        assert isinstance(sessions[ago_name], LightState)
        ago(sessions, ago_name, STATELESS_SECONDS + 1)
    visit(sessions, "page")
    sessions.tidy()
    assert list(sessions.session_data) == ["page"]
    assert set(sessions.time_last_used) == {"page"}


def test_no_more_are_known_than_the_limit_says(sessions: Sessions) -> None:
    for number in range(80):
        visit(sessions, f"page-{number}")
    assert len(sessions.session_data) <= 50


def test_what_was_sent_is_not_kept(sessions: Sessions) -> None:
    state = sessions["page"]
    state._update_value_in_config(1, "x" * MEGABYTE)
    assert not state.config_values


def test_an_idle_page_lets_its_pictures_go_and_goes_on_where_it_was(sessions: Sessions) -> None:
    session = visit(sessions, "page", 3)
    session.put(session.scene().with_prompt("a robot hops"), Action("prompt"))
    before = session.scene()
    sessions.tidy()
    assert session.held_bytes > 3 * MEGABYTE - 20_000
    ago(sessions, "page", 61)
    sessions.tidy()
    assert session.held_bytes == 0 and session._draft is None and session.resting_bytes > 0
    after = session.scene()
    assert np.array_equal(after.picture, before.picture) and after.prompt == before.prompt
    session.undo()
    session.undo()
    assert session.draft is None


def test_a_page_that_never_calls_again_is_forgotten(sessions: Sessions) -> None:
    visit(sessions, "page", 1)
    ago(sessions, "page", LEFT_SECONDS + 1)
    sessions.tidy()
    assert not sessions.session_data


def test_where_all_hold_too_much_who_called_longest_ago_rests_first(sessions: Sessions) -> None:
    old, new = visit(sessions, "old", 5), visit(sessions, "new", 5)  # of 8
    sessions.tidy()
    assert old.held_bytes == 0 and new.held_bytes > 0
    assert old.scene().picture.size > 0


def test_what_rests_and_is_too_much_is_dropped_and_said(sessions: Sessions) -> None:
    sessions.limits = Limits(rest_minutes=0.001, resting_gigabytes=4 / 1024)
    first, second = visit(sessions, "first", 3), visit(sessions, "second", 3)
    for name in ("first", "second"):
        ago(sessions, name, 10)
    sessions.tidy()
    assert second.scene().picture.size > 0
    with pytest.raises(RequestError, match="after a long time"):
        first.scene()


def test_one_session_keeps_as_many_steps_as_its_bytes_allow() -> None:
    session = Session(8 * MEGABYTE)
    for _ in range(5):
        session.put(draft_of(3), Action("picture"))
    assert session.held_bytes <= 8 * MEGABYTE
    assert 1 <= len(session.history.past) < 5
    session.undo()
    assert session.draft is not None


def test_a_session_that_somebody_is_at_does_not_rest() -> None:
    session = Session()
    session.put(draft_of(1), Action("picture"))
    with session.lock:
        thread = threading.Thread(target=session.rest)
        thread.start()
        thread.join(5)
    assert session.held_bytes > 0


# the line of calls ------------------------------------------------------------------------------


def function_of(number: int, visibility: str, limit: int | None) -> Any:
    return SimpleNamespace(_id=number, api_visibility=visibility, concurrency_limit=limit)


STREAM, ENDPOINT = function_of(1, "private", None), function_of(2, "public", 4)
CHOOSE, REMOVE = function_of(3, "private", 8), function_of(4, "private", 8)


class Line:
    """A queue and calls for it, none of which runs."""

    def __init__(self, **limits: Any) -> None:
        page = SimpleNamespace(fns={})
        self.queue = FairQueue(page, Limits(**limits), calls_of_one_function=2)
        self.queue.active_jobs = [None] * 40
        self.lane = SimpleNamespace(
            queue=[], concurrency_limit=None, current_concurrency=0, concurrency_id="f"
        )
        self.queue.event_queue_per_concurrency_id = {"f": self.lane}
        self.came = 0.0

    def wait(self, session: str, address: str = "a", size: int = 0, function: Any = STREAM) -> None:
        self.came += 1
        event = SimpleNamespace(
            session_hash=session,
            fn=function,
            request=request_of(address, size),
            enqueue_time=self.came,
        )
        self.lane.queue.append(event)

    def begin(self) -> str | None:
        found = self.queue.get_events()
        if found is None:
            return None
        self.queue.active_jobs[self.queue.active_jobs.index(None)] = found[0]
        return found[0][0].session_hash

    def refusal(self, session: str, address: str = "a", size: int = 0) -> str:
        return self.queue._too_much(
            SimpleNamespace(session_hash=session), request_of(address, size)
        )


def request_of(address: str, size: int) -> Any:
    scope = {"body_bytes": size}
    return SimpleNamespace(client=SimpleNamespace(host=address), scope=scope)


def test_a_held_button_is_served_after_everybody_elses_first_call() -> None:
    line = Line()
    for _ in range(30):
        line.wait("held")
    line.wait("neighbour")
    assert [line.begin() for _ in range(3)] == ["held", "neighbour", "held"]


def test_one_session_has_few_calls_at_work_and_the_others_wait_without_a_place() -> None:
    line = Line()
    for _ in range(30):
        line.wait("held")
    assert [line.begin() for _ in range(8)] == ["held"] * AT_ONCE + [None, None]


def test_of_sessions_that_are_alike_that_of_the_address_with_fewest_is_next() -> None:
    line = Line()
    for number in range(10):
        line.wait(f"many-{number}", "many")
    line.wait("one", "other")
    assert line.begin() == "many-0"
    assert line.begin() == "one"


def test_a_pages_calls_of_one_function_are_done_one_after_the_other() -> None:
    line = Line()
    for function in (CHOOSE, CHOOSE, REMOVE, ENDPOINT, ENDPOINT, STREAM, STREAM):
        line.wait("page", function=function)
    line.wait("other", function=CHOOSE)
    began = [line.begin() for _ in range(8)]
    assert began.count("other") == 1 and began.count(None) == 1
    assert [event.fn for event in line.lane.queue] == [CHOOSE]  # the page's second
    (first,) = (one for job in line.queue.active_jobs if job for one in job if one.fn is REMOVE)
    line.queue.active_jobs[line.queue.active_jobs.index([first])] = None
    assert line.begin() is None  # another one's end is not what it waits for
    chosen = [job for job in line.queue.active_jobs if job and job[0].fn is CHOOSE]
    (own,) = (job for job in chosen if job[0].session_hash == "page")
    line.queue.active_jobs[line.queue.active_jobs.index(own)] = None
    assert line.begin() == "page"


def test_what_waits_is_bounded_for_a_session_an_address_and_all() -> None:
    line = Line(waiting_per_session=3, waiting_per_address=5, calls_megabytes=10)
    for number in range(5):
        line.wait(f"s{number // 3}", size=MEGABYTE)
    assert "waiting" in line.refusal("s0")
    assert "waiting" in line.refusal("new")
    assert line.refusal("new", "elsewhere") == ""
    assert "too much" in line.refusal("new", "elsewhere", 6 * MEGABYTE)


# memory of files --------------------------------------------------------------------------------


def test_no_more_than_fits_is_at_work_and_who_came_first_is_first() -> None:
    claims, order, most = MemoryClaims(100, most_waiting=50), [], []

    def work(number: int, size: int) -> None:
        with claims.claim(size):
            order.append(number)
            most.append(claims.claimed)
            time.sleep(0.01)

    threads = []
    for number, size in enumerate([60, 60, 30, 200, 10, 50, 50]):
        threads.append(threading.Thread(target=work, args=(number, size)))
        threads[-1].start()
        time.sleep(0.002)
    for thread in threads:
        thread.join(10)
    assert order == sorted(order) and max(most) <= 100 and claims.claimed == 0


def test_too_many_that_wait_are_told_so_and_a_fault_gives_its_bytes_back() -> None:
    claims = MemoryClaims(10, most_waiting=1)
    with claims.claim(10):
        waits = threading.Thread(target=claim_and_let_go, args=(claims,))
        waits.start()
        while not claims._waiting:
            time.sleep(0.001)
        with pytest.raises(MediaError, match="try again"), claims.claim(1):
            raise AssertionError("there was room")
    waits.join(10)
    with pytest.raises(ZeroDivisionError), claims.claim(5):
        _ = 1 / 0
    assert claims.claimed == 0


def claim_and_let_go(claims: MemoryClaims) -> None:
    with claims.claim(5):
        pass


# bodies -----------------------------------------------------------------------------------------


async def reads(request: Request) -> JSONResponse:
    return JSONResponse([str(len(await request.body()))])


async def swallows(request: Request) -> JSONResponse:
    """As MCP's own route does."""
    try:
        return await reads(request)
    except Exception:
        return JSONResponse({"error": "something went wrong"}, 500)


async def raises(request: Request) -> JSONResponse:
    try:
        return await reads(request)
    except Exception as error:
        raise ValueError("a fault of the program's") from error


@pytest.fixture
def heard() -> list[Any]:
    return []


@pytest.fixture
def client(heard: list[Any]) -> Iterator[TestClient]:
    limits = Limits(call_megabytes=1, upload_gigabytes=4 / 1024, call_values=1000)
    limit = Middleware(
        BodyLimit, limits=limits, heard=lambda address, paths: heard.append((address, paths))
    )
    routes = [
        Route("/swallows", swallows, methods=["POST"]),
        Route("/raises", raises, methods=["POST"]),
        Route("/{path:path}", reads, methods=["POST"]),
    ]
    app = Starlette(routes=routes, middleware=[limit])
    with TestClient(app) as made:
        yield made


KINDS = (
    *("application/json", "text/plain", "application/x-www-form-urlencoded", "", "x/y"),
    *("application/octet-stream", "APPLICATION/JSON; charset=utf-8", "image/png"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_pieces", [True, False])
def test_a_body_is_limited_whatever_it_calls_itself(
    client: TestClient, kind: str, in_pieces: bool
) -> None:
    def send(size: int) -> Any:
        body = (b"A" * 1000 for _ in range(size // 1000)) if in_pieces else b"A" * size
        return client.post("/gradio_api/call/x", content=body, headers={"Content-Type": kind})

    assert send(900_000).status_code == 200
    assert send(1_200_000).status_code == 413


@pytest.mark.parametrize("path", ["/swallows", "/raises"])
def test_a_refusal_is_what_is_answered_whatever_is_made_of_it_on_its_way(
    client: TestClient, path: str
) -> None:
    body = (b"A" * 1000 for _ in range(1200))
    refused = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 413 and "at most" in refused.json()["detail"]
    assert client.post(path, content=b"A").status_code == 200


@pytest.mark.parametrize("path", ["/gradio_api/call/x", "/gradio_api/component_server", "/x"])
def test_files_are_taken_in_one_place_alone(client: TestClient, path: str) -> None:
    assert client.post(path, files={"files": b"x"}).status_code == 415


def test_a_form_of_uploads_may_be_larger_and_says_whose_it_was(
    client: TestClient, heard: list[Any]
) -> None:
    assert client.post(UPLOAD, files={"files": b"A" * 3 * MEGABYTE}).status_code == 200
    assert [address for address, _ in heard] == ["testclient"]
    assert client.post(UPLOAD, files={"files": b"A" * 5 * MEGABYTE}).status_code == 413


def test_fields_of_a_form_of_uploads_are_limited(client: TestClient) -> None:
    files = {"files": b"x"}
    assert client.post(UPLOAD, files=files, data={"a": "A" * 1000}).status_code == 200
    refused = client.post(UPLOAD, files=files, data={"a": "A" * 2 * bodies.FIELD_BYTES})
    assert refused.status_code == 413 and "beside its files" in refused.text


def test_a_body_holds_so_many_values(client: TestClient) -> None:
    few, many = json.dumps([0] * 500), json.dumps([0] * 2000)
    kind = {"Content-Type": "application/json"}
    assert client.post("/x", content=few, headers=kind).status_code == 200
    for bomb in (many, "[" * 2000, '{"a":' * 2000):
        refused = client.post("/x", content=bomb, headers=kind)
        assert refused.status_code == 413 and "values" in refused.text


def test_a_body_that_stops_coming_is_let_go(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.setattr(bodies, "QUIET_SECONDS", 0.05)
    answers = []

    async def call() -> None:
        sent = iter([{"type": "http.request", "body": b"x", "more_body": True}])

        async def receive() -> Any:
            piece = next(sent, None)
            if piece is None:
                await asyncio.sleep(5)
            return piece

        async def send(message: Any) -> None:
            answers.append(message.get("status"))

        scope = {"type": "http", "method": "POST", "path": "/x", "headers": [], "root_path": ""}
        await client.app({**scope, "query_string": b"", "scheme": "http"}, receive, send)

    asyncio.run(call())
    assert answers[0] == 408


# uploads ----------------------------------------------------------------------------------------


def test_one_visitors_uploads_go_before_anybody_elses(tmp_path: Path) -> None:
    with UploadFolder(tmp_path, most_bytes=1000) as uploads:
        neighbours = new_file(uploads, "neighbour", 300)
        uploads.heard("neighbour", [str(neighbours)])
        own = [new_file(uploads, f"own-{number}", 300) for number in range(4)]
        uploads.heard("greedy", [str(path) for path in own])
        uploads.tidy()
        assert neighbours.is_file()
        assert [path.is_file() for path in own] == [False, False, True, True]


def new_file(uploads: UploadFolder, name: str, size: int) -> Path:
    path = uploads.path / name / "file"
    path.parent.mkdir()
    path.write_bytes(b"x" * size)
    time.sleep(0.02)
    return path
