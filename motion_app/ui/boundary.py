"""Between the page and its server: errors, refusals, first bytes.

The one place where exceptions become what the browser shows.

What the page's first bytes say before gradio's script runs: its language, and a script for
browsers that keep nothing.

What the server says to a call that no handler can be asked about: of an endpoint that is not
there, with values that do not fit. Never a stack trace, never a path of the server's.
"""

from __future__ import annotations

import functools
import hmac
import html
import inspect
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any, Literal

import gradio as gr
from anyio import CapacityLimiter
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from gradio.events import Events
from gradio.exceptions import InvalidPathError
from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motion_app.errors import MediaError, MotionAppError, log_under_mark, server_fault
from motion_app.ui.markup import LANGUAGES, script

logger = logging.getLogger(__name__)
MOST_TOLD = 1000  # characters of a message: it may quote what a stranger wrote
HTML_LANGUAGE = re.compile(rb'(<html\b[^>]*?\blang=")[^"]*"')
WORD_HEADER = "x-page-word"
# What has no secrets: a page's scripts and styles, which a browser asks for without our header.
PUBLIC = ("/assets/", "/static/", "/svelte/", "/theme.css", "/manifest.json", "/favicon.ico")
ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]*:|//|\\\\)", re.IGNORECASE)  # no path of a file's
FILES = ("/gradio_api/file", "/file")  # of visitors, not the page's own
JSON_TYPE = b"application/json"
GONE = b'{"detail": "there is no such file; it may have been deleted"}'
STUDIES = "/study/"  # has a gate of its own
WORKER_THREADS = 128  # calls that compute; one that waits for a job holds none
CALL_SECONDS = 300.0  # between two calls of an open page


def in_one_line(error: Exception) -> str:
    """The message without line breaks, cut off where it is very long."""
    line = " ".join(str(error).split())
    return line if len(line) <= MOST_TOLD else line[: MOST_TOLD - 1] + "…"


def shown_error(error: Exception) -> gr.Error:
    """The toast for an exception: a MotionAppError's own line, or one that names where the log has
    more. gradio reads messages as HTML, and they may quote what a stranger wrote."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, MotionAppError):
        line = in_one_line(error)
        plain_word = line.split(" ")[0].isalpha()  # a file's name keeps its letters
        sentence = line[:1].upper() + line[1:] if plain_word else line
        return gr.Error(html.escape(sentence), title="That did not work", print_exception=False)
    line = server_fault(logger, error)
    return gr.Error(
        f"{line[:1].upper()}{line[1:]}. Your inputs are kept: try again.",
        title="Unexpected error",
        print_exception=False,
    )


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """``handler``, a function or a generator, with its exceptions turned into toasts."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generate(*arguments: Any) -> Iterator[Any]:
            try:
                yield from handler(*arguments)
            except Exception as error:
                raise shown_error(error) from error

        return generate

    @functools.wraps(handler)
    def answer(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except Exception as error:
            raise shown_error(error) from error

    return answer


def listen(event: Callable[..., Any], handler: Callable[..., Any], **options: Any) -> Any:
    """Bind a guarded handler to an event. Public endpoints are those with an ``api_name``.

    gradio's own progress overlays are off: they cover what a person works on, and the page has its
    own words for what is going on. No component carries one even hidden: for as long as its call is
    under way it redraws its clock at every frame, which takes a core from the model. What a person
    does before the last answer has come counts too, where it is no second press of a button.
    """
    known: Any = getattr(event, "func", event)  # of our own components gradio gives a partial
    if getattr(known, "has_trigger", False):
        options = {"trigger_mode": _mode_of(known.event_name)} | options
    if "api_name" not in options:
        options["api_visibility"] = "private"
    if "show_progress" not in options:
        options |= {"show_progress": "hidden", "show_progress_on": []}
    return event(guarded(handler), **options)


def _mode_of(event_name: str) -> Literal["once", "multiple", "always_last"] | None:
    """Of a field what it holds at last; of files and our own components all that comes."""
    if event_name in ("input", "release"):
        return "always_last"
    return None if hasattr(Events, event_name) and event_name != "upload" else "multiple"


class FrontPage:
    """ASGI middleware around gradio's app.

    A page in a sandboxed frame has the origin "null", as has any stranger's page that hides its
    own: a call from there is answered only with the word that stands in our page, which a
    stranger's cannot read. gradio's own rule, that such a page gets no answer from this machine, is
    to be turned off (``strict_cors=False``): it would keep our page out too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._word = secrets.token_hex(16)
        front = script("front").replace("PAGE_WORD", self._word)
        self._head = f"<head><script>{front}</script>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = get_route_path(scope)
        if not self._may_call(path, Headers(scope=scope)):
            refusal = JSONResponse({"detail": "this comes from another page"}, status_code=403)
            await refusal(scope, receive, send)
            return
        if path.startswith(FILES):
            send = _gone_where_refused(send)
        name = path.strip("/")
        if scope["method"] == "GET" and name in ("", *LANGUAGES):
            send = _Rewriting(send, self._head, name or next(iter(LANGUAGES)))
        await self.app(scope, receive, send)

    def _may_call(self, path: str, headers: Headers) -> bool:
        if headers.get("origin") != "null" or path.startswith((*PUBLIC, STUDIES)):
            return True
        return hmac.compare_digest(headers.get(WORD_HEADER, "").encode(), self._word.encode())


def _gone_where_refused(send: Send) -> Send:
    """gradio says 403, and the path, of a file that was deleted as of one that nobody may have:
    here both are not there."""
    gone = False

    async def answer(message: Message) -> None:
        nonlocal gone
        if message["type"] == "http.response.start" and message["status"] == 403:
            gone = True
            headers = [(b"content-type", JSON_TYPE), (b"content-length", b"%d" % len(GONE))]
            await send({**message, "status": 404, "headers": headers})
        elif not gone:
            await send(message)
        elif not message.get("more_body", False):
            await send({"type": "http.response.body", "body": GONE})

    return answer


class _Rewriting:
    """A ``send`` that holds a page until it is whole and sends it with its head and language."""

    def __init__(self, send: Send, head: bytes, language: str) -> None:
        self._send, self._head, self._language = send, head, language
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            if kind.startswith("text/html"):
                self._start = message
                return
        elif self._start is not None and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if message.get("more_body", False):
                return
            await self._finish(self._start)
            return
        await self._send(message)

    async def _finish(self, start: Message) -> None:
        language = self._language.encode()
        body = HTML_LANGUAGE.sub(rb"\g<1>" + language + b'"', self._body, count=1)
        body = body.replace(b"<head>", self._head, 1)
        MutableHeaders(raw=start["headers"])["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


class GuardedBlocks(gr.Blocks):
    """``gr.Blocks`` that tells why a call could not be read, and keeps no connection to a page.
    gradio's own errors come before a handler is asked and go out empty; their texts name what only
    the server need know. Its heartbeat, by which it knows that a page is still open, is a
    connection that every tab would hold, of the six that a browser opens to a server: here a page
    calls now and then (``still_here``), and what it chose is forgotten when it called no more.

    No value of a call makes it fetch anything: gradio reads what looks like one of its files
    wherever it lies, and fetches it where its path is an address."""

    def get_config_file(self) -> Any:
        """As gradio's, without the heartbeat."""
        return super().get_config_file() | {"connect_heartbeat": False}

    def use_queue(self, queue: Any) -> None:
        """Calls wait in ``queue`` from now on."""
        self._queue = queue

    def create_limiter(self) -> None:
        """As many threads as calls may compute at once; more may wait for something."""
        self.limiter = CapacityLimiter(WORKER_THREADS)

    def still_here(self) -> None:
        """The call of an open page: its session is heard of, like any other that calls."""

    async def process_api(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> Any:
        """As gradio's; whatever is raised is a ``gr.Error`` with a line for people."""
        try:
            refuse_addresses(inputs)
            return await super().process_api(block_fn, inputs, *rest, **named)
        except gr.Error:
            raise
        except MediaError as error:
            raise _plain(str(error)) from error
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
            mark = log_under_mark(logger, error, "a call could not be read,")
            raise _plain(
                "the values do not fit this call; its description says what it takes (the "
                f"server's log says more, under {mark})"
            ) from error

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> Any:
        """As gradio's, which would fetch an address that goes out as a file just as well."""
        refuse_addresses(predictions)
        return await super().postprocess_data(block_fn, predictions, state)


def refuse_addresses(value: Any) -> None:
    """MediaError where anything in ``value``, however deep, is a file of gradio's whose path is an
    address: those are fetched."""
    waiting = [value]
    while waiting:
        now = waiting.pop()
        if isinstance(now, dict):
            path = now.get("path")
            if isinstance(path, str) and ADDRESS.match(path):
                raise MediaError(
                    "a file must come as an upload (gradio_client.handle_file) or as a data: URI; "
                    "addresses are not read"
                )
            waiting.extend(now.values())
        elif isinstance(now, (list, tuple)):
            waiting.extend(now)


def _plain(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)


async def unknown(request: Request, error: Exception) -> JSONResponse:
    """gradio looks functions up by name and number, and stumbles over what is not there."""
    logger.info("nothing at %s: %s", request.url.path, type(error).__name__)
    return JSONResponse({"detail": "there is no such endpoint or event"}, status_code=404)


async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
    """Which field is wrong, without what was in it: that may be long."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])[:80]
    detail = f"{place}: {first['msg'][:200]}"
    return JSONResponse({"detail": detail}, status_code=422)


async def misnamed(request: Request, error: Exception) -> JSONResponse:
    """gradio matches the names of a call's values with those of its function, and stumbles over
    one that is not there or is missing."""
    if "/call/v2/" in request.url.path:
        line = in_one_line(error).partition(" Please")[0][:200]
        return JSONResponse({"detail": f"the values do not fit this call: {line}"}, status_code=422)
    return JSONResponse({"detail": server_fault(logger, error)}, status_code=500)
