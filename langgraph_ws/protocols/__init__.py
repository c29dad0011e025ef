"""The wire protocols that a connection may speak, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from langgraph_ws.protocols.agui import AGUISession
from langgraph_ws.protocols.aisdk import AISDKSession
from langgraph_ws.protocols.chat import ChatSession
from langgraph_ws.protocols.langchain import LangChainSession
from langgraph_ws.session import Session

__all__ = ["PROTOCOLS"]

PROTOCOLS: Mapping[str, type[Session]] = MappingProxyType(
    {
        session.name: session
        for session in (ChatSession, LangChainSession, AISDKSession, AGUISession)
    }
)
"""Each wire protocol under its name."""
