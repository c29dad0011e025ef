"""The rim over real sockets: attaching, the handshake, connections, and how they end."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import aiohttp
import orjson
import pytest
from aiohttp import web
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer

import langgraph_ws.aiohttp
from langgraph_ws import (
    ATTACHMENTS,
    ConfigurationError,
    Identity,
    Limits,
    MemoryThreadLog,
    Position,
    RequestError,
    Retention,
    attach_websocket,
)
from langgraph_ws.commands import ANONYMOUS
from langgraph_ws.connection import close_reason, is_close_code
from langgraph_ws.frames import Custom, RunFinished, RunStarted
from langgraph_ws.log import Entry, Follower
from langgraph_ws.protocols.chat import ChatSession
from langgraph_ws.testing import Reply
from tests.graphs import Anything, asking, chat, line
from tests.rawsocket import BINARY, PING, PONG, TEXT, RawClient
from tests.serving import HELLO, Client, Site, running, serving

BOUND = 20.0
"""Seconds after which something that must be bounded is not; far more than is needed."""
SUBPROTOCOL = "langgraph-ws.chat.v1"


class Gate:
    """A graph that says `word`, waits for the test, and says `end`."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = asyncio.Event()

    @property
    def graph(self) -> Any:
        return line(("wait", self._wait), state=Anything, saver=InMemorySaver())

    async def _wait(self, state: Anything) -> Anything:
        get_stream_writer()({"type": "word"})
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        get_stream_writer()({"type": "last_word"})
        return {}


def flood(count: int, size: int = 1_000, *, pause_every: int = 50) -> Any:
    """A graph that says a lot, leaving others their turn."""

    async def talk(state: Anything) -> Anything:
        writer = get_stream_writer()
        for number in range(count):
            writer({"type": "tick", "number": number, "padding": "x" * size})
            if number % pause_every == 0:
                await asyncio.sleep(0)
        return {}

    return line(("talk", talk), state=Anything)


async def soon(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 - of what others see there is no event
            await asyncio.sleep(0.01)


async def over(site: Site, thread_id: str) -> None:
    """Wait until the run of the thread has ended, without following it."""
    async with asyncio.timeout(BOUND):
        status = "running"
        while status != "completed":
            await asyncio.sleep(0.01)
            status = (await site.attachment.runs.info(ANONYMOUS, thread_id, None)).status


@asynccontextmanager
async def raw(site: Site, **options: Any) -> AsyncIterator[RawClient]:
    client = await RawClient.connect(site.port, site.path, **options)
    try:
        yield client
    finally:
        client.close()


async def start(client: Client, **fields: Any) -> dict[str, Any]:
    """Start a run; the `data` of the answer."""
    if "messages" not in fields and "input" not in fields:
        fields["messages"] = HELLO
    await client.send("new_chat", id="start", **fields)
    return dict((await client.the("run"))["data"])


# -- attaching -------------------------------------------------------------------------------


async def test_two_lines_serve_a_graph() -> None:
    app = web.Application()
    attach_websocket(app, chat("Hello you!"))
    async with (
        running(app) as (port, session),
        session.ws_connect(f"http://127.0.0.1:{port}/ws") as ws,
    ):
        client = Client(ws)
        await client.send("new_chat", messages=HELLO)
        messages = await client.until("end")
    assert messages[0]["type"] == "run"
    assert messages[-2]["data"]["text"] == "Hello you!"
    assert messages[-1]["data"] == {"status": "completed"}


async def test_an_existing_app_keeps_its_routes_and_its_middlewares_see_the_upgrade() -> None:
    seen = []

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        seen.append(request.path)
        response: web.StreamResponse = await handler(request)
        return response

    async def health(_request: web.Request) -> web.Response:
        return web.Response(text="fine")

    app = web.Application(middlewares=[middleware])
    app.router.add_get("/health", health)
    attach_websocket(app, chat("x"), "/chat/ws")
    async with running(app) as (port, session):
        async with session.get(f"http://127.0.0.1:{port}/health") as response:
            assert await response.text() == "fine"
        async with session.ws_connect(f"http://127.0.0.1:{port}/chat/ws") as ws:
            await start(Client(ws))
    assert seen == ["/health", "/chat/ws"]


async def test_a_sub_application_and_several_routes_on_one_app() -> None:
    app, sub = web.Application(), web.Application()
    one = attach_websocket(app, chat("one"), "/one")
    two = attach_websocket(app, chat("two"), "/two")
    three = attach_websocket(sub, chat("three"), "/ws")
    app.add_subapp("/sub", sub)
    assert app[ATTACHMENTS] == {"/one": one, "/two": two}
    assert sub[ATTACHMENTS] == {"/ws": three}
    async with running(app) as (port, session):
        for path, said in {"/one": "one", "/two": "two", "/sub/ws": "three"}.items():
            async with session.ws_connect(f"http://127.0.0.1:{port}{path}") as ws:
                client = Client(ws)
                await start(client)
                assert (await client.the("final"))["data"]["text"] == said


async def test_a_mapping_serves_several_graphs() -> None:
    async with (
        serving({"a": chat("from a"), "b": chat("from b")}) as site,
        site.connect() as client,
    ):
        await start(client)
        assert (await client.the("final"))["data"]["text"] == "from a"
        await start(client, assistant_id="b")
        assert (await client.the("final"))["data"]["text"] == "from b"
        await client.send("new_chat", id=7, messages=HELLO, assistant_id="c")
        error = await client.the("error")
        assert (error["request_id"], error["data"]["code"]) == (7, "unknown_graph")


async def test_a_factory_makes_the_graph_of_an_identity() -> None:
    def authorize(request: web.Request) -> Identity:
        return Identity(id=request.headers["X-User"])

    async with serving(lambda identity: chat(f"for {identity.id}"), authorize=authorize) as site:
        for user in ("ann", "bob"):
            async with site.connect(headers={"X-User": user}) as client:
                await start(client)
                assert (await client.the("final"))["data"]["text"] == f"for {user}"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("path", "ws"),
        ("path", 5),
        ("protocols", ()),
        ("protocols", "chat"),
        ("protocols", ("chat", "smoke signals")),
        ("allowed_origins", "https://example.com"),
        ("allowed_origins", ["example.com"]),
        ("allowed_origins", ["https://example.com/path"]),
        ("allowed_origins", ["https://*.example.com/"]),
        ("allowed_origins", ["https://example.com:99999"]),
        ("allowed_origins", [None]),
        ("forwarded_headers", ("Forwarded",)),
        ("forwarded_headers", "X-Forwarded-For"),
        ("heartbeat", 0),
        ("heartbeat", None),
        ("auth_timeout", -1),
        ("stall_timeout", float("nan")),
        ("close_timeout", "2"),
        ("drain_timeout", True),
        ("disconnect_grace", -0.1),
        ("limits", {"runs": 1}),
        ("authorize", "admin"),
        ("authorize_token", Identity()),
        ("thread_key", 1),
        ("on_cancel", 1),
        ("multitask_strategy", "queue"),
        ("on_disconnect", "stop"),
        ("mapper", object()),
        ("allowed_options", "model"),
    ],
)
def test_a_wrong_argument_is_named(argument: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{argument}:"):
        attach_websocket(web.Application(), chat("x"), **{argument: value})


def test_a_limit_below_one_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^limits\.runs:"):
        attach_websocket(web.Application(), chat("x"), limits=Limits(runs=0))


async def test_an_app_that_cannot_be_attached_to_is_refused() -> None:
    not_an_app: Any = object()
    with pytest.raises(ConfigurationError, match=r"^app:"):
        attach_websocket(not_an_app, chat("x"))
    app = web.Application()
    attach_websocket(app, chat("x"))
    with pytest.raises(ConfigurationError, match=r"^path: something is attached"):
        attach_websocket(app, chat("x"))
    async with running(app):
        with pytest.raises(ConfigurationError, match=r"^app: expected one that is not running"):
            attach_websocket(app, chat("x"), "/other")


# -- the handle ------------------------------------------------------------------------------


async def test_the_application_starts_follows_and_cancels_runs() -> None:
    gate = Gate()
    async with serving(gate.graph) as site, site.connect() as client:
        info = await site.attachment.start(input={"value": 1}, thread_id="t", run_id="r")
        assert (info.thread_id, info.run_id, info.status) == ("t", "r", "running")
        await client.send("attach", thread_id="t")
        await client.the("word")
        assert site.attachment.connections == 1
        cancelled = await site.attachment.cancel(run_id="r")
        assert cancelled.run_id == "r"
        frames = [entry.frame async for entry in site.attachment.follow(run_id="r")]
        assert isinstance(frames[0], RunStarted)
        assert frames[-1] == RunFinished(status="cancelled")
        assert (await client.the("end"))["data"] == {"status": "cancelled"}
    assert gate.cancelled.is_set()


async def test_the_handle_says_what_it_expected() -> None:
    async with serving(chat("x")) as site:
        with pytest.raises(ConfigurationError, match="at most one"):
            await site.attachment.start(messages=HELLO, input={})
        with pytest.raises(ConfigurationError, match="at least one"):
            site.attachment.follow()
        with pytest.raises(ConfigurationError, match="at least one"):
            await site.attachment.cancel()
        with pytest.raises(RequestError) as caught:
            await site.attachment.cancel(run_id="nobody")
        assert caught.value.code == "not_found"


async def test_the_application_answers_an_interrupt_and_continues() -> None:
    async with serving(asking("sure?")) as site, site.connect() as client:
        await site.attachment.start(messages=HELLO, thread_id="t")
        await client.send("attach", thread_id="t")
        question = (await client.the("interrupt"))["data"]
        await client.the("end")
        await site.attachment.start(answers={question["id"]: "yes"}, thread_id="t")
        assert (await client.the("final"))["data"]["text"] == "got yes"
        await client.the("end")
        with pytest.raises(RequestError) as caught:
            await site.attachment.start(thread_id="t")
        assert caught.value.code == "nothing_to_continue"


# -- the handshake ---------------------------------------------------------------------------


async def test_what_is_no_websocket_gets_426() -> None:
    async with serving(chat("x")) as site:
        async with site.session.get(site.url) as response:
            assert response.status == 426
            assert response.headers["Upgrade"] == "websocket"
            assert "WebSocket" in await response.text()
        async with site.session.head(site.url) as response:
            assert response.status == 426
        headers = {"Connection": "keep-alive", "Upgrade": "websocket"}
        async with site.session.get(site.url, headers=headers) as response:
            assert response.status == 426


async def test_the_subprotocol_is_confirmed_or_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(chat("x")) as site:
        async with site.connect(protocols=["other", SUBPROTOCOL]) as client:
            assert client.ws.protocol == SUBPROTOCOL
        async with site.connect() as client:
            assert client.ws.protocol is None
        assert await site.refused(protocols=["secret-token", "other"]) == 400
    assert "secret-token" not in caplog.text


async def test_compression_is_never_negotiated() -> None:
    async with serving(chat("x")) as site, site.connect(compress=15) as client:
        assert not client.ws.compress
        async with raw(site, Sec_WebSocket_Extensions="permessage-deflate") as other:
            assert other.status == 101
            assert "sec-websocket-extensions" not in other.headers


async def test_connections_are_limited_and_make_room_again() -> None:
    async with serving(chat("x"), limits=Limits(connections=2)) as site:
        async with site.connect(), site.connect():
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await site.session.ws_connect(site.url)
            assert caught.value.status == 503
            assert caught.value.headers is not None
            assert "Retry-After" in caught.value.headers
        await soon(lambda: site.attachment.connections == 0)
        async with site.connect():
            assert site.attachment.connections == 1


async def test_connections_of_an_address_are_limited() -> None:
    async with serving(chat("x"), limits=Limits(connections_per_address=1)) as site:
        async with site.connect():
            assert await site.refused() == 429
        await soon(lambda: site.attachment.connections == 0)
        assert await site.refused() == 101


# -- messages --------------------------------------------------------------------------------


async def test_several_runs_at_once_on_one_connection() -> None:
    graph = chat(Reply(text="some words that come slowly", delay=0.002))
    async with serving(graph) as site, site.connect() as client:
        for number in range(5):
            await client.send("new_chat", messages=HELLO, run_id=f"r{number}")
        messages: list[dict[str, Any]] = []
        while sum(message["type"] == "end" for message in messages) < 5:
            messages.append(await client.receive())
    finals = {m["run_id"]: m["data"]["text"] for m in messages if m["type"] == "final"}
    assert finals == dict.fromkeys(
        (f"r{number}" for number in range(5)), "some words that come slowly"
    )
    first_end = next(i for i, message in enumerate(messages) if message["type"] == "end")
    begun = {message.get("run_id") for message in messages[:first_end]} - {None}
    assert len(begun) == 5


async def test_viewers_of_one_run_see_the_same_also_one_that_comes_late() -> None:
    graph = chat(Reply(text="some words that come slowly", delay=0.002))
    fields = {"options": {"text": "delta"}}
    async with serving(graph) as site, site.connect() as first, site.connect() as second:
        await second.send("attach", thread_id="t", **fields)
        await second.the("run")
        await first.send("new_chat", thread_id="t", messages=HELLO, **fields)
        stories = [story(await client.until("end")) for client in (first, second)]
        async with site.connect() as third:
            await third.send("attach", thread_id="t", **fields)
            stories.append(story(await third.until("end")))
    assert stories[0] == stories[1] == stories[2]
    assert stories[0][0] == "some words that come slowly"


def story(messages: list[dict[str, Any]]) -> tuple[str, list[tuple[str, int]]]:
    """The text, and all that is never merged with its position."""
    text = "".join(m["data"]["delta"] for m in messages if m["type"] == "text")
    return text, [(m["type"], m["seq"]) for m in messages if "seq" in m and m["type"] != "text"]


async def test_a_client_goes_on_after_a_position_detaches_and_comes_back() -> None:
    gate = Gate()
    async with serving(gate.graph) as site:
        async with site.connect() as client:
            run = await start(client, input={"value": 1}, thread_id="t")
            seen = (await client.the("word"))["seq"]
        async with site.connect() as client:
            await client.send("attach", id=1, thread_id="t", after=seen, epoch=run["epoch"])
            assert (await client.the("run"))["data"]["status"] == "running"
            await client.send("detach", id=2, thread_id="t")
            assert (await client.the("run"))["data"]["status"] == "detached"
            await client.send("detach", id=3, thread_id="t")
            assert (await client.the("error"))["data"]["code"] == "not_found"
            await client.send("detach", id=4, run_id=run["run_id"])
            assert (await client.the("error"))["data"]["code"] == "not_found"
            gate.go_on.set()
            await client.send("attach", thread_id="t", after=seen, epoch=run["epoch"])
            messages = await client.until("end")
    numbers = [message["seq"] for message in messages if "seq" in message]
    assert numbers[0] > seen
    assert "last_word" in [message["type"] for message in messages]


async def test_one_run_is_followed_to_its_end_and_no_further() -> None:
    async with serving(chat("one", "two", "three")) as site, site.connect() as other:
        await start(other, thread_id="t", run_id="r1")
        await other.the("end")
        async with site.connect() as client:
            await client.send("attach", run_id="r1")
            messages = await client.until("end")
            assert messages[0]["data"]["status"] == "completed"
            assert messages[-2]["data"]["text"] == "one"
            await start(other, thread_id="t", run_id="r2")
            await other.the("end")
            await client.send("ping", id=1)
            assert (await client.receive())["type"] == "pong"
            # to follow one that has ended from its end on is to follow nothing
            position = {"after": messages[-1]["seq"], "epoch": messages[0]["data"]["epoch"]}
            await client.send("attach", id=2, run_id="r1", **position)
            assert (await client.receive())["type"] == "run"
            await client.send("detach", id=3, thread_id="t")
            assert (await client.receive())["data"]["code"] == "not_found"


async def test_a_run_started_where_only_another_was_followed_is_seen_too() -> None:
    gate = Gate()
    async with serving({"gate": gate.graph, "chat": chat("hi")}) as site, site.connect() as client:
        await site.attachment.start(input={"value": 1}, thread_id="t", run_id="r1")
        await client.send("attach", run_id="r1")
        await client.the("word")
        await client.send(
            "new_chat", id=1, thread_id="t", run_id="r2", assistant_id="chat", messages=HELLO
        )
        queued = await client.the("run")
        assert queued["data"]["status"] == "queued"
        gate.go_on.set()
        ends = [await client.the("end") for _ in range(2)]
        assert [end["run_id"] for end in ends] == ["r1", "r2"]


async def test_a_run_queued_behind_an_unfinished_text_shows_all_of_it() -> None:
    graph = chat(Reply(text="a long text that takes a while", delay=0.005), "short")
    async with serving(graph) as site, site.connect() as first, site.connect() as second:
        await start(first, thread_id="t", run_id="r1")
        await first.the("text")
        await second.send("new_chat", thread_id="t", run_id="r2", messages=HELLO)
        messages = await second.until("end") + await second.until("end")
    texts = [m["data"]["text"] for m in messages if m["type"] == "text" and m["run_id"] == "r1"]
    assert texts[-1] == "a long text that takes a while"
    assert [m["data"]["text"] for m in messages if m["type"] == "final"][-1] == "short"


async def test_starting_again_follows_the_run_that_exists() -> None:
    async with serving(chat("once", "twice")) as site:
        async with site.connect() as client:
            await start(client, run_id="r")
            await client.the("end")
            await start(client, run_id="r")  # followed already: it just goes on
        async with site.connect() as client:
            await start(client, run_id="r")
            assert (await client.the("final"))["data"]["text"] == "once"


async def test_cancel_is_answered_at_once_and_the_end_follows() -> None:
    gate = Gate()
    async with serving(gate.graph) as site, site.connect() as client:
        run = await start(client, input={"value": 1})
        await gate.entered.wait()
        await client.send("cancel", id=1, run_id=run["run_id"])
        messages = await client.until("end")
        answer = next(message for message in messages if message.get("request_id") == 1)
        assert answer["data"]["status"] == "cancelling"
        assert messages[-1]["data"] == {"status": "cancelled"}
        await client.send("cancel", id=2, run_id=run["run_id"])
        assert (await client.the("error"))["data"]["code"] == "not_found"


async def test_threads_of_one_connection_are_limited() -> None:
    async with (
        serving(chat("x"), limits=Limits(threads_per_connection=2)) as site,
        site.connect() as client,
    ):
        for thread_id in ("a", "b", "a"):
            await client.send("attach", thread_id=thread_id)
            await client.the("run")
        for kind, fields in (("attach", {}), ("new_chat", {"messages": HELLO})):
            await client.send(kind, thread_id="c", **fields)
            assert (await client.the("error"))["data"]["code"] == "limit_exceeded"
        await client.send("detach", thread_id="a")
        await client.the("run")
        await client.send("attach", thread_id="c")
        await client.the("run")


async def test_a_fault_of_ours_is_an_error_with_an_id_that_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class BrokenLog(MemoryThreadLog):
        async def follow(self, *args: Any, **options: Any) -> Follower:
            raise ZeroDivisionError("nobody shall see this")

    async with serving(chat("x"), log=BrokenLog()) as site, site.connect() as client:
        await client.send("attach", id=1, thread_id="t")
        error = await client.the("error")
        assert error["data"]["code"] == "internal_error"
        assert "nobody shall see this" not in error["data"]["message"]
        assert error["data"]["error_id"] in caplog.text
        await client.send("ping")
        await client.the("pong")


async def test_commands_that_wait_are_limited() -> None:
    opened = asyncio.Event()

    async def factory(_identity: Identity) -> Any:
        await opened.wait()
        return chat("x")

    limits = Limits(message_burst=1_000, runs=1_000)
    async with serving(factory, limits=limits) as site, site.connect() as client:
        for number in range(70):
            await client.send("attach", id=number, thread_id="t")
            await client.send("new_chat", id=1_000 + number, messages=HELLO)
        error = await client.the("error")
        assert error["data"]["code"] == "limit_exceeded"
        await client.send("ping")
        await client.the("pong")
        opened.set()
        await client.the("end")


# -- recovery --------------------------------------------------------------------------------


async def test_a_position_that_is_gone_brings_a_gap_and_a_snapshot() -> None:
    log = MemoryThreadLog(Retention(entries=5))
    async with serving(chat("Hello you!"), log=log) as site, site.connect() as client:
        run = await start(client, thread_id="t")
        await client.the("end")
        await client.send("attach", id=1, thread_id="t", after=1, epoch=run["epoch"])
        messages = [await client.receive() for _ in range(3)]
        assert [message["type"] for message in messages] == ["run", "gap", "snapshot"]
        assert messages[1]["data"]["reason"] == "trimmed"
        said = messages[2]["data"]["messages"][-1]
        assert said["content"] == [{"type": "text", "text": "Hello you!"}]
        # with no position named there is no gap to speak of
        await client.send("attach", id=2, thread_id="t")
        messages = [await client.receive() for _ in range(2)]
        assert [message["type"] for message in messages] == ["run", "snapshot"]


async def test_who_comes_after_a_runs_frames_are_gone_still_sees_its_end() -> None:
    log = MemoryThreadLog(Retention(finished_s=0.001))
    async with serving(chat("Hello you!"), log=log) as site:
        async with site.connect() as client:
            await start(client, run_id="r", thread_id="t")
            await client.the("end")
        await asyncio.sleep(0.01)
        for ask in ({"type": "attach"}, {"type": "new_chat", "messages": HELLO}):
            async with site.connect() as client:
                await client.send(ask.pop("type"), run_id="r", **ask)
                messages = await client.until("end")
                kinds = [message["type"] for message in messages]
                assert kinds == ["run", "snapshot", "final", "end"]
                assert messages[1]["data"]["seq"] < messages[2]["seq"]
                assert messages[2]["data"]["text"] == "Hello you!"
                await client.send("ping")
                await client.the("pong")


async def test_nothing_is_missing_after_a_snapshot_that_takes_its_time() -> None:
    class Slow(MemoryThreadLog):
        async def result_of(self, thread: str, run_id: str) -> tuple[Entry, ...]:
            await asyncio.sleep(0.1)  # as a database may
            return await super().result_of(thread, run_id)

    words = "".join(f"word {number} " for number in range(100))
    graph = chat(Reply(text=words, delay=0.005, chunk_chars=5))
    log = Slow(Retention(entries=20))
    async with serving(graph, log=log, merge_window=0) as site, site.connect() as client:
        run = await start(client, thread_id="t")
        async with site.connect() as late:
            while (await client.the("text"))["seq"] < 40:
                pass
            await late.send("attach", run_id=run["run_id"], options={"text": "delta"})
            said = (await late.the("snapshot"))["data"]["open"][0]["blocks"][0]["text"]
            for message in await late.until("end"):
                if message["type"] == "text":
                    assert message["data"]["offset"] == len(said), "nothing is left out"
                    said += message["data"]["delta"]
            assert said == words


async def test_a_client_that_falls_out_of_the_log_gets_a_gap_and_goes_on() -> None:
    log = MemoryThreadLog(Retention(entries=100))
    async with (
        serving(flood(6_000), log=log, stall_timeout=60) as site,
        raw(site, receive_buffer=4096) as client,
    ):
        await client.send({"type": "new_chat", "thread_id": "t", "run_id": "r", "input": {}})
        await over(site, "t")
        gap = await client.receive("gap")
        assert gap["data"]["reason"] == "trimmed"
        snapshot = await client.receive("snapshot")
        await client.send({"type": "new_chat", "thread_id": "t", "run_id": "r2", "input": {}})
        while (end := await client.receive("end"))["run_id"] != "r2":
            pass
        assert end["seq"] > snapshot["data"]["seq"]


# -- heartbeats ------------------------------------------------------------------------------


async def test_silence_brings_a_heartbeat_that_says_where_the_threads_stand() -> None:
    async with serving(chat("x"), heartbeat=0.1) as site, site.connect() as client:
        run = await start(client, thread_id="t")
        end = await client.the("end")
        beat = (await client.the("heartbeat"))["data"]
        assert beat["threads"] == {"t": {"epoch": run["epoch"], "head": end["seq"]}}
        assert abs(beat["time"] / 1000 - time.time()) < BOUND
        await client.the("heartbeat")


async def test_a_silent_client_is_pinged_and_dropped_when_it_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(chat("x"), heartbeat=0.2) as site, raw(site) as client:
        for _ in range(2):
            while (await client.receive_frame())[0] != PING:
                pass
            await client.send_frame(PONG)
        assert await client.dropped()
        await soon(lambda: site.attachment.connections == 0)
    assert "did not answer a ping" in caplog.text


async def test_a_ping_of_the_client_is_answered_with_its_payload() -> None:
    async with serving(chat("x")) as site, raw(site) as client:
        await client.send_frame(PING, b"are you there")
        assert await client.receive_frame() == (PONG, b"are you there")
        await client.send_frame(PONG, b"unasked for")
        await client.send({"type": "ping"})
        await client.receive("pong")


# -- how connections end ---------------------------------------------------------------------


async def test_a_message_of_the_greatest_length_is_taken_and_a_longer_one_closes_1009() -> None:
    async with (
        serving(chat("x"), limits=Limits(message_bytes=1_000)) as site,
        site.connect() as client,
    ):
        await client.ws.send_str('{"type": "ping"}'.ljust(1_000))
        await client.the("pong")
        await client.ws.send_str('{"type": "ping"}'.ljust(1_001))
        assert await client.closed() == 1009


async def test_what_cannot_be_understood_closes_4400() -> None:
    async with serving(chat("x")) as site:
        async with site.connect() as client:
            await client.ws.send_bytes(b"\x00")
            assert await client.closed() == 4400
        async with site.connect() as client:
            for _ in range(25):
                await client.ws.send_str("what?")
            assert await client.closed() == 4400
        async with raw(site) as other:
            await other.send_frame(TEXT, b"\xff")
            assert await other.receive_close() == 1007


async def test_too_many_messages_are_refused_and_then_close_4429() -> None:
    limits = Limits(messages_per_second=0.001, message_burst=10)
    async with serving(chat("x"), limits=limits) as site:
        async with site.connect() as client:
            for number in range(12):
                await client.send("ping", id=number)
            messages = [await client.receive() for _ in range(12)]
            kinds = [message["data"].get("code", message["type"]) for message in messages]
            assert kinds == ["pong"] * 10 + ["rate_limited"] * 2
            assert [message["request_id"] for message in messages] == list(range(12))
            for _ in range(20):
                await client.send("ping")
            bye = await client.the("bye")
            assert (bye["data"]["reason"], bye["data"]["retry"]) == ("abuse", "resume")
            assert await client.closed() == 4429
        async with raw(site) as other:  # pings of WebSocket itself count too
            for _ in range(25):
                await other.send_frame(PING)
            assert await other.receive_close() == 4429


async def test_who_waits_as_long_as_a_refusal_says_is_not_refused_again() -> None:
    limits = Limits(messages_per_second=20, message_burst=2)
    async with serving(chat("x"), limits=limits) as site, site.connect() as client:
        for number in range(4):
            await client.send("ping", id=number)
        refusals = [await client.the("error") for _ in range(2)]
        waits = [refusal["data"]["retry_after_ms"] / 1000 for refusal in refusals]
        assert 0 < waits[0] <= 0.1 and waits[0] < waits[1] <= 0.15
        await asyncio.sleep(waits[-1])
        for _ in range(3):
            await client.send("ping")
            assert (await client.receive())["type"] == "pong"
            await asyncio.sleep(waits[0])


async def test_messages_within_the_rate_are_never_refused() -> None:
    limits = Limits(messages_per_second=1e6, message_burst=1)
    async with serving(chat("x"), limits=limits) as site, site.connect() as client:
        for _ in range(20):
            await client.send("ping")
            assert (await client.receive())["type"] == "pong"


@pytest.mark.parametrize("broken", ["receive", "send"])
async def test_a_fault_of_the_protocol_closes_1011(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: Any) -> Any:
        raise ZeroDivisionError

    session = type("BrokenSession", (ChatSession,), {broken: fail})
    monkeypatch.setattr(langgraph_ws.aiohttp, "PROTOCOLS", {"chat": session})
    async with serving(chat("x")) as site, site.connect() as client:
        await client.send("new_chat", messages=HELLO)
        assert await client.closed() == 1011
        await soon(lambda: site.attachment.connections == 0)
    assert "ZeroDivisionError" in caplog.text


async def test_a_fault_in_the_midst_of_what_a_run_says_closes_1011_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ChatSession):
        def send(self, thread_id: str, entries: Sequence[Entry]) -> list[bytes]:
            if any(isinstance(entry.frame, Custom) for entry in entries):
                raise ZeroDivisionError
            return super().send(thread_id, entries)

    monkeypatch.setattr(langgraph_ws.aiohttp, "PROTOCOLS", {"chat": Broken})
    gate = Gate()
    async with serving(gate.graph) as site, site.connect() as client:
        await client.send("attach", thread_id="t")
        await client.the("run")
        await site.attachment.start(input={}, thread_id="t")
        await gate.entered.wait()
        assert await client.closed() == 1011
        gate.go_on.set()
        await over(site, "t")
    assert "ZeroDivisionError" in caplog.text


async def test_a_protocol_that_cannot_tell_of_a_gap_closes_4450(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = type("NoGaps", (ChatSession,), {"gap": lambda *_args: None})
    monkeypatch.setattr(langgraph_ws.aiohttp, "PROTOCOLS", {"chat": session})
    log = MemoryThreadLog(Retention(entries=100))
    async with (
        serving(flood(6_000), log=log, stall_timeout=60, close_timeout=BOUND) as site,
        raw(site, receive_buffer=4096) as client,
    ):
        await client.send({"type": "new_chat", "thread_id": "t", "input": {}})
        await over(site, "t")
        bye = await client.receive("bye")
        assert (bye["data"]["reason"], bye["data"]["retry"]) == ("slow", "resume")
        assert await client.receive_close() == 4450


async def test_the_clients_close_is_answered_with_its_code() -> None:
    async with serving(chat("x")) as site:
        for sent, answered in ((1000, 1000), (4000, 4000), (1005, 1000)):
            async with raw(site) as client:
                payload = b"" if sent == 1005 else sent.to_bytes(2, "big")
                await client.send_frame(8, payload)
                assert await client.receive_close() == answered
        await soon(lambda: site.attachment.connections == 0)


@pytest.mark.parametrize("policy", ["continue", "cancel"])
async def test_a_broken_connection_and_its_run(policy: Any) -> None:
    gate = Gate()
    async with serving(gate.graph, on_disconnect=policy) as site:
        async with raw(site) as client:
            await client.send({"type": "new_chat", "run_id": "r", "input": {"value": 1}})
            await gate.entered.wait()
        await soon(lambda: site.attachment.connections == 0)
        if policy == "continue":
            gate.go_on.set()
        async with site.connect() as client2:
            await client2.send("attach", run_id="r")
            end = await client2.the("end")
        assert end["data"]["status"] == ("completed" if policy == "continue" else "cancelled")


async def test_a_client_that_goes_while_its_run_is_being_started_counts_as_gone() -> None:
    opened, asked = asyncio.Event(), asyncio.Event()
    gate = Gate()

    async def factory(_identity: Identity) -> Any:
        asked.set()
        await opened.wait()
        return gate.graph

    async with serving(factory, on_disconnect="cancel", close_timeout=BOUND) as site:
        async with raw(site) as client:
            await client.send({"type": "new_chat", "run_id": "r", "input": {"value": 1}})
            await asked.wait()
        opened.set()
        await soon(lambda: site.attachment.connections == 0)
        async with site.connect() as other:
            await other.send("attach", run_id="r")
            assert (await other.the("end"))["data"]["status"] == "cancelled"


def test_reasons_fit_a_close_frame_and_codes_are_legal() -> None:
    assert close_reason("short") == b"short"
    assert close_reason("é" * 100) == ("é" * 61).encode()
    assert len(close_reason("x" * 500)) == 123
    legal = [code for code in range(6_000) if is_close_code(code)]
    assert [code for code in legal if code < 3000] == [1000, 1001, 1002, 1003, *range(1007, 1015)]
    assert (legal[-1], 1005 in legal, 1006 in legal) == (4999, False, False)


# -- clients that do not read ----------------------------------------------------------------


async def test_a_stalled_client_is_dropped_and_its_run_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving(flood(8_000), stall_timeout=0.5) as site,
        raw(site, receive_buffer=4096) as stuck,
        site.connect() as healthy,
    ):
        await stuck.send({"type": "new_chat", "thread_id": "t", "input": {}})
        await healthy.send("attach", thread_id="t")
        messages = await healthy.until("end")
        numbers = [m["data"]["number"] for m in messages if m["type"] == "tick"]
        assert numbers == list(range(8_000))
        await soon(lambda: site.attachment.connections == 1)
        assert await stuck.dropped()
    assert "took no byte for 0.5 s" in caplog.text


async def test_answers_for_a_client_that_does_not_read_are_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits(messages_per_second=1e6, message_burst=1_000_000)
    async with (
        serving(flood(8_000), limits=limits, stall_timeout=60) as site,
        raw(site, receive_buffer=4096) as client,
    ):
        await client.send({"type": "new_chat", "input": {}, "thread_id": "t"})
        await over(site, "t")
        with suppress(ConnectionError):
            for _ in range(1_500):
                await client.send({"type": "ping"})
        await soon(lambda: site.attachment.connections == 0)
    assert "too many answers wait" in caplog.text


@pytest.mark.parametrize("how", ["drain", "shutdown"])
async def test_going_away_is_bounded_also_with_clients_that_do_not_read(how: str) -> None:
    async with asyncio.timeout(BOUND):
        async with serving(flood(8_000), stall_timeout=60, close_timeout=0.5) as site:
            stuck = [await RawClient.connect(site.port, receive_buffer=4096) for _ in range(3)]
            try:
                for client in stuck:
                    await client.send({"type": "new_chat", "thread_id": "t", "input": {}})
                async with site.connect() as healthy:
                    await healthy.send("attach", thread_id="t")
                    await healthy.the("end")
                    if how == "drain":
                        draining = asyncio.create_task(site.attachment.drain())
                        assert await healthy.closed() == 1012
                        await draining
                        assert site.attachment.connections == 0
            finally:
                for client in stuck:
                    client.close()


async def test_a_bad_client_that_is_to_be_closed_is_closed_though_it_does_not_read() -> None:
    async with (
        serving(flood(8_000), stall_timeout=60, close_timeout=0.3) as site,
        raw(site, receive_buffer=4096) as client,
    ):
        await client.send({"type": "new_chat", "thread_id": "t", "input": {}})
        await over(site, "t")
        await client.send_frame(BINARY, b"\x00")
        await soon(lambda: site.attachment.connections == 0)


# -- going away ------------------------------------------------------------------------------


async def test_drain_says_bye_ends_runs_and_closes_1012() -> None:
    gate = Gate()
    async with serving(gate.graph) as site, site.connect() as client:
        await start(client, input={"value": 1})
        await gate.entered.wait()
        draining = asyncio.create_task(site.attachment.drain())
        bye = (await client.the("bye"))["data"]
        assert (bye["reason"], bye["retry"]) == ("restart", "resume")
        assert 0 <= bye["after_ms"] <= 5_000
        assert await site.refused() == 503
        await client.send("new_chat", id=9, messages=HELLO)
        error = await client.the("error")
        assert (error["request_id"], error["data"]["code"]) == (9, "draining")
        gate.go_on.set()
        kinds = [message["type"] for message in await client.until("end")]
        assert "last_word" in kinds
        assert await client.closed() == 1012
        await draining
        await site.attachment.drain(0)
        assert site.attachment.connections == 0


async def test_a_run_that_does_not_end_in_time_is_drained() -> None:
    gate = Gate()
    async with serving(gate.graph) as site, site.connect() as client:
        await start(client, input={"value": 1})
        await gate.entered.wait()
        draining = asyncio.create_task(site.attachment.drain(0.05))
        assert (await client.the("end"))["data"] == {"status": "drained"}
        assert await client.closed() == 1012
        await draining
    assert gate.cancelled.is_set()


async def test_shutdown_tells_every_client_though_it_hears_none() -> None:
    gate = Gate()
    app = web.Application()
    attach_websocket(app, gate.graph, drain_timeout=0.05)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}/ws"
        async with session.ws_connect(url) as one, session.ws_connect(url) as two:
            client = Client(one)
            await start(client, input={"value": 1})
            await gate.entered.wait()
            shutdown = asyncio.create_task(runner.cleanup())
            assert (await client.the("end"))["data"] == {"status": "drained"}
            assert [await client.closed(), await Client(two).closed()] == [1012, 1012]
            async with asyncio.timeout(BOUND):
                await shutdown


async def test_who_is_in_the_middle_of_the_handshake_is_turned_away() -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def authorize(_request: web.Request) -> Identity:
        asked.set()
        await answered.wait()
        return Identity(id="ann")

    async with serving(chat("x"), authorize=authorize) as site:
        refused = asyncio.create_task(site.refused())
        await asked.wait()
        await site.attachment.drain()
        answered.set()
        assert await refused == 503


async def test_positions_are_public() -> None:
    async with serving(chat("x")) as site:
        info = await site.attachment.start(messages=HELLO, run_id="r")
        after = Position(info.position.epoch, 1)
        entries = [e async for e in site.attachment.follow(run_id="r", after=after)]
        assert entries[0].seq == 2


async def test_being_open_is_said_once_and_only_then(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with serving(chat("x")) as site:
            for _ in range(3):
                async with site.connect():
                    pass
        assert caplog.text.count("is open: anyone who can reach it") == 1
        caplog.clear()
        async with serving(chat("x"), authorize=lambda _request: Identity(id="ann")):
            pass
        assert "is open" not in caplog.text


# -- what was found by using it ----------------------------------------------------------------


async def test_a_thread_that_is_followed_before_its_first_run_keeps_its_position() -> None:
    async with serving(chat("hi")) as site, site.connect() as early, site.connect() as later:
        await early.send("attach", thread_id="t")
        attached = await early.the("run")
        assert attached["data"]["status"] == "idle"
        await later.send("new_chat", thread_id="t", messages=HELLO)
        messages = await early.until("end")
        epoch, after = attached["data"]["epoch"], messages[-1]["seq"]
        assert messages[0]["data"]["epoch"] == epoch
        await early.send("attach", id=7, thread_id="t", after=after, epoch=epoch)
        again = await early.receive()
        assert (again["type"], again["request_id"]) == ("run", 7)
        await early.send("ping")
        assert (await early.receive())["type"] == "pong", "there is no gap"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"messages": "hi"}, "messages: expected a list"),
        ({"messages": [5]}, "messages: expected a list"),
        ({"answers": "yes"}, "answers: expected a mapping"),
        ({"messages": HELLO, "options": 5}, "options: expected a mapping"),
        ({"messages": HELLO, "identity": "ada"}, "identity: expected an Identity"),
    ],
)
async def test_the_handle_names_what_it_was_given_wrong(
    fields: dict[str, Any], expected: str
) -> None:
    async with serving(chat("hi")) as site:
        with pytest.raises(ConfigurationError, match=expected):
            await site.attachment.start(**fields)


@pytest.mark.parametrize("identity", [Identity(), Identity(id=cast("Any", 5))])
async def test_an_identity_without_a_name_is_a_fault_of_the_application(
    identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(chat("hi"), authorize=lambda _request: identity) as site:
        assert await site.refused() == 500
    assert "authorize failed with TypeError" in caplog.text


@pytest.mark.parametrize("compress", [True, False])
async def test_all_of_the_text_again_and_again_is_little_where_it_is_compressed(
    compress: bool,
) -> None:
    words = " ".join(f"word{number}" for number in range(300))
    offered = "permessage-deflate; client_max_window_bits"
    graph = chat(Reply(text=words, delay=0.002))
    async with serving(graph, compress=compress, merge_window=0.0) as site:
        client = await RawClient.connect(site.port, Sec_WebSocket_Extensions=offered)
        messages = [{"role": "user", "content": "go"}]
        await client.send({"type": "new_chat", "messages": messages})
        texts = []
        while (message := orjson.loads((await client.receive_frame())[1]))["type"] != "end":
            if message["type"] == "text":
                texts.append(message["data"]["text"])
        client.close()
    assert ("sec-websocket-extensions" in client.headers) == compress
    assert texts[-1] == words
    assert all(words.startswith(text) for text in texts)
    plain = sum(map(len, texts))
    assert plain > 20 * len(words)
    assert (client.payload < plain / 10) == compress


async def test_a_compressed_message_is_as_long_as_what_it_holds() -> None:
    """A bomb: 64 MiB in 64 KB."""
    offered = "permessage-deflate"
    async with serving(chat("x"), compress=True) as site:
        client = await RawClient.connect(site.port, Sec_WebSocket_Extensions=offered)
        deflate = zlib.compressobj(wbits=-15)
        bomb = deflate.compress(b" " * 2**26) + deflate.flush(zlib.Z_SYNC_FLUSH)
        await client.send_frame(TEXT, bomb.removesuffix(b"\0\0\xff\xff"), compressed=True)
        assert await client.receive_close() == 1009
        client.close()
