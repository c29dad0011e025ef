"""Scripts that are sent to Redis together: each has its own answer."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_ws.errors import LogClosed, LogFailed, LogUnavailable
from langgraph_ws.log.redis_cluster import close_quietly
from langgraph_ws.log.redis_server import Server
from tests.servers import RedisServer, redis_server

ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
FAIL = "return redis.error_reply('on purpose')"


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
async def server(redis: RedisServer) -> AsyncIterator[Server]:
    made = Server(redis.url, 1.0, 10)
    yield made
    await made.close()


async def commands(redis: RedisServer) -> dict[str, int]:
    """What Redis has been asked so far: connections and scripts."""
    async with Redis.from_url(redis.url) as client:
        connections = (await client.info("stats"))["total_connections_received"]
        scripts = (await client.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})
    return {"connections": connections, "scripts": scripts["calls"]}


async def test_scripts_that_come_together_share_a_connection(
    redis: RedisServer, server: Server
) -> None:
    await server.run(ADD, ["n"], 0)
    before = await commands(redis)
    answers = await asyncio.gather(*(server.run(ADD, ["n"], 1) for _ in range(200)))
    after = await commands(redis)
    assert answers == list(range(1, 201))
    assert after["scripts"] - before["scripts"] == 200
    assert after["connections"] - before["connections"] == 1  # the one that asks here


async def test_each_has_its_own_answer(server: Server) -> None:
    await server.run(ADD, ["n"], 0)
    with pytest.raises(LogFailed):
        await server.run(FAIL, ["n"])
    works = [asyncio.create_task(server.run(ADD, ["n"], 1)) for _ in range(3)]
    fails = asyncio.create_task(server.run(FAIL, ["n"]))
    gone = asyncio.create_task(server.run(ADD, ["n"], 1))
    await asyncio.sleep(0)
    gone.cancel()
    last = asyncio.create_task(server.run(ADD, ["n"], 0))
    assert sorted(await asyncio.gather(*works)) == [1, 2, 3]
    assert await last == 4  # what was cancelled had been sent
    with pytest.raises(LogFailed, match="on purpose"):
        await fails
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_scripts_that_redis_has_forgotten_are_loaded_again(
    redis: RedisServer, server: Server
) -> None:
    await server.run(ADD, ["n"], 0)
    async with Redis.from_url(redis.url) as client:
        await client.script_flush()
    answers = await asyncio.gather(*(server.run(ADD, ["n"], 1) for _ in range(5)))
    assert sorted(answers) == [1, 2, 3, 4, 5]


async def test_all_wait_for_a_redis_that_comes_back_and_fail_with_one_that_does_not(
    redis: RedisServer, server: Server
) -> None:
    await server.run(ADD, ["n"], 0)
    redis.kill()
    works = [asyncio.create_task(server.run(ADD, ["n"], 1)) for _ in range(5)]
    await asyncio.sleep(0.1)
    assert server.away_s > 0
    redis.start()
    assert sorted(await asyncio.gather(*works)) == [1, 2, 3, 4, 5]
    assert server.away_s == 0
    redis.kill()
    for failed in await asyncio.gather(
        *(server.run(ADD, ["n"], 1) for _ in range(5)), return_exceptions=True
    ):
        assert isinstance(failed, LogUnavailable)


async def test_connections_that_cannot_be_closed_are_no_error_of_who_calls(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_: bool) -> None:
        raise RedisTimeoutError("Timed out closing connection after 2.0")

    with monkeypatch.context() as patch:
        patch.setattr(server._link.redis.connection_pool, "disconnect", fail)
        with pytest.raises(LogUnavailable, match="on purpose"):
            await server.run("return redis.error_reply('READONLY on purpose')", ["n"])


async def test_what_redis_says_too_late_is_nobodys_answer(
    redis: RedisServer, server: Server
) -> None:
    await server.run(ADD, ["n"], 0)
    redis.signal(signal.SIGSTOP)
    tasks = [asyncio.create_task(server.run(ADD, [f"late-{n}"], 100)) for n in range(3)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [LogUnavailable] * 3
    redis.signal(signal.SIGCONT)
    assert [await server.run(ADD, ["n"], 1) for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_a_slow_redis_is_waited_for_as_long_as_it_goes_on() -> None:
    done = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal done
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            if words[0] == b"EVALSHA":
                await asyncio.sleep(0.05)
                done += 1
            writer.write(b":%d\r\n" % done if words[0] == b"EVALSHA" else b"+OK\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as slow:
        server = Server(f"redis://127.0.0.1:{slow.sockets[0].getsockname()[1]}", 4.0, 10)
        answers = await asyncio.gather(*(server.run(ADD, ["n"], 1) for _ in range(60)))
        assert answers == list(range(1, 61)), "each was asked for once, though all took 3 s"
        await server.close()


async def test_all_are_answered_though_what_sends_is_cancelled(server: Server) -> None:
    get = "return ARGV[1]"
    for steps in (0, 1, 3):
        works = [asyncio.create_task(server.run(get, ["n"], n)) for n in range(70)]
        await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        sender = server._link._sender
        assert sender is not None
        sender.cancel()
        async with asyncio.timeout(5):
            assert await asyncio.gather(*works) == [b"%d" % n for n in range(70)]


async def test_what_was_begun_is_done_before_the_connections_go(redis: RedisServer) -> None:
    server = Server(redis.url, 1.0, 10)
    await server.run(ADD, ["n"], 0)
    work = asyncio.create_task(server.run(ADD, ["n"], 1))
    await asyncio.sleep(0)
    await server.close()
    assert await work == 1


async def test_who_lets_go_of_the_connections_makes_no_others(server: Server) -> None:
    await server.ping("n")
    await server.close()
    with pytest.raises(LogClosed):
        await server.ping("n")
    with pytest.raises(LogClosed):
        await server.run(ADD, ["n"], 1)


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_is_closed_however_soon_that_is_cancelled(
    server: Server, turns: int
) -> None:
    reader = await server.blocking("key", 1.0)
    connection = reader.connection
    closing = asyncio.create_task(close_quietly(reader))
    for _ in range(turns):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert connection is not None
    assert connection.is_connected is (turns == 0)  # it had not begun
    await close_quietly(reader)
