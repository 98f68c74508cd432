"""The study's tables, and the engine they are reached through: SQLite on a local disk (WAL), or
PostgreSQL by its address.

What is mounted in a hosted Space, and on many clusters, is object storage or a network's disk, on
which SQLite's locks and log do not hold: such a place is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from motion_app.errors import RequestError

MIGRATING = threading.Lock()  # alembic keeps what it is at in globals
HEAD = "0002"  # the revision this code is written for; a test holds it to the migrations
WAIT_SECONDS = 30
CONNECT_SECONDS = 10
# What a database that is stopped, starting, full or overrun raises.
AWAY = (OperationalError, InterfaceError, PoolTimeout)
POSTGRES_LOCK = 7_310_662  # advisory lock of migrations; any number that nobody else takes

# Types of /proc/self/mountinfo whose locks or shared memory SQLite's log cannot rely on.
REMOTE_TYPES = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs"),
        *("nfs", "nfs4", "smb2", "smb3", "smbfs", "virtiofs", "vboxsf"),
    )
)
LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.lxcfs"})  # a disk beneath
MOUNTS = Path("/proc/self/mountinfo")

metadata = sa.MetaData()

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("video", sa.Text, nullable=False),
    sa.Column("secret", sa.String(64), nullable=False),
    sa.Column("plan_digest", sa.String(64), nullable=False),
    sa.Column("unblinded", sa.Double),
)
items = sa.Table(
    "items",
    metadata,
    sa.Column("study", sa.ForeignKey("studies.id"), primary_key=True),
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("caption", sa.Text, nullable=False),
    sa.Column("first_frame", sa.String(64), nullable=False),
    sa.Column("references", sa.Text, nullable=False),
    sa.Column("candidates", sa.Text, nullable=False),
    sa.Column("answer", sa.Text),
)
presentations = sa.Table(
    "presentations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("study", sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("item", sa.String(32), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("order", sa.Text, nullable=False),
    sa.Column("repeats", sa.Integer),
    sa.ForeignKeyConstraint(["study", "item"], ["items.study", "items.id"]),
    sa.UniqueConstraint("study", "slot", "number"),
)
raters = sa.Table(
    "raters",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("study", sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("handed_out", sa.Double),
    sa.Column("joined", sa.Double),
    sa.Column("consented", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column("pid_hash", sa.String(64)),
    sa.Column("study_hash", sa.String(64)),
    sa.Column("session_hash", sa.String(64)),
    sa.UniqueConstraint("study", "slot"),
    sa.UniqueConstraint("study", "pid_hash"),
)
# Raters who never answered and whose place went to somebody else: late ones are told so.
lapsed = sa.Table(
    "lapsed",
    metadata,
    sa.Column("rater", sa.String(32), primary_key=True),
    sa.Column("study", sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)
# Rows are added and, when a rater takes the data back, deleted; never changed (by a trigger).
answers = sa.Table(
    "answers",
    metadata,
    sa.Column("serial", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(32), nullable=False),
    sa.Column("rater", sa.ForeignKey("raters.id"), nullable=False, index=True),
    sa.Column("presentation", sa.ForeignKey("presentations.id"), nullable=False),
    sa.Column("question", sa.String(16), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("choice", sa.Integer, nullable=False),
    sa.Column("coverage", sa.Text, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("changes", sa.BigInteger, nullable=False),
    sa.Column("shown_ms", sa.BigInteger, nullable=False),
    sa.Column("client_time", sa.BigInteger, nullable=False),
    sa.Column("server_time", sa.Double, nullable=False),
    sa.UniqueConstraint("rater", "id"),
    sa.UniqueConstraint("rater", "presentation", "question", "revision"),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("serial", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)
# A view, made by the migration: of each rater, screen and question the row of the last revision.
latest_answers = sa.Table(
    "latest_answers",
    sa.MetaData(),
    *(sa.Column(column.name, column.type) for column in answers.columns),
)


def is_full(error: BaseException) -> bool:
    """Whether a statement found no room on the disk of an SQLite file."""
    cause = error.orig if isinstance(error, OperationalError) else None
    return getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL"


def connect(address: str | Path) -> sa.Engine:
    """An engine with its tables at ``HEAD``. ``address``: the path of an SQLite file, or
    ``postgresql://user@host/name``. RequestError where it cannot be used."""
    text = str(address)
    if "://" not in text:
        engine = _sqlite(Path(text))
    elif text.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        url = sa.make_url("postgresql+psycopg://" + text.split("://", 1)[1])
        if "connect_timeout" not in url.query:  # without one a silent host is waited for in vain
            url = url.update_query_dict({"connect_timeout": str(CONNECT_SECONDS)})
        engine = sa.create_engine(url, pool_size=8, max_overflow=16, pool_pre_ping=True)
    else:
        raise RequestError(
            f'a study\'s database is a file or "postgresql://…", got "{text.split(":")[0]}://…"'
        )
    try:
        with MIGRATING:
            _migrate(engine)
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()
        raise RequestError(
            f"the study's database cannot be opened: {reason[0] if reason else error.orig!r}; "
            "check its address, and that it runs"
        ) from error
    return engine


def _sqlite(path: Path) -> sa.Engine:
    check_local_disk(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _sqlite_engine(sa.make_url(f"sqlite:///{path}"), connections=1)


def reading_engine(engine: sa.Engine) -> sa.Engine:
    """Where to read beside ``engine``, as ``connect`` made it; it may be the same one."""
    return engine if engine.dialect.name == "postgresql" else _sqlite_engine(engine.url)


def _sqlite_engine(url: sa.URL, *, connections: int = 24) -> sa.Engine:
    """SQLite lets one write at a time, and who meets another one asks again after up to 0.1 s,
    whoever came first. The writers of one program therefore wait for one connection, in turn."""
    engine = sa.create_engine(
        url,
        connect_args={"timeout": WAIT_SECONDS, "check_same_thread": False},
        pool_size=connections,
        max_overflow=0,
        pool_timeout=4 * WAIT_SECONDS,
    )

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late for the lock
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later would fail as busy instead of waiting.
        reads = connection.get_execution_options().get("reads")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version"))


def _migrate(engine: sa.Engine) -> None:
    """Bring the tables to ``HEAD``; two programs that start together wait for each other."""
    with engine.connect().execution_options(reads=True) as connection:
        if _revision(connection) == HEAD:
            return

    from alembic import command  # a third of a second, and only a new database needs it
    from alembic.config import Config

    config = Config()
    config.set_main_option(
        "script_location", str(resources.files("motion_app.study") / "migrations")
    )
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(POSTGRES_LOCK)))
        if _revision(connection) != HEAD:
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)


def check_local_disk(
    path: Path | str,
    *,
    mounts: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """RequestError where an SQLite database at ``path`` would lie on a network or FUSE mount, or in
    a Space's mounted /data. ``mounts`` and ``environment`` replace what the system says."""
    environment = os.environ if environment is None else environment
    place = Path(path).resolve()
    advice = "use PostgreSQL (MOTION_APP_STUDY_DATABASE), or a folder on the machine's own disk"
    if environment.get("SPACE_ID") and Path("/data") in (place, *place.parents):
        raise RequestError(
            f"the study's SQLite file {place} would lie in a Space's mounted storage, where a "
            f"database breaks; {advice}"
        )
    if mounts is None:
        mounts = MOUNTS.read_text(encoding="utf-8") if MOUNTS.is_file() else ""
    kind = _mount_type(place, mounts)
    if kind in REMOTE_TYPES or (kind.startswith("fuse") and kind not in LOCAL_FUSE):
        raise RequestError(
            f"the study's SQLite file {place} would lie on a {kind} mount, where a database "
            f"breaks; {advice}"
        )


def _mount_type(place: Path, mounts: str) -> str:
    """The file system type of the innermost mount that holds ``place``; "" where none is known.
    Of two mounts on one point the later one covers the earlier."""
    found, depth = "", -1
    for line in mounts.split("\n"):
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if not dash or len(fields) < 5:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))  # a blank is \040
        if point in (place, *place.parents) and len(point.parts) >= depth:
            found, depth = after.split()[0], len(point.parts)
    return found
