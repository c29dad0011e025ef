"""What many clients cost: `python -m tests.bench.scale`.

One server process, and this one as all of its clients. Server CPU is the process's own accounting,
memory is what its resident set grew by.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable

import aiohttp

from tests.bench.__main__ import DELTA, LOADS, START, Load, cost, serving
from tests.rawsocket import PING, PONG, RawClient

VIEWERS = 300
ROUNDS = 5
IDLE = 2_000
REATTACHED = 3_000


class Site:
    """A server that is measured."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def connect(self) -> aiohttp.ClientWebSocketResponse:
        return await self.session.ws_connect(f"{self.url}/ws", max_msg_size=0)

    async def cpu(self) -> float:
        async with self.session.get(f"{self.url}/cpu") as response:
            return float(await response.json())

    async def memory(self) -> int:
        """The resident set, in bytes."""
        async with self.session.get(f"{self.url}/memory") as response:
            return int(await response.json())


async def until(ws: aiohttp.ClientWebSocketResponse, kind: str) -> int:
    """Read to the first message of a type; how many came."""
    count = 0
    async for message in ws:
        count += 1
        if json.loads(message.data)["type"] == kind:
            return count
    raise AssertionError("the connection ended")


async def first_token(variant: str) -> float:
    """The median time from a question to the first piece of its answer, in milliseconds."""
    load = Load("", tokens=3, delay=0.0, connections=1)
    with serving(variant, load) as url:
        async with aiohttp.ClientSession() as session:
            ws = await Site(session, url).connect()
            waited = []
            for _ in range(30):  # a connection may follow 32 threads
                began = time.perf_counter()
                await ws.send_json(DELTA)
                await until(ws, "text")
                waited.append(time.perf_counter() - began)
                await until(ws, "end")
            await ws.close()
    return statistics.median(waited[5:]) * 1e3


async def fan_out(site: Site) -> float:
    """Microseconds of server CPU for each message that one of many viewers of a run is sent."""
    speaker = await site.connect()
    viewers = [await site.connect() for _ in range(VIEWERS)]
    for ws in viewers:
        await ws.send_json({"type": "attach", "thread_id": "t", "options": {"text": "delta"}})
        await until(ws, "run")
    before = await site.cpu()
    await speaker.send_json({**DELTA, "thread_id": "t"})
    delivered = sum(await asyncio.gather(*(until(ws, "end") for ws in (speaker, *viewers))))
    used = await site.cpu() - before
    for ws in (speaker, *viewers):
        await ws.close()
    return used / delivered * 1e6


async def many_viewers() -> str:
    """What a delivery costs here and by hand, and a token the graph alone (50 streams, paced).

    The three take turns, so that what else the machine does meets all of them alike.
    """
    load = Load("", tokens=150, delay=1 / 30, connections=1)
    found: dict[str, list[float]] = {"langgraph-ws": [], "many": [], "bare": []}
    for _ in range(ROUNDS):
        for variant, costs in found.items():
            paced = LOADS[1] if variant == "bare" else load
            with serving(variant, paced) as url:
                async with aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0)
                ) as session:
                    if variant == "bare":
                        costs.append(await cost(session, url, paced, START))
                    else:
                        costs.append(await fan_out(Site(session, url)))
    ours, by_hand, bare = (statistics.median(costs) for costs in found.values())
    return (
        f"{ours:.1f} µs of CPU a delivery; by hand {by_hand:.1f} µs; "
        f"{ours / bare:.3f} of a token of the graph alone ({bare:.0f} µs)"
    )


async def idle(site: Site) -> str:
    """Memory for each connection that has followed a thread and says nothing."""
    before = await site.memory()
    connections = []
    for number in range(IDLE):
        ws = await site.connect()
        await ws.send_json({"type": "attach", "thread_id": f"idle-{number}"})
        await until(ws, "run")
        connections.append(ws)
    grown = await site.memory() - before
    await asyncio.gather(*(ws.close() for ws in connections))
    return f"{grown / IDLE / 1e3:.1f} KB a connection ({IDLE} connections)"


async def reattach(site: Site) -> str:
    """How long it takes until all have what they missed."""
    speaker = await site.connect()
    await speaker.send_json({**DELTA, "thread_id": "again"})
    await until(speaker, "end")
    position = {"type": "attach", "thread_id": "again", "options": {"text": "delta"}}

    async def catch_up() -> int:
        ws = await site.connect()
        await ws.send_json(position)
        count = await until(ws, "end")
        await ws.close()
        return count

    began = time.perf_counter()
    counts = await asyncio.gather(*(catch_up() for _ in range(REATTACHED)))
    await speaker.close()
    waited = time.perf_counter() - began
    return f"{waited:.1f} s until {REATTACHED} clients had {counts[0]} messages each"


async def text_so_far(site: Site) -> str:
    """What an answer of 2,000 tokens weighs when each message holds all of its text so far."""
    port = int(site.url.rpartition(":")[2])
    client = await RawClient.connect(port, Sec_WebSocket_Extensions="permessage-deflate")
    await client.send(START)
    while True:
        opcode, payload = await client.receive_frame()
        if opcode == PING:
            await client.send_frame(PONG, payload)
        elif json.loads(payload)["type"] == "end":
            break
    client.close()
    return f"{client.payload / 1e6:.2f} MB"


async def measured(
    name: str, load: Load, measure: Callable[[Site], Awaitable[str]], variant: str = "langgraph-ws"
) -> None:
    with serving(variant, load) as url:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            print(f"| {name} | {await measure(Site(session, url))} |", flush=True)


async def main() -> None:
    print("| | |\n|---|---|")
    waited = [
        (await first_token("langgraph-ws"), await first_token("messages")) for _ in range(ROUNDS)
    ]
    ours, by_hand = map(statistics.median, zip(*waited, strict=True))
    print(f"| first token | {ours:.1f} ms; by hand {by_hand:.1f} ms |", flush=True)
    paced = Load("", tokens=150, delay=1 / 30, connections=1)
    name = f"{VIEWERS} viewers of one run, 30 tokens a second"
    print(f"| {name} | {await many_viewers()} |", flush=True)
    await measured("idle connection", paced, idle)
    quick = Load("", tokens=195, delay=0.03, connections=1)
    await measured("all come back at once", quick, reattach)
    long = Load("", tokens=2_000, delay=1 / 30, connections=1)
    await measured("2,000 tokens, text so far", long, text_so_far)
    await measured("the same, compressed", long, text_so_far, "compressed")


if __name__ == "__main__":
    asyncio.run(main())
