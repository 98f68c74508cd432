"""Two ways to take part without a browser: the study's HTTP calls (pages/api.md), or its store."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from motion_app.errors import RequestError
from motion_app.study.records import Answer
from motion_app.study.store import StudyStore

TIMEOUT_SECONDS = 60


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
    """Takes part in the store itself."""

    def __init__(self, store: StudyStore) -> None:
        self.store = store
        self.rater = ""

    def enter(self) -> None:
        self.rater = self.store.join(self.store.enter()).id
        self.store.consent(self.rater)

    def screens(self) -> int:
        progress = self.store.progress(self.rater)
        return progress.practice + progress.items

    def screen(self, number: int) -> Screen:
        trial = self.store.trial(self.rater, number)
        return Screen(trial.id, number, trial.practice, trial.candidates)

    def practise(self, number: int, choices: Mapping[str, int]) -> None:
        self.store.practise(self.rater, number, choices)

    def answer(self, answer: Answer) -> None:
        self.store.save(self.rater, answer)

    def finish(self) -> str:
        return self.store.finish(self.rater)


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
