"""Where people's browsers find the app, when a proxy stands between: below which path, under which
name, and what of it is believed."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motion_app.errors import RequestError

PATH = re.compile(r"(/[\w.~!$&'()*+=:@-]+)*", re.ASCII)
ORIGIN = re.compile(r"https?://[^/\s@?#]+")
PORT_FAULTS = {
    errno.EADDRINUSE: "the port {port} is used by another program; choose another with --port",
    errno.EACCES: "the port {port} may not be opened by this user; choose one above 1023 "
    "with --port",
    errno.EADDRNOTAVAIL: "this machine has no address {host}; check --host",
}
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
# Of a Space's proxy, and of no visitor's: what the last of them has added to the way is believed.
PRIVATE_NETWORKS = "127.0.0.1,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"
PROXIES = "FORWARDED_ALLOW_IPS"  # as uvicorn calls it, which believes X-Forwarded-Proto and -For


@dataclass(frozen=True)
class PublicAddress:
    """``path``: what all addresses begin with, "/motion", or "" for none; ``origin``:
    "https://lab.example", or "" where the request's own Host is the public one."""

    path: str = ""
    origin: str = ""

    @classmethod
    def parse(cls, text: str) -> PublicAddress:
        """Of "/motion" or "https://lab.example/motion". RequestError for anything else."""
        whole = text.strip().rstrip("/")
        found = ORIGIN.match(whole)
        origin = found[0].lower() if found else ""
        path = whole[len(origin) :]
        if PATH.fullmatch(path) is None or ".." in path.split("/"):
            raise RequestError(
                f'the root path is "/motion" or "https://lab.example/motion", got "{text[:80]}"'
            )
        return cls(path, origin)

    def __str__(self) -> str:
        return self.origin + self.path


IPV6_OF_ONE = 64  # bits of an IPv6 address that name a household, of which one visitor has all
DIRECT = PublicAddress()  # no proxy, or one that changes neither path nor Host


@dataclass(frozen=True)
class TrustedProxies:
    """The addresses and networks of proxies that are believed; ``everyone`` for "*"."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    everyone: bool = False

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> TrustedProxies:
        """From ``FORWARDED_ALLOW_IPS``, with commas between; 127.0.0.1 where it is not set. Words
        that are no addresses trust nobody."""
        parts = [part.strip() for part in environment.get(PROXIES, "127.0.0.1").split(",")]
        networks = []
        for part in parts:
            try:
                networks.append(ipaddress.ip_network(part))
            except ValueError:
                continue
        return cls(tuple(networks), everyone=parts == ["*"])

    def sent(self, scope: Scope) -> bool:
        """Whether a request came from one of them."""
        if self.everyone:
            return True
        host, port = scope.get("client") or ("", None)
        if port == 0:  # no connection has it: uvicorn put the caller there, believing who passed it
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self.networks)


def believe_private_networks(environment: MutableMapping[str, str] = os.environ) -> None:
    """Where nothing is said of proxies, those of private networks are believed."""
    environment.setdefault(PROXIES, PRIVATE_NETWORKS)


def visitor_network(address: str) -> str:
    """What a visitor's ``address`` is counted by: of IPv6 the network; of what is no address, as a
    server's own name for a caller, itself."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return address
    if number.version == 4:
        return address
    return str(ipaddress.ip_network((number, IPV6_OF_ONE), strict=False))


def same_origin(scope: Scope, public: PublicAddress, proxies: TrustedProxies) -> bool:
    """Whether a request's ``Origin`` is this server's: the public one that was set, the ``Host``,
    or the ``X-Forwarded-Host`` of a proxy that is believed. True without an ``Origin``."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is None:
        return True
    if public.origin and origin.lower() == public.origin:
        return True
    parts = urlsplit(origin.lower())
    hosts = {headers.get("host", "").lower()}
    if proxies.sent(scope):
        hosts.add(headers.get("x-forwarded-host", "").partition(",")[0].strip().lower())
    port = DEFAULT_PORTS.get(parts.scheme, "")
    return bool(parts.netloc) and parts.netloc in {host.removesuffix(port) for host in hosts}


class WholePath:
    """Gives an application the path that the browser asked for, below its ``root_path``, whether
    the proxy has taken the prefix off or not, and sends redirections to it without a host: the one
    a proxy called may not be the one the browser did.

    ``path`` is the prefix where the server knows of none.
    """

    def __init__(self, app: ASGIApp, path: str = "") -> None:
        self.app, self.path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = scope.get("root_path", "")
        root, outer = _path_of(given), _path_of(scope.get("app_root_path", given))
        if not root:
            root = outer = self.path
        path = scope["path"]
        if not _is_below(path, root):
            whole = outer + path  # mounts have been counted in the path, the proxy's prefix not
            path = whole if _is_below(whole, root) else root + path
        own = _own_origin(scope)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                target = headers.get("location", "")
                if own and target.startswith(f"{own}/"):
                    headers["location"] = target.removeprefix(own)
            await send(message)

        changed = {"path": path, "root_path": root, "app_root_path": outer}
        await self.app({**scope, **changed}, receive, send_on)


def _path_of(root: str) -> str:
    """gradio puts a whole address where a path is meant."""
    return (urlsplit(root).path if "://" in root else root).rstrip("/")


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def _own_origin(scope: Scope) -> str:
    host = Headers(scope=scope).get("host", "")
    return f"{scope.get('scheme', 'http')}://{host}" if host else ""


def listener(host: str, port: int) -> socket.socket:
    """A socket bound to ``port`` of ``host``, not listening yet; 0 takes any. RequestError where it
    cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise RequestError(f"there is no address {host}: {error.strerror}; check --host") from (
            error
        )
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        words = PORT_FAULTS.get(
            error.errno or 0, "the port {port} of {host} cannot be opened: {why}"
        )
        raise RequestError(words.format(port=port, host=host, why=error.strerror)) from error
    return bound
