"""Everything that reads what a client sent, or what Redis holds, fed with bytes.

Bytes are a list of choices (`Choices`): which message of a corpus is taken, and what is done to
it. So a fuzzer that is guided by coverage, one that draws at random, and a seed that is kept all
make the same inputs.
"""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, get_args

import orjson
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_ws.codec import encode_frame
from langgraph_ws.commands import (
    ANONYMOUS,
    Authenticate,
    Cancel,
    Command,
    Detach,
    Identity,
    StartRun,
    check_id,
)
from langgraph_ws.errors import ErrorCode, InvalidRequest, LogFailed, RequestError
from langgraph_ws.gate import Gate
from langgraph_ws.handshake import FORWARDED_HEADERS, OriginCheck, choose_session, is_upgrade
from langgraph_ws.limits import Limits
from langgraph_ws.log import redis_server
from langgraph_ws.log.fold import Fold
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.log.redis_registry import _ticket
from langgraph_ws.log.redis_thread import entry_of
from langgraph_ws.protocols import PROTOCOLS
from langgraph_ws.protocols.agui_requests import RunInput
from langgraph_ws.protocols.langchain_commands import RunStart, Subscribe
from langgraph_ws.protocols.requests import parse, validated
from langgraph_ws.rest import _History
from langgraph_ws.run import Run, encode_run
from langgraph_ws.runs import Runs
from langgraph_ws.session import Close, Do, Peer, Reply, Session
from tests.chat_story import story
from tests.graphs import chat

CODES = frozenset(get_args(ErrorCode))
SLOW_S = 0.5
"""No input may take longer, whatever else the machine does: the event loop stands still."""
EDITS = 4
LONGEST = 64
USER = {"role": "user", "content": "hello", "id": "u1"}
INTERRUPT = "0123456789abcdef0123456789abcdef"

CHAT: list[Any] = [
    {"type": "new_chat", "messages": [USER], "options": {"text": "delta", "userName": "x"}},
    {"type": "new_chat", "input": {"value": 1}, "thread_id": "t", "run_id": "r"},
    {"type": "resume_chat", "thread_id": "t", "resume": {INTERRUPT: 1}, "goto": ["a"]},
    {"type": "resume_chat", "thread_id": "t", "checkpoint_id": "c", "update": {"a": 1}},
    {"type": "attach", "thread_id": "t", "after": 3, "epoch": "e", "id": 7},
    {"type": "detach", "run_id": "r"},
    {"type": "cancel", "threadId": "t"},
    {"type": "auth", "token": "s"},
    {"type": "ping", "id": 1.5},
]
CONFIG = {"configurable": {"checkpoint_id": "c", "model": "m"}}
LANGCHAIN: list[Any] = [
    {"id": number, "method": method, "params": params}
    for number, (method, params) in enumerate(
        [
            ("run.start", {"assistant_id": "graph", "input": {"messages": [USER]}}),
            ("run.start", {"assistantId": "graph", "config": CONFIG, "metadata": {"a": 1}}),
            ("input.respond", {"interrupt_id": INTERRUPT, "namespace": [], "response": 1}),
            ("input.respond", {"responses": [{"interrupt_id": "i", "response": {}}]}),
            ("input.respond", {"interrupt_id": "i", "response": 1, "goto": [{"node": "a"}]}),
            ("input.inject", {"namespace": [], "message": {"role": "user", "content": "x"}}),
            ("agent.getTree", {"run_id": "r"}),
            ("state.get", {"namespace": ["a:b"], "keys": ["messages"]}),
            ("state.listCheckpoints", {"limit": 3, "before": "c"}),
            ("state.fork", {"checkpoint_id": "c", "input": {}}),
            ("subscription.subscribe", {"channels": ["messages", "custom:x"], "since": 64}),
            ("subscription.subscribe", {"channels": ["values"], "since_event_id": "128"}),
            ("subscription.subscribe", {"channels": ["tools"], "namespaces": [["a"]], "depth": 2}),
            ("subscription.unsubscribe", {"subscription_id": "s"}),
            ("subscription.reconnect", {"run_id": "r", "last_event_id": "64"}),
            ("subscription.reconnect", {"channels": ["messages"], "subscriptions": ["s"]}),
        ]
    )
]
PARTS = [
    {"type": "text", "text": "hello"},
    {"type": "file", "url": "data:image/png;base64,AAAA", "mediaType": "image/png"},
    {"type": "step-start"},
    {
        "type": "tool-look",
        "toolCallId": "c1",
        "state": "output-available",
        "input": {"what": "it"},
        "output": {"found": 1},
    },
    {"type": "data-interrupt", "id": "i", "data": {"status": "pending", "value": {"a": 1}}},
    {
        "type": "data-interrupt",
        "id": "i2",
        "data": {"status": "pending", "value": {"tool_call_id": "c1"}},
    },
    {
        "type": "data-interrupt",
        "id": "i3",
        "data": {"status": "pending", "value": {"action_requests": [{}]}},
    },
    {"type": "dynamic-tool", "toolName": "x", "toolCallId": "c2", "state": "approval-responded"},
    {"type": "tool-x", "toolCallId": "c3", "state": "s", "approval": {"id": "i3:0"}},
]
SEND = {"type": "send", "requestId": "1", "id": "t", "trigger": "submit-message", "body": {}}
AISDK: list[Any] = [
    {**SEND, "messages": [{"id": "u", "role": "user", "parts": PARTS[:2]}]},
    {**SEND, "messages": [{"id": "a", "role": "assistant", "parts": PARTS}]},
    {**SEND, "trigger": "regenerate-message", "messageId": "u", "messages": []},
    {
        **SEND,
        "body": {"resume": {"i": 1}, "assistantId": "graph", "multitaskStrategy": "reject"},
        "messages": [{"id": "a", "role": "assistant", "parts": []}],
    },
    {"type": "resume", "requestId": "2", "id": "t"},
    {"type": "abort", "requestId": "2"},
]
CALLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
IMAGE = {"type": "image", "source": {"type": "data", "value": "AA", "mimeType": "image/png"}}
AGUI: list[Any] = [
    {"threadId": "t", "runId": "r", "messages": [USER], "tools": [{"name": "x"}], "context": []},
    {
        "threadId": "t",
        "runId": "r",
        "messages": [
            {"id": "a", "role": "assistant", "toolCalls": CALLS},
            {"id": "b", "role": "tool", "content": "x", "toolCallId": "c"},
            {"id": "d", "role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]},
        ],
        "forwardedProps": {"assistantId": "graph", "userName": "x"},
    },
    {
        "threadId": "t",
        "runId": "r",
        "messages": [],
        "resume": [{"interruptId": "i", "status": "resolved", "payload": 1}],
    },
    {"type": "connect", "threadId": "t"},
    {"type": "cancel", "threadId": "t", "runId": "r"},
]
HISTORY: list[Any] = [
    {"limit": 3, "before": {"configurable": {"checkpoint_id": "c"}}},
    {"before": "c", "checkpoint": {"checkpoint_ns": "a:b|c"}, "metadata": {"step": 1}},
]
HEADERS: list[Any] = [
    {
        "Origin": "https://app.example.com:443",
        "Host": "app.example.com",
        "X-Forwarded-Host": "a, app.example.com",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "10.0.0.1",
        "Sec-WebSocket-Protocol": "langgraph-ws.chat.v1, x",
        "Authorization": "Bearer token",
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
    },
    {"Origin": "http://[::1]:8080", "Host": "[0:0:0:0:0:0:0:1]:8080"},
    {"Origin": "null", "Host": "\u0662:\u0663"},
]
ENTRIES: list[Any] = [encode_frame(entry.frame) for entry in story()]

ODD: list[Any] = [
    *(None, True, False, 0, -1, 64, 2**53, 2**63, -(2**63), 2**64 - 1, 1e308, -0.0),
    *(
        "",
        "t",
        "null",
        "1" * 5_000,
        "\u0663",
        "\u0000",
        "\ud7ff\U0010ffff",
        "a" * 129,
        "A" * 30_000,
    ),
    *("user", "assistant", "tool", "system", "full", "delta", "enqueue", "input", "custom:"),
    *("../../etc/passwd", "a/b", "a%2Fb", "{{x}}", "${x}", "x\r\ny: z", "http://a:99999", "[::"),
    *([], {}, [[]], [{}], {"": ""}, {"type": []}, [None] * 2_000, {"A" * 30_000: 1}, "0" * 30_000),
    {"id": "u", "role": "user", "parts": [{"type": "text", "text": ""}]},
]
NAMES = [
    *("type", "id", "role", "content", "thread_id", "threadId", "run_id", "messages", "input"),
    *("options", "config", "configurable", "checkpoint_id", "checkpoint_ns", "tool_call_id"),
    *("toolCallId", "parts", "data", "value", "status", "frame", "action_requests", "metadata"),
    *("namespaces", "since", "after", "epoch", "goto", "update", "resume", "responses", ""),
]


class Choices:
    """Bytes as a list of choices; when they are used up, it is always the first."""

    def __init__(self, data: bytes) -> None:
        self._left = iter(data)

    def byte(self) -> int:
        return next(self._left, 0)

    def of(self, items: Sequence[Any]) -> Any:
        number = self.byte() << 8 | self.byte() if len(items) > 256 else self.byte()
        return items[number % len(items)]

    def rest(self) -> bytes:
        return bytes(self._left)


def value_of(choices: Choices, corpus: Sequence[Any]) -> Any:
    """A value of the corpus, with some of its parts taken away, doubled, or put elsewhere."""
    value = copy.deepcopy(choices.of(corpus))
    for _ in range(choices.byte() % (EDITS + 1)):
        value = _edited(value, choices, corpus)
    return value


def text_of(choices: Choices, corpus: Sequence[Any]) -> str:
    """The same as JSON; sometimes broken, or the bytes themselves."""
    how = choices.byte()
    if how > 250:
        return choices.rest().decode("utf-8", "replace")
    text = json.dumps(value_of(choices, corpus), ensure_ascii=how & 1 == 0)
    if how > 240:
        at = int.from_bytes((choices.byte(), choices.byte())) % (len(text) + 1)
        text = text[:at] + choices.rest().decode("utf-8", "replace") + text[at:]
    return text


def _edited(value: Any, choices: Choices, corpus: Sequence[Any]) -> Any:
    holders = [({"": value}, ""), *_places(value)]
    holder, key = choices.of(holders)
    match choices.byte() % 6:
        case 0 | 5:
            holder[key] = copy.deepcopy(choices.of(ODD))
        case 1:
            holder[key] = copy.deepcopy(choices.of(corpus))
        case 2:
            other, name = choices.of(holders)
            holder[key] = copy.deepcopy(other[name])
        case 3 if isinstance(holder[key], dict):
            holder[key][choices.of(NAMES)] = copy.deepcopy(choices.of(ODD))
        case 4 if isinstance(holder[key], list):
            holder[key].extend(copy.deepcopy(holder[key][: choices.byte()]))
        case _:
            holder.pop(key)
    top = holders[0][0]
    return top.get("")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


# -- what is fed -----------------------------------------------------------------------------


def session_target(kind: type[Session], corpus: Sequence[Any]) -> Callable[[bytes], None]:
    """What a connection does with messages of its client: answer, ask for something, or close."""

    def feed(data: bytes) -> None:
        choices = Choices(data)
        session = kind(Peer({"thread_id": "t"}), takes_tokens=True, authenticated=True)
        for _ in range(choices.byte() % 3 + 1):
            text = text_of(choices, corpus)
            for action in session.receive(text):
                _check(session, action)
            for message in session.refuse(text, RequestError("rate_limited", "slow down")):
                orjson.loads(message)

    return feed


def _check(session: Session, action: Reply | Do | Close) -> None:
    match action:
        case Reply(data):
            orjson.loads(data)
        case Close(code, reason):
            assert code in (1008, 4400)
            assert reason
        case Do(token, command):
            _check_command(command)
            error = RequestError("internal_error", "Something went wrong.", error_id="e")
            for message in session.done(token, error):
                orjson.loads(message)


def _check_command(command: Command) -> None:
    """What is checked of a command before anything is looked up for it."""
    if isinstance(command, StartRun):
        _check_options(command)
    if isinstance(command, StartRun | Cancel | Detach):
        for name in ("thread_id", "run_id"):
            if (value := getattr(command, name)) is not None:
                check_id(name, value)
    assert not isinstance(command, Authenticate) or command.token


GRAPH = chat("x", saver=InMemorySaver())
ALLOWED = ("user_name", "model", "thread_id", "checkpoint_ns")


def _check_options(command: StartRun) -> None:
    """Only what is allowed reaches a graph, and nothing says on which thread it runs."""
    run = Run(
        settings=RUNS._settings,
        identity=Identity(id="ann", config={"model": "ours"}),
        thread_id="t",
        key="ann/t",
        run_id="r",
        graph="graph",
        request=command,
        strategy="enqueue",
    )
    config, _ = run._config(GRAPH)
    given = config["configurable"]
    assert given["thread_id"] == "ann/t"
    assert given["model"] == "ours"
    ours = {"langgraph_ws_run_id", "langgraph_ws_attempt", "checkpoint_id"}
    assert given.keys() <= {"thread_id", "model", "user_name"} | ours
    assert given.get("checkpoint_id") == command.checkpoint_id
    # and a process that takes the run over reads the same
    RUNS.decode(encode_run(run))


RUNS = Runs({"graph": GRAPH}, log=MemoryThreadLog(), allowed_options=ALLOWED)


def bodies(data: bytes) -> None:
    """The bodies of HTTP requests."""
    choices = Choices(data)
    model, corpus = choices.of(
        [
            (_History, HISTORY),
            (RunStart, [message["params"] for message in LANGCHAIN[:2]]),
            (Subscribe, [message["params"] for message in LANGCHAIN[10:13]]),
            (RunInput, AGUI[:3]),
        ]
    )
    text = text_of(choices, corpus)
    try:
        wanted = validated(model, parse(text))
        wanted.command() if model is RunInput else wanted.command("t")
    except RequestError as error:
        assert error.code in CODES
        assert str(error)


async def _nobody(_request: web.Request, token: str) -> Identity | None:
    assert token
    return None


def handshakes(data: bytes) -> None:
    """What is read of a request before it is upgraded."""
    choices = Choices(data)
    value = value_of(choices, HEADERS)
    given = value if isinstance(value, dict) else {}
    headers = {
        name: _latin(said)
        for name, said in given.items()
        if name.isascii() and name.replace("-", "").isalnum()
    }
    request = make_mocked_request("GET", "/ws", headers={"Host": "a", **headers})
    for forwarded in ((), FORWARDED_HEADERS):
        origins = OriginCheck(("https://app.example.com", "null"), forwarded)
        gate = Gate(origins=origins, authorize=None, authorize_token=_nobody, limits=Limits())
        admitted = origins.admits(request)
        if admitted and "Origin" in headers:
            origin = headers["Origin"].lower().removesuffix(":443")
            own = str(origins.own(request))
            assert origin in ("https://app.example.com", "null", own, f"{own}:80", f"{own}:443")
        origins.shared_with(request)
        origins.address(request)
        with suppress(web.HTTPUnauthorized):  # it waits for nothing, so the first step is all
            gate.identify_at_once(request).send(None)
    is_upgrade(request)
    try:
        choose_session(request, {"chat": PROTOCOLS["chat"]})
    except web.HTTPBadRequest as refusal:
        assert "langgraph-ws.chat.v1" in (refusal.text or "")


def _latin(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(char for char in text if char.isprintable() or char == " ")[:8_000]


def ids(data: bytes) -> None:
    """Ids of threads and runs; of no two identities they make the same key."""
    text = data.decode("utf-8", "replace")
    try:
        key = RUNS.key(Identity(id="ann"), text)
    except InvalidRequest:
        return
    assert key.rpartition("/")[2] == text
    assert key != RUNS.key(ANONYMOUS, text)
    assert key.isascii()
    assert "\n" not in key


def _stored(choices: Choices, corpus: Sequence[Any]) -> bytes | None:
    if choices.byte() > 250:
        return choices.rest() or None
    return text_of(choices, corpus).encode("utf-8", "replace")


def entries(data: bytes) -> None:
    """Entries of the log in Redis."""
    choices = Choices(data)
    frame = _stored(choices, ENTRIES)
    seq, time_ms = choices.of([b"1", b"x", None, b"9" * 5_000]), choices.of([b"1", b"", None])
    with suppress(LogFailed):
        entry_of(seq, choices.of([b"r", b"\xff", None]), time_ms, frame)
    with suppress(LogFailed):
        redis_server.number(choices.of([b"1", b"x", None, [], b"9" * 5_000]))


def _folded() -> bytes:
    fold = Fold(1 << 20)
    for entry in story()[:30]:
        fold.apply(entry.run_id, entry.frame, 100)
    return fold.dump()


FOLDS = [orjson.loads(_folded()), orjson.loads(Fold(1).dump())]
REQUEST = StartRun(thread_id="t", run_id="r", messages=(USER,), options={"user_name": "x"})
WORK = [
    orjson.loads(
        encode_run(
            Run(
                settings=RUNS._settings,
                identity=Identity(id="ann", config={"a": 1}),
                thread_id="t",
                key="ann/t",
                run_id="r",
                graph="graph",
                request=REQUEST,
                strategy="enqueue",
            )
        )
    )
]


def folds(data: bytes) -> None:
    """The fold of a thread in Redis."""
    stored = _stored(Choices(data), FOLDS)
    with suppress(ValueError):
        Fold.load(stored or b"", 1 << 20)


def tickets(data: bytes) -> None:
    """The runs in Redis: what it takes to carry them out, and where they are."""
    choices = Choices(data)
    work = _stored(choices, WORK)
    with suppress(ValueError):
        RUNS.decode(work or b"")
    with suppress(LogFailed):
        _ticket(choices.of([b"ann/r", b"", None]), _stored(choices, [["t", "graph"]]), "ann/t")


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "messages of the chat protocol": session_target(PROTOCOLS["chat"], CHAT),
    "commands of the LangChain protocol": session_target(PROTOCOLS["langchain"], LANGCHAIN),
    "frames of the AI SDK": session_target(PROTOCOLS["aisdk"], AISDK),
    "inputs of AG-UI": session_target(PROTOCOLS["agui"], AGUI),
    "bodies of HTTP requests": bodies,
    "handshakes": handshakes,
    "ids": ids,
    "entries in Redis": entries,
    "folds in Redis": folds,
    "runs in Redis": tickets,
}


# -- feeding ---------------------------------------------------------------------------------


def draw(target: Callable[[bytes], None], *, seed: int, inputs: int) -> float:
    """Feed a target at random; the longest time that an input took."""
    rng, slowest = random.Random(seed), 0.0
    for number in range(inputs):
        data = rng.randbytes(rng.randrange(LONGEST))
        try:
            slowest = max(slowest, timed(target, data))
        except Exception as error:
            error.add_note(f"input {number} of seed {seed}: {data.hex()}")
            raise
    return slowest


def timed(target: Callable[[bytes], None], data: bytes) -> float:
    """Feed one input; the seconds of CPU that it took, which may not be many."""
    began = time.thread_time()
    target(data)
    took = time.thread_time() - began
    assert took < SLOW_S, f"it takes {took:.1f} s"
    return took


def guided(name: str, seconds: int) -> str | None:
    """Feed a target for so long with what atheris makes; what came of it, None: it is not there.

    Raises:
        AssertionError: An input did something else than is documented; it is in the message.
    """
    if find_spec("atheris") is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        fed = subprocess.run(
            [sys.executable, "-m", "tests.security.guided", name, str(seconds), directory],
            capture_output=True,
            text=True,
            check=False,
        )
        assert fed.returncode == 0, fed.stderr[-4_000:]
    counted = re.findall(r"stat::number_of_executed_units: +(\d+)", fed.stderr)
    covered = re.findall(r"cov: (\d+)", fed.stderr)
    return f"{int(counted[-1]):,} inputs, {covered[-1]} places"


def check(*, seconds: int, inputs: int) -> str:
    """Every target, guided for so long where atheris is installed, and at random."""
    told = []
    for number, (name, target) in enumerate(TARGETS.items()):
        slowest = draw(target, seed=number, inputs=inputs)
        by_coverage = guided(name, seconds) or "atheris is not installed"
        told.append(f"{name}: {by_coverage}; slowest of {inputs:,} at random {slowest:.2f} s")
    return "<br>".join(told)
