"""What a program holds of the runs and threads that a client follows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, Unpack

from langgraph_ws.client.callbacks import Callbacks, Given, check_callbacks
from langgraph_ws.client.errors import ConnectionFailedError
from langgraph_ws.client.messages import (
    ChatMessage,
    Gap,
    Interrupt,
    Message,
    Source,
    WorkflowStep,
)
from langgraph_ws.client.requests import NOTHING, Messages
from langgraph_ws.client.view import Result, View
from langgraph_ws.log import Position

__all__ = ["Handle", "Run", "Thread", "closed_error"]

_BUFFER = 10_000
"""Messages that wait for a program that does not iterate."""
_HIGH_WATER = 1_000
"""Messages that wait for one that does before reading stops."""


class Answering(Callbacks, total=False):
    """What may stand beside an answer: arguments of `Client.resume_chat`."""

    checkpoint_id: str | None
    update: object
    goto: str | Sequence[str] | None
    run_id: str | None
    assistant_id: str | None
    multitask_strategy: str | None
    options: Mapping[str, Any] | None


class Asking(Protocol):
    """The client, as far as what it follows asks it for something."""

    @property
    def new_chat(self) -> Callable[..., Awaitable[Run]]:
        """Starts a run."""
        ...

    @property
    def resume_chat(self) -> Callable[..., Awaitable[Run]]:
        """Starts a run that goes on with a thread."""
        ...

    async def cancel(self, run_id: str | None = None, *, thread_id: str | None = None) -> None:
        """Stop a run."""
        ...

    async def detach(self, thread: Thread) -> None:
        """Follow a thread no longer."""
        ...

    def resume_reading(self) -> None:
        """There may be room again for what was not read."""
        ...


class Handle:
    """Something that is followed.

    Iterating over it gives its messages, each once, to one loop. Up to 10,000 wait for a program
    that does not iterate (yet); then the oldest are dropped, and iteration begins with a `Gap`
    whose reason is `buffer`. While a program iterates slowly, the client reads slowly.
    """

    def __init__(self, client: Asking, view: View, callbacks: Mapping[str, object]) -> None:
        self._client = client
        self._view = view
        self._callbacks = check_callbacks(callbacks)
        self._buffer: deque[Message] = deque()
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._readers = 0
        self._dropped = 0
        self._over = False
        self._failure: Exception | None = None

    @property
    def view(self) -> View:
        """What its messages add up to."""
        return self._view

    @property
    def callbacks(self) -> Given:
        """Its own callbacks."""
        return self._callbacks

    @property
    def thread_id(self) -> str:
        """The thread."""
        return self._view.thread_id or ""

    @property
    def status(self) -> str:
        """How the run stands: `queued`, `running`, `cancelling`, or how it ended."""
        return self._view.status

    @property
    def text(self) -> str:
        """The text of the newest assistant message of the newest run, so far."""
        return self._view.text

    @property
    def messages(self) -> list[ChatMessage]:
        """The finished messages, those of the user included."""
        return self._view.messages

    @property
    def sources(self) -> tuple[Source, ...]:
        """All sources of the newest run so far, in order."""
        return self._view.sources

    @property
    def interrupts(self) -> list[Interrupt]:
        """What waits for an answer."""
        return self._view.interrupts

    @property
    def steps(self) -> list[WorkflowStep]:
        """The tasks of the newest run, each as it stands, in the order they began."""
        return self._view.steps

    @property
    def position(self) -> Position | None:
        """Where it stands; to be saved, and given to `attach` some other time."""
        return self._view.position

    @property
    def over(self) -> bool:
        """Whether nothing comes any more."""
        return self._over

    @property
    def congested(self) -> bool:
        """Whether so much waits for who iterates that nothing more should be read."""
        return self._readers > 0 and len(self._buffer) >= _HIGH_WATER

    def hear(self, message: Message) -> None:
        """Keep a message for who iterates."""
        if not self._readers and len(self._buffer) >= _BUFFER:
            self._buffer.popleft()
            self._dropped += 1
        self._buffer.append(message)
        self._news.set()

    def finish(self, failure: Exception | None = None) -> None:
        """Nothing comes any more."""
        if not self._over:
            self._over, self._failure = True, failure
            self._news.set()
            self._ended.set()

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[Message]:
        self._readers += 1
        try:
            while True:
                if self._dropped:
                    self._dropped = 0
                    yield Gap(thread_id=self.thread_id, reason="buffer")
                while self._buffer:
                    yield self._buffer.popleft()
                    self._client.resume_reading()
                if self._over:
                    break
                self._news.clear()
                await self._news.wait()
        finally:
            self._readers -= 1
            self._client.resume_reading()
        if self._failure is not None:
            raise self._failure


class Run(Handle):
    """A run that is followed to its end."""

    def __init__(
        self,
        client: Asking,
        run_id: str,
        callbacks: Mapping[str, object],
        after: Position | None = None,
    ) -> None:
        super().__init__(client, View(run_id, after), callbacks)
        self._run_id = run_id

    def __repr__(self) -> str:
        return f"<Run {self._run_id} {self.status}>"

    @property
    def run_id(self) -> str:
        """The run."""
        return self._run_id

    async def result(self) -> Result:
        """Wait for the end of the run.

        Returns:
            How it ended: `completed`, `interrupted` or `cancelled`.

        Raises:
            RunFailedError: It failed, was drained, or was lost.
            ConnectionFailedError: The connection ended for good before.
            RequestRefused: The server does not let it be followed any more.
        """
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        return self._view.result()

    async def answer(self, value: object, **more: Unpack[Answering]) -> Run:
        """Answer what the run waits for.

        Args:
            value: The answer to the one interrupt, or `{interrupt id: answer}`.
            more: Other arguments of `Client.resume_chat`; callbacks are those of this run unless
                given.

        Returns:
            The run that goes on with the thread.

        Raises:
            InvalidRequest: A field is wrong; nothing was sent.
            RequestRefused: The server refused it.
            ConnectionFailedError: There is no connection.
        """
        inherited: Any = {**self._callbacks, **more}
        return await self._client.resume_chat(self.thread_id, resume=value, **inherited)

    async def cancel(self) -> None:
        """Stop the run; its `end` comes when it has stopped. Nothing happens if it has ended.

        Raises:
            RequestRefused: The server refused it.
            ConnectionFailedError: There is no connection.
        """
        if not self._over:
            await self._client.cancel(self._run_id)


class Thread(Handle):
    """A thread that is followed, with every run on it, until `detach`."""

    def __init__(
        self,
        client: Asking,
        thread_id: str,
        callbacks: Mapping[str, object],
        after: Position | None = None,
    ) -> None:
        super().__init__(client, View(None, after), callbacks)
        self._view.thread_id = thread_id

    def __repr__(self) -> str:
        return f"<Thread {self.thread_id} {self.status}>"

    async def new_chat(
        self,
        messages: Messages | None = None,
        *,
        input: object = NOTHING,  # noqa: A002  # the protocol's word
        run_id: str | None = None,
        assistant_id: str | None = None,
        multitask_strategy: str | None = None,
        options: Mapping[str, Any] | None = None,
        **callbacks: Unpack[Callbacks],
    ) -> Run:
        """Start a run on the thread; arguments and errors are those of `Client.new_chat`."""
        return await self._client.new_chat(
            messages,
            input=input,
            thread_id=self.thread_id,
            run_id=run_id,
            assistant_id=assistant_id,
            multitask_strategy=multitask_strategy,
            options=options,
            **callbacks,
        )

    async def resume_chat(
        self,
        messages: Messages | None = None,
        *,
        input: object = NOTHING,  # noqa: A002  # the protocol's word
        resume: object = NOTHING,
        checkpoint_id: str | None = None,
        update: object = None,
        goto: str | Sequence[str] | None = None,
        run_id: str | None = None,
        assistant_id: str | None = None,
        multitask_strategy: str | None = None,
        options: Mapping[str, Any] | None = None,
        **callbacks: Unpack[Callbacks],
    ) -> Run:
        """Go on with the thread; arguments and errors are those of `Client.resume_chat`."""
        return await self._client.resume_chat(
            self.thread_id,
            messages,
            input=input,
            resume=resume,
            checkpoint_id=checkpoint_id,
            update=update,
            goto=goto,
            run_id=run_id,
            assistant_id=assistant_id,
            multitask_strategy=multitask_strategy,
            options=options,
            **callbacks,
        )

    async def answer(self, value: object, **more: Unpack[Answering]) -> Run:
        """Answer what the thread waits for.

        Args:
            value: The answer to the one interrupt, or `{interrupt id: answer}`.
            more: Other arguments of `Client.resume_chat`.

        Returns:
            The run that goes on with the thread.

        Raises:
            InvalidRequest: A field is wrong; nothing was sent.
            RequestRefused: The server refused it.
            ConnectionFailedError: There is no connection.
        """
        return await self._client.resume_chat(self.thread_id, resume=value, **more)

    async def cancel(self) -> None:
        """Stop the active run; its `end` comes when it has stopped. Nothing happens without one.

        Raises:
            RequestRefused: The server refused it.
            ConnectionFailedError: There is no connection.
        """
        await self._client.cancel(thread_id=self.thread_id)

    async def detach(self) -> None:
        """Follow it no longer; its runs go on, and iteration ends."""
        await self._client.detach(self)


def closed_error() -> ConnectionFailedError:
    """What is raised after `close`."""
    return ConnectionFailedError("the client was closed")
