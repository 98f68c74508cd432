"""What is wrong at the start is told in one sentence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ROOT, free_port


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def told(tmp_path: Path, *flags: str, **settings: str) -> str:
    """What the program says as it ends."""
    environment = os.environ | {
        "MOTION_APP_OUTPUTS": str(tmp_path / "outputs"),
        "MOTION_APP_CACHE": str(tmp_path / "cache"),
        **settings,
    }
    command = [sys.executable, "app.py", *flags]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.strip().splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("flags", [(), ("--study-only",)])
def test_a_port_in_use(tmp_path: Path, taken: int, flags: tuple[str, ...]) -> None:
    line = told(tmp_path, "--port", str(taken), *flags)
    assert line == f"the port {taken} is used by another program; choose another with --port"


@pytest.mark.parametrize("flags", [(), ("--study-only",)])
def test_a_folder_that_cannot_be_written(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "outputs")
    line = told(tmp_path, "--port", str(free_port()), *flags, MOTION_APP_OUTPUTS=place)
    assert "MOTION_APP_OUTPUTS" in line and "choose another" in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--prt", "1"), "unrecognized arguments: --prt 1; see python app.py --help"),
        (("--port", "x"), "argument --port: invalid int value"),
        (("--host", "203.0.113.9"), "this machine has no address 203.0.113.9; check --host"),
        (("--auth", "ann"), "--auth needs USER:PASSWORD, both not empty"),
        (("--root-path", "motion"), "the root path is"),
    ],
)
def test_a_wrong_flag(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    named = () if "--port" in flags else ("--port", str(free_port()))
    assert told(tmp_path, *named, *flags).startswith(words)
