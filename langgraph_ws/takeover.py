"""Going on with a run that another process began: what is saved of it, and what was said of it.

Two records tell how far a run had come: the checkpoints of its graph and the log of its thread.
They are written apart, so one may lack what the other has. A task whose result is saved does not
run again; what the log lacks of it is said again from the saved result. A task whose result is not
saved runs again, with the same id and new messages (langgraph 1.2.22), so that what it had said is
void.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import PregelTask, StateSnapshot

from langgraph_ws.current import RUN_KEY
from langgraph_ws.frames import (
    CheckpointSaved,
    Frame,
    Interrupted,
    MessageFinished,
    StepFinished,
    StepStarted,
)
from langgraph_ws.graphs import Graph, read_state
from langgraph_ws.mapping import Part
from langgraph_ws.streaming import Resumption, graph_options
from langgraph_ws.turns import checkpoint_id, pending_interrupts
from langgraph_ws.view import RunView

__all__ = ["Story", "TakeOver", "can_be_taken_over", "take_over"]


def can_be_taken_over(graph: Graph) -> bool:
    """Whether another process sees the checkpoints of the graph."""
    options = graph_options(graph)
    saver = getattr(graph, "checkpointer", None)
    return options.checkpointer and options.durability and not isinstance(saver, InMemorySaver)


@dataclass(slots=True)
class Story:
    """What the log tells of a run."""

    started: dict[str, tuple[str, ...]] = field(default_factory=dict)  # task: its namespace
    ended: set[str] = field(default_factory=set)
    checkpoints: set[str] = field(default_factory=set)

    def note(self, frame: Frame) -> None:
        """Take note of the next frame."""
        match frame:
            case StepStarted():
                self.started[frame.task_id] = frame.namespace
                self.ended.discard(frame.task_id)
            case StepFinished() if frame.status in ("finished", "interrupted"):
                self.ended.add(frame.task_id)
            case CheckpointSaved():
                self.checkpoints.add(frame.checkpoint_id)
            case _:
                pass


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """How to go on with a run.

    Attributes:
        how: `restart`: the run has saved no checkpoint, so from its input; `continue`: from the
            newest checkpoint; `interrupted`: it waits for an answer.
        base: The checkpoint that a restart begins from; None: that of the request, or the newest.
        rerun: The tasks whose words are void, because they come again.
        frames: The pending interrupts.
        resumption: What the graph does not say again, or says though it was said.
    """

    how: Literal["restart", "continue", "interrupted"]
    base: str | None = None
    rerun: tuple[str, ...]
    frames: tuple[Interrupted, ...] = ()
    resumption: Resumption


async def take_over(
    graph: Graph, config: RunnableConfig, run: RunView, story: Story, *, resumes: bool
) -> TakeOver:
    """Find out how to go on with a run that has begun.

    Args:
        graph: Its graph.
        config: The config of its thread.
        run: What the frames of the run add up to.
        story: What the log tells of its tasks.
        resumes: Whether the tasks of the checkpoint that it began from are its own (it answers or
            continues), not those of an earlier run.
    """
    base = run.started.checkpoint_id if run.started is not None else None
    state = await read_state(graph, config, subgraphs=True)
    chain = [] if state is None else await _chain(graph, config, state, base)
    began = any(_is_of(run, snapshot) for snapshot in chain if checkpoint_id(snapshot) != base)
    if state is None or not (began or (resumes and checkpoint_id(state) == base)):
        return await _restart(graph, config, run, story, base, resumes=resumes)
    if not resumes and checkpoint_id(chain[0]) == base:
        chain = chain[1:]
    found = _Findings(story)
    for snapshot in chain:
        await found.look(graph, config, snapshot, is_head=snapshot is state)
    waiting = pending_interrupts(state)
    how: Literal["restart", "continue", "interrupted"]
    if not began:
        how = "restart"
    elif (waiting and not found.unfinished) or _stands_at_a_breakpoint(graph, chain):
        how = "interrupted"
    else:
        how = "continue"
    return TakeOver(
        how=how,
        rerun=tuple(sorted(found.void)),
        frames=waiting,
        resumption=Resumption(
            said=_said(run, found.void),
            sources=run.sources,
            again=tuple(found.again),
            finished=frozenset(found.finished),
            checkpoints=frozenset(story.checkpoints),
        ),
    )


async def _restart(
    graph: Graph,
    config: RunnableConfig,
    run: RunView,
    story: Story,
    base: str | None,
    *,
    resumes: bool,
) -> TakeOver:
    """Nothing of the run is saved: whatever was said comes again."""
    waiting: tuple[Interrupted, ...] = ()
    if resumes and base is not None:
        given = {**config.get("configurable", {}), "checkpoint_id": base}
        waiting = pending_interrupts(await read_state(graph, {**config, "configurable": given}))
    void = set(story.started)
    return TakeOver(
        how="restart",
        base=base,
        rerun=tuple(sorted(void)),
        frames=waiting,
        resumption=Resumption(said=_said(run, void), sources=run.sources),
    )


def _said(run: RunView, void: Collection[str]) -> tuple[MessageFinished, ...]:
    return tuple(message for message in run.messages if message.task_id not in void)


def _is_of(run: RunView, snapshot: StateSnapshot) -> bool:
    """Whether it was this run that saved a checkpoint."""
    return (snapshot.metadata or {}).get(RUN_KEY) == run.run_id


async def _chain(
    graph: Graph, config: RunnableConfig, state: StateSnapshot, base: str | None
) -> list[StateSnapshot]:
    """The checkpoints from the one that the run began from to the newest, oldest first.

    None at all when the newest does not come from there.
    """
    chain = [state]
    if checkpoint_id(state) == base:
        return chain
    async with aclosing(graph.aget_state_history(config)) as states:
        async for snapshot in states:
            wanted = _parent(chain[-1])
            if wanted is None or checkpoint_id(chain[-1]) == base:
                break
            if checkpoint_id(snapshot) == wanted:
                chain.append(snapshot)
    if base is not None and checkpoint_id(chain[-1]) != base:
        return []
    return chain[::-1]


def _parent(snapshot: StateSnapshot) -> str | None:
    parent: str | None = ((snapshot.parent_config or {}).get("configurable") or {}).get(
        "checkpoint_id"
    )
    return parent


def _stands_at_a_breakpoint(graph: Graph, chain: Sequence[StateSnapshot]) -> bool:
    """Whether the newest checkpoint is one that the graph stops at.

    A run that goes on from an older checkpoint begins with a copy of it, whose breakpoint it passes
    (langgraph 1.2.22).
    """
    state = chain[-1]
    if not state.next or (state.metadata or {}).get("source") == "fork":
        return False
    done = chain[-2].tasks if len(chain) > 1 else ()
    return _holds_any(getattr(graph, "interrupt_before_nodes", ()), state.tasks) or _holds_any(
        getattr(graph, "interrupt_after_nodes", ()), done
    )


def _holds_any(nodes: Any, tasks: Sequence[PregelTask]) -> bool:
    names = {task.name for task in tasks if not task.name.startswith("__")}
    return bool(names) if nodes == "*" else not names.isdisjoint(nodes or ())


class _Findings:
    """What the checkpoints tell, beside the log.

    Attributes:
        void: The tasks whose words come again.
        finished: The tasks whose result is saved.
        unfinished: Those that will run.
        again: What the log lacks of finished ones.
    """

    def __init__(self, story: Story) -> None:
        self._story = story
        self.void: set[str] = set()
        self.finished: set[str] = set()
        self.unfinished: set[str] = set()
        self.again: list[Part] = []

    async def look(
        self,
        graph: Graph,
        config: RunnableConfig,
        snapshot: StateSnapshot,
        *,
        is_head: bool,
        namespace: tuple[str, ...] = (),
    ) -> None:
        """Look at the tasks of a checkpoint."""
        tasks = [task for task in snapshot.tasks if not task.name.startswith("__")]
        values = snapshot.values
        if is_head and any(task.result is not None for task in tasks):
            values = await _values_before(graph, config)
        known = set(_ids(values))
        for task in tasks:
            if task.result is not None or not is_head:
                self._finish(task, namespace, known)
            else:
                await self._leave(graph, config, task, namespace)

    def _finish(self, task: PregelTask, namespace: tuple[str, ...], known: set[str]) -> None:
        self.finished.add(task.id)
        if task.id in self._story.ended or task.result is None:
            return
        self.void.add(task.id)
        self.again += _parts(task, namespace, known)

    async def _leave(
        self, graph: Graph, config: RunnableConfig, task: PregelTask, namespace: tuple[str, ...]
    ) -> None:
        """A task that runs again; of its subgraph only what is not saved either."""
        if not task.interrupts:
            self.unfinished.add(task.id)
        self.void.add(task.id)
        inner = (*namespace, f"{task.name}:{task.id}")
        if not isinstance(task.state, StateSnapshot):
            depth = len(inner)
            self.void |= {
                other for other, place in self._story.started.items() if place[:depth] == inner
            }
            return
        nested: RunnableConfig = {
            "configurable": {
                **config.get("configurable", {}),
                **task.state.config.get("configurable", {}),
            }
        }
        nested.get("configurable", {}).pop("checkpoint_id", None)
        chain = await _chain(graph, nested, task.state, None)
        for snapshot in chain:
            await self.look(
                graph,
                config,
                snapshot,
                is_head=snapshot is task.state,
                namespace=inner,
            )


async def _values_before(graph: Graph, config: RunnableConfig) -> Any:
    """The values of the newest checkpoint, without the results of its tasks.

    (`aget_state` of langgraph 1.2.22 adds those that are saved, the history does not.)
    """
    async with aclosing(graph.aget_state_history(config, limit=1)) as states:
        async for state in states:
            return state.values
    return None


def _parts(task: PregelTask, namespace: tuple[str, ...], known: set[str]) -> Iterator[Part]:
    """What a graph streams of a task, from the saved result."""
    metadata = {
        "langgraph_node": task.name,
        "langgraph_checkpoint_ns": "|".join((*namespace, f"{task.name}:{task.id}")),
    }
    result = task.result
    yield _part("tasks", namespace, {"id": task.id, "name": task.name, "input": None})
    for message in _messages(result):
        if message.id not in known:
            yield _part("messages", namespace, (message, metadata))
    yield _part("updates", namespace, {task.name: result})
    ended: dict[str, Any] = {
        "id": task.id,
        "name": task.name,
        "error": None,
        "result": result,
        "interrupts": [],
    }
    yield _part("tasks", namespace, ended)


def _part(kind: str, namespace: tuple[str, ...], data: Any) -> Part:
    return {"type": kind, "ns": namespace, "data": data}


def _messages(value: Any) -> Iterator[BaseMessage]:
    """The messages in what a node wrote, found as LangGraph finds those that it streams."""
    if isinstance(value, BaseMessage):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _messages(item) if not isinstance(item, Mapping) else ()
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield from (item for item in value if isinstance(item, BaseMessage))


def _ids(values: Any) -> Iterator[str]:
    return (message.id for message in _messages(values) if message.id)
