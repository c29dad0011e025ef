"""What holds for every test: it leaves no task, no socket and no thread behind."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

_PATIENCE = 5.0
"""Seconds that what has been closed gets to be gone; a clean test needs a few milliseconds."""
_POOLS = ("asyncio_", "ThreadPoolExecutor")
"""Threads of pools wait for more work; they end with their loop or with the process."""


def _sockets() -> set[str]:
    if sys.platform != "linux":
        return set()
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:  # that of the listing itself
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith(_POOLS)}


def _tasks() -> set[str]:
    current = asyncio.current_task()
    return {repr(task) for task in asyncio.all_tasks() if task is not current}


_COUNTED: dict[str, Callable[[], set[str]]] = {
    "tasks": _tasks,
    "sockets": _sockets,
    "threads": _threads,
}


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    before = {what: count() for what, count in _COUNTED.items()}
    yield
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while left := {
        what: new for what, count in _COUNTED.items() if (new := count() - before[what])
    }:
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"the test left behind: {left}")
        await asyncio.sleep(0.01)
