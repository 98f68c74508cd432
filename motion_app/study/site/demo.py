"""The demo and previews over HTTP: who comes gets a visit of one's own, rates, and sees its report.

Nothing here is anybody's data, so that a visit needs no secret: its name is known to its visitor
alone, and the administrator's page of it is open. The app's own page shows the demo in a frame;
previews are begun on the administrator's page of a study.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette._utils import get_route_path
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from motion_app.errors import RequestError
from motion_app.settings import EVERY
from motion_app.study.answers import Study
from motion_app.study.demo import TrialVisit, TrialVisits
from motion_app.study.site.documents import asks_for_page, language_of
from motion_app.study.site.guard import Door

logger = logging.getLogger(__name__)
NAME = "~demo"  # no shell makes a folder of this name by accident, so no study has it
PREVIEW = "~preview"
REPORT = "report"
OVER = "this visit is over; open it again for another one"
NO_FRAME = "frame-ancestors 'none'"

BuildSite = Callable[[Study, Door], FastAPI]


class OpenDoor(Door):
    """Lets everybody in."""

    def __init__(self) -> None:
        super().__init__(secrets.token_hex(16))

    def admits(self, cookie: str) -> bool:
        """Always."""
        return True


class TrialHall:
    """``/NAME/…`` is the study of a visit, ``/NAME/report`` its results."""

    def __init__(self, visits: TrialVisits, build: BuildSite) -> None:
        self.visits, self._build = visits, build
        self._sites: dict[str, FastAPI] = {}
        self._lock = threading.Lock()

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, *, root: str, rest: str
    ) -> bool:
        """Answer, unless ``rest``, the path below ``root``, names no visit: then False."""
        request = Request(scope)
        name, _, inside = rest.partition("/")
        found = await run_in_threadpool(self._find, name) if name else None
        if found is None:
            return False
        visit, site = found
        if inside == REPORT:
            response = await run_in_threadpool(self._report, request, f"{root}/{name}", visit)
            await response(scope, receive, send)
        else:
            below = {"root_path": f"{root}/{name}", "app_root_path": root}
            await site({**scope, **below}, receive, send)
        return True

    def begin(self, request: Request, root: str, *, inside: str = "") -> Response:
        """The way into a new visit below ``root``: to its rater's page, or to ``inside``."""
        try:
            name = self.visits.begin()
        except (OSError, RequestError) as error:
            logger.error("a trial cannot be opened: %s", error)
            return JSONResponse({"error": "this cannot be opened now; come back later"}, 503)
        visit = self.visits.find(name)
        if visit is None:  # so many came meanwhile
            return JSONResponse({"error": "too many try it now; come back later"}, 503)
        return _to(f"{root}/{name}/" + (inside or f"r/{visit.token}"), request)

    def _find(self, name: str) -> tuple[TrialVisit, FastAPI] | None:
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

    def _report(self, request: Request, home: str, visit: TrialVisit) -> Response:
        if not visit.finished:
            return _to(f"{home}/r/{visit.token}", request)
        visit.unblind()
        return _to(f"{home}/admin/", request, "#results")


class DemoHall:
    """The demo: ``/`` begins a visit, for everybody. ``frames``: the sites that may show the app in
    a frame."""

    def __init__(
        self, visits: TrialVisits, build: BuildSite, *, frames: Sequence[str] = ()
    ) -> None:
        self.hall = TrialHall(visits, build)
        sources = ["*"] if EVERY in frames else ["'self'", *frames]
        self._policy = f"frame-ancestors {' '.join(sources)}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send, rest: str) -> None:
        """``rest``: the path below the demo."""
        request, framed = Request(scope), self._framed(send)
        root = scope.get("root_path", "").rstrip("/") + f"/{NAME}"
        if await self.hall.serve(scope, receive, framed, root=root, rest=rest):
            return
        if not rest or asks_for_page(request):  # one that is over begins anew
            response = await run_in_threadpool(self.hall.begin, request, root)
        else:
            response = JSONResponse({"error": OVER}, 404)
        await response(scope, receive, framed)

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


class PreviewHall:
    """Previews of one study; those that are over are not there. An ASGI application."""

    def __init__(self, visits: TrialVisits, build: BuildSite) -> None:
        self.hall = TrialHall(visits, build)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root, rest = scope["root_path"].rstrip("/"), get_route_path(scope).lstrip("/")
        if not await self.hall.serve(scope, receive, send, root=root, rest=rest):
            raise HTTPException(404, OVER)


def _to(path: str, request: Request, ending: str = "") -> Response:
    query = urlencode({"lang": language_of(request)})
    return RedirectResponse(f"{path}?{query}{ending}", status_code=303)
