"""Put a LangGraph graph on a WebSocket: two lines in an aiohttp application.

::

    app = web.Application()
    attach_websocket(app, graph)
"""

from importlib.metadata import version

from langgraph_ws.aiohttp import ATTACHMENTS, Attachment, attach_websocket
from langgraph_ws.commands import Identity
from langgraph_ws.current import CurrentRun, current_run
from langgraph_ws.errors import ConfigurationError, GapError, LangGraphWSError, RequestError
from langgraph_ws.limits import Limits
from langgraph_ws.log import Position, Retention
from langgraph_ws.log.memory import MemoryThreadLog
from langgraph_ws.mapping import ChatMapper, Mapper, on
from langgraph_ws.run import CancelledRun
from langgraph_ws.streaming import stream_frames

__all__ = [
    "ATTACHMENTS",
    "Attachment",
    "CancelledRun",
    "ChatMapper",
    "ConfigurationError",
    "CurrentRun",
    "GapError",
    "Identity",
    "LangGraphWSError",
    "Limits",
    "Mapper",
    "MemoryThreadLog",
    "Position",
    "RequestError",
    "Retention",
    "attach_websocket",
    "current_run",
    "on",
    "stream_frames",
]

__version__ = version("langgraph-ws")
