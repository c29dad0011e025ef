"""What a program holds of the runs and threads that a client follows, and its callbacks."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, Unpack

from langgraph_ws.client.errors import ConnectionFailedError
from langgraph_ws.client.messages import (
    Attempt,
    ChatMessage,
    Checkpoint,
    Custom,
    End,
    Error,
    Final,
    Gap,
    Interrupt,
    InterruptAnswered,
    Message,
    Reasoning,
    RolledBack,
    RunInfo,
    Snapshot,
    Source,
    Sources,
    State,
    Text,
    ToolCall,
    ToolResult,
    WorkflowStep,
)
from langgraph_ws.client.requests import NOTHING, Messages
from langgraph_ws.client.view import Result, View
from langgraph_ws.errors import ConfigurationError
from langgraph_ws.log import Position

__all__ = ["Callbacks", "Calls", "Handle", "Run", "Thread"]

logger = logging.getLogger("langgraph_ws.client")

_BUFFER = 10_000
"""Messages that wait for a program that does not iterate."""
_HIGH_WATER = 1_000
"""Messages that wait for one that does, and calls that wait for theirs, before reading stops."""


class Callbacks(TypedDict, total=False):
    """What may be called, each a function or a coroutine function; in the order of the messages.

    Those of a run or a thread are called for it alone, those of the client for whatever it follows,
    each once for a message. The first argument is what the name says (texts are all of the text so
    far); the message follows where that is more. `on_error` gets what goes wrong outside of a call
    of the client: `ConnectionLostError` (it tries again), `ConnectionFailedError` (it does not),
    `ProtocolError` (a message cannot be understood), `RunFailedError`, `RequestRefused` (what
    nobody waits for), or what a callback raised.
    """

    on_run: Callable[[RunInfo], object]
    on_text: Callable[[str, Text], object]
    on_reasoning: Callable[[str, Reasoning], object]
    on_message: Callable[[ChatMessage], object]
    on_tool_call: Callable[[ToolCall], object]
    on_tool_result: Callable[[ToolResult], object]
    on_sources: Callable[[tuple[Source, ...], Sources], object]
    on_workflow_step: Callable[[str, WorkflowStep], object]
    on_interrupt: Callable[[Interrupt], object]
    on_interrupt_answered: Callable[[InterruptAnswered], object]
    on_graph_state: Callable[[State], object]
    on_checkpoint: Callable[[Checkpoint], object]
    on_custom: Callable[[str, Any, Custom], object]
    on_rolled_back: Callable[[RolledBack], object]
    on_attempt: Callable[[Attempt], object]
    on_final: Callable[[Final], object]
    on_end: Callable[[str, End], object]
    on_gap: Callable[[Gap], object]
    on_snapshot: Callable[[Snapshot], object]
    on_error: Callable[[Exception], object]


class Answering(Callbacks, total=False):
    """What may stand beside an answer: arguments of `Client.resume_chat`."""

    checkpoint_id: str | None
    update: object
    goto: str | Sequence[str] | None
    run_id: str | None
    assistant_id: str | None
    multitask_strategy: str | None
    options: Mapping[str, Any] | None


_NAMES: Mapping[type[Message], str] = {
    RunInfo: "on_run",
    Text: "on_text",
    Reasoning: "on_reasoning",
    ChatMessage: "on_message",
    ToolCall: "on_tool_call",
    ToolResult: "on_tool_result",
    Sources: "on_sources",
    WorkflowStep: "on_workflow_step",
    Interrupt: "on_interrupt",
    InterruptAnswered: "on_interrupt_answered",
    State: "on_graph_state",
    Checkpoint: "on_checkpoint",
    Custom: "on_custom",
    RolledBack: "on_rolled_back",
    Attempt: "on_attempt",
    Final: "on_final",
    End: "on_end",
    Gap: "on_gap",
    Snapshot: "on_snapshot",
    Error: "on_error",
}


def check_callbacks(callbacks: Mapping[str, object]) -> dict[str, Callable[..., object]]:
    """The callbacks, if they are some.

    Raises:
        ConfigurationError: A name is unknown, or a value cannot be called.
    """
    checked: dict[str, Callable[..., object]] = {}
    for name, callback in callbacks.items():
        if name not in Callbacks.__annotations__:
            known = ", ".join(Callbacks.__annotations__)
            raise ConfigurationError(f"{name}: expected one of {known}")
        if callback is None:
            continue
        if not callable(callback):
            raise ConfigurationError(f"{name}: expected a function, got {callback!r}")
        checked[name] = callback
    return checked


def call_for(message: Message) -> str | None:
    """The callback that a message is for."""
    return _NAMES.get(type(message))


def arguments(view: View, message: Message) -> tuple[object, ...]:
    """What the callback gets."""
    match message:
        case Reasoning():
            return view.text_of(message.message_id, "reasoning"), message
        case Text():
            return view.text_of(message.message_id, "text"), message
        case Sources():
            return message.sources, message
        case WorkflowStep():
            return message.step, message
        case Custom():
            return message.name, message.data, message
        case End():
            return message.status, message
        case Error():
            return (view.error,)
    return (message,)


@dataclass(frozen=True, slots=True)
class _Call:
    """`key`: what makes an older call needless; `failed`: who is told when it raises."""

    callbacks: Sequence[Callable[..., object]]
    arguments: tuple[object, ...]
    key: object
    failed: Callable[[Exception], None] | None


class Calls:
    """Callbacks that wait for their turn: one after the other, in a task of their own.

    So a callback may take its time, and may await what the client has yet to read.
    """

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self._queue: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    @property
    def congested(self) -> bool:
        """Whether so many wait that nothing more should be read."""
        return len(self._queue) >= _HIGH_WATER

    def add(
        self,
        callbacks: Sequence[Callable[..., object]],
        arguments: tuple[object, ...],
        *,
        key: object = None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Have them called, in place of those that wait last if they wait under the same key."""
        if key is not None and self._queue and self._queue[-1].key == key:
            self._queue.pop()
        self._queue.append(_Call(callbacks, arguments, key, failed))
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def finish(self, timeout: float) -> None:
        """Wait until all are done, or for so many seconds; nothing is called afterwards."""
        self._ending = True
        self._wake.set()
        task = self._task
        if task is None or task is asyncio.current_task():
            return
        await asyncio.wait({task}, timeout=timeout)
        task.cancel()
        await asyncio.wait({task})

    async def _run(self) -> None:
        while self._queue or not self._ending:
            while self._queue:
                await self._call(self._queue.popleft())
                self._done()
            self._wake.clear()
            if not self._ending:
                await self._wake.wait()

    async def _call(self, call: _Call) -> None:
        for callback in call.callbacks:
            try:
                outcome = callback(*call.arguments)
                if inspect.isawaitable(outcome):
                    await outcome
            except Exception as error:
                if call.failed is not None:
                    call.failed(error)
                else:
                    logger.exception("on_error raised")


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
    def callbacks(self) -> Mapping[str, Callable[..., object]]:
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
        inherited: Any = self._callbacks | more
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
