"""What a client of AG-UI sends: the input of a run, and over a WebSocket two messages beside it.

The input is the `RunAgentInput` of AG-UI 1.0 (npm `@ag-ui/core`). That it may be sent over a
WebSocket is ours, and so are `connect` (`AbstractAgent.connect` of the official client leaves open
how) and `cancel` (which is closing the connection where there is one for each run).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from langgraph_ws.codec import loads
from langgraph_ws.commands import Attach, Cancel, StartRun
from langgraph_ws.errors import InvalidRequest
from langgraph_ws.protocols.requests import (
    CamelModel,
    Id,
    Json,
    Name,
    in_both_cases,
    media_block,
    validated,
)

__all__ = ["CancelRun", "Connect", "RunInput", "decode"]

_MEDIA = ("image", "audio", "video", "document")


class _Source(CamelModel):
    """Where a file is, or the file itself."""

    type: Literal["data", "url", "file"]
    value: str
    mime_type: str | None = None


class _Part(CamelModel):
    """A part of the content of a message."""

    type: Name
    text: str | None = None
    source: _Source | None = None


class _Function(CamelModel):
    name: Name
    arguments: str


class _ToolCall(CamelModel):
    id: Name
    function: _Function

    def plain(self) -> Json:
        try:
            args = loads(self.function.arguments or "{}")
        except ValueError:
            args = None
        known = args if isinstance(args, dict) else {}
        return {"id": self.id, "name": self.function.name, "args": known}


class _Message(CamelModel):
    """A message as the client has it; which fields it has depends on its role."""

    id: Name
    role: Literal["developer", "system", "assistant", "user", "tool", "activity", "reasoning"]
    content: Any = None
    name: Name | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: Name | None = None
    error: str | None = None

    @property
    def new(self) -> bool:
        """Whether, at the end of the conversation, it is what a run is to answer."""
        return self.role in ("user", "tool")

    def plain(self, path: str) -> list[Json]:
        """The message that the graph gets; none of those that tell it how to behave.

        Raises:
            InvalidRequest: It is no such message.
        """
        message: Json = {"role": self.role, "id": self.id}
        if self.role == "user":
            named = {"name": self.name} if self.name else {}
            return [message | {"content": self._content(path)} | named]
        if self.role == "tool":
            if self.tool_call_id is None:
                raise InvalidRequest(f"{path}.toolCallId", "missing")
            status = "success" if self.error is None else "error"
            result = {"tool_call_id": self.tool_call_id, "status": status}
            return [message | {"content": self._content(path)} | result]
        if self.role != "assistant":
            return []
        calls = [call.plain() for call in self.tool_calls or ()]
        message["content"] = self._content(path) if self.content is not None else ""
        return [message | {"tool_calls": calls} if calls else message]

    def _content(self, path: str) -> Any:
        if isinstance(self.content, str):
            return self.content
        if not isinstance(self.content, list):
            raise InvalidRequest(f"{path}.content", "expected a string, or a list of parts")
        where = f"{path}.content"
        return [_block(part, f"{where}.{at}") for at, part in enumerate(self.content)]


def _block(value: object, path: str) -> Json:
    part = validated(_Part, value, path)
    if part.type == "text":
        if part.text is None:
            raise InvalidRequest(f"{path}.text", "missing")
        return {"type": "text", "text": part.text}
    if part.type not in _MEDIA:
        raise InvalidRequest(f"{path}.type", f"expected text or one of {', '.join(_MEDIA)}")
    source = part.source
    if source is None:
        raise InvalidRequest(f"{path}.source", "missing")
    fallback = "application/octet-stream" if part.type == "document" else f"{part.type}/*"
    media_type = source.mime_type or fallback
    if source.type == "file":
        return media_block(media_type, file_id=source.value)
    if source.type == "data":
        return media_block(media_type, base64=source.value)
    return media_block(media_type, url=source.value)


class _Answer(CamelModel):
    """The answer to an interrupt."""

    interrupt_id: Name
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class _Props(CamelModel):
    """What the page passes on, as far as it is ours."""

    assistant_id: Name | None = None


class RunInput(CamelModel):
    """`RunAgentInput`: what a run is to begin with.

    The state that the client has is its own: it is not written into the graph's.
    """

    thread_id: Id
    run_id: Id
    messages: list[_Message]
    tools: list[Json] | None = None
    context: list[Json] | None = None
    forwarded_props: Any = None
    resume: Annotated[list[_Answer], Field(min_length=1)] | None = None

    def command(self) -> StartRun:
        """What it asks for: a run, or the one that was started with this input before.

        Raises:
            InvalidRequest: A message of it is none.
        """
        about: Json = {"thread_id": self.thread_id, "run_id": self.run_id}
        props = self.forwarded_props if isinstance(self.forwarded_props, dict) else {}
        about["options"] = self._options(props)
        about["graph"] = validated(_Props, props, "forwardedProps").assistant_id
        if self.resume is not None:
            answers = {
                answer.interrupt_id: answer.payload if answer.status == "resolved" else None
                for answer in self.resume
            }
            return StartRun(kind="answer", answers=answers, **about)
        places = [at for at, message in enumerate(self.messages) if message.role in _SAID]
        said = [self.messages[at] for at in places]
        begin = len(said)
        while begin and said[begin - 1].new:
            begin -= 1
        plain = [self.messages[at].plain(f"messages.{at}") for at in places]
        if begin == len(said) and said:
            return StartRun(kind="continue", **about)
        # What the client sends again, it wants answered anew.
        again = next((message.id for message in said[begin:] if message.role == "user"), None)
        return StartRun(
            messages=tuple(it for messages in plain[begin:] for it in messages),
            history=tuple(it for messages in plain[:begin] for it in messages),
            instead_of=again,
            **about,
        )

    def _options(self, props: Json) -> Json:
        ours = {"tools": self.tools, "context": self.context}
        return in_both_cases(props) | {name: value for name, value in ours.items() if value}


_SAID = ("user", "assistant", "tool")


class Connect(CamelModel):
    """Tell of a thread as it is, and of its run to the end of that."""

    thread_id: Id
    run_id: Id | None = None

    def command(self) -> Attach:
        """What it asks for."""
        return Attach(thread_id=self.thread_id, summed_up=True)


class CancelRun(CamelModel):
    """Stop a run."""

    thread_id: Id
    run_id: Id | None = None

    def command(self) -> Cancel:
        """What it asks for."""
        return Cancel(thread_id=self.thread_id, run_id=self.run_id)


_MESSAGES: Mapping[str, type[Connect | CancelRun]] = {"connect": Connect, "cancel": CancelRun}


def decode(message: Json) -> RunInput | Connect | CancelRun:
    """A message of a client; one without a type is the input of a run.

    Raises:
        InvalidRequest: There is no such message, or a field of it is missing or wrong.
    """
    kind = message.get("type")
    if kind is None:
        return validated(RunInput, message)
    model = _MESSAGES.get(kind) if isinstance(kind, str) else None
    if model is None:
        known = f"expected one of {', '.join(_MESSAGES)}, or none with the input of a run"
        raise InvalidRequest("type", known, code="unknown_type")
    return validated(model, message)
