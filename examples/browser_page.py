"""A page of thirty lines that talks to a graph: open http://127.0.0.1:8765/"""

from importlib.resources import files
from pathlib import Path

from aiohttp import web

from langgraph_ws import attach_websocket
from langgraph_ws.demo import demo_graph

PAGE = Path(__file__).with_name("browser_page.html")
CLIENT = files("langgraph_ws") / "static" / "client.js"


async def page(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(PAGE)


async def client(request: web.Request) -> web.StreamResponse:
    return web.Response(text=CLIENT.read_text("utf-8"), content_type="text/javascript")


def make_app(graph):
    app = web.Application()
    attach_websocket(app, graph)
    app.router.add_get("/", page)
    app.router.add_get("/client.js", client)
    return app


if __name__ == "__main__":
    web.run_app(make_app(demo_graph()), host="127.0.0.1", port=8765)
