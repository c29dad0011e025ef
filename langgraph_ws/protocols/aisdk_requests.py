"""What a client of the AI SDK sends: one model for each type of frame, to commands.

The frames are those of `WebSocketChatTransport` (npm `ai` 7, `src/ui/websocket-chat-transport.ts`);
the messages in them are `UIMessage`s, which have parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from langgraph_ws.codec import dumps
from langgraph_ws.commands import Attach, MultitaskStrategy, StartRun
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

__all__ = ["INTERRUPT", "OURS", "Abort", "Resume", "Send", "UIMessage", "decode"]

OURS = "langgraph"
"""Under which name our parts have metadata."""
INTERRUPT = "data-interrupt"
"""The type of the part that tells of an interrupt."""
_FINISHED = ("output-available", "output-error")
_DATA_URL = re.compile(r"data:[^,]*;base64,(.*)", re.DOTALL)
_RequestId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Approval(CamelModel):
    """What a person said to a tool call."""

    id: Name
    approved: bool | None = None
    reason: str | None = None


class Part(CamelModel):
    """A part of a message; which fields it has depends on its type."""

    type: Name
    id: str | None = None
    text: str | None = None
    url: str | None = None
    media_type: str | None = None
    filename: str | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None
    state: str | None = None
    input: Any = None
    output: Any = None
    error_text: str | None = None
    approval: _Approval | None = None
    data: Any = None
    result_provider_metadata: Json | None = None

    @property
    def tool(self) -> str | None:
        """The name of the tool that it is a call of; None when it is something else."""
        if self.type == "dynamic-tool":
            return self.tool_name
        return self.type.removeprefix("tool-") if self.type.startswith("tool-") else None

    @property
    def by_client(self) -> bool:
        """Whether it is a tool's result that the client has added; ours say that they are ours."""
        return self.state in _FINISHED and OURS not in (self.result_provider_metadata or {})

    def result(self) -> Json:
        """The finished call as a message of the tool."""
        failed = self.state == "output-error"
        content = self.error_text if failed else self.output
        return {
            "role": "tool",
            "tool_call_id": self.tool_call_id,
            "name": self.tool,
            "content": content if isinstance(content, str) else dumps(content).decode(),
            "status": "error" if failed else "success",
        }


_NEEDS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "file": ("url", "media_type"),
    "dynamic-tool": ("tool_name", "tool_call_id", "state"),
}
"""The fields without which a part of this type says nothing."""
_NEEDED_BY_TOOLS = ("tool_call_id", "state")
_WIRE = {"media_type": "mediaType", "tool_name": "toolName", "tool_call_id": "toolCallId"}


class UIMessage(CamelModel):
    """A message as the client shows it."""

    id: Name
    role: Literal["system", "user", "assistant"]
    parts: list[Part]

    def check(self, *path: str) -> None:
        """Check that its parts have what parts of their types must have.

        Raises:
            InvalidRequest: One lacks a field.
        """
        for index, part in enumerate(self.parts):
            static = part.type.startswith("tool-")
            for name in _NEEDED_BY_TOOLS if static else _NEEDS.get(part.type, ()):
                if getattr(part, name) is None:
                    field = ".".join([*path, "parts", str(index), _WIRE.get(name, name)])
                    raise InvalidRequest(field, "missing")

    def plain(self) -> list[Json]:
        """The messages that it stands for: of the assistant, one for each step, and its tools'."""
        if self.role == "user":
            return [{"role": "user", "id": self.id, "content": self._content(self.parts)}]
        return list(self._steps()) if self.role == "assistant" else []

    def _steps(self) -> Iterator[Json]:
        step: list[Part] = []
        steps = [step]
        for part in self.parts:
            if part.type == "step-start":
                step = []
                steps.append(step)
            step.append(part)
        for number, parts in enumerate(steps):
            yield from self._step(f"{self.id}:{number}", parts)

    def _step(self, message_id: str, parts: list[Part]) -> Iterator[Json]:
        """One message of the assistant and the results of the tools that it calls.

        Calls that have no result are left out: no model takes a conversation with such a hole.
        """
        done = [part for part in parts if part.tool is not None and part.state in _FINISHED]
        content = self._content(parts)
        if not content and not done:
            return
        message: Json = {"role": "assistant", "id": message_id, "content": content}
        if done:
            message["tool_calls"] = [
                {
                    "id": part.tool_call_id,
                    "name": part.tool,
                    "args": part.input if isinstance(part.input, dict) else {},
                }
                for part in done
            ]
        yield message
        yield from (part.result() for part in done)

    @staticmethod
    def _content(parts: Iterable[Part]) -> Any:
        said = [part for part in parts if part.type in ("text", "file")]
        if all(part.type == "text" for part in said) and len(said) < 2:
            return said[0].text if said else ""
        return [
            {"type": "text", "text": part.text} if part.type == "text" else _file_block(part)
            for part in said
        ]


def _file_block(part: Part) -> Json:
    inline = _DATA_URL.fullmatch(part.url or "")
    where = {"url": part.url} if inline is None else {"base64": inline[1]}
    return media_block(part.media_type or "", **where, filename=part.filename)


class _Body(CamelModel):
    """What the page adds to a request; other keys are the application's."""

    model_config = ConfigDict(extra="allow")

    resume: Annotated[Json, Field(min_length=1)] | None = None
    assistant_id: Name | None = None
    checkpoint_id: Name | None = None
    multitask_strategy: MultitaskStrategy | None = None

    def run(self) -> Json:
        """The arguments of `StartRun` that stand in it."""
        return {
            "graph": self.assistant_id,
            "checkpoint_id": self.checkpoint_id,
            "multitask_strategy": self.multitask_strategy,
            "options": in_both_cases(self.model_extra or {}),
        }


class Abort(CamelModel):
    """Stop what a request asked for."""

    request_id: _RequestId


class Resume(CamelModel):
    """Tell of the newest response of a chat, from its beginning."""

    request_id: _RequestId
    id: Id

    def command(self) -> Attach:
        """What it asks for: all that is held, for the response may go back beyond its run."""
        return Attach(thread_id=self.id, held=True)


class Send(CamelModel):
    """A turn, or the answer to what a response has asked for."""

    request_id: _RequestId
    id: Id
    trigger: Literal["submit-message", "regenerate-message"]
    message_id: str | None = None
    messages: Annotated[list[UIMessage], Field(min_length=1)]
    body: _Body = Field(default_factory=_Body)

    @property
    def goes_on(self) -> UIMessage | None:
        """The message of the assistant that the response goes on with; None: it is a new one."""
        last = self.messages[-1]
        return last if last.role == "assistant" else None

    def command(self, run_id: str) -> StartRun:
        """What it asks for.

        Raises:
            InvalidRequest: Its messages do not say that.
        """
        for index, message in enumerate(self.messages):
            message.check("messages", str(index))
        about = {"thread_id": self.id, "run_id": run_id, **self.body.run()}
        last = self.goes_on
        if last is not None:
            return self._go_on(last, about)
        if self.messages[-1].role == "system":
            raise InvalidRequest(self._last("role"), "expected user or assistant")
        if self.body.resume is not None:
            expected = "expected only where the last message is the assistant's: send no message"
            raise InvalidRequest("body.resume", expected)
        return self._turn(about)

    def _turn(self, about: Json) -> StartRun:
        """New messages of the user; edited or asked once more, they replace what followed."""
        begin = len(self.messages)
        while begin and self.messages[begin - 1].role == "user":
            begin -= 1
        new, before = self.messages[begin:], self.messages[:begin]
        again = self.trigger == "regenerate-message" or self.message_id == new[-1].id
        return StartRun(
            messages=tuple(it for message in new for it in message.plain()),
            history=tuple(it for message in before for it in message.plain()),
            instead_of=new[0].id if again else None,
            **about,
        )

    def _go_on(self, last: UIMessage, about: Json) -> StartRun:
        if self.trigger == "regenerate-message":
            raise InvalidRequest(self._last("role"), "expected user: there is nothing to answer")
        results = [part for part in last.parts if part.tool is not None and part.by_client]
        answers = dict(self.body.resume or {}) or self._answers(last, results)
        if answers:
            return StartRun(kind="answer", answers=answers, **about)
        if results:
            return self._results(results, about)
        return StartRun(kind="continue", **about)

    def _results(self, results: list[Part], about: Json) -> StartRun:
        """The results of tools that the page runs itself, as the messages that models expect."""
        ids = {part.tool_call_id for part in results}
        history = [it for message in self.messages for it in message.plain()]
        return StartRun(
            messages=tuple(part.result() for part in results),
            history=tuple(it for it in history if it.get("tool_call_id") not in ids),
            **about,
        )

    def _answers(self, last: UIMessage, results: list[Part]) -> Json:
        """The answers that the parts of a message give to the interrupts that it tells of."""
        given = {
            part.approval.id: part.approval
            for part in last.parts
            if part.approval is not None and part.approval.approved is not None
        }
        outputs = {part.tool_call_id: part for part in results if part.tool_call_id}
        answers: Json = {}
        for interrupt_id, value in _pending(last):
            asked = value if isinstance(value, dict) else {}
            call_id = asked.get("tool_call_id")
            result = outputs.get(call_id) if isinstance(call_id, str) else None
            if result is not None:
                answers[interrupt_id] = result.error_text if result.error_text else result.output
            elif isinstance(actions := asked.get("action_requests"), list):
                said = [given.get(f"{interrupt_id}:{index}") for index in range(len(actions))]
                if any(said):
                    answers[interrupt_id] = {"decisions": self._decisions(said)}
            elif (approval := given.get(interrupt_id)) is not None:
                reason = {"reason": approval.reason} if approval.reason else {}
                answers[interrupt_id] = {"approved": approval.approved, **reason}
        return answers

    def _decisions(self, said: list[_Approval | None]) -> list[Json]:
        """Decisions as LangChain's `HumanInTheLoopMiddleware` takes them: on all its actions."""
        decisions: list[Json] = []
        for approval in said:
            if approval is None:
                raise InvalidRequest(self._last("parts"), "expected an answer to each approval")
            if approval.approved:
                decisions.append({"type": "approve"})
            else:
                message = {"message": approval.reason} if approval.reason else {}
                decisions.append({"type": "reject", **message})
        return decisions

    def _last(self, field: str) -> str:
        return f"messages.{len(self.messages) - 1}.{field}"


def _pending(message: UIMessage) -> Iterator[tuple[str, Any]]:
    """The interrupts that a message tells of as waiting, and what they ask."""
    for part in message.parts:
        told = part.data if part.type == INTERRUPT and isinstance(part.data, dict) else {}
        if part.id and told.get("status") == "pending":
            yield part.id, told.get("value")


_FRAMES: Mapping[str, type[Send | Resume | Abort]] = {
    "send": Send,
    "resume": Resume,
    "abort": Abort,
}


def decode(message: Json) -> Send | Resume | Abort:
    """A frame of a client.

    Raises:
        InvalidRequest: There is no such frame, or a field of it is missing or wrong.
    """
    kind = message.get("type")
    model = _FRAMES.get(kind) if isinstance(kind, str) else None
    if model is None:
        known = f"expected one of {', '.join(_FRAMES)}, got {kind!r}"
        raise InvalidRequest("type", known, code="unknown_type")
    return validated(model, message)
