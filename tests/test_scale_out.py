"""Several processes, Redis and checkpointers that die: a quick selection of `tests.faults`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import needs_browser
from tests.faults import scenarios
from tests.node import node
from tests.servers import PostgresServer, RedisServer, postgres_server, redis_server

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, appendonly=True) as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


async def test_killed_owners_with_postgresql(
    tmp_path: Path, redis: RedisServer, postgres: PostgresServer
) -> None:
    await scenarios.kill_owners(tmp_path, redis, postgres.url, kills=3, seed=1)


async def test_killed_owners_with_sqlite(tmp_path: Path, redis: RedisServer) -> None:
    await scenarios.kill_owners(tmp_path, redis, str(tmp_path / "db"), kills=1, seed=2)


async def test_killed_owners_under_the_javascript_client(
    tmp_path: Path, redis: RedisServer
) -> None:
    node(Path(__file__).parent / "js")
    await scenarios.kill_under_javascript(tmp_path, redis, str(tmp_path / "db"), times=1)


async def test_killed_owners_under_official_clients(tmp_path: Path, redis: RedisServer) -> None:
    for clients in ("clients", "clients/ui"):
        node(Path(__file__).parent / clients)
    await scenarios.kill_under_official_clients(tmp_path, redis, str(tmp_path / "db"), times=1)


@needs_browser
async def test_killed_owners_under_the_playground(tmp_path: Path, redis: RedisServer) -> None:
    await scenarios.kill_under_playground(tmp_path, redis, str(tmp_path / "db"), times=1)


async def test_a_stopped_owner(
    tmp_path: Path, redis: RedisServer, postgres: PostgresServer
) -> None:
    await scenarios.stop_owner(tmp_path, redis, postgres.url, times=1)


async def test_a_blocked_owner(
    tmp_path: Path, redis: RedisServer, postgres: PostgresServer
) -> None:
    await scenarios.block_owner(tmp_path, redis, postgres.url, times=1)


async def test_requests_at_another_process(
    tmp_path: Path, redis: RedisServer, postgres: PostgresServer
) -> None:
    await scenarios.ask_elsewhere(tmp_path, redis, postgres.url, times=1)


async def test_a_rolling_restart(
    tmp_path: Path, redis: RedisServer, postgres: PostgresServer
) -> None:
    await scenarios.rolling_restart(tmp_path, redis, postgres.url, restarts=2, runs=4)


async def test_a_killed_redis(tmp_path: Path, redis: RedisServer, postgres: PostgresServer) -> None:
    await scenarios.kill_redis(tmp_path, redis, postgres.url, kills=2)


async def test_a_killed_master(
    tmp_path: Path, redis: RedisServer, postgres: PostgresServer
) -> None:
    await scenarios.fail_over(tmp_path, redis, postgres.url, times=1)


async def test_a_wiped_redis(tmp_path: Path, redis: RedisServer, postgres: PostgresServer) -> None:
    await scenarios.wipe_redis(tmp_path, redis, postgres.url, times=1)


async def test_a_redis_that_stays_away(
    tmp_path: Path, redis: RedisServer, postgres: PostgresServer
) -> None:
    await scenarios.lose_redis(tmp_path, redis, postgres.url)


async def test_a_killed_owner_without_checkpoints(tmp_path: Path, redis: RedisServer) -> None:
    await scenarios.lose_without_checkpoints(tmp_path, redis)
