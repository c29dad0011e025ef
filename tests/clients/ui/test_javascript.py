"""The official clients of the AI SDK and of AG-UI, on Node's own runner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.ui.conftest import ROOT
from tests.node import hosts_named, node, passed, run

HERE = Path(__file__).parent
AGENT = ROOT / "examples" / "agui_websocket"
PAGE = ROOT / "examples" / "react_usechat"


@pytest.mark.parametrize(("file", "least"), [("aisdk.test.mjs", 13), ("agui.test.mjs", 15)])
@pytest.mark.timeout(180)
def test_what_the_clients_show(file: str, least: int, server: str) -> None:
    path, env = node(HERE), {"SERVER": server}
    node(AGENT)
    output = run(path, "--test", "--test-reporter=tap", file, cwd=HERE, env=env, timeout=170)
    assert passed(output) >= least


def test_the_example_talks(server: str) -> None:
    url = server.replace("http", "ws")
    output = run(node(AGENT), "talk.mjs", f"{url}/demo/agui", "What is a superstep?", cwd=AGENT)
    assert "· search_documents" in output
    assert "A superstep is one tick of a LangGraph graph." in output


@pytest.mark.parametrize("directory", [HERE, AGENT, PAGE], ids=lambda it: it.name)
def test_the_packages_are_pinned_and_the_lock_file_names_no_host(directory: Path) -> None:
    package = json.loads((directory / "package.json").read_text(encoding="utf-8"))
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    assert hosts_named(directory / "package-lock.json") == []
