"""`python -m langgraph_ws [module:graph]`: serve a graph, or the built-in demo, from a terminal.

`python -m langgraph_ws schema` prints the JSON Schema of the chat protocol.

Only this module touches signals. SIGTERM and the first SIGINT drain the runs while clients can
still be heard (aiohttp drops what they send once its own shutdown has begun), and then stop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import json
import logging
import operator
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from langgraph_ws.aiohttp import attach_websocket
from langgraph_ws.demo import EXAMPLES, demo_graph
from langgraph_ws.errors import ConfigurationError
from langgraph_ws.protocols.chat_schema import schema

__all__ = ["main"]

_EXIT_GRACE = 3.0
"""Seconds from the end of everything to the end of the process: a thread of a graph's own that
never ends must not keep it alive."""
_INTERRUPTED = 130
"""The exit code of a process that SIGINT ended, by the shells' convention."""
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Unusable(Exception):
    """What was asked for on the command line cannot be had; the text says what was expected."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; or print the JSON Schema.

    Args:
        arguments: Those of the command line; None: the process's own.

    Returns:
        The exit code: 0 when told to stop, 2 when what was asked for cannot be served.
    """
    options = _parser().parse_args(arguments)
    if options.graph == "schema":
        print(json.dumps(schema(), indent=2))
        return 0
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    if options.debug:
        logging.getLogger("langgraph_ws").setLevel(logging.DEBUG)
    try:
        graph = demo_graph() if options.graph is None else _load(options.graph)
        asyncio.run(_serve(graph, options))
    except (_Unusable, ConfigurationError) as error:
        print(f"langgraph_ws: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m langgraph_ws", description="Serve a LangGraph graph on a WebSocket."
    )
    parser.add_argument(
        "graph",
        nargs="?",
        metavar="module:graph",
        help="a compiled graph, a mapping of names to graphs, or a factory (identity) -> graph "
        "(plain, async, or an async context manager); without it: the built-in demo; "
        "schema: print the JSON Schema of the chat protocol instead of serving",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_port, default=8765, help="port, 0 for a free one (%(default)s)"
    )
    parser.add_argument("--path", default="/ws", help="path of the WebSocket (%(default)s)")
    parser.add_argument(
        "--drain-timeout",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="how long runs may take to end their step when the server is told to stop "
        "(%(default)s)",
    )
    parser.add_argument(
        "--debug", action="store_true", help="show clients the texts of errors; for development"
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {text}")
    return port


# --- the graph -------------------------------------------------------------------------------


def _load(target: str) -> Any:
    """What `module:graph` names, found from the working directory.

    Raises:
        _Unusable: There is no such module or attribute, or the module cannot be imported.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise _Unusable(f"expected module:graph (for example my_agent:graph), got {target!r}")
    module = _import(module_name)
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError:
        offered = ", ".join(_graphs_of(module)) or "no compiled graph"
        raise _Unusable(
            f"{target}: the module {module_name!r} has no {attribute!r}; it has {offered}"
        ) from None


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise _Unusable(f"there is no module {error.name!r} (looked in {here} too)") from None
        raise _Unusable(f"the module {name!r} cannot be imported: {error}") from error
    except Exception as error:
        logging.getLogger("langgraph_ws").exception("the module %r cannot be imported", name)
        raise _Unusable(f"the module {name!r} cannot be imported: {error!r}") from error


def _graphs_of(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if hasattr(value, "aget_state")]


# --- serving ---------------------------------------------------------------------------------


async def _serve(graph: Any, options: argparse.Namespace) -> None:
    app = web.Application()
    attachment = attach_websocket(
        app,
        graph,
        options.path,
        drain_timeout=options.drain_timeout,
        playground=EXAMPLES if options.graph is None else True,
        debug=options.debug,
    )
    if options.path != "/":

        async def lead(_request: web.Request) -> web.Response:
            raise web.HTTPFound(options.path)

        app.router.add_get("/", lead)
    # No access log: it would show query strings, and tokens may be in them.
    # aiohttp unpacks a body before anybody is asked: 64 KB of one can be 64 MB, and take 0.2 s.
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=15.0, auto_decompress=False
    )
    await runner.setup()
    try:
        told = _on_signals()
        await _listen(runner, options.host, options.port)
        print(_greeting(graph, options, runner.addresses[0][1]), flush=True)
        gc.collect()
        gc.freeze()  # what is loaded by now stays, and need not be looked through again and again
        await told.wait()
        print("Draining; Ctrl+C stops at once.", flush=True)
        await attachment.drain()
    finally:
        await runner.cleanup()
    _leave_soon()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise _Unusable(
            f"cannot listen on {host} port {port} (another --port, or --host?): "
            f"{error.strerror or error}"
        ) from None


def _on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; a second SIGINT ends the process at once."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        if told.is_set():
            os._exit(_INTERRUPTED)
        told.set()

    for number, react in ((signal.SIGTERM, told.set), (signal.SIGINT, interrupted)):
        try:
            loop.add_signal_handler(number, react)
        except NotImplementedError:  # Windows

            def pass_on(*_: object, react: Any = react) -> None:
                loop.call_soon_threadsafe(react)

            signal.signal(number, pass_on)
    return told


def _leave_soon() -> None:
    """End the process in a bounded time, even when a node that is not async never ends.

    Such a node has a thread of the event loop's executor, and `asyncio.run` and the interpreter
    would both wait for it.
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    timer = threading.Timer(_EXIT_GRACE, os._exit, [0])
    timer.daemon = True
    timer.start()


def _greeting(graph: Any, options: argparse.Namespace, port: int) -> str:
    anywhere = options.host in ("0.0.0.0", "::")  # noqa: S104 - to print it
    host = "localhost" if anywhere else str(options.host)
    address = f"{f'[{host}]' if ':' in host else host}:{port}{options.path}"
    url = f"ws://{address}"
    served = options.graph or "the built-in demo graph"
    message = '"messages": [{"role": "user", "content": "Hello!"}]'
    if "messages" not in getattr(graph, "channels", ("messages",)):
        message = '"input": {}'
    return f"""\
Serving {served} on {url}

Talk to it in a browser:
    http://{address}
or from another terminal:
    python examples/terminal_chat.py {url}
or with any WebSocket client, by sending:
    {{"type": "new_chat", {message}}}

Ctrl+C lets the runs finish their step, and stops."""


if __name__ == "__main__":
    sys.exit(main())
