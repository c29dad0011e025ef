"""Pages of every kind of origin, with every kind of credential in everything that carries one.

What must come of it stands in two tables that know nothing of the implementation: which origins
may connect, and whose credential is whose.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_ws import Identity, Limits
from tests.graphs import line
from tests.serving import Client, Site, serving

HOST = "chat.example.com"
LISTED = "https://app.example.org"
ORIGINS: dict[str, tuple[str | None, bool]] = {
    "the server's own": (f"http://{HOST}", True),
    "the server's own, port and all": (f"http://{HOST}:80", True),
    "upper case": (f"HTTP://{HOST.upper()}", True),
    "a listed one": (LISTED, True),
    "none: no browser": (None, True),
    "another scheme": (f"https://{HOST}", False),
    "another port": (f"http://{HOST}:8080", False),
    "a subdomain": (f"http://a.{HOST}", False),
    "the domain above": ("http://example.com", False),
    "a suffix": (f"http://{HOST}.evil.org", False),
    "a prefix": (f"http://evil{HOST}", False),
    "null": ("null", False),
    "a trailing dot": (f"http://{HOST}.", False),
    "user information": (f"http://{HOST}@evil.org", False),
    "another letter that looks alike": ("http://xn--cht-5cd.example.com", False),
    "a long one": (f"http://{'a' * 4_000}.{HOST}", False),
    "a listed one of another scheme": (LISTED.replace("https", "http"), False),
    "a path": (f"http://{HOST}/x", False),
}

STATES: dict[str, str | None] = {
    "valid": "ann",
    "expired": None,
    "of another": "bob",
    "used before": None,
    "made up": None,
    "none": None,
}
"""Whose a credential is; None: nobody's."""


class Desk:
    """The application's credentials; each may be used once."""

    def __init__(self) -> None:
        self._issued: dict[str, Identity] = {}

    def issue(self, state: str) -> str | None:
        if state == "none":
            return None
        token = secrets.token_urlsafe()
        if state not in ("used before", "made up"):
            expires = time.time() + (-1 if state == "expired" else 3_600)
            user = "bob" if state == "of another" else "ann"
            self._issued[token] = Identity(id=user, config={"who": user}, expires_at=expires)
        return token

    def redeem(self, token: str | None) -> Identity | None:
        return self._issued.pop(token or "", None)

    def authorize(self, request: web.Request) -> Identity | None:
        """By header, by cookie, or by a ticket in the address."""
        token = request.headers.get("X-Token") or request.cookies.get("token")
        return self.redeem(token or request.query.get("ticket"))

    async def authorize_token(self, _request: web.Request, token: str) -> Identity | None:
        return self.redeem(token)


def who_am_i() -> Any:
    """A graph that says who it is run for."""

    async def tell(_state: Any, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [AIMessage(config["configurable"].get("who", "nobody"))]}

    return line(("tell", tell), saver=InMemorySaver())


@dataclass
class Attempt:
    """One try to connect, and to hear who one is."""

    site: Site
    origin: str | None
    token: str | None
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.headers["Host"] = HOST
        if self.origin is not None:
            self.headers["Origin"] = self.origin

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.site.port}/ws{path}"

    async def open(self, path: str = "") -> aiohttp.ClientWebSocketResponse:
        return await self.site.session.ws_connect(self.url(path), headers=self.headers)

    async def chat(self, path: str = "", token: str | None = None) -> str:
        async with await self.open(path) as ws:
            client = Client(ws)
            if token is not None:
                await client.send("auth", token=token)
            await client.send("new_chat", messages=[{"role": "user", "content": "who?"}])
            async for message in ws:
                told = orjson.loads(message.data)
                if told["type"] == "final":
                    return str(told["data"]["text"])
                if told["type"] == "error":
                    return str(told["data"]["code"])
            return str(ws.close_code)

    async def post(self, path: str, body: Any) -> str:
        url, sent = self.url(path), orjson.dumps(body)
        async with self.site.session.post(url, data=sent, headers=self.headers) as response:
            text = await response.text()
            if response.status != 200:
                return str(response.status)
        return next((who for who in ("ann", "bob", "nobody") if f'"{who}"' in text), text)


def turn() -> dict[str, Any]:
    """The input of a run of AG-UI."""
    ids = {"threadId": secrets.token_hex(8), "runId": secrets.token_hex(8)}
    said = [{"id": "u", "role": "user", "content": "who?"}]
    return {**ids, "messages": said, "tools": [], "context": [], "state": {}}


async def by_header(attempt: Attempt) -> str:
    attempt.headers |= {} if attempt.token is None else {"X-Token": attempt.token}
    return await attempt.chat()


async def by_cookie(attempt: Attempt) -> str:
    attempt.headers |= {} if attempt.token is None else {"Cookie": f"token={attempt.token}"}
    return await attempt.chat()


async def by_ticket(attempt: Attempt) -> str:
    return await attempt.chat("" if attempt.token is None else f"?ticket={attempt.token}")


async def by_message(attempt: Attempt) -> str:
    return await attempt.chat(token=attempt.token)


def bearer(attempt: Attempt) -> Attempt:
    if attempt.token is not None:
        attempt.headers["Authorization"] = f"Bearer {attempt.token}"
    return attempt


async def by_bearer_of_langchain(attempt: Attempt) -> str:
    thread = secrets.token_hex(8)
    async with await bearer(attempt).open(f"/threads/{thread}/stream/events") as ws:
        await _call(ws, 1, "subscription.subscribe", channels=["messages", "lifecycle"])
        value = {"messages": [{"role": "user", "content": "who?"}]}
        await _call(ws, 2, "run.start", assistant_id="graph", input=value)
        while True:
            told = await ws.receive_str(timeout=10)
            for who in ("ann", "bob", "nobody"):
                if f'"text":"{who}"' in told:
                    return who


async def _call(ws: aiohttp.ClientWebSocketResponse, id_: int, method: str, **params: Any) -> None:
    await ws.send_str(orjson.dumps({"id": id_, "method": method, "params": params}).decode())


async def by_bearer_of_the_ai_sdk(attempt: Attempt) -> str:
    async with await bearer(attempt).open("/aisdk") as ws:
        text = [{"type": "text", "text": "who?"}]
        frame = {"type": "send", "requestId": "1", "id": secrets.token_hex(8), "body": {}}
        frame |= {"trigger": "submit-message"}
        frame |= {"messages": [{"id": "u", "role": "user", "parts": text}]}  # type: ignore[dict-item]
        return await _said(ws, frame, "delta")


async def by_bearer_of_ag_ui(attempt: Attempt) -> str:
    async with await bearer(attempt).open("/agui") as ws:
        return await _said(ws, turn(), "delta")


async def _said(ws: aiohttp.ClientWebSocketResponse, message: Any, name: str) -> str:
    await ws.send_str(orjson.dumps(message).decode())
    while True:
        told = orjson.loads(await ws.receive_str(timeout=10))
        if name in (chunk := told.get("chunk", told)):
            return str(chunk[name])


async def by_bearer_of_http(attempt: Attempt) -> str:
    return await bearer(attempt).post("/agui", turn())


async def by_bearer_of_a_command(attempt: Attempt) -> str:
    thread = secrets.token_hex(8)
    value = {"messages": [{"role": "user", "content": "who?"}]}
    params = {"assistant_id": "graph", "input": value}
    command = {"id": 1, "method": "run.start", "params": params}
    attempt.headers |= {} if attempt.token is None else {"X-Token": attempt.token}
    told = await attempt.post(f"/threads/{thread}/commands", command)
    return told if "success" not in told else await _owner(attempt.site, thread)


async def _owner(site: Site, thread: str) -> str:
    """Whose thread has had a run."""
    for who in ("ann", "bob"):
        info = await site.attachment.runs.info(Identity(id=who), thread, None)
        if info.run_id is not None:
            return who
    return "nobody"


Carrier = Callable[[Attempt], Awaitable[str]]
REFUSED = {"401"}
CARRIERS: Mapping[str, tuple[Carrier, set[str]]] = {
    "header": (by_header, {"401", "unauthorized"}),
    "cookie": (by_cookie, {"401", "unauthorized"}),
    "ticket in the address": (by_ticket, {"401", "unauthorized"}),
    "first message": (by_message, {"4401", "unauthorized"}),
    "bearer, LangChain socket": (by_bearer_of_langchain, REFUSED),
    "bearer, AI SDK socket": (by_bearer_of_the_ai_sdk, REFUSED),
    "bearer, AG-UI socket": (by_bearer_of_ag_ui, REFUSED),
    "bearer, AG-UI over HTTP": (by_bearer_of_http, REFUSED),
    "header, command over HTTP": (by_bearer_of_a_command, REFUSED),
}
"""What carries a credential, and what says that it is not accepted.

A chat client without one that is accepted is let in to send one: it is answered `unauthorized`.
"""


def expected(admitted: bool, owner: str | None, refusals: set[str]) -> set[str]:
    """What may come of it."""
    if not admitted:
        return {"403"}
    return refusals if owner is None else {owner}


async def outcome(carrier: Carrier, attempt: Attempt) -> str:
    try:
        async with asyncio.timeout(10):
            return await carrier(attempt)
    except aiohttp.WSServerHandshakeError as refused:
        return str(refused.status)


async def check(states: Mapping[str, str | None] = STATES) -> str:
    """Every origin with every credential in every carrier."""
    desk = Desk()
    limits = Limits(connections=10_000, connections_per_address=10_000)
    tried, entered = 0, 0
    async with serving(
        {"graph": who_am_i()},
        authorize=desk.authorize,
        authorize_token=desk.authorize_token,
        allowed_origins=[LISTED],
        protocols=["chat", "langchain", "aisdk", "agui"],
        limits=limits,
    ) as site:
        for where, (origin, admitted) in ORIGINS.items():
            for what, (carrier, refusals) in CARRIERS.items():
                for state, owner in states.items():
                    attempt = Attempt(site, origin, desk.issue(state))
                    came = await outcome(carrier, attempt)
                    assert came in expected(admitted, owner, refusals), (where, what, state, came)
                    tried += 1
                    entered += came in ("ann", "bob")
    return f"{tried} attempts, {entered} let in, all of them as who they are"
