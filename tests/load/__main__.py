"""All of it: `python -m tests.load`, or `--quick`, less of each; prints a table of results."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.load import scenarios
from tests.servers import redis_server

Scenario = Callable[[], Awaitable[str]]


def table(*, quick: bool, soak_s: float | None = None) -> list[tuple[str, Scenario]]:
    """What is done; `soak_s`: for how many seconds each soak lasts, None: as long as it does."""

    def pick(few: int, all_of_them: int) -> int:
        return few if quick else all_of_them

    async def soak_redis() -> str:
        with tempfile.TemporaryDirectory() as directory, redis_server(Path(directory)) as redis:
            return await scenarios.soak(
                seconds=soak_s or pick(12, 180), clients=pick(10, 50), redis=redis.url
            )

    return [
        (
            "idle connections",
            lambda: scenarios.idle(connections=pick(300, 9_900), seconds=pick(3, 120)),
        ),
        ("all come back after a kill -9", lambda: scenarios.storm(clients=pick(200, 3_000))),
        (
            "SIGTERM while clients take nothing",
            lambda: scenarios.stuck_at_sigterm(stuck=pick(3, 10), good=pick(50, 500)),
        ),
        (
            "clients that stop reading",
            lambda: scenarios.stuck(stuck=20, good=pick(20, 200), seconds=pick(10, 60)),
        ),
        (
            "one run, many viewers",
            lambda: scenarios.fan_out(viewers=pick(100, 1_000), seconds=pick(3, 60)),
        ),
        (
            "soak, log in memory",
            lambda: scenarios.soak(seconds=soak_s or pick(12, 300), clients=pick(10, 50)),
        ),
        ("soak, log in Redis", soak_redis),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of each")
    parser.add_argument("--only", default="", help="those whose name holds this")
    parser.add_argument("--soak", type=float, help="minutes of each soak (default: 5 and 3)")
    options = parser.parse_args()
    soak_s = options.soak and options.soak * 60
    rows: list[tuple[str, str]] = []
    failed = 0
    began = time.monotonic()
    for name, scenario in table(quick=options.quick, soak_s=soak_s):
        if options.only.lower() not in name.lower():
            continue
        try:
            result = asyncio.run(_awaited(scenario))
        except Exception:
            traceback.print_exc()
            result, failed = "FAILED", failed + 1
        rows.append((name, result))
        print(f"{name}: {result}", flush=True)
    print("\n| What is done | Result |\n|---|---|")
    for name, result in rows:
        print(f"| {name} | {result} |")
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes")
    return 1 if failed else 0


async def _awaited(scenario: Scenario) -> str:
    return await scenario()


if __name__ == "__main__":
    sys.exit(main())
