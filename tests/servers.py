"""Servers that tests need, on free ports of the loopback, in directories that go with them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def require(program: str) -> str:
    """The path of a program; the test is skipped without it, but not in CI."""
    found = shutil.which(program)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A Redis of its own; it can be killed, stopped and started again."""

    def __init__(self, directory: Path, *, appendonly: bool = False) -> None:
        self.program = require("redis-server")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.directory = directory
        self.appendonly = appendonly
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(self.program, "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self.directory), "--save", "", "--loglevel", "warning"),
                *("--appendonly", "yes" if self.appendonly else "no", "--appendfsync", "always"),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not self.answers():
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()


@contextmanager
def redis_server(directory: Path, *, appendonly: bool = False) -> Iterator[RedisServer]:
    """A Redis that runs."""
    server = RedisServer(directory, appendonly=appendonly)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class SentinelGroup:
    """A Redis, a replica of it, and a sentinel that makes the replica the master when it is gone.

    Attributes:
        url: For the log.
        port: Of the sentinel.
        master: The Redis that is the master at first.
    """

    def __init__(
        self, directory: Path, master: RedisServer, replica: RedisServer, secret: str
    ) -> None:
        self.master = master
        self._replica = replica
        self._secret = secret
        self.port = free_port()
        self._settings = directory / "sentinel.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis+sentinel://127.0.0.1:{self.port}/chat/0"

    def start(self) -> None:
        about = self.master.port
        self._settings.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._settings.parent}\nloglevel warning\n"
            f"sentinel monitor chat 127.0.0.1 {about} 1\n"
            "sentinel down-after-milliseconds chat 400\nsentinel failover-timeout chat 3000\n"
            + (f"requirepass {self._secret}\n" if self._secret else "")
        )
        self._tell(about, "CONFIG SET repl-diskless-sync-delay 0")
        self._tell(self._replica.port, f"REPLICAOF 127.0.0.1 {about}")
        self._wait(about, "INFO replication", "state=online")
        self._process = subprocess.Popen(
            [self.master.program, str(self._settings), "--sentinel"], stdout=subprocess.DEVNULL
        )
        login = f"AUTH {self._secret}\r\n" if self._secret else ""
        self._wait(self.port, f"{login}SENTINEL MASTER chat", "num-slaves\r\n$1\r\n1")

    def fail_over(self) -> None:
        """Kill the master, and wait until the replica is one."""
        self.master.kill()
        self._wait(self.port, "SENTINEL GET-MASTER-ADDR-BY-NAME chat", str(self._replica.port))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _wait(self, port: int, command: str, expected: str) -> None:
        deadline = time.monotonic() + 30
        while expected not in self._tell(port, command):
            assert time.monotonic() < deadline, f"{command}: no {expected!r}"
            time.sleep(0.05)

    @staticmethod
    def _tell(port: int, command: str) -> str:
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as connection:
                connection.sendall(command.encode() + b"\r\n")
                return connection.recv(65_536).decode()
        except OSError:
            return ""


@contextmanager
def sentinel_group(directory: Path, secret: str = "") -> Iterator[SentinelGroup]:
    """Such a group that runs; `secret`: what the sentinel asks for."""
    for name in ("master", "replica"):
        (directory / name).mkdir()
    with redis_server(directory / "master") as master, redis_server(directory / "replica") as other:
        group = SentinelGroup(directory, master, other, secret)
        try:
            group.start()
            yield group
        finally:
            group.stop()


class PostgresServer:
    """A PostgreSQL of its own; it does not run as root, and never syncs."""

    def __init__(self, directory: Path) -> None:
        self._bin = _postgres_bin()
        self._data = directory / "data"
        self._user = "nobody" if os.getuid() == 0 else None
        self.port = free_port()
        self.url = f"postgresql://tests@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            shutil.chown(directory, self._user)

    def start(self) -> None:
        self._run("initdb", "-D", str(self._data), "-U", "tests", "-A", "trust", "--no-sync")
        self._process = subprocess.Popen(
            [
                *(str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port)),
                *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                *("-c", "fsync=off", "-c", "max_connections=200"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
            cwd="/",
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline, "postgres does not answer"
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._user,
            cwd="/",
        )

    def _answers(self) -> bool:
        ready = subprocess.run(
            [str(self._bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            check=False,
        )
        return ready.returncode == 0


def _postgres_bin() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return (found[-1] if found else Path(require("postgres")).resolve()).parent


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that runs."""
    directory = Path(tempfile.mkdtemp(prefix="postgres"))  # pytest's own are closed to others
    try:
        server = PostgresServer(directory)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
