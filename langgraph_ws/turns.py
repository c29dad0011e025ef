"""What a run begins with: a client's request, checked against the saved state of its thread."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command as GraphCommand
from langgraph.types import Send, StateSnapshot

from langgraph_ws.codec import plain
from langgraph_ws.commands import Goto, StartRun
from langgraph_ws.errors import RequestError
from langgraph_ws.frames import Frame, InterruptAnswered, Interrupted
from langgraph_ws.graphs import Graph, context_of, graph_input, read_state
from langgraph_ws.streaming import graph_options

__all__ = ["GRAPH_KEY", "Turn", "checkpoint_id", "pending_interrupts", "prepare", "run_config"]

_HISTORY = 1_000
"""How many checkpoints are looked through for the one before a message."""
GRAPH_KEY = "langgraph_ws_graph"
"""Where a checkpoint's metadata names the graph, so that state can be read without a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the graph is given, and what is to be said before it begins.

    Attributes:
        input: The graph's input, a LangGraph `Command`, or None to continue.
        messages: The messages in it, as clients see them.
        base: The checkpoint that it begins from; None: an empty thread, or no checkpointer.
        frames: What happened to interrupts that were pending.
    """

    input: Any
    messages: tuple[dict[str, Any], ...]
    base: str | None
    frames: tuple[Frame, ...]


async def prepare(
    graph: Graph, request: StartRun, config: RunnableConfig, announced: Collection[str]
) -> Turn:
    """Check a request against the state that it goes on from.

    Args:
        graph: The graph.
        request: The request.
        config: The config of the run, with the checkpoint that the request names.
        announced: The ids of the interrupts that clients believe to be pending.

    Raises:
        RequestError: It cannot be carried out; nothing has been changed.
    """
    if not graph_options(graph).checkpointer and (request.kind != "input" or request.checkpoint_id):
        raise RequestError(
            "no_checkpointer", "the graph has no checkpointer: there is nothing to go on from"
        )
    state = await read_state(graph, config)
    if request.instead_of is not None and _holds(state, request.instead_of):
        await _go_before(graph, config, request.instead_of)
        state = await read_state(graph, config)
    if request.checkpoint_id is not None and state is None:
        raise RequestError("no_checkpoint", "checkpoint_id: the thread has no such checkpoint")
    base = checkpoint_id(state)
    pending = {interrupt.interrupt_id for interrupt in pending_interrupts(state)}
    if request.kind == "input" and request.answers_pending and pending:
        request = replace(request, kind="answer", answer=request.input)
    if request.kind == "answer":
        if state is None:
            raise RequestError("not_found", "thread_id: nothing has run on this thread")
        answers = _answers(request, pending)
        command: GraphCommand[Any] = GraphCommand(
            resume=answers, update=request.update, goto=tuple(map(_target, request.goto))
        )
        return Turn(
            input=command,
            messages=(),
            base=base,
            frames=(InterruptAnswered(interrupt_ids=tuple(answers)),),
        )
    if request.kind == "continue":
        if state is None or not (state.next or state.tasks):
            raise RequestError("nothing_to_continue", "the thread has nothing left to do")
        return Turn(input=None, messages=(), base=base, frames=())
    value, messages = graph_input(graph, request, fresh=not _messages_of(state))
    # LangGraph discards pending interrupts silently when it is given new input.
    discarded = tuple(sorted(pending | set(announced)))
    return Turn(
        input=value,
        messages=tuple(_visible(message) for message in messages),
        base=base,
        frames=(InterruptAnswered(interrupt_ids=discarded, superseded=True),) if discarded else (),
    )


async def _go_before(graph: Graph, config: RunnableConfig, message_id: str) -> None:
    """Have the run begin at the newest checkpoint that a message is not in."""
    async with aclosing(graph.aget_state_history(config, limit=_HISTORY)) as states:
        async for state in states:
            if not _holds(state, message_id):
                config.setdefault("configurable", {})["checkpoint_id"] = checkpoint_id(state)
                return


def _holds(state: StateSnapshot | None, message_id: str) -> bool:
    return any(getattr(message, "id", None) == message_id for message in _messages_of(state))


def _messages_of(state: StateSnapshot | None) -> list[Any]:
    values = state.values if state is not None else None
    found = values.get("messages") if isinstance(values, Mapping) else None
    return found if isinstance(found, list) else []


def run_config(
    base: RunnableConfig,
    graph: Graph,
    name: str,
    values: Mapping[str, Any],
    *,
    thread: str,
    checkpoint: str | None,
) -> tuple[RunnableConfig, dict[str, Any] | None]:
    """The config of a run and its context.

    Args:
        base: What the application wants in every config.
        graph: The graph.
        name: The graph's name.
        values: What identity and client add to `configurable`, already filtered.
        thread: The thread's key in the checkpointer.
        checkpoint: The checkpoint to go on from; None: the newest.
    """
    given = {**base.get("configurable", {}), **values}
    configurable: dict[str, Any] = {**given, "thread_id": thread}
    if checkpoint is not None:
        configurable["checkpoint_id"] = checkpoint
    config: RunnableConfig = {
        **base,
        "configurable": configurable,
        "metadata": {**base.get("metadata", {}), GRAPH_KEY: name},
    }
    return config, context_of(graph, given)


def checkpoint_id(state: StateSnapshot | None) -> str | None:
    """The id of the checkpoint that a state is from."""
    if state is None:
        return None
    found: str | None = state.config.get("configurable", {}).get("checkpoint_id")
    return found


def pending_interrupts(state: StateSnapshot | None) -> tuple[Interrupted, ...]:
    """The interrupts that wait for an answer in a saved state, as frames."""
    if state is None:
        return ()
    return tuple(
        Interrupted(
            interrupt_id=interrupt.id,
            value=plain(interrupt.value),
            ordinal=ordinal,
            response_schema=plain(getattr(interrupt, "response_schema", None)),
        )
        for ordinal, interrupt in enumerate(state.interrupts)
    )


def _target(goto: Goto) -> str | Send:
    return goto if isinstance(goto, str) else Send(*goto)


def _answers(request: StartRun, pending: set[str]) -> dict[str, Any]:
    if request.answers is None:
        if len(pending) > 1:
            raise RequestError(
                "ambiguous_interrupt",
                f"resume: {len(pending)} interrupts wait; answer them as {{id: value}}",
            )
        if not pending:
            raise RequestError("stale_interrupt", "resume: nothing waits for an answer")
        return {next(iter(pending)): request.answer}
    stale = sorted(set(request.answers) - pending)
    if stale:
        raise RequestError(
            "stale_interrupt", f"resume: not (or no longer) waiting: {', '.join(stale)}"
        )
    return dict(request.answers)


_ROLES = {"human": "user", "ai": "assistant", "tool": "tool", "system": "system"}


def _visible(message: BaseMessage) -> dict[str, Any]:
    content: Any = plain(message.content)
    return {
        "message_id": message.id,
        "role": _ROLES.get(message.type, "user"),
        "content": [{"type": "text", "text": content}] if isinstance(content, str) else content,
    }
