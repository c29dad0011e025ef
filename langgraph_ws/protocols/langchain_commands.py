"""What a client of the LangChain protocol sends: one model for each method, to commands.

Names come in snake case, as the clients send them, or in camel case, as the specification has them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from langgraph_ws.commands import (
    Attach,
    Command,
    Goto,
    MultitaskStrategy,
    ReadHistory,
    ReadState,
    ReadTree,
    StartRun,
)
from langgraph_ws.errors import InvalidRequest
from langgraph_ws.protocols.langchain_events import CHANNELS
from langgraph_ws.protocols.requests import MAX_INTEGER, Id, Json, Model, Name, validated

__all__ = ["METHODS", "Filter", "Reconnect", "Request", "Subscribe", "Unsubscribe", "decode"]

_Count = Annotated[int, Field(ge=1, le=1_000)]
_Number = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
_Namespaces = Annotated[list[list[str]], Field(max_length=100)]
"""Each of them is compared with that of each event."""
_CUSTOM = "custom:"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a subscription wants.

    Attributes:
        channels: The channels.
        customs: Names of custom events, beside the channels.
        namespaces: Only events at or below one of these; None: any.
        depth: Only events at most so many levels below; None: any.
    """

    channels: frozenset[str]
    customs: frozenset[str]
    namespaces: tuple[tuple[str, ...], ...] | None
    depth: int | None

    def admits(self, channel: str, name: str | None, namespace: tuple[str, ...]) -> bool:
        """Whether an event is wanted; `name` is that of a custom event."""
        if channel not in self.channels and name not in self.customs:
            return False
        if self.namespaces is None:
            return self.depth is None or len(namespace) <= self.depth
        return any(self._lies_below(namespace, prefix) for prefix in self.namespaces)

    def _lies_below(self, namespace: tuple[str, ...], prefix: tuple[str, ...]) -> bool:
        if self.depth is not None and len(namespace) - len(prefix) > self.depth:
            return False
        return len(namespace) >= len(prefix) and all(map(_matches, namespace, prefix))


def _matches(segment: str, wanted: str) -> bool:
    """Whether a segment `node:task` is the wanted one, or one of the wanted node."""
    return segment == wanted or segment.partition(":")[0] == wanted


class Request(Model, ABC):
    """The parameters of a method that asks something of a thread."""

    @abstractmethod
    def command(self, thread_id: str) -> Command:
        """What it asks for.

        Raises:
            InvalidRequest: Its fields do not fit together.
        """


class Subscribe(Request):
    """`subscription.subscribe`, and the body of a request for server-sent events."""

    channels: Annotated[list[str], Field(min_length=1)]
    namespaces: _Namespaces | None = None
    depth: Annotated[int, Field(ge=0)] | None = None
    since: _Number | None = None
    since_event_id: str | None = None

    @field_validator("channels")
    @classmethod
    def _known(cls, channels: list[str]) -> list[str]:
        for channel in channels:
            if channel not in CHANNELS and not _custom_name(channel):
                raise PydanticCustomError(
                    "channel",
                    "expected channels out of {known} and custom:<name>, got {channel}",
                    {"known": ", ".join(sorted(CHANNELS)), "channel": repr(channel)},
                )
        return channels

    def filter(self) -> Filter:
        """Which events are wanted."""
        return Filter(
            channels=frozenset(self.channels) & CHANNELS,
            customs=frozenset(filter(None, map(_custom_name, self.channels))),
            namespaces=tuple(map(tuple, self.namespaces)) if self.namespaces else None,
            depth=self.depth,
        )

    def command(self, thread_id: str) -> Command:
        """Follow the thread, from the oldest entry that is held."""
        return Attach(thread_id=thread_id, held=True)


def _custom_name(channel: str) -> str:
    return channel.removeprefix(_CUSTOM) if channel.startswith(_CUSTOM) else ""


class Unsubscribe(Model):
    """`subscription.unsubscribe`."""

    subscription_id: str


class Reconnect(Request):
    """`subscription.reconnect`: with what the server kept, or with what is wanted."""

    run_id: str | None = None
    last_event_id: str | None = None
    subscriptions: list[str] | None = None
    channels: list[str] | None = None
    namespaces: _Namespaces | None = None
    depth: Annotated[int, Field(ge=0)] | None = None
    since: _Number | None = None
    subscription_id: str | None = None

    def command(self, thread_id: str) -> Command:
        """Follow the thread, from the oldest entry that is held."""
        if self.channels is None and self.run_id is None:
            raise InvalidRequest("run_id", "missing: expected run_id or channels")
        return Attach(thread_id=thread_id, held=True)

    def subscribe(self) -> Subscribe | None:
        """The subscription that it describes itself; None: those that the server kept."""
        if self.channels is None:
            return None
        wanted = self.model_dump(include={"channels", "namespaces", "depth", "since"})
        return validated(Subscribe, wanted)


class _Config(Model):
    """The parts of a run's config that a client may have a say in."""

    configurable: Json | None = None

    def options(self) -> Json:
        given = self.configurable or {}
        return {name: value for name, value in given.items() if name not in _OURS}

    def checkpoint_id(self) -> str | None:
        value = (self.configurable or {}).get("checkpoint_id")
        if value is not None and not isinstance(value, str):
            raise InvalidRequest("config.configurable.checkpoint_id", "expected a string")
        return value or None


_OURS = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map")


class _Start(Request):
    """What starts a run, or goes on with one."""

    config: _Config | None = None
    metadata: Json | None = None
    multitask_strategy: MultitaskStrategy | None = None

    def run(self, **what: Any) -> StartRun:
        config = self.config or _Config()
        shared = {
            "options": config.options(),
            "multitask_strategy": self.multitask_strategy,
            "checkpoint_id": config.checkpoint_id(),
        }
        return StartRun(**(shared | what))


class RunStart(_Start):
    """`run.start`: a turn, or (as the specification has it) the answer to what waits."""

    assistant_id: Name
    input: Any = None

    def command(self, thread_id: str) -> Command:
        return self.run(
            kind="continue" if self.input is None else "input",
            thread_id=thread_id,
            graph=self.assistant_id,
            input=self.input,
            answers_pending=True,
        )


class _Send(Model):
    """A node to go to, with an input of its own."""

    node: Name
    input: Any = None


class _Response(Model):
    """The answer to one interrupt."""

    interrupt_id: Name
    namespace: list[str] | None = None
    response: Any


class InputRespond(_Start):
    """`input.respond`: the answer to one interrupt, or to several.

    An answer to an interrupt that does not wait is always refused, as `strict_resume` asks.
    """

    interrupt_id: Name | None = None
    namespace: list[str] | None = None
    response: Any = None
    responses: Annotated[list[_Response], Field(min_length=1)] | None = None
    update: Any = None
    goto: str | _Send | list[str | _Send] | None = None

    def command(self, thread_id: str) -> Command:
        return self.run(
            kind="answer",
            thread_id=thread_id,
            answers=self._answers(),
            update=self.update,
            goto=self._goto(),
        )

    def _answers(self) -> Json:
        if (self.responses is None) == (self.interrupt_id is None):
            raise InvalidRequest("interrupt_id", "expected either interrupt_id or responses")
        if self.responses is not None:
            return {entry.interrupt_id: entry.response for entry in self.responses}
        if "response" not in self.model_fields_set:
            raise InvalidRequest("response", "missing")
        assert self.interrupt_id is not None
        return {self.interrupt_id: self.response}

    def _goto(self) -> tuple[Goto, ...]:
        if self.goto is None:
            return ()
        targets = self.goto if isinstance(self.goto, list) else [self.goto]
        return tuple(
            target if isinstance(target, str) else (target.node, target.input) for target in targets
        )


class _InputMessage(Model):
    """A message that is said into a run."""

    role: Literal["user", "system"]
    content: str
    name: Name | None = None


class InputInject(Request):
    """`input.inject`: a message for the run; a graph takes it with its next run."""

    namespace: list[str]
    message: _InputMessage

    def command(self, thread_id: str) -> Command:
        if self.namespace:
            raise InvalidRequest("namespace", "expected []: subgraphs take no messages")
        return StartRun(
            thread_id=thread_id,
            messages=(self.message.given(),),
            multitask_strategy="enqueue",
        )


class AgentGetTree(Request):
    """`agent.getTree`: which subgraphs a run has called."""

    run_id: Id | None = None

    def command(self, thread_id: str) -> Command:
        return ReadTree(thread_id=thread_id, run_id=self.run_id)


class StateGet(Request):
    """`state.get`: the state of the graph or of a subgraph."""

    namespace: list[str] = Field(default_factory=list)
    keys: list[str] | None = None

    def command(self, thread_id: str) -> Command:
        return ReadState(thread_id=thread_id, namespace=tuple(self.namespace))


class StateListCheckpoints(Request):
    """`state.listCheckpoints`: the history of the graph or of a subgraph, the newest first."""

    namespace: list[str] = Field(default_factory=list)
    limit: _Count = 10
    before: Name | None = None

    def command(self, thread_id: str) -> Command:
        return ReadHistory(
            thread_id=thread_id,
            limit=self.limit,
            before=self.before,
            namespace=tuple(self.namespace),
        )


class StateFork(_Start):
    """`state.fork`: a run that begins at a checkpoint of the thread."""

    checkpoint_id: Name
    input: Any = None

    def command(self, thread_id: str) -> Command:
        return self.run(
            kind="continue" if self.input is None else "input",
            thread_id=thread_id,
            input=self.input,
            checkpoint_id=self.checkpoint_id,
        )


METHODS: Mapping[str, type[Model]] = {
    "run.start": RunStart,
    "input.respond": InputRespond,
    "input.inject": InputInject,
    "agent.getTree": AgentGetTree,
    "state.get": StateGet,
    "state.listCheckpoints": StateListCheckpoints,
    "state.fork": StateFork,
    "subscription.subscribe": Subscribe,
    "subscription.unsubscribe": Unsubscribe,
    "subscription.reconnect": Reconnect,
}
"""The methods of the protocol."""


def decode(method: object, params: object) -> Model:
    """The parameters of a method.

    Raises:
        InvalidRequest: There is no such method, or a parameter is missing or wrong.
    """
    model = METHODS.get(method) if isinstance(method, str) else None
    if model is None:
        known = f"expected one of {', '.join(METHODS)}, got {method!r}"
        raise InvalidRequest("method", known, code="unknown_type")
    return validated(model, {} if params is None else params, "params")
