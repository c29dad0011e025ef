"""Between a run and the log: what waits to be written, merged where it may be, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from langgraph_ws.errors import LogFailed
from langgraph_ws.frames import BlockDelta, Frame
from langgraph_ws.limits import Limits
from langgraph_ws.log import Position, ThreadLog

__all__ = ["Sink"]

_PATIENCE = 256
"""Frames that may wait before the run gives way to the task that writes them."""
_STANDSTILL_S = 1.0
_BATCH_BYTES = 1_024
"""Text that waits for no more."""


class Sink:
    """Takes the frames of one run and writes them to the log of its thread, in order.

    Deltas of one block that wait together are merged into one: the text is concatenated, nothing
    else is ever merged. A delta waits at most `window` seconds, or until 1 KiB of text waits; every
    other frame goes out at once with the deltas before it (so the first delta of a block, which
    comes with its start, does not wait). A sink that is closed drops what comes later (a node that
    ignored the cancellation may still write) and counts it.

    Args:
        log: The log.
        thread: The thread.
        run_id: The run.
        limits: How much may wait.
        window: How long a delta may wait, in seconds.
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
        window: float,
        fence: int | None = None,
    ) -> None:
        self._log = log
        self._thread = thread
        self._run_id = run_id
        self._fence = fence
        self._limits = limits
        self._window = window
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._wrote_at = self._loop.time()
        self._pending: list[Frame] = []
        self._texts: list[str] = []  # of the last pending frame, when it is a delta
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
        """
        if self._closed:
            self.dropped += 1
            return
        if self.error is not None:
            raise self.error
        if not isinstance(frame, BlockDelta):
            self._add(frame)
            self._wake.set()
            return
        self._bytes += len(frame.text)
        if self._bytes > self._limits.pending_bytes:
            raise LogFailed(f"{self._bytes} bytes wait for the log")
        if not self._merge(frame):
            self._add(frame)
            self._texts.append(frame.text)
        if self._bytes >= _BATCH_BYTES:
            self._flush()
        elif self._timer is None and not self._wake.is_set():
            if (turn := self._turn()) is None:
                self._flush()
            else:
                self._timer = self._loop.call_at(turn, self._flush)

    def add_text(self, text: str) -> bool:
        """Take text that goes on with the frame that was put last, if that is a delta and waits."""
        size = self._bytes + len(text)
        if not self._texts or self._closed or size > self._limits.pending_bytes:
            return False
        self._texts.append(text)
        self._bytes = size
        if size >= _BATCH_BYTES:
            self._flush()
        return True

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
        patience = self._wrote_at + _STANDSTILL_S - self._loop.time()
        if self.crowded and patience > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._wrote.wait()

    async def write(self, frames: Iterable[Frame]) -> Position:
        """Write frames now, before any other is put."""
        return await self._log.append(self._thread, self._run_id, list(frames), fence=self._fence)

    async def close(self) -> None:
        """Take nothing more, and wait until everything that was taken is in the log."""
        self._closed = True
        self._wake.set()
        await self.writer

    def _merge(self, delta: BlockDelta) -> bool:
        if not self._texts:
            return False
        last = self._pending[-1]
        assert isinstance(last, BlockDelta)
        if last.message_id != delta.message_id or last.index != delta.index:
            return False
        self._texts.append(delta.text)
        return True

    def _add(self, frame: Frame) -> None:
        self._fold()
        if len(self._pending) >= self._limits.pending_frames:
            raise LogFailed(f"{len(self._pending)} frames wait for the log")
        self._pending.append(frame)

    def _fold(self) -> None:
        """Put the merged text into the last pending delta."""
        if len(self._texts) > 1:
            last: Any = self._pending[-1]
            self._pending[-1] = replace(last, text="".join(self._texts))
        self._texts.clear()

    def _turn(self) -> float | None:
        """When a delta that comes now is to be written; None: now.

        All sinks take their turns at the same times, once in a window, so that a log in a database
        is sent what many runs have said in one piece.
        """
        now, window = self._loop.time(), self._window
        if not window or (ticks := now // window) > self._wrote_at // window:
            return None
        return (ticks + 1) * window

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
        self._wrote.set()

    def _take(self) -> list[Frame]:
        """What waits, which is about to be written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
            self._wrote.clear()
            try:
                await self.write(batch)
            except Exception as error:
                self._fail(error)
                return
            finally:
                self._wrote.set()

    def _fail(self, error: Exception) -> None:
        self._take()
        self.error = _log_failed(error)


def _log_failed(error: Exception) -> LogFailed:
    if isinstance(error, LogFailed):
        return error
    failed = LogFailed("the log could not be written")
    failed.__cause__ = error
    return failed
