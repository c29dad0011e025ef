"""One HTTP response that tells what a session says, as server-sent events.

The other rim of a session: what a WebSocket connection is for clients that can have one. Nothing
comes in after the request, so there is no reader; everything else is as in `connection`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from uuid import uuid4

from aiohttp import web

from langgraph_ws.commands import Attach, Identity, StartRun
from langgraph_ws.connection import Timing
from langgraph_ws.errors import LogClosed, RequestError
from langgraph_ws.following import Lost, Threads, TooSlow
from langgraph_ws.gate import is_expired
from langgraph_ws.runs import Runs
from langgraph_ws.session import Do, Retry, Session

__all__ = ["EventStream"]

logger = logging.getLogger(__name__)

_HEARTBEAT_S = 5.0
"""How often a silent stream says that it lives: the JavaScript SDK waits for it."""
_COMMENT = b": heartbeat\n\n"
_HIGH_WATER = 32 * 2**10


class EventStream:
    """One response, from its request to its end.

    Args:
        transport: Its transport.
        response: The response, prepared.
        session: Its protocol; what it says is text in the form of server-sent events.
        runs: What it works on.
        timing: How long things may take.
        identity: Who the client is.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        response: web.StreamResponse,
        session: Session,
        runs: Runs,
        *,
        timing: Timing,
        identity: Identity,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._transport = transport
        self._session = session
        self._runs = runs
        self._timing = timing
        self._identity = identity
        self._wake = asyncio.Event()
        self._outbox: deque[bytes] = deque()
        self._lost: deque[Lost] = deque()
        self._threads = Threads(
            runs,
            session,
            limit=1,
            send=self._put,
            wake=self._wake.set,
            lost=self._fell_out,
        )
        self._deadline: asyncio.TimerHandle | None = None
        self._ending = self._over = False
        self._finish = False
        self._beat_due = False
        self._messages = self._sent = self._flushed = 0
        self._reported = (0, 0)
        self._sent_at = self._progress_at = self._loop.time()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        transport.set_write_buffer_limits(high=_HIGH_WATER)

    async def run(self, action: Do) -> None:
        """Carry out the command, and tell of the thread until either side ends it."""
        try:
            await self._begin(action)
            await self._send_all()
            await self._response.write_eof()
        except (ConnectionError, TooSlow, LogClosed):
            pass
        except RequestError as error:
            logger.info("a stream of events ended: %s", error)
        except Exception:
            logger.exception("a stream of events failed (error %s)", uuid4().hex)
        finally:
            if self._deadline is not None:
                self._deadline.cancel()
            if self._ending:
                self._transport.abort()
            self._threads.close()
            self.ended.set_result(None)

    async def _begin(self, action: Do) -> None:
        command = action.command
        assert isinstance(command, StartRun | Attach), "nothing else can be told of"
        try:
            if isinstance(command, StartRun):
                await self._threads.start(self._identity, action.token, command)
            else:
                await self._threads.attach(self._identity, action.token, command)
        except RequestError as error:
            self._put(self._session.done(action.token, error))

    # -- writing ----------------------------------------------------------------------------

    async def _send_all(self) -> None:
        while not self._transport.is_closing():
            self._wake.clear()
            await self._write(self._take())
            if self._lost:
                await self._mend(self._lost.popleft())
            elif self._ending and not (self._finish and self._threads.ready):
                return
            elif not (self._threads.followed or self._outbox):
                self._over = True  # there is nothing more to tell
                return
            elif not (self._threads.ready or self._outbox or self._beat_due):
                await self._wake.wait()

    def _take(self) -> list[bytes]:
        """What is to be sent now: answers first, then what the thread has to say."""
        messages = list(self._outbox)
        self._outbox.clear()
        if self._threads.ready:
            messages += self._threads.take()
        self._messages += len(messages)
        if self._beat_due and not messages:
            messages.append(_COMMENT)
        self._beat_due = False
        return messages

    async def _write(self, messages: Sequence[bytes]) -> None:
        if not messages:
            return
        data = b"".join(messages)
        self._sent += len(data)
        self._sent_at = self._loop.time()
        await self._response.write(data)

    async def _mend(self, lost: Lost) -> None:
        if not await self._threads.mend(lost):
            self._ending = True

    def _put(self, messages: Sequence[bytes]) -> None:
        self._outbox.extend(messages)
        self._wake.set()

    def _fell_out(self, lost: Lost) -> None:
        self._lost.append(lost)
        self._wake.set()

    # -- as a connection of the route ---------------------------------------------------------

    @property
    def close_code(self) -> int:
        """What a WebSocket would have been closed with; 1006 when it broke."""
        return 1000 if self._ending or self._over else 1006

    @property
    def lag(self) -> int:
        """How many log entries it is behind."""
        return self._threads.lag

    def sweep(self, now: float, wall: float) -> None:
        """Look after everything that depends on time.

        Args:
            now: The time of the event loop.
            wall: The time in seconds since the Unix epoch.
        """
        del wall
        self.report()
        if self._transport.is_closing():
            self._wake.set()
            return
        waiting = self._transport.get_write_buffer_size()
        flushed = self._sent - waiting
        if not waiting or flushed > self._flushed:
            self._flushed = max(flushed, self._flushed)
            self._progress_at = now
        elif now - self._progress_at >= self._timing.stall:
            self._runs.metrics.connection_stalled(self._session.name)
            logger.warning("dropped a stream of events: it took no byte")
            self._transport.abort()
            self._wake.set()
            return
        self._threads.send_overdue()
        if is_expired(self._identity):
            self.close()
        elif now - self._sent_at >= min(_HEARTBEAT_S, self._timing.heartbeat):
            self._beat_due = True
            self._wake.set()

    def report(self) -> None:
        """Tell the metrics what has gone out since it was told last."""
        messages, size = self._reported
        self._reported = (self._messages, self._sent)
        if self._messages > messages:
            self._runs.metrics.messages_sent(
                self._session.name, self._messages - messages, self._sent - size
            )

    def bye(self, reason: str, retry: Retry, after_ms: int) -> None:
        """Say that the stream is about to end."""
        self._put(self._session.bye(reason, retry, after_ms))

    def close(
        self, code: int = 1000, reason: str = "", *, finish: bool = False, deaf: bool = False
    ) -> None:
        """End the stream, after what is to be sent before, in a bounded time.

        Args:
            code: Server-sent events have none.
            reason: Nor a reason.
            finish: Whether what the thread holds by now is sent first.
            deaf: Whether nothing can be heard any more; nothing is expected.
        """
        del code, reason, deaf
        if not self._ending:
            self._ending = True
            self._finish = finish
            self._deadline = self._loop.call_later(self._timing.close, self._transport.abort)
            self._wake.set()
