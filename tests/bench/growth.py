"""How cost grows: `python -m tests.bench.growth [FILE.png]`; a picture needs matplotlib.

Server CPU for each token against how many connections there are and how long an answer is, of this
package and of the leanest loop by hand; and what the process grew by in one long answer.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench.__main__ import DELTA, Load, answer, cost, serving

VARIANTS = {"langgraph-ws": "langgraph-ws", "a loop by hand": "messages"}
CONNECTIONS = (1, 5, 20, 50, 100, 200, 500)
LENGTHS = (100, 300, 1_000, 3_000, 10_000, 20_000)
GROWN = (1_000, 10_000, 50_000)
ROUNDS = 3


async def costs(loads: Sequence[Load]) -> dict[str, list[float]]:
    """Of each variant, the median cost of a token under each load."""
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        for load in loads:
            with serving("langgraph-ws", load) as ours, serving("messages", load) as by_hand:
                urls = dict(zip(VARIANTS, (ours, by_hand), strict=True))
                rounds: dict[str, list[float]] = {name: [] for name in VARIANTS}
                for _ in range(ROUNDS + 1):  # the first warms up
                    for name, url in urls.items():
                        rounds[name].append(await cost(session, url, load, DELTA))
            for name, measured in rounds.items():
                found[name].append(statistics.median(measured[1:]))
    return found


async def grown(variant: str, tokens: int) -> float:
    """What the resident set grew by in one answer, in MB."""
    load = Load("", tokens=tokens, delay=0.0, connections=1)
    with serving(variant, load) as url:
        async with aiohttp.ClientSession() as session:

            async def memory() -> int:
                async with session.get(f"{url}/memory") as response:
                    return int(await response.json())

            before = await memory()
            await answer(session, url, DELTA)
            return (await memory() - before) / 1e6


def table(what: str, values: Sequence[int], found: Mapping[str, Sequence[float]]) -> None:
    print(f"\n| {what} | " + " | ".join(f"{value:,}" for value in values) + " |")
    print("|---|" + "---|" * len(values))
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " |", flush=True)


def draw(path: Path, charts: Sequence[tuple[str, Sequence[int], Mapping[str, Any]]]) -> None:
    from matplotlib.figure import Figure  # only the picture needs it

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, (label, values, found) in zip(figure.subplots(1, len(charts)), charts, strict=True):
        for name, row in found.items():
            axes.plot(values, row, marker="o", label=name)
        axes.set(xscale="log", xlabel=label, ylabel="µs of server CPU a token")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


async def main(path: Path | None) -> None:
    paced = [Load("", tokens=100, delay=0.05, connections=number) for number in CONNECTIONS]
    hot = [Load("", tokens=number, delay=0.0, connections=1) for number in LENGTHS]
    by_connections = await costs(paced)
    table("connections, 20 tokens a second each", CONNECTIONS, by_connections)
    by_length = await costs(hot)
    table("tokens of an answer, no pause", LENGTHS, by_length)
    memory = {
        name: [await grown(variant, tokens) for tokens in GROWN]
        for name, variant in VARIANTS.items()
    }
    table("MB that the process grew by in an answer of so many tokens", GROWN, memory)
    if path is not None:
        charts = [
            ("connections, 20 tokens a second each", CONNECTIONS, by_connections),
            ("tokens of an answer, no pause", LENGTHS, by_length),
        ]
        draw(path, charts)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
