"""A page to talk to a graph with: what is served for it over plain HTTP, beside the WebSocket.

The page holds nothing of any thread; that comes over the WebSocket, as to any other client. It
loads nothing from anywhere else, and its Content-Security-Policy allows it nothing else.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph as Drawable

    from langgraph_ws.commands import Identity
    from langgraph_ws.graphs import Graph, Graphs

__all__ = ["Playground"]

logger = logging.getLogger(__name__)

_STATIC: Final = Path(__file__).parent / "static"
_PAGE: Final = "playground.html"
_TYPES: Final = {".js": "text/javascript", ".css": "text/css"}
_POLICY: Final = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    # No text can become markup, whatever a script of the page does with it.
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_DESCRIBED_PATH: Final = "graphs"


@dataclass(frozen=True, slots=True)
class _Asset:
    """A file of the page, as it is served."""

    body: bytes
    content_type: str
    etag: str


class Playground:
    """The page of a route, its files, and what it has to know of the graphs.

    Args:
        graphs: The graphs that the route serves.
        examples: Messages that it offers to begin a conversation with.
    """

    def __init__(self, graphs: Graphs, examples: Sequence[str] = ()) -> None:
        self._graphs = graphs
        self._examples = list(examples)
        _assets()  # read before the event loop runs

    def page(self, request: web.Request, host: str) -> web.Response:
        """The page itself.

        Args:
            request: Where it is asked for: its last segment is what relative addresses go on from.
            host: The server's own host and port, as the browser knows them.
        """
        base = request.rel_url.raw_path.rpartition("/")[2]
        # "./", for what stands before a colon would be taken for a scheme.
        prefix = f"./{base}/playground" if base else "./playground"
        text = _template().replace("{playground}", html.escape(prefix))
        headers = {
            "Content-Security-Policy": _policy(host),
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        return _cached(request, _asset(text.encode(), "text/html"), headers)

    def asset(self, request: web.Request, name: str) -> web.Response:
        """A file of the page.

        Raises:
            web.HTTPNotFound: It has none of this name.
        """
        asset = _assets().get(name)
        if asset is None:
            raise web.HTTPNotFound(text="There is no such file.\n", headers=_HEADERS)
        return _cached(request, asset, {})

    @staticmethod
    def describes(name: str) -> bool:
        """Whether this is the name that the description of the graphs is served under."""
        return name == _DESCRIBED_PATH

    async def description(self, identity: Identity) -> web.Response:
        """What the page has to know: the graphs' drawings, what they take, and the examples."""
        graphs = [await self._describe(name, identity) for name in self._graphs.names]
        return web.Response(
            body=orjson.dumps({"graphs": graphs, "examples": self._examples}, default=str),
            content_type="application/json",
            headers={**_HEADERS, "Cache-Control": "no-store"},
        )

    async def _describe(self, name: str, identity: Identity) -> dict[str, Any]:
        try:
            async with self._graphs.open(name, identity) as graph:
                schema = _input_schema(graph)
                chat = _takes_messages(graph, schema)
                return {
                    "name": name,
                    "chat": chat,
                    # What a chat takes is known, and its schema is long.
                    "input_schema": None if chat else schema,
                    **await _drawing(graph),
                }
        except Exception:
            logger.exception("the graph %r cannot be described to the playground", name)
            return {"name": name, "chat": True, "input_schema": None, "nodes": [], "edges": []}


# --- the graphs ------------------------------------------------------------------------------


def _input_schema(graph: Graph) -> dict[str, Any] | None:
    """The JSON Schema of the input; None when a type in it has none."""
    try:
        schema: dict[str, Any] = graph.get_input_jsonschema()
    except Exception:
        logger.debug("the input of a graph has no JSON Schema", exc_info=True)
        return None
    return schema


def _takes_messages(graph: Graph, schema: dict[str, Any] | None) -> bool:
    """Whether it is a chat; where nothing tells, it is taken for one."""
    if schema is None:
        return "messages" in getattr(graph, "channels", ("messages",))
    if schema.get("properties"):
        return "messages" in schema["properties"]
    return getattr(graph, "builder", None) is None and not schema.get("type")


async def _drawing(graph: Graph) -> dict[str, Any]:
    """Nodes and edges, those of subgraphs included; none where the graph cannot be drawn."""
    try:
        drawable = await graph.aget_graph(xray=True)
    except Exception:
        logger.debug("a graph cannot be drawn", exc_info=True)
        return {"nodes": [], "edges": []}
    return {"nodes": _nodes(drawable), "edges": _edges(drawable)}


def _nodes(drawable: Drawable) -> list[dict[str, Any]]:
    return [{"id": node.id, "name": node.name} for node in drawable.nodes.values()]


def _edges(drawable: Drawable) -> list[dict[str, Any]]:
    return [
        {"source": edge.source, "target": edge.target, "conditional": edge.conditional}
        for edge in drawable.edges
    ]


# --- files -----------------------------------------------------------------------------------


@cache
def _assets() -> Mapping[str, _Asset]:
    """The files that may be asked for, by name: no name ever becomes a path."""
    return {
        path.name: _asset(path.read_bytes(), _TYPES[path.suffix])
        for path in sorted(_STATIC.iterdir())
        if path.suffix in _TYPES
    }


@cache
def _template() -> str:
    return (_STATIC / _PAGE).read_text(encoding="utf-8")


def _asset(body: bytes, content_type: str) -> _Asset:
    return _Asset(body, content_type, sha256(body).hexdigest()[:32])


def _cached(request: web.Request, asset: _Asset, headers: Mapping[str, str]) -> web.Response:
    """The asset, or 304 for a browser that has it: it asks each time, for it may be another's."""
    known = request.if_none_match or ()
    fresh = any(etag.value in (asset.etag, "*") for etag in known)
    response = web.Response(
        status=304 if fresh else 200,
        body=None if fresh else asset.body,
        headers={**_HEADERS, **headers, "Cache-Control": "private, no-cache"},
    )
    if not fresh:
        response.content_type = asset.content_type
        response.charset = "utf-8"
    response.etag = asset.etag
    return response


def _policy(host: str) -> str:
    connect = "connect-src 'self'"
    if _HOST.fullmatch(host):
        # Safari before 15.4 does not take a WebSocket of the page's own origin for 'self'.
        connect += f" ws://{host} wss://{host}"
    return "; ".join((*_POLICY, connect))
