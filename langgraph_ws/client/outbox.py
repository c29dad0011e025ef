"""What was asked and has no answer yet: sent in order, in turn where the server says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, TypeAlias

from langgraph_ws.client.errors import RequestRefused
from langgraph_ws.client.feed import Feed
from langgraph_ws.client.handles import Handle, Run
from langgraph_ws.client.link import Link
from langgraph_ws.client.messages import RunInfo
from langgraph_ws.client.pace import Pace
from langgraph_ws.codec import dumps

__all__ = ["Outbox", "Request", "set_exception"]

Json: TypeAlias = dict[str, Any]


@dataclass(slots=True, eq=False)
class Request:
    """A message that awaits its answer.

    Attributes:
        message: What is sent, without its id.
        kind: `start` a run, `watch` one that exists, `follow` a thread again, `leave` one,
            `call` anything else.
        answer: What it is answered.
        handle: The run that it is about.
        feed: The thread that it follows.
        hearing: Those who are told what comes after the answer, and were told nothing before.
        once: Whether it means nothing on another connection.
    """

    message: Json
    kind: Literal["start", "watch", "follow", "leave", "call"]
    answer: asyncio.Future[RunInfo]
    handle: Run | None = None
    feed: Feed | None = None
    hearing: tuple[Handle, ...] = ()
    once: bool = False


class Outbox:
    """The requests that await their answers, each under the number that it is sent with.

    Args:
        wire: What is sent of a request, at the time when it is.
        is_void: Whether a request need not be sent any more that had to wait for its turn.
    """

    def __init__(self, wire: Callable[[Request], Json], is_void: Callable[[Request], bool]) -> None:
        self._wire = wire
        self._is_void = is_void
        self._numbers = count(1)
        self._waiting: dict[int, Request] = {}
        self._link: Link | None = None
        self._pace = Pace()
        self._paced: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether what is asked is sent at once, or in its turn."""
        return self._link is not None

    @property
    def requests(self) -> list[Request]:
        """Those that have no answer."""
        return list(self._waiting.values())

    def get(self, number: object) -> Request | None:
        """The request that a message answers."""
        return self._waiting.get(number) if isinstance(number, int) else None

    def put(self, request: Request) -> int:
        """Ask for something; its number, to be given to `drop`."""
        number = next(self._numbers)
        self._waiting[number] = request
        if self._link is not None:
            self._send(self._link, number)
        return number

    def drop(self, number: object) -> None:
        """It has its answer, or nobody waits for that any more."""
        if isinstance(number, int):
            self._waiting.pop(number, None)

    def connect(self, link: Link) -> None:
        """There is a connection."""
        self._link = link
        self._pace.connected(_now())

    def repeat(self) -> None:
        """Ask again for what the last connection took no answer from."""
        for number, request in list(self._waiting.items()):
            if not request.once and self._link is not None:
                self._send(self._link, number)

    def disconnect(self, *, abused: bool) -> None:
        """The connection has ended: `abused` when too much was sent over it."""
        self._link = None
        self._pace.disconnected(abused=abused)
        if self._paced is not None:
            self._paced.cancel()
            self._paced = None
        self._waiting = {
            number: request for number, request in self._waiting.items() if not request.once
        }

    def slow_down(self, number: object, retry_after: float) -> bool:
        """The server refused a request for its rate: it waits for its turn, and what comes after.

        Returns:
            Whether the server had refused none before.
        """
        news = self._pace.slow_down(retry_after, _now())
        if isinstance(number, int) and number in self._waiting:
            self._send_in_turn(number)
        return news

    def refuse_longest(self) -> None:
        """The server closed because a message was too long: do not send it again."""
        sizes = {
            number: len(dumps(request.message))
            for number, request in self._waiting.items()
            if not request.once
        }
        if sizes:
            number = max(sizes, key=lambda one: sizes[one])
            error = RequestRefused("limit_exceeded", "the message is longer than the server takes")
            set_exception(self._waiting.pop(number).answer, error)

    def fail(self, failure: Exception) -> None:
        """Nothing will be answered."""
        for request in self._waiting.values():
            set_exception(request.answer, failure)
        self._waiting.clear()

    def _send(self, link: Link, number: int) -> None:
        if self._pace.limited(_now()):
            self._send_in_turn(number)
        else:
            link.put(dumps(self._wire(self._waiting[number]) | {"id": number}))

    def _send_in_turn(self, number: int) -> None:
        self._pace.wait(number)
        if self._paced is None:
            self._paced = asyncio.get_running_loop().create_task(self._send_slowly())

    async def _send_slowly(self) -> None:
        while (delay := self._pace.due(_now())) is not None:
            if delay:
                await asyncio.sleep(delay)
                continue
            number = self._pace.take(_now())
            request = self._waiting.get(number)
            if request is not None and self._is_void(request):
                self.drop(number)
            elif request is not None and self._link is not None:
                self._link.put(dumps(self._wire(request) | {"id": number}))
        self._paced = None


def set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    """Have who awaits it fail, if it is not done."""
    if not future.done():
        future.set_exception(error)
        with suppress(asyncio.CancelledError):
            future.exception()  # whoever waited may have gone


def _now() -> float:
    return asyncio.get_running_loop().time()
