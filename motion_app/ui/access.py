"""Who may ask for what: host names, other sites' pages and frames, the login.

``Access`` stands before everything, gradio's own rules for other origins included; ``Entrance``
where the path is known. What is not in the lists below is not served: gradio has more routes than
the page, its clients and MCP use, and some of those open connections or ask for no login.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import secrets
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motion_app.settings import EVERY, Settings
from motion_app.study.site.address import PublicAddress, TrustedProxies, same_origin
from motion_app.ui.bodies import LOGIN, UPLOAD
from motion_app.ui.markup import LANGUAGES
from motion_app.ui.visitor import address_of

# Below "/". What anybody may ask for, who is not logged in too: the login itself, what it is drawn
# with, and the studies, which have gates of their own.
OPEN = (
    *("", *LANGUAGES, LOGIN[1:], "logout", "assets", "static", "svelte", "study", "theme.css"),
    *("manifest.json", "favicon.ico", "robots.txt"),
    *("gradio_api/theme.css", "gradio_api/startup-events"),
)
# What a visitor may ask for, where there is a login who is logged in.
API = (
    *("info", "openapi.json", "app_id", "user", "login_check", "token", "heartbeat", "reset"),
    *("call", "run", "api", "queue", "cancel", "component_server", "upload_progress", "mcp"),
)
SERVED = ("config", UPLOAD[1:], *(f"gradio_api/{name}" for name in API))
FILE = "gradio_api/file="  # before an absolute path: gradio fetches what is none
TRIES, TRIES_SECONDS = 5, 60.0  # wrong passwords of one address
ALLOWED_METHODS = "GET, HEAD, POST, OPTIONS"
PREFLIGHT_SECONDS = "600"


class Access:
    """Refuses host names that are not this server's (421), against pages that had their own name
    point here, and what another site's page asks for (403). Its frames may show the page where
    ``settings.frames`` says so; then its page may call as well, as somebody who is not logged in.
    """

    def __init__(self, app: ASGIApp, settings: Settings, public: PublicAddress) -> None:
        self.app, self.public = app, public
        self.hosts, self.frames = known_hosts(settings, public), settings.frames
        self.proxies = TrustedProxies.read()
        sources = ["*"] if EVERY in self.frames else ["'self'", *self.frames]
        self._policy = f"frame-ancestors {' '.join(sources)}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = host_name(headers.get("host", ""))
        if not self._is_known(host):
            words = (
                f'this server does not answer to the name "{host[:100]}"; who runs it can add it '
                "to MOTION_APP_HOSTS"
            )
            await JSONResponse({"detail": words}, 421)(scope, receive, send)
            return
        if self._is_foreign(scope, headers):
            await self._answer_foreign(scope, headers, receive, send)
            return
        await self.app(scope, receive, self._framed(send))

    def _is_known(self, host: str) -> bool:
        """By a number no page of a stranger's can be reached under a name of its own."""
        return EVERY in self.hosts or host in self.hosts or is_local(host) or is_number(host)

    def _is_foreign(self, scope: Scope, headers: Headers) -> bool:
        """Whether another site's page asks. A page that hides its origin is ``FrontPage``'s."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if origin == "null" or site in ("same-origin", "none"):
            return False
        if origin is None:
            return site is not None and scope["method"] not in ("GET", "HEAD")
        return not same_origin(scope, self.public, self.proxies)

    async def _answer_foreign(
        self, scope: Scope, headers: Headers, receive: Receive, send: Send
    ) -> None:
        origin = headers.get("origin", "")
        welcome = EVERY in self.frames or origin in self.frames
        if not welcome and scope["method"] not in ("GET", "HEAD"):
            words = (
                f"this comes from another site's page, {origin[:100]}; behind a proxy that "
                "changes the Host, set the app's root path to its public address"
            )
            await JSONResponse({"detail": words}, 403)(scope, receive, send)
            return
        if welcome and scope["method"] == "OPTIONS":
            asked = headers.get("access-control-request-headers", "")
            answer = PlainTextResponse("", 200, headers={**_welcome(origin), **_allowed(asked)})
            await answer(scope, receive, send)
            return
        # Without the origin gradio allows it nothing, without cookies it is nobody.
        kept = [entry for entry in scope["headers"] if entry[0] not in (b"origin", b"cookie")]
        added = _welcome(origin) if welcome else {}
        await self.app({**scope, "headers": kept}, receive, self._framed(send, added))

    def _framed(self, send: Send, added: dict[str, str] | None = None) -> Send:
        """``send`` that says which sites may show a page in a frame, where it does not itself."""

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", self._policy)
                if not self.frames:
                    headers.setdefault("x-frame-options", "SAMEORIGIN")
                headers.setdefault("x-content-type-options", "nosniff")
                for name, value in (added or {}).items():
                    headers[name] = value
            await send(message)

        return framed


def _welcome(origin: str) -> dict[str, str]:
    return {"access-control-allow-origin": origin, "vary": "Origin"}


def _allowed(asked: str) -> dict[str, str]:
    return {
        "access-control-allow-methods": ALLOWED_METHODS,
        "access-control-allow-headers": asked,
        "access-control-max-age": PREFLIGHT_SECONDS,
    }


def known_hosts(settings: Settings, public: PublicAddress) -> frozenset[str]:
    """The names that the deployment says: its own setting, the address it listens on, its public
    one, and what this machine is called."""
    machine = socket.gethostname().lower()
    named = {host_name(name) for name in settings.hosts}
    named |= {settings.host.lower(), urlsplit(public.origin).hostname or ""}
    return frozenset({*named, machine, f"{machine}.local"} - {"", "0.0.0.0", "::"})


def host_name(host: str) -> str:
    """Of a ``Host`` header, without its port and the brackets of IPv6."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    head, colon, port = name.rpartition(":")
    return (head if colon and (port.isdecimal() or not port) else name).rstrip(".")


def is_local(host: str) -> bool:
    """A name that is never looked up elsewhere (RFC 6761)."""
    return host == "localhost" or host.endswith(".localhost")


def is_number(host: str) -> bool:
    """An IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Attempts:
    """Wrong passwords: five of one address in a minute, then it waits. Nobody else does."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def begin(self, address: str) -> float:
        """Count one more as wrong until ``right``; the seconds to wait first, 0 for none."""
        with self._lock:
            now = self._clock()
            for known, times in list(self._wrong.items()):
                while times and times[0] <= now - TRIES_SECONDS:
                    times.popleft()
                if not times:
                    del self._wrong[known]
            times = self._wrong[address]
            if len(times) >= TRIES:
                return times[0] + TRIES_SECONDS - now
            times.append(now)
            return 0.0

    def right(self, address: str) -> None:
        """The last one was right."""
        with self._lock:
            self._wrong.pop(address, None)


class Login:
    """The one name and password of ``--auth``. Browsers log in on gradio's page and keep its
    cookie; programs send the two with each call (``Authorization: Basic``)."""

    def __init__(self, user: str, password: str) -> None:
        self.user, self._password = user, password
        self.attempts = Attempts()
        self._token = secrets.token_urlsafe(32)

    def admits(self, scope: Scope) -> bool:
        """Whether a call carries a cookie that was given out here."""
        app, request = scope["app"], Request(scope)
        names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
        return any(app.tokens.get(request.cookies.get(name)) is not None for name in names)

    def cookie(self, app: Any) -> str:
        """A cookie for a program whose password was right."""
        app.tokens[self._token] = self.user
        return f"access-token-unsecure-{app.cookie_id}={self._token}"

    def is_right(self, header: str) -> bool:
        """Whether ``Authorization`` names the two."""
        kind, _, text = header.partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            given = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(given, f"{self.user}:{self._password}".encode())


class Entrance:
    """Serves what is listed (404 for all else); with a ``login`` to who is logged in (401), before
    a byte of the body is read. Gives the login's cookie the flags it should have."""

    def __init__(self, app: ASGIApp, login: Login | None, public: PublicAddress) -> None:
        self.app, self.login, self.public = app, login, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = get_route_path(scope).lstrip("/")
        is_open = is_listed(path, OPEN)
        if not is_open and not is_listed(path, SERVED) and not path.startswith(f"{FILE}/"):
            await JSONResponse({"detail": "there is nothing here"}, 404)(scope, receive, send)
            return
        if self.login is None:
            await self.app(scope, receive, send)
        elif scope["method"] == "POST" and path.rstrip("/") == LOGIN[1:]:
            await self._log_in(self.login, scope, receive, send)
        else:
            await self._if_admitted(self.login, scope, receive, send, is_open=is_open)

    async def _if_admitted(
        self, login: Login, scope: Scope, receive: Receive, send: Send, *, is_open: bool
    ) -> None:
        header = Headers(scope=scope).get("authorization", "")
        if header and not login.admits(scope):
            address = address_of(Request(scope))
            wait = login.attempts.begin(address)
            if wait > 0:
                await _wait(wait)(scope, receive, send)
                return
            if login.is_right(header):
                login.attempts.right(address)
                scope = _with_cookie(scope, login.cookie(scope["app"]))
        if is_open or login.admits(scope):
            await self.app(scope, receive, send)
            return
        words = {"error": "Not authenticated", "auth_message": None}  # as gradio's clients read it
        await JSONResponse({"detail": words}, 401)(scope, receive, send)

    async def _log_in(self, login: Login, scope: Scope, receive: Receive, send: Send) -> None:
        address = address_of(Request(scope))
        wait = login.attempts.begin(address)
        if wait > 0:
            await _wait(wait)(scope, receive, send)
            return

        async def heard(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                login.attempts.right(address)
                headers = MutableHeaders(scope=message)
                cookies = headers.getlist("set-cookie")
                del headers["set-cookie"]
                secure = "https" in (scope.get("scheme"), urlsplit(self.public.origin).scheme)
                for cookie in safe_cookies(cookies, secure=secure):
                    headers.append("set-cookie", cookie)
            await send(message)

        await self.app(scope, receive, heard)


def is_listed(path: str, listed: Sequence[str]) -> bool:
    """Whether ``path``, without the first slash, is one of those or below it."""
    path = path.rstrip("/")
    return any(path == known or (known and path.startswith(f"{known}/")) for known in listed)


def safe_cookies(cookies: Sequence[str], *, secure: bool) -> list[str]:
    """gradio sets one cookie that other sites' pages may send (SameSite=None) and one for plain
    HTTP: here only the one that fits the connection, which no other site's page can send."""
    kept = []
    for cookie in cookies:
        for name, morsel in SimpleCookie(cookie).items():
            if ("unsecure" in name) != secure:
                flags = "; Secure" if secure else ""
                kept.append(f"{name}={morsel.value}; HttpOnly; Path=/; SameSite=Lax{flags}")
    return kept


def _with_cookie(scope: Scope, cookie: str) -> Scope:
    others = [value for name, value in scope["headers"] if name == b"cookie"]
    whole = b"; ".join([*others, cookie.encode()])
    headers = [entry for entry in scope["headers"] if entry[0] != b"cookie"]
    return {**scope, "headers": [*headers, (b"cookie", whole)]}


def _wait(seconds: float) -> JSONResponse:
    return JSONResponse(
        {"detail": f"too many wrong passwords from your address; wait {seconds:.0f} s"},
        429,
        headers={"retry-after": str(round(seconds) + 1)},
    )
