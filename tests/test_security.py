"""Who gets in, as whom, and what they see of others: origins, identities, tokens, limits."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_ws import ConfigurationError, Identity, Limits, RequestError, attach_websocket
from langgraph_ws.commands import ANONYMOUS
from tests.graphs import asking, chat
from tests.serving import HELLO, Client, Site, serving
from tests.test_aiohttp import Gate, soon

CANARY = "canary-7f3a9c"
FORWARDED = ("X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For")


def by_header(request: web.Request) -> Identity | None:
    """The application's `authorize`: trusts a header, as behind a proxy that authenticates."""
    user = request.headers.get("X-User")
    return None if user is None else Identity(id=user)


def by_token(_request: web.Request, token: str) -> Identity | None:
    """The application's `authorize_token`: `<user>-token`."""
    user, _, kind = token.partition("-")
    return Identity(id=user) if kind == "token" else None


def ann(**more: Any) -> dict[str, Any]:
    return {"headers": {"X-User": "ann", **more}}


def bob(**more: Any) -> dict[str, Any]:
    return {"headers": {"X-User": "bob", **more}}


# -- origins ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "chat.example.com", 101),
        ("http://chat.example.com", "chat.example.com", 101),
        ("http://chat.example.com:80", "chat.example.com", 101),
        ("http://chat.example.com", "chat.example.com:80", 101),
        ("HTTP://CHAT.example.com", "Chat.Example.com", 101),
        ("http://chat.example.com:8080", "chat.example.com:8080", 101),
        ("http://[::1]:8080", "[0:0:0:0:0:0:0:1]:8080", 101),
        ("http://chat.example.com:8080", "chat.example.com", 403),
        ("http://chat.example.com", "chat.example.com:8080", 403),
        ("https://chat.example.com", "chat.example.com", 403),
        ("http://evil.com", "chat.example.com", 403),
        ("http://chat.example.com.evil.com", "chat.example.com", 403),
        ("http://evilchat.example.com", "chat.example.com", 403),
        ("http://example.com", "chat.example.com", 403),
        ("http://chat.example.com@evil.com", "chat.example.com", 403),
        ("http://chat.example.com/", "chat.example.com", 403),
        ("http://chat.example.com,http://evil.com", "chat.example.com", 403),
        ("http://chat.example.com:99999", "chat.example.com", 403),
        ("http://[::zz]", "[::zz]", 403),
        ("chat.example.com", "chat.example.com", 403),
        ("null", "chat.example.com", 403),
        ("", "chat.example.com", 403),
    ],
)
async def test_only_pages_of_the_servers_own_origin_connect(
    origin: str | None, host: str, status: int
) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    async with serving(chat("x")) as site:
        assert await site.refused(headers) == status


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        (["https://app.example.com"], "https://app.example.com", 101),
        (["https://app.example.com"], "https://app.example.com:443", 101),
        (["https://APP.example.com:443"], "https://app.example.com", 101),
        (["https://app.example.com"], "http://app.example.com", 403),
        (["https://app.example.com"], "https://app.example.com:8443", 403),
        (["https://example.com"], "https://app.example.com", 403),
        (["chrome-extension://abcdef"], "chrome-extension://abcdef", 101),
        (["null"], "null", 101),
        (["https://app.example.com"], "null", 403),
        (["*"], "https://anywhere.example.com", 101),
        (["*"], "null", 101),
    ],
)
async def test_pages_of_listed_origins_connect(
    allowed: list[str], origin: str, status: int
) -> None:
    async with serving(chat("x"), allowed_origins=allowed) as site:
        assert await site.refused({"Origin": origin}) == status


@pytest.mark.parametrize(
    ("forwarded", "headers", "status"),
    [
        # what nobody said the proxy sets does not count, for or against
        ((), {"X-Forwarded-Host": "app.example.com", "X-Forwarded-Proto": "https"}, 403),
        (FORWARDED[:1], {"X-Forwarded-Host": "app.example.com", "X-Forwarded-Proto": "https"}, 403),
        (
            FORWARDED[1:2],
            {"X-Forwarded-Host": "app.example.com", "X-Forwarded-Proto": "https"},
            403,
        ),
        (FORWARDED, {"X-Forwarded-Host": "app.example.com", "X-Forwarded-Proto": "https"}, 101),
        (FORWARDED, {"X-Forwarded-Host": "app.example.com:443", "X-Forwarded-Proto": "https"}, 101),
        # the value of the nearest proxy counts, not one that the client put before it
        (
            FORWARDED,
            {"X-Forwarded-Host": "app.example.com, b.com", "X-Forwarded-Proto": "https"},
            403,
        ),
        (
            FORWARDED,
            {"X-Forwarded-Host": "b.com, app.example.com", "X-Forwarded-Proto": "https"},
            101,
        ),
        # one that is missing leaves what the request itself says
        (FORWARDED, {"X-Forwarded-Host": "app.example.com"}, 403),
        (FORWARDED, {"Host": "app.example.com", "X-Forwarded-Proto": "https"}, 101),
        (FORWARDED, {}, 403),
    ],
)
async def test_what_a_proxy_says_counts_only_where_it_is_configured(
    forwarded: tuple[str, ...], headers: dict[str, str], status: int
) -> None:
    async with serving(chat("x"), forwarded_headers=forwarded) as site:
        assert await site.refused({"Origin": "https://app.example.com", **headers}) == status


async def test_two_origins_are_none() -> None:
    async with serving(chat("x")) as site:
        own = f"http://127.0.0.1:{site.port}"
        headers = [("Origin", own), ("Origin", "http://evil.com")]
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await site.session.ws_connect(site.url, headers=headers)
        assert caught.value.status == 403


async def test_a_refused_origin_is_logged_with_what_was_compared_and_what_to_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(chat("x")) as site:
        headers = {"Origin": "https://app.example.com", "X-Forwarded-Proto": "https"}
        assert await site.refused(headers) == 403
        lines = [r.getMessage() for r in caplog.records if "refused a WebSocket" in r.getMessage()]
        assert len(lines) == 1
        assert "'https://app.example.com'" in lines[0]
        assert f"http://127.0.0.1:{site.port}" in lines[0]
        assert "allowed_origins" in lines[0]
        assert "X-Forwarded-Proto" in lines[0]
        assert "forwarded_headers" in lines[0]


async def test_the_origin_is_checked_before_anybody_is_asked_who_it_is() -> None:
    asked = []

    def authorize(request: web.Request) -> Identity:
        asked.append(request)
        return Identity(id="ann")

    async with serving(chat("x"), authorize=authorize) as site:
        assert await site.refused({"Origin": "http://evil.com"}) == 403
    assert not asked


# -- authorize -------------------------------------------------------------------------------


class Refusing:
    """An `authorize` that returns this, or raises what it makes."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def __call__(self, _request: web.Request, *_token: str) -> Any:
        if isinstance(self.outcome, partial):
            raise self.outcome()
        return self.outcome

    async def later(self, request: web.Request, *token: str) -> Any:
        await asyncio.sleep(0)
        return self(request, *token)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Identity(id="ann"), 101),
        (ANONYMOUS, 101),
        (Identity(), 500),
        (Identity(id="ann", expires_at=time.time() + 86_400), 101),
        (Identity(id="ann", expires_at=time.time() - 1), 401),
        (None, 401),
        (partial(web.HTTPUnauthorized), 401),
        (partial(web.HTTPForbidden), 403),
        (partial(web.HTTPPaymentRequired), 402),
        (partial(web.HTTPFound, "/login"), 302),
        (partial(KeyError, "x"), 500),
        ("ann", 500),
        (True, 500),
    ],
)
async def test_authorize_decides(outcome: Any, status: int, asynchronous: bool) -> None:
    refusing = Refusing(outcome)
    authorize = refusing.later if asynchronous else refusing
    async with (
        serving(chat("x"), authorize=authorize) as site,
        site.session.get(
            site.url,
            headers={
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "Sec-WebSocket-Version": "13",
            },
            allow_redirects=False,
        ) as response,
    ):
        assert response.status == status
        if status == 500:
            assert "KeyError" not in await response.text()


async def test_who_comes_without_credentials_may_send_a_token() -> None:
    async with serving(chat("hi"), authorize=by_header, authorize_token=by_token) as site:
        async with site.connect() as client:
            await client.send("new_chat", id=1, messages=HELLO)
            assert (await client.the("error"))["data"]["code"] == "unauthorized"
            await client.send("auth", id=2, token="ann-token")
            assert (await client.the("authenticated"))["request_id"] == 2
            await client.send("new_chat", messages=HELLO, run_id="r")
            await client.the("end")
        async with site.connect(**ann()) as client:  # the same identity, told otherwise
            await client.send("attach", run_id="r")
            await client.the("end")


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (None, 4401),
        (partial(web.HTTPUnauthorized), 4401),
        (partial(RequestError, "unauthorized", "no"), 4401),
        (Identity(id="ann", expires_at=time.time() - 1), 4401),
        (partial(KeyError, CANARY), 1011),
        ("ann", 1011),
    ],
)
async def test_a_token_that_is_not_accepted_closes(outcome: Any, code: int) -> None:
    async with (
        serving(chat("x"), authorize_token=Refusing(outcome).later) as site,
        site.connect() as client,
    ):
        await client.send("auth", token=CANARY)
        assert await client.closed() == code


async def test_a_client_need_not_wait_for_its_token_to_be_accepted() -> None:
    async with serving(chat("hi"), authorize_token=by_token) as site, site.connect() as client:
        await client.send("auth", token="ann-token")
        await client.send("new_chat", messages=HELLO)
        kinds = [message["type"] for message in await client.until("end")]
    assert kinds[:2] == ["authenticated", "run"]


async def test_what_waits_behind_a_refused_token_is_not_carried_out() -> None:
    seen = []

    async def authorize_token(request: web.Request, token: str) -> Identity | None:
        seen.append(token)
        await asyncio.sleep(0)
        return by_token(request, token)

    async with serving(chat("x"), authorize_token=authorize_token) as site, site.connect() as one:
        for token in ("wrong", "ann-token", "bob-token"):
            await one.send("auth", token=token)
        assert await one.closed() == 4401
    assert seen == ["wrong"]


async def test_no_token_in_time_closes_4408() -> None:
    async with serving(chat("x"), authorize_token=by_token, auth_timeout=0.1) as site:
        async with site.connect() as client:
            assert await client.closed() == 4408
        async with site.connect() as client:
            await client.send("auth", token="ann-token")
            await client.the("authenticated")
            await asyncio.sleep(0.3)
            await client.send("ping")
            await client.the("pong")


async def test_a_blocked_event_loop_is_not_held_against_clients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def authorize_token(request: web.Request, token: str) -> Identity | None:
        await asyncio.sleep(0.01)
        return by_token(request, token)

    async with (
        serving(chat("x"), authorize_token=authorize_token, auth_timeout=1.6) as site,
        site.connect() as client,
    ):
        await client.send("auth", token="ann-token")
        time.sleep(1.7)  # noqa: ASYNC251  # on purpose
        await client.the("authenticated")
    assert "the event loop was blocked for 1." in caplog.text


async def test_where_no_tokens_are_taken_auth_is_unknown() -> None:
    async with serving(chat("x")) as site, site.connect() as client:
        await client.send("auth", token=CANARY)
        assert (await client.the("error"))["data"]["code"] == "unknown_type"


async def test_an_identity_is_renewed_but_not_exchanged() -> None:
    async with serving(chat("x"), authorize_token=by_token) as site, site.connect() as client:
        for _ in range(2):
            await client.send("auth", token="ann-token")
            assert (await client.the("authenticated"))["data"] == {"expires_at": None}
        await client.send("auth", token="bob-token")
        assert await client.closed() == 4403


async def test_an_identity_that_expires_closes_4440_while_its_run_goes_on() -> None:
    gate = Gate()

    def authorize(request: web.Request) -> Identity:
        expires = time.time() + 0.3 if "short" in request.query else None
        return Identity(id="ann", expires_at=expires)

    async with serving(gate.graph, authorize=authorize, auth_timeout=0.2) as site:
        async with site.connect("/ws?short") as client:
            await client.send("new_chat", run_id="r", input={"value": 1})
            bye = (await client.the("bye"))["data"]
            assert (bye["reason"], bye["retry"]) == ("expired", "reauth")
            assert await client.closed() == 4440
        gate.go_on.set()
        async with site.connect() as client:
            await client.send("attach", run_id="r")
            assert (await client.the("end"))["data"] == {"status": "completed"}


# -- secrets ---------------------------------------------------------------------------------


async def test_no_token_and_no_payload_is_in_any_log(caplog: pytest.LogCaptureFixture) -> None:
    def authorize(request: web.Request) -> Identity | None:
        if "Authorization" in request.headers:
            raise KeyError(request.headers["Authorization"])
        return None

    def authorize_token(_request: web.Request, token: str) -> Identity:
        return {"ann-token": Identity(id="ann")}[token]

    # The access log is the application's own affair: it writes down the query string.
    caplog.set_level(logging.ERROR, "aiohttp.access")
    caplog.set_level(logging.DEBUG)
    async with serving(chat("x"), authorize=authorize, authorize_token=authorize_token) as site:
        assert await site.refused({"Authorization": CANARY}) == 500
        assert await site.refused({"Origin": "http://e.com", "Cookie": CANARY}) == 403
        assert await site.refused(protocols=[CANARY]) == 400
        async with site.connect(f"/ws?token={CANARY}") as client:
            await client.send("auth", token=CANARY)
            assert await client.closed() == 1011
        async with site.connect(f"/ws?token={CANARY}") as client:
            await client.send("auth", token=[CANARY])
            await client.the("error")
            await client.send("auth", token="ann-token")
            await client.the("authenticated")
            for kind, fields in (
                (CANARY, {"token": CANARY}),
                ("new_chat", {"messages": CANARY}),
                ("new_chat", {"messages": HELLO, "input": CANARY}),
            ):
                await client.send(kind, **fields)
                await client.the("error")
            await client.send("new_chat", messages=[{"role": "user", "content": CANARY}])
            await client.the("end")
    assert "authorize failed with KeyError" in caplog.text
    assert "authorize_token failed with KeyError" in caplog.text
    assert CANARY not in caplog.text
    assert not [record for record in caplog.records if CANARY in repr(record.__dict__)]


# -- what belongs to whom --------------------------------------------------------------------


async def answers(site: Site, user: dict[str, Any], *messages: dict[str, Any]) -> list[Any]:
    """What a client is told when it sends this; without what differs anyway."""
    told = []
    async with site.connect(**user) as client:
        for message in messages:
            fields = {name: value for name, value in message.items() if name != "type"}
            await client.send(message["type"], id=1, **fields)
            answer = await client.receive()
            answer["data"].pop("epoch", None)
            told.append(answer)
            await settled(client)
    return told


async def settled(client: Client) -> None:
    """Let everything that is on its way arrive."""
    await client.send("ping", id="settled")
    while (await client.receive()).get("request_id") != "settled":
        pass


async def test_what_belongs_to_another_identity_is_simply_not_there() -> None:
    async with serving(asking("sure?"), authorize=by_header) as site:
        async with site.connect(**ann()) as client:
            await client.send("new_chat", thread_id="t", run_id="r", messages=HELLO)
            question = (await client.the("interrupt"))["data"]["id"]
            await client.the("end")

        def asks(thread_id: str, run_id: str) -> list[dict[str, Any]]:
            return [
                {"type": "attach", "run_id": run_id},
                {"type": "attach", "run_id": run_id, "thread_id": thread_id},
                {"type": "cancel", "run_id": run_id},
                {"type": "cancel", "thread_id": thread_id},
                {"type": "detach", "thread_id": thread_id},
                {"type": "attach", "thread_id": thread_id},
                {"type": "resume_chat", "thread_id": thread_id, "resume": {question: "yes"}},
                {"type": "resume_chat", "thread_id": thread_id, "resume": "yes"},
                {"type": "resume_chat", "thread_id": thread_id},
            ]

        foreign = await answers(site, bob(), *asks("t", "r"))
        absent = await answers(site, bob(), *asks("nothing", "nobody"))
        told = repr(foreign).replace("'t'", "'nothing'").replace("'r'", "'nobody'")
        assert told == repr(absent)
        assert [answer["data"].get("code") for answer in foreign[:5]] == ["not_found"] * 5
        assert foreign[5]["data"]["status"] == "idle"
        assert foreign[6]["data"]["code"] == "not_found"
        # and the owner's is untouched
        async with site.connect(**ann()) as client:
            await client.send("resume_chat", thread_id="t", resume={question: "yes"})
            assert (await client.the("final"))["data"]["text"] == "got yes"


async def test_the_same_ids_of_two_identities_are_two_threads_and_two_runs() -> None:
    graph = chat("for one", "for another", saver=InMemorySaver())
    async with (
        serving(graph, authorize=by_header) as site,
        site.connect(**ann()) as one,
        site.connect(**bob()) as another,
    ):
        for client, said in ((one, "for one"), (another, "for another")):
            await client.send("new_chat", thread_id="t", run_id="r", messages=HELLO)
            assert (await client.the("final"))["data"]["text"] == said
        for client in (one, another):
            await settled(client)


async def test_identity_and_thread_cannot_be_mixed_up() -> None:
    async with serving(chat("x"), authorize=by_header) as site:
        keys = {
            site.attachment.runs.key(Identity(id=identity), thread_id)
            for identity, thread_id in (("a", "b"), ("a/b", "c"), ("a", "c"), ("", "a"))
        }
        assert len(keys) == 4
        async with site.connect(**ann()) as client:
            await client.send("attach", thread_id="bob/t")
            assert (await client.the("error"))["data"]["code"] == "invalid_field"


async def test_thread_key_shares_and_refuses() -> None:
    def thread_key(identity: Identity, thread_id: str) -> str:
        if thread_id == "staff" and identity.id != "ann":
            raise PermissionError
        return thread_id

    async with (
        serving(chat("x"), authorize=by_header, thread_key=thread_key) as site,
        site.connect(**ann()) as one,
        site.connect(**bob()) as another,
    ):
        await another.send("attach", thread_id="shared")
        await another.the("run")
        await one.send("new_chat", thread_id="shared", messages=HELLO)
        assert (await another.the("final"))["data"]["text"] == "x"
        await one.send("new_chat", thread_id="staff", messages=HELLO)
        await one.the("end")
        for kind, fields in (
            ("attach", {}),
            ("cancel", {}),
            ("new_chat", {"messages": HELLO}),
            ("resume_chat", {}),
        ):
            await another.send(kind, thread_id="staff", **fields)
            assert (await another.the("error"))["data"]["code"] == "not_found"


async def test_who_a_client_says_it_is_in_a_message_does_not_count() -> None:
    async with serving(chat("x"), authorize=by_header) as site:
        async with site.connect(**ann()) as client:
            await client.send("new_chat", thread_id="t", run_id="r", messages=HELLO)
            await client.the("end")
        async with site.connect(**bob()) as client:
            await client.send("attach", id=1, run_id="r", userId="ann", user_id="ann")
            assert (await client.the("error"))["data"]["code"] == "not_found"


# -- limits ----------------------------------------------------------------------------------


async def test_connections_of_an_identity_are_limited_before_the_upgrade() -> None:
    limits = Limits(connections_per_identity=1)
    async with serving(chat("x"), authorize=by_header, limits=limits) as site:
        async with site.connect(**ann()):
            assert await site.refused(**ann()) == 429
            assert await site.refused(**bob()) == 101
        await soon(lambda: site.attachment.connections == 0)
        assert await site.refused(**ann()) == 101


async def test_connections_of_an_identity_are_limited_after_a_token_too() -> None:
    limits = Limits(connections_per_identity=1)
    async with (
        serving(chat("x"), authorize_token=by_token, limits=limits) as site,
        site.connect() as one,
        site.connect() as another,
    ):
        await one.send("auth", token="ann-token")
        await one.the("authenticated")
        await one.send("auth", token="ann-token")  # to renew takes no more room
        await one.the("authenticated")
        await another.send("auth", token="ann-token")
        assert (await another.the("bye"))["data"]["reason"] == "overloaded"
        assert await another.closed() == 1013


async def test_nobody_in_particular_is_not_limited_as_one_identity() -> None:
    async with (
        serving(chat("x"), limits=Limits(connections_per_identity=1)) as site,
        site.connect(),
        site.connect(),
    ):
        assert site.attachment.connections == 2


async def test_behind_a_proxy_the_address_is_what_the_nearest_one_says() -> None:
    limits = Limits(connections_per_address=1)
    options: dict[str, Any] = {"limits": limits, "forwarded_headers": ["X-Forwarded-For"]}
    async with (
        serving(chat("x"), **options) as site,
        site.connect(headers={"X-Forwarded-For": "spoofed, 10.0.0.1"}),
    ):
        assert await site.refused({"X-Forwarded-For": "other, 10.0.0.1"}) == 429
        assert await site.refused({"X-Forwarded-For": "10.0.0.1, 10.0.0.2"}) == 101
        assert await site.refused() == 101
    async with (
        serving(chat("x"), limits=limits) as site,
        site.connect(headers={"X-Forwarded-For": "10.0.0.1"}),
    ):
        assert await site.refused({"X-Forwarded-For": "10.0.0.2"}) == 429


async def test_a_refused_handshake_takes_no_room() -> None:
    limits = Limits(connections=1, connections_per_address=1, connections_per_identity=1)
    async with serving(chat("x"), authorize=by_header, limits=limits) as site:
        for _ in range(3):
            assert await site.refused() == 401
        assert await site.refused(**ann()) == 101


def test_a_header_that_no_proxy_sets_is_no_forwarded_header() -> None:
    app = web.Application()
    with pytest.raises(ConfigurationError, match="X-Forwarded-Host"):
        attach_websocket(app, chat("x"), forwarded_headers=["X-Real-IP"])
