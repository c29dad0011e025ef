"""The tests of runs, all over again with the log in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from langgraph_ws.log.redis import RedisThreadLog
from tests import test_runs
from tests.servers import RedisServer, redis_server
from tests.test_runs import *  # noqa: F403  # the tests themselves

# What waits is left to other processes here, see test_takeover.
del test_drain_stops_at_the_next_superstep_and_the_run_can_be_continued  # type: ignore[name-defined]  # noqa: F821

_prefixes = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(autouse=True)
def log_in_redis(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        test_runs,
        "new_log",
        lambda retention=None: RedisThreadLog(
            server.url, retention=retention, prefix=f"p{next(_prefixes)}", lease=1.0
        ),
    )
