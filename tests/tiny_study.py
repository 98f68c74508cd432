"""A study small enough for laws: clips of 2 s in 96×64, drawn here, in a real store; and somebody
to take part in it over HTTP."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import cv2
import httpx
import numpy as np
import uvicorn
from fastapi.testclient import TestClient

from motion_app.media.files import write_video
from motion_app.study.answers import Study
from motion_app.study.archive import StudyArchive
from motion_app.study.links import new_id
from motion_app.study.plan import StudyConfig, StudyItem
from motion_app.study.records import VideoFormat

METHODS = ("FlexiMMT", "Go-with-the-Flow", "I2VEdit")
VIDEO = VideoFormat(width=96, height=64, fps=8, frames=16)
SECRET = "the secret of the tests"


def make_study(
    folder: Path,
    *,
    methods: tuple[str, ...] = METHODS,
    items: int = 2,
    practice: int = 2,
    gold: int = 0,
    names: Mapping[int, str] | None = None,
    database: str | None = None,
    **options: object,
) -> Study:
    """A study whose items are named ``scene 0`` … or as ``names`` says by place."""
    kinds = ["practice"] * practice + ["gold"] * gold + ["main"] * items
    (folder / "media").mkdir(parents=True)
    made = [
        StudyItem(
            id=new_id(),
            name=(names or {}).get(place, f"scene {place}"),
            kind=kind,
            caption=f"A ball rolls to the left in scene {place}.",
            first_frame=_picture(folder / "media", place),
            references=(_clip(folder / "media", 90 + place),),
            candidates={m: _clip(folder / "media", 10 * place + k) for k, m in enumerate(methods)},
            answer=None if kind == "main" else methods[0],
        )
        for place, kind in enumerate(kinds)
    ]
    settings = {"title": "Rolling balls", "raters": 3, "repeat_share": 0.0, **options}
    config = StudyConfig.build(methods=methods, **settings)
    return Study(StudyArchive.create(folder, config, made, video=VIDEO, database=database))


class Caller:
    """A rater who calls the endpoints as the page does. The study shows three candidates."""

    def __init__(self, client: TestClient, token: str) -> None:
        self.client = client
        self.headers = {"Authorization": f"Rater {token}"}
        self._shown: dict[int, str] = {}

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path, headers=self.headers)

    def post(self, path: str, body: object) -> httpx.Response:
        return self.client.post(path, headers=self.headers, json=body)

    def answer(
        self, number: int, question: str, choice: int, /, **changed: object
    ) -> httpx.Response:
        if number not in self._shown:
            self._shown[number] = self.get(f"/api/items/{number}").json()["id"]
        body = {
            "id": secrets.token_hex(16),
            "number": number,
            "item": self._shown[number],
            "question": question,
            "choice": choice,
            "coverage": [1.0, 1.0, 1.0],
        }
        return self.post("/api/answers", {**body, **changed})


def agreed(client: TestClient, study: Study) -> Caller:
    """A new rater of ``study`` who has agreed to take part."""
    caller = Caller(client, study.raters.hand_out(1)[0])
    assert caller.post("/api/consent", {"agreed": True}).json()["consented"]
    return caller


def answer_everything(caller: Caller, choice: int = 1) -> None:
    session = caller.get("/api/session").json()
    for number in range(session["practice"] + session["items"]):
        for question in session["questions"]:
            assert caller.answer(number, question["id"], choice).status_code == 200


@contextmanager
def served(app: object, **options: object) -> Iterator[str]:
    """``app`` on a port of its own; its address without a slash at the end."""
    config = uvicorn.Config(app, port=0, log_level="warning", server_header=False, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def _frame(seed: int, time: int) -> np.ndarray:
    frame = np.full((VIDEO.height, VIDEO.width, 3), (40 * seed % 200, 120, 160), np.uint8)
    cv2.circle(frame, (80 - 4 * time, 20 + seed % 30), 9, (250, 220, 60), -1)
    return frame


@cache
def _clip_bytes(seed: int) -> bytes:
    frames = np.stack([_frame(seed, time) for time in range(VIDEO.frames)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, frames, VIDEO.fps)
        return path.read_bytes()


def _clip(media: Path, seed: int) -> str:
    name = new_id() + ".mp4"
    (media / name).write_bytes(_clip_bytes(seed))
    return name


def _picture(media: Path, seed: int) -> str:
    name = new_id() + ".png"
    cv2.imwrite(str(media / name), _frame(seed, 0)[..., ::-1])
    return name
