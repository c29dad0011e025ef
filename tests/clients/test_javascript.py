"""The JavaScript clients: `sdk.test.mjs` and `react.test.mjs`, on Node's own runner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.conftest import Server
from tests.node import hosts_named, node, passed, run

HERE = Path(__file__).parent


@pytest.mark.parametrize("transport", ["websocket", "sse"])
@pytest.mark.parametrize(("file", "least"), [("sdk.test.mjs", 35), ("react.test.mjs", 21)])
@pytest.mark.timeout(180)
def test_what_the_clients_show(file: str, least: int, transport: str, server: Server) -> None:
    env = {"SERVER": server.url, "GATES": str(server.gates), "TRANSPORT": transport}
    output = run(node(HERE), "--test", "--test-reporter=tap", file, cwd=HERE, env=env, timeout=170)
    assert passed(output) >= least


def test_the_packages_are_pinned_and_the_lock_file_names_no_host() -> None:
    package = json.loads((HERE / "package.json").read_text(encoding="utf-8"))
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    assert hosts_named(HERE / "package-lock.json") == []
