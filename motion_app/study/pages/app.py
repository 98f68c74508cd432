"""One study as a FastAPI application, to be mounted anywhere."""

from __future__ import annotations

import logging
import secrets

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException as PlainHTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motion_app.errors import MotionAppError
from motion_app.study.address import DIRECT, PublicAddress, WholePath
from motion_app.study.links import LinkEnded, LinkError, PlaceGone
from motion_app.study.pages.admin import admin_router
from motion_app.study.pages.documents import asks_for_page, notice, static_files
from motion_app.study.pages.door import Door
from motion_app.study.pages.gate import Gate
from motion_app.study.pages.rater import rater_router
from motion_app.study.schema import AWAY
from motion_app.study.store import StudyStore

logger = logging.getLogger(__name__)

RETRY_SECONDS = "2"


def build_site(store: StudyStore, *, admin_secret: str, public: PublicAddress = DIRECT) -> FastAPI:
    """The rater's page, the administrator's, and their calls. ``admin_secret`` has 12 letters or
    more; ``public`` is where browsers find the site, if it is not where the server is."""
    site = FastAPI(title="Study", docs_url=None, redoc_url=None, openapi_url=None)
    site.add_middleware(Gate, public=public)
    site.add_middleware(WholePath, path=public.path)
    site.add_exception_handler(MotionAppError, _mistake)
    site.add_exception_handler(LinkError, _closed)
    site.add_exception_handler(PlainHTTPException, _refusal)
    site.add_exception_handler(RequestValidationError, _malformed)
    for kind in AWAY:
        site.add_exception_handler(kind, _away)
    site.add_exception_handler(Exception, _fault)
    files = static_files()

    @site.get("/static/{name}")
    def static(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "there is no such file")
        return files[name].response(request)

    @site.get("/favicon.ico")
    def favicon(request: Request) -> Response:
        return files["icon.svg"].response(request)

    site.include_router(admin_router(store, Door(admin_secret, name=store.id)))
    site.include_router(rater_router(store))
    return site


def _error(
    status: int, message: str, headers: dict[str, str] | None = None, *, reason: str | None = None
) -> JSONResponse:
    """``reason`` names what the page has words of its own for, in the rater's language."""
    body = {"error": " ".join(message.split())} | ({"reason": reason} if reason else {})
    return JSONResponse(body, status, headers=headers)


async def _mistake(request: Request, error: Exception) -> Response:
    return _error(400, str(error), reason=getattr(error, "reason", None))


async def _closed(request: Request, error: Exception) -> Response:
    status = 410 if isinstance(error, LinkEnded | PlaceGone) else 401
    return _error(status, str(error), reason=getattr(error, "reason", None))


async def _refusal(request: Request, error: PlainHTTPException) -> Response:
    if error.status_code == 404 and asks_for_page(request):
        return notice("missing", request, status=404)
    return _error(error.status_code, str(error.detail), error.headers)


async def _malformed(request: Request, error: RequestValidationError) -> Response:
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
    mark = secrets.token_hex(4)
    # The path holds a rater's token and is left out.
    logger.error("unexpected error %s", mark, exc_info=error)
    return _error(500, f"something went wrong on the server; its log says what, under {mark}")
