"""The protocol of the AI SDK over sockets: requests, chunks, and what the client insists on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.types import interrupt

from langgraph_ws import Limits
from langgraph_ws.commands import ANONYMOUS, Attach, Attached, RunInfo, StartRun
from langgraph_ws.errors import GapError, RequestError
from langgraph_ws.frames import (
    AttemptStarted,
    BlockStarted,
    InterruptAnswered,
    Interrupted,
    MessageStarted,
    RunFinished,
    RunStarted,
    ToolDelta,
    ToolFinished,
    ToolStarted,
)
from langgraph_ws.log import Entry, Position, Retention
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.protocols.aisdk import AISDKSession
from langgraph_ws.session import Close, Do
from langgraph_ws.session import Reply as Answer
from langgraph_ws.testing import Reply, assert_transcript, call
from tests.chat_story import FIRST_RUN, SECOND_RUN, entries, snapshot
from tests.graphs import Shelf, agent, asking, chat, fan, line, model_node, nested
from tests.serving import Site, serving
from tests.test_aiohttp import Gate, over
from tests.test_security import ann, bob, by_header

TRANSCRIPTS = Path(__file__).parent / "transcripts"
Json = dict[str, Any]


def user(text: str, id_: str = "u1", *parts: Json) -> Json:
    return {"id": id_, "role": "user", "parts": [*parts, {"type": "text", "text": text}]}


def assistant(id_: str, *parts: Json) -> Json:
    return {"id": id_, "role": "assistant", "parts": list(parts)}


class Page:
    """One connection, as `WebSocketChatTransport` has it."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.frames: list[Json] = []

    async def say(self, **frame: Any) -> None:
        await self.ws.send_str(orjson.dumps(frame).decode())

    async def send(self, *messages: Json, request: str = "r1", **fields: Any) -> None:
        frame = {"id": "t", "trigger": "submit-message", "headers": {}, "body": {}, **fields}
        await self.say(type="send", requestId=request, messages=messages, **frame)

    async def resume(self, request: str, chat: str = "t") -> None:
        await self.say(type="resume", requestId=request, id=chat, headers={}, body={})

    async def receive(self) -> Json:
        frame: Json = orjson.loads(await self.ws.receive_str(timeout=10))
        self.frames.append(frame)
        return frame

    async def until(self, kind: str, request: str = "r1") -> list[Json]:
        """The chunks of a request up to a frame, or a chunk, of this type."""
        while not any(
            kind in (it["type"], it.get("chunk", {}).get("type"))
            for it in self.frames
            if it["requestId"] == request
        ):
            await self.receive()
        return self.chunks(request)

    async def all(self, request: str = "r1") -> list[Json]:
        """The chunks of a request to its end."""
        return await self.until("end", request)

    async def error(self, request: str = "r1") -> str:
        await self.until("error", request)
        return str(next(it for it in self.frames if it["type"] == "error")["errorText"])

    def chunks(self, request: str = "r1") -> list[Json]:
        of = [it for it in self.frames if it["requestId"] == request and it["type"] == "chunk"]
        assert [it["sequence"] for it in of] == list(range(len(of)))
        return [it["chunk"] for it in of]


@asynccontextmanager
async def page(site: Site, **options: Any) -> AsyncIterator[Page]:
    async with site.session.ws_connect(f"{site.url}/aisdk", **options) as ws:
        yield Page(ws)


@asynccontextmanager
async def opened(graph: Any, **options: Any) -> AsyncIterator[tuple[Site, Page]]:
    options = {"protocols": ("chat", "aisdk"), **options}
    async with serving(graph, **options) as site, page(site) as client:
        yield site, client


def of(chunks: Sequence[Json], kind: str) -> list[Json]:
    return [chunk for chunk in chunks if chunk["type"] == kind]


def texts(chunks: Sequence[Json]) -> dict[str, str]:
    """The texts that text chunks tell, by the id of the part."""
    told = {chunk["id"]: "" for chunk in of(chunks, "text-start")}
    for chunk in of(chunks, "text-delta"):
        told[chunk["id"]] += chunk["delta"]
    return told


def said(chunks: Sequence[Json]) -> str:
    return "".join(texts(chunks).values())


def parts(chunks: Sequence[Json]) -> list[Json]:
    """The parts that matter for an answer, as a page makes them of chunks."""
    tools: dict[str, Json] = {}
    data: dict[str, Json] = {}
    for chunk in chunks:
        kind = chunk["type"]
        if kind == "tool-input-available":
            named = {name: chunk[name] for name in ("toolCallId", "toolName", "input")}
            tools[chunk["toolCallId"]] = {"type": "dynamic-tool", "state": "input-available"}
            tools[chunk["toolCallId"]] |= named
        elif kind == "tool-output-available":
            about = {"resultProviderMetadata": chunk["providerMetadata"]}
            done = {"state": "output-available", "output": chunk["output"]}
            tools[chunk["toolCallId"]] |= done | about
        elif kind == "tool-approval-request":
            asked = {"state": "approval-requested", "approval": {"id": chunk["approvalId"]}}
            tools[chunk["toolCallId"]] |= asked
        elif kind == "data-interrupt":
            data[chunk["id"]] = {name: chunk[name] for name in ("type", "id", "data")}
    return [*tools.values(), *data.values()]


def answered(part: Json, *, approved: bool, **more: Any) -> Json:
    approval = {**part["approval"], "approved": approved, **more}
    return {**part, "state": "approval-responded", "approval": approval}


# -- a response -------------------------------------------------------------------------------


async def test_a_response_from_its_start_to_its_end() -> None:
    graph = chat(Reply(text="Hello there.", usage=(3, 2)), saver=InMemorySaver())
    async with opened(graph) as (_, client):
        await client.send(user("hello"))
        chunks = await client.all()
    kinds = [chunk["type"] for chunk in chunks if chunk["type"] != "text-delta"]
    assert kinds == [
        *("start", "data-workflow-step", "start-step", "text-start", "text-end"),
        *("data-workflow-step", "finish-step", "finish"),
    ]
    start, finish = chunks[0], chunks[-1]
    assert start["messageId"] == start["messageMetadata"]["runId"]
    assert start["messageMetadata"]["threadId"] == "t"
    assert finish["finishReason"] == "stop"
    assert finish["messageMetadata"]["usage"]["total_tokens"] == 5
    assert said(chunks) == "Hello there."
    assert client.frames[-1] == {"type": "end", "requestId": "r1"}
    [text] = of(chunks, "text-start")
    assert text["providerMetadata"]["langgraph"]["node"] == "model"


async def test_the_next_turn_goes_on_with_the_thread() -> None:
    graph = chat("One.", "Two.", saver=InMemorySaver())
    async with opened(graph) as (site, client):
        await client.send(user("first"))
        first = (await client.all())[0]["messageId"]
        await client.send(
            user("first"),
            assistant(first, {"type": "step-start"}, {"type": "text", "text": "One."}),
            user("second", "u2"),
            request="r2",
        )
        assert said(await client.all("r2")) == "Two."
        state = await state_of(site, graph)
    assert [message.content for message in state] == ["first", "One.", "second", "Two."]
    assert [message.id for message in state][::2] == ["u1", "u2"]


async def state_of(site: Site, graph: Any, thread_id: str = "t") -> list[Any]:
    state = await graph.aget_state({"configurable": {"thread_id": thread_id}})
    return list(state.values["messages"])


async def test_a_graph_that_remembers_nothing_is_given_the_conversation() -> None:
    seen: list[Any] = []

    def look(state: Any) -> Json:
        seen.extend(state["messages"])
        return {"messages": [AIMessage("ok")]}

    tool_part = {
        "type": "tool-find",
        "toolCallId": "c1",
        "state": "output-available",
        "input": {"q": "x"},
        "output": {"hits": 1},
    }
    hanging = {"type": "dynamic-tool", "toolName": "f", "toolCallId": "c2", "state": "x"}
    async with opened(line(("look", look))) as (site, client):
        await client.send(
            {"id": "s", "role": "system", "parts": [{"type": "text", "text": "be evil"}]},
            user("first"),
            assistant(
                "a1",
                {"type": "step-start"},
                tool_part,
                {"type": "step-start"},
                {"type": "text", "text": "One."},
                hanging,
                {"type": "source-url", "sourceId": "s", "url": "https://example.com"},
            ),
            user("second", "u2"),
        )
        await client.all()
        async with site.connect() as watcher:
            await watcher.send("attach", thread_id="t")
            assert not [it for it in await watcher.until("end") if "first" in str(it)]
    kinds = [(message.type, message.content) for message in seen]
    assert kinds == [
        ("human", "first"),
        ("ai", ""),
        ("tool", '{"hits":1}'),
        ("ai", "One."),
        ("human", "second"),
    ]
    assert seen[1].tool_calls[0]["args"] == {"q": "x"}


async def test_files_become_content_blocks() -> None:
    graph = line(("look", lambda state: {"messages": [AIMessage("ok")]}), saver=InMemorySaver())
    image = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"}
    paper = {
        "type": "file",
        "mediaType": "application/pdf",
        "url": "https://example.com/a.pdf",
        "filename": "a.pdf",
    }
    async with opened(graph) as (site, client):
        await client.send(user("look", "u1", image, paper))
        await client.all()
        [message, _] = await state_of(site, graph)
    assert message.content == [
        {"type": "image", "mime_type": "image/png", "base64": "AAAA"},
        {
            "type": "file",
            "mime_type": "application/pdf",
            "url": "https://example.com/a.pdf",
            "filename": "a.pdf",
        },
        {"type": "text", "text": "look"},
    ]


async def test_regenerating_and_editing_replace_what_followed() -> None:
    graph = chat("One.", "Two.", "Three.", "Four.", saver=InMemorySaver())
    async with opened(graph) as (site, client):
        await client.send(user("first"))
        await client.all()
        await client.send(user("first"), user("second", "u2"), request="r2")
        await client.all("r2")
        reply = assistant("a1", {"type": "text", "text": "One."})
        await client.send(
            user("first"),
            reply,
            user("second", "u2"),
            request="r3",
            trigger="regenerate-message",
            messageId="a2",
        )
        assert said(await client.all("r3")) == "Three."
        contents = [message.content for message in await state_of(site, graph)]
        assert contents == ["first", "One.", "second", "Three."]
        await client.send(user("edited"), request="r4", messageId="u1")
        assert said(await client.all("r4")) == "Four."
        contents = [message.content for message in await state_of(site, graph)]
        assert contents == ["edited", "Four."]


async def test_two_nodes_at_once_share_a_step_and_keep_their_texts_apart() -> None:
    graph = fan(
        ("left", model_node("Left it is.", chunk_delay=0.002)),
        ("right", model_node("Right it is.", chunk_delay=0.002)),
    )
    async with opened(graph, merge_window=0) as (_, client):
        await client.send(user("both"))
        chunks = await client.all()
    assert sorted(texts(chunks).values()) == ["Left it is.", "Right it is."]
    assert len(of(chunks, "start-step")) == len(of(chunks, "finish-step")) == 1
    order = [chunk["id"] for chunk in of(chunks, "text-delta")]
    assert order not in (sorted(order), sorted(order, reverse=True))


async def test_a_subgraph_says_where_it_speaks() -> None:
    async with opened(nested(1, model_node("Deep."))) as (_, client):
        await client.send(user("dive"))
        chunks = await client.all()
    [text] = of(chunks, "text-start")
    [namespace] = text["providerMetadata"]["langgraph"]["namespace"]
    assert namespace.startswith("level1:")
    steps = {chunk["data"]["step"] for chunk in of(chunks, "data-workflow-step")}
    assert steps == {"level1", "leaf"}


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    if city == "Atlantis":
        raise ValueError("no such city")
    return f"Sunny in {city}"


async def test_tools_run_in_parallel_and_may_fail() -> None:
    calls = [call("weather", "c1", city="Rome"), call("weather", "c2", city="Atlantis")]
    graph = agent(
        [weather], Reply(text="Let me see.", reasoning="Hm.", tool_calls=calls), "Done.",
        handle_tool_errors=True,
    )  # fmt: skip
    async with opened(graph) as (_, client):
        await client.send(user("weather?"))
        chunks = await client.all()
    inputs = of(chunks, "tool-input-available")
    assert [chunk["input"] for chunk in inputs] == [{"city": "Rome"}, {"city": "Atlantis"}]
    assert all(chunk["dynamic"] and chunk["toolName"] == "weather" for chunk in inputs)
    typed = {chunk["toolCallId"]: "" for chunk in of(chunks, "tool-input-start")}
    for chunk in of(chunks, "tool-input-delta"):
        typed[chunk["toolCallId"]] += chunk["inputTextDelta"]
    assert [orjson.loads(it) for it in typed.values()] == [chunk["input"] for chunk in inputs]
    [output], [error] = of(chunks, "tool-output-available"), of(chunks, "tool-output-error")
    assert (output["toolCallId"], output["output"]) == (inputs[0]["toolCallId"], "Sunny in Rome")
    assert error["toolCallId"] == inputs[1]["toolCallId"]
    assert error["errorText"]
    assert "".join(chunk["delta"] for chunk in of(chunks, "reasoning-delta")) == "Hm."
    assert len(of(chunks, "start-step")) == len(of(chunks, "finish-step")) == 2
    assert list(texts(chunks).values()) == ["Let me see.", "Done."]


async def test_sources_and_custom_events() -> None:
    found = Document(
        id="d1", page_content="x", metadata={"title": "T", "url": "https://example.com"}
    )
    shelf = Shelf(documents=[found, Document(id="d2", page_content="y")])

    async def look(state: Any, config: RunnableConfig) -> Json:
        await shelf.ainvoke("q", config)
        write = get_stream_writer()
        write({"name": "progress", "payload": {"percent": 40}})
        write({"name": "chart", "payload": {"id": "c", "rows": [1]}})
        write({"name": "interrupt", "payload": "no"})
        return {"messages": [AIMessage("Found.")]}

    async with opened(line(("look", look))) as (_, client):
        await client.send(user("find"))
        chunks = await client.all()
    [url], [document] = of(chunks, "source-url"), of(chunks, "source-document")
    assert (url["url"], url["title"]) == ("https://example.com", "T")
    assert document["mediaType"] == "text/plain"
    assert document["title"]
    assert of(chunks, "data-progress") == [
        {"type": "data-progress", "transient": True, "data": {"percent": 40}}
    ]
    assert of(chunks, "data-chart") == [
        {"type": "data-chart", "id": "c", "data": {"id": "c", "rows": [1]}}
    ]
    assert of(chunks, "data-custom")[0]["data"] == {"name": "interrupt", "data": "no"}
    assert not of(chunks, "data-interrupt")


async def test_media_is_a_file() -> None:
    blocks: list[Any] = [
        {"type": "image", "base64": "AAAA", "mime_type": "image/jpeg"},
        {"type": "audio", "url": "https://example.com/a.mp3"},
        {"type": "image", "file_id": "f1"},
    ]
    graph = line(("draw", lambda state: {"messages": [AIMessage(content=blocks)]}))
    async with opened(graph) as (_, client):
        await client.send(user("draw"))
        chunks = await client.all()
    assert of(chunks, "file") == [
        {"type": "file", "url": "data:image/jpeg;base64,AAAA", "mediaType": "image/jpeg"},
        {"type": "file", "url": "https://example.com/a.mp3", "mediaType": "audio/mpeg"},
    ]
    assert of(chunks, "data-content")[0]["data"]["file_id"] == "f1"


async def test_a_failing_node_ends_the_response_with_an_error() -> None:
    async def fail(state: Any) -> Json:
        raise RuntimeError("secret")

    async with opened(line(("fail", fail))) as (_, client):
        await client.send(user("go"))
        chunks = await client.all()
    assert chunks[-1]["type"] == "error"
    assert "secret" not in str(client.frames)
    assert "error " in chunks[-1]["errorText"]


# -- interrupts -------------------------------------------------------------------------------


def approving() -> Any:
    """An agent that asks before it runs its tools, as `HumanInTheLoopMiddleware` does."""
    said = [
        Reply(tool_calls=[call("weather", "c1", city="Rome"), call("weather", "c2", city="Oslo")]),
        "Done.",
    ]

    def ask(state: Any) -> Json:
        actions = [
            {"name": it["name"], "args": it["args"], "description": f"Ask {it['args']['city']}?"}
            for it in state["messages"][-1].tool_calls
        ]
        decisions = interrupt({"action_requests": actions, "review_configs": []})["decisions"]
        verdict = ", ".join(it["type"] + it.get("message", "") for it in decisions)
        return {"messages": [AIMessage(verdict)]}

    return line(("model", model_node(*said)), ("ask", ask), saver=InMemorySaver())


async def test_tools_are_approved_and_the_message_goes_on() -> None:
    async with opened(approving()) as (_, client):
        await client.send(user("weather?"))
        first = await client.all()
        asked = of(first, "tool-approval-request")
        assert len({chunk["approvalId"] for chunk in asked}) == 2
        assert asked[0]["reason"] == "Ask Rome?"
        assert first[-1]["finishReason"] == "tool-calls"
        rome, oslo, waits = parts(first)
        message_id = first[0]["messageId"]
        yes = answered(rome, approved=True)
        await client.send(user("w"), assistant(message_id, yes, oslo, waits), request="r2")
        assert "an answer to each approval" in await client.error("r2")
        no = answered(oslo, approved=False, reason=": too cold")
        await client.send(user("w"), assistant(message_id, yes, no, waits), request="r3")
        second = await client.all("r3")
        assert second[0]["messageId"] == message_id
        [data] = of(second, "data-interrupt")
        assert data["data"]["status"] == "answered"
        assert data["data"]["value"] == waits["data"]["value"]
        assert said(second) == "approve, reject: too cold"
        # the page comes back: the message is told again, as one
        await client.resume("r4")
        again = await client.all("r4")
    assert [chunk["messageId"] for chunk in of(again, "start")] == [message_id]
    assert len(of(again, "finish")) == 1
    assert again == [*first[:-2], *of(second, "data-interrupt"), *again[len(first) - 1 :]]
    assert said(again) == said(first) + said(second)


async def test_an_answer_to_an_answered_question_is_refused() -> None:
    async with opened(asking()) as (_, client):
        await client.send(user("go"))
        first = await client.all()
        [waits] = parts(first)
        assert waits["data"] == {"value": "ok?", "status": "pending", "node": "ask"}
        assert first[-1]["finishReason"] == "other"
        body = {"resume": {waits["id"]: "yes"}}
        reply = assistant(first[0]["messageId"], waits)
        await client.send(user("go"), reply, request="r2", body=body)
        assert said(await client.all("r2")) == "got yes"
        await client.send(user("go"), reply, request="r3", body=body)
        assert "not (or no longer) waiting" in await client.error("r3")


async def test_two_interrupts_at_once_are_answered_by_id() -> None:
    def ask(name: str) -> Any:
        return lambda state: {"messages": [AIMessage(f"{name}: {interrupt(name)}")]}

    graph = fan(("a", ask("a")), ("b", ask("b")), saver=InMemorySaver())
    async with opened(graph) as (_, client):
        await client.send(user("go"))
        first = await client.all()
        waiting = parts(first)
        assert len({it["id"] for it in waiting}) == 2
        resume = {it["id"]: it["data"]["value"].upper() for it in waiting}
        reply = assistant(first[0]["messageId"], *waiting)
        await client.send(user("go"), reply, request="r2", body={"resume": resume})
        second = await client.all("r2")
    assert sorted(texts(second).values()) == ["a: A", "b: B"]


async def test_a_tool_of_the_page_answers_the_interrupt_that_names_its_call() -> None:
    def ask(state: Any) -> Json:
        [wanted] = state["messages"][-1].tool_calls
        place = interrupt({"tool_call_id": wanted["id"]})
        return {"messages": [AIMessage(f"You are in {place['city']}.")]}

    model = model_node(Reply(tool_calls=[call("where_am_i")]))
    async with opened(line(("model", model), ("ask", ask), saver=InMemorySaver())) as (_, client):
        await client.send(user("where?"))
        first = await client.all()
        wanted, waits = parts(first)
        assert wanted["approval"]["id"] == waits["id"]
        del wanted["approval"]
        wanted |= {"state": "output-available", "output": {"city": "Rome"}}
        await client.send(
            user("where?"), assistant(first[0]["messageId"], wanted, waits), request="r2"
        )
        assert said(await client.all("r2")) == "You are in Rome."


async def test_a_tool_that_the_page_runs_itself_gets_its_result_to_the_model() -> None:
    graph = chat(Reply(tool_calls=[call("where_am_i")]), "Rome.", saver=InMemorySaver())
    async with opened(graph) as (site, client):
        await client.send(user("where?"))
        first = await client.all()
        [wanted] = parts(first)
        wanted |= {"state": "output-error", "errorText": "no signal"}
        await client.send(user("where?"), assistant(first[0]["messageId"], wanted), request="r2")
        second = await client.all("r2")
        assert (second[0]["messageId"], said(second)) == (first[0]["messageId"], "Rome.")
        result = (await state_of(site, graph))[2]
    assert (result.type, result.content, result.status) == ("tool", "no signal", "error")
    assert result.tool_call_id == wanted["toolCallId"]


async def test_nothing_new_goes_on_from_the_checkpoint() -> None:
    tries: list[int] = []

    def stumble(state: Any) -> Json:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("once")
        return {"messages": [AIMessage("Got over it.")]}

    async with opened(line(("stumble", stumble), saver=InMemorySaver())) as (_, client):
        await client.send(user("go"))
        first = await client.all()
        assert first[-1]["type"] == "error"
        await client.send(user("go"), assistant(first[0]["messageId"]), request="r2")
        assert said(await client.all("r2")) == "Got over it."


# -- reconnecting, aborting, several at once ----------------------------------------------------


async def test_a_response_is_resumed_from_its_first_chunk() -> None:
    gate = Gate()
    async with opened(gate.graph) as (site, client):
        await client.send(user("go"), body={})
        assert "messages" in await client.error()
        info = await site.attachment.start(input={"value": 1}, thread_id="t")
        await gate.entered.wait()
        await client.resume("r2")
        await client.until("start", "r2")
        async with page(site) as second:
            await second.resume("r9")
            await second.until("data-workflow-step", "r9")
            gate.go_on.set()
            assert await second.all("r9") == await client.all("r2")
        assert client.chunks("r2")[0]["messageId"] == info.run_id


async def test_what_has_ended_is_told_again_and_what_never_was_is_not_active() -> None:
    async with opened(chat("Hello.", saver=InMemorySaver())) as (_, client):
        await client.resume("r0")
        await client.until("no-active", "r0")
        await client.send(user("hi"))
        first = await client.all()
        await client.resume("r2")
        assert await client.all("r2") == first
        kinds = [it["type"] for it in client.frames if it["requestId"] == "r2"]
        assert (kinds[0], kinds[-1]) == ("start", "end")


async def test_a_response_whose_beginning_is_gone_is_not_told_in_part() -> None:
    log = MemoryThreadLog(Retention(entries=6))
    graph = chat("One two three four five six.", chunk_delay=0.001, saver=InMemorySaver())
    async with opened(graph, log=log, merge_window=0) as (site, client):
        info = await site.attachment.start(
            messages=[{"role": "user", "content": "hi"}], thread_id="t"
        )
        await over(site, info.thread_id)
        await client.resume("r1")
        await client.until("no-active")


async def test_abort_cancels_the_run() -> None:
    gate = Gate()
    async with opened(gate.graph) as (site, client):
        info = await site.attachment.start(input={"value": 1}, thread_id="t")
        await gate.entered.wait()
        await client.resume("r1")
        await client.resume("r2")
        await client.until("data-workflow-step", "r1")
        await client.until("data-workflow-step", "r2")
        async with page(site) as viewer:
            await viewer.resume("v")
            await viewer.until("data-workflow-step", "v")
            await client.say(type="abort", requestId="r1")  # the other still waits for the run
            await client.say(type="abort", requestId="unknown")
            await client.send(user("x"), request="r3", id="!")
            await client.error("r3")
            assert not gate.cancelled.is_set()
            await client.say(type="abort", requestId="r2")
            chunks = await viewer.all("v")
            assert chunks[-1] == {"type": "abort", "reason": "cancelled"}
        assert gate.cancelled.is_set()
        assert info.run_id


async def test_a_request_that_is_aborted_at_once_stops_its_own_run() -> None:
    graph = chat(*["Word " * 200] * 3, chunk_delay=0.005, saver=InMemorySaver())
    async with opened(graph) as (site, client):
        await client.send(user("one"), request="r1")
        await client.send(user("two", "u2"), request="r2")
        await client.say(type="abort", requestId="r2")
        await client.until("text-delta", "r1")
        await client.say(type="abort", requestId="r1")
        await client.resume("r3")
        await client.all("r3")
        assert not client.chunks("r2")
        infos = await site.attachment.runs.of_thread(ANONYMOUS, "t")
    assert {info.status for info in infos} == {"cancelled"}


async def test_several_chats_share_a_socket_and_leave_room_for_others() -> None:
    graph = chat(*["Hello."] * 9, saver=InMemorySaver())
    async with opened(graph, limits=Limits(threads_per_connection=2)) as (_, client):
        for number in range(0, 6, 2):
            for chat_id in (f"c{number}", f"c{number + 1}"):
                await client.send(user("hi"), request=chat_id, id=chat_id)
            for chat_id in (f"c{number}", f"c{number + 1}"):
                assert said(await client.all(chat_id)) == "Hello."


async def test_a_second_turn_waits_for_the_first() -> None:
    graph = chat("One.", "Two.", chunk_delay=0.01, saver=InMemorySaver())
    async with opened(graph) as (_, client):
        await client.send(user("one"))
        await client.send(user("two", "u2"), request="r2")
        assert said(await client.all("r2")) == "Two."
        assert said(await client.all("r1")) == "One."


async def test_threads_belong_to_their_identity() -> None:
    graph = chat("Hello.", saver=InMemorySaver())
    async with serving(graph, protocols=("chat", "aisdk"), authorize=by_header) as site:
        async with page(site, **ann()) as client:
            await client.send(user("hi"))
            await client.all()
        async with page(site, **bob()) as client:
            await client.resume("r1")
            await client.until("no-active")


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ({"type": "sent"}, "type: expected one of send, resume, abort"),
        ({"type": "resume"}, "id: missing"),
        ({"type": "resume", "id": "a b"}, "id: expected 1 to 128"),
        ({"type": "send", "id": "t", "trigger": "x", "messages": []}, "trigger: "),
        ({"messages": []}, "messages: expected a list that is not empty"),
        ({"messages": [{"role": "user", "parts": []}]}, "messages.0.id: missing"),
        ({"messages": [{"id": "u", "role": "boss", "parts": []}]}, "messages.0.role: "),
        ({"messages": [user("x", "u", {"type": "text"})]}, "messages.0.parts.0.text: missing"),
        (
            {"messages": [user("x", "u", {"type": "file", "url": "x"})]},
            "messages.0.parts.0.mediaType: missing",
        ),
        (
            {"messages": [assistant("a", {"type": "tool-x", "toolCallId": "c"})]},
            "messages.0.parts.0.state: missing",
        ),
        ({"messages": [{"id": "s", "role": "system", "parts": []}]}, "messages.0.role: expected"),
        (
            {"messages": [assistant("a")], "trigger": "regenerate-message"},
            "messages.0.role: expected user",
        ),
        ({"messages": [user("x")], "body": {"resume": {"i": 1}}}, "body.resume: expected only"),
        ({"messages": [user("x")], "body": {"resume": "yes"}}, "body.resume: expected an object"),
        ({"messages": [user("x")], "body": {"multitaskStrategy": "x"}}, "body.multitaskStrategy"),
        (
            {"messages": [user("x")], "body": {"assistantId": "other"}},
            "body.assistantId: no graph is named",
        ),
    ],
)
async def test_bad_input_is_answered_and_names_the_field(frame: Json, field: str) -> None:
    frame = {"type": "send", "id": "t", "trigger": "submit-message", "requestId": "r1", **frame}
    if frame["type"] == "resume" and field.startswith("id: missing"):
        del frame["id"]
    async with opened(chat("Hello.", saver=InMemorySaver())) as (_, client):
        await client.say(**frame)
        assert (await client.error()).startswith(field) or field in await client.error()
        await client.send(user("hi"), request="r2")
        assert said(await client.all("r2")) == "Hello."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "the message is not JSON"),
        ("[]", "the message is not a JSON object"),
        ('{"type": "abort"}', "requestId: expected a string that is not empty"),
        ('{"type": "resume", "requestId": 5}', "requestId: expected a string"),
    ],
)
async def test_a_frame_without_a_request_closes_the_connection(text: str, reason: str) -> None:
    async with opened(chat("Hello.")) as (_, client):
        await client.ws.send_str(text)
        message = await client.ws.receive(timeout=10)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        assert message.extra.startswith(reason)


async def test_a_request_id_is_taken_once_at_a_time() -> None:
    gate = Gate()
    async with opened(gate.graph) as (site, client):
        await site.attachment.start(input={"value": 1}, thread_id="t")
        await client.resume("r1")
        await client.resume("r1")
        assert (await client.error()).startswith("requestId: ")
        gate.go_on.set()


def test_bad_frames_without_end_close_the_connection() -> None:
    session = AISDKSession()
    bad = '{"type": "x", "requestId": "r"}'
    for _ in range(session.MAX_BAD_FRAMES - 1):
        [reply] = session.receive(bad)
        assert isinstance(reply, Answer)
    [reply, close] = session.receive(bad)
    assert isinstance(close, Close)
    assert session.receive(bad) == []


# -- the session without a socket -----------------------------------------------------------------


def info(**changes: Any) -> RunInfo:
    values: Json = {
        "thread_id": "t-1",
        "run_id": "r-1",
        "status": "running",
        "position": Position("e", 0),
        "start": Position("e", 0),
    }
    return RunInfo(**values | changes)


def resumed(session: AISDKSession, log: Sequence[Entry], head: int) -> list[Json]:
    """What the client is told of a log of which so much lay in the past."""
    text = orjson.dumps({"type": "resume", "requestId": "r", "id": "t-1"}).decode()
    [action] = session.receive(text)
    assert isinstance(action, Do)
    assert isinstance(action.command, Attach)
    position = Position("e", head)
    told = session.done(action.token, Attached(info=info(position=position), after=0))
    told += session.send("t-1", log)
    return [orjson.loads(it) for it in told]


def chunks_of(frames: Sequence[Json]) -> list[Json]:
    return [frame["chunk"] for frame in frames if frame["type"] == "chunk"]


def test_all_that_a_thread_can_say(tmp_path: Path) -> None:
    first = resumed(AISDKSession(), entries(FIRST_RUN), 1)
    assert first == resumed(AISDKSession(), entries(FIRST_RUN), len(FIRST_RUN))
    assert not [chunk for chunk in chunks_of(first) if None in chunk.values()]
    both = entries(FIRST_RUN) + entries(SECOND_RUN[:2], "r-2", len(FIRST_RUN) + 1)
    told = resumed(AISDKSession(), both, len(both))
    assert_transcript(first + told[-2:], TRANSCRIPTS / "aisdk_story.jsonl", exact=True)


def test_a_live_answer_knows_the_message_it_goes_on_with() -> None:
    session = AISDKSession()
    part = {"type": "tool-f", "toolCallId": "c", "state": "approval-responded", "input": {}}
    part["approval"] = {"id": "i", "approved": True}
    waits = {"type": "data-interrupt", "id": "i", "data": {"value": 1, "status": "pending"}}
    frame = {"type": "send", "requestId": "r", "id": "t-1", "trigger": "submit-message"}
    text = orjson.dumps(frame | {"messages": [assistant("a", part, waits)]}).decode()
    [action] = session.receive(text)
    assert isinstance(action, Do)
    assert isinstance(action.command, StartRun)
    assert action.command.answers == {"i": {"approved": True}}
    frames = [
        RunStarted(thread_id="t-1", run_id="x", graph="g"),
        InterruptAnswered(interrupt_ids=("i",)),
        ToolStarted(tool_call_id="c", name="f", input={}),
        ToolDelta(tool_call_id="c", name="f", delta="a"),
        ToolDelta(tool_call_id="c", name="f", delta="b"),
        ToolFinished(tool_call_id="c", name="f", content="ab"),
        ToolFinished(tool_call_id="new", name="g", content="z"),
        RunFinished(status="completed"),
    ]
    run_id = action.command.run_id or ""
    told = [orjson.loads(it) for it in session.send("t-1", entries(frames, run_id))]
    kinds = [(it["type"], it.get("output"), it.get("preliminary")) for it in chunks_of(told)]
    assert kinds == [
        ("start", None, None),
        ("data-interrupt", None, None),
        ("tool-output-available", "a", True),
        ("tool-output-available", "ab", True),
        ("tool-output-available", "ab", None),
        ("tool-input-available", None, None),
        ("tool-output-available", "z", None),
        ("finish", None, None),
    ]
    assert session.done_with("t-1")


def test_a_step_that_is_done_again_is_taken_back() -> None:
    started = RunStarted(thread_id="t-1", run_id="r-1", graph="g")
    call_started = BlockStarted(
        message_id="m", index=0, kind="tool_call", task_id="k", tool_call_id="c", name="f"
    )
    log = entries([
        started,
        MessageStarted(message_id="m", task_id="k"),
        call_started,
        AttemptStarted(attempt=2, rerun_task_ids=("k",), rollback_to=1),
        ToolStarted(tool_call_id="c", name="f", input={}),
    ])  # fmt: skip
    kinds = [it["type"] for it in chunks_of(resumed(AISDKSession(), log, 1))]
    assert kinds == [
        *("start", "start-step", "tool-input-start", "tool-input-error", "reset-step"),
        "tool-input-available",
    ]


def test_a_frame_that_comes_too_fast_is_refused_by_its_request() -> None:
    error = RequestError("rate_limited", "too many messages; slow down", retryable=True)
    [told] = AISDKSession().refuse('{"type": "abort", "requestId": "r7"}', error)
    assert orjson.loads(told) == {
        "type": "error",
        "requestId": "r7",
        "errorText": "too many messages; slow down",
    }
    assert AISDKSession().refuse("nonsense", error) == []


def test_a_gap_cannot_be_told() -> None:
    session = AISDKSession()
    error = GapError("trimmed", requested=1, first=5, head=9, epoch="e")
    assert session.gap("t-1", error, snapshot()) == []
    session.receive('{"type": "resume", "requestId": "r", "id": "t-1"}')
    assert session.gap("t-1", error, snapshot()) is None


def test_an_approval_of_an_unknown_call_is_only_told_as_data() -> None:
    value = {"action_requests": [{"name": "f", "args": {}}, "x"]}
    frames = [
        RunStarted(thread_id="t-1", run_id="r-1", graph="g"),
        Interrupted(interrupt_id="i", value=value),
        RunFinished(status="interrupted"),
    ]
    told = chunks_of(resumed(AISDKSession(), entries(frames), 1))
    assert [it["type"] for it in told] == ["start", "data-interrupt", "finish"]


@pytest.mark.parametrize("call_id", [[], {}, 1, None, "c"])
def test_a_question_about_no_tool_call_is_answered_by_none(call_id: Any) -> None:
    told = {"status": "pending", "value": {"tool_call_id": call_id}}
    question = {"type": "data-interrupt", "id": "i", "data": told}
    output = {"type": "tool-look", "toolCallId": "d", "state": "output-available", "output": 1}
    frame = {"type": "send", "requestId": "1", "id": "t", "trigger": "submit-message"}
    frame["messages"] = [assistant("a", question, output)]  # type: ignore[assignment]
    [action] = AISDKSession().receive(orjson.dumps(frame).decode())
    assert isinstance(action, Do)
    assert isinstance(action.command, StartRun)
    assert action.command.answers is None
