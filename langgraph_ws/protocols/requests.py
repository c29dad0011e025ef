"""What the messages of clients have in common, whatever their protocol: JSON, checked by models."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from langgraph_ws.codec import loads
from langgraph_ws.errors import InvalidRequest, RequestError

__all__ = [
    "MAX_INTEGER",
    "CamelModel",
    "Id",
    "Json",
    "Model",
    "Name",
    "in_both_cases",
    "media_block",
    "parse",
    "validated",
]

Json: TypeAlias = dict[str, Any]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
Name = Annotated[str, StringConstraints(min_length=1)]
MAX_INTEGER = 2**53 - 1
_MAX_DEPTH = 100  # codec.plain would cut off what is deeper, without a word
_WORD_BOUNDARY = re.compile("(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z0-9])(?=[A-Z])|(?<=[a-z])(?=[0-9])")


class Model(BaseModel):
    """A part of what clients send: nothing is converted, names come in snake or camel case.

    Attributes:
        speaks_camel: Whether the documents of the protocol have the names in camel case.
    """

    speaks_camel: ClassVar[bool] = False

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        populate_by_name=True,
        alias_generator=to_camel,
    )

    def given(self) -> Json:
        """The fields that are neither absent nor null."""
        return {
            name: value
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None
        }


class CamelModel(Model):
    """A part of what clients send of a protocol that has its names in camel case."""

    speaks_camel: ClassVar[bool] = True


_EXPECTED = {
    "missing": "missing",
    "string_type": "expected a string",
    "string_too_short": "expected a string that is not empty",
    "string_pattern_mismatch": "expected 1 to 128 letters, digits, '_', '.', ':' and '-'",
    "int_type": "expected a whole number",
    "greater_than_equal": "expected a whole number from {ge}",
    "less_than_equal": "expected a whole number up to {le}",
    "list_type": "expected a list",
    "too_short": "expected a list that is not empty",
    "too_long": "expected a list of at most {max_length}",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "literal_error": "expected {expected}",
}
"""What pydantic finds, in words for people who do not use Python."""


def parse(text: str) -> Json:
    """The object that a client sent.

    Raises:
        RequestError: The text is no JSON object, or it is nested deeper than 100 levels.
    """
    try:
        message = loads(text)
    except ValueError:
        raise RequestError("bad_message", "the message is not JSON") from None
    if not isinstance(message, dict):
        raise RequestError("bad_message", "the message is not a JSON object")
    if _too_deep(message):
        raise RequestError("bad_message", f"the message is nested deeper than {_MAX_DEPTH} levels")
    return message


_AnyModel = TypeVar("_AnyModel", bound=Model)


def validated(model: type[_AnyModel], data: object, *path: str) -> _AnyModel:
    """The data as a model.

    Args:
        model: The model.
        data: What was sent.
        path: Where in the message the data stands.

    Raises:
        InvalidRequest: A field of it is missing or wrong.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
    raise _invalid(fault, path, camel=model.speaks_camel)


def in_both_cases(sent: Json) -> Json:
    """What was sent, each under the name that it came with and under that in snake case."""
    return {_to_snake(name): value for name, value in sent.items()} | sent


def _to_snake(name: str) -> str:
    """A name in snake case, in linear time: that of pydantic takes a minute for 60,000 capitals.

    (`pydantic.alias_generators.to_snake` of 2.14 looks from each capital to the last of them.)
    """
    return _WORD_BOUNDARY.sub("_", name).replace("-", "_").lower()


def _invalid(fault: ErrorDetails, within: tuple[str, ...], *, camel: bool) -> InvalidRequest:
    *path, name = map(str, (*within, *fault["loc"]))
    if fault["type"] == "missing" and not camel:  # pydantic says the alias, PROTOCOL.md the name
        name = _to_snake(name)
    expected = _EXPECTED.get(fault["type"])
    words = expected.format(**fault.get("ctx", {})) if expected else fault["msg"]
    return InvalidRequest(".".join([*path, name]), words)


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


_MEDIA = ("image", "audio", "video")


def media_block(media_type: str, **where: str | None) -> Json:
    """A file as a content block of LangChain.

    Args:
        media_type: What it is, such as `image/png`.
        where: Its `url`, `base64` or `file_id`, and what else is known of it (`filename`).
    """
    family = media_type.partition("/")[0]
    block: Json = {"type": family if family in _MEDIA else "file", "mime_type": media_type}
    return block | {name: value for name, value in where.items() if value is not None}
