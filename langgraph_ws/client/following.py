"""What a client follows: what it asks the server for that, and what it makes of the answers.

What is followed, and what was asked and got no answer, outlives a connection: after the next one is
open each followed thread is attached to at its position, and each request is repeated under the
number that it had. A `Feed` is that of one thread; what a program holds of it are `Run` and
`Thread`, each with a position and a view of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from langgraph_ws.client.callbacks import Telling
from langgraph_ws.client.errors import ConnectionFailedError, RequestRefused
from langgraph_ws.client.feed import Feed, seq_of
from langgraph_ws.client.handles import Handle, Run, Thread
from langgraph_ws.client.link import Link
from langgraph_ws.client.messages import (
    ENDED,
    End,
    Error,
    Gap,
    Message,
    RunInfo,
    Snapshot,
)
from langgraph_ws.client.outbox import Outbox, Request, set_exception
from langgraph_ws.client.reconnect import Reconnect
from langgraph_ws.errors import InvalidRequest
from langgraph_ws.log import Position

__all__ = ["Following", "refusal"]

Json: TypeAlias = dict[str, Any]
_RETRY_S = 1.0
"""Before what was refused for its rate is sent again, where the server does not say."""


class Following:
    """What one client follows, and has asked for.

    Args:
        telling: Tells the program.
        room: Set when more should be read, because an answer is awaited.
        rules: How long to wait before a thread that may not be followed now is tried again.
    """

    def __init__(self, telling: Telling, room: asyncio.Event, rules: Reconnect) -> None:
        self._telling = telling
        self._room = room
        self._rules = rules
        self._outbox = Outbox(self._wire, self._is_void)
        self._again: asyncio.Task[None] | None = None
        self._feeds: dict[str, Feed] = {}
        self._threads: dict[str, str] = {}
        self._starting: dict[str, Run] = {}
        self._midway: deque[Feed] = deque()

    # -- what a program asks for ------------------------------------------------------------

    async def start(self, run: Run, message: Json) -> None:
        """Start a run, and follow it."""
        feed = self._feeds.get(message.get("thread_id", ""))
        if feed is not None and feed.wanted is not None:
            # The server would go on from where the new run begins, whatever it owes of the other.
            self._follow(feed, wide=True)
        await self.watch(run, message, kind="start")

    async def watch(
        self, run: Run, message: Json, kind: Literal["start", "watch"] = "watch"
    ) -> None:
        """Follow a run to its end.

        Raises:
            InvalidRequest: It is followed already.
        """
        if run.run_id in self._starting or run.run_id in self._followed():
            raise InvalidRequest("run_id", "expected one that this client does not follow yet")
        self._starting[run.run_id] = run
        try:
            await self.ask(message, kind, run)
        finally:
            self._starting.pop(run.run_id, None)

    async def attach(self, thread: Thread) -> None:
        """Follow a thread after its position."""
        after, thread_id = thread.position, thread.thread_id
        feed = self._feeds.setdefault(thread_id, Feed(thread_id))
        if after is not None and after.seq:
            if feed.epoch not in ("", after.epoch):
                self._give(feed, _stale(thread_id, feed, after), [thread])
                thread.view.forget_position(feed.epoch)
            else:
                feed.full = feed.midway = True
        feed.handles.append(thread)
        feed.deaf.add(thread)
        answer = feed.attaching[thread] = asyncio.get_running_loop().create_future()
        self._follow(feed, wide=True)
        self._room.set()
        try:
            await answer
        except BaseException:
            feed.attaching.pop(thread, None)
            self.detach(thread)
            raise

    def detach(self, thread: Thread) -> None:
        """Follow a thread no longer."""
        feed = self._feeds.get(thread.thread_id)
        thread.finish()
        if feed is not None and thread in feed.handles:
            feed.handles.remove(thread)
            feed.deaf.discard(thread)
            self._tidy(feed)

    async def ask(
        self,
        message: Json,
        kind: Literal["start", "watch", "call"] = "call",
        handle: Run | None = None,
    ) -> RunInfo:
        """Send a message, and wait for its answer.

        Raises:
            RequestRefused: The server refused it.
            ConnectionFailedError: The connection ended for good before.
        """
        answer: asyncio.Future[RunInfo] = asyncio.get_running_loop().create_future()
        number = self._outbox.put(Request(message, kind, answer, handle))
        self._room.set()
        try:
            return await answer
        finally:
            self._outbox.drop(number)

    def _followed(self) -> set[str]:
        return {run.run_id for feed in self._feeds.values() for run in feed.runs}

    # -- what the connection tells ----------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether nothing more should be read: a program has too much, and awaits no answer."""
        full = self._telling.congested or any(
            handle.congested for feed in self._feeds.values() for handle in feed.handles
        )
        attaching = any(feed.attaching for feed in self._feeds.values())
        return full and not attaching and not self._outbox.requests

    def connected(self, link: Link) -> None:
        """Follow again, and ask again what was not answered."""
        self._outbox.connect(link)
        self._follow_all()
        self._outbox.repeat()

    def disconnected(self, *, abused: bool) -> None:
        """The connection has ended: `abused` when too much was sent over it."""
        self._midway.clear()
        self._outbox.disconnect(abused=abused)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for feed in list(self._feeds.values()):
            feed.disconnected()
            if not feed.handles:
                self._tidy(feed)

    def refuse_longest(self) -> None:
        """The server closed because a message was too long: do not send it again."""
        self._outbox.refuse_longest()

    def fail(self, failure: ConnectionFailedError, *, closing: bool) -> None:
        """There is no connection, and there will be none; where we closed it, threads just end."""
        self._outbox.fail(failure)
        for feed in self._feeds.values():
            for answer in feed.attaching.values():
                set_exception(answer, failure)
            for handle in feed.handles:
                quiet = closing and isinstance(handle, Thread)
                handle.finish(None if quiet else failure)
        self._feeds.clear()

    def take(self, message: Message) -> None:
        """Take a message about what is followed, or an answer."""
        match message:
            case Gap() | Snapshot():
                self._recover(message)
            case Error() | RunInfo() if message.seq is None:
                self._answered(message)
            case _:
                self._logged(message)

    # -- asking -----------------------------------------------------------------------------

    def _wire(self, request: Request) -> Json:
        """The message as it is to be sent now."""
        message = request.message
        if request.kind not in ("start", "watch"):
            return message
        feed = self._feeds.get(message.get("thread_id", "")) or Feed("")
        feed.full |= bool(message.get("after"))
        return message | {"options": message.get("options", {}) | feed.mode}

    def _is_void(self, request: Request) -> bool:
        """Whether it is to leave what is followed again, or about to be."""
        thread_id = request.message.get("thread_id", "")
        return request.kind == "leave" and (thread_id in self._feeds or self._is_wanted(thread_id))

    def _follow_all(self) -> None:
        for feed in list(self._feeds.values()):
            if feed.handles and not feed.following:
                self._follow(feed)

    def _follow(self, feed: Feed, run: Run | None = None, *, wide: bool = False) -> None:
        """Have the server tell (again) of a thread, from where its handles stand.

        Args:
            feed: The thread.
            run: The only run to tell of; None: that of the only handle, or all of them.
            wide: Whether all of the thread is wanted.
        """
        if not self._outbox.connected:
            return
        if run is None and not wide and len(feed.handles) == 1:
            run = next(iter(feed.runs), None)
        if feed.midway:
            # Only one at a time may bring messages of a run that nobody has named.
            if feed not in self._midway:
                self._midway.append(feed)
            if self._midway[0] is not feed:
                return
        seq = min(map(seq_of, feed.handles)) if run is None else seq_of(run)
        message: Json = {"type": "attach", "thread_id": feed.thread_id, "options": feed.mode}
        if run is not None:
            message["run_id"] = run.run_id
        if seq:
            message |= {"after": seq, "epoch": feed.epoch_of_handles}
        answer: asyncio.Future[RunInfo] = asyncio.get_running_loop().create_future()
        hearing = tuple(feed.attaching) if run is None else (run,)
        request = Request(message, "follow", answer, run, feed, hearing, once=True)
        feed.following, feed.wanted = True, None if run is None else run.run_id
        self._outbox.put(request)

    def _leave(self, thread_id: str) -> None:
        """Have the server tell of a thread no longer."""
        if not self._outbox.connected:
            return
        message: Json = {"type": "detach", "thread_id": thread_id}
        answer: asyncio.Future[RunInfo] = asyncio.get_running_loop().create_future()
        self._outbox.put(Request(message, "leave", answer, once=True))

    def _told_midway(self, feed: Feed) -> None:
        """The run that the thread was in the middle of is known: let the next thread come."""
        feed.midway = False
        if feed in self._midway:
            first = self._midway[0]
            self._midway.remove(feed)
            if self._midway and first is feed:
                self._follow(self._midway[0])

    def _follow_soon(self) -> None:
        """Follow again, in a while, what the server would not let be followed now."""
        if self._again is None:
            self._again = asyncio.get_running_loop().create_task(self._follow_later())

    async def _follow_later(self) -> None:
        await self._rules.sleep(self._rules.wait(1))
        self._again = None
        self._follow_all()

    # -- answers ----------------------------------------------------------------------------

    def _answered(self, message: Error | RunInfo) -> None:
        request = self._outbox.get(message.request_id)
        leaving = request is not None and request.kind == "leave"
        if isinstance(message, Error) and (
            message.code == "rate_limited" or (leaving and message.retryable)
        ):
            self._slow_down(message)
            return
        self._outbox.drop(message.request_id)
        if leaving:
            return
        if isinstance(message, RunInfo):
            if request is not None:
                self._accepted(request, message)
        elif request is not None:
            self._refused(request, refusal(message))
        else:
            self._telling.report(refusal(message))

    def _slow_down(self, refused: Error) -> None:
        """A message came too fast and was not carried out: have it wait, and what comes after."""
        error = refusal(refused)
        retry_after = _RETRY_S if error.retry_after is None else error.retry_after
        if self._outbox.slow_down(refused.request_id, retry_after):
            self._telling.report(error)

    def _accepted(self, request: Request, info: RunInfo) -> None:
        if info.run_id is not None:
            self._threads[info.run_id] = info.thread_id
        if request.feed is not None:
            self._followed_again(request.feed, request, info)
        elif request.handle is not None:
            self._joined(request, request.handle, info)
        if not request.answer.done():
            request.answer.set_result(info)

    def _joined(self, request: Request, run: Run, info: RunInfo) -> None:
        """A run was started, or is watched."""
        feed = self._feeds.setdefault(info.thread_id, Feed(info.thread_id))
        followed = feed.following
        feed.learn(info)
        new = run not in feed.handles and not run.over
        if new:
            begins = request.kind == "start" and info.status not in ENDED
            self._join(feed, run, live=followed and begins)
        feed.following, feed.scope, feed.wanted = True, None, None
        if new:
            run.view.take(info)
            run.hear(info)
        if request.kind == "watch":
            feed.full |= bool(request.message.get("after"))
            feed.scope = feed.wanted = run.run_id
            if len(feed.handles) > 1 and info.status not in ENDED:
                self._follow(feed, wide=True)
        elif new and followed and info.status in ENDED:
            self._doubt(feed, run)
            self._ask_next(feed)

    def _join(self, feed: Feed, run: Run, *, live: bool) -> None:
        if live:
            run.view.skip(Position(feed.epoch, feed.seen))
        feed.handles.append(run)
        self._threads[run.run_id] = feed.thread_id

    def _followed_again(self, feed: Feed, request: Request, info: RunInfo) -> None:
        run = request.handle
        changed = feed.epoch not in ("", info.epoch)
        feed.learn(info)
        after = request.message.get("after", 0)
        feed.scope = None if run is None else run.run_id
        feed.deaf.difference_update(request.hearing)
        for handle in feed.handles if run is None else [run]:
            handle.view.take(info)
        if run is not None:
            if len(feed.handles) > 1 and info.status not in ENDED:
                self._follow(feed, wide=True)
            return
        for handle in request.hearing:
            if isinstance(handle, Thread) and (waiting := feed.attaching.pop(handle, None)):
                waiting.set_result(None)
        if feed.midway and after >= info.head and not changed:
            self._told_midway(feed)
        if changed and not after:  # nothing else will say so
            for one in feed.runs:
                if one.run_id != info.run_id:
                    self._doubt(feed, one)
            self._ask_next(feed)

    def _refused(self, request: Request, error: RequestRefused) -> None:
        feed, run = request.feed, request.handle
        if feed is None:
            set_exception(request.answer, error)
            if (thread_id := request.message.get("thread_id")) in self._feeds:
                self._tidy(self._feeds[thread_id])
        elif run is not None and error.code == "not_found":
            self._lost(feed, run)
        elif error.retryable:
            feed.following = False
            self._follow_soon()
        else:
            self._abandon(feed, error)

    def _lost(self, feed: Feed, run: Run) -> None:
        """The server knows nothing of the run any more."""
        feed.following = False
        feed.deaf.discard(run)
        end = End(run_id=run.run_id, seq=seq_of(run) + 1, status="lost")
        self._give(feed, end, [run])
        self._finish(feed, run)

    def _abandon(self, feed: Feed, error: RequestRefused) -> None:
        """The thread may not be followed."""
        for answer in feed.attaching.values():
            set_exception(answer, error)
        if told := [handle for handle in feed.handles if handle not in feed.attaching]:
            self._telling.report(error, *(handle.callbacks for handle in told))
        for handle in feed.handles:
            handle.finish(error)
        feed.attaching.clear()
        feed.handles.clear()
        feed.following = False
        self._told_midway(feed)
        self._tidy(feed)

    # -- messages ---------------------------------------------------------------------------

    def _logged(self, message: Message) -> None:
        """A message of a run."""
        feed = self._feed_of(message)
        if feed is None:
            return
        if message.run_id is not None:
            self._threads[message.run_id] = feed.thread_id
        if feed.midway:
            self._told_midway(feed)
        starting = self._starting.get(message.run_id or "")
        if starting is not None and starting not in feed.handles and isinstance(message, RunInfo):
            # The first message of a run may overtake the answer.
            starting.view.skip(Position(message.epoch, (message.seq or 1) - 1))
            self._join(feed, starting, live=False)
        self._give(feed, message, feed.handles)
        if isinstance(message, End):
            self._threads.pop(message.run_id or "", None)
            for run in feed.runs:
                if run.run_id == message.run_id and run.status in ENDED:
                    self._finish(feed, run)

    def _feed_of(self, message: Message) -> Feed | None:
        if isinstance(message, RunInfo):
            return self._feeds.get(message.thread_id)
        thread_id = self._threads.get(message.run_id or "")
        if thread_id is not None:
            return self._feeds.get(thread_id)
        return self._midway[0] if self._midway and message.run_id is not None else None

    def _give(self, feed: Feed, message: Message, handles: Sequence[Handle]) -> None:
        """Tell a message to those to whom it is news; the client's own callbacks once."""
        client = True
        for handle in tuple(handles):
            told = handle.view.error
            if handle not in feed.deaf and handle.view.take(message):
                handle.hear(message)
                self._telling.tell(message, handle.view, handle.callbacks, client=client)
                client = False
            error = handle.view.error
            if isinstance(handle, Run) and isinstance(message, End) and error and not told:
                self._telling.report(error, handle.callbacks)

    def _finish(self, feed: Feed, run: Run) -> None:
        run.finish()
        feed.handles.remove(run)
        self._tidy(feed)

    def _tidy(self, feed: Feed) -> None:
        """Follow no more than there are handles for."""
        if feed.doubts:
            self._ask_next(feed)
        elif feed.handles:
            if not feed.following or feed.wanted not in (None, *(run.run_id for run in feed.runs)):
                self._follow(feed)
        elif not self._is_wanted(feed.thread_id):
            if feed.following and feed.wanted is None:
                self._leave(feed.thread_id)
            if self._feeds.get(feed.thread_id) is feed:
                del self._feeds[feed.thread_id]
            for run_id in [
                run for run, thread in self._threads.items() if thread == feed.thread_id
            ]:
                del self._threads[run_id]

    def _is_wanted(self, thread_id: str) -> bool:
        """Whether a run is about to start on the thread."""
        return any(
            request.kind not in ("call", "leave") and request.message.get("thread_id") == thread_id
            for request in self._outbox.requests
        )

    # -- recovering -------------------------------------------------------------------------

    def _recover(self, message: Gap | Snapshot) -> None:
        feed = self._feeds.get(message.thread_id or "")
        if feed is None:
            return
        handles = [run for run in feed.runs if run.run_id == feed.scope] or feed.handles
        doubtful: list[Run] = []
        if isinstance(message, Snapshot):
            handles, doubtful = self._checked(feed, message, handles)
            feed.epoch = message.epoch
            if message.run is not None:
                self._threads[message.run.run_id] = feed.thread_id
        else:
            feed.head = message.head
        self._give(feed, message, handles)
        for run in doubtful:
            self._doubt(feed, run)
        if feed.midway:
            self._told_midway(feed)
        self._ask_next(feed)

    def _checked(
        self, feed: Feed, snapshot: Snapshot, handles: Sequence[Handle]
    ) -> tuple[list[Handle], list[Run]]:
        """Those for whom the snapshot is true, and the runs that may have ended unseen.

        A run that it does not show at work is told nothing, and stays where it is, until the
        server was asked for its end, which outlives the rest of it. Where the snapshot lies before
        the head, that end follows by itself.
        """
        running = snapshot.run.run_id if snapshot.run and snapshot.run.status not in ENDED else None
        told: list[Handle] = []
        doubtful: list[Run] = []
        for handle in handles:
            position = handle.position
            same = position is None or position.epoch == snapshot.epoch
            waits = same and handle.status == "queued" and seq_of(handle)
            at_work = not isinstance(handle, Run) or handle.run_id == running or waits
            if isinstance(handle, Run) and not at_work and snapshot.position.seq >= feed.head:
                doubtful.append(handle)
                if same:
                    continue
            told.append(handle)
        return told, doubtful

    def _doubt(self, feed: Feed, run: Run) -> None:
        if run not in feed.doubted:
            feed.doubted.add(run)
            feed.doubts.append(run)
            feed.deaf.add(run)

    def _ask_next(self, feed: Feed) -> None:
        """Ask for the end of the next run that may have ended."""
        while feed.doubts:
            run = feed.doubts.popleft()
            if run in feed.handles:
                self._follow(feed, run)
                return


def refusal(error: Error) -> RequestRefused:
    """What an answer refuses a request with."""
    return RequestRefused(
        error.code,
        error.message,
        field=error.field,
        retryable=error.retryable,
        retry_after=None if error.retry_after_ms is None else error.retry_after_ms / 1000,
    )


def _stale(thread_id: str, feed: Feed, after: Position) -> Gap:
    """What the server would say of a position in a log that was lost."""
    return Gap(
        thread_id=thread_id,
        reason="epoch",
        requested=after.seq,
        first=1,
        head=feed.head,
        epoch=feed.epoch,
    )
