"""A message as it is written: chunks of a model in, frames of its blocks out.

One `MessageBuilder` stands for one message. It knows nothing of other messages, of nodes that run
at the same time, or of when the message is over: `mapping` tells it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage

from langgraph_ws.codec import dumps, loads, plain
from langgraph_ws.frames import (
    BlockDelta,
    BlockFinished,
    BlockKind,
    BlockStarted,
    Frame,
    MessageFinished,
    MessageStarted,
    Namespace,
    Role,
    new_delta,
)

__all__ = ["Block", "MessageBuilder", "Place", "place_of", "role_of"]

_KINDS: dict[str, BlockKind] = {
    "text": "text",
    "reasoning": "reasoning",
    "tool_call": "tool_call",
    "tool_call_chunk": "tool_call",
    "invalid_tool_call": "tool_call",
}
_ROLES: dict[str, Role] = {
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "assistant": "assistant",
    "human": "user",
    "HumanMessageChunk": "user",
    "user": "user",
    "system": "system",
    "SystemMessageChunk": "system",
    "developer": "system",
    "tool": "tool",
    "ToolMessageChunk": "tool",
}


class Place(NamedTuple):
    """Where in the graph something was said."""

    node: str | None
    namespace: Namespace
    task_id: str | None


def place_of(metadata: Mapping[str, Any], namespace: Namespace | None = None) -> Place:
    """The place that the metadata of a LangGraph callback tells of.

    Args:
        metadata: As in the second half of a `messages` part.
        namespace: The namespace of the part; None: worked out from the metadata.
    """
    path = str(metadata.get("langgraph_checkpoint_ns") or metadata.get("checkpoint_ns") or "")
    segments = tuple(path.split("|")) if path else ()
    if namespace is None:
        namespace = segments[: -_own_segments(metadata)]
    node = metadata.get("langgraph_node")
    # A task that calls several subgraphs numbers them with segments of their own ("…|1").
    task = next((part for part in reversed(segments) if ":" in part), "")
    return Place(node, namespace, task.partition(":")[2].partition(":")[0] or None)


def _own_segments(metadata: Mapping[str, Any]) -> int:
    """How many segments of the checkpoint namespace belong to the task, not to its graph.

    One, and one for each `@task` call around it: such a call runs in the graph of its caller but
    nests its namespace under it. Its `langgraph_path` is `(PUSH, path of the caller, index, True)`.
    """
    path, count = metadata.get("langgraph_path", ()), 1
    while len(path) == 4 and path[0] == "__pregel_push" and path[-1] is True:
        path, count = path[1], count + 1
    return count


def role_of(message: BaseMessage) -> Role | None:
    """The role that a message speaks in; None for messages that say nothing (removals)."""
    return _ROLES.get(getattr(message, "role", message.type))


class Block:
    """A content block in the making.

    Attributes:
        message_id: The message that it is of.
        index: Its number in the message.
        kind: What it holds.
        length: How many characters have been written of it.
    """

    __slots__ = (
        "call_id",
        "citations",
        "finished",
        "index",
        "kind",
        "length",
        "media",
        "message_id",
        "name",
        "parts",
        "place",
    )

    def __init__(
        self,
        message_id: str,
        index: int,
        kind: BlockKind,
        place: Place,
        *,
        call_id: str | None = None,
        name: str | None = None,
    ) -> None:
        self.message_id = message_id
        self.index = index
        self.kind: BlockKind = kind
        self.call_id = call_id
        self.name = name
        self.parts: list[str] = []
        self.length = 0
        self.citations: list[dict[str, Any]] = []
        self.media: dict[str, Any] = {}
        self.finished: dict[str, Any] | None = None
        self.place = place

    @property
    def text(self) -> str:
        """All that has been written of it."""
        return "".join(self.parts)

    def delta(self, text: str, offset: int) -> BlockDelta:
        """The frame of a piece of it."""
        return new_delta(self.message_id, self.index, self.kind, text, offset, *self.place)

    def content(self, *, aborted: bool = False) -> dict[str, Any]:
        """The whole block, as `BlockFinished` describes it."""
        if self.finished is not None:
            return self.finished
        if self.kind == "text":
            block: dict[str, Any] = {"type": "text", "text": self.text}
            return block | {"citations": list(self.citations)} if self.citations else block
        if self.kind == "reasoning":
            return {"type": "reasoning", "reasoning": self.text}
        if self.kind == "media":
            return cast("dict[str, Any]", plain(self.media))
        return self._tool_call(aborted=aborted)

    def _tool_call(self, *, aborted: bool) -> dict[str, Any]:
        text = self.text
        call = {"id": self.call_id, "name": self.name}
        try:
            args = loads(text) if text.strip() else {}
            error = None if isinstance(args, dict) else "the arguments are not a JSON object"
        except ValueError as failure:
            args, error = None, f"the arguments are not JSON: {failure}"
        if aborted:
            error = "the message was not finished"
        if error is None:
            return {"type": "tool_call", **call, "args": plain(args)}
        return {"type": "invalid_tool_call", **call, "args": text, "error": error}


class MessageBuilder:
    """One message in the making.

    Attributes:
        id: The id under which its frames go out.
        role: Who speaks.
        place: Where in the graph.
        muted: Nothing of it may leave the server; it is followed all the same, so that the same
            message under another id does not leave either.
        complete: The model has said that this was its last chunk.
        usage: What it has cost so far.
        said: The text block that chunks without a number go on with; None: there is none.
    """

    __slots__ = (
        "_blocks",
        "_calls",
        "_keys",
        "_last_call",
        "_metadata",
        "_name",
        "_namespace",
        "_node",
        "_task_id",
        "complete",
        "id",
        "muted",
        "place",
        "role",
        "said",
        "usage",
    )

    def __init__(
        self,
        message_id: str,
        role: Role,
        place: Place,
        *,
        name: str | None = None,
        muted: bool = False,
    ) -> None:
        self.id = message_id
        self.role: Role = role
        self.place = place
        self.muted = muted
        self.complete = False
        self.usage: UsageMetadata | None = None
        self._node, self._namespace, self._task_id = place
        self._name = name
        self._blocks: list[Block] = []
        self._keys: dict[tuple[Any, ...], Block] = {}
        self._calls: dict[str, Block] = {}
        self._last_call: Block | None = None
        self.said: Block | None = None
        self._metadata: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The text of all text blocks."""
        return "".join(block.text for block in self._blocks if block.kind == "text")

    @property
    def call_ids(self) -> frozenset[str]:
        """The ids of its tool calls."""
        return frozenset(self._calls)

    @property
    def citations(self) -> tuple[dict[str, Any], ...]:
        """The citations of all text blocks, in order."""
        return tuple(citation for block in self._blocks for citation in block.citations)

    def start(self) -> MessageStarted:
        """The frame that begins the message."""
        return MessageStarted(
            message_id=self.id,
            role=self.role,
            node=self._node,
            namespace=self._namespace,
            task_id=self._task_id,
            name=self._name,
        )

    def feed(self, chunk: AIMessageChunk) -> list[Frame]:
        """Take the next chunk of the message and return what it adds."""
        content = chunk.content
        frames: list[Frame] = []
        if (
            self.said is not None
            and isinstance(content, str)
            and not chunk.tool_call_chunks
            and not chunk.additional_kwargs
        ):
            # The way of nearly every token: keep it short.
            if content:
                frames.append(self._delta(self.said, content))
        else:
            frames = self._feed_rest(chunk)
        if chunk.usage_metadata is not None or chunk.response_metadata:
            self._note(chunk)
        if chunk.chunk_position is not None:
            self.complete = True
        return frames

    def grow(self, chunk: AIMessageChunk) -> str | None:
        """Take a chunk that only goes on with the text that is being `said`; what it adds.

        Returns:
            None: it does more than that, so nothing was taken; `feed` it.
        """
        block, text = self.said, chunk.content
        if (
            block is None
            or not text
            or not isinstance(text, str)
            or chunk.tool_call_chunks
            or chunk.additional_kwargs
            or chunk.chunk_position is not None
        ):
            return None
        if not text.isascii():
            text = cast("str", plain(text))
        block.parts.append(text)
        block.length += len(text)
        if chunk.usage_metadata is not None or chunk.response_metadata:
            self._note(chunk)
        return text

    def is_saying(self, frame: Frame) -> bool:
        """Whether a frame of the message is a piece of the text that `grow` goes on with."""
        return (
            self.said is not None and type(frame) is BlockDelta and frame.index == self.said.index
        )

    def feed_whole(self, message: BaseMessage) -> list[Frame]:
        """Take a message that comes in one piece and return the frames of its blocks."""
        frames: list[Frame] = []
        self._content(message, frames)
        if isinstance(message, AIMessage):
            for call in message.tool_calls:
                self._tool_call(call | {"args": dumps(plain(call["args"])).decode()}, frames)
            for invalid in message.invalid_tool_calls:
                self._tool_call(invalid, frames)
        self._note(message)
        self.complete = True
        return frames

    def finish_blocks(self) -> list[Frame]:
        """End every block that is still open, in order."""
        self.said = self._last_call = None
        self._keys.clear()
        return [self._finish(block) for block in self._blocks if block.finished is None]

    def finish(
        self,
        message_id: str | None = None,
        status: Literal["finished", "failed", "cancelled"] = "finished",
    ) -> MessageFinished:
        """The frame that ends the message.

        Args:
            message_id: The id that the graph keeps it under, when that is another.
            status: Anything but `finished` leaves the blocks that are open as they are.
        """
        aborted = status != "finished"
        return MessageFinished(
            message_id=message_id or self.id,
            streamed_id=self.id if message_id not in (None, self.id) else None,
            role=self.role,
            content=tuple(block.content(aborted=aborted) for block in self._blocks),
            status=status,
            node=self._node,
            namespace=self._namespace,
            task_id=self._task_id,
            name=self._name,
            usage=plain(self.usage),
            citations=self.citations,
            metadata=dict(self._metadata) or None,
        )

    def _feed_rest(self, chunk: AIMessageChunk) -> list[Frame]:
        frames: list[Frame] = []
        self._content(chunk, frames, calls=not chunk.tool_call_chunks)
        for call in chunk.tool_call_chunks:
            self._tool_call(call, frames)
        return frames

    def _content(self, message: BaseMessage, frames: list[Frame], *, calls: bool = False) -> None:
        reasoning = message.additional_kwargs.get("reasoning_content")
        content = message.content
        if isinstance(content, str):
            if reasoning and isinstance(reasoning, str):
                self._say("reasoning", None, reasoning, frames)
            if content:
                self._say("text", None, content, frames)
            return
        for block in _standard_blocks(message) if content or reasoning else ():
            kind = _KINDS.get(str(block.get("type")), "media")
            if kind == "text":
                self._text_block(block, frames)
            elif kind == "reasoning":
                self._say("reasoning", block.get("index"), block.get("reasoning"), frames)
            elif kind == "media":
                self._media(block, frames)
            elif calls:
                self._tool_call(block, frames)

    def _text_block(self, block: Mapping[str, Any], frames: list[Frame]) -> None:
        citations = [
            cast("dict[str, Any]", plain(note))
            for note in block.get("annotations") or ()
            if isinstance(note, Mapping) and note.get("type") == "citation"
        ]
        index = block.get("index")
        self._say("text", index, block.get("text"), frames, open_anyway=bool(citations))
        if citations:
            self._keys["text", index].citations.extend(citations)

    def _say(
        self,
        kind: BlockKind,
        index: object,
        text: Any,
        frames: list[Frame],
        *,
        open_anyway: bool = False,
    ) -> None:
        """Add text to the block of a kind that the model numbers `index`."""
        if not text and not open_anyway:
            return
        block = self._keys.get((kind, index))
        if block is None:
            block = self._begin(kind, (kind, index), frames)
            if kind == "text" and index is None:
                self.said = block
        if text:
            frames.append(self._delta(block, str(text)))

    def _media(self, block: Mapping[str, Any], frames: list[Frame]) -> None:
        data = dict(block)
        # Blocks without a number come whole; those with one may come in pieces.
        key = ("media", data.get("type"), data.get("index", len(self._blocks)))
        known = self._keys.get(key)
        if known is None:
            self._begin("media", key, frames).media = data
        else:
            merged = AIMessageChunk(content=[known.media]) + AIMessageChunk(content=[data])
            known.media = cast("list[dict[str, Any]]", merged.content)[0]

    def _tool_call(self, call: Mapping[str, Any], frames: list[Frame]) -> None:
        block = self._block_of_call(call, frames)
        name, args = call.get("name"), call.get("args")
        if name and name != block.name:
            block.name = (block.name or "") + name
        if args:
            text = args if isinstance(args, str) else dumps(plain(args)).decode()
            frames.append(self._delta(block, text))

    def _block_of_call(self, call: Mapping[str, Any], frames: list[Frame]) -> Block:
        """The block that a piece of a tool call belongs to.

        A number decides, else an id; a piece with neither goes on with the last call. A number
        that comes back with another id is another call: some models number every call 0.
        """
        call_id, index = call.get("id"), call.get("index")
        if index is not None:
            block = self._keys.get(("tool_call", index))
        elif call_id:
            block = self._calls.get(call_id)
        else:
            block = self._last_call
        if block is None or (call_id and block.call_id and block.call_id != call_id):
            key = ("tool_call", f"id:{call_id}" if index is None else index)
            block = self._begin("tool_call", key, frames, call_id or None, call.get("name"))
        elif call_id and not block.call_id:
            block.call_id = call_id
        if block.call_id:
            self._calls[block.call_id] = block
        self._last_call = block
        return block

    def _begin(
        self,
        kind: BlockKind,
        key: tuple[Any, ...],
        frames: list[Frame],
        call_id: str | None = None,
        name: str | None = None,
    ) -> Block:
        frames.extend(self._finish_written(kind))
        block = Block(self.id, len(self._blocks), kind, self.place, call_id=call_id, name=name)
        self._blocks.append(block)
        self._keys[key] = block
        frames.append(
            BlockStarted(
                message_id=self.id,
                index=block.index,
                kind=kind,
                node=self._node,
                namespace=self._namespace,
                task_id=self._task_id,
                tool_call_id=call_id,
                name=name,
            )
        )
        return block

    def _finish_written(self, begun: BlockKind) -> Iterable[Frame]:
        """End text and reasoning when something else has begun; more of them is a new block."""
        if begun != "text":
            self.said = None
        for key in [key for key in self._keys if key[0] in ("text", "reasoning")]:
            if key[0] != begun:
                yield self._finish(self._keys.pop(key))

    def _finish(self, block: Block) -> BlockFinished:
        block.finished = block.content()
        return BlockFinished(
            message_id=self.id,
            index=block.index,
            kind=block.kind,
            block=block.finished,
            node=self._node,
            namespace=self._namespace,
            task_id=self._task_id,
        )

    def _delta(self, block: Block, text: str) -> BlockDelta:
        text = plain(text)
        offset = block.length
        block.parts.append(text)
        block.length = offset + len(text)
        return block.delta(text, offset)

    def _note(self, message: BaseMessage) -> None:
        """Keep what a message tells about itself: usage, model, why it ended."""
        usage = getattr(message, "usage_metadata", None)
        if usage is not None:
            self.usage = add_usage(self.usage, usage)
        about = message.response_metadata
        reason = about.get("finish_reason") or about.get("stop_reason")
        if model := about.get("model_name") or about.get("model"):
            self._metadata["model_name"] = plain(model)
        if reason:
            self._metadata["finish_reason"] = plain(reason)


def _standard_blocks(message: BaseMessage) -> list[dict[str, Any]]:
    """The content of a message as LangChain's standard blocks."""
    try:
        return cast("list[dict[str, Any]]", message.content_blocks)
    except Exception:
        # A translator of a provider that trips over one of its blocks must not end the run.
        return [
            item if isinstance(item, dict) else {"type": "text", "text": str(item)}
            for item in message.content
        ]
