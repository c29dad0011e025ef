"""Run a graph and get its frames: no log, no session, no socket.

`stream_frames` is the whole of it for server-sent events, a notebook or a test. `Execution` is the
same in pieces, for a run that is logged and can be cancelled: iterate `frames()`, then take the
last ones from `end()`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import AIMessageChunk, BaseMessage, convert_to_messages
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import EmptyInputError, GraphDrained, GraphRecursionError
from langgraph.pregel.protocol import PregelProtocol
from langgraph.runtime import RunControl

from langgraph_ws.codec import message_json, plain
from langgraph_ws.errors import (
    ConfigurationError,
    ErrorCode,
    LangGraphWSError,
    LogClosed,
    LogFailed,
)
from langgraph_ws.frames import (
    BlockDelta,
    Frame,
    MessageFinished,
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    RunStatus,
    Source,
)
from langgraph_ws.mapping import (
    STREAM_MODES,
    TAPPED,
    ChatMapper,
    Mapper,
    Part,
    check_mapper,
    report,
)
from langgraph_ws.messages import Block, MessageBuilder, Place, place_of
from langgraph_ws.tap import Tap, can_tap

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

__all__ = [
    "ERROR_TEXTS",
    "Execution",
    "GraphOptions",
    "MapperError",
    "Outlet",
    "Resumption",
    "check_delta",
    "check_graph",
    "graph_options",
    "input_messages",
    "prepare_run",
    "stream_frames",
]

_log = logging.getLogger("langgraph_ws")

ERROR_TEXTS: dict[ErrorCode, str] = {
    "graph_failed": "The graph failed.",
    "mapper_failed": "The output of the graph could not be shown.",
    "recursion_limit": "The graph took more steps than it may.",
    "nothing_to_continue": "There is nothing to continue from.",
    "drained": "The server is going away; the run stopped after its last step.",
    "log_failed": "The output of the run could not be stored.",
}
"""What a client is told of each way to fail."""
_CONTINUABLE = frozenset({"graph_failed", "recursion_limit", "drained", "log_failed"})
_UNREPORTED = frozenset({"nothing_to_continue", "drained"})


class MapperError(LangGraphWSError):
    """The mapper raised, and its error is the cause of this one; or its frame cannot be written."""


def check_delta(delta: BlockDelta) -> None:
    """Make sure that a delta of a mapper can be written.

    Raises:
        MapperError: Its text is none.
    """
    if not isinstance(delta.text, str):
        kind = type(delta.text).__name__
        raise MapperError(f"text of a BlockDelta: expected a str, got {kind}")


# --- graphs ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOptions:
    """What a graph can be asked for.

    Attributes:
        checkpointer: It saves checkpoints, so that it can be continued.
        durability: `astream` takes `durability`.
        control: `astream` takes `control`, so that it can be drained.
    """

    checkpointer: bool
    durability: bool
    control: bool


def graph_options(graph: Any) -> GraphOptions:
    """Decide which options a graph gets.

    `durability="sync"` without a checkpointer crashes in LangGraph 1.2.22 (`AttributeError …
    _put_checkpoint_fut`), and `RemoteGraph.astream` sends `durability` and `control` on to the
    server as unknown arguments. A remote graph keeps its checkpoints where it runs.
    """
    if _is_remote(graph):
        return GraphOptions(checkpointer=True, durability=False, control=False)
    saver = getattr(graph, "checkpointer", None)
    saves = isinstance(saver, BaseCheckpointSaver)
    return GraphOptions(checkpointer=saves, durability=saves, control=True)


def _is_remote(graph: Any) -> bool:
    return any(
        (kind.__module__, kind.__name__) == ("langgraph.pregel.remote", "RemoteGraph")
        for kind in type(graph).__mro__
    )


def check_graph(value: object) -> Any:
    """The value, when it is a graph that can run.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(value, PregelProtocol):
        return value
    hint = " (call .compile() on it)" if hasattr(value, "compile") else ""
    raise ConfigurationError(f"graph: expected a compiled graph, got {type(value).__name__}{hint}")


def input_messages(value: Any) -> tuple[dict[str, Any], ...]:
    """The messages in the input of a graph, as JSON data; none when there are none."""
    found = (
        value.get("messages") if isinstance(value, Mapping) else getattr(value, "messages", None)
    )
    if found is None and isinstance(value, list | tuple):
        found = value
    if not found:
        return ()
    try:
        messages = convert_to_messages(found if isinstance(found, list | tuple) else [found])
    except (TypeError, ValueError, NotImplementedError):
        return ()
    return tuple(message_json(message) for message in messages if isinstance(message, BaseMessage))


class Outlet(Protocol):
    """Where the frames of a run go."""

    @property
    def crowded(self) -> bool:
        """Whether so much waits that the next frame should, too."""
        ...

    def put(self, frame: Frame, /) -> None:
        """Take a frame."""
        ...

    def add_text(self, text: str, block: Block, /) -> None:
        """Take text that has just been written at the end of a block, as a delta of it."""
        ...

    async def room(self) -> None:
        """Wait until there is room again."""
        ...


# --- callbacks -------------------------------------------------------------------------------


class _Callbacks(BaseCallbackHandler):
    """Catches what retrievers find and custom events, anywhere in the graph.

    Nodes that are not async run in threads of their own, so what is caught takes the way that
    LangGraph's own parts take: through the event loop, in order.

    Args:
        types: Which of the two.
        take: Called with each part, in the event loop.
        at_once: Whether it is called at once by what runs in the event loop, as a `Tap` does.
    """

    run_inline = True

    def __init__(
        self, types: Collection[str], take: Callable[[Part], None], *, at_once: bool
    ) -> None:
        self._types = types
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident() if at_once else None
        self._retrievers: dict[UUID, tuple[Place, str | None]] = {}
        self._closed = False
        self.dropped = 0

    @property
    def ignore_llm(self) -> bool:
        """It hears no tokens: LangChain need not even ask it for each."""
        return True

    @property
    def ignore_chat_model(self) -> bool:
        """It hears no models."""
        return True

    def close(self) -> None:
        """Drop what comes from now on, and count it."""
        self._closed = True

    def on_retriever_start(
        self,
        serialized: dict[str, Any],
        query: str,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember where the retriever runs: its end does not tell."""
        if "retriever" in self._types and "nostream" not in (tags or ()):
            self._retrievers[run_id] = place_of(metadata or {}), kwargs.get("name")

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Pass on what the retriever found."""
        known = self._retrievers.pop(run_id, None)
        if known is not None:
            place, name = known
            self._pass("retriever", place, {"documents": list(documents), "name": name})

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the retriever."""
        self._retrievers.pop(run_id, None)

    def on_custom_event(
        self,
        name: str,
        data: Any,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on the event."""
        if "custom_event" in self._types and "nostream" not in (tags or ()):
            self._pass("custom_event", place_of(metadata or {}), {"name": name, "data": data})

    def _pass(self, kind: str, place: Place, data: dict[str, Any]) -> None:
        told = {**data, "node": place.node, "task_id": place.task_id}
        part = {"type": kind, "ns": place.namespace, "data": told}
        if threading.get_ident() == self._thread:
            self._keep(part)
            return
        try:
            self._loop.call_soon_threadsafe(self._keep, part)
        except RuntimeError:  # the loop is closed: a thread outlived it
            self.dropped += 1

    def _keep(self, part: Part) -> None:
        if self._closed:
            self.dropped += 1
        else:
            self._take(part)


def _with_callbacks(
    config: RunnableConfig, handlers: Sequence[BaseCallbackHandler]
) -> RunnableConfig:
    """The config with more callbacks; what the user passed stays as it is."""
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        for handler in handlers:
            callbacks.add_handler(handler, inherit=True)
    else:
        callbacks = [*(callbacks or ()), *handlers]
    return cast("RunnableConfig", {**config, "callbacks": callbacks})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """What is known of earlier attempts at a run.

    Attributes:
        said: The messages that they finished, and that hold.
        sources: The sources that they found.
        again: Parts that the graph does not stream any more, to be seen before all others.
        finished: Tasks that do not run again, though the graph tells of their start.
        checkpoints: Checkpoints that were told of.
    """

    said: tuple[MessageFinished, ...] = ()
    sources: tuple[Source, ...] = ()
    again: tuple[Part, ...] = ()
    finished: frozenset[str] = frozenset()
    checkpoints: frozenset[str] = frozenset()

    def knows(self, part: Part) -> bool:
        """Whether a part only repeats what happened in an earlier attempt."""
        kind, data = part.get("type"), part["data"]
        if kind == "tasks":
            return "input" in data and data["id"] in self.finished
        if kind == "updates":
            return bool((data.get("__metadata__") or {}).get("cached"))
        if kind == "checkpoints":
            return data["config"]["configurable"].get("checkpoint_id") in self.checkpoints
        return False


# --- one attempt at a run --------------------------------------------------------------------


class Execution:
    """One attempt at a run of a graph.

    Args:
        graph: A compiled graph.
        input: What it is given; None: go on from the checkpoint.
        config: LangGraph's config, with the thread id where there is a checkpointer.
        run: The frame that announces the run (the caller sends it).
        mapper: A fresh mapper.
        context: The graph's context, where it has a `context_schema`.
        modes: Stream modes to ask for beyond those of the mapper.
        control: How to drain it; made when None and the graph takes one.
        durability: LangGraph's `durability`; ignored without a checkpointer.
        expose_output: Put the final state into `RunResult.output`.
        debug: Put what failed into `RunFailed.message`; for development only.
        resumption: What is known of earlier attempts; None: it is the first.
        tapped: Whether `drive` may hear the graph by a `Tap` (see `tap.available`).

    Attributes:
        values: The newest state of the root graph; None before the first.
        checkpoint_id: The newest checkpoint of the root graph; None before the first.
        next: The nodes that the newest checkpoint says are next.
        options: What the graph can be asked for.
    """

    def __init__(
        self,
        graph: Any,
        input: Any,  # noqa: A002  # LangGraph's word
        config: Mapping[str, Any] | None,
        *,
        run: RunStarted,
        mapper: Mapper,
        context: Any = None,
        modes: Collection[str] = (),
        control: RunControl | None = None,
        durability: str | None = None,
        expose_output: bool = False,
        debug: bool = False,
        resumption: Resumption | None = None,
        tapped: bool = False,
    ) -> None:
        self.values: Any = None
        self.checkpoint_id: str | None = None
        self.next: tuple[str, ...] = ()
        self.options = graph_options(graph)
        self._graph = graph
        self._input = input
        self._config = cast("RunnableConfig", dict(config or {}))
        self._run = run
        self._mapper = mapper
        self._context = context
        self._modes = self._wanted_modes(modes)
        self._control = (control or RunControl()) if self.options.control else None
        self._durability = durability if self.options.durability else None
        self._expose_output = expose_output
        self._debug = debug
        self._resumption = resumption
        self._tapped = tapped
        self._heard: list[Tap | _Callbacks] = []
        self._interrupted = False
        self._ended = False
        self._began = time.monotonic()

    @property
    def dropped(self) -> int:
        """How much was heard after the end, and dropped."""
        return sum(source.dropped for source in self._heard)

    def drain(self) -> None:
        """Ask the graph to stop after the step that it is in; a remote graph cannot."""
        if self._control is not None:
            self._control.request_drain()

    async def frames(self) -> AsyncGenerator[Frame]:
        """Run the graph; its frames without the first (`RunStarted`) and the last (`end`).

        Closing it, or cancelling the task that iterates, stops the graph.

        Raises:
            MapperError: The mapper raised.
            Exception: Whatever the graph raised.
        """
        for frame in _guarded(self._mapper.start, self._run):
            yield frame
        if (earlier := self._resumption) is not None:
            self._mapper.resume(earlier.said, earlier.sources)
            for part in earlier.again:
                for frame in _guarded(self._mapper.map, part):
                    yield frame
        try:
            async with aclosing(self._parts()) as parts:
                async for part in parts:
                    if self._resumption is not None and self._resumption.knows(part):
                        continue
                    for frame in _guarded(self._mapper.map, part):
                        yield frame
        finally:
            self._hear_no_more()
        for frame in _guarded(self._mapper.finish):
            yield frame

    async def drive(self, outlet: Outlet) -> None:
        """Run the graph, and give its frames to the outlet as soon as they are made.

        The frames are those of `frames`; with `tapped` those of a first attempt come without a
        detour through the queue of `astream`. Cancelling the task stops the graph.

        Raises:
            MapperError: The mapper raised.
            Exception: Whatever the graph or the outlet raised.
        """
        first = self._resumption is None
        if first and self._tapped and not self._mapper.events and can_tap(self._graph):
            await self._drive_tapped(outlet)
            return
        async with aclosing(self.frames()) as frames:
            async for frame in frames:
                outlet.put(frame)
                if outlet.crowded:
                    await outlet.room()

    async def _drive_tapped(self, outlet: Outlet) -> None:
        task = asyncio.current_task()
        assert task is not None
        feed = _Feed(self._mapper, self._note, outlet, task)
        tap = Tap(self._graph, self._modes, feed.take, feed.take_text)
        beside = self._callbacks(feed.take, at_once=True)
        config = _with_callbacks(tap.config(self._config), tap.callbacks(beside))
        self._heard.append(tap)
        try:
            try:
                feed.put_all(_guarded(self._mapper.start, self._run))
                arguments = self._arguments() | {"stream_mode": [], "subgraphs": False}
                stream = tap.graph().astream(self._input, config, version="v2", **arguments)
                async with aclosing(stream):
                    async for _ in stream:
                        pass
                await asyncio.sleep(0)  # what threads have passed on arrives
            finally:
                self._hear_no_more()
                await feed.end()
        except (Exception, asyncio.CancelledError) as error:
            if feed.error is None:
                raise
            if isinstance(error, Exception):
                report(error, f"run {self._run.run_id}: the graph failed, too")
        if feed.error is not None:
            feed.release()
            raise feed.error
        feed.put_all(_guarded(self._mapper.finish))

    def end(self, error: BaseException | None) -> list[Frame]:
        """The last frames of the run, once; nothing when called again.

        Args:
            error: What `frames` raised (`CancelledError`: somebody stopped it); None when it came
                to its end.
        """
        if self._ended:
            return []
        self._ended = True
        if isinstance(error, asyncio.CancelledError):
            return [*self._closing("cancelled"), RunFinished(status="cancelled")]
        if error is not None:
            return self._failed(error)
        if self._interrupted or self.next:
            return [RunFinished(status="interrupted")]
        try:
            result = self._result()
        except Exception as failure:
            return self._failed(_mapper_failed(failure))
        return [result, RunFinished(status="completed")]

    def _failed(self, error: BaseException) -> list[Frame]:
        code = _code(error)
        status: RunStatus = "drained" if code == "drained" else "failed"
        cause = error.__cause__ if isinstance(error, MapperError) and error.__cause__ else error
        error_id = None if code in _UNREPORTED else report(cause, f"run {self._run.run_id}: {code}")
        failed = RunFailed(
            code=code,
            message=f"{type(cause).__name__}: {cause}" if self._debug else ERROR_TEXTS[code],
            error_id=error_id,
            retryable=code in _CONTINUABLE and self.options.checkpointer,
        )
        # A drain that could not wait for the end of the step has cut off what was going on.
        closing = self._closing("cancelled" if status == "drained" else "failed")
        return [*closing, failed, RunFinished(status=status)]

    def _closing(self, status: Literal["failed", "cancelled"]) -> list[Frame]:
        """What the mapper still has to say; a mapper that fails here says nothing."""
        try:
            frames = list(self._mapper.fail(status))
            for frame in frames:
                if isinstance(frame, BlockDelta):
                    check_delta(frame)
        except Exception as error:
            report(error, f"run {self._run.run_id}: the mapper failed to close what was open")
            return []
        return frames

    def _result(self) -> RunResult:
        return replace(
            self._mapper.result(),
            duration_ms=round((time.monotonic() - self._began) * 1000),
            checkpoint_id=self.checkpoint_id,
            output=plain(self.values) if self._expose_output else None,
        )

    # What the graph streams.

    def _wanted_modes(self, extra: Collection[str]) -> list[str]:
        modes = {mode for mode in self._mapper.modes if mode in STREAM_MODES}
        modes |= {"values", "tasks", *extra}
        # Without a checkpointer that mode is silently empty.
        return sorted(modes | {"checkpoints"} if self.options.checkpointer else modes)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"stream_mode": self._modes, "subgraphs": True}
        named = {
            "context": self._context,
            "control": self._control,
            "durability": self._durability,
        }
        return arguments | {name: value for name, value in named.items() if value is not None}

    async def _parts(self) -> AsyncGenerator[Part]:
        """The parts of the stream, and what callbacks caught between them."""
        caught: deque[Part] = deque()
        config = self._config
        if (callbacks := self._callbacks(caught.append, at_once=False)) is not None:
            config = _with_callbacks(config, [callbacks])
        stream = self._events(config) if self._mapper.events else self._stream(config)
        async with aclosing(stream):
            async for part in stream:
                while caught:
                    yield caught.popleft()
                if "type" in part:
                    self._note(part)
                yield part
        await asyncio.sleep(0)  # what threads have passed on arrives
        while caught:
            yield caught.popleft()

    def _callbacks(self, take: Callable[[Part], None], *, at_once: bool) -> _Callbacks | None:
        """What hears the callbacks that no stream mode tells of; None: nobody asks for them."""
        types = self._mapper.modes & TAPPED
        if not types:
            return None
        callbacks = _Callbacks(types, take, at_once=at_once)
        self._heard.append(callbacks)
        return callbacks

    def _hear_no_more(self) -> None:
        for source in self._heard:
            source.close()

    def _stream(self, config: RunnableConfig) -> AsyncGenerator[Part]:
        stream = self._graph.astream(self._input, config, version="v2", **self._arguments())
        return cast("AsyncGenerator[Part]", stream)

    async def _events(self, config: RunnableConfig) -> AsyncGenerator[Part]:
        """One iteration that carries both vocabularies.

        The stream events of the root graph hold its stream parts as `(namespace, mode, data)`.
        """
        events = self._graph.astream_events(self._input, config, version="v2", **self._arguments())
        async with aclosing(events):
            async for event in events:
                part = _root_part(event)
                if part is not None:
                    yield part
                elif event["event"] in self._mapper.events:
                    yield event

    def _note(self, part: Part) -> None:
        """Keep what the end of the run needs to know of the root graph."""
        kind, data = part["type"], part["data"]
        if kind == "messages" or part["ns"]:
            return
        if kind == "values":
            self.values = data
        elif kind == "tasks":
            self._interrupted = self._interrupted or bool(data.get("interrupts"))
        elif kind == "checkpoints":
            self.checkpoint_id = data["config"]["configurable"].get("checkpoint_id")
            self.next = tuple(data.get("next") or ())


class _Feed:
    """Makes frames of parts as they are heard, in the middle of whatever the graph does.

    So it never raises into it; and when the outlet is crowded, what comes next waits its turn. What
    nodes still say when they are being cancelled is not heard.

    Args:
        mapper: Makes the frames of a part.
        note: Told of each part before.
        outlet: Where they go.
        task: What runs the graph; cancelled when the mapper or the outlet has failed meanwhile.

    Attributes:
        error: Why the mapper or the outlet has failed; None while neither has.
    """

    def __init__(
        self,
        mapper: Mapper,
        note: Callable[[Part], None],
        outlet: Outlet,
        task: asyncio.Task[Any],
    ) -> None:
        self._mapper = mapper
        self._map = mapper.map
        self._growing: MessageBuilder | None = None
        self._note = note
        self._outlet = outlet
        self._add_text = outlet.add_text
        self._task = task
        self._waiting: deque[Part] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._ended = self._stopped = False
        self.error: Exception | None = None

    def take(self, part: Part) -> None:
        """Make the frames of a part, now or when there is room."""
        if self._task.cancelling():
            return
        if self._worker is None and not self._outlet.crowded:
            self._make(part)
            return
        self._waiting.append(part)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work_off())

    def take_text(self, chunk: AIMessageChunk) -> bool:
        """Take a chunk that only goes on with the text that was put last: nearly every token.

        Returns:
            Whether it does; it has not been taken otherwise.
        """
        builder = self._growing
        if (
            builder is None
            or builder.id != chunk.id
            or self._worker is not None
            or self._task.cancelling()
        ):
            return False
        try:
            text = builder.grow(chunk)
        except Exception as error:
            self._fail(_mapper_failed(error))
            return True
        block = builder.said
        if text is None or block is None:
            return False
        try:
            self._add_text(text, block)
        except Exception as error:
            self._fail(error)
        return True

    def put_all(self, frames: Iterable[Frame]) -> None:
        """Take frames that were made elsewhere."""
        self._growing = None
        for frame in frames:
            self._outlet.put(frame)

    async def end(self) -> None:
        """Make frames of everything that was taken; the graph has ended."""
        self._ended = True
        if self._worker is not None:
            await self._worker

    def release(self) -> None:
        """Have the task cancelled no longer, if it was the feed that did it."""
        if self._stopped:
            self._task.uncancel()

    async def _work_off(self) -> None:
        try:
            while self._waiting and self.error is None:
                if self._outlet.crowded:
                    await self._outlet.room()
                self._make(self._waiting.popleft())
        except Exception as error:
            self._fail(error)
        self._worker = None

    def _make(self, part: Part) -> None:
        try:
            self._note(part)
            frames = self._map(part)
            if frames.__class__ is not list:
                frames = list(frames)
            self._growing = self._mapper.growing
        except Exception as error:
            self._fail(_mapper_failed(error))
            return
        self._put(frames)

    def _put(self, frames: Iterable[Frame]) -> None:
        try:
            for frame in frames:
                self._outlet.put(frame)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._growing = None
        if not self._ended:
            self._stopped = True
            self._task.cancel()


def _root_part(event: Mapping[str, Any]) -> Part | None:
    if event["event"] != "on_chain_stream" or event.get("parent_ids"):
        return None
    chunk = event["data"].get("chunk")
    if not (isinstance(chunk, tuple) and len(chunk) == 3):
        return None
    namespace, mode, data = chunk
    if mode == "values" and isinstance(data, dict):
        data = {key: value for key, value in data.items() if key != "__interrupt__"}
    return {"type": mode, "ns": namespace, "data": data}


def _guarded(make: Any, *arguments: Any) -> Iterator[Frame]:
    """The frames that the mapper makes; what it raises is told apart from what the graph raises."""
    try:
        frames: Iterable[Frame] = make(*arguments)
        yield from frames
    except Exception as error:
        raise _mapper_failed(error) from error


def _mapper_failed(error: BaseException) -> MapperError:
    failed = MapperError(f"the mapper raised {type(error).__name__}")
    failed.__cause__ = error
    return failed


def _code(error: BaseException) -> ErrorCode:
    kinds: list[tuple[type[BaseException], ErrorCode]] = [
        (MapperError, "mapper_failed"),
        (GraphRecursionError, "recursion_limit"),
        (GraphDrained, "drained"),
        (EmptyInputError, "nothing_to_continue"),
        (LogFailed, "log_failed"),
        (LogClosed, "log_failed"),
    ]
    for kind, code in kinds:
        if isinstance(error, kind):
            return code
    return "graph_failed"


# --- the whole -------------------------------------------------------------------------------


async def stream_frames(
    graph: Any,
    input: Any,  # noqa: A002  # LangGraph's word
    config: Mapping[str, Any] | None = None,
    *,
    context: Any = None,
    mapper: type[Mapper] = ChatMapper,
    modes: Collection[str] = (),
    control: RunControl | None = None,
    durability: str | None = None,
    expose_output: bool = False,
    debug: bool = False,
) -> AsyncGenerator[Frame]:
    """Run a graph and yield its frames, from `RunStarted` to `RunFinished`.

    A graph that fails ends with `RunFailed` instead of raising. Closing the generator, or
    cancelling the task that iterates, stops the graph.

    Args:
        graph: A compiled graph.
        input: What it is given; None: go on from the checkpoint.
        config: LangGraph's config. A thread id and a run id are made up where it has none.
        context: The graph's context, where it has a `context_schema`.
        mapper: The class that makes frames.
        modes: Stream modes to ask for beyond those of the mapper.
        control: How to drain the run.
        durability: LangGraph's `durability`; ignored without a checkpointer.
        expose_output: Put the final state into `RunResult.output`.
        debug: Put what failed into `RunFailed.message`; for development only.

    Yields:
        The frames of the run, in order.

    Raises:
        ConfigurationError: The graph is not compiled, or the mapper is no mapper class.
    """
    check_graph(graph)
    prepared, run = prepare_run(graph, input, config)
    execution = Execution(
        graph,
        input,
        prepared,
        run=run,
        mapper=check_mapper(mapper)(),
        context=context,
        modes=modes,
        control=control,
        durability=durability,
        expose_output=expose_output,
        debug=debug,
    )
    yield run
    error: Exception | None = None
    try:
        async with aclosing(execution.frames()) as frames:
            async for frame in frames:
                yield frame
    except Exception as failure:
        error = failure
    for frame in execution.end(error):
        yield frame


def prepare_run(
    graph: Any, given: Any, config: Mapping[str, Any] | None
) -> tuple[RunnableConfig, RunStarted]:
    """The config with a thread, and the frame that announces the run."""
    config = dict(config or {})
    configurable = dict(config.get("configurable") or {})
    thread_id = configurable.setdefault("thread_id", str(uuid4()))
    config["configurable"] = configurable
    run = RunStarted(
        thread_id=str(thread_id),
        run_id=str(config.get("run_id") or uuid4()),
        graph=str(getattr(graph, "name", None) or "graph"),
        checkpoint_id=configurable.get("checkpoint_id"),
        messages=input_messages(given),
    )
    return cast("RunnableConfig", config), run
