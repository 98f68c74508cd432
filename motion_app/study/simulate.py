"""A throw-away study with synthetic raters: whether it finds their preference again, and how long
they wait for an answer to be saved.

The study's server in a process of its own, on this machine, while somebody here needs it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from motion_app.errors import RequestError
from motion_app.study import unblinding
from motion_app.study.answers import Study
from motion_app.study.archive import StudyArchive
from motion_app.study.creation import create_study
from motion_app.study.database import answers, events, items, lapsed, presentations, raters, studies
from motion_app.study.plan import Form, StudyConfig
from motion_app.study.report import StudyReport, study_report
from motion_app.study.site.app import StudySettings, serve
from motion_app.study.sources import read_sources
from motion_app.study.synthetic_raters import (
    CLIP,
    Client,
    DirectClient,
    HttpClient,
    Preference,
    SyntheticRater,
    draw_items,
    known_preference,
    media_key,
)

AT_ONCE = 4  # raters
# What is done, how much of it, of how much.
OnProgress = Callable[[str, int, int], None]
START_SECONDS = 240  # on a free machine it takes 2
STOP_SECONDS = 20
START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]);"
    "from motion_app.study.simulate import attend; attend(int(sys.argv[2]))"
)


@dataclass(frozen=True)
class Crowd:
    """How the raters come: ``at_once`` at a time, each thinking for ``pace`` seconds on average
    before an answer; 0 answers as soon as the one before is saved."""

    at_once: int = AT_ONCE
    pace: float = 0.0

    def __post_init__(self) -> None:
        if not (1 <= self.at_once <= 1000 and 0 <= self.pace <= 3600):
            raise RequestError(
                f"{self.at_once} raters at once with a pace of {self.pace:g} s; give 1 to 1000, "
                "and 0 to 3600 s"
            )


@dataclass(frozen=True)
class Recovered:
    """One cell of the table: the ``truth`` and what the report said, as shares."""

    question: str
    method: str
    truth: float
    share: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        return self.low <= self.truth <= self.high


@dataclass(frozen=True)
class Waits:
    """How long saves took as a rater sees it, from sending to the acknowledgement, in ms."""

    median: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> Waits:
        """Zeros where nothing was saved."""
        if not seconds:
            return cls(0.0, 0.0, 0.0)
        return cls(*(1000 * float(value) for value in np.percentile(seconds, (50, 95, 99))))


@dataclass(frozen=True)
class Phases:
    """Seconds: drawing the clips, making the study of them, answering, and the report."""

    drawing: float
    creation: float
    answering: float
    report: float


@dataclass(frozen=True)
class Simulation:
    """What came of a simulated study."""

    cells: tuple[Recovered, ...]
    report: StudyReport
    answers: int
    crowd: Crowd
    saves: Waits
    phases: Phases

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without the whole report."""
        return {
            "raters": len(self.report.raters),
            "items": self.report.items,
            "answers": self.answers,
            **asdict(self.crowd),
            "save_ms": _rounded(asdict(self.saves)),
            "seconds": _rounded(asdict(self.phases)),
            "inside": sum(cell.inside for cell in self.cells),
            "cells": [{**_rounded(asdict(cell)), "inside": cell.inside} for cell in self.cells],
        }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}


class _Watch:
    """Seconds since it was last looked at."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        since, self._since = self._since, time.perf_counter()
        return self._since - since


def simulate_study(
    *,
    raters: int = 8,
    items: int = 12,
    methods: int = 6,
    form: Form = "single",
    seed: int = 0,
    http: bool = True,
    crowd: Crowd | None = None,
    database: str | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Simulation:
    """Make a study of small drawn clips, let synthetic raters take part over HTTP, with the server
    in a process of its own, or (``http`` False) in the study, and compare. Nothing is left of it,
    in ``database`` neither. RequestError for sizes that make no study."""
    if not (1 <= raters <= 1000 and 1 <= items <= 1000 and 2 <= methods <= 8):
        raise RequestError(
            f"{raters} raters, {items} items, {methods} methods; give 1 to 1000, 1 to 1000, 2 to 8"
        )
    names = tuple(f"method {letter}" for letter in "ABCDEFGH"[:methods])
    rng, watch = np.random.default_rng(seed), _Watch()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "items")
        draw_items(source, items, names, rng)
        drawing = watch.lap()
        study = create_study(
            Path(folder, "study"),
            read_sources(source),
            title="Simulation",
            form=form,
            raters=raters,
            seed=seed,
            video=CLIP,
            database=database,
            on_item=lambda done, total: on_progress("item", done, total),
        ).study
        archive = study.archive
        creation = watch.lap()
        with contextlib.closing(study):
            try:
                saves = _answered(study, rng, crowd or Crowd(), database, on_progress, http=http)
                answering = watch.lap()
                unblinding.unblind(archive, by="simulation")
                report = study_report(archive)
                count = len(unblinding.answer_rows(archive))
                phases = Phases(drawing, creation, answering, watch.lap())
                preference = known_preference(archive.config.methods, archive.config.questions)
                cells = tuple(_cells(archive.config, preference, report))
            finally:
                if database is not None:
                    _erase(archive)
    return Simulation(cells, report, count, crowd or Crowd(), Waits.of(saves), phases)


def _answered(
    study: Study,
    rng: np.random.Generator,
    crowd: Crowd,
    database: str | None,
    on_progress: OnProgress,
    *,
    http: bool,
) -> list[float]:
    """Everybody takes part; seconds that each save took."""
    archive = study.archive
    config, key = archive.config, media_key(archive)
    preference = known_preference(config.methods, config.questions)
    people = [SyntheticRater(preference, key, child) for child in rng.spawn(config.raters)]
    waits: list[float] = []
    with contextlib.ExitStack() as stack:
        clients: list[Client] = [DirectClient(study) for _ in people]
        if http:
            host, port = stack.enter_context(served(archive.folder, database=database))
            token = archive.links.open_token()
            clients = [HttpClient(host, port, open_token=token) for _ in people]
        for client in clients:  # in order, so that a seed gives each person the same slot
            client.enter()
        pool = stack.enter_context(ThreadPoolExecutor(crowd.at_once))
        sessions = [
            pool.submit(
                person.take_part,
                client,
                config.asked,
                config.coverage,
                pace=crowd.pace,
                on_save=waits.append,
            )
            for person, client in zip(people, clients, strict=True)
        ]
        try:
            for done, session in enumerate(as_completed(sessions), start=1):
                session.result()
                on_progress("rater", done, len(sessions))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return waits


def _erase(archive: StudyArchive) -> None:
    """Take the study out of a database that is not its own."""
    seats = sa.select(raters.c.id).where(raters.c.study == archive.id)
    with archive.engine.begin() as connection:
        connection.execute(sa.delete(answers).where(answers.c.rater.in_(seats)))
        for table in (events, lapsed, raters, presentations, items):
            connection.execute(sa.delete(table).where(table.c.study == archive.id))
        connection.execute(sa.delete(studies).where(studies.c.id == archive.id))


def _cells(config: StudyConfig, preference: Preference, report: StudyReport) -> Iterator[Recovered]:
    for question in report.questions:
        table = preference[question.id]
        for share in question.shares:
            truth = table[share.method]
            if config.form == "pair":  # every other method is met equally often
                others = [table[name] for name in config.methods if name != share.method]
                truth = float(np.mean([truth / (truth + other) for other in others]))
            interval = share.interval
            high = interval.high if share.cautious_ceiling is None else share.cautious_ceiling
            yield Recovered(question.id, share.method, truth, interval.value, interval.low, high)


def summary(found: Simulation) -> str:
    """The table as text, truth, share and interval in percent; before it the times."""
    phases, saves = found.phases, found.saves
    lines = [
        f"{len(found.report.raters)} raters, {found.report.items} items, {found.answers} answers",
        f"drawing {phases.drawing:.1f} s, creation {phases.creation:.1f} s, "
        f"answering {phases.answering:.1f} s, report {phases.report:.1f} s",
        f"a save took {saves.median:.0f} ms (median), {saves.p95:.0f} ms (95 of 100), "
        f"{saves.p99:.0f} ms (99 of 100); {found.crowd.at_once} raters at once, "
        f"{found.crowd.pace:g} s of thought",
        f"{'question':<9}{'method':<12}{'truth':>7}{'found':>8}{'interval':>17}",
    ]
    for cell in found.cells:
        interval = f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
        lines.append(
            f"{cell.question:<9}{cell.method:<12}{100 * cell.truth:>7.1f}{100 * cell.share:>8.1f}"
            f"{interval:>17}{'' if cell.inside else '  outside'}"
        )
    inside = sum(cell.inside for cell in found.cells)
    lines.append(f"{inside} of {len(found.cells)} intervals hold the truth")
    return "\n".join(lines)


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
    folder, database = Path(given["folder"]), given["database"]
    everybody = sys.maxsize  # they all come from this machine
    settings = StudySettings(folder, database, raters_per_address=everybody)
    serve(settings, listener=socket.socket(fileno=descriptor))


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
