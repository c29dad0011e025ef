"""The thread log in memory: the common suite, and what is its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_ws.errors import GapError, LogClosed
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    BlockFinished,
    BlockStarted,
    Custom,
    Frame,
    InterruptAnswered,
    Interrupted,
    MessageFinished,
    MessageStarted,
    RolledBack,
    RunFinished,
    RunResult,
    Source,
    Sources,
)
from langgraph_ws.log import Bounds, Entry, Position, Retention, ThreadLog
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.log.memory_entries import Pack, Strand
from langgraph_ws.messages import Block, Place
from langgraph_ws.view import ThreadView
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

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


def create(retention: Retention, clock: Clock) -> ThreadLog:
    return MemoryThreadLog(retention, clock=clock)


class TestSuite(ThreadLogSuite):
    """The common suite over the log in memory."""

    def create(self, retention: Retention, clock: Clock) -> ThreadLog:
        return create(retention, clock)

    async def lose(self, log: ThreadLog, clock: Clock) -> ThreadLog:
        await log.close()
        return create(Retention(), clock)


TestMachine = log_machine(create).TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Payload(dict[str, Any]):
    """Data whose end can be seen."""


class Incomparable(dict[str, Any]):
    """Data that raises when it is compared, as arrays do."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


def custom(place: object) -> Custom:
    return Custom(name="custom", data=place)


def message(name: str, size: int) -> MessageFinished:
    return MessageFinished(message_id=name, content=({"type": "text", "text": "x" * size},))


async def message_ids(log: ThreadLog, run_id: str, thread: str = "t") -> list[str]:
    _, view = await log.view(thread)
    return [message.message_id for message in view.runs[run_id].messages]


def interrupted_run(run_id: str, *names: str, size: int = 10) -> list[Frame]:
    asks = [Interrupted(interrupt_id=name, value="x" * size) for name in names]
    return [started(run_id), *asks, RunFinished(status="interrupted")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make(clock: Clock) -> AsyncIterator[Callable[..., MemoryThreadLog]]:
    logs: list[MemoryThreadLog] = []

    def make(**limits: Any) -> MemoryThreadLog:
        log = MemoryThreadLog(Retention(**limits), clock=clock)
        logs.append(log)
        return log

    yield make
    for log in logs:
        await log.close()


async def test_entries_of_a_run_that_ended_are_packed_and_read_as_before(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(finished_s=1_000.0)
    for number in range(3):
        said = [*map(custom, range(150)), *(delta(str(place)) for place in range(150))]
        await log.append("t", f"r{number}", whole_run(f"r{number}", *said))
    before = await read_all(log, "t")
    record, size = log._threads["t"], log.size()
    clock.now += 11
    while log._pack(clock.now):
        pass
    kept = Counter(type(entry) for entry in {id(e): e for e in record.entries.values()}.values())
    assert kept == {Pack: 12, Strand: 9}
    after = await read_all(log, "t")
    assert [(e.seq, e.run_id, e.time_ms, e.frame) for e in after] == [
        (e.seq, e.run_id, e.time_ms, e.frame) for e in before
    ]
    assert log.size() == size
    assert (await read_all(log, "t"))[-1] is after[-1]  # the last packs stay open
    await log.append("t", "r3", [started("r3")])
    clock.now += 1_000
    await log.append("u", "r4", [started("r4")])
    assert log.size().entries == 2


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["m", "n"]),
            st.integers(0, 1),
            st.text(max_size=3) | st.just("\ud83d"),
            st.sampled_from([0, 5, 2**53, -1]),
        ),
        min_size=2,
        max_size=12,
    )
)
def test_deltas_are_read_as_they_were_whatever_they_say(
    pieces: list[tuple[str, int, str, int]],
) -> None:
    frames = [
        BlockDelta(message_id=message, index=index, kind="text", text=text, offset=offset)
        for message, index, text, offset in pieces
    ]

    async def keep() -> list[Frame]:
        clock = Clock()
        log = MemoryThreadLog(clock=clock)
        await log.append("t", "r", whole_run("r", *frames))
        clock.now += 11
        while log._pack(clock.now):
            pass
        kept = [entry.frame for entry in await read_all(log, "t")]
        await log.close()
        return kept

    kept = asyncio.run(keep())
    assert [frame for frame in kept if isinstance(frame, BlockDelta)] == frames


async def test_packs_are_small(make: Callable[..., MemoryThreadLog], clock: Clock) -> None:
    log = make()
    texts = ["\u00fc" * 10_000] * 20 + ["x" * 200_000] + ["x"] * 200
    await log.append("t", "r", whole_run("r", *map(custom, texts)))
    before = await read_all(log, "t")
    clock.now += 11
    while log._pack(clock.now):
        pass
    packs = {id(e): e for e in log._threads["t"].entries.values() if isinstance(e, Pack)}
    assert len(packs) > 10
    for pack in packs.values():
        assert len(pack.sizes) <= 64
        assert len(pack._json) <= 64 * 1024
    assert [entry.frame for entry in await read_all(log, "t")] == [e.frame for e in before]


async def test_packing_never_holds_the_loop_for_long(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make()
    for number in range(20):
        await log.append(f"t{number}", "r", whole_run("r", *map(custom, range(500))))
    clock.now += 11
    loop = asyncio.get_running_loop()
    log._sweep(loop)
    began, turns = loop.time(), 0
    while log._unpacked:
        await asyncio.sleep(0.001)
        turns += 1
        assert loop.time() - began < 10
    assert turns > 20


async def test_what_json_would_change_is_not_packed(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make()
    odd = [Custom(name="odd", data=data) for data in ({1: "one"}, {"a", "b"}, Incomparable())]
    await log.append("t", "r", whole_run("r", custom(1), *odd, custom(2)))
    clock.now += 11
    while log._pack(clock.now):
        pass
    frames = [entry.frame for entry in await read_all(log, "t")]
    assert all(mine is theirs for mine, theirs in zip(frames[2:5], odd, strict=True))
    assert isinstance(log._threads["t"].entries[1], Pack)
    assert isinstance(log._threads["t"].entries[6], Pack)


def said(place: int, text: str, *, at: int = 0) -> BlockDelta:
    """A delta of one of four blocks, made as a mapper makes them: of the same parts."""
    return BLOCKS[place].delta(text, at)


BLOCKS = [
    Block(message, index, "text", Place("node", (), "task"))
    for message in ("m", "n")
    for index in range(2)
]
OPENED: list[Frame] = [
    *(MessageStarted(message_id=name, role="assistant", task_id="task") for name in ("m", "n")),
    *(BlockStarted(message_id=b.message_id, index=b.index, kind="text") for b in BLOCKS),
]
OTHERS: list[Frame] = [
    AttemptStarted(attempt=2, rerun_task_ids=("task",), rollback_to=0),
    MessageFinished(message_id="m"),
    BlockStarted(message_id="n", index=0, kind="text"),
    BlockFinished(message_id="n", index=1, kind="text", block={"type": "text", "text": ""}),
    Custom(name="custom", data=None),
]


@settings(deadline=None)
@given(
    st.lists(
        st.builds(said, st.integers(0, 3), st.text(max_size=2)) | st.sampled_from(OTHERS),
        max_size=30,
    ),
    st.integers(1, 4),
)
def test_what_goes_on_with_the_delta_before_it_adds_up_to_the_same(
    frames: list[Frame], batch: int
) -> None:
    async def see() -> None:
        log = MemoryThreadLog()
        expected = ThreadView()
        follower = await log.follow("t", None, nothing)
        live: list[Frame] = []
        for start in range(0, len(frames) + len(OPENED), batch):
            some = [*OPENED, *frames][start : start + batch]
            await log.append("t", "r", some)
            for frame in some:
                expected.apply("r", frame)
            live += frames_of(follower.read(100))
            _, view = await log.view("t")
            assert view == expected.copy()
        assert live == [*OPENED, *frames] == frames_of(await read_all(log, "t"))
        await log.close()

    asyncio.run(see())


async def test_a_delta_makes_no_object_that_lives_on(
    make: Callable[..., MemoryThreadLog],
) -> None:
    log = make()
    await log.append("t", "r", [started(), *OPENED, said(0, "x")])
    gc.collect()
    before = len(gc.get_objects())
    for place in range(10_000 - 10):
        log.append_now("t", "r", [said(0, f"word {place}")])
    gc.collect()
    assert len(gc.get_objects()) - before < 2_000  # 12 for each strand of 64


async def test_a_delta_takes_about_what_is_said(make: Callable[..., MemoryThreadLog]) -> None:
    log = make()
    await log.append("t", "r", [started(), *OPENED, said(0, "x")])
    before = log.size().bytes
    tracemalloc.start()
    for place in range(5_000):
        log.append_now("t", "r", [said(0, f"word {place} ", at=place * 10 + 500)])
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken * 0.7 < log.size().bytes - before < taken * 1.4


async def test_a_strand_lets_go_of_what_is_dropped(make: Callable[..., MemoryThreadLog]) -> None:
    log = make(thread_bytes=100_000)
    await log.append("t", "r", [started(), *OPENED, said(0, "x")])
    tracemalloc.start()
    for place in range(200):
        log.append_now("t", "r", [said(1, str(place % 10) * 50_000)])
        log._threads["t"].fold.view.runs["r"].open["m"].blocks[1].parts.clear()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 300_000
    assert log.size().bytes < 100_000


async def test_who_was_left_behind_reads_a_strand_in_the_middle(
    make: Callable[..., MemoryThreadLog],
) -> None:
    log = make()
    await log.append("t", "r", [started(), *OPENED, said(0, "x")])
    for place in range(200):
        log.append_now("t", "r", [said(0, str(place), at=place)])
    epoch = (await log.bounds("t")).epoch
    for _ in range(2):
        follower = await log.follow("t", Position(epoch, 100), nothing)
        found = follower.read(20)
        assert [(e.seq, e.frame.text, e.frame.offset) for e in found] == [  # type: ignore[union-attr]
            (seq, str(seq - 9), seq - 9) for seq in range(101, 121)
        ]
    other = await log.follow("t", Position(epoch, 120), nothing)
    assert follower.read(1)[0] is other.read(1)[0]  # made once for all


async def test_a_run_that_was_dropped_goes_on_with_nothing(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(finished_s=1, result_s=2)
    await log.append("t", "r", [*whole_run("r"), said(0, "late")])
    await log.append("t", "r", [said(0, "later")])
    clock.advance(10)
    await log.append("t", "r", [said(0, "latest")])
    assert len(log._threads["t"].runs) == 1
    assert (await log.bounds("t"))[1:] == (1, 1)


def test_an_entry_shows_what_it_holds() -> None:
    assert repr(Entry(1, "r", 2, RunResult(text="hi"))).startswith("Entry(1, 'r', 2, RunResult(")


async def test_it_needs_no_arguments() -> None:
    log = MemoryThreadLog()
    await log.append("t", "r", whole_run("r"))
    assert seqs(await read_all(log, "t")) == [1, 2, 3]
    await log.close()


async def test_a_wake_that_raises_hurts_nobody(
    make: Callable[..., MemoryThreadLog], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("no")

    log = make()
    wakes = Wakes()
    await log.follow("t", None, broken)
    await log.follow("t", None, wakes)
    with caplog.at_level(logging.ERROR):
        assert (await log.append("t", "r", [delta()])).seq == 1
    assert wakes.count == 1
    assert "failed to wake" in caplog.text


async def test_a_wake_may_close_followers(make: Callable[..., MemoryThreadLog]) -> None:
    log = make()
    wakes = Wakes()

    def leave() -> None:
        first.close()
        second.close()

    first = await log.follow("t", None, leave)
    second = await log.follow("t", None, wakes)
    await log.append("t", "r", [delta()])
    assert wakes.count == 0


class Told(Wakes):
    """Is told the entries that come, and takes as many as it has room for."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.entries: list[Entry] = []

    def tell(self, entry: Entry) -> bool:
        if len(self.entries) == self.room:
            return False
        self.entries.append(entry)
        return True


async def test_who_has_read_everything_is_told_what_comes_next(
    make: Callable[..., MemoryThreadLog],
) -> None:
    log = make()
    frames = [*OPENED, *(said(0, str(number)) for number in range(6))]
    told, late = Told(room=3), Told(room=3)
    follower = await log.follow("t", None, told, tell=told.tell)
    await log.append("t", "r", frames[: len(OPENED) + 1])
    assert (told.count, told.entries) == (1, [])  # several at once are to be read
    behind = await log.follow("t", None, late, tell=late.tell)
    assert frames_of(follower.read(100)) == frames[: len(OPENED) + 1]
    for frame in frames[len(OPENED) + 1 :]:
        await log.append("t", "r", [frame])
    assert frames_of(told.entries) == frames[-5:-2]
    assert (told.count, late.count) == (3, 5)
    assert late.entries == []  # there was something to be read before
    assert follower.position.seq == len(frames) - 2
    assert frames_of(follower.read(100)) == frames[-2:]
    assert frames_of(behind.read(100)) == frames
    await log.append("t", "r", [said(0, "x")])
    assert frames_of(late.entries) == [said(0, "x")]
    assert behind.position == Position(follower.position.epoch, len(frames) + 1)


async def test_who_is_told_may_close_followers(make: Callable[..., MemoryThreadLog]) -> None:
    log = make()
    others = Told(room=9)

    def leave(entry: Entry) -> bool:
        for follower in followers:
            follower.close()
        return True

    await log.append("t", "r", [*OPENED, said(0, "a")])
    here = (await log.view("t"))[0]
    followers = [
        await log.follow("t", here, others, tell=tell) for tell in (leave, others.tell, None)
    ]
    await log.append("t", "r", [said(0, "b")])
    assert (others.count, others.entries) == (0, [])


async def test_who_is_told_and_raises_hurts_nobody(
    make: Callable[..., MemoryThreadLog], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(entry: Entry) -> bool:
        raise RuntimeError("no")

    log = make()
    await log.append("t", "r", [*OPENED, said(0, "a")])
    here, told = (await log.view("t"))[0], Told(room=9)
    follower = await log.follow("t", here, nothing, tell=broken)
    await log.follow("t", here, told, tell=told.tell)
    with caplog.at_level(logging.ERROR):
        await log.append("t", "r", [said(0, "b")])
    assert "failed to wake" in caplog.text
    assert frames_of(told.entries) == frames_of(follower.read(9)) == [said(0, "b")]


async def test_looking_at_threads_that_do_not_exist_leaves_nothing_behind(
    make: Callable[..., MemoryThreadLog],
) -> None:
    log = make()
    one = await log.follow("t", None, nothing)
    two = await log.follow("t", None, nothing)
    epoch = one.position.epoch
    assert two.position.epoch == epoch
    one.close()
    assert (await log.bounds("t")).epoch == epoch  # the other still follows
    two.close()
    assert (await log.follow("t", None, nothing)).position.epoch != epoch
    with pytest.raises(GapError):
        await log.follow("u", Position("e", 1), nothing)


async def test_a_thread_of_which_nothing_is_left_begins_anew(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(finished_s=1, result_s=10)
    old = await log.append("t", "r", whole_run("r"))
    clock.advance(10)
    assert (await log.bounds("t"))[1:] == (1, 0)
    assert (await gap(log, "t", old)).reason == "unknown"
    new = await log.append("t", "r", [started()])
    assert new.seq == 1
    assert new.epoch != old.epoch


async def test_a_followed_thread_is_not_forgotten(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(finished_s=1, result_s=10)
    follower = await log.follow("t", None, nothing)
    end = await log.append("t", "r", whole_run("r"))
    follower.read(ALL)
    clock.advance(10)
    assert await log.bounds("t") == Bounds(end.epoch, end.seq + 1, end.seq)
    assert await log.append("t", "r2", [started()]) == Position(end.epoch, end.seq + 1)
    assert seqs(follower.read(ALL)) == [end.seq + 1]


async def test_a_result_is_kept_at_least_as_long_as_the_frames(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(finished_s=60, result_s=5)
    await log.append("t", "r", whole_run("r"))
    clock.advance(59)
    assert len(await log.result_of("t", "r")) == 2
    assert len(await read_all(log, "t")) == 3
    clock.advance(1)
    assert await log.result_of("t", "r") == ()


async def test_the_messages_of_a_view_are_bounded(make: Callable[..., MemoryThreadLog]) -> None:
    log = make(thread_bytes=40_000)
    for number in range(3):
        await log.append("t", f"r{number}", whole_run(f"r{number}", message("m", 15_000)))
    assert [await message_ids(log, f"r{n}") for n in range(3)] == [[], ["m"], ["m"]]
    await log.append("t", "r3", [started("r3"), message("big", 50_000)])
    assert [await message_ids(log, f"r{n}") for n in range(4)] == [[], [], [], ["big"]]
    await log.append("t", "r3", [message("small", 10)])
    assert await message_ids(log, "r3") == ["small"]
    await log.append("t", "r3", [message("last", 10)])
    assert await message_ids(log, "r3") == ["small", "last"]


async def test_a_run_that_was_rolled_back_takes_no_room_in_the_view(
    make: Callable[..., MemoryThreadLog],
) -> None:
    log = make(thread_bytes=40_000)
    await log.append("t", "r0", whole_run("r0", message("m0", 15_000)))
    await log.append("t", "r1", whole_run("r1", message("m1", 15_000)))
    await log.append("t", "r2", [started("r2"), RolledBack(run_id="r1"), message("m2", 15_000)])
    assert await message_ids(log, "r0") == ["m0"]
    assert await message_ids(log, "r2") == ["m2"]
    _, view = await log.view("t")
    assert list(view.runs) == ["r0", "r2"]


async def test_results_of_many_short_runs_are_bounded(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(total_bytes=100_000)
    for number in range(200):
        clock.advance(1)
        frames = [started(), Sources(sources=(Source(id="s"),), added=1), *ending("x" * 1000)]
        await log.append(f"t{number}", "r", frames)
        assert log.has_room()
    known = [bool(await log.result_of(f"t{number}", "r")) for number in range(200)]
    assert known == sorted(known)  # those that ended last
    assert 10 <= sum(known) <= 100
    assert (await log.bounds("t0"))[1:] == (1, 0)


async def test_a_run_forgotten_for_want_of_room_goes_with_its_frames(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(total_bytes=60_000, thread_bytes=5_000)
    sources = [Source(id=str(n), snippet="x" * 10_000) for n in range(4)]
    await log.append("a", "r", whole_run("r"))
    await log.append("b", "r", [started(), Sources(sources=tuple(sources), added=4)])
    follower = await log.follow("a", None, nothing)
    assert len(await log.result_of("a", "r")) == 2
    await log.append("b", "r", [Interrupted(interrupt_id="i", value="x" * 20_000)])
    assert await log.result_of("a", "r") == ()
    assert (await log.bounds("a"))[1:] == (4, 3)
    with pytest.raises(GapError):
        follower.read(ALL)
    follower.close()
    assert (await log.bounds("a"))[1:] == (1, 0)
    clock.advance(600)  # its frames would go now
    assert (await log.bounds("a"))[1:] == (1, 0)
    assert log.has_room()


async def test_what_is_gone_takes_no_room(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    async def results_held(log: MemoryThreadLog) -> int:
        for number in range(100):
            await log.append(f"new{number}", "r", whole_run("r"))
        return sum([bool(await log.result_of(f"new{n}", "r")) for n in range(100)])

    limits = {"total_bytes": 60_000, "thread_bytes": 5_000, "finished_s": 10, "result_s": 10}
    log = make(**limits)
    source = Source(id="s", snippet="x" * 500)
    for number in range(50):
        sources: list[Frame] = [Sources(sources=(source,), added=1)] * 3
        messages = [message(f"m{n}", 1_500) for n in range(4)]
        await log.append("a", f"old{number}", whole_run(f"old{number}", *sources, *messages))
        await log.append("a", f"r{number}", whole_run(f"r{number}", message("m", 1_000)))
        await log.append("a", f"s{number}", [RolledBack(run_id=f"r{number}"), *ending()])
        await log.append("b", f"r{number}", interrupted_run(f"r{number}", "i", size=1_000))
        clock.advance(10)
        position, _ = await log.view("b")  # nothing but the interrupt is left
        (await log.follow("b", position, nothing)).close()
        answer: list[Frame] = [InterruptAnswered(interrupt_ids=("i",)), *ending()]
        await log.append("b", f"a{number}", answer)
        clock.advance(10)
    assert await results_held(log) == await results_held(make(**limits))


async def test_what_the_view_has_no_more_takes_no_room(
    make: Callable[..., MemoryThreadLog],
) -> None:
    log = make(total_bytes=100_000, thread_bytes=5_000)
    await log.append("t", "r", whole_run("r"))
    source = Source(id="s", snippet="x" * 1_000)
    await log.append("a", "r", [started(), *[Sources(sources=(source,), added=0)] * 100])
    await log.append("b", "r", [started(), *[message("m", 1_500)] * 100])
    for number in range(15):
        await log.append(f"c{number}", "r1", whole_run("r1", message("m", 3_000)))
        await log.append(f"c{number}", "r2", [RolledBack(run_id="r1"), *ending()])
    assert len(await log.result_of("t", "r")) == 2


async def test_pending_interrupts_wait_as_long_as_there_is_room(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(total_bytes=100_000, finished_s=1, result_s=1)
    follower = await log.follow("a", None, nothing)
    for thread in "abcd":
        await log.append(thread, "r", interrupted_run("r", "i", "j", size=10_000))
        clock.advance(1)
    waiting = [list((await log.view(thread))[1].interrupts) for thread in "abcd"]
    assert waiting == [["i", "j"]] * 4
    follower.close()
    assert list((await log.view("a"))[1].interrupts) == ["i", "j"]
    await log.append("b", "r2", [started("r2")])  # goes on, and is not idle any more
    follower = await log.follow("c", (await log.view("c"))[0], nothing)
    await log.append("e", "r", interrupted_run("r", "i", "j", "k", "l", size=11_000))
    await log.append("f", "r", [started(), message("m", 10_000)])
    known = {thread: list((await log.view(thread))[1].interrupts) for thread in "abcdef"}
    assert known["a"] == known["c"] == []
    assert known["b"] == ["i", "j"]
    assert known["e"] == ["i", "j", "k", "l"]
    assert (await log.bounds("a"))[1:] == (1, 0)
    head = follower.position
    assert await log.append("c", "r2", [started("r2")]) == Position(head.epoch, head.seq + 1)
    assert seqs(follower.read(ALL)) == [head.seq + 1]


async def test_entries_of_a_finished_run_behind_a_running_one_go_with_it(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(finished_s=60)
    await log.append("t", "slow", [started("slow")])  # 1
    await log.append("t", "quick", whole_run("quick"))  # 2 to 4
    clock.advance(60)
    assert (await log.bounds("t")).first == 1
    head = await log.append("t", "slow", ending())  # 5, 6
    clock.advance(60)
    assert await log.bounds("t") == Bounds(head.epoch, 7, 6)


async def test_a_running_run_outlives_the_memory_of_one_that_ended_meanwhile(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(finished_s=60, result_s=60)
    await log.append("t", "slow", [started("slow")])  # 1
    await log.append("t", "quick", whole_run("quick"))  # 2 to 4
    clock.advance(60)
    assert await log.result_of("t", "quick") == ()
    assert seqs(await read_all(log, "t")) == [1, 2, 3, 4]
    follower = await log.follow("t", None, nothing)
    head = await log.append("t", "slow", ending())  # 5, 6
    clock.advance(60)
    assert await log.bounds("t") == Bounds(head.epoch, 7, 6)
    follower.close()
    assert (await log.bounds("t"))[1:] == (1, 0)


async def test_a_run_ends_once(make: Callable[..., MemoryThreadLog], clock: Clock) -> None:
    log = make(finished_s=60)
    await log.append("t", "r", whole_run("r"))
    clock.advance(59)
    head = await log.append("t", "r", [RunFinished(status="failed")])
    clock.advance(1)
    assert await log.bounds("t") == Bounds(head.epoch, 5, 4)


async def test_a_follower_closed_after_the_log_changes_nothing(
    make: Callable[..., MemoryThreadLog],
) -> None:
    log = make()
    follower = await log.follow("t", None, nothing)
    await log.close()
    follower.close()
    with pytest.raises(LogClosed):
        follower.read(1)
    assert not log.has_room()
    assert (await log.bounds("t"))[1:] == (1, 0)
    with pytest.raises(LogClosed):
        await log.start()


async def test_what_is_out_of_time_goes_while_nobody_uses_the_log(
    make: Callable[..., MemoryThreadLog], clock: Clock
) -> None:
    log = make(finished_s=0.01)
    await log.start()
    for run_id in ("r1", "r2"):
        data = Payload(answer=42)
        gone = asyncio.Event()
        weakref.finalize(data, gone.set)
        await log.append("t", run_id, whole_run(run_id, Custom(name="c", data=data)))
        del data
        clock.advance(0.01)
        await asyncio.wait_for(gone.wait(), 10)


async def test_a_closed_log_is_let_go() -> None:
    log = MemoryThreadLog()
    await log.start()
    open_message: list[Frame] = [
        MessageStarted(message_id="m"),
        BlockStarted(message_id="m", index=0, kind="text"),
        delta(),
    ]
    await log.append("t", "r", open_message)
    (await log.follow("t", None, nothing)).close()
    await log.close()
    ref = weakref.ref(log)
    del log
    gc.collect()
    assert ref() is None
