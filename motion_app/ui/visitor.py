"""Who a request comes from, as far as the library of motions asks. No gradio here."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from motion_app.library.library import LibraryUser
from motion_app.settings import Settings

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "x-forwarded-host")


def visitor_of(owner: str, request: Any, settings: Settings) -> LibraryUser:
    """The visitor with the token ``owner``. ``request``: gradio's, None for none.

    At this machine sits who comes from its own address by its own name to a server that is open to
    nobody else, where ``settings.single_user`` does not say otherwise.
    """
    if request is None or not settings.single_user or not _loopback(settings.host):
        return LibraryUser(owner)
    headers = {name.lower(): value for name, value in dict(request.headers).items()}
    address = getattr(request.client, "host", "") or ""
    local = _loopback(address) and _named_locally(headers)
    return LibraryUser(owner, local=local and not any(name in headers for name in FORWARDED))


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
