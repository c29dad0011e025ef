"""Whoever means harm: a quick selection of `tests.security`."""

from __future__ import annotations

import logging

import pytest

from tests.security import fuzz, origins, rfc6455, tenants

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
