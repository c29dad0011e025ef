"""What a token costs: `python -m tests.bench`.

Server CPU for each token, from the process's own accounting, of this package's route and of what
one writes by hand, in one run on one machine. Compare the ratios: microseconds differ from machine
to machine, and from run to run on a busy one. The client is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.servers import redis_server

START = {"type": "new_chat", "messages": [{"role": "user", "content": "go"}]}
DELTA = {**START, "options": {"text": "delta"}}
OVER_REDIS = "langgraph-ws, deltas, its log in Redis"
VARIANTS = {
    "the graph alone (`astream`, messages)": ("bare", START),
    "by hand, `astream` (messages)": ("messages", START),
    "by hand, `astream_events`": ("events", START),
    "langgraph-ws, deltas": ("langgraph-ws", DELTA),
    "langgraph-ws, deltas, none waits for the next (`merge_window=0`)": ("unmerged", DELTA),
    "langgraph-ws, text so far": ("langgraph-ws", START),
    OVER_REDIS: ("langgraph-ws", DELTA),
}


@dataclass(frozen=True)
class Load:
    """Answers of so many tokens, some seconds apart, on so many connections at once, in a row."""

    name: str
    tokens: int
    delay: float
    connections: int
    answers: int = 1


LOADS = [
    Load("hot: 1 connection, no delay", tokens=1_000, delay=0.0, connections=1, answers=10),
    Load("paced: 50 connections, 5 ms a token", tokens=500, delay=0.005, connections=50),
]


@contextmanager
def serving(variant: str, load: Load, redis: str = "") -> Iterator[str]:
    """The URL of a server that lives as long as this block."""
    command = [sys.executable, "-m", "tests.bench.server", variant]
    with subprocess.Popen(
        [*command, str(load.tokens), str(load.delay), redis],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait(30)


async def answer(session: aiohttp.ClientSession, url: str, message: dict[str, object]) -> None:
    async with session.ws_connect(f"{url}/ws", max_msg_size=0) as ws:
        await ws.send_json(message)
        async for received in ws:
            if json.loads(received.data)["type"] == "end":
                return
    raise AssertionError("the connection ended before the answer")


async def cost(
    session: aiohttp.ClientSession, url: str, load: Load, message: dict[str, object]
) -> float:
    """Microseconds of server CPU for each token."""

    async def used() -> float:
        async with session.get(f"{url}/cpu") as response:
            return float(await response.json())

    before = await used()
    for _ in range(load.answers):
        await asyncio.gather(*(answer(session, url, message) for _ in range(load.connections)))
    return (await used() - before) / (load.tokens * load.connections * load.answers) * 1e6


async def measure(load: Load, rounds: int) -> dict[str, float]:
    """The median of the rounds, in microseconds of server CPU for each token, of each variant.

    The variants take turns, so that what else the machine does meets all of them alike.
    """
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        AsyncExitStack() as stack,
    ):
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(redis_server(directory)).url
        urls = {
            name: stack.enter_context(serving(variant, load, redis if name is OVER_REDIS else ""))
            for name, (variant, _) in VARIANTS.items()
        }
        for _ in range(rounds + 1):
            for name, (_, message) in VARIANTS.items():
                found[name].append(await cost(session, urls[name], load, message))
    # The first round warms up.
    return {name: statistics.median(costs[1:]) for name, costs in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default: 5)")
    rounds = parser.parse_args().rounds
    for load in LOADS:
        print(f"\n{load.name}\n\n| | µs of server CPU a token | ratio |\n|---|---|---|")
        costs = asyncio.run(measure(load, rounds))
        base = next(iter(costs.values()))
        for name, cost in costs.items():
            print(f"| {name} | {cost:.0f} | {cost / base:.2f} |", flush=True)


if __name__ == "__main__":
    main()
