"""The demo over HTTP: whoever comes gets a visit of one's own, rates, and sees its report.

Nothing here is anybody's data, so that it needs no secret: a visit's name is known to its visitor
alone, the administrator's page of it is open, and the app's own page shows it in a frame.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from motion_app.errors import RequestError
from motion_app.settings import EVERY
from motion_app.study.answers import Study
from motion_app.study.demo import DemoVisit, DemoVisits
from motion_app.study.site.documents import asks_for_page, language_of
from motion_app.study.site.guard import Door

NAME = "~demo"  # no shell makes a folder of this name by accident, so no study has it
REPORT = "report"
NO_FRAME = "frame-ancestors 'none'"

BuildSite = Callable[[Study, Door], FastAPI]


class OpenDoor(Door):
    """Lets everybody in."""

    def __init__(self) -> None:
        super().__init__(secrets.token_hex(16))

    def admits(self, cookie: str) -> bool:
        """Always."""
        return True


class DemoHall:
    """``/`` begins a visit and leads to its rater's page; ``/NAME/…`` is the visit's own study,
    ``/NAME/report`` its results. ``frames``: the sites that may show the app in a frame."""

    def __init__(self, visits: DemoVisits, build: BuildSite, *, frames: Sequence[str] = ()) -> None:
        self.visits, self._build = visits, build
        self._sites: dict[str, FastAPI] = {}
        self._lock = threading.Lock()
        sources = ["*"] if EVERY in frames else ["'self'", *frames]
        self._policy = f"frame-ancestors {' '.join(sources)}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send, rest: str) -> None:
        """``rest``: the path below the demo."""
        request = Request(scope)
        root = scope.get("root_path", "").rstrip("/") + f"/{NAME}"
        name, _, inside = rest.partition("/")
        found = await run_in_threadpool(self._find, name) if name else None
        framed = self._framed(send)
        if found is not None and inside != REPORT:
            _, site = found
            below = {"root_path": f"{root}/{name}", "app_root_path": root}
            await site({**scope, **below}, receive, framed)
            return
        if found is not None:
            response = await run_in_threadpool(self._report, request, root, name, found[0])
        elif not name or asks_for_page(request):  # one that is over begins anew
            response = await run_in_threadpool(self._begin, request, root)
        else:
            words = "this demo is over; open it again for another one"
            response = JSONResponse({"error": words}, 404)
        await response(scope, receive, framed)

    def _find(self, name: str) -> tuple[DemoVisit, FastAPI] | None:
        visit = self.visits.find(name)
        with self._lock:
            if visit is None:
                self._sites.pop(name, None)
                return None
            if name not in self._sites:
                while len(self._sites) >= self.visits.most:
                    del self._sites[next(iter(self._sites))]
                self._sites[name] = self._build(visit.study, OpenDoor())
            return visit, self._sites[name]

    def _begin(self, request: Request, root: str) -> Response:
        try:
            name = self.visits.begin()
        except (OSError, RequestError):
            return JSONResponse({"error": "the demo cannot be opened now; its files are away"}, 503)
        visit = self.visits.find(name)
        if visit is None:  # so many came meanwhile
            return JSONResponse({"error": "too many try the demo now; come back later"}, 503)
        return _to(f"{root}/{name}/r/{visit.token}", request)

    def _report(self, request: Request, root: str, name: str, visit: DemoVisit) -> Response:
        if not visit.finished:
            return _to(f"{root}/{name}/r/{visit.token}", request)
        visit.unblind()
        return _to(f"{root}/{name}/admin/", request, "#results")

    def _framed(self, send: Send) -> Send:
        """``send`` that lets the app's own page show what comes in a frame."""

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                policy = headers.get("content-security-policy", NO_FRAME)
                headers["content-security-policy"] = policy.replace(NO_FRAME, self._policy)
                headers["x-frame-options"] = "SAMEORIGIN"  # of old browsers; others take the policy
            await send(message)

        return framed


def _to(path: str, request: Request, ending: str = "") -> Response:
    query = urlencode({"lang": language_of(request)})
    return RedirectResponse(f"{path}?{query}{ending}", status_code=303)
