"""What is decided before a connection is upgraded: origin, subprotocol, identity, room."""

from __future__ import annotations

import inspect
import ipaddress
import logging
import re
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from aiohttp import web

from langgraph_ws.commands import ANONYMOUS, Identity
from langgraph_ws.errors import ConfigurationError

if TYPE_CHECKING:
    from langgraph_ws.limits import Limits
    from langgraph_ws.session import Session

__all__ = [
    "FORWARDED_HEADERS",
    "Authorize",
    "AuthorizeToken",
    "OriginCheck",
    "Place",
    "Places",
    "choose_session",
    "identify",
    "is_upgrade",
    "log_refused_secret",
    "require_upgrade",
]

logger = logging.getLogger(__name__)

Authorize = Callable[[web.Request], "Identity | Awaitable[Identity | None] | None"]
"""Who a request comes from; None: it carries no credentials."""
AuthorizeToken = Callable[[web.Request, str], "Identity | Awaitable[Identity | None] | None"]
"""Whose token this is; None: nobody's."""

FORWARDED_HEADERS = ("X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For")
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^\s/?#@,\\]+)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_SHOWN = 200


class Origin(NamedTuple):
    """Scheme, host and port, normalised so that equal origins are equal."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port; the port only where it is not that of the scheme."""
        port = "" if self.port in (None, _PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.host}{port}"


def parse_origin(text: str) -> Origin | None:
    """The origin that `scheme://host[:port]` names; None when the text is anything else."""
    match = _ORIGIN.fullmatch(text)
    return None if match is None else _origin(match[1], match[2])


def _origin(scheme: str, authority: str) -> Origin | None:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    scheme, host = scheme.lower(), match[1].lower()
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return None
    port = int(match[2]) if match[2] else _PORTS.get(scheme)
    return None if port is not None and port > 65_535 else Origin(scheme, host, port)


class OriginCheck:
    """Whether a page of the origin that a browser names may connect.

    Browsers send cookies along with a WebSocket from any page and ask nobody: without this check
    every page that a user visits could talk to the server in the user's name. A request without
    an origin comes from no browser.

    Args:
        allowed: Origins beside the server's own: `scheme://host[:port]`, `null`, or `*` for any.
        forwarded: The headers that the proxy in front is known to set.

    Raises:
        ConfigurationError: An entry is none of that.
    """

    def __init__(self, allowed: Collection[str], forwarded: Collection[str]) -> None:
        self._forwarded = _forwarded(forwarded)
        if isinstance(allowed, str):
            raise ConfigurationError(
                f"allowed_origins: expected a collection of origins, got the string {allowed!r}"
            )
        self._any = "*" in allowed
        self._null = "null" in allowed
        self._allowed = frozenset(
            _allowed(entry) for entry in allowed if entry not in ("*", "null")
        )

    def admits(self, request: web.Request) -> bool:
        """Whether this request may go on; a refusal is logged with what was compared."""
        values = request.headers.getall("Origin", [])
        if not values or self._any:
            return True
        own = self.own(request)
        if len(values) == 1:
            if values[0] == "null" and self._null:
                return True
            origin = parse_origin(values[0])
            if origin is not None and (origin == own or origin in self._allowed):
                return True
        self._log(request, ", ".join(values), own)
        return False

    def shared_with(self, request: web.Request) -> dict[str, str]:
        """The headers that let a page of another origin, which was admitted, read the answer.

        Only where origins are listed may it come with the user's cookies.
        """
        origin = request.headers.get("Origin")
        if origin is None:
            return {}
        if self._any:
            return {"Access-Control-Allow-Origin": "*"}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Vary": "Origin",
        }

    def address(self, request: web.Request) -> str | None:
        """Where the request comes from; None when it did not come over a network."""
        return self._header(request, "X-Forwarded-For") or request.remote

    def own(self, request: web.Request) -> Origin | None:
        """The server's own origin, as the browser knows it; None when the request has none."""
        scheme = self._header(request, "X-Forwarded-Proto") or request.scheme
        return _origin(scheme, self._header(request, "X-Forwarded-Host") or request.host)

    def _header(self, request: web.Request, name: str) -> str | None:
        """What the nearest proxy wrote, if this header is one that it is known to write."""
        if name not in self._forwarded:
            return None
        return ",".join(request.headers.getall(name, [])).rpartition(",")[2].strip() or None

    def _log(self, request: web.Request, origin: str, own: Origin | None) -> None:
        hint = "to let its pages connect, list it in allowed_origins"
        present = [
            name
            for name in FORWARDED_HEADERS[:2]
            if name in request.headers and name not in self._forwarded
        ]
        if present:
            names = " and ".join(present)
            hint += f"; if a proxy of yours sets {names}, list that in forwarded_headers"
        logger.warning(
            "refused a WebSocket from the origin %r: it is neither this server's own, %s, "
            "nor one of the %d in allowed_origins (%s)",
            origin[:_SHOWN],
            str(own)[:_SHOWN],
            len(self._allowed) + self._null,
            hint,
        )


def _allowed(entry: object) -> Origin:
    origin = parse_origin(entry) if isinstance(entry, str) else None
    if origin is None:
        raise ConfigurationError(
            f"allowed_origins: expected scheme://host[:port], 'null' or '*', got {entry!r}"
        )
    return origin


def _forwarded(names: Collection[str]) -> frozenset[str]:
    if isinstance(names, str) or not set(names) <= set(FORWARDED_HEADERS):
        raise ConfigurationError(
            f"forwarded_headers: expected some of {', '.join(FORWARDED_HEADERS)}, got {names!r}"
        )
    return frozenset(names)


def is_upgrade(request: web.Request) -> bool:
    """Whether a request is for a WebSocket."""
    upgrade = request.headers.get("Upgrade", "").strip().lower()
    connection = ",".join(request.headers.getall("Connection", [])).lower()
    return upgrade == "websocket" and "upgrade" in (part.strip() for part in connection.split(","))


def require_upgrade(request: web.Request) -> None:
    """Refuse a request that is not for a WebSocket.

    Raises:
        web.HTTPUpgradeRequired: It is not.
    """
    if not is_upgrade(request):
        raise web.HTTPUpgradeRequired(
            text="This is a WebSocket: connect to it with ws:// or wss://.\n",
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )


def choose_session(
    request: web.Request, served: Mapping[str, type[Session]]
) -> tuple[type[Session], str | None]:
    """The wire protocol of a connection, and the subprotocol to confirm.

    What was offered stays out of every log: some clients pass a token this way, and aiohttp logs
    all that is offered when nothing of it fits (web_ws.py, 3.14).

    Raises:
        web.HTTPBadRequest: Subprotocols are offered, but none that is served.
    """
    if not served:
        raise web.HTTPBadRequest(text="No protocol is served here, only below this path.\n")
    offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", []))
    if not offered.strip():
        return next(iter(served.values())), None
    names = {name: session for session in served.values() for name in session.subprotocols}
    for name in (part.strip() for part in offered.split(",")):
        if name in names:
            return names[name], name
    raise web.HTTPBadRequest(
        text=f"None of the subprotocols offered is served here: {', '.join(names)}.\n"
    )


async def identify(answer: Identity | Awaitable[Identity | None] | None) -> Identity | None:
    """What an authorizing function of the application says, be it asynchronous or not.

    Raises:
        TypeError: It says something else.
    """
    identity = await answer if inspect.isawaitable(answer) else answer
    if identity is not None and not isinstance(identity, Identity):
        raise TypeError(f"expected an Identity or None, got {type(identity).__name__}")
    if identity is None or identity is ANONYMOUS:
        return identity
    if not isinstance(identity.id, str) or not identity.id:
        # An empty id would silently put everybody together.
        raise TypeError("expected an Identity whose id is a string, and not empty")
    return identity


def log_refused_secret(what: str, error: BaseException) -> str:
    """Log a failure of code that handles secrets, and return the id it is logged under.

    The text of the error stays out: `USERS[token]` raises a `KeyError` whose text is the token.
    """
    error_id = uuid4().hex
    trace = "".join(traceback.format_tb(error.__traceback__))
    logger.error(
        "%s failed with %s (error %s); its text is left out, for it may hold a secret\n%s",
        what,
        type(error).__name__,
        error_id,
        trace,
    )
    return error_id


class Place:
    """The room that one connection takes."""

    __slots__ = ("_identity", "_places")

    def __init__(self, places: Places) -> None:
        self._places = places
        self._identity = ""

    def claim(self, identity: Identity) -> bool:
        """Count the connection as one of this identity; whether there is room for it."""
        if not self._identity and identity.id:
            if not self._places.enter(identity.id):
                return False
            self._identity = identity.id
        return True

    def leave(self) -> None:
        """Count it no longer."""
        if self._identity:
            self._places.exit(self._identity)
            self._identity = ""


class Places:
    """How many connections there are, those still in their handshake included."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._total = 0
        self._by_address: Counter[str] = Counter()
        self._by_identity: Counter[str] = Counter()

    @contextmanager
    def take(self, address: str | None) -> Iterator[Place]:
        """Room for one connection, as long as the block lasts.

        Raises:
            web.HTTPServiceUnavailable: There are too many.
            web.HTTPTooManyRequests: There are too many from this address.
        """
        if self._total >= self._limits.connections:
            raise web.HTTPServiceUnavailable(
                text="Too many connections.\n", headers={"Retry-After": "5"}
            )
        if address and self._by_address[address] >= self._limits.connections_per_address:
            raise web.HTTPTooManyRequests(text="Too many connections from your address.\n")
        self._total += 1
        if address:
            self._by_address[address] += 1
        place = Place(self)
        try:
            yield place
        finally:
            place.leave()
            self._total -= 1
            if address:
                _less(self._by_address, address)

    def enter(self, identity: str) -> bool:
        """One more connection of an identity; whether there is room for it."""
        if self._by_identity[identity] >= self._limits.connections_per_identity:
            return False
        self._by_identity[identity] += 1
        return True

    def exit(self, identity: str) -> None:
        """One connection less of an identity."""
        _less(self._by_identity, identity)


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
