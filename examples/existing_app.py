"""An application that has routes and a bearer-token middleware of its own, and gets a graph."""

from aiohttp import web
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from langgraph_ws import Identity, attach_websocket
from langgraph_ws.testing import ScriptedModel

TOKENS = {"token-of-ada": "ada", "token-of-bob": "bob"}


class Context(TypedDict):
    user: str


async def agent(state: MessagesState, runtime: Runtime[Context]) -> MessagesState:
    model = ScriptedModel([f"Hello {runtime.context['user']}!"])
    return {"messages": [await model.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState, context_schema=Context)
builder.add_node("agent", agent)
builder.add_edge(START, "agent")
graph = builder.compile(checkpointer=InMemorySaver())


def user_of(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return TOKENS.get(token) if scheme.lower() == "bearer" else None


@web.middleware
async def bearer(request: web.Request, handler) -> web.StreamResponse:
    if user_of(request) is None:
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
    return await handler(request)


async def whoami(request: web.Request) -> web.Response:
    return web.json_response({"user": user_of(request)})


def authorize(request: web.Request) -> Identity:
    """Who the client is: threads belong to `id`, and the graph gets `config` as its context."""
    return Identity(id=user_of(request), config={"user": user_of(request)})


app = web.Application(middlewares=[bearer])
app.router.add_get("/whoami", whoami)
attach_websocket(
    app, graph, "/chat", authorize=authorize, allowed_origins=["https://app.example.com"]
)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8765)
