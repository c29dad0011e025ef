"""Between a run and the log: what waits to be written, merged where it may be, and bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from langgraph_ws.errors import LogFailed
from langgraph_ws.frames import BlockDelta, Frame
from langgraph_ws.limits import Limits
from langgraph_ws.log import Position, ThreadLog
from langgraph_ws.messages import Block
from langgraph_ws.streaming import check_delta

__all__ = ["Beat", "Sink"]

logger = logging.getLogger("langgraph_ws")

_PATIENCE = 256
"""Frames that may wait before the run gives way to the task that writes them."""
_STANDSTILL_S = 1.0
_BATCH_BYTES = 1_024
"""Text that waits for no more."""


class Beat:
    """When deltas are written: once in a window, those of all sinks at the same time.

    So one timer does for all of them, a log in a database is sent what many runs have said in one
    piece, and the code that writes and sends is in the caches of the processor for all but the
    first.

    Args:
        window: How long a delta may wait, in seconds; 0: no longer than the event loop takes to do
            what is due now.
    """

    def __init__(self, window: float) -> None:
        self.window = window
        self._waiting: dict[Sink, None] = {}
        self._timer: asyncio.Handle | None = None

    def wait(self, sink: Sink, now: float) -> None:
        """Have a sink take its turn when it comes next."""
        self._waiting[sink] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            if self.window:
                at = (now // self.window + 1) * self.window
                self._timer = loop.call_at(at, self._come)
            else:
                self._timer = loop.call_soon(self._come)

    def leave(self, sink: Sink) -> None:
        """Have a sink wait no longer."""
        self._waiting.pop(sink, None)
        if not self._waiting and self._timer is not None and self.window:
            self._timer.cancel()
            self._timer = None

    def _come(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        for sink in waiting:
            try:
                sink.turn()
            except Exception:
                logger.exception("a run could not be written on")


class Sink:
    """Takes the frames of one run and writes them to the log of its thread, in order.

    Deltas of one block that wait together are merged into one: the text is concatenated, nothing
    else is ever merged. A delta waits for the next beat, or until 1 KiB of text waits; every other
    frame goes out at once with the deltas before it (so the first delta of a block, which comes
    with its start, does not wait). A sink that is closed drops what comes later (a node that
    ignored the cancellation may still write) and counts it.

    Args:
        log: The log.
        thread: The thread.
        run_id: The run.
        limits: How much may wait.
        beat: What deltas wait for.
        fence: Under which the thread is held; None: it is held by nobody.

    Attributes:
        writer: The task that writes; it ends after `close`, or when the log cannot be written.
        dropped: The frames that came too late.
        error: Why the log could not be written; None while it can.
    """

    def __init__(
        self,
        log: ThreadLog,
        thread: str,
        run_id: str,
        *,
        limits: Limits,
        beat: Beat,
        fence: int | None = None,
    ) -> None:
        self._log = log
        self._thread = thread
        self._run_id = run_id
        self._fence = fence
        self._limits = limits
        self._most = limits.pending_bytes
        self._beat = beat
        self._window = beat.window
        self._waits = False  # for the beat
        self._loop = asyncio.get_running_loop()
        self._wrote_at = self._loop.time()
        self._pending: list[Frame] = []
        # Behind those, what is being said: of which block, from where in it, and piece by piece.
        self._said: Block | BlockDelta | None = None
        self._offset = 0
        self._texts: list[str] = []
        self._bytes = 0
        self._wake = asyncio.Event()
        self._wrote = asyncio.Event()
        self._closed = False
        self.writer = asyncio.create_task(self._write(), name=f"sink {run_id}")
        self.dropped = 0
        self.error: LogFailed | None = None

    def put(self, frame: Frame) -> None:
        """Take a frame.

        Raises:
            LogFailed: More waits for the log than may, or the log could not be written.
            MapperError: The text of a delta is none.
        """
        if isinstance(frame, BlockDelta):
            check_delta(frame)
            self.add_text(frame.text, frame)
        elif self._takes():
            self._fold()
            self._pending.append(frame)
            self._wake.set()

    def add_text(self, text: str, block: Block | BlockDelta) -> None:
        """Take text, as a delta of the block at whose end it has just been written.

        Raises:
            LogFailed: As in `put`.
        """
        if self._texts and not self._window:
            self._flush()  # a log that takes it at once has each piece by itself
        is_other = block is not self._said
        if is_other and not self._takes():
            return
        size = self._bytes + len(text)
        if size > self._most:
            raise LogFailed(f"{size} bytes wait for the log")
        if is_other:
            self._turn_to(block)
        if not self._texts:
            self._offset = block.length - len(text) if isinstance(block, Block) else block.offset
        self._texts.append(text)
        self._bytes = size
        if size >= _BATCH_BYTES:
            self._flush()
        elif not self._waits and not self._wake.is_set():
            window = self._window
            now = self._loop.time()
            if window and now // window > self._wrote_at // window:
                self._flush()
            else:
                self._beat.wait(self, now)
                self._waits = True

    @property
    def crowded(self) -> bool:
        """Whether so much waits that the run should give way to the writer.

        A graph says what it has to say without giving way to other tasks, so a burst would
        otherwise look like a log that does not keep up.
        """
        return len(self._pending) >= _PATIENCE and self.error is None

    async def room(self) -> None:
        """Give way to the writer.

        A log that has stood still for a second is not waited for: what a graph says meanwhile
        waits in a queue that knows no bounds (langgraph 1.2.22).
        """
        await asyncio.sleep(0)
        if self.crowded:
            self._flush()  # so much need not wait for the beat
        patience = self._wrote_at + _STANDSTILL_S - self._loop.time()
        if self.crowded and patience > 0:
            self._wrote.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._wrote.wait()

    async def write(self, frames: Iterable[Frame]) -> Position:
        """Write frames now, before any other is put."""
        return await self._log.append(self._thread, self._run_id, list(frames), fence=self._fence)

    async def close(self) -> None:
        """Take nothing more, and wait until everything that was taken is in the log."""
        self._closed = True
        self._fold()
        self._said = None
        self._wake.set()
        await self.writer

    def _takes(self) -> bool:
        """Whether something new may be put; what comes after the end is counted."""
        if self._closed:
            self.dropped += 1
            return False
        if self.error is not None:
            raise self.error
        if len(self._pending) >= self._limits.pending_frames:
            raise LogFailed(f"{len(self._pending)} frames wait for the log")
        return True

    def _turn_to(self, block: Block | BlockDelta) -> None:
        """Say more of a block, which may be the same one under another name."""
        said = self._said
        if said is None or said.message_id != block.message_id or said.index != block.index:
            self._fold()
            self._said = block
        elif isinstance(block, Block) or not self._texts:
            self._said = block

    def _fold(self) -> None:
        """Make one delta of what is being said, as the last of what waits."""
        said, texts = self._said, self._texts
        if not texts or said is None:
            return
        text = "".join(texts)
        if isinstance(said, Block):
            self._pending.append(said.delta(text, self._offset))
        else:
            self._pending.append(said if len(texts) == 1 else replace(said, text=text))
        texts.clear()

    def turn(self) -> None:
        """Write what waits, for the beat has come."""
        self._waits = False
        self._flush()

    def _flush(self) -> None:
        """Write what waits: here and now if the log does not wait, else have the writer do it."""
        if self._log.waits or self._wake.is_set():
            self._wake.set()
            return
        batch = self._take()
        try:
            self._log.append_now(self._thread, self._run_id, batch, fence=self._fence)
        except Exception as error:
            self._fail(error)
            self._wake.set()

    def _take(self) -> list[Frame]:
        """What waits, which is about to be written."""
        if self._waits:
            self._beat.leave(self)
            self._waits = False
        self._wrote_at = self._loop.time()
        self._fold()
        batch, self._pending, self._bytes = self._pending, [], 0
        return batch

    async def _write(self) -> None:
        while not (self._closed and not self._pending):
            await self._wake.wait()
            self._wake.clear()
            if self.error is not None:
                return
            batch = self._take()
            if not batch:
                continue
            try:
                await self.write(batch)
            except Exception as error:
                self._fail(error)
                return
            finally:
                self._wrote.set()

    def _fail(self, error: Exception) -> None:
        self._take()
        self._said = None
        self.error = _log_failed(error)


def _log_failed(error: Exception) -> LogFailed:
    if isinstance(error, LogFailed):
        return error
    failed = LogFailed("the log could not be written")
    failed.__cause__ = error
    return failed
