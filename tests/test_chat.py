"""The chat protocol: each message of PROTOCOL.md, each misuse of it, and the wire bytes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic.alias_generators import to_snake

from langgraph_ws.codec import plain
from langgraph_ws.commands import (
    Attach,
    Attached,
    Authenticate,
    Authenticated,
    Cancel,
    Cancelling,
    Detach,
    Detached,
    StartRun,
)
from langgraph_ws.errors import InvalidRequest, RequestError
from langgraph_ws.frames import (
    FRAMES,
    AttemptStarted,
    BlockDelta,
    BlockStarted,
    Frame,
    MessageFinished,
    MessageStarted,
    RunFinished,
    ToolFinished,
)
from langgraph_ws.log import Entry, Position
from langgraph_ws.protocols import PROTOCOLS
from langgraph_ws.protocols.chat import ChatSession
from langgraph_ws.protocols.requests import in_both_cases
from langgraph_ws.session import Close, Do, Reply
from langgraph_ws.testing import assert_transcript
from tests.chat_story import (
    AGENT,
    EPOCH,
    FIRST_RUN,
    INTERRUPT,
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

TRANSCRIPTS = Path(__file__).parent / "transcripts"
HELLO = {"role": "user", "content": "Hello"}
OTHER = "ffffffffffffffffffffffffffffffff"


def command(message: dict[str, Any]) -> object:
    """What a good message asks for."""
    return ask(ChatSession(takes_tokens=True), **message).command


def refusal(raw: str | dict[str, Any], session: ChatSession | None = None) -> dict[str, Any]:
    """The one message that answers a bad one."""
    sent = raw if isinstance(raw, str) else orjson.dumps(raw).decode()
    [action] = (session or ChatSession()).receive(sent)
    assert isinstance(action, Reply), action
    reply = orjson.loads(action.data)
    assert reply["type"] == "error"
    assert reply["data"]["retryable"] is False
    assert reply["data"]["message"]
    return reply


# What a client sends


GOOD = [
    pytest.param(
        {"type": "new_chat", "messages": [HELLO]}, StartRun(messages=(HELLO,)), id="new-chat"
    ),
    pytest.param(
        {"type": "new_chat", "messages": [HELLO], "options": {"text": "delta"}},
        StartRun(messages=(HELLO,)),
        id="text-mode-is-ours",
    ),
    pytest.param(
        {
            "type": "new_chat",
            "input": {"messages": []},
            "thread_id": "t-1",
            "run_id": "r:1.a_B",
            "assistant_id": "second",
            "options": {"multitask_strategy": "reject", "model": "big", "text": None},
        },
        StartRun(
            input={"messages": []},
            thread_id="t-1",
            run_id="r:1.a_B",
            graph="second",
            multitask_strategy="reject",
            options={"model": "big"},
        ),
        id="everything",
    ),
    pytest.param(
        {
            "type": "new_chat",
            "messages": [
                {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "args": {}}]},
                {"role": "tool", "content": "3", "toolCallId": "c-1", "name": "f", "x": 1},
                {"role": "user", "content": [{"type": "text", "text": "?"}], "id": "m-1"},
            ],
        },
        StartRun(
            messages=(
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": None, "name": "f", "args": {}}],
                },
                {"role": "tool", "content": "3", "name": "f", "tool_call_id": "c-1"},
                {"role": "user", "content": [{"type": "text", "text": "?"}], "id": "m-1"},
            )
        ),
        id="all-roles",
    ),
    pytest.param(
        {"type": "new_chat", "input": False, "thread_id": None, "messages": None},
        StartRun(input=False),
        id="null-is-absent",
    ),
    pytest.param(
        {"type": "resume_chat", "thread_id": "t-1"},
        StartRun(kind="continue", thread_id="t-1"),
        id="continue",
    ),
    pytest.param(
        {"type": "resume_chat", "thread_id": "t-1", "checkpoint_id": "cp", "messages": [HELLO]},
        StartRun(thread_id="t-1", checkpoint_id="cp", messages=(HELLO,)),
        id="fork",
    ),
    pytest.param(
        {"type": "resume_chat", "threadId": "t-1", "checkpointId": "cp", "input": 1},
        StartRun(thread_id="t-1", checkpoint_id="cp", input=1),
        id="camel-case",
    ),
    pytest.param(
        {"type": "resume_chat", "thread_id": "t-1", "resume": {INTERRUPT: 1, OTHER: None}},
        StartRun(kind="answer", thread_id="t-1", answers={INTERRUPT: 1, OTHER: None}),
        id="answers-by-id",
    ),
    pytest.param(
        {"type": "resume_chat", "thread_id": "t-1", "resume": {INTERRUPT: 1, "ok": True}},
        StartRun(kind="answer", thread_id="t-1", answer={INTERRUPT: 1, "ok": True}),
        id="bare-object",
    ),
    pytest.param(
        {"type": "resume_chat", "thread_id": "t-1", "resume": {}},
        StartRun(kind="answer", thread_id="t-1", answer={}),
        id="bare-empty-object",
    ),
    pytest.param(
        {"type": "resume_chat", "thread_id": "t-1", "resume": None},
        StartRun(kind="answer", thread_id="t-1", answer=None),
        id="bare-null",
    ),
    pytest.param(
        {
            "type": "resume_chat",
            "thread_id": "t-1",
            "resume": "yes",
            "update": {"a": 1},
            "goto": "ask",
            "run_id": "r-2",
            "assistant_id": "a",
        },
        StartRun(
            kind="answer",
            thread_id="t-1",
            answer="yes",
            update={"a": 1},
            goto=("ask",),
            run_id="r-2",
            graph="a",
        ),
        id="update-and-goto",
    ),
    pytest.param(
        {"type": "resume_chat", "thread_id": "t-1", "resume": 1, "goto": ["a", "b"]},
        StartRun(kind="answer", thread_id="t-1", answer=1, goto=("a", "b")),
        id="goto-several",
    ),
    pytest.param(
        {"type": "attach", "thread_id": "t-1"}, Attach(thread_id="t-1"), id="attach-from-start"
    ),
    pytest.param(
        {"type": "attach", "run_id": "r-1", "after": 0},
        Attach(run_id="r-1", after=Position("", 0)),
        id="attach-run-after-0",
    ),
    pytest.param(
        {"type": "attach", "thread_id": "t-1", "after": 41, "epoch": "e"},
        Attach(thread_id="t-1", after=Position("e", 41), rewind=True),
        id="full-text-needs-the-whole-run",
    ),
    pytest.param(
        {
            "type": "attach",
            "thread_id": "t-1",
            "run_id": "r-1",
            "after": 41,
            "epoch": "e",
            "options": {"text": "delta"},
        },
        Attach(thread_id="t-1", run_id="r-1", after=Position("e", 41)),
        id="deltas-need-nothing-before",
    ),
    pytest.param({"type": "detach", "run_id": "r-1"}, Detach(run_id="r-1"), id="detach"),
    pytest.param(
        {"type": "cancel", "threadId": "t-1", "options": 5},
        Cancel(thread_id="t-1"),
        id="cancel-knows-no-options",
    ),
    pytest.param({"type": "auth", "token": "s3"}, Authenticate(token="s3"), id="auth"),
]


@pytest.mark.parametrize(("message", "expected"), GOOD)
def test_message_becomes_command(message: dict[str, Any], expected: object) -> None:
    assert command(message) == expected


def test_client_that_knows_only_the_first_version_of_the_protocol() -> None:
    """Camel case, a user id that is no identity, an option that the application may allow."""
    session = ChatSession()
    asked = ask(
        session,
        type="new_chat",
        userId="user123",
        messages=[{"role": "user", "content": "Hello, how can you help me?"}],
        options={"enhanceWithContext": True},
    )
    assert asked.command == StartRun(
        messages=({"role": "user", "content": "Hello, how can you help me?"},),
        options={"enhanceWithContext": True, "enhance_with_context": True},
    )
    session.done(asked.token, Attached(info=info(), after=0))
    heard = decoded(session.send("t-1", story()))
    texts = [it["data"]["text"] for it in heard if it["type"] == "text"]
    assert "A superstep is one tick 🕐." in texts
    assert all("delta" not in it["data"] for it in heard if it["type"] in {"text", "reasoning"})
    assert {"sources", "workflow_step", "final", "end"} <= {it["type"] for it in heard}


@given(st.text("ABab1-_é", max_size=20))
def test_names_are_those_that_pydantic_makes(name: str) -> None:
    assert in_both_cases({name: 1}) == {to_snake(name): 1, name: 1}


def test_the_name_of_an_option_may_be_long() -> None:
    """Whoever may send 64 KiB may not stop the event loop with them."""
    options = {"A" * 60_000: 1, "Aa" * 300: 1}
    began = time.thread_time()
    asked = command({"type": "new_chat", "messages": [HELLO], "options": options})
    assert time.thread_time() - began < 1  # 0.01 s, and nearly a minute by pydantic's `to_snake`
    assert isinstance(asked, StartRun)
    assert len(asked.options) == 4


def test_option_as_sent_wins_over_its_snake_case() -> None:
    sent = {"topK": 1, "top_k": 2}
    asked = command({"type": "new_chat", "input": 1, "options": sent})
    assert isinstance(asked, StartRun)
    assert asked.options == sent


@pytest.mark.parametrize("id_", [0, "", 1, "a", 1.5, -1, 2**53 - 1, "💬"])
def test_id_comes_back(id_: str | float) -> None:
    session = ChatSession()
    [pong] = session.receive(orjson.dumps({"type": "ping", "id": id_}).decode())
    assert isinstance(pong, Reply)
    assert orjson.loads(pong.data)["request_id"] == id_
    assert refusal({"type": "nonsense", "id": id_})["request_id"] == id_
    asked = ask(session, type="cancel", thread_id="t-1", id=id_)
    [reply] = decoded(session.done(asked.token, Cancelling(info=info())))
    assert reply["request_id"] == id_


def test_ping_is_answered_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    [pong] = ChatSession().receive('{"type": "ping"}')
    assert isinstance(pong, Reply)
    message = orjson.loads(pong.data)
    assert message["type"] == "pong"
    assert "request_id" not in message
    assert before <= message["data"]["time"] <= time.time_ns() // 1_000_000


# Misuse


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{",
        "null",
        "[]",
        '"ping"',
        "1",
        "NaN",
        '{"type": "ping", "id": NaN}',
        '{"type": "ping", "id": 1e999}',
        '{"type": "new_chat", "input": "\\ud800"}',
        '{"type": "new_chat", "input": "\ud800"}',
        '{"type": "new_chat", "input": ' + "[" * 2_000 + "]" * 2_000 + "}",
        '{"type": "new_chat", "input": ' + "[" * 100 + "]" * 100 + "}",
        '{"type": "new_chat", "input": ' + '{"a":' * 100 + "1" + "}" * 100 + "}",
    ],
)
def test_bad_message(raw: str) -> None:
    reply = refusal(raw)
    assert reply["data"]["code"] == "bad_message"
    assert "field" not in reply["data"]


def test_input_may_be_nested_99_deep() -> None:
    session = ChatSession()
    [action] = session.receive('{"type": "new_chat", "input": ' + "[" * 98 + "]" * 98 + "}")
    assert isinstance(action, Do)


@pytest.mark.parametrize("kind", ["nonsense", "run", "auth", "", None, 1, [], {}, True])
def test_unknown_type(kind: object) -> None:
    reply = refusal({"type": kind, "id": 7, "token": "s3"})
    assert (reply["data"]["code"], reply["data"]["field"]) == ("unknown_type", "type")
    assert reply["request_id"] == 7
    assert "new_chat" in reply["data"]["message"]
    assert "auth" not in reply["data"]["message"]


def test_message_without_a_type() -> None:
    assert refusal({})["data"]["code"] == "unknown_type"


NEW = {"type": "new_chat"}
RESUME = {"type": "resume_chat", "thread_id": "t-1"}
ATTACH = {"type": "attach", "thread_id": "t-1"}


WRONG = [
    (NEW, "messages", "either messages or input"),
    (NEW | {"messages": None}, "messages", "either messages or input"),
    (NEW | {"messages": [HELLO], "input": {}}, "messages", "only one of messages and input"),
    (NEW | {"messages": [HELLO], "input": None}, "messages", "only one of"),
    (NEW | {"input": None}, "input", "null"),
    (NEW | {"messages": []}, "messages", "not empty"),
    (NEW | {"messages": {}}, "messages", "a list"),
    (NEW | {"messages": "Hello"}, "messages", "a list"),
    (NEW | {"messages": ["Hello"]}, "messages.0", "an object"),
    (NEW | {"messages": [HELLO, {"content": "?"}]}, "messages.1.role", "missing"),
    (NEW | {"messages": [{"role": "user"}]}, "messages.0.content", "missing"),
    (
        NEW | {"messages": [{"role": "system", "content": "?"}]},
        "messages.0.role",
        "'user', 'assistant' or 'tool'",
    ),
    (NEW | {"messages": [HELLO | {"content": None}]}, "messages.0.content", "a string"),
    (NEW | {"messages": [HELLO | {"content": ["x"]}]}, "messages.0.content", "blocks"),
    (NEW | {"messages": [HELLO | {"content": [{"type": 1}]}]}, "messages.0.content", "blocks"),
    (NEW | {"messages": [HELLO | {"id": 5}]}, "messages.0.id", "a string"),
    (NEW | {"messages": [HELLO | {"name": ""}]}, "messages.0.name", "not empty"),
    (NEW | {"messages": [HELLO | {"role": "tool"}]}, "messages.0.tool_call_id", "missing"),
    (
        NEW | {"messages": [HELLO | {"role": "assistant", "toolCalls": [{"args": {}}]}]},
        "messages.0.toolCalls.0.name",
        "missing",
    ),
    (
        NEW | {"messages": [HELLO | {"tool_calls": [{"name": "f", "args": "{}"}]}]},
        "messages.0.tool_calls.0.args",
        "an object",
    ),
    (NEW | {"input": 1, "thread_id": "a b"}, "thread_id", "128 letters"),
    (NEW | {"input": 1, "thread_id": "ä"}, "thread_id", "128 letters"),
    (NEW | {"input": 1, "thread_id": "a\n"}, "thread_id", "128 letters"),
    (NEW | {"input": 1, "thread_id": "a" * 129}, "thread_id", "128 letters"),
    (NEW | {"input": 1, "threadId": ""}, "threadId", "128 letters"),
    (NEW | {"input": 1, "run_id": 5}, "run_id", "a string"),
    (NEW | {"input": 1, "runId": "a/b"}, "runId", "128 letters"),
    (NEW | {"input": 1, "assistant_id": ["a"]}, "assistant_id", "a string"),
    (NEW | {"input": 1, "options": "full"}, "options", "an object"),
    (NEW | {"input": 1, "options": {"text": "all"}}, "options.text", "'full' or 'delta'"),
    (
        NEW | {"input": 1, "options": {"multitaskStrategy": "wait"}},
        "options.multitaskStrategy",
        "'enqueue'",
    ),
    (NEW | {"input": 1, "id": {}}, "id", "a string, or a number"),
    (NEW | {"input": 1, "id": True}, "id", "a string, or a number"),
    (NEW | {"input": 1, "id": 2**53}, "id", "a string, or a number"),
    ({"type": "resume_chat"}, "thread_id", "missing"),
    ({"type": "resume_chat", "thread_id": None}, "thread_id", "a string"),
    (RESUME | {"messages": [HELLO], "resume": None}, "resume", "only one of"),
    (RESUME | {"messages": [HELLO], "input": 1}, "messages", "messages, input and resume"),
    (RESUME | {"input": None}, "input", "null"),
    (RESUME | {"update": {}}, "update", "beside resume"),
    (RESUME | {"input": 1, "goto": "a"}, "goto", "beside resume"),
    (RESUME | {"resume": 1, "goto": {}}, "goto", "a list"),
    (RESUME | {"resume": 1, "goto": ["a", ""]}, "goto.1", "not empty"),
    (RESUME | {"checkpoint_id": 5}, "checkpoint_id", "a string"),
    ({"type": "attach"}, "thread_id", "thread_id or run_id"),
    (ATTACH | {"after": 1}, "epoch", "after above 0"),
    (ATTACH | {"after": True}, "after", "a whole number"),
    (ATTACH | {"after": "1"}, "after", "a whole number"),
    (ATTACH | {"after": 1.0}, "after", "a whole number"),
    (ATTACH | {"after": -1}, "after", "from 0"),
    (ATTACH | {"after": 2**63}, "after", "up to 9007199254740991"),
    (ATTACH | {"epoch": 1}, "epoch", "a string"),
    (ATTACH | {"options": {"text": True}}, "options.text", "'full' or 'delta'"),
    ({"type": "detach"}, "thread_id", "thread_id or run_id"),
    ({"type": "cancel"}, "thread_id", "thread_id or run_id"),
    ({"type": "cancel", "run_id": 5}, "run_id", "a string"),
    ({"type": "auth"}, "token", "missing"),
    ({"type": "auth", "token": 5}, "token", "a string"),
]


@pytest.mark.parametrize(("message", "field", "words"), WRONG)
def test_wrong_field(message: dict[str, Any], field: str, words: str) -> None:
    reply = refusal(message, ChatSession(takes_tokens=True))
    assert (reply["data"]["code"], reply["data"]["field"]) == ("invalid_field", field)
    assert words in reply["data"]["message"]


def test_twenty_bad_messages_close_the_connection() -> None:
    session = ChatSession()
    for _ in range(19):
        refusal("?", session)
        [pong] = session.receive('{"type": "ping"}')
        assert isinstance(pong, Reply)
    reply, close = session.receive("?")
    assert isinstance(reply, Reply)
    assert close == Close(4400, "too many bad messages")
    assert session.receive('{"type": "ping"}') == []


# Who the client is


def test_nothing_but_auth_before_the_client_is_known() -> None:
    session = ChatSession(takes_tokens=True, authenticated=False)
    for _ in range(30):
        for kind in ("new_chat", "ping", "nonsense", None):
            reply = refusal({"type": kind, "id": 1}, session)
            assert reply["data"]["code"] == "unauthorized"
            assert reply["request_id"] == 1
    asked = ask(session, type="auth", token="s3", id=2)
    assert asked.command == Authenticate(token="s3")
    assert "s3" not in repr(asked)
    behind = ask(session, type="attach", thread_id="t")
    assert behind.token > asked.token, "what comes after a token is carried out after it"
    [reply] = decoded(session.done(asked.token, Authenticated(expires_at=1_760_000_000.1234)))
    assert reply == {
        "type": "authenticated",
        "request_id": 2,
        "data": {"expires_at": 1_760_000_000_123},
    }
    [pong] = session.receive('{"type": "ping"}')
    assert isinstance(pong, Reply)
    assert orjson.loads(pong.data)["type"] == "pong"


@pytest.mark.parametrize("never", [None, float("inf")])
def test_an_identity_that_never_expires(never: float | None) -> None:
    session = ChatSession(takes_tokens=True)
    asked = ask(session, type="auth", token="s3")
    [reply] = decoded(session.done(asked.token, Authenticated(expires_at=never)))
    assert reply == {"type": "authenticated", "data": {"expires_at": None}}


# Answers


def test_refused_command() -> None:
    session = ChatSession()
    asked = ask(session, type="new_chat", input=1, id=3)
    error = RequestError("thread_busy", "The thread has an active run.", retryable=True)
    assert decoded(session.done(asked.token, error)) == [
        {
            "type": "error",
            "request_id": 3,
            "data": {
                "code": "thread_busy",
                "message": "The thread has an active run.",
                "retryable": True,
            },
        }
    ]


def test_command_refused_for_a_field() -> None:
    session = ChatSession()
    asked = ask(session, type="new_chat", messages=[HELLO])
    [reply] = decoded(session.done(asked.token, InvalidRequest("messages", "takes none")))
    assert reply["data"]["field"] == "messages"


def test_outcome_of_nothing_that_was_asked() -> None:
    session = ChatSession()
    assert session.done(99, Cancelling(info=info())) == []
    asked = ask(session, type="cancel", run_id="r-1")
    assert len(session.done(asked.token, Cancelling(info=info()))) == 1
    assert session.done(asked.token, Cancelling(info=info())) == []


def test_attached_says_how_the_run_stands() -> None:
    session = ChatSession()
    asked = ask(session, type="attach", run_id="r-1", id=3)
    stands = info(
        status="queued",
        place=2,
        position=Position(EPOCH, 41),
        checkpoint_id="cp-0",
        interrupts=snapshot().interrupts,
    )
    assert decoded(session.done(asked.token, Attached(info=stands, run_id="r-1", after=0))) == [
        {
            "type": "run",
            "request_id": 3,
            "data": {
                "thread_id": "t-1",
                "run_id": "r-1",
                "status": "queued",
                "place": 2,
                "epoch": EPOCH,
                "head": 41,
                "checkpoint_id": "cp-0",
                "graph": "chat",
                "interrupts": [{"id": INTERRUPT, "value": "Send it?", "ordinal": 0}],
            },
        }
    ]


def test_empty_thread_is_idle() -> None:
    session = ChatSession()
    asked = ask(session, type="attach", thread_id="t-2")
    idle = info(thread_id="t-2", run_id=None, status="idle", graph=None)
    [reply] = decoded(session.done(asked.token, Attached(info=idle, after=0)))
    assert (reply["data"]["run_id"], reply["data"]["status"]) == (None, "idle")


def test_detached_thread_says_no_more() -> None:
    session = ChatSession()
    follow(session)
    assert session.send("t-1", entries(FIRST_RUN[:2])) != []
    asked = ask(session, type="detach", thread_id="t-1", id=4)
    [reply] = decoded(session.done(asked.token, Detached(info=info())))
    assert (reply["request_id"], reply["data"]["status"]) == (4, "detached")
    assert session.send("t-1", story()) == []
    assert session.gap("t-1", TRIMMED, snapshot()) == []


def test_cancelling_does_not_stop_following() -> None:
    session = ChatSession()
    follow(session)
    asked = ask(session, type="cancel", run_id="r-1")
    [reply] = decoded(session.done(asked.token, Cancelling(info=info())))
    assert reply["data"]["status"] == "cancelling"
    assert session.send("t-1", entries([RunFinished(status="cancelled")])) != []


def test_one_run_is_followed_to_its_end() -> None:
    session = ChatSession()
    follow(session, run_id="r-1")
    assert session.send("t-1", []) == []
    assert session.send("t-1", entries(FIRST_RUN)) != []
    assert session.send("t-1", entries(FIRST_RUN)) == []


@pytest.mark.parametrize(
    ("text", "answers"),
    [('{"type": "ping", "id": 7}', 7), ('{"type": "x"}', None), ("{", None), ('{"id": []}', None)],
)
def test_refused_whatever_it_asks_for(text: str, answers: int | None) -> None:
    error = RequestError("rate_limited", "Too many.", retryable=True, retry_after_ms=70)
    [reply] = decoded(ChatSession().refuse(text, error))
    assert reply["data"]["code"] == "rate_limited"
    assert reply["data"]["retry_after_ms"] == 70
    assert reply.get("request_id") == answers


def test_heartbeat_tells_where_threads_stand() -> None:
    assert decoded(ChatSession().heartbeat(5, {"t-1": Position(EPOCH, 41)})) == [
        {"type": "heartbeat", "data": {"time": 5, "threads": {"t-1": {"epoch": EPOCH, "head": 41}}}}
    ]


def test_bye() -> None:
    assert decoded(ChatSession().bye("restart", "resume", 1800)) == [
        {"type": "bye", "data": {"reason": "restart", "retry": "resume", "after_ms": 1800}}
    ]


# What a client is sent


def said(mode: str, batch: int | None = None, *, expose_state: bool = False) -> list[bytes]:
    """The story as a client hears it, so many entries at a time."""
    session = ChatSession(expose_state=expose_state)
    follow(session, mode)
    log = story()
    step = batch or len(log)
    return [
        message
        for start in range(0, len(log), step)
        for message in session.send("t-1", log[start : start + step])
    ]


@pytest.mark.parametrize(
    ("name", "mode", "batch", "expose_state"),
    [
        ("chat_full", "full", 1, False),
        ("chat_full_waiting", "full", None, False),
        ("chat_delta", "delta", 1, False),
        ("chat_delta_waiting", "delta", None, False),
        ("chat_state", "delta", None, True),
    ],
)
def test_transcript(name: str, mode: str, batch: int | None, expose_state: bool) -> None:
    heard = said(mode, batch, expose_state=expose_state)
    assert_transcript(heard, TRANSCRIPTS / f"{name}.jsonl", exact=True)


def test_the_story_has_every_frame() -> None:
    assert {type(entry.frame) for entry in story()} == set(FRAMES)


@pytest.mark.parametrize("mode", ["full", "delta"])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, None])
def test_seq_grows_and_nothing_is_null(mode: str, batch: int | None) -> None:
    heard = decoded(said(mode, batch))
    seqs = [it["seq"] for it in heard]
    assert seqs == sorted(set(seqs))
    assert all(it.get("from_seq", 0) < it["seq"] for it in heard)
    for it in heard:
        if it["type"] not in {"run", "custom"}:
            assert None not in it["data"].values(), it
        assert it["data"].get("namespace") != []


def test_state_is_shown_only_where_exposed() -> None:
    heard = decoded(said("full", expose_state=True))
    shown = [it for it in heard if it["type"] in {"state", "tool_result"}]
    assert [it["data"]["values"] for it in shown if it["type"] == "state"] == [
        {"step": 1},
        {"step": 2},
    ]
    artifacts = [it["data"]["artifact"] for it in shown if "artifact" in it["data"]]
    assert artifacts == [{"hits": 3}]
    hidden = b"".join(said("full"))
    assert b'"state"' not in hidden
    assert b"artifact" not in hidden


def test_two_viewers_with_different_rights_share_a_log() -> None:
    log = entries([ToolFinished(tool_call_id="c-1", name="f", content="ok", artifact={"a": 1})])
    one, other = ChatSession(expose_state=True), ChatSession()
    follow(one)
    follow(other)
    assert b"artifact" in one.send("t-1", log)[0]
    assert b"artifact" not in other.send("t-1", log)[0]
    assert b"artifact" in one.send("t-1", log)[0]


def test_viewers_share_the_bytes() -> None:
    log = story()
    heard = []
    for _ in range(2):
        session = ChatSession()
        follow(session, "delta")
        heard.append([session.send("t-1", [entry]) for entry in log])
    assert all(
        a is b for one, two in zip(*heard, strict=True) for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("number", [1, 1.0, True, 1.5, 2**60])
def test_numbers_of_a_mapper_stay_what_they_are(number: Any) -> None:
    session = ChatSession()
    follow(session, "delta")
    frame = BlockDelta(message_id="m-1", index=number, kind="text", text="x", offset=number)
    [message] = decoded(session.send("t-1", entries([frame])))
    for name in ("index", "offset"):
        assert repr(message["data"][name]) == repr(plain(number))


def test_a_delta_of_a_mapper_need_not_be_as_ours() -> None:
    session = ChatSession()
    follow(session, "delta")
    namespace: Any = ["sub:1"]  # it should be a tuple
    frame = BlockDelta(
        message_id="m-1", index=2, kind="text", text='a"\\b\n€', offset=0, namespace=namespace
    )
    [message] = decoded(session.send("t-1", entries([frame])))
    assert message["data"] == {
        "message_id": "m-1",
        "index": 2,
        "namespace": ["sub:1"],
        "delta": 'a"\\b\n€',
        "offset": 0,
    }


def test_custom_event_cannot_pass_for_one_of_ours() -> None:
    heard = [it for it in decoded(said("full")) if it["type"] in {"progress", "custom"}]
    assert [(it["type"], it["data"]) for it in heard] == [
        ("progress", {"percent": 40}),
        ("custom", {"name": "end", "data": {"percent": 41}}),
        ("custom", {"name": "", "data": None}),
    ]


def test_output_that_json_can_hardly_hold() -> None:
    session = ChatSession()
    follow(session, "delta")
    frames: list[Frame] = [text("m-1", 0, "\ud800", 0), text("m-1", 0, "\udfff", 1)]
    [message] = decoded(session.send("t-1", entries(frames)))
    assert message["data"]["delta"] == "??"


# Text


def test_full_text_is_that_of_the_whole_message() -> None:
    heard = decoded(said("full", 1))
    texts = [
        it["data"]["text"]
        for it in heard
        if it["type"] == "text" and it["data"]["message_id"] == "m-1"
    ]
    assert texts == [
        "A super",
        "A superstep ",
        "A superstep is one ",
        "A superstep is one tick 🕐",
        "A superstep is one tick 🕐.",
    ]
    calls = [it["data"] for it in heard if it["type"] == "tool_call" and it["data"]["index"] == 2]
    assert [call.get("arguments", call.get("args")) for call in calls] == [
        None,
        '{"query": ',
        '{"query": "superstep"}',
        {"query": "superstep"},
    ]
    assert {call["tool_call_id"] for call in calls} == {"c-1"}


def test_waiting_full_texts_are_replaced_by_the_newest() -> None:
    heard = decoded(said("full"))
    waited = [it for it in heard if it["data"].get("message_id") in {"m-2", "m-3"}]
    first = next(
        entry.seq for entry in story() if entry.frame == text("m-3", 0, "eins", 0, **AGENT)
    )
    assert [(it["from_seq"], it["seq"], it["data"]["text"]) for it in waited[:2]] == [
        (first - 1, first + 2, "one two three"),
        (first, first + 3, "eins zwei"),
    ]


def test_waiting_deltas_join_only_their_neighbours() -> None:
    heard = decoded(said("delta"))
    waited = [it for it in heard if it["data"].get("message_id") in {"m-2", "m-3"}]
    assert [(it["data"]["delta"], it["data"]["offset"]) for it in waited[:4]] == [
        ("one", 0),
        ("eins", 0),
        (" two three", 3),
        (" zwei", 4),
    ]
    assert [it["seq"] - it.get("from_seq", it["seq"]) for it in waited[:4]] == [0, 0, 1, 0]


def test_blocks_in_the_order_of_their_index() -> None:
    session = ChatSession()
    follow(session)
    frames = [MessageStarted(message_id="m"), text("m", 1, "world", 0), text("m", 0, "Hello ", 0)]
    [message] = decoded(session.send("t-1", entries(frames)))
    assert message["data"]["text"] == "Hello world"


def test_rewound_run_is_known_but_not_told_again() -> None:
    session = ChatSession()
    follow(session, after=4)
    frames = [
        MessageStarted(message_id="m"),
        *(text("m", 0, it, at) for at, it in enumerate("abcde")),
    ]
    heard = decoded(session.send("t-1", entries(frames)))
    assert [(it["seq"], it["from_seq"], it["data"]["text"]) for it in heard] == [(6, 5, "abcde")]


def test_attaching_again_starts_over() -> None:
    session = ChatSession()
    frames = [MessageStarted(message_id="m"), text("m", 0, "a", 0), text("m", 0, "b", 1)]
    for _ in range(2):
        follow(session)
        heard = decoded(session.send("t-1", entries(frames)))
        assert [it["data"]["text"] for it in heard] == ["ab"]


def test_thread_that_is_followed_already_goes_on() -> None:
    session = ChatSession()
    follow(session)
    session.send("t-1", entries([MessageStarted(message_id="m"), text("m", 0, "a", 0)]))
    follow(session, after=None)
    heard = decoded(session.send("t-1", entries([text("m", 0, "b", 1)], first=3)))
    assert [it["data"]["text"] for it in heard] == ["ab"]


def test_thread_that_was_not_followed_begins_even_without_a_position() -> None:
    session = ChatSession()
    follow(session, after=None)
    assert session.send("t-1", entries(FIRST_RUN[:1])) != []


def test_message_under_way_keeps_its_form_when_full_text_is_asked_for() -> None:
    session = ChatSession()
    follow(session, "delta")
    session.send("t-1", entries([MessageStarted(message_id="m"), text("m", 0, "a", 0)]))
    follow(session, "full", after=None)
    frames: list[Frame] = [
        text("m", 0, "b", 1),
        MessageStarted(message_id="n"),
        text("n", 0, "x", 0),
        text("m", 0, "c", 2),
        text("n", 0, "y", 1),
        text("m", 0, "d", 3),
    ]
    heard = decoded(session.send("t-1", entries(frames, first=3)))
    assert [(it["seq"], it["data"].get("delta"), it["data"].get("text")) for it in heard] == [
        (3, "b", None),
        (5, None, "x"),
        (6, "c", None),
        (7, None, "xy"),
        (8, "d", None),
    ]


def test_deltas_when_they_are_asked_for_in_mid_message() -> None:
    session = ChatSession()
    follow(session, "full")
    session.send("t-1", entries([MessageStarted(message_id="m"), text("m", 0, "a", 0)]))
    follow(session, "delta", after=None)
    [message] = decoded(session.send("t-1", entries([text("m", 0, "b", 1)], first=3)))
    assert (message["data"]["delta"], message["data"]["offset"]) == ("b", 1)


def test_run_again_of_a_task_begins_its_message_anew() -> None:
    session = ChatSession()
    follow(session)
    begun: list[Frame] = [MessageStarted(message_id="m", **AGENT), text("m", 0, "half", 0)]
    kept: list[Frame] = [MessageStarted(message_id="n", task_id="task-2"), text("n", 0, "x", 0)]
    again = AttemptStarted(attempt=2, rerun_task_ids=("task-1",), rollback_to=0)
    frames = [*begun, *kept, again, *begun, text("n", 0, "y", 1)]
    heard = decoded(session.send("t-1", entries(frames)))
    assert [it["data"]["text"] for it in heard if it["type"] == "text"] == [
        "half",
        "x",
        "half",
        "xy",
    ]


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(MessageFinished(message_id="m"), id="message"),
        pytest.param(MessageFinished(message_id="n", streamed_id="m"), id="under-another-id"),
        pytest.param(RunFinished(status="failed"), id="run"),
    ],
)
def test_finished_message_is_forgotten(ending: Frame) -> None:
    session = ChatSession()
    follow(session)
    session.send("t-1", entries([MessageStarted(message_id="m"), text("m", 0, "a", 0), ending]))
    [late] = decoded(session.send("t-1", entries([text("m", 0, "b", 1)], first=4)))
    assert late["data"] == {"message_id": "m", "index": 0, "delta": "b", "offset": 1}


def test_end_of_another_run_leaves_a_message_open() -> None:
    session = ChatSession()
    follow(session)
    session.send("t-1", entries([MessageStarted(message_id="m"), text("m", 0, "a", 0)]))
    session.send("t-1", entries([RunFinished(status="cancelled")], "r-0", 3))
    [message] = decoded(session.send("t-1", entries([text("m", 0, "b", 1)], first=4)))
    assert message["data"]["text"] == "ab"


# Recovery


def test_gap_while_attaching() -> None:
    session = ChatSession()
    run, gap, shot = follow(
        session,
        after=100,
        gap=TRIMMED,
        snapshot=snapshot(),
        info=info(position=Position("e-2", 100)),
    )
    assert run["type"] == "run"
    assert gap == {
        "type": "gap",
        "data": {
            "thread_id": "t-1",
            "reason": "trimmed",
            "requested": 41,
            "first": 90,
            "head": 100,
            "epoch": "e-2",
        },
    }
    assert shot == {
        "type": "snapshot",
        "data": {
            "thread_id": "t-1",
            "epoch": "e-2",
            "seq": 100,
            "run": {"run_id": "r-9", "status": "running"},
            "messages": [
                {
                    "message_id": "m-0",
                    "role": "user",
                    "content": [{"type": "text", "text": "Hello"}],
                    "status": "finished",
                }
            ],
            "open": [
                {
                    "message_id": "m-9",
                    "role": "assistant",
                    "node": "agent",
                    "task_id": "task-1",
                    "blocks": [
                        {"index": 0, "kind": "text", "text": "So far", "block": {"type": "text"}},
                        {
                            "index": 1,
                            "kind": "tool_call",
                            "text": '{"q": ',
                            "tool_call_id": "c-9",
                            "name": "search",
                        },
                    ],
                }
            ],
            "interrupts": [{"id": INTERRUPT, "value": "Send it?", "ordinal": 0}],
            "sources": [{"id": "s1", "title": "Pregel", "url": "https://example.com/pregel"}],
        },
    }


def after_the_snapshot() -> list[Entry]:
    """What the open message of the snapshot goes on to say."""
    return entries(
        [
            text("m-9", 0, ", so good", 6, **AGENT),
            BlockDelta(message_id="m-9", index=1, kind="tool_call", text="1}", offset=6),
            RunFinished(status="completed"),
            text("m-9", 0, "!", 15),
        ],
        "r-9",
        101,
    )


def test_full_text_goes_on_from_the_snapshot() -> None:
    session = ChatSession()
    follow(session)
    gap, shot = decoded(session.gap("t-1", TRIMMED, snapshot()))
    assert (gap["type"], shot["type"]) == ("gap", "snapshot")
    assert session.send("t-1", entries(FIRST_RUN[:2], first=99)) == []
    said_text, call, _end, late = decoded(session.send("t-1", after_the_snapshot()))
    assert said_text["data"]["text"] == "So far, so good"
    assert call["data"]["arguments"] == '{"q": 1}'
    assert (call["data"]["tool_call_id"], call["data"]["name"]) == ("c-9", "search")
    assert "text" not in late["data"]


def test_deltas_go_on_from_the_snapshot() -> None:
    session = ChatSession()
    follow(session, "delta", after=100, snapshot=snapshot())
    message = decoded(session.send("t-1", after_the_snapshot()))[0]
    assert (message["data"]["delta"], message["data"]["offset"]) == (", so good", 6)


def test_run_after_a_gap_tells_the_new_epoch() -> None:
    session = ChatSession()
    follow(session)
    session.gap("t-1", TRIMMED, snapshot())
    [message] = decoded(session.send("t-1", entries(FIRST_RUN[:1], first=101)))
    assert (message["data"]["epoch"], message["data"]["head"]) == ("e-2", 101)


@pytest.mark.parametrize(("expose_state", "shown"), [(True, {"step": 7}), (False, None)])
def test_state_in_a_snapshot(expose_state: bool, shown: object) -> None:
    session = ChatSession(expose_state=expose_state)
    follow(session)
    _gap, shot = decoded(session.gap("t-1", TRIMMED, snapshot(run_id=None)))
    assert shot["data"].get("values") == shown
    assert shot["data"]["run"] is None


# Merging loses nothing

_CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_PIECES = st.lists(
    st.tuples(
        st.sampled_from(["m-1", "m-2"]),
        st.sampled_from([(0, "text"), (1, "reasoning"), (2, "tool_call"), (3, "text")]),
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=3),
    ),
    max_size=30,
)
_CUTS = st.lists(st.integers(1, 6), max_size=30)


def _log(pieces: list[tuple[str, tuple[int, Any], str]]) -> list[Entry]:
    lengths: dict[tuple[str, int], int] = {}
    frames: list[Frame] = [MessageStarted(message_id="m-1"), MessageStarted(message_id="m-2")]
    for message_id, (index, kind), piece in pieces:
        offset = lengths.get((message_id, index))
        about: dict[str, Any] = {"message_id": message_id, "index": index, "kind": kind}
        if offset is None:
            frames.append(BlockStarted(**about))
        frames.append(BlockDelta(text=piece, offset=offset or 0, **about))
        lengths[message_id, index] = (offset or 0) + len(piece)
    return entries(frames)


def _hear(session: ChatSession, log: list[Entry], cuts: list[int]) -> list[Any]:
    heard = []
    for cut in [*cuts, len(log)]:
        batch, log = log[:cut], log[cut:]
        heard += decoded(session.send("t-1", batch))
    return [it for it in heard if it["data"].get("status") != "started"]


def _texts(log: list[Entry]) -> dict[tuple[str, int], str]:
    texts: dict[tuple[str, int], str] = {}
    for entry in log:
        if isinstance(entry.frame, BlockDelta):
            key = (entry.frame.message_id, entry.frame.index)
            texts[key] = texts.get(key, "") + entry.frame.text
    return texts


@_CALM
@given(_PIECES, _CUTS)
def test_joined_deltas_are_the_original(pieces: Any, cuts: list[int]) -> None:
    session = ChatSession()
    follow(session, "delta")
    log = _log(pieces)
    told: dict[tuple[str, int], str] = {}
    last = 0
    for it in _hear(session, log, cuts):
        assert last < it.get("from_seq", it["seq"]) <= it["seq"]
        last = it["seq"]
        key = (it["data"]["message_id"], it["data"]["index"])
        assert it["data"]["offset"] == len(told.get(key, ""))
        told[key] = told.get(key, "") + it["data"]["delta"]
        assert told == _texts(log[:last])  # whoever is cut off here has missed nothing
    assert told == _texts(log)


@_CALM
@given(_PIECES, _CUTS, st.integers(0, 20))
def test_newest_full_text_is_the_original(pieces: Any, cuts: list[int], after: int) -> None:
    session = ChatSession()
    follow(session, "full", after=after)
    log = _log(pieces)
    told: dict[tuple[str, str], str] = {}
    last = after
    for it in _hear(session, log, cuts):
        assert it["seq"] > last
        last = it["seq"]
        data = it["data"]
        told[data["message_id"], it["type"]] = data.get("text", data.get("arguments"))
    blocks: dict[tuple[str, str], str] = {}
    newest: dict[tuple[str, str], int] = {}
    kinds = {0: "text", 1: "reasoning", 2: "tool_call", 3: "text"}
    for (message_id, index), block in sorted(_texts(log).items()):
        blocks[message_id, kinds[index]] = blocks.get((message_id, kinds[index]), "") + block
    for entry in log:
        if isinstance(entry.frame, BlockDelta):
            newest[entry.frame.message_id, entry.frame.kind] = entry.seq
    assert told == {key: block for key, block in blocks.items() if newest[key] > after}


def test_chat_is_in_the_table_of_protocols() -> None:
    assert PROTOCOLS["chat"] is ChatSession
    assert ChatSession.subprotocols == ("langgraph-ws.chat.v1",)
