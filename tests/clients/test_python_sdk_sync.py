"""`langgraph_sdk`, synchronous: what a script that uses it sees.

Over server-sent events the client's threads end only with the next heartbeat, seconds after a test;
so only a few go over both transports. And each test waits for the output: a stream that is closed
before its watcher has connected leaves that connection behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

from tests.clients.conftest import Server

HI = {"messages": [{"role": "user", "content": "hi"}]}
PATIENCE = 20.0

Stream = Callable[..., Any]


@pytest.fixture
def client(server: Server) -> Iterator[SyncLangGraphClient]:
    with get_sync_client(url=server.url, api_key=None) as made:
        yield made


both = pytest.mark.parametrize("stream", ["websocket", "sse"], indirect=True)


@pytest.fixture(params=["websocket"])
def stream(client: SyncLangGraphClient, request: pytest.FixtureRequest) -> Stream:
    """Makes a thread's stream: `stream(graph, thread_id=None)`."""

    def make(graph: str, thread_id: str | None = None) -> Any:
        return client.threads.stream(thread_id, assistant_id=graph, transport=request.param)

    return make


def until(condition: Callable[[], Any]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def said(state: dict[str, Any]) -> list[str]:
    return [message["content"] for message in state["messages"]]


@both
def test_a_message_streams_and_ends_up_in_the_state(stream: Stream) -> None:
    with stream("chat") as thread:
        thread.run.start(input=HI)
        texts = ["".join(message.text) for message in thread.messages]
        assert texts == ["Turn 1: hi"]
        assert said(thread.output) == ["hi", "Turn 1: hi"]


def test_a_tool_streams_its_output(stream: Stream) -> None:
    with stream("counter") as thread:
        thread.run.start(input=HI)
        (call,) = list(thread.tool_calls)
        assert call.name == "count_up"
        assert list(call.deltas) == ["1 ", "2 ", "3 "]
        assert said(thread.output)[-1] == "Results: counted to 3"


def test_custom_events_come_under_their_names(stream: Stream) -> None:
    with stream("custom") as thread:
        thread.run.start(input=HI)
        progress = [item["payload"]["percent"] for item in thread.extensions["progress"]]
        assert progress == [0, 50, 100]
        assert said(thread.output)[-1] == "Worked."


def test_subgraphs_are_found(stream: Stream) -> None:
    with stream("nested") as thread:
        thread.run.start(input=HI)
        assert [(sub.graph_name, sub.status) for sub in thread.subgraphs] == [
            ("research", "started")  # as it is when it is found
        ]
        assert said(thread.output)[-1] == "On top."


@both
def test_an_interrupt_is_answered(stream: Stream) -> None:
    with stream("ask") as thread:
        thread.run.start(input=HI)
        until(lambda: thread.interrupted)
        assert [asked["value"] for asked in thread.interrupts] == [{"question": "Send hi?"}]
        thread.run.respond("yes")
        assert said(thread.output) == ["hi", "You said yes."]


def test_a_failure_is_raised(stream: Stream) -> None:
    with stream("failing") as thread:
        thread.run.start(input=HI)
        with pytest.raises(RuntimeError, match="Run errored"):
            _ = thread.output


def test_a_thread_goes_on(stream: Stream, client: SyncLangGraphClient) -> None:
    with stream("chat") as thread:
        thread.run.start(input=HI)
        assert said(thread.output) == ["hi", "Turn 1: hi"]
    with stream("chat", thread.thread_id) as second:
        second.run.start(input={"messages": [{"role": "user", "content": "again"}]})
        assert said(second.output)[2:] == ["again", "Turn 2: again"]
    assert len(client.threads.get_history(thread.thread_id)) == 6
