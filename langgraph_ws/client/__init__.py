"""The Python client of the chat protocol.

::

    async with connect("ws://127.0.0.1:8765/ws") as client:
        run = await client.new_chat("Hello", on_text=lambda text, message: print(text))
        print((await run.result()).text)
"""

from langgraph_ws.client.callbacks import (
    Callbacks,
)
from langgraph_ws.client.client import (
    Client,
    connect,
)
from langgraph_ws.client.connection import (
    ConnectionState,
)
from langgraph_ws.client.errors import (
    ClientError,
    ConnectionFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestRefused,
    RunFailedError,
)
from langgraph_ws.client.handles import (
    Run,
    Thread,
)
from langgraph_ws.client.messages import (
    Attempt,
    ChatMessage,
    Checkpoint,
    Custom,
    End,
    Error,
    Final,
    Gap,
    Interrupt,
    InterruptAnswered,
    Message,
    Reasoning,
    RolledBack,
    RunInfo,
    Snapshot,
    Source,
    Sources,
    State,
    Text,
    ToolCall,
    ToolResult,
    WorkflowStep,
)
from langgraph_ws.client.reconnect import (
    Reconnect,
)
from langgraph_ws.client.view import (
    Result,
)
from langgraph_ws.log import (
    Position,
)

__all__ = [
    "Attempt",
    "Callbacks",
    "ChatMessage",
    "Checkpoint",
    "Client",
    "ClientError",
    "ConnectionFailedError",
    "ConnectionLostError",
    "ConnectionState",
    "Custom",
    "End",
    "Error",
    "Final",
    "Gap",
    "Interrupt",
    "InterruptAnswered",
    "Message",
    "Position",
    "ProtocolError",
    "Reasoning",
    "Reconnect",
    "RequestRefused",
    "Result",
    "RolledBack",
    "Run",
    "RunFailedError",
    "RunInfo",
    "Snapshot",
    "Source",
    "Sources",
    "State",
    "Text",
    "Thread",
    "ToolCall",
    "ToolResult",
    "WorkflowStep",
    "connect",
]
