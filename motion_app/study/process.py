"""The study's server in a process of its own, on this machine, while somebody here needs it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from motion_app.errors import RequestError
from motion_app.study.server import StudySettings, serve

START_SECONDS = 240  # on a free machine it takes 2
STOP_SECONDS = 20
START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]);"
    "from motion_app.study.process import attend; attend(int(sys.argv[2]))"
)


@contextlib.contextmanager
def served(folder: Path, *, database: str | None = None) -> Iterator[tuple[str, int]]:
    """The real pages of the study in ``folder`` on a free port: (host, port). The server shares
    nothing with this process but the machine, and ends with it. RequestError where it does not
    start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        paths = json.dumps([*sys.path, os.getcwd()])
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, paths, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is this program's
        )
    assert process.stdin is not None  # a pipe was asked for
    try:
        # The address of a database has a password in it, which an argument would show to everybody.
        given = {"folder": str(Path(folder).absolute()), "database": database}
        process.stdin.write(json.dumps(given).encode() + b"\n")
        process.stdin.flush()
        _wait(process, host, port)
        yield host, port
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # tells it to end
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        connection = http.client.HTTPConnection(host, port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            time.sleep(0.02)
        finally:
            connection.close()
    raise RequestError("the study's server did not start; what it said stands above")


def attend(descriptor: int) -> None:
    """In the process: serve on the socket ``descriptor`` what the first line of the input says,
    until the input ends."""
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    settings = StudySettings(Path(given["folder"]), database=given["database"])
    serve(settings, listener=socket.socket(fileno=descriptor))


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
