"""The HTTP routes beside the LangChain socket: commands, server-sent events, state, runs."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_ws import Identity, Limits, attach_websocket
from langgraph_ws.errors import LogClosed, LogUnavailable
from langgraph_ws.event_stream import EventStream
from langgraph_ws.log import Position
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.metrics import Metrics
from langgraph_ws.view import ThreadView
from tests.graphs import agent, asking, chat, line
from tests.serving import Site, running
from tests.test_aiohttp import Gate, flood, over, soon
from tests.test_langchain import HELLO, root, served
from tests.test_security import ann, bob, by_header, by_token

PAGE = {"Origin": "https://app.example.com"}


async def get(site: Site, path: str, status: int = 200, **options: Any) -> Any:
    async with site.session.get(f"{site.url}{path}", **options) as response:
        assert response.status == status, await response.text()
        assert response.content_type == "application/json"
        return orjson.loads(await response.read())


async def post(site: Site, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
    sent = body if isinstance(body, bytes) else orjson.dumps(body or {})
    async with site.session.post(f"{site.url}{path}", data=sent, **options) as response:
        assert response.status == status, await response.text()
        text = await response.read()
        return orjson.loads(text) if text else None


async def command(site: Site, method: str, status: int = 200, **params: Any) -> Any:
    body = {"id": 5, "method": method, "params": params}
    return await post(site, "/threads/t/commands", body, status)


async def start(site: Site, value: Any = HELLO, **params: Any) -> str:
    answer = await command(site, "run.start", assistant_id="graph", input=value, **params)
    return str(answer["result"]["run_id"])


class Events:
    """A response that streams server-sent events, read one by one."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.seen: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """The next event; comments are passed over."""
        fields: dict[str, str] = {}
        while True:
            line_ = (await self.response.content.readline()).decode()
            if not line_:
                raise EOFError
            if line_ == "\n" and fields:
                event: dict[str, Any] = orjson.loads(fields["data"])
                assert fields["event"] == event["method"]
                assert int(fields["id"]) == event["seq"]
                self.seen.append(event)
                return event
            name, _, value = line_.rstrip("\n").partition(": ")
            if name:
                fields[name] = value

    async def until(self, *ends: str) -> list[dict[str, Any]]:
        while root(await self.next()) not in (ends or ("completed", "failed", "interrupted")):
            pass
        return self.seen


@contextlib.asynccontextmanager
async def stream(site: Site, *channels: str, **options: Any) -> AsyncIterator[Events]:
    body = {"channels": channels or ["lifecycle", "messages"], **options.pop("body", {})}
    url = f"{site.url}/threads/t/stream/events"
    async with site.session.post(url, json=body, **options) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield Events(response)


class AwayLog(MemoryThreadLog):
    """A log that cannot be reached while `away` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.away: Exception | None = None

    async def view(self, thread: str) -> tuple[Position, ThreadView]:
        if self.away is not None:
            raise self.away
        return await super().view(thread)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LogUnavailable("Redis is away: on purpose"), "the server cannot reach its log"),
        (LogClosed("on purpose"), "the server is going away"),
    ],
)
async def test_requests_are_to_come_again_while_the_log_is_away(
    error: Exception, told: str
) -> None:
    log = AwayLog()
    async with served(chat("Hello.", saver=InMemorySaver()), log=log) as site:
        run_id = await start(site)
        await get(site, f"/threads/t/runs/{run_id}/join")
        log.away = error
        async with site.session.get(f"{site.url}/threads/t/runs/{run_id}") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
            assert await response.json() == {"detail": told}
        log.away = None
        await get(site, f"/threads/t/runs/{run_id}")


# -- commands -----------------------------------------------------------------------------------


async def test_a_run_is_started_and_its_state_read() -> None:
    async with served(chat("Hello.", saver=InMemorySaver())) as site:
        answer = await command(site, "run.start", assistant_id="graph", input=HELLO)
        assert (answer["type"], answer["id"]) == ("success", 5)
        run_id = answer["result"]["run_id"]
        assert answer["meta"] == {"applied_through_seq": 0}
        state = await get(site, "/threads/t/state")  # no 404, however soon it comes
        assert state["checkpoint"] is None or state["checkpoint"]["thread_id"] == "t"
        values = await get(site, f"/threads/t/runs/{run_id}/join")
        assert [message["content"] for message in values["messages"]] == ["hello", "Hello."]
        state = await get(site, "/threads/t/state?subgraphs=true")
        assert state["values"] == values
        assert (state["next"], state["tasks"], state["interrupts"]) == ([], [], [])
        assert state["checkpoint"]["checkpoint_id"] == state["checkpoint_id"]
        assert state["parent_checkpoint"]["checkpoint_id"] == state["parent_checkpoint_id"]
        assert state["metadata"]["step"] == 1
        assert "T" in state["created_at"]
        old = await get(site, f"/threads/t/state/{state['parent_checkpoint_id']}")
        assert old["next"] == ["model"]
        history = await post(site, "/threads/t/history", {"limit": 20})
        assert [entry["metadata"]["step"] for entry in history] == [1, 0, -1]
        before = {"before": {"configurable": {"checkpoint_id": state["checkpoint_id"]}}}
        [entry] = await post(site, "/threads/t/history", {"limit": 1, **before})
        assert entry["metadata"]["step"] == 0
        first = {"metadata": {"step": -1}}
        [entry] = await post(site, "/threads/t/history", first)
        assert entry["metadata"]["source"] == "input"
        assert (await get(site, "/threads/t"))["values"] == values


async def test_the_errors_of_the_protocol_are_answers_and_those_of_http_are_not() -> None:
    async with served(chat("x")) as site:
        answer = await command(site, "input.respond", interrupt_id="i", response=1)
        assert (answer["type"], answer["id"], answer["error"]) == ("error", 5, "not_supported")
        answer = await command(site, "run.stop")
        assert answer["error"] == "unknown_command"
        answer = await command(site, "subscription.subscribe", channels=["values"])
        assert answer["error"] == "unknown_command"
        answer = await post(site, "/threads/t/commands", {"id": 1}, 400)
        assert answer["error"] == "unknown_command"
        answer = await post(site, "/threads/t/commands", {"method": "state.get"}, 400)
        assert answer["message"].startswith("id: ")
        answer = await post(site, "/threads/t/commands", b"{", 400)
        assert answer == {"detail": "the message is not JSON"}
        answer = await post(site, "/threads/t/commands", b"\xff", 400)
        assert answer == {"detail": "The body is not UTF-8."}
        for path in ("/threads/t/state", "/threads/t/runs/none", "/assistants/none/graph"):
            assert "detail" in await get(site, path, 404)
        assert "thread_id" in (await get(site, "/threads/a%20b/state", 422))["detail"]
        answer = await post(site, "/threads/t/history", {"limit": 0}, 422)
        assert answer["detail"].startswith("limit: ")
        answer = await post(site, "/threads/t/history", {"limit": "x"}, 400)
        assert answer["detail"].startswith("limit: ")
        for before in (7, {"configurable": 7}, {"configurable": "c"}):
            answer = await post(site, "/threads/t/history", {"before": before}, 422)
            assert answer["detail"].startswith("before: ")
        metadata: Any
        for metadata in (
            {"a') OR 1=1 --": 1},
            {"a\n": 1},
            {"step": 2**63},
            {"token": "guessed"},
        ):
            answer = await post(site, "/threads/t/history", {"metadata": metadata}, 400)
            assert answer["detail"].startswith("metadata: ")
        assert "checkpointer" in (await post(site, "/threads/t/history", {}, 422))["detail"]
        answer = await post(site, "/threads/t/stream/events", {"channels": ["debug"]}, 400)
        assert answer["detail"].startswith("channels: ")


async def test_what_the_application_gives_its_graphs_is_not_for_clients() -> None:
    """LangGraph writes the config of a run into the metadata of its checkpoints."""
    secret = "canary-7f3a9c"

    def authorize(_request: web.Request) -> Identity:
        return Identity(id="ann", config={"token": secret})

    config = {"configurable": {"db": secret}, "metadata": {"where": secret}}
    saver = InMemorySaver()
    async with served(chat("x", saver=saver), authorize=authorize, config=config) as site:
        await get(site, f"/threads/t/runs/{await start(site)}/join")
        told = [
            await get(site, "/threads/t/state?subgraphs=1"),
            await post(site, "/threads/t/history"),
            await command(site, "state.get"),
            await command(site, "state.listCheckpoints"),
            await get(site, "/threads/t"),
        ]
    saved = [it.metadata async for it in saver.alist({"configurable": {"thread_id": "ann/t"}})]
    assert secret in repr(saved)
    assert secret not in repr(told)
    assert told[0]["metadata"].keys() == {"source", "step", "parents"}


async def test_the_interrupts_of_a_thread_are_in_its_state() -> None:
    async with served(asking()) as site:
        run_id = await start(site, {"messages": []})
        await get(site, f"/threads/t/runs/{run_id}/join")
        state = await get(site, "/threads/t/state")
        [task] = state["tasks"]
        assert (state["next"], task["name"]) == (["ask"], "ask")
        assert task["interrupts"] == state["interrupts"]
        [asked] = state["interrupts"]
        assert asked["value"] == "ok?"
        assert (await get(site, "/threads/t"))["status"] == "interrupted"
        assert (await get(site, f"/threads/t/runs/{run_id}"))["status"] == "interrupted"
        await command(site, "input.respond", interrupt_id=asked["id"], response="y")
        await over(site, "t")
        assert (await get(site, "/threads/t/state"))["tasks"] == []


async def test_a_failed_step_is_told_without_its_text() -> None:
    def boom(state: Any) -> Any:
        raise ValueError("secret")

    async with served(line(("boom", boom), saver=InMemorySaver())) as site:
        run_id = await start(site)
        await get(site, f"/threads/t/runs/{run_id}/join")
        state = await get(site, "/threads/t/state")
        assert state["tasks"][0]["error"] == "The step failed."
        assert (await get(site, f"/threads/t/runs/{run_id}"))["status"] == "error"
        assert (await get(site, "/threads/t"))["status"] == "error"


# -- runs -----------------------------------------------------------------------------------------


async def test_runs_are_listed_cancelled_and_waited_for() -> None:
    gate = Gate()
    async with served(gate.graph) as site, stream(site, "lifecycle") as events:
        first = await start(site, {})
        await gate.entered.wait()
        body = {"assistant_id": "graph", "input": {}}
        second = await post(site, "/threads/t/runs", body)
        assert second["status"] == "pending"
        listed = await get(site, "/threads/t/runs")
        assert [(run["run_id"], run["status"]) for run in listed] == [
            (second["run_id"], "pending"),
            (first, "running"),
        ]
        assert (await get(site, "/threads/t"))["status"] == "busy"
        await post(site, f"/threads/t/runs/{second['run_id']}/cancel", None, 202)
        await post(site, f"/threads/t/runs/{first}/cancel?wait=0&action=interrupt", None, 202)
        assert gate.cancelled.is_set()
        run = await get(site, f"/threads/t/runs/{first}")
        assert run["status"] == "interrupted"
        assert run["updated_at"] >= run["created_at"]
        assert run["assistant_id"] == "graph"
        await events.until("interrupted")
        await post(site, f"/threads/t/runs/{first}/cancel", None, 202)  # it has ended: fine
        await post(site, "/threads/t/runs/none/cancel", None, 404)
        answer = await post(site, f"/threads/t/runs/{first}/cancel?action=rollback", None, 422)
        assert answer["detail"].startswith("action: ")


async def test_threads_and_assistants_as_the_sdk_asks_for_them() -> None:
    async with served({"one": chat("x"), "two": chat("y")}) as site:
        made = await post(site, "/threads", {"thread_id": "mine"})
        assert (made["thread_id"], made["status"]) == ("mine", "idle")
        assert len((await post(site, "/threads"))["thread_id"]) == 36
        assert "thread_id" in (await post(site, "/threads", {"thread_id": "a b"}, 422))["detail"]
        found = await post(site, "/assistants/search", {})
        assert [assistant["assistant_id"] for assistant in found] == ["one", "two"]
        assert len(await post(site, "/assistants/search", {"graph_id": "two"})) == 1
        assert (await get(site, "/assistants/two"))["graph_id"] == "two"
        drawing = await get(site, "/assistants/two/graph?xray=true")
        assert [node["id"] for node in drawing["nodes"]] == ["__start__", "model", "__end__"]
        assert await get(site, "/assistants/two/graph?xray=1") == drawing
        assert await get(site, f"/assistants/two/graph?xray={'1' * 5_000}") == drawing
        assert await get(site, "/ok") == {"ok": True}
        assert "version" in await get(site, "/info")


# -- server-sent events ---------------------------------------------------------------------------


async def test_events_are_streamed_to_several_and_from_where_they_left() -> None:
    async with served(chat("Hello there.", "Again.")) as site:
        async with stream(site) as one, stream(site, "messages", "lifecycle") as two:
            await start(site)
            events = await one.until()
            assert await two.until() == events
            half = events[3]["seq"]
            async with stream(site, body={"since": half}) as later:
                assert await later.until() == events[4:]
            await start(site)
            both = await one.until()
        latest = both[-1]["run_id"]
        async with stream(site) as late:  # that the first run began and ended is left out
            assert await late.until() == [
                event
                for event in both
                if event["run_id"] == latest or event["method"] != "lifecycle"
            ]


async def test_a_silent_stream_says_that_it_lives() -> None:
    async with (
        served(chat("x"), heartbeat=0.05) as site,
        stream(site) as events,
        asyncio.timeout(10),
    ):
        assert await events.response.content.readline() == b": heartbeat\n"


async def test_an_end_that_was_held_back_goes_out_when_its_time_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing else happens meanwhile: a sweep would send it, too.
    monkeypatch.setattr(EventStream, "sweep", lambda *_args: None)
    async with served(chat("x")) as site, stream(site) as events:
        await start(site, {})
        await events.until("completed")


async def test_streams_end_with_the_server_and_are_counted() -> None:
    counted: list[tuple[str, ...]] = []

    class Counting(Metrics):
        def connection_opened(self, protocol: str, seconds: float) -> None:
            counted.append(("opened", protocol))

        def connection_closed(self, protocol: str, code: int, seconds: float) -> None:
            counted.append(("closed", protocol, str(code)))

        def messages_sent(self, protocol: str, messages: int, size: int) -> None:
            counted.append(("sent", protocol))

    gate = Gate()
    async with served(gate.graph, metrics=Counting()) as site, stream(site) as events:
        await start(site, {})
        await gate.entered.wait()
        assert site.attachment.connections == 1
        await asyncio.gather(site.attachment.drain(0.01), events.until("failed"))
        with pytest.raises(EOFError):
            await events.next()
        assert events.seen[-1]["params"]["data"]["code"] == "drained"
        assert (await get(site, "/ok", 503))["detail"] == "The server is going away."
    assert {("opened", "langchain"), ("sent", "langchain")} <= set(counted)
    assert ("closed", "langchain", "1000") in counted


async def test_a_client_that_leaves_before_its_stream_begins_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def authorize(request: web.Request) -> Identity:
        assert request.transport is not None
        request.transport.close()
        return Identity(id="me")

    async with served(chat("x"), authorize=authorize) as site:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            async with stream(site):
                pass
        assert site.attachment.connections == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_stream_whose_client_has_left_ends() -> None:
    async with served(chat("x"), heartbeat=0.1) as site:
        async with stream(site) as events:
            assert site.attachment.connections == 1
            events.response.close()
        await soon(lambda: site.attachment.connections == 0)


async def test_a_client_that_takes_nothing_is_dropped() -> None:
    graph = flood(3_000, 10_000)
    log = MemoryThreadLog()
    async with served(graph, log=log, stall_timeout=0.3) as site:
        body = b'{"channels": ["custom"]}'
        head = b"POST /ws/threads/t/stream/events HTTP/1.1\r\nHost: x\r\n"
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        client.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", site.port))
            length = b"Content-Length: %d\r\n\r\n" % len(body)
            await loop.sock_sendall(client, head + length + body)
            await soon(lambda: site.attachment.connections == 1)
            await site.attachment.start(thread_id="t", input={})
            await soon(lambda: site.attachment.connections == 0)
        finally:
            client.close()


async def test_a_stream_ends_with_the_identity_of_its_client() -> None:
    def soon_over(request: web.Request) -> Identity:
        return Identity(id="ann", expires_at=time.time() + 0.3)

    async with served(chat("x"), authorize=soon_over) as site, stream(site) as events:
        async with asyncio.timeout(10):
            with pytest.raises(EOFError):
                await events.next()


async def test_a_refused_thread_is_refused_before_the_stream_begins() -> None:
    def nobodys(identity: Identity, thread_id: str) -> str:
        raise PermissionError

    async with served(chat("x"), thread_key=nobodys) as site:
        answer = await post(site, "/threads/t/stream/events", {"channels": ["values"]}, 404)
        assert answer == {"detail": "thread_id: no such thread"}


# -- who may --------------------------------------------------------------------------------------


async def test_every_route_asks_who_it_is() -> None:
    async with served(chat("x", saver=InMemorySaver()), authorize=by_header) as site:
        paths = {
            (route.method, route.resource.canonical)
            for route in site.app.router.routes()
            if route.method in ("GET", "POST") and route.resource is not None
        }
        assert len(paths) > 15
        for method, path in paths:
            where = path.replace("{thread_id}", "t").replace("{run_id}", "r")
            where = where.replace("{name}", "graph").replace("{checkpoint_id}", "c")
            url = f"http://127.0.0.1:{site.port}{where}"
            async with site.session.request(method, url, json={}) as response:
                # The sockets want an upgrade first.
                assert response.status in ((401,) if where not in _SOCKETS else (401, 426)), where
        answer = await post(site, "/threads/t/commands", _run(), **ann())
        run_id = answer["result"]["run_id"]
        await get(site, f"/threads/t/runs/{run_id}/join", **ann())
        for path in ("/threads/t/state", f"/threads/t/runs/{run_id}", "/threads/t"):
            await get(site, path, **ann())
            await get(site, path, 404, **bob())
        await post(site, f"/threads/t/runs/{run_id}/cancel", None, 404, **bob())
        assert await post(site, "/threads/t/history", {}, **bob()) == []


_SOCKETS = ("/ws", "/ws/threads/t/stream/events")


def _run() -> dict[str, Any]:
    return {"id": 1, "method": "run.start", "params": {"assistant_id": "graph", "input": HELLO}}


async def test_a_bearer_token_is_taken_where_there_is_no_first_message() -> None:
    async with served(chat("x"), authorize_token=by_token) as site:
        assert "detail" in await get(site, "/ok", 401)
        assert await get(site, "/ok", headers={"Authorization": "Bearer ann-token"}) == {"ok": True}
        await get(site, "/ok", 401, headers={"Authorization": "Bearer ann-nothing"})
        url = f"{site.url}/threads/t/stream/events"
        async with site.session.ws_connect(url, headers={"Authorization": "Bearer ann-token"}):
            pass


async def test_pages_of_other_origins_read_only_where_they_are_allowed() -> None:
    allowed = ["https://app.example.com"]
    async with served(chat("x"), allowed_origins=allowed) as site:
        async with site.session.get(f"{site.url}/ok", headers=PAGE) as response:
            assert response.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
            assert response.headers["Access-Control-Allow-Credentials"] == "true"
            assert response.headers["Vary"] == "Origin"
        asked = {
            **PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-api-key",
        }
        url = f"{site.url}/threads/t/commands"
        async with site.session.options(url, headers=asked) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Headers"] == "content-type,x-api-key"
            assert "POST" in response.headers["Access-Control-Allow-Methods"]
        async with site.session.get(f"{site.url}/threads/t/state", headers=PAGE) as response:
            assert response.status == 404  # a page can read what went wrong
            assert response.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
        async with stream(site, headers=PAGE) as events:
            assert events.response.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
        evil = {"Origin": "https://evil.example.com"}
        for method in ("GET", "OPTIONS"):
            async with site.session.request(method, f"{site.url}/ok", headers=evil) as response:
                assert response.status == 403
        async with site.session.post(url, json=_run(), headers=evil) as response:
            assert response.status == 403
    async with (
        served(chat("x"), allowed_origins=["*"]) as site,
        site.session.get(f"{site.url}/ok", headers=PAGE) as response,
    ):
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in response.headers


async def test_our_own_limit_holds_for_bodies_and_that_of_the_application_does_not() -> None:
    app = web.Application(client_max_size=1_000)
    limits = Limits(message_bytes=20_000)
    graph = {"graph": chat("x", saver=InMemorySaver())}
    attachment = attach_websocket(app, graph, protocols=("langchain",), limits=limits)
    async with running(app) as (port, session):
        site = Site(port, attachment, session, app, "/ws")
        long = {"messages": [{"type": "human", "content": "x" * 10_000, "id": "h1"}]}
        await start(site, long)
        answer = await post(site, "/threads/t/commands", b"x" * 20_001, 413)
        packed = {"headers": {"Content-Encoding": "gzip"}}
        await post(site, "/threads/t/commands", gzip.compress(b"{}"), 415, **packed)
        assert answer == {"detail": "The body is larger than 20000 bytes."}
        async with session.get(site.url) as response:
            assert response.status == 426
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect(site.url)
        assert refusal.value.status == 400


async def test_too_many_at_once_are_refused() -> None:
    limits = Limits(connections=1)
    async with served(chat("x"), limits=limits) as site, stream(site):
        assert (await get(site, "/ok", 503))["detail"] == "Too many connections."


async def test_below_the_path_of_a_sub_application() -> None:
    inner = web.Application()
    attachment = attach_websocket(inner, chat("x"), "/", protocols=("langchain",))
    outer = web.Application()
    outer.add_subapp("/agent", inner)
    async with running(outer) as (port, session):
        site = Site(port, attachment, session, outer, "/agent")
        assert await get(site, "/ok") == {"ok": True}


async def test_a_stream_that_fails_says_so_in_the_log_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(EventStream, "_mend", broken)
    monkeypatch.setattr(EventStream, "_send_all", broken)
    async with served(chat("x")) as site, stream(site) as events:
        with pytest.raises((EOFError, aiohttp.ClientPayloadError)):
            await events.next()
    assert "a stream of events failed" in caplog.text


async def test_an_agent_without_a_checkpointer_has_the_state_that_was_streamed() -> None:
    async with served(agent([], "Hi.")) as site:
        run_id = await start(site)
        values = await get(site, f"/threads/t/runs/{run_id}/join")
        assert [message["content"] for message in values["messages"]] == ["hello", "Hi."]
        assert isinstance(AIMessage(**values["messages"][1]), AIMessage)
        assert (await get(site, "/threads/t/state/c", 422))["detail"].endswith("state is known")
