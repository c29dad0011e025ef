"""Runs: start, answer, continue, cancel, follow, drain; one active run for each thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot

from langgraph_ws.codec import plain
from langgraph_ws.commands import (
    ANONYMOUS,
    Identity,
    MultitaskStrategy,
    RunInfo,
    Snapshot,
    StartRun,
    check_id,
)
from langgraph_ws.errors import (
    ConfigurationError,
    ErrorCode,
    InvalidRequest,
    LeaseLost,
    LogClosed,
    LogFailed,
    LogUnavailable,
    RequestError,
)
from langgraph_ws.frames import MessageFinished, RunFinished
from langgraph_ws.graphs import Graphs, GraphSource, read_state
from langgraph_ws.limits import Limits
from langgraph_ws.log import Entry, Follower, Position, ThreadLog
from langgraph_ws.log.registry import Admission, Lease, Standing, Ticket
from langgraph_ws.mapping import ChatMapper, Mapper, check_mapper, report
from langgraph_ws.metrics import Metrics
from langgraph_ws.run import (
    Durability,
    OnCancel,
    Run,
    Settings,
    count_unbegun,
    decode_run,
    encode_run,
    run_name,
    unbegun,
)
from langgraph_ws.sink import Beat
from langgraph_ws.streaming import ERROR_TEXTS
from langgraph_ws.tap import available
from langgraph_ws.turns import GRAPH_KEY, checkpoint_id, pending_interrupts
from langgraph_ws.view import RunView, ThreadView

__all__ = ["OnDisconnect", "Runs", "ThreadKey"]

logger = logging.getLogger("langgraph_ws")

_RESERVED_OPTIONS = frozenset({"thread_id", "checkpoint_id", "checkpoint_ns"})
_STRATEGIES = ("enqueue", "reject", "interrupt", "rollback")
_SETTLE_S = 2.0
"""How long what was stopped gets to end."""
_ASKED_S = 5.0
"""How long a run that has asked something gets to end, when that is answered already."""
_LOOK_AGAIN_S = 0.05
"""How long to wait before looking again whether a run that another process prepares has begun."""

OnDisconnect = Literal["continue", "cancel"]


ThreadKey = Callable[[Identity, str], str]


@dataclass(slots=True, eq=False)
class _Viewers:
    """Who follows a thread here; `grace`: ends its runs unless somebody comes back."""

    count: int = 0
    grace: asyncio.TimerHandle | None = None


class Runs:
    """Every run of one attached route.

    Args:
        graph: What to run (see `graphs`).
        log: Where frames go.
        mapper: The class of mapper; every run gets a new one.
        limits: How much may be used.
        config: What every run's config starts from (`callbacks`, `tags`, `recursion_limit`,
            `configurable`…).
        allowed_options: The options of clients that reach `config["configurable"]`, or the context
            of a graph that has a `context_schema`.
        thread_key: The key of an identity's thread in log and checkpointer; default
            `"<identity>/<thread>"`, or the thread id alone for nobody in particular. It may raise
            `PermissionError` to refuse.
        multitask_strategy: What to do with a new run on a busy thread, unless the client says.
        on_disconnect: `continue`: a run goes on when nobody follows its thread any more;
            `cancel`: it is cancelled `disconnect_grace` seconds after the last connection broke.
        on_cancel: Called with a `CancelledRun`.
        durability: Passed to graphs with a checkpointer; None: `sync` where other processes can go
            on with a run, and LangGraph's default elsewhere.
        expose_state: Whether clients may see the state.
        stream_state: Whether it is streamed, for protocols that show it whatever `expose_state`
            says.
        expose_output: Whether they see the final state with the result.
        allow_state_updates: Whether they may send `update` and `goto`.
        debug: Whether error texts reach clients, for development.
        metrics: Who is told what happens.
        merge_window: Seconds that a piece of text may wait for the next one; 0: none waits.

    Raises:
        ConfigurationError: An argument is not what it may be.
    """

    def __init__(
        self,
        graph: GraphSource,
        *,
        log: ThreadLog,
        mapper: type[Mapper] = ChatMapper,
        limits: Limits | None = None,
        config: RunnableConfig | None = None,
        allowed_options: Collection[str] = (),
        thread_key: ThreadKey | None = None,
        multitask_strategy: MultitaskStrategy = "enqueue",
        on_disconnect: OnDisconnect = "continue",
        disconnect_grace: float = 0.0,
        on_cancel: OnCancel | None = None,
        durability: Durability | None = None,
        expose_state: bool = False,
        stream_state: bool = False,
        expose_output: bool = False,
        allow_state_updates: bool = False,
        debug: bool = False,
        metrics: Metrics | None = None,
        merge_window: float = 0.025,
    ) -> None:
        _one_of("multitask_strategy", multitask_strategy, _STRATEGIES)
        _one_of("on_disconnect", on_disconnect, ("continue", "cancel"))
        _one_of("durability", durability, ("sync", "async", "exit", None))
        _check_options(allowed_options, config)
        if not isinstance(log, ThreadLog):
            raise ConfigurationError(f"log: expected a ThreadLog, got {type(log).__name__}")
        if metrics is not None and not isinstance(metrics, Metrics):
            raise ConfigurationError(f"metrics: expected a Metrics, got {type(metrics).__name__}")
        self.log = log
        self.graphs = Graphs(graph)
        self.mapper = check_mapper(mapper)
        if (expose_state or stream_state) and issubclass(self.mapper, ChatMapper):
            self.mapper = self.mapper.extend(state=True)
        self.limits = limits or Limits()
        self.expose_state = expose_state
        self.metrics = metrics or Metrics()
        self._thread_key = thread_key
        self.multitask_strategy: MultitaskStrategy = multitask_strategy
        self._on_disconnect = on_disconnect
        self._grace = disconnect_grace
        self._allow_updates = allow_state_updates
        self._registry = log.registry()
        self._settings = Settings(
            log=log,
            registry=self._registry,
            mapper=self.mapper,
            limits=self.limits,
            config=config or {},
            allowed_options=frozenset(allowed_options) - _RESERVED_OPTIONS,
            durability=durability,
            expose_output=expose_output,
            debug=debug,
            on_cancel=on_cancel,
            metrics=self.metrics,
            beat=Beat(merge_window),
        )
        self._live: dict[str, Run] = {}  # carried by this process, or about to be
        self._viewers: dict[str, _Viewers] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    # -- life -------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Begin to work, inside the running event loop."""
        self._settings = replace(self._settings, tapped=await available())
        await self.log.start()
        await self._registry.start(self)

    async def end(self) -> None:
        """Stop every run that is left, wait for all of them, and close the log."""
        await self.drain(0)
        await self._registry.close()
        await self.log.close()

    async def drain(self, timeout: float) -> None:
        """Take no more runs, and end those that there are at their next superstep.

        Where other processes share the log, they go on with a run that can be continued from a
        checkpoint that they see. Any other ends as `drained`.

        Args:
            timeout: Seconds to wait for that; what still runs then is stopped in mid-step. Either
                way the run can be continued from its checkpoint. A graph that ignores that it was
                stopped is given up 2 seconds later.
        """
        self._draining = True
        for viewers in self._viewers.values():
            if viewers.grace is not None:
                viewers.grace.cancel()
        for standing in await self._registry.orphans():
            await self._withdraw(standing, "drained")
        for run in self._live.values():
            run.drain()
        if self._tasks and timeout > 0:
            await asyncio.wait(set(self._tasks), timeout=timeout)
        for run in list(self._live.values()):
            run.halt("drained")
        await self._settle()
        for run in list(self._live.values()):
            run.give_up()
        await self._settle()
        for task in self._tasks:  # a factory or a log that does not come back
            task.cancel()
        await self._settle()

    async def _settle(self) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_SETTLE_S)

    @property
    def draining(self) -> bool:
        """Whether no more runs are taken."""
        return self._draining

    # -- what clients ask for ---------------------------------------------------------------

    def key(self, identity: Identity, thread_id: str) -> str:
        """The key of an identity's thread in log and checkpointer.

        Raises:
            RequestError: `thread_key` refused.
        """
        check_id("thread_id", thread_id)
        if self._thread_key is not None:
            try:
                return self._thread_key(identity, thread_id)
            except PermissionError:
                raise RequestError("not_found", "thread_id: no such thread") from None
        # Thread ids hold no "/", so the last one separates: no two pairs make the same key.
        return f"{identity.id}/{thread_id}" if identity.id else thread_id

    async def start(self, identity: Identity, request: StartRun) -> RunInfo:
        """Start a run, or find the one that was started under the same id.

        Returns:
            How it stands, once its first frame is in the log or it has a place in the queue.

        Raises:
            RequestError: It cannot be started.
        """
        if request.run_id is not None:
            check_id("run_id", request.run_id)
        name = await self._graph_for(identity, request)
        if (found := await self._find(identity, request)) is not None:
            return found
        if request.kind == "answer" or request.answers_pending:
            await self._let_ask(identity, request)
        # Nothing waits until it is among the live ones, so no two requests start it here.
        run = self._live.get(run_name(identity, request.run_id or ""))
        if run is None:
            run = self._admit(identity, request, name)
            standing = await self._place(run)
            if standing is not None:
                return await self._standing_info(standing)
        return await self._begun_info(run)

    async def _let_ask(self, identity: Identity, request: StartRun) -> None:
        """Let a run end whose question is answered: clients see that before they see the end."""
        if request.thread_id is None:
            return
        key = self.key(identity, request.thread_id)
        active = await self._active(key)
        if active is None:
            return
        _, view = await self.log.view(key)
        if view.interrupts and (
            request.answers is None or view.interrupts.keys() & request.answers.keys()
        ):
            with suppress(TimeoutError):
                async with asyncio.timeout(_ASKED_S):
                    await self._over(active)

    async def _active(self, key: str) -> Standing | None:
        """How the active run of a thread stands."""
        live = await self._registry.live(key)
        return live[0] if live and live[0].place is None else None

    async def _over(self, standing: Standing) -> None:
        """Wait until a run is no longer the active one of its thread."""
        ticket = standing.ticket
        if (run := self._live.get(ticket.run)) is not None:
            await run.over.wait()
            return
        active: Standing | None = standing
        while active is not None and active.ticket.run == ticket.run:
            await asyncio.sleep(_LOOK_AGAIN_S)
            active = await self._active(ticket.thread)

    async def cancel(
        self, identity: Identity, thread_id: str | None, run_id: str | None
    ) -> RunInfo:
        """Tell a run to stop; it ends as `cancelled` when its task has really ended.

        Raises:
            RequestError: There is no such run, or it has ended.
        """
        standing = await self._standing(identity, thread_id, run_id)
        if standing is None:
            raise RequestError("not_found", "no such run, or it has ended")
        info = await self._live_info(standing, *await self.log.view(standing.ticket.thread))
        await self._end(standing)
        return info

    async def info(self, identity: Identity, thread_id: str | None, run_id: str | None) -> RunInfo:
        """How a run, or the newest run of a thread, stands.

        Raises:
            RequestError: Nobody knows the run.
        """
        if run_id is not None:
            run = self._live.get(run_name(identity, run_id))
            if run is not None and thread_id in (None, run.thread_id):
                return await self._begun_info(run)
            if (standing := await self._standing(identity, thread_id, run_id)) is not None:
                return await self._standing_info(standing)
            return await self._ended_info(identity, thread_id, run_id)
        assert thread_id is not None
        key = self.key(identity, thread_id)
        active = await self._active(key)
        position, view = await self.log.view(key)
        running = view.runs.get(active.ticket.run_id) if active is not None else None
        if (run_view := running or view.latest) is not None:
            return await self._seen_info(thread_id, key, position, view, run_view)
        state = await self._saved(identity, key)
        interrupts = pending_interrupts(state)
        return RunInfo(
            thread_id=thread_id,
            run_id=None,
            status="interrupted" if interrupts else "idle",
            position=position,
            start=position,
            checkpoint_id=checkpoint_id(state),
            interrupts=interrupts,
        )

    async def of_thread(self, identity: Identity, thread_id: str) -> list[RunInfo]:
        """How the runs of a thread stand that are still known, the newest first."""
        key = self.key(identity, thread_id)
        _, view = await self.log.view(key)
        live = await self._registry.live(key)
        ids = dict.fromkeys(view.runs) | dict.fromkeys(run.ticket.run_id for run in live)
        infos = []
        for run_id in reversed(ids):
            with suppress(RequestError):  # it was refused, or forgotten, meanwhile
                infos.append(await self.info(identity, thread_id, run_id))
        return infos

    async def snapshot(self, identity: Identity, thread_id: str) -> Snapshot:
        """What a thread looks like now: the saved state, and what the log has beyond it."""
        key = self.key(identity, thread_id)
        state = await self._saved(identity, key)
        # The view is read after the state: what is in neither comes after its position.
        position, view = await self.log.view(key)
        saved = list(self.mapper.history(state.values)) if state is not None else []
        seen = {message.message_id for message in saved}
        latest = view.latest
        runs = view.runs.values() if state is None else [latest] if latest else []
        for run in runs:
            for message in _said(run):
                if message.message_id not in seen:
                    seen.add(message.message_id)
                    saved.append(message)
        return Snapshot(
            thread_id=thread_id,
            position=position,
            run_id=latest.run_id if latest else None,
            status=(latest.status or "running") if latest else "idle",
            messages=tuple(saved),
            open=tuple(latest.open.values()) if latest else (),
            interrupts=tuple(view.interrupts.values()) if latest else pending_interrupts(state),
            sources=latest.sources if latest else (),
            values=plain(state.values) if state is not None and self.expose_state else None,
        )

    async def follow(
        self,
        identity: Identity,
        thread_id: str,
        after: Position | None,
        wake: Callable[[], None],
        *,
        rewind: bool = False,
        tell: Callable[[Entry], bool] | None = None,
    ) -> Follower:
        """Read the log of an identity's thread (see `ThreadLog.follow`)."""
        key = self.key(identity, thread_id)
        return await self.log.follow(key, after, wake, rewind=rewind, tell=tell)

    async def entries(
        self,
        identity: Identity = ANONYMOUS,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        after: Position | None = None,
    ) -> AsyncGenerator[Entry]:
        """The entries of a thread without end, or those of one run to its end.

        Args:
            identity: Whose thread.
            thread_id: The thread; None: that of the run.
            run_id: The run; None: every run of the thread.
            after: The position to go on after; None: everything that is held.

        Raises:
            GapError: The position cannot be resumed from, or the run's beginning is not held.
            RequestError: Nobody knows the run.
            LogClosed: The route has been shut down.
        """
        info = await self.info(identity, thread_id, run_id)
        start = after if after is not None or run_id is None else info.start
        if start is None and run_id is None:
            bounds = await self.log.bounds(self.key(identity, info.thread_id))
            start = Position(bounds.epoch, bounds.first - 1)
        wake = asyncio.Event()
        follower = await self.follow(identity, info.thread_id, start, wake.set)
        try:
            while True:
                wake.clear()
                for entry in follower.read(256):
                    if run_id is None or entry.run_id == run_id:
                        yield entry
                        if run_id is not None and isinstance(entry.frame, RunFinished):
                            return
                    wake.set()
                await wake.wait()
        finally:
            follower.close()

    # -- who watches ------------------------------------------------------------------------

    def joined(self, identity: Identity, thread_id: str) -> None:
        """A connection follows the thread."""
        viewers = self._viewers.setdefault(self.key(identity, thread_id), _Viewers())
        viewers.count += 1
        self._watch(self.key(identity, thread_id), viewers)
        if viewers.grace is not None:
            viewers.grace.cancel()
            viewers.grace = None

    def left(self, identity: Identity, thread_id: str, *, dropped: bool) -> None:
        """A connection follows it no longer; `dropped`: because it broke or was closed."""
        key = self.key(identity, thread_id)
        viewers = self._viewers[key]
        viewers.count -= 1
        self._watch(key, viewers)
        if viewers.count > 0:
            return
        if dropped and self._on_disconnect == "cancel" and not self._draining:
            loop = asyncio.get_running_loop()
            viewers.grace = loop.call_later(self._grace, self._abandon, key)
        else:
            del self._viewers[key]

    def _abandon(self, key: str) -> None:
        del self._viewers[key]
        self._spawn(self._end_all(key))

    def _watch(self, key: str, viewers: _Viewers) -> None:
        """Tell other processes that somebody has come, or that the last one has left."""
        if self._on_disconnect == "cancel" and viewers.count < 2:
            self._spawn(self._tell(key, watched=viewers.count == 1))

    async def _tell(self, key: str, *, watched: bool) -> None:
        try:
            await self._registry.watch(key, watched=watched)
        except (LogFailed, LogClosed) as error:
            logger.warning("it could not be told who follows a thread: %s", error)

    async def _end_all(self, key: str) -> None:
        if key in self._viewers or await self._registry.is_watched(key):
            return
        for standing in reversed(await self._registry.live(key)):
            await self._end(standing)

    # -- finding ----------------------------------------------------------------------------

    async def _find(self, identity: Identity, request: StartRun) -> RunInfo | None:
        """The run that was started under the id of this request, if there is one."""
        if request.run_id is None:
            return None
        name = run_name(identity, request.run_id)
        run = self._live.get(name)
        where = None if run is not None else await self._registry.where(name)
        found = run or where
        thread_id = found.thread_id if found is not None else request.thread_id
        if thread_id is None:
            return None
        if request.thread_id not in (None, thread_id):
            raise RequestError("conflict", "run_id: it exists on another thread")
        if run is not None:
            return await self._begun_info(run)
        if where is None:
            return None
        try:
            return await self.info(identity, thread_id, request.run_id)
        except RequestError:
            return None

    async def _standing(
        self, identity: Identity, thread_id: str | None, run_id: str | None
    ) -> Standing | None:
        """How a live run, or the active one of a thread, stands."""
        if run_id is None:
            assert thread_id is not None
            return await self._active(self.key(identity, thread_id))
        name = run_name(identity, run_id)
        where = await self._registry.where(name)
        if where is None or thread_id not in (None, where.thread_id):
            return None
        live = await self._registry.live(where.thread)
        return next((standing for standing in live if standing.ticket.run == name), None)

    async def _begun_info(self, run: Run) -> RunInfo:
        """How a run that this process was to carry stands, once it has begun.

        Raises:
            RequestError: It was refused.
        """
        await run.begun.wait()
        if run.refusal is not None:
            raise run.refusal
        if run.status is None:
            standing = await self._standing(run.identity, run.thread_id, run.run_id)
            if standing is not None:
                return await self._standing_info(standing)
        return await self._ended_info(run.identity, run.thread_id, run.run_id)

    async def _standing_info(self, standing: Standing) -> RunInfo:
        """How a live run stands, once it has begun, wherever it is carried, or waits."""
        ticket = standing.ticket
        while True:
            position, view = await self.log.view(ticket.thread)
            if standing.place is not None or ticket.run_id in view.runs:
                return await self._live_info(standing, position, view)
            await asyncio.sleep(_LOOK_AGAIN_S)
            live = await self._registry.live(ticket.thread)
            found = next((other for other in live if other.ticket.run == ticket.run), None)
            if found is None:
                position, view = await self.log.view(ticket.thread)
                if ticket.run_id not in view.runs:
                    raise RequestError("not_found", "run_id: no such run")
                return await self._seen_info(
                    ticket.thread_id, ticket.thread, position, view, view.runs[ticket.run_id]
                )
            standing = found

    async def _live_info(self, standing: Standing, position: Position, view: ThreadView) -> RunInfo:
        """How a live run stands now; one that has not begun has no start."""
        ticket = standing.ticket
        if (run := view.runs.get(ticket.run_id)) is not None:
            return await self._seen_info(ticket.thread_id, ticket.thread, position, view, run)
        return RunInfo(
            thread_id=ticket.thread_id,
            run_id=ticket.run_id,
            status="queued" if standing.place else "running",
            place=standing.place,
            position=position,
            start=position if standing.place else None,
            graph=ticket.graph,
            interrupts=tuple(view.interrupts.values()),
        )

    async def _ended_info(self, identity: Identity, thread_id: str | None, run_id: str) -> RunInfo:
        """How a run stands that is not live any more.

        Raises:
            RequestError: Nobody knows it.
        """
        where = await self._registry.where(run_name(identity, run_id))
        if where is not None and thread_id in (None, where.thread_id):
            key, thread_id = where
        elif where is None and thread_id is not None:
            key = self.key(identity, thread_id)
        else:
            raise RequestError("not_found", "run_id: no such run")
        position, view = await self.log.view(key)
        if run_id not in view.runs:
            raise RequestError("not_found", "run_id: no such run")
        return await self._seen_info(thread_id, key, position, view, view.runs[run_id])

    async def _seen_info(
        self, thread_id: str, key: str, position: Position, view: ThreadView, run: RunView
    ) -> RunInfo:
        """How a run stands as the log has seen it."""
        return RunInfo(
            thread_id=thread_id,
            run_id=run.run_id,
            status=run.status or "running",
            position=position,
            start=await self.log.start_of(key, run.run_id),
            graph=run.started.graph if run.started is not None else None,
            checkpoint_id=run.started.checkpoint_id if run.started is not None else None,
            interrupts=tuple(view.interrupts.values()),
        )

    async def _graph_for(self, identity: Identity, request: StartRun) -> str:
        """The graph that was asked for, or the thread's own, or the default."""
        if request.graph is not None or request.thread_id is None:
            return self.graphs.choose(request.graph)
        return await self.graph_of(identity, request.thread_id)

    async def graph_of(self, identity: Identity, thread_id: str) -> str:
        """The name of the graph that a thread belongs to, or of the default one."""
        if len(self.graphs.names) == 1:
            return self.graphs.names[0]
        key = self.key(identity, thread_id)
        _, view = await self.log.view(key)
        if view.latest is not None and view.latest.started is not None:
            return view.latest.started.graph
        state = await self._saved(identity, key)
        metadata = state.metadata if state is not None else None
        return str((metadata or {}).get(GRAPH_KEY) or self.graphs.names[0])

    async def _saved(self, identity: Identity, key: str) -> StateSnapshot | None:
        """The saved state of a thread, read by the graph that wrote it."""
        for name in self.graphs.names:
            async with self.graphs.open(name, identity) as graph:
                state = await read_state(graph, {"configurable": {"thread_id": key}})
            if state is None:
                continue
            owner = (state.metadata or {}).get(GRAPH_KEY)
            if owner == name or owner not in self.graphs.names:
                return state
        return None

    # -- accepting --------------------------------------------------------------------------

    def _admit(self, identity: Identity, request: StartRun, graph: str) -> Run:
        """Make a run of the request, if there may be one more."""
        if self._draining and not self._registry.is_shared:
            raise RequestError("draining", "the server is going away", retryable=True)
        if (request.update is not None or request.goto) and not self._allow_updates:
            raise RequestError("forbidden", "update, goto: not allowed here")
        if len(self._live) >= self.limits.runs or not self.log.has_room():
            raise RequestError("overloaded", "too many runs; try again later", retryable=True)
        if identity.id and self.limits.runs_per_identity <= sum(
            run.identity.id == identity.id for run in self._live.values()
        ):
            raise RequestError("limit_exceeded", "too many runs at once", retryable=True)
        strategy = request.multitask_strategy or self.multitask_strategy
        if strategy not in _STRATEGIES:
            raise InvalidRequest(
                "multitask_strategy", f"expected one of {', '.join(_STRATEGIES)}, got {strategy!r}"
            )
        thread_id = request.thread_id or str(uuid4())
        run = Run(
            settings=self._settings,
            identity=identity,
            thread_id=thread_id,
            key=self.key(identity, thread_id),
            run_id=request.run_id or str(uuid4()),
            graph=graph,
            request=request,
            strategy=strategy,
        )
        self._live[run.name] = run
        return run

    async def _place(self, run: Run) -> Standing | None:
        """Carry the run, or let it wait (then it is returned how it stands), or refuse it.

        Raises:
            RequestError: It is refused.
        """
        ticket = Ticket(
            run=run.name, thread=run.key, thread_id=run.thread_id, graph=run.graph, work=run
        )
        how: Admission = run.strategy if run.request.kind == "input" else "reject"
        try:
            admitted = await self._registry.admit(ticket, how, self.limits.queued_runs_per_thread)
            if admitted.conflict:
                raise RequestError("conflict", "run_id: it exists on another thread")
            if admitted.busy:
                raise _busy(run.request, full=admitted.full)
            if admitted.lease is not None and self._draining:  # another process carries it
                await self._let_go(admitted.lease)
                return Standing(ticket=ticket)
            if admitted.lease is not None:
                self._carry(run, admitted.lease)
        except RequestError as refusal:
            run.refusal = refusal
            raise
        finally:
            if run.lease is None:
                del self._live[run.name]
                run.begun.set()
                run.over.set()
        return admitted.standing

    async def _end(self, standing: Standing) -> None:
        """End a live run as cancelled."""
        if standing.place is None or not await self._withdraw(standing, "cancelled"):
            await self._registry.stop(standing)

    async def _withdraw(self, standing: Standing, status: Literal["cancelled", "drained"]) -> bool:
        """End a run that waits; False: it waits no more."""
        if not await self._registry.withdraw(standing, unbegun(status)):
            return False
        count_unbegun(self.metrics, standing.ticket, status)
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- running ----------------------------------------------------------------------------

    def _carry(self, run: Run, lease: Lease) -> None:
        run.lease = lease
        self._live[run.name] = run
        if lease.stop:
            run.halt("cancelled")
        self._spawn(self._supervise(run, lease))

    async def _supervise(self, run: Run, lease: Lease) -> None:
        """Carry a run from its first frame to its last, whatever happens."""
        try:
            with run.measured():
                await self._try(run)
        finally:
            crashed = run.crashed
            following = run.next if run.is_over else await self._let_go(lease, crashed=crashed)
            if self._live.get(run.name) is run:  # not taken over by this very process
                del self._live[run.name]
            run.begun.set()
            run.over.set()
            if following is not None:
                await self._go_on(following)

    async def _try(self, run: Run) -> None:
        try:
            async with self.graphs.open(run.graph, run.identity) as graph:
                await run.carry(graph)
        except RequestError as error:
            await run.break_off(error)
        except LeaseLost:
            run.stop = "lost"
        except LogUnavailable as error:
            logger.warning("run %s is let go of: %s", run.run_id, error)
        except LogFailed as error:
            await run.break_off(_unfinished(run, error, "log_failed", ERROR_TEXTS["log_failed"]))
        except Exception as error:
            await run.break_off(_unfinished(run, error, "internal_error", "Something went wrong."))

    async def _let_go(self, lease: Lease, *, crashed: bool = False) -> Lease | None:
        try:
            return await self._registry.release(lease, crashed=crashed)
        except (LogFailed, LogClosed) as error:  # the lease runs out by itself
            logger.warning("run %s could not be let go of: %s", lease.ticket.run_id, error)
            return None

    async def _go_on(self, lease: Lease) -> None:
        """Carry a run that nobody waits for: it was queued, or another process carried it."""
        if self._draining:
            await self._let_go(lease)
            return
        run: Run = lease.ticket.work
        run.waited = True
        self._carry(run, lease)

    # -- what the registry tells (see `Keeper`) -----------------------------------------------

    def take(self, lease: Lease) -> None:
        """Go on with a run whose holder disappeared or let go of it."""
        self._spawn(self._go_on(lease))

    def stop(self, run: str) -> None:
        """A run that is carried here has been cancelled."""
        if (found := self._live.get(run)) is not None:
            found.halt("cancelled")

    def lose(self, run: str) -> None:
        """A run that is carried here is (or may be) carried by somebody else from now on."""
        if (found := self._live.get(run)) is not None:
            found.halt("lost")

    def encode(self, work: Run) -> bytes:
        """What it takes to carry out a run, as JSON."""
        return encode_run(work)

    def decode(self, data: bytes) -> Run:
        """The run that `encode` made `data` of.

        Raises:
            ValueError: It made it of nothing.
        """
        return decode_run(data, self._settings)

    def graph_names(self) -> Sequence[str]:
        """The names of the graphs whose runs can be carried out here: none on the way out."""
        return () if self._draining else self.graphs.names


def _unfinished(run: Run, error: Exception, code: ErrorCode, text: str) -> RequestError:
    """What is told of a run that could not be carried out; the log has the rest."""
    error_id = report(error, f"run {run.run_id} could not be carried out")
    return RequestError(code, text, error_id=error_id)


def _busy(request: StartRun, *, full: bool) -> RequestError:
    if request.kind == "answer":
        return RequestError("stale_interrupt", "resume: nothing waits while a run is active")
    text = "too many runs wait for the thread" if full else "the thread has an active run"
    return RequestError("thread_busy", text, retryable=True)


def _said(run: RunView) -> Iterator[MessageFinished]:
    """The messages of a run: those that it was given, then its own."""
    for message in run.started.messages if run.started is not None else ():
        yield MessageFinished(
            message_id=message["message_id"],
            role=message["role"],
            content=tuple(message["content"]),
        )
    yield from run.messages


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        expected = ", ".join(repr(item) for item in allowed)
        raise ConfigurationError(f"{name}: expected one of {expected}, got {value!r}")


def _check_options(allowed: object, config: object) -> None:
    if (
        isinstance(allowed, str)
        or not isinstance(allowed, Collection)
        or not all(isinstance(name, str) for name in allowed)
    ):
        raise ConfigurationError(
            f"allowed_options: expected a collection of names, got {allowed!r}"
        )
    given = config if config is not None else {}
    if not isinstance(given, Mapping) or not isinstance(given.get("configurable", {}), Mapping):
        raise ConfigurationError(f"config: expected a RunnableConfig, got {config!r}")
