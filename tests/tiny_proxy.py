"""A reverse proxy as small as one can be, and what the usual ones do to a request: take a prefix
off or leave it, keep the ``Host`` or put their own word for the server there."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}


@dataclass(frozen=True)
class Habits:
    """``prefix`` is what the proxy serves, ``strips`` whether it takes it off; ``keeps_host`` as
    with nginx's ``Host $http_host``; ``tells`` the headers ``X-Forwarded-*``, as Caddy does."""

    prefix: str
    strips: bool
    keeps_host: bool
    tells: bool = False


class TinyProxy:
    """An ASGI application that passes everything below its prefix on to ``target``."""

    def __init__(self, target: str, habits: Habits) -> None:
        self.target, self.habits = target.rstrip("/"), habits
        self.client = httpx.AsyncClient(timeout=60)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await (await self._answer(Request(scope, receive)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path, prefix = request.scope["raw_path"].decode(), self.habits.prefix
        if not path.startswith(prefix + "/"):
            return Response("the proxy serves nothing here", 404)
        query = request.scope["query_string"].decode()
        path = path.removeprefix(prefix) if self.habits.strips else path
        url = f"{self.target}{path}" + (f"?{query}" if query else "")
        sent = self.client.build_request(
            request.method, url, headers=self._headers(request), content=await request.body()
        )
        came = await self.client.send(sent, stream=True)
        answer = StreamingResponse(
            came.aiter_raw(), came.status_code, background=BackgroundTask(came.aclose)
        )
        answer.raw_headers = [
            (name.lower(), value)
            for name, value in came.headers.raw
            if name.decode().lower() not in HOP_BY_HOP
        ]
        return answer

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {k: v for k, v in request.headers.items() if k not in HOP_BY_HOP}
        host = headers["host"]
        if not self.habits.keeps_host:
            headers["host"] = urlsplit(self.target).netloc
        if self.habits.tells:
            headers |= {"x-forwarded-host": host, "x-forwarded-proto": "http"}
            headers |= {"x-forwarded-for": "203.0.113.7"}
        return headers
