"""A server to be attacked: `python -m tests.security.app`; it says its port, and logs to stderr."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal

from aiohttp import web
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_ws import Limits, attach_websocket
from langgraph_ws.protocols import PROTOCOLS
from tests.graphs import chat


async def serve() -> None:
    app = web.Application()
    graph = chat("Hello there.", saver=InMemorySaver())
    limits = Limits(connections_per_address=10_000)
    attach_websocket(app, {"graph": graph}, protocols=PROTOCOLS, limits=limits, heartbeat=5.0)
    runner = web.AppRunner(  # as SECURITY.md has it, and shorter
        app, access_log=None, keepalive_timeout=5.0, auto_decompress=False, shutdown_timeout=1.0
    )
    await runner.setup()
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4_096).start()
    gc.collect()
    gc.freeze()
    print(runner.addresses[0][1], flush=True)
    await told.wait()
    await runner.cleanup()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(serve())
