"""The examples do what they say, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import langgraph_ws
from langgraph_ws import attach_websocket
from langgraph_ws.demo import CHAPTERS, demo_graph
from tests.proxy import CuttingProxy
from tests.servers import free_port, redis_server

ROOT = Path(langgraph_ws.__file__).parent.parent
EXAMPLES = ROOT / "examples"
BOUND = 30.0
"""Seconds that an example may take; far more than it needs."""
LOST = "\n! not connected, trying again\n"


def load(name: str) -> dict[str, Any]:
    """The names of an example, imported anew."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[TestServer]:
    server = TestServer(app)
    await server.start_server()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def connected(
    server: TestServer, path: str = "/ws", **options: Any
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(server.make_url(path), **options) as ws,
    ):
        yield ws


async def turn(ws: aiohttp.ClientWebSocketResponse, text: str) -> list[dict[str, Any]]:
    """The messages of a run on a new thread."""
    message = {"role": "user", "content": text}
    await ws.send_json({"type": "new_chat", "messages": [message]})
    frames: list[dict[str, Any]] = []
    async with asyncio.timeout(BOUND):
        while not frames or frames[-1]["type"] != "end":
            frames.append(await ws.receive_json())
    return frames


def of(frames: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [frame["data"] for frame in frames if frame["type"] == kind]


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.stem)
def test_an_example_fits_on_a_page(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith('"""')
    assert len(lines) <= 60


async def test_quickstart_answers() -> None:
    async with serving(load("quickstart")["app"]) as server, connected(server) as ws:
        frames = await turn(ws, "Hi")
        assert of(frames, "text")[-1]["text"] == "Hello! I am a scripted model."
        assert of(frames, "final")[0]["text"] == "Hello! I am a scripted model."


async def test_existing_app_knows_who_is_there() -> None:
    async with serving(load("existing_app")["app"]) as server, aiohttp.ClientSession() as http:
        ada = {"Authorization": "Bearer token-of-ada"}
        async with http.get(server.make_url("/whoami"), headers=ada) as response:
            assert await response.json() == {"user": "ada"}
        async with connected(server, "/chat", headers=ada) as ws:
            frames = await turn(ws, "Hi")
            assert of(frames, "final")[0]["text"] == "Hello ada!"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer token-of-bob", "Origin": "https://evil.example"}, 403),
    ],
)
async def test_existing_app_refuses_others(headers: dict[str, str], status: int) -> None:
    async with serving(load("existing_app")["app"]) as server:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(server, "/chat", headers=headers):
                pass
        assert refused.value.status == status


async def test_existing_app_lets_its_pages_in() -> None:
    headers = {"Authorization": "Bearer token-of-bob", "Origin": "https://app.example.com"}
    async with (
        serving(load("existing_app")["app"]) as server,
        connected(server, "/chat", headers=headers) as ws,
    ):
        assert of(await turn(ws, "Hi"), "final")[0]["text"] == "Hello bob!"


async def test_custom_frames_come_under_their_own_names() -> None:
    async with serving(load("custom_frames")["app"]) as server:
        async with connected(server, "/class") as ws:
            frames = await turn(ws, "Soup")
        assert of(frames, "progress") == [{"percent": 0}, {"percent": 50}, {"percent": 100}]
        assert of(frames, "temperature") == [{"celsius": 37.0}]
        assert of(frames, "words") == [{"so_far": 7}]
        assert of(frames, "final")[0]["text"] == "Cooked to the minute, and served warm."
        async with connected(server, "/function") as ws:
            frames = await turn(ws, "Soup")
        assert of(frames, "finished") == [{}]
        assert not of(frames, "progress")


async def test_human_in_the_loop_pays_when_told(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("human_in_the_loop")
    async with asyncio.timeout(BOUND):
        await example["main"]()
    assert capsys.readouterr().out == "Pay 20 €?\npaid\n"


async def test_human_in_the_loop_refuses_when_told() -> None:
    example = load("human_in_the_loop")
    async with serving(example["app"]) as server, asyncio.timeout(BOUND):
        url = str(server.make_url("/ws"))
        assert await example["order"](url, 2_000_000, lambda _: "no") == "refused"


async def test_every_protocol_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langgraph_ws.demo.demo_graph", partial(demo_graph, delay=0.0))
    async with serving(load("every_protocol")["app"]) as server, aiohttp.ClientSession() as http:
        message = {"id": "m", "role": "user", "content": "help"}
        asked = {"threadId": "t", "runId": "r", "messages": [message]}
        async with http.post(server.make_url("/ws/agui"), json=asked) as response:
            assert '"outcome":{"type":"success"}' in await response.text()
        resume = {"type": "resume", "requestId": "1", "id": "t", "headers": {}, "body": {}}
        async with asyncio.timeout(BOUND), connected(server, "/ws/aisdk") as ws:
            await ws.send_json(resume)
            while (frame := await ws.receive_json())["type"] != "end":
                if frame["type"] == "chunk" and frame["sequence"] == 0:
                    assert frame["chunk"]["messageId"] == "r"
        async with connected(server, "/ws/threads/t/stream/events") as ws:
            await ws.close()


def platform(graph: Any) -> web.Application:
    """An application for clients of LangGraph Platform."""
    app = web.Application()
    attach_websocket(app, {"agent": graph}, "/agent", protocols=("chat", "langchain"))
    return app


async def test_langgraph_platform_client_prints_what_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = load("langgraph_platform_client")
    async with serving(platform(demo_graph(delay=0.0))) as server, asyncio.timeout(BOUND):
        said = await example["main"](str(server.make_url("/agent")), "What is a superstep?")
    printed = capsys.readouterr().out
    assert said[0] == "What is a superstep?"
    assert "A superstep is one tick of a LangGraph graph." in said[-1]
    assert printed.count("A superstep is one tick of a LangGraph graph.") == 1


async def test_langgraph_platform_client_answers(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("langgraph_platform_client")
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "yes"

    async with serving(platform(demo_graph(delay=0.0))) as server, asyncio.timeout(BOUND):
        await example["main"](str(server.make_url("/agent")), "approve", answer)
    assert len(asked) == 1
    assert "May I send this summary?" in asked[0]
    assert "Sent!" in capsys.readouterr().out


async def test_sse_streams_the_same_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langgraph_ws.demo.demo_graph", partial(demo_graph, delay=0.0))
    async with (
        serving(load("sse")["app"]) as server,
        aiohttp.ClientSession() as http,
        http.get(server.make_url("/events"), params={"q": "What is a superstep?"}) as response,
    ):
        assert response.content_type == "text/event-stream"
        async with asyncio.timeout(BOUND):
            events = (await response.text()).removesuffix("\n\n").split("\n\n")
    names = [event.splitlines()[0].removeprefix("event: ") for event in events]
    frames = [json.loads(event.splitlines()[1].removeprefix("data: ")) for event in events]
    assert names == [frame["frame"] for frame in frames]
    assert (names[0], names[-2:]) == ("RunStarted", ["RunResult", "RunFinished"])
    assert {"BlockDelta", "ToolFinished", "Sources", "SubgraphStarted"} <= set(names)
    assert frames[-1]["status"] == "completed"


# --- the terminal chat -----------------------------------------------------------------------


async def talk(url: str, typed: str) -> str:
    """What `terminal_chat.py` prints while this is typed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / "terminal_chat.py"), url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
    )
    try:
        async with asyncio.timeout(BOUND):
            printed, _ = await process.communicate(typed.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


def demo_app(delay: float = 0.0) -> web.Application:
    app = web.Application()
    attach_websocket(app, demo_graph(delay=delay))
    return app


async def test_terminal_chat_shows_a_run() -> None:
    async with serving(demo_app()) as server:
        printed = await talk(f"ws://127.0.0.1:{server.port}/ws", "What is a superstep?\n")
    assert "· research\n· think\n" in printed
    assert "· search_documents success" in printed
    assert "] Supersteps" in printed
    assert printed.count("A superstep is one tick of a LangGraph graph.") == 1


async def test_terminal_chat_answers_interrupts() -> None:
    async with serving(demo_app()) as server:
        printed = await talk(f"ws://127.0.0.1:{server.port}/ws", "approve\nyes\n")
    assert "May I send this summary?" in printed
    assert "Sent!" in printed


async def test_terminal_chat_goes_on_after_a_failure() -> None:
    async with serving(demo_app()) as server:
        printed = await talk(f"ws://127.0.0.1:{server.port}/ws", "fail\n\n")
    assert "! The graph failed." in printed
    assert "I got over it." in printed


async def test_terminal_chat_shows_two_nodes_that_write_at_once() -> None:
    async with serving(demo_app(0.001)) as server:
        printed = await talk(f"ws://127.0.0.1:{server.port}/ws", "both\n")
    assert printed.count("I am the left node.") == printed.count("I am the right node.") == 1
    assert "so nothing gets mixed up." in printed


async def test_terminal_chat_reconnects_and_misses_nothing() -> None:
    seed = 20_250_611
    async with (
        serving(demo_app(0.01)) as server,
        CuttingProxy(server.port, seed=seed, cuts=3, longest=3_000).serving() as proxy,
    ):
        printed = await talk(f"ws://127.0.0.1:{proxy.port}/ws", "long\n")
        assert proxy.connections > 3, f"seed {seed}"
    assert LOST in printed
    told = printed.replace(LOST, "")
    assert [told.count(chapter) for chapter in CHAPTERS] == [1] * len(CHAPTERS)


@pytest.mark.timeout(120)
async def test_scale_out_survives_a_killed_process(tmp_path: Path) -> None:
    folder = EXAMPLES / "scale_out"
    port = free_port()

    @asynccontextmanager
    async def started(script: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, folder / script, *arguments, stdout=subprocess.PIPE
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    with redis_server(tmp_path) as redis:
        async with (
            asyncio.timeout(3 * BOUND),  # the story alone takes more than ten seconds
            started("start.py", str(port), redis.url, str(tmp_path / "db")) as servers,
        ):
            assert servers.stdout is not None
            said = b""  # the processes share a pipe: lines of theirs may run into one another
            while said.count(b"ready") < 2:
                more = await servers.stdout.read(4096)
                assert more, said
                said += more
            async with started("client.py", f"ws://127.0.0.1:{port}/ws") as client:
                assert client.stdout is not None
                seen = (await client.stdout.readuntil(b"Chapter 2: whoever")).decode()
                for pid in re.findall(rb"process (\d+):", said):  # whichever tells the story
                    os.kill(int(pid), signal.SIGKILL)
                seen += (await client.stdout.read()).decode()
                assert await client.wait() == 0
    assert "another process goes on (attempt 2)" in seen
    _, _, story = seen.rpartition("completed:")
    assert [line[:10] for line in story.split("\n") if line] == [
        f"Chapter {number}:" for number in (1, 2, 3)
    ]
