"""The sink: what waits for the log is merged, bounded, written in order, and closed for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_ws.errors import LogFailed
from langgraph_ws.frames import BlockDelta, Custom, Frame
from langgraph_ws.limits import Limits
from langgraph_ws.log import Position
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.messages import Block, Place
from langgraph_ws.sink import Beat, Sink
from langgraph_ws.streaming import MapperError

LONG = 1e9
NOWHERE = Place(None, (), None)


def delta(text: str, message: str = "m", index: int = 0, offset: int = 0) -> BlockDelta:
    return BlockDelta(message_id=message, index=index, kind="text", text=text, offset=offset)


def add(sink: Sink, block: Block, text: str) -> None:
    """Write text at the end of a block."""
    block.length += len(text)
    sink.add_text(text, block)


class Waiting(MemoryThreadLog):
    """Takes its time, as a log in a database does."""

    async def append(self, *arguments: Any, **named: Any) -> Position:
        await asyncio.sleep(0)
        return await super().append(*arguments, **named)


@asynccontextmanager
async def sinking(
    *, kind: type[MemoryThreadLog] = Waiting, window: float = 0.0, **limits: int
) -> AsyncIterator[tuple[Sink, MemoryThreadLog]]:
    log = kind()
    sink = Sink(log, "t", "r", limits=Limits(**limits), beat=Beat(window))
    try:
        yield sink, log
    finally:
        await sink.close()


async def logged(log: MemoryThreadLog) -> list[Frame]:
    follower = await log.follow("t", None, lambda: None)
    frames = [entry.frame for entry in follower.read(1_000_000)]
    follower.close()
    return frames


async def head(log: MemoryThreadLog, seq: int) -> None:
    """Wait until the log has so many entries."""
    grown = asyncio.Event()
    follower = await log.follow("t", None, grown.set)
    while (await log.bounds("t")).head < seq:
        grown.clear()
        await grown.wait()
    follower.close()


async def test_deltas_of_a_block_that_wait_together_become_one() -> None:
    async with sinking() as (sink, log):
        for number, word in enumerate(["a", "b", "c"]):
            sink.put(delta(word, offset=number))
        sink.put(delta("x", index=1))
        sink.put(Custom(name="n", data=1))
        sink.put(Custom(name="n", data=1))
        sink.put(delta("d", offset=3))
        await head(log, 5)
        assert await logged(log) == [
            delta("abc"),
            delta("x", index=1),
            Custom(name="n", data=1),
            Custom(name="n", data=1),
            delta("d", offset=3),
        ]


async def test_a_delta_waits_for_the_next_one_and_everything_else_does_not() -> None:
    async with sinking(window=LONG) as (sink, log):
        sink.put(delta("a"))
        sink.put(Custom(name="n", data=1))
        await head(log, 2)
        sink.put(delta("b", offset=1))
        sink.put(delta("c", offset=2))
        await asyncio.sleep(0.01)
        assert len(await logged(log)) == 2, "the deltas wait"
        sink.put(Custom(name="n", data=2))
        await head(log, 4)
        sink.put(delta("d", offset=3))
    assert await logged(log) == [
        delta("a"),
        Custom(name="n", data=1),
        delta("bc", offset=1),
        Custom(name="n", data=2),
        delta("d", offset=3),
    ]


async def test_what_waits_is_written_when_its_time_has_come() -> None:
    async with sinking(window=0.02) as (sink, log):
        sink.put(delta("a"))
        await head(log, 1)
        sink.put(delta("b", offset=1))
        await head(log, 2)


async def test_a_log_that_never_waits_has_text_as_soon_as_its_turn_comes() -> None:
    assert not MemoryThreadLog.waits
    async with sinking(kind=MemoryThreadLog, window=0.02) as (sink, log):
        sink.put(Custom(name="n", data=1))
        await head(log, 1)
        sink.put(delta("a"))
        await head(log, 2)
        await asyncio.sleep(0.03)
        sink.put(delta("b", offset=1))
        assert (await logged(log))[2:] == [delta("b", offset=1)]


async def test_a_log_that_never_waits_has_much_text_at_once() -> None:
    async with sinking(kind=MemoryThreadLog, window=LONG) as (sink, log):
        block = Block("m", 0, "text", NOWHERE)
        add(sink, block, "a" * 1_000)
        assert await logged(log) == []
        add(sink, block, "b" * 24)
        assert await logged(log) == [delta("a" * 1_000 + "b" * 24)]


async def test_all_take_their_turns_at_the_same_time() -> None:
    window = 0.3
    loop, log, beat = asyncio.get_running_loop(), MemoryThreadLog(), Beat(window)
    await asyncio.sleep(window - loop.time() % window)
    sinks = [Sink(log, f"t{number}", "r", limits=Limits(), beat=beat) for number in range(3)]
    followers = []
    turns: list[int] = []
    step = 0

    def count() -> None:
        nonlocal counter, step
        step += 1
        counter = loop.call_soon(count)

    for number, sink in enumerate(sinks):
        followers.append(await log.follow(f"t{number}", None, lambda: turns.append(step)))
        sink.put(delta("a"))
        await asyncio.sleep(0.01)
    assert turns == []
    counter = loop.call_soon(count)
    await asyncio.sleep(window)
    counter.cancel()
    assert len(turns) == 3
    assert len(set(turns)) == 1, "in one step of the event loop"
    for sink, follower in zip(sinks, followers, strict=True):
        follower.close()
        await sink.close()


async def test_a_sink_that_fails_in_its_turn_takes_no_turn_from_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Sink):
        def turn(self) -> None:
            raise OSError("on purpose")

    log, beat = MemoryThreadLog(), Beat(0.02)
    broken = Broken(log, "t", "r", limits=Limits(), beat=beat)
    sink = Sink(log, "t", "r", limits=Limits(), beat=beat)
    written = asyncio.Event()
    follower = await log.follow("t", None, written.set)
    for each in (broken, sink):
        beat.wait(each, asyncio.get_running_loop().time())
    sink.put(delta("a"))
    async with asyncio.timeout(5):
        await written.wait()
    assert "could not be written on" in caplog.text
    follower.close()
    await broken.close()
    await sink.close()


async def test_without_a_window_each_piece_goes_out_with_what_else_is_said_in_its_step() -> None:
    log, beat = MemoryThreadLog(), Beat(0.0)
    sinks = [Sink(log, f"t{number}", "r", limits=Limits(), beat=beat) for number in range(3)]
    turns: list[int] = []
    for number in range(3):
        await log.follow(f"t{number}", None, partial(turns.append, number))
    for sink in sinks:
        sink.put(delta("a"))
    assert turns == []
    await asyncio.sleep(0)
    assert turns == [0, 1, 2]
    sinks[1].put(delta("b", offset=1))
    sinks[1].put(delta("c", offset=2))
    assert turns == [0, 1, 2, 1]
    await asyncio.sleep(0)
    assert turns == [0, 1, 2, 1, 1]
    for sink in sinks:
        await sink.close()


async def test_a_log_that_never_waits_may_fail() -> None:
    class Failing(MemoryThreadLog):
        def append_now(self, *arguments: Any, **named: Any) -> None:
            raise OSError("on purpose")

    sink = Sink(Failing(), "t", "r", limits=Limits(), beat=Beat(0.0))
    sink.put(delta("a"))
    await sink.writer
    with pytest.raises(LogFailed, match="could not be written"):
        sink.put(delta("b", offset=1))
    with pytest.raises(LogFailed, match="could not be written"):
        add(sink, Block("m", 0, "text", NOWHERE), "b")
    await sink.close()


def test_a_log_that_appends_otherwise_is_asked_to() -> None:
    assert Waiting.waits
    assert not MemoryThreadLog.waits


async def test_a_closed_sink_drops_and_counts() -> None:
    async with sinking() as (sink, log):
        sink.put(Custom(name="n", data=1))
        await sink.close()
        sink.put(Custom(name="n", data=2))
        assert sink.dropped == 1
        await sink.write([Custom(name="end", data=None)])
        assert [frame.data for frame in await logged(log) if isinstance(frame, Custom)] == [1, None]


async def test_text_is_added_as_deltas_of_its_block() -> None:
    async with sinking(window=LONG, pending_bytes=2_000) as (sink, log):
        block, other = Block("m", 0, "text", NOWHERE), Block("m", 1, "text", NOWHERE)
        sink.put(Custom(name="n", data=1))
        add(sink, block, "a")  # goes out with the frame before it
        await head(log, 2)
        add(sink, block, "b")
        sink.put(delta("c", offset=2))
        block.length += 1
        add(sink, block, "d")
        add(sink, other, "x")
        sink.put(delta("y", index=1, offset=1))
        other.length += 1
        add(sink, block, "e")
        with pytest.raises(LogFailed, match="bytes wait for the log"):
            add(sink, other, "z" * 2_000)
        block.length += 1
        sink.put(delta("f", offset=5))
        add(sink, block, "g" * 1_022)  # enough to be written
        await head(log, 5)
        add(sink, block, "h")
        await sink.close()
        add(sink, block, "closed")
        assert sink.dropped == 1
        assert await logged(log) == [
            Custom(name="n", data=1),
            delta("a"),
            delta("bcd", offset=1),
            delta("xy", index=1),
            delta("ef" + "g" * 1_022, offset=4),
            delta("h", offset=1_028),
        ]


async def test_no_text_is_added_when_the_log_has_failed() -> None:
    class Failing(MemoryThreadLog):
        async def append(self, *arguments: Any, **named: Any) -> Position:
            add(sink, block, "more")  # while it is being written
            raise LogFailed("on purpose")

    block = Block("m", 0, "text", NOWHERE)
    sink = Sink(Failing(), "t", "r", limits=Limits(), beat=Beat(0.0))
    add(sink, block, "a")
    await sink.writer
    for _ in range(2):
        with pytest.raises(LogFailed, match="on purpose"):
            add(sink, block, "b")
    await sink.close()


@pytest.mark.parametrize("limits", [{"pending_frames": 3}, {"pending_bytes": 20}])
async def test_what_waits_is_bounded(limits: dict[str, int]) -> None:
    async with sinking(window=LONG, **limits) as (sink, _):
        with pytest.raises(LogFailed):
            for number in range(100):
                sink.put(delta("0123456789", message=str(number)))


@pytest.mark.parametrize("kind", [MemoryThreadLog, Waiting])
async def test_so_much_that_runs_wait_for_room_waits_for_no_beat(
    kind: type[MemoryThreadLog],
) -> None:
    async with sinking(kind=kind, window=LONG) as (sink, log):
        for _ in range(2):
            for number in range(300):
                sink.put(delta("x", index=number % 2, offset=number // 2))
            assert sink.crowded
            await sink.room()
            assert not sink.crowded
    assert (await log.bounds("t")).head == 600


async def test_a_delta_whose_text_is_none_is_refused() -> None:
    text: Any = ["a"]
    async with sinking() as (sink, log):
        with pytest.raises(MapperError, match="expected a str, got list"):
            sink.put(delta(text))
        sink.put(delta("b"))
        await head(log, 1)
    assert await logged(log) == [delta("b")]


async def test_a_merged_text_is_bounded_too() -> None:
    async with sinking(window=LONG, pending_bytes=1_000) as (sink, _):
        with pytest.raises(LogFailed):
            for number in range(1_000):
                sink.put(delta("0123456789", offset=number * 10))


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.text(max_size=3)), max_size=40),
    st.integers(1, 9),
    st.sampled_from([MemoryThreadLog, Waiting]),
)
def test_nothing_is_lost_doubled_or_moved(
    pieces: list[tuple[str, int, str]], rest_every: int, kind: type[MemoryThreadLog]
) -> None:
    async def write() -> list[Frame]:
        async with sinking(kind=kind, window=0.0) as (sink, log):
            for number, (message, index, text) in enumerate(pieces):
                sink.put(delta(text, message, index))
                if number % rest_every == 0:
                    await asyncio.sleep(0)
        return await logged(log)

    said = [(f.message_id, f.index, f.text) for f in asyncio.run(write())]  # type: ignore[union-attr]

    def texts(items: list[tuple[str, int, str]]) -> dict[tuple[str, int], str]:
        found: dict[tuple[str, int], str] = {}
        for message, index, text in items:
            found[message, index] = found.get((message, index), "") + text
        return found

    if kind is MemoryThreadLog:
        assert said == pieces, "none is merged with another"
    assert texts(said) == texts(pieces)
    assert "".join(text for *_, text in said) == "".join(text for *_, text in pieces)
