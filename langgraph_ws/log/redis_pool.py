"""Where Redis is: connections to an address, to the master that sentinels name, or to a node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Redis, Sentinel
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff

from langgraph_ws.errors import ConfigurationError

__all__ = ["COMMAND_S", "Address", "Node"]

Node = tuple[str, int]
"""Host and port of a node of a cluster."""

COMMAND_S = 2.0
"""How long Redis may take for one command; a frozen one is noticed then."""
_PORT = 6_379
_SENTINEL_PORT = 26_379
_SENTINELS = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?P<user>[^@/?]*@)?(?P<hosts>[^/?@]+)/(?P<name>[^/?]+)"
    r"(?P<db>/\d*)?(\?(?P<query>.*))?"
)
_EXPECTED = "expected redis+sentinel://[user:password@]host[:port],host[:port]…/name[/db][?…]"
_CLUSTER = re.compile(
    r"(?P<scheme>rediss?)\+cluster://(?P<user>[^@/?]*@)?(?P<hosts>[^/?@]+)"
    r"(?P<db>/\d*)?(\?(?P<query>.*))?"
)
_EXPECTED_CLUSTER = "expected redis+cluster://[user:password@]host[:port],host[:port]…[?…]"


class Address:
    """Where Redis is.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py takes it; or `redis+sentinel://` or
            `rediss+sentinel://`, with the sentinels, the name of the master, and its database; or
            `redis+cluster://` or `rediss+cluster://`, with some nodes of a cluster.

    Attributes:
        nodes: The nodes that are named of a cluster; none: it is no cluster.

    Raises:
        ConfigurationError: The URL is none.
    """

    def __init__(self, url: str) -> None:
        self.nodes: tuple[Node, ...] = ()
        self._url = url
        self._sentinel: Sentinel | None = None
        self._named: Mapping[str, Any] = {}
        scheme = url.partition("://")[0]
        try:
            if scheme.endswith("+sentinel"):
                self._named = self._ask_sentinels(url)
            elif scheme.endswith("+cluster"):
                self._named = self._know_nodes(url)
            else:
                parse_url(url)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"url: {error}") from None

    def client(self, connections: int, timeout: float, node: Node | None = None) -> Redis:
        """A client with a pool of its own, which closes with it.

        Args:
            connections: How many it may have at once; who needs one more waits for it.
            timeout: Seconds that a command may take.
            node: To which node of a cluster.
        """
        return Redis.from_pool(self._pool(connections, timeout, node))

    def reader(self, timeout: float, node: Node | None = None) -> Redis:
        """A client of one connection, whose loss is an error and never mended without a word.

        Args:
            timeout: Seconds that a command may take.
            node: To which node of a cluster.
        """
        pool = self._pool(1, timeout, node)
        pool.connection_kwargs["socket_timeout"] = timeout  # whatever the URL says of commands
        reader = Redis(connection_pool=pool, single_connection_client=True)
        reader.auto_close_connection_pool = True
        return reader

    def _pool(self, connections: int, timeout: float, node: Node | None) -> BlockingConnectionPool:
        options = _options(timeout) | {"max_connections": connections, "timeout": COMMAND_S}
        if node is not None:
            host, port = node
            pool = BlockingConnectionPool(**{**options, **self._named, "host": host, "port": port})
        elif self._sentinel is None:
            pool = BlockingConnectionPool.from_url(self._url, **options)
        else:
            pool = _SentinelPool(**{**options, **self._named})
        pool.connection_class = _packing(pool.connection_class)
        pool.connection_kwargs["protocol"] = 2  # whatever the URL says: 3 has other replies
        return pool

    async def close(self) -> None:
        """Let go of the connections to the sentinels."""
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()

    def _ask_sentinels(self, url: str) -> dict[str, Any]:
        """Know the sentinels; what a pool of connections to their master takes."""
        found = _SENTINELS.fullmatch(url)
        if found is None:
            raise ValueError(_EXPECTED)
        query = dict(parse_qsl(found["query"] or ""))
        theirs = {
            name.removeprefix("sentinel_"): query.pop(name)
            for name in ("sentinel_username", "sentinel_password")
            if name in query
        }
        about = f"{found['scheme']}://{found['user'] or ''}master{found['db'] or ''}"
        options: dict[str, Any] = {**parse_url(f"{about}?{urlencode(query)}")}
        del options["host"]
        secure = options.pop("connection_class", None) is not None
        tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            [_host(host, _SENTINEL_PORT, _EXPECTED) for host in found["hosts"].split(",")],
            sentinel_kwargs=_options(COMMAND_S) | theirs | ({"ssl": True} | tls if secure else {}),
        )
        return options | {
            "service_name": unquote(found["name"]),
            "sentinel_manager": self._sentinel,
            "connection_class": (
                SentinelManagedSSLConnection if secure else SentinelManagedConnection
            ),
        }

    def _know_nodes(self, url: str) -> dict[str, Any]:
        """Know some nodes of a cluster; what a pool of connections to any of them takes."""
        found = _CLUSTER.fullmatch(url)
        if found is None:
            raise ValueError(_EXPECTED_CLUSTER)
        hosts = found["hosts"].split(",")
        self.nodes = tuple(_host(host, _PORT, _EXPECTED_CLUSTER) for host in hosts)
        about = f"{found['scheme']}://{found['user'] or ''}node{found['db'] or ''}"
        options: dict[str, Any] = {**parse_url(f"{about}?{found['query'] or ''}")}
        if options.get("db"):
            raise ValueError(f"a cluster has database 0 only, got {options['db']!r}")
        pool: Any = BlockingConnectionPool(**options)
        pool.make_connection()  # refuses what it does not know
        return options


class _SentinelPool(BlockingConnectionPool, SentinelConnectionPool):
    """Connections to the master that sentinels name; who needs one more waits for it."""


def _host(text: str, port: int, expected: str) -> Node:
    """A host, and its port or the usual one."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(expected)
    return parts.hostname, parts.port or port


def _options(timeout: float) -> dict[str, Any]:
    """redis-py's own retries (ten of them, silent) would outlast any limit (redis-py 8.1)."""
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": COMMAND_S,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }


def _packing(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Connections of a kind whose commands are packed by hiredis.

    The asyncio side of redis-py (8.1) has hiredis read, but packs argument by argument in Python,
    which took four times as long for a script with its keys.
    """

    class Packing(kind):  # type: ignore[misc,valid-type]
        def pack_command(self, *args: Any) -> list[bytes]:
            name, *arguments = args
            return [pack_command((*name.encode().split(), *arguments))]

    return Packing
