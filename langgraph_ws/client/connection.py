"""The connection of a client, which is made again whenever it is lost."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import aiohttp

from langgraph_ws.client.callbacks import Telling
from langgraph_ws.client.errors import ConnectionFailedError, ConnectionLostError, ProtocolError
from langgraph_ws.client.following import Following, refusal
from langgraph_ws.client.link import Link
from langgraph_ws.client.messages import Authenticated, Bye, Error, Heartbeat, Pong, parse
from langgraph_ws.client.reconnect import Advice, Backoff, Lost, Reconnect, closed, refused
from langgraph_ws.codec import dumps
from langgraph_ws.errors import ConfigurationError

__all__ = ["Connection", "ConnectionState", "Token"]

logger = logging.getLogger(__name__)

SUBPROTOCOL = "langgraph-ws.chat.v1"
Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
Status: TypeAlias = Literal["connecting", "open", "reconnecting", "closed"]

_OPEN_S = 10.0
_BATCH = 16
"""Messages that are read before the program has its turn."""
_AUTH = "auth"
_TOO_LONG = 1009
_TOO_FAST = 4429


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionState:
    """How the connection stands.

    Attributes:
        status: `connecting`, `open`, `reconnecting` (waiting to try again) or `closed` (for good).
        attempt: Which attempt comes next, from 1, when reconnecting.
        delay: Seconds until then.
        reason: Why, when reconnecting or closed.
    """

    status: Status
    attempt: int = 0
    delay: float = 0.0
    reason: str = ""


class Connection:
    """A connection that mends itself, until it is given up.

    Args:
        url: The route.
        token: Who the client is.
        headers: Headers of the handshake.
        rules: How to try again.
        heartbeat: Seconds of silence after which the server is pinged.
        following: What is told of the connection, and of the messages.
        telling: Tells the program.
        room: Set when more may be read.
        on_open: Called whenever it is open.
        on_state: Called, in its turn, when the state changes.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None,
        headers: Mapping[str, str],
        rules: Reconnect,
        heartbeat: float,
        following: Following,
        telling: Telling,
        room: asyncio.Event,
        on_open: Callable[[], None],
        on_state: Callable[[ConnectionState], object] | None,
    ) -> None:
        self.state = ConnectionState(status="connecting")
        self._url = url
        self._token = token
        self._headers = headers
        self._rules = rules
        self._heartbeat = heartbeat
        self._following = following
        self._telling = telling
        self._room = room
        self._on_open = on_open
        self._on_state = on_state
        self._backoff = Backoff(rules, renewable=callable(token))

    def change(self, state: ConnectionState) -> None:
        """Note, and tell, how it stands."""
        self.state = state
        if self._on_state is not None:
            self._telling.call(self._on_state, state)

    async def stay(self, session: aiohttp.ClientSession) -> ConnectionFailedError:
        """Connect, again and again.

        Args:
            session: What to connect with.

        Returns:
            Why it was given up.
        """
        while True:
            try:
                lost = await self._connect(session)
            except Exception as error:
                logger.exception("the client failed")
                lost = Lost(reason=f"the client failed: {error!r}", advice="never", cause=error)
            delay = self._backoff.next(lost)
            if delay is None:
                break
            if not lost.announced:
                self._telling.report(
                    ConnectionLostError(
                        lost.reason, code=lost.code, http_status=lost.status, cause=lost.cause
                    )
                )
            self.change(
                ConnectionState(
                    status="reconnecting",
                    attempt=self._backoff.attempt,
                    delay=delay,
                    reason=lost.reason,
                )
            )
            await self._rules.sleep(delay)
        failure = ConnectionFailedError(
            lost.reason, code=lost.code, http_status=lost.status, cause=lost.cause
        )
        self._telling.report(failure)
        return failure

    async def _connect(self, session: aiohttp.ClientSession) -> Lost:
        """One connection from its handshake to its end; why it ended."""
        self.change(ConnectionState(status="connecting"))
        try:
            token = await self._fresh_token()
        except Exception as error:
            return Lost(reason=f"there is no token: {error!r}", cause=error)
        try:
            async with asyncio.timeout(_OPEN_S):
                ws = await session.ws_connect(
                    self._url,
                    protocols=(SUBPROTOCOL,),
                    headers=self._headers,
                    autoping=False,
                    max_msg_size=0,  # a snapshot is as long as its conversation
                )
        except aiohttp.WSServerHandshakeError as error:
            return refused(error.status, error.headers or {}, error)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return Lost(reason=f"no connection: {error or type(error).__name__}", cause=error)
        link = Link(ws, self._heartbeat, dumps({"type": "ping"}))
        try:
            return await self._talk(link, token)
        finally:
            self._following.disconnected(abused=link.code == _TOO_FAST)
            await link.close()

    async def _fresh_token(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        if token is not None and not (isinstance(token, str) and token):
            raise ConfigurationError("token: expected a string that is not empty")
        return token

    async def _talk(self, link: Link, token: str | None) -> Lost:
        if token is None:
            self._ready(link)
        else:
            link.put(dumps({"type": "auth", "id": _AUTH, "token": token}))
        read = 0
        while (data := await link.receive()) is not None:
            try:
                self._take(link, data)
            except ProtocolError as error:
                self._telling.report(error)
            read += 1
            if read % _BATCH == 0:
                await self._let_others(link)
        if link.code == _TOO_LONG:
            self._following.refuse_longest()
        return link.lost or closed(link.code, link.reason, link.bye)

    async def _let_others(self, link: Link) -> None:
        """Let the program have its turn, and wait while it has too much to read."""
        await asyncio.sleep(0)
        link.paused = True
        while self._following.congested:
            self._room.clear()
            await self._room.wait()
        link.paused = False

    def _ready(self, link: Link) -> None:
        """The connection may be used."""
        link.ready = True
        self.change(ConnectionState(status="open"))
        self._on_open()
        self._following.connected(link)

    def _take(self, link: Link, data: str | bytes) -> None:
        message = parse(data)
        if not isinstance(message, Bye):
            self._backoff.succeeded()
        match message:
            case Bye():
                link.bye = message
            case Authenticated():
                self._ready(link)
            case Error() if message.request_id == _AUTH:
                error = refusal(message)
                advice: Advice = "resume" if message.retryable else "never"
                link.drop(Lost(reason=str(error), advice=advice, cause=error))
            case Pong() | Heartbeat():
                pass
            case _:
                self._following.take(message)
