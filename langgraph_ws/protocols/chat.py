"""The chat protocol, version 1: PROTOCOL.md as a `Session`.

What a client sends is decoded in `chat_requests`, what it is sent is encoded in `chat_messages`.
Here stands what a client was told: the threads that it follows, and for each the texts of the
messages that are still open.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any, ClassVar, TypeAlias

from langgraph_ws.codec import dumps, known
from langgraph_ws.commands import (
    Answer,
    Attached,
    Authenticate,
    Authenticated,
    Cancelling,
    Detached,
    Saved,
    Snapshot,
)
from langgraph_ws.errors import GapError, InvalidRequest, RequestError
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    BlockKind,
    BlockStarted,
    Frame,
    MessageFinished,
    MessageStarted,
    Namespace,
    RunFinished,
    new_delta,
)
from langgraph_ws.log import Entry, Position
from langgraph_ws.protocols.chat_messages import (
    ENCODERS,
    RESERVED,
    Where,
    answer,
    error_message,
    gap_message,
    run_message,
    snapshot_message,
    task,
)
from langgraph_ws.protocols.chat_requests import REQUESTS, RequestId, decode, request_id
from langgraph_ws.protocols.requests import parse
from langgraph_ws.session import (
    Action,
    Close,
    Do,
    Peer,
    Reply,
    Retry,
    Session,
    Teller,
    tells_nothing,
)
from langgraph_ws.view import OpenMessage

__all__ = ["RESERVED", "ChatSession"]

Json: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class _Block:
    """What was written of a block so far."""

    kind: BlockKind
    call: Json = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)

    def text(self) -> str:
        """All of it; joined once, so that asking after each part costs no list of all parts."""
        text = "".join(self.parts)
        self.parts[:] = [text]
        return text


@dataclass(slots=True)
class _Open:
    """A message of which a client in full mode has been told everything so far."""

    run_id: str
    task_id: str | None
    blocks: dict[int, _Block] = field(default_factory=dict)

    def add(self, frame: BlockDelta) -> None:
        """Take the next part of a block."""
        block = self.blocks.get(frame.index)
        if block is None:
            block = self.blocks[frame.index] = _Block(frame.kind)
        block.parts.append(frame.text)

    def text(self, kind: BlockKind) -> str:
        """All text (or reasoning) of the message so far."""
        blocks = [(index, block) for index, block in self.blocks.items() if block.kind == kind]
        return "".join(block.text() for _, block in sorted(blocks, key=lambda item: item[0]))


@dataclass(slots=True)
class _Waiting:
    """Deltas that become one message.

    Attributes:
        entry: The newest entry.
        frame: Its frame.
        first: The `seq` of the first of them.
        offset: Where in its block the first of them begins.
        whole: The message, where the client is told all of it so far.
        parts: What they say, where it is told what is new.
    """

    entry: Entry
    frame: BlockDelta
    first: int
    offset: int
    whole: _Open | None
    parts: list[str]

    def add(self, entry: Entry, frame: BlockDelta) -> None:
        """Take the next one."""
        self.entry = entry
        self.frame = frame
        if self.whole is None:
            self.parts.append(frame.text)

    def encode(self) -> bytes:
        """The message that tells of them."""
        entry, frame = self.entry, self.frame
        if self.whole is not None:
            # Not kept with the entry: texts that grow by a word each would add up to its square.
            said = self._so_far(self.whole)
        elif self.first == entry.seq:
            return _delta_message(entry, frame, _around_of(entry, frame))
        else:
            said = {"delta": "".join(self.parts), "offset": self.offset}
        return _message(entry, frame, said, self.first)

    def _so_far(self, whole: _Open) -> Json:
        frame = self.frame
        if frame.kind != "tool_call":
            return {"text": whole.text(frame.kind)}
        block = whole.blocks[frame.index]
        return block.call | {"arguments": block.text()}


def _message(entry: Entry, frame: BlockDelta, said: Json, first: int) -> bytes:
    """A message that tells of the deltas from `first` on."""
    message: Json = {"type": frame.kind, "run_id": entry.run_id, "seq": entry.seq}
    if first != entry.seq:
        message["from_seq"] = first
    message["data"] = _about(frame) | said
    return dumps(message)


def _about(frame: BlockDelta) -> Json:
    """What the message of a delta says beside its text."""
    data = {"message_id": frame.message_id, "index": frame.index} | task(frame)
    return data | {"status": "arguments"} if frame.kind == "tool_call" else data


def _delta_message(entry: Entry, frame: BlockDelta, around: _Around) -> bytes:
    """The message of one delta, made once for all who follow: the way of nearly every token."""
    data = entry.encoded.get("chat")
    if data is None:
        text, offset = frame.text, frame.offset
        if around is None:
            data = _message(entry, frame, {"delta": text, "offset": offset}, entry.seq)
        elif type(offset) is int and 0 <= offset < _EXACT:
            before, between = around
            said = before, entry.seq, between, dumps(text), offset
            data = b'%b%d%b%b,"offset":%d}}' % said
        else:
            before, between = around
            data = b'%b%d%b%b,"offset":%b}}' % (
                *(before, entry.seq, between, dumps(text)),
                dumps(offset),
            )
        entry.encoded["chat"] = data
    return data


def _around_of(entry: Entry, frame: BlockDelta) -> _Around:
    """What its message shares with those of the deltas that go on with it."""
    try:
        return _around(
            entry.run_id,
            frame.message_id,
            frame.index,
            frame.kind,
            frame.node,
            frame.namespace,
            frame.task_id,
        )
    except TypeError:  # a mapper made it, of something that cannot be looked up
        return None


@lru_cache(maxsize=1_000, typed=True)
def _around(
    run_id: str,
    message_id: str,
    index: int,
    kind: BlockKind,
    node: str | None,
    namespace: Namespace,
    task_id: str | None,
) -> tuple[bytes, bytes]:
    """What stands before the `seq` of a message with a delta, and between that and its text."""
    frame = new_delta(message_id, index, kind, "", 0, node, namespace, task_id)
    about = dumps(_about(frame)).removesuffix(b"}")
    run = dumps({"type": kind, "run_id": run_id}).removesuffix(b"}")
    return run + b',"seq":', b',"data":' + about + b',"delta":'


_EXACT = 2**53
"""Integers from here on go out as strings."""
_Around: TypeAlias = tuple[bytes, bytes] | None
_Key: TypeAlias = tuple[str, BlockKind, int]


class _Feed:
    """A thread that is followed, as far as the client has been told of it.

    Args:
        run_id: The one run that is followed; None: all of them.
        expose_state: Whether the client may see the state.

    Attributes:
        merged: How many deltas were merged into another since this was last set to 0.
    """

    __slots__ = (
        "_after",
        "_around",
        "_delta",
        "_epoch",
        "_expose_state",
        "_last",
        "_last_run_id",
        "_open",
        "_variant",
        "merged",
        "run_id",
    )

    def __init__(self, run_id: str | None, expose_state: bool) -> None:
        self.run_id = run_id
        self.merged = 0
        self._expose_state = expose_state
        self._variant = "chat+state" if expose_state else "chat"
        self._delta = False
        self._epoch = ""
        self._after = 0
        self._open: dict[str, _Open] = {}
        self._last: BlockDelta | None = None
        self._last_run_id = ""
        self._around: _Around = None

    def speak(self, *, delta: bool) -> None:
        """Tell of text what is new (`delta`), or all so far.

        A message that is under way while the client changes from delta to full stays as it is.
        """
        self._delta = delta
        if delta:
            self._open.clear()

    def go_on(self, position: Position, snapshot: Snapshot | None = None) -> None:
        """Show what lies after the position; the client knows the snapshot."""
        self._epoch, self._after = position
        self._open.clear()
        if snapshot is not None and not self._delta:
            latest = snapshot.run_id or ""
            for message in snapshot.open:
                self._open[message.started.message_id] = _reopened(latest, message)

    def send(self, entries: Sequence[Entry]) -> list[bytes]:
        """The messages for the next entries."""
        out: list[bytes] = []
        waiting: dict[_Key, _Waiting] = {}
        for entry in entries:
            frame = entry.frame
            if type(frame) is BlockDelta:
                self._collect(entry, frame, waiting, out)
                continue
            _flush(waiting, out)
            self._fold(entry, frame)
            if entry.seq > self._after and (data := self._encode(entry)):
                out.append(data)
        _flush(waiting, out)
        return out

    def tell(self, entry: Entry) -> bytes | None:
        """The message for the next entry, if it is a delta that stands for itself."""
        frame = entry.frame
        if type(frame) is not BlockDelta or self._open or entry.seq <= self._after:
            return None
        data = entry.encoded.get("chat")
        return self._delta_message(entry, frame) if data is None else data

    def _delta_message(self, entry: Entry, frame: BlockDelta) -> bytes | None:
        """The message of one delta, which mostly goes on with the one before."""
        if frame.kind == "media":
            return None
        last = self._last
        if (
            last is None
            or frame.message_id is not last.message_id
            or frame.index is not last.index
            or frame.kind is not last.kind
            or frame.node is not last.node
            or frame.namespace is not last.namespace
            or frame.task_id is not last.task_id
            or entry.run_id is not self._last_run_id
        ):
            self._last, self._last_run_id = frame, entry.run_id
            self._around = _around_of(entry, frame)
        return _delta_message(entry, frame, self._around)

    def _collect(
        self, entry: Entry, frame: BlockDelta, waiting: dict[_Key, _Waiting], out: list[bytes]
    ) -> None:
        whole = self._open.get(frame.message_id)
        if whole is not None:
            whole.add(frame)
        if frame.kind == "media" or entry.seq <= self._after:
            return
        by_block = whole is None or frame.kind == "tool_call"
        key = (frame.message_id, frame.kind, frame.index if by_block else -1)
        if whole is None and waiting and list(waiting) != [key]:
            # A delta joins only those right before it: a client that is cut off between two
            # messages must have seen every delta that lies before its position.
            _flush(waiting, out)
        deltas = waiting.pop(key, None)
        if deltas is None:
            deltas = _Waiting(entry, frame, entry.seq, frame.offset, whole, [frame.text])
        else:
            deltas.add(entry, frame)
            self.merged += 1
        waiting[key] = deltas  # as the last, for messages go out in the order of their `seq`

    def _fold(self, entry: Entry, frame: Frame) -> None:
        """Begin and forget what is known of open messages."""
        match frame:
            case MessageStarted() if not self._delta:
                self._open[frame.message_id] = _Open(entry.run_id, frame.task_id)
            case BlockStarted() if (message := self._open.get(frame.message_id)) is not None:
                call = known(tool_call_id=frame.tool_call_id, name=frame.name)
                message.blocks[frame.index] = _Block(frame.kind, call)
            case MessageFinished():
                self._open.pop(frame.streamed_id or frame.message_id, None)
            case AttemptStarted():
                self._forget(lambda message: message.task_id in frame.rerun_task_ids)
            case RunFinished():
                self._forget(lambda message: message.run_id == entry.run_id)
            case _:
                pass

    def _forget(self, which: Callable[[_Open], bool]) -> None:
        for message_id in [key for key, message in self._open.items() if which(message)]:
            del self._open[message_id]

    def _encode(self, entry: Entry) -> bytes | None:
        data = entry.encoded.get(self._variant)
        if data is None:
            where = Where(entry, self._epoch, self._expose_state)
            said = ENCODERS[type(entry.frame)](entry.frame, where)
            if said is None:
                return None
            kind, value = said
            data = dumps({"type": kind, "run_id": entry.run_id, "seq": entry.seq, "data": value})
            entry.encoded[self._variant] = data
        return data


def _flush(waiting: dict[_Key, _Waiting], out: list[bytes]) -> None:
    out.extend(deltas.encode() for deltas in waiting.values())
    waiting.clear()


def _reopened(run_id: str, message: OpenMessage) -> _Open:
    blocks = {
        index: _Block(
            block.kind,
            known(tool_call_id=block.tool_call_id, name=block.name),
            [block.text],
        )
        for index, block in message.blocks.items()
    }
    return _Open(run_id, message.started.task_id, blocks)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is remembered of a message until its command has been carried out."""

    answers: RequestId
    delta: bool


class ChatSession(Session):
    """One connection that speaks the chat protocol.

    Attributes:
        MAX_BAD_MESSAGES: After so many messages that cannot be understood the connection is
            closed with 4400.
    """

    name: ClassVar[str] = "chat"
    subprotocols: ClassVar[tuple[str, ...]] = ("langgraph-ws.chat.v1",)
    MAX_BAD_MESSAGES: ClassVar[int] = 20

    def __init__(self, peer: Peer | None = None, **options: bool) -> None:
        super().__init__(peer, **options)
        self._authenticating = False
        self._tokens = count(1)
        self._asked: dict[int, _Asked] = {}
        self._feeds: dict[str, _Feed] = {}
        self._bad_messages = 0

    def receive(self, text: str) -> list[Action]:
        """Take a message of the client; after a `Close` there is nothing left to do."""
        if self._bad_messages >= self.MAX_BAD_MESSAGES:
            return []
        answers: RequestId = None
        try:
            message = parse(text)
            answers = request_id(message)
            return [self._action(message, answers)]
        except RequestError as error:
            return self._refused(error, answers)

    def done(self, token: int, outcome: Answer | RequestError) -> list[bytes]:
        """Answer the message that asked for the command; an unknown token has no answer."""
        asked = self._asked.pop(token, None)
        if asked is None:
            return []
        match outcome:
            case RequestError():
                return [error_message(outcome, asked.answers)]
            case Attached():
                return self._attached(outcome, asked)
            case Detached():
                self._feeds.pop(outcome.info.thread_id, None)
                return [run_message(outcome.info, asked.answers, "detached")]
            case Cancelling():
                return [run_message(outcome.info, asked.answers, "cancelling")]
            case Authenticated():
                self.authenticated = True
                expires_at = _milliseconds(outcome.expires_at)
                return [answer("authenticated", {"expires_at": expires_at}, asked.answers)]
            case Saved():
                raise AssertionError("the chat protocol asks for nothing that is saved")

    def send(self, thread_id: str, entries: Sequence[Entry]) -> list[bytes]:
        """Take the next entries of a followed thread; text that waits in them is merged."""
        feed = self._feeds.get(thread_id)
        if feed is None:
            return []
        messages = feed.send(entries)
        self.merged += feed.merged
        feed.merged = 0
        if feed.run_id is not None and _ends(feed.run_id, entries):
            del self._feeds[thread_id]
        return messages

    def teller(self, thread_id: str) -> Teller:
        """What takes deltas that stand for themselves."""
        feed = self._feeds.get(thread_id)
        return tells_nothing if feed is None or feed.run_id is not None else feed.tell

    def gap(self, thread_id: str, gap: GapError, snapshot: Snapshot) -> list[bytes] | None:
        """Tell of the gap and the snapshot, and go on after it."""
        feed = self._feeds.get(thread_id)
        if feed is None:
            return []
        feed.go_on(snapshot.position, snapshot)
        return [gap_message(thread_id, gap), snapshot_message(snapshot, self.expose_state)]

    def refuse(self, text: str, error: RequestError) -> list[bytes]:
        """Say that a message was not carried out, whatever it asks for."""
        answers: RequestId = None
        with suppress(RequestError):
            answers = request_id(parse(text))
        return [error_message(error, answers)]

    def heartbeat(
        self, time_ms: int, heads: Mapping[str, Position], *, degraded: bool = False
    ) -> list[bytes]:
        """Say that the connection lives, and where the followed threads stand."""
        threads = {
            thread_id: {"epoch": head.epoch, "head": head.seq} for thread_id, head in heads.items()
        }
        told = {"degraded": True} if degraded else {}
        return [answer("heartbeat", {"time": time_ms, "threads": threads, **told})]

    def bye(self, reason: str, retry: Retry, after_ms: int) -> list[bytes]:
        """Say that the connection is about to be closed."""
        return [answer("bye", {"reason": reason, "retry": retry, "after_ms": after_ms})]

    def _action(self, message: Json, answers: RequestId) -> Action:
        kind = message.get("type")
        if kind != "auth" and not self.authenticated and not self._authenticating:
            raise RequestError("unauthorized", "say who you are first: send an auth message")
        if kind == "ping":
            return Reply(answer("pong", {"time": time.time_ns() // 1_000_000}, answers))
        request = decode(self._known_type(kind), message)
        command = request.command()
        # What comes after a token is carried out after it, or not at all.
        self._authenticating = self._authenticating or isinstance(command, Authenticate)
        token = next(self._tokens)
        self._asked[token] = _Asked(answers, request.delta)
        return Do(token, command)

    def _known_type(self, kind: object) -> str:
        types = [name for name in REQUESTS if name != "auth" or self.takes_tokens]
        if isinstance(kind, str) and kind in types:
            return kind
        expected = f"expected one of {', '.join(types)} and ping"
        raise InvalidRequest("type", expected, code="unknown_type")

    def _refused(self, error: RequestError, answers: RequestId) -> list[Action]:
        reply = Reply(error_message(error, answers))
        if error.code == "unauthorized":
            return [reply]
        self._bad_messages += 1
        if self._bad_messages < self.MAX_BAD_MESSAGES:
            return [reply]
        return [reply, Close(4400, "too many bad messages")]

    def _attached(self, outcome: Attached, asked: _Asked) -> list[bytes]:
        info, snapshot = outcome.info, outcome.snapshot
        feed = self._feeds.get(info.thread_id)
        after = outcome.after
        if feed is None:
            after = after or 0
        if feed is None or after is not None:
            feed = self._feeds[info.thread_id] = _Feed(outcome.run_id, self.expose_state)
        feed.speak(delta=asked.delta)
        if after is not None:
            feed.go_on(Position(info.position.epoch, after), snapshot)
        messages = [run_message(info, asked.answers)]
        if outcome.gap is not None:
            messages.append(gap_message(info.thread_id, outcome.gap))
        if snapshot is not None:
            messages.append(snapshot_message(snapshot, self.expose_state))
        return messages


def _ends(run_id: str, entries: Sequence[Entry]) -> bool:
    """Whether the run ends in these entries."""
    last = entries[-1] if entries else None
    return last is not None and last.run_id == run_id and type(last.frame) is RunFinished


def _milliseconds(seconds: float | None) -> int | None:
    return round(seconds * 1000) if seconds is not None and math.isfinite(seconds) else None
