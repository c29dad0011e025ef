"""What reads and writes a thread at the same time: whatever comes first, the same holds.

Every operation stops before and after each call of Redis (see `interleave`). Operations of one
process share what it holds of the thread; those of two share only Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, cast

import pytest

from langgraph_ws.errors import GapError, LeaseLost, LogClosed
from langgraph_ws.frames import BlockStarted, Frame, MessageStarted, RunFinished
from langgraph_ws.log import TERMINAL, Entry, Follower, Position, Retention
from langgraph_ws.log.redis import RedisThreadLog
from langgraph_ws.log.redis_reader import Reader
from langgraph_ws.log.redis_server import Server
from langgraph_ws.log.redis_thread import stream_entry
from langgraph_ws.log.registry import Admission, Admitted, Lease, Standing, Ticket
from langgraph_ws.view import ThreadView
from tests.interleave import THOROUGHLY, Gates, Operation, at_gates, explore
from tests.log_suite import ALL, Wakes, delta, ending, folded, frames_of, seqs, started, whole_run
from tests.servers import RedisServer, redis_server
from tests.test_registry import Keeper

_OLD = 4
"""The last entry of the run that ended before the others began."""
_prefixes = count()
_threads = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(autouse=True)
def gates_before_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Server.call

    async def gated(self: Server, *arguments: Any, **options: Any) -> Any:
        async with at_gates("redis"):
            return await call(self, *arguments, **options)

    monkeypatch.setattr(Server, "call", gated)


Make = Callable[..., RedisThreadLog]


@pytest.fixture
async def make(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Logs in one Redis, whose readers and sweepers do nothing by themselves."""
    monkeypatch.setattr(Reader, "_begin", lambda _: True)
    prefix = f"p{next(_prefixes)}"
    logs: list[RedisThreadLog] = []

    def make(retention: Retention | None = None) -> RedisThreadLog:
        log = RedisThreadLog(server.url, prefix=prefix, retention=retention, lease=60.0)
        cast("Any", log.registry())._keeper = Keeper()
        logs.append(log)
        return log

    yield make
    for log in logs:
        await log.close()


# --- a thread, and what is done with it -------------------------------------------------------


def current() -> str:
    """The operation that asks."""
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


@dataclass
class Written:
    """Frames that were given to the log; `last`: the position of the last, if it took them."""

    by: str
    run_id: str
    frames: Sequence[Frame]
    last: int | None = None
    is_refused: bool = False

    def entries(self) -> dict[int, tuple[str, Frame]]:
        if self.last is None:
            return {}
        first = self.last - len(self.frames) + 1
        return {first + n: (self.run_id, frame) for n, frame in enumerate(self.frames)}


@dataclass
class Followed:
    """What somebody reads who follows the thread; `after`: where it began."""

    by: str
    log: RedisThreadLog
    follower: Follower
    after: int
    wakes: Wakes
    read: list[Entry] = field(default_factory=list)
    is_closed: bool = False


@dataclass
class Seen:
    """What an operation was told of the thread."""

    by: str
    position: Position
    view: ThreadView | None = None


def reader_of(log: RedisThreadLog) -> Reader:
    """The one reader of a process."""
    return log._reader._of(log._bell)


class Reading:
    """What a reader asks Redis for, without waiting for news."""

    def __init__(self, log: RedisThreadLog) -> None:
        self._redis = log._server._link.redis

    async def xread(self, streams: Any, count: int, block: int) -> Any:
        async with at_gates("redis"):
            return await self._redis.xread(streams, count=count)


@dataclass
class World:
    """A thread with a run that ended (`old`), one that is active (`a`) and one that waits (`w`).

    Attributes:
        here: The log of the process that carries the active run.
        there: That of another.
        name: The key of the thread.
        gates: Where the operations wait.
    """

    here: RedisThreadLog
    there: RedisThreadLog
    name: str
    gates: Gates
    epoch: str = ""
    lease: Lease = field(init=False)
    written: list[Written] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    gaps: list[tuple[GapError, int]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    admitted: dict[str, list[Admitted]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    leases: list[Lease] = field(default_factory=list)
    withdrawn: list[bool] = field(default_factory=list)
    is_closing: bool = False
    busy: dict[RedisThreadLog, asyncio.Lock] = field(default_factory=dict)

    def ticket(self, run: str, thread: str | None = None) -> Ticket:
        key = thread or self.name
        return Ticket(run=f"{self.name}/{run}", thread=key, thread_id=key, graph="g", work=run)

    def standing(self, run: str) -> Standing:
        return Standing(ticket=self.ticket(run))

    async def begin(self, *, is_followed: bool) -> None:
        """Make the thread, and have clients follow it in both processes."""
        old = await self.here.append(self.name, "old", whole_run("old", delta("in old")))
        assert old.seq == _OLD
        self.epoch = old.epoch
        await self.admit(self.here, "a", "reject")
        [self.lease] = self.leases
        opening: list[Frame] = [
            started("a"),
            MessageStarted(message_id="m"),
            BlockStarted(message_id="m", index=0, kind="text"),
            delta("first"),
        ]
        await self.append(self.here, "a", opening, self.lease.fence)
        await self.admit(self.here, "w", "enqueue")
        if is_followed:
            for log in (self.here, self.there):
                await self.follow(log, 6)

    async def append(
        self, log: RedisThreadLog, run_id: str, frames: Sequence[Frame], fence: int | None = None
    ) -> bool:
        """Write frames; whether the log took them."""
        written = Written(current(), run_id, frames)
        self.written.append(written)
        try:
            written.last = (await log.append(self.name, run_id, frames, fence=fence)).seq
        except LeaseLost:
            written.is_refused = True
        return not written.is_refused

    async def follow(
        self, log: RedisThreadLog, after: int, *, rewind: bool = False, closes: bool = False
    ) -> None:
        wakes = Wakes()
        position = Position(self.epoch, after) if after else None
        try:
            follower = await log.follow(self.name, position, wakes, rewind=rewind)
        except GapError as gap:
            self.gaps.append((gap, _OLD + 1 if rewind else after + 1))
            return
        assert follower.position.seq == (_OLD if rewind else after)
        followed = Followed(current(), log, follower, follower.position.seq, wakes)
        self.followed.append(followed)
        self.read(followed)
        wakes.count = 0
        if closes:
            follower.close()
            followed.is_closed = True

    def read(self, followed: Followed) -> None:
        try:
            followed.read += followed.follower.read(ALL)
        except GapError as gap:
            next_one = followed.after + len(followed.read) + 1
            self.gaps.append((gap, next_one))
            followed.follower.close()
            followed.is_closed = True

    async def admit(self, log: RedisThreadLog, run: str, how: Admission) -> None:
        admitted = await log.registry().admit(self.ticket(run), how, 5)
        self.admitted.setdefault(run, []).append(admitted)
        if admitted.lease is not None:
            self.leases.append(admitted.lease)

    async def finish(self, log: RedisThreadLog, frames: Sequence[Frame]) -> None:
        try:
            lease = await log.registry().finish(
                self.lease, frames, interrupted=False if frames else None
            )
        except LeaseLost:
            return
        if not frames:
            self.refused.add("a")
        if lease is not None:
            self.leases.append(lease)

    async def release(self, log: RedisThreadLog) -> None:
        await log.registry().release(self.lease)

    async def withdraw(self, log: RedisThreadLog) -> None:
        frames: list[Frame] = [RunFinished(status="cancelled")]
        self.withdrawn.append(await log.registry().withdraw(self.standing("w"), frames))

    async def look(self, log: RedisThreadLog) -> None:
        epoch, _, head = await log.bounds(self.name)
        self.seen.append(Seen(current(), Position(epoch, head)))

    async def view(self, log: RedisThreadLog) -> None:
        self.seen.append(Seen(current(), *await log.view(self.name)))

    async def result(self, log: RedisThreadLog) -> None:
        assert frames_of(await log.result_of(self.name, "old")) == ending("old")
        assert frames_of(await log.result_of(self.name, "a")) in ([], ending("a"))

    async def start_of(self, log: RedisThreadLog) -> None:
        assert await log.start_of(self.name, "a") in (Position(self.epoch, _OLD), None)

    async def live(self, log: RedisThreadLog) -> None:
        live = await log.registry().live(self.name)
        places = [standing.place for standing in live]
        queue = [place for place in places if place is not None]
        assert queue == list(range(1, len(queue) + 1))
        assert places[: len(places) - len(queue)] in ([], [None])
        runs = [standing.ticket.run_id for standing in live]
        assert len(set(runs)) == len(runs)

    async def where(self, log: RedisThreadLog) -> None:
        where = await log.registry().where(self.ticket("w").run)
        assert where is not None
        assert where.thread == self.name

    async def renew(self, log: RedisThreadLog) -> None:
        async with self.alone(log):
            await cast("Any", log.registry())._renew(self.lease)

    async def claim(self, log: RedisThreadLog) -> None:
        keeper = cast("Keeper", cast("Any", log.registry())._keeper)
        keeper.taken.clear()
        async with self.alone(log):
            await cast("Any", log.registry())._claim(self.name)
        self.leases += keeper.taken

    async def read_once(self, log: RedisThreadLog) -> None:
        async with self.alone(log):
            reader = reader_of(log)
            reader._followed()
            await reader._read_once(cast("Any", Reading(log)))

    async def compare(self, log: RedisThreadLog) -> None:
        async with self.alone(log):
            local = log._threads.get(self.name)
            if local is not None and local.followers:
                await log._check(local)

    async def cut(self, log: RedisThreadLog) -> None:
        """Cancel the first operation."""
        self.gates.cancel(next(iter(self.gates.outcomes)))

    async def close(self, log: RedisThreadLog) -> None:
        self.is_closing = True
        await log.close()

    def end(self) -> None:
        for followed in self.followed:
            followed.follower.close()
        for log in (self.here, self.there):
            reader_of(log)._followed()

    def alone(self, log: RedisThreadLog) -> asyncio.Lock:
        """Of what a process does by itself, it does one thing at a time."""
        return self.busy.setdefault(log, asyncio.Lock())

    # -- what holds afterwards -----------------------------------------------------------------

    async def check(self, judge: RedisThreadLog) -> None:
        for name, outcome in self.gates.outcomes.items():
            if isinstance(outcome, asyncio.CancelledError) and name in self.gates.cancelled:
                continue
            if isinstance(outcome, LogClosed) and self.is_closing:
                continue
            if isinstance(outcome, BaseException):
                raise outcome
        epoch, first, head = await judge.bounds(self.name)
        held = await self._held(judge, first)
        assert epoch == self.epoch
        assert seqs(held) == list(range(first, head + 1))
        entries = self._all(held)
        assert list(entries) == list(range(1, head + 1))
        for written in self.written:
            assert written.last is None or not written.is_refused
            if written.is_refused:
                assert not [frame for _, frame in entries.values() if frame in written.frames]
        for log in {self.here} if self.is_closing else {self.here, self.there}:
            for followed in self.followed:
                if followed.log is log and not followed.is_closed:
                    await self._catch_up(followed, head)
            await self.view(log)
        self._check_followers(held, head)
        self._check_seen(entries)
        await self._check_runs(judge, [*entries.values()])
        if not self.gates.cancelled and not self.is_closing:
            await self._check_leases(judge)

    async def _catch_up(self, followed: Followed, head: int) -> None:
        """Do what a reader does before long."""
        await self.compare(followed.log)
        for _ in range(2):
            if followed.follower.position.seq + followed.follower.lag < head:
                await self.read_once(followed.log)

    async def _held(self, judge: RedisThreadLog, first: int) -> list[Entry]:
        log = judge._keys(self.name)[1]
        found: Any = await judge._server._link.redis.xrange(log, min=str(first))
        return [stream_entry(name, fields) for name, fields in found]

    def _all(self, held: Sequence[Entry]) -> dict[int, tuple[str, Frame]]:
        """Every entry that there ever was, also of those that are held no more."""
        entries = {entry.seq: (entry.run_id, entry.frame) for entry in held}
        for written in self.written:
            for seq, entry in written.entries().items():
                assert entries.setdefault(seq, entry) == entry
        for number, frame in enumerate(whole_run("old", delta("in old")), 1):
            entries.setdefault(number, ("old", frame))
        return dict(sorted(entries.items()))

    def _known_before(self, by: str) -> int:
        """The last entry that was in the log before an operation asked Redis for anything."""
        began, _ = self.gates.shared.get(by, (len(self.gates.schedule), 0))
        return max(
            written.last or 0
            for written in self.written
            if self.gates.shared.get(written.by, (0, -1))[1] < began
        )

    def _check_followers(self, held: Sequence[Entry], head: int) -> None:
        first = held[0].seq if held else head + 1
        for gap, needed in self.gaps:
            assert gap.reason == "trimmed"
            assert needed < first, "it could have been resumed from"
        for followed in self.followed:
            was_closed = followed.is_closed or (self.is_closing and followed.log is self.there)
            if not was_closed:
                lag = followed.follower.lag
                self.read(followed)
                assert followed.wakes.count > 0 or lag == 0, "it was not woken"
                followed.follower.close()
            read = followed.read
            last = followed.after + len(read)
            assert seqs(read) == list(range(followed.after + 1, last + 1))
            told = [(e.seq, e.run_id, e.time_ms, e.frame) for e in read if e.seq >= first]
            kept = [(e.seq, e.run_id, e.time_ms, e.frame) for e in held]
            assert told == [entry for entry in kept if followed.after < entry[0] <= last]
            if not was_closed and not followed.is_closed:
                assert last == head
            elif followed.by in self.gates.shared and not self.is_closing:
                assert last >= self._known_before(followed.by)

    def _check_seen(self, entries: dict[int, tuple[str, Frame]]) -> None:
        for seen in self.seen:
            assert seen.position.epoch == self.epoch
            assert self._known_before(seen.by) <= seen.position.seq <= len(entries)
            if seen.view is not None:
                so_far = [entry for seq, entry in entries.items() if seq <= seen.position.seq]
                assert seen.view == folded(so_far)

    async def _check_runs(
        self, judge: RedisThreadLog, entries: Sequence[tuple[str, Frame]]
    ) -> None:
        live = [s.ticket.run_id for s in await judge.registry().live(self.name)]
        assert len(set(live)) == len(live)
        for run, outcomes in self.admitted.items():
            ends = [f for r, f in entries if r == run and isinstance(f, RunFinished)]
            is_taken = any(o.lease or o.standing for o in outcomes)
            known = len(ends) + live.count(run)
            assert known in (is_taken, 0 if run in self.refused else is_taken), (run, ends, live)
            if known and run not in ("a", "w"):
                assert (await judge.registry().where(self.ticket(run).run)) is not None, run
        for run in {run for run, frame in entries if isinstance(frame, RunFinished)}:
            frames = [frame for other, frame in entries if other == run]
            kept = [frame for frame in frames if isinstance(frame, TERMINAL)]
            assert frames_of(await judge.result_of(self.name, run)) == kept
            assert isinstance(frames[-1], RunFinished)
        assert sum(self.withdrawn) <= 1
        if any(self.withdrawn):
            assert "w" not in live

    async def _check_leases(self, judge: RedisThreadLog) -> None:
        own = judge._keys(self.name)[4]
        stored = await judge.command(own.decode(), "HMGET", own, "f", "act", "o", "lx")
        fence, active, owner, ends = (text.decode() if text else "" for text in stored)
        current = [lease for lease in self.leases if str(lease.fence) == fence]
        held = [
            (str(lease.fence), lease.ticket.run)
            for log in (self.here, self.there)
            if (lease := cast("Any", log.registry())._held.get(self.name)) is not None
        ]
        if not active:
            assert (current, held, owner) == ([], [], "")
        elif owner:
            assert held == [(fence, active)]
            assert [lease.ticket.run for lease in current] == [active]
        else:
            assert (current, held) == ([], [])
            assert ends


Work = Callable[[World, RedisThreadLog], Awaitable[Any]]


def appends(size: int = 1, *, run: str = "a", fence: int | None = 0) -> Work:
    """Write so many frames; `fence`: what is added to the right one."""

    async def work(world: World, log: RedisThreadLog) -> None:
        frames = [delta(f"{n} by {current()}") for n in range(size)]
        given = None if fence is None else world.lease.fence + fence
        is_taken = await world.append(log, run, frames, given)
        assert is_taken or fence is not None
        assert not (is_taken and fence), "the fence was an old one"

    return work


def follow_from(after: int, **how: bool) -> Work:
    return lambda world, log: world.follow(log, after, **how)


def admits(how: Admission, run: str | None = None) -> Work:
    """Admit a run, by default one that nobody else admits."""
    return lambda world, log: world.admit(log, run or current().replace(":", "-"), how)


OF_HOLDER: dict[str, Work] = {
    "append": appends(),
    "append-many": appends(14),
    "finish": lambda world, log: world.finish(log, ending("a")),
    "refuse": lambda world, log: world.finish(log, []),
    "release": World.release,
    "renew": World.renew,
    "admit-same": admits("enqueue", "s"),
}
"""What only one process does, most of it because it carries the active run."""
CHANGES: dict[str, Work] = {
    "append-stale": appends(fence=-1),
    "append-unfenced": appends(run="u", fence=None),
    "admit-enqueue": admits("enqueue"),
    "admit-reject": admits("reject"),
    "admit-interrupt": admits("interrupt"),
    "withdraw": World.withdraw,
    "stop": lambda world, log: log.registry().stop(world.standing("a")),
    "claim": World.claim,
}
READS: dict[str, Work] = {
    "follow-all": follow_from(0),
    "follow-old": follow_from(6),
    "follow-rewind": follow_from(7, rewind=True),
    "follow-close": follow_from(6, closes=True),
    "view": World.view,
    "result": World.result,
    "bounds": World.look,
    "start-of": World.start_of,
    "live": World.live,
    "where": World.where,
    "read": World.read_once,
    "compare": World.compare,
}
ELSEWHERE: dict[str, Work] = {
    "admit-rollback": admits("rollback"),
    "admit-same-or-not": admits("reject", "s"),
    "admit-again": admits("enqueue", "a"),
}
"""What is done in another process only: a process admits a run once at a time."""
WORKS = OF_HOLDER | CHANGES | READS | ELSEWHERE | {"cut": World.cut, "close": World.close}
WRITES = ("append", "append-many", "append-unfenced", "finish", "admit-interrupt", "withdraw")
SMALL = Retention(entries=12, thread_bytes=2_000)


class Explorer:
    """Explores what is done at the same time in two processes."""

    def __init__(self, make: Make, retention: Retention | None = None) -> None:
        self._make = make
        self._here, self._there, self._judge = (make(retention) for _ in range(3))

    async def explore(self, *works: str, is_followed: bool, most: int, at_random: int = 0) -> None:
        """Explore operations, each given by its name and its process."""

        async def carry_out(gates: Gates) -> None:
            there = self._make() if "close there" in works else self._there
            world = World(self._here, there, f"t{next(_threads)}", gates)
            await world.begin(is_followed=is_followed)
            try:
                await gates.run(_operations(world, works))
                await world.check(self._judge)
            finally:
                world.end()
                if there is not self._there:
                    await there.close()

        if THOROUGHLY:
            most, at_random = 60, 15
        found = await explore(", ".join(works), carry_out, most=most, at_random=at_random)
        assert found.schedules > 0


def _operations(world: World, works: Sequence[str]) -> dict[str, Operation]:
    operations = {}
    for number, (name, _, home) in enumerate(work.partition(" ") for work in works):
        log = world.here if home == "here" else world.there
        operations[f"{name}:{number}"] = Operation(home, partial(WORKS[name], world, log))
    return operations


@pytest.fixture
def explorer(make: Make) -> Explorer:
    return Explorer(make)


def partners(name: str) -> list[str]:
    """What is done at the same time as something else; reading hurts no reading."""
    names = list(OF_HOLDER | CHANGES | READS)
    return names[names.index(name) :]


@pytest.mark.parametrize("name", OF_HOLDER | CHANGES)
async def test_two_at_once(name: str, explorer: Explorer) -> None:
    for number, other in enumerate(partners(name)):
        matters = name in WRITES or other in WRITES
        for is_followed in (False, True) if THOROUGHLY else (bool(number % 2),):
            await explorer.explore(
                *(f"{name} here", f"{other} here"),
                is_followed=is_followed,
                most=1,
                at_random=int(matters),
            )
            if other not in OF_HOLDER:
                await explorer.explore(
                    *(f"{name} here", f"{other} there"),
                    is_followed=is_followed,
                    most=2 if matters else 1,
                )


@pytest.mark.parametrize("other", [name for name in CHANGES | READS if name != "withdraw"])
async def test_two_at_once_while_the_log_is_trimmed(other: str, make: Make) -> None:
    explorer = Explorer(make, SMALL)
    reads_on = other.startswith("follow")
    for home in ("here", "there"):
        for is_followed in (False, True) if reads_on else (True,):
            await explorer.explore(
                *("append-many here", f"{other} {home}"),
                is_followed=is_followed,
                most=8 if reads_on else 2,
            )


@pytest.mark.parametrize(
    "works",
    [
        ("admit-same here", "admit-same-or-not there"),
        ("refuse here", "admit-again there"),
        ("append here", "follow-old there", "read there"),
        ("append here", "follow-all there", "compare there"),
        ("append-many here", "view there", "view there"),
        ("append here", "finish here", "view there"),
        ("finish here", "stop there", "admit-interrupt there"),
        ("finish here", "withdraw there", "admit-enqueue there"),
        ("finish here", "withdraw here", "withdraw there"),
        ("refuse here", "admit-again there", "where there"),
        ("release here", "claim there", "append here"),
        ("release here", "claim there", "claim here"),
        ("release here", "claim there", "renew here"),
        ("admit-interrupt here", "admit-rollback there", "finish here"),
        ("admit-interrupt here", "admit-interrupt there", "withdraw there"),
    ],
    ids=" ".join,
)
async def test_some_at_once(works: tuple[str, ...], explorer: Explorer) -> None:
    await explorer.explore(*works, is_followed=True, most=24 if len(works) < 3 else 5, at_random=4)


@pytest.mark.parametrize("name", ["append", "finish", "admit-same", "follow-all", "view", "claim"])
async def test_one_that_is_cancelled(name: str, explorer: Explorer) -> None:
    for other in ("append", "read"):
        await explorer.explore(
            f"{name} here", "cut here", f"{other} here", is_followed=True, most=2, at_random=3
        )


@pytest.mark.parametrize("name", [name for name in CHANGES | READS if name != "read"])
async def test_a_log_that_is_closed(name: str, explorer: Explorer) -> None:
    await explorer.explore(f"{name} there", "close there", is_followed=True, most=2, at_random=1)
