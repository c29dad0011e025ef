"""`python -m langgraph_ws`, in a process of its own: serving, refusing, and going away."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest

import langgraph_ws
from langgraph_ws.__main__ import main

ROOT = Path(langgraph_ws.__file__).parent.parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
BOUND = 20.0
"""Seconds that a process may take to come up, and to go away; far more than it needs."""

GRAPHS = '''
import asyncio, time
from contextlib import asynccontextmanager
from typing_extensions import TypedDict
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph

class State(TypedDict, total=False):
    wait: float
    bytes: int
    count: int

async def step(state):
    """One superstep: says that it has begun, and takes a while."""
    get_stream_writer()({"name": "tick", "payload": {"text": "x" * state.get("bytes", 0)}})
    await asyncio.sleep(state.get("wait", 0))
    return {"count": state.get("count", 0) + 1}

def stuck(state):
    get_stream_writer()({"name": "tick", "payload": {}})
    while True:
        time.sleep(0.1)

def more(state):
    return "step" if state["wait"] else "__end__"

uncompiled = StateGraph(State).add_node("step", step).add_edge(START, "step")
uncompiled.add_conditional_edges("step", more, ["step", "__end__"])
graph = uncompiled.compile(checkpointer=InMemorySaver()).with_config(recursion_limit=100_000)
endless = StateGraph(State).add_node("stuck", stuck).add_edge(START, "stuck").compile()

def factory(identity):
    return graph

async def coroutine(identity):
    return graph

@asynccontextmanager
async def opened(identity):
    yield graph

every = {"graph": graph, "factory": factory, "coroutine": coroutine, "opened": opened}
number = 5
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of graphs in it."""
    (tmp_path / "served_graphs.py").write_text(GRAPHS)
    (tmp_path / "broken.py").write_text("raise RuntimeError('on purpose')")
    (tmp_path / "lacking.py").write_text("import no_such_package_anywhere")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is imported in this process is forgotten after the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("served_graphs", "broken", "lacking"):
        sys.modules.pop(name, None)


class Server:
    """A running `python -m langgraph_ws`."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, greeting: str) -> None:
        self.process = process
        self.url = url
        self.greeting = greeting

    async def exit_code(self) -> int:
        """Its exit code; it must end in a bounded time."""
        async with asyncio.timeout(BOUND):
            return await self.process.wait()


@asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "langgraph_ws", *arguments, "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENV,
    )
    assert process.stdout is not None
    greeting = ""
    try:
        async with asyncio.timeout(BOUND):
            while not (found := re.search(r"ws://\S+", greeting)):
                line = await process.stdout.readline()
                assert line, f"it ended early:\n{greeting}"
                greeting += line.decode()
            while "Ctrl+C" not in greeting:
                greeting += (await process.stdout.readline()).decode()
        yield Server(process, found[0], greeting)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def until(ws: aiohttp.ClientWebSocketResponse, kind: str) -> list[dict[str, Any]]:
    """The messages up to the first of a type."""
    frames: list[dict[str, Any]] = []
    async with asyncio.timeout(BOUND):
        while not frames or frames[-1]["type"] != kind:
            frames.append(await ws.receive_json())
    return frames


def of(frames: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [frame["data"] for frame in frames if frame["type"] == kind]


def chat(text: str) -> dict[str, Any]:
    return {"type": "new_chat", "messages": [{"role": "user", "content": text}]}


# --- serving ---------------------------------------------------------------------------------


async def test_the_demo_shows_everything_that_a_run_can_say() -> None:
    async with (
        serving() as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(server.url) as ws,
    ):
        assert re.search(r'{"type": "new_chat", "messages": .*}', server.greeting)
        await ws.send_json(chat("What is a superstep?"))
        frames = await until(ws, "end")
        assert {frame["type"] for frame in frames} >= {
            *("run", "workflow_step", "reasoning", "text", "tool_call", "tool_result"),
            *("sources", "progress", "message", "checkpoint", "final", "end"),
        }
        assert any(step.get("namespace") for step in of(frames, "workflow_step"))
        [final] = of(frames, "final")
        assert final["sources"][0]["title"] == "Supersteps"
        assert "You can type" in final["text"]
        await ws.send_json({"type": "resume_chat", **thread(frames), **turn("approve")})
        frames = await until(ws, "end")
        [asked] = of(frames, "interrupt")
        assert asked["value"]["options"] == ["yes", "no"]
        await ws.send_json({"type": "resume_chat", **thread(frames), "resume": "yes"})
        assert of(await until(ws, "end"), "final")[0]["text"].startswith("Sent!")
        await ws.send_json({"type": "resume_chat", **thread(frames), **turn("fail")})
        assert of(await until(ws, "end"), "error")[0]["retryable"]
        await ws.send_json({"type": "resume_chat", **thread(frames)})
        assert of(await until(ws, "end"), "final")[0]["text"].startswith("I got over it")
        server.process.send_signal(signal.SIGINT)
        assert await server.exit_code() == 0


def thread(frames: list[dict[str, Any]]) -> dict[str, str]:
    return {"thread_id": of(frames, "run")[0]["thread_id"]}


def turn(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def test_it_serves_graphs_and_factories_of_a_module(here: Path) -> None:
    async with (
        serving("served_graphs:every", "--path", "/chat") as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(server.url) as ws,
    ):
        assert server.url.endswith("/chat")
        for name in ("graph", "factory", "coroutine", "opened"):
            await ws.send_json({"type": "new_chat", "input": {"wait": 0}, "assistant_id": name})
            frames = await until(ws, "end")
            assert of(frames, "run")[0]["graph"] == name
            assert of(frames, "end") == [{"status": "completed"}]
        server.process.send_signal(signal.SIGTERM)
        assert await server.exit_code() == 0


@pytest.mark.parametrize("path", ["/chat", "/"])
async def test_who_opens_the_server_sees_the_page(here: Path, path: str) -> None:
    async with (
        serving("served_graphs:graph", "--path", path) as server,
        aiohttp.ClientSession() as http,
        http.get(urljoin(server.url.replace("ws:", "http:"), "/")) as answer,
    ):
        assert answer.url.path == path
        assert answer.content_type == "text/html"


async def test_it_says_how_to_talk_to_a_graph_without_messages(here: Path) -> None:
    async with serving("served_graphs:graph") as server:
        assert '{"type": "new_chat", "input": {}}' in server.greeting
        assert f"terminal_chat.py {server.url}" in server.greeting


# --- refusing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["served_graphs"], "expected module:graph"),
        ([":graph"], "expected module:graph"),
        (["no_such_module:graph"], "there is no module 'no_such_module'"),
        (["served_graphs.inner:graph"], "there is no module 'served_graphs.inner'"),
        (["lacking:graph"], "No module named 'no_such_package_anywhere'"),
        (["broken:graph"], "RuntimeError('on purpose')"),
        (["served_graphs:grahp"], "no 'grahp'; it has graph, endless"),
        (["served_graphs:uncompiled"], "got StateGraph; call .compile()"),
        (["served_graphs:number"], "expected a compiled graph"),
        (["--path", "ws"], "path"),
        (["--host", "256.0.0.1"], "cannot listen on 256.0.0.1"),
    ],
)
@pytest.mark.usefixtures("here", "imports")
def test_what_cannot_be_served_is_named(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.startswith("langgraph_ws: ")


def test_an_occupied_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["70000", "-1", "http"])
def test_a_port_is_a_number_up_to_65535(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--port", port])
    assert ended.value.code == 2
    assert "--port" in capsys.readouterr().err


def test_a_mistake_ends_the_process_with_2_and_no_traceback(here: Path) -> None:
    command = [sys.executable, "-m", "langgraph_ws", "served_graphs:grahp"]
    ended = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=BOUND)
    assert ended.returncode == 2
    assert ended.stderr == (
        "langgraph_ws: served_graphs:grahp: the module 'served_graphs' has no 'grahp'; "
        "it has graph, endless\n"
    )


# --- going away ------------------------------------------------------------------------------


async def test_sigterm_drains_a_run_at_its_next_superstep(here: Path) -> None:
    async with (
        serving("served_graphs:graph") as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(server.url) as ws,
    ):
        await ws.send_json({"type": "new_chat", "input": {"wait": 2}})
        await until(ws, "tick")
        server.process.send_signal(signal.SIGTERM)
        [bye] = of(await until(ws, "bye"), "bye")
        assert (bye["reason"], bye["retry"]) == ("restart", "resume")
        await ws.send_json({"type": "ping"})
        await until(ws, "pong")  # clients are heard while runs are drained
        frames = await until(ws, "end")
        [failed] = of(frames, "error")
        assert (failed["code"], failed["retryable"]) == ("drained", True)
        assert of(frames, "workflow_step")[0]["status"] == "finished"
        assert frames[-1]["data"] == {"status": "drained"}
        await closes_with_1012(ws)
        assert await server.exit_code() == 0


async def test_sigterm_ends_it_although_a_client_does_not_read(here: Path) -> None:
    async with (
        serving("served_graphs:graph") as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(server.url) as ws,
    ):
        await ws.send_json({"type": "attach", "thread_id": "t-1"})
        await until(ws, "run")
        request = {
            "type": "new_chat",
            "thread_id": "t-1",
            "input": {"wait": 0.001, "bytes": 100_000},
        }
        with not_reading(server.url, request):
            for _ in range(100):  # 10 MB: more than any buffer on the way to the other client
                await until(ws, "tick")
            server.process.send_signal(signal.SIGTERM)
            assert (await until(ws, "end"))[-1]["data"] == {"status": "drained"}
            await closes_with_1012(ws)
            assert await server.exit_code() == 0


async def closes_with_1012(ws: aiohttp.ClientWebSocketResponse) -> None:
    closed = await ws.receive(timeout=BOUND)
    assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1012)


def not_reading(url: str, request: dict[str, Any]) -> socket.socket:
    """A client that sends a request, and then reads nothing."""
    host, port, path = re.fullmatch(r"ws://(.+):(\d+)(/.*)", url).groups()  # type: ignore[union-attr]
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(BOUND)
    client.connect((host, int(port)))
    key = base64.b64encode(os.urandom(16)).decode()
    client.sendall(
        textwrap.dedent(
            f"""\
            GET {path} HTTP/1.1
            Host: {host}:{port}
            Upgrade: websocket
            Connection: Upgrade
            Sec-WebSocket-Key: {key}
            Sec-WebSocket-Version: 13

            """
        )
        .replace("\n", "\r\n")
        .encode()
    )
    reply = b""
    while b"\r\n\r\n" not in reply:
        reply += client.recv(1)
    assert reply.startswith(b"HTTP/1.1 101")
    body = json.dumps(request).encode()
    assert len(body) < 126
    client.sendall(bytes([0x81, 0x80 | len(body), 0, 0, 0, 0]) + body)
    return client


async def test_a_second_sigint_stops_at_once(here: Path) -> None:
    async with (
        serving("served_graphs:graph") as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(server.url) as ws,
    ):
        await ws.send_json({"type": "new_chat", "input": {"wait": 3600}})
        await until(ws, "tick")
        server.process.send_signal(signal.SIGINT)
        await until(ws, "bye")
        server.process.send_signal(signal.SIGINT)
        assert await server.exit_code() == 130


async def test_a_node_that_never_ends_does_not_keep_the_process(here: Path) -> None:
    async with (
        serving("served_graphs:endless", "--drain-timeout", "0.2") as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(server.url) as ws,
    ):
        await ws.send_json({"type": "new_chat", "input": {"wait": 0}})
        await until(ws, "tick")
        server.process.send_signal(signal.SIGTERM)
        assert (await until(ws, "end"))[-1]["data"] == {"status": "drained"}
        assert await server.exit_code() == 0
