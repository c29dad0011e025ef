"""Which module may import which: the architecture, written down once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import langgraph_ws

PACKAGE = Path(langgraph_ws.__file__).parent

LAYERS = [
    # pure: no I/O, nothing asynchronous
    {"errors", "frames", "limits"},
    {"codec", "view"},
    {"messages", "sources"},
    {"mapping"},
    # asynchronous, no network
    {"log.registry"},
    {"log"},
    {
        "log.fold",
        "log.memory_entries",
        "log.memory_registry",
        "log.redis_pool",
        "log.scripts",
        "commands",
    },
    {"log.memory", "log.redis_link"},
    {"log.redis_cluster"},
    {"log.redis_server"},
    {"log.redis_registry", "log.redis_thread"},
    {"log.redis_reader"},
    {"log.redis"},
    {"tap"},
    {"streaming", "metrics"},
    {"graphs", "scripted"},
    {"turns", "sink", "demo", "fencing", "current"},
    {"takeover"},
    {"run"},
    {"runs"},
    {"states"},
    # pure again: one connection without the connection
    {"session"},
    {"protocols.requests", "protocols.langchain_events"},
    {"protocols.chat_requests", "protocols.langchain_commands"},
    {"protocols.chat_messages"},
    {"protocols.aisdk_requests", "protocols.agui_requests"},
    {"protocols.aisdk_chunks", "protocols.agui_events"},
    {"protocols.chat", "protocols.chat_schema", "protocols.langchain"},
    {"protocols.aisdk", "protocols.agui"},
    {"protocols"},
    # the Python client
    {"client.errors"},
    {"client.messages", "client.values"},
    {"client.requests"},
    {"client.pace", "client.reconnect", "client.view"},
    {"client.callbacks", "client.link"},
    {"client.handles"},
    {"client.feed"},
    {"client.outbox"},
    {"client.following"},
    {"client.connection"},
    {"client.client"},
    {"client"},
    # the rim
    {"following", "handshake", "playground"},
    {"gate"},
    {"connection"},
    {"event_stream"},
    {"routes"},
    {"rest", "agui_routes"},
    {"aiohttp"},
    {""},
    {"__main__"},
    # for the tests of applications; `testing` serves, and is a client
    {"transcripts"},
    {"testing"},
]
NETWORK = {"aiohttp", "socket", "ssl", "http", "urllib"}
RIM = {
    "handshake",
    "playground",
    "gate",
    "connection",
    "event_stream",
    "rest",
    "agui_routes",
    "routes",
    "aiohttp",
    "__main__",
    "testing",
} | {
    "client.client",
    "client.connection",
    "client.link",
    "client.requests",
}
SYNCHRONOUS = {"errors", "frames", "limits", "codec", "view", "messages", "sources", "mapping"} | {
    "session",
    "protocols",
    "protocols.agui",
    "protocols.agui_events",
    "protocols.agui_requests",
    "protocols.aisdk",
    "protocols.aisdk_chunks",
    "protocols.aisdk_requests",
    "protocols.chat",
    "protocols.chat_messages",
    "protocols.chat_requests",
    "protocols.chat_schema",
    "protocols.langchain",
    "protocols.langchain_commands",
    "protocols.langchain_events",
    "protocols.requests",
    "commands",
}
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            assert node.module is not None
            yield node.module


def test_the_table_names_every_module() -> None:
    assert set(LEVEL) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_layers_below(module: str) -> None:
    for imported in imports(MODULES[module]):
        if imported == "langgraph_ws" or imported.startswith("langgraph_ws."):
            below = imported.removeprefix("langgraph_ws").removeprefix(".")
            assert LEVEL[below] < LEVEL[module], f"{module} imports {below}"


@pytest.mark.parametrize("module", sorted(set(MODULES) - RIM))
def test_only_the_rim_knows_the_network(module: str) -> None:
    found = set(imports(MODULES[module])) - {"urllib.parse"}  # that one only reads addresses
    assert not {imported.split(".")[0] for imported in found} & NETWORK


@pytest.mark.parametrize("module", sorted(SYNCHRONOUS))
def test_mapping_and_protocols_wait_for_nothing(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    waiting = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, waiting)]
    assert "asyncio" not in set(imports(MODULES[module]))
