"""The thread log in Redis: the common suite, and what is its own."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from langgraph_ws.codec import dumps
from langgraph_ws.errors import ConfigurationError, GapError, LogFailed
from langgraph_ws.frames import (
    BlockStarted,
    Custom,
    MessageFinished,
    MessageStarted,
    RolledBack,
    Source,
    Sources,
)
from langgraph_ws.log import Bounds, Position, Retention, ThreadLog
from langgraph_ws.log import scripts as lua
from langgraph_ws.log.fold import Fold
from langgraph_ws.log.redis import RedisThreadLog
from langgraph_ws.log.redis_cluster import slot_of
from langgraph_ws.log.redis_reader import Reader
from tests.log_suite import (
    ALL,
    Clock,
    ThreadLogSuite,
    Wakes,
    delta,
    ending,
    frames_of,
    gap,
    log_machine,
    nothing,
    read_all,
    seqs,
    started,
    whole_run,
)
from tests.proxy import EatingProxy
from tests.servers import RedisCluster, RedisServer, free_port, redis_cluster, redis_server

_prefixes = count()
_url = ""


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    global _url
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        _url = server.url
        yield server


def create(retention: Retention, clock: Clock) -> RedisThreadLog:
    return RedisThreadLog(_url, retention=retention, clock=clock, prefix=f"p{next(_prefixes)}")


async def wipe() -> None:
    async with Redis.from_url(_url) as redis:
        await redis.flushall()


class TestSuite(ThreadLogSuite):
    """The common suite over the log in Redis."""

    def create(self, retention: Retention, clock: Clock) -> ThreadLog:
        return create(retention, clock)

    async def lose(self, log: ThreadLog, clock: Clock) -> ThreadLog:
        await wipe()
        return log


TestMachine = log_machine(create).TestCase
TestMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


# --- several processes ------------------------------------------------------------------------

Make = Callable[..., RedisThreadLog]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Logs as several processes have them: apart from each other, in one Redis."""
    prefix = f"p{next(_prefixes)}"
    logs: list[RedisThreadLog] = []

    def make(url: str = "", **options: Any) -> RedisThreadLog:
        log = RedisThreadLog(url or _url, **({"prefix": prefix} | options))
        logs.append(log)
        return log

    yield make
    for log in logs:
        await log.close()


async def keys(log: RedisThreadLog, pattern: str = "*") -> list[str]:
    async with Redis.from_url(_url, decode_responses=True) as redis:
        return sorted(await redis.keys(f"{log._prefix}:{pattern}"))


async def test_what_one_process_writes_is_followed_in_another(make: Make) -> None:
    here, there = make(), make()
    wakes = Wakes()
    follower = await there.follow("t", None, wakes)
    written = whole_run("r", *[delta(str(n)) for n in range(50)])
    for number, frame in enumerate(written):
        await here.append("t", "r", [frame])
        await wakes.reach(number // 10)
    while follower.position.seq + follower.lag < len(written):
        await wakes.reach(wakes.count + 1)
    entries = follower.read(ALL)
    assert frames_of(entries) == written
    assert [entry.time_ms for entry in entries] == [e.time_ms for e in await read_all(here, "t")]
    assert (await there.view("t"))[1] == (await here.view("t"))[1]
    assert await there.start_of("t", "r") == Position(follower.position.epoch, 0)
    assert frames_of(await there.result_of("t", "r")) == ending("r")


async def test_one_connection_reads_for_all_followers_of_a_process(make: Make) -> None:
    here, there = make(), make()
    wakes = Wakes()
    for number in range(40):
        for _ in range(3):
            await there.follow(f"t{number}", None, wakes)
    for number in range(40):
        await here.append(f"t{number}", "r", [delta()])
    await wakes.reach(120)
    async with Redis.from_url(_url) as redis:
        clients = await redis.client_list()
    assert sum(client["cmd"] == "xread" for client in clients) == 1
    assert len(clients) < 10


async def test_what_is_written_while_older_entries_are_loaded_is_no_gap(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(), make()
    written = whole_run("r", delta("one"))
    await here.append("t", "r", written)
    before = await there.follow("t", None, Wakes())
    before.read(ALL)
    await asyncio.sleep(0.05)  # the reader waits for what comes next
    before.close()
    loading, go_on = asyncio.Event(), asyncio.Event()
    read = there._read

    async def slowly(*given: Any) -> Any:
        loading.set()
        await go_on.wait()
        return await read(*given)

    monkeypatch.setattr(there, "_read", slowly)
    wakes = Wakes()
    following = asyncio.create_task(there.follow("t", None, wakes))
    await loading.wait()
    await here.append("t", "s", whole_run("s"))
    await asyncio.sleep(0.05)  # the reader is told of it
    go_on.set()
    follower = await following
    expected = [*written, *whole_run("s")]
    seen: list[Any] = []
    while len(seen) < len(expected):
        seen += frames_of(follower.read(ALL))
        if len(seen) < len(expected):
            await wakes.reach(wakes.count + 1)
    assert seen == expected


async def test_a_second_reader_of_a_long_run_misses_nothing(make: Make) -> None:
    here, there = make(), make()
    written = [Custom(name="n", data=number) for number in range(5_000)]
    for begin in range(0, 5_000, 1_000):
        head = await here.append("t", "r", written[begin : begin + 1_000])
    for log in (here, there):
        late = await log.follow("t", Position(head.epoch, 4_990), nothing)
        follower = await log.follow("t", Position(head.epoch, 1), nothing)
        assert frames_of(follower.read(ALL)) == written[1:]
        assert frames_of(late.read(ALL)) == written[4_990:]


async def test_nothing_is_let_go_of_while_older_entries_are_loaded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make()
    written = [Custom(name="n", data=number) for number in range(6_000)]
    head = await log.append("t", "r", written[:2_000])
    first = await log.follow("t", head, nothing)
    read = log._read

    async def slowly(*given: Any) -> Any:
        found = await read(*given)
        if first.position.seq < 6_000:
            await log.append("t", "r", written[first.position.seq : first.position.seq + 1_000])
            first.read(ALL)
        else:
            first.close()
        return found

    monkeypatch.setattr(log, "_read", slowly)
    for _ in range(3):
        follower = await log.follow("t", None, nothing)
        begun = written[: follower.lag]
        assert len(begun) >= 2_000
        assert frames_of(follower.read(ALL)) == begun


async def test_who_waits_is_told_what_another_follower_loads(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(), make()
    wakes = Wakes()
    follower = await there.follow("t", None, wakes)
    monkeypatch.setattr(Reader, "_show", lambda *_: None)
    await here.append("t", "r", [delta()])
    await there.follow("t", None, nothing)
    await wakes.reach(1)
    assert frames_of(follower.read(ALL)) == [delta()]


async def test_a_process_that_only_reads_folds_on_from_a_stored_fold(make: Make) -> None:
    limits = Retention(entries=20)
    here, there = make(retention=limits), make(retention=limits)
    message = [MessageStarted(message_id="m"), BlockStarted(message_id="m", index=0, kind="text")]
    await here.append("t", "r", [started(), *message])
    for number in range(500):
        await here.append("t", "r", [delta(f"{number} ")])
        if number % 100 == 0:
            assert (await there.view("t"))[1] == (await here.view("t"))[1]
    position, view = await there.view("t")
    assert position.seq == 503
    text = view.runs["r"].open["m"].blocks[0].text
    assert text == "".join(f"{number} " for number in range(500))
    late = make(retention=limits)
    assert (await late.view("t"))[1] == view
    async with Redis.from_url(_url) as redis:
        [stream] = await keys(here, "*:log")
        assert 20 <= await redis.xlen(stream) <= 20 + 64 + 1


async def test_a_writer_sees_what_others_add_to_its_thread(make: Make) -> None:
    here, there = make(), make()
    wakes = Wakes()
    follower = await here.follow("t", None, wakes)
    await here.append("t", "a", [started("a")])
    await there.append("t", "b", ending("b"))
    await here.append("t", "a", [delta()])
    seen = follower.read(ALL)
    while len(seen) < 4:
        await wakes.reach(wakes.count + 1)
        seen += follower.read(ALL)
    assert [(entry.seq, entry.run_id) for entry in seen] == [(1, "a"), (2, "b"), (3, "b"), (4, "a")]


async def test_keys_of_a_thread_share_a_slot_and_go_by_themselves(make: Make) -> None:
    log = make(retention=Retention(finished_s=1, result_s=2))
    await log.append("a/t", "r", whole_run("r"))
    found = await keys(log, "*:t:*")
    stems = {key.rpartition(":")[0] for key in await keys(log)}
    assert found == []
    assert len(stems) == 1
    [stem] = stems
    assert stem.startswith(f"{log._prefix}:{{")
    async with Redis.from_url(_url) as redis:
        for key in await keys(log):
            assert 0 < await redis.pttl(key) <= 62_000


async def test_all_that_is_known_of_a_followed_thread_stays(make: Make) -> None:
    log = make(retention=Retention(finished_s=1, result_s=2))
    await log.append("t", "r", whole_run("r"))
    await log.append("t", "s", [started("s")])
    await log.follow("t", None, nothing)
    found = await keys(log, "*:t:*")
    assert {key.rpartition(":")[2] for key in found} == {"meta", "log", "results", "fold"}
    async with Redis.from_url(_url) as redis:
        for key in found:
            await redis.pexpire(key, 10_000)
        await log._check(log._threads["t"])
        assert min([await redis.pttl(key) for key in found]) > 60_000


# --- what goes wrong --------------------------------------------------------------------------


async def test_a_wiped_redis_is_noticed_by_those_who_wait(make: Make) -> None:
    here, there = make(), make()
    wakes = Wakes()
    follower = await there.follow("t", None, wakes)
    old = await here.append("t", "r", [started(), delta()])
    await wakes.reach(1)
    follower.read(ALL)
    await wipe()
    await wakes.reach(2)
    with pytest.raises(GapError) as caught:
        follower.read(ALL)
    assert caught.value.reason == "epoch"
    assert (await gap(there, "t", old)).reason == "unknown"
    new = await here.append("t", "r", [delta()])
    assert new.seq == 1
    assert new.epoch != old.epoch


async def test_a_log_that_was_wiped_is_read_from_its_first_entry(make: Make) -> None:
    here = make(retention=Retention(entries=5))
    await here.append("t", "r", [delta(str(n)) for n in range(10)])
    follower = await here.follow("t", (await here.view("t"))[0], nothing)
    await wipe()
    await here.append("t", "s", [delta("new")])
    with pytest.raises(GapError) as caught:
        follower.read(ALL)
    assert (caught.value.reason, caught.value.first, caught.value.head) == ("epoch", 1, 1)
    assert frames_of(await read_all(here, "t")) == [delta("new")]


async def test_entries_of_a_wiped_log_and_a_new_one_never_mix(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(), make()
    wakes = Wakes()
    follower = await there.follow("t", None, wakes)
    await here.append("t", "r", [delta("old"), delta("old")])
    await wakes.reach(1)
    assert len(follower.read(ALL)) == 2
    await wipe()
    for number in range(1, 6):
        await here.append("t", "s", [delta(str(number))])
    await wakes.reach(2)
    with pytest.raises(GapError) as caught:
        follower.read(ALL)
    assert caught.value.reason == "epoch"


async def test_what_was_wiped_while_it_was_loaded_is_read_anew(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make(), make()
    await here.append("t", "r", [delta("old")] * 3_000)
    read = there._read

    async def wiped(*given: Any) -> Any:
        monkeypatch.undo()
        found = await read(*given)
        await wipe()
        await here.append("t", "s", [delta("new")] * 3_000)
        return found

    monkeypatch.setattr(there, "_read", wiped)
    assert frames_of(await read_all(there, "t")) == [delta("new")] * 3_000


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"r": "r", "t": "x", "d": dumps({"frame": "RunFinished", "status": "lost"})},
        {"r": "r", "t": "1", "d": b"\xff"},
        {"r": "r", "t": "1", "d": dumps({"frame": "RunFinished", "status": "perhaps"})},
        {"r": "r", "t": "1", "d": dumps([])},
        {"r": b"\xff", "t": "1", "d": dumps({"frame": "RunFinished", "status": "lost"})},
    ],
)
async def test_a_corrupt_entry_is_told_and_hurts_no_other_thread(
    make: Make, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = make(), make()
    wakes, others = Wakes(), Wakes()
    await here.append("t", "r", [started()])
    follower = await there.follow("t", None, wakes)
    await there.follow("u", None, others)
    follower.read(ALL)
    async with Redis.from_url(_url) as redis:
        [stream] = await keys(here, "*:t:log")
        [meta] = await keys(here, "*:t:meta")
        await redis.hset(meta, "s", 2)
        [(first, _)] = await redis.xrange(stream)
        second = first.replace(b"1-", b"2-", 1)
        await redis.xadd(stream, fields or {"nothing": ""}, id=second)
    await wakes.reach(1)
    with pytest.raises(GapError):
        follower.read(ALL)
    for broken in (there.follow("t", None, nothing), there.view("t")):
        with pytest.raises(LogFailed, match="corrupt"):
            await broken
    assert "corrupt" in caplog.text
    await here.append("u", "r", [delta()])
    await others.reach(1)


@pytest.mark.parametrize("fold", [b"[]", b"{}", b'{"seq": 1}', b"\xff"])
async def test_a_corrupt_fold_is_told(make: Make, fold: bytes) -> None:
    here, there = make(), make()
    await here.append("t", "r", whole_run("r"))
    async with Redis.from_url(_url) as redis:
        [key] = await keys(here, "*:fold")
        await redis.set(key, fold)
    with pytest.raises(LogFailed, match="corrupt"):
        await there.view("t")


async def test_replies_that_are_lost_do_no_harm(make: Make) -> None:
    writes = [b"EVALSHA", b"XADD"]
    proxy = EatingProxy(
        int(_url.rpartition(":")[2].partition("/")[0]),
        seed=11,
        share=0.2,
        spared=lambda request: not any(write in request for write in writes),
    )
    async with proxy.serving():
        log = make(f"redis://127.0.0.1:{proxy.port}")
        written = [Custom(name="n", data=number) for number in range(300)]
        for frame in written:
            await log.append("t", "r", [frame])
        assert proxy.eaten > 30
        proxy.share = 0
        entries = await read_all(make(), "t")
        await log.close()
    assert frames_of(entries) == written
    assert seqs(entries) == list(range(1, 301))


async def test_redis_may_be_killed_and_come_back(tmp_path: Path, make: Make) -> None:
    with redis_server(tmp_path, appendonly=True) as server:
        here, there = make(server.url), make(server.url)
        wakes = Wakes()
        follower = await there.follow("t", None, wakes)
        written: list[Any] = []
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                written.append(Custom(name="n", data=len(written)))
                await here.append("t", "r", written[-1:])
                await asyncio.sleep(0.002)

        seen: list[Any] = []

        async def read(count: int) -> None:
            while len(seen) < count:
                await wakes.reach(wakes.count if follower.lag else wakes.count + 1)
                seen.extend(follower.read(ALL))

        task = asyncio.create_task(write())
        for _ in range(3):
            await read(len(seen) + 20)
            server.kill()
            await asyncio.to_thread(server.start)
        stop.set()
        await task
        await read(len(written))
        assert frames_of(seen) == written
        assert seqs(seen) == list(range(1, len(written) + 1))
        await here.close()
        await there.close()


async def test_a_redis_that_stays_away_fails_what_needs_it_in_time(
    tmp_path: Path, make: Make
) -> None:
    with redis_server(tmp_path) as server:
        log = make(server.url, patience=0.3)
        await log.append("t", "r", [started()])
        server.signal(signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        with pytest.raises(LogFailed, match="away"):
            await log.append("t", "r", [delta()])
        assert asyncio.get_running_loop().time() - began < 5
        server.signal(signal.SIGCONT)
        assert (await log.append("t", "r", [delta()])).seq in (2, 3)
        server.kill()
        with pytest.raises(LogFailed, match="away"):
            await log.start()
        server.start()
        await log.start()
        await log.close()


async def test_a_master_that_was_demoted_is_waited_for(tmp_path: Path, make: Make) -> None:
    with redis_server(tmp_path) as server:
        log = make(server.url, patience=5.0)
        wakes = Wakes()
        follower = await log.follow("t", None, wakes)
        await log.append("t", "r", [started()])
        async with Redis.from_url(server.url) as redis:
            await redis.replicaof("127.0.0.1", str(free_port()))
            writing = asyncio.create_task(log.append("t", "r", [delta()]))
            await asyncio.sleep(0.3)
            assert not writing.done()
            assert log.health() == "degraded"
            await redis.replicaof("NO", "ONE")
        assert (await writing).seq == 2
        assert log.health() == "ok"
        assert frames_of(follower.read(ALL)) == [started(), delta()]
        await log.close()


async def test_replicas_that_are_too_few_are_waited_for(tmp_path: Path, make: Make) -> None:
    with redis_server(tmp_path) as server:
        log = make(server.url, patience=5.0)
        async with Redis.from_url(server.url) as redis:
            if (await redis.info("server"))["redis_version"] < "7":
                await log.close()
                pytest.skip("Redis 6.2 lets scripts write nevertheless")
            await log.append("t", "r", [started()])
            await redis.config_set("min-replicas-to-write", 1)
            writing = asyncio.create_task(log.append("t", "r", [delta()]))
            while log.health() == "ok":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert not writing.done()
            await redis.config_set("min-replicas-to-write", 0)
        assert (await writing).seq == 2
        assert log.health() == "ok"
        await log.close()


class FailOver(Protocol):
    """Something that loses what came after `lag` when it happens."""

    url: str

    async def lag(self) -> None: ...

    async def happen(self) -> None: ...


class OfOne:
    """A Redis, and a replica that takes its place, and lacks what came after `lag`."""

    def __init__(self, master: RedisServer, replica: RedisServer) -> None:
        self.url = master.url
        self._master = master
        self._replica = replica

    async def replicate(self) -> None:
        async with Redis.from_url(self.url) as master:
            await master.config_set("repl-diskless-sync-delay", 0)
        async with Redis.from_url(self._replica.url) as replica:
            await replica.replicaof("127.0.0.1", str(self._master.port))

    async def lag(self) -> None:
        async with Redis.from_url(self.url) as master:
            await master.set("before", 1)
            assert await master.wait(1, 4_000) == 1
        async with Redis.from_url(self._replica.url) as replica:
            await replica.replicaof("NO", "ONE")

    async def happen(self) -> None:
        self._master.kill()
        async with Redis.from_url(self._replica.url) as redis:
            await redis.config_set("port", self._master.port)


class OfCluster:
    """A cluster; the replica of the master that has the thread `t` lacks what came after `lag`."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.url = cluster.url
        self._cluster = cluster
        self._master = cluster.master_of(slot_of(f"{{{crc32(b't') % 16}}}"))

    async def lag(self) -> None:
        await asyncio.to_thread(self._cluster.lag, self._master)

    async def happen(self) -> None:
        self._master.kill()
        await asyncio.to_thread(self._cluster.await_replica, self._master)


@pytest.fixture(params=["one", "cluster"])
async def fail_over(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FailOver]:
    if request.param == "cluster":
        with redis_cluster(tmp_path, replicas=True, timeout_ms=700) as cluster:
            yield OfCluster(cluster)
    else:
        with redis_server(tmp_path) as master, redis_server(tmp_path) as replica:
            of_one = OfOne(master, replica)
            await of_one.replicate()
            yield of_one


async def test_what_a_replica_lacks_that_becomes_the_master_is_a_gap(
    make: Make, fail_over: FailOver
) -> None:
    here, there = make(fail_over.url), make(fail_over.url)
    wakes = Wakes()
    await here.append("t", "r", [delta("a"), delta("b")])
    follower = await there.follow("t", None, wakes)
    await fail_over.lag()
    old = await here.append("t", "r", [delta("gone"), delta("gone")])
    await wakes.reach(1)
    assert len(follower.read(ALL)) == 4
    await fail_over.happen()
    await wakes.reach(2)
    with pytest.raises(GapError) as caught:
        follower.read(ALL)
    assert (caught.value.reason, caught.value.head) == ("ahead", 2)
    assert (await gap(there, "t", old)).reason == "ahead"
    assert (await there.view("t"))[0] == Position(old.epoch, 2)
    assert seqs(await read_all(there, "t")) == [1, 2]
    await here.close()
    await there.close()


async def test_entries_that_take_the_place_of_others_never_mix_with_them(
    make: Make, fail_over: FailOver
) -> None:
    here, there, third = (make(fail_over.url) for _ in range(3))
    await here.append("t", "r", [delta("a"), delta("b")])
    await fail_over.lag()
    old = await here.append("t", "r", [delta("gone"), delta("gone")])
    wakes = Wakes()
    follower = await there.follow("t", old, wakes)
    await fail_over.happen()
    for number in range(5):  # by somebody who has not seen what is gone
        await third.append("t", "s", [delta(str(number))])
    await wakes.reach(1)
    with pytest.raises(GapError) as caught:
        follower.read(ALL)
    assert caught.value.reason == "ahead"
    for log in (here, there, third):
        await log.close()


@pytest.mark.parametrize("noticed", [False, True])
async def test_a_writer_begins_an_epoch_when_what_it_wrote_is_gone(
    make: Make, fail_over: FailOver, noticed: bool
) -> None:
    here, there = make(fail_over.url), make(fail_over.url)
    wakes = Wakes()
    follower = await here.follow("t", None, wakes)
    await here.append("t", "r", [started(), MessageStarted(message_id="m")])
    await fail_over.lag()
    old = await here.append("t", "r", [delta("gone"), delta("gone")])
    assert len(follower.read(ALL)) == 4
    await fail_over.happen()
    if noticed:
        await wakes.reach(3)
        with pytest.raises(GapError, match="ahead"):
            follower.read(ALL)
    new = await here.append("t", "r", [delta(str(number)) for number in range(5)])
    assert new.seq == 7
    assert new.epoch != old.epoch
    with pytest.raises(GapError) as caught:
        follower.read(ALL)
    assert caught.value.reason == "epoch"
    for log in (here, there):
        assert (await gap(log, "t", old)).reason == "epoch"
        assert seqs(await read_all(log, "t")) == list(range(1, 8))
        position, view = await log.view("t")
        assert position == new
        assert list(view.runs["r"].open) == ["m"]
    for log in (here, there):
        await log.close()


async def test_a_bell_that_cannot_be_rung_is_no_error(
    tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server(tmp_path) as server:
        log = make(server.url, patience=0.1)
        await log.start()
        server.kill()
        log.ring(claim="1")
        await asyncio.sleep(0.2)
        log.ring(claim="1")
        await log.close()
    assert caplog.text.count("the bell in Redis could not be rung") == 2


async def test_a_script_error_is_no_reason_to_try_again(make: Make) -> None:
    log = make()
    await log.append("t", "r", [started()])
    async with Redis.from_url(_url) as redis:
        [meta] = await keys(log, "*:meta")
        await redis.delete(meta)
        await redis.set(meta, "no hash")
    with pytest.raises(LogFailed, match="refused"):
        await log.append("t", "r", [delta()])


@pytest.mark.parametrize("options", [{"prefix": ""}, {"prefix": "a{b"}, {"url": "nowhere"}])
def test_wrong_arguments_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RedisThreadLog(**({"url": _url} | options))


async def test_what_cannot_be_dropped_now_is_dropped_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make(retention=Retention(total_bytes=50_000))
    big = delta("x" * 30_000)
    await log.append("a", "r", whole_run("r", big))
    run = log._run

    async def fail(script: str, *given: Any) -> Any:
        if script == lua.DROP:
            raise LogFailed("Redis is away")
        return await run(script, *given)

    monkeypatch.setattr(log, "_run", fail)
    assert (await log.append("b", "r", [started(), big])).seq == 2
    assert not log.has_room()
    monkeypatch.undo()
    await log.append("b", "r", [delta()])
    assert log.has_room()
    assert await log.bounds("a") == Bounds((await log.bounds("a")).epoch, 5, 4)


async def test_runs_that_are_out_of_time_take_no_room(make: Make) -> None:
    clock = Clock()
    log = make(retention=Retention(finished_s=10), clock=clock)
    big = delta("x" * 30_000)
    await log.append("a", "r", [started(), big])
    await log.append("b", "r", whole_run("r", big))
    assert log._written.total > 60_000
    clock.advance(20)
    await log.append("c", "r", [started()])
    assert 30_000 < log._written.total < 31_000
    await log.append("a", "r", ending())
    clock.advance(20)
    await log.append("c", "r", [delta()])
    assert log._written.total < 1_000


async def test_a_wake_that_raises_hurts_nobody(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("no")

    log = make()
    wakes = Wakes()
    await log.follow("t", None, broken)
    await log.follow("t", None, wakes)
    with caplog.at_level(logging.ERROR):
        await log.append("t", "r", [delta()])
    assert wakes.count == 1
    assert "failed to wake" in caplog.text


async def test_threads_that_nothing_happens_to_are_let_go_of(make: Make) -> None:
    log = make()
    follower = await log.follow("followed", None, nothing)
    for number in range(600):
        await log.append(f"t{number}", "r", whole_run("r", MessageFinished(message_id="m")))
    assert log.size().threads == 1
    assert log.size().bytes < 512 * 600
    follower.close()
    assert log.size().threads == 0
    assert len(await read_all(log, "t0")) == 4


# --- folds ------------------------------------------------------------------------------------


def message(name: str) -> MessageFinished:
    return MessageFinished(message_id=name, content=({"type": "text", "text": name},))


def said(fold: Fold, run_id: str) -> list[str]:
    return [message.message_id for message in fold.view.runs[run_id].messages]


def test_the_messages_of_a_fold_are_bounded() -> None:
    fold = Fold(40)
    for run_id, name in [("r", "a"), ("r", "b"), ("s", "c")]:
        fold.apply(run_id, message(name), 15)
    assert (said(fold, "r"), said(fold, "s"), fold.size) == (["b"], ["c"], 30)
    fold.apply("s", message("big"), 60)
    assert (said(fold, "r"), said(fold, "s"), fold.size) == ([], ["big"], 60)
    fold.apply("s", RolledBack(run_id="s"), 1)
    assert fold.size == 0
    fold.apply("s", message("d"), 10)
    fold.forget({"r"})
    assert (list(fold.view.runs), fold.size) == (["r"], 0)


def test_a_fold_goes_on_where_it_was_stored() -> None:
    frames = [
        started(),
        MessageStarted(message_id="m"),
        BlockStarted(message_id="m", index=0, kind="tool_call", tool_call_id="c", name="f"),
        delta("he"),
        Sources(sources=(Source(id="1", title="t"),), added=1),
        message("a"),
    ]
    fold = Fold(100)
    for frame in frames:
        fold.apply("r", frame, 60)
    stored = Fold.load(fold.dump(), 100)
    assert (stored.seq, stored.size) == (6, 60)
    assert stored.view.copy() == fold.view.copy()
    for one in (fold, stored):
        one.apply("r", message("b"), 60)
        one.apply("r", delta("llo"), 60)
    assert said(stored, "r") == said(fold, "r") == ["b"]
    assert stored.view.copy() == fold.view.copy()
