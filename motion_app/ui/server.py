"""The page served: what stands before gradio's routes, its API as MCP tools.

Everything is in place before the first request: what gradio lets be given is given to ``launch``,
and the rest is put in while its server starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi.exceptions import RequestValidationError
from gradio.mcp import GradioMCPServer
from gradio.route_utils import FnIndexInferError
from gradio_client import Client
from starlette.middleware import Middleware

from motion_app.errors import MediaError
from motion_app.settings import Settings
from motion_app.study.site.address import PublicAddress, WholePath
from motion_app.ui.access import Access, Entrance, Login
from motion_app.ui.bodies import BodyLimit
from motion_app.ui.boundary import (
    FrontPage,
    GuardedBlocks,
    misnamed,
    refuse_addresses,
    unknown,
    unreadable,
)
from motion_app.ui.launch import UploadFolder
from motion_app.ui.sessions import FairQueue, Sessions

FUNCTION_CALLS = 8  # of one of the page's functions at a time


class McpTools(GradioMCPServer):
    """gradio's MCP server, whose files are ``data:`` addresses alone: it would read what a caller
    names from this machine's disk, and fetch what is an address. Its calls to the app itself are
    those of somebody who is logged in, which who calls MCP must be."""

    login: Login | None = None
    _client_instance: Client | None

    def convert_strings_to_filedata(self, value: Any, filedata_positions: Any) -> Any:
        """A tool's arguments; MediaError where one is a file that is not in itself."""
        refuse_addresses(value)
        _refuse_paths(value)
        return super().convert_strings_to_filedata(value, filedata_positions)

    def _get_or_create_client(self) -> Client:
        if self._client_instance is None:
            headers = {"x-gradio-user": "mcp"}
            if self.login is not None:
                headers["cookie"] = self.login.cookie(self.blocks.server_app)
            self._client_instance = Client(
                self.local_url,
                download_files=False,
                verbose=False,
                analytics_enabled=False,
                _skip_components=False,
                headers=headers,
            )
        return self._client_instance


def _refuse_paths(value: Any) -> None:
    waiting = [value]
    while waiting:
        now = waiting.pop()
        if isinstance(now, dict):
            if "path" in now and "meta" in now:
                raise MediaError("over MCP a file comes as a data: URI; paths are not read")
            waiting.extend(now.values())
        elif isinstance(now, (list, tuple)):
            waiting.extend(now)


class Serving:
    """What a page is launched with. ``app_kwargs`` are for ``launch``."""

    def __init__(
        self,
        page: GuardedBlocks,
        settings: Settings,
        uploads: UploadFolder,
        *,
        public: PublicAddress,
        login: Login | None = None,
        mcp: bool = False,
    ) -> None:
        self.page, self.settings, self.public = page, settings, public
        self.sessions = Sessions(settings.limits)
        if mcp:
            page.mcp_server_obj = McpTools(page)
            page.mcp_server_obj.login = login
            page.mcp_server = True
        page.use_queue(FairQueue(page, settings.limits, calls_of_one_function=FUNCTION_CALLS))
        self.app_kwargs: dict[str, Any] = {
            "lifespan": self._lifespan,
            "middleware": [
                Middleware(WholePath, path=public.path),
                Middleware(Entrance, login=login, public=public),
                Middleware(FrontPage),
                Middleware(BodyLimit, limits=settings.limits, heard=uploads.heard),
            ],
            "exception_handlers": {
                FnIndexInferError: unknown,
                KeyError: unknown,
                RequestValidationError: unreadable,
                TypeError: misnamed,
            },
        }

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        """While the server runs. gradio's rule for other origins stands before all middleware that
        it lets be added: ``Access`` has to stand before that."""
        app.middleware_stack = Access(app.middleware_stack, self.settings, self.public)
        self.sessions.set_blocks(self.page)
        app.state_holder = self.sessions
        self.sessions.start()
        tools = self.page.mcp_server_obj
        try:
            async with contextlib.AsyncExitStack() as stack:
                if tools is not None:
                    await stack.enter_async_context(tools.lifespan(app))
                yield
        finally:
            self.sessions.stop()
