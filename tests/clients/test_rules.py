"""The rules find what is wrong: a frame for each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.rules import Json, Rules, malformed


def event(seq: int, method: str, data: Json, **more: Any) -> Json:
    params = {"namespace": [], "timestamp": 1, "data": data, "node": "model"} | more
    return {
        "type": "event", "event_id": f"e-{seq}", "seq": seq, "method": method, "params": params,
    }  # fmt: skip


def said(seq: int, name: str, **data: Any) -> Json:
    return event(seq, "messages", {"event": name, "id": "m", "run_id": "r"} | data)


def root(seq: int, name: str) -> Json:
    return event(seq, "lifecycle", {"event": name}) | {"event_id": f"synth:r:lc||{name}"}


def text(value: str) -> Json:
    return {"type": "text", "text": value}


RUN = [
    root(1, "running"),
    said(2, "message-start", role="ai"),
    said(3, "content-block-start", index=0, content=text("")),
    said(4, "content-block-delta", index=0, delta={"type": "text-delta", "text": "hi"}),
    said(5, "content-block-finish", index=0, content=text("hi")),
    said(6, "message-finish"),
    event(7, "tools", {"event": "tool-started", "tool_call_id": "c", "tool_name": "t"}),
    event(8, "tools", {"event": "tool-finished", "tool_call_id": "c", "output": 1}),
    root(9, "completed"),
]


def broken(frames: list[Json]) -> list[str]:
    rules = Rules()
    for frame in frames:
        rules.check(frame)
    return rules.broken


def test_a_run_breaks_no_rule() -> None:
    assert broken(RUN) == []


def test_the_same_again_is_a_replay() -> None:
    assert broken(RUN + copy.deepcopy(RUN)) == []


def without(*places: int) -> Callable[[list[Json]], list[Json]]:
    return lambda frames: [frame for place, frame in enumerate(frames) if place not in places]


def changed(place: int, path: str, value: Any) -> Callable[[list[Json]], list[Json]]:
    def change(frames: list[Json]) -> list[Json]:
        *above, last = path.split(".")
        target = frames[place]
        for name in above:
            target = target[name]
        target[last] = value
        return frames

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (changed(3, "seq", 3), "seq 3 is that of"),
        (changed(3, "seq", 0), "seq 0 after 3"),
        (changed(3, "event_id", ""), "without seq or event_id"),
        (changed(3, "event_id", "synth:x"), "take for that of a run"),
        (changed(3, "params.timestamp", 1.5), "not an integer"),
        (changed(3, "params.namespace", [1]), "namespace"),
        (changed(3, "method", "debug"), "method: 'debug'"),
        (changed(3, "type", "hello"), "type: 'hello'"),
        (changed(3, "params.data.delta.text", "ho"), "a block that said 'ho'"),
        (changed(3, "params.data.delta", {"type": "tool-call-delta", "args": ""}), "1.11"),
        (changed(3, "params.data.index", 1), "block 1, which is not open"),
        (changed(3, "params.data.id", "n"), "a message that is not open"),
        (changed(4, "params.data.event", "content-block-start"), "block 0 starts while block 0"),
        (changed(3, "params.data.id", None), "without id"),
        (without(1), "a message that is not open"),
        (without(4), "finishes with block 0 open"),
        (without(5), "the end of a run while ['m'] are open"),
        (without(6), "a tool call that is not running"),
        (changed(7, "params.data.event", "tool-started"), "params.data"),
        (changed(8, "event_id", "e-9"), "does not tell its run"),
        (lambda frames: [*frames, root(10, "failed")], "a run that has ended"),
        (
            lambda frames: [*frames, copy.deepcopy(frames[2]) | {"seq": 99}],
            "a replay that differs",
        ),
    ],
)
def test_a_broken_rule_is_found(change: Callable[[list[Json]], list[Json]], problem: str) -> None:
    found = broken(change(copy.deepcopy(RUN)))
    assert any(problem in text for text in found), found


def test_an_answer_needs_an_id() -> None:
    assert malformed({"type": "success", "result": {}})
    assert malformed({"type": "error", "id": 1, "error": "no_such_thing", "message": ""})
    assert not malformed({"type": "error", "id": None, "error": "unknown_error", "message": ""})
