"""Servers that tests need, on free ports of the loopback, in directories that go with them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
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


def tell(port: int, command: str) -> str:
    """What a Redis or a sentinel answers; nothing, if it does not."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65_536).decode()
    except OSError:
        return ""


def wait_until(port: int, command: str, expected: str) -> None:
    """Wait until the answer to a command holds a text."""
    deadline = time.monotonic() + 30
    while expected not in tell(port, command):
        assert time.monotonic() < deadline, f"{command}: no {expected!r}"
        time.sleep(0.05)


class RedisServer:
    """A Redis of its own; it can be killed, stopped and started again."""

    def __init__(
        self,
        directory: Path,
        *,
        appendonly: bool = False,
        port: int | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.program = require("redis-server")
        self.port = port or free_port()
        self.options = options
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
                *self.options,
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

    def wipe(self) -> None:
        assert tell(self.port, "FLUSHALL") == "+OK\r\n"

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
        tell(about, "CONFIG SET repl-diskless-sync-delay 0")
        tell(self._replica.port, f"REPLICAOF 127.0.0.1 {about}")
        wait_until(about, "INFO replication", "state=online")
        self._process = subprocess.Popen(
            [self.master.program, str(self._settings), "--sentinel"], stdout=subprocess.DEVNULL
        )
        login = f"AUTH {self._secret}\r\n" if self._secret else ""
        wait_until(self.port, f"{login}SENTINEL MASTER chat", "num-slaves\r\n$1\r\n1")

    def fail_over(self) -> None:
        """Kill the master, and wait until the replica is one."""
        self.master.kill()
        wait_until(self.port, "SENTINEL GET-MASTER-ADDR-BY-NAME chat", str(self._replica.port))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


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


class RedisCluster:
    """Three Redis that share the slots, and perhaps a replica of each.

    Attributes:
        url: For the log; it names the first two.
        masters: Those that are masters at first.
        replicas: Those that are replicas at first, in the same order.
    """

    def __init__(self, masters: Sequence[RedisServer], replicas: Sequence[RedisServer]) -> None:
        self.masters = masters
        self.replicas = replicas
        self.all = [*masters, *replicas]
        self.url = f"redis+cluster://127.0.0.1:{masters[0].port},127.0.0.1:{masters[1].port}"

    def build(self) -> None:
        for server in self.all:
            server.start()
        share = -(-_SLOTS // len(self.masters))
        for number, server in enumerate(self.masters):
            slots = range(number * share, min((number + 1) * share, _SLOTS))
            tell(server.port, f"CLUSTER ADDSLOTS {' '.join(map(str, slots))}")
        for number, server in enumerate(self.all):
            tell(server.port, f"CLUSTER SET-CONFIG-EPOCH {number + 1}")
            tell(server.port, f"CLUSTER MEET 127.0.0.1 {self.all[0].port}")
        for server in self.all:
            wait_until(server.port, "CLUSTER INFO", f"cluster_known_nodes:{len(self.all)}")
            wait_until(server.port, "CLUSTER INFO", "cluster_state:ok")
        for master, replica in zip(self.masters, self.replicas, strict=False):
            wait_until(replica.port, f"CLUSTER REPLICATE {self.id_of(master)}", "OK")
        for master in self.masters[: len(self.replicas)]:
            wait_until(master.port, "INFO replication", "state=online")
        for server in self.all:
            wait_until(server.port, "CLUSTER INFO", "cluster_state:ok")
            for replica in self.replicas:
                wait_until(server.port, f"CLUSTER REPLICAS {self._master_id_of(replica)}", "slave")

    def id_of(self, server: RedisServer) -> str:
        """The name of a node in its cluster."""
        return tell(server.port, "CLUSTER MYID").splitlines()[1]

    def master_of(self, slot: int) -> RedisServer:
        """The node that has a slot, by the word of most."""
        found = [self._master_of(slot, server) for server in self.all if server.answers()]
        return max((it for it in found if it is not None), key=found.count)

    def move(self, slot: int, to: RedisServer) -> None:
        """Move a slot atomically, where this Redis or Valkey can do that."""
        source = self.master_of(slot)
        if source is to:
            return
        done = tell(to.port, f"CLUSTER MIGRATION IMPORT {slot} {slot}").startswith("$") or tell(
            source.port, f"CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {self.id_of(to)}"
        ).startswith("+OK")
        if not done:
            self.move_key_by_key(slot, to)
        deadline = time.monotonic() + 30
        while self.master_of(slot) is not to:
            assert time.monotonic() < deadline, f"slot {slot} was not moved"
            time.sleep(0.02)

    def move_key_by_key(self, slot: int, to: RedisServer, pause: float = 0.0) -> None:
        """Move a slot as one did before Redis 8.4 and Valkey 9."""
        source = self.master_of(slot)
        if source is to:
            return
        tell(to.port, f"CLUSTER SETSLOT {slot} IMPORTING {self.id_of(source)}")
        tell(source.port, f"CLUSTER SETSLOT {slot} MIGRATING {self.id_of(to)}")
        while keys := tell(source.port, f"CLUSTER GETKEYSINSLOT {slot} 1").splitlines()[2::2]:
            answer = tell(source.port, f"MIGRATE 127.0.0.1 {to.port} {keys[0]} 0 5000")
            assert answer.startswith(("+OK", "+NOKEY")), answer
            time.sleep(pause)
        for server in (to, source, *self.masters):
            tell(server.port, f"CLUSTER SETSLOT {slot} NODE {self.id_of(to)}")

    def wipe(self) -> None:
        for master in self.masters:
            master.wipe()

    def lag(self, master: RedisServer) -> None:
        """Have the replica of a master get nothing more of it."""
        replica = self.replicas[self.masters.index(master)]
        self.await_copy(master)
        tell(replica.port, "CONFIG SET masterauth wrong")
        tell(replica.port, "CONFIG SET masteruser nobody")
        tell(master.port, "CLIENT KILL TYPE replica")
        wait_until(replica.port, "INFO replication", "master_link_status:down")

    def await_copy(self, master: RedisServer) -> None:
        """Wait until the replica of a master, where something was written, has all of it."""
        replica = self.replicas[self.masters.index(master)]
        deadline = time.monotonic() + 30
        while (told := _offset(master, "master_repl_offset")) != _offset(
            replica, "slave_repl_offset"
        ) or told == "0":
            assert time.monotonic() < deadline, "the replica lags"
            time.sleep(0.05)

    def await_replica(self, master: RedisServer) -> None:
        """Wait until the replica of a killed master has taken its place."""
        number = self.masters.index(master)
        for server in self.all:
            if server is not master:
                wait_until(server.port, "CLUSTER INFO", "cluster_state:ok")
        wait_until(self.replicas[number].port, "ROLE", "master")

    def stop(self) -> None:
        for server in self.all:
            server.stop()

    def _master_id_of(self, replica: RedisServer) -> str:
        return self.id_of(self.masters[self.replicas.index(replica)])

    def _master_of(self, slot: int, asked: RedisServer) -> RedisServer | None:
        for line in tell(asked.port, "CLUSTER NODES").splitlines():
            words = line.split()
            ranges = [word.split("-") for word in words[8:] if not word.startswith("[")]
            if any(int(them[0]) <= slot <= int(them[-1]) for them in ranges):
                port = int(words[1].partition("@")[0].rpartition(":")[2])
                return next(server for server in self.all if server.port == port)
        return None


_SLOTS = 16_384


def _offset(server: RedisServer, name: str) -> str:
    found = tell(server.port, "INFO replication").partition(f"{name}:")[2]
    return found.partition("\r")[0]


def _cluster_port() -> int:
    """A port that is free, and so is that of the cluster's own connections."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
        return port


@contextmanager
def redis_cluster(
    directory: Path, *options: str, replicas: bool = False, timeout_ms: int = 2_000
) -> Iterator[RedisCluster]:
    """A cluster that runs; `timeout_ms`: after which a node that does not answer counts as gone."""
    servers = []
    for number in range(6 if replicas else 3):
        place = directory / f"node{number}"
        place.mkdir()
        settings = {
            "--cluster-enabled": "yes",
            "--cluster-node-timeout": str(timeout_ms),
            "--repl-diskless-sync-delay": "0",
            "--cluster-replica-validity-factor": "0",
        }
        given = [word for setting in settings.items() for word in setting]
        servers.append(RedisServer(place, port=_cluster_port(), options=[*given, *options]))
    cluster = RedisCluster(servers[:3], servers[3:])
    try:
        cluster.build()
        yield cluster
    finally:
        cluster.stop()


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
