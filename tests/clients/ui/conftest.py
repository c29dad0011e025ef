"""The server of the tests in this directory, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """The URL of a server that lives as long as this block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.clients.ui.server", *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            try:
                assert process.wait(timeout=30) == 0
            finally:
                process.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as url:
        yield url
