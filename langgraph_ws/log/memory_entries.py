"""How a thread log in memory holds its entries.

Most are deltas: those of one block that follow one another are held together, as what is new in
each. The others are held one by one, and once their run has ended as JSON, some at a time.
Thousands of objects that live on make every round of Python's garbage collector longer, for all
that the process does; and an object or two for each delta would take several times the memory.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from langgraph_ws.codec import decode_frame, dumps, encode_frame, loads
from langgraph_ws.frames import BlockDelta, Frame
from langgraph_ws.log import Entry

__all__ = ["DELTA_BYTES", "ENTRY_BYTES", "Held", "Kept", "Opened", "Pack", "Strand", "packed"]

ENTRY_BYTES = 512
"""What an entry takes beside its frame as JSON: entry, frame, their strings and numbers (CPython
3.11)."""
DELTA_BYTES = 192
"""What a delta in a strand takes beside its text."""

_STRAND = 64
"""Deltas in one strand, at most."""
_MOST = 2**63
_OPENED = 16
"""So many packs and strands that were read stay open, for others who come back to the same."""


class Kept(Protocol):
    """What holds an entry, or several."""

    @property
    def run_id(self) -> str:
        """The run that they are of."""
        ...

    def entry(self, seq: int, opened: Opened) -> Entry:
        """One of them; what has to be made for that is kept for a while."""
        ...

    def drop(self, seq: int) -> int:
        """Let go of one; how many bytes it took."""
        ...


class Held(Entry):
    """An entry that knows how many bytes it takes."""

    __slots__ = ("size",)

    def __init__(self, seq: int, run_id: str, time_ms: int, frame: Frame, size: int) -> None:
        self.seq = seq
        self.run_id = run_id
        self.time_ms = time_ms
        self.frame = frame
        self.encoded = {}
        self.size = size

    def entry(self, seq: int, opened: Opened) -> Entry:
        """Itself."""
        return self

    def drop(self, seq: int) -> int:
        """How many bytes it took."""
        return self.size


class Strand:
    """Deltas of one block that follow one another.

    Args:
        seq: The number of the first.
        run_id: The run.
        time_ms: When it was logged.
        frame: What it is.
        grow: Told the text of each delta that comes.
    """

    __slots__ = (
        "_frame",
        "_made",
        "_offsets",
        "_texts",
        "_times",
        "first",
        "grow",
        "run_id",
    )

    def __init__(
        self, seq: int, run_id: str, time_ms: int, frame: BlockDelta, grow: Callable[[str], object]
    ) -> None:
        self.first = seq
        self.run_id = run_id
        self.grow = grow
        self._frame = frame  # the newest
        self._texts = [frame.text]
        self._offsets = array("Q", (frame.offset,))
        self._times = array("Q", (time_ms,))
        self._made: dict[int, Entry] | None = None

    @staticmethod
    def takes(frame: BlockDelta) -> bool:
        """Whether a delta can be held like this; a mapper may make one of anything."""
        return type(frame.text) is str and type(frame.offset) is int and 0 <= frame.offset < _MOST

    def add(self, run_id: str, frame: BlockDelta, time_ms: int) -> bool:
        """Take the delta that comes next; False: it does not go on with these."""
        last = self._frame
        text, offset = frame.text, frame.offset
        if not (
            frame.message_id is last.message_id
            and frame.index is last.index
            and frame.kind is last.kind
            and frame.node is last.node
            and frame.namespace is last.namespace
            and frame.task_id is last.task_id
            and run_id == self.run_id
            and type(text) is str
            and type(offset) is int
            and 0 <= offset < _MOST
            and len(self._texts) < _STRAND
        ):
            return False
        self._frame = frame
        self._texts.append(text)
        self._offsets.append(offset)
        self._times.append(time_ms)
        self.grow(text)
        return True

    def entry(self, seq: int, opened: Opened) -> Entry:
        """The delta with this number."""
        place = seq - self.first
        if place == len(self._texts) - 1:
            return Entry(seq, self.run_id, self._times[place], self._frame)
        made = self._made
        if made is None:
            made = self._made = {}
            opened.add(self)
        entry = made.get(seq)
        if entry is None:
            frame = replace(self._frame, text=self._texts[place], offset=self._offsets[place])
            entry = made[seq] = Entry(seq, self.run_id, self._times[place], frame)
        return entry

    def close(self) -> None:
        """Keep nothing that was made to be read."""
        self._made = None

    def drop(self, seq: int) -> int:
        """Let go of a delta; how many bytes it took."""
        place = seq - self.first
        size = DELTA_BYTES + len(self._texts[place])
        self._texts[place] = ""
        return size


class Pack:
    """Entries of one run that follow one another, as JSON.

    Attributes:
        run_id: The run.
        first: The number of the first.
        sizes: How many bytes each took, as far as limits are concerned.
    """

    __slots__ = ("_entries", "_json", "first", "run_id", "sizes")

    def __init__(self, entries: Sequence[Held], encoded: Sequence[bytes]) -> None:
        self.run_id = entries[0].run_id
        self.first = entries[0].seq
        self.sizes = array("L", [entry.size for entry in entries])
        self._json = b"[" + b",".join(encoded) + b"]"
        self._entries: list[Entry] | None = None

    def entry(self, seq: int, opened: Opened) -> Entry:
        """The entry with this number."""
        entries = self._entries
        if entries is None:
            entries = self._entries = [
                Entry(seq, self.run_id, time_ms, decode_frame(frame))
                for seq, (time_ms, frame) in enumerate(loads(self._json), self.first)
            ]
            opened.add(self)
        return entries[seq - self.first]

    def close(self) -> None:
        """Keep nothing that was made to be read."""
        self._entries = None

    def drop(self, seq: int) -> int:
        """How many bytes an entry took."""
        return self.sizes[seq - self.first]


class Opened:
    """Packs and strands of which entries were made to be read; the oldest is closed in turn."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        self._all: deque[Pack | Strand] = deque()

    def add(self, item: Pack | Strand) -> None:
        """One more."""
        if len(self._all) == _OPENED:
            self._all.popleft().close()
        self._all.append(item)

    def clear(self) -> None:
        """Close all."""
        while self._all:
            self._all.popleft().close()


def packed(entry: Entry) -> bytes | None:
    """An entry as JSON; None: that is not the same, a mapper may make frames of anything."""
    try:
        data = dumps([entry.time_ms, encode_frame(entry.frame)])
        is_same = bool(decode_frame(loads(data)[1]) == entry.frame)
    except Exception:  # what is compared may have an `==` of its own
        return None
    return data if is_same else None
