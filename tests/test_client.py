"""The Python client: with the real server, through cuts and restarts, and with bad servers."""

from __future__ import annotations

import asyncio
import json
import random
import re
import runpy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import aiohttp
import orjson
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

import langgraph_ws
from langgraph_ws import Identity, Limits, MemoryThreadLog, Position, Retention, attach_websocket
from langgraph_ws.client import (
    Callbacks,
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionState,
    Custom,
    End,
    Gap,
    Message,
    ProtocolError,
    Reconnect,
    RequestRefused,
    RolledBack,
    RunFailedError,
    RunInfo,
    Snapshot,
    Text,
    connect,
    requests,
)
from langgraph_ws.client.messages import Bye, parse
from langgraph_ws.client.pace import Pace
from langgraph_ws.client.reconnect import Backoff, Lost, Silence, closed, refused
from langgraph_ws.client.view import View
from langgraph_ws.demo import demo_graph
from langgraph_ws.errors import ConfigurationError, InvalidRequest, RequestError
from langgraph_ws.protocols.chat import ChatSession
from langgraph_ws.protocols.chat_requests import decode
from langgraph_ws.protocols.chat_schema import MESSAGES
from langgraph_ws.testing import Reply, ScriptedModel
from tests.chat_story import EPOCH, FIRST_RUN, TRIMMED, decoded, entries, follow, snapshot, story
from tests.graphs import asking, chat, fan, line
from tests.proxy import CuttingProxy, Switch

HELLO = {"role": "user", "content": "Hello"}
EXAMPLES = Path(__file__).parent.parent / "examples"
PROTOCOL = Path(langgraph_ws.__file__).with_name("PROTOCOL.md").read_text(encoding="utf-8")


# When to connect again


@given(
    attempt=st.integers(1, 5_000),
    delay=st.floats(0, 60),
    max_delay=st.floats(0, 600),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1),
)
def test_a_delay_is_the_formula(
    attempt: int, delay: float, max_delay: float, jitter: float, chance: float
) -> None:
    rules = Reconnect(delay=delay, max_delay=max_delay, jitter=jitter, random=lambda: chance)
    base = min(delay * 1.5 ** min(attempt - 1, 1000), max_delay)
    assert rules.wait(attempt) == pytest.approx(base * (1 - jitter + 2 * jitter * chance))
    assert base * (1 - jitter) * 0.999 <= rules.wait(attempt) <= base * (1 + jitter) * 1.001


def test_delays_grow_to_the_ceiling_and_start_anew_after_success() -> None:
    backoff = Backoff(Reconnect(random=lambda: 0.5, max_attempts=None), renewable=False)
    lost = Lost(reason="x")
    delays = [backoff.next(lost) for _ in range(12)]
    assert delays[:3] == [1.0, 1.5, 2.25]
    assert delays[-1] == 30.0
    assert all(a is not None and b is not None and a <= b for a, b in pairwise(delays))
    backoff.succeeded()
    assert backoff.next(lost) == 1.0
    assert backoff.attempt == 1


def test_it_gives_up_after_so_many_failures() -> None:
    backoff = Backoff(Reconnect(max_attempts=2), renewable=True)
    assert [backoff.next(Lost(reason="x")) is None for _ in range(3)] == [False, False, True]
    assert Backoff(Reconnect(max_attempts=0), renewable=True).next(Lost(reason="x")) is None


def test_what_the_server_asks_for_counts() -> None:
    def first(lost: Lost) -> float | None:
        return Backoff(Reconnect(random=lambda: 0.5), renewable=True).next(lost)

    assert first(Lost(reason="x", after=0.0)) == 0.0
    assert first(Lost(reason="x", after=7.0)) == 7.0
    assert first(Lost(reason="x", at_least=7.0)) == 7.0
    assert first(Lost(reason="x", at_least=0.1)) == 1.0
    assert first(Lost(reason="x", advice="never")) is None
    # a server that says "at once" again and again is not asked again at once for ever
    backoff = Backoff(Reconnect(random=lambda: 0.5), renewable=True)
    assert [backoff.next(Lost(reason="x", after=0.0)) for _ in range(3)] == [0.0, 1.5, 2.25]


def test_a_new_token_is_tried_once() -> None:
    lost = Lost(reason="x", advice="reauth")
    assert Backoff(Reconnect(), renewable=False).next(lost) is None
    backoff = Backoff(Reconnect(), renewable=True)
    assert backoff.next(lost) == 0.0
    assert backoff.next(lost) is None
    backoff.succeeded()
    assert backoff.next(lost) == 0.0


@pytest.mark.parametrize(
    ("code", "bye", "advice", "after", "at_least"),
    [
        (None, None, "resume", None, 0.0),
        (1000, None, "resume", None, 0.0),
        (1011, None, "resume", None, 0.0),
        (1012, Bye(type="bye", retry="resume", after_ms=1800), "resume", 1.8, 0.0),
        (1013, Bye(type="bye", retry="never"), "never", 0.0, 0.0),
        (1000, Bye(type="bye", retry="reauth"), "reauth", 0.0, 0.0),
        (4400, Bye(type="bye", retry="resume"), "never", 0.0, 0.0),
        (4401, None, "reauth", None, 0.0),
        (4403, None, "never", None, 0.0),
        (4408, None, "resume", None, 0.0),
        (4429, None, "resume", None, 1.0),
        (4440, Bye(type="bye", retry="reauth", reason="expired"), "reauth", 0.0, 0.0),
        (4450, None, "resume", None, 0.0),
    ],
)
def test_close_codes(
    code: int | None, bye: Bye | None, advice: str, after: float | None, at_least: float
) -> None:
    lost = closed(code, "", bye)
    assert (lost.advice, lost.after, lost.at_least) == (advice, after, at_least)
    assert str(code or 1006) in lost.reason
    if bye is not None and bye.reason:
        assert bye.reason in lost.reason


@pytest.mark.parametrize(
    ("status", "retry_after", "advice", "at_least"),
    [
        (400, None, "never", 0.0),
        (401, None, "reauth", 0.0),
        (403, None, "reauth", 0.0),
        (404, "5", "never", 0.0),
        (410, None, "never", 0.0),
        (426, None, "never", 0.0),
        (408, None, "resume", 0.0),
        (425, None, "resume", 0.0),
        (500, None, "resume", 0.0),
        (502, None, "resume", 0.0),
        (504, None, "resume", 0.0),
        (429, "7", "resume", 7.0),
        (503, "nonsense", "resume", 0.0),
        (503, None, "resume", 0.0),
        (503, "Sun, 06 Nov 1994 08:49:37 GMT", "resume", 0.0),
        (503, "Sun, 06 Nov 1994 08:49:37 -0000", "resume", 0.0),
    ],
)
def test_http_refusals(status: int, retry_after: str | None, advice: str, at_least: float) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    cause = OSError()
    lost = refused(status, headers, cause)
    assert (lost.advice, lost.at_least, lost.cause) == (advice, at_least, cause)
    assert str(status) in lost.reason


def test_retry_after_may_be_a_date() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < refused(503, {"Retry-After": when}, OSError()).at_least <= 100


def test_silence_is_pinged_and_then_dead() -> None:
    silence = Silence(20.0, 100.0)
    assert silence.check(100.0) == 20.0
    assert silence.check(119.0) == 1.0
    assert silence.check(120.0) == "ping"
    assert silence.check(120.0) == 20.0
    assert silence.check(140.0) == "ping"
    assert silence.check(140.0) == 10.0
    assert silence.check(150.0) == "dead"
    silence.heard(150.0)
    assert silence.check(151.0) == 19.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": -1},
        {"max_delay": float("nan")},
        {"jitter": 2},
        {"max_attempts": -1},
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Reconnect(**wrong)


# What is sent


def start(kind: str, **fields: Any) -> dict[str, Any]:
    """What the client makes of the arguments."""
    fields = {"messages": None, "input": requests.NOTHING, "run_id": "r"} | fields
    messages, given = fields.pop("messages"), fields.pop("input")
    if kind == "new_chat":
        return requests.new_chat(messages, given, **fields)
    resume = fields.pop("resume", requests.NOTHING)
    return requests.resume_chat(fields.pop("thread_id", "t"), messages, given, resume, **fields)


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("new_chat", {"messages": "Hello"}),
    ("new_chat", {"messages": [HELLO | {"id": "m", "name": "Ann", "x": 1}]}),
    ("new_chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
    (
        "new_chat",
        {
            "messages": [
                {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "args": {}}]},
                {"role": "tool", "content": "3", "tool_call_id": "c"},
            ]
        },
    ),
    ("new_chat", {"input": 0}),
    ("new_chat", {"input": {"x": 1}, "thread_id": "t:1", "assistant_id": "a", "options": {"k": 1}}),
    ("new_chat", {"messages": "Hello", "multitask_strategy": "reject"}),
    ("resume_chat", {}),
    ("resume_chat", {"resume": None}),
    ("resume_chat", {"resume": {"0" * 32: "yes"}, "update": {"x": 1}, "goto": "a"}),
    ("resume_chat", {"resume": 1, "goto": ["a", "b"]}),
    ("resume_chat", {"messages": "Go on", "checkpoint_id": "c"}),
    ("resume_chat", {"input": {"x": 1}}),
]
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("new_chat", {}, "messages"),
    ("new_chat", {"messages": []}, "messages"),
    ("new_chat", {"messages": 3}, "messages"),
    ("new_chat", {"messages": "x", "input": 1}, "messages"),
    ("new_chat", {"input": None}, "input"),
    ("new_chat", {"messages": ["x"]}, "messages.0"),
    ("new_chat", {"messages": [HELLO, {"role": "system", "content": "x"}]}, "messages.1.role"),
    ("new_chat", {"messages": [{"role": "user"}]}, "messages.0.content"),
    ("new_chat", {"messages": [{"role": "user", "content": [{}]}]}, "messages.0.content"),
    ("new_chat", {"messages": [HELLO | {"name": ""}]}, "messages.0.name"),
    ("new_chat", {"messages": [{"role": "tool", "content": ""}]}, "messages.0.tool_call_id"),
    ("new_chat", {"messages": [HELLO | {"tool_calls": 1}]}, "messages.0.tool_calls"),
    ("new_chat", {"messages": [HELLO | {"tool_calls": [1]}]}, "messages.0.tool_calls.0"),
    (
        "new_chat",
        {"messages": [HELLO | {"tool_calls": [{"args": {}}]}]},
        "messages.0.tool_calls.0.name",
    ),
    (
        "new_chat",
        {"messages": [HELLO | {"tool_calls": [{"name": "f"}]}]},
        "messages.0.tool_calls.0.args",
    ),
    ("new_chat", {"messages": "x", "run_id": "a b"}, "run_id"),
    ("new_chat", {"messages": "x", "run_id": "a\n"}, "run_id"),
    ("new_chat", {"messages": "x", "thread_id": "a" * 129}, "thread_id"),
    ("new_chat", {"messages": "x", "assistant_id": ""}, "assistant_id"),
    ("new_chat", {"messages": "x", "options": []}, "options"),
    ("new_chat", {"messages": "x", "multitask_strategy": "x"}, "options.multitask_strategy"),
    ("resume_chat", {"thread_id": None}, "thread_id"),
    ("resume_chat", {"thread_id": ""}, "thread_id"),
    ("resume_chat", {"messages": "x", "resume": 1}, "resume"),
    ("resume_chat", {"update": 1}, "update"),
    ("resume_chat", {"goto": "x"}, "goto"),
    ("resume_chat", {"resume": 1, "goto": ""}, "goto"),
    ("resume_chat", {"resume": 1, "goto": [1]}, "goto"),
    ("resume_chat", {"checkpoint_id": 1}, "checkpoint_id"),
]


@pytest.mark.parametrize(("kind", "fields"), GOOD)
def test_what_is_sent_is_what_the_server_takes(kind: str, fields: dict[str, Any]) -> None:
    message = start(kind, **fields)
    assert message["type"] == kind
    assert decode(kind, message).command()


@pytest.mark.parametrize(("kind", "fields", "field"), WRONG)
def test_what_is_wrong_is_named_before_it_is_sent(
    kind: str, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        start(kind, **fields)
    assert raised.value.field == field
    assert str(raised.value).startswith(f"{field}: ")
    wire = {"type": kind, "run_id": "r", "thread_id": "t"} | fields
    if "multitask_strategy" in wire:
        wire["options"] = {"multitask_strategy": wire["multitask_strategy"]}
    if wire.get("messages") == "x":
        wire["messages"] = [HELLO]
    if wire == {"type": kind, "run_id": "r", "thread_id": None} and kind == "new_chat":
        return
    with pytest.raises(RequestError):
        decode(kind, wire).command()


class Colour(StrEnum):
    RED = "red"


class Order(BaseModel):
    """A model that says itself what it is in JSON."""

    when: date
    price: float = 1.5


CYCLE: dict[str, Any] = {}
CYCLE["x"] = [CYCLE]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (float("nan"), ""),
        ({"a": [1, float("inf")]}, ".a.1"),
        ({"a": {1, 2}}, ".a"),
        ([b"x"], ".0"),
        ({"when": datetime.now(UTC)}, ".when"),
        ({1: "x"}, ""),
        ({"a": {None: 1}}, ".a"),
        (2**53, ""),
        ({"a": -(10**30)}, ".a"),
        (["\ud800"], ".0"),
        ({"\ud800": 1}, ""),
        (object(), ""),
        (print, ""),
        (Path("x"), ""),
        (CYCLE, ".x.0"),
        (Order(when=date(2026, 1, 2), price=float("nan")), ".price"),
    ],
)
@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("input", lambda value: {"input": value}),
        ("resume", lambda value: {"resume": value}),
        ("update", lambda value: {"resume": 1, "update": value}),
        ("options.k", lambda value: {"options": {"k": value}}),
        ("messages.0.k", lambda value: {"messages": [HELLO | {"k": value}]}),
    ],
    ids=["input", "resume", "update", "options", "messages"],
)
def test_what_json_cannot_hold_is_named_and_not_altered(
    field: str, fields: Callable[[Any], dict[str, Any]], value: Any, path: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        start("resume_chat", **fields(value))
    assert raised.value.field == field + path
    assert "expected" in raised.value.message


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ((1, True, None, "ü", 0.5), [1, True, None, "ü", 0.5]),
        ({"a": (), "b": Colour.RED}, {"a": [], "b": "red"}),
        (2**53 - 1, 2**53 - 1),
        ({"order": Order(when=date(2026, 1, 2))}, {"order": {"when": "2026-01-02", "price": 1.5}}),
    ],
)
def test_what_json_can_hold_is_sent_as_it_is(value: Any, sent: Any) -> None:
    assert start("new_chat", input=value)["input"] == sent


def test_what_is_nested_too_deep_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="levels"):
        start("new_chat", input=deep)


def test_what_was_passed_may_change_afterwards() -> None:
    given = {"x": [1]}
    message = start("new_chat", input=given)
    given["x"].append(2)
    assert message["input"] == {"x": [1]}


def test_the_messages_of_langchain_are_those_of_the_protocol() -> None:
    tool_call = {"name": "f", "args": {"x": 1}, "id": "c"}
    message = start(
        "new_chat",
        messages=[
            HumanMessage("Hi", id="m", name="Ann"),
            AIMessage("", tool_calls=[tool_call]),
            ToolMessage("3", tool_call_id="c"),
            AIMessage([{"type": "text", "text": "3"}]),
        ],
    )
    assert [(one["role"], one["content"]) for one in message["messages"]] == [
        ("user", "Hi"),
        ("assistant", ""),
        ("tool", "3"),
        ("assistant", [{"type": "text", "text": "3"}]),
    ]
    assert message["messages"][0] == {"role": "user", "content": "Hi", "id": "m", "name": "Ann"}
    assert message["messages"][1]["tool_calls"][0]["args"] == {"x": 1}
    assert message["messages"][2]["tool_call_id"] == "c"
    assert decode("new_chat", message).command()
    with pytest.raises(InvalidRequest) as raised:
        start("new_chat", messages=[SystemMessage("x")])
    assert raised.value.field == "messages.0.role"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((None, None, None), "thread_id"),
        (("a b", None, None), "thread_id"),
        ((None, "", None), "run_id"),
        (("t", None, Position("e", -1)), "after"),
        (("t", None, Position("e", True)), "after"),
        (("t", None, (None, 1)), "epoch"),
    ],
)
def test_an_attach_that_is_wrong_is_named(arguments: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        requests.attach(*arguments)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"url": "ftp://x"}, "url"),
        ({"url": "ws://"}, "url"),
        ({"url": "ws://h:x"}, "url"),
        ({"url": 3}, "url"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"token": ""}, "token"),
        ({"on_state": 1}, "on_state"),
        ({"on_text": 1}, "on_text"),
        ({"on_txt": print}, "on_txt"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        connect(**{"url": "ws://127.0.0.1:9"} | options)


# What is understood


SENT = {"new_chat", "resume_chat", "attach", "detach", "cancel", "ping", "auth"}


def test_every_message_of_the_protocol_is_understood() -> None:
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PROTOCOL, re.S)]
    received = [block for block in blocks if block["type"] not in SENT]
    assert len(received) > 20
    for block in received:
        message = parse(json.dumps(block))
        assert message.type == block["type"]
        assert message.seq == block.get("seq", getattr(message, "seq", None))
        told = message.model_dump(exclude_unset=True, mode="json")
        for name, value in block["data"].items():
            if name == "run_id" and isinstance(message, RolledBack):
                assert message.superseded == value
            elif isinstance(message, Custom):
                assert message.data in (block["data"], block["data"].get("data"))
            else:
                assert told.get(name) == value, f"{block['type']}.{name}"


@pytest.mark.parametrize("kind", sorted(set(MESSAGES) - {"custom"}))
def test_every_field_of_the_schema_is_understood(kind: str) -> None:
    message = get_type_hints(MESSAGES[kind])
    fields = set(get_type_hints(message["data"]))
    if kind == "rolled_back":  # of `data`, which would hide that of the envelope
        fields = {"superseded"}
    required = {"run_id": "r", "thread_id": "t", "epoch": "e", "seq": 1, "message_id": "m"}
    required |= {"code": "c", "status": "completed", "id": "i", "step": "a", "reason": "r"}
    required["checkpoint_id"] = "c"
    if kind == "checkpoint":
        required["step"] = 1
    understood = parse(orjson.dumps({"type": kind, "data": required}))
    assert fields <= set(type(understood).model_fields)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"type": 1}', "type"),
        ('{"type": "end", "data": {"status": "odd"}}', "status"),
        ('{"type": "end"}', "status"),
        ('{"type": "text", "seq": "x", "data": {"message_id": "m"}}', "seq"),
    ],
)
def test_what_cannot_be_understood_is_a_protocol_error(text: str, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        parse(text)


def test_an_unknown_type_is_passed_through() -> None:
    message = parse('{"type": "x", "run_id": "r", "seq": 4, "data": [1]}')
    assert message == Custom(type="x", run_id="r", seq=4, name="x", data=[1])


def seen(view: View, messages: list[Any]) -> list[str]:
    """The types of those messages that are news to a view."""
    parsed = [parse(orjson.dumps(message)) for message in messages]
    return [message.type for message in parsed if view.take(message)]


def said(view: View) -> list[str]:
    return [message.text for message in view.messages]


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_a_view_adds_up_a_run(mode: str) -> None:
    session = ChatSession()
    view = View("r-1")
    assert seen(view, follow(session, mode)) == []
    texts, thoughts = [], []
    for entry in entries(FIRST_RUN):
        for message in decoded(session.send("t-1", [entry])):
            seen(view, [message])
            if message["type"] == "text" and message["data"]["message_id"] == "m-1":
                texts.append(view.text_of("m-1", "text"))
            if message["type"] == "reasoning":
                thoughts.append(view.text_of("m-1", "reasoning"))
    assert texts[-1] == "A superstep is one tick 🕐."
    assert texts == [texts[-1][: len(text)] for text in texts]
    assert thoughts == ["Look ", "Look it up."]
    assert said(view) == ["What?", "A superstep is one tick 🕐.", "one two three", "eins zwei"]
    assert view.messages[1].reasoning == "Look it up."
    assert view.text == "eins zwei"
    assert [source.id for source in view.sources] == ["s1", "s2"]
    assert [(step.step, step.status) for step in view.steps] == [
        ("agent", "interrupted"),
        ("inner", "finished"),
    ]
    assert [one.value for one in view.interrupts] == [{"question": "Send it?"}]
    assert view.result().status == "interrupted"
    assert view.result().interrupts == tuple(view.interrupts)
    assert view.thread_id == "t-1"
    assert view.position == Position(EPOCH, len(FIRST_RUN))


def test_a_view_of_a_thread_forgets_what_is_void() -> None:
    session, view = ChatSession(), View()
    messages = [*follow(session, "delta"), *decoded(session.send("t-1", story()))]
    assert seen(view, messages)
    assert view.status == "completed"
    assert said(view) == []  # the second run rolled the first one back
    assert view.interrupts == []
    assert view.text == "A superstep is one tick."


def test_what_was_seen_is_no_news() -> None:
    session, view = ChatSession(), View()
    messages = [*follow(session, "delta"), *decoded(session.send("t-1", entries(FIRST_RUN)))]
    assert len(seen(view, messages)) == len(messages) - 1
    before = said(view), view.position
    assert seen(view, messages) == []
    assert (said(view), view.position) == before


def wire(kind: str, seq: int, run_id: str = "r-1", **data: Any) -> dict[str, Any]:
    return {"type": kind, "run_id": run_id, "seq": seq, "data": data}


def test_merged_deltas_that_overlap_say_nothing_twice() -> None:
    view = View("r-1")
    seen(view, [wire("text", 3, message_id="m", index=0, delta="ab🕐", offset=0)])
    seen(view, [wire("text", 5, message_id="m", index=0, delta="🕐cd", offset=2)])
    seen(view, [wire("text", 6, message_id="m", index=2, delta="!", offset=0)])
    assert view.text_of("m", "text") == "ab🕐cd!"
    assert view.text == "ab🕐cd!"
    assert view.text_of("x", "text") == ""


def test_a_snapshot_replaces_the_view_and_deltas_go_on_from_it() -> None:
    session, view = ChatSession(), View()
    seen(view, [*follow(session, "delta"), *decoded(session.send("t-1", entries(FIRST_RUN)))])
    told = follow(ChatSession(), "delta", after=100, gap=TRIMMED, snapshot=snapshot())
    assert seen(view, told) == ["gap", "snapshot"]
    assert said(view) == ["Hello"]
    assert view.position == Position("e-2", 100)
    assert view.text == "So far"
    assert view.steps == []
    assert view.status == "running"
    more = wire("text", 101, "r-9", message_id="m-9", index=0, delta=" so good", offset=6)
    assert seen(view, [more]) == ["text"]
    assert view.text == "So far so good"
    # an older snapshot says nothing new, unless something was lost
    assert seen(view, told[2:]) == []
    assert seen(view, told[1:]) == ["gap", "snapshot"]
    assert view.text == "So far"


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (None, ""),
        ({"run_id": "r-9", "status": "running"}, ""),
        ({"run_id": "r-1", "status": "completed"}, "old"),
    ],
)
def test_what_a_run_came_to_is_no_text_of_a_thread_that_lost_it(run: Any, text: str) -> None:
    view = View()
    log = [wire("final", 5, text="old"), wire("end", 6, status="completed")]
    begun = {"thread_id": "t-1", "run_id": "r-1", "status": "running", "epoch": EPOCH}
    seen(view, [wire("run", 1, **begun), *log])
    assert view.text == "old"
    lost = {"thread_id": "t-1", "epoch": "another", "seq": 0, "run": run}
    seen(view, [{"type": "snapshot", "data": lost}])
    assert view.text == text


def test_a_view_of_a_run_takes_its_part_of_a_snapshot() -> None:
    messages = [
        {"message_id": "m-1", "role": "user", "content": [{"type": "text", "text": "one"}]},
        {"message_id": "m-2", "role": "assistant", "content": [{"type": "text", "text": "two"}]},
        {"message_id": "m-3", "role": "user", "content": [{"type": "text", "text": "three"}]},
        {"message_id": "m-4", "role": "assistant", "content": [{"type": "text", "text": "four"}]},
    ]
    data = {"thread_id": "t", "epoch": "e", "seq": 9, "messages": messages}
    shown = {"type": "snapshot", "data": data | {"run": {"run_id": "r-2", "status": "running"}}}
    first, second = View("r-1"), View("r-2")
    seen(first, [wire("message", 2, **messages[1])])
    assert seen(first, [shown]) == seen(second, [shown]) == ["snapshot"]
    assert (said(first), said(second)) == (["two"], ["three", "four"])
    assert (first.text, second.text) == ("two", "four")


def test_another_attempt_voids_what_its_tasks_said_last() -> None:
    view = View()
    seen(
        view,
        [
            wire("message", 5, message_id="kept", task_id="a", content=[]),
            wire("workflow_step", 6, step="a", status="started", task_id="a"),
            wire("message", 11, message_id="void", task_id="a", content=[]),
            wire("message", 12, message_id="other", task_id="b", content=[]),
            wire("workflow_step", 13, step="a", status="finished", task_id="a"),
            wire("text", 14, message_id="open", task_id="a", delta="x", offset=0),
            wire("text", 15, message_id="fine", task_id="b", delta="y", offset=0),
            wire("attempt", 20, attempt=2, rerun_task_ids=["a"], rollback_to=10),
        ],
    )
    assert [message.message_id for message in view.messages] == ["kept", "other"]
    assert view.steps == []
    assert view.text_of("open", "text") == ""
    assert view.text_of("fine", "text") == "y"


def test_a_view_of_a_run_that_was_rolled_back_is_empty() -> None:
    view = View("r-1")
    seen(
        view,
        [
            wire("message", 1, message_id="m", content=[]),
            wire("sources", 2, sources=[{"id": "s"}]),
            wire("interrupt", 3, id="i"),
            wire("end", 4, status="cancelled"),
        ],
    )
    rolled_back = wire("rolled_back", 9, "r-2") | {"data": {"run_id": "r-1"}}
    assert seen(view, [rolled_back]) == ["rolled_back"]
    assert (view.messages, view.sources, view.interrupts) == ([], (), [])
    assert view.result().status == "cancelled"


@pytest.mark.parametrize("status", ["failed", "drained", "lost"])
def test_a_run_that_ended_badly_has_no_result(status: str) -> None:
    view = View("r-1")
    seen(view, [wire("end", 1, status=status)])
    with pytest.raises(RunFailedError) as raised:
        view.result()
    assert raised.value.code == status
    assert raised.value.retryable is (status == "drained")


def test_what_was_not_finished_when_the_run_ended_is_no_text_of_it() -> None:
    for status, text in (("cancelled", ""), ("lost", "x")):
        view = View("r-1")
        opened = wire("text", 1, message_id="m", delta="x")
        other = wire("text", 2, "r-2", message_id="n", delta="y")
        seen(view, [opened, other, wire("end", 3, status=status)])
        assert view.text == text


def test_what_a_run_was_given_may_be_anything() -> None:
    view = View("r-1")
    odd = [{"role": "user"}, {"message_id": "m", "content": "x"}, {"message_id": "n", "role": 3}]
    messages = [*odd, {"message_id": "o", "content": [{"type": "text", "text": "x"}, 3]}]
    info = {"thread_id": "t", "run_id": "r-1", "status": "running", "epoch": "e"}
    assert seen(view, [wire("run", 1, **info, messages=messages)]) == ["run"]
    assert said(view) == ["", "", "x"]


# With the real server


class Fast:
    """Rules to connect again that wait for nothing, and what they would have waited."""

    def __init__(self, **options: Any) -> None:
        self.slept: list[float] = []
        self.rules = Reconnect(sleep=self.sleep, random=lambda: 0.5, **options)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0.001)


class Seen:
    """Callbacks that remember, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls.append((name, arguments[0]))

    def all(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names or EVERY}

    def of(self, name: str) -> list[Any]:
        return [value for kind, value in self.calls if kind == name]


EVERY = tuple(Callbacks.__annotations__)


@asynccontextmanager
async def serving(graph: Any, *, port: int | None = None, **options: Any) -> AsyncIterator[int]:
    """A graph on a port; it stops in no time."""
    app = web.Application()
    options = {"close_timeout": 0.5, "drain_timeout": 0.2} | options
    attach_websocket(app, graph, **options)
    async with TestServer(app, host="127.0.0.1", port=port) as server:
        assert server.port is not None
        yield server.port


def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/ws"


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens in another task."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # a user's view of a client sets no event
            await asyncio.sleep(0.002)


def held() -> tuple[Any, asyncio.Event]:
    """A graph that says a word, waits, and says another."""
    go_on = asyncio.Event()
    model = ScriptedModel([Reply(text="first second", chunk_chars=6)])

    async def talk(state: MessagesState) -> dict[str, Any]:
        text = ""
        async for chunk in model.astream("x"):
            text += chunk.text
            if text == "first ":
                await go_on.wait()
        return {"messages": [AIMessage(text)]}

    return line(("talk", talk), saver=InMemorySaver()), go_on


async def test_a_run_from_its_beginning_to_its_end() -> None:
    async with serving(chat(Reply(text="Hello you", reasoning="hm"))) as port:
        seen_ = Seen()
        async with connect(url(port), **seen_.all()) as client:
            assert client.state.status == "open"
            run = await client.new_chat("Hi")
            messages = [message async for message in run]
            result = await run.result()
    assert (messages[0].type, messages[1].type) == ("run", "run")
    assert isinstance(messages[-1], End)
    positions = [message.seq for message in messages if message.seq is not None]
    assert positions == sorted(set(positions))
    assert (result.status, result.text) == ("completed", "Hello you")
    assert (run.text, run.status, run.thread_id != "") == ("Hello you", "completed", True)
    assert [message.role for message in run.messages] == ["user", "assistant"]
    assert [step.status for step in run.steps] == ["finished"]
    assert run.interrupts == []
    assert run.sources == ()
    assert run.run_id in repr(run)
    assert seen_.of("on_text")[-1] == "Hello you"
    assert seen_.of("on_reasoning")[-1] == "hm"
    assert seen_.of("on_workflow_step") == ["model", "model"]
    assert [message.text for message in seen_.of("on_message")] == ["Hello you"]
    assert [final.text for final in seen_.of("on_final")] == ["Hello you"]
    assert [name for name, _ in seen_.calls][-2:] == ["on_final", "on_end"]
    assert seen_.of("on_error") == []


async def test_the_messages_of_langchain_reach_the_graph() -> None:
    def echo(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{type(m).__name__}: {m.text}") for m in state["messages"]]}

    async with serving(line(("echo", echo))) as port, connect(url(port)) as client:
        for given in (
            {"messages": [HumanMessage("Hi")]},
            {"input": {"messages": [HumanMessage("Hi")]}},
            {"messages": "Hi"},
        ):
            run = await client.new_chat(**given)  # type: ignore[arg-type]  # one of each
            assert (await run.result()).text == "HumanMessage: Hi"
        with pytest.raises(InvalidRequest, match=r"input\.when: expected .* datetime\.datetime"):
            await client.new_chat(input={"when": datetime.now(UTC)})


async def test_callbacks_of_a_run_a_thread_and_the_client_are_each_called_once() -> None:
    client_saw, thread_saw, run_saw = Seen(), Seen(), Seen()
    async with (
        serving(chat("Hello")) as port,
        connect(url(port), **client_saw.all("on_final", "on_end")) as client,
    ):
        thread = await client.attach("t", **thread_saw.all("on_final"))
        run = await thread.new_chat("Hi", **run_saw.all("on_final"))
        await run.result()
        await until(lambda: thread.status == "completed" and client_saw.of("on_end"))
    for saw in (client_saw, thread_saw, run_saw):
        assert [final.text for final in saw.of("on_final")] == ["Hello"]
    assert client_saw.of("on_end") == ["completed"]


async def test_callbacks_may_wait_and_ask_the_client_for_more() -> None:
    order: list[str] = []

    async def on_interrupt(asked: Any) -> None:
        order.append("asked")
        await asyncio.sleep(0)
        await other.new_chat("Hi")
        order.append("answered")

    async with serving(asking()) as port, connect(url(port)) as client:
        other = client
        run = await client.new_chat(
            "Hi", on_interrupt=on_interrupt, on_end=lambda status, end: order.append(status)
        )
        await run.result()
        await until(lambda: len(order) == 3)
    assert order == ["asked", "answered", "interrupted"]


async def test_a_callback_that_raises_is_reported_and_nothing_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = []

    def fail(*_: object) -> None:
        raise ValueError("no")

    async with serving(chat("Hello")) as port:
        async with connect(url(port), on_final=fail, on_error=errors.append) as client:
            await (await client.new_chat("Hi")).result()
            await until(lambda: errors)
            run = await client.new_chat("Hi", on_final=fail, on_error=fail)
            await run.result()
            await until(lambda: len(errors) == 3)  # of the run's on_final, and of the client's
        async with connect(url(port), on_final=fail) as client:
            await (await client.new_chat("Hi")).result()
    assert [str(error) for error in errors] == ["no"] * 3
    assert "on_error raised" in caplog.text
    assert "ValueError: no" in caplog.text


async def test_everything_that_the_demo_says_reaches_its_callback() -> None:
    told = Seen()
    async with (
        serving(demo_graph(delay=0), expose_state=True) as port,
        connect(url(port), **told.all()) as client,
    ):
        question = await client.new_chat("What is a superstep?")
        assert (await question.result()).sources == question.sources
        run = await client.new_chat("approve")
        assert (await run.result()).status == "interrupted"
        run = await run.answer("yes")
        assert (await run.result()).status == "completed"
    assert question.sources
    assert told.of("on_text")
    assert told.of("on_reasoning")
    assert [call.args for call in told.of("on_tool_call") if call.status == "finished"]
    assert told.of("on_tool_result")[-1].status == "success"
    assert told.of("on_sources")[-1] == question.sources
    assert told.of("on_interrupt")[0].id == told.of("on_interrupt_answered")[0].ids[0]
    assert told.of("on_run")[0].run_id == question.run_id
    assert len(told.of("on_run")) == len(told.of("on_end")) == 3
    assert told.of("on_graph_state")[-1].values
    assert told.of("on_checkpoint")[-1].checkpoint_id
    assert told.of("on_error") == []


async def test_a_rollback_and_another_attempt_reach_their_callbacks() -> None:
    async def script(server: Scripted, ws: web.WebSocketResponse) -> None:
        asked = await server.next(ws)
        await ws.send_json(info(asked))
        attempt = {"attempt": 2, "rerun_task_ids": ["x"], "rollback_to": 0}
        await ws.send_json(wire("attempt", 1, asked["run_id"], **attempt))
        rolled_back = {"type": "rolled_back", "run_id": asked["run_id"], "seq": 2}
        await ws.send_json(rolled_back | {"data": {"run_id": asked["run_id"]}})
        await ws.send_json(wire("end", 3, asked["run_id"], status="cancelled"))
        await never_answer(server, ws)

    told = Seen()
    async with scripted(script) as server, connect(server.url, **told.all()) as client:
        run = await client.new_chat("Hi")
        assert (await run.result()).status == "cancelled"
        await until(lambda: told.of("on_end"))
    assert [attempt.rerun_task_ids for attempt in told.of("on_attempt")] == [("x",)]
    assert [it.superseded for it in told.of("on_rolled_back")] == [run.run_id]


async def test_a_thread_is_talked_to() -> None:
    async with serving(asking()) as port, connect(url(port)) as client:
        thread = await client.attach("t")
        run = await thread.new_chat("Hi")
        assert (await run.result()).status == "interrupted"
        await until(lambda: thread.interrupts)
        answered = await thread.answer("yes", run_id="r-2")
        assert (answered.run_id, answered.thread_id) == ("r-2", "t")
        assert (await answered.result()).text == "got yes"
        again = await thread.resume_chat("And?")
        assert (again.thread_id, (await again.result()).status) == ("t", "interrupted")
        await thread.cancel()  # nothing is active
    graph, _ = held()
    async with serving(graph) as port, connect(url(port)) as client:
        thread = await client.attach("t")
        run = await thread.new_chat("Hi")
        await until(lambda: run.text)
        await thread.cancel()
        assert (await run.result()).status == "cancelled"


async def test_a_run_that_answers_has_the_callbacks_of_the_one_that_asked() -> None:
    told, other = Seen(), Seen()
    async with serving(asking()) as port, connect(url(port)) as client:
        run = await client.new_chat("Hi", **told.all("on_end", "on_final"))
        await run.result()
        await (await run.answer("yes", **other.all("on_final"))).result()
        await until(lambda: len(told.of("on_end")) == 2)
    assert told.of("on_final") == []
    assert [final.text for final in other.of("on_final")] == ["got yes"]


async def test_custom_events_reach_their_callback() -> None:
    def node(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()({"type": "progress", "percent": 40})
        return {}

    seen_ = Seen()
    async with serving(line(("node", node))) as port, connect(url(port)) as client:
        all_three: list[Any] = []
        run = await client.new_chat(
            "Hi", on_custom=lambda *told: all_three.append(told), **seen_.all("on_end")
        )
        await run.result()
    [(name, data, message)] = all_three
    assert (name, data) == ("progress", {"type": "progress", "percent": 40})
    assert (message.name, message.run_id) == (name, run.run_id)
    assert len(seen_.of("on_end")) == 1


async def test_what_a_graph_asks_is_answered() -> None:
    async with serving(asking()) as port, connect(url(port)) as client:
        run = await client.new_chat("Hi")
        result = await run.result()
        assert result.status == "interrupted"
        assert [one.value for one in result.interrupts] == ["ok?"]
        assert [one.value for one in run.interrupts] == ["ok?"]
        with pytest.raises(RequestRefused) as raised:
            await run.answer({"f" * 32: "yes"})
        assert raised.value.code == "stale_interrupt"
        answered = await run.answer("yes")
        assert answered.thread_id == run.thread_id
        assert (await answered.result()).text == "got yes"


async def test_several_questions_are_answered_by_id() -> None:
    def node(name: str) -> Any:
        return lambda state: {"messages": [AIMessage(f"{name} {interrupt(name)}")]}

    graph = fan(("a", node("a")), ("b", node("b")), saver=InMemorySaver())
    async with serving(graph) as port, connect(url(port)) as client:
        asked = (await (await client.new_chat("Hi")).result()).interrupts
        assert sorted(one.value for one in asked) == ["a", "b"]
        thread_id = (await client.new_chat("Hi", thread_id="other")).thread_id
        assert thread_id == "other"
        run = await client.new_chat("Hi")
        answers = {one.id: f"to {one.value}" for one in (await run.result()).interrupts}
        await (done := await run.answer(answers)).result()
        assert sorted(text for text in said(done.view) if text != "Hi") == ["a to a", "b to b"]


async def test_a_run_that_fails_raises_and_is_told() -> None:
    def fail(state: MessagesState) -> dict[str, Any]:
        raise ValueError("secret")

    errors: list[Exception] = []
    async with (
        serving(line(("fail", fail))) as port,
        connect(url(port), on_error=errors.append) as client,
    ):
        run = await client.new_chat("Hi")
        with pytest.raises(RunFailedError) as raised:
            await run.result()
        await until(lambda: errors)
    assert raised.value.code == "graph_failed"
    assert raised.value.error_id
    assert errors == [raised.value]
    assert run.status == "failed"


async def test_a_run_is_cancelled_and_may_be_cancelled_again() -> None:
    graph, _ = held()
    async with serving(graph) as port, connect(url(port)) as client:
        run = await client.new_chat("Hi")
        await until(lambda: run.text)
        await run.cancel()
        result = await run.result()
        assert (result.status, result.text) == ("cancelled", "first ")
        await run.cancel()
        await client.cancel(run.run_id)
        with pytest.raises(InvalidRequest, match="run_id"):
            await client.cancel("not an id")


async def test_a_refusal_names_what_is_wrong() -> None:
    graph, _ = held()
    async with serving(graph) as port, connect(url(port)) as client:
        with pytest.raises(RequestRefused) as raised:
            await client.new_chat("Hi", assistant_id="other")
        assert raised.value.code == "unknown_graph"
        with pytest.raises(RequestRefused) as raised:
            await client.attach(run_id="unknown")
        assert raised.value.code == "not_found"
        run = await client.new_chat("Hi")
        with pytest.raises(RequestRefused) as raised:
            await client.new_chat("Hi", thread_id=run.thread_id, multitask_strategy="reject")
        assert raised.value.code == "thread_busy"
        with pytest.raises(InvalidRequest) as invalid:
            await client.new_chat("Hi", run_id=run.run_id)
        assert invalid.value.field == "run_id"


async def test_many_threads_one_after_the_other_and_many_at_once() -> None:
    """More than one connection may follow: what has ended is not followed any more."""
    limits = Limits(threads_per_connection=4, messages_per_second=10_000, message_burst=10_000)
    async with serving(chat("Hello"), limits=limits) as port, connect(url(port)) as client:
        for _ in range(12):
            assert (await (await client.new_chat("Hi")).result()).text == "Hello"
        runs = await asyncio.gather(*(client.new_chat("Hi") for _ in range(3)))
        results = await asyncio.gather(*(run.result() for run in runs))
        assert [result.text for result in results] == ["Hello"] * 3


async def test_turns_on_one_thread_and_a_queued_run() -> None:
    graph, go_on = held()
    async with serving(graph) as port, connect(url(port)) as client:
        first = await client.new_chat("one", thread_id="t")
        second = await client.new_chat("two", thread_id="t")
        assert second.status == "queued"
        go_on.set()
        assert (await first.result()).status == "completed"
        assert (await second.result()).text == "first second"
        third = await client.resume_chat("t", "three")
        messages = [message async for message in third]
        assert {message.run_id for message in messages} == {third.run_id}
        thread = await client.attach("t")
        await until(lambda: len(thread.messages) == 6)
        assert [message.text for message in thread.messages if message.role == "user"] == [
            "one",
            "two",
            "three",
        ]


async def test_a_thread_is_followed_from_a_saved_position() -> None:
    graph, go_on = held()
    async with serving(graph) as port, connect(url(port)) as client:
        run = await client.new_chat("Hi")
        await until(lambda: run.text)
        position = run.position
        assert position is not None
        async with connect(url(port)) as other:
            texts: list[str] = []
            thread = await other.attach(
                run.thread_id, after=position, on_text=lambda text, _: texts.append(text)
            )
            assert "Thread" in repr(thread)
            go_on.set()
            ended = [message async for message in until_end(thread)]
            assert all((message.seq or 0) > position.seq for message in ended)
            # the text so far is whole, though it began before the position
            assert texts[-1] == "first second"
            assert thread.status == "completed"
            assert thread.position is not None
            saved = thread.position
            await thread.detach()
            await thread.detach()
            assert [message async for message in thread] == []
            again = await other.attach(run.thread_id, after=saved)
            later = await other.new_chat("More", thread_id=run.thread_id)
            await later.result()
            news = [message async for message in until_end(again)]
            assert {message.run_id for message in news} == {later.run_id}


async def until_end(handle: Any) -> AsyncIterator[Message]:
    """The messages of a handle to the next `end`."""
    async for message in handle:
        yield message
        if isinstance(message, End):
            return


async def test_one_run_is_followed_from_another_client() -> None:
    graph, go_on = held()
    async with (
        serving(graph) as port,
        connect(url(port)) as client,
        connect(url(port)) as other,
    ):
        run = await client.new_chat("Hi")
        await until(lambda: run.text)
        watched = await other.attach(run_id=run.run_id)
        assert watched.thread_id == run.thread_id
        await until(lambda: watched.text == "first ")
        # another run on the thread, while only the first one is followed
        second = await other.new_chat("More", thread_id=run.thread_id)
        late = await other.attach(run.thread_id)
        go_on.set()
        assert (await watched.result()).text == "first second"
        assert (await second.result()).text == "first second"
        assert (await run.result()).text == "first second"
        await until(lambda: len(late.messages) == 4)
        ended = await other.attach(run.thread_id, run_id=run.run_id)
        assert (await ended.result()).text == "first second"


async def test_starting_again_with_the_id_of_a_run_starts_nothing() -> None:
    starts: list[None] = []

    def node(state: MessagesState) -> dict[str, Any]:
        starts.append(None)
        return {"messages": [AIMessage("once")]}

    async with (
        serving(line(("node", node), saver=InMemorySaver())) as port,
        connect(url(port)) as client,
    ):
        thread = await client.attach("t")
        first = await client.new_chat("Hi", run_id="r", thread_id="t")
        assert (await first.result()).text == "once"
        await until(lambda: thread.status == "completed")
        again = await client.new_chat("Hi", run_id="r", thread_id="t")
        assert (await again.result()).text == "once"
    assert len(starts) == 1


async def test_what_is_not_over_when_the_client_is_closed_raises() -> None:
    graph, _ = held()
    async with serving(graph) as port:
        async with connect(url(port)) as client:
            run = await client.new_chat("Hi")
            thread = await client.attach(run.thread_id)
            reading = asyncio.create_task(collect(thread))
            await until(lambda: thread.text)
        assert (await reading)[0].type == "run"
        with pytest.raises(ConnectionFailedError, match="closed"):
            await run.result()
        with pytest.raises(ConnectionFailedError, match="closed"):
            await collect(run)
        with pytest.raises(ConnectionFailedError, match="closed"):
            await client.new_chat("Hi")
        assert client.state == ConnectionState(status="closed", reason="the client was closed")
        with pytest.raises(ConfigurationError, match="once"):
            await client.__aenter__()


async def collect(handle: Any) -> list[Message]:
    return [message async for message in handle]


async def test_a_client_works_only_inside_its_context() -> None:
    client = connect("ws://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="async with"):
        await client.new_chat("Hi")
    await client.close()


async def test_a_call_that_is_cancelled_leaves_nothing_behind() -> None:
    async with scripted(never_answer, never_answer) as server, connect(server.url) as client:
        for count, call in enumerate((client.new_chat("Hi"), client.attach("t")), 1):
            task = asyncio.create_task(call)
            await until(lambda: len(server.received) == count)  # noqa: B023  # it is awaited here
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_session_of_the_application_stays_open() -> None:
    async with serving(chat("Hello")) as port, aiohttp.ClientSession() as session:
        async with connect(url(port), session=session) as client:
            assert (await (await client.new_chat("Hi")).result()).text == "Hello"
        assert not session.closed


# Reading more than the program takes


def chatty(count: int) -> Any:
    """A graph that makes many messages."""

    async def tick(state: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        for number in range(count):
            writer({"type": "tick", "number": number})
            if number % 50 == 0:
                await asyncio.sleep(0)
        return {}

    return StateGraph(MessagesState).add_node("tick", tick).add_edge(START, "tick").compile()


def numbers(messages: list[Message]) -> list[int]:
    return [message.data["number"] for message in messages if isinstance(message, Custom)]


LARGE = Retention(entries=100_000, thread_bytes=1 << 30, total_bytes=1 << 31)


@pytest.mark.parametrize("how", ["iterating", "called"])
async def test_a_program_that_takes_its_time_misses_nothing(how: str) -> None:
    """The client stops reading, takes that for no silence, and still hears what is asked for."""
    go_on, begun, got = asyncio.Event(), asyncio.Event(), list[int]()

    async def take(data: Any) -> None:
        got.append(data["number"])
        if len(got) == 1:
            begun.set()
            await go_on.wait()

    async def iterate(run: Any) -> None:
        async for message in run:
            if isinstance(message, Custom):
                await take(message.data)

    called = {"on_custom": lambda name, data, _: take(data)} if how == "called" else {}
    states: list[ConnectionState] = []
    async with (
        serving(chatty(15_000), log=MemoryThreadLog(LARGE)) as port,
        connect(url(port), heartbeat=0.1, on_state=states.append, **called) as client,
    ):
        run = await client.new_chat("Hi")
        reading = asyncio.create_task(iterate(run)) if how == "iterating" else None
        await begun.wait()
        async with connect(url(port)) as other:
            await (await other.attach(run_id=run.run_id)).result()
        await asyncio.sleep(0.4)
        assert run.status == "running"
        await client.cancel("nobody")
        assert run.status == "running"
        go_on.set()
        await run.result()
        if reading is not None:
            await reading
    assert got == list(range(15_000))
    assert "reconnecting" not in [state.status for state in states]


async def test_who_does_not_iterate_keeps_the_newest_and_is_told_so() -> None:
    async with (
        serving(chatty(12_000), log=MemoryThreadLog(LARGE)) as port,
        connect(url(port)) as client,
    ):
        run = await client.new_chat("Hi")
        await run.result()
        messages = await collect(run)
    assert isinstance(messages[0], Gap)
    assert messages[0].reason == "buffer"
    assert len(messages) == 10_001
    assert numbers(messages)[-1] == 11_999


# Cuts, restarts, and what is lost meanwhile


@pytest.mark.timeout(120)
async def test_cut_again_and_again_it_sees_everything_once() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    starts: list[str] = []
    words = " ".join(f"word{number}" for number in range(1_500))
    model = ScriptedModel([Reply(text=words, chunk_chars=5)])

    async def talk(state: MessagesState) -> dict[str, Any]:
        starts.append("")
        writer, text = get_stream_writer(), ""
        number = 0
        async for chunk in model.astream("x"):
            text += chunk.text
            writer({"type": "tick", "number": number})
            number += 1
            if number % 10 == 0:
                await asyncio.sleep(0.002)
        return {"messages": [AIMessage(text)]}

    async with (
        serving(
            line(("talk", talk)), log=MemoryThreadLog(LARGE), limits=Limits(connections=10_000)
        ) as port,
        CuttingProxy(port, seed=seed, cuts=60).serving() as proxy,
    ):
        fast = Fast(max_attempts=None)
        states: list[ConnectionState] = []
        texts: list[str] = []
        async with connect(
            url(proxy.port),
            reconnect=fast.rules,
            on_state=states.append,
            on_text=lambda text, _: texts.append(text),
        ) as client:
            runs = [await client.new_chat("Hi") for _ in range(3)]
            everything = await asyncio.gather(*map(collect, runs))
            results = [await run.result() for run in runs]
    assert len(starts) == 3
    for messages, result in zip(everything, results, strict=True):
        ticks = numbers(messages)
        assert ticks == list(range(len(ticks)))
        assert len(ticks) > 1_000
        assert "".join(m.delta or "" for m in messages if type(m) is Text) == words
        assert result.text == words
    assert all(words.startswith(text) for text in texts)
    assert proxy.cuts >= 10
    reconnecting = [state for state in states if state.status == "reconnecting"]
    assert {state.attempt for state in reconnecting} >= {1}
    assert all(state.reason for state in reconnecting)


async def test_a_restarted_server_has_another_epoch() -> None:
    graph, _ = held()
    fast, told = Fast(max_attempts=None), Seen()
    async with AsyncExitStack() as first:
        port = await first.enter_async_context(serving(graph))
        client = connect(url(port), reconnect=fast.rules, **told.all("on_gap", "on_snapshot"))
        async with client:
            run = await client.new_chat("Hi", thread_id="t")
            thread = await client.attach("t")
            quiet = await client.attach("quiet")
            await until(lambda: thread.text)
            old = thread.position
            assert old is not None
            await first.aclose()
            with pytest.raises(RunFailedError) as raised:
                await run.result()
            assert raised.value.code in ("drained", "lost")
            async with serving(chat("Hello again", saver=InMemorySaver()), port=port):
                later = await client.new_chat("Hi", thread_id="t")
                assert (await later.result()).text == "Hello again"
                await until(lambda: thread.text == "Hello again")
                assert thread.position is not None
                assert thread.position.epoch != old.epoch
                assert {gap.thread_id for gap in told.of("on_gap")} == {"t"}
                assert told.of("on_snapshot")[0].messages == ()
                assert quiet.status == "idle"
                stale = await client.attach("t", after=old)
                assert isinstance(await anext(aiter(stale)), Gap)
                await until(lambda: stale.text == "Hello again")


async def test_a_server_that_died_knows_nothing_of_the_run() -> None:
    """No drain, no bye: the process is gone, and another one answers."""
    graph, _ = held()
    async with (
        serving(graph) as one,
        serving(chat("Hello")) as two,
        Switch(one).serving() as switch,
    ):
        fast, told = Fast(max_attempts=None), Seen()
        async with connect(url(switch.port), reconnect=fast.rules, **told.all()) as client:
            alone = await client.new_chat("Hi")
            with_thread = await client.new_chat("Hi", thread_id="t")
            thread = await client.attach("t")
            await until(lambda: alone.text and with_thread.text and thread.text)
            await switch.to(two)
            for run in (alone, with_thread):
                with pytest.raises(RunFailedError) as raised:
                    await run.result()
                assert raised.value.code == "lost"
                assert run.text == ("first " if run is alone else "")
            await until(lambda: told.of("on_snapshot"))
            run = await client.new_chat("Hi", thread_id="t")
            assert (await run.result()).text == "Hello"
            await until(lambda: thread.text == "Hello")
            assert [message.text for message in thread.messages] == ["Hi", "Hello"]
            assert told.of("on_end").count("lost") == 2
            kinds = [type(error) for error in told.of("on_error")]
            assert kinds.count(RunFailedError) == 2
            assert set(kinds) == {RunFailedError, ConnectionLostError}


@pytest.mark.parametrize("with_thread", [False, True])
@pytest.mark.parametrize("others", [0, 1])
async def test_a_run_that_ended_and_was_forgotten_meanwhile_has_its_result(
    with_thread: bool, others: int
) -> None:
    """Only the end of the run is held any more; perhaps another run came after it, too."""
    graph, go_on = held()
    log = MemoryThreadLog(Retention(entries=20, finished_s=0.0))
    async with serving(graph, log=log) as port, Switch(port).serving() as switch:
        fast, told = Fast(max_attempts=None), Seen()
        async with connect(url(switch.port), reconnect=fast.rules, **told.all()) as client:
            run = await client.new_chat("Hi", thread_id="t")
            thread = await client.attach("t") if with_thread else None
            await until(lambda: run.text)
            switch.cut()
            await until(lambda: fast.slept)
            go_on.set()
            async with connect(url(port)) as other:
                watched = await other.attach(run_id=run.run_id)
                await watched.result()
                for _ in range(others):
                    await (await other.new_chat("More", thread_id="t")).result()
                    await (await other.new_chat("More", thread_id="t")).result()
            switch.mend()
            result = await run.result()
            assert (result.status, result.text) == ("completed", "first second")
            if thread is not None:
                await until(lambda: len(thread.messages) == 2 + 4 * others)
                later = await client.new_chat("Again", thread_id="t")
                await later.result()
                await until(lambda: len(thread.messages) == 4 + 4 * others)


async def test_a_run_that_waits_is_attached_to_beside_the_one_that_runs() -> None:
    graph, go_on = held()
    async with (
        serving(graph) as port,
        connect(url(port)) as client,
        connect(url(port)) as other,
    ):
        first = await client.new_chat("one", thread_id="t", on_text=None)
        await until(lambda: first.text)
        queued = await other.new_chat("two", thread_id="t")
        watched = await client.attach(run_id=queued.run_id)
        assert watched.status == "queued"
        go_on.set()
        text = ""
        for message in await collect(first):
            if type(message) is Text and message.delta is not None:
                text = text[: message.offset] + message.delta
        assert text == "first second"
        assert (await watched.result()).text == "first second"


async def test_what_waits_is_known_to_who_attaches_behind_it() -> None:
    async with serving(asking()) as port, connect(url(port)) as client:
        run = await client.new_chat("Hi", thread_id="t")
        await run.result()
        async with connect(url(port)) as other:
            thread = await other.attach("t", after=run.position)
            assert [one.value for one in thread.interrupts] == ["ok?"]
            assert thread.status == "interrupted"
            lost = await other.attach("t", after=Position("another", 3))
            types = [(await anext(messages)).type for messages in [aiter(lost)] for _ in range(2)]
            assert types == ["gap", "run"]
            await until(lambda: lost.interrupts)
            assert said(lost.view) == ["Hi"]
        async with connect(url(port)) as other:
            lost = await other.attach("t", after=Position("another", 3))
            types = [(await anext(messages)).type for messages in [aiter(lost)] for _ in range(2)]
            assert types == ["gap", "snapshot"]


async def test_what_is_asked_for_while_there_is_no_connection_is_done_later() -> None:
    async with serving(chat("Hello")) as port, Switch(port).serving() as switch:
        fast = Fast(max_attempts=None)
        async with connect(url(switch.port), reconnect=fast.rules) as client:
            switch.cut()
            await until(lambda: fast.slept)
            calls = [client.attach("t"), client.new_chat("Hi", thread_id="t")]
            pending = asyncio.gather(*calls)
            await until(lambda: len(fast.slept) > 5)
            switch.mend()
            thread, run = await pending
            assert (await run.result()).text == "Hello"
            await until(lambda: thread.text == "Hello")


async def test_two_threads_attached_in_the_middle_of_unknown_runs_are_told_apart() -> None:
    graph, go_on = held()
    async with serving(graph) as port, connect(url(port)) as client:
        positions = {}
        for thread_id in ("a", "b", "c"):
            run = await client.new_chat(f"to {thread_id}", thread_id=thread_id)
            await until(lambda: run.text)  # noqa: B023  # it is awaited here
            positions[thread_id] = run.position
        go_on.set()
        await until(lambda: run.over)
        newest = [await client.new_chat("More", thread_id=thread_id) for thread_id in positions]
        for run in newest:
            await run.result()
        async with connect(url(port)) as other:
            threads = await asyncio.gather(
                *(other.attach(key, after=after) for key, after in positions.items())
            )
            for thread in threads:
                await until(lambda: len(thread.messages) == 3)  # noqa: B023
            for thread in threads:
                assert said(thread.view) == ["first second", "More", "first second"]


# Bad servers

Script = Callable[["Scripted", web.WebSocketResponse], Awaitable[None]]
Refusal = Callable[[], web.HTTPException]


class Scripted:
    """A server that does with each connection what is written down; the last for all others."""

    def __init__(self, scripts: tuple[Script | Refusal | int, ...]) -> None:
        self.url = ""
        self.received: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.connections = 0
        self._scripts = scripts

    async def handle(self, request: web.Request) -> web.StreamResponse:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        self.headers.append(request.headers)
        if isinstance(script, int):
            return web.Response(status=script, headers={"Retry-After": "7"})
        ws = web.WebSocketResponse(autoping=False, timeout=0.5)
        await ws.prepare(request)
        await script(self, ws)  # type: ignore[call-arg, arg-type, misc]  # a Script
        await ws.close()
        return ws

    async def next(self, ws: web.WebSocketResponse) -> dict[str, Any]:
        """The next message; remembered."""
        while True:
            message = await ws.receive()
            if message.type is WSMsgType.TEXT:
                self.received.append(orjson.loads(message.data))
                return self.received[-1]
            if message.type is not WSMsgType.PONG:
                raise asyncio.CancelledError


@asynccontextmanager
async def scripted(*scripts: Any) -> AsyncIterator[Scripted]:
    server = Scripted(scripts)
    app = web.Application()
    app.router.add_get("/ws", server.handle)
    async with TestServer(app, host="127.0.0.1") as running:
        server.url = str(running.make_url("/ws"))
        yield server


async def never_answer(server: Scripted, ws: web.WebSocketResponse) -> None:
    while True:
        await server.next(ws)


def info(asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The answer to a start."""
    data = {"thread_id": "t", "run_id": asked.get("run_id"), "status": "running", "epoch": "e"}
    return {"type": "run", "request_id": asked["id"], "data": data | {"head": 0} | more}


async def run_to_the_end(server: Scripted, ws: web.WebSocketResponse) -> None:
    """Answers every start with a run that ends at once."""
    while True:
        asked = await server.next(ws)
        if asked["type"] in ("new_chat", "attach"):
            await ws.send_json(info(asked))
            run_id = asked.get("run_id")
            await ws.send_json(wire("final", 8, run_id, text="done"))
            await ws.send_json(wire("end", 9, run_id, status="completed"))


def says_bye(retry: str, after_ms: int, code: int = 1012) -> Script:
    async def script(server: Scripted, ws: web.WebSocketResponse) -> None:
        bye = {"reason": "restart", "retry": retry, "after_ms": after_ms}
        await ws.send_json({"type": "bye", "data": bye})
        await ws.close(code=code)

    return script


def closes(code: int) -> Script:
    async def script(server: Scripted, ws: web.WebSocketResponse) -> None:
        await ws.close(code=code, message=b"because")

    return script


async def test_a_bye_says_how_long_to_wait() -> None:
    fast = Fast()
    states: list[ConnectionState] = []
    async with (
        scripted(says_bye("resume", 4200), run_to_the_end) as server,
        connect(server.url, reconnect=fast.rules, on_state=states.append) as client,
    ):
        assert (await (await client.new_chat("Hi")).result()).text == "done"
        assert client.state.status == "open"
    assert fast.slept == [4.2]
    kinds = [state.status for state in states]
    assert kinds == ["connecting", "open", "reconnecting", "connecting", "open", "closed"]
    assert states[2].delay == 4.2


@pytest.mark.parametrize(
    "script",
    [says_bye("never", 0), says_bye("reauth", 0, 1000), closes(4400), closes(4403), closes(4401)],
)
async def test_the_end_of_a_connection_may_be_for_good(script: Script) -> None:
    errors: list[Exception] = []
    async with scripted(script) as server:
        with pytest.raises(ConnectionFailedError, match="closed") as raised:
            async with connect(server.url, token="t", on_error=errors.append):
                pass
    assert server.connections == 1
    assert errors == [raised.value]


@pytest.mark.parametrize("code", [1001, 1011, 1013, 4408, 4429, 4450])
async def test_the_end_of_a_connection_may_be_only_for_now(code: int) -> None:
    fast = Fast()
    async with (
        scripted(closes(code), run_to_the_end) as server,
        connect(server.url, reconnect=fast.rules) as client,
    ):
        assert (await (await client.new_chat("Hi")).result()).text == "done"
    assert fast.slept == [1.0]


async def test_it_gives_up_in_the_end_and_says_so_to_all_who_wait() -> None:
    fast = Fast(max_attempts=3)
    errors: list[Exception] = []
    states: list[ConnectionState] = []

    async def begin_and_close(server: Scripted, ws: web.WebSocketResponse) -> None:
        await ws.send_json(info(await server.next(ws)))
        await ws.send_json(info(await server.next(ws), run_id=None, status="idle"))
        await server.next(ws)

    async with (
        scripted(begin_and_close, 500) as server,
        connect(
            server.url, reconnect=fast.rules, on_error=errors.append, on_state=states.append
        ) as client,
    ):
        run = await client.new_chat("Hi")
        thread = await client.attach("t")
        waiting = [
            asyncio.create_task(call)
            for call in (run.result(), collect(run), collect(thread), client.attach("u"))
        ]
        results = await asyncio.gather(*waiting, client.new_chat("x"), return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionFailedError] * 5
        assert "500" in str(results[0])
        assert isinstance(results[0].__reduce__(), tuple)
        with pytest.raises(ConnectionFailedError):
            await client.attach("t")
    assert [type(error) for error in errors[:-1]] == [ConnectionLostError] * 3
    codes = [(error.code, error.http_status) for error in errors]  # type: ignore[attr-defined]
    assert codes == [(1000, None), (None, 500), (None, 500), (None, 500)]
    assert errors[-1] is results[0]
    assert isinstance(results[0], ConnectionFailedError)
    assert isinstance(results[0].cause, aiohttp.WSServerHandshakeError)
    assert [round(seconds, 2) for seconds in fast.slept] == [1.0, 1.5, 2.25]
    assert states[-1].status == "closed"
    assert "500" in states[-1].reason


@pytest.mark.parametrize("status", [400, 403, 404, 410, 426, 401])
async def test_a_handshake_may_be_refused_for_good(status: int) -> None:
    async with scripted(status) as server:
        with pytest.raises(ConnectionFailedError, match=str(status)):
            async with connect(server.url, headers={"X-Key": "k"}):
                pass
    assert server.connections == 1
    assert server.headers[0]["X-Key"] == "k"
    assert server.headers[0]["Sec-WebSocket-Protocol"] == "langgraph-ws.chat.v1"


async def test_a_route_that_does_not_exist_is_said_to_be_so_at_once() -> None:
    fast = Fast()
    async with serving(chat("Hello")) as port:
        with pytest.raises(ConnectionFailedError, match="404: nothing is served at this URL"):
            async with connect(url(port) + "s", reconnect=fast.rules):
                pass
    assert fast.slept == []


async def test_a_token_may_help_where_a_handshake_is_forbidden() -> None:
    async def accepts(server: Scripted, ws: web.WebSocketResponse) -> None:
        asked = await server.next(ws)
        await ws.send_json({"type": "authenticated", "request_id": asked["id"], "data": {}})
        await never_answer(server, ws)

    tokens = iter(["old", "new"])
    fast = Fast()
    async with (
        scripted(403, accepts) as server,
        connect(server.url, token=lambda: next(tokens), reconnect=fast.rules) as client,
    ):
        assert client.state.status == "open"
    assert [message["token"] for message in server.received] == ["new"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_handshake_may_be_put_off(status: int) -> None:
    fast = Fast()
    async with (
        scripted(status, 502, run_to_the_end) as server,
        connect(server.url, reconnect=fast.rules) as client,
    ):
        assert (await (await client.new_chat("Hi")).result()).text == "done"
    assert fast.slept == [7.0, 1.5]


async def test_nobody_listens() -> None:
    fast = Fast(max_attempts=2)
    with pytest.raises(ConnectionFailedError, match="no connection") as raised:
        async with connect("ws://127.0.0.1:1/ws", reconnect=fast.rules):
            pass
    assert isinstance(raised.value.cause, OSError)
    assert len(fast.slept) == 2


async def test_a_token_is_sent_first_and_renewed_when_it_is_not_accepted() -> None:
    seen_tokens: list[str] = []

    def authorize_token(request: web.Request, token: str) -> Identity | None:
        seen_tokens.append(token)
        return Identity(id="ann") if token != "token 0" else None

    fast = Fast()
    made: list[str] = []

    async def token() -> str:
        made.append(f"token {len(made)}")
        return made[-1]

    async with serving(
        chat("Hello"), authorize=lambda request: None, authorize_token=authorize_token
    ) as port:
        async with connect(url(port), token=token, reconnect=fast.rules) as client:
            assert (await (await client.new_chat("Hi")).result()).text == "Hello"
        assert seen_tokens == ["token 0", "token 1"]
        assert fast.slept == [0.0]
        async with connect(url(port), token="fixed") as client:
            assert (await (await client.new_chat("Hi")).result()).text == "Hello"
        with pytest.raises(ConnectionFailedError, match="4401"):
            async with connect(url(port), token="token 0"):
                pass
        with pytest.raises(ConnectionFailedError, match="4401"):
            async with connect(url(port), token=lambda: "token 0", reconnect=fast.rules):
                pass


async def test_an_identity_that_expires_is_renewed_and_the_run_goes_on() -> None:
    graph, go_on = held()
    clock = asyncio.get_running_loop().time
    began = clock()

    def authorize_token(request: web.Request, token: str) -> Identity:
        now = datetime.now(UTC).timestamp()
        return Identity(id="ann", expires_at=now + 0.3 if token == "short" else None)

    tokens = iter(["short", "long"])
    fast, states = Fast(), []
    async with (
        serving(
            graph,
            authorize=lambda request: None,
            authorize_token=authorize_token,
            heartbeat=0.4,
        ) as port,
        connect(
            url(port),
            token=lambda: next(tokens),
            reconnect=fast.rules,
            on_state=states.append,
        ) as client,
    ):
        run = await client.new_chat("Hi")
        await until(lambda: len([state for state in states if state.status == "open"]) == 2)
        go_on.set()
        assert (await run.result()).text == "first second"
    assert fast.slept == [0.0]
    assert clock() > began


async def test_a_token_where_none_is_taken_is_a_failure() -> None:
    async with serving(chat("Hello")) as port:
        with pytest.raises(ConnectionFailedError, match="unknown_type") as raised:
            async with connect(url(port), token="t"):
                pass
    assert isinstance(raised.value.cause, RequestRefused)


async def test_a_token_that_cannot_be_made_is_tried_again() -> None:
    fast, errors = Fast(max_attempts=2), list[Exception]()

    def token() -> str:
        if len(errors) < 2:
            raise KeyError("secret store")
        return ""

    with pytest.raises(ConnectionFailedError, match="token"):
        async with connect(
            "ws://127.0.0.1:1/ws", token=token, reconnect=fast.rules, on_error=errors.append
        ):
            pass
    assert len(fast.slept) == 2
    kinds = [type(error) for error in errors]
    assert kinds == [ConnectionLostError, ConnectionLostError, ConnectionFailedError]
    assert isinstance(errors[0].cause, KeyError)  # type: ignore[attr-defined]
    assert "secret store" in str(errors[0])


async def test_a_silent_server_is_pinged_and_left() -> None:
    fast, states = Fast(), []
    async with (
        scripted(never_answer, run_to_the_end) as server,
        connect(server.url, reconnect=fast.rules, heartbeat=0.1, on_state=states.append) as client,
    ):
        run = await client.new_chat("Hi")
        assert (await run.result()).text == "done"
    kinds = [message["type"] for message in server.received]
    assert kinds[:4] == ["new_chat", "ping", "ping", "new_chat"]
    assert server.received[0]["run_id"] == server.received[3]["run_id"]
    assert [state.reason for state in states if state.status == "reconnecting"] == [
        "the server is silent"
    ]


async def test_a_server_that_only_answers_pings_is_alive() -> None:
    pings: list[dict[str, Any]] = []

    async def pong(server: Scripted, ws: web.WebSocketResponse) -> None:
        while True:
            asked = await server.next(ws)
            if asked["type"] == "ping":
                pings.append(asked)
                await ws.send_json({"type": "pong", "data": {"time": 1}})
                await ws.ping(b"you?")
                assert (await ws.receive()).data == b"you?"
            if len(pings) == 4:
                await ws.send_json(info(asked | {"id": 1}, run_id=server.received[0]["run_id"]))

    async with scripted(pong) as server, connect(server.url, heartbeat=0.3) as client:
        run = await client.new_chat("Hi")
        assert run.status == "running"
    assert server.connections == 1


async def test_nonsense_is_reported_and_passed_over() -> None:
    async def nonsense(server: Scripted, ws: web.WebSocketResponse) -> None:
        asked = await server.next(ws)
        await ws.send_str("{")
        await ws.send_bytes(b"[]")
        await ws.send_json({"type": "new type", "data": 1})
        await ws.send_json(wire("text", 3, "unknown", message_id="m", delta="x"))
        await ws.send_json({"type": "gap", "data": {"thread_id": "unknown", "reason": "trimmed"}})
        await ws.send_json({"type": "heartbeat", "data": {"time": 1, "threads": {}}})
        await ws.send_json({"type": "run", "request_id": 99, "data": info(asked)["data"]})
        error = {"code": "bad_message", "message": "what?", "retryable": False}
        await ws.send_json({"type": "error", "data": error})
        await ws.send_json(info(asked))
        await ws.send_json(wire("end", 9, asked["run_id"], status="completed"))
        await never_answer(server, ws)

    errors: list[Exception] = []
    async with scripted(nonsense) as server, connect(server.url, on_error=errors.append) as client:
        assert (await (await client.new_chat("Hi")).result()).status == "completed"
    assert [type(error) for error in errors] == [ProtocolError, ProtocolError, RequestRefused]


async def test_errors_that_nobody_takes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted(closes(4403)) as server:
        with pytest.raises(ConnectionFailedError):
            async with connect(server.url, token="t"):
                pass
    assert "4403" in caplog.text


def too_fast(asked: dict[str, Any], retry_after_ms: int | None) -> dict[str, Any]:
    data = {"code": "rate_limited", "message": "slow down", "retryable": True}
    data |= {} if retry_after_ms is None else {"retry_after_ms": retry_after_ms}
    return {"type": "error", "request_id": asked["id"], "data": data}


async def test_what_came_too_fast_is_asked_again_alone_and_when_the_server_says() -> None:
    times: list[float] = []

    async def limiting(server: Scripted, ws: web.WebSocketResponse) -> None:
        first, second = await server.next(ws), await server.next(ws)
        await ws.send_json(too_fast(second, 200))
        await ws.send_json(info(first, thread_id="a"))
        for _ in range(2):
            times.append(asyncio.get_running_loop().time())
            again = await server.next(ws)
            assert again == second
            await ws.send_json(too_fast(again, 300) if len(times) == 1 else info(again))
        times.append(asyncio.get_running_loop().time())
        await never_answer(server, ws)

    errors = list[Exception]()
    async with scripted(limiting) as server, connect(server.url, on_error=errors.append) as client:
        runs = await asyncio.gather(client.new_chat("Hi"), client.new_chat("Hi"))
        assert [run.thread_id for run in runs] == ["a", "t"]
    assert [0.2 <= times[1] - times[0] < 1, 0.3 <= times[2] - times[1] < 1] == [True, True]
    assert [(type(error), error.retry_after) for error in errors] == [(RequestRefused, 0.2)]  # type: ignore[attr-defined]


def test_what_waits_has_its_turn_no_faster_than_the_server_takes_it() -> None:
    pace = Pace()
    assert (pace.limited(0.0), pace.due(0.0)) == (False, None)
    assert pace.slow_down(0.2, 10.0)
    assert not pace.slow_down(0.3, 10.0)
    assert not pace.slow_down(0.1, 10.1)
    for number in (1, 2, 1, 3):
        pace.wait(number)
    assert pace.due(10.0) == pytest.approx(0.3)
    assert pace.take(10.3) == 1
    assert pace.due(10.3) == pytest.approx(0.1)
    assert pace.take(10.5) == 2
    assert pace.take(10.7) == 3
    assert (pace.limited(10.7), pace.limited(10.9)) == (True, False)
    # what comes next is another story
    assert pace.slow_down(0.5, 11.0)
    pace.disconnected(abused=False)
    pace.connected(11.0)
    assert not pace.limited(11.0)
    assert pace.slow_down(0.5, 11.0)
    pace.disconnected(abused=True)
    pace.connected(11.1)
    assert pace.limited(11.1)


async def test_more_than_the_server_takes_at_once_is_spread_and_told_once() -> None:
    errors: list[Exception] = []
    limits = Limits(messages_per_second=100, message_burst=20, threads_per_connection=30)
    async with (
        serving(chat(*["Hello"] * 60), limits=limits) as port,
        connect(url(port), on_error=errors.append) as client,
    ):
        for _ in range(2):  # the second time, what was refused to be left would be too much
            runs = await asyncio.gather(*(client.new_chat("Hi") for _ in range(30)))
            results = [await run.result() for run in runs]
            assert {result.text for result in results} == {"Hello"}
        assert len({run.thread_id for run in runs}) == 30
    assert {getattr(error, "code", None) for error in errors} == {"rate_limited"}
    assert len(errors) <= 2, "once each time, at most"


async def test_who_was_closed_for_it_goes_on_slowly() -> None:
    states: list[ConnectionState] = []
    limits = Limits(messages_per_second=50, message_burst=8, threads_per_connection=100)
    async with (
        serving(chat(*["Hello"] * 60), limits=limits) as port,
        connect(url(port), on_state=states.append, reconnect=Reconnect(delay=0.05)) as client,
    ):
        runs = await asyncio.gather(*(client.new_chat("Hi") for _ in range(60)))
        assert {(await run.result()).text for run in runs} == {"Hello"}
    assert [state.status for state in states].count("reconnecting") == 1


async def test_a_message_that_is_too_long_is_not_sent_again() -> None:
    fast = Fast()
    async with (
        serving(chat("Hello"), limits=Limits(message_bytes=2_000)) as port,
        connect(url(port), reconnect=fast.rules) as client,
    ):
        calls = [client.new_chat("x" * 3_000), client.new_chat("Hi")]
        long, short = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(long, RequestRefused)
        assert not isinstance(short, BaseException)
        assert (await short.result()).text == "Hello"


async def test_a_thread_that_may_not_be_followed_again_fails_who_follows_it() -> None:
    refusal = {"code": "forbidden", "message": "no", "retryable": False}
    later = {"code": "internal_error", "message": "later", "retryable": True}

    async def accepts(server: Scripted, ws: web.WebSocketResponse) -> None:
        for _ in range(2):
            asked = await server.next(ws)
            await ws.send_json(info(asked, thread_id="t", run_id=asked.get("run_id")))

    async def refuses(server: Scripted, ws: web.WebSocketResponse) -> None:
        for answer in (later, refusal):
            asked = await server.next(ws)
            assert asked["type"] == "attach"
            await ws.send_json({"type": "error", "request_id": asked["id"], "data": answer})
        await never_answer(server, ws)

    fast, errors = Fast(), list[Exception]()
    async with (
        scripted(accepts, refuses) as server,
        connect(server.url, reconnect=fast.rules, on_error=errors.append) as client,
    ):
        run = await client.new_chat("Hi", thread_id="t")
        thread = await client.attach("t")
        with pytest.raises(RequestRefused, match="forbidden"):
            await run.result()
        with pytest.raises(RequestRefused, match="forbidden"):
            await collect(thread)
    told = [error for error in errors if not isinstance(error, ConnectionLostError)]
    assert [str(error) for error in told] == ["forbidden: no"]
    assert fast.slept == [1.0, 1.0]


def refused_with(asked: dict[str, Any], code: str) -> dict[str, Any]:
    data = {"code": code, "message": "no", "retryable": False}
    return {"type": "error", "request_id": asked["id"], "data": data}


async def test_runs_that_had_said_nothing_yet_are_lost_with_their_log() -> None:
    async def accepts(server: Scripted, ws: web.WebSocketResponse) -> None:
        for _ in range(2):
            await ws.send_json(info(await server.next(ws)))

    async def knows_nothing(server: Scripted, ws: web.WebSocketResponse) -> None:
        while True:
            asked = await server.next(ws)
            if "run_id" in asked:
                await ws.send_json(refused_with(asked, "not_found"))
            else:
                await ws.send_json(info(asked, run_id=None, status="idle", epoch="another"))

    fast = Fast()
    async with (
        scripted(accepts, knows_nothing) as server,
        connect(server.url, reconnect=fast.rules) as client,
    ):
        runs = [await client.new_chat("Hi", thread_id="t") for _ in range(2)]
        for run in runs:
            with pytest.raises(RunFailedError, match="lost"):
                await run.result()
            assert [message.type for message in await collect(run)] == ["run", "end"]
    assert [message["type"] for message in server.received].count("new_chat") == 2


async def test_a_run_that_is_at_work_after_all_goes_on() -> None:
    ids: list[str] = []

    async def accepts(server: Scripted, ws: web.WebSocketResponse) -> None:
        for _ in range(2):
            asked = await server.next(ws)
            ids.append(asked["run_id"])
            await ws.send_json(info(asked))
            await ws.send_json(wire("checkpoint", len(ids), ids[-1], checkpoint_id="c"))

    async def doubtful(server: Scripted, ws: web.WebSocketResponse) -> None:
        asked = await server.next(ws)
        assert "run_id" not in asked
        await ws.send_json(info(asked, run_id=ids[0], head=50))
        shown = {"thread_id": "t", "epoch": "e", "seq": 50}
        gap = {"thread_id": "t", "reason": "trimmed", "head": 50, "epoch": "e"}
        await ws.send_json({"type": "gap", "data": gap})
        run = {"run_id": ids[0], "status": "running"}
        await ws.send_json({"type": "snapshot", "data": shown | {"run": run}})
        asked = await server.next(ws)
        assert asked["run_id"] == ids[1]
        await ws.send_json(info(asked, head=50))
        asked = await server.next(ws)
        assert "run_id" not in asked
        await ws.send_json(info(asked, run_id=ids[0], head=50))
        await ws.send_json(wire("end", 51, ids[0], status="completed"))
        await ws.send_json(wire("end", 52, ids[1], status="cancelled"))
        await never_answer(server, ws)

    fast = Fast()
    async with (
        scripted(accepts, doubtful) as server,
        connect(server.url, reconnect=fast.rules) as client,
    ):
        runs = [await client.new_chat("Hi", thread_id="t") for _ in range(2)]
        results = [await run.result() for run in runs]
    assert [result.status for result in results] == ["completed", "cancelled"]


async def test_a_connection_that_ends_while_it_waits_to_ask_again() -> None:
    async def limiting(server: Scripted, ws: web.WebSocketResponse) -> None:
        await ws.send_json(too_fast(await server.next(ws), 60_000))
        await until(lambda: errors)

    fast, errors = Fast(), list[Exception]()
    async with (
        scripted(limiting, run_to_the_end) as server,
        connect(server.url, reconnect=fast.rules, on_error=errors.append) as client,
    ):
        assert (await (await client.new_chat("Hi")).result()).text == "done"


async def test_a_thread_that_is_followed_again_is_not_left_too_late() -> None:
    async def limiting(server: Scripted, ws: web.WebSocketResponse) -> None:
        first = await server.next(ws)
        await ws.send_json(info(first))
        await ws.send_json(wire("end", 9, first["run_id"], status="completed"))
        await ws.send_json(too_fast(await server.next(ws), 50))
        for _ in range(2):
            await ws.send_json(info(await server.next(ws)))
        await never_answer(server, ws)

    async with scripted(limiting) as server, connect(server.url) as client:
        await (await client.new_chat("Hi", thread_id="t")).result()
        run = await client.new_chat("Hi", thread_id="t")
        await run.cancel()
    types = [message["type"] for message in server.received]
    assert types == ["new_chat", "detach", "new_chat", "cancel"]


async def test_closing_is_bounded_when_the_server_takes_nothing() -> None:
    stuck = asyncio.Event()

    async def deaf(server: Scripted, ws: web.WebSocketResponse) -> None:
        await stuck.wait()

    async with scripted(deaf) as server:
        client = connect(server.url)
        await client.__aenter__()
        calls = [client.new_chat("x" * 1_000_000) for _ in range(20)]
        starting = asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            await client.close()
        assert {type(result) for result in await starting} == {ConnectionFailedError}
        stuck.set()


async def test_a_thread_is_not_left_while_another_run_is_about_to_start_on_it() -> None:
    async def ends_meanwhile(server: Scripted, ws: web.WebSocketResponse) -> None:
        first = await server.next(ws)
        await ws.send_json(info(first))
        await server.next(ws)
        await ws.send_json(wire("end", 5, first["run_id"], status="completed"))

    fast = Fast()
    async with (
        scripted(ends_meanwhile, run_to_the_end) as server,
        connect(server.url, reconnect=fast.rules) as client,
    ):
        first = await client.new_chat("Hi", thread_id="t")
        second = await client.new_chat("Hi", thread_id="t")
        assert (await first.result()).status == "completed"
        assert (await second.result()).text == "done"
    types = [message["type"] for message in server.received]
    assert types[:3] == ["new_chat"] * 3


async def test_an_attach_that_is_refused_raises() -> None:
    refusal = {"code": "limit_exceeded", "message": "no", "retryable": False}

    async def refuses(server: Scripted, ws: web.WebSocketResponse) -> None:
        while True:
            asked = await server.next(ws)
            await ws.send_json({"type": "error", "request_id": asked["id"], "data": refusal})

    errors: list[Exception] = []
    async with scripted(refuses) as server, connect(server.url, on_error=errors.append) as client:
        with pytest.raises(RequestRefused, match="limit_exceeded"):
            await client.attach("t")
        with pytest.raises(RequestRefused, match="limit_exceeded"):
            await client.attach("t", after=Position("e", 3))
        with pytest.raises(RequestRefused, match="limit_exceeded"):
            await client.new_chat("Hi", thread_id="t")
    assert errors == []


async def test_the_first_message_of_a_run_may_overtake_its_answer() -> None:
    async def hasty(server: Scripted, ws: web.WebSocketResponse) -> None:
        asked = await server.next(ws)
        await ws.send_json(info(asked, run_id=None, status="idle"))
        asked = await server.next(ws)
        begun = info(asked)["data"] | {"thread_id": "t"}
        await ws.send_json(wire("run", 4, **begun))
        await ws.send_json(wire("end", 5, asked["run_id"], status="completed"))
        await ws.send_json(info(asked, status="completed"))
        await never_answer(server, ws)

    def wire(kind: str, seq: int, run_id: str, **data: Any) -> dict[str, Any]:
        return {"type": kind, "run_id": run_id, "seq": seq, "data": data | {"run_id": run_id}}

    async with scripted(hasty) as server, connect(server.url) as client:
        await client.attach("t")
        run = await client.new_chat("Hi", thread_id="t")
        assert (await run.result()).status == "completed"
        types = [message.type for message in await collect(run)]
        assert types[0] == "run"
        assert types[-1] == "end"


async def test_a_fault_of_the_client_ends_it_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted(closes(1011)) as server:
        session = aiohttp.ClientSession()
        await session.close()
        with pytest.raises(ConnectionFailedError, match="Session is closed"):
            async with connect(server.url, session=session):
                pass
    assert "the client failed" in caplog.text


# The examples


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


async def test_the_callbacks_of_the_example_print_a_conversation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "yes"

    monkeypatch.setattr("builtins.input", answer)
    async with serving(demo_graph(delay=0)) as port:
        main = example("client_callbacks")["main"]
        answered = await main(url(port), "What is a superstep?")
        printed = capsys.readouterr().out
        assert answered.text in printed
        assert all(f"[{source.id}] {source.title}" in printed for source in answered.sources)
        approved = await main(url(port), "approve")
        assert len(asked) == 1
        assert approved.status == "completed"
        await main(url(port), "fail")
    printed = capsys.readouterr().out
    assert "· the run is interrupted\n" in printed
    assert approved.text in printed
    assert "! graph_failed" in printed
    assert printed.endswith("· the run is failed\n")


async def test_the_bot_of_the_example_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bot, file, heard = example("reconnecting_bot"), tmp_path / "position.json", list[str]()
    async with AsyncExitStack() as first:
        port = await first.enter_async_context(serving(chat("one", "two", "three")))

        async def live_until(seq: int, count: int) -> None:
            """Let the bot live until it has saved this position, and kill it."""
            task = asyncio.create_task(bot["follow"]("t", url(port), file, heard.append))
            await until(
                lambda: (
                    len(heard) == count and file.exists() and json.loads(file.read_text())[1] == seq
                )
            )
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        async with connect(url(port)) as client:
            for count in (1, 2):
                run = await client.new_chat("Hi", thread_id="t")
                await run.result()
                assert run.position is not None
                await live_until(run.position.seq, count)
        await first.aclose()
        async with serving(chat("four"), port=port):
            await live_until(0, 4)
    assert [line.split(": ")[-1] for line in heard] == [
        "one",
        "two",
        "missed something (unknown)",
        "the thread has 0 messages",
    ]
    assert "· open" in capsys.readouterr().out


async def test_the_types_are_those_of_a_user() -> None:
    """What a user reads off a run, as mypy sees it."""
    async with serving(chat("Hello")) as port, connect(url(port)) as client:
        run = await client.new_chat("Hi")
        text = ""
        async for message in run:
            match message:
                case Text(delta=str(delta)):
                    text += delta
                case RunInfo(thread_id=thread_id):
                    assert thread_id == run.thread_id
                case Snapshot() | End():
                    pass
        assert text == "Hello"
