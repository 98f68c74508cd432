"""What a call may weigh, whatever it calls itself: counted as it comes, refused in a sentence.

A call is held in memory, so its bytes count, those of all calls together, and the values in it: a
megabyte of brackets takes a hundred of memory once it is read. A form of uploads goes to disk, all
but the fields in it that are no files, which gradio would hold in memory without a limit.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motion_app.errors import server_fault
from motion_app.settings import Limits
from motion_app.ui.visitor import address_of

logger = logging.getLogger(__name__)
UPLOAD, LOGIN = "/gradio_api/upload", "/login"
FORM = "multipart/form-data"
LOGIN_BYTES = 64 * 2**10  # a name and a password
FIELD_BYTES = 2**20  # of the heads of a form of uploads, and of its fields: pages send none
QUIET_SECONDS = 60.0  # how long the next piece of a body may take
OPENERS = b",[{:"  # before each value of JSON but the first
UploadHeard = Callable[[str, Sequence[str]], None]


class BodyRefused(HTTPException):
    """A body that is too much; FastAPI passes it on while it reads, and so does Starlette."""


class BodyLimit:
    """Refuses what is over ``limits`` (413), comes too slowly (408), or comes while too much else
    does (503); says so where there is no room for an upload (507). ``heard`` is told the address
    that uploads came from, and their paths."""

    def __init__(self, app: ASGIApp, limits: Limits, heard: UploadHeard) -> None:
        self.app, self.limits, self.heard = app, limits, heard
        self._arriving = {True: 0, False: 0}  # bytes, of uploads and of calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, headers = get_route_path(scope).rstrip("/"), Headers(scope=scope)
        form = headers.get("content-type", "").lower().startswith(FORM)
        upload = form and path == UPLOAD
        if form and not upload and path != LOGIN:
            words = f"files are taken at {UPLOAD} alone"
            await JSONResponse({"detail": words}, 415)(scope, receive, send)
            return
        most = self._most(path, upload=upload)
        claimed = headers.get("content-length", "0")
        if not claimed.isdecimal() or int(claimed) > most:
            await JSONResponse({"detail": _words(most)}, 413)(scope, receive, send)
            return
        body = ArrivingBody(most, self._all(upload=upload), upload=upload, headers=headers)
        # Mutable, since copies of the scope are made on its way; ``FairQueue`` reads it.
        scope["body_bytes"] = body.counted
        begun = told = False

        async def answer(message: Message) -> None:
            nonlocal begun, told
            if body.refused is None or (begun and not told):
                begun = True
                await send(message)
            elif not told:  # whatever was made of it on its way, as MCP's 500
                begun = told = True
                await _refusal(body.refused)(scope, receive, send)

        said = self._listening(scope, answer) if upload else answer
        try:
            await self.app(scope, self._counting(body, receive), said)
        except BaseException as error:
            if upload:
                _forget_half(error)
            if body.refused is not None and isinstance(error, Exception):
                if not begun:
                    await _refusal(body.refused)(scope, receive, send)
                return
            if begun or not upload or not isinstance(error, OSError):
                raise
            fault = {"detail": server_fault(logger, error)}
            await JSONResponse(fault, 507)(scope, receive, send)
        finally:
            self._arriving[upload] -= body.counted.bytes

    def _most(self, path: str, *, upload: bool) -> int:
        if path == LOGIN:
            return LOGIN_BYTES
        return self._all(upload=True) if upload else int(self.limits.call_megabytes * 2**20)

    def _all(self, *, upload: bool) -> int:
        """Bytes of all bodies that are arriving."""
        if upload:
            return int(self.limits.upload_gigabytes * 2**30)
        return int(self.limits.calls_megabytes * 2**20)

    def _counting(self, body: ArrivingBody, receive: Receive) -> Receive:
        async def counted() -> Message:
            if body.whole:
                return await receive()  # whether the caller has left
            try:
                return await self._next(body, receive)
            except BodyRefused as error:
                body.refused = error
                raise

        return counted

    async def _next(self, body: ArrivingBody, receive: Receive) -> Message:
        """The next piece. BodyRefused where it is too much, or does not come."""
        try:
            message = await asyncio.wait_for(receive(), QUIET_SECONDS)
        except TimeoutError:
            raise BodyRefused(
                408, f"nothing came for {QUIET_SECONDS:.0f} s; send it again"
            ) from None
        before = body.counted.bytes
        body.take(message, self.limits.call_values)
        self._arriving[body.upload] += body.counted.bytes - before
        if self._arriving[body.upload] > body.most_in_all:
            raise BodyRefused(503, "too much is being sent here at once; try again in a minute")
        return message

    def _listening(self, scope: Scope, send: Send) -> Send:
        """``send``, by which an upload's paths are heard of before the caller hears them."""
        answer = bytearray()
        good = False

        async def listening(message: Message) -> None:
            nonlocal good
            if message["type"] == "http.response.start":
                good = message["status"] == 200
            elif good and message["type"] == "http.response.body":
                answer.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    self.heard(address_of(Request(scope)), json.loads(bytes(answer)))
            await send(message)

        return listening


def _refusal(refused: BodyRefused) -> JSONResponse:
    return JSONResponse({"detail": refused.detail}, refused.status_code)


def _forget_half(error: BaseException) -> None:
    """Delete what came of an upload that ``error`` ended: gradio's reader of forms, whose call is
    one of those that it went through, leaves it where there is no room, or the line broke."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        reader = frame.f_locals.get("self")
        for file in getattr(reader, "_files_to_close_on_error", ()):
            with suppress(OSError):
                file.close()
            Path(file.name).unlink(missing_ok=True)


class Counted:
    """Bytes of a body so far."""

    def __init__(self) -> None:
        self.bytes = 0

    def __int__(self) -> int:
        return self.bytes


class ArrivingBody:
    """One body as it comes. BodyRefused from ``take`` where it is too much."""

    def __init__(self, most: int, most_in_all: int, *, upload: bool, headers: Headers) -> None:
        self.most, self.most_in_all, self.upload = most, most_in_all, upload
        self.counted = Counted()
        self.whole = False
        self.refused: BodyRefused | None = None
        self._values = 0
        self._fields = FormFields(headers["content-type"]) if upload else None

    def take(self, message: Message, most_values: int) -> None:
        """One more piece."""
        piece = message.get("body", b"")
        self.whole = not message.get("more_body", False)
        self.counted.bytes += len(piece)
        if self.counted.bytes > self.most:
            raise BodyRefused(413, _words(self.most))
        if self._fields is not None:
            self._fields.take(piece)
            return
        self._values += sum(piece.count(opener) for opener in OPENERS)
        if self._values > most_values:
            raise BodyRefused(
                413, f"a call holds at most {most_values} values; send files as data: URIs"
            )


class FormFields:
    """Counts what a form holds beside its files, as the same parser reads it that gradio's does."""

    def __init__(self, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        self._header, self._value, self._is_file, self._bytes = b"", b"", False, 0
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._more_value,
            "on_header_end": self._end_header,
            "on_part_data": self._data,
        }
        # Without a boundary gradio reads none of it.
        self._parser = None if not boundary else MultipartParser(boundary, callbacks)

    def take(self, piece: bytes) -> None:
        """One more piece of the form. What is no form is left to gradio to say."""
        if self._parser is not None and piece:
            try:
                self._parser.write(piece)
            except ValueError:  # damaged: gradio's reading stops here too
                self._parser = None

    def _begin(self) -> None:
        self._header, self._value, self._is_file = b"", b"", False

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._count(end - start)

    def _more_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._is_file = b"filename" in parse_options_header(self._value)[1]
        self._header, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._count(end - start)

    def _count(self, more: int) -> None:
        self._bytes += more
        if self._bytes > FIELD_BYTES:
            raise BodyRefused(
                413, f"a form of uploads holds {FIELD_BYTES // 2**10} KB beside its files at most"
            )


def _words(most: int) -> str:
    if most >= 2**20:
        return (
            f"a call has {most / 2**20:.0f} MB at most; upload large files and send what the "
            "upload answered"
        )
    return f"this takes {most / 2**10:.0f} KB at most"
