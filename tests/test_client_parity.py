"""The Python client and the JavaScript one: the same features under the same names.

The tables say what there is, in Python's spelling. What only one of the two has stands apart, with
the reason. Whoever adds something to one client has to add it to the other, or say here why not.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic.alias_generators import to_snake

import langgraph_ws
from langgraph_ws import client
from langgraph_ws.errors import InvalidRequest

TYPES = Path(langgraph_ws.__file__).with_name("static") / "client.d.ts"

CALLBACKS: dict[str, tuple[str, ...]] = {
    "on_run": ("run",),
    "on_text": ("text", "message"),
    "on_reasoning": ("text", "message"),
    "on_message": ("message",),
    "on_tool_call": ("call",),
    "on_tool_result": ("result",),
    "on_sources": ("sources", "message"),
    "on_workflow_step": ("step", "message"),
    "on_interrupt": ("interrupt",),
    "on_interrupt_answered": ("answered",),
    "on_graph_state": ("state",),
    "on_checkpoint": ("checkpoint",),
    "on_custom": ("name", "data", "message"),
    "on_rolled_back": ("rolled_back",),
    "on_attempt": ("attempt",),
    "on_final": ("final",),
    "on_end": ("status", "message"),
    "on_gap": ("gap",),
    "on_snapshot": ("snapshot",),
    "on_error": ("error",),
}
"""Which callbacks there are, and what each gets."""

STRINGS = {"text", "step", "name", "status"}
"""Those arguments that are plain strings in both."""

START = {"messages", "input", "run_id", "assistant_id", "multitask_strategy", "options"}
ARGUMENTS: dict[str, tuple[set[str], set[str], set[str]]] = {
    # in both; only in Python; only in JavaScript
    "connect": (
        {"url", "token", "reconnect", "on_state"},
        # headers and sessions are not for browsers; heartbeat is in seconds
        {"headers", "session", "heartbeat"},
        # milliseconds; what Python's own buffers and clocks do; views are JavaScript's
        {"heartbeat_ms", "web_socket", "buffer", "clock", "random", "on_change", "on_wire"},
    ),
    "new_chat": (START | {"thread_id"}, set(), set()),
    "resume_chat": (
        START | {"thread_id", "resume", "checkpoint_id", "update", "goto"},
        set(),
        set(),
    ),
    "answer": (
        {"value", "update", "goto", "checkpoint_id"} | START - {"messages", "input"},
        set(),
        set(),
    ),
    # a page keeps the view of a thread over a reload
    "attach": ({"thread_id", "run_id", "after"}, set(), {"saved"}),
    "cancel": ({"run_id", "thread_id"}, set(), set()),
    # milliseconds and seconds; chance and time are options of `connect` in JavaScript
    "reconnect": (
        {"jitter", "max_attempts"},
        {"delay", "max_delay", "random", "sleep"},
        {"delay_ms", "max_delay_ms"},
    ),
}

MEMBERS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "Client": (
        {"state", "new_chat", "resume_chat", "attach", "cancel", "close"},
        {"detach", "resume_reading"},  # what handles ask of it
        {"opened", "threads", "thread", "reconnect_now"},  # pages do not wait
    ),
    "Thread": (
        {
            *("thread_id", "view", "position"),
            *("new_chat", "resume_chat", "answer", "cancel", "detach"),
        },
        # what JavaScript's view has
        {"status", "text", "messages", "sources", "interrupts", "steps"}
        | {"over", "congested", "hear", "finish", "callbacks"},
        {"ready", "subscribe", "save"},
    ),
    "Run": (
        {
            *("run_id", "thread_id", "view", "status", "text", "messages", "sources"),
            *("interrupts", "steps", "result", "answer", "cancel"),
        },
        {"position", "over", "congested", "hear", "finish", "callbacks"},  # a run is followed alone
        {"thread", "tool_calls"},  # a run is a part of its thread
    ),
}

ERRORS: dict[str, set[str]] = {
    "ConnectionLostError": {"code", "reason", "http_status"},
    "ConnectionFailedError": {"code", "reason", "http_status"},
    "ProtocolError": set(),
    "RequestRefused": {"code", "field", "retryable", "retry_after"},
    "RunFailedError": {"code", "error_id", "retryable", "run_id"},
    "InvalidRequest": {"field"},
}
"""Which errors there are, and what each tells beside its words."""
ONLY_IN_JAVASCRIPT = {
    "ChatError",  # Python: ClientError
    "DetachedError",  # in Python, to detach a thread ends none of its runs
}


# The types of client.d.ts


def code() -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", TYPES.read_text(encoding="utf-8"), flags=re.S)


def body(declaration: str) -> str:
    """What stands between the braces of an interface or a class."""
    found = re.search(rf"export (?:interface|class) {declaration}\b[^{{]*\{{", code())
    assert found is not None, declaration
    start = at = found.end()
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(code()[at], 0)
        at += 1
    return code()[start : at - 1]


def members(declaration: str) -> dict[str, str]:
    """Its members, and how each goes on; those of what it extends are not among them."""
    lines = re.split(r";\n", body(declaration).replace("\n    ", " "))
    found = (re.match(r"\s*(?:readonly )?(\w+)\??(.*)", line, re.S) for line in lines)
    return {snake(one[1]): one[2] for one in found if one is not None}


def snake(name: str) -> str:
    return to_snake(name)


def parameters(signature: str) -> list[tuple[str, str]]:
    """The parameters of a callback, and their types."""
    found = re.match(r": \((.*)\) => unknown", signature.strip())
    assert found is not None, signature
    return [(snake(name), kind) for name, kind in re.findall(r"(\w+): (\w+)", found[1])]


def options(*interfaces: str) -> set[str]:
    return {name for one in interfaces for name in members(one)}


# The signatures of Python


def arguments(function: Callable[..., Any]) -> set[str]:
    """Its parameters, with those that keywords stand for; without the callbacks."""
    names: set[str] = set()
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            names.add(name)
        else:
            (keywords,) = typing.get_args(parameter.annotation)
            names |= set(typing.get_type_hints(keywords))
    return names - {"self"} - set(CALLBACKS)


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


# The same


def test_callbacks_have_the_same_names_and_arguments() -> None:
    hints = typing.get_type_hints(client.Callbacks)
    here = {name: typing.get_args(hint)[0] for name, hint in hints.items()}
    there = {name: parameters(signature) for name, signature in members("Callbacks").items()}
    assert set(here) == set(there) == set(CALLBACKS)
    for name, expected in CALLBACKS.items():
        assert tuple(argument for argument, _ in there[name]) == expected, name
        assert len(here[name]) == len(expected), name
        for argument, kind, (_, type_there) in zip(expected, here[name], there[name], strict=True):
            strings = (kind is str, type_there in ("string", "RunStatus"))
            assert strings == (argument in STRINGS,) * 2, f"{name}: {argument}"


JAVASCRIPT = {
    "connect": {"url"} | options("ConnectOptions"),
    "new_chat": options("StartOptions", "NewChatOptions"),
    "resume_chat": {"thread_id"} | options("StartOptions", "ResumeChatOptions"),
    "answer": {"value"}
    | (options("StartOptions", "ResumeChatOptions") - {"messages", "input", "resume"}),
    "attach": {"thread_id"} | options("AttachOptions"),
    "cancel": {snake(name) for name in re.findall(r"(\w+): string", members("Client")["cancel"])},
    "reconnect": options("ReconnectOptions"),
}
PYTHON: dict[str, Callable[..., Any]] = {
    "connect": client.connect,
    "new_chat": client.Client.new_chat,
    "resume_chat": client.Client.resume_chat,
    "answer": client.Run.answer,
    "attach": client.Client.attach,
    "cancel": client.Client.cancel,
    "reconnect": client.Reconnect,
}


@pytest.mark.parametrize("function", ARGUMENTS)
def test_functions_take_the_same_arguments(function: str) -> None:
    both, only_here, only_there = ARGUMENTS[function]
    assert arguments(PYTHON[function]) == both | only_here
    assert JAVASCRIPT[function] == both | only_there


def listed(name: str) -> set[str]:
    """The strings of a list of client.js, and of those that are spread in it."""
    javascript = TYPES.with_suffix("").with_suffix(".js").read_text(encoding="utf-8")
    found = re.search(rf"^const {name} = \[(.*?)\];$", javascript, re.M | re.S)
    assert found is not None, name
    spread = (listed(other) for other in re.findall(r"\.\.\.([A-Z_]+)", found[1]))
    return {snake(one) for one in re.findall(r'"(\w+)"', found[1])}.union(*spread)


def test_the_javascript_client_refuses_no_option_that_there_is() -> None:
    assert listed("CALLBACK_NAMES") == set(CALLBACKS)
    assert listed("CONNECT_OPTIONS") | {"url"} == JAVASCRIPT["connect"]
    assert listed("NEW_CHAT_OPTIONS") == JAVASCRIPT["new_chat"]
    assert listed("RESUME_OPTIONS") | {"thread_id"} == JAVASCRIPT["resume_chat"]
    assert listed("ATTACH_OPTIONS") | {"thread_id"} == JAVASCRIPT["attach"]


def test_a_thread_takes_what_the_client_takes() -> None:
    assert arguments(client.Thread.new_chat) == ARGUMENTS["new_chat"][0] - {"thread_id"}
    assert arguments(client.Thread.resume_chat) == ARGUMENTS["resume_chat"][0] - {"thread_id"}
    assert arguments(client.Thread.answer) == ARGUMENTS["answer"][0]


@pytest.mark.parametrize("kind", MEMBERS)
def test_classes_have_the_same_members(kind: str) -> None:
    both, only_here, only_there = MEMBERS[kind]
    assert public(getattr(client, kind)) == both | only_here
    assert set(members(kind)) == both | only_there


def test_errors_have_the_same_names_and_tell_the_same() -> None:
    classes = set(re.findall(r"export class (\w+)", code()))
    assert classes == set(ERRORS) | ONLY_IN_JAVASCRIPT
    for name, fields in ERRORS.items():
        told = set(members(name)) - {"constructor"}
        assert {one.removesuffix("_ms") for one in told} == fields, name
        kind = InvalidRequest if name == "InvalidRequest" else getattr(client, name)
        needed = {"code": "c", "message": "m", "reason": "r", "field": "f"}
        takes = inspect.signature(kind.__init__).parameters
        error = kind(**{name: value for name, value in needed.items() if name in takes})
        assert fields <= set(vars(error)), name
