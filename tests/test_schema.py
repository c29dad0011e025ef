"""The JSON Schema says what the code says, PROTOCOL.md, and `client.d.ts`."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from jsonschema import Draft202012Validator

import langgraph_ws
from langgraph_ws.__main__ import main
from langgraph_ws.demo import demo_graph
from langgraph_ws.errors import RequestError
from langgraph_ws.frames import Custom
from langgraph_ws.protocols.chat import RESERVED, ChatSession
from langgraph_ws.protocols.chat_messages import error_message
from langgraph_ws.protocols.chat_requests import REQUESTS
from langgraph_ws.protocols.chat_schema import MESSAGES, schema
from langgraph_ws.testing import chat_client
from tests.chat_story import TRIMMED, decoded, entries, follow, info, snapshot
from tests.test_chat import GOOD, WRONG
from tests.test_protocol_md import EXAMPLES, SERVER_TABLES, produced, section

Json: TypeAlias = dict[str, Any]
SCHEMA = schema()
DEFINITIONS = SCHEMA["$defs"]
TYPES = (Path(langgraph_ws.__file__).parent / "static" / "client.d.ts").read_text(encoding="utf-8")
NOT_IN_TYPES = {"authenticated", "pong", "heartbeat", "bye"}
"""Messages that the JavaScript client keeps to itself."""


def closed(part: Any) -> Any:
    """A schema that allows no field that it does not name."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    shut = {key: closed(value) for key, value in part.items()}
    if shut.get("type") == "object" and "properties" in shut:
        shut.setdefault("additionalProperties", False)
    return shut


def validator(name: str, *, strict: bool = False) -> Draft202012Validator:
    document = closed(copy.deepcopy(SCHEMA)) if strict else SCHEMA
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": document["$defs"]})


CLIENT = validator("ClientMessage")
SERVER = validator("ServerMessage", strict=True)


def definition_of(kind: str) -> Json:
    """The definition of the messages of a type."""
    [found] = [
        part
        for part in DEFINITIONS.values()
        if part.get("properties", {}).get("type", {}).get("const") == kind
    ]
    return dict(found)


def resolved(part: Json) -> Json:
    return resolved(DEFINITIONS[part["$ref"].rpartition("/")[2]]) if "$ref" in part else part


def fields_of(part: Json) -> Iterator[str]:
    """The names of all fields, those of fields included."""
    part = resolved(part)
    for name, field in part.get("properties", {}).items():
        yield name
        yield from fields_of(field)
    for inner in (*part.get("anyOf", ()), *([part["items"]] if "items" in part else ())):
        yield from fields_of(inner)
    if isinstance(part.get("additionalProperties"), dict):
        yield from fields_of(part["additionalProperties"])


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator.check_schema(closed(copy.deepcopy(SCHEMA)))
    references = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(SCHEMA)))
    assert references == set(DEFINITIONS)
    assert all(part["title"] == name for name, part in DEFINITIONS.items())
    assert all(part["description"] for part in DEFINITIONS.values())


def test_command_line_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA


# what clients send


def in_words_of_the_schema(message: Any) -> bool:
    """Whether a message says nothing that is beyond a schema.

    That is camel case, which is accepted but not described; 1.0, which is a whole number to a JSON
    Schema; and a line end after an id, which Python's regular expressions overlook.
    """
    text = json.dumps(message)
    return not re.search(r'"[a-z]+[A-Z]\w*":|"after": 1\.0|\\n', text)


UNDERSTOOD = [param.values[0] for param in GOOD if in_words_of_the_schema(param.values[0])]
REFUSED = [message for message, _, _ in WRONG if in_words_of_the_schema(message)]


@pytest.mark.parametrize("message", UNDERSTOOD)
def test_what_the_server_understands_is_in_the_schema(message: Any) -> None:
    CLIENT.validate(message)
    CLIENT.validate(message | {"id": 7})


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_server_refuses_is_not_in_the_schema(message: Json) -> None:
    assert not CLIENT.is_valid(message)


@pytest.mark.parametrize("message", [{}, {"type": "nonsense"}, {"type": "run"}, [], "ping", None])
def test_what_is_no_message_is_not_in_the_schema(message: Any) -> None:
    assert not CLIENT.is_valid(message)


def test_requests_are_all_there() -> None:
    for kind in (*REQUESTS, "ping"):
        named = {"type", "id", *getattr(REQUESTS.get(kind), "model_fields", ())}
        assert set(definition_of(kind)["properties"]) == named


@pytest.mark.parametrize("kind", REQUESTS)
def test_fields_of_requests_are_those_of_the_page(kind: str) -> None:
    described = section(f"### `{kind}`") + section("## What a client sends")
    if kind == "resume_chat":
        described += section("### `new_chat`")
    for name in definition_of(kind)["properties"]:
        assert re.search(rf"[`\"]({name})[`\"]", described), name
    options = resolved(DEFINITIONS["RunOptions"])["properties"]
    assert set(re.findall(r"`options\.(\w+)`", section("### `new_chat`"))) == set(options)
    given = re.search(r"of `\{(.*?)\}`", section("### `new_chat`"))
    assert given is not None
    assert set(re.findall(r"\w+", given[1])) == set(DEFINITIONS["InputMessage"]["properties"])


# what they are sent


def everything() -> list[Json]:
    """One of every message, and some in which much is missing or null."""
    session = ChatSession(expose_state=True)
    follow(session)
    few = follow(session, info=info(run_id=None, status="idle", graph=None))
    few += decoded(session.gap("t-1", TRIMMED, snapshot(run_id=None, values=None)))
    few += decoded(session.send("t-1", entries([Custom(name="anything", data=[1, None])])))
    few += decoded([error_message(RequestError("draining", "later", retryable=True))])
    return [*produced(), *few]


def test_every_message_that_is_sent_is_in_the_schema() -> None:
    sent = everything()
    assert {message["type"] for message in sent} >= RESERVED
    for message in sent:
        SERVER.validate(message)


@pytest.mark.parametrize("typed", ["What is a superstep?", "approve", "both", "fail"])
async def test_every_message_of_a_real_run_is_in_the_schema(typed: str) -> None:
    async with chat_client(demo_graph(delay=0), expose_state=True, expose_output=True) as chat:
        for mode in ("full", "delta"):
            await chat.run(typed, options={"text": mode})
        await chat.send({"type": "nonsense"})
        await chat.until("error")
        for message in chat.heard:
            SERVER.validate(message)


def test_types_are_those_of_the_encoder() -> None:
    assert set(MESSAGES) == RESERVED
    kinds = {
        resolved(part)["properties"]["type"].get("const")
        for part in DEFINITIONS["ServerMessage"]["oneOf"]
    }
    assert kinds == {*RESERVED, None}


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=[f"{number}-{it['type']}" for number, it in enumerate(EXAMPLES)]
)
def test_examples_of_the_page_are_in_the_schema(example: Json) -> None:
    """But for fields that the page leaves out, as it says itself."""
    if example["type"] in {*REQUESTS, "ping"}:
        CLIENT.validate(example)
        return
    kind = example["type"] if example["type"] in RESERVED else None
    described = definition_of(kind) if kind else DEFINITIONS["CustomMessage"]
    direct = Draft202012Validator({**closed(described), "$defs": closed(DEFINITIONS)})
    faults = [leaf for fault in direct.iter_errors(example) for leaf in leaves(fault)]
    assert [it.message for it in faults if it.validator != "required"] == []


def leaves(fault: Any) -> Iterator[Any]:
    if fault.context:
        for inner in fault.context:
            yield from leaves(inner)
    else:
        yield fault


@pytest.mark.parametrize("kind", sorted(SERVER_TABLES))
def test_fields_are_those_of_the_page(kind: str) -> None:
    described = SERVER_TABLES["text" if kind == "reasoning" else kind]
    if "as in `message`" in described:
        described += SERVER_TABLES["message"] + SERVER_TABLES["interrupt"]
    data = resolved(definition_of(kind)["properties"]["data"])
    for name in data["properties"]:
        assert re.search(rf"`{name}`|`\{{[^`]*\b{name}\b", described), name


@pytest.mark.parametrize("kind", sorted(SERVER_TABLES))
def test_the_page_names_no_field_that_is_not_sent(kind: str) -> None:
    """The words in code of each row are fields, values, or types of messages."""
    words = set(re.findall(r"`(\w+)`", SERVER_TABLES[kind]))
    values = set(re.findall(r'"(\w+)"', json.dumps(definition_of(kind)))) | {
        value
        for name in re.findall(r"#/\$defs/(\w+)", json.dumps(definition_of(kind)))
        for value in re.findall(r'"(\w+)"', json.dumps(DEFINITIONS[name]))
    }
    envelope = {"run_id", "seq", "from_seq", "request_id", "type", "data"}
    known = {*fields_of(definition_of(kind)), *values, *envelope, *RESERVED, *REQUESTS, "ping"}
    assert words <= known, words - known


# what client.d.ts says of the same


@dataclass(frozen=True)
class Interface:
    """An interface of TypeScript: its fields, and whether each may be absent or null."""

    fields: dict[str, str]
    optional: frozenset[str]
    open: bool


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


def body_at(text: str, start: int) -> str:
    """What stands between the brace at `start` and its partner."""
    depth = 0
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + 1 : end]
    raise AssertionError("a brace is not closed")


def members(body: str) -> Iterator[str]:
    """The members of an interface, those of types within it not taken apart."""
    depth, member = 0, ""
    for char in body:
        depth += {"{": 1, "(": 1, "}": -1, ")": -1}.get(char, 0)
        if char in ";,\n" and depth == 0 and member.strip() and char != "\n":
            yield member.strip()
            member = ""
        else:
            member += char
    if member.strip():
        yield member.strip()


def interfaces() -> dict[str, Interface]:
    text = without_comments(TYPES)
    found: dict[str, Interface] = {}
    pattern = re.compile(r"interface (\w+)(?:<[^{]*?>)?\s*(?:extends ([\w,\s]+?))?\s*(?=\{)")
    for match in pattern.finditer(text):
        fields: dict[str, str] = {}
        optional: set[str] = set()
        is_open = False
        for base in re.findall(r"\w+", match[2] or ""):
            if base in found:
                fields |= found[base].fields
                optional |= found[base].optional
        for member in members(body_at(text, match.end())):
            field = re.match(r"(?:readonly )?(\w+)(\??):\s*(.*)", member, re.DOTALL)
            is_open |= member.startswith("[")
            if field is not None:
                fields[field[1]] = field[3]
                if field[2]:
                    optional.add(field[1])
        found[match[1]] = Interface(fields, frozenset(optional), is_open)
    return found


INTERFACES = interfaces()
SHARED = sorted(
    name for name, part in DEFINITIONS.items() if name in INTERFACES and "properties" in part
)


def test_the_javascript_client_types_every_message() -> None:
    text = without_comments(TYPES)
    types = set(re.findall(r'Logged<\s*"(\w+)"', text)) | set(re.findall(r'\btype: "(\w+)"', text))
    assert types - {"skipped"} == RESERVED - NOT_IN_TYPES


def test_types_that_both_have() -> None:
    assert {"RunData", "TextData", "MessageData", "Final", "SnapshotData", "Source"} <= {*SHARED}


@pytest.mark.parametrize("name", SHARED)
def test_javascript_types_are_those_of_the_schema(name: str) -> None:
    described, typed = DEFINITIONS[name], INTERFACES[name]
    if not typed.open:
        assert set(typed.fields) == set(described["properties"])
    for field, part in described["properties"].items():
        if field not in typed.fields:
            continue
        required = field in described.get("required", ())
        assert required or field in typed.optional, f"{field} may be absent"
        if {"type": "null"} in part.get("anyOf", ()) and name in response_types():
            assert re.search(r"\bnull\b|\bunknown\b", typed.fields[field]), f"{field} may be null"


def response_types() -> set[str]:
    """The types that the server sends."""
    seen: set[str] = set()
    waiting = ["ServerMessage"]
    while waiting:
        name = waiting.pop()
        seen.add(name)
        inner = set(re.findall(r"#/\$defs/(\w+)", json.dumps(DEFINITIONS[name])))
        waiting += inner - seen
    return seen
