"""The rater's calls. A rater is the token in the ``Authorization`` header; there are no cookies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, HTMLResponse, Response

from motion_app.errors import RequestError
from motion_app.study.acceptance import check_link
from motion_app.study.answers import AnswerWriter, Study
from motion_app.study.links import Browser, Recruit, identity, shown
from motion_app.study.plan import questions_of
from motion_app.study.records import Answer, Rater, Trial
from motion_app.study.site.demo import REPORT
from motion_app.study.site.documents import (
    consent_text,
    document,
    language_of,
    notice,
    question_text,
)
from motion_app.study.site.guard import Newcomers

BACK = 5  # screens a rater may go back from the furthest one
BREAK_EVERY = 25  # screens between two offers of a break
SMALL_BYTES = 2**21  # what is read at once: a clip has some 300 KB
MEDIA_HEADERS = {"cache-control": "private, max-age=86400, immutable"}
RETURN_ADDRESS = "https://app.prolific.com/submissions/complete?cc={code}"


class Body(BaseModel):
    """A JSON body; a key that is not expected is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(Body):
    """``open``: the study's open link; ``prolific_pid``, ``study_id`` and ``session_id`` are a
    recruiting service's, ``browser`` is made by a browser that comes without them. ``agreed``: a
    place is taken now."""

    open: str = Field(max_length=200)
    prolific_pid: str | None = Field(default=None, max_length=200)
    study_id: str = Field(default="", max_length=200)
    session_id: str = Field(default="", max_length=200)
    browser: str | None = Field(default=None, max_length=64)
    agreed: bool = False

    def visitor(self) -> Recruit | Browser | None:
        """Who has come, as far as it is told. RequestError for ids that are none."""
        if self.prolific_pid is not None:
            return Recruit(self.prolific_pid, self.study_id, self.session_id)
        return None if self.browser is None else Browser(self.browser)


class Agreement(Body):
    agreed: bool


class Erasure(Body):
    sure: bool


class Practice(Body):
    choices: dict[str, int] = Field(max_length=16)


class SentAnswer(Body):
    """As in ``records.Answer``; ``item`` is the trial's id."""

    id: str = Field(max_length=64)
    number: int
    item: str = Field(min_length=1, max_length=64)
    question: str = Field(max_length=32)
    choice: int
    coverage: tuple[float, ...] = Field(max_length=16)
    sequence: int = 0
    changes: int = 0
    shown_ms: int = 0
    client_time: int = 0

    def answer(self) -> Answer:
        given = dict(self)
        return Answer(trial=given.pop("item"), **given)


class MediaResponse(FileResponse):
    """A file whose headers tell nothing but its size: the time it was made would tell which videos
    were made together, and so by one method."""

    def set_stat_headers(self, stat_result: os.stat_result) -> None:
        self.headers.setdefault("content-length", str(stat_result.st_size))
        name = os.path.basename(self.path).partition(".")[0]
        self.headers.setdefault("etag", f'"{name}"')


async def _media(study: Study, request: Request) -> Response:
    """A small file in one piece, others and parts of one as a stream."""
    try:
        path = study.archive.media_path(request.path_params["name"])
    except RequestError as error:
        raise HTTPException(404, str(error)) from error
    if "range" not in request.headers:
        content = await run_in_threadpool(_small, path)
        if content is not None:
            headers = {**MEDIA_HEADERS, "etag": f'"{path.stem}"', "accept-ranges": "bytes"}
            return Response(content, headers=headers, media_type=guess_type(path)[0])
    return MediaResponse(path, headers=MEDIA_HEADERS)


def _small(path: Path) -> bytes | None:
    with path.open("rb", buffering=0) as file:
        return file.read() if os.fstat(file.fileno()).st_size <= SMALL_BYTES else None


def _token(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme != "Rater" or not token:
        raise HTTPException(401, "this call needs the rater's link; open the page by it")
    return token


def rater_router(study: Study, newcomers: Newcomers, *, trial: str | None = None) -> APIRouter:
    """The routes of one study's raters. ``newcomers`` counts who takes a place; ``trial``: "demo"
    or "preview", of which nothing is kept and whose report they find in the end."""
    router = APIRouter()

    def anybody(authorization: Annotated[str, Header()] = "") -> Rater:
        return study.raters.join(_token(authorization))

    def known(rater: Rater = Depends(anybody)) -> Rater:
        check_link(study.archive.config, rater, study.archive.clock())
        return rater

    @router.get("/")
    def without_link(request: Request) -> HTMLResponse:
        return notice("link", request)

    @router.get("/r/{token}")
    def page(request: Request, token: str) -> HTMLResponse:
        """The same page for every token of which the days are not over: its script reads it. An
        open link with a placeholder where an id should be is told so."""
        if study.raters.link_ended(token):
            return notice("ended", request, status=410)
        given = _recruit(request)
        if given is not None and study.archive.links.is_open(token) and identity(given) is None:
            return notice("identity", request, status=400, given=shown(given))
        return document("rater", request)

    _add_visit(router, study, known, anybody, newcomers, trial)
    _add_answers(router, study, known, trial)

    async def media(request: Request) -> Response:
        return await _media(study, request)

    router.add_route("/media/{name}", media)  # seven of ten requests; nothing in them to check
    return router


def _add_visit(
    router: APIRouter,
    study: Study,
    known: Callable[..., Rater],
    anybody: Callable[..., Rater],
    newcomers: Newcomers,
    trial: str | None,
) -> None:
    def described(request: Request, rater: Rater | None) -> dict[str, Any]:
        return {**describe_session(study, rater, language_of(request)), "trial": trial}

    @router.post("/api/enter")
    def enter(request: Request, entry: Entry) -> dict[str, Any]:
        """Whoever came before finds the same place again; others take one when they agree."""
        if not study.archive.links.is_open(entry.open):
            raise HTTPException(401, "this link is not valid; ask for your link again")
        visitor, address = entry.visitor(), request.client.host if request.client else ""
        token = study.raters.find(visitor)
        if token is None and entry.agreed:
            token = newcomers.seat(address, partial(study.raters.enter, visitor))
        elif token is None:  # told before the consent is read
            newcomers.check(address)
        rater = None if token is None else study.raters.join(token)
        if rater is not None and entry.agreed:
            rater = study.raters.consent(rater.id)
        return {
            "token": token,
            "page": None if token is None else f"r/{token}",
            "session": described(request, rater),
        }

    @router.get("/api/session")
    def session(request: Request, rater: Rater = Depends(known)) -> dict[str, Any]:
        return described(request, rater)

    @router.post("/api/consent")
    def consent(
        request: Request, given: Agreement, rater: Rater = Depends(known)
    ) -> dict[str, Any]:
        if not given.agreed:
            raise RequestError("taking part needs your consent; tick the box first")
        return described(request, study.raters.consent(rater.id))

    @router.post("/api/delete")
    def delete(erasure: Erasure, rater: Rater = Depends(anybody)) -> dict[str, int]:
        """One's data stay one's own when the link has ended."""
        if not erasure.sure:
            raise RequestError('nothing was deleted; send {"sure": true} to delete')
        return {"deleted": study.raters.delete(rater.id)}


def _add_answers(
    router: APIRouter, study: Study, known: Callable[..., Rater], trial: str | None
) -> None:
    @router.get("/api/items/{number}")
    def item(number: int, rater: Rater = Depends(known)) -> dict[str, Any]:
        if rater.consented is None:
            raise HTTPException(403, "the rater has not agreed to take part yet; agree first")
        return describe_trial(study.answers.trial(rater.id, number))

    @router.post("/api/practice/{number}")
    def practice(number: int, given: Practice, rater: Rater = Depends(known)) -> dict[str, Any]:
        right = study.answers.practise(rater.id, number, given.choices)
        place = _right_place(study, study.answers.trial(rater.id, number))
        return {
            "passed": set(right) == set(study.archive.config.asked) and all(right.values()),
            "right": right,
            "expected": {name: None if name.endswith(".worst") else place for name in right},
        }

    writer = AnswerWriter(study.answers)

    @router.post("/api/answers")
    async def answers(
        sent: SentAnswer, authorization: Annotated[str, Header()] = ""
    ) -> dict[str, Any]:
        # Whether there is such a rater, the writer says.
        rater = study.archive.links.rater(_token(authorization))
        saved = await asyncio.wrap_future(writer.save(rater, sent.answer()))
        return {"saved": True, "done": saved.done}

    @router.post("/api/finish")
    def finish(rater: Rater = Depends(known)) -> dict[str, str | None]:
        try:
            code = study.answers.finish(rater.id)
        except RequestError as error:
            raise HTTPException(409, str(error)) from error
        end: dict[str, str | None] = {"code": code, "return_url": RETURN_ADDRESS.format(code=code)}
        return {**end, "report": None if trial is None else REPORT}


def describe_session(study: Study, rater: Rater | None, language: str) -> dict[str, Any]:
    """What the page needs to know before the first item; ``rater`` None: of a place not yet
    taken."""
    config = study.archive.config
    progress = study.answers.outlook() if rater is None else study.answers.progress(rater.id)
    return {
        "title": config.title,
        "consent": consent_text(config.consent, language),
        "form": config.form,
        "consented": rater is not None and rater.consented is not None,
        "finished": progress.finished,
        "practice": progress.practice,
        "items": progress.items,
        "done": progress.done,
        "next": progress.next,
        "candidates": config.shown,
        "back": BACK,
        "break_every": BREAK_EVERY,
        "fps": study.archive.video.fps,
        "frames": study.archive.video.frames,
        "coverage": config.coverage,
        "minutes": config.minutes,
        "contact": config.contact,
        "preload": [f"media/{name}" for name in study.answers.first_media(rater)],
        "questions": [
            {"id": name, "text": question_text(name, language)}
            for name in questions_of(config, None if rater is None else rater.number)
        ],
    }


def describe_trial(trial: Trial) -> dict[str, Any]:
    """One screen; its media as addresses relative to the application."""
    return {
        "number": trial.number,
        "id": trial.id,
        "practice": trial.practice,
        "caption": trial.caption,
        "first_frame": f"media/{trial.first_frame}",
        "references": [f"media/{name}" for name in trial.references],
        "candidates": [f"media/{name}" for name in trial.candidates],
        "answers": dict(trial.answers),
    }


def _recruit(request: Request) -> str | None:
    """What stands for Prolific's id in a page's address, however its name is spelled."""
    given = request.query_params.multi_items()
    return next((value for name, value in given if name.upper() == "PROLIFIC_PID"), None)


def _right_place(study: Study, trial: Trial) -> int:
    """Where the right answer of a practice screen stands."""
    right = {item.candidates[item.answer] for item in study.archive.items.values() if item.answer}
    return next(k for k, name in enumerate(trial.candidates, start=1) if name in right)
