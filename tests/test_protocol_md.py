"""PROTOCOL.md and the code that speaks it say the same."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest

from langgraph_ws import errors
from langgraph_ws.commands import Attached, Authenticated, Cancelling, Detached
from langgraph_ws.errors import ErrorCode, GapReason, InvalidRequest
from langgraph_ws.frames import BlockKind, RunStatus
from langgraph_ws.log import Position
from langgraph_ws.protocols.chat import RESERVED, ChatSession
from langgraph_ws.session import Close, Do, Reply
from tests.chat_story import (
    EPOCH,
    TRIMMED,
    ask,
    decoded,
    entries,
    follow,
    info,
    snapshot,
    story,
    text,
)

PAGE = (Path(errors.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
EXAMPLES = [orjson.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
REQUESTS = re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)


def section(title: str) -> str:
    """The text below a heading, up to the next of its level or above."""
    level, _, _ = title.partition(" ")
    [found] = re.findall(
        rf"^{re.escape(title)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    return str(found)


def rows(title: str) -> dict[str, str]:
    """The table below a heading: what stands after the first cell, by the first cell."""
    found = re.findall(r"^\| (`[^|]*?|\d+) \| (.*)$", section(title), re.MULTILINE)
    return {cell.strip(): rest for cell, rest in found}


SERVER_TABLES = {
    name.strip("`"): rest
    for title in (
        "### About runs",
        "### What the graph says",
        "### Recovery",
        "### The connection",
    )
    for name, rest in rows(title).items()
}


@cache
def produced() -> tuple[Any, ...]:
    """One of every message that a session can make."""
    session = ChatSession(takes_tokens=True)
    messages: list[bytes] = []
    for outcome in (
        InvalidRequest("messages", "takes none"),
        Attached(
            info=info(status="queued", place=1, interrupts=snapshot().interrupts),
            after=0,
            gap=TRIMMED,
            snapshot=snapshot(),
        ),
        Cancelling(info=info()),
        Authenticated(expires_at=None),
        Detached(info=info()),
    ):
        asked = ask(session, type="auth", token="s3", id=1)
        messages += session.done(asked.token, outcome)
    [pong] = session.receive('{"type": "ping", "id": 1}')
    assert isinstance(pong, Reply)
    messages.append(pong.data)
    messages += session.heartbeat(5, {"t-1": Position(EPOCH, 41)})
    messages += session.bye("slow", "resume", 0)
    for mode in ("full", "delta"):
        follow(session, mode)
        messages += session.send("t-1", story())
        messages += session.send("t-1", entries([text("m", 0, "a", 0), text("m", 0, "b", 1)]))
    exposing = ChatSession(expose_state=True)
    follow(exposing)
    states = [it for it in exposing.send("t-1", story()) if it.startswith(b'{"type":"state"')]
    return tuple(decoded([*messages, *states, *(exposing.gap("t-1", TRIMMED, snapshot()) or [])]))


def test_there_are_examples_of_everything() -> None:
    types = {example["type"] for example in EXAMPLES}
    assert types == {*REQUESTS, *SERVER_TABLES, "custom", "progress"}
    assert len(EXAMPLES) == len(re.findall(r"^```json$", PAGE, re.MULTILINE))


def test_reserved_names_are_those_of_the_tables() -> None:
    assert {*SERVER_TABLES, "custom"} == RESERVED


def test_what_is_sent_is_what_the_tables_name() -> None:
    assert {it["type"] for it in produced()} == {*SERVER_TABLES, "custom", "progress"}


@pytest.mark.parametrize("kind", sorted(SERVER_TABLES))
def test_fields_are_those_of_the_tables(kind: str) -> None:
    described = SERVER_TABLES[kind]
    if kind == "reasoning":
        described = SERVER_TABLES["text"]
    for it in produced():
        if it["type"] == kind:
            assert it.keys() <= {"type", "request_id", "run_id", "seq", "from_seq", "data"}
            for key in it["data"]:
                assert f"`{key}`" in described or re.search(rf"`{{[^`]*\b{key}\b", described), key


@pytest.mark.parametrize(
    "example",
    [example for example in EXAMPLES if example["type"] not in REQUESTS],
    ids=lambda example: str(example["type"]),
)
def test_examples_have_fields_that_are_sent(example: dict[str, Any]) -> None:
    alike = [it for it in produced() if it["type"] == example["type"]]
    assert example.keys() <= {key for it in alike for key in it}
    if example["type"] != "progress":
        assert example["data"].keys() <= {key for it in alike for key in it["data"]}
    assert ("seq" in example) == ("run_id" in example)


@pytest.mark.parametrize("kind", REQUESTS)
def test_examples_of_requests_are_understood(kind: str) -> None:
    [example] = [example for example in EXAMPLES if example["type"] == kind]
    session = ChatSession(takes_tokens=True)
    [action] = session.receive(orjson.dumps(example).decode())
    if kind == "ping":
        assert isinstance(action, Reply)
        assert orjson.loads(action.data)["type"] == "pong"
    else:
        assert isinstance(action, Do)


@pytest.mark.parametrize("kind", REQUESTS)
def test_every_field_of_a_request_may_be_camel_case(kind: str) -> None:
    [example] = [example for example in EXAMPLES if example["type"] == kind]
    camel = {re.sub(r"_(\w)", lambda it: it[1].upper(), key): example[key] for key in example}
    both = [
        ChatSession(takes_tokens=True).receive(orjson.dumps(it).decode()) for it in (example, camel)
    ]
    if kind != "ping":
        assert both[0] == both[1]


def test_requests_are_those_of_the_page() -> None:
    [action] = ChatSession(takes_tokens=True).receive('{"type": "nonsense"}')
    assert isinstance(action, Reply)
    words = orjson.loads(action.data)["data"]["message"]
    assert set(re.findall(r"\w+", words)) >= set(REQUESTS)


def test_error_codes() -> None:
    listed = {code for cell in rows("### Error codes") for code in re.findall(r"`(\w+)`", cell)}
    assert listed == set(get_args(ErrorCode))


def test_close_codes() -> None:
    assert {*rows("### Close codes")} == {
        *("1000", "1001", "1009", "1011", "1012", "1013"),
        *("4400", "4401", "4403", "4408", "4429", "4440", "4450"),
    }
    session = ChatSession()
    closes = [it for _ in range(20) for it in session.receive("?") if isinstance(it, Close)]
    assert [str(close.code) for close in closes] == ["4400"]
    assert "After 20 such messages the server closes with 4400" in PAGE


@pytest.mark.parametrize(
    ("title", "kind", "values"),
    [
        ("### About runs", "end", get_args(RunStatus)),
        ("### Recovery", "gap", get_args(GapReason)),
        ("### What the graph says", "workflow_step", ["finished", "interrupted", "failed"]),
    ],
)
def test_values(title: str, kind: str, values: list[str]) -> None:
    described = rows(title)[f"`{kind}`"]
    assert set(values) <= set(re.findall(r"`(\w+)`", described))


def test_kinds_of_blocks_that_have_a_message_of_their_own() -> None:
    assert set(get_args(BlockKind)) - {"media"} <= {*SERVER_TABLES}


def test_subprotocol() -> None:
    assert f"`{ChatSession.subprotocols[0]}`" in PAGE
