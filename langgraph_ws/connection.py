"""One WebSocket connection: a reader that never waits for work, and a writer that alone sends.

How aiohttp's server side behaves, and what follows from it here (3.13.5 and 3.14.5):

* Pings are answered and closes are seen only while some task is in `receive()`: the reader always
  is. Commands are carried out by a task of their own.
* Cancelling one waiting send cancels every other sender of the socket and spoils later sends
  (3.14, a drain waiter that all share, PR #12307): the writer is the only sender, of pings, pongs
  and the close frame too, and is never cancelled in a send. Whoever gives up on a socket aborts
  its transport, which ends a send that waits.
* `close()` waits without limit for a client that does not read, and a heartbeat that fails calls
  `transport.close()`, which waits in the same way: each close has a deadline, and aiohttp's own
  heartbeat is off.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar
from uuid import uuid4

from aiohttp import WSMsgType, web

from langgraph_ws.commands import (
    Attach,
    Authenticate,
    Authenticated,
    Cancel,
    Command,
    Detach,
    Identity,
    ReadHistory,
    ReadState,
    ReadTree,
    StartRun,
)
from langgraph_ws.errors import LogClosed, LogFailed, RequestError, refused_by
from langgraph_ws.following import Follow, Lost, Threads, TooSlow
from langgraph_ws.gate import is_expired
from langgraph_ws.handshake import Place, log_refused_secret
from langgraph_ws.limits import Limits
from langgraph_ws.log import Entry
from langgraph_ws.session import Close, Do, Reply, Retry, Session
from langgraph_ws.states import read

if TYPE_CHECKING:
    from langgraph_ws.runs import Runs

__all__ = ["Connection", "Timing", "close_reason", "is_close_code"]

logger = logging.getLogger(__name__)

_HIGH_WATER = 32 * 2**10
_NOTSENT_LOWAT = 16 * 2**10
_LINUX_NOTSENT_LOWAT = 25 if sys.platform == "linux" else None
"""Python 3.11 does not name it."""
_COMMANDS = 64
_AWAY_MS = 5_000
"""After how long a client comes back whose server cannot reach its log."""
_OUTBOX_MESSAGES = 1_024
_OUTBOX_BYTES = 4 * 2**20
_REASON_BYTES = 123
_DEAF_REPLY_S = 0.25
"""How long the answer to a close is waited for when aiohttp drops all that comes in."""
_CLOSING = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)

Authenticator = Callable[[str], Awaitable[Identity | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things may take, in seconds.

    Attributes:
        heartbeat: After this much silence in either direction something is sent.
        auth: Until the client must have said who it is.
        stall: Without a byte going out while some are waiting.
        close: For everything that belongs to closing.
    """

    heartbeat: float = 20.0
    auth: float = 5.0
    stall: float = 10.0
    close: float = 2.0

    @property
    def sweep(self) -> float:
        """How often connections are to be looked at."""
        return min(1.0, min(self.heartbeat, self.auth, self.stall) / 4)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a connection is to be closed; `finish`: after all that its threads have to say."""

    code: int
    reason: bytes
    finish: bool
    deaf: bool


class Connection:
    """One upgraded connection, from its first message to its last.

    Args:
        ws: The prepared response, with `autoping` and `autoclose` off.
        transport: Its transport.
        session: Its protocol.
        runs: What it works on.
        limits: What it may use.
        timing: How long things may take.
        identity: Who the client is; None: it has yet to say so.
        place: The room that it takes.
        authenticator: Whose token this is.
        trace: The trace context of the handshake.
    """

    __slots__ = (
        "_authenticator",
        "_credit",
        "_credit_at",
        "_deadline",
        "_degraded",
        "_ending",
        "_flushed",
        "_heard_at",
        "_identity",
        "_limits",
        "_loop",
        "_messages",
        "_news",
        "_opened_at",
        "_outbox",
        "_outbox_bytes",
        "_ping_due",
        "_pinged_at",
        "_place",
        "_pong",
        "_progress_at",
        "_reported",
        "_runs",
        "_sent",
        "_sent_at",
        "_session",
        "_sleeper",
        "_swept",
        "_swept_at",
        "_threads",
        "_timing",
        "_trace",
        "_transport",
        "_work",
        "_worker",
        "_ws",
        "ended",
    )

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        session: Session,
        runs: Runs,
        *,
        limits: Limits,
        timing: Timing,
        identity: Identity | None,
        place: Place,
        authenticator: Authenticator,
        trace: Mapping[str, str],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._ws = ws
        self._transport = transport
        self._session = session
        self._runs = runs
        self._limits = limits
        self._timing = timing
        self._identity = identity
        self._place = place
        self._authenticator = authenticator
        self._trace = trace
        self._messages = 0
        self._reported = (0, 0, 0)
        self._news = False
        self._sleeper: asyncio.Future[None] | None = None
        self._threads = Threads(
            runs,
            session,
            limit=limits.threads_per_connection,
            send=self._put,
            wake=self._rouse,
            lost=self._enqueue,
            # What is compressed has to pass aiohttp's coroutine.
            deliver=None if ws.compress else self._deliver,
            tell=None if ws.compress else self._tell,
        )
        # Lists, made anew: an empty deque or event takes 0.7 KB, and most connections are idle.
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._work: list[Do | Lost] = []
        self._worker: asyncio.Task[None] | None = None
        self._credit = float(limits.message_burst)
        self._credit_at = now
        self._opened_at = self._heard_at = self._sent_at = self._progress_at = now
        self._swept_at = now
        self._sent = self._swept = self._flushed = 0
        self._pinged_at: float | None = None
        self._ping_due = False
        self._pong: bytes | None = None
        self._ending: _Ending | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._degraded = False
        self.ended: asyncio.Future[None] = self._loop.create_future()
        _tune(transport, timing)

    # -- the life of a connection -----------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until either side has closed; bounded from then on."""
        writer = self._loop.create_task(self._write())
        code = 1001
        try:
            code = await self._read()
        except Exception:
            self._log_fault("a message could not be taken")
            code = 1011
        finally:
            self.close(code)
            await _outlast(self._loop.create_task(self._wind_up(writer)))

    async def _wind_up(self, writer: asyncio.Task[None]) -> None:
        """Wait for all that belongs to the connection, in a bounded time."""
        grace = 2 * self._timing.close + 1
        await _settle(writer, grace)
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport.abort()
        self._threads.close()
        if self._worker is not None:
            await _settle(self._worker, grace)
        self.ended.set_result(None)

    def close(
        self, code: int, reason: str = "", *, finish: bool = False, deaf: bool = False
    ) -> None:
        """Close, after what is to be sent before; whatever the client does, in a bounded time.

        Args:
            code: Why, for programs.
            reason: Why, for people; cut to the 123 bytes that a close frame has room for.
            finish: Whether what the followed threads hold by now is sent first.
            deaf: Whether the client's answer can not be heard any more (aiohttp drops all that
                comes in once its runner shuts down, before `on_shutdown`).
        """
        if self._ending is not None:
            return
        if not is_close_code(code):
            raise ValueError(f"code: expected one that may be sent, got {code}")
        self._ending = _Ending(code, close_reason(reason), finish, deaf)
        self._deadline = self._loop.call_later(self._timing.close, self._transport.abort)
        self._rouse()

    def leave(self, reason: str, retry: Retry, code: int, *, after_ms: int = 0) -> None:
        """Close, and say before why and when to come back."""
        self.bye(reason, retry, after_ms)
        self.close(code, reason)

    def bye(self, reason: str, retry: Retry, after_ms: int) -> None:
        """Say that the connection is about to be closed."""
        self._put(self._session.bye(reason, retry, after_ms))

    def abort(self, why: str) -> None:
        """Drop the connection at once, with all that it was to send."""
        logger.warning("dropped a connection: %s", why)
        self._transport.abort()
        self._rouse()

    def sweep(self, now: float, wall: float) -> None:
        """Look after everything that depends on time.

        Args:
            now: The time of the event loop.
            wall: The time in seconds since the Unix epoch.
        """
        self.report()
        if self._transport.is_closing():
            return
        waiting = self._transport.get_write_buffer_size()
        if self._sent > self._swept:  # since then; no clock is read for each message
            self._swept, self._sent_at = self._sent, self._swept_at
        self._swept_at = now
        flushed = self._sent - waiting
        if not waiting or flushed > self._flushed:
            self._flushed = max(flushed, self._flushed)
            self._progress_at = now
        elif now - self._progress_at >= self._timing.stall:
            self._runs.metrics.connection_stalled(self._session.name)
            self.abort(f"it took no byte for {self._timing.stall:g} s")
            return
        if self._ending is None:
            self._threads.send_overdue()
            self._check_identity(now, wall)
            self._check_silence(now, wall, idle=not waiting)

    @property
    def close_code(self) -> int:
        """The code that it was closed with; 1006 when it broke."""
        return self._ws.close_code or 1006

    @property
    def lag(self) -> int:
        """How many log entries it is behind."""
        return self._threads.lag

    def report(self) -> None:
        """Tell the metrics what has gone out since it was told last."""
        messages, size, merged = self._reported
        self._reported = (self._messages, self._sent, self._session.merged)
        metrics, protocol = self._runs.metrics, self._session.name
        if self._messages > messages:
            metrics.messages_sent(protocol, self._messages - messages, self._sent - size)
        if self._session.merged > merged:
            metrics.frames_conflated(protocol, self._session.merged - merged)

    def _check_identity(self, now: float, wall: float) -> None:
        if self._identity is None:
            if now - self._opened_at >= self._timing.auth:
                self.close(4408, "no token came in time")
        elif self._identity.expires_at is not None and self._identity.expires_at <= wall:
            self._work.clear()
            self.leave("expired", "reauth", 4440)

    def _check_silence(self, now: float, wall: float, *, idle: bool) -> None:
        if self._pinged_at is not None:
            if now - self._pinged_at >= self._timing.heartbeat / 2:
                self.abort("it did not answer a ping")
                return
        elif now - self._heard_at >= self._timing.heartbeat and not self._ping_due:
            self._ping_due = True
            self._rouse()
        health = self._runs.log.health()
        if health == "down":
            self.leave("unavailable", "resume", 1013, after_ms=_AWAY_MS)
            return
        degraded = health != "ok"
        due = now - self._sent_at >= self._timing.heartbeat or (degraded and not self._degraded)
        self._degraded = degraded
        if idle and not self._outbox and due:
            heads = self._threads.heads
            self._put(self._session.heartbeat(int(wall * 1000), heads, degraded=degraded))

    # -- reading ----------------------------------------------------------------------------

    async def _read(self) -> int:
        """Take messages until the connection closes; the code to close with."""
        while True:
            message = await self._ws.receive()
            if message.type in _CLOSING:
                return _answer_to(message.data) if message.type is WSMsgType.CLOSE else 1000
            self._heard_at = self._loop.time()
            self._pinged_at = None
            if self._ending is not None:
                continue
            admitted = self._admit()
            match message.type:
                case WSMsgType.TEXT:
                    self._take(message.data, admitted=admitted)
                case WSMsgType.PING if admitted:
                    # Of several that wait, only the last need be answered (RFC 6455, 5.5.3).
                    self._pong = bytes(message.data)
                    self._rouse()
                case WSMsgType.BINARY if self._session.takes_binary:
                    self._take(message.data.decode("utf-8", "replace"), admitted=admitted)
                case WSMsgType.BINARY:
                    self.close(4400, "binary messages are not understood")
                case _:
                    pass

    def _admit(self) -> bool:
        """Whether one more message is within the rate; a client that goes on is closed."""
        burst = self._limits.message_burst
        earned = (self._heard_at - self._credit_at) * self._limits.messages_per_second
        self._credit = min(float(burst), self._credit + earned) - 1
        self._credit_at = self._heard_at
        if self._credit < -burst and self._ending is None:
            self.leave("abuse", "resume", 4429, after_ms=1_000)
        return self._credit >= 0

    def _rate_limited(self) -> RequestError:
        """What a message is refused with that is not within the rate."""
        rate = self._limits.messages_per_second
        return RequestError(
            "rate_limited",
            "too many messages; slow down",
            retryable=True,
            retry_after_ms=math.ceil((1 - self._credit) / rate * 1000) if rate > 0 else None,
        )

    def _take(self, text: str, *, admitted: bool) -> None:
        if not admitted:
            self._put(self._session.refuse(text, self._rate_limited()))
            return
        for action in self._session.receive(text):
            match action:
                case Reply(data):
                    self._put([data])
                case Do():
                    self._enqueue(action)
                case Close(code, reason):
                    self.close(code, reason)

    # -- commands ---------------------------------------------------------------------------

    def _enqueue(self, item: Do | Lost) -> None:
        """Have something done; a task exists only while there is work."""
        if isinstance(item, Do) and len(self._work) >= _COMMANDS:
            self._put(self._session.done(item.token, _too_many_commands()))
            return
        self._work.append(item)
        if self._worker is None:
            self._worker = self._loop.create_task(self._work_off())

    async def _work_off(self) -> None:
        while self._work:
            item = self._work.pop(0)
            try:
                await self._carry_out(item)
            except TooSlow:
                self._leave_slow()
            except (RequestError, LogClosed) as error:
                self._fail(item, error if isinstance(error, RequestError) else refused_by(error))
            except LogFailed as error:
                logger.warning("a command could not be carried out: %s", error)
                if isinstance(item, Do):
                    self._fail(item, refused_by(error))
                else:
                    self.leave("unavailable", "resume", 1013, after_ms=_AWAY_MS)
            except Exception:
                self._fail(item, self._internal_error())
        self._worker = None

    async def _carry_out(self, item: Do | Lost) -> None:
        if isinstance(item, Lost):
            if not await self._threads.mend(item):
                self._leave_slow()
        elif isinstance(item.command, Authenticate):
            await self._authenticate(item.token, item.command.token)
        elif self._identity is None:
            raise RequestError("unauthorized", "say who you are first")
        else:
            await self._command(self._identity, item.token, item.command)

    async def _command(self, identity: Identity, token: int, command: Command) -> None:
        match command:
            case StartRun():
                traced = replace(command, trace=self._trace) if self._trace else command
                await self._threads.start(identity, token, traced)
            case Attach():
                await self._threads.attach(identity, token, command)
            case Detach():
                await self._threads.detach(identity, token, command)
            case Cancel():
                await self._threads.cancel(identity, token, command)
            case ReadState() | ReadHistory() | ReadTree():
                self._put(self._session.done(token, await read(self._runs, identity, command)))
            case Authenticate():
                raise AssertionError("an Authenticate is carried out without an identity")

    async def _authenticate(self, token: int, secret: str) -> None:
        try:
            identity = await self._authenticator(secret)
        except (web.HTTPException, RequestError):
            identity = None
        except Exception as error:
            log_refused_secret("authorize_token", error)
            self._work.clear()
            self.close(1011)
            return
        # Commands that wait behind a token that is refused (more tokens to try, too) are not
        # carried out.
        if identity is None or is_expired(identity):
            self._work.clear()
            self.close(4401, "the token is not accepted")
        elif self._identity is not None and identity.id != self._identity.id:
            self._work.clear()
            self.close(4403, "the token is another identity's")
        elif not self._place.claim(identity):
            self._work.clear()
            self.leave("overloaded", "resume", 1013, after_ms=5_000)
        else:
            self._identity = identity
            answer = Authenticated(expires_at=identity.expires_at)
            self._put(self._session.done(token, answer))

    def _fail(self, item: Do | Lost, error: RequestError) -> None:
        if isinstance(item, Do):
            self._put(self._session.done(item.token, error))
        else:
            self._leave_slow()

    def _leave_slow(self) -> None:
        self.leave("slow", "resume", self._session.slow_code)

    def _internal_error(self) -> RequestError:
        error_id = self._log_fault("a command could not be carried out")
        return RequestError(
            "internal_error", "Something went wrong.", retryable=True, error_id=error_id
        )

    def _log_fault(self, what: str) -> str:
        error_id = uuid4().hex
        logger.exception("%s (error %s)", what, error_id)
        return error_id

    # -- writing ----------------------------------------------------------------------------

    def _put(self, messages: Sequence[bytes]) -> None:
        """Have messages sent.

        What waits is bounded before something is added, so that a single large snapshot passes.
        """
        if not messages or self._transport.is_closing():
            return
        if len(self._outbox) >= _OUTBOX_MESSAGES or self._outbox_bytes >= _OUTBOX_BYTES:
            self.abort("too many answers wait for it")
            return
        self._outbox.extend(messages)
        self._outbox_bytes += sum(map(len, messages))
        self._rouse()

    async def _write(self) -> None:
        """Send everything, and the close frame last."""
        try:
            await self._send_all()
        except ConnectionError:
            return
        except Exception:
            self._fail_writing()
        await self._say_close()

    async def _send_all(self) -> None:
        """Send what there is, waiting for more, until the connection is to be closed."""
        while True:
            self._news = False
            await self._send_control()
            await self._send_outbox()
            if self._ending is not None and not (self._ending.finish and self._threads.ready):
                return
            if not self._threads.ready:
                await self._sleep()
                continue
            for message in self._threads.take():
                await self._send(message)
            if self._threads.ready:
                await asyncio.sleep(0)  # a long replay lets the others have their turn

    async def _sleep(self) -> None:
        """Wait until something has happened since `_news` was reset."""
        if not self._news:
            self._sleeper = self._loop.create_future()
            try:
                await self._sleeper
            finally:
                self._sleeper = None

    def _rouse(self) -> None:
        """Have the writer look what there is to send."""
        self._news = True
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None and not sleeper.done():
            sleeper.set_result(None)

    def _tell(self, follow: Follow, entry: Entry) -> bool:
        """Send what a thread has just said, here and now; False: something is in the way.

        This is what every viewer of a run costs for each piece of it: no task is woken, and the
        frame is written past aiohttp's coroutine, which has nothing to compress or to wait for.
        While a command is carried out, its answer comes first.
        """
        transport = self._transport
        if self._sleeper is None or self._worker is not None or transport.get_write_buffer_size():
            return False
        try:
            message = follow.tell(entry)
            if message is None:
                return False
            self._send_now(message)
        except Exception:
            self._fail_writing()
        return True

    def _deliver(self, follow: Follow) -> None:
        """Send what a thread has to say, here and now where nothing is in the way."""
        transport = self._transport
        if (
            self._sleeper is None
            or self._worker is not None
            or transport.is_closing()
            or transport.get_write_buffer_size()
        ):
            self._threads.wait(follow)
            return
        try:
            messages = self._threads.read(follow)
            for number, message in enumerate(messages):
                if number and transport.get_write_buffer_size():
                    self._put(messages[number:])
                    break
                self._send_now(message)
        except Exception:
            self._fail_writing()

    def _send_now(self, message: bytes) -> None:
        """Send a message past the writer, for which there is nothing to do; framed once for all."""
        text, frame = _Framed.last
        if message is not text:
            frame = _text_frame(message)
        self._transport.write(frame)
        self._messages += 1
        self._sent += len(frame)

    def _fail_writing(self) -> None:
        self._log_fault("a message could not be made or sent")
        self._outbox = []
        self.close(1011)

    async def _send_control(self) -> None:
        if self._ping_due:
            self._ping_due = False
            self._pinged_at = self._loop.time()
            await self._send(b"", WSMsgType.PING)
        if self._pong is not None:
            data, self._pong = self._pong, None
            await self._send(data, WSMsgType.PONG)

    async def _send_outbox(self) -> None:
        while self._outbox:
            messages, self._outbox = self._outbox, []
            for data in messages:
                self._outbox_bytes -= len(data)
                await self._send(data)

    async def _send(self, data: bytes, opcode: WSMsgType = WSMsgType.TEXT) -> None:
        self._count(data, opcode)
        await self._ws.send_frame(data, opcode)

    def _count(self, data: bytes, opcode: WSMsgType = WSMsgType.TEXT) -> None:
        size = len(data)
        self._messages += opcode is WSMsgType.TEXT
        self._sent += size + (2 if size < 126 else 4 if size < 2**16 else 10)

    async def _say_close(self) -> None:
        ending = self._ending
        if ending is None:
            return
        if ending.deaf:
            self._loop.call_later(_DEAF_REPLY_S, self._hang_up)
        await self._ws.close(code=ending.code, message=ending.reason, drain=False)

    def _hang_up(self) -> None:
        """Do not wait for an answer that cannot come, once everything has gone out."""
        if not self._transport.get_write_buffer_size():
            self._transport.abort()


class _Framed:
    """The text that was made a frame last, and that: all who follow a thread are sent the same."""

    last: ClassVar[tuple[bytes, bytes]] = (b"", b"")


def _text_frame(data: bytes) -> bytes:
    """An unmasked text frame (RFC 6455, 5.2)."""
    size = len(data)
    if size < 126:
        frame = b"\x81%c%b" % (size, data)
    elif size < 2**16:
        frame = b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), data)
    else:
        frame = b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), data)
    _Framed.last = data, frame
    return frame


async def _outlast(task: asyncio.Task[None]) -> None:
    """Wait for a task also while being cancelled; the cancellation takes effect afterwards.

    With `handler_cancellation` aiohttp cancels a handler as soon as its client has left.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _settle(task: asyncio.Task[None], timeout: float) -> None:
    """Wait for a task that is about to end; end it when it does not."""
    await asyncio.wait({task}, timeout=timeout)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


def _tune(transport: asyncio.Transport, timing: Timing) -> None:
    """Keep little between us and the client.

    Without it, a client that reads slowly looks healthy until some 4 MB lie in the kernel.
    """
    transport.set_write_buffer_limits(high=_HIGH_WATER)
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = (
        (getattr(socket, "TCP_NOTSENT_LOWAT", _LINUX_NOTSENT_LOWAT), _NOTSENT_LOWAT),
        (getattr(socket, "TCP_USER_TIMEOUT", None), int(timing.stall * 2_000)),
    )
    for option, value in options:
        if option is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def is_close_code(code: int) -> bool:
    """Whether a close frame may carry this code (RFC 6455, 7.4)."""
    return code in (1000, 1001, 1002, 1003, *range(1007, 1015)) or 3000 <= code <= 4999


def _answer_to(code: int) -> int:
    """The code that answers a close; aiohttp lets through some that no close frame may carry."""
    if not code:  # it had none
        return 1000
    return code if is_close_code(code) else 1002


def close_reason(reason: str) -> bytes:
    """A close reason as UTF-8, cut between characters to what a control frame has room for."""
    return reason.encode("utf-8", "replace")[:_REASON_BYTES].decode("utf-8", "ignore").encode()


def _too_many_commands() -> RequestError:
    return RequestError(
        "limit_exceeded", f"{_COMMANDS} commands wait already; send fewer", retryable=True
    )
