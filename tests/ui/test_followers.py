"""Many who follow one job and a held button hold up nobody: a neighbour's click answers."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from statistics import median
from typing import Any

import httpx
import pytest
from daily import some_daily
from serving import ROOT, RunningApp

from motion_app.speed.soak import draft_request
from motion_app.ui.transfer.stream import pace_of

FEW, MANY = 30, 200
CLICKS = 5
MOST_SECONDS = 1.0
MOST_TIMES = 3  # as long as a click takes beside the same job when nobody follows it


async def call(client: httpx.AsyncClient, endpoint: str, *data: Any) -> Any:
    """The outcome of one call to the API."""
    asked = await client.post(f"gradio_api/call/{endpoint}", json={"data": list(data)})
    assert asked.status_code == 200, asked.text
    told = await client.get(f"gradio_api/call/{endpoint}/{asked.json()['event_id']}")
    assert "event: complete" in told.text, told.text[:300]
    return json.loads(told.text.split("data: ")[-1])[0]


async def follow(
    client: httpx.AsyncClient, job: str, pace: float, ended: asyncio.Event, told: list[str]
) -> None:
    """As pages are told to, every ``pace`` seconds."""
    await asyncio.sleep(len(told) % 20 * pace / 20)
    while not ended.is_set():
        told.append((await call(client, "job", job))["state"])
        await asyncio.sleep(pace)


async def clicks(client: httpx.AsyncClient, image: str) -> list[float]:
    """The seconds that each of CLICKS on a picture takes to become a mask."""
    seconds = []
    for _ in range(CLICKS):
        began = time.monotonic()
        await call(client, "segment", image, [[60, 60, 1]], None)
        seconds.append(time.monotonic() - began)
    return seconds


async def hold(client: httpx.AsyncClient, function: int, ended: asyncio.Event) -> None:
    """A button held on a page: its events come ten times a second, whatever becomes of them."""
    session = uuid.uuid4().hex
    while not ended.is_set():
        body = {"data": [None], "event_data": {"kind": "undo"}, "fn_index": function}
        await client.post("gradio_api/queue/join", json={**body, "session_hash": session})
        await asyncio.sleep(0.1)


async def clicks_meanwhile(url: str, followers: int) -> tuple[list[float], list[float], list[str]]:
    """Seconds of clicks beside a job that nobody follows and beside one that many do, and what
    those were told."""
    pace = pace_of(followers)
    limits = httpx.Limits(max_connections=500, keepalive_expiry=1.0)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        while (await call(client, "model"))["state"] != "ready":
            await asyncio.sleep(0.5)
        picture = sorted((ROOT / "assets" / "examples").glob("*.png"))[0].read_bytes()
        image = "data:image/png;base64," + base64.b64encode(picture).decode()
        await call(client, "segment", image, [[60, 60, 1]], None)  # what is loaded once
        request = draft_request() | {"steps": 400}
        job = (await call(client, "submit", request, False))["job"]
        waiting = asyncio.create_task(call(client, "generate", draft_request(), False))
        alone = await clicks(client, image)
        ended, told = asyncio.Event(), []
        dependencies = (await client.get("config")).json()["dependencies"]
        act = next(d["id"] for d in dependencies if d["targets"] and d["targets"][0][1] == "act")
        others = [
            asyncio.create_task(follow(client, job, pace, ended, told)) for _ in range(followers)
        ]
        others.append(asyncio.create_task(hold(client, act, ended)))
        await asyncio.sleep(pace)
        seconds = await clicks(client, image)
        ended.set()
        await asyncio.gather(*others)
        await call(client, "cancel", job)
        await waiting
        return alone, seconds, told


@pytest.mark.parametrize("followers", some_daily([FEW, MANY], FEW))
def test_a_neighbours_click_answers_while_many_follow_a_job(
    app: RunningApp, followers: int
) -> None:
    alone, seconds, told = asyncio.run(clicks_meanwhile(app.url, followers))
    assert len(told) >= followers and set(told) == {"running"}
    assert median(seconds) < max(MOST_SECONDS, MOST_TIMES * median(alone)), (alone, seconds)
