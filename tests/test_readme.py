"""What the README shows works, and what it says about options is true."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import langgraph_ws
from langgraph_ws import ChatMapper, attach_websocket
from tests.test_examples import connected, of, serving, turn

ROOT = Path(langgraph_ws.__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NEVER_THE_SAME = {"thread_id", "run_id", "epoch", "task_id", "message_id", "head"} | {
    "duration_ms",
    "execution_time_ms",
}


def blocks(language: str) -> Iterator[str]:
    """The code blocks of a language, in order."""
    fenced = re.compile(rf"^( *)```{language}\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    yield from (textwrap.dedent(found[2]) for found in fenced.finditer(README))


Until = Callable[[str], dict[str, Any]]


@pytest.fixture
def until(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Until:
    """Runs the Python of the README up to the block that contains a text; returns its names."""
    agent = ModuleType("my_agent")
    vars(agent).update(runpy.run_path(str(ROOT / "examples" / "quickstart.py")))
    monkeypatch.setitem(sys.modules, "my_agent", agent)
    monkeypatch.setattr(web, "run_app", lambda app, **_: None)
    monkeypatch.chdir(tmp_path)

    def run(text: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "__main__"}
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), names)
            if text in block:
                return names
        raise AssertionError(f"no block has {text!r}")

    return run


async def test_two_lines_are_enough_and_what_arrives_is_what_it_says(until: Until) -> None:
    request, *shown = [
        json.loads(line) for block in blocks("json") for line in block.strip().splitlines()
    ]
    async with serving(until("web.run_app")["app"]) as server, connected(server) as ws:
        frames = await turn(ws, request["messages"][0]["content"])
    position = 0
    for frame in shown:
        found = (i for i, real in enumerate(frames[position:], position) if looks_like(real, frame))
        position = next(found, -1)
        assert position >= 0, f"this did not come: {frame}"


def looks_like(real: dict[str, Any], shown: dict[str, Any]) -> bool:
    """Whether a frame has everything that is shown of it, but for what differs from run to run."""
    if real["type"] != shown["type"] or not real["data"].keys() >= shown["data"].keys():
        return False
    if shown["type"] == "text":  # how much text is in a frame is a matter of time
        return str(real["data"]["text"]).startswith(shown["data"]["text"])
    return all(
        real["data"][name] == value
        for name, value in shown["data"].items()
        if name not in NEVER_THE_SAME
    )


async def test_several_graphs_are_chosen_by_name(until: Until) -> None:
    async with serving(until("AsyncSqliteSaver")["app"]) as server, connected(server) as ws:
        for name in ("quick", "remembering"):
            message = {"role": "user", "content": "Hi"}
            await ws.send_json({"type": "new_chat", "assistant_id": name, "messages": [message]})
            while (frame := await ws.receive_json())["type"] != "end":
                pass
            assert frame["data"] == {"status": "completed"}


async def test_authorize_refuses_and_lets_in(until: Until) -> None:
    async with serving(until("HTTPUnauthorized")["app"]) as server:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(server):
                pass
        assert refused.value.status == 401
        async with connected(server, headers={"Cookie": "session=secret"}) as ws:
            assert of(await turn(ws, "Hi"), "end") == [{"status": "completed"}]


async def test_mappers_are_attached(until: Until) -> None:
    async with serving(until("class Counting")["app"]) as server:
        for path in ("/ws", "/counting"):
            async with connected(server, path) as ws:
                assert of(await turn(ws, "Hi"), "final")[0]["text"]


async def test_pages_of_the_ai_sdk_and_of_ag_ui_are_served(until: Until) -> None:
    app = until('"aisdk", "agui"')["app"]
    async with serving(app) as server, connected(server, "/ws/aisdk") as ws:
        await ws.send_json({"type": "resume", "requestId": "1", "id": "t"})
        assert await ws.receive_json() == {"type": "no-active", "requestId": "1"}
        async with connected(server, "/ws/agui") as agent:
            await agent.send_json({"threadId": "t"})
            assert (await agent.receive_json())["message"] == "runId: missing"


async def test_frames_come_without_a_socket(
    until: Until, capsys: pytest.CaptureFixture[str]
) -> None:
    await until("stream_frames")["show"]()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("RunStarted(")
    assert printed[-1] == "RunFinished(status='completed')"


async def test_the_application_starts_a_run_that_others_see(until: Until) -> None:
    async with (
        serving(until("chat.start")["app"]) as server,
        connected(server) as ws,
        aiohttp.ClientSession() as http,
    ):
        await ws.send_json({"type": "attach", "thread_id": "t-1"})
        assert (await ws.receive_json())["data"]["status"] == "idle"
        async with http.post(server.make_url("/remind")) as response:
            run_id = (await response.json())["run_id"]
        while (frame := await ws.receive_json())["type"] != "end":
            pass
        assert frame["run_id"] == run_id


async def test_limits_and_retention_are_set(until: Until) -> None:
    async with serving(until("Retention(")["app"]) as server, connected(server) as ws:
        assert of(await turn(ws, "Hi"), "end") == [{"status": "completed"}]


def lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


async def test_graph_is_tested(until: Until) -> None:
    names = until("assert_transcript")
    await names["test_graph"]()
    with pytest.raises(AssertionError, match=r"hello\.jsonl did not exist and was written"):
        await names["test_route"]()
    assert json.loads(lines("transcripts/hello.jsonl")[-1])["data"] == {"status": "completed"}


def test_the_table_names_every_option_and_its_default() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", README, re.MULTILINE))
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(attach_websocket).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert list(table) == list(keywords)
    made_anew = {"log": "MemoryThreadLog()", "limits": "Limits()", "mapper": "ChatMapper"}
    for name, default in keywords.items():
        if name in made_anew:
            assert table[name] == made_anew[name]
            assert default in (None, ChatMapper) or default == vars(langgraph_ws)["Limits"]()
        else:
            assert table[name].replace('"', "'") == repr(default)


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (ROOT / target).exists(), target
