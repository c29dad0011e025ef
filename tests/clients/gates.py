"""Gates that nodes wait at, as files: any process opens them, and they outlive servers.

A node of the thread `t` that waits at the gate `half` goes on once the file `t.half` exists in the
directory `$GATES`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from langgraph.config import get_config


async def gate(name: str) -> None:
    """Wait, in a node, until the gate of its thread is open."""
    thread_id = get_config()["configurable"]["thread_id"]
    path = Path(os.environ["GATES"]) / f"{thread_id}.{name}"
    while not path.exists():  # noqa: ASYNC110 - who opens it is another process
        await asyncio.sleep(0.005)


def open_gate(directory: Path, thread_id: str, name: str) -> None:
    """Let the nodes of a thread pass."""
    (directory / f"{thread_id}.{name}").touch()
