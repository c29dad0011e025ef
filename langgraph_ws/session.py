"""One connection without the connection: text in, actions out; entries in, bytes out.

A session knows a wire protocol and what its client has been told. It does no I/O and waits for
nothing. The rim carries out its actions and gives it their outcomes and the entries of the threads
that it follows; all bytes that it returns are messages to send, in that order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from langgraph_ws.commands import Answer, Command, Snapshot
from langgraph_ws.errors import GapError, RequestError
from langgraph_ws.log import Entry, Position

__all__ = ["Action", "Close", "Do", "Peer", "Reply", "Session", "Teller", "tells_nothing"]


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Do:
    """Carry out this command, and tell the session the outcome under the token."""

    token: int
    command: Command


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection, after sending what is to be sent before."""

    code: int
    reason: str


Action = Reply | Do | Close
Teller: TypeAlias = Callable[[Entry], bytes | None]
Retry = Literal["resume", "reauth", "never"]


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of a client before its first message.

    Attributes:
        variables: The variables of the route that it asked for.
        user_agent: What program it says it is.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    user_agent: str = ""


class Session(ABC):
    """One connection that speaks one wire protocol.

    Args:
        peer: Who the client is.
        expose_state: Whether the state of the graph (and the artifacts of tools) may be shown.
        takes_tokens: Whether the client may say who it is in a message.
        authenticated: Whether it is known who the client is; until then nothing but a token is
            taken.
        streams: Whether it can send what the client did not ask for; a lone command cannot.
        server_sent: Whether what `send` gives is to be text in the form of server-sent events.

    Attributes:
        name: The name of the protocol.
        subprotocols: The WebSocket subprotocols that stand for it.
        route: The path below the attached one where it is spoken.
        shows_state: Whether it shows the state of the graph, whatever `expose_state` says.
        takes_binary: Whether a binary message is taken as text.
        slow_code: The close code for a client that cannot be brought up to date.
        merged: How many entries went out as part of another's message, so far.
    """

    name: ClassVar[str]
    subprotocols: ClassVar[tuple[str, ...]] = ()
    route: ClassVar[str] = ""
    shows_state: ClassVar[bool] = False
    takes_binary: ClassVar[bool] = False
    slow_code: ClassVar[int] = 4450

    def __init__(
        self,
        peer: Peer | None = None,
        *,
        expose_state: bool = False,
        takes_tokens: bool = False,
        authenticated: bool = True,
        streams: bool = True,
        server_sent: bool = False,
    ) -> None:
        self.peer = peer or Peer()
        self.expose_state = expose_state
        self.takes_tokens = takes_tokens
        self.authenticated = authenticated
        self.streams = streams
        self.server_sent = server_sent
        self.merged = 0

    @abstractmethod
    def receive(self, text: str) -> list[Action]:
        """Take a message of the client."""

    @abstractmethod
    def done(self, token: int, outcome: Answer | RequestError) -> list[bytes]:
        """Take the outcome of a command; from an `Attached` on, the thread is followed."""

    @abstractmethod
    def send(self, thread_id: str, entries: Sequence[Entry]) -> list[bytes]:
        """Take the next entries of a followed thread (only those of one run, where one is)."""

    def teller(self, thread_id: str) -> Teller:
        """What takes the entries that need no more than a look, for as long as it is followed.

        It returns the message for the next entry; None: that was not taken, `send` it.
        """
        return tells_nothing

    def done_with(self, thread_id: str) -> bool:
        """Whether it has nothing more to tell of a followed thread, which is then left alone."""
        return False

    @abstractmethod
    def gap(self, thread_id: str, gap: GapError, snapshot: Snapshot) -> list[bytes] | None:
        """Take the news that a reader fell out of the log, and what to go on from.

        Returns:
            The messages that say so; None when the protocol cannot say it, so that the connection
            has to be closed.
        """

    @abstractmethod
    def refuse(self, text: str, error: RequestError) -> list[bytes]:
        """Say that a message was not carried out, whatever it asks for."""

    @abstractmethod
    def heartbeat(
        self, time_ms: int, heads: Mapping[str, Position], *, degraded: bool = False
    ) -> list[bytes]:
        """Say that the connection lives, and where the followed threads stand.

        Args:
            time_ms: The time, in milliseconds since the Unix epoch.
            heads: Where they stand, by thread id.
            degraded: Whether nothing new can come, because the log cannot be reached.
        """

    def overdue(self) -> list[bytes]:
        """What was held back for a moment and is due by now; asked for at least every second."""
        return []

    def due_in(self) -> float | None:
        """In how many seconds that is to be asked for; None: a second will do."""
        return None

    @abstractmethod
    def bye(self, reason: str, retry: Retry, after_ms: int) -> list[bytes]:
        """Say that the connection is about to be closed."""


def tells_nothing(entry: Entry) -> None:
    """Take no entry."""
    return
