"""A chat model that streams what was written down: for tests and demos, with no key and no network.

Applications import it from `langgraph_ws.testing`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall
from langchain_core.messages.ai import UsageMetadata, add_ai_message_chunks
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field, PrivateAttr

__all__ = ["Reply", "ScriptedModel", "call"]


def call(name: str, /, call_id: str | None = None, **args: Any) -> ToolCall:
    """A tool call for a `Reply`.

    Args:
        name: The tool.
        call_id: Its id; `call_<name>` when None.
        args: The arguments.
    """
    return ToolCall(name=name, args=args, id=call_id or f"call_{name}", type="tool_call")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of a `ScriptedModel`, streamed in this order: reasoning, text, tool calls.

    Attributes:
        text: What it says.
        reasoning: What it thinks first.
        tool_calls: The tools that it calls; their arguments come in pieces, all calls by turns.
        citations: Citation annotations (LangChain's `Citation`) at the end of the text.
        usage: Input and output tokens, told with the last chunk; None: nothing is told.
        delay: Seconds before each chunk.
        error: What it raises.
        error_after: How many chunks come before `error`; None: all of them.
        chunk_chars: Characters in a chunk.
        whole: Whether everything comes in one chunk.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolCall] = ()
    citations: Sequence[Mapping[str, Any]] = ()
    usage: tuple[int, int] | None = None
    delay: float = 0.0
    error: BaseException | None = None
    error_after: int | None = None
    chunk_chars: int = 4
    whole: bool = False


class ScriptedModel(BaseChatModel):
    """A chat model that answers with what it was given, in order, and then from the start again.

    It streams text, reasoning and tool calls as real models do (LangChain's own fake models do
    not stream tool calls), and needs no key and no network. With LangChain's own option
    `disable_streaming=True` it is a model that cannot stream.

    Args:
        responses: `Reply`s, texts, or `AIMessage`s.
    """

    responses: list[Any] = Field(default_factory=list)
    _turns: Iterator[int] = PrivateAttr(default_factory=count)

    def __init__(self, responses: Sequence[Reply | AIMessage | str], **kwargs: Any) -> None:
        kwargs["responses"] = [_reply(response) for response in responses]
        super().__init__(**kwargs)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """The model itself: what it calls is written down."""
        return self

    def _next(self) -> Reply:
        return cast("Reply", self.responses[next(self._turns) % len(self.responses)])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(list(_paced(self._next())))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _paced(self._next()):
            generation = ChatGenerationChunk(message=chunk)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=generation)
            yield generation

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = self._next()
        for chunk in _chunks_or_error(reply):
            await asyncio.sleep(reply.delay)
            generation = ChatGenerationChunk(message=chunk)
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=generation)
            yield generation

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._next()
        await asyncio.sleep(reply.delay)
        return _result(list(_chunks_or_error(reply)))


def _reply(response: Reply | AIMessage | str) -> Reply:
    if isinstance(response, str):
        return Reply(text=response)
    if isinstance(response, AIMessage):
        usage = response.usage_metadata
        return Reply(
            text=response.text,
            tool_calls=response.tool_calls,
            usage=None if usage is None else (usage["input_tokens"], usage["output_tokens"]),
        )
    return response


def _result(chunks: list[AIMessageChunk]) -> ChatResult:
    whole = add_ai_message_chunks(*chunks)
    message = AIMessage(
        content=whole.content,
        tool_calls=whole.tool_calls,
        usage_metadata=whole.usage_metadata,
        response_metadata=whole.response_metadata,
        additional_kwargs=whole.additional_kwargs,
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _paced(reply: Reply) -> Iterator[AIMessageChunk]:
    for chunk in _chunks_or_error(reply):
        if reply.delay:
            time.sleep(reply.delay)
        yield chunk


def _chunks_or_error(reply: Reply) -> Iterator[AIMessageChunk]:
    """The chunks of a reply, as far as they come."""
    chunks = _chunks(reply)
    yield from chunks if reply.error is None else chunks[: reply.error_after]
    if reply.error is not None:
        raise reply.error


def _chunks(reply: Reply) -> list[AIMessageChunk]:
    chunks = [
        AIMessageChunk(content=[{"type": "reasoning", "reasoning": piece, "index": 0}])
        for piece in _pieces(reply.reasoning, reply.chunk_chars)
    ]
    chunks += [_text_chunk(reply, piece) for piece in _pieces(reply.text, reply.chunk_chars)]
    if reply.citations:
        block = {"type": "text", "text": "", "index": 1, "annotations": list(reply.citations)}
        chunks.append(AIMessageChunk(content=[block]))
    chunks += [*_tool_chunks(reply), _last_chunk(reply)]
    return [add_ai_message_chunks(*chunks)] if reply.whole else chunks


def _text_chunk(reply: Reply, piece: str) -> AIMessageChunk:
    """Plain text, or a block with a number where the message has other blocks, too."""
    if reply.reasoning or reply.citations:
        return AIMessageChunk(content=[{"type": "text", "text": piece, "index": 1}])
    return AIMessageChunk(content=piece)


def _tool_chunks(reply: Reply) -> Iterator[AIMessageChunk]:
    """The pieces of all tool calls, by turns: the name first, then the arguments."""
    pieces = {
        index: [None, *_pieces(json.dumps(tool_call["args"]), reply.chunk_chars)]
        for index, tool_call in enumerate(reply.tool_calls)
    }
    for turn in range(max((len(parts) for parts in pieces.values()), default=0)):
        for index, parts in pieces.items():
            if turn < len(parts):
                yield _tool_chunk(reply.tool_calls[index], index, parts[turn])


def _tool_chunk(tool_call: ToolCall, index: int, piece: str | None) -> AIMessageChunk:
    first = piece is None
    return AIMessageChunk(
        content="",
        tool_call_chunks=[
            {
                "name": tool_call["name"] if first else None,
                "id": tool_call["id"] if first else None,
                "args": piece or "",
                "index": index,
                "type": "tool_call_chunk",
            }
        ],
    )


def _last_chunk(reply: Reply) -> AIMessageChunk:
    """The chunk that tells why the model stopped, and what it cost."""
    about = {
        "finish_reason": "tool_calls" if reply.tool_calls else "stop",
        "model_name": "scripted",
    }
    usage: UsageMetadata | None = None
    if reply.usage is not None:
        given, made = reply.usage
        usage = UsageMetadata(input_tokens=given, output_tokens=made, total_tokens=given + made)
    return AIMessageChunk(content="", response_metadata=about, usage_metadata=usage)


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
