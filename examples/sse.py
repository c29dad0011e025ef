"""Server-sent events from the same mapper, with `stream_frames` and no WebSocket anywhere.

Try it: curl -N 'http://127.0.0.1:8765/events?q=What+is+a+superstep'
"""

import json
from contextlib import aclosing

from aiohttp import web

from langgraph_ws import stream_frames
from langgraph_ws.codec import encode_frame
from langgraph_ws.demo import demo_graph

graph = demo_graph()


async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    question = {"messages": request.query.get("q", "help")}
    # A client that leaves cancels this handler (or fails the write), and that stops the graph.
    async with aclosing(stream_frames(graph, question)) as frames:
        async for frame in frames:
            data = json.dumps(encode_frame(frame))
            await response.write(f"event: {type(frame).__name__}\ndata: {data}\n\n".encode())
    return response


app = web.Application()
app.router.add_get("/events", events)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8765)
