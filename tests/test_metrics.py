"""Metrics and traces: what is counted of real connections and runs, and how it can be scraped."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langgraph_ws import Attachment, Identity, Limits, attach_websocket
from langgraph_ws.commands import ANONYMOUS, StartRun
from langgraph_ws.errors import RequestError
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.metrics import Metrics, OpenTelemetryMetrics
from langgraph_ws.runs import Runs

EXAMPLE = Path(__file__).parents[1] / "examples" / "prometheus.py"


class Recorded(Metrics):
    """Every call, by the name of the method."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[Any, ...]]] = {}
        self.called = asyncio.Event()

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in ("calls", "called", "run_span", "until"):
            return super().__getattribute__(name)

        def record(*arguments: Any) -> None:
            self.calls.setdefault(name, []).append(arguments)
            self.called.set()

        return record

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.called.clear()
            await self.called.wait()


def say(state: MessagesState) -> dict[str, Any]:
    if state["messages"][-1].text == "fail":
        raise RuntimeError
    writer = get_stream_writer()
    for number in range(20):
        writer({"type": "tick", "number": number})
    return {"messages": [AIMessage("hello", id=None)]}


GRAPH = StateGraph(MessagesState).add_node("say", say).add_edge(START, "say").compile()


@asynccontextmanager
async def serving(metrics: Metrics, **options: Any) -> AsyncIterator[tuple[str, Attachment]]:
    app = web.Application()
    attachment = attach_websocket(app, GRAPH, metrics=metrics, **options)
    async with TestServer(app, host="127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.port}/ws", attachment


async def chat(url: str, text: str = "hi", **headers: str) -> list[dict[str, Any]]:
    """One run, from a connection of its own."""
    heard = []
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as ws:
        await ws.send_json(
            {"type": "new_chat", "thread_id": "t", "messages": [{"role": "user", "content": text}]}
        )
        while not heard or heard[-1]["type"] != "end":
            heard.append(await ws.receive_json())
        await ws.close(code=4_999)
    return heard


async def test_connections_and_runs_are_counted() -> None:
    metrics = Recorded()
    async with serving(metrics, heartbeat=0.2) as (url, _):
        await chat(url)
        heard = await chat(url, "fail")
        await metrics.until(lambda: len(metrics.calls.get("connection_closed", [])) == 2)
        sizes = metrics.calls.setdefault("log_size", [])
        await metrics.until(lambda: bool(sizes) and sizes[-1][0].entries == heard[-1]["seq"])
    calls = metrics.calls
    assert [protocol for protocol, _ in calls["connection_opened"]] == ["chat", "chat"]
    assert all(0 <= seconds < 30 for _, seconds in calls["connection_opened"])
    assert [(protocol, code) for protocol, code, _ in calls["connection_closed"]] == [
        ("chat", 4999),
        ("chat", 4999),
    ]
    assert [run.graph for (run,) in calls["run_started"]] == ["LangGraph", "LangGraph"]
    assert [status for _, status, _ in calls["run_finished"]] == ["completed", "failed"]
    [(run, seconds)] = calls["first_frame"]
    assert run.thread_id == "t"
    assert 0 < seconds < 30
    assert sum(messages for _, messages, _ in calls["messages_sent"]) > 30
    assert sum(size for _, _, size in calls["messages_sent"]) > 3_000
    assert all(lag >= 0 for (lag,) in calls["cursor_lag"])
    assert calls["loop_lag"]
    size = sizes[-1][0]
    assert size.threads == 1
    assert size.bytes > 3_000


async def test_runs_that_end_before_they_began_are_counted_too() -> None:
    metrics = Recorded()
    gate = asyncio.Event()

    async def wait(state: MessagesState) -> dict[str, Any]:
        await gate.wait()
        return {}

    graph = StateGraph(MessagesState).add_node("wait", wait).add_edge(START, "wait").compile()
    runs = Runs(graph, log=MemoryThreadLog(), metrics=metrics)
    await runs.begin()
    given = ({"role": "user", "content": "hi"},)
    with pytest.raises(RequestError):
        await runs.start(ANONYMOUS, StartRun(kind="continue", thread_id="t", run_id="refused"))
    for run_id in ("active", "cancelled", "drained"):
        await runs.start(ANONYMOUS, StartRun(messages=given, thread_id="t", run_id=run_id))
    await runs.cancel(ANONYMOUS, None, "cancelled")
    await runs.end()
    started = [run.run_id for (run,) in metrics.calls["run_started"]]
    assert started == ["refused", "active", "cancelled", "drained"]
    assert [(run.run_id, status) for run, status, _ in metrics.calls["run_finished"]] == [
        ("refused", "failed"),
        ("cancelled", "cancelled"),
        ("drained", "drained"),
        ("active", "drained"),
    ]


@pytest.mark.parametrize(
    ("options", "headers", "reason"),
    [
        ({}, {"Origin": "https://elsewhere.example"}, "origin"),
        ({}, {"Sec-WebSocket-Protocol": "other"}, "subprotocol"),
        ({"authorize": lambda request: None}, {}, "unauthorized"),
        ({"authorize": lambda request: 1 / 0}, {}, "error"),
    ],
)
async def test_refusals_are_counted_by_reason(
    options: dict[str, Any], headers: dict[str, str], reason: str
) -> None:
    metrics = Recorded()
    async with serving(metrics, **options) as (url, _), aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url, headers=headers)
    assert metrics.calls["connection_refused"] == [(reason,)]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(connections=1), "overloaded"), (Limits(connections_per_address=1), "too_many")],
)
async def test_refusals_for_want_of_room_are_counted(limits: Limits, reason: str) -> None:
    metrics = Recorded()
    async with (
        serving(metrics, limits=limits) as (url, _),
        aiohttp.ClientSession() as session,
        session.ws_connect(url),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url)
    assert metrics.calls["connection_refused"] == [(reason,)]


async def test_who_may_not_and_who_comes_too_late_are_told_apart() -> None:
    async def nobody(request: web.Request) -> Identity:
        raise web.HTTPForbidden

    metrics = Recorded()
    async with (
        serving(metrics, authorize=nobody) as (url, attachment),
        aiohttp.ClientSession() as session,
    ):
        for _ in range(2):
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(url)
            await attachment.drain(0)
    assert metrics.calls["connection_refused"] == [("forbidden",), ("draining",)]


async def test_replays_merged_frames_and_gaps_are_counted() -> None:
    metrics = Recorded()
    async with serving(metrics, heartbeat=0.2) as (url, _):
        await chat(url)
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as ws:
            await ws.send_json({"type": "attach", "thread_id": "t"})
            await metrics.until(lambda: "frames_replayed" in metrics.calls)
            position = {"after": 3, "epoch": "another"}
            await ws.send_json({"type": "attach", "thread_id": "t", **position})
            await metrics.until(lambda: "gap" in metrics.calls)
    protocol, frames = metrics.calls["frames_replayed"][0]
    assert protocol == "chat"
    assert frames > 20
    assert metrics.calls["gap"] == [("epoch",)]
    assert len(metrics.calls["frames_replayed"]) == 1, "what a snapshot stands for is no replay"


class Collected:
    """OpenTelemetry in memory."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.spans = InMemorySpanExporter()
        self._meters = MeterProvider([self.reader])
        self._tracers = TracerProvider()
        self._tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.metrics = OpenTelemetryMetrics(self._meters, self._tracers)

    def points(self) -> dict[str, dict[tuple[str, ...], float]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        labels = tuple(str(value) for value in (point.attributes or {}).values())
                        value = getattr(point, "value", getattr(point, "count", None))
                        found.setdefault(metric.name, {})[labels] = value
        return found

    def close(self) -> None:
        self._meters.shutdown()
        self._tracers.shutdown()


async def test_opentelemetry_counts_with_few_labels_and_traces_runs() -> None:
    collected = Collected()
    async with serving(collected.metrics, heartbeat=0.2) as (url, attachment):
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        await chat(url, traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
        await chat(url, "fail")
        while attachment.connections:  # noqa: ASYNC110  # the handle has no event for it
            await asyncio.sleep(0.01)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(url, headers={"Origin": "https://elsewhere.example"})
        while "langgraph_ws.loop.lag" not in (points := collected.points()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    spans = collected.spans.get_finished_spans()
    collected.close()
    assert points["langgraph_ws.connection.attempts"] == {("opened",): 2, ("origin",): 1}
    assert points["langgraph_ws.connections"] == {("chat",): 0}
    assert points["langgraph_ws.connection.closed"] == {("chat", "other"): 2}
    assert points["langgraph_ws.runs"] == {("LangGraph",): 0}
    assert points["langgraph_ws.run.finished"] == {
        ("LangGraph", "completed"): 1,
        ("LangGraph", "failed"): 1,
    }
    assert points["langgraph_ws.run.duration"][("LangGraph", "completed")] == 1
    assert points["langgraph_ws.messages.sent"][("chat",)] > 30
    assert points["langgraph_ws.loop.lag"][()] > 0
    assert "t" not in {label for labels in points.values() for names in labels for label in names}
    first, second = spans
    assert first.name == "langgraph_ws.run"
    assert first.attributes is not None
    assert first.attributes["langgraph_ws.thread_id"] == "t"
    assert trace.format_trace_id(first.context.trace_id) == trace_id
    assert second.parent is None
    assert first.status.status_code is trace.StatusCode.UNSET
    assert second.status.status_code is trace.StatusCode.ERROR
    assert second.attributes is not None
    assert second.attributes["langgraph_ws.status"] == "failed"


async def test_nodes_run_within_the_span() -> None:
    collected = Collected()
    seen = []

    async def look(state: MessagesState) -> dict[str, Any]:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return {}

    graph = StateGraph(MessagesState).add_node("look", look).add_edge(START, "look").compile()
    app = web.Application()
    attach_websocket(app, graph, metrics=collected.metrics)
    async with TestServer(app, host="127.0.0.1") as server:
        await chat(f"http://127.0.0.1:{server.port}/ws")
    [span] = collected.spans.get_finished_spans()
    collected.close()
    assert seen == [span.context.span_id]


def test_every_method_can_be_told_to_opentelemetry() -> None:
    own = {name for name in vars(Metrics) if not name.startswith("_")}
    assert own <= set(vars(OpenTelemetryMetrics))


async def test_prometheus_scrapes_the_example() -> None:
    app = runpy.run_path(str(EXAMPLE))["make_app"](GRAPH)
    async with TestServer(app, host="127.0.0.1") as server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}"
        await chat(f"{url}/ws")
        async with session.get(f"{url}/metrics") as response:
            assert response.content_type == "text/plain"
            text = await response.text()
    assert "langgraph_ws_connection_attempts_total{" in text
    assert 'outcome="opened"' in text
    assert "langgraph_ws_run_finished_total{" in text
    assert 'status="completed"' in text
