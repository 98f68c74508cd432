"""The jobs in a database file: one row for each, and the program's own secrets."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from motion_app.errors import MotionAppError, RequestError

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
ACTIVE: tuple[State, ...] = ("queued", "running")
TERMINAL: tuple[State, ...] = ("done", "failed", "cancelled", "interrupted")
REPEATABLE = tuple(state for state in TERMINAL if state != "done")  # can go back into the line

SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0  # how long another process may hold the file, a backup for example
# ``turn`` orders the line: a job that goes back into it gets a new one, ``number`` stays.
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    title TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    inputs TEXT NOT NULL,
    outcome TEXT NOT NULL,
    message TEXT NOT NULL,
    turn INTEGER NOT NULL
);
CREATE INDEX jobs_by_owner ON jobs (owner, number);
CREATE INDEX jobs_by_state ON jobs (state, turn);
CREATE TABLE secrets (name TEXT PRIMARY KEY, secret TEXT NOT NULL);
"""
NEXT_TURN = "(SELECT COALESCE(MAX(turn), 0) + 1 FROM jobs)"
COLUMNS = (
    *("id", "kind", "owner", "state", "title", "created", "started", "finished"),
    *("inputs", "outcome", "message"),
)
CHANGEABLE = {"state", "started", "finished", "outcome", "message"}


@dataclass(frozen=True)
class JobRow:
    """One job. ``id``: 128 random bits in hexadecimal; ``owner``: the token of the browser that
    asked for it; times in seconds since 1970, None where they have not come; ``inputs`` and
    ``outcome`` are plain JSON; ``message`` says in one line why a job did not end well."""

    id: str
    kind: str
    owner: str
    state: State
    title: str
    created: float
    started: float | None = None
    finished: float | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    outcome: dict[str, Any] = field(default_factory=dict)
    message: str = ""

    @property
    def active(self) -> bool:
        """It waits or runs."""
        return self.state in ACTIVE


@dataclass(frozen=True)
class EndedJob:
    """What tidying needs to know of a job: when it ``ended``, in seconds since 1970, and the
    ``bytes`` it takes."""

    id: str
    ended: float
    bytes: int


class JobStore:
    """The database. Any thread may call it; one connection serves them in turn.

    Raises MotionAppError where the file is damaged, of another version, or cannot be written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MotionAppError(
                f"the folder {self.path.parent} cannot be made: {error.strerror}; choose another "
                "with MOTION_APP_OUTPUTS"
            ) from error
        with self._explained():
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def add(self, row: JobRow) -> None:
        """A new job, last in the line."""
        fields = (*COLUMNS, "turn")
        marks = ", ".join("?" * len(COLUMNS))
        with self._transaction() as database:
            database.execute(
                f"INSERT INTO jobs ({', '.join(fields)}) VALUES ({marks}, {NEXT_TURN})",
                [_stored(getattr(row, name)) for name in COLUMNS],
            )

    def get(self, job_id: str) -> JobRow:
        """The job of that id; RequestError where there is none."""
        found = self._select("WHERE id = ?", [job_id])
        if not found:
            raise RequestError(
                f'there is no job "{job_id[:40]}"; it may have been deleted, or tidied away with '
                "its files"
            )
        return found[0]

    def list(
        self,
        *,
        owner: str | None = None,
        kind: str | None = None,
        states: Sequence[State] = (*ACTIVE, *TERMINAL),
        limit: int | None = None,
    ) -> list[JobRow]:
        """Jobs, newest first; None and the default take all."""
        clauses = [f"state IN ({', '.join('?' * len(states))})"]
        values: list[Any] = [*states]
        for column, wanted in (("owner", owner), ("kind", kind)):
            if wanted is not None:
                clauses.append(f"{column} = ?")
                values.append(wanted)
        values.append(-1 if limit is None else limit)  # SQLite reads −1 as no limit
        return self._select(f"WHERE {' AND '.join(clauses)} ORDER BY number DESC LIMIT ?", values)

    def line(self) -> list[JobRow]:
        """The queued jobs in the order in which they run."""
        return self._select("WHERE state = 'queued' ORDER BY turn", [])

    def ended(self) -> list[EndedJob]:
        """All jobs that neither wait nor run, with the bytes of their rows."""
        with self._explained():
            asked = self._connection.execute(
                "SELECT id, COALESCE(finished, created), LENGTH(inputs) + LENGTH(outcome) "
                "FROM jobs WHERE state NOT IN ('queued', 'running')"
            )
            return [EndedJob(*stored) for stored in asked.fetchall()]

    def update(self, job_id: str, *, last_in_line: bool = False, **changes: Any) -> JobRow:
        """Change some of CHANGEABLE and return the row; ``last_in_line`` gives it the last turn.
        RequestError for an unknown id."""
        unknown = sorted(set(changes) - CHANGEABLE)
        if unknown:
            raise ValueError(f"{', '.join(unknown)} of a job cannot change")
        pairs = [f"{name} = ?" for name in changes]
        if last_in_line:
            pairs.append(f"turn = {NEXT_TURN}")
        with self._transaction() as database:
            database.execute(
                f"UPDATE jobs SET {', '.join(pairs)} WHERE id = ?",
                [*(_stored(value) for value in changes.values()), job_id],
            )
            return self.get(job_id)

    def remove(self, job_id: str) -> None:
        """The row goes; a second time is as good as once."""
        with self._transaction() as database:
            database.execute("DELETE FROM jobs WHERE id = ?", [job_id])

    def ids(self) -> set[str]:
        """Of all jobs there are."""
        with self._explained():
            return {job_id for (job_id,) in self._connection.execute("SELECT id FROM jobs")}

    def secret(self, name: str) -> str:
        """256 random bits in hexadecimal, made when first asked for and the same ever after."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO secrets VALUES (?, ?)", [name, secrets.token_hex(32)]
            )
            asked = database.execute("SELECT secret FROM secrets WHERE name = ?", [name])
            return asked.fetchone()[0]

    def _select(self, clauses: str, values: list[Any]) -> list[JobRow]:
        with self._explained():
            asked = self._connection.execute(
                f"SELECT {', '.join(COLUMNS)} FROM jobs {clauses}", values
            )
            return [_row(stored) for stored in asked.fetchall()]

    def _prepare(self) -> None:
        with self._explained():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(" ".join(verdict.split()))
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self._transaction() as database:
                for statement in SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise MotionAppError(
                f"the job database {self.path} has the version {version}, this program reads "
                f"{SCHEMA_VERSION}; use the program that wrote it, or move the file away to begin "
                "a new one"
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; the lock keeps other threads' statements out of it."""
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """One thread at a time, with SQLite's errors in words that name the file."""
        with self._lock:
            try:
                yield
            except sqlite3.ProgrammingError as error:
                raise MotionAppError(
                    f"the job database {self.path} is closed: the program is ending; start it again"
                ) from error
            except sqlite3.OperationalError as error:
                raise MotionAppError(
                    f"the job database {self.path} cannot be used ({error}); check that its folder "
                    "can be written, that the disk is not full and that nothing else holds the file"
                ) from error
            except sqlite3.DatabaseError as error:
                raise MotionAppError(
                    f"the job database {self.path} is damaged ({error}); move it away (with the "
                    "-wal and -shm files beside it) and start again: the list of jobs begins anew, "
                    "the videos stay in their folders"
                ) from error


def _stored(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _row(stored: tuple[Any, ...]) -> JobRow:
    entries = dict(zip(COLUMNS, stored, strict=True))
    for name in ("inputs", "outcome"):
        entries[name] = json.loads(entries[name])
    return JobRow(**entries)
