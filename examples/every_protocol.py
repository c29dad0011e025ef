"""One graph for every client: its threads are the same, whatever protocol they are seen through.

Run it, then open http://127.0.0.1:8765/ws, and ask it something from elsewhere:

    node examples/agui_websocket/talk.mjs ws://127.0.0.1:8765/ws/agui "What is a superstep?"
    npm --prefix examples/react_usechat run dev   # its page asks ?url=ws://127.0.0.1:8765/ws/aisdk
"""

from aiohttp import web

from langgraph_ws import attach_websocket
from langgraph_ws.demo import demo_graph

app = web.Application()
attach_websocket(
    app,
    demo_graph(),
    protocols=("chat", "langchain", "aisdk", "agui"),
    allowed_origins=["http://localhost:5173"],  # where Vite serves the page
    playground=True,
)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8765)
