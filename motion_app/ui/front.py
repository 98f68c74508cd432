"""What the page's first bytes say before gradio's script runs: its language, and a script for
browsers that keep nothing."""

from __future__ import annotations

import hmac
import re
import secrets
from pathlib import Path

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motion_app.ui.texts import LANGUAGES

SCRIPT = (Path(__file__).parent / "front.js").read_text(encoding="utf-8")
HTML_LANGUAGE = re.compile(rb'(<html\b[^>]*?\blang=")[^"]*"')
WORD_HEADER = "x-page-word"
# What has no secrets: a page's scripts and styles, which a browser asks for without our header.
PUBLIC = ("/assets/", "/static/", "/svelte/", "/theme.css", "/manifest.json", "/favicon.ico")
STUDIES = "/study/"  # has a gate of its own


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
        script = SCRIPT.replace("PAGE_WORD", self._word)
        self._head = f"<head><script>{script}</script>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = get_route_path(scope)
        if not self._may_call(path, Headers(scope=scope)):
            refusal = JSONResponse({"detail": "this comes from another page"}, status_code=403)
            await refusal(scope, receive, send)
            return
        name = path.strip("/")
        if scope["method"] == "GET" and name in ("", *LANGUAGES):
            send = _Rewriting(send, self._head, name or next(iter(LANGUAGES)))
        await self.app(scope, receive, send)

    def _may_call(self, path: str, headers: Headers) -> bool:
        if headers.get("origin") != "null" or path.startswith((*PUBLIC, STUDIES)):
            return True
        return hmac.compare_digest(headers.get(WORD_HEADER, "").encode(), self._word.encode())


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
