"""The server that the official clients talk to, as a process of its own.

`python -m tests.clients.server` prints its port and serves until its standard input ends, so that
it never outlives the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from langgraph_ws import Identity, Limits, attach_websocket
from tests.clients.graphs import graphs

PROTOCOLS = ("chat", "langchain")
KEYS = {"key-of-ann": "ann", "key-of-bob": "bob"}


def main() -> None:
    """Serve what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--database", type=Path, help="keep checkpoints here, not in memory")
    parser.add_argument("--pages", type=Path, help="a directory whose files are served at /page/")
    asyncio.run(serve(parser.parse_args()))


async def serve(options: argparse.Namespace) -> None:
    """Serve until the standard input ends."""
    async with saver(options.database) as checkpointer:
        app = web.Application()
        named = graphs(checkpointer)
        attach_websocket(
            app,
            named,
            "/agent",
            protocols=PROTOCOLS,
            allow_state_updates=True,
            limits=Limits(message_bytes=4 * 2**20),
        )
        attach_websocket(app, named, "/private", protocols=PROTOCOLS, authorize=owner)
        attach_websocket(app, graphs(), "/forgetful", protocols=PROTOCOLS)
        attach_websocket(app, named, "/shared", protocols=PROTOCOLS, allowed_origins=["*"])
        if options.pages is not None:
            app.router.add_static("/page", options.pages)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", options.port, reuse_port=True).start()
            print(runner.addresses[0][1], flush=True)
            await asyncio.to_thread(sys.stdin.read)
        finally:
            await runner.cleanup()


@asynccontextmanager
async def saver(database: Path | None) -> AsyncIterator[Any]:
    """Where checkpoints are kept."""
    if database is None:
        yield InMemorySaver()
        return
    async with AsyncSqliteSaver.from_conn_string(str(database)) as checkpointer:
        yield checkpointer


def owner(request: web.Request) -> Identity:
    """Whose key the request carries, as a header or (browsers) as a cookie."""
    key = request.headers.get("x-api-key") or request.cookies.get("key")
    if key not in KEYS:
        raise web.HTTPUnauthorized
    return Identity(id=KEYS[key])


if __name__ == "__main__":
    main()
