"""The LangChain protocol over real sockets: commands, subscriptions, events, and their rules."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.types import interrupt

from langgraph_ws import ChatMapper, Limits
from langgraph_ws.commands import Attached, RunInfo
from langgraph_ws.connection import Connection
from langgraph_ws.errors import GapError, RequestError
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    Frame,
    Interrupted,
    MessageFinished,
    MessageStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    StateSnapshot,
)
from langgraph_ws.log import Entry, Position, Retention
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.protocols import langchain
from langgraph_ws.protocols.langchain import LangChainSession
from langgraph_ws.protocols.langchain_events import CHANNELS
from langgraph_ws.session import Do, Peer
from langgraph_ws.session import Reply as Answer
from langgraph_ws.testing import Reply, assert_transcript, call
from tests.chat_story import story
from tests.graphs import Anything, agent, asking, chat, fan, line, model_node, nested
from tests.serving import Site, serving
from tests.test_aiohttp import Gate, flood, over
from tests.test_security import ann, bob, by_header

TRANSCRIPTS = Path(__file__).parent / "transcripts"
HELLO = {"messages": [{"type": "human", "content": "hello", "id": "h1"}]}
ALL = sorted(CHANNELS)
TERMINAL = ("completed", "failed", "interrupted")


class Socket:
    """One connection of a client that knows nothing but the protocol."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.events: list[dict[str, Any]] = []
        self._ids = itertools.count(1)

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = orjson.loads(await self.ws.receive_str(timeout=10))
        if message["type"] == "event":
            self.events.append(message)
        return message

    async def send(self, method: str, **params: Any) -> int:
        id_ = next(self._ids)
        message = {"id": id_, "method": method, "params": params}
        await self.ws.send_str(orjson.dumps(message).decode())
        return id_

    async def answer(self, id_: int | None) -> dict[str, Any]:
        while True:
            message = await self.receive()
            if message["type"] != "event" and message["id"] == id_:
                return message

    async def call(self, method: str, **params: Any) -> Any:
        """The result of a command that succeeds."""
        answer = await self.answer(await self.send(method, **params))
        assert answer["type"] == "success", answer
        return answer["result"]

    async def refused(self, method: str, **params: Any) -> dict[str, Any]:
        """The error of a command that does not."""
        answer = await self.answer(await self.send(method, **params))
        assert answer["type"] == "error", answer
        return answer

    async def subscribe(self, *channels: str, **params: Any) -> dict[str, Any]:
        result: dict[str, Any] = await self.call(
            "subscription.subscribe", channels=list(channels) or ALL, **params
        )
        return result

    async def start(self, value: Any = HELLO, **params: Any) -> str:
        params = {"assistant_id": "graph", "input": value, **params}
        return str((await self.call("run.start", **params))["run_id"])

    async def until(self, *wanted: str, run_id: str | None = None) -> list[dict[str, Any]]:
        """All events so far, to the next root lifecycle event that is wanted."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                if root(event) in (wanted or TERMINAL) and run_id in (None, event["run_id"]):
                    return self.events
            seen = len(self.events)
            await self.receive()


def root(event: dict[str, Any]) -> str | None:
    """What a root lifecycle event says."""
    params = event["params"]
    return params["data"]["event"] if is_root(event) else None


def is_root(event: dict[str, Any]) -> bool:
    return event["method"] == "lifecycle" and not event["params"]["namespace"]


def data(events: Sequence[dict[str, Any]], method: str) -> list[Any]:
    return [event["params"]["data"] for event in events if event["method"] == method]


def told(events: Sequence[dict[str, Any]]) -> str:
    """The text that message events tell."""
    deltas = (said["delta"] for said in data(events, "messages") if "delta" in said)
    return "".join(delta.get("text", "") for delta in deltas)


@asynccontextmanager
async def socket(site: Site, thread_id: str = "t", **options: Any) -> AsyncIterator[Socket]:
    url = f"{site.url}/threads/{thread_id}/stream/events"
    async with site.session.ws_connect(url, **options) as ws:
        yield Socket(ws)


@asynccontextmanager
async def served(graph: Any, **options: Any) -> AsyncIterator[Site]:
    options = {"protocols": ("chat", "langchain"), **options}
    async with serving({"graph": graph} if not isinstance(graph, dict) else graph, **options) as s:
        yield s


# -- a run, told of ---------------------------------------------------------------------------


async def test_a_run_from_its_start_to_its_end() -> None:
    graph = chat("Hello there.", saver=InMemorySaver())
    async with served(graph) as site, socket(site) as client:
        assert await client.subscribe() == {
            "subscription_id": _Any(str),
            "replayed_events": 0,
        }
        answer = await client.answer(
            await client.send("run.start", assistant_id="graph", input=HELLO)
        )
        run_id = answer["result"]["run_id"]
        events = await client.until()
    assert [root(event) for event in events if is_root(event)] == ["running", "completed"]
    assert is_root(events[0])
    assert is_root(events[-1])
    assert {event["run_id"] for event in events} == {run_id}
    assert answer["meta"]["applied_through_seq"] < events[0]["seq"]
    assert data(events, "values")[-1]["messages"][0]["id"] == "h1"
    assert data(events, "values")[-1]["messages"][1]["content"] == "Hello there."
    assert told(events) == "Hello there."
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs))
    assert seqs[-1] < 2**53
    assert len({event["event_id"] for event in events}) == len(events)
    assert events[0]["event_id"] == f"synth:{run_id}:lc||running"


class _Any:
    """Equal to every value of a type."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, self._kind)

    __hash__ = None  # type: ignore[assignment]


async def test_the_message_in_the_stream_is_the_one_in_the_state() -> None:
    graph = chat(Reply(text="Hi.", usage=(3, 2)), saver=InMemorySaver())
    async with served(graph) as site, socket(site) as client:
        await client.subscribe("messages", "values", "lifecycle")
        run_id = await client.start()
        events = await client.until()
    said = data(events, "messages")
    about = {"id": said[0]["id"], "run_id": run_id}
    assert [message["event"] for message in said] == [
        "message-start",
        "content-block-start",
        *["content-block-delta"] * (len(said) - 4),
        "content-block-finish",
        "message-finish",
    ]
    assert said[0] == {"event": "message-start", "role": "ai", **about}
    assert all(message.items() >= about.items() for message in said)
    assert said[-1]["usage"]["total_tokens"] == 5
    assert data(events, "values")[-1]["messages"][1]["id"] == said[0]["id"]
    assert {e["params"]["node"] for e in events if e["method"] == "messages"} == {"model"}


async def test_a_checkpoint_comes_right_before_the_state_that_it_saved() -> None:
    async with served(chat("x", saver=InMemorySaver())) as site, socket(site) as client:
        await client.subscribe("values", "checkpoints", "lifecycle")
        await client.start()
        events = await client.until()
    methods = [event["method"] for event in events]
    assert methods == [
        "lifecycle",
        "checkpoints",
        *["checkpoints", "values"] * 2,
        "lifecycle",
    ]
    saved = data(events, "checkpoints")
    assert [checkpoint["source"] for checkpoint in saved] == ["input", "loop", "loop"]
    assert saved[2]["parent_id"] == saved[1]["id"]


@tool
def weather(city: str) -> str:
    """The weather."""
    return f"sunny in {city}"


@tool
def broken(city: str) -> str:
    """Fails."""
    raise ValueError(city)


async def test_tools_and_their_arguments_as_they_are_written() -> None:
    calls = [call("weather", city="Delft"), call("broken", city="Leiden")]
    graph = agent(
        [weather, broken],
        Reply(text="Let me look.", tool_calls=calls),
        "Sunny.",
        saver=InMemorySaver(),
        handle_tool_errors=True,
    )
    async with served(graph, merge_window=0) as site, socket(site) as client:
        await client.subscribe("tools", "messages", "lifecycle")
        await client.start()
        events = await client.until()
    tools = {(said["event"], said["tool_call_id"]): said for said in data(events, "tools")}
    kinds = sorted(event for event, _ in tools)
    assert kinds == ["tool-error", "tool-finished", "tool-started", "tool-started"]
    (finished,) = [said for (event, _), said in tools.items() if event == "tool-finished"]
    assert finished["output"]["content"] == "sunny in Delft"
    assert tools["tool-started", finished["tool_call_id"]]["tool_name"] == "weather"
    (failed,) = [said for (event, _), said in tools.items() if event == "tool-error"]
    assert "Leiden" in failed["message"]
    _check_blocks(data(events, "messages"))
    fields = [
        said["delta"]["fields"]
        for said in data(events, "messages")
        if said.get("delta", {}).get("type") == "block-delta"
    ]
    assert len(fields) > 2
    assert [field["args"] for field in fields] == sorted(field["args"] for field in fields)
    assert orjson.loads(fields[-1]["args"]) == {"city": "Delft"}
    called = [
        said["content"]["args"]
        for said in data(events, "messages")
        if said["event"] == "content-block-finish" and said["content"]["type"] == "tool_call"
    ]
    assert called == [{"city": "Delft"}, {"city": "Leiden"}]


def _check_blocks(said: Sequence[dict[str, Any]]) -> None:
    """Blocks of a message come one after the other, each with a start and a finish."""
    open_: dict[str, int | None] = {}
    for message in said:
        id_, index = message["id"], message.get("index")
        match message["event"]:
            case "message-start":
                open_[id_] = None
            case "content-block-start":
                assert open_[id_] is None
                open_[id_] = index
            case "content-block-delta":
                assert open_[id_] == index
            case "content-block-finish":
                assert open_[id_] == index
                open_[id_] = None
            case "message-finish" | "error":
                del open_[id_]
    assert not open_


async def test_two_nodes_that_stream_at_once_stay_two_messages() -> None:
    graph = fan(
        ("left", model_node(Reply(text="one two three", delay=0.001))),
        ("right", model_node(Reply(text="uno dos tres", delay=0.001))),
    )
    async with served(graph, merge_window=0) as site, socket(site) as client:
        await client.subscribe("messages", "lifecycle")
        await client.start()
        events = await client.until()
    texts: dict[str, str] = {}
    for event in events:
        said = event["params"]["data"]
        if "delta" in said:
            node = event["params"]["node"]
            texts[node] = texts.get(node, "") + said["delta"]["text"]
    assert texts == {"left": "one two three", "right": "uno dos tres"}
    _check_blocks(data(events, "messages"))


async def test_media_reasoning_and_blocks_that_the_protocol_does_not_know() -> None:
    image = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    odd = {"type": "odd", "x": 1}

    def draw(state: Any) -> Any:
        return {"messages": [AIMessage([{"type": "text", "text": "see"}, image, odd], id="a1")]}

    async with served(line(("draw", draw))) as site, socket(site) as client:
        await client.subscribe("messages", "lifecycle")
        await client.start()
        events = await client.until()
    said = data(events, "messages")
    _check_blocks(said)
    starts = [m["content"] for m in said if m["event"] == "content-block-start"]
    finishes = [m["content"] for m in said if m["event"] == "content-block-finish"]
    assert starts[1:] == finishes[1:]
    assert finishes[1] == image
    assert finishes[2]["type"] == "non_standard"
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))


async def test_what_fails_is_closed_and_told_without_its_text() -> None:
    async def boom(state: Any) -> Any:
        raise ValueError("secret")

    graph = fan(("slow", model_node(Reply(text="a b c d e f g h", delay=0.05))), ("boom", boom))
    async with served(graph, merge_window=0) as site, socket(site) as client:
        await client.subscribe()
        await client.start()
        events = await client.until()
    assert "secret" not in orjson.dumps(events).decode()
    last = events[-1]["params"]["data"]
    assert last["event"] == "failed"
    assert last["error"] == "The graph failed."
    errors = [said for said in data(events, "messages") if said["event"] == "error"]
    starts = [said for said in data(events, "messages") if said["event"] == "message-start"]
    assert len(errors) == len(starts)


async def test_subgraphs_steps_and_custom_events() -> None:
    def leaf(state: Any) -> Any:
        writer = get_stream_writer()
        writer({"name": "metrics", "payload": {"tokens": 3}})
        writer("plain")
        return {"messages": [AIMessage("done", id="d1")]}

    graph = nested(1, leaf, saver=InMemorySaver())
    async with served(graph) as site, socket(site) as client:
        await client.subscribe()
        run_id = await client.start()
        events = await client.until()
        tree = await client.call("agent.getTree", run_id=run_id)
    inside = next(e["params"]["namespace"] for e in events if e["params"]["namespace"])
    node, _, task_id = inside[0].partition(":")
    lives = [e["params"] for e in events if e["method"] == "lifecycle" and not is_root(e)]
    assert [life["data"]["event"] for life in lives] == ["started", "completed"]
    assert lives[0]["data"]["graph_name"] == node
    assert lives[0]["data"]["trigger_call_id"] == task_id
    steps = [e["params"] for e in events if e["method"] == "tasks"]
    ended = [step["data"] for step in steps if "result" in step["data"]]
    assert [(step["data"]["name"], step["namespace"]) for step in steps] == [
        (node, []),
        ("leaf", inside),
        ("leaf", inside),
        (node, []),
    ]
    assert ended[1]["id"] == task_id
    assert ended[0]["result"]["messages"][0]["content"] == "done"
    assert data(events, "custom") == [
        {"name": "metrics", "payload": {"tokens": 3}},
        {"payload": "plain"},
    ]
    assert [update["node"] for update in data(events, "updates")] == ["leaf", node]
    assert tree["tree"] == {
        "namespace": [],
        "status": "completed",
        "graph_name": "graph",
        "children": [{"namespace": inside, "status": "completed", "graph_name": node}],
    }


# -- subscriptions ----------------------------------------------------------------------------


async def test_a_late_subscriber_is_told_what_the_others_were() -> None:
    async with served(chat("Hello.")) as site:
        async with socket(site) as first:
            await first.subscribe()
            await first.start()
            events = list(await first.until())
            second = await first.subscribe("messages", "lifecycle")
            wanted = [e for e in events if e["method"] in ("messages", "lifecycle")]
            assert second["replayed_events"] == len(wanted)
        async with socket(site) as late:
            assert (await late.subscribe())["replayed_events"] == len(events)
            assert late.events == events


async def test_since_is_where_a_client_goes_on() -> None:
    async with served(chat("Hello.")) as site, socket(site) as client:
        await client.subscribe()
        await client.start()
        events = list(await client.until())
        middle = events[len(events) // 2]
        async with socket(site) as again:
            await again.subscribe(since=middle["seq"])
            assert again.events == events[len(events) // 2 + 1 :]
        async with socket(site) as by_id:
            await by_id.subscribe(since_event_id=middle["event_id"])
            assert by_id.events == events[len(events) // 2 + 1 :]


async def test_namespaces_depth_and_named_custom_events() -> None:
    def leaf(state: Any) -> Any:
        get_stream_writer()({"name": "a", "payload": 1})
        get_stream_writer()({"name": "b", "payload": 2})
        return {"messages": [AIMessage("x", id="d1")]}

    graph = nested(2, leaf, saver=InMemorySaver())
    async with served(graph) as site, socket(site) as client:
        await client.subscribe("lifecycle", depth=0)
        await client.start()
        await client.until()
        client.events.clear()
        await client.subscribe("tasks", "lifecycle", namespaces=[["level1"]], depth=1)
        levels = {len(event["params"]["namespace"]) for event in client.events}
        assert levels == {1, 2}
        client.events.clear()
        await client.subscribe("custom:b", namespaces=[["other"], ["level1"]])
        assert data(client.events, "custom") == [{"name": "b", "payload": 2}]
        client.events.clear()
        await client.subscribe("values", depth=0)
        assert {len(event["params"]["namespace"]) for event in client.events} == {0}


async def test_an_event_goes_out_once_however_many_want_it() -> None:
    gate = Gate()
    async with served(gate.graph) as site, socket(site) as client:
        await client.subscribe("custom", "lifecycle")
        await client.subscribe("custom:word", "lifecycle")
        await client.start({})
        gate.go_on.set()
        events = await client.until()
    assert [said["name"] for said in data(events, "custom")] == ["word", "last_word"]
    assert len([event for event in events if is_root(event)]) == 2


async def test_unsubscribe_ends_it() -> None:
    async with served(chat("x")) as site, socket(site) as client:
        subscription = await client.subscribe("messages")
        await client.subscribe("lifecycle")
        ended = {"subscription_id": subscription["subscription_id"]}
        assert await client.call("subscription.unsubscribe", **ended) == {}
        await client.start()
        assert {event["method"] for event in await client.until()} == {"lifecycle"}
        error = await client.refused("subscription.unsubscribe", **ended)
        assert error["error"] == "no_such_subscription"


async def test_reconnect_with_what_the_server_kept_and_with_what_is_wanted() -> None:
    async with served(chat("Hello.")) as site, socket(site) as client:
        subscription = await client.subscribe("messages", "lifecycle")
        run_id = await client.start()
        events = list(await client.until())
        client.events.clear()
        kept = await client.call(
            "subscription.reconnect",
            run_id=run_id,
            last_event_id=events[2]["event_id"],
            subscriptions=[subscription["subscription_id"]],
        )
        assert kept["restored"] is True
        while len(client.events) < len(events) - 3:
            await client.receive()
        assert client.events == events[3:]
        lost = await client.call("subscription.reconnect", run_id=run_id, subscriptions=["gone"])
        assert lost["restored"] is False
        client.events.clear()
        wanted = await client.call(
            "subscription.reconnect",
            channels=["messages"],
            since=events[2]["seq"],
            subscription_id="mine",
        )
        assert wanted["restored"] is True
        assert wanted["subscription_id"] == "mine"
        assert wanted["missed_events"] == len(client.events)
        assert (await client.refused("subscription.reconnect"))["error"] == "invalid_argument"


async def test_what_a_log_has_dropped_is_left_out_and_the_rest_told() -> None:
    log = MemoryThreadLog(retention=Retention(entries=40))
    async with served(flood(100, 10), log=log) as site:
        await site.attachment.start(thread_id="t", input={})
        await over(site, "t")
        async with socket(site) as late:
            told_of = await late.subscribe("custom", "lifecycle")
            assert 0 < told_of["replayed_events"] <= 40
            numbers = [said["payload"]["number"] for said in data(late.events, "custom")]
            assert numbers == list(range(100 - len(numbers), 100))
            assert root(late.events[-1]) == "completed"


async def test_numbers_go_on_growing_when_the_log_was_lost() -> None:
    graph = chat("x", "y", saver=InMemorySaver())
    now = 1_800_000_000.0
    seen = []
    for began in (now, now + 5):
        log = MemoryThreadLog(clock=lambda began=began: began)  # type: ignore[misc]
        async with served(graph, log=log) as site, socket(site) as client:
            await client.subscribe(since=seen[-1] if seen else 0)
            await client.start()
            seen += [event["seq"] for event in await client.until()]
    assert seen == sorted(set(seen))


# -- what a replay leaves out -------------------------------------------------------------------


async def test_a_replay_tells_of_no_question_that_has_been_answered() -> None:
    async with served(asking()) as site, socket(site) as client:
        await client.subscribe("input", "lifecycle")
        await client.start({"messages": []})
        await client.until("interrupted")
        (asked,) = data(client.events, "input.requested")
        assert asked == {"interrupt_id": _Any(str), "payload": "ok?", "value": "ok?"}
        async with socket(site) as reload:
            await reload.subscribe("input")
            assert data(reload.events, "input.requested") == [asked]
        await client.call(
            "input.respond", interrupt_id=asked["interrupt_id"], namespace=[], response="yes"
        )
        await client.until("completed")
        answered = {"interrupt_ids": [asked["interrupt_id"]]}
        assert data(client.events, "input.answered") == [answered]
        async with socket(site) as late:
            await late.subscribe("input", "lifecycle", "values")
            assert not data(late.events, "input.requested")
            assert [root(e) for e in late.events if is_root(e)][-1] == "completed"


async def test_a_question_that_only_the_state_knows_of_is_told() -> None:
    graph = asking()
    async with served(graph) as site, socket(site) as client:
        await client.subscribe("input", "lifecycle")
        await client.start({"messages": []})
        await client.until("interrupted")
        (asked,) = data(client.events, "input.requested")
    async with served(graph) as site, socket(site) as client:  # a server that knows no run of it
        assert (await client.subscribe("lifecycle"))["replayed_events"] == 0
        await client.subscribe("input", since=client.events[-1]["seq"] if client.events else 0)
        assert data(client.events, "input.requested") == [asked]
        await client.start("sure")
        await client.until("completed")
        numbers = [event["seq"] for event in client.events]
        assert numbers == sorted(set(numbers))


async def test_the_watcher_of_an_idle_thread_is_not_told_that_a_run_completed() -> None:
    async with served(chat("x", "y")) as site:
        async with socket(site) as client:
            await client.subscribe("lifecycle", "input")
            await client.subscribe("values")
            await client.start()
            await client.until()
        async with socket(site) as watcher:
            await watcher.subscribe("lifecycle", "input")
            assert [root(event) for event in watcher.events] == ["running"]
            run_id = await watcher.start()
            await watcher.until("completed", run_id=run_id)


async def test_a_connection_that_started_a_run_is_not_told_of_the_ends_before() -> None:
    async with served(chat("x", "y")) as site:
        async with socket(site) as client:
            await client.subscribe("lifecycle")
            first = await client.start()
            await client.until()
        async with socket(site) as reloaded:
            second = await reloaded.start()
            await reloaded.subscribe("lifecycle", "messages")
            events = await reloaded.until("completed", run_id=second)
        assert {event["run_id"] for event in events if is_root(event)} == {second}
        assert first in {event["run_id"] for event in events}


async def test_the_end_of_a_run_that_this_connection_supersedes_is_for_the_others() -> None:
    gate = Gate()
    async with served(gate.graph) as site, socket(site) as mine, socket(site) as other:
        for client in (mine, other):
            await client.subscribe("lifecycle")
        old = await mine.start({})
        await gate.entered.wait()
        gate.go_on.set()
        gate.go_on.clear()
        new = await mine.start({}, multitask_strategy="interrupt")
        gate.go_on.set()
        await mine.until("completed", run_id=new)
        await other.until("completed", run_id=new)
    ends = [(root(e), e["run_id"]) for e in mine.events]
    assert ends == [("running", old), ("running", new), ("completed", new)]
    ends = [(root(e), e["run_id"]) for e in other.events]
    assert ends[1] == ("interrupted", old)


# -- commands -----------------------------------------------------------------------------------


async def test_answers_are_checked_and_may_come_before_the_end_of_the_run() -> None:
    async with served(asking()) as site, socket(site) as client:
        error = await client.refused("input.respond", interrupt_id="x", response=1)
        assert error["error"] == "no_such_run"
        await client.subscribe("input", "lifecycle")
        await client.start({"messages": []})
        while not data(client.events, "input.requested"):
            await client.receive()
        (asked,) = data(client.events, "input.requested")
        error = await client.refused("input.respond", response=1)
        assert error["error"] == "invalid_argument"
        assert error["message"].startswith("interrupt_id: ")
        error = await client.refused("input.respond", interrupt_id=asked["interrupt_id"])
        assert error["message"].startswith("response: ")
        await client.call("input.respond", interrupt_id=asked["interrupt_id"], response="sure")
        await client.until("completed")
        error = await client.refused("input.respond", interrupt_id="x", response=1)
        assert error["error"] == "no_such_interrupt"
        state = await client.call("state.get", namespace=[], keys=["messages", "nothing"])
        assert list(state["values"]) == ["messages"]
        assert state["values"]["messages"][-1]["content"] == "got sure"


async def test_several_questions_are_answered_at_once() -> None:
    def ask(question: str) -> Any:
        return lambda state: {"log": [f"{question}: {interrupt(question)}"]}

    graph = fan(("a", ask("a")), ("b", ask("b")), state=Anything, saver=InMemorySaver())
    async with served(graph) as site, socket(site) as client:
        await client.subscribe("input", "lifecycle")
        await client.start({"value": 1})
        await client.until("interrupted")
        asked = data(client.events, "input.requested")
        responses = [
            {"interrupt_id": q["interrupt_id"], "response": q["payload"] * 2, "namespace": []}
            for q in asked
        ]
        result = await client.call("input.respond", responses=responses)
        await client.until("completed", run_id=result["run_id"])
        state = await client.call("state.get")
        assert sorted(state["values"]["log"]) == ["a: aa", "b: bb"]


async def test_a_start_answers_the_question_that_waits() -> None:
    async with served(asking()) as site, socket(site) as client:
        await client.subscribe("input", "lifecycle")
        await client.start({"messages": []})
        await client.until("interrupted")
        run_id = await client.start("as an answer")
        await client.until("completed", run_id=run_id)
        state = await client.call("state.get")
        assert state["values"]["messages"][-1]["content"] == "got as an answer"


async def test_update_and_goto_beside_an_answer_are_for_those_who_allow_them() -> None:
    def ask(state: Any) -> Any:
        return {"log": [f"said {interrupt('?')}"]}

    def there(state: Any) -> Any:
        return {"log": [f"there with {state}"]}

    from langgraph.graph import START, StateGraph

    def build() -> Any:
        builder = StateGraph(Anything)
        builder.add_node("ask", ask)
        builder.add_node("there", there)
        builder.add_edge(START, "ask")
        return builder.compile(checkpointer=InMemorySaver())

    for allowed in (False, True):
        options = {"allow_state_updates": allowed}
        async with served(build(), **options) as site, socket(site) as client:
            await client.subscribe("input", "lifecycle")
            await client.start({"value": 1})
            await client.until("interrupted")
            (asked,) = data(client.events, "input.requested")
            jump = {
                "interrupt_id": asked["interrupt_id"],
                "response": "yes",
                "update": {"value": 2},
                "goto": {"node": "there", "input": "mine"},
            }
            if not allowed:
                error = await client.refused("input.respond", **jump)
                assert error["error"] == "permission_denied"
                continue
            await client.call("input.respond", **jump)
            await client.until("completed")
            values = (await client.call("state.get"))["values"]
            assert values["value"] == 2
            assert sorted(values["log"]) == ["said yes", "there with mine"]


async def test_checkpoints_are_listed_and_forked_from() -> None:
    graph = chat("one", "two", "three", saver=InMemorySaver())
    async with served(graph) as site, socket(site) as client:
        await client.subscribe("lifecycle")
        await client.start()
        await client.until()
        listed = (await client.call("state.listCheckpoints", limit=2))["checkpoints"]
        assert [entry["step"] for entry in listed] == [1, 0]
        older = (await client.call("state.listCheckpoints", before=listed[-1]["id"]))["checkpoints"]
        assert [entry["step"] for entry in older] == [-1]
        fork = await client.call("state.fork", checkpoint_id=listed[-1]["id"])
        assert fork["thread_id"] == "t"
        await client.until("completed", run_id=fork["run_id"])
        state = await client.call("state.get")
        assert [m["content"] for m in state["values"]["messages"]] == ["hello", "two"]
        edited = {"messages": [{"type": "human", "content": "edited", "id": "h1"}]}
        config = {"configurable": {"checkpoint_id": older[0]["id"]}}
        run_id = await client.start(edited, config=config)
        await client.until("completed", run_id=run_id)
        state = await client.call("state.get")
        assert [m["content"] for m in state["values"]["messages"]] == ["edited", "three"]
        error = await client.refused("state.fork", checkpoint_id="1f000000-0000-6000-8000-0")
        assert error["error"] == "no_such_checkpoint"


async def test_a_message_is_injected_as_the_next_run() -> None:
    gate = Gate()

    async def node(state: Any) -> Any:
        gate.entered.set()
        await gate.go_on.wait()
        return {"messages": [AIMessage(f"heard {state['messages'][-1].content}")]}

    async with served(line(("node", node), saver=InMemorySaver())) as site, socket(site) as client:
        await client.subscribe("lifecycle", "values")
        await client.start()
        await gate.entered.wait()
        message = {"role": "user", "content": "and this"}
        injected = await client.call("input.inject", namespace=[], message=message)
        gate.go_on.set()
        events = await client.until("completed", run_id=injected["run_id"])
        assert data(events, "values")[-1]["messages"][-1]["content"] == "heard and this"
        error = await client.refused("input.inject", namespace=["x:1"], message=message)
        assert error["message"].startswith("namespace: ")


async def test_the_state_of_a_subgraph() -> None:
    def leaf(state: Any) -> Any:
        return {"messages": [AIMessage(f"got {interrupt('?')}", id="d1")]}

    async with served(nested(1, leaf, saver=InMemorySaver())) as site, socket(site) as client:
        await client.subscribe("tasks", "lifecycle")
        await client.start()
        await client.until("interrupted")
        inside = next(e["params"]["namespace"] for e in client.events if e["params"]["namespace"])
        state = await client.call("state.get", namespace=inside)
        assert [m["id"] for m in state["values"]["messages"]] == ["h1"]
        listed = await client.call("state.listCheckpoints", namespace=inside)
        assert len(listed["checkpoints"]) == 2


async def test_without_a_checkpointer_what_is_known_is_told() -> None:
    async with served(chat("x", "y")) as site, socket(site) as client:
        assert (await client.refused("state.get"))["error"] == "no_such_run"
        await client.subscribe("lifecycle")
        await client.start()
        await client.until()
        state = await client.call("state.get")
        assert [m["content"] for m in state["values"]["messages"]] == ["hello", "x"]
        for method, params in [
            ("state.listCheckpoints", {}),
            ("state.get", {"namespace": ["a:1"]}),
            ("state.fork", {"checkpoint_id": "c"}),
            ("input.respond", {"interrupt_id": "i", "response": 1}),
        ]:
            error = await client.refused(method, **params)
            assert error["error"] == "not_supported", method
            assert "checkpointer" in error["message"]


async def test_options_reach_the_graph_only_where_they_are_allowed() -> None:
    async def node(state: Any, config: RunnableConfig) -> Any:
        known = config["configurable"]
        return {"log": [str(known.get("tone")), str(known.get("secret"))]}

    async with (
        served(line(("n", node), state=Anything), allowed_options=["tone"]) as site,
        socket(site) as client,
    ):
        await client.subscribe("values", "lifecycle")
        options = {"tone": "dry", "secret": "x", "thread_id": "other"}
        await client.start({"value": 1}, config={"configurable": options})
        assert data(await client.until(), "values")[-1]["log"] == ["dry", "None"]


@pytest.mark.parametrize(
    ("sent", "id_", "error", "about"),
    [
        ("no json", None, "invalid_argument", "the message is not JSON"),
        ("[]", None, "invalid_argument", "the message is not a JSON object"),
        ('{"method": "state.get"}', None, "invalid_argument", "id: "),
        ('{"id": true, "method": "state.get"}', None, "invalid_argument", "id: "),
        ('{"id": -1, "method": "state.get"}', None, "invalid_argument", "id: "),
        ('{"id": "7", "method": "state.get"}', None, "invalid_argument", "id: "),
        ('{"id": 7}', 7, "unknown_command", "method: "),
        ('{"id": 7, "method": "run.stop"}', 7, "unknown_command", "method: "),
        ('{"id": 7, "method": "run.start", "params": 1}', 7, "invalid_argument", "params: "),
        (
            '{"id": 7, "method": "run.start", "params": {}}',
            7,
            "invalid_argument",
            "params.assistant_id: missing",
        ),
        (
            '{"id": 7, "method": "run.start", "params": {"assistant_id": "other", "input": {}}}',
            7,
            "invalid_argument",
            "assistant_id: no graph is named 'other'; expected graph",
        ),
        (
            '{"id": 7, "method": "subscription.subscribe", "params": {"channels": ["debug"]}}',
            7,
            "invalid_argument",
            "params.channels: expected channels out of",
        ),
        (
            '{"id": 7, "method": "subscription.subscribe", "params": {"channels": ["custom:"]}}',
            7,
            "invalid_argument",
            "params.channels: ",
        ),
        (
            '{"id": 7, "method": "state.listCheckpoints", "params": {"limit": 0}}',
            7,
            "invalid_argument",
            "params.limit: ",
        ),
        (
            '{"id": 7, "method": "agent.getTree", "params": {"run_id": "none"}}',
            7,
            "no_such_run",
            "run_id: ",
        ),
    ],
)
async def test_bad_messages_are_answered(sent: str, id_: Any, error: str, about: str) -> None:
    async with served(chat("x")) as site, socket(site) as client:
        await client.ws.send_str(sent)
        answer = await client.answer(id_)
        assert (answer["type"], answer["error"]) == ("error", error)
        assert answer["message"].startswith(about)
        await client.ws.send_bytes(b'{"id": 8, "method": "subscription.subscribe"}')
        assert (await client.answer(8))["message"].startswith("params.channels: missing")
        await client.subscribe("lifecycle")


async def test_whoever_sends_nothing_but_nonsense_is_closed() -> None:
    async with (
        served(chat("x"), limits=Limits(message_burst=1_000)) as site,
        socket(site) as client,
    ):
        for _ in range(LangChainSession.MAX_BAD_MESSAGES):
            await client.ws.send_str("{}")
        async for _ in client.ws:
            pass
        assert client.ws.close_code == 4400


async def test_subscriptions_are_limited() -> None:
    async with (
        served(chat("x"), limits=Limits(message_burst=1_000)) as site,
        socket(site) as client,
    ):
        for _ in range(LangChainSession.MAX_SUBSCRIPTIONS):
            await client.subscribe("lifecycle")
        error = await client.refused("subscription.subscribe", channels=["lifecycle"])
        assert "unsubscribe" in error["message"]


async def test_threads_belong_to_their_identity() -> None:
    graph = chat("mine", "yours", saver=InMemorySaver())
    async with served(graph, authorize=by_header) as site:
        async with socket(site, **ann()) as client:
            await client.subscribe("lifecycle")
            run_id = await client.start()
            await client.until()
        async with socket(site, **bob()) as other:
            assert (await other.subscribe())["replayed_events"] == 0
            assert (await other.refused("state.get"))["error"] == "no_such_run"
            error = await other.refused("agent.getTree", run_id=run_id)
            assert error["error"] == "no_such_run"
        url = f"{site.url}/threads/t/stream/events"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await site.session.ws_connect(url)
        assert refusal.value.status == 401


async def test_a_chat_and_this_protocol_follow_the_same_run() -> None:
    async with (
        served(chat("Hello there.", saver=InMemorySaver())) as site,
        site.connect() as talker,
        socket(site) as client,
    ):
        await client.subscribe()
        await talker.send("new_chat", thread_id="t", input=HELLO)
        seen = await talker.until("end")
        events = await client.until()
    assert "state" not in {message["type"] for message in seen}  # not exposed to chats
    (final,) = [message["data"] for message in seen if message["type"] == "final"]
    assert final["text"] == told(events) == "Hello there."
    run = next(message for message in seen if message["type"] == "run" and "seq" in message)
    assert run["data"]["messages"][0]["message_id"] == "h1"


async def test_several_graphs_are_assistants() -> None:
    graphs = {"one": chat("from one", "x"), "two": chat("from two", "x")}
    async with served(graphs) as site:
        for name in graphs:
            async with socket(site, name) as client:
                await client.subscribe("messages", "lifecycle")
                await client.start(assistant_id=name)
                assert told(await client.until()) == f"from {name}"


async def test_a_server_that_goes_away_closes_with_1012() -> None:
    gate = Gate()
    async with served(gate.graph) as site, socket(site) as client:
        await client.subscribe()
        await client.start({})
        await gate.entered.wait()
        draining = asyncio.create_task(site.attachment.drain(0.01))
        async for _ in client.ws:
            pass
        await draining
        assert client.ws.close_code == 1012


async def test_events_larger_than_the_python_client_takes_are_left_out_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def big(state: Any) -> Any:
        return {"log": ["x" * 1_100_000]}

    graph = line(("big", big), state=Anything)
    python = {"User-Agent": "Python/3.11 websockets/15.0"}
    async with served(graph, mapper=ChatMapper) as site:
        async with socket(site, headers=python, max_msg_size=0) as client:
            await client.subscribe("values", "lifecycle")
            await client.start({"value": 1})
            events = await client.until()
            assert [values.get("log") for values in data(events, "values")] == [[]]
            assert "left out a values event" in caplog.text
        async with socket(site, max_msg_size=0) as client:
            await client.subscribe("values")
            assert len(data(client.events, "values")[-1]["log"][0]) == 1_100_000


@pytest.mark.parametrize("compress", [False, True])
async def test_what_is_held_back_goes_out_when_its_time_has_come(
    compress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing else happens meanwhile: a sweep would send it, too.
    monkeypatch.setattr(Connection, "sweep", lambda *_args: None)
    python = {"User-Agent": "Python/3.11 websockets/15.0"}
    options = {"compress": 15 if compress else 0}
    failing = line(("n", model_node(Reply(text="x", error=ValueError("no")))))
    async with (
        served(failing, compress=compress) as site,
        socket(site, headers=python, **options) as watcher,
        socket(site, headers=python) as other,
    ):
        await watcher.subscribe("lifecycle", "input")
        await other.start()
        assert [root(event) for event in await watcher.until("failed")] == ["running", "failed"]


# -- the session by itself ----------------------------------------------------------------------


def session() -> LangChainSession:
    return LangChainSession(Peer({"thread_id": "t"}))


def attached(epoch: str = "1800000000-ab", head: int = 0) -> Attached:
    info = RunInfo(
        thread_id="t", run_id=None, status="idle", position=Position(epoch, head), start=None
    )
    return Attached(info=info, after=0)


def subscribing(client: LangChainSession, *channels: str) -> int:
    """The token of a subscription that has been asked for."""
    message = {"id": 1, "method": "subscription.subscribe", "params": {"channels": channels}}
    [action] = client.receive(orjson.dumps(message).decode())
    return action.token  # type: ignore[union-attr]


def subscribed(client: LangChainSession, *channels: str, head: int = 0) -> list[bytes]:
    return client.done(subscribing(client, *channels), attached(head=head))


def entries(*frames: Any) -> list[Entry]:
    return [Entry(seq, "r", 0, frame) for seq, frame in enumerate(frames, 1)]


def test_nothing_is_told_of_a_message_whose_beginning_is_gone() -> None:
    client = session()
    subscribed(client, "messages")
    delta = BlockDelta(message_id="m", index=0, kind="text", text="x", offset=7)
    assert client.send("t", entries(delta)) == []
    _, started = entries(delta, MessageStarted(message_id="m"))
    assert len(client.send("t", [started])) == 1


def test_a_subscription_is_answered_when_its_replay_is_over() -> None:
    client = session()
    started = RunStarted(thread_id="t", run_id="r", graph="g")
    assert subscribed(client, "lifecycle", head=2) == []
    first, second = entries(started, RunFinished(status="completed"))
    assert len(client.send("t", [first])) == 1
    event, answer = map(orjson.loads, client.send("t", [second]))
    assert event["params"]["data"]["event"] == "completed"
    assert answer["result"]["replayed_events"] == 2


def recent(*frames: Any) -> list[Entry]:
    now = time.time_ns() // 1_000_000
    return [Entry(seq, "r", now, frame) for seq, frame in enumerate(frames, 1)]


def lifecycle(sent: list[bytes]) -> list[str]:
    events = [orjson.loads(data[data.index(b"{") :].splitlines()[0]) for data in sent]
    return [event["params"]["data"]["event"] for event in events if event["type"] == "event"]


TASK = {"node": "n", "task_id": "k"}
KEPT = {"node": "o", "task_id": "l"}
STORY_OF_TWO_ATTEMPTS = (
    RunStarted(thread_id="t", run_id="r", graph="g"),
    StateSnapshot(values={"messages": [{"type": "human", "id": "h", "content": "hi"}], "x": 1}),
    MessageStarted(message_id="a", **TASK),
    MessageFinished(message_id="a", **TASK),
    MessageStarted(message_id="b", **TASK),
    MessageStarted(message_id="c", **KEPT),
    MessageStarted(message_id="d", namespace=("n:k",), task_id="inner"),
    MessageFinished(message_id="b", status="cancelled", **TASK),
    MessageFinished(message_id="d", status="cancelled", namespace=("n:k",), task_id="inner"),
    AttemptStarted(attempt=2, rerun_task_ids=("inner", "k"), rollback_to=1),
)


def test_a_page_is_shown_what_runs_again_in_a_state_and_then_out_of_it() -> None:
    client = session()
    subscribed(client, "messages", "values")
    sent = [orjson.loads(each) for each in client.send("t", entries(*STORY_OF_TWO_ATTEMPTS))]
    failed = [event["params"]["data"]["id"] for event in sent if event["method"] == "messages"]
    assert failed == ["a", "a", "b", "c", "d", "b", "d"]
    first, *states = [event["params"] for event in sent if event["method"] == "values"]
    shown = [
        (state["namespace"], [message["id"] for message in state["data"].get("messages", [])])
        for state in states
    ]
    assert shown == [
        ([], ["h", "a", "b", "d"]),
        ([], ["h"]),
        (["n:k"], ["d"]),
        (["n:k"], []),
    ]
    assert states[1]["data"] == first["data"]
    numbers = [event["seq"] for event in sent]
    assert numbers == sorted(set(numbers))


def test_what_a_state_has_had_is_not_taken_back() -> None:
    client = session()
    subscribed(client, "values")
    *story, attempt = STORY_OF_TWO_ATTEMPTS
    snapshots = [StateSnapshot(values={}), StateSnapshot(values={}, namespace=("n:k",))]
    sent = client.send("t", entries(*story, *snapshots, attempt))
    assert len(sent) == 3


def test_a_state_that_is_not_known_is_not_made_up() -> None:
    client = session()
    subscribed(client, "values")
    story = [frame for frame in STORY_OF_TWO_ATTEMPTS if not isinstance(frame, StateSnapshot)]
    states = [orjson.loads(each)["params"] for each in client.send("t", entries(*story))]
    assert [state["namespace"] for state in states] == [["n:k"], ["n:k"]]


@pytest.mark.parametrize("user_agent", ["Python/3.11 websockets/17.4", "langgraph-sdk-py/0.4.14"])
def test_a_program_is_not_shown_states_that_never_were(user_agent: str) -> None:
    client = LangChainSession(Peer({"thread_id": "t"}, user_agent=user_agent))
    subscribed(client, "values")
    assert len(client.send("t", entries(*STORY_OF_TWO_ATTEMPTS))) == 1


def test_who_comes_back_is_told_of_the_end_of_a_run_after_what_it_said() -> None:
    client = session()
    story = recent(
        RunStarted(thread_id="t", run_id="r", graph="g"), RunFinished(status="completed")
    )
    subscribed(client, "lifecycle", "input", head=2)
    assert lifecycle(client.send("t", story)) == ["running"]
    assert client.overdue() == []
    subscribed(client, "messages", "lifecycle", head=2)
    assert lifecycle(client.send("t", story)) == ["running", "completed"]
    assert client.overdue() == []


def test_an_end_waits_for_the_subscriptions_that_were_asked_for_with_it() -> None:
    client = session()
    story = recent(
        RunStarted(thread_id="t", run_id="r", graph="g"), RunFinished(status="completed")
    )
    values, messages = (subscribing(client, name, "lifecycle") for name in ("values", "messages"))
    client.done(values, attached(head=2))
    assert lifecycle(client.send("t", story)) == ["running"]
    assert client.overdue() == []
    client.done(messages, attached(head=2))
    assert lifecycle(client.send("t", story)) == ["running", "completed"]
    assert client.overdue() == []


def test_an_end_is_not_held_back_for_a_subscription_that_was_refused() -> None:
    client = session()
    subscribed(client, "lifecycle", head=0)
    token = subscribing(client, "messages")
    story = recent(
        RunStarted(thread_id="t", run_id="r", graph="g"), RunFinished(status="completed")
    )
    assert lifecycle(client.send("t", story)) == ["running"]
    client.done(token, RequestError("not_found", "x"))
    assert lifecycle(client.overdue()) == ["completed"]


def test_the_ends_of_runs_that_only_watchers_hear_of_come_in_order() -> None:
    client = session()
    ended = RunFinished(status="completed")
    starts = [RunStarted(thread_id="t", run_id=run, graph="g") for run in ("r", "s")]
    subscribed(client, "lifecycle", "input", head=4)
    story = recent(starts[0], ended, starts[1], ended)
    assert lifecycle(client.send("t", story)) == ["running", "completed", "running"]


@pytest.mark.parametrize(
    ("user_agent", "server_sent"),
    [("Python/3.11 websockets/17.4", False), ("langgraph-sdk-py/0.4.14", True)],
)
def test_the_python_client_that_watches_on_a_connection_of_its_own_hears_of_ends_at_once(
    user_agent: str, server_sent: bool
) -> None:
    peer = Peer({"thread_id": "t"}, user_agent=user_agent)
    client = LangChainSession(peer, server_sent=server_sent)
    subscribed(client, "lifecycle", "input")
    started = RunStarted(thread_id="t", run_id="r", graph="g")
    story = recent(started, RunFinished(status="completed"))
    assert lifecycle(client.send("t", story)) == ["running", "completed"]


FAILURE: list[Frame] = [
    RunFailed(code="graph_failed", message="x"),
    RunFinished(status="failed"),
]
ENDS: list[tuple[list[Frame], str]] = [
    ([RunFinished(status="completed")], "completed"),
    ([RunFinished(status="cancelled")], "interrupted"),
    (FAILURE, "failed"),
]


class Streams:
    """The event streams of a page of the JavaScript client, and its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_700_000_000_000
        monkeypatch.setattr(langchain, "_now_ms", lambda: self.now)

    def open(self, *channels: str, head: int = 0) -> LangChainSession:
        stream = LangChainSession(Peer({"thread_id": "t"}, user_agent="Mozilla"), server_sent=True)
        subscribed(stream, *channels, head=head)
        return stream

    def story(self, *frames: Frame) -> list[Entry]:
        return [Entry(each.seq, each.run_id, self.now, each.frame) for each in entries(*frames)]


@pytest.mark.parametrize(("end", "told"), ENDS)
def test_an_event_stream_that_was_just_opened_tells_of_an_end_when_no_other_comes_instead(
    end: list[Frame], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(monkeypatch)
    story = streams.story(RunStarted(thread_id="t", run_id="r", graph="g"), *end)
    streams.now += 250
    stream = streams.open("values", "lifecycle", head=len(story))
    assert lifecycle(stream.send("t", story)) == ["running"]
    due_in = stream.due_in()
    assert due_in == pytest.approx(0.3, abs=0.01)
    streams.now += 299
    assert stream.overdue() == []
    streams.now += 1
    assert lifecycle(stream.overdue()) == [told]
    assert (stream.due_in(), stream.overdue()) == (None, [])


@pytest.mark.parametrize(("end", "told"), ENDS)
def test_an_event_stream_tells_at_once_of_the_end_of_a_run_that_takes_its_time(
    end: list[Frame], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(monkeypatch)
    stream = streams.open("values", "lifecycle")
    story = streams.story(RunStarted(thread_id="t", run_id="r", graph="g"))
    assert lifecycle(stream.send("t", story)) == ["running"]
    streams.now += 301
    whole = streams.story(RunStarted(thread_id="t", run_id="r", graph="g"), *end)
    assert lifecycle(stream.send("t", whole[1:])) == [told]
    streams.now += 301
    late = streams.open("values", "lifecycle", head=len(whole))
    assert lifecycle(late.send("t", whole)) == ["running", told]


@pytest.mark.parametrize(("end", "told"), ENDS)
def test_an_event_stream_that_watches_tells_of_an_end_after_the_other_one(
    end: list[Frame], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(monkeypatch)
    stream = streams.open("lifecycle", "input")
    streams.now += 9_000
    story = streams.story(RunStarted(thread_id="t", run_id="r", graph="g"), *end)
    assert lifecycle(stream.send("t", story)) == ["running"]
    streams.now += 599
    assert stream.overdue() == []
    streams.now += 1
    assert lifecycle(stream.overdue()) == [told]


def test_an_event_stream_tells_of_ends_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch)
    ended = RunFinished(status="completed")
    starts = [RunStarted(thread_id="t", run_id=run, graph="g") for run in ("r", "s")]
    story = streams.story(starts[0], ended, starts[1], ended, *FAILURE)
    stream = streams.open("lifecycle", "input")
    assert lifecycle(stream.send("t", story[:2])) == ["running"]
    assert lifecycle(stream.send("t", story[2:4])) == ["completed", "running"]
    assert lifecycle(stream.bye("restart", "resume", 0)) == ["completed"]
    assert lifecycle(stream.send("t", story[4:])) == ["failed"]


@pytest.mark.parametrize("user_agent", ["Python/3.11 websockets/17.4", "langgraph-sdk-py/0.4.14"])
@pytest.mark.parametrize(
    ("end", "told"),
    [([RunFinished(status="completed")], "completed"), (FAILURE, "failed")],
)
def test_the_end_of_a_run_from_before_is_not_taken_for_that_of_the_next(
    user_agent: str, end: list[Frame], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time_ns() // 1_000_000]
    monkeypatch.setattr(langchain, "_now_ms", lambda: now[0])
    starts = [RunStarted(thread_id="t", run_id=run, graph="g") for run in ("r", "s")]
    for begins in (True, False):
        client = LangChainSession(Peer({"thread_id": "t"}, user_agent=user_agent))
        story = recent(starts[0], *end, starts[1], *end)
        subscribed(client, "lifecycle", "input", head=len(end) + 1)
        assert lifecycle(client.send("t", story[: len(end) + 1])) == ["running"]
        now[0] += 299
        assert client.overdue() == []
        if begins:
            live = client.send("t", story[len(end) + 1 :])
            now[0] += 100
            assert lifecycle([*live, *client.overdue()]) == ["running", told]
        now[0] += 2
        assert lifecycle(client.overdue()) == ([] if begins else [told])
        assert client.overdue() == []


@pytest.mark.parametrize("user_agent", ["Python/3.11 websockets/17.4", "langgraph-sdk-py/0.4.14"])
def test_the_python_client_hears_why_a_run_stops_after_what_was_said_elsewhere(
    user_agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time_ns() // 1_000_000]
    monkeypatch.setattr(langchain, "_now_ms", lambda: now[0])
    watcher, other = (
        LangChainSession(Peer({"thread_id": "t"}, user_agent=user_agent)) for _ in range(2)
    )
    subscribed(watcher, "lifecycle", "input")
    subscribed(other, "lifecycle", "input", "messages")
    starts = [RunStarted(thread_id="t", run_id=run, graph="g") for run in ("r", "s")]
    asked = Interrupted(interrupt_id="i", value="?")
    story = recent(starts[0], asked, RunFinished(status="interrupted"), starts[1], *FAILURE)
    names = ["running", "input.requested", "interrupted", "running", "failed"]

    def told(sent: list[bytes]) -> list[str]:
        events = [orjson.loads(each) for each in sent]
        return [event["params"]["data"].get("event", event["method"]) for event in events]

    assert told(other.send("t", story)) == names
    assert told(watcher.send("t", story[:3])) == names[:1]
    assert watcher.due_in() == pytest.approx(0.1, abs=0.01)
    now[0] += 99
    assert watcher.overdue() == []
    assert told(watcher.send("t", story[3:])) == names[1:4]
    now[0] += 100
    assert told(watcher.overdue()) == names[4:]
    assert watcher.due_in() is None


def test_the_protocol_has_no_word_for_gaps_heartbeats_and_going_away() -> None:
    client = session()
    gap = GapError("trimmed", requested=1, first=2, head=3, epoch="e")
    assert client.gap("t", gap, None) is None  # type: ignore[arg-type]
    assert client.heartbeat(0, {}) == []
    assert client.bye("restart", "resume", 0) == []
    assert client.send("t", []) == []
    assert client.done(99, RequestError("not_found", "x")) == []
    [said] = map(orjson.loads, client.bye("expired", "reauth", 0))
    assert (said["id"], said["error"]) == (None, "permission_denied")
    limited = RequestError("rate_limited", "slow down")
    [said] = map(orjson.loads, client.refuse('{"id": 7, "method": "x"}', limited))
    assert (said["id"], said["code"]) == (7, "rate_limited")
    failed = RequestError("internal_error", "Something went wrong.", error_id="e1")
    [said] = map(orjson.loads, client.refuse("?", failed))
    assert (said["error"], said["error_id"]) == ("unknown_error", "e1")


async def test_the_run_of_a_thread_goes_on_while_nobody_looks() -> None:
    gate = Gate()
    async with served(gate.graph) as site:
        async with socket(site) as client:
            await client.start({})
            await gate.entered.wait()
        gate.go_on.set()
        async with socket(site) as again:
            await again.subscribe("custom", "lifecycle")
            async with asyncio.timeout(10):
                await again.until("completed")
            assert len(data(again.events, "custom")) == 2


@pytest.mark.parametrize("batch", [1, 7, None])
def test_transcript(batch: int | None) -> None:
    client = session()
    subscribed(client, *ALL)
    entries = story()
    size = batch or len(entries)
    told = [
        message
        for start in range(0, len(entries), size)
        for message in client.send("t", entries[start : start + size])
    ]
    assert_transcript(told, TRANSCRIPTS / "langchain.jsonl", exact=True)


@pytest.mark.parametrize("event_id", ["1" * 5_000, "99999999999999999", "\u0663", "-1", "x"])
def test_an_id_that_no_event_has_is_a_cursor_before_all(event_id: str) -> None:
    client = session()
    params = {"channels": ["lifecycle"], "since_event_id": event_id}
    message = {"id": 1, "method": "subscription.subscribe", "params": params}
    [action] = client.receive(orjson.dumps(message).decode())
    assert isinstance(action, Do)
    client.done(action.token, attached())
    story = recent(RunStarted(thread_id="t", run_id="r", graph="g"))
    assert lifecycle(client.send("t", story)) == ["running"]


def test_a_subscription_has_so_many_namespaces() -> None:
    client = session()
    params = {"channels": ["messages"], "namespaces": [["a"]] * 101}
    message = {"id": 1, "method": "subscription.subscribe", "params": params}
    [refusal] = client.receive(orjson.dumps(message).decode())
    assert isinstance(refusal, Answer)
    assert b"params.namespaces: expected a list of at most 100" in refusal.data
