"""What a client of the chat protocol sends: one model for each type of message, to commands."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from langgraph_ws.commands import (
    Attach,
    Authenticate,
    Cancel,
    Command,
    Detach,
    MultitaskStrategy,
    StartRun,
)
from langgraph_ws.errors import InvalidRequest
from langgraph_ws.log import Position
from langgraph_ws.protocols.requests import (
    MAX_INTEGER,
    Id,
    Json,
    Model,
    Name,
    in_both_cases,
    validated,
)

__all__ = ["REQUESTS", "Request", "RequestId", "decode", "request_id"]

RequestId: TypeAlias = str | int | float | None
_INTERRUPT_ID = re.compile(r"[0-9a-fA-F]{32}")


def _content(value: object) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(
        isinstance(block, dict) and isinstance(block.get("type"), str) for block in value
    ):
        return value
    raise PydanticCustomError(
        "content", "expected a string, or a list of content blocks (objects with a 'type')"
    )


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


_CONTENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"type": "string"}},
                "required": ["type"],
            },
        },
    ]
}
_NAMES_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}},
        {"type": "null"},
    ]
}


class _Options(Model):
    """How a run is to be started and told of; other keys are the application's."""

    model_config = ConfigDict(extra="allow")

    text: Literal["full", "delta"] | None = None
    multitask_strategy: MultitaskStrategy | None = None

    def others(self) -> Json:
        """What is not ours, as it was sent and in snake case."""
        return in_both_cases(self.model_extra or {})


def _delta(options: _Options | None) -> bool:
    return options is not None and options.text == "delta"


class _ToolCall(Model):
    """A tool call of a message of the assistant."""

    id: Name | None = None
    name: Name
    args: Json


class _Message(Model):
    """A message for the graph."""

    role: Literal["user", "assistant", "tool"]
    content: Annotated[Any, PlainValidator(_content), WithJsonSchema(_CONTENT_SCHEMA)]
    id: Name | None = None
    name: Name | None = None
    tool_call_id: Name | None = None
    tool_calls: list[_ToolCall] | None = None

    def plain(self) -> Json:
        message = self.given()
        if self.tool_calls is not None:
            # LangChain wants an `id`, if only of None.
            message["tool_calls"] = [{"id": None} | call.given() for call in self.tool_calls]
        return message


class Request(Model, ABC):
    """A message of a client that asks for something."""

    @property
    def delta(self) -> bool:
        """Whether the client wants to be told what is new of a text, instead of all so far."""
        return False

    @abstractmethod
    def command(self) -> Command:
        """What it asks for.

        Raises:
            InvalidRequest: Its fields do not fit together.
        """


class _Start(Request):
    """What `new_chat` and `resume_chat` share."""

    run_id: Id | None = None
    assistant_id: Name | None = None
    messages: Annotated[list[_Message], Field(min_length=1)] | None = None
    input: Any = None
    options: _Options | None = None

    @property
    def delta(self) -> bool:
        return _delta(self.options)

    def turn(self) -> Json:
        """The arguments of `StartRun` that both fill alike."""
        options = self.options or _Options()
        return {
            "run_id": self.run_id,
            "graph": self.assistant_id,
            "messages": self._messages(),
            "input": self.input,
            "multitask_strategy": options.multitask_strategy,
            "options": options.others(),
        }

    def which(self, *names: str) -> set[str]:
        """Those of the fields that were given: `messages` not null, the others whatever they are.

        Raises:
            InvalidRequest: There are several, or there is an `input` of null.
        """
        found = self.model_fields_set.intersection(names)
        if self.messages is None:
            found.discard("messages")
        if len(found) > 1:
            choice = f"{', '.join(names[:-1])} and {names[-1]}"
            raise InvalidRequest(sorted(found)[-1], f"expected only one of {choice}")
        if "input" in found and self.input is None:
            raise InvalidRequest("input", "expected any JSON value but null")
        return found

    def _messages(self) -> tuple[Json, ...] | None:
        if self.messages is None:
            return None
        for index, message in enumerate(self.messages):
            if message.role == "tool" and message.tool_call_id is None:
                raise InvalidRequest(
                    f"messages.{index}.tool_call_id", "missing: a message of a tool needs one"
                )
        return tuple(message.plain() for message in self.messages)


class _NewChat(_Start):
    """A run, on a new thread unless one is named."""

    thread_id: Id | None = None

    def command(self) -> Command:
        if not self.which("messages", "input"):
            raise InvalidRequest("messages", "missing: expected either messages or input")
        return StartRun(thread_id=self.thread_id, **self.turn())


class _ResumeChat(_Start):
    """A run that goes on with a thread."""

    thread_id: Id
    checkpoint_id: Name | None = None
    resume: Any = None
    update: Any = None
    goto: Annotated[
        Annotated[list[Name], BeforeValidator(_one_or_more)] | None, WithJsonSchema(_NAMES_SCHEMA)
    ] = None

    def command(self) -> Command:
        given = self.which("messages", "input", "resume")
        if "resume" in given:
            return self._answer()
        for name in ("update", "goto"):
            if getattr(self, name) is not None:
                raise InvalidRequest(name, "expected only beside resume")
        return StartRun(
            kind="input" if given else "continue",
            thread_id=self.thread_id,
            checkpoint_id=self.checkpoint_id,
            **self.turn(),
        )

    def _answer(self) -> Command:
        by_id = _by_interrupt(self.resume)
        return StartRun(
            kind="answer",
            thread_id=self.thread_id,
            checkpoint_id=self.checkpoint_id,
            answers=self.resume if by_id else None,
            answer=None if by_id else self.resume,
            update=self.update,
            goto=tuple(self.goto or ()),
            **self.turn(),
        )


def _by_interrupt(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_INTERRUPT_ID.fullmatch, value))


class _Target(Request):
    """What names a thread or a run."""

    thread_id: Id | None = None
    run_id: Id | None = None

    def require(self) -> None:
        """Check that there is one of the two.

        Raises:
            InvalidRequest: There is neither.
        """
        if self.thread_id is None and self.run_id is None:
            raise InvalidRequest("thread_id", "missing: expected thread_id or run_id")


class _Attach(_Target):
    """Follow a thread, or one run of it."""

    after: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    epoch: str | None = None
    options: _Options | None = None

    @property
    def delta(self) -> bool:
        return _delta(self.options)

    def command(self) -> Command:
        self.require()
        if self.after and self.epoch is None:
            raise InvalidRequest("epoch", "missing: expected beside an after above 0")
        return Attach(
            thread_id=self.thread_id,
            run_id=self.run_id,
            after=None if self.after is None else Position(self.epoch or "", self.after),
            rewind=bool(self.after) and not self.delta,
        )


class _Detach(_Target):
    """Stop following a thread or a run."""

    def command(self) -> Command:
        self.require()
        return Detach(thread_id=self.thread_id, run_id=self.run_id)


class _Cancel(_Target):
    """Stop a run."""

    def command(self) -> Command:
        self.require()
        return Cancel(thread_id=self.thread_id, run_id=self.run_id)


class _Auth(Request):
    """Who the client is."""

    token: Name

    def command(self) -> Command:
        return Authenticate(token=self.token)


REQUESTS: Mapping[str, type[Request]] = {
    "new_chat": _NewChat,
    "resume_chat": _ResumeChat,
    "attach": _Attach,
    "detach": _Detach,
    "cancel": _Cancel,
    "auth": _Auth,
}
"""The types of message that ask for something; `ping` is answered by the session itself."""


def request_id(message: Json) -> RequestId:
    """The `id` of a message; None when it has none.

    Raises:
        InvalidRequest: It is nothing that can be given back as it came.
    """
    value = message.get("id")
    if value is None or isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and abs(value) <= MAX_INTEGER:
        return value  # type: ignore[no-any-return]  # `number` says what it is
    raise InvalidRequest("id", f"expected a string, or a number up to {MAX_INTEGER}")


def decode(kind: str, message: Json) -> Request:
    """A message of a type in `REQUESTS`.

    Raises:
        InvalidRequest: A field of it is missing or wrong.
    """
    return validated(REQUESTS[kind], message)
