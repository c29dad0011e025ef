"""`langgraph_sdk`, asynchronous: what a program that uses it sees, over both of its transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from tests.clients.conftest import Server, serving
from tests.clients.graphs import AFTER, BEFORE, BIG, FLOOD
from tests.proxy import Switch

PATIENCE = 20.0
"""Seconds that anything may take; far more than it needs."""
HI = {"messages": [{"role": "user", "content": "hi"}]}
TERMINAL = {"completed", "failed", "interrupted"}

Stream = Callable[..., Any]
"""Makes a thread's stream: `stream(graph, thread_id=None, **options)`."""


@pytest.fixture(params=["websocket", "sse"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=server.url, api_key=None) as made:
        yield made


@pytest.fixture
def stream(client: LangGraphClient, transport: str) -> Stream:
    def make(graph: str, thread_id: str | None = None, **options: Any) -> Any:
        return client.threads.stream(thread_id, assistant_id=graph, transport=transport, **options)

    return make


def user(text: str) -> dict[str, Any]:
    """An input of one message."""
    return {"messages": [{"role": "user", "content": text}]}


async def until(condition: Callable[[], Any]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the client has nothing to wait for
            await asyncio.sleep(0.005)


class Reading:
    """Messages as they come, each read by a task of its own: the client needs that.

    Attributes:
        messages: The messages.
        texts: What each has said so far.
        errors: What each ended with, where that is an error.
    """

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.texts: list[str] = []
        self.errors: dict[int, RuntimeError] = {}

    async def read(self, scope: Any) -> None:
        """Read the messages of a thread or of a subgraph until the run is over."""
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            async for message in scope.messages:
                self.messages.append(message)
                self.texts.append("")
                group.create_task(self._read(len(self.messages) - 1, message))

    async def _read(self, place: int, message: Any) -> None:
        try:
            async for delta in message.text:
                self.texts[place] += delta
            assert await message.text == self.texts[place]
        except RuntimeError as error:
            self.errors[place] = error


@asynccontextmanager
async def reading(scope: Any) -> AsyncIterator[Reading]:
    """Read the messages of a thread beside what happens in this block."""
    read = Reading()
    task = asyncio.create_task(read.read(scope))
    try:
        yield read
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def messages(scope: Any) -> Reading:
    """The messages of a run, once it is over."""
    read = Reading()
    await read.read(scope)
    assert not read.errors
    return read


async def texts(scope: Any) -> list[str]:
    """What the messages of a run say, once it is over."""
    return (await messages(scope)).texts


async def turn(thread: Any, **start: Any) -> list[str]:
    """What the messages of a further run say, once it is over.

    They are read from before its start: what comes while nobody reads, the client drops.
    """
    reader = asyncio.create_task(texts(thread))
    await thread.run.start(**start)
    return await reader


async def events_of_runs(events: AsyncIterator[Any], runs: int = 1) -> list[Any]:
    """The events of a thread up to the end of this many runs."""
    seen: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            if event["type"] != "event":  # over WebSocket the client hands out responses, too
                continue
            seen.append(event)
            if is_end(event):
                runs -= 1
                if not runs:
                    break
    return seen


def is_end(event: Any) -> bool:
    params = event["params"]
    return (
        event["method"] == "lifecycle"
        and not params["namespace"]
        and params["data"]["event"] in TERMINAL
    )


def of(events: list[Any], method: str) -> list[Any]:
    """The data of the events of a method."""
    return [event["params"]["data"] for event in events if event["method"] == method]


async def output(thread: Any) -> Any:
    return await thread.output.with_timeout(PATIENCE)


def said(state: dict[str, Any]) -> list[str]:
    """The texts of a state's messages."""
    return [message["content"] for message in state["messages"]]


async def said_in(client: LangGraphClient, thread_id: str) -> list[str]:
    """The texts of the messages that a thread ended up with."""
    return said((await client.threads.get_state(thread_id))["values"])


# --- one run ---------------------------------------------------------------------------------


async def test_a_message_streams_and_ends_up_in_the_state_under_its_id(stream: Stream) -> None:
    async with stream("chat") as thread:
        started = await thread.run.start(input=HI)
        assert started["run_id"]
        read = await messages(thread)
        assert read.texts == ["Turn 1: hi"]
        final = await output(thread)
        assert said(final) == ["hi", "Turn 1: hi"]
        assert final["messages"][1]["id"] == read.messages[0].message_id
        usage = (await read.messages[0].output).usage_metadata
        assert (usage["input_tokens"], usage["output_tokens"]) == (3, 4)


async def test_a_message_that_a_node_wrote_itself_appears(stream: Stream) -> None:
    async with stream("whole") as thread:
        await thread.run.start(input=HI)
        assert await texts(thread) == ["Written, not streamed."]


async def test_reasoning_and_text_are_told_apart(stream: Stream) -> None:
    async with stream("thinking") as thread:
        await thread.run.start(input=HI)
        read = await messages(thread)
        assert read.texts == ["I have thought."]
        assert await read.messages[0].reasoning == "Let me think."


async def test_two_nodes_that_stream_at_once_stay_two_messages(stream: Stream) -> None:
    async with stream("twins") as thread:
        await thread.run.start(input=HI)
        assert sorted(await texts(thread)) == [
            "left  speaks, word by word",
            "right speaks, word by word",
        ]


async def test_every_superstep_is_a_snapshot_of_the_state(stream: Stream) -> None:
    async with stream("steps") as thread:
        await thread.run.start(input={"log": ["begin"], "total": 0})
        async with asyncio.timeout(PATIENCE):
            snapshots = [values.get("log") async for values in thread.values]
        logs = [["begin", "one", "two", "three"][:size] for size in range(1, 5)]
        # The first is the state when it was asked for, wherever the run was then.
        assert snapshots[-1] == logs[-1]
        assert snapshots[1:] == [log for log in logs if log in snapshots[1:]]
        assert await output(thread) == {"log": logs[-1], "total": 3}


async def test_a_run_is_told_on_all_channels(stream: Stream) -> None:
    async with stream("counter") as thread:
        events = thread.events
        await thread.run.start(input=HI)
        seen = await events_of_runs(events)
    assert {event["method"] for event in seen} == {
        *("values", "updates", "messages", "tools", "lifecycle", "checkpoints", "tasks"),
    }
    assert [data["event"] for data in of(seen, "lifecycle")] == ["running", "completed"]
    assert [data["node"] for data in of(seen, "updates")] == ["model", "tools", "model"]
    assert said(of(seen, "values")[-1])[-1] == "Results: counted to 3"
    checkpoints = of(seen, "checkpoints")
    assert [data["step"] for data in checkpoints] == [-1, 0, 1, 2, 3]
    assert [data.get("parent_id") for data in checkpoints[1:]] == [
        data["id"] for data in checkpoints[:-1]
    ]
    assert [task["name"] for task in of(seen, "tasks") if "input" in task] == [
        *("model", "tools", "model")
    ]


async def test_custom_events_come_under_their_names(stream: Stream) -> None:
    async with stream("custom") as thread:
        await thread.run.start(input=HI)
        async with asyncio.timeout(PATIENCE):
            progress = [item["payload"] async for item in thread.extensions["progress"]]
        assert progress == [{"percent": 0}, {"percent": 50}, {"percent": 100}]


async def test_the_custom_channel_has_all_of_them(stream: Stream) -> None:
    async with stream("custom") as thread:
        await thread.run.start(input=HI)
        async with asyncio.timeout(PATIENCE):
            data = [event["params"]["data"] async for event in thread.subscribe(["custom"])]
        assert data == [
            *({"name": "progress", "payload": {"percent": part}} for part in (0, 50, 100)),
            {"name": "metrics", "payload": 7},
            {"payload": "plain"},
        ]


# --- tools -----------------------------------------------------------------------------------


async def tool_calls(thread: Any) -> dict[str, Any]:
    """The tool calls of a run by id, once it has ended."""
    async with asyncio.timeout(PATIENCE):
        return {made.tool_call_id: made async for made in thread.tool_calls}


async def test_a_tool_streams_its_output(stream: Stream) -> None:
    async with stream("counter") as thread:
        await thread.run.start(input=HI)
        (made,) = (await tool_calls(thread)).values()
        assert (made.name, made.tool_call_id) == ("count_up", "call_count_up")
        assert made.input["to"] == 3
        assert [delta async for delta in made.deltas] == ["1 ", "2 ", "3 "]
        assert result_of(await made.output) == "counted to 3"


async def test_a_tool_that_fails_says_so(stream: Stream) -> None:
    async with stream("divider") as thread:
        await thread.run.start(input=HI)
        (made,) = (await tool_calls(thread)).values()
        with pytest.raises(RuntimeError, match="division by zero"):
            await made.output
        assert said(await output(thread))[-1] == "Results: failed: division by zero"


async def test_tools_that_run_at_once_are_told_apart(stream: Stream) -> None:
    async with stream("parallel") as thread:
        await thread.run.start(input=HI)
        made = await tool_calls(thread)
        assert made.keys() == {"call_1", "call_2", "call_divide"}
        assert result_of(await made["call_1"].output) == "2"
        assert result_of(await made["call_2"].output) == "counted to 2"
        assert [delta async for delta in made["call_2"].deltas] == ["1 ", "2 "]
        with pytest.raises(RuntimeError, match="division by zero"):
            await made["call_divide"].output


async def test_the_tool_calls_of_a_message_come_with_it(stream: Stream) -> None:
    async with stream("parallel") as thread:
        await thread.run.start(input=HI)
        read = await messages(thread)
        assert read.texts == ["Let me see.", "Results: 2, counted to 2, failed: division by zero"]
        calls = await read.messages[0].tool_calls
        assert [(made["name"], made["args"]) for made in calls] == [
            ("add", {"a": 1, "b": 1}),
            ("count_up", {"to": 2}),
            ("divide", {"a": 1, "b": 0}),
        ]


def result_of(told: Any) -> Any:
    """What a tool returned: the protocol leaves open whether as it is or as its message."""
    return told["content"] if isinstance(told, dict) else told


# --- subgraphs -------------------------------------------------------------------------------


async def test_a_subgraph_has_its_messages_and_its_subgraphs(stream: Stream) -> None:
    async with stream("nested") as thread:
        await thread.run.start(input=HI)
        async with asyncio.timeout(PATIENCE):
            (research,) = [found async for found in thread.subgraphs]
            assert (research.graph_name, research.status) == ("research", "completed")
            (writer,) = [found async for found in research.subgraphs]
        assert (writer.graph_name, writer.status) == ("writer", "completed")
        assert writer.path[: len(research.path)] == research.path
        assert await texts(writer) == ["Deep down."]
        assert await texts(research) == ["Half way up."]
        assert await texts(thread) == ["On top."]


async def test_tasks_of_the_same_subgraph_are_told_apart(stream: Stream) -> None:
    async with stream("mapped") as thread:
        await thread.run.start(input={"subjects": ["one", "two", "three"]})
        async with asyncio.timeout(PATIENCE):
            found = [sub async for sub in thread.subgraphs]
        assert [(sub.graph_name, sub.status) for sub in found] == [("look_up", "completed")] * 3
        assert len({sub.path for sub in found}) == 3
        assert sorted((await output(thread))["found"]) == ["ONE", "THREE", "TWO"]


# --- interrupts ------------------------------------------------------------------------------


async def test_an_interrupt_is_answered(stream: Stream) -> None:
    async with stream("ask") as thread:
        await thread.run.start(input=HI)
        await until(lambda: thread.interrupted)
        assert [asked["value"] for asked in thread.interrupts] == [{"question": "Send hi?"}]
        reader = asyncio.create_task(texts(thread))
        await thread.run.respond("yes")
        assert await reader == ["You said yes."]
        assert said(await output(thread)) == ["hi", "You said yes."]
        assert not thread.interrupted


async def test_two_interrupts_are_answered_one_after_the_other(stream: Stream) -> None:
    async with stream("ask_twice") as thread:
        await thread.run.start(input={"log": []})
        await until(lambda: len(thread.interrupts) == 2)
        asked = {entry["value"]: entry["interrupt_id"] for entry in thread.interrupts}
        with pytest.raises(RuntimeError, match="ambiguous"):
            await thread.run.respond("?")
        await thread.run.respond("R", interrupt_id=asked["right"])
        await thread.run.respond("L", interrupt_id=asked["left"])
        assert (await output(thread))["log"] == ["left=L", "right=R"]


async def test_an_interrupt_may_follow_another(stream: Stream) -> None:
    async with stream("ask_in_turn") as thread:
        await thread.run.start(input={"log": []})
        await until(lambda: thread.interrupts)
        await thread.run.respond("1", interrupt_id=thread.interrupts[0]["interrupt_id"])
        await until(lambda: [entry["value"] for entry in thread.interrupts][-1:] == ["second"])
        await thread.run.respond("2", interrupt_id=thread.interrupts[-1]["interrupt_id"])
        assert (await output(thread))["log"] == ["first=1", "second=2"]


async def test_an_interrupt_in_a_subgraph_is_answered(stream: Stream) -> None:
    async with stream("ask_below") as thread:
        await thread.run.start(input=HI)
        await until(lambda: thread.interrupted)
        (asked,) = thread.interrupts
        assert asked["value"] == "From below?"
        assert [part.partition(":")[0] for part in asked["namespace"]] == ["below"]
        await thread.run.respond("yes")
        assert said(await output(thread)) == ["hi", "You said yes."]


async def test_a_pending_interrupt_is_there_for_who_comes_later(stream: Stream) -> None:
    async with stream("ask") as thread:
        await thread.run.start(input=HI)
        await until(lambda: thread.interrupted)
    async with stream("ask", thread.thread_id) as later:
        await until(lambda: later.interrupted)
        await later.run.respond("yes")
        assert said(await output(later)) == ["hi", "You said yes."]


async def test_an_answered_interrupt_is_gone_for_who_comes_later(stream: Stream) -> None:
    async with stream("ask_in_turn") as thread:
        await thread.run.start(input={"log": []})
        await until(lambda: thread.interrupted)
        await thread.run.respond("1")
        await until(lambda: len(thread.interrupts) == 2)
    async with stream("ask_in_turn", thread.thread_id) as later:
        await until(lambda: later.interrupted)
        assert [entry["value"] for entry in later.interrupts] == ["second"]


async def test_an_interrupt_is_answered_once(stream: Stream) -> None:
    async with stream("ask") as thread:
        await thread.run.start(input=HI)
        await until(lambda: thread.interrupted)
        (asked,) = thread.interrupts
        await thread.run.respond("yes")
        await output(thread)
        thread.interrupts.append(asked)  # what a program that kept its list would send
        with pytest.raises(RuntimeError, match="no_such_interrupt"):
            await thread.run.respond("no")


# --- failure and cancellation ----------------------------------------------------------------


async def test_a_failure_is_told_after_what_was_said_before_it(stream: Stream) -> None:
    async with stream("failing") as thread:
        await thread.run.start(input=HI)
        read = Reading()
        await read.read(thread)
        assert read.texts == [BEFORE[:8]]
        assert read.errors.keys() == {0}
        with pytest.raises(RuntimeError, match="Run errored"):
            await output(thread)


async def test_a_thread_goes_on_after_a_failure(stream: Stream, client: LangGraphClient) -> None:
    async with stream("failing") as thread:
        await thread.run.start(input=HI)
        with pytest.raises(RuntimeError, match="Run errored"):
            await output(thread)
    async with stream("chat", thread.thread_id) as later:
        await later.run.start(input=user("still there?"))
        assert await texts(later) == ["Turn 2: still there?"]
    assert await said_in(client, thread.thread_id) == [
        *("hi", "still there?", "Turn 2: still there?")
    ]


async def test_a_message_after_a_cancel_is_not_lost(
    stream: Stream, client: LangGraphClient
) -> None:
    async with stream("gated") as thread:
        run = await thread.run.start(input=user("slow"))
        async with reading(thread) as read:
            await until(lambda: read.texts == [f"slow: {BEFORE}"])
            await client.runs.cancel(thread.thread_id, run["run_id"])
            await until(lambda: read.errors.keys() == {0})
        assert await turn(thread, input=user("again")) == ["Quick answer to again."]
    assert await said_in(client, thread.thread_id) == ["slow", "again", "Quick answer to again."]


async def test_a_cancelled_run_is_interrupted_for_who_asks(
    stream: Stream, client: LangGraphClient
) -> None:
    async with stream("gated") as thread:
        events = thread.events
        run = await thread.run.start(input=user("slow"))
        async with reading(thread) as read:
            await until(lambda: read.texts == [f"slow: {BEFORE}"])
        await client.runs.cancel(thread.thread_id, run["run_id"])
        told = await client.runs.get(thread.thread_id, run["run_id"])
        assert told["status"] == "interrupted"
        seen = await events_of_runs(events)
    assert [data["event"] for data in of(seen, "lifecycle")] == ["running", "interrupted"]
    assert of(seen, "messages")[-1]["event"] == "error"


# --- several runs ----------------------------------------------------------------------------


async def test_turns_follow_one_another(stream: Stream, client: LangGraphClient) -> None:
    async with stream("chat") as thread:
        for number, text in enumerate(("a", "b", "c"), 1):
            assert await turn(thread, input=user(text)) == [f"Turn {number}: {text}"]
    assert await said_in(client, thread.thread_id) == [
        *("a", "Turn 1: a", "b", "Turn 2: b", "c", "Turn 3: c")
    ]


async def test_the_output_of_a_second_stream_is_that_of_its_run(stream: Stream) -> None:
    async with stream("chat") as thread:
        await thread.run.start(input=user("a"))
        await output(thread)
    async with stream("chat", thread.thread_id) as second:
        await second.run.start(input=user("b"))
        assert said(await output(second)) == ["a", "Turn 1: a", "b", "Turn 2: b"]


async def test_the_output_is_not_that_of_a_run_that_somebody_else_started(
    stream: Stream, client: LangGraphClient, server: Server
) -> None:
    thread_id = str(uuid4())
    params = {"assistant_id": "chat", "input": user("a")}
    command = {"id": 1, "method": "run.start", "params": params}
    async with httpx.AsyncClient() as http:
        url = f"{server.url}/threads/{thread_id}/commands"
        (await http.post(url, json=command)).raise_for_status()
    async with asyncio.timeout(PATIENCE):
        while await said_in(client, thread_id) != ["a", "Turn 1: a"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    async with stream("chat", thread_id) as thread:
        await thread.run.start(input=user("b"))
        assert said(await output(thread)) == ["a", "Turn 1: a", "b", "Turn 2: b"]


async def test_a_second_message_waits_for_its_turn(
    stream: Stream, client: LangGraphClient, server: Server
) -> None:
    async with stream("gated") as thread:
        events = thread.events
        await thread.run.start(input=user("slow"))
        async with reading(thread) as read:
            await until(lambda: read.texts == [f"slow: {BEFORE}"])
        await thread.run.start(input=user("second"))
        server.open(thread.thread_id, "slow")
        seen = await events_of_runs(events, 2)
    assert [data["event"] for data in of(seen, "lifecycle")] == ["running", "completed"] * 2
    assert await said_in(client, thread.thread_id) == [
        *("slow", f"slow: {BEFORE}{AFTER}", "second", "Quick answer to second.")
    ]


async def test_a_turn_is_edited_from_the_checkpoint_before_it(
    stream: Stream, client: LangGraphClient
) -> None:
    async with stream("chat") as thread:
        for text in ("a", "b"):
            await turn(thread, input=user(text))
        history = await client.threads.get_history(thread.thread_id)
        before = next(
            state
            for state in history
            if not state["next"] and said(state["values"]) == ["a", "Turn 1: a"]
        )
        config = {"configurable": {"checkpoint_id": before["checkpoint"]["checkpoint_id"]}}
        assert await turn(thread, input=user("c"), config=config) == ["Turn 2: c"]
    assert await said_in(client, thread.thread_id) == ["a", "Turn 1: a", "c", "Turn 2: c"]
    told = [said(state["values"]) for state in await client.threads.get_history(thread.thread_id)]
    assert ["a", "Turn 1: a", "b", "Turn 2: b"] in told, "the other branch is still there"


async def test_an_answer_is_made_anew_from_the_checkpoint_of_its_question(
    stream: Stream, client: LangGraphClient
) -> None:
    async with stream("chat") as thread:
        await thread.run.start(input=user("a"))
        (first,) = await texts(thread)
        old = (await client.threads.get_state(thread.thread_id))["values"]["messages"][-1]
        asked = next(
            state
            for state in await client.threads.get_history(thread.thread_id)
            if list(state["next"]) == ["model"]
        )
        config = {"configurable": {"checkpoint_id": asked["checkpoint"]["checkpoint_id"]}}
        assert await turn(thread, config=config) == [first]
        new = (await client.threads.get_state(thread.thread_id))["values"]["messages"][-1]
    assert (new["content"], new["id"] != old["id"]) == (old["content"], True)


# --- who comes late, who comes back ----------------------------------------------------------


async def test_a_second_viewer_sees_everything_from_the_start(
    stream: Stream, server: Server
) -> None:
    async with stream("gated") as thread:
        await thread.run.start(input=user("slow"))
        async with (
            stream("gated", thread.thread_id) as viewer,
            reading(thread) as first,
            reading(viewer) as second,
        ):
            await until(lambda: first.texts == second.texts == [f"slow: {BEFORE}"])
            server.open(thread.thread_id, "slow")
            await until(lambda: first.texts == second.texts == [f"slow: {BEFORE}{AFTER}"])
            assert said(await output(viewer)) == said(await output(thread))


async def test_every_connection_is_told_the_same(
    stream: Stream, client: LangGraphClient, server: Server
) -> None:
    async with stream("nested") as thread:
        live = thread.events
        await thread.run.start(input=HI)
        seen = await events_of_runs(live)
        assert await events_of_runs(thread.events) == seen
        async with client.threads.stream(thread.thread_id, assistant_id="nested") as viewer:
            assert await events_of_runs(viewer.events) == seen
    numbers = [event["seq"] for event in seen]
    assert numbers == sorted(set(numbers))
    assert len({event["event_id"] for event in seen}) == len(seen)


async def test_the_output_of_a_run_that_is_over_is_there_at_once(stream: Stream) -> None:
    async with stream("chat") as thread:
        await thread.run.start(input=HI)
        await output(thread)
    async with stream("chat", thread.thread_id) as later:
        assert said(await output(later)) == ["hi", "Turn 1: hi"]


async def test_nothing_is_lost_or_doubled_when_the_connection_is_reset(
    transport: str, server: Server
) -> None:
    async with (
        Switch(server.port).serving() as proxy,
        get_client(url=f"http://127.0.0.1:{proxy.port}/agent", api_key=None) as client,
        client.threads.stream(assistant_id="gated", transport=transport) as thread,
    ):
        await thread.run.start(input=user("slow"))
        async with reading(thread) as read:
            await until(lambda: read.texts == [f"slow: {BEFORE}"])
            await proxy.to(server.port)
            server.open(thread.thread_id, "slow")
            await until(lambda: read.texts == [f"slow: {BEFORE}{AFTER}"])
        assert said(await output(thread)) == ["slow", f"slow: {BEFORE}{AFTER}"]


# --- much ------------------------------------------------------------------------------------


async def test_more_events_than_the_client_holds_arrive(stream: Stream) -> None:
    async with stream("flood") as thread:
        await thread.run.start(input=HI)
        async with asyncio.timeout(PATIENCE):
            ticks = [item["payload"] async for item in thread.extensions["tick"]]
        assert ticks == list(range(FLOOD))


async def test_a_state_that_is_too_large_for_a_frame_is_still_the_output(stream: Stream) -> None:
    async with stream("big") as thread:
        await thread.run.start(input=HI)
        assert [len(text) for text in said(await output(thread))] == [2, BIG]


# --- the graph, and what is refused ----------------------------------------------------------


async def test_the_graph_is_drawn(stream: Stream) -> None:
    async with stream("adder") as thread:
        tree = await thread.agent.get_tree()
    assert {node["id"] for node in tree["nodes"]} == {"__start__", "model", "tools", "__end__"}
    assert {"source": "tools", "target": "model"} in [
        {"source": edge["source"], "target": edge["target"]} for edge in tree["edges"]
    ]


async def test_a_graph_that_is_not_there_is_refused_by_name(stream: Stream) -> None:
    async with stream("nowhere") as thread:
        with pytest.raises(RuntimeError, match=r"invalid_argument.*assistant_id.*nowhere"):
            await thread.run.start(input=HI)


async def test_a_thread_that_is_not_there_is_not_found(client: LangGraphClient) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await client.threads.get_state(str(uuid4()))
    assert refused.value.response.status_code == 404


async def test_a_run_that_is_not_there_is_not_found(client: LangGraphClient) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await client.runs.cancel(str(uuid4()), str(uuid4()))
    assert refused.value.response.status_code == 404


# --- who may ---------------------------------------------------------------------------------


async def test_a_thread_is_for_its_owner_alone(transport: str, server: Server) -> None:
    url = server.at("/private")
    async with (
        get_client(url=url, api_key="key-of-ann") as ann,
        get_client(url=url, api_key="key-of-bob") as bob,
        get_client(url=url, api_key=None) as nobody,
    ):
        headers = {"x-api-key": "key-of-ann"}
        async with ann.threads.stream(
            assistant_id="chat", transport=transport, headers=headers
        ) as thread:
            await thread.run.start(input=HI)
            assert await texts(thread) == ["Turn 1: hi"]
        assert await said_in(ann, thread.thread_id) == ["hi", "Turn 1: hi"]
        for other, status in ((bob, 404), (nobody, 401)):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                await other.threads.get_state(thread.thread_id)
            assert refused.value.response.status_code == status


async def test_who_may_not_is_told(transport: str, server: Server) -> None:
    async with (
        get_client(url=server.at("/private"), api_key=None) as nobody,
        nobody.threads.stream(str(uuid4()), assistant_id="chat", transport=transport) as thread,
    ):
        with pytest.raises(Exception, match="401"):
            await thread.run.start(input=HI)


# --- without and with a database -------------------------------------------------------------


async def test_a_graph_without_a_checkpointer_streams(transport: str, server: Server) -> None:
    async with (
        get_client(url=server.at("/forgetful"), api_key=None) as client,
        client.threads.stream(assistant_id="chat", transport=transport) as thread,
    ):
        await thread.run.start(input=HI)
        assert await texts(thread) == ["Turn 1: hi"]


async def test_a_thread_goes_on_in_the_next_server(transport: str, tmp_path: Any) -> None:
    database = ("--database", str(tmp_path / "threads.sqlite"))
    with serving(tmp_path, *database) as old:
        async with (
            get_client(url=old.url, api_key=None) as client,
            client.threads.stream(assistant_id="ask", transport=transport) as thread,
        ):
            await thread.run.start(input=HI)
            await until(lambda: thread.interrupted)
            (asked,) = thread.interrupts
    with serving(tmp_path, *database, "--port", str(old.port)) as new:
        async with get_client(url=new.url, api_key=None) as client:
            state = await client.threads.get_state(thread.thread_id)
            (waiting,) = state["interrupts"]
            assert (waiting["id"], waiting["value"]) == (asked["interrupt_id"], asked["value"])
            async with client.threads.stream(
                thread.thread_id, assistant_id="ask", transport=transport
            ) as later:
                await until(lambda: later.interrupted)
                await later.run.respond("yes")
                assert said(await output(later)) == ["hi", "You said yes."]
