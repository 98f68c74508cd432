"""A study in its database, as it was created: config, items, plan, the links' secret.

Answers also go to a JSONL file, which may go to a data set of the Hub: a hosted Space forgets its
disk when it restarts."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from motion_app.errors import RequestError
from motion_app.study.database import (
    AWAY,
    connect,
    events,
    is_full,
    items,
    presentations,
    raters,
    reading_engine,
    studies,
)
from motion_app.study.links import LinkSigner, new_id, new_secret
from motion_app.study.plan import Plan, StudyConfig, StudyItem, draw_plan
from motion_app.study.records import PlannedScreen, VideoFormat
from motion_app.text_files import Reserve, json_text, write_whole

if TYPE_CHECKING:
    from huggingface_hub import CommitScheduler
logger = logging.getLogger(__name__)
RESERVE = "study.reserve"  # a file of zeros that goes where the disk is full
RESERVE_BYTES, RESERVE_STEP = 512 * 1024, 128 * 1024
Changed = TypeVar("Changed")
SLOTS_KEPT = 512  # plans in memory, of at most some 100 KB each


class AnswerSink(Protocol):
    """Takes every saved answer, after the database has it."""

    def append(self, row: Mapping[str, Any]) -> None:
        """``row`` is plain JSON. Called from many threads."""

    def close(self) -> None:
        """Hand on what is left."""


class JsonlSink:
    """Appends each answer as a line to ``folder``/answers-<time>-<process>.jsonl; a new program
    starts a new file, so that nothing that was sent before is written again."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.path = self.folder / f"answers-{time.time_ns()}-{os.getpid()}.jsonl"
        self._lock = threading.Lock()

    def append(self, row: Mapping[str, Any]) -> None:
        line = json_text(row, sort_keys=True) + "\n"
        with self._lock:
            self._start()
            with self._writing(), self.path.open("a", encoding="utf-8") as file:
                file.write(line)

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def _writing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def close(self) -> None:
        """Every line is written as it comes."""


class HubSink(JsonlSink):
    """A ``JsonlSink`` whose folder goes to a private data set of the Hugging Face Hub every few
    minutes, through huggingface_hub's CommitScheduler, from the first answer on. The token is that
    library's own affair (``HF_TOKEN``)."""

    def __init__(self, dataset: str, folder: Path | str, *, minutes: float = 5) -> None:
        super().__init__(folder)
        self.dataset, self.minutes = dataset, minutes
        self._scheduler: CommitScheduler | None = None

    def _start(self) -> None:
        super()._start()
        if self._scheduler is None:
            from huggingface_hub import CommitScheduler

            self._scheduler = CommitScheduler(
                repo_id=self.dataset,
                repo_type="dataset",
                folder_path=self.folder,
                path_in_repo="answers",
                every=self.minutes,
                private=True,
            )

    def _writing(self) -> AbstractContextManager[Any]:
        assert self._scheduler is not None  # _start was called
        return self._scheduler.lock  # no line is cut in two by an upload

    def close(self) -> None:
        """Send what was not sent yet and stop."""
        with self._lock:
            if self._scheduler is not None:
                self._scheduler.trigger().result()
                self._scheduler.stop()
                self._scheduler = None


class StudyArchive:
    """One study of one database. ``folder`` holds ``study.json`` (which study), ``media/`` and,
    unless the database is elsewhere, ``study.sqlite``.

    ``config``, ``video``, ``items`` (id → item) and ``links`` never change after creation.
    """

    def __init__(
        self, folder: Path, engine: sa.Engine, study: str, *, sink: AnswerSink | None = None
    ) -> None:
        self.folder, self.id, self.sink = folder, study, sink
        self.media = folder / "media"
        self._reserve = Reserve(folder / RESERVE, most=RESERVE_BYTES, step=RESERVE_STEP)
        self.engine, self._reading = engine, reading_engine(engine)
        self.clock: Callable[[], float] = time.time
        self._screens: dict[int, tuple[PlannedScreen, ...]] = {}
        self._lock = threading.Lock()
        with self.reading() as connection:
            row = connection.execute(sa.select(studies).where(studies.c.id == study)).first()
            if row is None:
                raise RequestError(
                    f"the database holds no study {study[:8]}…; it was made with another database"
                )
            listed = connection.execute(
                sa.select(items).where(items.c.study == study).order_by(items.c.place)
            ).all()
        self.config = StudyConfig.model_validate_json(row.config)
        self.video = VideoFormat(**json.loads(row.video))
        self.created: float = row.created
        self.plan_digest: str = row.plan_digest
        self.links = LinkSigner(study, row.secret)
        self.items: Mapping[str, StudyItem] = {entry.id: _item(entry) for entry in listed}
        self._media = frozenset(
            name
            for item in self.items.values()
            for name in (item.first_frame, *item.references, *item.candidates.values())
        )

    @classmethod
    def create(
        cls,
        folder: Path | str,
        config: StudyConfig,
        items: Sequence[StudyItem],
        *,
        video: VideoFormat,
        database: str | None = None,
        dataset: str | None = None,
        sink: AnswerSink | None = None,
    ) -> Self:
        """Draw the plan and store it with everything else, in one transaction. ``database`` None:
        an SQLite file in ``folder``. ``dataset`` names a data set of the Hugging Face Hub that
        every answer is copied to, whoever opens the study. RequestError where the folder holds a
        study already."""
        folder = Path(folder)
        if (folder / "study.json").exists():
            raise RequestError(f"{folder} holds a study already; choose another folder")
        plan = draw_plan(config, items)
        folder.mkdir(parents=True, exist_ok=True)
        engine = connect(database or folder / "study.sqlite")
        study = new_id()
        try:
            with engine.begin() as connection:
                _insert_study(connection, study, config, items, video, plan)
        except AWAY as error:
            engine.dispose()
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = " ".join(str(cause).split())
            raise RequestError(f"the study cannot be stored: {reason}; try again later") from error
        note = {
            "study": study,
            "database": "elsewhere" if database else "study.sqlite",
            "dataset": dataset,
        }
        text = json.dumps(note)
        write_whole(folder / "study.json", lambda part: part.write_text(text, encoding="utf-8"))
        return cls(folder, engine, study, sink=sink or _sink(dataset, folder))

    @classmethod
    def open(
        cls, folder: Path | str, *, database: str | None = None, sink: AnswerSink | None = None
    ) -> Self:
        """The study made in ``folder``. RequestError where there is none."""
        folder = Path(folder)
        try:
            note = json.loads((folder / "study.json").read_text(encoding="utf-8"))
            study, home, dataset = str(note["study"]), str(note["database"]), note["dataset"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{folder} holds no study; make one with: study create SOURCE --out {folder}"
            ) from error
        if home == "elsewhere" and not database:
            raise RequestError(
                "this study's answers are in another database; name it in "
                "MOTION_APP_STUDY_DATABASE or with --database"
            )
        address = database if home == "elsewhere" and database else folder / "study.sqlite"
        return cls(folder, connect(address), study, sink=sink or _sink(dataset, folder))

    def close(self) -> None:
        """Let go of the database and hand on what the sink still holds."""
        self.engine.dispose()
        self._reading.dispose()
        if self.sink is not None:
            self.sink.close()

    def reading(self) -> sa.Connection:
        """A connection that takes no lock: ``with archive.reading() as connection``."""
        return self._reading.connect().execution_options(reads=True)

    def change(self, work: Callable[[sa.Connection], Changed]) -> Changed:
        """What ``work`` gives, in one transaction. Where the disk is full it takes the room that is
        held in reserve: whose data it is may take it back at any time."""
        while True:
            try:
                with self.engine.begin() as connection:
                    return work(connection)
            except OperationalError as error:
                if not (is_full(error) and self._reserve.free()):
                    raise

    def hold_reserve(self) -> None:
        """Hold room back beside an SQLite file, so that on a full disk data can be deleted."""
        if self.engine.dialect.name == "sqlite":
            self._reserve.hold()

    def media_path(self, name: str) -> Path:
        """The file of a name that belongs to the study; RequestError for any other name."""
        if name not in self._media:
            raise RequestError("there is no such file in this study")
        return self.media / name

    def note(self, connection: sa.Connection, kind: str, detail: Mapping[str, Any]) -> None:
        """Add to the study's record of what was done to it."""
        connection.execute(
            sa.insert(events).values(
                study=self.id, at=self.clock(), kind=kind, detail=json.dumps(detail)
            )
        )

    def tell(self, row: Mapping[str, Any]) -> None:
        """Hand ``row``, plain JSON, to whoever keeps a copy of the answers."""
        if self.sink is None:
            return
        try:
            self.sink.append({"study": self.id, **row})
        except OSError as error:  # the database has it all the same
            logger.error("the copy of the answers lacks a row: %s", error.strerror)

    def screens(self, connection: sa.Connection, slot: int) -> tuple[PlannedScreen, ...]:
        """Everything the rater in ``slot`` sees, in order. Read once: a plan never changes."""
        known = self._screens.get(slot)
        if known is not None:
            return known
        query = (
            sa.select(presentations)
            .where(presentations.c.study == self.id, presentations.c.slot == slot)
            .order_by(presentations.c.number)
        )
        found = tuple(
            PlannedScreen(row.id, row.number, row.item, row.role, _arrangement(row.order))
            for row in connection.execute(query)
        )
        with self._lock:
            while len(self._screens) >= SLOTS_KEPT:
                del self._screens[next(iter(self._screens))]
            self._screens[slot] = found
        return found


@lru_cache(maxsize=4096)
def _arrangement(order: str) -> tuple[str, ...]:
    return tuple(json.loads(order))


def _sink(dataset: str | None, folder: Path) -> AnswerSink | None:
    return None if dataset is None else HubSink(dataset, folder / "answers")


def _item(row: sa.Row[Any]) -> StudyItem:
    return StudyItem(
        id=row.id,
        name=row.name,
        kind=row.kind,
        caption=row.caption,
        first_frame=row.first_frame,
        references=tuple(json.loads(row.references)),
        candidates=json.loads(row.candidates),
        answer=row.answer,
    )


def _insert_study(
    connection: sa.Connection,
    study: str,
    config: StudyConfig,
    given: Sequence[StudyItem],
    video: VideoFormat,
    plan: Plan,
) -> None:
    connection.execute(
        sa.insert(studies).values(
            id=study,
            created=time.time(),
            config=config.model_dump_json(),
            video=json.dumps(asdict(video)),
            secret=new_secret(),
            plan_digest=plan.digest(),
        )
    )
    rows = [
        {
            **asdict(item),
            "study": study,
            "place": place,
            "references": json.dumps(item.references),
            "candidates": json.dumps(dict(item.candidates)),
        }
        for place, item in enumerate(given)
    ]
    connection.execute(sa.insert(items), rows)
    screens = [
        {
            "id": new_id(),
            "study": study,
            "slot": slot,
            "number": screen.number,
            "item": screen.item,
            "role": screen.role,
            "order": json.dumps(screen.order),
            "repeats": screen.repeats,
        }
        for slot, screens in enumerate(plan.slots)
        for screen in screens
    ]
    connection.execute(sa.insert(presentations), screens)
    slots = [{"id": new_id(), "study": study, "slot": slot} for slot in range(config.raters)]
    connection.execute(sa.insert(raters), slots)
