"""The JavaScript client: its tests, on Node's own runner, and its types.

`npm ci` in `tests/js` installs what they need; the client itself needs nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.node import hosts_named, lacking, node, passed, run

ROOT = Path(__file__).parent.parent
HERE = ROOT / "tests" / "js"
STATIC = ROOT / "langgraph_ws" / "static"
UNIT_TESTS = [
    path.name for path in sorted(HERE.glob("*.test.mjs")) if path.name != "server.test.mjs"
]


@pytest.mark.timeout(120)
def test_the_client_on_a_fake_network() -> None:
    output = run(node(HERE), "--test", "--test-reporter=tap", *UNIT_TESTS, cwd=HERE, timeout=110)
    assert passed(output) > 80


@pytest.mark.parametrize("flags", [[], ["--experimental-websocket"]], ids=["ws", "built-in"])
@pytest.mark.timeout(300)
def test_the_client_and_the_real_server(flags: list[str]) -> None:
    """With the WebSocket of the package `ws`, and with Node's own (as in browsers)."""
    path = node(HERE)
    output = run(
        path, *flags, "--test", "--test-reporter=tap", "server.test.mjs", cwd=HERE, timeout=290
    )
    assert passed(output) > 15


@pytest.mark.timeout(120)
@pytest.mark.parametrize("project", ["tsconfig.json", "tsconfig.playground.json"])
def test_the_types_are_right_for_the_code_and_for_its_users(project: str) -> None:
    compiler = HERE / "node_modules" / "typescript" / "bin" / "tsc"
    path = node(HERE)
    if not compiler.is_file():
        lacking("typescript is not installed: run `npm ci` in tests/js")
    run(path, str(compiler), "-p", project, cwd=HERE, timeout=110)


def test_the_client_depends_on_nothing() -> None:
    code = (STATIC / "client.js").read_text(encoding="utf-8")
    imports = re.findall(r"^\s*(?:import\b(?! \* as api).*|export .* from .*)$", code, re.M)
    assert imports == []
    assert "import(" not in code.replace("/** @import", "")
    assert "require('" not in code and 'require("' not in code


def test_code_and_types_export_the_same_names() -> None:
    exports = re.compile(r"^export (?:async )?(?:function|class) (\w+)", re.M)
    code, types = (
        set(exports.findall((STATIC / name).read_text(encoding="utf-8")))
        for name in ("client.js", "client.d.ts")
    )
    assert code == types


def test_every_type_that_the_server_sends_has_its_type_here() -> None:
    from langgraph_ws.protocols.chat import RESERVED

    types = (STATIC / "client.d.ts").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:Logged<|type: )"(\w+)"', types))
    of_the_connection = {"authenticated", "pong", "heartbeat", "bye"}
    assert RESERVED - of_the_connection <= named


def test_the_lock_file_names_no_host() -> None:
    assert hosts_named(HERE / "package-lock.json") == []
