"""Whoever means harm: a quick selection of `tests.security`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from redis.asyncio import Redis

from langgraph_ws.log.redis import RedisThreadLog
from tests.graphs import chat
from tests.security import canaries, flood, fuzz, origins, rfc6455, tenants
from tests.servers import RedisServer, redis_cluster, redis_server
from tests.serving import HELLO, serving

pytestmark = pytest.mark.timeout(60)


async def test_frames_and_handshakes_are_read_as_rfc_6455_has_it() -> None:
    await rfc6455.check()


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_odd_input_is_refused_as_documented(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    fuzz.draw(fuzz.TARGETS[name], seed=1, inputs=500)


async def test_who_may_connect_is_decided_by_origin_and_credential() -> None:
    known = ("valid", "expired", "of another", "used before")
    await origins.check({state: origins.STATES[state] for state in known})


async def test_what_belongs_to_another_is_answered_as_if_it_were_not_there() -> None:
    await tenants.check(rounds=0)


async def test_no_secret_is_where_it_does_not_belong() -> None:
    await canaries.check()


async def test_a_flood_of_bad_clients_does_not_reach_the_good_ones() -> None:
    await flood.check(seconds=3, attackers=2, timed=False)


def test_what_is_said_to_be_tried_is() -> None:
    """Each file and each test that SECURITY.md names is there."""
    text = canaries.SECURITY_MD.read_text("utf-8")
    tests = Path(__file__).parent
    for name in re.findall(r"`tests/(security/\w+\.py)`", text):
        assert (tests / name).is_file(), name
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (tests / file).read_text("utf-8"), (file, test)


@contextmanager
def nodes_of(kind: str, directory: Path) -> Iterator[tuple[str, Sequence[RedisServer]]]:
    """The URL of a Redis, or of a cluster, and what it consists of."""
    if kind == "one":
        with redis_server(directory) as server:
            yield server.url, [server]
    else:
        with redis_cluster(directory) as cluster:
            yield cluster.url, cluster.masters


@pytest.mark.parametrize("kind", ["one", "cluster"])
async def test_the_user_of_redis_needs_no_more_than_is_said(kind: str, tmp_path: Path) -> None:
    told = canaries.SECURITY_MD.read_text("utf-8")
    [said] = re.findall(r"`ACL SETUSER ([^`]+)`", told)
    if kind == "cluster":
        [more] = re.findall(r"in a cluster with `([^`]+)` at its end", told)
        said += f" {more}"
    with nodes_of(kind, tmp_path) as (url, nodes):
        async with AsyncExitStack() as admins:
            admin = [
                await admins.enter_async_context(Redis.from_url(node.url, decode_responses=True))
                for node in nodes
            ]
            for each in admin:
                await each.execute_command("ACL", "SETUSER", *said.split())
            log = RedisThreadLog(url.replace("//", "//name:password@"))
            async with (
                serving(chat("Hello.", saver=InMemorySaver()), log=log) as site,
                site.connect() as one,
                site.connect() as two,
            ):
                await two.send("attach", thread_id="t")
                await two.the("run")
                for kind in ("new_chat", "resume_chat"):
                    await one.send(kind, thread_id="t", messages=HELLO)
                    for client in (one, two):
                        assert (await client.the("end"))["data"]["status"] == "completed"
                await one.send("attach", thread_id="t")
                await one.the("end")
            denied = [it for each in admin for it in await each.execute_command("ACL", "LOG")]
            # redis-py says its name, and does without (Redis 6.2 has no rule for that alone).
            assert [entry for entry in denied if entry["object"] != "client"] == []
