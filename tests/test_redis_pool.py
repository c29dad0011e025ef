"""Where Redis is: addresses that are understood, those that are not, and sentinels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from langgraph_ws.errors import ConfigurationError
from langgraph_ws.log.redis_pool import Address
from tests.servers import redis_server, sentinel_group


@asynccontextmanager
async def connected(url: str, connections: int = 1) -> AsyncIterator[Redis]:
    address = Address(url)
    try:
        async with address.client(connections, 2.0) as client:
            yield client
    finally:
        await address.close()


def pool(url: str) -> Any:
    return Address(url).client(3, 1.0).connection_pool


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis://localhost:port",
        "redis+sentinel://localhost",
        "redis+sentinel://localhost/",
        "redis+sentinel:///chat",
        "redis+sentinel://:26379/chat",
        "redis+sentinel://a,,b/chat",
        "redis+sentinel://a:x/chat",
        "redis+sentinel://a/chat/one",
        "http+sentinel://a/chat",
        "redis+sentinel://u:p@a,u:p@b/chat",
        "redis+sentinel://:s@t@a/chat",
        "rediss+sentinel://a/chat?ssl_nothing=1",
        "redis+sentinel://a/chat?db=one",
        "redis+cluster://",
        "redis+cluster://:7000",
        "redis+cluster://a,,b",
        "redis+cluster://a:x",
        "redis+cluster://a/1",
        "redis+cluster://a/name",
        "redis+cluster://a?db=2",
        "redis+cluster://u:p@a,u:p@b",
        "rediss+cluster://a?ssl_nothing=1",
        "redis+cluster://a?socket_timeout=x",
        "http+cluster://a",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url: "):
        Address(url)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis+sentinel://a/chat", {}),
        ("redis+sentinel://a/chat/3", {"db": 3}),
        ("redis+sentinel://a/chat?db=3&client_name=me", {"db": 3, "client_name": "me"}),
        ("redis+sentinel://me:s%40t@a/chat", {"username": "me", "password": "s@t"}),
        ("redis+sentinel://:s@a/chat", {"password": "s"}),
        ("redis+sentinel://a/chat?socket_timeout=9&health_check_interval=5", {"socket_timeout": 9}),
    ],
)
def test_what_sentinels_do_not_say_of_the_master(url: str, options: dict[str, Any]) -> None:
    made = pool(url)
    names = ("db", "client_name", "username", "password", "host", "socket_timeout")
    told = {it: made.connection_kwargs[it] for it in names if it in made.connection_kwargs}
    assert told == {"socket_timeout": 1.0} | options
    assert made.max_connections == 3
    assert made.service_name == "chat"


@pytest.mark.parametrize(
    ("url", "nodes", "options"),
    [
        ("redis+cluster://a", [("a", 6379)], {}),
        ("redis+cluster://a/", [("a", 6379)], {}),
        ("redis+cluster://a/0?db=0", [("a", 6379)], {"db": 0}),
        ("redis+cluster://a,b:7,[::1]:8", [("a", 6379), ("b", 7), ("::1", 8)], {}),
        ("redis+cluster://me:s%40t@a", [("a", 6379)], {"username": "me", "password": "s@t"}),
        ("redis+cluster://:s@a?client_name=me", [("a", 6379)], {"client_name": "me"}),
        ("rediss+cluster://a?ssl_ca_certs=ours.pem", [("a", 6379)], {"ssl_ca_certs": "ours.pem"}),
        ("redis+cluster://a?socket_timeout=9", [("a", 6379)], {"socket_timeout": 9}),
    ],
)
def test_the_nodes_of_a_cluster(
    url: str, nodes: list[tuple[str, int]], options: dict[str, Any]
) -> None:
    address = Address(url)
    made = address.client(3, 1.0, ("c", 9)).connection_pool
    assert list(address.nodes) == nodes
    told = made.connection_kwargs
    assert told | {"socket_timeout": 1.0, "host": "c", "port": 9} | options == told
    assert getattr(made, "max_connections") == 3  # noqa: B009
    is_secure = any("SSL" in kind.__name__ for kind in made.connection_class.__mro__)
    assert is_secure == url.startswith("rediss")
    reading = address.reader(4.0, ("c", 9)).connection_pool
    assert reading.connection_kwargs["socket_timeout"] == 4.0


def test_a_password_may_look_like_a_scheme() -> None:
    assert pool("redis://:x+sentinel:y@a/0").connection_kwargs["password"] == "x+sentinel:y"


def test_who_reads_may_wait_however_long_commands_may_take() -> None:
    for url in ("redis://a?socket_timeout=1", "redis+sentinel://a/chat?socket_timeout=1"):
        assert Address(url).reader(4.0).connection_pool.connection_kwargs["socket_timeout"] == 4.0


@pytest.mark.parametrize("scheme", ["redis://a", "redis+sentinel://a/chat", "redis+cluster://a"])
def test_replies_look_as_they_do_by_default(scheme: str) -> None:
    address = Address(f"{scheme}?protocol=3")
    made: Any = address.client(3, 1.0, ("a", 1) if address.nodes else None).connection_pool
    assert made.connection_kwargs["protocol"] == 2


def test_several_sentinels() -> None:
    made = pool("redis+sentinel://a,b:7,[::1]:8/a%20chat")
    assert made.service_name == "a chat"
    assert [
        (it.connection_pool.connection_kwargs["host"], it.connection_pool.connection_kwargs["port"])
        for it in made.sentinel_manager.sentinels
    ] == [("a", 26_379), ("b", 7), ("::1", 8)]


def test_what_sentinels_ask_for() -> None:
    url = "rediss+sentinel://:theirs@a/chat?sentinel_username=u&sentinel_password=p"
    made = pool(f"{url}&ssl_ca_certs=ours.pem")
    [sentinel] = made.sentinel_manager.sentinels
    asked = sentinel.connection_pool.connection_kwargs
    assert (asked["username"], asked["password"], asked["ssl_ca_certs"]) == ("u", "p", "ours.pem")
    assert made.connection_kwargs["password"] == "theirs"
    assert made.connection_kwargs["ssl_ca_certs"] == "ours.pem"
    for each in (made, sentinel.connection_pool):
        assert any("SSL" in kind.__name__ for kind in each.connection_class.__mro__)


async def test_who_needs_one_more_connection_waits_for_it(tmp_path: Path) -> None:
    with sentinel_group(tmp_path) as group:
        async with connected(group.url, 2) as client, Redis.from_url(group.master.url) as master:
            before = (await master.info("stats"))["total_connections_received"]
            await asyncio.gather(*(client.incr("n") for _ in range(50)))
            assert await client.get("n") == b"50"
            after = (await master.info("stats"))["total_connections_received"]
    assert after - before <= 4  # two of ours, and what the sentinel may have made meanwhile


@pytest.mark.parametrize("options", ["", "?protocol=2"])
async def test_the_one_who_reads_is_told_when_another_redis_may_answer(
    tmp_path: Path, options: str
) -> None:
    with redis_server(tmp_path) as redis:
        address = Address(redis.url + options)
        async with address.reader(2.0) as reader:
            await reader.set("n", 1)
            redis.kill()
            await asyncio.to_thread(redis.start)
            with pytest.raises(RedisConnectionError):
                await reader.get("n")
        await address.close()


async def test_the_one_who_reads_is_told_of_another_master(tmp_path: Path) -> None:
    with sentinel_group(tmp_path) as group:
        address = Address(group.url)
        async with address.reader(2.0) as reader:
            await reader.set("n", 1)
            await asyncio.to_thread(group.fail_over)
            with pytest.raises(RedisConnectionError):
                await reader.get("n")
        await address.close()


async def test_a_secret_of_the_sentinels(tmp_path: Path) -> None:
    with sentinel_group(tmp_path, "s3") as group:
        async with connected(f"{group.url}?sentinel_password=s3") as client:
            assert await client.get("n") is None
        async with connected(group.url) as client:
            with pytest.raises(RedisConnectionError):
                await client.get("n")


async def test_commands_are_packed_as_redis_takes_them(tmp_path: Path) -> None:
    values = [b"\x00\xff", "€", 12, 0.5, b"x" * 70_000]
    with redis_server(tmp_path) as redis:
        async with connected(redis.url) as client:
            await client.config_set("lfu-log-factor", 7)  # a command of two words, and a number
            assert await client.config_get("lfu-log-factor") == {"lfu-log-factor": "7"}
            for value in values:
                await cast("Any", client).rpush("l", value)
            kept = await cast("Any", client).lrange("l", 0, -1)
    assert kept == [b"\x00\xff", "€".encode(), b"12", b"0.5", b"x" * 70_000]
