"""Conversations that are full of secrets, and everything that is read for them afterwards."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import orjson
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import langgraph_ws
from langgraph_ws import Identity, attach_websocket
from langgraph_ws.metrics import OpenTelemetryMetrics
from langgraph_ws.testing import Reply, ScriptedModel, call

SECURITY_MD = Path(langgraph_ws.__file__).parent / "SECURITY.md"
CREDENTIALS = ("header", "cookie", "ticket", "token", "bearer", "wrong")
CONTENTS = ("asked", "said", "state", "argument", "result", "exception", "sent")
FAILURE = "exception"


def canary(name: str) -> str:
    return f"canary-{name}-7f3a9c"


def canaries_in(text: str) -> set[str]:
    return set(re.findall(r"canary-([a-z]+)-7f3a9c", text))


class State(MessagesState):
    secret: Annotated[str, lambda _old, new: new]


@tool
async def look(what: str) -> str:
    """Look something up."""
    return f"{what} {canary('result')}"


def graph() -> Any:
    """Says, calls a tool, keeps, and fails when it is asked to: each with something secret."""
    model = ScriptedModel(
        [Reply(text=canary("said"), tool_calls=[call("look", what=canary("argument"))])] * 100
    )

    async def speak(state: State) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])], "secret": canary("state")}

    async def finish(state: State) -> dict[str, Any]:
        if any("fail" in str(message.content) for message in state["messages"]):
            raise ValueError(canary(FAILURE))
        return {"messages": [AIMessage(canary("said"))]}

    builder = StateGraph(State)
    builder.add_node("speak", speak).add_node("tools", ToolNode([look])).add_node("finish", finish)
    builder.add_edge(START, "speak").add_edge("speak", "tools").add_edge("tools", "finish")
    return builder.compile(checkpointer=InMemorySaver())


def authorize(request: web.Request) -> Identity | None:
    """By header, cookie or ticket; somebody else by another header; and it may fail."""
    if "X-User" in request.headers:
        return Identity(id=request.headers["X-User"])
    carried = {
        "header": request.headers.get("X-Token"),
        "cookie": request.cookies.get("token"),
        "ticket": request.query.get("ticket"),
    }
    for name, value in carried.items():
        if value == canary("wrong"):
            raise KeyError(value)
        if value == canary(name):
            return Identity(id="ann", config={"token": value})
    return None


async def authorize_token(_request: web.Request, token: str) -> Identity:
    return {canary(name): Identity(id="ann") for name in ("token", "bearer")}[token]


class Records(logging.Handler):
    """All that is logged, by anybody, with all that a formatter could write of it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: dict[tuple[str, str], set[str]] = {}
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        formatter = logging.Formatter()
        text = f"{formatter.format(record)} {record.__dict__}"
        if names := canaries_in(text):
            where = (record.name, record.levelname)
            self.found[where] = self.found.get(where, set()) | names

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear everything from DEBUG on, as long as the block lasts."""
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.DEBUG)
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)
            root.setLevel(level)


def access_logger() -> type[AbstractAccessLogger]:
    """The access logger that SECURITY.md suggests."""
    blocks = re.findall(r"```python\n(.*?)```", SECURITY_MD.read_text("utf-8"), re.DOTALL)
    [code] = [block for block in blocks if "AbstractAccessLogger" in block]
    namespace: dict[str, Any] = {}
    exec(code.partition("\nrunner = ")[0], namespace)
    [found] = [
        value
        for value in namespace.values()
        if isinstance(value, type)
        and issubclass(value, AbstractAccessLogger)
        and value is not AbstractAccessLogger
    ]
    return found


@dataclass
class Visit:
    """One client: how it says who it is, and all that it is told."""

    port: int
    session: aiohttp.ClientSession
    headers: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/ws{path}"

    async def talk(self, path: str, *messages: Any, ends: str, times: int = 1) -> None:
        """Send messages, and hear what comes until this has come so often (or it is closed)."""
        async with self.session.ws_connect(self.url(path), headers=self.headers) as ws:
            for message in messages:
                sent = message if isinstance(message, str) else orjson.dumps(message).decode()
                await ws.send_str(sent)
            while times:
                message = await ws.receive(timeout=10)
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                self.told.append(message.data)
                times -= ends in message.data

    async def refused(self, path: str, **options: Any) -> int:
        try:
            async with self.session.ws_connect(self.url(path), **options):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status

    async def ask(self, method: str, path: str, body: Any = None) -> int:
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        asked = self.session.request(method, self.url(path), data=data, headers=self.headers)
        async with asked as answer:
            self.told.append(f"{answer.headers} {await answer.text()}")
            return answer.status


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{text} {canary('asked')}"}]


async def chats(visit: Visit, path: str = "", *before: Any) -> None:
    """The chat protocol: a turn, one that fails, and messages that are none."""
    for text in ("go", "fail"):
        start = {"type": "new_chat", "messages": _asked(text), "input_": canary("asked")}
        await visit.talk(path, *before, start, ends='"type":"end"')
    bad = [
        f'{{"type": "new_chat", "messages": "{canary("sent")}',
        {"type": "new_chat", "messages": canary("sent")},
        {"type": "new_chat", "messages": _asked("x"), "input": canary("sent")},
        {"type": "attach", "thread_id": f"{canary('sent')} "},
        {"type": "resume_chat", "thread_id": "none", "resume": canary("sent")},
        {"type": "auth", "token": [canary("wrong")]},
    ]
    await visit.talk(path, *before, *bad, ends='"type":"error"', times=len(bad))


async def talks(visit: Visit) -> None:
    """The other protocols: a turn and one that fails, over sockets and over HTTP."""
    for text in ("go", "fail"):
        thread = secrets.token_hex(8)
        turn = {"messages": [{"type": "human", "content": f"{text} {canary('asked')}"}]}
        start = {"assistant_id": "graph", "input": turn, "metadata": {"a": canary("asked")}}
        channels = ["messages", "values", "tools", "updates", "lifecycle", "input"]
        commands = [
            {"id": 1, "method": "subscription.subscribe", "params": {"channels": channels}},
            {"id": 2, "method": "run.start", "params": start},
        ]
        ends = '"completed"' if text == "go" else '"failed"'
        await visit.talk(f"/threads/{thread}/stream/events", *commands, ends=ends)
        for path in ("state", "runs"):
            assert await visit.ask("GET", f"/threads/{thread}/{path}") == 200
        history = {"metadata": {"source": canary("sent")}}
        assert await visit.ask("POST", f"/threads/{thread}/history", history) == 200
        parts = [{"type": "text", "text": turn["messages"][0]["content"]}]
        send = {"type": "send", "requestId": "1", "id": secrets.token_hex(8), "body": {}}
        send |= {"trigger": "submit-message"}
        message = {"id": "u", "role": "user", "parts": parts}
        await visit.talk("/aisdk", {**send, "messages": [message]}, ends='"type":"end"')
        ids = {"threadId": secrets.token_hex(8), "runId": secrets.token_hex(8)}
        said = [{"id": "u", "role": "user", "content": turn["messages"][0]["content"]}]
        run = {**ids, "messages": said, "tools": [], "context": [], "state": {}}
        await visit.talk("/agui", run, ends='"RUN_FINISHED"' if text == "go" else '"RUN_ERROR"')
        assert await visit.ask("POST", "/agui", {**run, "threadId": secrets.token_hex(8)}) == 200
    for path in (f"/threads/{secrets.token_hex(8)}/history", "/threads/t/runs", "/agui"):
        for body in (f'{{"a": "{canary("sent")}'.encode(), {"limit": canary("sent")}):
            assert 400 <= await visit.ask("POST", path, body) < 500


async def refusals(visit: Visit) -> None:
    """What is not let in, with something secret in all that it sends."""
    wrong = canary("wrong")
    assert await visit.refused("", headers={"X-Token": wrong}) == 500
    assert await visit.refused("", headers={"Cookie": f"token={wrong}"}) == 500
    assert await visit.refused(f"?ticket={wrong}") == 500
    assert await visit.refused("", headers={"Origin": "http://evil.org", "Cookie": wrong}) == 403
    assert await visit.refused("", protocols=[wrong]) == 400
    assert await visit.refused("/aisdk", headers={"Authorization": f"Bearer {wrong}"}) == 500
    assert await visit.refused("/aisdk", headers={"Authorization": f"Basic {wrong}"}) == 401
    await visit.talk("", {"type": "auth", "token": wrong}, ends="never")


@asynccontextmanager
async def _served(metrics: OpenTelemetryMetrics) -> AsyncIterator[int]:
    app = web.Application()
    attach_websocket(
        app,
        {"graph": graph()},
        authorize=authorize,
        authorize_token=authorize_token,
        protocols=["chat", "langchain", "aisdk", "agui"],
        metrics=metrics,
    )
    runner = web.AppRunner(app, access_log_class=access_logger())
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def check() -> str:
    """Talk in every protocol with every credential, and look for what should be nowhere."""
    records, reader, spans = Records(), InMemoryMetricReader(), InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider([reader])
    metrics = OpenTelemetryMetrics(meter_provider=meters, tracer_provider=tracers)
    async with AsyncExitStack() as stack:
        stack.enter_context(records.heard())
        port = await stack.enter_async_context(_served(metrics))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        own = Visit(port, session)
        await chats(own, "", {"type": "auth", "token": canary("token")})
        await chats(own, f"?ticket={canary('ticket')}")
        for headers in (
            {"X-Token": canary("header")},
            {"Cookie": f"token={canary('cookie')}"},
            {"Authorization": f"Bearer {canary('bearer')}"},
        ):
            own.headers = headers
            await talks(own)
        other = Visit(port, session, {"X-User": "bob"})
        await other.talk("", {"type": "attach", "thread_id": "t"}, ends='"run"')
        for path in ("/threads/t/state", "/threads/t/runs", "/threads/t"):
            await other.ask("GET", path)
        stranger = Visit(port, session)
        await refusals(stranger)
        counted = str(reader.get_metrics_data())
    tracers.shutdown()
    meters.shutdown()
    traced = " ".join(span.to_json() for span in spans.get_finished_spans())
    frames = "\n".join(own.told)
    errors = [line for line in frames.splitlines() if is_error(line)]
    assert canaries_in(frames) >= {"said", "argument", "state"}, "nothing was told"
    assert "langgraph_ws.run.finished" in counted
    assert "langgraph_ws.run" in traced
    assert errors
    assert not canaries_in(frames) & {*CREDENTIALS, FAILURE}
    assert not canaries_in("\n".join([*errors, *other.told, *stranger.told]))
    assert not canaries_in(counted)
    assert not canaries_in(traced)
    # The traceback of a node that failed is what the log is for: it is there, and there alone.
    assert records.found == {("langgraph_ws", "ERROR"): {FAILURE}}, records.found
    return (
        f"{len(own.told)} messages, {len(errors)} of them errors; {records.count:,} log records, "
        f"metrics and {len(spans.get_finished_spans())} spans: none but the traceback of the node"
    )


def is_error(line: str) -> bool:
    return any(mark in line for mark in ('"type":"error"', '"RUN_ERROR"', '"detail"', '"failed"'))
