"""Deleted is deleted: whatever led to a result, a motion, a scene or a study leads nowhere once the
deletion is acknowledged."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from example_requests import EXAMPLE, request_of
from gradio_client import Client, handle_file
from serving import ROOT, RunningApp
from tiny_study import SECRET, Caller, make_study

AT_ONCE = 1.0  # s, in which a link must be gone
PATIENCE = 60.0  # s, for what is done behind a call on a busy machine


@pytest.fixture
def visitor(app: RunningApp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=app.url, timeout=120) as client:
        yield client


def links_in(answer: Any) -> list[str]:
    """Every address of a file in what a call answered."""
    if isinstance(answer, dict):
        own = [str(answer["url"])] if "url" in answer and "path" in answer else []
        return own + [link for value in answer.values() for link in links_in(value)]
    if isinstance(answer, (list, tuple)):
        return [link for value in answer for link in links_in(value)]
    return []


def statuses(visitor: httpx.Client, links: list[str]) -> set[int]:
    """What is answered at them, whole or in part; a refusal tells no path of the server's."""
    answers = [visitor.get(link) for link in links]
    answers += [visitor.get(link, headers={"Range": "bytes=0-9"}) for link in links]
    for answer in answers:
        if answer.status_code >= 400:
            assert str(ROOT) not in answer.text and "Traceback" not in answer.text
    return {answer.status_code for answer in answers}


def gone(visitor: httpx.Client, links: list[str]) -> None:
    """All of them answer 404 at once: nothing has to be waited for."""
    assert links
    assert statuses(visitor, links) == {404}


def test_of_a_deleted_result_nothing_is_left(app: RunningApp, visitor: httpx.Client) -> None:
    client = Client(app.url, verbose=False, download_files=False)
    made = client.predict(request_of("jump", 7, steps=2), api_name="/generate")
    links = links_in(made)
    assert len(links) >= 5 and statuses(visitor, links) <= {200, 206}
    client.predict(made["job"], api_name="/delete_job")
    gone(visitor, links)


def test_of_a_deleted_motion_nothing_is_left_and_its_copy_stays(
    app: RunningApp, visitor: httpx.Client, tmp_path: Path
) -> None:
    client = Client(app.url, verbose=False, download_files=False)
    first = client.predict(api_name="/motions")["motions"][0]["name"]
    (link,) = links_in(client.predict(first, api_name="/export_motion"))
    (tmp_path / "motion.safetensors").write_bytes(visitor.get(link).content)
    file = handle_file(str(tmp_path / "motion.safetensors"))
    brought = client.predict(file, "soon gone", "", api_name="/import_motion")
    exported = [
        link
        for _ in range(2)
        for link in links_in(client.predict(brought["name"], api_name="/export_motion"))
    ]
    assert len(set(exported)) == 2 and statuses(visitor, exported) <= {200, 206}
    client.predict(brought["name"], api_name="/delete_motion")
    gone(visitor, exported)
    assert statuses(visitor, [link]) <= {200, 206}


class Tab:
    """A page, as far as it calls: its events by the part of the page and their names."""

    def __init__(self, visitor: httpx.Client) -> None:
        self.visitor, self.session = visitor, uuid.uuid4().hex
        config = visitor.get("config").json()
        self._parts = {one["props"].get("elem_id"): one["id"] for one in config["components"]}
        self._calls = config["dependencies"]

    def fire(self, part: str, event: str, *data: Any, **said: Any) -> dict[str, Any]:
        """What is answered to an event of that part, whose functions take ``data``."""
        target = [self._parts[part], event]
        function = next(one["id"] for one in self._calls if target in one["targets"])
        body = {"data": data, "fn_index": function, "session_hash": self.session}
        joined = self.visitor.post("gradio_api/queue/join", json={**body, "event_data": said})
        assert joined.status_code == 200, joined.text
        path = f"gradio_api/queue/data?session_hash={self.session}"
        with self.visitor.stream("GET", path) as stream:
            for line in stream.iter_lines():
                told = json.loads(line.removeprefix("data: ")) if line else {}
                if told.get("msg") == "process_completed":
                    return told
        raise AssertionError("the call was not answered")


def upload(visitor: httpx.Client, file: Path) -> dict[str, Any]:
    sent = visitor.post("gradio_api/upload", files={"files": (file.name, file.read_bytes())})
    (path,) = sent.json()
    return {"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}


def until(true: Any) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.05)


def test_of_a_deleted_scene_nothing_is_left(
    app: RunningApp, visitor: httpx.Client, tmp_path: Path
) -> None:
    drafts = app.folder / "outputs" / "drafts"
    picture = tmp_path / f"{uuid.uuid4().hex}.png"
    shutil.copy(EXAMPLE, picture)
    before = set(drafts.rglob("picture-*.png"))
    tab, file = Tab(visitor), upload(visitor, picture)
    link = f"gradio_api/file={file['path']}"
    until(lambda: visitor.get(link).status_code == 200)
    assert tab.fire("upload", "upload", None, file)["success"]
    gone(visitor, [link])  # the scene has what it needs of it
    until(lambda: set(drafts.rglob("picture-*.png")) - before)
    (kept,) = set(drafts.rglob("picture-*.png")) - before
    inside = [f"gradio_api/file={path}" for path in (kept, kept.with_name("scene.npz"))]
    assert statuses(visitor, inside) <= {403, 404}  # nobody ever had a link to it
    assert tab.fire("stage", "act", None, action={"kind": "over"})["success"]
    began = time.monotonic()
    while kept.exists():
        assert time.monotonic() - began < AT_ONCE
    assert not any(path.is_file() for path in kept.parent.rglob("*"))
    assert statuses(visitor, inside) <= {403, 404}


def test_of_a_deleted_study_nothing_is_left(app: RunningApp, visitor: httpx.Client) -> None:
    name = uuid.uuid4().hex[:16]
    folder = app.folder / "outputs" / "studies" / name
    study = make_study(folder, raters=2)
    (folder / "admin-secret").write_text(SECRET + "\n")
    (token,) = study.raters.hand_out(1)
    root = f"study/{name}"
    with httpx.Client(base_url=f"{app.url}{root}", timeout=120) as client:
        caller = Caller(client, token)
        assert caller.post("/api/consent", {"agreed": True}).status_code == 200
        item = caller.get("/api/items/2").json()
        assert client.post("/admin/login", data={"secret": SECRET}).status_code == 303
        media = [item["first_frame"], *item["references"], *item["candidates"]]
        pages = [f"r/{token}", f"r/{study.archive.links.open_token()}", "admin/"]
        links = [f"{root}/{link}" for link in (*media, *pages)]
        assert statuses(visitor, links) <= {200, 206}
        study.close()
        shutil.rmtree(folder)
        gone(visitor, links)
        for path in ("/api/session", "/api/items/2"):
            assert caller.get(path).status_code == 404
        assert client.get("/admin/api/progress").status_code == 404
        assert caller.post("/api/delete", {"sure": True}).status_code == 404
