"""What is saved of a thread, as plain JSON data: its state, its history, the subgraphs of its runs.

The shapes are those of LangGraph Platform's HTTP interface. What a graph without a checkpointer
came to is taken from the log, as long as that holds it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot as GraphState

from langgraph_ws.codec import plain
from langgraph_ws.commands import Identity, Read, ReadHistory, ReadState, ReadTree, RunInfo, Saved
from langgraph_ws.errors import GapError, RequestError
from langgraph_ws.frames import (
    RunFinished,
    RunStarted,
    StateSnapshot,
    SubgraphFinished,
    SubgraphStarted,
)
from langgraph_ws.graphs import Graph
from langgraph_ws.log import Entry, Position
from langgraph_ws.runs import Runs
from langgraph_ws.streaming import graph_options

__all__ = ["METADATA", "describe_graph", "read", "run_times"]

Json: TypeAlias = dict[str, Any]
METADATA = ("source", "step", "parents")
"""What clients are told, and may search for, of the metadata of checkpoints."""
_BATCH = 1_024
_RETRIES = 5
_STATUS = {
    "completed": "completed",
    "finished": "completed",
    "interrupted": "interrupted",
    "cancelled": "interrupted",
}
"""How something that ended stands; what is not here failed."""


async def read(runs: Runs, identity: Identity, wanted: Read) -> Saved:
    """Look something up.

    Raises:
        RequestError: There is no such thing, or it needs a checkpointer that the graph has not.
    """
    match wanted:
        case ReadState():
            return Saved(value=await _state(runs, identity, wanted))
        case ReadHistory():
            return Saved(value=await _history(runs, identity, wanted))
        case ReadTree():
            return Saved(value=await _tree(runs, identity, wanted))


async def describe_graph(runs: Runs, identity: Identity, name: str, *, xray: int | bool) -> Json:
    """The drawing of a graph, as `graph.get_graph().to_json()`.

    Raises:
        RequestError: No graph has this name.
    """
    async with runs.graphs.open(runs.graphs.choose(name), identity) as graph:
        drawing: Json = plain((await graph.aget_graph(xray=xray)).to_json())
        return drawing


# --- state -----------------------------------------------------------------------------------


async def _state(runs: Runs, identity: Identity, wanted: ReadState) -> Json:
    key = runs.key(identity, wanted.thread_id)
    name = await runs.graph_of(identity, wanted.thread_id)
    async with runs.graphs.open(name, identity) as graph:
        if not graph_options(graph).checkpointer:
            _need_no_checkpointer(wanted)
            return await _streamed_state(runs, identity, wanted.thread_id)
        config = _config(key, wanted.checkpoint_id, await _checkpoint_ns(graph, key, wanted))
        state = await graph.aget_state(config, subgraphs=wanted.subgraphs)
    if state.created_at is None and not state.metadata:
        if wanted.checkpoint_id is not None:
            raise RequestError("no_checkpoint", "checkpoint_id: the thread has no such checkpoint")
        # A run has begun, and its first checkpoint is not saved yet; or nobody knows the thread.
        return await _streamed_state(runs, identity, wanted.thread_id)
    return _state_json(state, wanted.thread_id)


def _need_no_checkpointer(wanted: ReadState) -> None:
    if wanted.checkpoint_id is not None or wanted.namespace:
        raise RequestError(
            "no_checkpointer", "the graph has no checkpointer: only its newest state is known"
        )


async def _checkpoint_ns(graph: Graph, key: str, wanted: ReadState | ReadHistory) -> str:
    """The checkpoint namespace that a namespace of frames stands for.

    Subgraphs with a checkpointer of their own name no task in it (langgraph 1.2.22), so the one
    with tasks is tried first.
    """
    if not wanted.namespace:
        return ""
    with_tasks = "|".join(wanted.namespace)
    state = await graph.aget_state(_config(key, None, with_tasks))
    if state.created_at is not None:
        return with_tasks
    return "|".join(segment.partition(":")[0] for segment in wanted.namespace)


def _config(key: str, checkpoint_id: str | None, checkpoint_ns: str) -> RunnableConfig:
    configurable: Json = {"thread_id": key}
    if checkpoint_ns:
        configurable["checkpoint_ns"] = checkpoint_ns
    if checkpoint_id is not None:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


async def _streamed_state(runs: Runs, identity: Identity, thread_id: str) -> Json:
    """What the log tells of the state.

    Raises:
        RequestError: The log knows nothing of the thread.
    """
    entries = await _held(runs, identity, thread_id)
    if not entries:
        raise RequestError("not_found", "thread_id: no such thread")
    shown = [
        entry
        for entry in entries
        if isinstance(entry.frame, StateSnapshot) and not entry.frame.namespace
    ]
    values: Any = {}
    if shown and isinstance(shown[-1].frame, StateSnapshot):
        values = shown[-1].frame.values
    return {
        "values": values,
        "next": [],
        "tasks": [],
        "metadata": {},
        "created_at": None,
        "checkpoint": None,
        "parent_checkpoint": None,
        "interrupts": [],
        "checkpoint_id": None,
        "parent_checkpoint_id": None,
    }


def _state_json(state: GraphState, thread_id: str) -> Json:
    checkpoint = _checkpoint(state.config, thread_id)
    parent = _checkpoint(state.parent_config, thread_id)
    return {
        "values": plain(state.values),
        "next": list(state.next),
        "tasks": [_task_json(task, thread_id) for task in state.tasks],
        "metadata": _shown(state.metadata),
        "created_at": state.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [_interrupt_json(interrupt) for interrupt in state.interrupts],
        "checkpoint_id": checkpoint and checkpoint["checkpoint_id"],
        "parent_checkpoint_id": parent and parent["checkpoint_id"],
    }


def _shown(metadata: Any) -> Json:
    """What LangGraph itself has written down of a checkpoint.

    It also copies there what is in the config of the run (langgraph 1.2.24): what the application
    gives its graphs is not for clients.
    """
    return {name: plain(metadata[name]) for name in METADATA if name in (metadata or {})}


def _task_json(task: Any, thread_id: str) -> Json:
    inner = task.state
    state = _state_json(inner, thread_id) if isinstance(inner, GraphState) else None
    checkpoint = _checkpoint(inner, thread_id) if isinstance(inner, dict) else None
    return {
        "id": task.id,
        "name": task.name,
        "path": plain(task.path),
        "error": "The step failed." if task.error is not None else None,
        "interrupts": [_interrupt_json(interrupt) for interrupt in task.interrupts],
        "checkpoint": state["checkpoint"] if state is not None else checkpoint,
        "state": state,
        "result": plain(task.result),
    }


def _interrupt_json(interrupt: Any) -> Json:
    return {"id": interrupt.id, "value": plain(interrupt.value)}


def _checkpoint(config: Any, thread_id: str) -> Json | None:
    """Where a checkpoint is, with the thread's id as the client knows it."""
    where = (config or {}).get("configurable") or {}
    if not where:
        return None
    return {
        "thread_id": thread_id,
        "checkpoint_ns": where.get("checkpoint_ns", ""),
        "checkpoint_id": where.get("checkpoint_id"),
    }


# --- history ---------------------------------------------------------------------------------


async def _history(runs: Runs, identity: Identity, wanted: ReadHistory) -> list[Json]:
    key = runs.key(identity, wanted.thread_id)
    name = await runs.graph_of(identity, wanted.thread_id)
    async with runs.graphs.open(name, identity) as graph:
        if not graph_options(graph).checkpointer:
            raise RequestError("no_checkpointer", "the graph has no checkpointer: no history")
        namespace = await _checkpoint_ns(graph, key, wanted)
        before = None if wanted.before is None else _config(key, wanted.before, namespace)
        states = graph.aget_state_history(
            _config(key, None, namespace),
            filter=dict(wanted.metadata) if wanted.metadata else None,
            before=before,
            limit=wanted.limit,
        )
        return [_state_json(state, wanted.thread_id) async for state in states]


# --- runs ------------------------------------------------------------------------------------


async def run_times(runs: Runs, identity: Identity, info: RunInfo) -> tuple[str, str | None]:
    """When a run began (now, where it has not, or nobody knows any more) and ended, as ISO 8601."""
    began = ended = None
    for entry in await _held(runs, identity, info.thread_id):
        if entry.run_id == info.run_id:
            began = began or entry.time_ms
            if isinstance(entry.frame, RunFinished):
                ended = entry.time_ms
    return _iso(began or time.time_ns() // 1_000_000), None if ended is None else _iso(ended)


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()


# --- subgraphs -------------------------------------------------------------------------------


async def _tree(runs: Runs, identity: Identity, wanted: ReadTree) -> Json:
    """The graph of a run and the subgraphs that it has called, each as a node of a tree."""
    entries = await _held(runs, identity, wanted.thread_id)
    run_id = wanted.run_id or (entries[-1].run_id if entries else None)
    nodes: dict[tuple[str, ...], Json] = {}
    for entry in entries:
        if entry.run_id == run_id:
            _grow(nodes, entry)
    if () not in nodes:
        raise RequestError("not_found", "run_id: no such run")
    for namespace, node in nodes.items():
        if namespace:
            above = namespace[:-1]
            while above not in nodes:
                above = above[:-1]
            nodes[above].setdefault("children", []).append(node)
    return nodes[()]


def _grow(nodes: dict[tuple[str, ...], Json], entry: Entry) -> None:
    match entry.frame:
        case RunStarted(graph=graph):
            nodes[()] = {"namespace": [], "status": "running", "graph_name": graph}
        case SubgraphStarted(namespace=namespace, graph=graph):
            nodes[namespace] = {
                "namespace": list(namespace),
                "status": "started",
                "graph_name": graph,
            }
        case SubgraphFinished(namespace=namespace, status=status) if namespace in nodes:
            nodes[namespace]["status"] = _STATUS.get(status, "failed")
        case RunFinished(status=status) if () in nodes:
            nodes[()]["status"] = _STATUS.get(status, "failed")
        case _:
            pass


async def _held(runs: Runs, identity: Identity, thread_id: str) -> Sequence[Entry]:
    """Everything that the log holds of a thread now."""
    key = runs.key(identity, thread_id)
    for _ in range(_RETRIES):
        bounds = await runs.log.bounds(key)
        if bounds.first > bounds.head:
            return ()
        after = Position(bounds.epoch, bounds.first - 1)
        try:
            follower = await runs.follow(identity, thread_id, after, lambda: None)
        except GapError:  # what was the oldest has gone meanwhile
            continue
        entries: list[Entry] = []
        try:
            while batch := follower.read(_BATCH):
                entries += batch
        except GapError:
            continue
        finally:
            follower.close()
        return entries
    raise RequestError("overloaded", "the thread moves on too fast", retryable=True)
