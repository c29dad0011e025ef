"""All of it, with full loads: `python -m tests.security`; prints a table of results.

With `atheris` installed the fuzzing is guided by coverage; with `--autobahn` that suite runs, too.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
import traceback
from collections.abc import Callable

from tests.security import autobahn, canaries, flood, fuzz, origins, rfc6455, tenants


def table(options: argparse.Namespace) -> dict[str, Callable[[], str]]:
    """What is done."""
    return {
        "origins and credentials": lambda: asyncio.run(origins.check()),
        "what belongs to another": lambda: asyncio.run(tenants.check(rounds=101)),
        "secrets": lambda: asyncio.run(canaries.check()),
        "bad clients beside good ones": lambda: asyncio.run(
            flood.check(seconds=60, attackers=16, timed=True)
        ),
        "RFC 6455 on bare sockets": lambda: asyncio.run(rfc6455.check()),
        **(
            {"Autobahn": lambda: asyncio.run(autobahn.check(options.autobahn))}
            if options.autobahn
            else {}
        ),
        "fuzzing": lambda: fuzz.check(seconds=options.seconds, inputs=20_000),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security", description=__doc__)
    parser.add_argument("--only", default="", help="those whose name holds this")
    parser.add_argument("--seconds", type=int, default=60, help="of each target of the fuzzer")
    parser.add_argument("--autobahn", help="the program `wstest` of autobahntestsuite")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    results: dict[str, str] = {}
    failed = 0
    for name, check in table(options).items():
        if options.only.lower() not in name.lower():
            continue
        began = time.monotonic()
        try:
            results[name] = check()
        except Exception:
            traceback.print_exc()
            results[name], failed = "FAILED", failed + 1
        print(f"{name} ({time.monotonic() - began:.0f} s): {results[name]}", flush=True)
    print("\n| What is done | Result |\n|---|---|")
    for name, result in results.items():
        print(f"| {name} | {result} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
