"""The helpers for the tests of applications: the recorder, and the client on a real socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from langgraph_ws import ConfigurationError, attach_websocket
from langgraph_ws.demo import demo_graph
from langgraph_ws.frames import BlockDelta, MessageFinished, RunFailed
from langgraph_ws.testing import Reply, assert_transcript, chat_client, record
from tests.graphs import HELLO, asking, chat, line

TRANSCRIPTS = Path(__file__).parent / "transcripts"
MakeClient = Callable[[web.Application], Awaitable[TestClient[web.Request, web.Application]]]


# the recorder


async def test_recording_knows_how_the_run_ended() -> None:
    run = await record(chat("Hello"), HELLO)
    assert (run.text, run.status) == ("Hello", "completed")
    assert "".join(delta.text for delta in run.of(BlockDelta)) == "Hello"
    assert [message.role for message in run.of(MessageFinished)] == ["assistant"]


async def test_recording_of_a_run_that_failed() -> None:
    run = await record(chat(Reply(text="Hel", error=ValueError("no"))), HELLO)
    assert (run.text, run.status) == ("", "failed")
    assert [failure.code for failure in run.of(RunFailed)] == ["graph_failed"]


# the client


async def test_run_over_a_socket() -> None:
    async with chat_client(chat("Hello")) as client:
        heard = await client.run("hi")
        assert (heard.text, heard.status) == ("Hello", "completed")
        assert heard[0]["data"]["status"] == "running"
        assert heard.of("run")[1]["messages"][0]["content"] == [{"type": "text", "text": "hi"}]
        assert heard[-1] == {
            "type": "end",
            "run_id": heard.run_id,
            "seq": heard[-1]["seq"],
            "data": {"status": "completed"},
        }
        assert client.heard == heard


async def test_messages_and_other_fields_are_sent_as_they_are() -> None:
    async with chat_client({"first": chat("one"), "second": chat("two")}) as client:
        message = {"role": "user", "content": "hi", "id": "m-1"}
        heard = await client.run([message], assistant_id="second", thread_id="t-1")
        assert (heard.text, heard.thread_id) == ("two", "t-1")
        assert heard.of("run")[1]["messages"][0]["message_id"] == "m-1"


async def test_input_instead_of_messages() -> None:
    graph = line(("n", lambda state: {"messages": []}))
    async with chat_client(graph) as client:
        assert (await client.run(input={"messages": []})).status == "completed"


async def test_interrupt_is_answered() -> None:
    async with chat_client(asking()) as client:
        heard = await client.run("go")
        assert (heard.status, heard.text) == ("interrupted", "")
        [interrupt] = heard.of("interrupt")
        answered = await client.resume(heard.thread_id, {interrupt["id"]: "yes"})
        assert answered.text == "got yes"
        assert answered.of("interrupt_answered") == [
            {"ids": [interrupt["id"]], "superseded": False}
        ]


async def test_thread_goes_on_without_an_answer() -> None:
    async with chat_client(demo_graph(delay=0)) as client:
        failed = await client.run("fail")
        assert failed.status == "failed"
        assert "over it" in (await client.resume(failed.thread_id)).text


async def test_answer_of_null_is_an_answer() -> None:
    async with chat_client(asking()) as client:
        heard = await client.run("go")
        assert (await client.resume(heard.thread_id, None)).text == "got None"


async def test_a_refusal_says_why() -> None:
    async with chat_client(chat("Hello")) as client:
        with pytest.raises(AssertionError, match=r"refused new_chat: .*unknown_graph"):
            await client.run("hi", assistant_id="other")
        with pytest.raises(AssertionError, match=r"refused resume_chat: .*no_checkpointer"):
            await client.resume("t-1", "yes")
        assert (await client.run("hi")).text == "Hello"


async def test_single_messages() -> None:
    async with chat_client(chat("Hello")) as client:
        await client.send({"type": "ping", "id": 5})
        assert (await client.receive())["request_id"] == 5
        await client.send({"type": "new_chat", "input": HELLO})
        assert (await client.receive("final"))["data"]["text"] == "Hello"
        assert [message["type"] for message in await client.until("end")] == ["end"]


async def test_what_comes_between_is_of_another_run() -> None:
    async with chat_client(asking()) as client:
        await client.send({"type": "attach", "thread_id": "t-1"})
        await client.send({"type": "new_chat", "input": HELLO, "thread_id": "t-1"})
        await client.send({"type": "ping"})
        heard = await client.run("go", thread_id="t-2")
        assert {message.get("run_id", heard.run_id) for message in heard} == {heard.run_id}
        assert {"pong", "run"} <= {message["type"] for message in client.heard}


async def test_what_does_not_come_is_missed_by_name() -> None:
    async with chat_client(chat("Hello")) as client:
        await client.run("hi")
        client.timeout = 0.05
        with pytest.raises(AssertionError) as raised:
            await client.receive("sources")
        assert "0.05 s for a 'sources' message; received so far: run (2)" in str(raised.value)
        with pytest.raises(AssertionError, match="for a message"):
            await client.receive()


async def test_waiting_in_vain_with_nothing_heard() -> None:
    async with chat_client(chat("Hello"), timeout=0.01) as client:
        with pytest.raises(AssertionError, match="received so far: nothing"):
            await client.closed()


async def test_close_code() -> None:
    async with chat_client(chat("Hello")) as client:
        for _ in range(20):
            await client.send({"type": "nonsense"})
        assert await client.closed() == 4400
        assert len(client.heard.of("error")) == 20
        with pytest.raises(AssertionError, match="closed the connection with 4400"):
            await client.receive()


async def test_options_and_path_are_those_of_the_route() -> None:
    async with chat_client(chat("Hello"), "/chat", expose_output=True) as client:
        assert "output" in (await client.run("hi")).of("final")[0]


async def test_headers_are_those_of_the_handshake() -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with chat_client(chat("Hello"), headers={"Origin": "https://evil.example"}):
            pass
    assert refused.value.status == 403


async def test_application_with_a_route() -> None:
    app = web.Application()
    attach_websocket(app, chat("Hello"), "/talk")
    async with chat_client(app) as client:
        assert (await client.run("hi")).text == "Hello"


async def test_client_of_pytest_aiohttp_and_a_second_connection(aiohttp_client: MakeClient) -> None:
    app = web.Application()
    attach_websocket(app, chat("Hello"))
    http = await aiohttp_client(app)
    async with chat_client(http) as client, chat_client(client.http) as second:
        await second.send({"type": "attach", "thread_id": "t-1"})
        assert (await second.receive("run"))["data"]["status"] == "idle"
        heard = await client.run("hi", thread_id="t-1")
        assert (await second.receive("end"))["run_id"] == heard.run_id
    async with http.get("/nothing") as response:
        assert response.status == 404


async def test_route_has_to_be_known() -> None:
    app = web.Application()
    with pytest.raises(ConfigurationError, match=r"path: .*none is known"):
        async with chat_client(app):
            pass
    app = web.Application()
    attach_websocket(app, chat("one"), "/one")
    attach_websocket(app, chat("two"), "/two")
    with pytest.raises(ConfigurationError, match=r"path: .*/one, /two"):
        async with chat_client(app):
            pass


async def test_route_of_a_part_of_the_application() -> None:
    part, app = web.Application(), web.Application()
    attach_websocket(part, chat("Hello"))
    app.add_subapp("/part", part)
    async with chat_client(app, "/part/ws") as client:
        assert (await client.run("hi")).text == "Hello"


async def test_options_only_beside_a_graph() -> None:
    with pytest.raises(ConfigurationError, match="debug: expected only beside a graph"):
        async with chat_client(web.Application(), debug=True):
            pass


@pytest.mark.parametrize("target", [None, "graph", 5])
async def test_something_else_than_a_graph(target: Any) -> None:
    with pytest.raises(ConfigurationError):
        async with chat_client(target):
            pass


# the demo graph, from end to end


@pytest.mark.parametrize("mode", ["full", "delta"])
async def test_demo_answers_a_question(mode: str) -> None:
    async with chat_client(demo_graph(delay=0)) as client:
        heard = await client.run("What is a superstep?", options={"text": mode})
    assert_transcript(heard, TRANSCRIPTS / f"demo_question_{mode}.jsonl")


async def test_demo_asks_and_goes_on() -> None:
    async with chat_client(demo_graph(delay=0)) as client:
        asked = await client.run("approve")
        answered = await client.resume(asked.thread_id, "yes")
    assert_transcript([*asked, *answered], TRANSCRIPTS / "demo_approve.jsonl")
