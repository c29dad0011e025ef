"""What every thread log does: a suite to subclass, written against the interface alone.

An implementation subclasses `ThreadLogSuite` and says how a log is made and how one is lost, and
makes a state machine with `log_machine`. Nothing here reaches behind the interface.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

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
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    Source,
    Sources,
)
from langgraph_ws.log import (
    Bounds,
    Entry,
    Follower,
    Position,
    Retention,
    ThreadLog,
    epoch_began,
    new_epoch,
)
from langgraph_ws.view import ThreadView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    MakeLog = Callable[[Retention], Awaitable[ThreadLog]]

ALL = 1_000_000


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Wakes:
    """Counts how often a follower was woken."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._changed.set()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.count < count:
                self._changed.clear()
                await self._changed.wait()


def nothing() -> None:
    """A wake for a follower that is read at once."""


def started(run_id: str = "r") -> RunStarted:
    return RunStarted(thread_id="t", run_id=run_id, graph="g")


def delta(text: str = "x") -> BlockDelta:
    return BlockDelta(message_id="m", index=0, kind="text", text=text, offset=0)


def ending(text: str = "done") -> list[Frame]:
    return [RunResult(text=text), RunFinished(status="completed")]


def whole_run(run_id: str, *between: Frame) -> list[Frame]:
    return [started(run_id), *between, *ending(run_id)]


def seqs(entries: Iterable[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


def frames_of(entries: Iterable[Entry]) -> list[Frame]:
    return [entry.frame for entry in entries]


async def read_all(log: ThreadLog, thread: str, after: Position | None = None) -> list[Entry]:
    follower = await log.follow(thread, after, nothing)
    entries = follower.read(ALL)
    follower.close()
    return entries


async def gap(log: ThreadLog, thread: str, after: Position | None, **options: Any) -> GapError:
    with pytest.raises(GapError) as caught:
        await log.follow(thread, after, nothing, **options)
    return caught.value


def folded(frames: Iterable[tuple[str, Frame]]) -> ThreadView:
    """The view of all frames, folded from scratch."""
    view = ThreadView()
    for run_id, frame in frames:
        view.apply(run_id, frame)
    return view.copy()


# --- random, valid frames ---------------------------------------------------------------------

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@st.composite
def _messages(draw: st.DrawFn) -> list[Frame]:
    """One message, possibly left open."""
    name = draw(st.sampled_from("abc"))
    frames: list[Frame] = [MessageStarted(message_id=name)]
    content = []
    for index, parts in enumerate(draw(st.lists(st.lists(_texts, max_size=4), max_size=2))):
        frames.append(BlockStarted(message_id=name, index=index, kind="text"))
        for number, text in enumerate(parts):
            offset = len("".join(parts[:number]))
            frames.append(
                BlockDelta(message_id=name, index=index, kind="text", text=text, offset=offset)
            )
        block = {"type": "text", "text": "".join(parts)}
        content.append(block)
        frames.append(BlockFinished(message_id=name, index=index, kind="text", block=block))
    frames.append(MessageFinished(message_id=name, content=tuple(content)))
    keep = draw(st.one_of(st.just(len(frames)), st.integers(1, len(frames))))
    return frames[:keep]


def _alone(frame: Frame) -> list[Frame]:
    return [frame]


_ids = st.sampled_from(["i1", "i2", "i3"])
_pieces: st.SearchStrategy[list[Frame]] = st.one_of(
    _messages(),
    st.one_of(
        _ids.map(lambda name: Interrupted(interrupt_id=name, value={"ask": name})),
        _ids.map(lambda name: InterruptAnswered(interrupt_ids=(name,))),
        _texts.map(lambda text: Sources(sources=(Source(id=text or "s"),), added=1)),
        _texts.map(lambda text: Custom(name="progress", data=text)),
    ).map(_alone),
)
_endings: st.SearchStrategy[list[Frame]] = st.sampled_from(
    [
        ending(),
        [RunFailed(code="graph_failed", message="no"), RunFinished(status="failed")],
        [RunFinished(status="cancelled")],
    ]
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, list[Frame]]]:
    """Batches of frames of a thread: runs one after another, the last possibly still running."""
    batches: list[tuple[str, list[Frame]]] = []
    count = draw(st.integers(1, 4))
    for number in range(count):
        pieces = draw(st.lists(_pieces, max_size=4))
        run_id = f"r{number}"
        batches.append((run_id, [started(run_id)]))
        batches.extend((run_id, piece) for piece in pieces)
        if number < count - 1 or draw(st.booleans()):
            batches.append((run_id, draw(_endings)))
    return batches


def flat(history: Sequence[tuple[str, list[Frame]]]) -> list[tuple[str, Frame]]:
    return [(run_id, frame) for run_id, frames in history for frame in frames]


# --- the suite --------------------------------------------------------------------------------


class ThreadLogSuite:
    """The behaviour of a thread log."""

    def create(self, retention: Retention, clock: Clock) -> ThreadLog:
        """A log that was not started yet."""
        raise NotImplementedError

    async def lose(self, log: ThreadLog, clock: Clock) -> ThreadLog:
        """What a client meets after everything that `log` held was lost."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    async def make_log(self, clock: Clock) -> AsyncIterator[MakeLog]:
        logs: list[ThreadLog] = []

        async def make(retention: Retention) -> ThreadLog:
            log = self.create(retention, clock)
            logs.append(log)
            await log.start()
            return log

        yield make
        for log in logs:
            await log.close()

    @pytest.fixture
    async def log(self, make_log: MakeLog) -> ThreadLog:
        return await make_log(Retention())

    # writing and reading

    async def test_entries_are_numbered_without_holes_and_keep_what_was_written(
        self, log: ThreadLog, clock: Clock
    ) -> None:
        frames = [started(), delta("a"), delta("b"), *ending()]
        begun = clock.now
        first = await log.append("t", "r", frames[:2])
        clock.advance(1.5)
        last = await log.append("t", "r", frames[2:])
        assert (first.seq, last.seq) == (2, 5)
        assert first.epoch == last.epoch
        entries = await read_all(log, "t")
        assert seqs(entries) == [1, 2, 3, 4, 5]
        assert frames_of(entries) == frames
        assert {entry.run_id for entry in entries} == {"r"}
        times = [entry.time_ms for entry in entries]
        assert times == [int(begun * 1000)] * 2 + [int(begun * 1000) + 1500] * 3
        again = await read_all(log, "t")
        assert [entry.time_ms for entry in again] == times
        assert await log.bounds("t") == Bounds(first.epoch, 1, 5)

    async def test_an_epoch_tells_when_it_began(self, log: ThreadLog, clock: Clock) -> None:
        follower = await log.follow("a", None, nothing)
        assert epoch_began(follower.position.epoch) == int(clock.now)
        clock.advance(90.5)
        position = await log.append("b", "r", [started()])
        assert epoch_began(position.epoch) == int(clock.now)
        assert epoch_began(new_epoch(7.9)) == 7
        for other in ("e", "", "7", "-7-ab", "7-AB", f"{'7' * 13}-ab"):
            assert epoch_began(other) == 0

    async def test_writing_nothing_changes_nothing(self, log: ThreadLog) -> None:
        assert (await log.append("t", "r", [])).seq == 0
        position = await log.append("t", "r", [delta()])
        wakes = Wakes()
        follower = await log.follow("t", position, wakes)
        assert await log.append("t", "r", []) == position
        assert follower.read(ALL) == []
        await log.append("t", "r", [delta()])
        await wakes.reach(1)
        assert wakes.count == 1

    async def test_threads_do_not_see_each_other(self, log: ThreadLog) -> None:
        wakes = Wakes()
        other = await log.follow("b", None, wakes)
        await log.append("a", "r", [delta("a")])
        await log.append("b", "r", [delta("b")])
        await wakes.reach(1)
        assert wakes.count == 1
        assert frames_of(other.read(ALL)) == [delta("b")]
        assert frames_of(await read_all(log, "a")) == [delta("a")]

    async def test_replay_goes_over_into_live_without_hole_or_double(self, log: ThreadLog) -> None:
        rng = random.Random(7)
        written: list[Frame] = []

        async def write() -> None:
            batch: list[Frame] = [delta(str(len(written) + n)) for n in range(rng.randint(1, 5))]
            written.extend(batch)
            await log.append("t", "r", batch)

        for _ in range(20):
            await write()
        follower = await log.follow("t", None, nothing)
        seen: list[Entry] = []
        for _ in range(100):
            if rng.random() < 0.5:
                await write()
            limit = rng.randint(1, 4)
            entries = follower.read(limit)
            assert len(entries) <= limit
            seen += entries
            assert follower.position.seq == len(seen)
        seen += follower.read(ALL)
        assert frames_of(seen) == written
        assert seqs(seen) == list(range(1, len(written) + 1))
        assert follower.read(ALL) == []

    async def test_resume_from_every_position(self, log: ThreadLog) -> None:
        head = await log.append("t", "r", [delta(str(n)) for n in range(10)])
        for seq in range(11):
            follower = await log.follow("t", Position(head.epoch, seq), nothing)
            assert follower.position == Position(head.epoch, seq)
            assert seqs(follower.read(ALL)) == list(range(seq + 1, 11))
            assert follower.position == head

    async def test_a_thread_can_be_followed_before_it_exists(self, log: ThreadLog) -> None:
        assert (await log.bounds("t"))[1:] == (1, 0)
        wakes = Wakes()
        follower = await log.follow("t", None, wakes)
        assert follower.read(ALL) == []
        assert follower.position.seq == 0
        head = await log.append("t", "r", [delta()])
        await wakes.reach(1)
        assert seqs(follower.read(ALL)) == [1]
        assert follower.position == head

    async def test_each_follower_has_a_place_of_its_own(self, log: ThreadLog) -> None:
        head = await log.append("t", "r", [delta(str(n)) for n in range(4)])
        one, two = Wakes(), Wakes()
        early = await log.follow("t", None, one)
        late = await log.follow("t", head, two)
        assert seqs(early.read(3)) == [1, 2, 3]
        await log.append("t", "r", [delta(), delta()])
        await one.reach(1)
        await two.reach(1)
        assert seqs(late.read(ALL)) == [5, 6]
        assert seqs(early.read(ALL)) == [4, 5, 6]

    async def test_a_follower_is_woken_once_for_each_batch(self, log: ThreadLog) -> None:
        wakes = Wakes()
        await log.follow("t", None, wakes)
        for batch in range(1, 4):
            await log.append("t", "r", [delta()] * 5)
            await wakes.reach(batch)
            assert wakes.count == batch

    async def test_a_closed_follower_is_not_woken(self, log: ThreadLog) -> None:
        closed, open_ = Wakes(), Wakes()
        follower = await log.follow("t", None, closed)
        other = await log.follow("t", None, open_)
        follower.close()
        follower.close()
        await log.append("t", "r", [delta()])
        await open_.reach(1)
        assert closed.count == 0
        assert seqs(other.read(ALL)) == [1]

    # resume is all or nothing

    async def test_the_start_can_be_asked_for_in_any_epoch(self, log: ThreadLog) -> None:
        await log.append("t", "r", [delta(), delta()])
        assert seqs(await read_all(log, "t", Position("of another log", 0))) == [1, 2]
        assert await read_all(log, "new", Position("of another log", 0)) == []

    async def test_gap_unknown(self, log: ThreadLog) -> None:
        error = await gap(log, "t", Position("e", 3))
        assert (error.reason, error.requested, error.first, error.head) == ("unknown", 3, 1, 0)
        follower = await log.follow("t", None, nothing)
        error = await gap(log, "t", Position(follower.position.epoch, 3))
        assert error.reason == "unknown"

    async def test_gap_epoch(self, log: ThreadLog) -> None:
        head = await log.append("t", "r", [delta(), delta()])
        error = await gap(log, "t", Position("e", 1))
        assert (error.reason, error.requested, error.first, error.head) == ("epoch", 1, 1, 2)
        assert error.epoch == head.epoch

    async def test_gap_ahead(self, log: ThreadLog) -> None:
        head = await log.append("t", "r", [delta(), delta()])
        error = await gap(log, "t", Position(head.epoch, 3))
        assert (error.reason, error.requested, error.first, error.head) == ("ahead", 3, 1, 2)

    async def test_gap_trimmed(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(entries=4))
        head = await log.append("t", "r", [delta(str(n)) for n in range(10)])
        error = await gap(log, "t", Position(head.epoch, 5))
        assert (error.reason, error.requested, error.first, error.head) == ("trimmed", 5, 7, 10)
        assert seqs(await read_all(log, "t", Position(head.epoch, 6))) == [7, 8, 9, 10]
        for start in (None, Position("e", 0), Position(head.epoch, 0)):
            error = await gap(log, "t", start)
            assert (error.reason, error.requested) == ("trimmed", 0)

    async def test_positions_of_a_lost_log_are_refused(self, log: ThreadLog, clock: Clock) -> None:
        old = await log.append("t", "r", [delta(), delta()])
        after = await self.lose(log, clock)
        assert (await gap(after, "t", old)).reason == "unknown"
        new = await after.append("t", "r2", [delta(), delta(), delta()])
        assert new.seq == 3
        assert new.epoch != old.epoch
        assert (await gap(after, "t", old)).reason == "epoch"
        await after.close()

    async def test_a_reader_that_falls_too_far_behind_is_told(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(entries=4))
        await log.append("t", "r", [delta("0"), delta("1")])
        follower = await log.follow("t", None, nothing)
        follower.read(1)
        head = await log.append("t", "r", [delta(str(n)) for n in range(2, 10)])
        with pytest.raises(GapError):
            follower.read(ALL)
        with pytest.raises(GapError) as caught:
            follower.read(ALL)
        error = caught.value
        assert (error.reason, error.requested, error.first, error.head) == ("trimmed", 1, 7, 10)
        assert error.epoch == head.epoch
        assert follower.position.seq == 1

    # rewind

    async def test_rewind_begins_where_the_unfinished_run_began(self, log: ThreadLog) -> None:
        await log.append("t", "r1", whole_run("r1", delta()))  # 1 to 4
        head = await log.append("t", "r2", [started("r2"), delta("a"), delta("b")])  # 5 to 7
        for seq in (5, 6, 7):
            at = Position(head.epoch, seq)
            follower = await log.follow("t", at, nothing, rewind=True)
            assert follower.position == Position(head.epoch, 4)
            assert seqs(follower.read(ALL)) == [5, 6, 7]
        follower = await log.follow("t", Position(head.epoch, 2), nothing, rewind=True)
        assert follower.position.seq == 0

    async def test_rewind_stays_where_nothing_is_unfinished(self, log: ThreadLog) -> None:
        await log.append("t", "r1", whole_run("r1", delta()))  # 1 to 4
        head = await log.append("t", "r2", [started("r2")])
        for after in (Position(head.epoch, 4), Position(head.epoch, 0), None):
            follower = await log.follow("t", after, nothing, rewind=True)
            assert follower.position.seq == (after.seq if after else 0)
        assert (await log.follow("new", None, nothing, rewind=True)).position.seq == 0

    async def test_rewind_to_what_was_trimmed_is_a_gap(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(entries=4))
        head = await log.append("t", "r", [started(), *[delta(str(n)) for n in range(9)]])
        for seq in (6, 8, 10):  # 7 is the first that is held
            assert (await log.follow("t", Position(head.epoch, seq), nothing)).position.seq == seq
            error = await gap(log, "t", Position(head.epoch, seq), rewind=True)
            assert (error.reason, error.requested, error.first) == ("trimmed", seq, 7)

    async def test_rewind_needs_nothing_of_a_run_that_ended_and_is_gone(
        self, log: ThreadLog, clock: Clock
    ) -> None:
        end = await log.append("t", "r1", whole_run("r1"))
        clock.advance(600)
        await log.append("t", "r2", [started("r2")])
        follower = await log.follow("t", end, nothing, rewind=True)
        assert follower.position == end
        assert seqs(follower.read(ALL)) == [end.seq + 1]

    # retention

    async def test_trimming_by_count(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(entries=5))
        for number in range(1, 9):
            head = await log.append("t", "r", [delta(str(number))])
            assert await log.bounds("t") == Bounds(head.epoch, max(1, number - 4), number)

    async def test_trimming_by_bytes(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(thread_bytes=100_000))
        for _ in range(30):
            await log.append("t", "r", [delta("x" * 10_000)])
        _, first, head = await log.bounds("t")
        assert head == 30
        assert 5 <= head - first + 1 <= 10
        await log.append("t", "r", [Custom(name="big", data=["x" * 70_000])])
        _, first, head = await log.bounds("t")
        assert head - first + 1 <= 3

    async def test_the_newest_entry_stays_however_big(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(thread_bytes=10_000))
        head = await log.append("t", "r", [delta("x" * 20_000), delta("y" * 20_000)])
        assert await log.bounds("t") == Bounds(head.epoch, 2, 2)

    async def test_trimming_by_time_takes_whole_finished_runs(
        self, make_log: MakeLog, clock: Clock
    ) -> None:
        log = await make_log(Retention(finished_s=60))
        await log.append("t", "r1", whole_run("r1", delta()))  # 1 to 4
        clock.advance(30)
        await log.append("t", "r2", whole_run("r2"))  # 5 to 7
        clock.advance(29)
        head = await log.append("t", "r3", [started("r3")])  # 8
        assert await log.bounds("t") == Bounds(head.epoch, 1, 8)
        clock.advance(1)
        assert await log.bounds("t") == Bounds(head.epoch, 5, 8)
        clock.advance(30)
        assert await log.bounds("t") == Bounds(head.epoch, 8, 8)
        clock.advance(10_000)  # a running run does not age
        assert await log.bounds("t") == Bounds(head.epoch, 8, 8)
        assert seqs(await read_all(log, "t", Position(head.epoch, 7))) == [8]

    async def test_a_thread_goes_on_counting_when_all_its_entries_are_gone(
        self, make_log: MakeLog, clock: Clock
    ) -> None:
        log = await make_log(Retention(finished_s=60))
        end = await log.append("t", "r", whole_run("r"))
        clock.advance(60)
        assert await log.bounds("t") == Bounds(end.epoch, end.seq + 1, end.seq)
        follower = await log.follow("t", end, nothing)
        assert (await gap(log, "t", None)).reason == "trimmed"
        assert await log.append("t", "r2", [started("r2")]) == Position(end.epoch, end.seq + 1)
        assert seqs(follower.read(ALL)) == [end.seq + 1]

    async def test_a_late_joiner_sees_the_whole_story(self, log: ThreadLog, clock: Clock) -> None:
        story = whole_run("r", delta("a"), delta("b"))
        for frame in story:
            await log.append("t", "r", [frame])
        clock.advance(599)
        assert frames_of(await read_all(log, "t")) == story

    async def test_how_a_run_ended_outlives_its_entries(self, log: ThreadLog, clock: Clock) -> None:
        await log.append("t", "r", [started(), delta(), RunResult(text="yes")])
        assert await log.result_of("t", "r") == ()  # it runs
        await log.append("t", "r", [RunFinished(status="completed")])
        entries = await read_all(log, "t")
        for seconds in (0, 600, 85_799):
            clock.advance(seconds)
            result = await log.result_of("t", "r")
            assert frames_of(result) == [RunResult(text="yes"), RunFinished(status="completed")]
            assert [(e.seq, e.time_ms) for e in result] == [(e.seq, e.time_ms) for e in entries[2:]]
        assert (await gap(log, "t", None)).reason == "trimmed"
        clock.advance(1)
        assert await log.result_of("t", "r") == ()

    async def test_a_failure_is_a_result_too(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(entries=1))
        failed = RunFailed(code="graph_failed", message="no", error_id="e")
        await log.append("t", "r", [started(), failed, RunFinished(status="failed")])
        result = await log.result_of("t", "r")
        assert frames_of(result) == [failed, RunFinished(status="failed")]

    async def test_nobody_knows_a_run_that_never_was(self, log: ThreadLog) -> None:
        assert await log.result_of("t", "r") == ()
        assert await log.start_of("t", "r") is None
        await log.append("t", "r", [started()])
        assert await log.result_of("t", "other") == ()
        assert await log.start_of("t", "other") is None

    async def test_where_a_run_starts(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(entries=5))
        await log.append("t", "r1", whole_run("r1"))  # 1 to 3
        head = await log.append("t", "r2", [started("r2")])  # 4
        assert await log.start_of("t", "r1") == Position(head.epoch, 0)
        assert await log.start_of("t", "r2") == Position(head.epoch, 3)
        await log.append("t", "r2", [delta(), delta(), delta(), delta()])  # 8; held from 4
        assert await log.start_of("t", "r1") is None
        start = await log.start_of("t", "r2")
        assert start == Position(head.epoch, 3)
        assert seqs(await read_all(log, "t", start)) == [4, 5, 6, 7, 8]
        await log.append("t", "r2", [delta()])
        assert await log.start_of("t", "r2") is None

    # the limit of all threads

    async def test_over_the_total_limit_finished_runs_go_oldest_end_first(
        self, make_log: MakeLog, clock: Clock
    ) -> None:
        log = await make_log(Retention(total_bytes=100_000))
        big = delta("x" * 20_000)
        await log.append("a", "ra", [started("ra"), big])
        await log.append("b", "rb", whole_run("rb", big))
        clock.advance(1)
        await log.append("a", "ra", ending())
        await log.append("c", "rc", [started("rc"), big])
        assert [(await log.bounds(t)).first for t in "abc"] == [1, 1, 1]
        await log.append("c", "rc", [big, big])
        assert [(await log.bounds(t)).first for t in "abc"] == [1, 5, 1]
        await log.append("c", "rc", [big])
        assert [(await log.bounds(t)).first for t in "abc"] == [5, 5, 1]
        for thread, run_id in (("a", "ra"), ("b", "rb")):
            assert len(await log.result_of(thread, run_id)) == 2

    async def test_the_total_limit_never_drops_a_running_run(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(total_bytes=50_000))
        assert log.has_room()
        for thread in "ab":
            await log.append(thread, "r", [started(), *[delta("x" * 10_000)] * 3])
        assert not log.has_room()
        for thread in "ab":
            assert seqs(await read_all(log, thread)) == [1, 2, 3, 4]

    async def test_there_is_room_again_when_a_run_has_ended(self, make_log: MakeLog) -> None:
        log = await make_log(Retention(total_bytes=50_000))
        for thread in "ab":
            await log.append(thread, "r", [started(), *[delta("x" * 10_000)] * 3])
        await log.append("a", "r", ending())
        assert log.has_room()
        assert seqs(await read_all(log, "b")) == [1, 2, 3, 4]
        assert len(await log.result_of("a", "r")) == 2

    async def test_the_size_and_the_lag_tell_how_much_there_is(self, log: ThreadLog) -> None:
        assert log.size() == (0, 0, 0)
        follower = await log.follow("t", None, lambda: None)
        await log.append("t", "r", [started(), delta("x" * 1_000)])
        threads, entries, size = log.size()
        assert (threads, entries) == (1, 2)
        assert size > 1_000
        assert follower.lag == 2
        follower.read(1)
        assert follower.lag == 1
        follower.close()

    # the view

    async def test_the_view_of_a_thread_that_nobody_knows_is_empty(self, log: ThreadLog) -> None:
        position, view = await log.view("t")
        assert position.seq == 0
        assert view == ThreadView()

    async def test_the_view_stands_for_its_position(self, log: ThreadLog) -> None:
        frames: list[Frame] = [
            started(),
            MessageStarted(message_id="m"),
            BlockStarted(message_id="m", index=0, kind="text"),
            delta("he"),
            delta("llo"),
            Interrupted(interrupt_id="i", value=1),
        ]
        head = await log.append("t", "r", frames)
        position, view = await log.view("t")
        assert position == head
        assert view.runs["r"].open["m"].blocks[0].text == "hello"
        assert list(view.interrupts) == ["i"]
        assert view == folded(("r", frame) for frame in frames)

    async def test_a_view_is_a_copy(self, log: ThreadLog) -> None:
        await log.append("t", "r", [started(), MessageFinished(message_id="m")])
        _, view = await log.view("t")
        before = view.copy()
        await log.append("t", "r", [MessageFinished(message_id="n"), *ending()])
        assert view == before
        view.runs["r"].messages.clear()
        view.runs.clear()
        _, now = await log.view("t")
        assert [message.message_id for message in now.runs["r"].messages] == ["m", "n"]

    async def test_the_text_of_an_open_message_outlives_its_entries(
        self, make_log: MakeLog
    ) -> None:
        log = await make_log(Retention(entries=3))
        await log.append("t", "r", [started(), MessageStarted(message_id="m")])
        await log.append("t", "r", [BlockStarted(message_id="m", index=0, kind="text")])
        for number in range(50):
            await log.append("t", "r", [delta(f"{number} ")])
        _, view = await log.view("t")
        text = view.runs["r"].open["m"].blocks[0].text
        assert text == "".join(f"{number} " for number in range(50))

    async def test_messages_that_come_again_take_no_room_in_the_view(
        self, make_log: MakeLog
    ) -> None:
        log = await make_log(Retention(thread_bytes=40_000))

        def message(name: str, task_id: str) -> MessageFinished:
            content = ({"type": "text", "text": "x" * 15_000},)
            return MessageFinished(message_id=name, task_id=task_id, content=content)

        async def said() -> list[str]:
            _, view = await log.view("t")
            return [message.message_id for message in view.runs["r"].messages]

        await log.append("t", "r", [started(), message("a", "1"), message("b", "2")])
        attempt = AttemptStarted(attempt=2, rerun_task_ids=("1",), rollback_to=0)
        await log.append("t", "r", [attempt, message("c", "1")])
        assert await said() == ["b", "c"]
        await log.append("t", "r", [message("d", "3")])
        assert await said() == ["c", "d"]

    async def test_the_view_forgets_a_run_with_its_result_but_no_pending_interrupt(
        self, log: ThreadLog, clock: Clock
    ) -> None:
        await log.append("t", "r1", whole_run("r1", MessageFinished(message_id="m1")))
        clock.advance(3600)
        ask = [Interrupted(interrupt_id=name, value=name) for name in ("i", "j")]
        end: list[Frame] = [started("r2"), *ask, RunFinished(status="interrupted")]
        await log.append("t", "r2", end)
        clock.advance(82_799)
        assert list((await log.view("t"))[1].runs) == ["r1", "r2"]
        clock.advance(1)
        assert list((await log.view("t"))[1].runs) == ["r2"]
        clock.advance(86_400)
        _, view = await log.view("t")
        assert view.runs == {}
        assert list(view.interrupts.values()) == ask
        await log.append("t", "r3", [InterruptAnswered(interrupt_ids=("i",)), started("r3")])
        _, view = await log.view("t")
        assert list(view.runs) == ["r3"]
        assert list(view.interrupts) == ["j"]

    # One suite runs over every log, so the same test is called from several classes.
    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
    )
    @given(history=histories(), entries=st.integers(1, 20))
    def test_the_view_is_all_frames_folded_whatever_was_trimmed(
        self, history: list[tuple[str, list[Frame]]], entries: int
    ) -> None:
        async def scenario() -> None:
            log = self.create(Retention(entries=entries), Clock())
            await log.start()
            try:
                for run_id, frames in history:
                    await log.append("t", run_id, frames)
                position, view = await log.view("t")
            finally:
                await log.close()
            assert position.seq == len(flat(history))
            assert view == folded(flat(history))

        asyncio.run(scenario())

    # the end

    async def test_closing_ends_the_followers_after_they_read_the_rest(
        self, log: ThreadLog
    ) -> None:
        wakes = Wakes()
        follower = await log.follow("t", None, wakes)
        await log.append("t", "r", [delta("a"), delta("b")])
        await wakes.reach(1)
        await log.close()
        await wakes.reach(2)
        assert seqs(follower.read(1)) == [1]
        assert seqs(follower.read(ALL)) == [2]
        for _ in range(2):
            with pytest.raises(LogClosed):
                follower.read(ALL)
        follower.close()
        assert wakes.count == 2

    async def test_a_closed_log_takes_and_gives_nothing(self, log: ThreadLog) -> None:
        await log.append("t", "r", [delta()])
        await log.close()
        await log.close()
        with pytest.raises(LogClosed):
            await log.append("t", "r", [delta()])
        with pytest.raises(LogClosed):
            await log.follow("t", None, nothing)


# --- a state machine --------------------------------------------------------------------------

_ENTRIES = 8
_FINISHED_S = 60.0


class _Reader:
    def __init__(self, follower: Follower, seq: int, wakes: Wakes) -> None:
        self.follower = follower
        self.seq = seq
        self.wakes = wakes
        self.batches = 0


class _LogMachine(RuleBasedStateMachine):
    """One thread of a log against a list: every read is exactly the list, or the right gap."""

    readers = Bundle("readers")

    def create(self, retention: Retention, clock: Clock) -> ThreadLog:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.log = self.create(
            Retention(entries=_ENTRIES, finished_s=_FINISHED_S, result_s=1e9), self.clock
        )
        self.runner.run(self.log.start())
        self.epoch: str | None = None
        self.model: list[tuple[str, Frame]] = []
        self.first = 1
        self.run: str | None = None
        self.runs = 0
        self.ends: list[tuple[float, int]] = []  # when, and the last entry
        self.live: set[_Reader] = set()

    def teardown(self) -> None:
        self.runner.run(self.log.close())
        self.runner.close()

    def _append(self, run_id: str, frames: list[Frame]) -> None:
        position = self.runner.run(self.log.append("t", run_id, frames))
        self.model += [(run_id, frame) for frame in frames]
        self.epoch = self.epoch or position.epoch
        assert position == Position(self.epoch, len(self.model))
        self.first = max(self.first, len(self.model) - _ENTRIES + 1)
        for reader in self.live:
            reader.batches += 1

    @precondition(lambda self: self.run is None)
    @rule()
    def begin(self) -> None:
        self.runs += 1
        self.run = f"r{self.runs}"
        self._append(self.run, [started(self.run)])

    @precondition(lambda self: self.run is not None)
    @rule(count=st.integers(1, 4))
    def write(self, count: int) -> None:
        assert self.run is not None
        self._append(self.run, [delta(str(len(self.model) + n)) for n in range(count)])

    @precondition(lambda self: self.run is not None)
    @rule()
    def end(self) -> None:
        assert self.run is not None
        self._append(self.run, ending(self.run))
        self.ends.append((self.clock.now, len(self.model)))
        self.run = None

    @rule(seconds=st.sampled_from([1, 20, 59, 60]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)
        for when, last in self.ends:
            if when + _FINISHED_S <= self.clock.now:
                self.first = max(self.first, last + 1)

    @rule(
        target=readers,
        back=st.integers(-1, _ENTRIES + 2),
        right=st.sampled_from([True, True, True, False]),
        rewind=st.booleans(),
    )
    def follow(self, back: int, right: bool, rewind: bool) -> _Reader | None:
        seq = max(0, len(self.model) - back)
        after = Position(self.epoch or "e", seq) if right else Position("other", seq)
        expected, start = self._expected(after, rewind)
        wakes = Wakes()
        try:
            follower = self.runner.run(self.log.follow("t", after, wakes, rewind=rewind))
        except GapError as error:
            assert (error.reason, error.requested, error.first, error.head) == (
                expected,
                seq,
                self.first,
                len(self.model),
            )
            return None
        assert expected is None
        assert follower.position.seq == start
        reader = _Reader(follower, start, wakes)
        self.live.add(reader)
        return reader

    def _expected(self, after: Position, rewind: bool) -> tuple[str | None, int]:
        seq, head = after.seq, len(self.model)
        if seq > 0 and head == 0:
            return "unknown", 0
        if seq > 0 and after.epoch != self.epoch:
            return "epoch", 0
        if seq > head:
            return "ahead", 0
        if seq + 1 < self.first:
            return "trimmed", 0
        ended = {last for _, last in self.ends}
        if rewind and seq > 0 and seq not in ended:
            run_id = self.model[seq - 1][0]
            seq = next(n for n, (name, _) in enumerate(self.model) if name == run_id)
        return ("trimmed", 0) if seq + 1 < self.first else (None, seq)

    @rule(reader=readers, limit=st.integers(1, 6))
    def read(self, reader: _Reader | None, limit: int) -> None:
        if reader is None or reader not in self.live:
            return
        if reader.seq + 1 < self.first:
            with pytest.raises(GapError) as caught:
                reader.follower.read(limit)
            assert caught.value.reason == "trimmed"
            assert caught.value.first == self.first
            return
        entries = reader.follower.read(limit)
        expected = self.model[reader.seq : reader.seq + limit]
        assert [(entry.run_id, entry.frame) for entry in entries] == expected
        assert seqs(entries) == list(range(reader.seq + 1, reader.seq + 1 + len(expected)))
        reader.seq += len(expected)
        assert reader.follower.position.seq == reader.seq

    @rule(reader=consumes(readers))
    def leave(self, reader: _Reader | None) -> None:
        if reader is not None:
            reader.follower.close()
            self.live.discard(reader)

    @invariant()
    def held(self) -> None:
        bounds = self.runner.run(self.log.bounds("t"))
        assert (bounds.first, bounds.head) == (self.first, len(self.model))

    @invariant()
    def folded(self) -> None:
        _, view = self.runner.run(self.log.view("t"))
        assert view == folded(self.model)

    @invariant()
    def woken(self) -> None:
        for reader in self.live:
            self.runner.run(reader.wakes.reach(reader.batches))
            assert reader.wakes.count == reader.batches

    @invariant()
    def ended(self) -> None:
        for number in range(1, self.runs + 1):
            run_id = f"r{number}"
            result = self.runner.run(self.log.result_of("t", run_id))
            assert frames_of(result) == ([] if run_id == self.run else ending(run_id))


def log_machine(
    create: Callable[[Retention, Clock], ThreadLog],
) -> type[RuleBasedStateMachine]:
    """The state machine for logs that `create` makes."""

    class LogMachine(_LogMachine):
        def create(self, retention: Retention, clock: Clock) -> ThreadLog:
            return create(retention, clock)

    return LogMachine
