"""Golden transcripts: what they leave out, what they find, and when they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

from langgraph_ws.frames import BlockDelta, Custom, RunFinished, RunStarted, StepFinished
from langgraph_ws.testing import assert_transcript, record
from langgraph_ws.transcripts import UPDATE
from tests.chat_story import FIRST_RUN
from tests.graphs import HELLO, chat


@pytest.fixture(autouse=True)
def _compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(UPDATE, raising=False)


def written(path: Path, messages: Any, **options: Any) -> list[Any]:
    """What a transcript of the messages has in it."""
    with pytest.raises(AssertionError, match="did not exist and was written"):
        assert_transcript(messages, path, **options)
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "run.jsonl"


def said(kind: str, data: Any, seq: int = 1, **more: Any) -> dict[str, Any]:
    return {"type": kind, "run_id": "r-1", "seq": seq, **more, "data": data}


# writing and comparing


def test_missing_file_is_written_and_fails_once(path: Path) -> None:
    messages = [said("end", {"status": "completed"})]
    assert written(path, messages) == [
        {"type": "end", "run_id": "r-1", "data": {"status": "completed"}}
    ]
    assert_transcript(messages, path)
    assert_transcript(iter(messages), str(path))


def test_update_writes_and_does_not_fail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UPDATE, "1")
    assert_transcript([said("end", {"status": "completed"})], path)
    assert_transcript([said("end", {"status": "failed"})], path)
    monkeypatch.setenv(UPDATE, "0")
    assert_transcript([said("end", {"status": "failed"})], path)
    with pytest.raises(AssertionError):
        assert_transcript([said("end", {"status": "completed"})], path)


def test_difference_is_shown_with_its_field(path: Path) -> None:
    steps = [said("workflow_step", {"step": f"step {n}", "status": "started"}) for n in range(9)]
    long = "a" * 500
    written(path, [*steps, said("text", {"message_id": "m", "index": 0, "text": f"{long} old"})])
    new = said("text", {"message_id": "m", "index": 1, "text": f"{long} new", "node": "n"})
    with pytest.raises(AssertionError) as raised:
        assert_transcript([*steps, new], path)
    lines = str(raised.value).splitlines()
    assert str(path) in lines[0]
    assert "step 8" in str(raised.value)
    assert "step 2" not in str(raised.value)
    assert [line[0] for line in lines if line[0] in "+-"] == ["-", "+"]
    assert "    data.index: 0 became 1" in lines
    assert "    data.node: nothing became 'n'" in lines
    [text] = [line for line in lines if "data.text" in line]
    assert "aa old' became" in text
    assert text.endswith("aa new'")
    assert len(text) < 100
    assert UPDATE in lines[-1]


@pytest.mark.parametrize(
    ("was", "came", "shown"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "data.a.1.b: 2 became 3"),
        ({"a": [1]}, {"a": [1, 2]}, "data.a: [1] became [1, 2]"),
        ({"a": 1}, {}, "data.a: 1 became nothing"),
        ({"a": "yes"}, {"a": 1}, "data.a: 'yes' became 1"),
        ({"a": "x" * 500}, {"a": None}, "… became None"),
    ],
)
def test_field_that_differs(path: Path, was: Any, came: Any, shown: str) -> None:
    written(path, [said("mine", was)])
    with pytest.raises(AssertionError) as raised:
        assert_transcript([said("mine", came)], path)
    assert shown in str(raised.value)


def test_message_too_many_and_too_few(path: Path) -> None:
    one, other = said("one", 1), said("other", 2)
    written(path, [one, other])
    for messages, mark in (([one], "-"), ([one, other, other], "+")):
        with pytest.raises(AssertionError) as raised:
            assert_transcript(messages, path)
        assert [it[0] for it in str(raised.value).splitlines() if it[0] in "+-"] == [mark]


def test_exact_compares_positions_too(path: Path) -> None:
    written(path, [said("mine", 1, seq=1)], exact=True)
    assert_transcript([orjson.dumps(said("mine", 1, seq=1))], path, exact=True)
    with pytest.raises(AssertionError, match="seq: 1 became 2"):
        assert_transcript([said("mine", 1, seq=2)], path, exact=True)


def test_order_of_fields_matters_only_to_the_byte(path: Path) -> None:
    written(path, [said("mine", {"a": 1, "b": 2})], exact=True)
    with pytest.raises(AssertionError, match="says something else"):
        assert_transcript([said("mine", {"b": 2, "a": 1})], path, exact=True)
    written(path.with_name("other"), [said("mine", {"a": 1, "b": 2})])
    assert_transcript([said("mine", {"b": 2, "a": 1})], path.with_name("other"))


def test_file_that_somebody_broke(path: Path) -> None:
    written(path, [said("mine", 1)])
    path.write_text("<<<<<<< ours\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="- <<<<<<< ours"):
        assert_transcript([said("mine", 1)], path)


# what is left out


def a_run(thread: str = "", *, pieces: int = 1) -> list[dict[str, Any]]:
    """The messages of a run that say the same each time, under other ids, at other times."""
    run, task, message, thread = (str(uuid4()), str(uuid4()), uuid4().hex, thread or str(uuid4()))
    checkpoint, interrupt, seq = str(uuid4()), uuid4().hex, pieces * 7
    words = "So it is, and so it was"
    texts = [words[: len(words) * n // pieces] for n in range(1, pieces + 1)]
    there = {"node": "n", "namespace": [f"sub:{task}"], "task_id": task}
    return [
        said(
            "run",
            {"thread_id": thread, "run_id": run, "epoch": f"{uuid4().hex}-1", "head": seq},
            seq,
        )
        | {"run_id": run},
        *(said("text", {"message_id": message, "index": 0, "text": it, **there}) for it in texts),
        said("workflow_step", {"step": "n", "task_id": task, "duration_ms": pieces}),
        said("state", {"values": {"id": message, "other": str(uuid4()), "time": 5}}),
        said("checkpoint", {"checkpoint_id": checkpoint, "parent_id": None}),
        said("interrupt", {"id": interrupt, "value": f"{interrupt}?", "ordinal": 0}),
        said("interrupt_answered", {"ids": [interrupt], "superseded": False}),
        said("progress", {"time": 5, "seq": 6, "task_id": "free"}),
        {"type": "heartbeat", "data": {"time": 7, "threads": {thread: {"epoch": "e", "head": 9}}}},
        {
            "type": "snapshot",
            "data": {
                "thread_id": thread,
                "seq": 4,
                "run": {"run_id": run, "status": "running"},
                "messages": [{"message_id": message, "time": 7}],
                "open": [],
                "interrupts": [{"id": interrupt}],
                "sources": [{"id": "stays"}],
            },
        },
    ]


def test_ids_times_and_positions_do_not_matter(path: Path) -> None:
    run, text, step, state, checkpoint, interrupt, answered, progress, heartbeat, snapshot = (
        written(path, a_run())
    )
    assert run["run_id"] == "run-1"
    assert run["data"] == {"thread_id": "thread-1", "run_id": "run-1", "epoch": "epoch-1"}
    assert text["data"] == {
        "message_id": "message-1",
        "index": 0,
        "text": "So it is, and so it was",
        "node": "n",
        "namespace": ["sub:task-1"],
        "task_id": "task-1",
    }
    assert step["data"] == {"step": "n", "task_id": "task-1"}
    assert state["data"] == {"values": {"id": "message-1", "other": "id-1", "time": 5}}
    assert checkpoint["data"] == {"checkpoint_id": "checkpoint-1", "parent_id": None}
    assert interrupt["data"] == {"id": "interrupt-1", "value": "interrupt-1?", "ordinal": 0}
    assert answered["data"] == {"ids": ["interrupt-1"], "superseded": False}
    assert progress["data"] == {"time": 5, "seq": 6, "task_id": "free"}
    assert heartbeat["data"] == {"threads": {"thread-1": {"epoch": "e"}}}
    assert snapshot["data"]["run"] == {"run_id": "run-1", "status": "running"}
    assert snapshot["data"]["messages"] == [{"message_id": "message-1"}]
    assert snapshot["data"]["interrupts"] == [{"id": "interrupt-1"}]
    assert snapshot["data"]["sources"] == [{"id": "stays"}]
    for pieces in (1, 2, 5):
        assert_transcript(a_run(pieces=pieces), path)
    with pytest.raises(AssertionError, match="'thread-1' became 't-1'"):
        assert_transcript(a_run("t-1"), path)


def test_the_ids_of_requests_do_not_matter(path: Path) -> None:
    def answered(*ids: str | int) -> list[dict[str, Any]]:
        return [{"type": "pong", "request_id": one, "data": {"time": 1, "x": "1"}} for one in ids]

    lines = written(path, answered(1, "b", 1))
    assert [line["request_id"] for line in lines] == ["request-1", "request-2", "request-1"]
    assert lines[0]["data"] == {"x": "1"}
    assert_transcript(answered("new_chat-3", 4, "new_chat-3"), path)
    with pytest.raises(AssertionError, match="request_id"):
        assert_transcript(answered(1, 2, 2), path)


def test_more_fields_are_left_out_when_told_to(path: Path) -> None:
    def messages(at: str) -> list[Any]:
        return [said("mine", {"created_at": at, "rows": [{"created_at": at, "n": 1}]})]

    [mine] = written(path, messages("noon"), ignore=["created_at"])
    assert mine["data"] == {"rows": [{"n": 1}]}
    assert_transcript(messages("midnight"), path, ignore=["created_at"])


def deltas(*parts: str, kind: str = "text", **more: Any) -> list[dict[str, Any]]:
    offsets = [sum(map(len, parts[:number])) for number in range(len(parts))]
    return [
        said(
            kind,
            {"message_id": "m", "index": 0, **more, "delta": part, "offset": offset},
            seq=offset + 1,
        )
        for part, offset in zip(parts, offsets, strict=True)
    ]


@pytest.mark.parametrize("kind", ["text", "reasoning", "tool_call"])
def test_deltas_become_one(path: Path, kind: str) -> None:
    more = {"status": "arguments"} if kind == "tool_call" else {}
    end = said("end", {"status": "completed"})
    [delta, _] = written(path, [*deltas("a ", "b", kind=kind, **more), end])
    assert (delta["data"]["delta"], delta["data"]["offset"]) == ("a b", 0)
    assert_transcript([*deltas("a", " ", "b", kind=kind, **more), end], path)
    with pytest.raises(AssertionError, match="'a b' became 'a b!'"):
        assert_transcript([*deltas("a b", "!", kind=kind, **more), end], path)


def test_other_messages_of_a_tool_call_stay_apart(path: Path) -> None:
    call = {"message_id": "m", "index": 0}
    messages = [
        said("tool_call", call | {"status": "started", "name": "f"}),
        said("tool_call", call | {"status": "finished", "args": {}}),
    ]
    assert len(written(path, messages)) == 2


def test_frames_are_encoded_without_what_is_empty(path: Path) -> None:
    frames = [
        RunStarted(thread_id="t-1", run_id=uuid4().hex, graph="g"),
        BlockDelta(message_id="m", index=0, kind="text", text="one", offset=0),
        BlockDelta(message_id="m", index=0, kind="text", text=" two", offset=3),
        StepFinished(task_id=str(uuid4()), node="n", duration_ms=4),
        Custom(name="x", data={"seq": 1}),
        RunFinished(status="completed"),
    ]
    assert written(path, frames) == [
        {"frame": "RunStarted", "thread_id": "t-1", "run_id": "run-1", "graph": "g", "attempt": 1},
        {
            "frame": "BlockDelta",
            "message_id": "m",
            "index": 0,
            "kind": "text",
            "text": "one two",
            "offset": 0,
        },
        {"frame": "StepFinished", "task_id": "task-1", "node": "n", "status": "finished"},
        {"frame": "Custom", "name": "x", "data": {"seq": 1}},
        {"frame": "RunFinished", "status": "completed"},
    ]


async def test_two_recordings_of_a_graph_are_alike(path: Path) -> None:
    graph = chat("Hello there", "Hello there")
    written(path, await record(graph, HELLO))
    assert_transcript(await record(graph, HELLO), path)


def test_all_frames_can_be_written(path: Path) -> None:
    frames = [frame for frame in FIRST_RUN if not isinstance(frame, BlockDelta)]
    assert len(written(path, frames)) == len(frames)
