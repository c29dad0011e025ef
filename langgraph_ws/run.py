"""One run of a graph, from the request to its last frame in the log.

A run lives in a task of its own, never in a connection's (see langgraph #8302, #5682: aborting
from a cancelled handler leaves subgraphs running). It writes frames to the log of its thread; who
reads them is not its concern.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained
from pydantic import BaseModel

from langgraph_ws.codec import dumps, plain
from langgraph_ws.commands import Identity, MultitaskStrategy, StartRun
from langgraph_ws.current import ATTEMPT_KEY, RUN_KEY
from langgraph_ws.errors import LeaseLost, LogUnavailable, RequestError
from langgraph_ws.fencing import fenced
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    Custom,
    Frame,
    Interrupted,
    MessageFinished,
    RolledBack,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStatus,
    ToolStarted,
)
from langgraph_ws.graphs import Graph
from langgraph_ws.limits import Limits
from langgraph_ws.log import Position, ThreadLog
from langgraph_ws.log.registry import Lease, Registry, Ticket, lost
from langgraph_ws.mapping import Mapper, report
from langgraph_ws.metrics import Metrics, RunLabels
from langgraph_ws.sink import Beat, Sink
from langgraph_ws.streaming import ERROR_TEXTS, Execution, Resumption, graph_options
from langgraph_ws.takeover import Story, can_be_taken_over, take_over
from langgraph_ws.turns import prepare, run_config
from langgraph_ws.view import RunView, ThreadView, closing

__all__ = [
    "CancelledRun",
    "Durability",
    "OnCancel",
    "Run",
    "Settings",
    "count_unbegun",
    "decode_run",
    "encode_run",
    "run_name",
    "unbegun",
]

logger = logging.getLogger("langgraph_ws")

Durability = Literal["sync", "async", "exit"]
_CRASHES = 3
"""Processes that may disappear under a run, before it is given up."""
_READ_AT_ONCE = 1_000
_ON_CANCEL_S = 10.0
"""How long `on_cancel` may take."""
_WORDS = (BlockDelta, Custom, Interrupted, ToolStarted)
"""The frames that are news to a user; steps and checkpoints come before anything happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledRun:
    """What `on_cancel` is told, after the run's task has ended and before its last frame.

    Attributes:
        graph: The graph, to write what was said so far into the state with
            `await run.graph.aupdate_state(run.config, …)`.
        config: The config of its thread, at the newest checkpoint.
        messages: The messages that were unfinished, with their content so far.
    """

    identity: Identity
    thread_id: str
    run_id: str
    graph: Any
    config: RunnableConfig
    messages: tuple[MessageFinished, ...]


OnCancel = Callable[[CancelledRun], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is the same for every run of a route; see `Runs` for what each is."""

    log: ThreadLog
    registry: Registry
    mapper: type[Mapper]
    limits: Limits
    config: RunnableConfig
    allowed_options: frozenset[str]
    durability: Durability | None
    expose_output: bool
    debug: bool
    on_cancel: OnCancel | None
    metrics: Metrics
    beat: Beat
    tapped: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """One run.

    Attributes:
        key: The key of its thread in log and checkpointer.
        graph: The name of its graph.
        strategy: What it does to the thread's active run.
        lease: The right to carry it out; None until it is its thread's active run.
        waited: Nobody waits to be told that it cannot be carried out, so that has to be logged.
        begun: Set when it has begun, or was refused, or is not carried here (any more).
        over: Set when it is not carried here any more, and its thread is free or somebody else's.
        refusal: Why it was refused.
        stop: What it is to end as, once somebody stopped it; `lost`: somebody else carries it.
        status: How it ended; set once the last frame is in the log.
        is_over: It has ended, or was refused.
        crashed: It can neither go on here nor be ended.
        next: The lease of the run that is its thread's active one after it.
    """

    settings: Settings
    identity: Identity
    thread_id: str
    key: str
    run_id: str
    graph: str
    request: StartRun
    strategy: MultitaskStrategy
    lease: Lease | None = None
    waited: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: RequestError | None = None
    stop: Literal["cancelled", "drained", "lost"] | None = None
    status: RunStatus | None = None
    is_over: bool = False
    crashed: bool = False
    next: Lease | None = None
    _accepted: float = field(default_factory=time.monotonic)
    _patience: asyncio.Event = field(default_factory=asyncio.Event)
    _draining: bool = False
    _execution: Execution | None = None
    _worker: asyncio.Task[None] | None = None

    @property
    def attempt(self) -> int:
        """How often it was begun, this time included."""
        return 1 if self.lease is None else self.lease.attempt

    @property
    def name(self) -> str:
        """Its name among all runs."""
        return run_name(self.identity, self.run_id)

    def halt(self, status: Literal["cancelled", "drained", "lost"]) -> None:
        """End it now, as `status`; being told again changes nothing.

        (A second cancellation would break LangGraph's own wait for its tasks.)
        """
        if self.stop is not None:
            if status == "lost":
                self.stop = status
            return
        self.stop = status
        if self._worker is not None:
            self._worker.cancel()

    def give_up(self) -> None:
        """Wait no longer for a graph that ignores that it was stopped."""
        self._patience.set()

    def drain(self) -> None:
        """End it at the next superstep, as `drained`."""
        self._draining = True
        if self._execution is not None:
            self._execution.drain()

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count it, in whatever way it ends here."""
        with _measured(self.settings.metrics, self._labels, self.request.trace, self._outcome):
            yield

    @property
    def _labels(self) -> RunLabels:
        return RunLabels(graph=self.graph, run_id=self.run_id, thread_id=self.thread_id)

    def _outcome(self) -> RunStatus:
        """How it ended here: one that was handed over is `drained`."""
        if self.status is not None:
            return self.status
        if self.is_over or self.crashed:
            return "failed"
        return "lost" if self.stop == "lost" else "drained"

    async def carry(self, graph: Graph) -> None:
        """Carry it from its first frame, or from where another process has left it, to its last.

        Raises:
            RequestError: The request cannot be carried out; nothing was logged.
            Exception: The log could not be written.
        """
        assert self.lease is not None
        can_go_on = self.settings.registry.is_shared and can_be_taken_over(graph)
        if can_go_on:
            graph = fenced(graph, self.lease)
        config, context = self._config(graph)
        _, view = await self.settings.log.view(self.key)
        run = view.runs.get(self.run_id)
        if (end := self._end_of(run, can_go_on=can_go_on)) is not None:
            if end and end[-1] == RunFinished(status="cancelled"):
                await self._tell(graph, config, end)
            await self._finish(end, status=None if run is None else run.status)
            return
        if run is None or run.started is None:
            start = await self._start(graph, config, view)
        else:
            start = await self._resume(graph, config, run, view)
        sink = await self._begin(start.frames)
        if start.end is not None:
            await sink.close()
            await self._finish(start.end)
            return
        execution = self._execution = Execution(
            graph,
            start.input,
            config,
            run=start.started,
            mapper=self.settings.mapper(),
            context=context,
            durability=self.settings.durability or ("sync" if can_go_on else None),
            expose_output=self.settings.expose_output,
            debug=self.settings.debug,
            resumption=start.resumption,
            tapped=self.settings.tapped,
        )
        error = await self._work(execution, sink)
        await self._close(execution, sink, error, graph, config, can_go_on=can_go_on)

    async def _start(self, graph: Graph, config: RunnableConfig, view: ThreadView) -> _Start:
        """Begin from the request."""
        rolled_back = await self._roll_back(graph, config, view)
        turn = await prepare(graph, self.request, config, view.interrupts)
        started = RunStarted(
            thread_id=self.thread_id,
            run_id=self.run_id,
            graph=self.graph,
            attempt=self.attempt,
            checkpoint_id=turn.base,
            messages=turn.messages,
        )
        return _Start(
            started=started, input=turn.input, frames=(started, *rolled_back, *turn.frames)
        )

    async def _resume(
        self, graph: Graph, config: RunnableConfig, run: RunView, view: ThreadView
    ) -> _Start:
        """Begin from what another process has left."""
        assert run.started is not None
        base = config.get("configurable", {}).pop("checkpoint_id", None)
        position, story = await self._story()
        resumes = self.request.kind != "input" or self.request.answers_pending
        found = await take_over(graph, config, run, story, resumes=resumes)
        value: Any = None
        how = found.how
        if how == "restart":
            if (base := found.base or base) is not None:
                config.setdefault("configurable", {})["checkpoint_id"] = base
            pending = {frame.interrupt_id for frame in found.frames}
            if resumes and self.request.kind == "answer" and not self._still(pending):
                how = "continue"
            else:
                value = (await prepare(graph, self._again(pending), config, ())).input
        attempt = AttemptStarted(
            attempt=self.attempt, rerun_task_ids=found.rerun, rollback_to=position
        )
        started = replace(run.started, attempt=self.attempt)
        end: list[Frame] | None = None
        if how == "interrupted":
            missing = [f for f in found.frames if f.interrupt_id not in view.interrupts]
            end = [*missing, RunFinished(status="interrupted")]
        return _Start(
            started=started,
            input=value,
            frames=(*closing(run, "cancelled"), attempt),
            end=end,
            resumption=found.resumption,
        )

    def _still(self, pending: Collection[str]) -> Mapping[str, Any]:
        """Those of the answers that are still waited for."""
        if self.request.answers is None:
            return {next(iter(pending)): self.request.answer} if len(pending) == 1 else {}
        return {name: value for name, value in self.request.answers.items() if name in pending}

    def _again(self, pending: Collection[str]) -> StartRun:
        """The request, without the answers that have arrived."""
        if self.request.kind != "answer":
            return self.request
        return replace(self.request, answers=self._still(pending))

    async def _story(self) -> tuple[int, Story]:
        """After which entry the run began, and what the log tells of it."""
        log = self.settings.log
        start = await log.start_of(self.key, self.run_id)
        if start is None:
            bounds = await log.bounds(self.key)
            start = Position(bounds.epoch, bounds.first - 1)
        follower = await log.follow(self.key, start, _nothing)
        try:
            story = Story()
            while entries := follower.read(_READ_AT_ONCE):
                for entry in entries:
                    if entry.run_id == self.run_id:
                        story.note(entry.frame)
        finally:
            follower.close()
        return start.seq + 1, story

    def _end_of(self, run: RunView | None, *, can_go_on: bool) -> list[Frame] | None:
        """The last frames of a run that another process has left; None: it can go on."""
        assert self.lease is not None
        if run is not None and run.status is not None:
            return []
        if run is None or run.started is None:
            can_go_on, run = True, RunView(self.run_id)
        elif self.stop == "cancelled":
            return [*closing(run, "cancelled"), RunFinished(status="cancelled")]
        if can_go_on and self.lease.crashes < _CRASHES:
            return None
        return [*closing(run, "failed"), *lost(retryable=can_go_on)]

    async def break_off(self, error: RequestError) -> None:
        """End it because it could not be carried out: in the log when somebody may follow it."""
        if self.is_over:
            return
        if not self.begun.is_set() and not self.waited:
            self.refusal = error
            await self._finish(())
            return
        failed = RunFailed(
            code=error.code,
            message=error.message,
            error_id=error.error_id,
            retryable=error.retryable,
        )
        await self._finish([failed, RunFinished(status="failed")])

    async def _begin(self, frames: Sequence[Frame]) -> Sink:
        """Write the first frames; from then on it may be followed."""
        sink = Sink(
            self.settings.log,
            self.key,
            self.run_id,
            limits=self.settings.limits,
            beat=self.settings.beat,
            fence=None if self.lease is None else self.lease.fence,
        )
        try:
            await sink.write(frames)
        except BaseException:
            await sink.close()
            raise
        self.begun.set()
        return sink

    async def _work(self, execution: Execution, sink: Sink) -> BaseException | None:
        """Run the graph to its end, or until it is told to stop.

        Returns:
            What it was ended by; None when it came to its end.
        """
        worker = self._worker = asyncio.create_task(self._pump(execution, sink), name=self.run_id)
        if self.stop is not None:  # told while it was being prepared
            worker.cancel()
        if self._draining:
            execution.drain()
        patience = asyncio.create_task(self._patience.wait())
        try:
            await asyncio.wait({worker, sink.writer, patience}, return_when=asyncio.FIRST_COMPLETED)
            if not worker.done() and not patience.done():
                worker.cancel()
                await asyncio.wait({worker, patience}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
        if not worker.done():
            logger.error("run %s: the graph ignores that it was stopped", self.run_id)
            worker.add_done_callback(_forget_outcome)
            return asyncio.CancelledError()
        if sink.error is not None:
            return sink.error
        return asyncio.CancelledError() if worker.cancelled() else worker.exception()

    async def _pump(self, execution: Execution, sink: Sink) -> None:
        """Everything that the graph says, into the sink."""

        def spoke() -> None:
            waited = time.monotonic() - self._accepted
            self.settings.metrics.first_frame(self._labels, waited)

        await execution.drive(_Listening(sink, spoke))

    async def _close(
        self,
        execution: Execution,
        sink: Sink,
        error: BaseException | None,
        graph: Graph,
        config: RunnableConfig,
        *,
        can_go_on: bool,
    ) -> None:
        """Say how it ended, unless somebody else goes on; what comes after that is dropped."""
        await sink.close()
        error = sink.error or error
        if isinstance(error, LeaseLost):
            self.stop = "lost"
        is_let_go = self.stop == "drained" or isinstance(error, GraphDrained | LogUnavailable)
        if self.stop == "lost" or (can_go_on and is_let_go):
            return
        if isinstance(error, asyncio.CancelledError) and self.stop == "drained":
            error = GraphDrained()  # in mid-step, because it did not come to the step's end in time
        frames = execution.end(error)
        if frames[-1] == RunFinished(status="cancelled"):
            await self._tell(graph, config, frames)
        await self._finish(frames)
        if dropped := sink.dropped + execution.dropped:
            logger.info("run %s: %d frames came after its end", self.run_id, dropped)

    async def _tell(self, graph: Graph, config: RunnableConfig, frames: Sequence[Frame]) -> None:
        """Tell the application that it was cancelled, before its last frames are logged."""
        if self.settings.on_cancel is None:
            return
        head: RunnableConfig = {**config, "configurable": dict(config.get("configurable", {}))}
        head["configurable"].pop("checkpoint_id", None)
        cancelled = CancelledRun(
            identity=self.identity,
            thread_id=self.thread_id,
            run_id=self.run_id,
            graph=graph,
            config=head,
            messages=tuple(frame for frame in frames if isinstance(frame, MessageFinished)),
        )
        try:
            async with asyncio.timeout(_ON_CANCEL_S):
                await self.settings.on_cancel(cancelled)
        except Exception:
            logger.exception("on_cancel failed for run %s", self.run_id)

    def _config(self, graph: Graph) -> tuple[RunnableConfig, dict[str, Any] | None]:
        options = self.request.options
        values = {name: options[name] for name in self.settings.allowed_options if name in options}
        told = {RUN_KEY: self.run_id, ATTEMPT_KEY: self.attempt}
        return run_config(
            self.settings.config,
            graph,
            self.graph,
            {**values, **self.identity.config, **told},
            thread=self.key,
            checkpoint=self.request.checkpoint_id,
        )

    async def _roll_back(
        self, graph: Graph, config: RunnableConfig, view: ThreadView
    ) -> tuple[Frame, ...]:
        """Go back to the checkpoint from before the run that this one supersedes.

        No checkpointer has a public call that deletes a run (`adelete_for_runs` raises
        NotImplementedError in the savers of langgraph-checkpoint 4.3), so its checkpoints stay in
        the history and the new run starts from the one before.
        """
        superseded = None if self.lease is None else self.lease.supersedes
        if superseded is None or self.strategy != "rollback":
            return ()
        run_id = superseded.rpartition("/")[2]
        old = view.runs.get(run_id)
        if old is None or old.started is None or not graph_options(graph).checkpointer:
            return ()
        if self.request.checkpoint_id is None:
            if (base := old.started.checkpoint_id) is not None:
                config.setdefault("configurable", {})["checkpoint_id"] = base
            else:
                await graph.checkpointer.adelete_thread(self.key)
        return (RolledBack(run_id=run_id),)

    async def _finish(
        self, frames: Sequence[Frame], *, status: RunStatus | None = None, again: bool = False
    ) -> None:
        """Write the last frames, and let the next run begin.

        A run whose end the log does not take, though it can be reached, has failed.

        Args:
            frames: The frames; none: it was refused, or (`status`) they are in the log.
            status: How it ended, if it has ended.
            again: Whether other last frames were not taken.
        """
        assert self.lease is not None
        if frames and isinstance(frames[-1], RunFinished):
            status = frames[-1].status
        try:
            self.next = await self.settings.registry.finish(
                self.lease, frames, interrupted=None if status is None else status == "interrupted"
            )
        except LeaseLost:
            self.stop = "lost"
        except LogUnavailable as error:
            logger.warning("the end of run %s could not be logged: %s", self.run_id, error)
        except Exception as error:
            error_id = report(error, f"run {self.run_id}: its end could not be logged")
            if again:
                self.crashed = True
                return
            failed = RunFailed(
                code="log_failed",
                message=ERROR_TEXTS["log_failed"],
                error_id=error_id,
                retryable=self._execution is not None and self._execution.options.checkpointer,
            )
            await self._finish([failed, RunFinished(status="failed")], again=True)
        else:
            self.status = status
            self.is_over = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """How an attempt begins: `frames` to be logged first; `end`: with these it is over."""

    started: RunStarted
    input: Any
    frames: tuple[Frame, ...]
    end: Sequence[Frame] | None = None
    resumption: Resumption | None = None


def _nothing() -> None:
    """A wake for a follower that is read at once."""


def run_name(identity: Identity, run_id: str) -> str:
    """The name of a run among all runs: run ids belong to identities, and hold no `/`."""
    return f"{identity.id}/{run_id}"


def unbegun(status: Literal["cancelled", "drained"]) -> list[Frame]:
    """The last frames of a run that was accepted, and stopped before it began."""
    if status == "cancelled":
        return [RunFinished(status="cancelled")]
    message = "The server went away before the run began; send it again."
    return [
        RunFailed(code="drained", message=message, retryable=True),
        RunFinished(status="drained"),
    ]


def encode_run(run: Run) -> bytes:
    """What it takes to carry out a run in another process, as JSON."""
    return dumps(
        plain(
            {
                "identity": {"id": run.identity.id, "config": dict(run.identity.config)},
                "thread_id": run.thread_id,
                "key": run.key,
                "run_id": run.run_id,
                "graph": run.graph,
                "strategy": run.strategy,
                "request": run.request,
            }
        )
    )


def count_unbegun(
    metrics: Metrics, ticket: Ticket, status: Literal["cancelled", "drained"]
) -> None:
    """Count a run that was stopped before it began."""
    labels = RunLabels(graph=ticket.graph, run_id=ticket.run_id, thread_id=ticket.thread_id)
    with _measured(metrics, labels, {}, lambda: status):
        pass


@contextmanager
def _measured(
    metrics: Metrics, labels: RunLabels, trace: Mapping[str, str], outcome: Callable[[], RunStatus]
) -> Iterator[None]:
    began = time.monotonic()
    metrics.run_started(labels)
    with metrics.run_span(labels, trace):
        try:
            yield
        finally:
            metrics.run_finished(labels, outcome(), time.monotonic() - began)


class _Stored(BaseModel):
    identity: Identity
    thread_id: str
    key: str
    run_id: str
    graph: str
    strategy: MultitaskStrategy
    request: StartRun


def decode_run(data: bytes, settings: Settings) -> Run:
    """The run that `encode_run` made `data` of.

    Raises:
        ValueError: It made it of nothing.
    """
    stored = _Stored.model_validate_json(data)
    return Run(settings=settings, **dict(stored))


class _Listening:
    """The sink of a run, until it has said something that is news to a user."""

    def __init__(self, sink: Sink, spoke: Callable[[], None]) -> None:
        self._sink = sink
        self._spoke = spoke
        self.put: Callable[[Frame], None] = self._listen
        self.add_text = sink.add_text
        self.room = sink.room

    @property
    def crowded(self) -> bool:
        return self._sink.crowded

    def _listen(self, frame: Frame) -> None:
        self._sink.put(frame)
        if isinstance(frame, _WORDS):
            self.put = self._sink.put
            self._spoke()


def _forget_outcome(task: asyncio.Task[None]) -> None:
    """Nobody asks any more how it ended."""
    if not task.cancelled():
        task.exception()
