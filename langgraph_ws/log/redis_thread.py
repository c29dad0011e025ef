"""What a process holds of the threads that it writes and follows in Redis."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from langgraph_ws.codec import decode_frame, dumps_frame, loads
from langgraph_ws.errors import LogClosed, LogFailed
from langgraph_ws.frames import BlockDelta
from langgraph_ws.log import Bounds, Entry, Position, gap_error, wake_all
from langgraph_ws.log.fold import Fold
from langgraph_ws.log.redis_server import number, text

__all__ = [
    "LocalFollower",
    "LocalThread",
    "Reply",
    "Written",
    "entry_of",
    "is_of",
    "stamp_of",
    "stream_entry",
]

_CONSUMED = 1_024
"""Entries that all have read and that are kept all the same, for one who comes next."""


class Written:
    """What this process has written and nobody has dropped yet.

    Attributes:
        total: Its bytes.
        ended: The runs that ended: when, the thread and the run; oldest end first.
    """

    def __init__(self) -> None:
        self.total = 0
        self.ended: deque[tuple[float, str, str]] = deque()
        self._bytes: dict[str, int] = {}  # of each thread
        self._runs: Counter[str] = Counter()  # of each thread: those that ended
        self._running: set[str] = set()

    def note(self, thread: str, size: int, run_id: str, ended: float | None) -> None:
        """A run has written, and (`ended`) come to its end; the thread takes so many bytes now."""
        self._set(thread, size)
        if ended is None:
            self._running.add(thread)
        else:
            self._running.discard(thread)
            self._runs[thread] += 1
            self.ended.append((ended, thread, run_id))

    def forget(self, thread: str) -> None:
        """The thread is written elsewhere from now on."""
        self._running.discard(thread)
        self._set(thread, 0)

    def expire(self, gone: float) -> None:
        """Let go of the runs that ended until then: Redis drops them by itself."""
        while self.ended and self.ended[0][0] <= gone:
            self._let_go_of_first()

    def dropped(self, thread: str, run_id: str, size: int) -> None:
        """A run was dropped; its thread takes so many bytes now."""
        if self.ended and self.ended[0][1:] == (thread, run_id):
            self._let_go_of_first()
        if thread in self._bytes:
            self._set(thread, size)

    def _let_go_of_first(self) -> None:
        _, thread, _ = self.ended.popleft()
        self._runs[thread] -= 1
        if not self._runs[thread]:
            del self._runs[thread]
            if thread not in self._running:
                self._set(thread, 0)

    def _set(self, thread: str, size: int) -> None:
        self.total += size - self._bytes.pop(thread, 0)
        if size:
            self._bytes[thread] = size


class Reply(NamedTuple):
    """The reply to a write: its last entry and time, then what is held of the thread."""

    epoch: str
    last: int
    time_ms: int
    head: int
    first: int
    bytes: int
    hidden: int
    folded: int

    @classmethod
    def of(cls, reply: Sequence[Any]) -> Reply:
        """The reply as Redis gives it."""
        epoch, *numbers = reply
        return cls(text(epoch), *map(number, numbers))


class LocalThread:
    """What a process holds of a thread.

    The entries `base` to `head` are those that its followers have yet to read, and some more;
    `first` is the first that they may see; `time_ms` is when the last was logged, if that is known;
    `losses` counts how often something of the log was lost; `gone` is the last entry of the epoch
    that was. `keys` are its keys in Redis, `stream` that of its log. `hidden`: bytes and number of
    the entries that they may not see, and that no stored fold covers. `writer`: this process writes
    to it, so that nobody else has to be listened to.
    """

    def __init__(self, key: str, keys: Sequence[bytes]) -> None:
        self.key = key
        self.keys = keys
        self.stream = keys[1].decode()
        self.epoch = ""
        self.first = 1
        self.base = 1
        self.head = 0
        self.time_ms = 0
        self.losses = self.gone = 0
        self.size = 0
        self.entries: dict[int, Entry] = {}
        self.followers: dict[LocalFollower, Callable[[], None]] = {}
        self.fold: Fold | None = None
        self.hidden: tuple[int, int] = (0, 0)
        self.writer = False
        self.behind = False
        self.corrupt = False
        self.closed = False
        self.writing = asyncio.Lock()
        self.folding = asyncio.Lock()
        self.loading = asyncio.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether nothing happens to it here."""
        locks = (self.writing, self.folding, self.loading)
        return not (self.followers or self.writer or any(lock.locked() for lock in locks))

    @property
    def is_remote(self) -> bool:
        """Whether others have to be listened to."""
        ends = self.closed or self.corrupt
        return bool(self.followers) and not ends and (not self.writer or self.behind)

    @property
    def bounds(self) -> Bounds:
        """What is held of the log, as far as this process knows."""
        return Bounds(self.epoch, self.first, self.head)

    def in_epoch(self, epoch: str) -> None:
        """Take note of the epoch that the log is in now; in a new one, nothing of the old holds."""
        if epoch == self.epoch:
            return
        lost = self.epoch != ""
        self.losses += 1
        self.epoch, self.fold, self.first, self.gone = epoch, None, 1, 0
        if lost or self.head:
            self.let_go()
            self.begin(0)
            self.wake()

    @property
    def known(self) -> Position:
        """How far this process has ever seen the log."""
        head = self.head if self.followers else 0
        return Position(self.epoch, max(self.gone, head, self.fold.seq if self.fold else 0))

    def go_back(self, head: int) -> None:
        """Take note that entries are gone that were seen: nobody goes on from these."""
        self.gone = self.known.seq
        self.losses += 1
        self.fold = None
        self.begin(head)
        for follower in self.followers:
            follower.is_ahead = True
        self.wake()

    def begin(self, start: int) -> None:
        """Hold no entries, and take those after `start` from now on."""
        self.entries.clear()
        self.size = self.time_ms = 0
        self.base, self.head, self.behind, self.corrupt = start + 1, start, False, False

    def let_go(self) -> None:
        """Hold no entries: nobody reads them."""
        self.entries.clear()
        self.size = 0
        self.base = self.head + 1

    def push(self, entries: Sequence[Entry]) -> bool:
        """Take the entries that come next; whether there were any."""
        news = [entry for entry in entries if entry.seq > self.head]
        if not self.followers and not self.loading.locked():
            return False
        for entry in news:
            if entry.seq != self.head + 1:
                self.behind = True
                return entry is not news[0]
            self.head, self.time_ms = entry.seq, entry.time_ms
            self.entries[entry.seq] = entry
            self.size += _size(entry)
        if len(self.entries) > _CONSUMED * 2 and not self.loading.locked():
            self._let_go_of_read()
        return bool(news)

    def prepend(self, entries: Sequence[Entry]) -> None:
        """Take the entries that lie right before those that are held."""
        if entries:
            self.entries = {entry.seq: entry for entry in entries} | self.entries
            self.size += sum(map(_size, entries))
            self.base = entries[0].seq

    def trim(self, bounds: Bounds) -> None:
        """Take note of what is held of the log."""
        if bounds.epoch == self.epoch and bounds.first > self.first:
            self.first = bounds.first
            self._drop_before(bounds.first)

    def skip_to(self, seq: int) -> None:
        """Go on before an entry, because those between are gone."""
        self.first = max(self.first, seq)
        self.begin(seq - 1)

    def folded(self, entries: Sequence[Entry], limit: int) -> None:
        """Fold in the entries that come next."""
        if self.fold is None and entries[0].seq == 1:
            self.fold = Fold(limit)
        for entry in entries:
            if self.fold is not None and entry.seq == self.fold.seq + 1:
                self.fold.apply(entry.run_id, entry.frame, _size(entry))

    def wake(self) -> None:
        """Wake its followers."""
        wake_all(self.followers)

    def _let_go_of_read(self) -> None:
        read = min((follower.position.seq for follower in self.followers), default=self.head)
        self._drop_before(min(read, self.head - _CONSUMED) + 1)

    def _drop_before(self, first: int) -> None:
        while self.base < first and self.base in self.entries:
            self.size -= _size(self.entries.pop(self.base))
            self.base += 1
        if not self.entries:
            self.base = self.head + 1


class LocalFollower:
    """A cursor over the log of one thread; `is_ahead`: it has seen entries that are gone."""

    def __init__(
        self, thread: LocalThread, seq: int, settle: Callable[[LocalThread], None]
    ) -> None:
        self._thread = thread
        self._seq = seq
        self._epoch = thread.epoch
        self._settle = settle
        self.is_ahead = False

    @property
    def position(self) -> Position:
        """The position of the entry read last."""
        return Position(self._epoch, self._seq)

    @property
    def lag(self) -> int:
        """How many entries lie after the position."""
        return max(0, self._thread.head - self._seq)

    def read(self, limit: int) -> list[Entry]:
        """The entries after the position that are there now, at most `limit`; moves past them."""
        thread = self._thread
        if thread.epoch != self._epoch:
            raise gap_error("epoch", self._seq, thread.bounds)
        if self.is_ahead:
            raise gap_error("ahead", self._seq, thread.bounds)
        start = self._seq + 1
        if start < thread.first or thread.corrupt:
            raise gap_error("trimmed", self._seq, thread.bounds)
        if start > thread.head:
            if thread.closed:
                raise LogClosed("the thread log has been closed")
            return []
        self._seq = min(self._seq + limit, thread.head)
        return [thread.entries[seq] for seq in range(start, self._seq + 1)]

    def close(self) -> None:
        """Stop following; `wake` is not called again."""
        if self._thread.followers.pop(self, None) is not None:
            self._settle(self._thread)


def _size(entry: Entry) -> int:
    """About how many bytes an entry takes in this process."""
    frame = entry.frame
    return 512 + len(frame.text if type(frame) is BlockDelta else dumps_frame(frame))


def stamp_of(epoch: str) -> int:
    """What the ids of entries of an epoch end with (see `scripts`); 0: there is none."""
    began, _, chance = epoch.partition("-")
    return (int(began) << 20) + int(chance[:5], 16) if epoch else 0


def is_of(stamp: int, name: bytes) -> bool:
    """Whether an entry is of the epoch with this stamp."""
    return int(name.partition(b"-")[2]) == stamp


def stream_entry(name: bytes, fields: dict[bytes, bytes]) -> Entry:
    """An entry of the stream of a thread.

    Raises:
        LogFailed: It is none.
    """
    seq = name.partition(b"-")[0]
    return entry_of(seq, fields.get(b"r"), fields.get(b"t"), fields.get(b"d"))


def entry_of(seq: Any, run_id: Any, time_ms: Any, frame: Any) -> Entry:
    """An entry as Redis holds it.

    Raises:
        LogFailed: It is none.
    """
    try:
        return Entry(int(seq), run_id.decode(), int(time_ms), decode_frame(loads(frame)))
    except (ValueError, TypeError, AttributeError) as error:
        raise LogFailed(f"entry {seq!r} in Redis is corrupt: {error}") from error
