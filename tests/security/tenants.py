"""What somebody is told who names what belongs to another: the same as of what nobody has.

Each case is asked twice, once with ids that exist and once with ids of the same shape that do not;
the answers may differ in the ids that they repeat and in nothing else, nor in how long they take.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import orjson
from aiohttp import web

from langgraph_ws import Identity, Limits
from tests.graphs import asking
from tests.serving import HELLO, Site, serving

ORACLE_S = 0.005
PATIENCE_S = 10.0
TRIES = 3
MISSING = {
    "thread": "absent-thread",
    "run": "absent-run",
    "interrupt": "0" * 32,
    "checkpoint": "1f000000-0000-6000-8000-000000000000",
    "epoch": "0000000000-00",
}


@dataclass(frozen=True)
class Ids:
    """What is named: what somebody has, or what nobody has."""

    thread: str
    run: str
    interrupt: str
    checkpoint: str
    epoch: str

    def hidden(self, text: str) -> str:
        """The text without the ids, and without what is new each time."""
        for name, value in asdict(self).items():
            text = text.replace(value, f"<{name}>")
        return VOLATILE.sub("<volatile>", text)


VOLATILE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # a new id
    r"|\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)?"
    r"|[0-9a-f]{32}"  # the id of an interrupt that is one's own
    r'|"epoch":"[^"]+"|"event_id":"[^"]+"|"timestamp":\d+|"execution_time_ms":\d+'
    r'|"(time|duration_ms|created_at)":[\d.]+'
    r"|\d{10}-[0-9a-f]+[:.]\d+"
)
Asking = Callable[["Visitor", Ids], Awaitable[str]]


class Visitor:
    """Somebody new, who has nothing."""

    def __init__(self, site: Site, name: str = "") -> None:
        self.site = site
        self.headers = {"X-User": name or f"visitor-{secrets.token_hex(4)}"}

    async def chat(self, kind: str, **fields: Any) -> str:
        """All that comes of a message of the chat protocol, as it is sent."""
        told: list[str] = []
        async with self.site.connect(headers=self.headers) as client:
            await client.send(kind, id="asked", **fields)
            ends = ('"type":"error"', '"type":"end"')
            answered = ends if kind in ("new_chat", "resume_chat") else ('"request_id":"asked"',)
            await _settle(client.ws, told, lambda it: any(end in it for end in answered))
            await client.send("ping", id="settled")
            await _settle(client.ws, told, lambda it: '"settled"' in it)
        return "\n".join(told[:-1])

    async def langchain(self, thread: str, method: str, **params: Any) -> str:
        """What a command is answered on the socket of a thread."""
        path = f"/ws/threads/{thread}/stream/events"
        command = {"id": 1, "method": method, "params": params}
        return await self._socket(path, command, lambda it: '"id":1' in it)

    async def aisdk(self, **frame: Any) -> str:
        ends = ('"no-active"', '"error"', '"type":"end"')
        said = {"requestId": "1", **frame}
        return await self._socket("/ws/aisdk", said, lambda it: any(end in it for end in ends))

    async def agui(self, **message: Any) -> str:
        ends = ('"RUN_ERROR"', '"RUN_FINISHED"')
        return await self._socket("/ws/agui", message, lambda it: any(end in it for end in ends))

    async def _socket(self, path: str, said: Any, ends: Callable[[str], bool]) -> str:
        told: list[str] = []
        async with self.site.connect(path, headers=self.headers) as client:
            await client.ws.send_str(orjson.dumps(said).decode())
            await _settle(client.ws, told, ends)
        return "\n".join(told)

    async def http(self, method: str, path: str, body: Any = None) -> str:
        url = f"http://127.0.0.1:{self.site.port}/ws{path}"
        data = None if body is None else orjson.dumps(body)
        asked = self.site.session.request(method, url, data=data, headers=self.headers)
        async with asked as answer:
            kept = sorted(set(answer.headers) - {"Date", "Content-Length"})
            return f"{answer.status} {kept} {await answer.text()}"


async def _settle(ws: Any, told: list[str], ends: Callable[[str], bool]) -> None:
    told.append(await ws.receive_str(timeout=PATIENCE_S))
    while not ends(told[-1]):
        told.append(await ws.receive_str(timeout=PATIENCE_S))


def _message(thread: str, **more: Any) -> dict[str, Any]:
    """A frame of the AI SDK that answers an interrupt."""
    reply = [{"id": "a", "role": "assistant", "parts": []}]
    ours = {"type": "send", "id": thread, "trigger": "submit-message", "messages": reply}
    return {**ours, "body": more}


def _turn(ids: Ids, **more: Any) -> dict[str, Any]:
    """The input of a run of AG-UI."""
    ours = {"threadId": ids.thread, "runId": ids.run, "messages": [], "tools": [], "context": []}
    return {**ours, "state": {}, "forwardedProps": {}, **more}


def _command(method: str, **params: Any) -> dict[str, Any]:
    return {"id": 1, "method": method, "params": params}


VALUE = {"messages": [{"type": "human", "content": "hello", "id": "h1"}]}
LOOKS: Mapping[str, Asking] = {
    "chat: attach to a run": lambda v, i: v.chat("attach", run_id=i.run),
    "chat: attach to a run of a thread": lambda v, i: v.chat(
        "attach", run_id=i.run, thread_id=i.thread
    ),
    "chat: attach to a thread": lambda v, i: v.chat("attach", thread_id=i.thread),
    "chat: attach at a position": lambda v, i: v.chat(
        "attach", thread_id=i.thread, after=3, epoch=i.epoch
    ),
    "chat: attach to a run at a position": lambda v, i: v.chat(
        "attach", run_id=i.run, after=3, epoch=i.epoch
    ),
    "chat: detach from a run": lambda v, i: v.chat("detach", run_id=i.run),
    "chat: detach from a thread": lambda v, i: v.chat("detach", thread_id=i.thread),
    "chat: cancel a run": lambda v, i: v.chat("cancel", run_id=i.run),
    "chat: cancel a thread": lambda v, i: v.chat("cancel", thread_id=i.thread),
    "chat: cancel a run of a thread": lambda v, i: v.chat(
        "cancel", thread_id=i.thread, run_id=i.run
    ),
    "LangChain: state": lambda v, i: v.langchain(i.thread, "state.get", namespace=[]),
    "LangChain: state of a subgraph": lambda v, i: v.langchain(
        i.thread, "state.get", namespace=["ask:1"]
    ),
    "LangChain: checkpoints": lambda v, i: v.langchain(i.thread, "state.listCheckpoints"),
    "LangChain: checkpoints before one": lambda v, i: v.langchain(
        i.thread, "state.listCheckpoints", before=i.checkpoint
    ),
    "LangChain: tree of the thread": lambda v, i: v.langchain(i.thread, "agent.getTree"),
    "LangChain: tree of a run": lambda v, i: v.langchain(i.thread, "agent.getTree", run_id=i.run),
    "LangChain: subscribe": lambda v, i: v.langchain(
        i.thread, "subscription.subscribe", channels=["messages", "values", "input", "lifecycle"]
    ),
    "LangChain: subscribe at a position": lambda v, i: v.langchain(
        i.thread, "subscription.subscribe", channels=["messages"], since=64
    ),
    "LangChain: subscribe after an event": lambda v, i: v.langchain(
        i.thread, "subscription.subscribe", channels=["values"], since_event_id="64"
    ),
    "LangChain: come back to a run": lambda v, i: v.langchain(
        i.thread, "subscription.reconnect", run_id=i.run
    ),
    "HTTP: state": lambda v, i: v.http("GET", f"/threads/{i.thread}/state"),
    "HTTP: state at a checkpoint": lambda v, i: v.http(
        "GET", f"/threads/{i.thread}/state/{i.checkpoint}"
    ),
    "HTTP: history": lambda v, i: v.http("POST", f"/threads/{i.thread}/history", {}),
    "HTTP: history before a checkpoint": lambda v, i: v.http(
        "POST", f"/threads/{i.thread}/history", {"before": i.checkpoint}
    ),
    "HTTP: history of what is searched": lambda v, i: v.http(
        "POST", f"/threads/{i.thread}/history", {"metadata": {"step": -1}}
    ),
    "HTTP: thread": lambda v, i: v.http("GET", f"/threads/{i.thread}"),
    "HTTP: runs": lambda v, i: v.http("GET", f"/threads/{i.thread}/runs"),
    "HTTP: run": lambda v, i: v.http("GET", f"/threads/{i.thread}/runs/{i.run}"),
    "HTTP: join a run": lambda v, i: v.http("GET", f"/threads/{i.thread}/runs/{i.run}/join"),
    "HTTP: cancel a run": lambda v, i: v.http("POST", f"/threads/{i.thread}/runs/{i.run}/cancel"),
    "HTTP: tree by a command": lambda v, i: v.http(
        "POST", f"/threads/{i.thread}/commands", _command("agent.getTree", run_id=i.run)
    ),
    "AI SDK: come back to a chat": lambda v, i: v.aisdk(type="resume", id=i.thread),
    "AG-UI: connect to a thread": lambda v, i: v.agui(type="connect", threadId=i.thread),
    "AG-UI: connect to a run": lambda v, i: v.agui(type="connect", threadId=i.thread, runId=i.run),
}
"""What changes nothing, so that it can be asked again and again."""
ACTS: Mapping[str, Asking] = {
    "chat: answer an interrupt": lambda v, i: v.chat(
        "resume_chat", thread_id=i.thread, resume={i.interrupt: "yes"}
    ),
    "chat: answer what waits": lambda v, i: v.chat("resume_chat", thread_id=i.thread, resume="yes"),
    "chat: go on": lambda v, i: v.chat("resume_chat", thread_id=i.thread),
    "chat: go on from a checkpoint": lambda v, i: v.chat(
        "resume_chat", thread_id=i.thread, checkpoint_id=i.checkpoint
    ),
    "chat: fork a checkpoint": lambda v, i: v.chat(
        "resume_chat", thread_id=i.thread, checkpoint_id=i.checkpoint, messages=HELLO
    ),
    "chat: fork a checkpoint of a thread of one's own": lambda v, i: v.chat(
        "resume_chat", thread_id="own", checkpoint_id=i.checkpoint, messages=HELLO
    ),
    "chat: start a run under an id": lambda v, i: v.chat(
        "new_chat", run_id=i.run, thread_id="own", messages=HELLO
    ),
    "chat: start a run on a thread": lambda v, i: v.chat(
        "new_chat", thread_id=i.thread, messages=HELLO
    ),
    "LangChain: answer an interrupt": lambda v, i: v.langchain(
        i.thread, "input.respond", interrupt_id=i.interrupt, response="yes"
    ),
    "LangChain: fork a checkpoint": lambda v, i: v.langchain(
        i.thread, "state.fork", checkpoint_id=i.checkpoint, input=VALUE
    ),
    "LangChain: start a run": lambda v, i: v.langchain(
        i.thread, "run.start", assistant_id="graph", input=VALUE
    ),
    "LangChain: say something into a run": lambda v, i: v.langchain(
        i.thread, "input.inject", namespace=[], message={"role": "user", "content": "x"}
    ),
    "HTTP: answer an interrupt": lambda v, i: v.http(
        "POST",
        f"/threads/{i.thread}/commands",
        _command("input.respond", interrupt_id=i.interrupt, response="yes"),
    ),
    "HTTP: start a run from a checkpoint": lambda v, i: v.http(
        "POST",
        f"/threads/{i.thread}/runs",
        {"assistant_id": "graph", "config": {"configurable": {"checkpoint_id": i.checkpoint}}},
    ),
    "AI SDK: answer an interrupt": lambda v, i: v.aisdk(
        **_message(i.thread, resume={i.interrupt: "yes"})
    ),
    "AI SDK: go on from a checkpoint": lambda v, i: v.aisdk(
        **_message(i.thread, checkpointId=i.checkpoint)
    ),
    "AG-UI: answer an interrupt": lambda v, i: v.agui(
        **_turn(i, resume=[{"interruptId": i.interrupt, "status": "resolved", "payload": "yes"}])
    ),
    "AG-UI: start a run": lambda v, i: v.agui(
        **_turn(i, messages=[{"id": "u", "role": "user", "content": "x"}])
    ),
    "AG-UI over HTTP: answer an interrupt": lambda v, i: v.http(
        "POST",
        "/agui",
        _turn(i, resume=[{"interruptId": i.interrupt, "status": "resolved", "payload": "yes"}]),
    ),
}
"""What would change something."""


ALIKE = {
    # the run has ended: there is nothing to stop
    *("chat: cancel a run", "chat: cancel a thread", "chat: cancel a run of a thread"),
    # the connection follows nothing, and has no subscription
    *("chat: detach from a thread", "LangChain: come back to a run"),
    # no message was streamed
    "LangChain: subscribe at a position",
}
"""What the owner is told the same, too; in all else only whose the ids are makes the difference."""


def by_header(request: web.Request) -> Identity:
    return Identity(id=request.headers["X-User"])


@asynccontextmanager
async def owned() -> AsyncIterator[tuple[Site, Ids]]:
    """A thread of somebody, that waits for an answer, and everything that has an id in it."""
    async with serving(
        {"graph": asking("sure?")},
        authorize=by_header,
        protocols=["chat", "langchain", "aisdk", "agui"],
        limits=Limits(connections=10_000, runs=10_000),
    ) as site:
        headers = {"X-User": "owner"}
        thread, run = f"thread-{secrets.token_hex(8)}", f"run-{secrets.token_hex(8)}"
        async with site.connect(headers=headers) as client:
            await client.send("new_chat", thread_id=thread, run_id=run, messages=HELLO)
            epoch = (await client.the("run"))["data"]["epoch"]
            interrupt = (await client.the("interrupt"))["data"]["id"]
            await client.the("end")
        url = f"{site.url}/threads/{thread}/history"
        async with site.session.post(url, headers=headers) as answer:
            checkpoint = (await answer.json())[0]["checkpoint"]["checkpoint_id"]
        ids = Ids(thread, run, interrupt, checkpoint, epoch)
        before = await _state(site, ids)
        yield site, ids
        assert await _state(site, ids) == before, "what belongs to the owner was changed"
        async with site.connect(headers=headers) as client:
            await client.send("resume_chat", thread_id=thread, resume={interrupt: "yes"})
            assert (await client.the("final"))["data"]["text"] == "got yes"


async def _state(site: Site, ids: Ids) -> Any:
    runs, owner = site.attachment.runs, Identity(id="owner")
    return await runs.info(owner, ids.thread, None), await runs.snapshot(owner, ids.thread)


async def check(*, rounds: int) -> str:
    """Every case; those that change nothing so many times, and how long they take."""
    nobodys = Ids(**MISSING)
    slowest = 0.0
    async with owned() as (site, ids):
        owner = Visitor(site, "owner")
        alike = set()
        for name, asking_ in LOOKS.items():
            if ids.hidden(await asking_(owner, ids)) == nobodys.hidden(
                await asking_(owner, nobodys)
            ):
                alike.add(name)
        assert alike == ALIKE, alike
        for name, asking_ in {**LOOKS, **ACTS}.items():
            foreign = ids.hidden(await asking_(Visitor(site), ids))
            absent = nobodys.hidden(await asking_(Visitor(site), nobodys))
            assert foreign == absent, f"{name}:\n{foreign}\n{absent}"
            assert "sure?" not in foreign or name in OWN, name
        for name, asking_ in LOOKS.items() if rounds else ():
            # Where the machine is busy with something else, it is not so again.
            apart = ORACLE_S
            for _ in range(TRIES):
                if apart >= ORACLE_S:
                    apart = await _apart(site, asking_, ids, nobodys, rounds)
            assert apart < ORACLE_S, f"{name}: {apart * 1000:.1f} ms"
            slowest = max(slowest, apart)
    told = f"{len(LOOKS) + len(ACTS)} cases, no byte apart"
    return f"{told}, medians of {rounds} at most {slowest * 1000:.1f} ms apart" if rounds else told


OWN = frozenset(name for name in ACTS if "start a run" in name or "say something" in name)
"""The cases in which a run of one's own begins, that asks the same question."""


async def _apart(site: Site, asking_: Asking, ids: Ids, nobodys: Ids, rounds: int) -> float:
    """How far the medians of the times are apart that both take, by turns."""
    took: dict[Ids, list[float]] = {ids: [], nobodys: []}
    visitor = Visitor(site)
    for number in range(rounds):
        for named in (ids, nobodys) if number % 2 else (nobodys, ids):
            began = time.perf_counter()
            await asking_(visitor, named)
            took[named].append(time.perf_counter() - began)
    return abs(median(took[ids]) - median(took[nobodys]))
