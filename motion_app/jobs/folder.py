"""The folder of the jobs: its database, its claim, and what is tidied away.

The jobs in a database file: one row for each, and the program's own secrets.

Which folder a running program may call its own: two never work on one line of jobs.

The folders of jobs: how one is made, which are too old or too many, and which belong to none.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from motion_app.errors import MotionAppError, RequestError
from motion_app.text_files import Reserve

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
logger = logging.getLogger(__name__)
DAMAGED = "what was kept of this job is damaged; delete it and hand it in again"
RESERVE = "jobs.reserve"  # a file of zeros that goes where the disk is full
RESERVE_BYTES = 512 * 1024
RESERVE_STEP = 128 * 1024  # what opening the database and a few changes write
LOCK_NAME = "queue.lock"
MOST_QUEUES = 64
SECONDS_PER_HOUR = 3600.0
STAGING = ".new-"  # before a folder's name: its job is still being handed in


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


Rows = list[JobRow]  # within the class ``list`` is a method


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
        self._reserve = Reserve(self.path.with_name(RESERVE), most=RESERVE_BYTES, step=RESERVE_STEP)
        self._reserve.free()  # for what opening writes
        with self._explained():
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise
        self.hold_reserve()

    def hold_reserve(self) -> None:
        """Hold room back on the disk, so that on a full one jobs can still end and be deleted."""
        self._reserve.hold()

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
        states: Sequence[State] | None = None,
        limit: int | None = None,
    ) -> Rows:
        """Jobs, newest first; None takes all."""
        clauses = ["TRUE"]
        values: list[Any] = []
        if states is not None:
            clauses.append(f"state IN ({', '.join('?' * len(states))})")
            values += states
        for column, wanted in (("owner", owner), ("kind", kind)):
            if wanted is not None:
                clauses.append(f"{column} = ?")
                values.append(wanted)
        values.append(-1 if limit is None else limit)  # SQLite reads −1 as no limit
        return self._select(f"WHERE {' AND '.join(clauses)} ORDER BY number DESC LIMIT ?", values)

    def line(self) -> Rows:
        """The queued jobs in the order in which they run."""
        return self._select("WHERE state = 'queued' ORDER BY turn", [])

    def ended(self) -> Sequence[EndedJob]:
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
        values = [*(_stored(value) for value in changes.values()), job_id]
        self._insist(f"UPDATE jobs SET {', '.join(pairs)} WHERE id = ?", values)
        return self.get(job_id)

    def remove(self, job_id: str) -> None:
        """The row goes; a second time is as good as once."""
        self._insist("DELETE FROM jobs WHERE id = ?", [job_id])

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

    def _select(self, clauses: str, values: Sequence[Any]) -> Rows:
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
                f"the job database {self.path.name} has the version {version}, this program reads "
                f"{SCHEMA_VERSION}; use the program that wrote it, or move the file away to begin "
                "a new one"
            )

    def _insist(self, statement: str, values: Sequence[Any]) -> None:
        """Execute it; where the disk is full with the room that is held in reserve."""
        while True:
            try:
                with self._transaction() as database:
                    database.execute(statement, values)
                return
            except MotionAppError:
                if not self._reserve.free():
                    raise

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
                    f"the job database {self.path.name} is closed: the program is ending; start it "
                    "again"
                ) from error
            except sqlite3.OperationalError as error:
                raise MotionAppError(
                    f"the job database {self.path.name} cannot be used ({error}); check that its "
                    "folder can be written, that the disk is not full and that nothing else holds "
                    "the file"
                ) from error
            except sqlite3.DatabaseError as error:
                raise MotionAppError(
                    f"the job database {self.path.name} is damaged ({error}); move it away (with "
                    "the -wal and -shm files beside it) and start again: the list of jobs begins "
                    "anew, the videos stay in their folders"
                ) from error


def _stored(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _row(stored: tuple[Any, ...]) -> JobRow:
    entries = dict(zip(COLUMNS, stored, strict=True))
    try:
        for name in ("inputs", "outcome"):
            entries[name] = dict(json.loads(entries[name]))
        if entries["state"] not in (*ACTIVE, *TERMINAL):
            raise ValueError(entries["state"])
    except (TypeError, ValueError) as error:
        logger.warning("the row of the job %s is damaged: %s", entries["id"], error)
        entries |= {"state": "failed", "message": DAMAGED, "inputs": {}, "outcome": {}}
    return JobRow(**entries)


class ClaimedFolder:
    """``path`` belongs to this process until ``release``, or until the process is gone: the claim
    is the kernel's lock on a file, so a killed program leaves nothing behind."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        self._lock.close()


def claim_folder(outputs: Path | str) -> ClaimedFolder:
    """``outputs`` itself or, where another program works in it, the first free one of
    ``outputs/queue-2``, ``outputs/queue-3``, … A second program on another port thus has its own
    jobs, and finds them again when it is started as the second the next time.

    Raises MotionAppError where no folder can be made.
    """
    outputs = Path(outputs)
    for number in range(1, MOST_QUEUES + 1):
        path = outputs if number == 1 else outputs / f"queue-{number}"
        claimed = _claim(path)
        if claimed is not None:
            if number > 1:
                logger.info("another program works in %s; this one uses %s", outputs, path)
            return claimed
    raise MotionAppError(
        f"{MOST_QUEUES} programs work in {outputs} already; stop one, or choose another folder "
        "with MOTION_APP_OUTPUTS"
    )


def _claim(path: Path) -> ClaimedFolder | None:
    """None where another program has it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK_NAME).open("a+")
    except OSError as error:
        raise MotionAppError(
            f"the folder {path} cannot be used: {error.strerror}; choose another with "
            "MOTION_APP_OUTPUTS"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")  # for a person who looks who it is
    lock.flush()
    return ClaimedFolder(path, lock)


def write_files(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Make ``folder`` with ``files`` by name, bytes or a path to copy. RequestError for a name that
    is more than a file name, or for a disk that takes no more."""
    try:
        folder.mkdir(parents=True)
        for name, content in files.items():
            if not name or name.startswith(".") or re.search(r"[/\\\x00]", name):
                raise RequestError(f'"{name[:80]}" is no file name; use letters, digits, "-", "_"')
            if isinstance(content, Path):
                shutil.copyfile(content, folder / name)
            else:
                (folder / name).write_bytes(content)
    except OSError as error:
        raise RequestError(
            f"the job's files cannot be written: {error.strerror}; try again in a while"
        ) from error


def outlived(
    jobs: Sequence[EndedJob], *, now: float, keep_hours: float, keep_bytes: float
) -> list[EndedJob]:
    """The jobs to delete, oldest first: those that ended more than ``keep_hours`` before ``now``,
    and the oldest until the others fit into ``keep_bytes``."""
    oldest = now - keep_hours * SECONDS_PER_HOUR
    kept = sum(job.bytes for job in jobs)
    going = []
    for job in sorted(jobs, key=lambda job: job.ended):
        if job.ended >= oldest and kept <= keep_bytes:
            break
        going.append(job)
        kept -= job.bytes
    return going


def size_of(folder: Path) -> int:
    """Bytes of all files in it; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def remove_orphans(folder: Path, known: set[str], *, keep_hours: float, staged: bool) -> None:
    """Delete the folders of no job in ``known``, once they are older than ``keep_hours``: a program
    that was killed while it deleted leaves some. ``staged``: also those of jobs that were never
    handed in to the end, at once (at start, when nobody can be at it)."""
    oldest = time.time() - keep_hours * SECONDS_PER_HOUR
    for path in folder.iterdir():
        if path.name.startswith(STAGING):
            going = staged
        else:
            going = path.name not in known and _changed_at(path) < oldest
        if going:
            shutil.rmtree(path, ignore_errors=True)


def _changed_at(path: Path) -> float:
    """Seconds since 1970; of what has just vanished: now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
