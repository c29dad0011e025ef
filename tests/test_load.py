"""Many clients, and clients that take nothing: a quick selection of `tests.load`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.load import scenarios
from tests.servers import redis_server

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


async def test_idle_connections_stay() -> None:
    await scenarios.idle(connections=300, seconds=2)


async def test_all_come_back_after_a_kill() -> None:
    await scenarios.storm(clients=200)


async def test_a_stop_while_clients_take_nothing() -> None:
    await scenarios.stuck_at_sigterm(stuck=3, good=50)


async def test_many_viewers_see_everything() -> None:
    await scenarios.fan_out(viewers=100, seconds=2)


async def test_all_is_given_back() -> None:
    await scenarios.soak(seconds=6, clients=10)


async def test_all_is_given_back_with_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        await scenarios.soak(seconds=6, clients=10, redis=redis.url)
