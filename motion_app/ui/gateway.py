"""What the server says to a call that no handler can be asked about: too long, of an endpoint that
is not there, with values that do not fit. Never a stack trace, never a path of the server's."""

from __future__ import annotations

import logging
import secrets
from datetime import datetime, timedelta
from typing import Any

import gradio as gr
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from gradio.exceptions import InvalidPathError
from gradio.route_utils import FnIndexInferError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motion_app.settings import Limits
from motion_app.study.address import DIRECT, PublicAddress, WholePath
from motion_app.ui.front import FrontPage

logger = logging.getLogger(__name__)

JSON_TYPE = b"application/json"
LEFT_SECONDS = 2 * 3600.0  # without a call: browsers let hidden pages call seldom, or not at all
CALL_SECONDS = 300.0  # between two calls of an open page


class GuardedBlocks(gr.Blocks):
    """``gr.Blocks`` that tells why a call could not be read, and keeps no connection to a page.
    gradio's own errors come before a handler is asked and go out empty; their texts name what only
    the server need know. Its heartbeat, by which it knows that a page is still open, is a
    connection that every tab would hold, of the six that a browser opens to a server: here a page
    calls now and then (``still_here``), and what it chose is forgotten when it called no more."""

    def get_config_file(self) -> Any:
        """As gradio's, without the heartbeat."""
        return super().get_config_file() | {"connect_heartbeat": False}

    def close_left_sessions(self, *, seconds: float = LEFT_SECONDS) -> None:
        """Mark the sessions that did not call for so many ``seconds``: gradio forgets what is in
        them. One that calls again before that is open again."""
        holder = getattr(self, "state_holder", None)
        if holder is None:
            return
        before = datetime.now() - timedelta(seconds=seconds)
        for name, session in list(holder.session_data.items()):
            session.is_closed = holder.time_last_used.get(name, before) <= before

    def still_here(self) -> None:
        """The call of an open page: it is heard of like any other, and others are looked after."""
        self.close_left_sessions()

    async def process_api(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> Any:
        """As gradio's; whatever is raised is a ``gr.Error`` with a line for people."""
        try:
            return await super().process_api(block_fn, inputs, *rest, **named)
        except gr.Error:
            raise
        except InvalidPathError as error:
            raise _plain(
                "that is no uploaded file; upload it first (gradio_client.handle_file)"
            ) from error
        except Exception as error:
            needed = len(getattr(block_fn, "inputs", ()))
            if len(inputs) != needed:
                raise _plain(
                    f"the call has {len(inputs)} values, and {needed} are needed; its description "
                    "names them"
                ) from error
            mark = secrets.token_hex(4)
            logger.warning("a call could not be read, %s", mark, exc_info=error)
            raise _plain(
                "the values do not fit this call; its description says what it takes (the "
                f"server's log says more, under {mark})"
            ) from error


def _plain(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)


class BodyLimit:
    """Refuses a JSON body over ``most_bytes`` before it is held in memory. Uploads, which go to
    disk, have a limit of gradio's."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if scope["type"] != "http" or not headers.get(b"content-type", b"").startswith(JSON_TYPE):
            await self.app(scope, receive, send)
            return
        claimed = headers.get(b"content-length", b"0")
        if not claimed.isdigit() or int(claimed) > self.most_bytes:
            await self._refusal()(scope, receive, send)
            return
        held = 0

        async def counted() -> Message:
            nonlocal held
            message = await receive()
            held += len(message.get("body", b""))
            if held > self.most_bytes:  # sent in pieces, without a length
                raise HTTPException(413, self._words())
            return message

        await self.app(scope, counted, send)

    def _words(self) -> str:
        return (
            f"a call has {self.most_bytes / 2**20:.0f} MB at most; upload large files and send "
            "what the upload answered"
        )

    def _refusal(self) -> JSONResponse:
        return JSONResponse({"detail": self._words()}, status_code=413)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    """gradio looks functions up by name and number, and stumbles over what is not there."""
    logger.info("nothing at %s: %s", request.url.path, type(error).__name__)
    return JSONResponse({"detail": "there is no such endpoint or event"}, status_code=404)


async def _unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
    """Which field is wrong, without what was in it: that may be long."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])[:80]
    detail = f"{place}: {first['msg'][:200]}"
    return JSONResponse({"detail": detail}, status_code=422)


def server_options(limits: Limits, public: PublicAddress = DIRECT) -> dict[str, Any]:
    """The ``app_kwargs`` of ``launch``; ``public``: where browsers find the page."""
    most = int(limits.call_megabytes * 2**20)
    return {
        "middleware": [
            Middleware(WholePath, path=public.path),
            Middleware(FrontPage),
            Middleware(BodyLimit, most_bytes=most),
        ],
        "exception_handlers": {
            FnIndexInferError: _unknown,
            KeyError: _unknown,
            RequestValidationError: _unreadable,
        },
    }
