"""Documents and citations become one ordered list of sources."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from pydantic import BaseModel

from langgraph_ws.frames import (
    Frame,
    MessageFinished,
    RunFinished,
    RunResult,
    Source,
    Sources,
    ToolFinished,
)
from langgraph_ws.mapping import ChatMapper
from langgraph_ws.sources import SourceList, documents_in
from langgraph_ws.testing import Reply, call, record
from tests.graphs import HELLO, Anything, Shelf, agent, asking, chat, line, nested, says, thread

CATS = Document("All about cats. " * 40, metadata={"source": "https://x.org/cats", "title": "Cats"})
DOGS = Document("All about dogs.", id="dogs", metadata={"file_name": "dogs.pdf", "page": 3})


async def sources(graph: Any, given: Any = HELLO, **options: Any) -> list[Sources]:
    frames: list[Frame] = await record(graph, given, mapper=ChatMapper.extend(**options))
    told = [frame for frame in frames if isinstance(frame, Sources)]
    (result,) = [frame for frame in frames if isinstance(frame, RunResult)]
    assert result.sources == (told[-1].sources if told else ())
    return told


async def test_a_retriever_anywhere_in_the_graph() -> None:
    async def node(state: Any) -> None:
        await Shelf(documents=[CATS, DOGS]).ainvoke("pets")

    (told,) = await sources(nested(2, node))
    assert told.added == 2
    cats, dogs = told.sources
    assert (cats.id, cats.title, cats.url) == ("s1", "Cats", "https://x.org/cats")
    assert (dogs.id, dogs.title, dogs.url) == ("dogs", "dogs.pdf", None)
    assert cats.snippet == CATS.page_content[:300]
    assert dogs.metadata == {"file_name": "dogs.pdf", "page": 3}


async def test_a_retriever_in_a_node_that_is_not_async() -> None:
    def node(state: Any) -> None:
        Shelf(documents=[CATS]).invoke("cats")
        get_stream_writer()("after")

    frames = await record(line(("n", node)), HELLO)
    kinds = [type(frame).__name__ for frame in frames]
    assert kinds.index("Sources") < kinds.index("Custom")


async def test_a_retriever_that_fails_or_is_silent_tells_nothing() -> None:
    class Broken(Shelf):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> Any:
            raise ValueError("no shelf")

    async def node(state: Any) -> None:
        await Shelf(documents=[CATS]).with_config(tags=["nostream"]).ainvoke("cats")
        with suppress(ValueError):
            await Broken(documents=[]).ainvoke("x")

    assert await sources(line(("n", node))) == []


async def test_sources_grow_without_duplicates() -> None:
    async def node(state: Any) -> None:
        await Shelf(documents=[CATS]).ainvoke("a")
        await Shelf(documents=[CATS, DOGS]).ainvoke("b")
        await Shelf(documents=[DOGS]).ainvoke("c")

    told = await sources(line(("n", node)))
    assert [(len(s.sources), s.added) for s in told] == [(1, 1), (2, 1)]


@pytest.mark.parametrize(
    "artifact", [CATS, [CATS, DOGS], {"documents": [CATS]}, ("x", [DOGS]), {"one": CATS, "n": 1}]
)
async def test_documents_in_the_artifact_of_a_tool(artifact: Any) -> None:
    @tool(response_format="content_and_artifact")
    def search() -> tuple[str, Any]:
        """Search."""
        return "found", artifact

    graph = agent([search], Reply(tool_calls=[call("search", "c1")]), "done")
    frames = await record(graph, HELLO)
    (told,) = [frame for frame in frames if isinstance(frame, Sources)]
    assert told.added == len(list(documents_in(artifact)))
    (ended,) = [frame for frame in frames if isinstance(frame, ToolFinished)]
    assert frames.index(told) < frames.index(ended)
    assert ended.artifact is not None


async def test_documents_that_a_tool_returns_or_a_node_writes_as_its_message() -> None:
    @tool
    def search() -> list[Document]:
        """Search."""
        return [CATS]

    async def node(state: Any) -> dict[str, Any]:
        await search.ainvoke({})
        return {"messages": [ToolMessage("x", tool_call_id="c9", artifact=[DOGS])]}

    told = await sources(line(("n", node)))
    assert [s.sources[-1].title for s in told] == ["Cats", "dogs.pdf"]


def cite(**fields: Any) -> dict[str, Any]:
    return {"type": "citation", **fields}


async def test_citations_of_a_message() -> None:
    citations = [
        cite(url="https://x.org/cats", title="Cats", cited_text="meow"),
        cite(url="https://x.org/cats", cited_text="again"),
        cite(title="A book", cited_text="page 7"),
        cite(),
        {"type": "footnote", "url": "https://no.org"},
    ]
    frames = await record(chat(Reply(text="So it is.", citations=citations)), HELLO)
    (told,) = [frame for frame in frames if isinstance(frame, Sources)]
    (message,) = [frame for frame in frames if isinstance(frame, MessageFinished)]
    assert [(s.url, s.title, s.snippet) for s in told.sources] == [
        ("https://x.org/cats", "Cats", "meow"),
        (None, "A book", "page 7"),
    ]
    assert len(message.citations) == 4


async def test_a_citation_of_what_was_retrieved_is_nothing_new() -> None:
    cited = AIMessage(
        [{"type": "text", "text": "x", "annotations": [cite(url=CATS.metadata["source"])]}]
    )

    async def node(state: Any) -> dict[str, Any]:
        await Shelf(documents=[CATS]).ainvoke("cats")
        return {"messages": [cited]}

    (told,) = await sources(line(("n", node)))
    assert len(told.sources) == 1


async def test_a_key_of_the_state() -> None:
    graph = line(
        ("find", lambda state: {"value": [CATS, {"title": "T", "url": "https://t.org"}, "a text"]}),
        ("idle", lambda state: {"log": ["nothing"]}),
        ("none", lambda state: None),
        state=Anything,
    )
    (told,) = await sources(graph, {"value": None}, sources="value")
    assert [(s.title, s.url, s.snippet) for s in told.sources][1:] == [
        ("T", "https://t.org", None),
        (None, None, "a text"),
    ]
    assert await sources(graph, {"value": None}) == []


@pytest.mark.parametrize("found", ["https://x.org", {"url": "https://x.org"}, ["https://x.org"]])
async def test_one_source_need_not_stand_in_a_list(found: Any) -> None:
    graph = line(("find", lambda state: {"value": found}), state=Anything)
    (told,) = await sources(graph, {"value": None}, sources="value")
    assert [s.url for s in told.sources] == ["https://x.org"]


async def test_a_function_of_what_a_node_wrote() -> None:
    class State(BaseModel):
        hits: list[Any] = []

    graph = line(("find", lambda state: State(hits=[DOGS])), state=State)
    (told,) = await sources(graph, State(), sources=lambda values: values["hits"])
    assert told.sources[0].id == "dogs"


async def test_an_interrupt_is_no_source() -> None:
    frames = await record(asking(), HELLO, thread(), mapper=ChatMapper.extend(sources="messages"))
    assert frames[-1] == RunFinished(status="interrupted")


async def test_sources_as_a_method() -> None:
    class Mine(ChatMapper):
        def sources(self, values: Any) -> Any:
            return [Source(id="mine", title=str(values["messages"][0].content))]

    frames = await record(line(("n", says(AIMessage("x")))), HELLO, mapper=Mine)
    (told,) = [frame for frame in frames if isinstance(frame, Sources)]
    assert told.sources == (Source(id="mine", title="x"),)


def test_ids_are_unique_and_stay() -> None:
    found = SourceList(10)
    first = found.add([Document("a", id="s2"), Document("b"), Document("c"), Document("b")])
    assert first is not None
    assert [s.id for s in first.sources] == ["s2", "s3", "s4"]
    assert first.added == 3
    second = found.add([Document("d")])
    assert second is not None
    assert second.sources[:3] == first.sources
    assert found.add([]) is None
    assert found.all == second.sources


def test_pages_of_one_address_are_sources_of_their_own() -> None:
    found = SourceList(10)
    pages = [Document("x", metadata={"source": "book.pdf", "page": page}) for page in (1, 2, 2)]
    told = found.add(pages)
    assert told is not None
    assert told.added == 2
    assert {s.url for s in told.sources} == {None}


def test_metadata_that_json_cannot_hold() -> None:
    told = SourceList(0).add([Document("text", metadata={"raw": b"x", "when": {1}})])
    assert told is not None
    (source,) = told.sources
    assert source.metadata == {"raw": "eA==", "when": [1]}
    assert source.snippet is None


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(TypeError, match="sources: expected documents, got int"):
        SourceList(10).add([7])
