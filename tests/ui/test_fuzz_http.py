"""Calls from strangers over raw HTTP: each gets an answer a person can read, soon, and the server
lives on in the memory it has."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil
import pytest
from daily import some_daily
from fuzzing import fuzz
from hypothesis import Phase, given
from hypothesis import strategies as st
from serving import ROOT, RunningApp

from motion_app.media.files import encode_data_uri, write_video
from motion_app.speed.fresh_server import resident_bytes

fuzz_calls = partial(fuzz, phases=(Phase.explicit, Phase.generate))  # a smaller one takes minutes
PATIENCE = 10.0  # s of the server's time for one answer
PATIENCE_SECONDS = 240.0  # by the clock: other programs may have the machine
MOST_GROWTH = 1.5 * 2**30  # bytes above idle
LONG = 50 * 2**20  # characters
CALL_MEGABYTES = 64  # of ``watched_app``
MOTION = ROOT / "checkpoints" / "pocket" / "motions" / "jump.safetensors"
NEVER_TOLD = ("Traceback", 'File "', "site-packages", str(ROOT), "Internal Server Error")
# every public endpoint and how many values it takes
ENDPOINTS = {
    "segment": 3,
    "find": 3,
    "verify": 1,
    "evaluate": 4,
    "generate": 2,
    "submit": 2,
    "train_motion": 9,
    "transfer": 5,
    "job": 1,
    "cancel": 1,
    "again": 1,
    "delete_job": 1,
    "import_motion": 3,
    "export_motion": 1,
    "rename_motion": 2,
    "share_motion": 2,
    "delete_motion": 1,
    "restore_motion": 1,
    "published_motions": 2,
    "pull_motions": 3,
    "push_motions": 5,
}
TAKES_A_FILE = ("segment", "transfer", "verify", "evaluate", "import_motion")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["../../etc/passwd", "\x00", "data:", "9" * 400, "http://127.0.0.1/"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


class Memory:
    """The most that the server and its children held, bytes."""

    def __init__(self, pid: int) -> None:
        self.server = psutil.Process(pid)
        self.idle = self.peak = self.now()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> int:
        return resident_bytes(self.server)

    def stop(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self.peak = max(self.peak, self.now())


class Server:
    """The app, and what it says to one call at a time."""

    def __init__(self, app: RunningApp) -> None:
        self.app = app

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        kind: str = "application/json",
        *,
        upload: bool = False,
    ) -> tuple[int, str]:
        """Status and text of the answer, which came in time and told nothing of the server; an
        ``upload`` is answered with its own path."""
        began = self.time_used()
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.app.port, timeout=PATIENCE_SECONDS
        )
        # refused before all of it was sent: the answer is there
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        connection.close()
        assert self.time_used() - began < PATIENCE
        if not upload:
            self.check(text)
        return answer.status, text

    def time_used(self) -> float:
        """Seconds of processors, those of its finished decoders included."""
        return sum(psutil.Process(self.app.process.pid).cpu_times()[:4])

    def check(self, text: str) -> None:
        told = text.lower()
        for secret in (*NEVER_TOLD, str(self.app.folder)):
            assert secret.lower() not in told, text[:400]

    def call(self, endpoint: str, data: Any) -> bool:
        """Whether the call was refused in words; else it was answered."""
        status, text = self.send(
            "POST", f"/gradio_api/call/{endpoint}", json.dumps({"data": data}).encode()
        )
        if status != 200:
            return refused(status, text)
        return self.refused_in_event(f"/gradio_api/call/{endpoint}/{json.loads(text)['event_id']}")

    def refused_in_event(self, path: str) -> bool:
        status, text = self.send("GET", path)
        assert status == 200, text[:400]
        if "event: complete" in text:
            job = json.loads(text.split("data: ", 1)[1])[0]
            if isinstance(job, dict) and job.get("state") == "queued":
                self.call("cancel", [job["job"]])
            return False
        words = json.loads(text.rsplit("event: error\ndata: ", 1)[1])["error"]
        assert isinstance(words, str) and 10 < len(words) < 3000, text[:400]
        return True

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        body, kind = multipart(name, content)
        status, text = self.send("POST", "/gradio_api/upload", body, kind, upload=True)
        assert status == 200, text
        return {"path": json.loads(text)[0], "meta": {"_type": "gradio.FileData"}}


def refused(status: int, text: str) -> bool:
    assert 400 <= status < 500, (status, text[:400])
    assert len(text) < 3000
    return True


def multipart(name: str, content: bytes) -> tuple[bytes, str]:
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode("utf-8", "surrogatepass") + content + f"\r\n--{mark}--\r\n".encode()
    return body, f"multipart/form-data; boundary={mark}"


@pytest.fixture(scope="module")
def app(watched_app: RunningApp) -> RunningApp:
    return watched_app


@pytest.fixture(scope="module")
def server(app: RunningApp) -> Server:
    return Server(app)


@pytest.fixture(scope="module", autouse=True)
def memory(app: RunningApp, server: Server) -> Iterator[Memory]:
    """Watched from when the model is there."""
    while '"ready"' not in asked(server, "model"):
        time.sleep(0.5)
    watched = Memory(app.process.pid)
    yield watched
    watched.stop()


def asked(server: Server, endpoint: str) -> str:
    _, text = server.send("POST", f"/gradio_api/call/{endpoint}", b'{"data": []}')
    return server.send("GET", f"/gradio_api/call/{endpoint}/{json.loads(text)['event_id']}")[1]


@cache
def sound_request() -> dict[str, Any]:
    mask = np.zeros((64, 96), bool)
    mask[20:44, 30:60] = True
    thing = {"mask": encode_data_uri(mask), "sentence": "A cat is moving.", "motion": None}
    image = encode_data_uri(np.full((64, 96, 3), 128, np.uint8))
    return {"image": image, "objects": [thing], "seed": 1, "steps": 1}


def test_the_request_that_is_spoiled_below_is_sound(server: Server) -> None:
    assert not server.call("submit", [sound_request(), False])


@fuzz_calls(60)
@given(endpoint=st.sampled_from(sorted(ENDPOINTS)), value=st.data())
def test_values_of_any_type_are_refused_in_words(server: Server, endpoint: str, value: Any) -> None:
    count = ENDPOINTS[endpoint]
    server.call(endpoint, value.draw(st.lists(JSON, min_size=count, max_size=count)))


@fuzz_calls(15)
@given(endpoint=st.sampled_from(sorted(ENDPOINTS)), data=st.lists(JSON, max_size=12) | JSON)
def test_a_wrong_number_of_values_is_refused(server: Server, endpoint: str, data: Any) -> None:
    if not isinstance(data, list) or len(data) < ENDPOINTS[endpoint]:
        assert server.call(endpoint, data)
    else:
        server.call(endpoint, data)


@fuzz_calls(40)
@given(
    key=st.sampled_from(["image", "objects", "seed", "steps", "guidance", "prompt", "fit", "x"]),
    inner=st.none() | st.sampled_from(["mask", "sentence", "phrase", "motion", "strength", "name"]),
    value=JSON,
    wrapped=st.booleans(),
)
def test_a_spoiled_request_or_recipe_is_refused_or_sound(
    server: Server, key: str, inner: str | None, value: Any, wrapped: bool
) -> None:
    if inner is None:
        request = sound_request() | {key: value}
    else:
        request = sound_request() | {"objects": [sound_request()["objects"][0] | {inner: value}]}
    server.call("submit", [{"request": request, "base": ""} if wrapped else request, False])


@fuzz_calls(30)
@given(
    endpoint=st.sampled_from(TAKES_A_FILE),
    kind=st.sampled_from(["image/png", "video/mp4", "text/html", ""]),
    content=st.binary(max_size=300),
    spoil=st.sampled_from(["", "!", "=", "%00", " ", "é"]),
)
def test_broken_data_uris_are_refused(
    server: Server, endpoint: str, kind: str, content: bytes, spoil: str
) -> None:
    uri = f"data:{kind};base64,{base64.b64encode(content).decode()}{spoil}"
    assert server.call(endpoint, with_file(endpoint, uri))


def with_file(endpoint: str, file: Any) -> list[Any]:
    values: dict[str, list[Any]] = {
        "segment": [file, [[5, 5, 1]], None],
        "transfer": [file, [{"clicks": [[5, 5, 1]]}], None, "crop", False],
        "verify": [file],
        "evaluate": [file, None, None, None],
        "import_motion": [file, "", "moves"],
    }
    return values[endpoint]


PATHS = (
    *("/etc/passwd", "/etc/hostname", "/proc/self/environ", "app.py", "..", ".", "/", ""),
    *("../../../../etc/passwd", "\x00", "a" * 5000, "/dev/zero", "file:///etc/passwd"),
    *("http://127.0.0.1:1/x.png", "//etc/passwd", "C:\\boot.ini", "~/.ssh/id_rsa", "%2e%2e/x"),
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("meta", [True, False])
def test_no_path_of_the_server_is_an_upload(server: Server, path: str, meta: bool) -> None:
    file = {"path": path, "url": path} | ({"meta": {"_type": "gradio.FileData"}} if meta else {})
    for endpoint in ("segment", "transfer", "import_motion"):
        assert server.call(endpoint, with_file(endpoint, file))


@fuzz_calls(20)
@given(at=st.integers(0, 4000), bits=st.integers(1, 255), cut=st.integers(0, 400))
def test_a_spoiled_motion_file_is_refused_or_still_a_motion(
    server: Server, at: int, bits: int, cut: int
) -> None:
    content = bytearray(MOTION.read_bytes())
    content[at] ^= bits
    file = server.upload("x.safetensors", bytes(content[: len(content) - cut]))
    server.call("import_motion", [file, uuid.uuid4().hex, ""])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "x.mp4"
    write_video(path, np.zeros((9, 64, 96, 3), np.uint8), 8.0, comment='{"request": {}}')
    return path.read_bytes()


@fuzz_calls(15)
@given(at=st.integers(0, 10_000), noise=st.binary(min_size=1, max_size=64), keep=st.floats(0, 1))
def test_a_spoiled_video_is_refused_or_looked_at(
    server: Server, video: bytes, at: int, noise: bytes, keep: float
) -> None:
    at %= len(video)
    content = (video[:at] + noise + video[at + len(noise) :])[: int(len(video) * keep) + 1]
    for endpoint in ("verify", "evaluate"):
        server.call(endpoint, with_file(endpoint, server.upload("x.mp4", content)))


RAW = (
    *(b"", b"[", b"null", b"[]", b'"x"', b"\xff\xfe\x00", b"{" * 5000, b'{"data": [1e999]}'),
    *(b"[" * 100_000, b'{"data": ' + b"[" * 3000 + b"]" * 3000 + b"}", b'{"data": {"0": 1}}'),
    *(b'{"data": [], "fn_index": 99999}', b'{"data": [], "session_hash": {"a": 1}}'),
    *(b'{"data": [], "event_id": [1]}', b'{"data": [], "batched": true}'),
    *(
        b'{"data": ["' + b"\\ud800" + b'"]}',
        b'{"data": [NaN]}',
        b'{"data": [' + b"9" * 9999 + b"]}",
    ),
)


@pytest.mark.parametrize("body", RAW, ids=range(len(RAW)))
@pytest.mark.parametrize(
    "path", ["call/job", "call/nothing", "queue/join", "run/job", "run/predict", "component_server"]
)
def test_a_body_of_anything_is_refused(server: Server, path: str, body: bytes) -> None:
    status, text = server.send("POST", f"/gradio_api/{path}", body)
    if status == 200:
        assert server.refused_in_event(f"/gradio_api/{path}/{json.loads(text)['event_id']}")
    else:
        refused(status, text)


NAMES = ("../../x.png", "/etc/cron.d/x", "a" * 3000 + ".png", "..", "\u202egnp.exe", "x\\..\\y", "")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_upload_stays_in_its_folder_whatever_it_is_called(
    app: RunningApp, server: Server, name: str
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=PATIENCE_SECONDS)
    body, kind = multipart(name, b"no picture")
    connection.request("POST", "/gradio_api/upload", body, {"Content-Type": kind})
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:  # its own path is what an upload is answered with, and all it tells
        server.check(text)
        assert refused(answer.status, text)
        return
    for path in json.loads(text):
        assert Path(path).resolve().is_relative_to(app.folder / "cache")
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert server.call("segment", with_file("segment", file))


@fuzz_calls(15)
@given(body=st.binary(max_size=400), boundary=st.text('ab-;=" ', max_size=12))
def test_a_form_of_anything_is_refused(server: Server, body: bytes, boundary: str) -> None:
    status, text = server.send(
        "POST", "/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}"
    )
    assert (status == 200 and json.loads(text) == []) or refused(status, text)


HIDDEN = (
    *("/etc/passwd", "/proc/self/environ", "{outputs}/jobs.sqlite3", "{root}/app.py"),
    *(
        "{outputs}/jobs/../jobs.sqlite3",
        "../../etc/passwd",
        "http://127.0.0.1:1/x",
        "\x00",
        "{cache}",
    ),
)


@pytest.mark.parametrize("path", HIDDEN)
@pytest.mark.parametrize("route", ["gradio_api/file=", "file=", "static/", "assets/", "study/"])
def test_no_route_gives_a_file_that_is_none_of_its_own(
    app: RunningApp, server: Server, route: str, path: str
) -> None:
    folder = app.folder
    path = path.format(outputs=folder / "outputs", root=ROOT, cache=folder / "cache")
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=PATIENCE_SECONDS)
    connection.request("GET", f"/{route}{quote(path, safe='/:.')}")
    answer = connection.getresponse()
    assert 300 <= answer.status < 500, path  # a redirect at most to another route


LONG_CALLS: dict[str, Callable[[str], list[Any]]] = {
    "job": lambda text: [text],
    "segment": lambda text: ["data:image/png;base64," + text, [[1, 1, 1]], None],
    "verify": lambda text: ["data:video/mp4;base64," + text],
    "export_motion": lambda text: [text],
    "submit": lambda text: [sound_request() | {"prompt": text}, False],
    "import_motion": lambda text: ["data:;base64," + text, text[: LONG // 8], ""],
    "train_motion": lambda text: [[], text, "runs", "cat", None, "fleximmt", None, None, None],
    "transfer": lambda text: ["data:image/png;base64," + text, [{"clicks": [[1, 1, 1]]}]],
}


def test_a_call_over_the_limit_is_refused_before_it_is_read(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.app.port, timeout=PATIENCE_SECONDS)
    connection.putrequest("POST", "/gradio_api/call/job")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert f"{CALL_MEGABYTES} MB at most" in answer.read().decode()


def test_a_call_without_a_length_is_cut_off_at_the_limit(server: Server) -> None:
    pieces = (b" " * 2**20 for _ in range(CALL_MEGABYTES + 8))
    status, text = server.send("POST", "/gradio_api/call/job", pieces)
    assert status == 413 and "at most" in text


@pytest.mark.parametrize("times", some_daily([1, 2], 1))
def test_fifty_megabytes_are_refused_and_the_server_lives_in_little_more_memory(
    server: Server, memory: Memory, times: int
) -> None:
    for endpoint in LONG_CALLS:
        for _ in range(times):
            assert server.call(endpoint, LONG_CALLS[endpoint]("A" * LONG)), endpoint
    assert '"ready"' in asked(server, "model")
    assert memory.peak - memory.idle < MOST_GROWTH
