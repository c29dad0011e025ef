"""AG-UI 1.0 as a `Session`: over a WebSocket, and as the answer to one POST (`HttpAgent`).

What clients send is decoded in `agui_requests`, what they are told of a run is made in
`agui_events`. Here stands which runs a connection is told of: one after the other, for an event
does not say which run it is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar

from langgraph_ws.codec import dumps
from langgraph_ws.commands import Answer, Attached, Command, RunInfo, Snapshot
from langgraph_ws.errors import GapError, InvalidRequest, RequestError
from langgraph_ws.log import Entry, Position
from langgraph_ws.protocols.agui_events import RunEvents, run_error
from langgraph_ws.protocols.agui_requests import CancelRun, Connect, RunInput, decode
from langgraph_ws.protocols.requests import Json, parse
from langgraph_ws.session import Action, Close, Do, Peer, Reply, Retry, Session

__all__ = ["AGUISession", "error_event"]

_FIELDS: Mapping[str, str] = {
    "thread_id": "threadId",
    "run_id": "runId",
    "assistant_id": "forwardedProps.assistantId",
}
"""The names of fields that are others than ours."""


@dataclass(slots=True, eq=False)
class _Run:
    """A run that the client is told of, or why there is none.

    Attributes:
        events: What it is told; None while it is not known which run it is, or when it is none.
        after: The `seq` of the last entry that it has been told of.
        told: What waits until those before it are over.
        refused: Whether it never began.
    """

    thread_id: str
    run_id: str | None = None
    events: RunEvents | None = None
    after: int = 0
    told: list[bytes] = field(default_factory=list)
    refused: bool = False

    @property
    def over(self) -> bool:
        return self.refused or (self.events is not None and self.events.over)

    def take(self, entry: Entry) -> None:
        """Take the next entry of the thread."""
        events = self.events
        if events is None or self.over or entry.run_id != self.run_id or entry.seq <= self.after:
            return
        self.after = entry.seq
        self.told += events.events(entry)

    def refuse(self, error: RequestError) -> None:
        """Say why there is no run."""
        self.refused = True
        self.told.append(dumps(error_event(error)))


class AGUISession(Session):
    """One connection that speaks AG-UI.

    Attributes:
        MAX_BAD_MESSAGES: After so many messages that cannot be understood the connection is
            closed.
        MAX_RUNS: So many runs may be asked for before they are over.
    """

    name: ClassVar[str] = "agui"
    subprotocols: ClassVar[tuple[str, ...]] = ("langgraph-ws.agui.v1",)
    route: ClassVar[str] = "/agui"
    MAX_BAD_MESSAGES: ClassVar[int] = 20
    MAX_RUNS: ClassVar[int] = 16

    def __init__(self, peer: Peer | None = None, **options: Any) -> None:
        super().__init__(peer, **options)
        self._tokens = count(1)
        self._asked: dict[int, _Run] = {}
        self._runs: list[_Run] = []
        self._bad_messages = 0

    # -- what the client says ---------------------------------------------------------------

    def receive(self, text: str) -> list[Action]:
        """Take a message of the client; after a `Close` there is nothing left to do."""
        if self._bad_messages >= self.MAX_BAD_MESSAGES:
            return []
        try:
            return [self.ask(decode(parse(text)))]
        except RequestError as error:
            self._bad_messages += 1
            said: list[Action] = [Reply(data) for data in self._refused(error)]
            if self._bad_messages < self.MAX_BAD_MESSAGES:
                return said
            return [*said, Close(4400, "too many bad messages")]

    def ask(self, request: RunInput | Connect | CancelRun) -> Do:
        """What is to be carried out for a request.

        Raises:
            RequestError: It cannot be.
        """
        command: Command = request.command()
        token = next(self._tokens)
        if isinstance(request, CancelRun):
            return Do(token, command)
        if len(self._runs) >= self.MAX_RUNS:
            raise RequestError("limit_exceeded", "too many runs wait on this connection")
        if any(self._is_told(run, request) for run in self._runs):
            raise InvalidRequest(
                "threadId",
                "expected another: this connection is told of it already",
                code="conflict",
            )
        run = _Run(request.thread_id, request.run_id)
        if isinstance(request, RunInput):
            run.events = self._events(request.thread_id, request.run_id)
        self._asked[token] = run
        self._runs.append(run)
        return Do(token, command)

    def _is_told(self, run: _Run, request: RunInput | Connect) -> bool:
        """Whether a connection that is told of this run cannot be told from its beginning, too."""
        same_run = isinstance(request, Connect) or run.run_id == request.run_id
        return same_run and run.thread_id == request.thread_id and not run.over

    def _events(self, thread_id: str, run_id: str) -> RunEvents:
        return RunEvents(thread_id, run_id, expose_state=self.expose_state)

    def _refused(self, error: RequestError) -> list[bytes]:
        run = _Run("")
        run.refuse(error)
        self._runs.append(run)
        return self._tell()

    # -- what became of it ------------------------------------------------------------------

    def done(self, token: int, outcome: Answer | RequestError) -> list[bytes]:
        """Say that a run never began, or what is to be known before it goes on."""
        run = self._asked.pop(token, None)
        if run is None:  # a run that could not be cancelled has ended: its end says so
            return []
        if isinstance(outcome, RequestError):
            run.refuse(outcome)
        elif isinstance(outcome, Attached) and outcome.snapshot is not None:
            self._begin_from(run, outcome.info, outcome.snapshot)
        return self._tell()

    def _begin_from(self, run: _Run, info: RunInfo, snapshot: Snapshot) -> None:
        """Tell of the thread as it is; where nothing comes after that, it is all."""
        if run.events is None:
            run.run_id = info.run_id or run.run_id or ""
            run.events = self._events(run.thread_id, run.run_id)
        run.after = snapshot.position.seq
        run.told += run.events.begin_from(snapshot)
        status = "completed" if info.status == "idle" else info.status
        if status != "running" and status != "queued" and run.after >= info.position.seq:
            run.told += run.events.end(status)

    def send(self, thread_id: str, entries: Sequence[Entry]) -> list[bytes]:
        """Take the next entries of a thread, for each run on it."""
        for run in self._runs:
            if run.thread_id == thread_id:
                for entry in entries:
                    run.take(entry)
        return self._tell()

    def done_with(self, thread_id: str) -> bool:
        """Whether all runs on the thread are over."""
        return not any(run.thread_id == thread_id for run in self._runs)

    def _tell(self) -> list[bytes]:
        """What can be told now: all of one run before the next begins."""
        told: list[bytes] = []
        while self._runs:
            run = self._runs[0]
            told += run.told
            run.told = []
            if not run.over:
                break
            del self._runs[0]
        return [b"data: %b\n\n" % data for data in told] if self.server_sent else told

    # -- the rest ---------------------------------------------------------------------------

    def gap(self, thread_id: str, gap: GapError, snapshot: Snapshot) -> list[bytes] | None:
        """Say nothing: the client sends the same input again, and is told what there is."""
        return [] if self.done_with(thread_id) else None

    def refuse(self, text: str, error: RequestError) -> list[bytes]:
        """Say that a message was not carried out."""
        return self._refused(error)

    def heartbeat(
        self, time_ms: int, heads: Mapping[str, Position], *, degraded: bool = False
    ) -> list[bytes]:
        """Say nothing: AG-UI has no such event."""
        return []

    def bye(self, reason: str, retry: Retry, after_ms: int) -> list[bytes]:
        """Say nothing: the client goes by the close of the connection."""
        return []


def error_event(error: RequestError) -> Json:
    """An error as the event of a run that failed, with the names that fields have in AG-UI."""
    name, colon, rest = str(error).partition(": ")
    error_id = f" (error {error.error_id})" if error.error_id else ""
    return run_error(error.code, f"{_FIELDS.get(name, name)}{colon}{rest}{error_id}")
