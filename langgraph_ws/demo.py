"""The built-in demo graph: everything that a run can say, with no key and no network.

It is what `python -m langgraph_ws` serves. Its model says what is written down here; its search
really searches, in a handful of documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

from langgraph_ws.scripted import Reply, ScriptedModel, call

__all__ = ["demo_graph"]

HELP = """\
You can type:

- a question about LangGraph or this package ("What is a superstep?"): a subgraph thinks, calls \
a search tool and finds sources;
- **approve**: the graph stops and asks you before it goes on;
- **both**: two nodes write at the same time;
- **long**: a long answer, to cancel, to reconnect to, or to stop the server under;
- **fail**: a node raises an error; continue the thread, and it gets over it;
- **help**: this list."""

EXAMPLES = ("What is a superstep?", "approve", "both", "long", "fail", "help")
"""What the playground offers to type."""

_LINKS = "https://docs.langchain.com/oss/python/langgraph/"

DOCUMENTS = (
    Document(
        id="supersteps",
        page_content=(
            "A superstep is one tick of a LangGraph graph. Nodes that run in the same superstep "
            "run side by side; the next one begins when all of them have ended, and their writes "
            "have been applied to the state."
        ),
        metadata={"title": "Supersteps", "url": f"{_LINKS}graph-api"},
    ),
    Document(
        id="checkpoints",
        page_content=(
            "A graph that is compiled with a checkpointer saves a checkpoint of its state after "
            "each superstep. The checkpoints of one conversation make up a thread, which can be "
            "resumed, edited and forked from any of them."
        ),
        metadata={"title": "Checkpoints and threads", "url": f"{_LINKS}persistence"},
    ),
    Document(
        id="interrupts",
        page_content=(
            "Calling interrupt() in a node stops the graph and shows a value to a person. The "
            "answer comes back as the result of the same call: the node runs again from its "
            "start, so what stands before the call should do no harm when it is done twice."
        ),
        metadata={"title": "Interrupts", "url": f"{_LINKS}interrupts"},
    ),
    Document(
        id="subgraphs",
        page_content=(
            "A compiled graph can be a node of another one: a subgraph. What it streams names "
            "the namespace that it comes from, so a client can show it where it belongs."
        ),
        metadata={"title": "Subgraphs", "url": f"{_LINKS}use-subgraphs"},
    ),
    Document(
        id="reconnect",
        page_content=(
            "langgraph_ws keeps what a run says in the log of its thread. A client that lost its "
            "connection sends attach with the last seq and the epoch it has seen, and gets what "
            "it missed, nothing twice. The run itself never noticed."
        ),
        metadata={"title": "Reconnecting (PROTOCOL.md)"},
    ),
    Document(
        id="cancel",
        page_content=(
            "A disconnect does not stop a run in langgraph_ws; the message cancel does. The run "
            "ends as cancelled when its task and its subgraphs have really ended, and what was "
            "streamed until then stays in the log."
        ),
        metadata={"title": "Cancelling (PROTOCOL.md)"},
    ),
    Document(
        id="websocket",
        page_content=(
            "A WebSocket connection starts as an HTTP request that asks for an upgrade, and then "
            "carries messages both ways until one side closes it."
        ),
        metadata={
            "title": "RFC 6455: The WebSocket Protocol",
            "url": "https://www.rfc-editor.org/rfc/rfc6455",
        },
    ),
)

CHAPTERS = (
    (
        "First chapter. A run is a task of its own on the server. It writes what it has to say to "
        "the log of its thread, one frame after the other, and each frame gets the next number. "
        "Nobody has to listen for that: close this window now, and the story goes on."
    ),
    (
        "Second chapter. A connection is only a reader of that log, with a finger on the number it "
        "read last. When the line breaks, it comes back and says the number. It then hears what it "
        "missed, and after that what is being written; there is no difference between the two."
    ),
    (
        "Third chapter. Between two chapters lies the end of a superstep, and the state is saved. "
        "A server that has to go away lets each run come this far and stops it there. Its clients "
        "hear that the run was drained, and how long to wait before they come back."
    ),
    (
        "Last chapter. Whoever joins late is told everything from the beginning, and in a second "
        "window you see the same as in the first. That is all there is to it: one writer, one "
        "log, and as many readers as you like."
    ),
)


Update = dict[str, Any]


class DocumentSearch(BaseRetriever):
    """Finds the documents that share the most words with a question."""

    documents: Sequence[Document] = DOCUMENTS
    limit: int = 2

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        wanted = _stems(query)
        ranked = sorted(self.documents, key=partial(_likeness, wanted), reverse=True)
        return [found for found in ranked[: self.limit] if _likeness(wanted, found)]


def demo_graph(*, delay: float = 0.025) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The demo graph, which remembers its threads in memory.

    Args:
        delay: Seconds before each chunk that its model streams.
    """
    nodes = _Nodes(delay)
    graph = StateGraph(MessagesState)
    graph.add_node("help", nodes.help)
    graph.add_node("research", _research_graph(nodes))
    graph.add_node("answer", nodes.answer)
    graph.add_node("summarize", nodes.summarize)
    graph.add_node("approve", nodes.approve)
    graph.add_node("left", nodes.left)
    graph.add_node("right", nodes.right)
    graph.add_node("tell", nodes.tell)
    graph.add_node("stumble", nodes.stumble)
    graph.add_conditional_edges(
        START, _route, ["help", "research", "summarize", "left", "right", "tell", "stumble"]
    )
    graph.add_edge("research", "answer")
    graph.add_edge("summarize", "approve")
    graph.add_conditional_edges("tell", _go_on_telling, ["tell", END])
    return graph.compile(checkpointer=InMemorySaver(), name="demo")


def _research_graph(nodes: _Nodes) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The subgraph that thinks, and searches the documents."""
    graph = StateGraph(MessagesState)
    graph.add_node("think", nodes.think)
    graph.add_node("tools", ToolNode([_search_tool()]))
    graph.add_edge(START, "think")
    graph.add_edge("think", "tools")
    return graph.compile(name="research")


def _search_tool() -> BaseTool:
    search = DocumentSearch()

    @tool
    async def search_documents(query: str) -> str:
        """Search the documents of this demo."""
        found = await search.ainvoke(query)
        return "\n\n".join(document.page_content for document in found) or "Nothing was found."

    return search_documents


def _route(state: MessagesState) -> str | list[str]:
    """Where to begin, by what was typed."""
    typed = _typed(state).strip().strip(".!").lower()
    routes: dict[str, str | list[str]] = {
        "help": "help",
        "approve": "summarize",
        "both": ["left", "right"],
        "long": "tell",
        "fail": "stumble",
    }
    return routes.get(typed, "research" if _stems(typed) else "help")


def _go_on_telling(state: MessagesState) -> str:
    return "tell" if _chapters_told(state) < len(CHAPTERS) else END


@dataclass(frozen=True, slots=True)
class _Nodes:
    """The nodes of the demo graph.

    `delay`: seconds before each chunk; `stumbled`: the messages that `stumble` has failed on.
    """

    delay: float
    stumbled: set[str] = field(default_factory=set)

    async def _say(self, state: MessagesState, reply: Reply) -> Update:
        """Stream a reply, and keep it as the next message."""
        model = ScriptedModel([reply])
        return {"messages": [await model.ainvoke(state["messages"])]}

    def _reply(self, text: str, **more: Any) -> Reply:
        return Reply(text=text, delay=self.delay, usage=(len(text) // 5, len(text) // 4), **more)

    async def help(self, state: MessagesState) -> Update:
        """Say what can be typed."""
        return await self._say(state, self._reply(f"Hello! I am a demo graph. {HELP}"))

    async def think(self, state: MessagesState) -> Update:
        """Think about the question, and call the search tool."""
        question = _typed(state)
        reasoning = f"They ask: {question[:80]!r}. I should look that up before I say anything."
        looked_up = call("search_documents", f"call_{len(state['messages'])}", query=question)
        reply = self._reply("Let me look that up.", reasoning=reasoning, tool_calls=[looked_up])
        return await self._say(state, reply)

    async def answer(self, state: MessagesState) -> Update:
        """Answer from what the search has found."""
        write = get_stream_writer()
        write({"name": "progress", "payload": {"percent": 50, "doing": "writing the answer"}})
        parts = [str(state["messages"][-1].text)]
        if _is_first_answer(state):
            parts.append(f"(I am a demo graph: my words are scripted. {HELP})")
        update = await self._say(state, self._reply("\n\n".join(parts)))
        write({"name": "progress", "payload": {"percent": 100, "doing": "done"}})
        return update

    async def summarize(self, state: MessagesState) -> Update:
        """Write the summary that `approve` asks about."""
        turns = sum(isinstance(message, HumanMessage) for message in state["messages"])
        asked = "once" if turns == 1 else f"{turns} times"
        text = f"A summary of our conversation: you have asked {asked}, and I have answered gladly."
        return await self._say(state, self._reply(text))

    async def approve(self, state: MessagesState) -> Update:
        """Ask whether to send the summary, and go on with the answer."""
        answer = interrupt({"question": "May I send this summary?", "options": ["yes", "no"]})
        if str(answer).strip().lower() in ("yes", "y", "true"):
            text = "Sent! (Not really: this demo sends nothing anywhere.)"
        else:
            text = f"You said {str(answer)[:80]!r}, so I have not sent it."
        return await self._say(state, self._reply(text))

    async def left(self, state: MessagesState) -> Update:
        """Write at the same time as `right`."""
        text = "I am the left node. We run in the same superstep, and our chunks come interleaved."
        return await self._say(state, self._reply(text))

    async def right(self, state: MessagesState) -> Update:
        """Write at the same time as `left`."""
        text = "I am the right node. Every piece names its message, so nothing gets mixed up."
        return await self._say(state, self._reply(text))

    async def tell(self, state: MessagesState) -> Update:
        """Tell the next chapter, one for each superstep."""
        return await self._say(state, self._reply(CHAPTERS[_chapters_told(state)]))

    async def stumble(self, state: MessagesState) -> Update:
        """Fail in the middle of a sentence, and get over it when it is tried again."""
        asked = str(state["messages"][-1].id)
        if asked in self.stumbled:
            self.stumbled.remove(asked)
            return await self._say(state, self._reply("I got over it. Thank you for waiting."))
        self.stumbled.add(asked)
        text = "I was about to say something, and then"
        error = RuntimeError("the demo was asked to fail")
        return await self._say(state, self._reply(text, error=error))


def _typed(state: MessagesState) -> str:
    """What the user typed last."""
    typed = (str(m.text) for m in reversed(state["messages"]) if isinstance(m, HumanMessage))
    return next(typed, "")


def _chapters_told(state: MessagesState) -> int:
    """How much of "long" has been told since it was asked for."""
    newest_first = reversed(state["messages"])
    return sum(1 for _ in takewhile(lambda m: isinstance(m, AIMessage), newest_first))


def _is_first_answer(state: MessagesState) -> bool:
    return sum(isinstance(message, HumanMessage) for message in state["messages"]) == 1


def _likeness(wanted: frozenset[str], document: Document) -> int:
    """How many of the words a document has; those of its title count more."""
    title = _stems(document.metadata["title"])
    return len(wanted & _stems(document.page_content)) + 3 * len(wanted & title)


def _stems(text: str) -> frozenset[str]:
    """The words of a text that mean something, without their endings."""
    words = "".join(char if char.isalnum() else " " for char in text.lower()).split()
    return frozenset(word[:6] for word in words if word not in _IDLE and len(word) > 2)


_SMALL_WORDS = """
about and any are but can does for from have hello how its not our she that the their them then
there they this was what when where which who why will with would you your
"""
_IDLE = frozenset(_SMALL_WORDS.split())
