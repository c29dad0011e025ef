"""The registry of runs: the same behaviour in memory and in Redis, and what only Redis can do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from zlib import crc32

import pytest
from redis.asyncio import Redis

from langgraph_ws.errors import GapError, LeaseLost, LogFailed
from langgraph_ws.frames import Frame, MessageFinished, MessageStarted, RunFailed, RunFinished
from langgraph_ws.log import Position, Retention, ThreadLog, redis_registry
from langgraph_ws.log import scripts as lua
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.log.redis import RedisThreadLog
from langgraph_ws.log.registry import Admission, Admitted, Lease, Registry, Standing, Ticket, Where
from tests.log_suite import ALL, Wakes, delta, frames_of, read_all, seqs, started
from tests.servers import RedisCluster, RedisServer, redis_cluster, redis_server

END: list[Frame] = [RunFinished(status="completed")]
CANCELLED: list[Frame] = [RunFinished(status="cancelled")]
_prefixes = count()


@dataclass
class Keeper:
    """Writes down what it is told."""

    stopped: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    taken: list[Lease] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    names: tuple[str, ...] = ("g",)

    def take(self, lease: Lease) -> None:
        self.taken.append(lease)
        self.told.set()

    def stop(self, run: str) -> None:
        self.stopped.append(run)
        self.told.set()

    def lose(self, run: str) -> None:
        self.lost.append(run)
        self.told.set()

    def encode(self, work: Any) -> bytes:
        return str(work).encode()

    def decode(self, data: bytes) -> Any:
        return data.decode()

    def graph_names(self) -> Sequence[str]:
        return self.names

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():
                self.told.clear()
                await self.told.wait()


@dataclass
class Strange(Keeper):
    """Cannot read what it takes to carry out some runs, or (None) any."""

    unread: Sequence[str] | None = None
    asked: int = 0

    def decode(self, data: bytes) -> Any:
        self.asked += 1
        self.told.set()
        if self.unread is None or data.decode() in self.unread:
            raise ValueError("of another version")
        return super().decode(data)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


Make = Callable[..., ThreadLog]


def shared(request: pytest.FixtureRequest) -> Any:
    """What the logs of a test share."""
    parameters: dict[str, Any] = request.node.callspec.params
    return request.getfixturevalue({"redis": "server"}.get(kind := parameters["make"], kind))


@pytest.fixture(params=["memory", "redis", "cluster"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    prefix = f"p{next(_prefixes)}"
    logs: list[ThreadLog] = []

    def make(**options: Any) -> ThreadLog:
        if request.param == "memory":
            logs.append(MemoryThreadLog(options.get("retention")))
        else:
            url = shared(request).url
            logs.append(RedisThreadLog(url, **({"prefix": prefix, "lease": 1.0} | options)))
        return logs[-1]

    yield make
    for log in logs:
        await log.registry().close()
        await log.close()


def ticket(run: str, thread: str = "t") -> Ticket:
    return Ticket(run=f"me/{run}", thread=thread, thread_id=f"id {thread}", graph="g", work=run)


async def admit(
    registry: Registry, run: str, how: Admission = "enqueue", limit: int = 5
) -> Admitted:
    return await registry.admit(ticket(run), how, limit)


async def lease_of(registry: Registry, run: str, thread: str = "t") -> Lease:
    lease = (await registry.admit(ticket(run, thread), "reject", 0)).lease
    assert lease is not None
    return lease


async def places(registry: Registry) -> list[tuple[str, int | None]]:
    live = await registry.live("t")
    return [(standing.ticket.run_id, standing.place) for standing in live]


def standing(run: str, place: int | None = None) -> Standing:
    return Standing(ticket=ticket(run), place=place)


async def begin(log: ThreadLog, keeper: Keeper | None = None) -> Registry:
    registry = log.registry()
    assert log.registry() is registry
    await registry.start(keeper or Keeper())
    return registry


async def die(registry: Registry) -> None:
    """Renew nothing any more, as a process that was killed."""
    registry._closed = True  # type: ignore[attr-defined]
    registry._ring()  # type: ignore[attr-defined]
    await asyncio.wait(registry._tasks)  # type: ignore[attr-defined]


async def test_the_first_run_of_a_thread_is_active_and_others_wait(make: Make) -> None:
    log = make()
    registry = await begin(log)
    assert await registry.live("t") == ()
    assert await registry.where("me/a") is None
    lease = await lease_of(registry, "a")
    assert (lease.ticket, lease.attempt, lease.crashes) == (ticket("a"), 1, 0)
    assert lease.is_held
    assert not lease.stop
    for place, run in enumerate("bc", 1):
        admitted = await admit(registry, run)
        assert admitted.standing is not None
        assert admitted.standing.place == place
    assert await places(registry) == [("a", None), ("b", 1), ("c", 2)]
    assert await registry.where("me/b") == Where("t", "id t")
    again = await admit(registry, "b")
    assert again.standing is not None
    assert again.standing.place == 1
    again = await admit(registry, "a")
    assert again.standing is not None
    assert again.standing.place is None
    assert (await admit(registry, "d", limit=2)) == Admitted(busy=True, full=True)
    assert (await admit(registry, "d", "reject")) == Admitted(busy=True)
    assert await registry.where("me/d") is None
    other = Ticket(run="me/a", thread="u", thread_id="u", graph="g", work="a")
    assert await registry.admit(other, "enqueue", 5) == Admitted(conflict=True)


async def test_finishing_logs_the_end_and_activates_the_next(make: Make) -> None:
    log = make()
    registry = await begin(log)
    first = await lease_of(registry, "a")
    await admit(registry, "b")
    await log.append("t", "a", [started("a")], fence=first.fence)
    second = await registry.finish(first, END, interrupted=False)
    assert second is not None
    assert second.ticket.run_id == "b"
    assert second.ticket.work == "b"
    assert second.ticket.thread_id == "id t"
    with pytest.raises(LeaseLost):
        await log.append("t", "a", [delta()], fence=first.fence)
    await log.append("t", "b", [started("b")], fence=second.fence)
    assert await registry.finish(second, END, interrupted=False) is None
    assert await registry.live("t") == ()
    assert [entry.run_id for entry in await read_all(log, "t")] == ["a", "a", "b", "b"]
    assert await registry.where("me/a") == Where("t", "id t")
    with pytest.raises(LeaseLost):
        await log.append("t", "b", [delta()], fence=second.fence)
    third = await lease_of(registry, "c")
    assert third.fence > second.fence > first.fence
    with pytest.raises(LeaseLost):
        await registry.finish(second, END, interrupted=False)
    assert await registry.finish(third, (), interrupted=None) is None
    assert await registry.where("me/c") is None
    assert len(await read_all(log, "t")) == 4


async def test_the_queue_waits_while_the_thread_is_interrupted(make: Make) -> None:
    registry = await begin(make())
    first = await lease_of(registry, "a")
    await admit(registry, "b")
    assert await registry.finish(first, END, interrupted=True) is None
    assert await places(registry) == [("b", 1)]
    answer = await lease_of(registry, "c")
    assert await registry.finish(answer, (), interrupted=None) is None  # refused
    answer = await lease_of(registry, "d")
    following = await registry.finish(answer, END, interrupted=False)
    assert following is not None
    assert following.ticket.run_id == "b"


async def test_superseding_stops_the_active_run_and_those_that_wait_to_supersede(
    make: Make,
) -> None:
    keeper = Keeper()
    log = make()
    registry = await begin(log, keeper)
    active = await lease_of(registry, "a")
    await admit(registry, "b")
    await admit(registry, "c", "interrupt")
    assert keeper.stopped == ["me/a"]
    assert active.stop
    await admit(registry, "d", "rollback")
    assert await places(registry) == [("a", None), ("d", 1), ("b", 2)]
    assert [entry.run_id for entry in await read_all(log, "t")] == ["c"]
    following = await registry.finish(active, CANCELLED, interrupted=True)
    assert following is not None
    assert (following.ticket.run_id, following.supersedes) == ("d", "me/a")


async def test_a_run_that_waits_can_be_withdrawn(make: Make) -> None:
    log = make()
    registry = await begin(log)
    await lease_of(registry, "a")
    await admit(registry, "b")
    assert await registry.withdraw(standing("b", 1), CANCELLED)
    assert not await registry.withdraw(standing("b", 1), CANCELLED)
    assert not await registry.withdraw(standing("a"), CANCELLED)
    assert await places(registry) == [("a", None)]
    assert frames_of(await read_all(log, "t")) == CANCELLED
    assert await registry.where("me/b") == Where("t", "id t")


async def test_a_run_is_found_as_long_as_it_lasts_and_its_result_is_kept(make: Make) -> None:
    log = make(retention=Retention(finished_s=1, result_s=1))
    registry = await begin(log)
    lease = await lease_of(registry, "a")
    await asyncio.sleep(1.5)
    assert await registry.where("me/a") == Where("t", "id t")
    await log.append("t", "a", [started()], fence=lease.fence)
    await registry.finish(lease, [RunFinished(status="completed")], interrupted=False)
    assert await registry.where("me/a") == Where("t", "id t")
    await asyncio.sleep(1.5)
    await log.bounds("t")  # whoever comes next
    assert await registry.where("me/a") is None


async def test_only_the_active_run_is_told_to_stop(make: Make) -> None:
    keeper = Keeper()
    registry = await begin(make(), keeper)
    await lease_of(registry, "a")
    await admit(registry, "b")
    await registry.stop(standing("b", 1))
    await registry.stop(standing("z"))
    assert keeper.stopped == []
    await registry.stop(standing("a"))
    assert keeper.stopped == ["me/a"]


async def test_runs_without_anybody_to_go_on_are_told(make: Make) -> None:
    registry = await begin(make())
    lease = await lease_of(registry, "a")
    await admit(registry, "b")
    orphans = [orphan.ticket.run_id for orphan in await registry.orphans()]
    assert orphans == ([] if registry.is_shared else ["b"])
    following = await registry.release(lease)
    assert (following is None) == registry.is_shared
    assert await registry.release(lease) is None


# --- several processes ------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["redis", "cluster"], indirect=True)
class TestShared:
    """Several processes, each with a registry of its own."""

    async def test_any_process_finds_stops_and_withdraws(self, make: Make) -> None:
        keeper = Keeper()
        here = await begin(make(), keeper)
        there = await begin(log := make())
        lease = await lease_of(here, "a")
        admitted = await admit(there, "b")
        assert admitted.standing is not None
        assert admitted.standing.place == 1
        assert await places(there) == await places(here) == [("a", None), ("b", 1)]
        assert await there.withdraw(standing("b", 1), CANCELLED)
        await there.stop(standing("a"))
        await keeper.until(lambda: keeper.stopped == ["me/a"])
        await admit(there, "c", "interrupt")
        following = await here.finish(lease, CANCELLED, interrupted=False)
        assert following is not None
        assert (following.ticket.work, following.supersedes) == ("c", "me/a")
        assert [entry.run_id for entry in await read_all(log, "t")] == ["b", "a"]

    @pytest.mark.parametrize("how", ["busy", "refused"])
    async def test_a_run_refused_in_one_process_is_found_when_another_takes_it(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        here, there = await begin(make()), await begin(make())
        lease = await lease_of(here, "a" if how == "busy" else "r")
        log: Any = here._store  # type: ignore[attr-defined]
        write = log.write

        async def write_then_others(*arguments: Any, **options: Any) -> Any:
            reply = await write(*arguments, **options)
            monkeypatch.undo()
            if how == "busy":
                await here.finish(lease, END, interrupted=False)
            taken.append(await admit(there, "r"))
            return reply

        taken: list[Admitted] = []
        monkeypatch.setattr(log, "write", write_then_others)
        if how == "busy":
            assert (await admit(here, "r", "reject")).busy
        else:
            assert await here.finish(lease, [], interrupted=None) is None
        assert taken[0].lease is not None
        assert await here.where("me/r") == Where("t", "id t")

    async def test_a_cancellation_that_nobody_heard_is_found(self, make: Make) -> None:
        keeper = Keeper()
        log = make()
        registry = await begin(log, keeper)
        await lease_of(registry, "a")
        other = make().registry()
        other._store.ring = lambda **_news: None  # type: ignore[attr-defined]
        await other.stop(standing("a"))
        await keeper.until(lambda: keeper.stopped[:1] == ["me/a"])

    async def test_what_is_let_go_of_is_taken_over_at_once(self, make: Make) -> None:
        keeper = Keeper()
        here = await begin(make(lease=60.0), Keeper(names=()))  # it does not take it back itself
        await begin(make(lease=60.0), keeper)
        lease = await lease_of(here, "a")
        await here.release(lease)
        await keeper.until(lambda: bool(keeper.taken))
        [taken] = keeper.taken
        assert (taken.ticket, taken.attempt, taken.crashes) == (ticket("a"), 2, 0)
        assert taken.fence > lease.fence

    async def test_leases_are_let_go_of_at_once_and_each_for_itself(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry: Any = await begin(make())
        await asyncio.gather(*(lease_of(registry, f"r{n}", f"t{n}") for n in range(20)))
        run, waiting, together = registry._store.run, 0, asyncio.Event()

        async def stay_away(script: str, thread: str, *arguments: Any) -> Any:
            nonlocal waiting
            if script != lua.RELEASE:
                return await run(script, thread, *arguments)
            waiting += 1
            if waiting == 20:
                together.set()
            await together.wait()
            raise LogFailed("on purpose")

        monkeypatch.setattr(registry._store, "run", stay_away)
        async with asyncio.timeout(5):
            await registry.close()
        assert waiting == 20

    async def test_a_run_whose_holder_is_gone_is_taken_over_by_one(self, make: Make) -> None:
        registry = await begin(here := make())
        lease = await lease_of(registry, "a")
        await die(registry)
        keepers = [Keeper() for _ in range(4)]
        logs = [make() for _ in keepers]
        for log, keeper in zip(logs, keepers, strict=True):
            await begin(log, keeper)
        async with asyncio.timeout(5):
            tasks = [asyncio.create_task(keeper.told.wait()) for keeper in keepers]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.5)  # nobody else takes it, too
        for task in tasks:
            task.cancel()
        [taken] = [lease for keeper in keepers for lease in keeper.taken]
        assert (taken.attempt, taken.crashes) == (2, 1)
        assert not lease.is_held
        with pytest.raises(LeaseLost):
            await here.append("t", "a", [delta()], fence=lease.fence)
        with pytest.raises(LeaseLost):
            await here.registry().finish(lease, END, interrupted=False)

    async def test_who_takes_a_run_back_begins_a_new_attempt(self, make: Make) -> None:
        keeper = Keeper()
        registry = await begin(make(), keeper)
        lease = await lease_of(registry, "a")
        registry._held.clear()  # type: ignore[attr-defined]  # it could not renew it
        await keeper.until(lambda: bool(keeper.taken))
        [taken] = keeper.taken
        assert (taken.attempt, taken.crashes) == (2, 1)
        assert taken.fence > lease.fence
        assert taken.is_held

    async def test_who_cannot_renew_a_lease_stops_before_it_ends(self, make: Make) -> None:
        keeper = Keeper()
        log = make(patience=0.1)
        lease = await lease_of(await begin(log, keeper), "a")
        began = asyncio.get_running_loop().time()

        async def fail(*_: Any) -> Any:
            raise LogFailed("Redis is away")

        log._server.call = fail  # type: ignore[attr-defined]
        await keeper.until(lambda: keeper.lost == ["me/a"])
        assert not lease.is_held
        assert asyncio.get_running_loop().time() - began < 1.1

    async def test_who_waits_for_renewals_stops_before_the_lease_ends(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keeper = Keeper()
        registry = await begin(log := make(), keeper)
        leases = [await lease_of(registry, str(number), f"t{number}") for number in range(20)]
        began, go_on = asyncio.get_running_loop().time(), asyncio.Event()
        run = log._server.run  # type: ignore[attr-defined]

        async def hang(script: str, *given: Any) -> Any:
            if script == lua.RENEW:
                await go_on.wait()
            return await run(script, *given)

        monkeypatch.setattr(log._server, "run", hang)  # type: ignore[attr-defined]
        await keeper.until(lambda: len(keeper.lost) == 20)
        assert asyncio.get_running_loop().time() - began < 1.0
        assert not any(lease.is_held for lease in leases)
        go_on.set()

    async def test_a_graph_that_is_not_served_here_is_left_to_others(self, make: Make) -> None:
        registry = await begin(make())
        lease = await lease_of(registry, "a")
        await die(registry)
        strange = Keeper(names=("other",))
        await begin(make(), strange)
        await asyncio.sleep(1.5)
        assert strange.taken == []
        keeper = Keeper()
        await begin(make(), keeper)
        await keeper.until(lambda: bool(keeper.taken))
        assert lease.ticket.graph == "g"

    async def test_runs_that_can_be_served_do_not_wait_behind_others(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_registry, "_CLAIMED", 4)
        registry = await begin(make())
        shard = crc32(b"t") % 16
        threads = [f"t{n}" for n in range(500) if crc32(f"t{n}".encode()) % 16 == shard]
        for number, thread in enumerate(threads):
            other = replace(ticket(f"r{number}", thread), graph="other")
            assert (await registry.admit(other, "reject", 0)).lease is not None
        await lease_of(registry, "a")
        await die(registry)
        keeper = Keeper()
        await begin(make(), keeper)
        await keeper.until(lambda: bool(keeper.taken))
        assert [lease.ticket.run_id for lease in keeper.taken] == ["a"]

    async def test_a_run_that_cannot_be_read_is_left_to_others(self, make: Make) -> None:
        registry = await begin(make())
        await lease_of(registry, "a")
        await admit(registry, "b")
        await die(registry)
        strange, keeper = Strange(), Keeper()
        await begin(make(), strange)
        await strange.until(lambda: strange.asked > 0)
        await begin(log := make(), keeper)
        await keeper.until(lambda: bool(keeper.taken))
        [taken] = keeper.taken
        assert (taken.ticket, taken.attempt, taken.crashes) == (ticket("a"), 2, 1)
        assert strange.taken == []
        assert await read_all(log, "t") == []

    async def test_a_run_that_nobody_can_read_is_lost(self, make: Make) -> None:
        registry = await begin(log := make(lease=0.5))
        lease = await lease_of(registry, "a")
        await admit(registry, "b")
        await log.append(
            "t", "a", [started("a"), MessageStarted(message_id="m")], fence=lease.fence
        )
        await die(registry)
        strange = Strange(unread=["a"])
        began = asyncio.get_running_loop().time()
        await begin(make(lease=0.5), strange)
        await strange.until(lambda: bool(strange.taken))
        assert asyncio.get_running_loop().time() - began > 2.5
        [taken] = strange.taken
        assert taken.ticket == ticket("b")
        *_, message, failed, finished = frames_of(await read_all(log, "t"))
        assert message == MessageFinished(message_id="m", status="failed")
        assert isinstance(failed, RunFailed)
        assert (failed.code, failed.retryable) == ("lost", False)
        assert finished == RunFinished(status="lost")

    async def test_a_queued_run_that_cannot_be_read_hurts_no_other(self, make: Make) -> None:
        strange, keeper = Strange(unread=["b"]), Keeper()
        registry = await begin(make(), strange)
        lease = await lease_of(registry, "a")
        await admit(registry, "b")
        assert await registry.finish(lease, END, interrupted=False) is None
        await begin(make(), keeper)
        await keeper.until(lambda: bool(keeper.taken))
        [taken] = keeper.taken
        assert (taken.ticket, taken.attempt, taken.crashes) == (ticket("b"), 1, 0)

    async def test_what_is_let_go_of_takes_no_room(self, make: Make) -> None:
        log = make(retention=Retention(total_bytes=50_000))
        registry = await begin(log, Keeper(names=()))
        for number in range(2):
            lease = await lease_of(registry, str(number), f"t{number}")
            big = delta("x" * 60_000)
            await log.append(f"t{number}", str(number), [big], fence=lease.fence)
            assert not log.has_room()
            if number == 0:
                await registry.release(lease)
            else:
                registry._lose(lease)  # type: ignore[attr-defined]
            assert log.has_room()

    async def test_a_wiped_redis_is_told_what_is_carried(
        self, make: Make, request: pytest.FixtureRequest
    ) -> None:
        keeper = Keeper()
        log, other = make(), make()
        registry = await begin(log, keeper)
        lease = await lease_of(registry, "a")
        old = await log.append("t", "a", [started("a"), delta()], fence=lease.fence)
        shared(request).wipe()
        new = await log.append("t", "a", [delta()], fence=lease.fence)
        assert new.epoch != old.epoch
        assert await places(other.registry()) == [("a", None)]
        assert await other.registry().where("me/a") == Where("t", "id t")
        view = (await other.view("t"))[1]
        assert view.runs["a"].started == started("a")
        assert await registry.finish(lease, END, interrupted=False) is None
        assert seqs(await read_all(other, "t", new)) == [new.seq + 1]
        assert keeper.lost == []

    async def test_a_wiped_redis_is_told_though_somebody_follows_the_thread(
        self, make: Make, request: pytest.FixtureRequest
    ) -> None:
        log, other = make(), make()
        registry = await begin(log)
        lease = await lease_of(registry, "a")
        await log.append("t", "a", [started("a"), delta()], fence=lease.fence)
        shared(request).wipe()
        wakes = Wakes()
        follower = await other.follow("t", None, wakes)
        new = await log.append("t", "a", [delta()], fence=lease.fence)
        assert (await other.view("t"))[1].runs["a"].started == started("a")
        assert seqs(await read_all(other, "t", Position(new.epoch, new.seq - 1))) == [new.seq]
        await wakes.reach(1)
        with pytest.raises(GapError):
            follower.read(ALL)

    async def test_a_fence_is_not_used_again_in_a_redis_that_was_wiped(
        self, make: Make, request: pytest.FixtureRequest
    ) -> None:
        log, other = make(), make()
        lease = await lease_of(await begin(log), "a")
        shared(request).wipe()
        new = await lease_of(await begin(other), "b")
        assert new.fence > lease.fence
        with pytest.raises(LeaseLost):
            await log.append("t", "a", [delta()], fence=lease.fence)

    async def test_owners_that_race_leave_a_log_without_hole_or_double(self, make: Make) -> None:
        chance = random.Random(3)
        first = make(lease=0.5)
        registry = await begin(first)
        await lease_of(registry, "a")
        await die(registry)
        logs = [make(lease=0.5) for _ in range(8)]
        done = asyncio.Event()

        async def race(log: ThreadLog) -> None:
            keeper = Keeper()
            await begin(log, keeper)
            while not done.is_set():
                await keeper.until(lambda: bool(keeper.taken))
                lease = keeper.taken.pop()
                with contextlib.suppress(LeaseLost):
                    while not done.is_set():
                        if chance.random() < 0.1:
                            await log.registry().release(lease)
                        text = delta(str(lease.fence))
                        position = await log.append("t", "a", [text], fence=lease.fence)
                        if position.seq >= 400:
                            done.set()

        racers = [asyncio.create_task(race(log)) for log in logs]
        await asyncio.wait(racers, timeout=40, return_when=asyncio.FIRST_COMPLETED)
        for racer in racers:
            racer.cancel()
        await asyncio.gather(*racers, return_exceptions=True)
        entries = await read_all(first, "t")
        assert seqs(entries) == list(range(1, len(entries) + 1))
        told = [int(frame.text) for frame in frames_of(entries)]  # type: ignore[union-attr]
        assert told == sorted(told)
        assert len(told) >= 400
        assert len(set(told)) > 1


@pytest.mark.parametrize("make", ["redis"], indirect=True)
async def test_corrupt_runs_are_told(make: Make, server: RedisServer) -> None:
    registry = await begin(log := make())
    await lease_of(registry, "a")
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        [own] = await redis.keys(f"{log._prefix}:*:own")  # type: ignore[attr-defined]
        await redis.hset(own, "i:me/a", "no JSON")
        [where] = await redis.keys(f"{log._prefix}:*:run:*")  # type: ignore[attr-defined]
        for odd in ("[]", "5", "null", "}{"):
            await redis.set(where, odd)
            with pytest.raises(LogFailed, match="corrupt"):
                await registry.where("me/a")
    with pytest.raises(LogFailed, match="corrupt"):
        await registry.live("t")
