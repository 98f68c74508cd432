"""The server opens no connection for anybody: every function of the page and of the API, every
route, and every nesting of a value is asked to, with a resolver that writes down who was looked up.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import ROOT, RunningApp

MARK = {"_type": "gradio.FileData"}
ADDRESSES = (
    *("http://stranger.invalid/x.png", "https://stranger.invalid/x.mp4", "HTTP://stranger.invalid"),
    *("http://127.0.0.1:1/x.png", "ftp://stranger.invalid/x", "file://stranger.invalid/etc/passwd"),
    *("//stranger.invalid/x.png", " http://stranger.invalid/x.png", "\\\\stranger.invalid\\x"),
)


def as_file(address: str) -> dict[str, Any]:
    return {"path": address, "url": address, "orig_name": "x.png", "meta": MARK}


def nestings(file: Any) -> Iterator[Any]:
    yield file
    yield [file]
    yield {"image": file, "objects": [[{"mask": file, "motion": [file]}]], "path": file}
    yield {"value": file, "__type__": "update", "file": json.dumps(file)}
    deep: Any = file
    for _ in range(60):
        deep = {"x": [deep]}
    yield deep


@pytest.fixture
def client(watched_app: RunningApp, looked_up: Path) -> Iterator[httpx.Client]:
    """Whoever calls; nothing was looked up for them in the end."""
    looked_up.write_text("")
    with httpx.Client(base_url=watched_app.url, timeout=60) as calling:
        yield calling
    assert looked_up.read_text() == ""


def test_the_resolver_writes_down_what_is_looked_up(
    watched_app: RunningApp, looked_up: Path
) -> None:
    """The one above would notice."""
    import subprocess
    import sys

    asks = "import socket; socket.create_connection(('stranger.invalid', 80))"
    subprocess.run([sys.executable, "-c", asks], env=watched_app.environment, check=False)
    assert "stranger.invalid" in looked_up.read_text()


def config(client: httpx.Client) -> dict[str, Any]:
    return client.get("config").json()


def ends(client: httpx.Client, session: str) -> Iterator[dict[str, Any]]:
    """What each of a session's calls came to."""
    with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as told:
        for line in told.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {}
            if message.get("msg") == "process_completed":
                yield message


def test_no_function_public_or_private_reads_an_address(client: httpx.Client) -> None:
    functions = config(client)["dependencies"]
    assert len(functions) > 100  # both languages and the API
    asked = 0
    for function in functions:
        if not function["backend_fn"]:
            continue
        session, here = uuid.uuid4().hex, 0
        values = list(nestings(as_file(ADDRESSES[0])))
        if function["api_visibility"] == "private":
            values = [values, values[-1]]  # the page has many, in both languages
        for value in values:
            body = {
                "data": [value] * len(function["inputs"]),
                "event_data": {"action": value, "id": value},
                "fn_index": function["id"],
                "session_hash": session,
            }
            way = "queue/join" if function["queue"] is not False else "run/predict"
            answer = client.post(f"gradio_api/{way}", json=body)
            here += answer.is_success and way == "queue/join"
        asked += here
        if here:
            assert len(list(ends(client, session))) == here
    assert asked > 200


FIRST = {"segment": "image", "verify": "video", "import_motion": "file", "submit": "request"}


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("endpoint", ["segment", "verify", "import_motion", "submit"])
def test_no_endpoint_reads_any_form_of_an_address(
    client: httpx.Client, endpoint: str, address: str
) -> None:
    count = {"segment": 3, "verify": 1, "import_motion": 3, "submit": 2}[endpoint]
    for value in (as_file(address), address):
        answer = client.post(f"gradio_api/call/{endpoint}", json={"data": [value] * count})
        told = client.get(f"gradio_api/call/{endpoint}/{answer.json()['event_id']}").text
        assert "event: error" in told and address.strip() not in told[:40]
        named = client.post(f"gradio_api/call/v2/{endpoint}", json={FIRST[endpoint]: value})
        assert named.status_code < 500
        if named.is_success:
            assert (
                "error" in client.get(f"gradio_api/call/{endpoint}/{named.json()['event_id']}").text
            )


def test_a_refusal_says_how_a_file_comes(client: httpx.Client) -> None:
    body = {"data": [as_file(ADDRESSES[0]), [[1, 1, 1]], None]}
    answer = client.post("gradio_api/call/segment", json=body)
    told = client.get(f"gradio_api/call/segment/{answer.json()['event_id']}").text
    assert "a file must come as an upload" in told and "addresses are not read" in told


ROUTES = (
    *("gradio_api/file={}", "gradio_api/file/{}", "gradio_api/proxy={}", "file={}", "proxy={}"),
    *("gradio_api/deep_link?session_hash={}", "config?deep_link={}", "?deep_link={}&view=api"),
    *("gradio_api/info?url={}", "static/{}", "assets/{}", "svelte/{}", "study/{}"),
    *("gradio_api/stream/{}/1/1/playlist.m3u8", "gradio_api/custom_component/{}/client/x/x.js"),
)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("address", ADDRESSES[:4])
def test_no_route_reads_an_address(client: httpx.Client, route: str, address: str) -> None:
    for written in (address, address.replace(":", "%3A").replace("/", "%2F")):
        assert client.get(route.format(written)).status_code < 500


FORMS = ("upload", "component_server", "process_recording", "vibe-edit", "call/segment", "run/x")


@pytest.mark.parametrize("route", FORMS)
def test_no_form_reads_an_address(client: httpx.Client, route: str) -> None:
    fields = {"url": ADDRESSES[0], "data": json.dumps(as_file(ADDRESSES[0])), "path": ADDRESSES[0]}
    fields |= {"component_id": "1", "session_hash": "x", "fn_name": "preview"}
    files = {"files": ("http://stranger.invalid/x.png", ADDRESSES[0].encode(), "image/png")}
    assert client.post(f"gradio_api/{route}", data=fields, files=files).status_code < 500
    assert client.post(f"gradio_api/{route}", data=fields).status_code < 500
    assert client.post(f"gradio_api/{route}", json=fields).status_code < 500


def test_no_tool_reads_an_address_or_a_file_of_this_machine(client: httpx.Client) -> None:
    picture = str(next((ROOT / "assets" / "examples").glob("*.png")))
    tools = re.findall(r'"name":"(\w+)"', mcp(client, "tools/list", {}))
    assert "segment" in tools
    for name in tools:
        for place in (ADDRESSES[0], picture):
            for value in (as_file(place), [{"path": place, "meta": MARK}]):
                named = ("image", "video", "file", "clips", "request", "references", "job", "name")
                told = mcp(
                    client, "tools/call", {"name": name, "arguments": dict.fromkeys(named, value)}
                )
                assert '"isError":true' in told or name in ("model", "motions"), (name, told[:300])


def mcp(client: httpx.Client, method: str, params: dict[str, Any]) -> str:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    accept = {"Accept": "application/json, text/event-stream"}
    answer = client.post("gradio_api/mcp/", json=body, headers=accept)
    assert answer.status_code == 200, answer.text
    return answer.text
