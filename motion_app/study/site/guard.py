"""What a request passes: sizes, origins, and the administrator's secret.

What every request passes on its way in, and every response on its way out.

The administrator's door: one secret, a signed cookie for who knew it, and patience for who did
not. The open link's: so many places a day for one address.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motion_app.errors import RequestError
from motion_app.study.site.address import (
    DIRECT,
    PublicAddress,
    TrustedProxies,
    same_origin,
    visitor_network,
)

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
COOKIE, KNOWN_COOKIE = "study_admin", "study_known"
OPEN_SECONDS = 12 * 3600
KNOWN_SECONDS = 365 * 86_400  # for which a browser that opened the door is known again
TRIES, TRIES_SECONDS = 5, 60.0  # wrong secrets of one address
TRIES_IN_ALL = 60  # of all addresses, in the same time; then each has one more, that has had none
SHORTEST_SECRET = 12
PLACES_SECONDS = 86_400.0  # in which one address takes so many places


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


class TooManyTries(Exception):
    """Wrong secrets came too fast; ``seconds`` until the next may be tried."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many wrong secrets; wait {seconds:.0f} s")
        self.seconds = seconds


class Door:
    """Opens for ``secret``. ``name`` keeps the cookie of one study from opening another's.

    Addresses are counted under a hash that lives as long as the program, and are written nowhere.
    A browser that opened the door before is counted by itself: nobody who shares its address, as
    all do behind a proxy, shuts it out.
    """

    def __init__(
        self, secret: str, *, name: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"the secret has {len(secret)} letters, at least {SHORTEST_SECRET}")
        self._secret = hashlib.sha256(secret.encode()).digest()
        self._keys = {
            kind: hmac.digest(self._secret, f"{kind} {name}".encode(), hashlib.sha256)
            for kind in ("cookie", "known")
        }
        self._salt = secrets.token_bytes(16)
        self._clock = clock
        self._wrong: dict[bytes, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def knock(self, given: str, address: str, *, known: str = "") -> str | None:
        """The cookie's value for the right secret, None for a wrong one; TooManyTries after five
        wrong ones of a caller in a minute, whatever comes then. A caller is a browser, by what it
        was given as ``known``, else an ``address``."""
        caller = hmac.digest(self._salt, self._caller(address, known).encode(), hashlib.sha256)
        with self._lock:
            now = self._clock()
            self._forget(now)
            if len(self._wrong[caller]) >= TRIES:
                raise TooManyTries(self._wrong[caller][0] + TRIES_SECONDS - now)
            if self._wrong[caller] and sum(map(len, self._wrong.values())) >= TRIES_IN_ALL:
                raise TooManyTries(TRIES_SECONDS)
            digest = hashlib.sha256(given.encode()).digest()
            if not hmac.compare_digest(digest, self._secret):
                self._wrong[caller].append(now)
                return None
            self._wrong.pop(caller, None)
        return self._signed(f"{int(now) + OPEN_SECONDS}.{secrets.token_hex(8)}")

    def admits(self, cookie: str) -> bool:
        """Whether a cookie was signed here and is not too old."""
        text, _, _ = cookie.rpartition(".")
        if not hmac.compare_digest(self._signed(text).encode(), cookie.encode("utf-8", "replace")):
            return False
        return int(text.partition(".")[0]) > self._clock()

    def known(self) -> str:
        """A value for a cookie, by which a browser that opened the door is known again."""
        return self._signed(secrets.token_hex(16), "known")

    def _caller(self, address: str, known: str) -> str:
        text, _, _ = known.rpartition(".")
        signed = self._signed(text, "known").encode()
        if text and hmac.compare_digest(signed, known.encode("utf-8", "replace")):
            return f"known {text}"
        return visitor_network(address)

    def _signed(self, text: str, kind: str = "cookie") -> str:
        mac = hmac.digest(self._keys[kind], text.encode("utf-8", "replace"), hashlib.sha256)
        return f"{text}.{mac.hex()}"

    def _forget(self, now: float) -> None:
        for caller, times in list(self._wrong.items()):
            while times and times[0] <= now - TRIES_SECONDS:
                times.popleft()
            if not times:
                del self._wrong[caller]


class Crowded(RequestError):
    """One address has taken as many places as it may; ``seconds`` until it may take the next."""

    reason = "crowded"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "as many people as may have begun from your network today; come back tomorrow, or ask "
            "whoever invited you for a link of your own"
        )
        self.seconds = seconds


class Newcomers:
    """How many places of one study the open link gives to one address: ``most`` in a day, so that
    nobody takes them all. Who has a link of one's own, or came before, is not counted.

    Addresses are counted under a hash that lives as long as the program, and are written nowhere.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self._clock = most, clock
        self._salt = secrets.token_bytes(16)
        self._taken: dict[bytes, dict[str, float]] = defaultdict(dict)  # when, by place
        self._coming: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Crowded where the address may take no place now."""
        with self._lock:
            self._check(self._hashed(address))

    def seat(self, address: str, take: Callable[[], str]) -> str:
        """What ``take`` gives, the token of a place: counted once, however many tabs ask for it.
        Crowded, and nothing is taken, where the address has had its share."""
        caller = self._hashed(address)
        with self._lock:
            self._check(caller)
            self._coming[caller] += 1
        try:
            token = take()
            with self._lock:
                self._taken[caller].setdefault(token, self._clock())
            return token
        finally:
            with self._lock:
                self._coming[caller] -= 1
                self._coming += Counter()  # those that are at 0 go

    def _check(self, caller: bytes) -> None:
        now = self._clock()
        for known, places in list(self._taken.items()):
            fresh = {token: at for token, at in places.items() if at > now - PLACES_SECONDS}
            if fresh:
                self._taken[known] = fresh
            else:
                del self._taken[known]
        times = self._taken.get(caller, {}).values()
        if len(times) + self._coming[caller] >= self.most:
            raise Crowded(min(times, default=now) + PLACES_SECONDS - now)

    def _hashed(self, address: str) -> bytes:
        return hmac.digest(self._salt, visitor_network(address).encode(), hashlib.sha256)
