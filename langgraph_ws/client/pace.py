"""How fast to send to a server that has refused messages for their rate; nothing here waits."""

from __future__ import annotations

from collections import deque

__all__ = ["Pace"]

_FLOOR_S = 0.01
_UNKNOWN_S = 0.1


class Pace:
    """The turns of messages that must not be sent at once.

    PROTOCOL.md: wait for as long as the server says, then send one by one, no faster than the
    shortest time that it has said. What is new waits behind what was refused: it counts, too.
    """

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._interval = 0.0
        self._next_at = 0.0

    def limited(self, now: float) -> bool:
        """Whether whatever is to be sent has to wait for its turn."""
        return bool(self._waiting) or now < self._next_at

    def slow_down(self, retry_after: float, now: float) -> bool:
        """The server has refused a message; whether it had not done so already."""
        retry_after = max(retry_after, _FLOOR_S)
        news = not self.limited(now)
        self._interval = retry_after if news else min(self._interval, retry_after)
        self._next_at = max(self._next_at, now + retry_after)
        return news

    def wait(self, number: int) -> None:
        """Give a message its turn, after those that wait already."""
        if number not in self._waiting:
            self._waiting.append(number)

    def due(self, now: float) -> float | None:
        """Seconds until the next turn; None where nothing waits."""
        return max(self._next_at - now, 0.0) if self._waiting else None

    def take(self, now: float) -> int:
        """The message whose turn it is; the next one's comes an interval later."""
        self._next_at = now + self._interval
        return self._waiting.popleft()

    def disconnected(self, *, abused: bool) -> None:
        """The connection has ended: `abused` when too much was sent over it, all the same."""
        self._waiting.clear()
        self._interval = (self._interval or _UNKNOWN_S) if abused else 0.0
        self._next_at = 0.0

    def connected(self, now: float) -> None:
        """There is another connection; after one that was abused it is begun slowly."""
        if self._interval:
            self._next_at = now + self._interval
