"""The protocol of the AI SDK's `WebSocketChatTransport` as a `Session`: `useChat`, unmodified.

A chat is a thread. Each request of a client is answered with chunks that are numbered from 0; what
they say of a response is made in `aisdk_chunks`, what clients send is decoded in `aisdk_requests`.
Here stands which requests are under way, and how far each of them has been answered.

A response is told from its first chunk to its last, and each time in the same way. What answers an
interrupt goes on with the message in which that was asked; so whoever comes back to it is told of
the run that asked, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar
from uuid import uuid4

from langgraph_ws.codec import dumps
from langgraph_ws.commands import Answer, Attached, Cancel, Command, Snapshot
from langgraph_ws.errors import GapError, InvalidRequest, RequestError
from langgraph_ws.frames import InterruptAnswered, RolledBack, RunFinished, RunStarted
from langgraph_ws.log import Entry, Position
from langgraph_ws.protocols.aisdk_chunks import Response
from langgraph_ws.protocols.aisdk_requests import Abort, Send, decode
from langgraph_ws.protocols.requests import Json, parse
from langgraph_ws.session import Action, Close, Do, Peer, Reply, Retry, Session

__all__ = ["AISDKSession"]

_FIELDS: Mapping[str, str] = {
    "thread_id": "id",
    "resume": "body.resume",
    "assistant_id": "body.assistantId",
    "checkpoint_id": "body.checkpointId",
    "multitask_strategy": "body.multitaskStrategy",
}
"""The names of fields that are others than ours."""


class _Chain:
    """The entries of the runs that make up the newest message of a thread, up to its head."""

    def __init__(self, head: int) -> None:
        self.head = head
        self.entries: list[Entry] = []
        self._before: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Take the next entry of the thread; those of a run whose beginning is gone are left out.

        Of what is answered the end is left out, for the message does not end there.
        """
        frame = entry.frame
        if isinstance(frame, RunStarted):
            self._before, self.entries = self.entries, [entry]
            return
        if not self.entries or entry.run_id != self.entries[-1].run_id:
            return
        begins = isinstance(self.entries[-1].frame, RunStarted | RolledBack)
        if begins and isinstance(frame, InterruptAnswered) and not frame.superseded:
            before = [it for it in self._before if not isinstance(it.frame, RunFinished)]
            self.entries = [*before, *self.entries]
        self.entries.append(entry)


@dataclass(slots=True, eq=False)
class _Request:
    """A request that has not been answered to its end.

    Attributes:
        run_id: The run that it is about; None while that is not known.
        response: What it is told of the run; None until it is known what that begins with.
        chain: What is read before a response can be told once more.
        after: The `seq` of the last entry that it has been told of.
        sequence: The number of its next chunk.
    """

    id: str
    thread_id: str
    run_id: str | None = None
    response: Response | None = None
    chain: _Chain | None = None
    after: int = 0
    sequence: Iterator[int] = field(default_factory=count)

    @property
    def over(self) -> bool:
        return self.response is not None and self.response.over

    def take(self, entry: Entry) -> Iterator[bytes]:
        """What the client is told of the next entry of the thread."""
        if entry.seq <= self.after:
            return
        self.after = entry.seq
        if self.chain is None:
            if self.response is not None and entry.run_id == self.run_id:
                yield from self._tell(self.response, [entry])
            return
        self.chain.add(entry)
        if entry.seq >= self.chain.head:
            entries, self.chain = self.chain.entries, None
            self.response = Response(entries[0].run_id if entries else "")
            self.response.over = not entries
            yield from self._tell(self.response, entries)

    def _tell(self, response: Response, entries: Sequence[Entry]) -> Iterator[bytes]:
        request_id = dumps(self.id)
        for entry in entries:
            for chunk in response.chunks(entry):
                yield b'{"type":"chunk","requestId":%b,"sequence":%d,"chunk":%b}' % (
                    request_id,
                    next(self.sequence),
                    chunk,
                )
        if response.over:
            yield dumps({"type": "end", "requestId": self.id})


class AISDKSession(Session):
    """One connection of a page that uses the AI SDK.

    Attributes:
        MAX_BAD_FRAMES: After so many frames that cannot be understood the connection is closed.
        MAX_REQUESTS: So many requests may be under way at once.
    """

    name: ClassVar[str] = "aisdk"
    subprotocols: ClassVar[tuple[str, ...]] = ("langgraph-ws.aisdk.v1",)
    route: ClassVar[str] = "/aisdk"
    MAX_BAD_FRAMES: ClassVar[int] = 20
    MAX_REQUESTS: ClassVar[int] = 64

    def __init__(self, peer: Peer | None = None, **options: Any) -> None:
        super().__init__(peer, **options)
        self._tokens = count(1)
        self._asked: dict[int, _Request] = {}
        self._requests: dict[str, _Request] = {}
        self._bad_frames = 0

    # -- what the client says ---------------------------------------------------------------

    def receive(self, text: str) -> list[Action]:
        """Take a frame of the client; after a `Close` there is nothing left to do."""
        if self._bad_frames >= self.MAX_BAD_FRAMES:
            return []
        request_id: str | None = None
        try:
            message = parse(text)
            request_id = _request_id(message)
            return self._actions(message)
        except RequestError as error:
            self._bad_frames += 1
            if request_id is None:
                # The client takes no frame that names no request; its documentation closes so.
                self._bad_frames = self.MAX_BAD_FRAMES
                return [Close(1008, _words(error))]
            reply = Reply(_error(request_id, error))
            if self._bad_frames < self.MAX_BAD_FRAMES:
                return [reply]
            return [reply, Close(1008, "too many bad frames")]

    def _actions(self, message: Json) -> list[Action]:
        frame = decode(message)
        if isinstance(frame, Abort):
            return self._abort(frame.request_id)
        if frame.request_id in self._requests:
            raise InvalidRequest("requestId", "expected a new one: this request is under way")
        if len(self._requests) >= self.MAX_REQUESTS:
            raise RequestError("limit_exceeded", "too many requests are under way")
        request = _Request(frame.request_id, frame.id)
        command: Command
        if isinstance(frame, Send):
            request.run_id = str(uuid4())
            command = frame.command(request.run_id)
            known = frame.goes_on
            request.response = Response(request.run_id if known is None else known.id, known)
        else:
            command = frame.command()
        self._requests[request.id] = request
        return [self._do(command, request)]

    def _do(self, command: Command, request: _Request | None = None) -> Do:
        token = next(self._tokens)
        if request is not None:
            self._asked[token] = request
        return Do(token, command)

    def _abort(self, request_id: str) -> list[Action]:
        """Stop the run that a request is about, unless another request waits for it, too.

        (A page that resumes twice gives up the first of its requests, not the run.)
        """
        request = self._requests.pop(request_id, None)
        if request is None or request.run_id is None:
            return []
        if any(other.run_id == request.run_id for other in self._requests.values()):
            return []
        return [self._do(Cancel(thread_id=request.thread_id, run_id=request.run_id))]

    # -- what became of it ------------------------------------------------------------------

    def done(self, token: int, outcome: Answer | RequestError) -> list[bytes]:
        """Answer a request; one that was given up meanwhile has no answer."""
        request = self._asked.pop(token, None)
        if request is None or self._requests.get(request.id) is not request:
            return []
        if isinstance(outcome, RequestError):
            del self._requests[request.id]
            return [_error(request.id, outcome)]
        assert isinstance(outcome, Attached)
        return [] if request.response is not None else self._resumed(request, outcome)

    def _resumed(self, request: _Request, outcome: Attached) -> list[bytes]:
        info = outcome.info
        if info.run_id is not None and info.start is not None and outcome.snapshot is None:
            request.run_id = info.run_id
            request.chain = _Chain(info.position.seq)
            return [dumps({"type": "start", "requestId": request.id})]
        del self._requests[request.id]
        if info.status in ("running", "queued"):
            lost = "the beginning of the response is no longer held"
            return [_error(request.id, RequestError("not_found", lost))]
        return [dumps({"type": "no-active", "requestId": request.id})]

    def send(self, thread_id: str, entries: Sequence[Entry]) -> list[bytes]:
        """Take the next entries of a thread, for each request about it."""
        messages: list[bytes] = []
        for request in self._of(thread_id):
            for entry in entries:
                messages += request.take(entry)
                if request.over:
                    del self._requests[request.id]
                    break
        return messages

    def done_with(self, thread_id: str) -> bool:
        """Whether no request is about the thread any more."""
        return not self._of(thread_id)

    def _of(self, thread_id: str) -> list[_Request]:
        return [it for it in self._requests.values() if it.thread_id == thread_id]

    # -- the rest ---------------------------------------------------------------------------

    def gap(self, thread_id: str, gap: GapError, snapshot: Snapshot) -> list[bytes] | None:
        """Say nothing: a response has no holes, so the client has to come back for all of it."""
        return None if self._of(thread_id) else []

    def refuse(self, text: str, error: RequestError) -> list[bytes]:
        """Say that a frame was not carried out."""
        try:
            return [_error(_request_id(parse(text)), error)]
        except RequestError:
            return []

    def heartbeat(
        self, time_ms: int, heads: Mapping[str, Position], *, degraded: bool = False
    ) -> list[bytes]:
        """Say nothing: the client knows no such frame."""
        return []

    def bye(self, reason: str, retry: Retry, after_ms: int) -> list[bytes]:
        """Say nothing: the client goes by the close of the connection."""
        return []


def _request_id(message: Json) -> str:
    value = message.get("requestId")
    if not isinstance(value, str) or not value:
        raise InvalidRequest("requestId", "expected a string that is not empty")
    return value


def _error(request_id: str, error: RequestError) -> bytes:
    return dumps({"type": "error", "requestId": request_id, "errorText": _words(error)})


def _words(error: RequestError) -> str:
    """The text of an error, with the names that the fields have in this protocol."""
    field, colon, rest = str(error).partition(": ")
    error_id = f" (error {error.error_id})" if error.error_id else ""
    return f"{_FIELDS.get(field, field)}{colon}{rest}{error_id}"
