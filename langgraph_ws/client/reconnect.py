"""When to connect again, and when a silent connection is dead; nothing here waits or sends.

`Lost` says why there is no connection and what PROTOCOL.md advises; `Backoff` makes a delay of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from langgraph_ws.client.messages import Bye
from langgraph_ws.errors import ConfigurationError

__all__ = ["Advice", "Backoff", "Lost", "Reconnect", "Silence", "closed", "refused"]

Advice = Literal["resume", "reauth", "never"]
_MAX_EXPONENT = 1000
_SLOW_DOWN_S = 1.0
_NEVER = (4400, 4403, 4406)
_REAUTH = (4401, 4440)
_RESTART = 1012
_PASSING = (408, 425, 429)
"""HTTP refusals of the 400s that may pass by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """How to try again: the n-th delay is `min(delay * 1.5 ** (n - 1), max_delay)`, ± `jitter`.

    Attributes:
        delay: The first delay, in seconds.
        max_delay: What delays grow to, before jitter.
        jitter: The part of a delay that chance may add or take away.
        max_attempts: Failures in a row before giving up; None: never give up.
        random: Where chance comes from: numbers from 0 to 1.
        sleep: How to wait for some seconds.
    """

    delay: float = 1.0
    max_delay: float = 30.0
    jitter: float = 0.15
    max_attempts: int | None = 10
    random: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        for name in ("delay", "max_delay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigurationError(
                    f"{name}: expected seconds, 0 or more, got {getattr(self, name)!r}"
                )
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"jitter: expected 0 to 1, got {self.jitter!r}")
        if self.max_attempts is not None and self.max_attempts < 0:
            raise ConfigurationError(
                f"max_attempts: expected a number from 0, or None, got {self.max_attempts!r}"
            )

    def wait(self, attempt: int) -> float:
        """Seconds to wait before an attempt, counted from 1."""
        exponent = min(attempt - 1, _MAX_EXPONENT)  # a float holds no more
        base = min(self.delay * 1.5**exponent, self.max_delay)
        return base * (1 + self.jitter * (2 * self.random() - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Why there is no connection.

    Attributes:
        reason: For people.
        advice: What to do: try again (`resume`), with a new token (`reauth`), or `never`.
        after: Seconds that the server asked to wait, in place of a first delay.
        at_least: Seconds that it asked to wait at the least.
        code: The close code; None where the connection was never open.
        status: The status of an HTTP refusal.
        announced: Whether the server had said that it would go.
        cause: The error.
    """

    reason: str
    advice: Advice = "resume"
    after: float | None = None
    at_least: float = 0.0
    code: int | None = None
    status: int | None = None
    announced: bool = False
    cause: BaseException | None = None


def refused(status: int, headers: Mapping[str, str], cause: BaseException) -> Lost:
    """What an HTTP answer in place of an upgrade means."""
    advice: Advice = "resume"
    if status in (401, 403):
        advice = "reauth"
    elif 400 <= status < 500 and status not in _PASSING:
        advice = "never"
    hint = ": nothing is served at this URL" if status == 404 else ""
    return Lost(
        reason=f"the server refused the connection with HTTP {status}{hint}",
        advice=advice,
        at_least=_retry_after(headers) if status in (429, 503) else 0.0,
        status=status,
        cause=cause,
    )


def closed(code: int | None, reason: str, bye: Bye | None) -> Lost:
    """What the end of an open connection means; `bye`: what the server said before."""
    advice: Advice = "resume"
    if code in _NEVER:
        advice = "never"
    elif code in _REAUTH:
        advice = "reauth"
    after = None
    if bye is not None:
        after = bye.after_ms / 1000
        if bye.retry in ("reauth", "never") and advice == "resume":
            advice = "reauth" if bye.retry == "reauth" else "never"
    words = reason or (bye.reason if bye else "")
    return Lost(
        reason=f"the connection was closed ({code or 1006}{': ' if words else ''}{words})",
        advice=advice,
        after=after,
        at_least=_SLOW_DOWN_S if code == 4429 else 0.0,
        code=code or 1006,
        announced=bye is not None or code == _RESTART,
    )


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that a `Retry-After` header (RFC 9110, 10.2.3) asks for; 0 without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)


class Backoff:
    """How often connecting has failed in a row, and what follows from it.

    Args:
        rules: How to try again.
        renewable: Whether there can be a new token.
    """

    def __init__(self, rules: Reconnect, *, renewable: bool) -> None:
        self.attempt = 0
        self._rules = rules
        self._renewable = renewable
        self._renewed = False

    def succeeded(self) -> None:
        """There is a connection, and the server talks."""
        self.attempt = 0
        self._renewed = False

    def next(self, lost: Lost) -> float | None:
        """Seconds to wait before the next attempt; None: give up."""
        if lost.advice == "never":
            return None
        self.attempt += 1
        rules = self._rules
        if rules.max_attempts is not None and self.attempt > rules.max_attempts:
            return None
        if lost.advice == "reauth":
            if self._renewed or not self._renewable:
                return None
            self._renewed = True
            return max(lost.after or 0.0, lost.at_least)
        if lost.after is not None and self.attempt == 1:
            return max(lost.after, lost.at_least)
        return max(rules.wait(self.attempt), lost.after or 0.0, lost.at_least)


class Silence:
    """Whether a connection still lives, judged by what is heard.

    After one `heartbeat` (in seconds) without anything it is to be pinged, after 2.5 it is dead.
    """

    def __init__(self, heartbeat: float, now: float) -> None:
        self._heartbeat = heartbeat
        self._heard_at = now
        self._pinged_at = now

    def heard(self, now: float) -> None:
        """Something came."""
        self._heard_at = self._pinged_at = now

    def check(self, now: float) -> float | Literal["ping", "dead"]:
        """What is due: a ping, the end, or nothing for so many seconds."""
        dead_at = self._heard_at + 2.5 * self._heartbeat
        if now >= dead_at:
            return "dead"
        ping_at = self._pinged_at + self._heartbeat
        if now >= ping_at:
            self._pinged_at = now
            return "ping"
        return min(ping_at, dead_at) - now
