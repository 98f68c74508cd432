"""Who a call comes from: the browser's own token, what is kept for a browser tab, and who that is
for the library of motions. No gradio here."""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Mapping
from typing import Any, Self

from motion_app.library.owners import ADDRESS, LibraryUser, token_of
from motion_app.settings import Settings
from motion_app.study.site.address import visitor_network

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "x-forwarded-host")
TOKEN = re.compile("[0-9a-f]{32}")  # 128 random bits


class BrowserState:
    """What is kept for one browser tab between its calls, in a ``gr.State``. Where it holds much,
    ``held_bytes`` says how much, and it can ``rest``."""

    held_bytes = 0
    resting_bytes = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """gr.State copies its first value for every browser: each begins with nothing."""
        return type(self)()

    def rest(self) -> None:
        """Let go of the memory until the next call asks for it."""

    def drop(self) -> None:
        """Let go of what rests."""


class PageVisit(BrowserState):
    """Of one browser tab. ``owner``: the browser's own random token, by which its jobs are found
    again; ``tab`` the same of the tab, which a reload does not change; ``user``: who that is for
    the library."""

    def __init__(self) -> None:
        self.owner, self.tab = secrets.token_hex(16), secrets.token_hex(16)
        self.user = LibraryUser(self.owner)

    def enter(self, token: object, tab: object = None) -> str:
        """The token: the one that the browser kept, or the new one where it kept none. ``tab``: the
        tab's own."""
        if isinstance(token, str) and TOKEN.fullmatch(token):
            self.owner = token
            self.user = LibraryUser(token)
        if isinstance(tab, str) and TOKEN.fullmatch(tab):
            self.tab = tab
        return self.owner


def address_of(request: Any) -> str:
    """The address a call comes from, "" for none: of IPv6 the network, of which one visitor has
    all. ``request``: gradio's or Starlette's, None for none. Behind a proxy that is believed it is
    the visitor's own, as the server was told."""
    host = str(getattr(getattr(request, "client", None), "host", "") or "")
    return visitor_network(host)


def client_of(request: Any) -> str:
    """The owner of a program's jobs. ``request``: gradio's, None for none. Quotas count for each
    client's session; whoever has none shares one with their address."""
    if request is not None and request.session_hash:
        return f"api:{request.session_hash}"
    return ADDRESS + (request.client.host if request is not None else "")


def client_user(request: Any, settings: Settings) -> LibraryUser:
    """A client as a user of the library: known by its session; one without is nobody in
    particular."""
    return library_user(token_of(client_of(request)), request, settings)


def library_user(owner: str, request: Any, settings: Settings) -> LibraryUser:
    """The user with the token ``owner``. ``request``: gradio's, None for none.

    At this machine sits who comes from its own address by its own name to a server that is open to
    nobody else, where ``settings.single_user`` does not say otherwise.
    """
    if request is None or not settings.single_user or not _loopback(settings.host):
        return LibraryUser(owner, address=address_of(request))
    headers = {name.lower(): value for name, value in dict(request.headers).items()}
    address = getattr(request.client, "host", "") or ""
    local = _loopback(address) and _named_locally(headers)
    if local and not any(name in headers for name in FORWARDED):
        return LibraryUser(owner, local=True)
    return LibraryUser(owner, address=address_of(request))


def quota_address(request: Any, settings: Settings) -> str:
    """The address that a quota counts for; "" for who sits at this machine."""
    return library_user("", request, settings).address


def _named_locally(headers: Mapping[str, str]) -> bool:
    """By another name a page of a stranger's site may have been pointed here."""
    host = headers.get("host", "")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return _loopback(name.strip("[]"))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
