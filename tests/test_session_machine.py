"""Whatever a client sends and whatever comes of it, a session answers what PROTOCOL.md knows."""

from __future__ import annotations

import json
from typing import Any, get_args

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from langgraph_ws.commands import (
    Attached,
    Authenticate,
    Authenticated,
    Cancelling,
    Detached,
)
from langgraph_ws.errors import ErrorCode, GapError, InvalidRequest, RequestError
from langgraph_ws.frames import RunFinished
from langgraph_ws.log import Entry, Position
from langgraph_ws.protocols.chat import RESERVED, ChatSession
from langgraph_ws.session import Action, Close, Do, Reply
from tests.chat_story import EPOCH, INTERRUPT, info, snapshot, story

CODES = set(get_args(ErrorCode))
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SENT = RESERVED | {"progress"}
THREADS = ("t-1", "t-2")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["t-1", "r-1", "full", "delta", "user", "tool", "reject", "e-1", INTERRUPT])
)
names = st.sampled_from(
    [
        *("type", "id", "role", "content", "name", "args", "text", "threadId", "thread_id"),
        *("run_id", "messages", "input", "resume", "update", "goto", "after", "epoch", "token"),
        *("options", "tool_calls", "toolCallId", "multitask_strategy", "checkpoint_id", INTERRUPT),
    ]
)
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(names | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)
types = st.sampled_from(
    ["new_chat", "resume_chat", "attach", "detach", "cancel", "ping", "auth", "run", ""]
)
objects = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    types,
    st.dictionaries(names, json_values, max_size=6),
)
good = st.sampled_from(
    [
        {"type": "new_chat", "messages": [{"role": "user", "content": "Hello"}]},
        {"type": "new_chat", "input": {}, "thread_id": "t-1", "options": {"text": "delta"}},
        {"type": "resume_chat", "thread_id": "t-1", "resume": {INTERRUPT: 1}},
        {"type": "resume_chat", "thread_id": "t-2", "options": {"text": "full"}},
        {"type": "attach", "thread_id": "t-1", "after": 3, "epoch": EPOCH},
        {"type": "attach", "run_id": "r-1", "options": {"text": "delta"}},
        {"type": "detach", "thread_id": "t-1"},
        {"type": "cancel", "run_id": "r-1"},
        {"type": "ping", "id": "p"},
        {"type": "auth", "token": "s3"},
    ]
)


def encoded(value: object) -> str:
    """JSON with all that JSON does not allow: NaN, lone surrogates, huge integers."""
    return json.dumps(value)


def check_message(data: bytes) -> Any:
    """A message as PROTOCOL.md has them."""
    message = orjson.loads(data)
    assert message.keys() <= {"type", "request_id", "run_id", "seq", "from_seq", "data"}
    assert message["type"] in SENT
    assert ("seq" in message) == ("run_id" in message)
    if message["type"] == "error":
        assert message["data"]["code"] in CODES
        assert message["data"]["message"]
    return message


def check_actions(actions: list[Action]) -> None:
    """What a session may want after one message: one thing, and a `Close` only after an error."""
    match actions:
        case [Reply(data)]:
            check_message(data)
        case [Do()]:
            pass
        case [Reply(data), Close(code, reason)]:
            assert check_message(data)["type"] == "error"
            assert code == 4400
            assert len(reason.encode()) <= 123  # RFC 6455, section 5.5
        case _:
            raise AssertionError(actions)


@CALM
@given(json_values | objects)
def test_any_json(value: object) -> None:
    check_actions(ChatSession(takes_tokens=True).receive(encoded(value)))


@CALM
@given(st.text(st.characters()))
def test_any_text(raw: str) -> None:
    check_actions(ChatSession().receive(raw))


@CALM
@given(st.binary())
def test_any_bytes_that_passed_for_text(raw: bytes) -> None:
    check_actions(ChatSession().receive(raw.decode("utf-8", "surrogateescape")))


class Connection(RuleBasedStateMachine):
    """A client, and a rim that carries out commands late, in any order, or twice."""

    @initialize(expose=st.booleans(), known=st.booleans())
    def connect(self, expose: bool, known: bool) -> None:
        self.session = ChatSession(expose_state=expose, takes_tokens=True, authenticated=known)
        self.asked: dict[int, Do] = {}
        self.tokens: set[int] = set()
        self.known = known
        self.introduced = False
        self.closed = False

    def _receive(self, raw: str) -> None:
        actions = self.session.receive(raw)
        if self.closed:
            assert actions == []
            return
        check_actions(actions)
        for action in actions:
            if isinstance(action, Do):
                assert action.token not in self.tokens
                self.introduced |= isinstance(action.command, Authenticate)
                assert self.known or self.introduced, "only a token comes before all else"
                self.tokens.add(action.token)
                self.asked[action.token] = action
            self.closed |= isinstance(action, Close)

    @rule(message=good)
    def says_something_good(self, message: dict[str, Any]) -> None:
        self._receive(encoded(message))

    @rule(message=objects)
    def says_something_odd(self, message: dict[str, Any]) -> None:
        self._receive(encoded(message))

    @rule(raw=st.text(max_size=10))
    def says_something_else(self, raw: str) -> None:
        self._receive(raw)

    def _outcome(self, data: st.DataObject, thread_id: str) -> Any:
        shot = snapshot(thread_id=thread_id)
        stands = info(thread_id=thread_id, position=Position(EPOCH, 5))
        after = data.draw(st.none() | st.integers(0, 70))
        outcome = data.draw(
            st.sampled_from(
                [
                    RequestError("thread_busy", "It is busy.", retryable=True),
                    InvalidRequest("messages", "takes none"),
                    Attached(info=stands, after=after),
                    Attached(info=stands, after=after, run_id="r-1"),
                    Attached(info=stands, after=100, snapshot=shot),
                    Detached(info=stands),
                    Cancelling(info=stands),
                    Authenticated(expires_at=1.5),
                ]
            )
        )
        self.known |= isinstance(outcome, Authenticated)
        return outcome

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), thread_id=st.sampled_from(THREADS))
    def command_is_carried_out(self, data: st.DataObject, thread_id: str) -> None:
        token = data.draw(st.sampled_from(sorted(self.asked)))
        del self.asked[token]
        messages = self.session.done(token, self._outcome(data, thread_id))
        assert messages
        for message in messages:
            check_message(message)
        assert self.session.done(token, Cancelling(info=info())) == []

    @rule(token=st.integers(10_000, 20_000))
    def outcome_of_nothing(self, token: int) -> None:
        assert self.session.done(token, Cancelling(info=info())) == []

    @rule(thread_id=st.sampled_from(THREADS), start=st.integers(0, 62), length=st.integers(0, 62))
    def entries_come(self, thread_id: str, start: int, length: int) -> None:
        log = story()[start : start + length]
        seqs = [check_message(message)["seq"] for message in self.session.send(thread_id, log)]
        assert seqs == sorted(set(seqs))

    @rule(thread_id=st.sampled_from(THREADS))
    def reader_falls_out_of_the_log(self, thread_id: str) -> None:
        lost = GapError("trimmed", requested=1, first=90, head=100, epoch="e-2")
        messages = self.session.gap(thread_id, lost, snapshot(thread_id=thread_id))
        assert [check_message(message)["type"] for message in messages or []] in (
            [],
            ["gap", "snapshot"],
        )

    @rule()
    def rim_speaks(self) -> None:
        for message in (
            *self.session.refuse(
                '{"id": 1}', RequestError("rate_limited", "Too fast.", retry_after_ms=70)
            ),
            *self.session.heartbeat(1, {"t-1": Position(EPOCH, 1)}),
            *self.session.bye("restart", "resume", 10),
        ):
            check_message(message)

    @rule()
    def run_ends(self) -> None:
        end = Entry(1_000_000, "r-1", 0, RunFinished(status="completed"))
        assert len(self.session.send("t-1", [end])) <= 1

    @invariant()
    def client_is_known_only_after_a_token(self) -> None:
        assert self.session.authenticated == self.known


TestConnection = Connection.TestCase
TestConnection.settings = settings(CALM, max_examples=60, stateful_step_count=40)
