"""One thread, seen through every protocol: what is started in one is followed in another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import interrupt

from tests import test_agui as agui
from tests import test_aisdk as aisdk
from tests import test_langchain as langchain
from tests.graphs import line, model_node
from tests.serving import HELLO, Client, Site, serving

PROTOCOLS = ("chat", "langchain", "aisdk", "agui")
TEXT = "Word. " * 30
Json = dict[str, Any]


class Chat:
    """The chat protocol, as far as these tests need it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def start(self) -> None:
        await self.client.send("new_chat", thread_id="t", messages=HELLO)
        await self.client.the("text")

    async def follow(self) -> None:
        await self.client.send("attach", thread_id="t")
        await self.client.the("run")

    async def answer(self, interrupt_id: str) -> None:
        await self.client.send("resume_chat", thread_id="t", resume={interrupt_id: "yes"})

    async def cancel(self) -> None:
        await self.client.send("cancel", thread_id="t")

    async def end(self) -> tuple[str, str]:
        messages = await self.client.until("end")
        text = "".join(
            block["text"]
            for message in messages
            if message["type"] == "message" and message["data"]["role"] == "assistant"
            for block in message["data"]["content"]
        )
        return text, messages[-1]["data"]["status"]


class LangChain:
    """The LangChain protocol."""

    def __init__(self, socket: langchain.Socket) -> None:
        self.socket = socket

    async def start(self) -> None:
        await self.socket.subscribe("messages", "lifecycle")
        await self.socket.start()
        while not langchain.told(self.socket.events):
            await self.socket.receive()

    async def follow(self) -> None:
        await self.socket.subscribe("messages", "lifecycle")

    async def answer(self, interrupt_id: str) -> None:
        await self.socket.subscribe("messages", "lifecycle")
        await self.socket.until("interrupted")
        self.socket.events.clear()
        await self.socket.call("input.respond", interrupt_id=interrupt_id, response="yes")

    async def end(self) -> tuple[str, str]:
        events = await self.socket.until()
        last = next(root for event in reversed(events) if (root := langchain.root(event)))
        return langchain.told(events), last


class AISDK:
    """The protocol of the AI SDK."""

    def __init__(self, page: aisdk.Page) -> None:
        self.page = page
        self.request = "mine"

    async def start(self) -> None:
        await self.page.send(aisdk.user("hello"), request="mine")
        await self.page.until("text-delta", "mine")

    async def follow(self) -> None:
        await self.page.resume("mine")
        await self.page.until("start", "mine")

    async def answer(self, interrupt_id: str) -> None:
        body = {"resume": {interrupt_id: "yes"}}
        reply = aisdk.assistant("a")
        await self.page.send(aisdk.user("x"), reply, request="mine", body=body)

    async def cancel(self) -> None:
        await self.page.say(type="abort", requestId="mine")
        await self.page.resume("after")
        self.request = "after"

    async def end(self) -> tuple[str, str]:
        chunks = await self.page.all(self.request)
        last = chunks[-1]
        return aisdk.said(chunks), last.get("finishReason") or last["type"]


class AGUI:
    """AG-UI."""

    def __init__(self, agent: agui.Agent) -> None:
        self.agent = agent
        self.seen: list[Json] = []

    async def start(self) -> None:
        await self.agent.say(**agui.run(agui.user("hello")))
        self.seen += await self.agent.until("TEXT_MESSAGE_CONTENT")

    async def follow(self) -> None:
        await self.agent.say(type="connect", threadId="t")
        self.seen += await self.agent.until("MESSAGES_SNAPSHOT")

    async def answer(self, interrupt_id: str) -> None:
        answer = {"interruptId": interrupt_id, "status": "resolved", "payload": "yes"}
        await self.agent.say(**agui.run(run_id="r2", resume=[answer]))

    async def cancel(self) -> None:
        await self.agent.say(type="cancel", threadId="t")

    async def end(self) -> tuple[str, str]:
        self.seen += await self.agent.until(*agui.ENDS)
        snapshots = agui.of(self.seen, "MESSAGES_SNAPSHOT")
        before = [it for shot in snapshots for it in shot["messages"] if it["role"] == "assistant"]
        deltas = agui.of(self.seen, "TEXT_MESSAGE_CONTENT")
        text = "".join(it["content"] for it in before) + "".join(it["delta"] for it in deltas)
        return text, self.seen[-1]["outcome"]["type"]


Client_ = Chat | LangChain | AISDK | AGUI
Open = Callable[[str], Awaitable[Any]]
COMPLETED = {"chat": "completed", "langchain": "completed", "aisdk": "stop", "agui": "success"}
CANCELLED = {
    "chat": "cancelled",
    "langchain": "interrupted",
    "aisdk": "abort",
    "agui": "cancelled",
}


@asynccontextmanager
async def everything(graph: Any) -> AsyncIterator[tuple[Site, Open]]:
    """A graph that is served with every protocol, and what opens a client of one."""
    async with (
        serving({"graph": graph}, protocols=PROTOCOLS, merge_window=0) as site,
        AsyncExitStack() as stack,
    ):

        async def open_(name: str) -> Client_:
            enter = stack.enter_async_context
            if name == "chat":
                return Chat(await enter(site.connect()))
            if name == "langchain":
                return LangChain(await enter(langchain.socket(site)))
            if name == "aisdk":
                return AISDK(await enter(aisdk.page(site)))
            return AGUI(await enter(agui.connected(site)))

        yield site, open_


def wordy() -> Any:
    return line(("model", model_node(TEXT, chunk_delay=0.01)), saver=InMemorySaver())


@pytest.mark.parametrize(("starts", "follows"), list(permutations(PROTOCOLS, 2)))
async def test_a_run_is_followed_in_another_protocol(starts: str, follows: str) -> None:
    async with everything(wordy()) as (_, open_):
        starter, follower = await open_(starts), await open_(follows)
        await starter.start()
        await follower.follow()
        assert await follower.end() == (TEXT, COMPLETED[follows])


@pytest.mark.parametrize("starts", PROTOCOLS)
@pytest.mark.parametrize("cancels", ["chat", "aisdk", "agui"])
async def test_a_run_is_cancelled_in_another_protocol(starts: str, cancels: str) -> None:
    if starts == cancels:
        return
    async with everything(wordy()) as (_, open_):
        starter, other = await open_(starts), await open_(cancels)
        await starter.start()
        await other.follow()
        await other.cancel()
        text, status = await other.end()
        assert status == CANCELLED[cancels]
        assert text != TEXT
        assert (await starter.end())[1] == CANCELLED[starts]


@pytest.mark.parametrize("answers", PROTOCOLS)
async def test_a_question_is_answered_in_any_protocol(answers: str) -> None:
    async def ask(state: Any) -> Json:
        return {"messages": [AIMessage(f"You said {interrupt('ok?')}.")]}

    async with everything(line(("ask", ask), saver=InMemorySaver())) as (site, open_):
        run = await site.attachment.start(
            messages=[{"role": "user", "content": "hello"}], thread_id="t"
        )
        async for entry in site.attachment.follow(run_id=run.run_id):
            waits = getattr(entry.frame, "interrupt_id", None)
            if waits is not None:
                interrupt_id = waits
        client = await open_(answers)
        await client.answer(interrupt_id)
        assert await client.end() == ("You said yes.", COMPLETED[answers])
