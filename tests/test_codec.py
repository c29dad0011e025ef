"""Anything becomes plain JSON, and every frame survives the way there and back."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, deque, namedtuple
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel, Field, SecretStr

from langgraph_ws.codec import (
    decode_frame,
    dumps,
    dumps_frame,
    encode_frame,
    loads,
    message_json,
    plain,
)
from langgraph_ws.frames import FRAMES, BlockDelta, RunResult, RunStarted, Source, Sources


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Weird(Enum):
    PAIR = (1, frozenset({2}))


class Text(str):
    __slots__ = ()


class Ratio(float):
    pass


class Person(BaseModel):
    name: str
    password: SecretStr = SecretStr("hunter2")
    token: str = Field(default="secret", exclude=True)


class Open(BaseModel, extra="allow"):
    known: int = 1


@dataclass
class Point:
    x: int
    tags: set[str]


Pair = namedtuple("Pair", "left right")


class Nobody:
    def __repr__(self) -> str:
        return "Nobody(password='hunter2')"


class Scalar:
    """As NumPy's: a number that JSON libraries do not take for one."""

    dtype, ndim = "float32", 0

    def item(self) -> float:
        return 1.5


class Explosive:
    dtype, ndim = "float32", 0

    def item(self) -> float:
        raise RuntimeError("boom")


class Broken(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Any:
        raise RuntimeError("boom")

    def __len__(self) -> int:
        return 1


class Odd(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def dst(self, when: datetime | None) -> None:
        return None


IDENTITY = UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        ("text ü 漢 😀", "text ü 漢 😀"),
        (b"\x00\xff", "AP8="),
        (bytearray(b"hi"), "aGk="),
        (memoryview(b"hi"), "aGk="),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (datetime(2026, 1, 2, 3, 4, tzinfo=Odd()), "2026-01-02T03:04:00+01:00"),
        (timedelta(minutes=1), 60.0),
        (Decimal("1.10"), "1.10"),
        (IDENTITY, str(IDENTITY)),
        (math.nan, None),
        (-math.inf, None),
        ({"x": math.inf}, {"x": None}),
        (2**53 - 1, 2**53 - 1),
        (2**53, str(2**53)),
        (-(2**70), str(-(2**70))),
        ([2**70, math.nan, 1], [str(2**70), None, 1]),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Weird.PAIR, [1, [2]]),
        ((1, (2, 3)), [1, [2, 3]]),
        ({1}, [1]),
        (frozenset({"a"}), ["a"]),
        (deque([1, 2]), [1, 2]),
        (Pair(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        ({"a": 1}.keys(), ["a"]),
        (Text("sub"), "sub"),
        (Ratio(0.5), 0.5),
        ([Ratio(0.5), 2**70], [0.5, str(2**70)]),
        ({"k": Text("sub"), "big": 2**70}, {"k": "sub", "big": str(2**70)}),
        (Point(1, {"a"}), {"x": 1, "tags": ["a"]}),
        ([Point(2**70, {"a"})], [{"x": str(2**70), "tags": ["a"]}]),
        (Open(known=1, more="x"), {"known": 1, "more": "x"}),  # type: ignore[call-arg]
        (Scalar(), 1.5),
        (Explosive(), {"type": "tests.test_codec.Explosive"}),
        (Broken(), {"type": "tests.test_codec.Broken"}),
        (Nobody(), {"type": "tests.test_codec.Nobody"}),
        (ValueError("secret"), {"type": "builtins.ValueError"}),
        ({1: "int", False: "f"}, {"1": "int", "false": "f"}),
        ({None: 1, 2.5: 2, IDENTITY: 3}, {"null": 1, "2.5": 2, str(IDENTITY): 3}),
        ({(1, "a"): "tuple"}, {'[1,"a"]': "tuple"}),
        ({b"k": 1, 2**70: 2}, {"aw==": 1, str(2**70): 2}),
        ({Color.RED: 1, (1,): 2}, {"red": 1, "[1]": 2}),
        ("a\ud800b", "a?b"),
        ({"k\ud800": ["\udfff"]}, {"k?": ["?"]}),
    ],
)
def test_plain_makes_json_of(value: Any, expected: Any) -> None:
    made = plain(value)
    assert made == expected
    assert json.loads(dumps(made)) == expected


def test_plain_shows_of_a_model_what_the_model_shows() -> None:
    assert plain(Person(name="Ada")) == {
        "name": "Ada",
        "password": {"type": "pydantic.types.SecretStr"},
    }


def test_plain_shares_nothing_with_the_value() -> None:
    value = {"list": [1], "model": Open()}
    made = plain(value)
    value["list"].append(2)  # type: ignore[union-attr]
    assert made == {"list": [1], "model": {"known": 1}}


def test_plain_of_what_holds_itself_ends() -> None:
    twice: dict[str, Any] = {"n": 1}
    twice["left"] = twice["right"] = twice
    assert plain(twice) == {"n": 1, "left": None, "right": None}
    loop: list[Any] = []
    loop.append(loop)
    assert plain(loop) == [None]


@pytest.mark.parametrize("depth", [50, 150, 300, 5000])
def test_plain_of_deep_nesting_can_be_encoded(depth: int) -> None:
    value: Any = "bottom"
    for _ in range(depth):
        value = {"down": [value]}
    encoded = dumps(plain(value))
    assert loads(encoded)["down"]
    assert (b"bottom" in encoded) is (depth == 50)


def test_dumps_cuts_what_is_too_deep_instead_of_failing() -> None:
    value: Any = 1
    for _ in range(2000):
        value = [value]
    assert loads(dumps(value))


def test_dumps_is_strict_json() -> None:
    assert dumps({"a": math.nan, "b": 2**60, "c": "\ud800"}) == (
        b'{"a":null,"b":"1152921504606846976","c":"?"}'
    )


def test_loads_refuses_what_is_not_json() -> None:
    for text in ("{", "NaN", b"\xff", "[" * 2000 + "]" * 2000):
        with pytest.raises(ValueError):
            loads(text)


def test_messages_and_documents_are_objects() -> None:
    assert message_json(HumanMessage("hi", id="1"))["type"] == "human"
    told = message_json(ToolMessage("x", tool_call_id="c", artifact=Nobody()))
    assert told["artifact"] == {"type": "tests.test_codec.Nobody"}
    assert plain(AIMessage("a", tool_calls=[{"name": "t", "args": {}, "id": "c"}]))["tool_calls"]
    assert plain(Document("text", metadata={"n": 1}))["metadata"] == {"n": 1}


trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.datetimes()
    | st.uuids(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(trees)
def test_plain_of_anything_is_strict_json_and_stays_what_it_is(value: Any) -> None:
    once = plain(value)
    assert json.loads(json.dumps(once, allow_nan=False)) == once
    assert plain(once) == once
    assert loads(dumps(once)) == once


_SAMPLES: dict[str, Any] = {
    "str": "text",
    "int": 3,
    "bool": True,
    "Any": {"any": [1]},
    "Namespace": ("a:1", "b:2"),
    "Json": {"type": "text", "text": "x"},
    "Role": "assistant",
    "BlockKind": "text",
    "StepStatus": "failed",
    "RunStatus": "completed",
}


def sample(annotation: str) -> Any:
    name = annotation.removesuffix(" | None")
    if name.startswith("Literal["):
        return name[len("Literal[") :].split(",")[0].strip("'\"]")
    if name.startswith("tuple["):
        inner = name[len("tuple[") :].split(",")[0]
        return (Source(id="s", title="T", url="http://x") if inner == "Source" else sample(inner),)
    return _SAMPLES[name]


@pytest.mark.parametrize("kind", FRAMES, ids=lambda kind: kind.__name__)
def test_a_frame_comes_back_as_it_was(kind: type[Any]) -> None:
    full = kind(**{field.name: sample(str(field.type)) for field in fields(kind)})
    bare = kind(
        **{
            field.name: sample(str(field.type))
            for field in fields(kind)
            if field.default is MISSING
        }
    )
    for frame in (full, bare):
        data = loads(dumps(encode_frame(frame)))
        assert data["frame"] == kind.__name__
        assert decode_frame(data) == frame


@given(
    st.builds(
        BlockDelta,
        message_id=st.sampled_from(["m", "\ud83d", 'q"', ["unhashable"]]),
        index=st.sampled_from([0, 1, True, 1.0]),
        kind=st.sampled_from(["text", "reasoning"]),
        text=st.text(max_size=3) | st.sampled_from(["\ud83d", '"', None, 5]),
        offset=st.sampled_from([0, 7, True, 1.5, -1, 2**53 - 1, 2**53, None]),
        node=st.sampled_from([None, "n", "\u00fc"]),
        namespace=st.sampled_from([(), ("a", "b"), ["list"]]),
        task_id=st.sampled_from([None, "t"]),
    )
)
def test_a_delta_is_encoded_as_any_frame(frame: BlockDelta) -> None:
    assert dumps_frame(frame) == dumps(encode_frame(frame))


def test_fields_of_a_newer_version_are_ignored() -> None:
    data = encode_frame(Sources(sources=(Source(id="s"),), added=1))
    data |= {"later": 1, "sources": [{"id": "s", "later": 2}]}
    assert decode_frame(data) == Sources(sources=(Source(id="s"),), added=1)


def test_missing_fields_take_their_defaults() -> None:
    assert decode_frame({"frame": "RunResult"}) == RunResult()
    data = {"frame": "RunStarted", "thread_id": "t", "run_id": "r", "graph": "g"}
    assert decode_frame(data) == RunStarted(thread_id="t", run_id="r", graph="g")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"frame": "Nonsense"}, "expected one of RunStarted"),
        ({}, "expected one of"),
        ({"frame": ["x"]}, "expected one of"),
        ({"frame": "RunFinished"}, "status"),
        ({"frame": "Sources", "added": 1, "sources": [{}]}, "id"),
        ({"frame": "RunFinished", "status": "perhaps"}, "RunFinished.status"),
        ({"frame": "RolledBack", "run_id": 5}, "RolledBack.run_id"),
    ],
)
def test_what_is_no_frame_is_refused(data: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        decode_frame(data)
