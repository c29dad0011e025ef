"""The LangChain protocol on the wire: every command and every channel of its specification.

All that comes is checked with the rules of `rules`, which are those of the specification.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args, get_type_hints
from uuid import uuid4

import aiohttp
import langchain_protocol as protocol
import pytest

from tests.clients.conftest import Server
from tests.clients.graphs import AFTER, BEFORE
from tests.clients.recorder import CHANNELS, Recorder, recording
from tests.clients.rules import Json, Rules
from tests.rawsocket import RawClient

HI = {"messages": [{"role": "user", "content": "hi"}]}
METHOD_OF = {"input": "input.requested"}
COVERED: set[str] = set()
"""The commands that tests of this file are about."""


def covers(*methods: str) -> Callable[[Any], Any]:
    """Says which commands a test is about."""

    def mark(test: Any) -> Any:
        COVERED.update(methods)
        return test

    return mark


def user(text: str) -> Json:
    return {"messages": [{"role": "user", "content": text}]}


def said(values: Json) -> list[str]:
    return [message["content"] for message in values["messages"]]


async def get(url: str, status: int = 200) -> Any:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        assert answer.status == status
        return await answer.json()


async def post(url: str, body: Any, status: int = 200) -> Any:
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:
        assert answer.status == status
        return await answer.json()


async def state_of(server: Server, recorder: Recorder) -> Any:
    return await get(f"{server.url}/threads/{recorder.thread_id}/state")


async def finished(recorder: Recorder, graph: str, given: Any, **more: Any) -> str:
    """Run a graph; the run's id, once the run has completed."""
    run_id: str = (await recorder.run(graph, given, **more))["run_id"]
    assert await recorder.end(run_id) == "completed"
    return run_id


def test_every_command_of_the_specification_has_a_test() -> None:
    variants = get_args(protocol.Command)
    methods = {get_args(get_type_hints(variant)["method"])[0] for variant in variants}
    assert methods == COVERED


def test_every_channel_of_the_specification_is_known_here() -> None:
    names = [get_args(each)[0] for each in get_args(protocol.Channel)]
    assert [name for name in names if name is not str] == list(CHANNELS)


# --- channels --------------------------------------------------------------------------------

EVERYTHING = {
    "values": "steps",
    "updates": "steps",
    "messages": "chat",
    "tools": "counter",
    "lifecycle": "nested",
    "input": "ask",
    "checkpoints": "steps",
    "tasks": "steps",
    "custom": "custom",
    "custom:progress": "custom",
}


@pytest.mark.parametrize("channel", [*CHANNELS, "custom:progress"])
async def test_a_channel_has_its_events_and_no_others(channel: str, server: Server) -> None:
    given = {"log": []} if EVERYTHING[channel] == "steps" else HI
    async with recording(server.url) as alone:
        await alone.subscribe(channel)
        async with recording(server.url, alone.thread_id) as all_of_it:
            await all_of_it.subscribe()
            run = await all_of_it.run(EVERYTHING[channel], given)
            await all_of_it.end(run["run_id"])
            expected = [event for event in all_of_it.events if is_on(channel, event)]
        assert expected
        await alone.until(lambda frame: frame.get("event_id") == expected[-1]["event_id"])
        assert alone.events == expected


def is_on(channel: str, event: Json) -> bool:
    name, _, wanted = channel.partition(":")
    if event["method"].partition(".")[0] != name:
        return False
    return not wanted or event["params"]["data"].get("name") == wanted


async def test_a_run_with_everything_breaks_no_rule(server: Server) -> None:
    for graph in ("nested", "parallel", "twins", "custom", "thinking", "whole"):
        async with recording(server.url) as recorder:
            await recorder.subscribe()
            await finished(recorder, graph, HI)


async def test_a_subgraph_has_a_life_of_its_own(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe("lifecycle")
        await finished(recorder, "nested", HI)
        told = []
        for event in recorder.events:
            names = [part.partition(":")[0] for part in event["params"]["namespace"]]
            told.append((names, event["params"]["data"]["event"]))
        graphs = [data["graph_name"] for data in recorder.of("lifecycle") if "graph_name" in data]
    assert told == [
        ([], "running"),
        (["research"], "started"),
        (["research", "writer"], "started"),
        (["research", "writer"], "completed"),
        (["research"], "completed"),
        ([], "completed"),
    ]
    assert graphs[:3] == ["nested", "research", "writer"]


async def test_values_come_right_after_their_checkpoint(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe("values", "checkpoints", "lifecycle")
        await finished(recorder, "steps", {"log": []})
        methods = [event["method"] for event in recorder.events]
    middle = methods[methods.index("values") - 1 : -1]
    assert middle == ["checkpoints", "values"] * (len(middle) // 2)
    assert methods[0] == methods[-1] == "lifecycle"


async def test_updates_name_their_node(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe("updates", "lifecycle")
        await finished(recorder, "steps", {"log": []})
        assert recorder.of("updates") == [
            {"node": name, "values": {"log": [name], "total": total}}
            for total, name in enumerate(("one", "two", "three"), 1)
        ]


async def test_arguments_of_tools_come_as_they_are_written(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe("messages", "lifecycle")
        await finished(recorder, "adder", HI)
        deltas = [
            data["delta"]["fields"]["args"]
            for data in recorder.of("messages")
            if data.get("delta", {}).get("type") == "block-delta"
        ]
    assert all(later.startswith(former) for former, later in pairwise(deltas))
    assert json.loads(deltas[-1]) == {"a": 1, "b": 2}


async def test_namespaces_and_depth_choose_what_comes(server: Server) -> None:
    async with recording(server.url) as recorder:
        await finished_in_silence(recorder, "nested")
        for options, expected in (
            ({}, {"Deep down.", "Half way up.", "On top."}),
            ({"namespaces": [[]], "depth": 0}, {"On top."}),
            ({"namespaces": [[]], "depth": 1}, {"On top.", "Half way up."}),
            ({"namespaces": [["research"]]}, {"Half way up.", "Deep down."}),
            ({"namespaces": [["research"]], "depth": 0}, {"Half way up."}),
            ({"namespaces": [["research", "writer"], ["nowhere"]]}, {"Deep down."}),
        ):
            before = len(recorder.frames)
            told = await recorder.subscribe("messages", **options)
            await settled(recorder, told, before)
            blocks = [
                frame["params"]["data"]["content"]["text"]
                for frame in recorder.frames[before:]
                if frame["type"] == "event"
                and frame["params"]["data"]["event"] == "content-block-finish"
            ]
            assert set(blocks) == expected
            assert len(blocks) == len(expected)


async def finished_in_silence(recorder: Recorder, graph: str, given: Any = HI) -> str:
    """Run a graph while nobody has subscribed."""
    async with recording(recorder.url, recorder.thread_id) as other:
        await other.subscribe("lifecycle")
        return await finished(other, graph, given)


async def settled(recorder: Recorder, told: Json, before: int) -> None:
    """Wait until a subscription has replayed what it says that it replays."""
    await recorder.until(lambda _: len(recorder.frames) - before > told["replayed_events"])


async def test_a_subscription_goes_on_after_a_number(server: Server) -> None:
    async with recording(server.url) as recorder:
        await finished_in_silence(recorder, "nested")
        told = await recorder.subscribe()
        await settled(recorder, told, 0)
        whole = recorder.events
    for since in (0, whole[3]["seq"], whole[-2]["seq"], whole[-1]["seq"], whole[-1]["seq"] + 1_000):
        async with recording(server.url, recorder.thread_id) as later:
            told = await later.subscribe(since=since)
            await settled(later, told, 0)
            rest = [event for event in whole if event["seq"] > since]
            # A number from before the log was lost lies ahead of it: then all is replayed.
            assert later.events == (rest if since <= whole[-1]["seq"] else whole)


async def test_a_live_event_comes_once_however_many_subscriptions_it_matches(
    server: Server,
) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe("lifecycle", "values")
        await recorder.subscribe("lifecycle", "messages")
        await finished(recorder, "chat", HI)
        ids = [event["event_id"] for event in recorder.events]
        assert len(ids) == len(set(ids))


# --- commands --------------------------------------------------------------------------------


@covers("run.start", "subscription.subscribe")
async def test_what_a_run_applied_comes_before_its_first_event(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        for text in ("a", "b"):
            answer = await recorder.answer("run.start", assistant_id="chat", input=user(text))
            run_id, applied = answer["result"]["run_id"], answer["meta"]["applied_through_seq"]
            await recorder.end(run_id)
            own = [event["seq"] for event in recorder.events if event["seq"] > applied]
            (first,) = [
                event["seq"]
                for event in recorder.events
                if event["event_id"] == f"synth:{run_id}:lc||running"
            ]
            assert min(own) == first


@covers("subscription.unsubscribe")
async def test_after_unsubscribing_nothing_comes(server: Server) -> None:
    async with recording(server.url) as recorder:
        told = await recorder.subscribe("values")
        await recorder.subscribe("lifecycle")
        await recorder.command("subscription.unsubscribe", subscription_id=told["subscription_id"])
        await finished(recorder, "chat", HI)
        assert {event["method"] for event in recorder.events} == {"lifecycle"}
        code, text = await recorder.refused(
            "subscription.unsubscribe", subscription_id=told["subscription_id"]
        )
        assert code == "no_such_subscription"
        assert "subscription_id" in text


@covers("subscription.reconnect")
async def test_subscriptions_are_restored(server: Server) -> None:
    async with recording(server.url) as recorder:
        told = await recorder.subscribe("messages", "lifecycle")
        run_id = await finished(recorder, "chat", HI)
        seen = recorder.events
        before = len(recorder.frames)
        result = await recorder.command(
            "subscription.reconnect",
            run_id=run_id,
            last_event_id=seen[2]["event_id"],
            subscriptions=[told["subscription_id"]],
        )
        assert result["restored"] is True
        await recorder.until(lambda frame: frame == seen[-1], before)
        assert [frame for frame in recorder.frames[before:] if frame["type"] == "event"] == seen[3:]
        lost = await recorder.command(
            "subscription.reconnect", run_id=run_id, subscriptions=["nowhere"]
        )
        assert lost["restored"] is False


async def test_a_stream_goes_on_in_the_form_of_langgraph_platform(server: Server) -> None:
    async with recording(server.url) as recorder:
        await finished_in_silence(recorder, "chat")
        told = await recorder.subscribe()
        await settled(recorder, told, 0)
        whole = recorder.events
    async with recording(server.url, recorder.thread_id) as later:
        answer = await later.answer(
            "subscription.reconnect", channels=list(CHANNELS), since=whole[1]["seq"]
        )
        assert answer["type"] == "success"
        assert answer["result"]["restored"] is True
        await later.until(lambda frame: frame == whole[-1])
        assert later.events == whole[2:]


@covers("agent.getTree")
async def test_the_tree_has_the_agents_of_the_run(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe("lifecycle")
        run_id = await finished(recorder, "nested", HI)
        for params in ({}, {"run_id": run_id}):
            tree = (await recorder.command("agent.getTree", **params))["tree"]
            assert (tree["namespace"], tree["status"]) == ([], "completed")
            (research,) = tree["children"]
            (writer,) = research["children"]
            assert (research["graph_name"], writer["graph_name"]) == ("research", "writer")
        code, _ = await recorder.refused("agent.getTree", run_id=str(uuid4()))
        assert code == "no_such_run"


async def asked(recorder: Recorder, graph: str, given: Any, wanted: int = 1) -> list[Json]:
    """Start a run that asks; its questions, once it is interrupted."""
    run = await recorder.run(graph, given)
    assert await recorder.end(run["run_id"]) == "interrupted"
    found = [event for event in recorder.events if event["method"] == "input.requested"][-wanted:]
    assert len(found) == wanted
    return [
        event["params"]["data"] | {"namespace": event["params"]["namespace"]} for event in found
    ]


@covers("input.respond")
async def test_an_answer_resumes_the_run(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        (question,) = await asked(recorder, "ask", HI)
        assert question["payload"] == question["value"] == {"question": "Send hi?"}
        await recorder.command(
            "input.respond", namespace=[], interrupt_id=question["interrupt_id"], response="yes"
        )
        await recorder.until(ended("completed"))
        assert recorder.of("input.answered") == [{"interrupt_ids": [question["interrupt_id"]]}]
        assert said((await state_of(server, recorder))["values"]) == ["hi", "You said yes."]
        code, text = await recorder.refused(
            "input.respond", namespace=[], interrupt_id=question["interrupt_id"], response="no"
        )
        assert code == "no_such_interrupt"
        assert question["interrupt_id"] in text


def ended(how: str) -> Callable[[Json], bool]:
    return lambda frame: frame.get("event_id", "").endswith(f":lc||{how}")


async def test_several_answers_come_in_one_command(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        questions = await asked(recorder, "ask_twice", {"log": []}, 2)
        await recorder.command(
            "input.respond",
            responses=[
                {"namespace": [], "interrupt_id": each["interrupt_id"], "response": each["value"]}
                for each in questions
            ],
        )
        await recorder.until(ended("completed"))
        log = (await state_of(server, recorder))["values"]["log"]
        assert log == ["left=left", "right=right"]


async def test_an_update_comes_with_an_answer(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        (question,) = await asked(recorder, "ask", HI)
        note = {"messages": [{"role": "user", "content": "by the way"}]}
        await recorder.command(
            "input.respond",
            namespace=[],
            interrupt_id=question["interrupt_id"],
            response="yes",
            update=note,
        )
        await recorder.until(ended("completed"))
        assert said((await state_of(server, recorder))["values"]) == [
            *("hi", "by the way", "You said yes.")
        ]


async def test_an_answer_can_go_somewhere_else(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        (question,) = await asked(recorder, "ask_and_go", {"log": []})
        await recorder.command(
            "input.respond",
            namespace=[],
            interrupt_id=question["interrupt_id"],
            response="1",
            goto=["other", {"node": "other", "input": {"log": ["sent"]}}],
        )
        await recorder.until(ended("completed"))
        log = (await state_of(server, recorder))["values"]["log"]
        assert sorted(log) == ["asked=1", "other after 0", "other after 1"]


async def test_a_strict_answer_to_what_does_not_wait_is_refused(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        (question,) = await asked(recorder, "ask", HI)
        known = {"namespace": [], "interrupt_id": question["interrupt_id"], "response": "yes"}
        stale = {"namespace": [], "interrupt_id": "stale", "response": "yes"}
        code, text = await recorder.refused(
            "input.respond", responses=[known, stale], strict_resume=True
        )
        assert code == "no_such_interrupt"
        assert "stale" in text
        await recorder.command("input.respond", responses=[known])
        await recorder.until(ended("completed"))


@covers("input.inject")
async def test_an_injected_message_gets_a_run_after_the_active_one(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        run = await recorder.run("gated", user("slow"))
        await recorder.until(says(f"slow: {BEFORE}"))
        await recorder.command(
            "input.inject", namespace=[], message={"role": "user", "content": "injected"}
        )
        server.open(recorder.thread_id, "slow")
        assert await recorder.end(run["run_id"]) == "completed"
        await recorder.until(says("Quick answer to injected."))
        await recorder.until(ended("completed"), len(recorder.frames) - 1)
        assert said((await state_of(server, recorder))["values"]) == [
            *("slow", f"slow: {BEFORE}{AFTER}", "injected", "Quick answer to injected.")
        ]


def says(text: str) -> Callable[[Json], bool]:
    """Whether a frame is a delta with this text, or the end of a block with it."""

    def wanted(frame: Json) -> bool:
        if frame.get("method") != "messages":
            return False
        data = frame["params"]["data"]
        part = data.get("delta") or data.get("content") or {}
        return bool(part.get("text") == text)

    return wanted


@covers("state.get", "state.listCheckpoints")
async def test_state_and_checkpoints_are_read(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe("lifecycle", "checkpoints")
        await finished(recorder, "steps", {"log": []})
        whole = await recorder.command("state.get", namespace=[])
        assert whole["values"] == {"log": ["one", "two", "three"], "total": 3}
        some = await recorder.command("state.get", namespace=[], keys=["total"])
        assert some["values"] == {"total": 3}
        ids = [data["id"] for data in recorder.of("checkpoints")]
        assert whole["checkpoint"]["id"] == ids[-1]
        listed = (await recorder.command("state.listCheckpoints"))["checkpoints"]
        assert [each["id"] for each in listed] == ids[::-1]
        two = await recorder.command("state.listCheckpoints", limit=2, before=ids[-1])
        assert [each["id"] for each in two["checkpoints"]] == [ids[-2], ids[-3]]


@covers("state.fork")
async def test_a_checkpoint_is_forked(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        await finished(recorder, "chat", user("a"))
        first = (await recorder.command("state.get", namespace=[]))["checkpoint"]["id"]
        await finished(recorder, "chat", user("b"))
        forked = await recorder.command("state.fork", checkpoint_id=first, input=user("c"))
        assert forked["thread_id"] == recorder.thread_id
        assert await recorder.end(forked["run_id"]) == "completed"
        assert said((await state_of(server, recorder))["values"]) == [
            *("a", "Turn 1: a", "c", "Turn 2: c")
        ]
        code, _ = await recorder.refused("state.fork", checkpoint_id=str(uuid4()))
        assert code == "no_such_checkpoint"


@pytest.mark.parametrize("key", ["multitask_strategy", "multitaskStrategy"])
@pytest.mark.parametrize("strategy", ["enqueue", "interrupt", "rollback", "reject"])
async def test_a_second_run_is_handled_as_it_says(key: str, strategy: str, server: Server) -> None:
    async with (
        recording(server.url) as watcher,
        recording(server.url, watcher.thread_id) as starter,
    ):
        await watcher.subscribe()
        first = (await starter.run("gated", user("slow")))["run_id"]
        await watcher.until(says(f"slow: {BEFORE}"))
        answer = await starter.answer(
            "run.start", assistant_id="gated", input=user("b"), **{key: strategy}
        )
        server.open(watcher.thread_id, "slow")
        if strategy == "reject":
            assert answer["type"] == "error"
        else:
            assert await watcher.end(answer["result"]["run_id"]) == "completed"
        assert await watcher.end(first) == (
            "completed" if strategy in ("enqueue", "reject") else "interrupted"
        )
        values = (await state_of(server, watcher))["values"]
        slow, quick = ["slow", f"slow: {BEFORE}{AFTER}"], ["b", "Quick answer to b."]
        assert (
            said(values)
            == {
                "enqueue": slow + quick,
                "interrupt": ["slow", *quick],
                "rollback": quick,
                "reject": slow,
            }[strategy]
        )


# --- what clients take for the present -------------------------------------------------------


async def test_the_watcher_of_a_run_that_was_short_is_told_of_its_end(server: Server) -> None:
    """The Python client opens its watcher after it has started a run."""
    async with recording(server.url) as recorder:
        url = f"{server.url}/threads/{recorder.thread_id}"
        given = {"assistant_id": "chat", "input": HI}
        started = await post(f"{url}/commands", {"id": 1, "method": "run.start", "params": given})
        run_id = started["result"]["run_id"]
        while (await get(f"{url}/runs/{run_id}"))["status"] != "success":
            pass
        async with recording(server.url, recorder.thread_id) as reader:  # the same client's
            await reader.subscribe("messages", "lifecycle", since=0)
            await reader.end(run_id)
        await recorder.subscribe("lifecycle", "input")
        assert await recorder.end(run_id) == "completed"
    async with recording(server.url, recorder.thread_id) as next_one:
        told = await next_one.subscribe("lifecycle", "input")
        assert told["replayed_events"] == 1, "an end that was told is not that of the next run"
        second = await finished(next_one, "chat", HI)
        ends = [data["event"] for data in next_one.of("lifecycle")]
        assert ends == ["running", "running", "completed"], second


async def test_the_end_of_a_run_comes_after_what_it_said(server: Server) -> None:
    """The JavaScript client subscribes to the end first, and to the rest right after."""
    async with recording(server.url) as recorder:
        run_id = (await recorder.run("chat", HI))["run_id"]
        url = f"{server.url}/threads/{recorder.thread_id}/runs/{run_id}"
        while (await get(url))["status"] != "success":
            pass
        await recorder.subscribe("lifecycle", "input")
        await recorder.subscribe("values", "messages", "lifecycle", "input")
        assert await recorder.end(run_id) == "completed"
        assert recorder.events[-1]["event_id"] == f"synth:{run_id}:lc||completed"
        assert {event["method"] for event in recorder.events} >= {"values", "messages"}


async def test_an_end_that_is_all_a_client_wants_comes_a_moment_later(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe("lifecycle", "input")
        await finished(recorder, "chat", HI)


async def test_an_event_stream_begins_with_the_latest_run(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        first = await finished(recorder, "chat", HI)
        second = await finished(recorder, "chat", HI)
        url = f"{server.url}/threads/{recorder.thread_id}/stream/events"
        body = {"channels": ["lifecycle", "values"]}
        read: list[Json] = []
        async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:
            while not read or not read[-1]["event_id"].endswith(f"{second}:lc||completed"):
                read.append(json.loads((await server_sent(answer))["data"]))
        assert [event["event_id"] for event in read if first in event["event_id"]] == []
        assert {event["run_id"] for event in read} == {first, second}, "what it said is there"


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "code", "field"),
    [
        ("run.start", {"input": HI}, "invalid_argument", "assistant_id"),
        ("run.start", {"assistant_id": "", "input": HI}, "invalid_argument", "assistant_id"),
        ("run.start", {"assistant_id": "nowhere"}, "invalid_argument", "assistant_id"),
        ("run.start", {"assistant_id": "chat", "config": 7}, "invalid_argument", "config"),
        (
            "run.start",
            {"assistant_id": "chat", "input": HI, "multitask_strategy": "maybe"},
            "invalid_argument",
            "multitask_strategy",
        ),
        ("subscription.subscribe", {}, "invalid_argument", "channels"),
        ("subscription.subscribe", {"channels": ["debug"]}, "invalid_argument", "channels"),
        ("subscription.subscribe", {"channels": ["custom:"]}, "invalid_argument", "channels"),
        ("subscription.subscribe", {"channels": "values"}, "invalid_argument", "channels"),
        (
            "subscription.subscribe",
            {"channels": ["values"], "namespaces": ["a"]},
            "invalid_argument",
            "namespaces",
        ),
        (
            "subscription.subscribe",
            {"channels": ["values"], "depth": -1},
            "invalid_argument",
            "depth",
        ),
        (
            "subscription.subscribe",
            {"channels": ["values"], "since": "1"},
            "invalid_argument",
            "since",
        ),
        ("subscription.unsubscribe", {}, "invalid_argument", "subscription_id"),
        ("input.respond", {"namespace": []}, "invalid_argument", "interrupt_id"),
        ("input.respond", {"responses": []}, "invalid_argument", "responses"),
        ("input.inject", {"namespace": []}, "invalid_argument", "message"),
        ("state.fork", {}, "invalid_argument", "checkpoint_id"),
        ("state.listCheckpoints", {"limit": 0}, "invalid_argument", "limit"),
        ("no.such.command", {}, "unknown_command", "no.such.command"),
        (
            "input.respond",
            {"namespace": [], "interrupt_id": "x", "response": 1},
            "no_such_run",
            "",
        ),
        ("agent.getTree", {}, "no_such_run", ""),
    ],
)
async def test_a_wrong_command_is_refused_with_the_name_of_what_is_wrong(
    method: str, params: Json, code: str, field: str, server: Server
) -> None:
    async with recording(server.url) as recorder:
        told, text = await recorder.refused(method, **params)
        assert told == code
        assert field in text
        body = {"id": 7, "method": method, "params": params}
        if not method.startswith("subscription."):
            url = f"{server.url}/threads/{recorder.thread_id}/commands"
            answer = await post(url, body)
            expected = {"type": "error", "id": 7, "error": told, "message": text}
            assert answer == answer | expected


@pytest.mark.parametrize(
    ("frame", "number"),
    [
        ("{", None),
        ("[]", None),
        ("7", None),
        ('{"method": "agent.getTree"}', None),
        ('{"id": true, "method": "agent.getTree"}', None),
        ('{"id": -1, "method": "agent.getTree"}', None),
        ('{"id": "1", "method": "agent.getTree"}', None),
        ('{"id": 1000}', 1000),
        ('{"id": 1000, "method": 7}', 1000),
        ('{"id": 1000, "method": "state.get", "params": []}', 1000),
    ],
)
async def test_a_broken_frame_is_answered_and_the_connection_lives_on(
    frame: str, number: int | None, server: Server
) -> None:
    async with recording(server.url) as recorder:
        await recorder.send_text(frame)
        answer = await recorder.until(lambda _: True)
        assert (answer["type"], answer["id"]) == ("error", number)
        assert answer["error"] in ("invalid_argument", "unknown_command")
        await recorder.subscribe("lifecycle")
        await finished(recorder, "chat", HI)


async def test_a_binary_frame_is_read_like_a_text(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.send_bytes(b'{"id": 1, "method": "no.such.command"}')
        answer = await recorder.until(lambda frame: frame.get("id") == 1)
        assert answer["error"] == "unknown_command"
        await recorder.send_bytes(b"\xff\xfe")
        answer = await recorder.until(lambda frame: frame["id"] is None)
        assert answer["error"] == "invalid_argument"


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b'{"method": "agent.getTree"}', b'{"id": 1}']
)
async def test_a_broken_body_is_a_bad_request(body: bytes, server: Server) -> None:
    url = f"{server.url}/threads/{uuid4()}/commands"
    async with aiohttp.ClientSession() as http, http.post(url, data=body) as answer:
        assert answer.status == 400
        assert await answer.json()


# --- over HTTP -------------------------------------------------------------------------------


async def test_an_event_stream_has_the_same_events(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        await finished(recorder, "nested", HI)
        url = f"{server.url}/threads/{recorder.thread_id}/stream/events"
        for since in (None, recorder.events[4]["seq"]):
            expected = [event for event in recorder.events if event["seq"] > (since or 0)]
            body: Json = {"channels": list(CHANNELS)} | ({} if since is None else {"since": since})
            async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:
                assert answer.content_type == "text/event-stream"
                read = [await server_sent(answer) for _ in expected]
            assert [json.loads(each["data"]) for each in read] == expected
            assert [each["event"] for each in read] == [each["method"] for each in expected]
            assert [each["id"] for each in read] == [str(each["seq"]) for each in expected]


async def server_sent(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The fields of the next event of a stream."""
    fields: dict[str, str] = {}
    while (line := (await answer.content.readline()).decode().rstrip("\r\n")) or not fields:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
    return fields


async def test_a_wrong_event_stream_is_refused(server: Server) -> None:
    url = f"{server.url}/threads/{uuid4()}/stream/events"
    for body in (
        {"channels": ["debug"]},
        {"channels": []},
        {},
        {"channels": ["values"], "depth": -1},
    ):
        assert "detail" in await post(url, body, 400)


async def test_state_has_what_clients_read(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        (question,) = await asked(recorder, "ask_below", HI)
        state = await state_of(server, recorder)
        assert state["next"] == ["below"]
        (task,) = state["tasks"]
        assert task["name"] == "below"
        assert task["interrupts"][0]["id"] == question["interrupt_id"]
        assert task["interrupts"][0]["value"] == "From below?"
        assert state["interrupts"] == task["interrupts"]
        namespace = "|".join(question["namespace"])
        assert task["checkpoint"]["checkpoint_ns"] == namespace
        assert state["checkpoint"]["checkpoint_id"] == state["checkpoint_id"]
        assert state["parent_checkpoint"]["checkpoint_id"] == state["parent_checkpoint_id"]
        assert state["metadata"]["step"] == 0
        history = await post(f"{server.url}/threads/{recorder.thread_id}/history", {"limit": 10})
        assert history[0]["checkpoint"] == state["checkpoint"]
        assert [each["metadata"]["step"] for each in history] == [0, -1]
        older = await post(
            f"{server.url}/threads/{recorder.thread_id}/history",
            {"limit": 1, "before": state["checkpoint"]},
        )
        assert older == history[1:]


async def test_runs_are_told_of(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe("lifecycle", "messages")
        run_id = (await recorder.run("gated", user("slow")))["run_id"]
        await recorder.until(says(f"slow: {BEFORE}"))
        url = f"{server.url}/threads/{recorder.thread_id}/runs"
        run = await get(f"{url}/{run_id}")
        assert (run["run_id"], run["thread_id"]) == (run_id, recorder.thread_id)
        assert (run["assistant_id"], run["status"]) == ("gated", "running")
        assert [each["run_id"] for each in await get(url)] == [run_id]
        server.open(recorder.thread_id, "slow")
        await recorder.end(run_id)
        assert (await get(f"{url}/{run_id}"))["status"] == "success"
        assert "detail" in await get(f"{url}/{uuid4()}", 404)


async def test_a_cancel_is_answered_when_the_run_has_ended(server: Server) -> None:
    async with recording(server.url) as recorder:
        await recorder.subscribe()
        run_id = (await recorder.run("gated", user("slow")))["run_id"]
        await recorder.until(says(f"slow: {BEFORE}"))
        url = f"{server.url}/threads/{recorder.thread_id}/runs/{run_id}/cancel"
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{url}?wait=0&action=interrupt") as answer:
                assert (answer.status, await answer.read()) == (202, b"")
            assert recorder.rules._ended == {run_id}
        assert [data["event"] for data in recorder.of("lifecycle")] == ["running", "interrupted"]
        assert recorder.of("messages")[-1]["event"] == "error"


async def test_a_large_input_is_taken(server: Server) -> None:
    text = "y" * 1_500_000  # more than the `client_max_size` of the application
    url = f"{server.url}/threads/{uuid4()}/commands"
    body = {"id": 1, "method": "run.start", "params": {"assistant_id": "chat", "input": user(text)}}
    data = io.BytesIO(json.dumps(body).encode())
    async with aiohttp.ClientSession() as http, http.post(url, data=data) as answer:
        assert (answer.status, (await answer.json())["type"]) == (200, "success")


async def test_pages_of_other_origins_are_refused(server: Server) -> None:
    headers = {"Origin": "https://evil.example"}
    url = f"{server.url}/threads/{uuid4()}"
    async with aiohttp.ClientSession(headers=headers) as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{url}/stream/events")
        assert refused.value.status == 403
        async with http.get(f"{url}/state") as answer:
            assert answer.status == 403
        async with http.post(f"{url}/commands", json={"id": 1, "method": "x"}) as answer:
            assert answer.status == 403


# --- slow consumers --------------------------------------------------------------------------


async def test_a_consumer_that_does_not_read_costs_the_others_nothing(server: Server) -> None:
    async with recording(server.url) as recorder:
        path = f"/agent/threads/{recorder.thread_id}/stream/events"
        slow = await RawClient.connect(server.port, path, receive_buffer=4096)
        try:
            subscribe = {"channels": list(CHANNELS)}
            await slow.send({"id": 1, "method": "subscription.subscribe", "params": subscribe})
            await recorder.subscribe()
            await finished(recorder, "flood", HI)
            # It gets everything in the end, or is closed and sees everything when it comes back.
            seen: list[Json] = []
            rules = Rules()
            while not seen or seen[-1]["event_id"] != recorder.events[-1]["event_id"]:
                event = await slow.receive("event")
                rules.check(event)
                seen.append(event)
            assert not rules.broken
            assert seen == recorder.events
        finally:
            slow.close()
