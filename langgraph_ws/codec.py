"""Frames and whatever the graph holds, to and from JSON: the only place that does it.

`plain` turns anything into plain JSON data without ever failing; `dumps` and `loads` are strict
JSON (RFC 8259): no NaN, no lone surrogates, no integer that a JavaScript number cannot hold.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, cast

import orjson
from langchain_core.messages import BaseMessage
from pydantic import BaseModel, TypeAdapter, ValidationError

from langgraph_ws.frames import (
    FRAMES,
    BlockDelta,
    BlockKind,
    Frame,
    Namespace,
    Source,
    new_delta,
)

__all__ = [
    "decode_frame",
    "dumps",
    "dumps_frame",
    "encode_frame",
    "known",
    "loads",
    "message_json",
    "plain",
]

_OPTIONS = orjson.OPT_STRICT_INTEGER | orjson.OPT_NON_STR_KEYS
_MAX_DEPTH = 100
_MAX_SAFE_INTEGER = 2**53 - 1
_NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in FRAMES}
_KINDS: dict[str, TypeAdapter[Frame]] = {kind.__name__: TypeAdapter(kind) for kind in FRAMES}


def dumps(value: Any) -> bytes:
    """Encode plain JSON data as UTF-8."""
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except (TypeError, RecursionError):
        return orjson.dumps(_walk(value, 0), option=_OPTIONS)


def loads(data: str | bytes) -> Any:
    """Decode JSON.

    Raises:
        ValueError: The text is not JSON, or is nested deeper than 1,024 levels.
    """
    return orjson.loads(data)


def plain(value: Any) -> Any:
    """Turn any value into plain JSON data that shares nothing with it.

    Messages, pydantic models and dataclasses become objects, dates ISO 8601 strings, sets lists,
    bytes base64 strings, enums their values, NaN and infinity null, integers beyond ±(2**53 - 1)
    and decimals strings, durations seconds. An object that none of this fits becomes
    `{"type": "module.Class"}`: its `repr` could tell a client what it should not know. What is
    nested so deep that a JSON library refuses it is cut at 100 levels; there, and where an object
    holds itself, stands null.
    """
    if type(value) is str:
        return _text(value)
    if value is None or value is True or value is False:
        return value
    try:
        return orjson.loads(orjson.dumps(value, default=_default, option=_OPTIONS))
    except (TypeError, ValueError, RecursionError):
        return _walk(value, 0)


def message_json(message: BaseMessage) -> dict[str, Any]:
    """A LangChain message as the object that its clients know (`type`, `content`, `id`, …)."""
    return cast("dict[str, Any]", plain(message))


def encode_frame(frame: Frame) -> dict[str, Any]:
    """A frame as plain JSON data: its fields, and its class name under `frame`."""
    kind = type(frame)
    data: dict[str, Any] = {"frame": kind.__name__}
    for name in _NAMES[kind]:
        value = getattr(frame, name)
        if isinstance(value, tuple):
            value = [source_json(item) if isinstance(item, Source) else item for item in value]
        data[name] = value
    return data


def dumps_frame(frame: Frame) -> bytes:
    """A frame as JSON, as `encode_frame` has it."""
    if type(frame) is BlockDelta:
        offset = frame.offset
        if type(offset) is int and 0 <= offset <= _MAX_SAFE_INTEGER:
            try:
                before, after = _around(
                    frame.message_id,
                    frame.index,
                    frame.kind,
                    frame.node,
                    frame.namespace,
                    frame.task_id,
                )
                return b'%b%b,"offset":%d%b' % (before, dumps(frame.text), offset, after)
            except TypeError:  # a mapper made it, of something that cannot be looked up
                pass
    return dumps(encode_frame(frame))


@lru_cache(maxsize=1_000, typed=True)
def _around(
    message_id: str,
    index: int,
    kind: BlockKind,
    node: str | None,
    namespace: Namespace,
    task_id: str | None,
) -> tuple[bytes, bytes]:
    """What stands before the text of a delta as JSON, and after its offset."""
    data = encode_frame(new_delta(message_id, index, kind, "", 0, node, namespace, task_id))
    names = list(data)
    text = names.index("text")
    assert names[text + 1] == "offset"
    first, last = names[:text], names[text + 2 :]
    before = dumps({name: data[name] for name in first}).removesuffix(b"}") + b',"text":'
    return before, b"," + dumps({name: data[name] for name in last}).removeprefix(b"{")


def decode_frame(data: Mapping[str, Any]) -> Frame:
    """The frame that `encode_frame` made `data` of; fields that it does not know are ignored.

    Raises:
        ValueError: `data` names no kind of frame, lacks one of its fields, or has one that is not
            what it may be.
    """
    kind = _KINDS.get(str(data.get("frame")))
    if kind is None:
        known = ", ".join(_KINDS)
        raise ValueError(f"frame: expected one of {known}, got {data.get('frame')!r}")
    try:
        return kind.validate_python(data)
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise ValueError(f"{data['frame']}.{where}: {wrong['msg']}") from None


def known(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def source_json(source: Source) -> dict[str, Any]:
    """A source as plain JSON data, without what is not known of it."""
    return {
        field.name: value
        for field in fields(source)
        if (value := getattr(source, field.name)) is not None
    }


def _text(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def _default(value: Any) -> Any:
    """What stands in JSON for a value that orjson does not know."""
    if isinstance(value, BaseModel):
        shown = (name for name, field in type(value).model_fields.items() if not field.exclude)
        return {name: getattr(value, name) for name in shown} | (value.model_extra or {})
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set | tuple | frozenset) or type(value).__name__ == "deque":
        return list(cast("Iterable[Any]", value))
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, date | time):  # of a time zone that orjson does not know
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    item = getattr(value, "item", None)  # a number of NumPy
    if callable(item) and hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        return item()
    return {"type": _name(value)}


def _name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _walk(value: Any, depth: int, above: frozenset[int] = frozenset()) -> Any:
    """`plain`, slowly: for what orjson refuses (big integers, surrogates, cycles, odd keys).

    `above` are the ids of the containers around the value: what holds itself would grow without
    end, and as a tree with every level.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _walk(value.value, depth, above)
    if isinstance(value, str):
        return _text(str.__str__(value))
    if isinstance(value, int):
        return int(value) if abs(value) <= _MAX_SAFE_INTEGER else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth >= _MAX_DEPTH or id(value) in above:
        return None
    above |= {id(value)}
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, dict):
        return {_key(key): _walk(item, depth + 1, above) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, depth + 1, above) for item in value]
    return _walk_object(value, depth, above)


def _walk_object(value: Any, depth: int, above: frozenset[int]) -> Any:
    try:
        return orjson.loads(orjson.dumps(value))  # dates, UUIDs
    except TypeError:
        pass
    try:
        simpler = _default(value)
    except Exception:
        # A property or an iterator of somebody's class may do anything.
        simpler = {"type": _name(value)}
    return _walk(simpler, depth + 1, above)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return _text(key)
    simple = _walk(key, _MAX_DEPTH - 1)
    return simple if isinstance(simple, str) else orjson.dumps(simple).decode()
