"""Several processes behind one port, and clients that check what they see."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from langgraph_ws.client import Client, Reconnect, Run, RunFailedError, connect
from langgraph_ws.log import Entry
from langgraph_ws.log.redis import RedisThreadLog
from tests.faults.app import STEPS, build, opened, text_of
from tests.servers import free_port

T = TypeVar("T")

LEASE_S = 2.0
SPOKEN = ("plan", "left", "right", "first", "second", "act", "finish")


@dataclass(frozen=True, slots=True)
class Note:
    """A node has begun or ended."""

    time: float
    pid: int
    event: str
    node: str
    run_id: str
    task_id: str
    attempt: int


@dataclass
class Cluster:
    """Processes of one application behind one port."""

    directory: Path
    redis: str
    checkpoints: str
    options: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def notes_file(self) -> Path:
        return self.directory / "notes.jsonl"

    async def add(self, *, port: int | None = None) -> subprocess.Popen[str]:
        """Start a process, and wait until it serves."""
        options = {
            "port": port or self.port,
            "redis": self.redis,
            "checkpoints": self.checkpoints,
            "notes": str(self.notes_file),
            "lease": LEASE_S,
        } | self.options
        log = (self.directory / f"process{time.monotonic_ns()}.log").open("w")
        process = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-m", "tests.faults.app", json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        log.close()
        self.processes.append(process)
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert line == "ready\n", self.logs()
        return process

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something beside the scenario, as long as that lasts."""
        task = asyncio.create_task(work)
        self.tasks.append(task)
        return task

    def logs(self) -> str:
        """What the processes have logged, for the message of a failure."""
        found = sorted(self.directory.glob("process*.log"))
        return "\n".join(path.read_text()[-3000:] for path in found)

    async def kill(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        await self._gone(process)

    async def drain(self, process: subprocess.Popen[str]) -> int:
        """Stop a process with SIGTERM; its exit code."""
        process.send_signal(signal.SIGTERM)
        return await self._gone(process)

    async def _gone(self, process: subprocess.Popen[str]) -> int:
        code = await asyncio.to_thread(process.wait, 30)
        self.processes.remove(process)
        assert process.stdout is not None
        process.stdout.close()
        return code

    async def stop(self) -> None:
        """Leave nothing behind, whatever has happened."""
        for process in self.processes:
            process.kill()  # stopped ones, too
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for process in list(self.processes):
            await self._gone(process)

    def notes(self, run_id: str | None = None) -> list[Note]:
        """What the nodes have written down so far."""
        if not self.notes_file.exists():
            return []
        lines = self.notes_file.read_text().splitlines()
        notes = [Note(*json.loads(line)) for line in lines]
        return [note for note in notes if run_id in (None, note.run_id)]

    def owner(self, run_id: str) -> subprocess.Popen[str] | None:
        """The process whose nodes have written last."""
        notes = self.notes(run_id)
        pid = notes[-1].pid if notes else None
        return next((process for process in self.processes if process.pid == pid), None)

    async def owned(self, run_id: str, node: str | None = None) -> subprocess.Popen[str]:
        """The process of a run, once it (or this node of it) has begun."""
        async with asyncio.timeout(20):
            while not any(node in (None, note.node) for note in self.notes(run_id)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        owner = self.owner(run_id)
        assert owner is not None
        return owner

    def client(self, *, port: int | None = None) -> Client:
        url = f"ws://127.0.0.1:{port or self.port}/ws"
        return connect(url, reconnect=Reconnect(delay=0.05, max_delay=0.3, max_attempts=None))

    async def state(self, thread_id: str) -> list[tuple[str, str]]:
        """The messages that are saved: type and text."""
        async with opened(self.checkpoints) as saver:
            graph = build(saver)
            saved = await graph.aget_state({"configurable": {"thread_id": thread_id}})
        return [(message.type, str(message.text)) for message in saved.values["messages"]]

    async def entries(self, thread_id: str) -> Sequence[Entry]:
        """What the log of a thread holds."""
        log = RedisThreadLog(self.redis, prefix=self.options.get("prefix", "faults"))
        try:
            follower = await log.follow(thread_id, None, lambda: None)
            entries = follower.read(1_000_000)
            follower.close()
        finally:
            await log.close()
        return entries

    async def describe(self, thread_id: str, run_ids: Sequence[str]) -> str:
        """All that is known of a conversation, for the message of a failure."""
        entries = await self.entries(thread_id)
        notes = [note for run_id in run_ids for note in self.notes(run_id)]
        return "\n".join([*map(repr, notes), *map(repr, entries), self.logs()])

    async def check_state(self, thread_id: str) -> None:
        """The saved state is that of an undisturbed run."""
        state = await self.state(thread_id)
        spoken = Counter(text for kind, text in state if kind == "ai")
        expected = Counter([*map(text_of, SPOKEN), "you said yes"])
        assert spoken == expected, state
        assert [text for kind, text in state if kind == "tool"] == ["found it"], state
        assert state[-1] == ("ai", text_of("finish")), state

    def check_notes(self, run_ids: Sequence[str]) -> int:
        """No node runs again whose step was over; how many ran again at all."""
        again = 0
        for run_id in run_ids:
            begun: dict[str, list[int]] = {}
            for note in self.notes(run_id):
                if note.event == "begin":
                    begun.setdefault(note.node, []).append(note.attempt)
            for node, attempts in begun.items():
                assert len(set(attempts)) == len(attempts), f"{node} ran twice in one attempt"
                for earlier in sorted(attempts)[:-1]:  # one that was blocked may begin last
                    later = [n for n in begun if STEPS[n] > STEPS[node] and earlier in begun[n]]
                    parallel = [n for n in later if STEPS[n] == 3 and STEPS[node] == 2]
                    if node in ("left", "right"):
                        later = [n for n in later if n not in parallel]
                    assert not later, f"{node} ran again after {later} in attempt {earlier}"
                again += len(attempts) - 1
        return again


@asynccontextmanager
async def cluster(
    directory: Path, redis: str, checkpoints: str, *, processes: int = 2, **options: Any
) -> AsyncIterator[Cluster]:
    """So many processes behind one port."""
    made = Cluster(directory, redis, checkpoints, options)
    async with opened(checkpoints) as saver:
        if saver is not None:
            await saver.setup()  # processes that make the tables together lock each other out
    try:
        for _ in range(processes):
            await made.add()
        yield made
    finally:
        await made.stop()


async def converse(
    client: Client, thread_id: str, on_gap: Callable[[Any], object] | None = None
) -> list[Run]:
    """A whole conversation: a question, and the answer to what the graph asks; its two runs."""
    return await answer_all(await client.new_chat("go", thread_id=thread_id, on_gap=on_gap))


async def answer_all(first: Run) -> list[Run]:
    """The rest of a conversation that has begun."""
    result = await first.result()
    assert result.status == "interrupted", result
    assert [waiting.value for waiting in result.interrupts] == ["go on?"], result
    second = await first.answer("yes")
    result = await second.result()
    assert result.status == "completed", result
    assert result.text == text_of("finish"), result
    return [first, second]


def check_runs(runs: Sequence[Run]) -> None:
    """The client has seen what an undisturbed run shows."""
    said = [
        message.text
        for run in runs
        for message in run.messages
        if message.role == "assistant" and message.status == "finished"
    ]
    expected = [*map(text_of, SPOKEN), "you said yes"]
    assert Counter(said) == Counter(expected), said
    for run in runs:
        assert all(message.status == "finished" for message in run.messages), run.messages


def pids(notes: Sequence[Note]) -> list[int]:
    """The processes of notes, in order, each once."""
    return list(dict.fromkeys(note.pid for note in notes))


__all__ = [
    "LEASE_S",
    "Cluster",
    "Note",
    "RunFailedError",
    "answer_all",
    "check_runs",
    "cluster",
    "converse",
    "os",
    "pids",
]
