"""The LangChain Agent Streaming Protocol as a `Session`: one thread, told of by subscriptions.

The official clients of LangGraph Platform speak it: `langgraph_sdk` for Python, the JavaScript SDK,
and `useStream` on top of that. What they ask for is decoded in `langchain_commands`, what they are
told is encoded in `langchain_events`. Here stands what the client of one connection has subscribed
to, and what of it each subscription has been told.

A subscription is told of everything that the log still holds, then of what comes. So each of them
makes the connection read the log from the oldest entry on once more, and the others leave out what
they have been told already.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any, ClassVar
from uuid import uuid4

from langgraph_ws.codec import dumps
from langgraph_ws.commands import (
    Answer,
    Attached,
    Command,
    RunInfo,
    Saved,
    Snapshot,
    StartRun,
)
from langgraph_ws.errors import ErrorCode, GapError, InvalidRequest, RequestError
from langgraph_ws.frames import (
    AttemptStarted,
    BlockDelta,
    BlockFinished,
    BlockStarted,
    Custom,
    Frame,
    Interrupted,
    MessageFinished,
    MessageStarted,
    RunFinished,
    RunStarted,
    Sources,
    StateSnapshot,
)
from langgraph_ws.log import Entry, Position
from langgraph_ws.protocols.langchain_commands import (
    Filter,
    Reconnect,
    Request,
    StateFork,
    StateGet,
    Subscribe,
    Unsubscribe,
    decode,
)
from langgraph_ws.protocols.langchain_events import (
    CHANNEL_OF,
    TERMINAL_EVENTS,
    Event,
    Numbers,
    encode,
    events_of,
    namespace_of,
    started_block,
    taken_back,
)
from langgraph_ws.protocols.requests import MAX_INTEGER, Json, parse
from langgraph_ws.session import Action, Close, Do, Peer, Reply, Retry, Session

__all__ = ["LangChainSession"]

logger = logging.getLogger(__name__)

_VARIANT = "langchain"
_TOLD = f"{_VARIANT}.told"
"""A mark among the bytes of an entry, which all connections share: some watcher was sent it."""
_PENDING = 32
"""From which part of an entry's numbers on those of questions are that only the state has."""
_DIGITS = len(str(MAX_INTEGER))
_PYTHON_LIMIT = 1_000_000
"""The library of the Python client closes the socket over a message of more than 1 MiB."""
_SETTLE_MS = 300
"""How long the JavaScript client may need from its first subscription or event stream to the next,
and the Python client from its first to a run."""
_LATE_MS = 10_000
"""How long the Python client may need to watch a run that it has started."""
_OVERTAKE_MS = 100
"""How long the Python client may need to read what was sent before on another connection."""
_ENDS = frozenset({"completed", "failed"})
"""What the Python client takes for the end of a run."""
_WATCHED = frozenset({"lifecycle", "input"})
_CODES: Mapping[ErrorCode, str] = {
    "bad_message": "invalid_argument",
    "invalid_field": "invalid_argument",
    "unknown_graph": "invalid_argument",
    "nothing_to_continue": "invalid_argument",
    "unknown_type": "unknown_command",
    "not_found": "no_such_run",
    "stale_interrupt": "no_such_interrupt",
    "ambiguous_interrupt": "no_such_interrupt",
    "no_checkpoint": "no_such_checkpoint",
    "no_checkpointer": "not_supported",
    "unauthorized": "permission_denied",
    "forbidden": "permission_denied",
}
"""The codes of the protocol for ours; everything else is an `unknown_error`."""
_FIELDS = {"resume": "params.interrupt_id", "checkpoint_id": "params.checkpoint_id"}
"""The names of fields that are others than ours."""


@dataclass(slots=True, eq=False)
class _Subscription:
    """What the client wants to be told, and up to where it has been told.

    Attributes:
        after: The number of the last event that it has been told of, or that it knows already.
        head: The number up to which it is a replay.
        answers: The id of the command to answer once the replay is over; None: it is answered.
        leaves_out: Which events of the replay the client would misunderstand.
        replayed: How many events the replay had.
    """

    id: str
    filter: Filter
    after: int
    head: int = 0
    answers: int | None = None
    reconnected: bool = False
    leaves_out: Callable[[int, Entry, Event], bool] = lambda _number, _entry, _event: False
    replayed: int = 0

    @property
    def watches(self) -> bool:
        """Whether it is the one with which every client watches its runs."""
        return self.filter.channels == _WATCHED and not self.filter.customs


@dataclass(slots=True)
class _Message:
    """An open message whose beginning the connection has read.

    Attributes:
        open: The index of the block that is told of as it is written.
        args: What was written so far of the arguments of a tool call, by index.
    """

    open: int | None = None
    args: dict[int, str] = field(default_factory=dict)


class _Reader:
    """Turns the entries of a thread, read in their order, into events."""

    def __init__(self, epoch: str) -> None:
        self.numbers = Numbers(epoch)
        self._open: dict[str, _Message] = {}
        self._states: dict[tuple[str, ...], Any] = {}
        self._said: dict[tuple[str, ...], dict[str, str | None]] = {}
        """The tasks of the messages that the state has not had yet, by where that is."""

    def events(self, entry: Entry) -> tuple[Event, ...]:
        """The events of the next entry.

        Of a message whose beginning is no longer held nothing is told: the state has it.
        Blocks are told one after the other; one that begins while another is open comes whole.
        """
        frame, run_id = entry.frame, entry.run_id
        match frame:
            case MessageStarted():
                self._open[frame.message_id] = _Message()
                for depth in range(len(frame.namespace) + 1):  # a page shows those below, too
                    said = self._said.setdefault(frame.namespace[:depth], {})
                    said[frame.message_id] = frame.task_id
            case MessageFinished():
                if self._open.pop(frame.streamed_id or frame.message_id, None) is None:
                    return ()
            case BlockStarted() | BlockDelta() | BlockFinished():
                message = self._open.get(frame.message_id)
                return () if message is None else _block_events(message, frame, run_id)
            case StateSnapshot():
                self._states[frame.namespace] = frame.values
                self._said.pop(frame.namespace, None)
            case AttemptStarted():
                return tuple(self._taken_back(frozenset(frame.rerun_task_ids)))[:_PENDING]
            case RunFinished():
                self._open.clear()
                self._said.clear()
                self._states = {place: it for place, it in self._states.items() if not place}
            case _:
                pass
        return events_of(frame, run_id)

    def _taken_back(self, tasks: Collection[str]) -> Iterator[Event]:
        """The events by which a page drops what tasks said that run again.

        The state of the whole graph is told only where it is known: a page shows what it is told.
        """
        for namespace, said in self._said.items():
            values = self._states.get(namespace, {} if namespace else None)
            drafts = [message_id for message_id, task_id in said.items() if task_id in tasks]
            if drafts and isinstance(values, dict):
                yield from taken_back(drafts, values, namespace)
            for message_id in drafts:
                del said[message_id]


def _block_events(
    message: _Message, frame: BlockStarted | BlockDelta | BlockFinished, run_id: str
) -> tuple[Event, ...]:
    if isinstance(frame, BlockStarted):
        if message.open is not None or frame.kind == "media":
            return ()
        message.open = frame.index
        return (started_block(frame, run_id),)
    if isinstance(frame, BlockDelta):
        if message.open != frame.index:
            return ()
        if frame.kind == "tool_call":
            return (_arguments(message, frame, run_id),)
        return events_of(frame, run_id)
    finished = events_of(frame, run_id)
    if message.open == frame.index:
        message.open = None
        return finished
    begun = {**finished[0].data, "event": "content-block-start"}
    return (Event("messages", begun), *finished)


def _arguments(message: _Message, frame: BlockDelta, run_id: str) -> Event:
    """All that was written so far: older clients know no delta of arguments."""
    args = message.args[frame.index] = message.args.get(frame.index, "") + frame.text
    fields = {"type": "tool_call_chunk", "args": args}
    said = {"index": frame.index, "delta": {"type": "block-delta", "fields": fields}}
    about = {"id": frame.message_id, "run_id": run_id}
    return Event("messages", {"event": "content-block-delta", **said, **about})


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is remembered of a command until it has been carried out."""

    answers: int
    request: Any
    subscriptions: tuple[_Subscription, ...] = ()


class LangChainSession(Session):
    """One connection that speaks the LangChain protocol, about one thread.

    Attributes:
        MAX_BAD_MESSAGES: After so many messages that cannot be understood the connection is
            closed with 4400.
        MAX_SUBSCRIPTIONS: So many subscriptions may be open at once.
    """

    name: ClassVar[str] = "langchain"
    subprotocols: ClassVar[tuple[str, ...]] = ("langgraph-ws.langchain.v1",)
    route: ClassVar[str] = "/threads/{thread_id}/stream/events"
    shows_state: ClassVar[bool] = True
    takes_binary: ClassVar[bool] = True
    # The clients give up for good on most codes from 4400 to 4499.
    slow_code: ClassVar[int] = 1013
    MAX_BAD_MESSAGES: ClassVar[int] = 100
    MAX_SUBSCRIPTIONS: ClassVar[int] = 100

    def __init__(self, peer: Peer, **options: Any) -> None:
        super().__init__(peer, **options)
        self._thread_id = peer.variables["thread_id"]
        has_limit = "websockets/" in peer.user_agent
        self._is_python = has_limit or "langgraph-sdk-py/" in peer.user_agent
        self._limit = _PYTHON_LIMIT if has_limit else None
        self._is_one_of_several = self.server_sent and not self._is_python
        self._tokens = count(1)
        self._asked: dict[int, _Asked] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._reader: _Reader | None = None
        self._started_after: int | None = None
        self._superseding = False
        self._own_run: str | None = None
        self._last_begun: str | None = None
        self._bad_messages = 0
        self._opened_ms = self._subscribed_ms = _now_ms()
        self._held: list[bytes] = []
        self._due_ms = 0.0  # when that is due
        self._is_leaving = False

    # -- what the client says ---------------------------------------------------------------

    def receive(self, text: str) -> list[Action]:
        """Take a command of the client; after a `Close` there is nothing left to do."""
        if self._bad_messages >= self.MAX_BAD_MESSAGES:
            return []
        answers: int | None = None
        try:
            message = parse(text)
            answers = _command_id(message)
            return [self._action(answers, message)]
        except RequestError as error:
            self._bad_messages += 1
            reply = Reply(_error(error, answers))
            if self._bad_messages < self.MAX_BAD_MESSAGES:
                return [reply]
            return [reply, Close(4400, "too many bad messages")]

    def subscribe(self, request: Subscribe) -> Do:
        """Have a stream of events that is asked for without a command."""
        subscription = self._subscription(request)
        return self._do(_Asked(0, request, (subscription,)), request.command(self._thread_id))

    def _action(self, answers: int, message: Json) -> Action:
        request = decode(message.get("method"), message.get("params"))
        if isinstance(request, Unsubscribe):
            return Reply(self._unsubscribe(answers, request))
        subscriptions: tuple[_Subscription, ...] = ()
        if isinstance(request, Subscribe):
            subscriptions = (self._subscription(request, answers),)
        elif isinstance(request, Reconnect):
            subscriptions = self._reconnected(request, answers)
        assert isinstance(request, Request)
        command = request.command(self._thread_id)
        if isinstance(command, StartRun):
            # A client up to 1.11 takes the end of the run that it supersedes for that of its own.
            self._superseding = command.multitask_strategy in ("interrupt", "rollback")
        return self._do(_Asked(answers, request, subscriptions), command)

    def _do(self, asked: _Asked, command: Command) -> Do:
        token = next(self._tokens)
        self._asked[token] = asked
        return Do(token, command)

    def _subscription(self, request: Subscribe, answers: int | None = None) -> _Subscription:
        if answers is not None and not self.streams:
            raise InvalidRequest(
                "method", "a lone command has no events; subscribe on a stream", code="unknown_type"
            )
        if len(self._subscriptions) >= self.MAX_SUBSCRIPTIONS:
            raise RequestError("limit_exceeded", "too many subscriptions; unsubscribe first")
        after = request.since
        if request.since_event_id is not None:
            after = _number_in(request.since_event_id)
        subscription = _Subscription(uuid4().hex, request.filter(), -1, answers=answers)
        subscription.after = -1 if after is None else after
        return subscription

    def _reconnected(self, request: Reconnect, answers: int) -> tuple[_Subscription, ...]:
        """The subscriptions to be told of once more, or a new one."""
        wanted = request.subscribe()
        if wanted is not None:
            subscription = self._subscription(wanted, answers)
            subscription.id = request.subscription_id or subscription.id
            subscription.reconnected = True
            return (subscription,)
        ids = request.subscriptions or []
        found = tuple(self._subscriptions[id_] for id_ in ids if id_ in self._subscriptions)
        last = request.last_event_id
        for subscription in found:
            subscription.after = -1 if last is None else _number_in(last)
            subscription.replayed = 0
        return found

    def _unsubscribe(self, answers: int, request: Unsubscribe) -> bytes:
        if self._subscriptions.pop(request.subscription_id, None) is None:
            message = f"params.subscription_id: no subscription {request.subscription_id!r}"
            return dumps(
                {
                    "type": "error",
                    "id": answers,
                    "error": "no_such_subscription",
                    "message": message,
                }
            )
        return _success(answers, {})

    # -- what became of it ------------------------------------------------------------------

    def done(self, token: int, outcome: Answer | RequestError) -> list[bytes]:
        """Answer the command; an unknown token has no answer."""
        asked = self._asked.pop(token, None)
        if asked is None:
            return []
        match outcome:
            case RequestError():
                if isinstance(asked.request, Request):
                    self._superseding = False
                return [_error(outcome, asked.answers)]
            case Attached() if isinstance(asked.request, Subscribe | Reconnect):
                return self._subscribed(outcome, asked)
            case Attached():
                return [self._started(outcome.info, asked)]
            case Saved():
                return [_success(asked.answers, _saved(asked.request, outcome.value))]
            case _:
                return [_success(asked.answers, {})]

    def _started(self, info: RunInfo, asked: _Asked) -> bytes:
        start = info.start or info.position
        before = Numbers(info.position.epoch).through(start.seq)
        self._started_after = before
        self._own_run = info.run_id
        self._superseding = self._superseding and self._last_begun != info.run_id
        result: Json = {"run_id": info.run_id}
        if isinstance(asked.request, StateFork):
            result["thread_id"] = info.thread_id
        return _success(asked.answers, result, applied_through_seq=before)

    def _subscribed(self, outcome: Attached, asked: _Asked) -> list[bytes]:
        """Register subscriptions; each is answered when it has been told what there was."""
        info = outcome.info
        self._reader = _Reader(info.position.epoch)
        head = self._reader.numbers.through(info.position.seq)
        for subscription in asked.subscriptions:
            fresh = subscription.after < 0
            if subscription.after > head:  # it is from before the log was lost
                subscription.after = -1
            subscription.head = head
            subscription.leaves_out = self._hygiene(subscription, info, head, fresh=fresh)
            self._subscriptions[subscription.id] = subscription
            if not subscription.watches and subscription.filter.admits("lifecycle", None, ()):
                self._held.clear()  # it is among what is replayed
        self._subscribed_ms = _now_ms()
        if isinstance(asked.request, Reconnect) and asked.request.channels is None:
            return [self._restored(asked, asked.request)]
        if outcome.after is None or outcome.after >= info.position.seq:
            pending = self._pending(asked.subscriptions, info)
            return [*pending, *self._answer_replayed(head)]
        return []

    def _pending(self, subscriptions: tuple[_Subscription, ...], info: RunInfo) -> Iterator[bytes]:
        """The questions that wait, of a thread of which the log holds nothing (any more)."""
        assert self._reader is not None
        for part, frame in enumerate(info.interrupts[:_PENDING], _PENDING):
            entry = Entry(info.position.seq, info.run_id or "", self._opened_ms, frame)
            number = self._reader.numbers.of(entry.seq, part)
            for event in events_of(frame, entry.run_id):
                if any(s.filter.admits("input", None, frame.namespace) for s in subscriptions):
                    yield self._framed(number, event, encode(entry, number, event))

    def _restored(self, asked: _Asked, request: Reconnect) -> bytes:
        """Whether all that was asked for goes on."""
        wanted = request.subscriptions or []
        restored = len(asked.subscriptions) == len(wanted)
        return _success(asked.answers, {"restored": restored})

    def _hygiene(
        self, subscription: _Subscription, info: RunInfo, head: int, *, fresh: bool
    ) -> Callable[[int, Entry, Event], bool]:
        """What a replay is to leave out, so that no client takes the past for the present.

        Without a cursor a client cannot know what is past: (1) the ends of runs from before the
        one that this connection started (of an event stream: from before the latest one, as that
        starts none), which clients up to 1.11 take for the end of that one;
        (2) questions that have been answered; (3) for the watcher of the Python client, the end of
        a run that completed before it came, which its `output` would take for that of the next;
        but not one that has just come and of which no watcher has been told: the client opens its
        watcher after it has started a run, and a short one is over by then.
        """
        if not fresh:
            return lambda _number, _entry, _event: False
        before = self._started_after or 0
        if self.server_sent and info.start is not None:
            before = Numbers(info.position.epoch).through(info.start.seq)
        pending = {interrupt.interrupt_id for interrupt in info.interrupts}

        def leaves_out(number: int, entry: Entry, event: Event) -> bool:
            if number > head:
                return False
            if event.root is not None and number <= before:
                return True
            if isinstance(entry.frame, Interrupted):
                return entry.frame.interrupt_id not in pending
            return subscription.watches and event.root == "completed" and not self._is_news(entry)

        return leaves_out

    def _is_news(self, entry: Entry) -> bool:
        """Whether an entry is newer than this connection, or almost so and told to no watcher."""
        return entry.time_ms > self._opened_ms - (0 if _TOLD in entry.encoded else _LATE_MS)

    # -- what happens -----------------------------------------------------------------------

    def send(self, thread_id: str, entries: Sequence[Entry]) -> list[bytes]:
        """Take the next entries of the thread; each event that is wanted goes out once."""
        reader = self._reader
        if reader is None:
            return []
        out: list[bytes] = []
        number = -1
        for entry in entries:
            if type(entry.frame) is RunStarted:
                self._last_begun = entry.run_id
                self._superseding = self._superseding and entry.run_id != self._own_run
            channel = CHANNEL_OF.get(type(entry.frame))
            events = reader.events(entry) if channel is not None else ()
            for part, event in enumerate(events):
                number = reader.numbers.of(entry.seq, part)
                assert channel is not None
                if self._wanted(number, channel, entry, event):
                    data = self._encoded(entry, part, number, event)
                    if data is None:
                        continue
                    if event.root == "running" and self._held:  # the next run has begun
                        out += () if self._is_python and self._due_ms == inf else self._held
                        self._held = []
                    due_ms = self._due_of(number, entry, event)
                    if due_ms and due_ms > _now_ms():
                        self._due_ms = due_ms
                        self._held.append(data)
                    else:
                        out.append(data)
        if entries:
            last = reader.numbers.through(entries[-1].seq)
            for subscription in self._subscriptions.values():
                subscription.after = max(subscription.after, last)
            out += self._answer_replayed(last)
        return [*out, *self.overdue()]

    def _due_of(self, number: int, entry: Entry, event: Event) -> float:
        """When the client may be told of an event, in milliseconds since the Unix epoch.

        0: at once; infinity: once it asks for nothing more.

        The JavaScript client watches a run first, and subscribes to what it says right after, when
        it has started one and when it comes back. When it is told of the end in between, it shows
        nothing of what comes then. The same goes for its event streams (see `_due_of_end`).

        The Python client watches on a connection of its own, and takes the first end that it is
        told of for that of its run. An end from before it came may be that of another run, which it
        is not to be told of when it starts its own right away. And once it hears that a run failed
        or waits for an answer, it shows nothing more of what comes on the other connection.
        """
        if self._is_python:
            watching = [each for each in self._subscriptions.values() if each.watches]
            if any(number <= each.head for each in watching):
                return inf if event.root in _ENDS else 0
            stops = event.root in ("failed", "interrupted") or event.method == "input.requested"
            only_watches = len(watching) == len(self._subscriptions)
            return _now_ms() + _OVERTAKE_MS if stops and only_watches else 0
        if self._is_one_of_several:
            is_end = event.root is not None and event.root != "running"
            return self._due_of_end(entry) if is_end and not self._is_leaving else 0
        is_end = event.root in TERMINAL_EVENTS.values()
        return inf if is_end and self._may_ask_for_more() else 0

    def _due_of_end(self, entry: Entry) -> int:
        """When an event stream may be told of the end of a run.

        The JavaScript client (1.15) has two event streams at a time, and another instead of one of
        them whenever it subscribes to more. (1) The one that only watches tells it again of the end
        of a run that the other one has told of; if it does so first, a page that starts the next
        run right away takes the second end for that of the new run. (2) After the end on a stream
        that was just opened, nothing is shown any more of what comes on the one that replaces it.
        """
        if all(each.watches for each in self._subscriptions.values()):
            return max(min(entry.time_ms, _now_ms()), self._opened_ms) + 2 * _SETTLE_MS
        is_recent = entry.time_ms > self._opened_ms - _SETTLE_MS
        return self._opened_ms + _SETTLE_MS if is_recent else 0

    def _may_ask_for_more(self) -> bool:
        """Whether it has asked for more than it has been told yet, or is about to."""
        if any(isinstance(each.request, Subscribe | Reconnect) for each in self._asked.values()):
            return True
        recent = _now_ms() - self._subscribed_ms < _SETTLE_MS
        return recent and all(each.watches for each in self._subscriptions.values())

    def overdue(self) -> list[bytes]:
        """The end that was held back, once it is not to be any more."""
        if not self._held:
            return []
        waits = self._may_ask_for_more() if self._due_ms == inf else _now_ms() < self._due_ms
        if waits:
            return []
        released, self._held = self._held, []
        return released

    def due_in(self) -> float | None:
        """In how many seconds the end that was held back is to be told, where that is known."""
        if not self._held or self._due_ms == inf:
            return None
        return max(0, self._due_ms - _now_ms() + 1) / 1_000

    def _wanted(self, number: int, channel: str, entry: Entry, event: Event) -> bool:
        """Whether a subscription wants an event that it has not been told of."""
        if self._superseding and event.root in TERMINAL_EVENTS.values():
            return False
        if type(entry.frame) is AttemptStarted and self._is_python:
            return False
        name = _custom_name(entry.frame)
        namespace = namespace_of(entry.frame, event)
        wanted = False
        for subscription in self._subscriptions.values():
            if (
                number > subscription.after
                and subscription.filter.admits(channel, name, namespace)
                and not subscription.leaves_out(number, entry, event)
            ):
                wanted = True
                subscription.replayed += number <= subscription.head
                if subscription.watches:
                    entry.encoded[_TOLD] = b""
        return wanted

    def _encoded(self, entry: Entry, part: int, number: int, event: Event) -> bytes | None:
        key = f"{_VARIANT}.{part}"
        data = entry.encoded.get(key)
        if data is None:
            data = entry.encoded[key] = encode(entry, number, event)
        if self._limit is not None and len(data) > self._limit:
            logger.warning(
                "left out a %s event of %d bytes: the client takes no more than %d",
                event.method,
                len(data),
                self._limit,
            )
            return None
        return self._framed(number, event, data)

    def _framed(self, number: int, event: Event, data: bytes) -> bytes:
        """The message in the form in which it is sent."""
        if not self.server_sent:
            return data
        return b"event: %b\nid: %d\ndata: %b\n\n" % (event.method.encode(), number, data)

    def _answer_replayed(self, through: int) -> list[bytes]:
        """Answer the subscriptions whose replay is over."""
        answers = []
        for subscription in self._subscriptions.values():
            if subscription.answers is not None and through >= subscription.head:
                replayed = {"replayed_events": subscription.replayed}
                if subscription.reconnected:
                    replayed = {"restored": True, "missed_events": subscription.replayed}
                result = {"subscription_id": subscription.id, **replayed}
                answers.append(_success(subscription.answers, result))
                subscription.answers = None
        return answers

    # -- the rest ---------------------------------------------------------------------------

    def gap(self, thread_id: str, gap: GapError, snapshot: Snapshot) -> list[bytes] | None:
        """Say nothing: the protocol has no word for a gap, and its clients come back."""
        return None

    def refuse(self, text: str, error: RequestError) -> list[bytes]:
        """Say that a message was not carried out, whatever it asks for."""
        answers: int | None = None
        with suppress(RequestError):
            answers = _command_id(parse(text))
        return [_error(error, answers)]

    def heartbeat(
        self, time_ms: int, heads: Mapping[str, Position], *, degraded: bool = False
    ) -> list[bytes]:
        """Say nothing: the clients know no such message."""
        return []

    def bye(self, reason: str, retry: Retry, after_ms: int) -> list[bytes]:
        """Say why the connection ends, where it is not to be opened again just so."""
        told: list[bytes] = []
        if self._is_one_of_several:
            self._is_leaving = True
            told, self._held = self._held, told
        if retry != "resume":
            error = RequestError("unauthorized", f"the connection ends: {reason}")
            told.append(_error(error, None))
        return told


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _command_id(message: Json) -> int:
    value = message.get("id")
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 0 <= value <= MAX_INTEGER:  # type: ignore[operator]  # `whole` says so
        raise InvalidRequest("id", f"expected a whole number from 0 to {MAX_INTEGER}")
    return value  # type: ignore[return-value]  # as above


def _number_in(event_id: str) -> int:
    """The cursor that an event's id stands for: everything, where it is not that of an event."""
    is_number = event_id.isascii() and event_id.isdecimal() and len(event_id) <= _DIGITS
    return int(event_id) if is_number else -1


def _custom_name(frame: Frame) -> str | None:
    if isinstance(frame, Custom):
        return frame.name
    return "sources" if isinstance(frame, Sources) else None


def _success(answers: int, result: Json, **meta: int) -> bytes:
    data: Json = {"type": "success", "id": answers, "result": result}
    return dumps(data | {"meta": meta} if meta else data)


def _error(error: RequestError, answers: int | None) -> bytes:
    data: Json = {
        "type": "error",
        "id": answers,
        "error": _CODES.get(error.code, "unknown_error"),
        "message": _in_its_words(str(error)),
        "code": error.code,
        "retryable": error.retryable,
    }
    more = {"error_id": error.error_id, "retry_after_ms": error.retry_after_ms}
    return dumps(data | {name: value for name, value in more.items() if value is not None})


def _in_its_words(text: str) -> str:
    """The text of an error, with the names that the fields have in this protocol."""
    field, colon, rest = text.partition(": ")
    return f"{_FIELDS.get(field, field)}{colon}{rest}"


def _saved(request: object, value: Any) -> Json:
    """What was read, as the answer to the command that asked for it."""
    if isinstance(request, StateGet):
        values = value["values"]
        if request.keys is not None:
            values = {key: values[key] for key in request.keys if key in values}
        checkpoint_id = value["checkpoint"]["checkpoint_id"] if value["checkpoint"] else None
        ref = {"checkpoint": {"id": checkpoint_id}} if checkpoint_id else {}
        return {"values": values, **ref}
    if isinstance(value, list):
        return {"checkpoints": [_summary(state) for state in value]}
    return {"tree": value}


def _summary(state: Json) -> Json:
    metadata = state["metadata"] or {}
    return {
        "id": state["checkpoint"]["checkpoint_id"],
        "timestamp": state["created_at"],
        "step": metadata.get("step", 0),
        "metadata": metadata,
    }
