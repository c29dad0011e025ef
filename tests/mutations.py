"""Whether the tests would notice: `python -m tests.mutations`.

Each mutation takes something out of a copy of the package that it must not be without, and runs
tests that have to fail then. Prints a table of which did.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXTS = ("pyproject.toml", "README.md", "CHANGELOG.md")
IGNORED = shutil.ignore_patterns("node_modules", "__pycache__", ".git", "*.png")


@dataclass(frozen=True, slots=True)
class Mutation:
    """What is taken out: `old` becomes `new` in a file, once; and the tests that must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str

    def applied(self, text: str) -> str:
        """The text without it.

        Raises:
            ValueError: What is to be taken out is not there, or not once.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(
                f"{self.name}: expected `old` once in {self.file}, found it {count} times"
            )
        return text.replace(self.old, self.new)


MUTATIONS = [
    Mutation(
        "the comparison with another Redis before it is read",
        "log/redis_reader.py",
        'checked = float("-inf")',
        "checked = loop.time()",
        "tests/test_log_redis.py",
    ),
    Mutation(
        "the fence of a write to Redis",
        "log/scripts.py",
        "  if fence ~= FENCE then return {'FENCED'} end\n",
        "",
        "tests/test_log_redis.py tests/test_registry.py",
    ),
    Mutation(
        "the answer to a write that is repeated",
        "log/scripts.py",
        "  if seq then return {seq, time} end  -- the reply to it was lost\n",
        "",
        "tests/test_log_redis.py",
    ),
    Mutation(
        "the check of the lease before a checkpoint",
        "fencing.py",
        "        _check(lease)\n        result = await function",
        "        result = await function",
        "tests/test_takeover.py",
    ),
    Mutation(
        "the check of the lease after a checkpoint",
        "fencing.py",
        "        result = await function(self, *arguments, **named)\n        _check(lease)\n",
        "        result = await function(self, *arguments, **named)\n",
        "tests/test_takeover.py",
    ),
    Mutation(
        "the order of a checkpoint and the writes before it",
        "fencing.py",
        "        if begun:\n            await asyncio.wait(begun)\n",
        "",
        "tests/test_takeover.py",
    ),
    Mutation(
        "the check of the origin",
        "gate.py",
        "if not self.origins.admits(request):",
        "if False:",
        "tests/test_security.py",
    ),
    Mutation(
        "the identity in the key of a thread",
        "runs.py",
        'return f"{identity.id}/{thread_id}" if identity.id else thread_id',
        "return thread_id",
        "tests/test_security.py",
    ),
    Mutation(
        "the rate of messages",
        "connection.py",
        "return self._credit >= 0",
        "return True",
        "tests/test_aiohttp.py",
    ),
    Mutation(
        "the end of who goes on beyond the rate",
        "connection.py",
        "if self._credit < -burst and self._ending is None:",
        "if False:",
        "tests/test_aiohttp.py",
    ),
    Mutation(
        "the bound of a close",
        "connection.py",
        "self._deadline = self._loop.call_later(self._timing.close, self._transport.abort)",
        "self._deadline = None",
        "tests/test_aiohttp.py tests/test_faults.py",
    ),
    Mutation(
        "the end of who takes no byte",
        "connection.py",
        "elif now - self._progress_at >= self._timing.stall:",
        "elif False:",
        "tests/test_aiohttp.py tests/test_faults.py",
    ),
    Mutation(
        "the rest after a blocked event loop",
        "aiohttp.py",
        "continue  # what clients have sent",
        "pass  # what clients have sent",
        "tests/test_security.py",
    ),
    Mutation(
        "the deduplication in the client",
        "client/view.py",
        "        if message.seq <= self._seq:\n            return False\n",
        "",
        "tests/test_client.py",
    ),
    Mutation(
        "the growth of the delay between attempts",
        "client/reconnect.py",
        "self.delay * 1.5**exponent",
        "self.delay",
        "tests/test_client.py",
    ),
    Mutation(
        "the jitter of the delay",
        "client/reconnect.py",
        "(1 + self.jitter * (2 * self.random() - 1))",
        "1",
        "tests/test_client.py",
    ),
    Mutation(
        "that pieces of different messages are not merged",
        "sink.py",
        "said is None or said.message_id != block.message_id or said.index != block.index:",
        "said is None:",
        "tests/test_sink.py",
    ),
    Mutation(
        "the bound of what waits for the log",
        "sink.py",
        "if len(self._pending) >= self._limits.pending_frames:",
        "if False:",
        "tests/test_sink.py tests/test_runs.py",
    ),
]


def survives(mutation: Mutation) -> bool:
    """Whether all tests pass without it."""
    with tempfile.TemporaryDirectory(prefix="mutation") as name:
        tree = Path(name)
        for folder in ("langgraph_ws", "tests", "examples"):
            shutil.copytree(ROOT / folder, tree / folder, ignore=IGNORED)
        for text in TEXTS:
            shutil.copy(ROOT / text, tree)
        path = tree / "langgraph_ws" / mutation.file
        path.write_text(mutation.applied(path.read_text()))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
                *mutation.tests.split(),
            ],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", default="", help="those whose name holds this")
    options = parser.parse_args()
    survivors = 0
    print("| What is taken out | Tests |\n|---|---|")
    for mutation in MUTATIONS:
        if options.only in mutation.name:
            alive = survives(mutation)
            survivors += alive
            print(f"| {mutation.name} | {'PASS ALL THE SAME' if alive else 'fail'} |", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
