"""The process that bears the load: `python -m tests.load.app options-as-JSON`.

Under `/vitals` it tells what it uses (memory, CPU, files, tasks) and what its
metrics count.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_ws import Limits, MemoryThreadLog, Retention, attach_websocket
from langgraph_ws.log.redis import RedisThreadLog
from langgraph_ws.metrics import Metrics, RunLabels
from langgraph_ws.testing import Reply, ScriptedModel

STATM = Path("/proc/self/statm")
DESCRIPTORS = Path("/proc/self/fd")
STORY = "one two three four five six seven eight nine ten "


class Gauges(Metrics):
    """What has to come back to nothing."""

    def __init__(self) -> None:
        self.values = {"connections": 0, "runs": 0, "ended": 0, "stalled": 0}
        self.lag = 0.0

    def connection_opened(self, protocol: str, seconds: float) -> None:
        self.values["connections"] += 1

    def connection_closed(self, protocol: str, code: int, seconds: float) -> None:
        self.values["connections"] -= 1

    def connection_stalled(self, protocol: str) -> None:
        self.values["stalled"] += 1

    def run_started(self, run: RunLabels) -> None:
        self.values["runs"] += 1

    def run_finished(self, run: RunLabels, status: str, seconds: float) -> None:
        self.values["runs"] -= 1
        self.values["ended"] += 1

    def loop_lag(self, seconds: float) -> None:
        self.lag = max(self.lag, seconds)


def raise_file_limit() -> int:
    """As many open files as the system lets a process have; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def graph() -> Any:
    """Tells a story; or says the time, as often and as long as the message asks for."""
    model = ScriptedModel([Reply(text=STORY, delay=0.005)])

    async def speak(state: MessagesState) -> dict[str, Any]:
        words = state["messages"][-1].text.split()
        if words[0] == "ticks":  # ticks COUNT SECONDS PADDING
            count, pause, padding = int(words[1]), float(words[2]), "x" * int(words[3])
            writer = get_stream_writer()
            for number in range(count):
                writer({"type": "tick", "number": number, "at": time.time(), "padding": padding})
                await asyncio.sleep(pause)
            return {"messages": [AIMessage("that was all")]}
        if words[0] == "fail":
            raise RuntimeError
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState).add_node("speak", speak).add_edge(START, "speak")
    return builder.compile()


async def serve(options: dict[str, Any]) -> None:
    raise_file_limit()
    app = web.Application()
    retention = Retention(**options.get("retention", {}))
    redis = options.get("redis")
    gauges = Gauges()
    attachment = attach_websocket(
        app,
        graph(),
        log=RedisThreadLog(redis, retention=retention) if redis else MemoryThreadLog(retention),
        limits=Limits(connections_per_address=10_000, runs=10_000, threads_per_connection=64),
        metrics=gauges,
        **options.get("attach", {}),
    )

    async def vitals(request: web.Request) -> web.Response:
        gc.collect()
        pages = int(STATM.read_text(encoding="ascii").split()[1])  # noqa: ASYNC240  # no disk
        return web.json_response(
            {
                "rss": pages * os.sysconf("SC_PAGESIZE"),
                "blocks": sys.getallocatedblocks(),
                "cpu": time.process_time(),
                "files": len(os.listdir(DESCRIPTORS)),  # noqa: PTH208
                "tasks": len(asyncio.all_tasks()),
                "open": attachment.connections,
                "threads": attachment.runs.log.size().threads,
                "lag": gauges.lag,
                **gauges.values,
            }
        )

    app.router.add_get("/vitals", vitals)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    site = web.TCPSite(runner, "127.0.0.1", options["port"], backlog=4096, reuse_address=True)
    await site.start()
    print("ready", flush=True)
    await told.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
