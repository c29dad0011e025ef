"""Golden transcripts: what a run said, compared with what it said when somebody last looked.

Applications import it from `langgraph_ws.testing`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

from langgraph_ws.codec import dumps, encode_frame, loads
from langgraph_ws.frames import FRAMES
from langgraph_ws.protocols.chat_messages import RESERVED

__all__ = ["UPDATE", "assert_transcript"]

Json: TypeAlias = dict[str, Any]
UPDATE = "LANGGRAPH_WS_UPDATE_TRANSCRIPTS"
"""The environment variable that, set to 1, has transcripts written instead of compared."""

_IDS = {
    "run_id": "run",
    "thread_id": "thread",
    "message_id": "message",
    "streamed_id": "message",
    "task_id": "task",
    "rerun_task_ids": "task",
    "tool_call_id": "tool-call",
    "checkpoint_id": "checkpoint",
    "parent_id": "checkpoint",
    "interrupt_id": "interrupt",
    "interrupt_ids": "interrupt",
    "ids": "interrupt",
    "error_id": "error",
    "epoch": "epoch",
}
"""The fields that hold ids, and what they are ids of."""
_INTERRUPT_IDS = _IDS | {"id": "interrupt"}
_VOLATILE = frozenset(
    {
        *("time", "duration_ms", "execution_time_ms", "expires_at", "after_ms"),
        *("seq", "from_seq", "head", "first", "requested", "rollback_to"),
    }
)
"""The fields that differ from run to run: how deltas are merged is a matter of time, and with it
the numbers of all entries."""
_STRUCTURE = frozenset({"messages", "open", "interrupts", "run"})
"""The fields in which there are more such fields; all others belong to the application."""
_SHORTEST_ID = 8
"""Characters: what is shorter ("t-1") is no id that was made by chance, and stays as it is."""
_RANDOM = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b[0-9a-f]{32}\b"
)
_PARTIAL = frozenset({"text", "reasoning", "tool_call"})
_CONTEXT = 2
"""Lines shown before and after a difference."""
_WIDTH = 160
"""Characters shown of a value that differs, and of a line."""
_LEAD = 20
"""Characters shown of two texts before they differ."""


def assert_transcript(
    messages: Iterable[Any],
    path: str | Path,
    *,
    ignore: Collection[str] = (),
    exact: bool = False,
) -> None:
    """Assert that frames, or messages of the chat protocol, are those of a JSONL file.

    What differs from run to run is taken out first: ids become names in the order in which they
    appear (`run-1`, `message-2`), times, durations and positions go, and the pieces of a text,
    which come in more or fewer messages by chance, become one.

    A file that does not exist is written, and the assertion fails once, so that somebody looks at
    it and no test passes because a file was forgotten. With the environment variable
    `LANGGRAPH_WS_UPDATE_TRANSCRIPTS=1` every file is written, and nothing fails.

    Args:
        messages: Frames (what `record` gives), or messages as objects or as JSON.
        path: The file; relative to the working directory.
        ignore: More fields to leave out, wherever they are.
        exact: Compare what was said as it is, to the byte.

    Raises:
        AssertionError: They are not the same (the text shows where), or there was no file.
    """
    __tracebackhide__ = True
    plain = [_plain(message) for message in messages]
    lines = [_line(it) for it in (plain if exact else normalised(plain, ignore=ignore))]
    path = Path(path)
    if os.environ.get(UPDATE, "0") not in ("", "0"):
        _write(path, lines)
        return
    if not path.exists():
        _write(path, lines)
        raise AssertionError(
            f"{path} did not exist and was written: look at it, and run the test again"
        )
    expected = path.read_text(encoding="utf-8").splitlines()
    alike = str if exact else _without_order
    old, new = [alike(line) for line in expected], [alike(line) for line in lines]
    if old != new:
        matcher = SequenceMatcher(None, old, new, autojunk=False)
        raise AssertionError("\n".join(_report(path, expected, lines, matcher)))


def normalised(messages: Iterable[Json], *, ignore: Collection[str] = ()) -> list[Json]:
    """The messages without what differs from run to run."""
    names = _Names()
    requests: dict[Any, str] = {}
    folded = [_without(message, frozenset(ignore)) for message in _folded(messages)]
    structured = [_structured(_numbered(it, requests), names) for it in folded]
    return [names.replaced(message) for message in structured]


def _plain(message: Any) -> Json:
    if isinstance(message, FRAMES):
        return {key: value for key, value in encode_frame(message).items() if value not in _EMPTY}
    if isinstance(message, str | bytes):
        message = loads(message)
    return dict(message)


_EMPTY: tuple[Any, ...] = (None, (), [])


def _line(message: Json) -> str:
    return dumps(message).decode()


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


# --- what differs from run to run ------------------------------------------------------------


def _folded(messages: Iterable[Json]) -> list[Json]:
    """The messages with the pieces of each block as one, where the last of them stood.

    The first of them would not do: the server replaces texts that wait by the newest.
    """
    folded: dict[Hashable, Json] = {}
    for number, message in enumerate(messages):
        key = _block_of(message)
        if key is None:
            folded[number] = message
        else:
            before = folded.pop(key, None)
            folded[key] = message if before is None else _joined(before, message)
    return list(folded.values())


def _block_of(message: Json) -> Hashable | None:
    """Of which block a message is a piece; None when it is whole by itself."""
    if message.get("frame") == "BlockDelta":
        return (message["message_id"], message["index"])
    data = message.get("data")
    if message.get("type") not in _PARTIAL or not isinstance(data, dict):
        return None
    if message["type"] == "tool_call" and data.get("status") != "arguments":
        return None
    return (message["type"], data.get("message_id"), data.get("index"), "delta" in data)


def _joined(before: Json, after: Json) -> Json:
    """Two pieces of a block: what is new is added, what is all of it so far is replaced."""
    if "frame" in after:
        return after | {"text": before["text"] + after["text"], "offset": before["offset"]}
    if "delta" not in after["data"]:
        return after
    old, new = before["data"], after["data"]
    return after | {"data": new | {"delta": old["delta"] + new["delta"], "offset": old["offset"]}}


def _numbered(message: Json, requests: dict[Any, str]) -> Json:
    """A message with a name for its `request_id`; clients choose those, and may choose others.

    `_Names` would replace it everywhere, and it may be a small number.
    """
    if message.get("request_id") is None:
        return message
    number = requests.setdefault(message["request_id"], f"request-{len(requests) + 1}")
    return message | {"request_id": number}


def _structured(message: Json, names: _Names) -> Json:
    """A message, or an encoded frame, without what is volatile; its ids get names."""
    data = message.get("data")
    ours = message.get("type") in RESERVED and message.get("type") != "custom"
    if "frame" in message or not ours or not isinstance(data, dict):
        return _fields(message, names, _IDS)
    ids = _INTERRUPT_IDS if message["type"] == "interrupt" else _IDS
    return _fields(message, names, _IDS) | {"data": _fields(data, names, ids)}


def _fields(value: Json, names: _Names, ids: Mapping[str, str]) -> Json:
    fields: Json = {}
    for key, it in value.items():
        if key in _VOLATILE:
            continue
        if key in ids:
            names.note(ids[key], it)
        within = _INTERRUPT_IDS if key == "interrupts" else _IDS
        if key == "threads":
            names.note("thread", list(it))
            it = {thread_id: _fields(head, names, _IDS) for thread_id, head in it.items()}
        elif key in _STRUCTURE and isinstance(it, dict):
            it = _fields(it, names, within)
        elif key in _STRUCTURE and isinstance(it, list | tuple):
            it = [_fields(item, names, within) for item in it]
        fields[key] = it
    return fields


def _without(value: Any, ignored: frozenset[str]) -> Any:
    """A value without some of its fields, and without theirs."""
    if isinstance(value, dict):
        return {key: _without(it, ignored) for key, it in value.items() if key not in ignored}
    if isinstance(value, list | tuple):
        return [_without(item, ignored) for item in value]
    return value


@dataclass(slots=True)
class _Names:
    """The stable names of ids."""

    names: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def name(self, kind: str, value: str) -> str:
        """The name of an id, which gets one when it has none yet."""
        name = self.names.get(value)
        if name is None:
            number = self.counts[kind] = self.counts.get(kind, 0) + 1
            name = self.names[value] = f"{kind}-{number}"
        return name

    def note(self, kind: str, value: Any) -> None:
        """Give an id, or each of several, a name."""
        for it in value if isinstance(value, list | tuple) else [value]:
            if isinstance(it, str) and len(it) >= _SHORTEST_ID:
                self.name(kind, it)

    def replaced(self, value: Any) -> Any:
        """A value with the names of the ids, wherever they stand in it."""
        longest_first = sorted(self.names, key=len, reverse=True)
        pattern = re.compile("|".join([*map(re.escape, longest_first), _RANDOM.pattern]))
        return self._replaced(value, pattern)

    def _replaced(self, value: Any, pattern: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda found: self.name("id", found[0]), value)
        if isinstance(value, dict):
            return {
                self._replaced(key, pattern): self._replaced(it, pattern)
                for key, it in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._replaced(item, pattern) for item in value]
        return value


# --- what is not the same --------------------------------------------------------------------


def _without_order(line: str) -> str:
    """A line with its fields sorted: LangChain adds up usage in the order of a set."""
    try:
        return json.dumps(json.loads(line), sort_keys=True)
    except ValueError:  # somebody has edited the file
        return line


def _report(
    path: Path, expected: list[str], lines: list[str], matcher: SequenceMatcher[str]
) -> Iterator[str]:
    """What differs, for people."""
    yield f"{path} says something else (expected -, came +)"
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        yield f"@@ from line {group[0][1] + 1} @@"
        for what, first, last, start, stop in group:
            if what == "equal":
                yield from (f"  {_cut(line)}" for line in expected[first:last])
            else:
                yield from _difference(expected[first:last], lines[start:stop])
    yield f"If this is right, run the tests once with {UPDATE}=1."


def _difference(old: list[str], new: list[str]) -> Iterator[str]:
    """Lines that differ; where as many came as were expected, with the fields that do."""
    for line in old:
        yield f"- {_cut(line)}"
    for line in new:
        yield f"+ {_cut(line)}"
    if len(old) == len(new):
        for was, came in zip(old, new, strict=True):
            with suppress(ValueError):
                yield from _fields_that_differ(loads(was), loads(came))


def _fields_that_differ(was: Any, came: Any, path: str = "") -> Iterator[str]:
    if was == came:
        return
    if isinstance(was, dict) and isinstance(came, dict):
        for key in was | came:
            where = f"{path}.{key}" if path else key
            yield from _fields_that_differ(was.get(key, ...), came.get(key, ...), where)
    elif isinstance(was, list) and isinstance(came, list) and len(was) == len(came):
        for index, (one, other) in enumerate(zip(was, came, strict=True)):
            yield from _fields_that_differ(one, other, f"{path}.{index}")
    else:
        start = max(0, _same_characters(was, came) - _LEAD)
        yield f"    {path}: {_shown(was, start)} became {_shown(came, start)}"


def _same_characters(one: Any, other: Any) -> int:
    """How many characters two texts have in common, from their beginning."""
    if not isinstance(one, str) or not isinstance(other, str):
        return 0
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in alike)


def _shown(value: Any, start: int) -> str:
    if value is ...:
        return "nothing"
    return f"…{_cut(repr(value[start:]))}" if start else _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
