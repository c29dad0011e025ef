"""What a client of the chat protocol sends, checked before anything is sent.

The rules are those of PROTOCOL.md; an error names the field as the server would.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar

from langchain_core.messages import BaseMessage

from langgraph_ws.client.values import json_value, protocol_message
from langgraph_ws.errors import InvalidRequest
from langgraph_ws.log import Position

__all__ = ["NOTHING", "Messages", "Nothing", "attach", "cancel", "new_chat", "resume_chat"]

Json: TypeAlias = dict[str, Any]
Messages: TypeAlias = str | Sequence[Mapping[str, Any] | BaseMessage]
"""A text that the user says, or messages: `{role, content, …}`, or LangChain's."""
_T = TypeVar("_T")


class Nothing(Enum):
    """That an argument was not given, where None would be a value."""

    NOTHING = "nothing"


NOTHING: Final = Nothing.NOTHING
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_ROLES = ("user", "assistant", "tool")
_STRATEGIES = ("enqueue", "reject", "interrupt", "rollback")


def new_chat(
    messages: Messages | None,
    input: object,  # noqa: A002  # the protocol's word
    *,
    run_id: str,
    thread_id: str | None = None,
    assistant_id: str | None = None,
    multitask_strategy: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Json:
    """A `new_chat` message.

    Raises:
        InvalidRequest: A field is missing or wrong.
    """
    turn = _turn(messages, input)
    if not turn:
        raise InvalidRequest("messages", "missing: expected either messages or input")
    return {
        "type": "new_chat",
        **_start(run_id, thread_id, assistant_id, multitask_strategy, options),
        **turn,
    }


def resume_chat(
    thread_id: str,
    messages: Messages | None,
    input: object,  # noqa: A002  # the protocol's word
    resume: object,
    *,
    run_id: str,
    checkpoint_id: str | None = None,
    update: object = None,
    goto: str | Sequence[str] | None = None,
    assistant_id: str | None = None,
    multitask_strategy: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Json:
    """A `resume_chat` message.

    Raises:
        InvalidRequest: A field is missing or wrong.
    """
    if thread_id is None:
        raise InvalidRequest("thread_id", "missing")
    turn = _turn(messages, input)
    if resume is not NOTHING:
        if turn:
            raise InvalidRequest("resume", "expected only one of messages, input and resume")
        turn = {"resume": json_value("resume", resume)}
    elif update is not None or goto is not None:
        name = "update" if update is not None else "goto"
        raise InvalidRequest(name, "expected only beside resume")
    return {
        "type": "resume_chat",
        **_start(run_id, thread_id, assistant_id, multitask_strategy, options),
        **_given(checkpoint_id=_optional("checkpoint_id", checkpoint_id, _name)),
        **turn,
        **_given(update=json_value("update", update), goto=_nodes(goto)),
    }


def attach(thread_id: str | None, run_id: str | None, after: Position | None) -> Json:
    """An `attach` message.

    Raises:
        InvalidRequest: A field is missing or wrong.
    """
    if thread_id is None and run_id is None:
        raise InvalidRequest("thread_id", "missing: expected thread_id or run_id")
    message: Json = {
        "type": "attach",
        **_given(
            thread_id=_optional("thread_id", thread_id, _id),
            run_id=_optional("run_id", run_id, _id),
        ),
    }
    if after is not None:
        message |= _after(after)
    return message


def cancel(*, run_id: str | None = None, thread_id: str | None = None) -> Json:
    """A `cancel` message, of a run or of the active run of a thread.

    Raises:
        InvalidRequest: The id is none.
    """
    if run_id is None:
        return {"type": "cancel", "thread_id": _id("thread_id", thread_id)}
    return {"type": "cancel", "run_id": _id("run_id", run_id)}


def _after(after: Position) -> Json:
    epoch, seq = after
    if isinstance(seq, bool) or not isinstance(seq, int) or seq < 0:
        raise InvalidRequest("after", "expected a whole number from 0")
    if not isinstance(epoch, str):
        raise InvalidRequest("epoch", "expected a string")
    return {"after": seq, "epoch": epoch}


def _start(
    run_id: str,
    thread_id: str | None,
    assistant_id: str | None,
    multitask_strategy: str | None,
    options: Mapping[str, Any] | None,
) -> Json:
    """The fields that both ways to start a run share."""
    if options is not None and not isinstance(options, Mapping):
        raise InvalidRequest("options", "expected an object")
    all_options = dict(options or {})
    if multitask_strategy is not None:
        all_options["multitask_strategy"] = multitask_strategy
    strategy = all_options.get("multitask_strategy")
    if strategy is not None and strategy not in _STRATEGIES:
        raise InvalidRequest("options.multitask_strategy", f"expected {_or(_STRATEGIES)}")
    return {
        "run_id": _id("run_id", run_id),
        **_given(
            thread_id=_optional("thread_id", thread_id, _id),
            assistant_id=_optional("assistant_id", assistant_id, _name),
        ),
        "options": json_value("options", all_options),
    }


def _turn(messages: Messages | None, input: object) -> Json:  # noqa: A002
    """`messages` or `input`, whichever was given."""
    if input is None:
        raise InvalidRequest("input", "expected any JSON value but null")
    if messages is None:
        return {} if input is NOTHING else {"input": json_value("input", input)}
    if input is not NOTHING:
        raise InvalidRequest("messages", "expected only one of messages and input")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence):
        raise InvalidRequest("messages", "expected a string or a list")
    if not messages:
        raise InvalidRequest("messages", "expected a list that is not empty")
    return {"messages": [_message(f"messages.{at}", one) for at, one in enumerate(messages)]}


def _message(field: str, given: object) -> Json:
    if isinstance(given, BaseMessage):
        given = protocol_message(given)
    if not isinstance(given, Mapping):
        raise InvalidRequest(field, "expected an object")
    message: Json = json_value(field, given)
    if message.get("role") not in _ROLES:
        raise InvalidRequest(f"{field}.role", f"expected {_or(_ROLES)}")
    if not _is_content(message.get("content")):
        raise InvalidRequest(
            f"{field}.content",
            "expected a string, or a list of content blocks (objects with a 'type')",
        )
    for name in ("id", "name", "tool_call_id"):
        _optional(f"{field}.{name}", message.get(name), _name)
    if message["role"] == "tool" and message.get("tool_call_id") is None:
        raise InvalidRequest(f"{field}.tool_call_id", "missing: a message of a tool needs one")
    _tool_calls(f"{field}.tool_calls", message.get("tool_calls"))
    return message


def _is_content(content: object) -> bool:
    return isinstance(content, str) or (
        isinstance(content, list)
        and all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in content)
    )


def _tool_calls(field: str, calls: object) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        raise InvalidRequest(field, "expected a list")
    for at, call in enumerate(calls):
        if not isinstance(call, dict):
            raise InvalidRequest(f"{field}.{at}", "expected an object")
        _name(f"{field}.{at}.name", call.get("name"))
        _optional(f"{field}.{at}.id", call.get("id"), _name)
        if not isinstance(call.get("args"), dict):
            raise InvalidRequest(f"{field}.{at}.args", "expected an object")


def _nodes(goto: object) -> object:
    if goto is None or (isinstance(goto, str) and goto):
        return goto
    if isinstance(goto, list | tuple) and all(isinstance(node, str) and node for node in goto):
        return list(goto)
    raise InvalidRequest("goto", "expected the name of a node, or a list of them")


def _id(field: str, value: object) -> str:
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise InvalidRequest(field, "expected 1 to 128 letters, digits, '_', '.', ':' and '-'")


def _name(field: str, value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise InvalidRequest(field, "expected a string that is not empty")


def _optional(field: str, value: object, check: Callable[[str, object], _T]) -> _T | None:
    return None if value is None else check(field, value)


def _given(**values: Any) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _or(names: Sequence[str]) -> str:
    *first, last = (f"'{name}'" for name in names)
    return f"{', '.join(first)} or {last}"
