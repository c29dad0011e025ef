"""The log in a Redis Cluster: the common suite, slots that move, and nodes that are gone."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import pytest
from redis.asyncio import Redis
from redis.exceptions import MovedError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_ws.errors import LogClosed, LogFailed, LogUnavailable
from langgraph_ws.frames import Custom
from langgraph_ws.log import Retention, ThreadLog
from langgraph_ws.log.redis import RedisThreadLog
from langgraph_ws.log.redis_cluster import slot_of
from langgraph_ws.log.redis_server import Server
from tests.log_suite import (
    ALL,
    Clock,
    ThreadLogSuite,
    Wakes,
    delta,
    frames_of,
    read_all,
    seqs,
    started,
)
from tests.servers import (
    RedisCluster,
    RedisServer,
    free_port,
    redis_cluster,
    redis_server,
    tell,
)
from tests.test_registry import Keeper, ticket

ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
_prefixes = count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="class")
def url_of_suite(request: pytest.FixtureRequest, cluster: RedisCluster) -> None:
    request.cls.cluster = cluster


@pytest.mark.usefixtures("url_of_suite")
class TestSuite(ThreadLogSuite):
    """The common suite over the log in a cluster."""

    cluster: RedisCluster

    def create(self, retention: Retention, clock: Clock) -> ThreadLog:
        prefix = f"p{next(_prefixes)}"
        return RedisThreadLog(self.cluster.url, retention=retention, clock=clock, prefix=prefix)

    async def lose(self, log: ThreadLog, clock: Clock) -> ThreadLog:
        self.cluster.wipe()
        return log


Make = Callable[..., RedisThreadLog]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Logs as several processes have them."""
    prefix = f"q{next(_prefixes)}"
    logs: list[RedisThreadLog] = []

    def make(cluster: RedisCluster, **options: Any) -> RedisThreadLog:
        logs.append(RedisThreadLog(cluster.url, **({"prefix": prefix} | options)))
        return logs[-1]

    yield make
    for log in logs:
        await log.registry().close()
        await log.close()


@pytest.fixture
async def server(cluster: RedisCluster) -> AsyncIterator[Server]:
    server = Server(cluster.url, 5.0, 4)
    yield server
    await server.close()


def slot(thread: str) -> int:
    return slot_of(f"{{{crc32(thread.encode()) % 16}}}")


def thread_at(cluster: RedisCluster, node: RedisServer) -> str:
    """A thread that a node has."""
    threads = map("t{}".format, count())
    return next(thread for thread in threads if cluster.master_of(slot(thread)) is node)


class Talk:
    """A run that one process writes, and another follows."""

    def __init__(self, here: RedisThreadLog, there: RedisThreadLog, thread: str = "t") -> None:
        self.here, self.there, self.thread = here, there, thread
        self.written: list[Any] = []
        self.seen: list[Any] = []
        self.wakes = Wakes()
        self.slowest = 0.0
        self._over = False
        self._writing: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self.follower = await self.there.follow(self.thread, None, self.wakes)
        self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while not self._over:
            frame = Custom(name="n", data=len(self.written))
            began = time.monotonic()
            await self.here.append(self.thread, "r", [frame])
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.written.append(frame)
            await asyncio.sleep(0.002)

    async def read(self, more: int = 20) -> None:
        """Read until so many more have come."""
        target = len(self.seen) + more
        async with asyncio.timeout(30):
            while len(self.seen) < target:
                self.seen += self.follower.read(ALL)
                if len(self.seen) < target:
                    await self.wakes.reach(self.wakes.count + 1)

    async def end(self) -> None:
        """Stop, and see that nothing was lost or doubled."""
        assert self._writing is not None
        self._over = True
        await self._writing
        await self.read(len(self.written) - len(self.seen))
        assert frames_of(self.seen) == self.written
        assert seqs(self.seen) == list(range(1, len(self.written) + 1))
        assert frames_of(await read_all(self.here, self.thread)) == self.written


# --- slots that move --------------------------------------------------------------------------


async def test_a_slot_that_is_moved_key_by_key_is_waited_for(
    make: Make, cluster: RedisCluster
) -> None:
    cluster.wipe()  # a slot takes as long as there are keys in it
    talk = Talk(make(cluster), make(cluster))
    await talk.begin()
    await talk.read()
    home = cluster.master_of(slot("t"))
    for _ in range(2):
        for node in [it for it in cluster.masters if it is not home] + [home]:
            await asyncio.to_thread(cluster.move_key_by_key, slot("t"), node, 0.05)
            await talk.read()
    await talk.end()
    assert talk.here.health() == talk.there.health() == "ok"


async def test_a_slot_that_is_moved_is_followed_at_once(make: Make, cluster: RedisCluster) -> None:
    cluster.wipe()
    here, there = make(cluster, lease=5.0), make(cluster, lease=5.0)
    keeper = Keeper()
    await here.registry().start(keeper)
    await there.registry().start(Keeper())
    lease = (await here.registry().admit(ticket("a"), "reject", 0)).lease
    assert lease is not None
    talk = Talk(here, there, "u")
    await talk.begin()
    for node in cluster.masters:
        for number in range(16):
            await asyncio.to_thread(cluster.move, slot_of(f"{{{number}}}"), node)
        await talk.read()
    await talk.end()
    await here.append("t", "a", [started("a")], fence=lease.fence)
    live = await there.registry().live("t")
    await there.registry().stop(live[0])
    await keeper.until(lambda: keeper.stopped[:1] == ["me/a"])
    assert await there.registry().where("me/a") is not None


async def test_what_is_not_there_yet_is_asked_of_where_it_will_be(
    cluster: RedisCluster, server: Server
) -> None:
    key = f"{{9}}:asked{next(_prefixes)}"
    source = cluster.master_of(slot_of(key))
    target = next(node for node in cluster.masters if node is not source)
    await server.call(key, lambda link: link.redis.set(f"{key}:old", "1"))
    tell(target.port, f"CLUSTER SETSLOT {slot_of(key)} IMPORTING {cluster.id_of(source)}")
    tell(source.port, f"CLUSTER SETSLOT {slot_of(key)} MIGRATING {cluster.id_of(target)}")
    tell(target.port, "SCRIPT FLUSH")
    added = await asyncio.gather(*(server.run(ADD, [key.encode()], 1) for _ in range(30)))
    assert sorted(added) == list(range(1, 31))
    assert await server.call(f"{key}:old", lambda link: link.redis.get(f"{key}:old")) == b"1"
    with pytest.raises(LogFailed, match="WRONGTYPE"):
        await server.call(key, lambda link: link.redis.xlen(key))
    assert server.is_whole
    await asyncio.to_thread(cluster.move_key_by_key, slot_of(key), target)
    assert await server.run(ADD, [key.encode()], 0) == 30


async def test_nodes_that_send_to_each_other_are_waited_for(
    cluster: RedisCluster, server: Server
) -> None:
    key = f"{{9}}:between{next(_prefixes)}"
    source = cluster.master_of(slot_of(key))
    target = next(node for node in cluster.masters if node is not source)
    tell(source.port, f"CLUSTER SETSLOT {slot_of(key)} MIGRATING {cluster.id_of(target)}")
    adding = asyncio.create_task(server.run(ADD, [key.encode()], 1))
    async with asyncio.timeout(5):
        while server.is_whole:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    tell(source.port, f"CLUSTER SETSLOT {slot_of(key)} STABLE")
    assert await adding == 1
    assert server.is_whole


async def test_what_is_followed_is_read_in_one_connection_for_each_slot(
    make: Make, cluster: RedisCluster
) -> None:
    here, there = make(cluster), make(cluster)
    await there.registry().start(Keeper())
    wakes = Wakes()
    threads = [f"t{number}" for number in range(100)]
    for thread in threads:
        await there.follow(thread, None, wakes)
    await asyncio.gather(*(here.append(thread, "r", [delta()]) for thread in threads))
    await wakes.reach(100)
    reading = connections = 0
    for node in cluster.masters:
        async with Redis.from_url(node.url) as redis:
            clients = [it for it in await redis.client_list() if it["flags"] in ("N", "b")]
        reading += sum(client["cmd"] == "xread" for client in clients)
        connections += len(clients)
    assert reading == 16
    assert connections < 16 + 3 * 2 * 16


async def test_who_comes_while_the_reader_of_a_slot_ends_is_read(
    make: Make, cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(cluster), make(cluster)
    wakes = Wakes()
    first = await there.follow("t", None, wakes)
    await here.append("t", "r", [started()])
    await wakes.reach(1)
    first.close()
    closing, closed = asyncio.Event(), asyncio.Event()
    close = Redis.aclose

    async def close_slowly(redis: Redis, *arguments: Any) -> None:
        task = asyncio.current_task()
        if task is not None and task.get_name() == "redis closing":
            closing.set()
            await closed.wait()
        await close(redis, *arguments)

    monkeypatch.setattr(Redis, "aclose", close_slowly)
    async with asyncio.timeout(10):
        await closing.wait()
        follower = await there.follow("t", None, wakes)
        closed.set()
        for number in range(2, 5):
            await here.append("t", "r", [delta()])
            while follower.position.seq < number:
                if not follower.read(ALL):
                    await wakes.reach(wakes.count + 1)


# --- nodes that are gone ----------------------------------------------------------------------


async def test_a_replica_takes_the_place_of_its_master_and_nothing_is_lost(
    make: Make, tmp_path: Path
) -> None:
    with redis_cluster(tmp_path, replicas=True, timeout_ms=700) as cluster:
        talk = Talk(make(cluster), make(cluster))
        master = cluster.master_of(slot("t"))
        other = Talk(talk.here, talk.there, thread_at(cluster, cluster.masters[1]))
        if master is cluster.masters[1]:
            other.thread = thread_at(cluster, cluster.masters[2])
        for each in (talk, other):
            await each.begin()
            await each.read()
        tell(master.port, "CLIENT PAUSE 60000 WRITE")
        await asyncio.to_thread(cluster.await_copy, master)
        master.kill()
        await talk.read()
        await other.read()
        await asyncio.to_thread(cluster.await_replica, master)
        await talk.end()
        await other.end()
        assert talk.here.health() == "ok"
        for log in (talk.here, talk.there):
            await log.close()


async def test_a_node_that_does_not_answer_holds_up_only_what_it_has(
    make: Make, tmp_path: Path
) -> None:
    with redis_cluster(tmp_path, "--cluster-require-full-coverage", "no") as cluster:
        here, there = make(cluster, lease=5.0), make(cluster, lease=5.0)
        frozen, *others = cluster.masters
        keeper = Keeper()
        await here.registry().start(keeper)
        await there.registry().start(Keeper())
        held = thread_at(cluster, others[0])
        lease = (await here.registry().admit(ticket("a", held), "reject", 0)).lease
        assert lease is not None
        talks = [Talk(here, there, thread_at(cluster, node)) for node in others]
        stuck = Talk(here, there, thread_at(cluster, frozen))
        for talk in (stuck, *talks):
            await talk.begin()
            await talk.read()
        frozen.signal(signal.SIGSTOP)
        for talk in talks:
            talk.slowest = 0.0
        for _ in range(7):
            await asyncio.sleep(1.0)
            for talk in talks:
                await talk.read(5)
        assert here.health() == "degraded"
        assert max(talk.slowest for talk in talks) < 1.0
        assert lease.is_held
        frozen.signal(signal.SIGCONT)
        await stuck.read()
        for talk in (stuck, *talks):
            await talk.end()
        assert keeper.lost == []
        await here.registry().close()
        await there.registry().close()
        for log in (here, there):
            await log.close()


async def test_nodes_that_are_all_gone_are_told_of(tmp_path: Path) -> None:
    log = RedisThreadLog(f"redis+cluster://127.0.0.1:{free_port()}", patience=0.3)
    with pytest.raises(LogUnavailable, match=r"Redis is away: .*connect"):
        await log.start()
    await log.close()


async def test_a_cluster_that_is_named_as_one_redis_is_told(cluster: RedisCluster) -> None:
    other = next(node for node in cluster.masters if node is not cluster.master_of(slot("t")))
    log = RedisThreadLog(other.url)
    with pytest.raises(LogFailed, match=r"redis\+cluster://"):
        await log.append("t", "r", [started()])
    await log.close()


async def test_a_redis_that_is_named_as_a_cluster_is_told(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        log = RedisThreadLog(f"redis+cluster://127.0.0.1:{server.port}", patience=0.2)
        with pytest.raises(LogUnavailable, match="cluster support disabled"):
            await log.append("t", "r", [started()])
        await log.close()


async def test_nodes_that_left_the_cluster_have_no_connections(
    cluster: RedisCluster, server: Server
) -> None:
    nodes = cast("Any", server._cluster)
    gone = ("127.0.0.1", cluster.masters[0].port)
    await asyncio.gather(*(server.ping(f"{{{number}}}") for number in range(16)))
    link = nodes._links[gone]
    assert link.redis.connection_pool._available_connections
    views = [[(0, 16_383, [("127.0.0.1", cluster.masters[1].port)])]]
    nodes._take(views)
    await asyncio.gather(*nodes._closing)
    assert not any(it.is_connected for it in link.redis.connection_pool._available_connections)
    assert gone not in nodes._links
    assert await server.run(ADD, [b"{3}:n"], 1) == 1  # it is where another node says
    nodes._take(views)
    await asyncio.gather(*nodes._closing)
    assert set(nodes._links) <= {("127.0.0.1", cluster.masters[1].port)}
    nodes._take(views)
    assert not nodes._closing


async def test_what_is_under_way_at_a_node_that_left_the_cluster_is_done(
    cluster: RedisCluster, server: Server
) -> None:
    nodes = cast("Any", server._cluster)
    gone = ("127.0.0.1", cluster.masters[0].port)
    keys = map("{{{}}}:none".format, count())
    key = next(key for key in keys if cluster.master_of(slot_of(key)) is cluster.masters[0])
    await server.ping(key)
    link = nodes._links[gone]
    asked = 0

    async def wait(link: Any) -> Any:
        nonlocal asked
        asked += 1
        return await link.redis.blpop([key], 0.5)

    waiting = asyncio.create_task(server.call(key, wait))
    await asyncio.sleep(0.05)
    nodes._take([[(0, 16_383, [("127.0.0.1", cluster.masters[1].port)])]])
    await server.ping(key)
    nodes._take([[(0, 16_383, [gone])]])  # it returns
    await server.ping(key)
    assert nodes._links[gone] is not link
    assert await waiting is None
    assert asked == 1
    await asyncio.gather(*nodes._closing)
    pool = link.redis.connection_pool
    assert not pool._in_use_connections
    assert not any(it.is_connected for it in pool._available_connections)


class Told:
    """A node that says which slots it has, and may be slow to let go of the connection then."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.last = 16_383
        self.asked = 0
        self.trouble: Exception | None = None

    async def execute_command(self, *_: str) -> Any:
        self.asked += 1
        return [[0, self.last, [b"127.0.0.1", self.port, b"id"]]]

    async def aclose(self) -> None:
        if self.trouble is not None:
            raise self.trouble


@pytest.fixture
async def told(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Server, Any, Told]]:
    """Redis, what it knows of its only node, and that node, where nobody answers anything else."""
    server = Server(f"redis+cluster://127.0.0.1:{free_port()}", 0.3, 4)
    nodes = cast("Any", server._cluster)
    node = Told(nodes._address.nodes[0][1])
    monkeypatch.setattr(nodes._address, "reader", lambda *_: node)
    yield server, nodes, node
    await server.close()


async def test_a_question_whose_end_fails_is_over(told: tuple[Server, Any, Told]) -> None:
    server, nodes, node = told
    node.trouble = RedisTimeoutError("Timed out closing connection after 2.0")
    for _ in range(2):
        with pytest.raises(LogUnavailable, match="connect"):
            await server.ping("n")
    assert node.asked > 1
    assert nodes._questions == {}


async def test_a_question_that_is_cancelled_is_over(told: tuple[Server, Any, Told]) -> None:
    _, nodes, node = told
    learning = asyncio.create_task(nodes.learn())
    while not nodes._questions:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for question in nodes._questions.values():
        question.cancel()
    await learning
    assert node.asked == 0
    assert nodes._questions == {}


async def test_an_error_while_the_nodes_are_asked_again_is_none_of_who_calls(
    told: tuple[Server, Any, Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, nodes, _ = told

    async def fail() -> None:
        raise RedisTimeoutError("on purpose")

    await nodes.learn()
    monkeypatch.setattr(nodes, "learn", fail)
    with pytest.raises(LogUnavailable, match="connect"):
        await server.ping("n")


async def test_nodes_that_say_nothing_new_are_asked_less_often(
    told: tuple[Server, Any, Told],
) -> None:
    _, nodes, node = told
    loop = asyncio.get_running_loop()

    async def learn(seconds: float) -> int:
        """How often a node is asked while many want to know."""
        before, ends = node.asked, loop.time() + seconds
        while loop.time() < ends:
            await nodes.learn()
            await asyncio.sleep(0.005)
        return node.asked - before

    assert await learn(1.5) <= 8
    node.last = 10_000
    await learn(0.6)
    assert nodes._views == [[(0, 10_000, [("127.0.0.1", node.port)])]]
    await learn(1.5)

    async def moved(link: Any) -> None:
        if moves:
            raise MovedError(moves.pop())

    moves = [f"9 127.0.0.1:{node.port}"]
    await nodes.at(9, moved)
    assert await learn(0.1) <= 1
    moves = [f"9 127.0.0.1:{free_port()}"]  # which no node has told of
    await nodes.at(9, moved)
    assert await learn(0.3) >= 2


async def test_who_is_closed_while_it_learns_makes_no_connections(cluster: RedisCluster) -> None:
    server = Server(cluster.url, 5.0, 4)
    works = [asyncio.create_task(server.ping(f"{{{number}}}")) for number in range(16)]
    await asyncio.sleep(0)
    await server.close()
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        assert isinstance(outcome, LogClosed)
