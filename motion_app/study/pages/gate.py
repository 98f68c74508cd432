"""What every request passes on its way in, and every response on its way out."""

from __future__ import annotations

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motion_app.study.address import DIRECT, PublicAddress, TrustedProxies, same_origin

MAX_BODY_BYTES = 64 * 1024  # an answer has some 500 bytes
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "x-robots-tag": "noindex, nofollow",
    "cache-control": "no-store",
}


class Gate:
    """Refuses requests from other sites' pages (403) and large bodies (413); adds the security
    headers that a response does not set itself. ``public`` is where browsers find this site."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        public: PublicAddress = DIRECT,
        max_body: int = MAX_BODY_BYTES,
    ) -> None:
        self.app, self.public, self.max_body = app, public, max_body
        self.proxies = TrustedProxies.read()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if not self.from_own_page(scope):
            await _refuse(send_guarded, 403, _foreign(Headers(scope=scope)))
            return
        body = await _body(receive, Headers(scope=scope), self.max_body)
        if body is None:
            limit = f"the request is too large; at most {self.max_body // 1024} KB are expected"
            await _refuse(send_guarded, 413, limit)
            return
        await self.app(scope, _replay(body, receive), send_guarded)

    def from_own_page(self, scope: Scope) -> bool:
        """Whether a request that changes something was made by a page of this origin, or by a
        program.

        Browsers say so in ``Sec-Fetch-Site`` where the connection is safe, and in ``Origin``
        always.
        """
        if scope["method"] in SAFE_METHODS:
            return True
        site = Headers(scope=scope).get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        return same_origin(scope, self.public, self.proxies)


def _foreign(headers: Headers) -> str:
    words = "this request comes from another site's page"
    if "sec-fetch-site" in headers:
        return words
    origin, host = headers.get("origin", "")[:100], headers.get("host", "")[:100]
    return (
        f"{words}: {origin} is not {host}; behind a proxy that changes the Host, set the app's "
        "root path to its public address"
    )


async def _body(receive: Receive, headers: Headers, limit: int) -> bytes | None:
    """The whole body, or None where it has more than ``limit`` bytes."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        return None
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """``body`` in one piece, then whatever the server says next: that the client has left."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
