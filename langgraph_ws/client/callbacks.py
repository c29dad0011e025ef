"""What a program has called when messages arrive, and the task that calls it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

from langgraph_ws.client.errors import ConnectionLostError
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
from langgraph_ws.client.view import View
from langgraph_ws.errors import ConfigurationError

__all__ = ["Callbacks", "Given", "Telling", "check_callbacks"]

logger = logging.getLogger("langgraph_ws.client")

Given: TypeAlias = Mapping[str, Callable[..., object]]
"""Callbacks that were checked, by name."""
_HIGH_WATER = 1_000
"""Calls that wait for their turn before reading stops."""


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


def check_callbacks(callbacks: Mapping[str, object]) -> Given:
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


def _arguments(view: View, message: Message) -> tuple[object, ...]:
    """What the callback for a message gets."""
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


class _Calls:
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


class Telling:
    """Tells a program what happened: whoever it is about, and the client.

    Args:
        callbacks: Those of the client, called for everything.
        done: Called when a call that waited has had its turn.
    """

    def __init__(self, callbacks: Given, done: Callable[[], None]) -> None:
        self._own = callbacks
        self._calls = _Calls(done)

    @property
    def congested(self) -> bool:
        """Whether so much waits that nothing more should be read."""
        return self._calls.congested

    def tell(self, message: Message, view: View, callbacks: Given, *, client: bool) -> None:
        """Tell of a message to those whose view it is; and (`client`) to the client."""
        name = _NAMES.get(type(message))
        owners = [callbacks, self._own] if client else [callbacks]
        called = [one for owner in owners if (one := owner.get(name or "")) is not None]
        if called:
            self._calls.add(
                called,
                _arguments(view, message),
                key=(view, name, message.message_id) if isinstance(message, Text) else None,
                failed=None if name == "on_error" else lambda it: self.report(it, callbacks),
            )

    def report(self, error: Exception, *callbacks: Given) -> None:
        """Tell of an error that no call of the program can raise."""
        owners = (*callbacks, self._own)
        called = [owner["on_error"] for owner in owners if "on_error" in owner]
        if called:
            self._calls.add(called, (error,))
        elif isinstance(error, ConnectionLostError):
            logger.warning("%s; trying again", error)
        else:
            logger.error("%s: %s", type(error).__name__, error, exc_info=error)

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Have something else called, in its turn."""
        self._calls.add([callback], arguments, failed=self.report)

    async def finish(self, timeout: float) -> None:
        """Wait until all is told, or for so many seconds; nothing is told afterwards."""
        await self._calls.finish(timeout)
