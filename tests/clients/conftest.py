"""What the tests of the official clients share: the server, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path

import pytest

from tests.clients.gates import open_gate

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """A server process.

    Attributes:
        port: Its port, on loopback.
        gates: The directory of its gates.
        path: Where its graphs are attached.
    """

    port: int
    gates: Path
    path: str = "/agent"

    @property
    def url(self) -> str:
        """The `apiUrl` of the attached graphs."""
        return self.at(self.path)

    def at(self, path: str) -> str:
        """The URL of another path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def open(self, thread_id: str, gate: str) -> None:
        """Let the nodes of a thread pass."""
        open_gate(self.gates, thread_id, gate)


@contextmanager
def serving(gates: Path, *options: str) -> Iterator[Server]:
    """A server that lives as long as this block; it ends as it does when it is told to stop."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.clients.server", *options],
        cwd=ROOT,
        env={**environ, "GATES": str(gates)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield Server(int(process.stdout.readline()), gates)
        finally:
            process.stdin.close()
            try:
                assert process.wait(timeout=30) == 0
            finally:
                process.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of all tests that do not stop theirs.

    To run the scenarios against another one (`langgraph dev` with `tests.clients.graphs`), give its
    port in `$OTHER_SERVER` and the directory of its gates in `$GATES`.
    """
    if "OTHER_SERVER" in environ:
        yield Server(int(environ["OTHER_SERVER"]), Path(environ["GATES"]), path="")
        return
    with serving(tmp_path_factory.mktemp("gates")) as started:
        yield started
