"""The scripted model streams what was written down, however it is asked."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata, add_ai_message_chunks
from langchain_core.tools import tool

from langgraph_ws.testing import Reply, ScriptedModel, call

CALLS = [call("search", query="cats"), call("search", "c-2", query="dogs", limit=2)]
EVERYTHING = Reply(
    text="Let me see.",
    reasoning="Cats or dogs?",
    tool_calls=CALLS,
    citations=[{"type": "citation", "url": "https://example.com"}],
    usage=(3, 4),
)


class Tokens(BaseCallbackHandler):
    """What the callbacks of a model are told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.heard.append(str(token))


def has_everything(message: AIMessage) -> bool:
    blocks = {block["type"]: block for block in message.content_blocks}
    return (
        blocks["reasoning"].get("reasoning") == "Cats or dogs?"
        and message.text == "Let me see."
        and message.tool_calls == CALLS
        and message.usage_metadata == UsageMetadata(input_tokens=3, output_tokens=4, total_tokens=7)
        and message.response_metadata["finish_reason"] == "tool_calls"
    )


async def all_ways(model: ScriptedModel) -> list[AIMessage]:
    """The answer of the model, asked in each way that there is."""
    streamed: list[list[Any]] = [[*model.stream("hi")], [it async for it in model.astream("hi")]]
    return [model.invoke("hi"), await model.ainvoke("hi"), *map(joined, streamed)]


def joined(chunks: list[Any]) -> AIMessage:
    if isinstance(chunks[0], AIMessageChunk):
        return add_ai_message_chunks(*chunks)
    [whole] = chunks  # of a model that does not stream
    return AIMessage.model_validate(whole.model_dump())


@pytest.mark.parametrize("reply", [EVERYTHING, replace(EVERYTHING, whole=True)])
@pytest.mark.parametrize("disable_streaming", [False, True])
async def test_says_the_same_in_all_ways(reply: Reply, disable_streaming: bool) -> None:
    model = ScriptedModel([reply], disable_streaming=disable_streaming)
    assert [has_everything(answer) for answer in await all_ways(model)] == [True] * 4


async def test_answers_in_order_and_then_from_the_start() -> None:
    model = ScriptedModel(["one", AIMessage("two"), Reply(text="three")])
    said = [(await model.ainvoke("hi")).text for _ in range(4)]
    assert said == ["one", "two", "three", "one"]


async def test_message_keeps_its_tool_calls_and_usage() -> None:
    usage = UsageMetadata(input_tokens=1, output_tokens=2, total_tokens=3)
    model = ScriptedModel([AIMessage("", tool_calls=CALLS, usage_metadata=usage)])
    answer = await model.ainvoke("hi")
    assert (answer.tool_calls, answer.usage_metadata) == (CALLS, usage)


async def test_tool_calls_come_in_pieces_by_turns() -> None:
    model = ScriptedModel([Reply(tool_calls=CALLS, chunk_chars=8)])
    chunks: list[Any] = [chunk async for chunk in model.astream("hi")]
    pieces = [piece for chunk in chunks for piece in chunk.tool_call_chunks]
    assert [(it["index"], it["name"], it["id"]) for it in pieces[:3]] == [
        (0, "search", "call_search"),
        (1, "search", "c-2"),
        (0, None, None),
    ]
    assert "".join(str(it["args"]) for it in pieces if it["index"] == 0) == '{"query": "cats"}'


async def test_callbacks_hear_every_chunk() -> None:
    for asynchronous in (False, True):
        tokens = Tokens()
        model = ScriptedModel([Reply(text="abcdef", chunk_chars=2)], callbacks=[tokens])
        if asynchronous:
            [_ async for _ in model.astream("hi")]
        else:
            list(model.stream("hi"))
        assert "".join(tokens.heard) == "abcdef"
        assert len([token for token in tokens.heard if token]) == 3


@pytest.mark.parametrize("after", [None, 0, 1])
async def test_fails_when_it_is_told_to(after: int | None) -> None:
    reply = Reply(text="abcd", chunk_chars=2, error=ValueError("no"), error_after=after)
    model = ScriptedModel([reply])
    heard: list[str] = []
    with pytest.raises(ValueError, match="no"):
        async for chunk in model.astream("hi"):
            heard += [chunk.text]
    assert "".join(heard) == {None: "abcd", 0: "", 1: "ab"}[after]
    with pytest.raises(ValueError, match="no"):
        model.invoke("hi")
    with pytest.raises(ValueError, match="no"):
        await ScriptedModel([reply], disable_streaming=True).ainvoke("hi")


async def test_takes_its_time() -> None:
    model = ScriptedModel([Reply(text="ab", chunk_chars=1, delay=0.01)])
    for asynchronous in (False, True):
        begin = time.monotonic()
        chunks = [it async for it in model.astream("")] if asynchronous else [*model.stream("")]
        assert "".join(chunk.text for chunk in chunks) == "ab"
        assert time.monotonic() - begin >= 0.025


def test_tools_may_be_bound() -> None:
    @tool
    def search(query: str) -> str:
        """Search."""
        return query

    model = ScriptedModel([Reply(tool_calls=CALLS)])
    assert model.bind_tools([search]).invoke("hi").tool_calls == CALLS
