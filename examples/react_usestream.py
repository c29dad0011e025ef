"""The page of `react_usestream/`, which talks to a graph as to LangGraph Platform.

Build it with `npm ci && npm run build` in that directory, run this, and open http://127.0.0.1:8765/.
"""

from pathlib import Path

from aiohttp import web

from langgraph_ws import attach_websocket
from langgraph_ws.demo import demo_graph

PAGE = Path(__file__).with_name("react_usestream") / "dist"


async def index(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE / "index.html")


def make_app(graphs):
    app = web.Application()
    attach_websocket(app, graphs, "/agent", protocols=("chat", "langchain"))
    app.router.add_get("/", index)
    app.router.add_static("/assets", PAGE / "assets")
    return app


if __name__ == "__main__":
    web.run_app(make_app({"agent": demo_graph()}), host="127.0.0.1", port=8765)
