"""Stream parts in, frames out: `Mapper`, `on`, and the mapper that chats use.

A mapper is made anew for every run, so `self` is the memory of one run. It is plain Python: no
I/O, nothing to await, no graph; LangGraph's stream parts go in and frames come out.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, TypeVar, cast
from uuid import uuid4

from langchain_core.messages import (
    AIMessageChunk,
    BaseMessage,
    BaseMessageChunk,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.messages.ai import UsageMetadata, add_usage
from pydantic import BaseModel

from langgraph_ws.codec import plain
from langgraph_ws.errors import ConfigurationError
from langgraph_ws.frames import (
    FRAMES,
    CheckpointSaved,
    Custom,
    Frame,
    Interrupted,
    MessageFinished,
    Namespace,
    Role,
    RunResult,
    RunStarted,
    Source,
    Sources,
    StateSnapshot,
    StateUpdated,
    StepFinished,
    StepStarted,
    StepStatus,
    SubgraphFinished,
    SubgraphStarted,
    ToolDelta,
    ToolFinished,
    ToolStarted,
)
from langgraph_ws.messages import MessageBuilder, Place, place_of, role_of
from langgraph_ws.sources import SourceList, documents_in

__all__ = [
    "EVENTS",
    "STREAM_MODES",
    "TAPPED",
    "ChatMapper",
    "Mapper",
    "Part",
    "check_mapper",
    "on",
    "report",
]

STREAM_MODES = frozenset(
    {"values", "updates", "messages", "custom", "tasks", "tools", "checkpoints", "debug"}
)
"""The stream modes of LangGraph."""

TAPPED = frozenset({"retriever", "custom_event"})
"""What is caught from callbacks, and comes as parts of these types."""

EVENTS = frozenset(
    f"on_{kind}_{what}"
    for kind in ("chain", "chat_model", "llm", "tool", "retriever", "prompt", "parser")
    for what in ("start", "stream", "end")
) | {"on_tool_error", "on_custom_event"}
"""The event names of `astream_events`; a mapper that uses one costs more for each token."""

Part = Mapping[str, Any]
"""A LangGraph v2 `StreamPart`, or the `StreamEvent` of an `on_…` name."""

Handled = Frame | Iterable[Frame] | None
Ending = Literal["failed", "cancelled"]
_Function = TypeVar("_Function", bound=Callable[..., Any])

_log = logging.getLogger("langgraph_ws")
_FRAME_TYPES = frozenset(FRAMES)
_NAMES, _WHEN, _ERROR_ID = (
    "__langgraph_ws_on__",
    "__langgraph_ws_when__",
    "__langgraph_ws_error_id__",
)


def report(error: object, text: str) -> str:
    """Write an error to the log, once however often it passes by.

    Args:
        error: What was raised.
        text: What failed, for the log.

    Returns:
        The id under which it stands in the log.
    """
    known = getattr(error, _ERROR_ID, None)
    if isinstance(known, str):
        return known
    error_id = uuid4().hex
    raised = error if isinstance(error, BaseException) else None
    detail = "" if raised else f": {error!r}"
    _log.error("%s (error_id=%s)%s", text, error_id, detail, exc_info=raised)
    if raised is not None:
        setattr(raised, _ERROR_ID, error_id)
    return error_id


# --- handlers --------------------------------------------------------------------------------


def on(*names: str) -> Callable[[_Function], _Function]:
    """Make a method of a mapper the handler of stream parts, which subscribes the run to them.

    The method takes the part and returns nothing, a frame, or an iterable of frames. It replaces
    an inherited handler of the same name; `super()` adds to it. A handler of `on_custom_event`
    also replaces an inherited one of `custom_event`, which sees the same events.

    Args:
        names: Stream modes of LangGraph (`"custom"`), `"retriever"` or `"custom_event"` (caught
            from callbacks), or event names of `astream_events` (`"on_tool_end"`).

    Raises:
        ConfigurationError: A name is none of these, or the method is asynchronous.
    """
    if not names:
        raise ConfigurationError(f"on: expected at least one of {_expected()}")
    for name in names:
        _check_name(name)

    def mark(function: _Function) -> _Function:
        _check_handler(getattr(function, "__name__", "handler"), function)
        setattr(function, _NAMES, names)
        return function

    return mark


def _check_name(name: object) -> None:
    if name not in STREAM_MODES | TAPPED | EVENTS:
        raise ConfigurationError(f"on: expected one of {_expected()}, got {name!r}")


def _expected() -> str:
    modes = ", ".join(sorted(STREAM_MODES | TAPPED))
    return f"the stream modes {modes}, or the event names {', '.join(sorted(EVENTS))}"


def _check_handler(name: str, function: object) -> None:
    if not callable(function):
        raise ConfigurationError(f"handler {name}: expected a function, got {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"handler {name}: expected a plain function or generator, not async"
        )


def _only_with(*options: str) -> Callable[[_Function], _Function]:
    """Subscribe only when one of these options is set: pay as you go."""

    def mark(function: _Function) -> _Function:
        setattr(function, _WHEN, options)
        return function

    return mark


@dataclass(frozen=True, slots=True)
class _Handler:
    attribute: str
    function: Any
    options: tuple[str, ...] = ()


def _collect(cls: type) -> dict[str, _Handler]:
    """The handlers of a class: those of its bases, then its own in their place."""
    handlers: dict[str, _Handler] = {}
    for owner in reversed(cls.__mro__):
        own: dict[str, _Handler] = {}
        for attribute, value in vars(owner).items():
            for name in getattr(value, _NAMES, ()):
                if name in own:
                    raise ConfigurationError(f"{owner.__name__}: two handlers of {name!r}")
                own[name] = _Handler(attribute, value, getattr(value, _WHEN, ()))
            if not hasattr(value, _NAMES):
                _override(handlers, attribute, value)
        if "on_custom_event" in own:
            handlers.pop("custom_event", None)
        handlers |= own
    return {
        name: handler
        for name, handler in handlers.items()
        if not handler.options or any(getattr(cls, option, None) for option in handler.options)
    }


def _override(handlers: dict[str, _Handler], attribute: str, value: object) -> None:
    """An undecorated method takes the place of the inherited handler that has its name."""
    for name, handler in handlers.items():
        if handler.attribute == attribute:
            handlers[name] = replace(handler, function=value)


class Mapper:
    """Turns what a graph streams into frames; derive from it, or from `ChatMapper`.

    The life of one: `start`, `map` for each part, then `finish` or `fail`. It takes no arguments;
    options are class attributes, which `extend` sets.

    Attributes:
        modes: What it subscribes to: stream modes, `retriever`, `custom_event`.
        events: The `astream_events` names that it subscribes to.
        options: Its options, each with a function that returns what was expected of a wrong
            value and None for a right one.
        growing: The message of whose text the last frame was a piece, if the chunks that only go on
            with it need not be mapped; None: every part is.
    """

    growing: MessageBuilder | None = None
    modes: ClassVar[frozenset[str]] = frozenset()
    events: ClassVar[frozenset[str]] = frozenset()
    options: ClassVar[Mapping[str, Callable[[Any], str | None]]] = {}
    _handlers: ClassVar[Mapping[str, _Handler]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, check in cls.options.items():
            if name in vars(cls) and (expected := check(inspect.getattr_static(cls, name))):
                raise ConfigurationError(f"{name}: expected {expected}, got {vars(cls)[name]!r}")
        cls._handlers = _collect(cls)
        cls.modes = frozenset(cls._handlers.keys() - EVENTS)
        cls.events = frozenset(cls._handlers.keys() & EVENTS)

    def __init__(self) -> None:
        self._bound: dict[str, Callable[[Part], Handled]] = {
            name: handler.function.__get__(self, type(self))
            for name, handler in self._handlers.items()
        }

    @classmethod
    def extend(
        cls, handlers: Mapping[str, Callable[[Part], Handled]] | None = None, **options: Any
    ) -> type[Self]:
        """A mapper like this one, with some functions as handlers and some options set.

        Args:
            handlers: Functions by the name of what they handle (see `on`); they take the part and
                replace the handler of this class.
            options: Values for the options of this class.

        Raises:
            ConfigurationError: A name is unknown or a value is wrong.
        """
        namespace: dict[str, Any] = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        for name, function in (handlers or {}).items():
            _check_name(name)
            _check_handler(name, function)
            namespace[f"handle {name}"] = on(name)(_as_method(function))
        for name, value in options.items():
            if name not in cls.options:
                known = ", ".join(cls.options) or "no options"
                raise ConfigurationError(f"{name}: {cls.__name__} knows {known}")
            namespace[name] = staticmethod(value) if inspect.isroutine(value) else value
        return cast("type[Self]", type(f"Extended{cls.__name__}", (cls,), namespace))

    @classmethod
    def history(cls, values: Any) -> Sequence[MessageFinished]:
        """The messages of a saved state that clients may see; none by default."""
        del values
        return ()

    def start(self, run: RunStarted) -> Iterable[Frame]:
        """The frames that begin a run, after `run` itself."""
        del run
        return ()

    def resume(self, said: Sequence[MessageFinished], sources: Sequence[Source]) -> None:
        """Take note, after `start`, of what earlier attempts at the run have told of it.

        Args:
            said: The messages that they finished, and that hold.
            sources: The sources that they found.
        """
        del said, sources

    def map(self, part: Part) -> Iterable[Frame]:
        """The frames that a part of the stream makes."""
        name = part.get("type") or part["event"]
        handler = self._bound.get(name)
        return () if handler is None else _frames(name, handler(part))

    def finish(self) -> Iterable[Frame]:
        """The frames that end a run whose graph came to its end or waits for an answer."""
        return ()

    def fail(self, status: Ending) -> Iterable[Frame]:
        """The frames that end a run whose graph was stopped."""
        del status
        return ()

    def result(self) -> RunResult:
        """What the run came to, as far as the mapper knows it."""
        return RunResult()


def _as_method(function: Callable[[Part], Handled]) -> Callable[[Any, Part], Handled]:
    return lambda _self, part: function(part)


def _frames(name: str, made: Any) -> Iterable[Frame]:
    """What a handler returned, as frames."""
    if made.__class__ is list:
        for item in made:
            if item.__class__ not in _FRAME_TYPES:
                raise _wrong(name, item)
        return cast("list[Frame]", made)
    if made is None:
        return ()
    if made.__class__ in _FRAME_TYPES:
        return (made,)
    if isinstance(made, str | bytes | Mapping) or not isinstance(made, Iterable):
        raise _wrong(name, made)
    return _each(name, made)


def _each(name: str, made: Iterable[Any]) -> Iterator[Frame]:
    for item in made:
        if item.__class__ not in _FRAME_TYPES:
            raise _wrong(name, item)
        yield item


def _wrong(name: str, made: object) -> TypeError:
    return TypeError(
        f"the handler of {name!r} returned {type(made).__name__}; "
        "expected nothing, a frame, or an iterable of frames"
    )


def check_mapper(value: object) -> type[Mapper]:
    """The value, when it is a mapper class.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(value, type) and issubclass(value, Mapper):
        return value
    raise ConfigurationError(f"mapper: expected a class derived from Mapper, got {value!r}")


# --- options ---------------------------------------------------------------------------------


def _names(value: Any) -> str | None:
    strings = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
    return None if strings and all(isinstance(name, str) for name in value) else "a list of names"


def _names_or_none(value: Any) -> str | None:
    return None if value is None or not _names(value) else "a list of names, or None"


def _roles(value: Any) -> str | None:
    right = not _names(value) and set(value) <= {"assistant", "user", "system"}
    return None if right else 'a list of "assistant", "user", "system"'


def _finder(value: Any) -> str | None:
    right = value is None or isinstance(value, str | staticmethod) or callable(value)
    return None if right and value != "" else "a key of the state, a function, or None"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _count(value: Any) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return None if right else "a number, 0 or more"


# --- chat ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Step:
    node: str
    namespace: Namespace
    began: float


@dataclass(slots=True)
class _Subgraph:
    graph: str
    task_id: str | None


@dataclass(slots=True)
class _Tool:
    name: str
    namespace: Namespace
    error: str | None = None


class ChatMapper(Mapper):
    """What a chat shows of a run: messages, tools, steps, sources, interrupts, custom events.

    Attributes:
        text_nodes: Only messages written in these nodes (of any graph) leave; None: all.
        include_tags: Only messages of models with one of these tags leave; empty: all.
        exclude_tags: Messages of models with one of these tags stay. (What LangGraph's own tag
            `nostream` marks is never streamed.)
        custom_events: Only custom events of these names leave; None: all.
        roles: Whose messages leave: `assistant`, `user`, `system`.
        sources: Where the state holds documents that an answer rests on: a key, or a function
            that takes what a node wrote and returns documents.
        snippet_chars: How many characters of a source's text leave.
        state: Whether the state itself leaves, as updates and snapshots.
    """

    text_nodes: Collection[str] | None = None
    include_tags: Collection[str] = ()
    exclude_tags: Collection[str] = ()
    custom_events: Collection[str] | None = None
    roles: Collection[str] = ("assistant", "user")
    sources: Any = None
    snippet_chars: int = 300
    state: bool = False

    options: ClassVar[Mapping[str, Callable[[Any], str | None]]] = {
        "text_nodes": _names_or_none,
        "include_tags": _names,
        "exclude_tags": _names,
        "custom_events": _names_or_none,
        "roles": _roles,
        "sources": _finder,
        "snippet_chars": _count,
        "state": _flag,
    }

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[str, MessageBuilder] = {}
        self._ended: set[str] = set()
        self._streamed: dict[object, list[MessageBuilder]] = {}
        self._steps: dict[str, _Step] = {}
        self._subgraphs: dict[Namespace, _Subgraph] = {}
        self._seen_namespaces: set[Namespace] = {()}
        self._tools: dict[str, _Tool] = {}
        self._tools_ended: set[str] = set()
        self._interrupts: set[str] = set()
        self._sources = SourceList(self.snippet_chars)
        self._usage: UsageMetadata | None = None
        self._result = RunResult()
        self._held: StateSnapshot | None = None
        messages = self._handlers.get("messages")
        self._grows = (
            messages is not None
            and messages.function is ChatMapper.on_messages
            and type(self).map is ChatMapper.map
        )

    def map(self, part: Part) -> Iterable[Frame]:
        """The frames that a part of the stream makes."""
        self.growing = None
        if self._held is None:
            return super().map(part)
        saved = part.get("type") == "checkpoints" and tuple(part["ns"]) == self._held.namespace
        before, after = ([], self._release()) if saved else (self._release(), [])
        return [*before, *super().map(part), *after]

    def resume(self, said: Sequence[MessageFinished], sources: Sequence[Source]) -> None:
        """Go on where earlier attempts at the run have ended."""
        self._sources.add(sources)
        for message in said:
            self._ended |= {message.message_id, message.streamed_id or message.message_id}
            if message.usage is not None:
                self._usage = add_usage(self._usage, cast("UsageMetadata", message.usage))
            text = "".join(block.get("text", "") for block in message.content)
            if message.role == "assistant" and message.status == "finished" and text:
                self._result = RunResult(text=text, message_id=message.message_id)

    # Messages. A complete one is held until the graph has said under which id it keeps it.

    @on("messages")
    def on_messages(self, part: Part) -> list[Frame]:
        """Frames of a chunk of a message, or of a message that a node wrote."""
        message, metadata = part["data"]
        builder = self._live.get(getattr(message, "id", ""))
        if builder is not None and isinstance(message, AIMessageChunk):
            return self._next_chunk(builder, message)
        return self._new_message(_message(message), metadata, tuple(part["ns"]))

    def _new_message(
        self, message: BaseMessage | None, metadata: Part, namespace: Namespace
    ) -> list[Frame]:
        if isinstance(message, AIMessageChunk):
            builder = self._live.get(message.id or "")
            if builder is not None:
                return self._next_chunk(builder, message)
            return self._first_chunk(message, metadata, namespace)
        if isinstance(message, ToolMessage):
            return self._tool_message(message, place_of(metadata, namespace))
        role = None if message is None else role_of(message)
        if message is None or role is None or isinstance(message, BaseMessageChunk):
            return []
        return self._whole(message, role, metadata, namespace)

    def _first_chunk(
        self, chunk: AIMessageChunk, metadata: Part, namespace: Namespace
    ) -> list[Frame]:
        if chunk.id is None or chunk.id in self._ended:
            return []
        place = place_of(metadata, namespace)
        builder = MessageBuilder(
            chunk.id,
            "assistant",
            place,
            name=chunk.name,
            muted=self._is_muted("assistant", place, metadata),
        )
        frames = self._end_complete(_task_of(place))
        self._live[builder.id] = builder
        self._streamed.setdefault(_task_of(place), []).append(builder)
        if not builder.muted:
            frames.append(builder.start())
        return frames + self._next_chunk(builder, chunk)

    def _next_chunk(self, builder: MessageBuilder, chunk: AIMessageChunk) -> list[Frame]:
        frames = builder.feed(chunk)
        if chunk.chunk_position is not None:
            frames += builder.finish_blocks()
        if builder.muted:
            return []
        if self._grows and frames and builder.is_saying(frames[-1]):
            self.growing = builder
        return frames

    def _whole(
        self, message: BaseMessage, role: Role, metadata: Part, namespace: Namespace
    ) -> list[Frame]:
        """Frames of a message that came in one piece: a new one, or one streamed before."""
        if message.id is None or message.id in self._ended or message.id in self._live:
            return []
        place = place_of(metadata, namespace)
        builder = MessageBuilder(
            message.id,
            role,
            place,
            name=message.name,
            muted=self._is_muted(role, place, metadata),
        )
        frames = builder.feed_whole(message)
        streamed = self._twin(builder) if role == "assistant" else None
        if streamed is not None:
            self._ended.add(builder.id)
            return self._end_message(streamed, builder.id) if streamed.id in self._live else []
        before = self._end_complete(_task_of(place))
        frames = [] if builder.muted else [builder.start(), *frames]
        return before + frames + self._end_message(builder)

    def _twin(self, whole: MessageBuilder) -> MessageBuilder | None:
        """The streamed message of the same task that this is, under the id that the graph keeps.

        A node that returns `AIMessage(response.content)` streams under `lc_run--…` and then
        writes the whole under another id (langgraph 1.2.22).
        """
        streamed = self._streamed.get(_task_of(whole.place), [])
        for builder in streamed:
            if builder.text == whole.text and (whole.text or builder.call_ids == whole.call_ids):
                streamed.remove(builder)
                return builder
        return None

    def _is_muted(self, role: Role, place: Place, metadata: Part) -> bool:
        tags = metadata.get("tags") or ()
        return (
            role not in self.roles
            or (self.text_nodes is not None and place.node not in self.text_nodes)
            or any(tag in self.exclude_tags for tag in tags)
            or (
                bool(self.include_tags)
                and role == "assistant"
                and not any(tag in self.include_tags for tag in tags)
            )
        )

    def _end_message(
        self,
        builder: MessageBuilder,
        message_id: str | None = None,
        status: Literal["finished", "failed", "cancelled"] = "finished",
    ) -> list[Frame]:
        self._live.pop(builder.id, None)
        self._ended.add(builder.id)
        if builder.usage is not None:
            self._usage = add_usage(self._usage, builder.usage)
        if builder.muted:
            return []
        frames = builder.finish_blocks() if status == "finished" else []
        if cited := self._sources.cite(builder.citations):
            frames.append(cited)
        finished = builder.finish(message_id, status)
        if builder.role == "assistant" and status == "finished" and (text := builder.text):
            self._result = RunResult(text=text, message_id=finished.message_id)
        return [*frames, finished]

    def _end_complete(self, task: object) -> list[Frame]:
        """End the complete messages of a task: something else has begun in it."""
        return [
            frame
            for builder in self._streamed.get(task, ())
            if builder.complete and builder.id in self._live
            for frame in self._end_message(builder)
        ]

    # Tools.

    @on("tools")
    def on_tools(self, part: Part) -> list[Frame]:
        """Frames of a tool that runs."""
        data = part["data"]
        event, call_id = data.get("event"), str(data.get("tool_call_id"))
        namespace = self._graph_namespace(part["ns"])
        if event == "tool-started":
            name = str(data.get("tool_name") or "")
            return self._tool_started(call_id, name, namespace, plain(data.get("input")))
        tool = self._tools.get(call_id)
        if tool is None:
            return []
        if event == "tool-output-delta":
            delta = plain(data.get("delta"))
            return [
                ToolDelta(
                    tool_call_id=call_id, name=tool.name, delta=delta, namespace=tool.namespace
                )
            ]
        if event == "tool-finished":
            return self._tool_output(call_id, data.get("output"))
        # The text of the exception is not for clients. What is comes as a ToolMessage, or never.
        tool.error = str(data.get("message"))
        return []

    def _tool_started(
        self, call_id: str, name: str, namespace: Namespace, given: Any
    ) -> list[Frame]:
        frames = self._end_callers(call_id, namespace)
        if call_id in self._tools:
            frames += self._tool_failed(call_id)  # a retry of the node
        self._tools[call_id] = _Tool(name, namespace)
        self._tools_ended.discard(call_id)
        frames.append(
            ToolStarted(tool_call_id=call_id, name=name, input=given, namespace=namespace)
        )
        return frames

    def _end_callers(self, call_id: str, namespace: Namespace) -> list[Frame]:
        """End the held message that called a tool, or that of the only task that can have."""
        frames: list[Frame] = []
        for builder in [b for b in self._live.values() if b.complete and call_id in b.call_ids]:
            frames += self._end_message(builder)
        running = [key for key, step in self._steps.items() if step.namespace == namespace]
        if len(running) == 1:
            frames += self._end_complete(running[0])
        return frames

    def _tool_output(self, call_id: str, output: Any) -> list[Frame]:
        message = next(
            (m for m in _tool_messages(output) if m.tool_call_id == call_id),
            output if isinstance(output, ToolMessage) else None,
        )
        if message is not None:
            return self._tool_ended(call_id, message)
        content = None if _holds_command(output) else plain(output)
        frames: list[Frame] = []
        if found := self._sources.add(documents_in(output)):
            frames.append(found)
        return [*frames, self._end_tool(call_id, content=content)]

    def _tool_message(self, message: ToolMessage, place: Place) -> list[Frame]:
        call_id = message.tool_call_id
        if call_id in self._tools_ended:
            return []
        frames: list[Frame] = []
        if call_id not in self._tools:
            frames = self._tool_started(call_id, message.name or "", place.namespace, None)
        return frames + self._tool_ended(call_id, message)

    def _tool_ended(self, call_id: str, message: ToolMessage) -> list[Frame]:
        tool = self._tools[call_id]
        error_id = None
        if tool.error is not None:
            error_id = report(tool.error, f"the tool {tool.name!r} failed")
        frames: list[Frame] = []
        if found := self._sources.add(documents_in(message.artifact)):
            frames.append(found)
        ended = self._end_tool(
            call_id,
            status="error" if message.status == "error" else "success",
            content=plain(message.content),
            artifact=plain(message.artifact),
            error_id=error_id,
            message_id=message.id,
        )
        return [*frames, ended]

    def _tool_failed(self, call_id: str, text: str = "The tool failed.") -> list[Frame]:
        tool = self._tools[call_id]
        error_id = None
        if tool.error is not None:
            error_id = report(tool.error, f"the tool {tool.name!r} failed")
        return [self._end_tool(call_id, status="error", content=text, error_id=error_id)]

    def _end_tool(self, call_id: str, **fields: Any) -> ToolFinished:
        tool = self._tools.pop(call_id)
        self._tools_ended.add(call_id)
        return ToolFinished(
            tool_call_id=call_id, name=tool.name, namespace=tool.namespace, **fields
        )

    def _end_failed_tools(self, namespace: Namespace = ()) -> list[Frame]:
        """End the tools at or below a namespace that have failed without a message."""
        return [
            frame
            for call_id, tool in list(self._tools.items())
            if tool.error is not None and tool.namespace[: len(namespace)] == namespace
            for frame in self._tool_failed(call_id)
        ]

    # Tasks: steps, subgraphs, interrupts.

    @on("tasks")
    def on_tasks(self, part: Part) -> list[Frame]:
        """Frames of a task of the graph that starts or ends."""
        data, namespace = part["data"], tuple(part["ns"])
        if "input" in data:
            return self._task_started(data, namespace)
        return self._task_ended(data, namespace)

    def _task_started(self, data: Part, namespace: Namespace) -> list[Frame]:
        task_id, node = str(data["id"]), str(data["name"])
        if task_id in self._steps:
            return []
        frames = self._enter(namespace)
        self._steps[task_id] = _Step(node, namespace, time.monotonic())
        shown = {"input": plain(data["input"]), "triggers": tuple(data.get("triggers") or ())}
        frames.append(
            StepStarted(
                task_id=task_id, node=node, namespace=namespace, **(shown if self.state else {})
            )
        )
        return frames

    def _enter(self, namespace: Namespace) -> list[Frame]:
        """Begin the subgraph that a namespace stands for, when it is new."""
        if namespace in self._seen_namespaces:
            return []
        self._seen_namespaces.add(namespace)
        named = namespace
        while len(named) > 1 and named[-1].isdigit():
            named = named[:-1]
        node, _, task_id = "".join(named[-1:]).partition(":")
        calls = [key for key, tool in self._tools.items() if tool.namespace == named[:-1]]
        self._subgraphs[namespace] = _Subgraph(node, task_id or self._step_of(node, named[:-1]))
        return [
            SubgraphStarted(
                namespace=namespace,
                graph=node,
                tool_call_id=calls[0] if len(calls) == 1 else None,
            )
        ]

    def _step_of(self, node: str, namespace: Namespace) -> str | None:
        """The newest running task of a node (subgraphs with a checkpointer name no task id)."""
        steps = reversed(self._steps.items())
        return next((k for k, s in steps if (s.node, s.namespace) == (node, namespace)), None)

    def _task_ended(self, data: Part, namespace: Namespace) -> list[Frame]:
        task_id, node = str(data["id"]), str(data["name"])
        error, interrupts = data.get("error"), data.get("interrupts") or ()
        status: StepStatus = "failed" if error else "interrupted" if interrupts else "finished"
        error_id = report(error, f"the node {node!r} failed") if error else None
        step = self._steps.pop(task_id, None)
        frames = self._end_messages_of(task_id, status)
        frames += self._end_subgraphs(task_id, status)
        if not any(other.namespace == namespace for other in self._steps.values()):
            frames += self._end_failed_tools(namespace)
        for interrupt in interrupts:
            frames += self._interrupted(interrupt, node, namespace, task_id)
        frames.append(
            StepFinished(
                task_id=task_id,
                node=node,
                namespace=namespace,
                status=status,
                duration_ms=_since(step),
                error_id=error_id,
                result=plain(data.get("result")) if self.state else None,
            )
        )
        return frames

    def _end_messages_of(self, task: object, status: StepStatus) -> list[Frame]:
        """End the messages of a task that ended; those that were not complete failed with it."""
        frames: list[Frame] = []
        for builder in self._streamed.pop(task, ()):
            if builder.id in self._live:
                broken = status == "failed" and not builder.complete
                frames += self._end_message(builder, status="failed" if broken else "finished")
        return frames

    def _end_subgraphs(self, task_id: str | None, status: StepStatus) -> list[Frame]:
        """End the subgraphs of a task (None: all), innermost first."""
        ended = [
            namespace
            for namespace, subgraph in reversed(self._subgraphs.items())
            if task_id is None or subgraph.task_id == task_id
        ]
        return [
            SubgraphFinished(
                namespace=namespace, graph=self._subgraphs.pop(namespace).graph, status=status
            )
            for namespace in ended
        ]

    def _interrupted(
        self, interrupt: Any, node: str, namespace: Namespace, task_id: str
    ) -> list[Frame]:
        """The frame of an interrupt; the graphs around it tell of the same one again."""
        interrupt_id = str(interrupt["id"])
        if interrupt_id in self._interrupts:
            return []
        self._interrupts.add(interrupt_id)
        return [
            Interrupted(
                interrupt_id=interrupt_id,
                value=plain(interrupt.get("value")),
                ordinal=len(self._interrupts) - 1,
                node=node,
                namespace=namespace,
                task_id=task_id,
                response_schema=_schema(interrupt.get("response_schema")),
            )
        ]

    # What the application says.

    @on("custom")
    def on_custom(self, part: Part) -> list[Frame]:
        """The frame of what a node gave to its stream writer."""
        data = part["data"]
        if isinstance(data, Mapping) and isinstance(data.get("name"), str) and "payload" in data:
            return self._custom(data["name"], data["payload"], part["ns"])
        if isinstance(data, Mapping) and isinstance(data.get("type"), str):
            return self._custom(data["type"], data, part["ns"])
        return self._custom("custom", data, part["ns"])

    @on("custom_event")
    def on_custom_event(self, part: Part) -> list[Frame]:
        """The frame of a custom event that a callback caught."""
        data = part["data"]
        return self._custom(data["name"], data["data"], part["ns"], data.get("node"))

    def _custom(
        self, name: str, data: Any, namespace: Namespace, node: str | None = None
    ) -> list[Frame]:
        if self.custom_events is not None and name not in self.custom_events:
            return []
        namespace = self._graph_namespace(namespace)
        if node is None:
            nodes = [step.node for step in self._steps.values() if step.namespace == namespace]
            node = nodes[0] if len(nodes) == 1 else None
        return [Custom(name=plain(name), data=plain(data), node=node, namespace=namespace)]

    def _graph_namespace(self, namespace: Sequence[str]) -> Namespace:
        """The namespace of the graph that runs there.

        What a `@task` writes comes with a segment for the caller of the task, which is no subgraph
        (langgraph 1.2.22); only tasks of its own make a namespace one.
        """
        namespace = tuple(namespace)
        while namespace not in self._seen_namespaces:
            namespace = namespace[:-1]
        return namespace

    # Sources, checkpoints, state.

    @on("retriever")
    def on_retriever(self, part: Part) -> list[Frame]:
        """The frame of the documents that a retriever in the graph found."""
        return self._found(part["data"]["documents"])

    @on("checkpoints")
    def on_checkpoints(self, part: Part) -> list[Frame]:
        """The frame of a checkpoint that was saved: its ids, nothing of what is in it."""
        data = part["data"]
        parent = _checkpoint_id(data.get("parent_config"))
        checkpoint_id = _checkpoint_id(data.get("config"))
        metadata = data.get("metadata") or {}
        if checkpoint_id is None:
            return []
        return [
            CheckpointSaved(
                checkpoint_id=checkpoint_id,
                parent_id=parent,
                step=int(metadata.get("step", 0)),
                source=str(metadata.get("source", "")),
                namespace=tuple(part["ns"]),
            )
        ]

    @on("updates")
    @_only_with("sources", "state")
    def on_updates(self, part: Part) -> list[Frame]:
        """Frames of what nodes wrote: sources, and the update where the state is shown."""
        frames: list[Frame] = []
        for node, values in part["data"].items():
            if node.startswith("__"):
                continue
            if self.sources is not None:
                frames += self._found(self._documents(values))
            if self.state:
                frames.append(
                    StateUpdated(node=node, values=plain(values), namespace=tuple(part["ns"]))
                )
        return frames

    @on("values")
    @_only_with("state")
    def on_values(self, part: Part) -> list[Frame]:
        """The frame of the whole state; the checkpoint that saved it comes before it.

        LangGraph streams the two the other way round, one right after the other.
        """
        frames = self._release()
        values = part["data"]
        if isinstance(values, Mapping):
            values = {key: value for key, value in values.items() if key != "__interrupt__"}
        self._held = StateSnapshot(values=plain(values), namespace=tuple(part["ns"]))
        return frames

    def _release(self) -> list[Frame]:
        """The state that was held back, if there is one."""
        held, self._held = self._held, None
        return [] if held is None else [held]

    def _documents(self, values: Any) -> Iterator[Any]:
        """What the option `sources` finds in what a node wrote."""
        for item in values if isinstance(values, list) else [values]:
            if isinstance(self.sources, str):
                found = _get(item, self.sources)
            else:
                found = None if item is None else self.sources(item)
            if isinstance(found, Iterable) and not isinstance(found, str | Mapping):
                yield from found
            elif found is not None:
                yield found

    def _found(self, values: Iterable[Any]) -> list[Frame]:
        frame: Sources | None = self._sources.add(values)
        return [] if frame is None else [frame]

    # The end.

    def finish(self) -> list[Frame]:
        """Close what is open.

        A task that has not ended will run again after the interrupt; without one, its result was
        known from before, and LangGraph told of its start only.
        """
        left: StepStatus = "interrupted" if self._interrupts else "finished"
        frames: list[Frame] = self._release()
        for builder in list(self._live.values()):
            frames += self._end_message(builder)
        frames += self._end_failed_tools()
        return frames + self._end_subgraphs(None, left) + self._end_steps(left)

    def fail(self, status: Ending) -> list[Frame]:
        """Close what is open as failed or cancelled."""
        frames: list[Frame] = self._release()
        for builder in list(self._live.values()):
            frames += self._end_message(builder, status="finished" if builder.complete else status)
        frames += self._end_failed_tools()
        for call_id in list(self._tools):
            frames += self._tool_failed(call_id, f"The tool {_ENDED[status]}.")
        return frames + self._end_subgraphs(None, status) + self._end_steps(status)

    def _end_steps(self, status: StepStatus) -> list[Frame]:
        ended: list[Frame] = [
            StepFinished(
                task_id=task_id,
                node=step.node,
                namespace=step.namespace,
                status=status,
                duration_ms=_since(step),
            )
            for task_id, step in reversed(self._steps.items())
        ]
        self._steps.clear()
        return ended

    def result(self) -> RunResult:
        """The last finished message of the assistant, the sources, and what it all cost."""
        return replace(self._result, sources=self._sources.all, usage=plain(self._usage))

    # What was said before this run.

    @classmethod
    def history(cls, values: Any) -> list[MessageFinished]:
        """The messages of a saved state that clients may see.

        A saved state does not tell which node or model wrote a message: where nodes or tags are
        filtered, what the assistant said is left out. Override it to decide otherwise.
        """
        found = values if isinstance(values, list | tuple) else _get(values, "messages")
        if not isinstance(found, list | tuple):
            return []
        filtered = cls.text_nodes is not None or bool(cls.include_tags or cls.exclude_tags)
        shown = {*cls.roles, "tool"} - ({"assistant"} if filtered else set())
        messages = (_message(message) for message in found)
        return [_finished(m) for m in messages if m is not None and m.id and role_of(m) in shown]


_ENDED: dict[Ending, str] = {"failed": "failed", "cancelled": "was cancelled"}


def _task_of(place: Place) -> object:
    return place.task_id or place


def _since(step: _Step | None) -> int | None:
    return None if step is None else round((time.monotonic() - step.began) * 1000)


def _checkpoint_id(config: Any) -> str | None:
    return ((config or {}).get("configurable") or {}).get("checkpoint_id")


def _get(values: Any, key: str) -> Any:
    return values.get(key) if isinstance(values, Mapping) else getattr(values, key, None)


def _schema(schema: Any) -> dict[str, Any] | None:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return cast("dict[str, Any]", plain(schema.model_json_schema()))
    return cast("dict[str, Any]", plain(schema)) if isinstance(schema, Mapping) else None


def _message(value: Any) -> BaseMessage | None:
    """A message as LangChain has it; those of a remote graph are plain JSON."""
    if isinstance(value, BaseMessage):
        return value
    if not isinstance(value, Mapping):
        return None
    if value.get("type") == "AIMessageChunk":
        return AIMessageChunk(**value)
    try:
        return convert_to_messages([dict(value)])[0]
    except ValueError:
        return None


def _finished(message: BaseMessage) -> MessageFinished:
    builder = MessageBuilder(
        str(message.id), cast("Role", role_of(message)), Place(None, (), None), name=message.name
    )
    builder.feed_whole(message)
    finished = builder.finish()
    if isinstance(message, ToolMessage):
        told = {**(finished.metadata or {}), "tool_call_id": message.tool_call_id}
        return replace(finished, metadata=told)
    return finished


def _holds_command(output: Any) -> bool:
    items = output if isinstance(output, list | tuple) else [output]
    return any(hasattr(item, "update") and hasattr(item, "goto") for item in items)


def _tool_messages(output: Any) -> Iterator[ToolMessage]:
    """The tool messages that a tool put out: itself, in a list, or in the update of a `Command`."""
    if isinstance(output, ToolMessage):
        yield output
    elif isinstance(output, list | tuple):
        for item in output:
            yield from _tool_messages(item)
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from _tool_messages(item) if isinstance(item, list | ToolMessage) else ()
    elif _holds_command(output):
        yield from _tool_messages(output.update)
