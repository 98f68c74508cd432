"""Visitors who come to a page, mark something in a picture, and never call again.

Each is a session of its own, as a browser's page is, and calls what the page calls. The server's
minutes are made seconds, so that those who left go to rest while others come; at the end the first
ones come back to what they left.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from motion_app.errors import MotionAppError
from motion_app.settings import ROOT
from motion_app.speed.fresh_server import FreshServer

AT_ONCE = 8  # visitors at the page
WARM_SHARE = 1 / 3  # of the visitors, after whom memory counts
LEAST = 30  # visitors, to tell growth from a start
MOST_GROWTH = 0.10
RETURN = 5  # visitors
REST_SECONDS = 12.0  # in place of ten minutes
SETTINGS = {
    "MOTION_APP_LIMITS__REST_MINUTES": f"{REST_SECONDS / 60:g}",
    "MOTION_APP_LIMITS__WAITING_PER_ADDRESS": "4096",  # all of them come from this machine
}
CLICKS = ((0.3, 0.6), (0.7, 0.6), (0.5, 0.4))  # shares of the picture's width and height
READY_SECONDS = 300.0


@dataclass(frozen=True)
class StrangersReport:
    """Bytes as MB, of the server and its children; ``broken`` names the laws that did not hold."""

    strangers: int
    seconds: float
    slowest_seconds: float
    memory_warm_mb: float
    memory_end_mb: float
    memory_growth: float
    failures: list[str]
    broken: list[str]


@dataclass(frozen=True)
class PageFunctions:
    """The numbers of what a page calls: its beginning, a choice among the examples, and a click on
    the picture."""

    enter: int
    pick: int
    click: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> PageFunctions:
        """From the page's own description."""
        places = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        bound = [
            (place, event, known)
            for known in config["dependencies"]
            for place, event in known["targets"]
        ]
        enter = next(known["id"] for _, event, known in bound if event == "load" and known["js"])
        acts = {place: known["id"] for place, event, known in bound if event == "act"}
        return cls(enter, *(acts[places[name]] for name in ("examples", "stage")))


class Stranger:
    """One visitor's page."""

    def __init__(self, client: httpx.Client, functions: PageFunctions) -> None:
        self.client, self.functions = client, functions
        self.session = uuid.uuid4().hex

    def visit(self, example: str) -> float:
        """Choose a picture and mark things in it; the seconds it took. MotionAppError where the
        page would show none of it."""
        began = time.monotonic()
        self._call(self.functions.enter, [None, "", uuid.uuid4().hex], None)
        self._act(self.functions.pick, kind="example", name=example)
        for x, y in CLICKS:
            self._act(self.functions.click, kind="point", x=x, y=y, positive=True)
        return time.monotonic() - began

    def returns(self) -> None:
        """Mark one thing more where one had left. MotionAppError where that is gone."""
        x, y = CLICKS[0]
        self._act(self.functions.click, kind="point", x=x, y=y, positive=True)

    def _act(self, function: int, **action: Any) -> None:
        self._call(function, [None], {"action": action})

    def _call(self, function: int, data: list[Any], event: dict[str, Any] | None) -> None:
        body = {"data": data, "fn_index": function, "session_hash": self.session}
        asked = self.client.post("gradio_api/queue/join", json=body | {"event_data": event})
        if asked.status_code != 200:
            raise MotionAppError(f"the call was refused: {asked.text[:200]}")
        for message in self._told():
            if message.get("msg") == "process_completed":
                if not message["success"]:
                    raise MotionAppError(str(message["output"].get("error"))[:200])
                return
        raise MotionAppError("the call was not answered")

    def _told(self) -> Iterator[dict[str, Any]]:
        path = f"gradio_api/queue/data?session_hash={self.session}"
        with self.client.stream("GET", path) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))


def entertain(strangers: int) -> StrangersReport:
    """So many visitors of a fresh server, ``AT_ONCE`` at a time. MotionAppError where it does not
    start."""
    with tempfile.TemporaryDirectory(prefix="strangers-") as folder:
        server = FreshServer(Path(folder), **SETTINGS)
        try:
            server.start()
            with httpx.Client(base_url=server.url, timeout=120) as client:
                _wait_until_ready(client)
                return _entertained(server, client, strangers)
        finally:
            server.stop()


def _wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        event = client.post("gradio_api/call/model", json={"data": []}).json()["event_id"]
        told = client.get(f"gradio_api/call/model/{event}").text
        if '"state": "ready"' in told:
            return
        if '"state": "failed"' in told or time.monotonic() > deadline:
            raise MotionAppError(f"the model did not load: {told[-300:]}")
        time.sleep(0.5)


def _entertained(server: FreshServer, client: httpx.Client, count: int) -> StrangersReport:
    functions = PageFunctions.of(client.get("config").json())
    examples = sorted(path.stem for path in (ROOT / "assets" / "examples").glob("*.json"))
    strangers = [Stranger(client, functions) for _ in range(count)]
    lock, memory, failures = threading.Lock(), [], []

    def visit(number: int) -> float:
        try:
            seconds = strangers[number].visit(examples[number % len(examples)])
        except (MotionAppError, httpx.HTTPError) as error:
            seconds = 0.0
            with lock:
                failures.append(f"visitor {number}: {error}")
        with lock:
            memory.append(server.memory())
        return seconds

    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pages:
        times = list(pages.map(visit, range(count)))
    time.sleep(2 * REST_SECONDS)  # the last ones too have gone to rest
    memory.append(server.memory())
    for number, stranger in enumerate(strangers[:RETURN]):
        try:
            stranger.returns()
        except (MotionAppError, httpx.HTTPError) as error:
            failures.append(f"visitor {number}, who came back: {error}")
    return _report(times, memory, failures, time.monotonic() - began)


def _report(
    times: list[float], memory: list[int], failures: list[str], seconds: float
) -> StrangersReport:
    warm, end = memory[round(WARM_SHARE * len(times))], memory[-1]
    growth = end / warm - 1
    laws = {
        "no visitor fails, nor who comes back": not failures,
        f"memory grows by less than {MOST_GROWTH:.0%}": growth <= MOST_GROWTH,
    }
    return StrangersReport(
        strangers=len(times),
        seconds=round(seconds, 1),
        slowest_seconds=round(max(times), 2),
        memory_warm_mb=round(warm / 2**20, 1),
        memory_end_mb=round(end / 2**20, 1),
        memory_growth=round(growth, 4),
        failures=failures[:10],
        broken=[law for law, held in laws.items() if not held],
    )
