"""An app that strangers call, for all tests of what they may make it do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import RunningApp

CALL_MEGABYTES = 64
# Beside the program when it starts: what it looks up or connects to, but itself, is written down.
WATCH = """
import os, socket
NOTES, HERE = os.environ["LOOKED_UP"], ("127.0.0.1", "localhost", "::1", "0.0.0.0", "")
looks_up, connects = socket.getaddrinfo, socket.socket.connect

def note(what):
    with open(NOTES, "a") as notes:
        notes.write(f"{what}\\n")

def getaddrinfo(host, port, *rest, **named):
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if name not in HERE:
        note(name)
        raise socket.gaierror(socket.EAI_NONAME, "not looked up")
    return looks_up(host, port, *rest, **named)

def connect(self, address):
    if self.family != socket.AF_UNIX and address[1] != int(os.environ["OWN_PORT"]):
        note(address)
        raise ConnectionRefusedError(address)
    return connects(self, address)

socket.getaddrinfo, socket.socket.connect = getaddrinfo, connect
"""


@pytest.fixture(scope="session")
def looked_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the app below notes what it looked up."""
    return tmp_path_factory.mktemp("notes") / "looked-up"


@pytest.fixture(scope="session")
def watched_app(tmp_path_factory: pytest.TempPathFactory, looked_up: Path) -> Iterator[RunningApp]:
    """The app with MCP and a low limit of a call, whose resolver is watched."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "sitecustomize.py").write_text(WATCH)
    own = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"MOTION_APP_LIMITS__CALL_MEGABYTES": str(CALL_MEGABYTES)}
    running = RunningApp(folder, "--mcp", PYTHONPATH=own, LOOKED_UP=str(looked_up), **settings)
    running.environment["OWN_PORT"] = str(running.port)
    with running:
        yield running
