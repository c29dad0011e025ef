"""Bad frames, bad handshakes and slow clients by the thousand, with good clients beside them."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.rawsocket import PING, TEXT, RawClient
from tests.security import rfc6455

P99_S = 0.2
GROWTH = 50 * 2**20
HEALTHY = 20
EVERY_S = 0.05
"""How often a good client asks something."""
DRIP_S = 0.5
QUIET_S = 1.0
UNANSWERED_S = 0.5
"""How long an attacker waits for the answer to what may look unfinished."""
PATIENCE_S = 20.0
DEFLATED = gzip.compress(bytes(64 * 2**20), 9)
"""64 MB in 64 KB."""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
UPGRADE = rfc6455.GOOD.encode()
HANDSHAKES: dict[str, Callable[[random.Random], bytes]] = {
    "random bytes": lambda rng: rng.randbytes(rng.randrange(1, 2_000)) + b"\r\n\r\n",
    "TLS": lambda rng: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(508),
    "HTTP/2": lambda _: HTTP2_PREFACE,
    "a header without a colon": lambda _: b"GET /ws HTTP/1.1\r\nHost\r\n\r\n",
    "a header of 100 KB": lambda _: b"GET /ws HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "an address of 100 KB": lambda _: b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "10,000 headers": lambda _: b"GET /ws HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
    "a NUL": lambda _: b"GET /ws HTTP/1.1\r\nHost: a\0b\r\n" + UPGRADE[9:] + b"\r\n\r\n",
    "two lengths": lambda _: (
        b"POST /ws/agui HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"
    ),
    "a length below 0": lambda _: (
        b"POST /ws/agui HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"
    ),
    "a length and chunks": lambda _: (
        b"POST /ws/agui HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n"
    ),
    "a version that there is not": lambda _: b"GET /ws HTTP/9.9\r\nHost: a\r\n\r\n",
    "another method": lambda _: b"BREW /ws HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path up": lambda _: b"GET /ws/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    **{
        each.name: lambda _, each=each: each.request.encode() + b"\r\n\r\n"
        for each in rfc6455.HANDSHAKES
        if each.status != 101 and each.name != "HTTP/1.0"
    },
}
"""Handshakes of which none may end in an upgrade."""


@dataclass
class Server:
    """The attacked process."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def resident(self) -> int:
        """Bytes of memory that it holds."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def attacked() -> AsyncIterator[Server]:
    """A server in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        with path.open("w") as log:
            process = await asyncio.to_thread(
                subprocess.Popen,
                [sys.executable, "-m", "tests.security.app"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=Path(__file__).parents[2],
            )
        assert process.stdout is not None
        try:
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, path.read_text()
            yield Server(process, int(line), path)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0, path.read_text()
            finally:
                process.kill()
                process.stdout.close()


@dataclass
class Attack:
    """What attackers do until it is over.

    Attributes:
        port: Where the server is.
        until: When it is over, by the clock of the event loop.
        done: How often each was done.
        wrong: What was answered otherwise than it must be.
    """

    port: int
    until: float
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return asyncio.get_running_loop().time() >= self.until

    async def bad_frames(self, number: int) -> None:
        """Every case of RFC 6455, on a connection each."""
        rng = random.Random(self.seed + number)
        while not self.over:
            case = rng.choice(rfc6455.CASES)
            came = await rfc6455.closed_or_alive(self.port, case)
            self.done["frames"] += 1
            if came != rfc6455.DEVIATIONS.get(case.name, case.expected):
                self.wrong.append(f"{case.name}: {came}")

    async def bad_handshakes(self, number: int) -> None:
        rng = random.Random(self.seed + number)
        while not self.over:
            name, make = rng.choice(list(HANDSHAKES.items()))
            answer = await self._answer(make(rng))
            self.done["handshakes"] += 1
            if b" 101 " in answer or (answer and not answer.startswith(b"HTTP/1.")):
                self.wrong.append(f"{name}: {answer[:100]!r}")

    async def bombs(self, number: int) -> None:
        """Bodies of HTTP requests that are a thousand times as long when they are unpacked."""
        head = f"POST /ws/agui HTTP/1.1\r\nHost: a\r\nContent-Length: {len(DEFLATED)}\r\n"
        sent = f"{head}Content-Encoding: gzip\r\nConnection: close\r\n\r\n".encode() + DEFLATED
        while not self.over:
            answer = await self._answer(sent)
            self.done["bombs"] += 1
            if answer and not answer.startswith(b"HTTP/1.1 415"):
                self.wrong.append(f"a bomb: {answer[:100]!r}")

    async def _answer(self, sent: bytes) -> bytes:
        """What comes of some bytes; nothing, where the connection is dropped."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
        try:
            async with asyncio.timeout(UNANSWERED_S):
                return await reader.read(500)
        except (ConnectionError, TimeoutError):
            return b""
        finally:
            writer.transport.abort()

    async def slow_handshake(self, number: int) -> None:
        """A handshake byte by byte, without an end."""
        while not self.over:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET /ws HTTP/1.1\r\n")
            self.done["slow handshakes"] += 1
            with suppress(ConnectionError):
                while not (self.over or reader.at_eof()):
                    writer.write(b"x" if number % 2 else b"X: y\r\n")
                    await writer.drain()
                    await asyncio.sleep(DRIP_S)
            writer.transport.abort()

    async def slow_frame(self, number: int) -> None:
        """A message byte by byte; who does not answer pings meanwhile is dropped."""
        del number
        data = rfc6455.raw(0x80 | TEXT, b"x" * 60_000)
        while not self.over:
            client = await RawClient.connect(self.port)
            self.done["slow frames"] += 1
            with suppress(ConnectionError):
                for at in range(len(data)):
                    if self.over:
                        break
                    await client.write(data[at : at + 1])
                    await asyncio.sleep(DRIP_S)
            client.close()

    async def pings(self, number: int) -> None:
        """Pings without a pause; who goes on is closed with 4429."""
        del number
        data = rfc6455.raw(0x80 | PING, b"p" * 100) * 20
        while not self.over:
            client = await RawClient.connect(self.port)
            with suppress(ConnectionError):
                for _ in range(20):
                    await client.write(data)
            with suppress(EOFError, ConnectionError):
                async with asyncio.timeout(PATIENCE_S):
                    code = await client.receive_close()
                    if code != 4429:
                        self.wrong.append(f"pings: {code}")
            self.done["floods of pings"] += 1
            client.close()


@dataclass
class Healthy:
    """Good clients, that ask and are answered.

    Attributes:
        waits: How long they waited for their answers.
        sizes: How much memory the server held meanwhile.
    """

    server: Server
    waits: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return sorted(self.waits)[int(len(self.waits) * 0.99)]

    async def talk(self, session: aiohttp.ClientSession, meanwhile: asyncio.Task[str]) -> None:
        async with session.ws_connect(f"http://127.0.0.1:{self.server.port}/ws") as ws:
            while not meanwhile.done():
                began = time.perf_counter()
                await ws.send_json({"type": "ping"})
                while (await ws.receive_json(timeout=PATIENCE_S))["type"] != "pong":
                    pass
                self.waits.append(time.perf_counter() - began)
                self.sizes.append(self.server.resident)
                await asyncio.sleep(EVERY_S)

    async def beside(self, attack: Coroutine[Any, Any, str]) -> str:
        """Talk as long as an attack lasts; what came of that."""
        under_way = asyncio.create_task(attack)
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self.talk(session, under_way) for _ in range(HEALTHY)))
        return await under_way


async def attack(port: int, seconds: float, attackers: int, seed: int) -> Attack:
    """Do everything at once, for so long."""
    under_way = Attack(port, asyncio.get_running_loop().time() + seconds, seed)
    await asyncio.gather(*_kinds(under_way, attackers))
    return under_way


async def _attack_from_elsewhere(*arguments: Any) -> str:
    """Attack in a process of its own, so that good clients do not wait for attackers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.security.flood", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    return told.decode()


async def check(*, seconds: float, attackers: int, timed: bool) -> str:
    """Attack for so long with so many at once of each kind.

    Args:
        seconds: How long.
        attackers: How many connections of each kind at once; ten times as many that are slow.
        timed: Whether it is asserted how long good clients wait.
    """
    seed = random.randrange(1 << 32)
    async with attacked() as server:
        first = await attack(server.port, 1.0, 1, seed)
        quiet = Healthy(server)
        await quiet.beside(asyncio.sleep(QUIET_S, ""))
        share = await asyncio.to_thread(_share)
        healthy, before = Healthy(server), server.resident
        came = _attack_from_elsewhere(server.port, seconds, attackers, seed)
        second = json.loads(await healthy.beside(came))
        log = server.log.read_text("utf-8", "replace")
    wrong = first.wrong + second["wrong"]
    assert not wrong, f"seed {seed}: {wrong[:5]}"
    growth = max(healthy.sizes) - before
    assert growth < GROWTH, f"{growth >> 20} MiB"
    unexpected = tracebacks(log)
    assert not unexpected, unexpected[0][:3_000]
    p99, without = healthy.p99, quiet.p99
    if timed:  # on a machine that is busy with something else, everything takes longer
        assert p99 < P99_S / share, f"p99 {p99 * 1000:.0f} ms with {share:.0%} of a core"
    done = ", ".join(f"{times:,} {what}" for what, times in sorted(second["done"].items()))
    return (
        f"{done}; +{growth >> 20} MiB; {len(healthy.waits):,} good answers, "
        f"p99 {p99 * 1000:.0f} ms ({without * 1000:.0f} ms without an attack, "
        f"{share:.0%} of a core to be had)"
    )


def _share() -> float:
    """How much of a core this process is given, when it asks for all of one."""
    began, used = time.monotonic(), time.thread_time()
    while time.monotonic() < began + QUIET_S:
        pass
    return (time.thread_time() - used) / (time.monotonic() - began)


def _kinds(attack: Attack, many: int) -> list[Coroutine[Any, Any, None]]:
    quick = (attack.bad_frames, attack.bad_handshakes)
    slow = (attack.slow_handshake, attack.slow_frame)
    rare = (attack.bombs, attack.pings)
    return [
        *(kind(number) for kind in quick for number in range(many)),
        *(kind(number) for kind in slow for number in range(many * 10)),
        *(kind(number) for kind in rare for number in range(max(1, many // 8))),
    ]


def tracebacks(log: str) -> list[str]:
    """The tracebacks of a log, but those of aiohttp over requests that are no HTTP."""
    records = re.split(r"^(?=(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):)", log, flags=re.MULTILINE)
    found = [record for record in records if "Traceback" in record]
    return [
        record
        for record in found
        if not (record.startswith("ERROR:aiohttp.server:") and "aiohttp.http_exceptions." in record)
    ]


def main() -> None:
    port, seconds, attackers, seed = sys.argv[1:]
    done = asyncio.run(attack(int(port), float(seconds), int(attackers), int(seed)))
    print(json.dumps({"done": done.done, "wrong": done.wrong}))


if __name__ == "__main__":
    main()
