"""Synthetic raters with a known preference, and whether the study finds it again.

They see what a browser sees: random media names. Which method a name belongs to, and so what to
prefer, comes from a key that is made beside the study, not through it.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from motion_app.errors import RequestError
from motion_app.media import write_video
from motion_app.study import ledger
from motion_app.study.clients import Client, DirectClient, HttpClient, Screen
from motion_app.study.creation import create_study
from motion_app.study.items import VideoChoice
from motion_app.study.links import new_secret
from motion_app.study.plan import Form, StudyConfig
from motion_app.study.records import Answer
from motion_app.study.report import StudyReport, study_report
from motion_app.study.sources import read_sources
from motion_app.study.store import StudyStore

FALLOFF = 0.6  # each method is preferred this much as often as the one before it
SECONDS = 25.0  # for a screen, the median
AT_ONCE = 4  # raters
CLIP = VideoChoice(size=(48, 32), fps=8, frames=8)
START_SECONDS = 20

Preference = Mapping[str, Mapping[str, float]]


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
class Simulation:
    """What came of a simulated study; ``answers`` were saved in ``seconds``."""

    cells: tuple[Recovered, ...]
    report: StudyReport
    answers: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without the whole report."""
        return {
            "raters": len(self.report.raters),
            "items": self.report.items,
            "answers": self.answers,
            "seconds": round(self.seconds, 2),
            "inside": sum(cell.inside for cell in self.cells),
            "cells": [
                {
                    **{key: _rounded(value) for key, value in asdict(cell).items()},
                    "inside": cell.inside,
                }
                for cell in self.cells
            ],
        }


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


@dataclass(frozen=True)
class SyntheticRater:
    """Chooses by ``preference`` (question → method → weight, its ``.best`` and ``.worst`` alike).

    ``key``: media name → (method, item is a check, name is its right answer). A check is answered
    right with probability ``attention``; candidates seen before are answered as before with
    probability ``memory``.
    """

    preference: Preference
    key: Mapping[str, tuple[str, bool, bool]]
    rng: np.random.Generator
    attention: float = 0.97
    memory: float = 0.8

    def take_part(self, client: Client, questions: tuple[str, ...], coverage: float) -> str:
        """A whole session of a client that has entered; its completion code."""
        remembered: dict[tuple[frozenset[str], str], str] = {}
        sequence = 0
        for number in range(client.screens()):
            screen = client.screen(number)
            choices = self._choose(screen, questions, remembered)
            if screen.practice:
                client.practise(number, choices)
                continue
            opened = self.rng.lognormal(np.log(SECONDS), 0.3)
            for step, (question, place) in enumerate(choices.items(), start=1):
                sequence += 1
                client.answer(
                    Answer(
                        id=self.rng.bytes(16).hex(),
                        number=number,
                        question=question,
                        choice=place,
                        coverage=tuple(self.rng.uniform(coverage, 1, len(screen.candidates))),
                        trial=screen.id,
                        sequence=sequence,
                        shown_ms=round(1000 * opened * step / len(choices)),
                        client_time=round(1000 * time.time()),
                    )
                )
        return client.finish()

    def _choose(
        self,
        screen: Screen,
        questions: tuple[str, ...],
        remembered: dict[tuple[frozenset[str], str], str],
    ) -> dict[str, int]:
        """Question → place; best and worst of one question differ."""
        chosen: dict[str, int] = {}
        for question in questions:
            base, _, end = question.partition(".")
            memory = (frozenset(screen.candidates), question)
            name = remembered.get(memory)
            if name is None or self.rng.random() > self.memory:
                weights = self._weights(screen, base, worst=end == "worst")
                best = chosen.get(base + ".best")
                if end == "worst" and best is not None:
                    weights[best - 1] = 0
                name = screen.candidates[self.rng.choice(len(weights), p=weights / weights.sum())]
            place = screen.candidates.index(name) + 1
            if end == "worst" and chosen.get(base + ".best") == place:
                place = place % len(screen.candidates) + 1
            remembered[memory] = screen.candidates[place - 1]
            chosen[question] = place
        return chosen

    def _weights(self, screen: Screen, question: str, *, worst: bool) -> np.ndarray:
        """(candidates,) float, not normalised."""
        known = [self.key[name] for name in screen.candidates]
        if known[0][1]:
            careful = self.rng.random() < self.attention
            right = np.array([is_right for _, _, is_right in known])
            return np.where(right != worst, 1.0, 1e-9) if careful else np.ones(len(known))
        weights = np.array([self.preference[question][method] for method, _, _ in known])
        return 1 / weights if worst else weights


def known_preference(methods: tuple[str, ...], questions: tuple[str, ...]) -> Preference:
    """A table to be found again: falling shares, each question beginning at another method."""
    weights = FALLOFF ** np.arange(len(methods))
    weights = weights / weights.sum()
    return {
        question: {m: float(w) for m, w in zip(methods, np.roll(weights, turn), strict=True)}
        for turn, question in enumerate(questions)
    }


def media_key(store: StudyStore) -> dict[str, tuple[str, bool, bool]]:
    """Media name → (method, item is a check, name is its right answer)."""
    return {
        name: (method, item.answer is not None, method == item.answer)
        for item in store.items.values()
        for method, name in item.candidates.items()
    }


def simulate_study(
    *,
    raters: int = 8,
    items: int = 12,
    methods: int = 6,
    form: Form = "single",
    seed: int = 0,
    http: bool = True,
    database: str | None = None,
    on_rater: Callable[[int, int], None] = lambda done, total: None,
) -> Simulation:
    """Make a throw-away study of small drawn clips, let synthetic raters take part, several at a
    time, over HTTP or (``http`` False) in the store, and compare. RequestError for sizes that make
    no study."""
    if not (1 <= raters <= 1000 and 1 <= items <= 1000 and 2 <= methods <= 8):
        raise RequestError(
            f"{raters} raters, {items} items, {methods} methods; give 1 to 1000, 1 to 1000, 2 to 8"
        )
    names = tuple(f"method {letter}" for letter in "ABCDEFGH"[:methods])
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "items")
        for number in range(items):
            _draw_item(source / f"item-{number:03}", names, rng)
        store = create_study(
            Path(folder, "study"),
            read_sources(source),
            title="Simulation",
            form=form,
            raters=raters,
            seed=seed,
            video=CLIP,
            database=database,
        ).store
        try:
            return _simulated(store, rng, http=http, on_rater=on_rater)
        finally:
            store.close()


def _simulated(
    store: StudyStore,
    rng: np.random.Generator,
    *,
    http: bool,
    on_rater: Callable[[int, int], None],
) -> Simulation:
    config = store.config
    preference, key = known_preference(config.methods, config.questions), media_key(store)
    people = [SyntheticRater(preference, key, child) for child in rng.spawn(config.raters)]
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        connect: Callable[[], Client] = lambda: DirectClient(store)  # noqa: E731
        if http:
            host, port = stack.enter_context(served(store))
            token = store.links.open_token()
            connect = lambda: HttpClient(host, port, open_token=token)  # noqa: E731
        clients = [connect() for _ in people]
        for client in clients:  # in order, so that a seed gives each person the same slot
            client.enter()
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        sessions = [
            pool.submit(person.take_part, client, config.asked, config.coverage)
            for person, client in zip(people, clients, strict=True)
        ]
        for done, session in enumerate(sessions, start=1):
            session.result()
            on_rater(done, len(sessions))
    seconds = time.perf_counter() - started
    ledger.unblind(store, by="simulation")
    report = study_report(store)
    cells = tuple(_cells(config, preference, report))
    return Simulation(cells, report, len(ledger.answer_rows(store)), seconds)


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


@contextlib.contextmanager
def served(store: StudyStore) -> Iterator[tuple[str, int]]:
    """The study's real pages on a free port of this machine: (host, port)."""
    import uvicorn

    from motion_app.study.pages.app import build_site

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    site = build_site(store, admin_secret=new_secret())
    server = uvicorn.Server(uvicorn.Config(site, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise RequestError("the study's server did not start; see the log")
            time.sleep(0.01)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _draw_item(folder: Path, methods: tuple[str, ...], rng: np.random.Generator) -> None:
    """An item whose clips are a bright square on its way across a coloured ground."""
    folder.mkdir(parents=True)
    ground = rng.integers(30, 120, 3)
    first = _clip(ground, step=0)[0]
    Image.fromarray(first).save(folder / "first_frame.png")
    (folder / "caption.txt").write_text("A square moves to the right.", encoding="utf-8")
    for step, name in enumerate(("reference", *methods), start=1):
        write_video(folder / f"{name}.mp4", _clip(ground, step=step / 2), CLIP.fps or 8)


def _clip(ground: np.ndarray, *, step: float) -> np.ndarray:
    width, height = CLIP.size or (48, 32)
    frames = np.empty((CLIP.frames or 8, height, width, 3), np.uint8)
    frames[:] = ground
    for t, frame in enumerate(frames):
        left = int(4 + step * t)
        frame[10:20, left : left + 10] = (240, 220, 90)
    return frames


def summary(found: Simulation) -> str:
    """The table as text: truth, share and interval, in percent."""
    lines = [
        f"{len(found.report.raters)} raters, {found.report.items} items, {found.answers} answers "
        f"in {found.seconds:.1f} s",
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
