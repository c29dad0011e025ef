"""What a program passes to the client, as the JSON that is sent: nothing is altered on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from langgraph_ws.errors import InvalidRequest

__all__ = ["json_value", "protocol_message"]

Json: TypeAlias = dict[str, Any]
_MAX_DEPTH = 100
_MAX_INTEGER = 2**53 - 1
_ROLES = {"human": "user", "ai": "assistant"}
_MESSAGE_FIELDS = ("content", "id", "name", "tool_call_id", "tool_calls")


def json_value(field: str, value: object) -> Any:
    """A value as plain JSON data that shares nothing with it.

    Mappings with string keys, lists, tuples, strings, booleans, None, finite floats and integers
    up to ±(2**53 - 1) are JSON; pydantic models, LangChain's messages among them, say themselves
    what they are in JSON (`model_dump(mode="json")`).

    Raises:
        InvalidRequest: The value, or one in it, is something else; the error has its path.
    """
    return _json(field, value, ())


def protocol_message(message: BaseMessage) -> Json:
    """One of LangChain's messages as the protocol has it: role, content, ids and tool calls."""
    fields = {name: getattr(message, name, None) for name in _MESSAGE_FIELDS}
    given = {name: value for name, value in fields.items() if value not in (None, [])}
    return {"role": _ROLES.get(message.type, message.type), "content": message.content} | given


def _json(field: str, value: object, above: tuple[int, ...]) -> Any:
    """`above`: the ids of the containers around the value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(field, str.__str__(value))
    if isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            raise InvalidRequest(field, "expected a whole number up to ±(2**53 - 1), or a string")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(field, f"expected a finite number, got {value}")
        return float(value)
    return _container(field, value, above)


def _container(field: str, value: object, above: tuple[int, ...]) -> Any:
    if id(value) in above:
        raise InvalidRequest(field, "expected a value that does not hold itself")
    if len(above) >= _MAX_DEPTH:
        raise InvalidRequest(field, f"expected no more than {_MAX_DEPTH} levels")
    above = (*above, id(value))
    if isinstance(value, BaseModel):
        value = _dumped(field, value)
    if isinstance(value, Mapping):
        return {
            _key(field, key): _json(f"{field}.{key}", item, above) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_json(f"{field}.{at}", item, above) for at, item in enumerate(value)]
    raise InvalidRequest(field, f"expected a value that JSON can hold, got a {_name(value)}")


def _dumped(field: str, model: BaseModel) -> object:
    try:
        return model.model_dump(mode="json")
    except (PydanticSerializationError, ValueError, TypeError) as error:
        raise InvalidRequest(field, f"expected a model that JSON can hold: {error}") from None


def _key(field: str, key: object) -> str:
    if isinstance(key, str):
        return _text(field, str.__str__(key))
    raise InvalidRequest(field, f"expected keys that are strings, got {key!r}")


def _text(field: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(field, "expected text, got a lone surrogate in it") from None
    return text


def _name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
