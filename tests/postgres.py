"""A real PostgreSQL for the tests: in a folder of its own, as a user without rights, reached over a
socket alone, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from daily import some_daily

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


def one_every_day(name: str) -> list[object]:
    """``backends`` of tests that meet ``name`` every day, where it is there, and others on long
    runs."""
    names = backends()
    return some_daily(names, name if name in names else names[0])


class Server:
    """A cluster in a folder of its own; started again after ``stop`` it has what it had."""

    def __init__(self, programs: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="study-postgres-"))
        self._programs, self._data = programs, self.folder / "data"
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._options: dict[str, object] = {"cwd": self.folder, "stdout": subprocess.DEVNULL}
        self._as_owner: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, OWNER, OWNER)
            # By a program, not by subprocess: that would copy this process first, for which one
            # that has loaded models may be too large.
            rights = (f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups")
            self._as_owner = ["setpriv", *rights, "--"]
        self.folder.chmod(0o700)
        subprocess.run(
            [
                *self._as_owner,
                *(programs / "initdb", "-D", self._data, "--no-sync"),
                *("-A", "trust", "-U", "study", "-E", "UTF8"),
            ],
            check=True,
            **self._options,
        )

    def start(self) -> None:
        """Wait until it answers."""
        settings = ["listen_addresses=", "fsync=off", "max_connections=120"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_owner, self._programs / "postgres", "-D", self._data, "-k", self.folder]
                + [part for setting in settings for part in ("-c", setting)],
                stderr=log,
                **self._options,
            )
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"PostgreSQL did not start: {self._log.read_text()[-500:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            psycopg.connect(host=str(self.folder), user="study", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """At once, as "pg_ctl stop -m immediate" does: nobody is waited for, nothing put away."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(START_SECONDS)


@contextmanager
def server() -> Iterator[Server]:
    """A server, while it runs."""
    programs = binaries()
    if programs is None:
        pytest.fail(f"PostgreSQL is not installed; apt-get install postgresql, or set {WITHOUT}=1")
    made = Server(programs)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.folder)


@contextmanager
def running() -> Iterator[str]:
    """A server's socket folder, while it runs."""
    with server() as made:
        yield str(made.folder)


def database_for(request: pytest.FixtureRequest) -> str | None:
    """Where a study finds no tables yet, of the kind that the fixture's parameter names; None:
    SQLite. A schema, which to whoever has its address is a database: one of its own would take
    8 MB of the disk for each test."""
    if request.param == "sqlite":
        return None
    folder, name = request.getfixturevalue("postgres_server"), "t" + uuid.uuid4().hex
    _execute(folder, f'CREATE SCHEMA "{name}"')
    return f"postgresql://study@/postgres?host={folder}&options=-csearch_path%3D{name}"


def new_database(folder: str, name: str) -> str:
    """The address of a new, empty database."""
    _execute(folder, f'CREATE DATABASE "{name}"')
    return f"postgresql://study@/{name}?host={folder}"


def _execute(folder: str, statement: str) -> None:
    connection = psycopg.connect(host=folder, user="study", dbname="postgres", autocommit=True)
    with connection:
        connection.execute(statement)  # type: ignore[call-overload]


@pytest.fixture(name="database", params=one_every_day("sqlite"))
def database_of_pages(request: pytest.FixtureRequest) -> str | None:
    """For a file about pages, that imports it: the store's own tests run on every database every
    day; of the pages, whole visits do."""
    return database_for(request)
