"""All of it: `python -m tests.faults`, or `--quick`, a few of each; prints a table of results."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.faults import scenarios
from tests.servers import RedisServer, postgres_server, redis_server

Scenario = Callable[[Path, RedisServer, str], Awaitable[str]]


def table(quick: bool) -> list[tuple[str, str, Scenario]]:
    """What is done, over which checkpointer."""
    few = 1 if quick else 0

    def kill(kills: int, seed: int) -> Scenario:
        return lambda *where: scenarios.kill_owners(*where, kills=kills, seed=seed)

    return [
        ("kill -9 of the owner at random moments", "PostgreSQL", kill(4 if few else 70, 1)),
        ("kill -9 of the owner at random moments", "SQLite", kill(2 if few else 30, 2)),
        (
            "kill -9 under the JavaScript client",
            "SQLite",
            lambda *where: scenarios.kill_under_javascript(*where, times=few or 8),
        ),
        (
            "kill -9 under the official clients",
            "SQLite",
            lambda *where: scenarios.kill_under_official_clients(*where, times=few or 8),
        ),
        (
            "kill -9 under the playground, in a browser",
            "SQLite",
            lambda *where: scenarios.kill_under_playground(*where, times=few or 8),
        ),
        (
            "SIGSTOP longer than the lease, and back",
            "PostgreSQL",
            lambda *where: scenarios.stop_owner(*where, times=few or 50),
        ),
        (
            "a node that blocks the event loop",
            "PostgreSQL",
            lambda *where: scenarios.block_owner(*where, times=few or 4),
        ),
        (
            "answer, cancel, double texting at another process",
            "PostgreSQL",
            lambda *where: scenarios.ask_elsewhere(*where, times=few or 10),
        ),
        (
            "rolling restart of two processes",
            "PostgreSQL",
            lambda *where: scenarios.rolling_restart(
                *where, restarts=few * 2 or 10, runs=6 if few else 20
            ),
        ),
        (
            "kill -9 of Redis with AOF",
            "PostgreSQL",
            lambda *where: scenarios.kill_redis(*where, kills=few * 2 or 20),
        ),
        (
            "kill -9 of Redis's master, under a sentinel",
            "PostgreSQL",
            lambda *where: scenarios.fail_over(*where, times=few or 8),
        ),
        (
            "kill -9 of a master of a Redis Cluster",
            "PostgreSQL",
            lambda *where: scenarios.fail_over_in_cluster(*where, times=few or 8),
        ),
        (
            "slots of a Redis Cluster moved, key by key",
            "PostgreSQL",
            lambda *where: scenarios.move_slots(*where, times=few * 2 or 8),
        ),
        (
            "Redis wiped in mid-run",
            "PostgreSQL",
            lambda *where: scenarios.wipe_redis(*where, times=few or 6),
        ),
        ("Redis away for too long", "PostgreSQL", scenarios.lose_redis),
        (
            "kill -9 without a checkpointer",
            "none",
            lambda directory, redis, _: scenarios.lose_without_checkpoints(directory, redis),
        ),
    ]


def run(scenario: Scenario, checkpoints: str) -> str:
    directory = Path(tempfile.mkdtemp(prefix="faults"))
    try:
        with redis_server(directory, appendonly=True) as redis:
            address = checkpoints or str(directory / "checkpoints.db")
            return asyncio.run(scenario(directory, redis, address))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--only", default="", help="those whose name holds this")
    options = parser.parse_args()
    rows: list[tuple[str, str, str, float]] = []
    failed = 0
    with postgres_server() as postgres:
        addresses = {"PostgreSQL": postgres.url, "SQLite": "", "none": "none"}
        for name, saver, scenario in table(options.quick):
            if options.only.lower() not in name.lower():
                continue
            began = time.monotonic()
            try:
                result = run(scenario, addresses[saver])
            except Exception:
                traceback.print_exc()
                result, failed = "FAILED", failed + 1
            rows.append((name, saver, result, time.monotonic() - began))
            print(f"{name} ({saver}): {result}", flush=True)
    print("\n| What is done | Checkpoints | Result |\n|---|---|---|")
    for name, saver, result, _ in rows:
        print(f"| {name} | {saver} | {result} |")
    print(f"\n{sum(seconds for *_, seconds in rows) / 60:.1f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
