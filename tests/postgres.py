"""A real PostgreSQL for the tests: in a folder of its own, as a user without rights, reached over a
socket alone, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

OWNER = "postgres"  # the user that Debian's package makes; a server refuses to run as root
WITHOUT = "MOTION_APP_TEST_WITHOUT_POSTGRES"  # set by make where it cannot be installed
START_SECONDS = 60


def binaries() -> Path | None:
    """The folder of the newest ``initdb``, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    elsewhere = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(elsewhere).resolve().parent if elsewhere else None


def backends() -> list[str]:
    """What the store's tests run on."""
    return ["sqlite"] if os.environ.get(WITHOUT) else ["sqlite", "postgresql"]


@contextmanager
def running() -> Iterator[str]:
    """The server's socket folder, while it runs."""
    programs = binaries()
    if programs is None:
        pytest.fail(f"PostgreSQL is not installed; apt-get install postgresql, or set {WITHOUT}=1")
    folder = Path(tempfile.mkdtemp(prefix="study-postgres-"))
    options: dict[str, object] = {"cwd": folder, "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:
        shutil.chown(folder, OWNER, OWNER)
        options |= {"user": OWNER, "group": OWNER, "extra_groups": []}
    folder.chmod(0o700)
    data, log = folder / "data", folder / "log"
    subprocess.run(
        [programs / "initdb", "-D", data, "-A", "trust", "-U", "study", "--no-sync", "-E", "UTF8"],
        check=True,
        **options,
    )
    settings = ["listen_addresses=", "fsync=off", "max_connections=120"]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-k", folder]
        + [part for setting in settings for part in ("-c", setting)],
        stderr=log.open("wb"),
        **options,
    )
    try:
        _wait(server, folder, log)
        yield str(folder)
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        server.wait(START_SECONDS)
        shutil.rmtree(folder)


def _wait(server: subprocess.Popen, folder: Path, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(host=str(folder), user="study", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                pytest.fail(f"PostgreSQL did not start: {log.read_text()[-500:]}")
            time.sleep(0.05)


def new_database(folder: str, name: str) -> str:
    """The address of a new, empty database."""
    connection = psycopg.connect(host=folder, user="study", dbname="postgres", autocommit=True)
    with connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
    return f"postgresql://study@/{name}?host={folder}"
