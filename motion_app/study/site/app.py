"""One study as a FastAPI application, to be mounted anywhere.

Studies over HTTP, alone or beside the rest of the app; needs neither torch nor gradio.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette._utils import get_route_path
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as PlainHTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from motion_app.errors import MotionAppError, RequestError, server_fault
from motion_app.settings import DEFAULT_LIMITS
from motion_app.study.answers import Study
from motion_app.study.database import AWAY
from motion_app.study.demo import demo_visits, preview_visits
from motion_app.study.links import LinkEnded, LinkError, PlaceGone
from motion_app.study.site.address import DIRECT, PublicAddress, WholePath
from motion_app.study.site.admin import admin_router
from motion_app.study.site.demo import NAME as DEMO
from motion_app.study.site.demo import PREVIEW, DemoHall, PreviewHall
from motion_app.study.site.documents import PageFiles, asks_for_page, notice
from motion_app.study.site.guard import SHORTEST_SECRET, Crowded, Door, Gate, Newcomers
from motion_app.study.site.rater import rater_router

logger = logging.getLogger(__name__)
RETRY_SECONDS = "2"
SECRET_FILE = "admin-secret"
Mark = tuple[int, int]


def build_site(
    study: Study,
    *,
    admin_secret: str,
    public: PublicAddress = DIRECT,
    raters_per_address: int = DEFAULT_LIMITS.raters_per_address,
) -> FastAPI:
    """The rater's page, the administrator's, and their calls. ``admin_secret`` has 12 letters or
    more; ``public`` is where browsers find the site, if it is not where the server is;
    ``raters_per_address`` take a place by the open link in a day."""
    door, newcomers = Door(admin_secret, name=study.archive.id), Newcomers(raters_per_address)
    return _site(study, door, newcomers, public=public)


def _site(
    study: Study,
    door: Door,
    newcomers: Newcomers,
    *,
    public: PublicAddress,
    trial: str | None = None,
) -> FastAPI:
    """``trial``: what the pages say of themselves where nothing is kept, "demo" or "preview"."""
    site = FastAPI(title="Study", docs_url=None, redoc_url=None, openapi_url=None)
    site.add_middleware(Gate, public=public)
    site.add_middleware(WholePath, path=public.path)
    site.add_exception_handler(MotionAppError, _mistake)
    site.add_exception_handler(LinkError, _closed)
    site.add_exception_handler(Crowded, _crowded)
    site.add_exception_handler(PlainHTTPException, _refusal)
    site.add_exception_handler(RequestValidationError, _malformed)
    for kind in AWAY:
        site.add_exception_handler(kind, _away)
    site.add_exception_handler(Exception, _fault)
    files = PageFiles()
    site.mount("/static", files)

    @site.get("/favicon.ico")
    async def favicon(request: Request) -> Response:
        return await files.get_response("icon.svg", request.scope)

    previews = None
    if trial is None:
        build = partial(_site, newcomers=newcomers, public=public, trial="preview")
        previews = PreviewHall(preview_visits(study.archive), build)
        site.mount(f"/{PREVIEW}", previews)
    site.include_router(admin_router(study, door, trial=trial, previews=previews))
    site.include_router(rater_router(study, newcomers, trial=trial))
    return site


def _error(
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    reason: str | None = None,
) -> JSONResponse:
    """``reason`` names what the page has words of its own for, in the rater's language."""
    body = {"error": " ".join(message.split())} | ({"reason": reason} if reason else {})
    return JSONResponse(body, status, headers=headers)


async def _mistake(request: Request, error: Exception) -> Response:
    return _error(400, str(error), reason=getattr(error, "reason", None))


async def _closed(request: Request, error: Exception) -> Response:
    status = 410 if isinstance(error, LinkEnded | PlaceGone) else 401
    return _error(status, str(error), reason=getattr(error, "reason", None))


async def _crowded(request: Request, error: Exception) -> Response:
    assert isinstance(error, Crowded)  # what it was registered for
    headers = {"retry-after": str(round(error.seconds) + 1)}
    return _error(429, str(error), headers, reason=error.reason)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, PlainHTTPException)  # what it was registered for
    if error.status_code == 404 and asks_for_page(request):
        return notice("missing", request, status=404)
    return _error(error.status_code, str(error.detail), error.headers)


async def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # what it was registered for
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"][1:]) or "the body"
    return _error(400, f"{where} is wrong: {fault['msg']}; reload the page")


async def _away(request: Request, error: Exception) -> Response:
    # The whole text holds the statement's values: raters and their answers.
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause).strip().splitlines()
    logger.error("the study's database does not answer: %s", lines[0] if lines else repr(cause))
    message = "the study's database does not answer just now; send it again in a moment"
    return _error(503, message, {"retry-after": RETRY_SECONDS})


async def _fault(request: Request, error: Exception) -> Response:
    # The path holds a rater's token and is left out.
    return _error(500, server_fault(logger, error))


@dataclass(frozen=True)
class StudySettings:
    """Which studies are served, and where.

    ``folder`` holds one study, or studies in folders of their own: each is then served below its
    folder's name. ``database``: a PostgreSQL address, for studies that were made with one.
    ``admin_secret`` None: each study's own, in its file ``admin-secret``. ``public``: the path all
    addresses begin with and the name people type, where a proxy stands in front. ``frames``: the
    sites that may show the app in a frame, and so the demo in it. ``raters_per_address`` take a
    place by a study's open link in a day.
    """

    folder: Path
    database: str | None = field(default=None, repr=False)
    admin_secret: str | None = field(default=None, repr=False)
    host: str = "127.0.0.1"
    port: int = 7860
    public: PublicAddress = DIRECT
    frames: tuple[str, ...] = ()
    raters_per_address: int = DEFAULT_LIMITS.raters_per_address


def build_study_app(settings: StudySettings) -> FastAPI:
    """The application for one study, or for a folder of studies; mount it under any path.

    RequestError for a folder without a study whose parent is not there either, or a secret that is
    too short.
    """
    if settings.admin_secret is not None and len(settings.admin_secret) < SHORTEST_SECRET:
        raise RequestError(
            f"the admin secret has {len(settings.admin_secret)} letters; "
            f"at least {SHORTEST_SECRET} are expected"
        )
    if (settings.folder / "study.json").exists():
        return open_site(settings.folder, settings)
    if not settings.folder.is_dir():
        raise RequestError(
            f"{settings.folder} is no folder; make a study first: study create SOURCE --out FOLDER"
        )
    hall = FastAPI(title="Studies", docs_url=None, redoc_url=None, openapi_url=None)
    hall.add_middleware(WholePath, path=settings.public.path)
    hall.mount("/", Gate(StudyHall(settings), public=settings.public))
    return hall


def open_site(folder: Path, settings: StudySettings) -> FastAPI:
    """One study's application."""
    study = Study.open(folder, database=settings.database)
    study.archive.hold_reserve()
    secret = settings.admin_secret or study_secret(folder)
    return build_site(
        study,
        admin_secret=secret,
        public=settings.public,
        raters_per_address=settings.raters_per_address,
    )


def study_secret(folder: Path) -> str:
    """The study's own admin secret: made once, kept in a file that its owner alone may read."""
    path = folder / SECRET_FILE
    if not path.exists() or not path.stat().st_size:  # a disk was full, or a program killed
        path.unlink(missing_ok=True)
        _make_secret(path)
        logger.info("the secret of the study's admin page is in %s", path)
    return path.read_text(encoding="utf-8").strip()


def _make_secret(path: Path) -> None:
    """Whole or not at all; of two programs the first one's counts."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(18) + "\n")
        with suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


class StudyHall:
    """Many studies, each below the name of its folder, opened when first asked for. Which there are
    is told to nobody."""

    def __init__(self, settings: StudySettings) -> None:
        self.settings = settings
        self._files = PageFiles()
        newcomers = Newcomers(settings.raters_per_address)
        build = partial(_site, newcomers=newcomers, public=settings.public, trial="demo")
        self.demo = DemoHall(demo_visits(), build, frames=settings.frames)
        self._sites: dict[str, tuple[Mark, FastAPI]] = {}
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        root = scope.get("root_path", "").rstrip("/")
        name, _, rest = get_route_path(scope).lstrip("/").partition("/")
        if name == DEMO:
            await self.demo(scope, receive, send, rest)
            return
        request = Request(scope)
        try:
            site = await run_in_threadpool(self.site, name)
        except MotionAppError as error:  # its database is away, or was made elsewhere
            logger.error("the study in %s cannot be opened: %s", name, error)
            response = _refused(request, 503, "closed", "this study cannot be opened now")
            await response(scope, receive, send)
            return
        if site is None:
            response = await self._own(request, name, rest)
            await response(scope, receive, send)
            return
        await site({**scope, "root_path": f"{root}/{name}", "app_root_path": root}, receive, send)

    async def _own(self, request: Request, name: str, rest: str) -> Response:
        """What is not below any study: the page without a link, and what it is drawn with."""
        file = {"favicon.ico": "icon.svg", "static": rest}.get(name)
        if file is not None:
            with suppress(PlainHTTPException):  # no such file
                return await self._files.get_response(file, request.scope)
        if not name:
            return notice("link", request, link=f"{DEMO}/")
        return _refused(request, 404, "missing", "there is no such study; check its address")

    def site(self, name: str) -> FastAPI | None:
        """The application of the study in the folder ``name``; None where there is none."""
        folder = self.settings.folder / name
        known = {path.name for path in self.settings.folder.iterdir()}  # a name, never a path
        mark = _mark(folder / "study.json") if name in known else None
        with self._lock:
            if mark is None or self._sites.get(name, (mark,))[0] != mark:  # another one, or none
                self._sites.pop(name, None)
            if mark is None:
                return None
            if name not in self._sites:
                self._sites[name] = mark, open_site(folder, self.settings)
            return self._sites[name][1]


def _mark(file: Path) -> Mark | None:
    """By which a file is known again; None where there is none."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _refused(request: Request, status: int, page: str, why: str) -> Response:
    if asks_for_page(request):
        return notice(page, request, status=status)
    return JSONResponse({"error": why}, status)


def serve(settings: StudySettings, *, listener: socket.socket | None = None) -> None:
    """Serve until stopped, on ``listener`` where there is one already. Addresses are not logged:
    they hold raters' tokens."""
    import uvicorn

    config = uvicorn.Config(
        build_study_app(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        server_header=False,
        log_level="warning",
        proxy_headers=True,
    )
    with suppress(KeyboardInterrupt):  # Ctrl-C, after what was being answered
        uvicorn.Server(config).run(sockets=None if listener is None else [listener])
