"""Raters that are drawn: what they like is known, and how fast they are.

They see what a browser sees: random media names. Which method a name belongs to, and so what to
prefer, comes from a key that is made beside the study, not through it.

Two ways to take part without a browser: the study's HTTP calls (site/api.md), or the study itself.
"""

from __future__ import annotations

import http.client
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from motion_app.errors import RequestError
from motion_app.media.files import frozen_heap, write_video
from motion_app.study.answers import Study
from motion_app.study.archive import StudyArchive
from motion_app.study.items import VideoChoice
from motion_app.study.records import Answer

FALLOFF = 0.6  # each method is preferred this much as often as the one before it
SECONDS = 25.0  # for a screen, the median that is told, however long it took
CLIP = VideoChoice(size=(48, 32), fps=8, frames=8)
DISTINCT = 10  # scenes; further items are copies of them
Preference = Mapping[str, Mapping[str, float]]
TIMEOUT_SECONDS = 60


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

    def take_part(
        self,
        client: Client,
        questions: tuple[str, ...],
        coverage: float,
        *,
        pace: float = 0.0,
        on_save: Callable[[float], None] = lambda seconds: None,
    ) -> str:
        """A whole session of a client that has entered; its completion code. ``pace``: seconds of
        thought before an answer, on average (exponential, so that some come close together).
        ``on_save`` is told how long each save took, in seconds."""
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
                answer = Answer(
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
                time.sleep(self.rng.exponential(pace))
                started = time.perf_counter()
                client.answer(answer)
                on_save(time.perf_counter() - started)
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


def media_key(archive: StudyArchive) -> dict[str, tuple[str, bool, bool]]:
    """Media name → (method, item is a check, name is its right answer)."""
    return {
        name: (method, item.answer is not None, method == item.answer)
        for item in archive.items.values()
        for method, name in item.candidates.items()
    }


def draw_items(
    folder: Path, count: int, methods: tuple[str, ...], rng: np.random.Generator
) -> None:
    """``count`` items below ``folder``, as ``read_sources`` reads them."""
    with frozen_heap():
        for number in range(min(count, DISTINCT)):
            _draw_item(folder / f"item-{number:03}", methods, rng)
    for number in range(DISTINCT, count):
        shutil.copytree(folder / f"item-{number % DISTINCT:03}", folder / f"item-{number:03}")


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


@dataclass(frozen=True)
class Screen:
    """One screen as a browser knows it: ``candidates`` are media names from place 1 on."""

    id: str
    number: int
    practice: bool
    candidates: tuple[str, ...]


class Client(Protocol):
    """One rater's connection to the study."""

    def enter(self) -> None:
        """Take a slot and agree to take part."""

    def screens(self) -> int:
        """How many there are, practice included."""

    def screen(self, number: int) -> Screen:
        """Screen ``number``, its videos fetched."""

    def practise(self, number: int, choices: Mapping[str, int]) -> None:
        """Answer a practice screen: question → place."""

    def answer(self, answer: Answer) -> None:
        """Answer one question."""

    def finish(self) -> str:
        """The completion code."""


class DirectClient:
    """Takes part in the study itself."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.rater = ""

    def enter(self) -> None:
        self.rater = self.study.raters.join(self.study.raters.enter()).id
        self.study.raters.consent(self.rater)

    def screens(self) -> int:
        progress = self.study.answers.progress(self.rater)
        return progress.practice + progress.items

    def screen(self, number: int) -> Screen:
        trial = self.study.answers.trial(self.rater, number)
        return Screen(trial.id, number, trial.practice, trial.candidates)

    def practise(self, number: int, choices: Mapping[str, int]) -> None:
        self.study.answers.practise(self.rater, number, choices)

    def answer(self, answer: Answer) -> None:
        self.study.answers.save(self.rater, answer)

    def finish(self) -> str:
        return self.study.answers.finish(self.rater)


class HttpClient:
    """Takes part over HTTP, as the rater's page does. ``path`` is where the study is mounted;
    ``open_token`` the study's open link."""

    def __init__(self, host: str, port: int, *, open_token: str, path: str = "") -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        self._path, self._open, self._token = path.rstrip("/"), open_token, ""

    def _bytes(self, method: str, path: str, body: Any = None) -> bytes:
        headers = {"Authorization": f"Rater {self._token}"} if self._token else {}
        content = None
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body), "application/json"
        request = (method, f"{self._path}/{path}", content, headers)
        try:
            status, came = self._exchange(*request)
        except ConnectionError:  # the server lets go of a connection that was idle for seconds
            self._connection.close()
            status, came = self._exchange(*request)
        if status != http.client.OK:
            raise RequestError(f"the study answered {status} to {path}: {came[:300]!r}")
        return came

    def _exchange(
        self, method: str, path: str, content: str | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        self._connection.request(method, path, content, headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return json.loads(self._bytes(method, path, body))

    def enter(self) -> None:
        self._token = self._json("POST", "api/enter", {"open": self._open, "agreed": True})["token"]

    def screens(self) -> int:
        session = self._json("GET", "api/session")
        return session["practice"] + session["items"]

    def screen(self, number: int) -> Screen:
        item = self._json("GET", f"api/items/{number}")
        for address in (item["first_frame"], *item["references"], *item["candidates"]):
            self._bytes("GET", address)
        names = tuple(address.rpartition("/")[2] for address in item["candidates"])
        return Screen(item["id"], number, item["practice"], names)

    def practise(self, number: int, choices: Mapping[str, int]) -> None:
        self._json("POST", f"api/practice/{number}", {"choices": dict(choices)})

    def answer(self, answer: Answer) -> None:
        sent = asdict(answer)
        sent["item"] = sent.pop("trial")
        self._json("POST", "api/answers", sent)

    def finish(self) -> str:
        code = self._json("POST", "api/finish")["code"]
        self._connection.close()
        return code
