"""The playground: what is served for it, and what it does in a browser."""

from __future__ import annotations

import asyncio
import re
import runpy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from aiohttp import web
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt
from typing_extensions import TypedDict
from yarl import URL

from langgraph_ws import ConfigurationError, Identity, Limits, attach_websocket
from langgraph_ws.demo import demo_graph
from langgraph_ws.testing import Reply, ScriptedModel, call
from tests.browser import PATIENCE_MS, launched, needs_browser
from tests.proxy import Switch
from tests.serving import running, serving

with suppress(ImportError):  # then nothing that needs them is run
    from playwright.async_api import (
        Browser,
        BrowserContext,
        Page,
        Route,
        WebSocketRoute,
        expect,
    )

EXAMPLES = Path(__file__).parents[1] / "examples"

# --- over plain HTTP -------------------------------------------------------------------------


async def test_a_plain_get_shows_the_page_under_a_strict_policy() -> None:
    async with serving(demo_graph(), playground=True) as site, site.session.get(site.url) as page:
        assert page.status == 200
        assert page.content_type == "text/html"
        text = await page.text()
        policy = page.headers["Content-Security-Policy"]
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Referrer-Policy"] == "no-referrer"
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": f"'self' ws://127.0.0.1:{site.port} wss://127.0.0.1:{site.port}",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert 'src="./ws/playground/playground.js"' in text
    assert "<style" not in text
    assert " style=" not in text
    assert not re.search(r"<script[^>]*>[^<]", text)


async def test_a_host_that_is_none_does_not_get_into_the_policy() -> None:
    async with serving(demo_graph(), playground=True) as site:
        headers = {"Host": "evil.example;script-src"}
        async with site.session.get(site.url, headers=headers) as page:
            assert "evil" not in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("client.js", "text/javascript"),
        ("playground.js", "text/javascript"),
        ("playground.css", "text/css"),
    ],
)
async def test_files_are_served_with_their_type_and_asked_for_again(
    name: str, content_type: str
) -> None:
    async with serving(demo_graph(), playground=True) as site:
        url = f"{site.url}/playground/{name}"
        async with site.session.get(url) as file:
            assert file.status == 200
            assert file.content_type == content_type
            assert file.headers["X-Content-Type-Options"] == "nosniff"
            assert "no-cache" in file.headers["Cache-Control"]
            assert await file.read()
            etag = file.headers["ETag"]
        async with site.session.get(url, headers={"If-None-Match": etag}) as file:
            assert file.status == 304
            assert not await file.read()


@pytest.mark.parametrize(
    "name",
    [
        *("playground.html", "nothing.js", "client.d.ts", "", "../demo.py", "%2e%2e/demo.py"),
        *("..%2fdemo.py", "..%2f..%2fpyproject.toml", "%2fetc%2fpasswd", "playground.js%00"),
    ],
)
async def test_nothing_else_is_served(name: str) -> None:
    async with serving(demo_graph(), playground=True) as site:
        url = URL(f"{site.url}/playground/{name}", encoded=True)
        async with site.session.get(url) as answer:
            assert answer.status == 404


async def test_without_the_option_there_is_no_page() -> None:
    async with serving(demo_graph()) as site:
        async with site.session.get(site.url) as answer:
            assert answer.status == 426
        async with site.session.get(f"{site.url}/playground/playground.js") as answer:
            assert answer.status == 404


async def test_a_websocket_whose_upgrade_was_dropped_is_told_so() -> None:
    async with serving(demo_graph(), playground=True) as site:
        async with site.session.get(site.url, headers={"Sec-WebSocket-Key": "x"}) as answer:
            assert answer.status == 426
        async with site.connect() as client:
            await client.send("ping", id=1)
            assert (await client.receive())["type"] == "pong"


async def test_it_says_what_the_graphs_are() -> None:
    graphs = {"chat": demo_graph(), "form": form_graph()}
    async with (
        serving(graphs, playground=True) as site,
        site.session.get(f"{site.url}/playground/graphs") as answer,
    ):
        chat, form = (await answer.json())["graphs"]
        assert answer.headers["Cache-Control"] == "no-store"
    assert (chat["name"], chat["chat"], chat["input_schema"]) == ("chat", True, None)
    assert {"id": "research:think", "name": "think"} in chat["nodes"]
    assert {"source": "tell", "target": "tell", "conditional": True} in chat["edges"]
    assert (form["name"], form["chat"]) == ("form", False)
    assert set(form["input_schema"]["properties"]) == {"topic", "count", "loud", "tone", "extra"}


async def test_it_offers_the_messages_that_it_was_given() -> None:
    for given, offered in ((True, []), (["Hi!"], ["Hi!"]), ([], [])):
        async with (
            serving(demo_graph(), playground=given) as site,
            site.session.get(f"{site.url}/playground/graphs") as answer,
        ):
            assert (await answer.json())["examples"] == offered


@pytest.mark.parametrize("given", ["Hi!", [1], None, 1])
def test_what_it_cannot_offer_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="playground: expected a bool, or a list"):
        attach_websocket(web.Application(), demo_graph(), playground=given)


async def described(graph: Any) -> dict[str, Any]:
    async with (
        serving(graph, playground=True) as site,
        site.session.get(f"{site.url}/playground/graphs") as answer,
    ):
        [said] = (await answer.json())["graphs"]
    return dict(said)


async def test_a_function_takes_what_its_types_say() -> None:
    @entrypoint()
    async def shout(text: str) -> str:
        return text.upper()

    said = await described(shout)
    assert (said["chat"], said["input_schema"]["type"]) == (False, "string")


@pytest.mark.parametrize("chat", [True, False])
async def test_a_graph_that_tells_nothing_of_itself_is_served_all_the_same(
    chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> Any:
        raise RuntimeError("on purpose")

    graph = demo_graph() if chat else form_graph()
    monkeypatch.setattr(graph, "get_input_jsonschema", fails)
    monkeypatch.setattr(graph, "aget_graph", fails)
    said = await described(graph)
    assert (said["chat"], said["input_schema"], said["nodes"]) == (chat, None, [])


async def test_a_graph_that_cannot_be_made_is_still_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(identity: Identity) -> Any:
        raise RuntimeError("on purpose")

    async with (
        serving({"broken": broken}, playground=True) as site,
        site.session.get(f"{site.url}/playground/graphs") as answer,
    ):
        [graph] = (await answer.json())["graphs"]
    assert graph["name"] == "broken"
    assert graph["nodes"] == []
    assert "cannot be described" in caplog.text


async def test_who_may_not_connect_sees_no_page_either() -> None:
    def authorize(request: web.Request) -> Identity:
        if request.cookies.get("session") != "secret":
            raise web.HTTPForbidden
        return Identity(id="ada")

    async with serving(demo_graph(), playground=True, authorize=authorize) as site:
        for path in ("", "/playground/client.js", "/playground/graphs"):
            async with site.session.get(site.url + path) as answer:
                assert answer.status == 403
            headers = {"Cookie": "session=secret"}
            async with site.session.get(site.url + path, headers=headers) as answer:
                assert answer.status == 200
            headers["Origin"] = "https://evil.example"
            async with site.session.get(site.url + path, headers=headers) as answer:
                assert answer.status == 403


async def authorize_token(request: web.Request, token: str) -> Identity | None:
    if token == "boom":
        raise KeyError(token)
    if token == "forbidden":
        raise web.HTTPForbidden
    return Identity(id="ada") if token == "secret" else None


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer forbidden", 401),
        ("Basic secret", 401),
        ("Bearer ", 401),
        ("Bearer boom", 500),
        ("Bearer secret", 200),
    ],
)
async def test_with_tokens_the_page_comes_first_and_the_graphs_after_the_token(
    header: str | None, status: int
) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with serving(demo_graph(), playground=True, authorize_token=authorize_token) as site:
        async with site.session.get(site.url) as page:
            assert page.status == 200
        async with site.session.get(f"{site.url}/playground/graphs", headers=headers) as answer:
            assert answer.status == status
            assert (status == 401) == ("WWW-Authenticate" in answer.headers)


async def test_the_limits_of_connections_hold_for_the_page() -> None:
    limits = Limits(connections_per_address=1)
    async with serving(demo_graph(), playground=True, limits=limits) as site, site.connect():
        for path in ("", "/playground/graphs"):
            async with site.session.get(site.url + path) as answer:
                assert answer.status == 429


async def test_a_server_that_goes_away_shows_no_page() -> None:
    async with serving(demo_graph(), playground=True) as site:
        await site.attachment.drain()
        async with site.session.get(site.url) as answer:
            assert answer.status == 503


# --- in a browser ----------------------------------------------------------------------------


class Watch:
    """What must not happen in a page: errors, violations of its policy, foreign requests."""

    def __init__(self, port: int) -> None:
        self.own = re.compile(rf"(https?|wss?)://127\.0\.0\.1:{port}/|data:")
        self.seen: list[str] = []

    def over(self, context: BrowserContext) -> None:
        context.on("console", lambda said: self._said(said.type, said.text))
        context.on("weberror", lambda error: self.seen.append(str(error.error)))
        context.on("request", lambda request: self._asked(request.url))
        context.on("page", lambda page: page.on("websocket", lambda ws: self._asked(ws.url)))
        context.on("dialog", lambda dialog: self.seen.append(f"dialog {dialog.message}"))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.seen.append(text)

    def _asked(self, url: str) -> None:
        if not self.own.match(url):
            self.seen.append(f"asked for {url}")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@asynccontextmanager
async def context_of(browser: Browser, port: int, **options: Any) -> AsyncIterator[BrowserContext]:
    """A browser profile of its own, in which nothing forbidden may have happened in the end."""
    expect.set_options(timeout=PATIENCE_MS)
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
    context.set_default_timeout(PATIENCE_MS)
    watch = Watch(port)
    watch.over(context)
    try:
        yield context
    finally:
        await context.close()
    assert watch.seen == []


@asynccontextmanager
async def playing(
    browser: Browser, graph: Any, context: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Page, str]]:
    """A page that shows the playground of a graph, and its address."""
    async with (
        serving(graph, **{"playground": True} | options) as site,
        context_of(browser, site.port, **(context or {})) as profile,
    ):
        page = await profile.new_page()
        await page.goto(site.url)
        yield page, site.url


async def connected(page: Page) -> None:
    await expect(page.locator("#connection")).to_have_attribute("data-status", "open")


async def say(page: Page, text: str) -> None:
    field = page.get_by_label("Message", exact=True)
    await field.fill(text)
    await field.press("Enter")


@needs_browser
async def test_a_conversation_with_tool_sources_and_interrupt(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0.002)) as (page, _):
        await connected(page)
        await say(page, "What is a superstep?")
        answer = page.locator(".message", has_text="answer").last
        await expect(answer).to_contain_text("one tick of a LangGraph graph")
        await expect(answer.locator("li strong").first).to_have_text("approve")
        thoughts = page.locator(".reasoning")
        await expect(thoughts).not_to_have_attribute("open", "")
        await thoughts.locator("summary").click()
        await expect(thoughts.locator(".prose")).to_contain_text("I should look that up")
        work = page.locator(".tool")
        await expect(work.locator(".tool-state")).to_have_text("done")
        await work.locator("summary").click()
        await expect(work.locator(".tool-arguments")).to_contain_text("What is a superstep?")
        await expect(work.locator(".tool-result")).to_contain_text("one tick")
        source = page.locator(".source a").first
        await expect(source).to_have_attribute("rel", re.compile("noopener"))
        await expect(source).to_have_text("Supersteps")
        node = page.locator('[data-node="research:tools"]')
        await expect(node).to_have_attribute("data-state", "finished")
        await expect(page.locator("#steps li")).to_have_count(4)

        await say(page, "approve")
        asked = page.get_by_role("group", name=re.compile("The graph asks"))
        await expect(asked).to_contain_text("May I send this summary?")
        await expect(page.locator('[data-node="approve"]')).to_have_attribute(
            "data-state", "interrupted"
        )
        await expect(page.get_by_placeholder("Or write a message")).to_be_visible()
        await asked.get_by_role("button", name="yes", exact=True).click()
        await expect(page.locator(".message").last).to_contain_text("Sent!")
        await expect(asked).to_have_count(0)
        await expect(page.locator(".user").last).to_have_text("yes")


@needs_browser
async def test_an_example_begins_a_conversation(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0), playground=["both", "help"]) as (page, _):
        await connected(page)
        await page.get_by_role("list", name="For example").get_by_role("button").first.click()
        await expect(page.locator(".message")).to_have_count(2)
        await expect(page.locator(".user")).to_have_text("both")
        await expect(page.get_by_role("list", name="For example")).to_be_hidden()
        await expect(page.get_by_label("Message", exact=True)).to_be_focused()


@needs_browser
async def test_who_writes_before_the_page_is_ready_is_heard(browser: Browser) -> None:
    asked = asyncio.Event()
    go_on = asyncio.Event()

    async def held(route: Route) -> None:
        asked.set()
        await go_on.wait()
        await route.continue_()

    async with (
        serving(demo_graph(delay=0), playground=True) as site,
        context_of(browser, site.port) as context,
    ):
        page = await context.new_page()
        await page.route("**/playground/graphs", held)
        await page.goto(site.url)
        await asked.wait()
        await say(page, "both")
        await expect(page.locator(".pending")).to_have_text("both")
        go_on.set()
        await expect(page.locator(".message")).to_have_count(2)
        await expect(page.locator(".user")).to_have_text(["both"])


@needs_browser
async def test_the_nodes_at_work_are_named_and_lit_in_the_large_drawing_too(
    browser: Browser,
) -> None:
    gate = asyncio.Event()
    async with playing(browser, gated_graph(gate, InMemorySaver())) as (page, _):
        await connected(page)
        await say(page, "go")
        await expect(page.locator(".outcome")).to_have_text("Working · end")
        await page.get_by_role("button", name="Enlarge the drawing").click()
        drawing = page.get_by_role("dialog", name="Graph")
        node = drawing.locator('[data-node="end"]')
        await expect(node).to_have_attribute("data-state", "started")
        gate.set()
        await expect(node).to_have_attribute("data-state", "finished")
        await page.keyboard.press("Escape")
        await expect(drawing).to_be_hidden()
        await expect(page.get_by_role("button", name="Enlarge the drawing")).to_be_focused()
        await expect(page.locator(".message")).to_have_count(2)


@needs_browser
async def test_stop_and_continue(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0.02)) as (page, _):
        await connected(page)
        await say(page, "long")
        await expect(page.locator(".message").first).to_contain_text("First chapter")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator(".outcome")).to_contain_text("Stopped.")
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator(".turn")).to_have_count(2)
        await expect(page.locator(".turn").last).to_contain_text("chapter")


@needs_browser
async def test_a_reload_and_a_second_tab_follow_the_run_in_flight(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0.02)) as (page, url):
        await connected(page)
        await say(page, "long")
        await expect(page.locator(".message").first).to_contain_text("First chapter")
        await page.reload()
        await expect(page.locator(".message").first).to_contain_text("First chapter")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()

        second = await page.context.new_page()
        await second.goto(url)
        await second.get_by_role("link", name="long").click()
        for tab in (page, second):
            last = tab.locator(".message").last
            await expect(last).to_contain_text("as many readers as you like.", timeout=30_000)
            await expect(tab.locator(".user")).to_have_text("long")
        texts = [await tab.locator(".said").all_inner_texts() for tab in (page, second)]
        assert texts[0] == texts[1]


@needs_browser
async def test_a_failure_is_shown_and_can_be_continued(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0)) as (page, _):
        await connected(page)
        await say(page, "fail")
        await expect(page.locator(".failure")).to_contain_text("graph_failed")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator(".message").last).to_contain_text("I got over it")


@needs_browser
async def test_a_message_is_edited_and_sent_again(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0)) as (page, _):
        await connected(page)
        for text in ("both", "approve"):
            await say(page, text)
            await expect(page.locator(".user").last).to_have_text(text)
            await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        await page.locator(".user").last.hover()
        await page.get_by_role("button", name="Edit").last.click()
        field = page.get_by_label("Edit the message")
        await field.fill("help")
        await page.get_by_role("button", name="Send again").click()
        await expect(page.locator(".message").last).to_contain_text("You can type")
        assert await page.locator(".user").all_inner_texts() == ["both", "help"]
        await expect(page.locator("#questions")).to_be_hidden()


@needs_browser
async def test_the_first_message_is_edited_too(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0)) as (page, _):
        await connected(page)
        for text in ("both", "help"):
            await say(page, text)
            await expect(page.locator(".user").last).to_have_text(text)
            await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        for text in ("approve", "What is a superstep?"):
            await page.get_by_role("button", name="Edit").first.click()
            await expect(page.locator(".edit-form")).to_contain_text("from here on is replaced")
            await page.get_by_label("Edit the message").fill(text)
            await page.get_by_role("button", name="Send again").click()
            await expect(page.locator(".user")).to_have_text([text])
        await expect(page.locator(".message").last).to_contain_text("one tick")
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        await say(page, "approve")
        # The graph remembers nothing of what was replaced.
        await expect(page.locator(".message").last).to_contain_text("you have asked 2 times")
        await expect(page.locator("#questions")).to_be_visible()
        await page.reload()
        await expect(page.locator("#questions")).to_be_visible()
        await expect(page.locator(".user")).to_have_text(["What is a superstep?", "approve"])
        await expect(page.locator("#thread-list a")).to_have_text(["both"])


@needs_browser
async def test_where_editing_begins_another_conversation_the_page_says_so(
    browser: Browser,
) -> None:
    forgetful = StateGraph(MessagesState)
    forgetful.add_node("echo", lambda state: {"messages": [AIMessage("I heard you.")]})
    forgetful.add_edge(START, "echo")
    async with playing(browser, forgetful.compile()) as (page, _):
        await connected(page)
        await say(page, "one")
        await expect(page.locator(".message")).to_have_text(re.compile("I heard you"))
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        await page.locator(".user").hover()
        await page.get_by_role("button", name="Edit").click()
        await expect(page.locator(".edit-form")).to_contain_text("begins a new conversation")
        await page.get_by_label("Edit the message").fill("two")
        await page.get_by_role("button", name="Send in a new conversation").click()
        await expect(page.locator(".user")).to_have_text(["two"])
        await expect(page.locator("#thread-list a")).to_have_text(["two", "one"])


@needs_browser
async def test_messages_that_wait_for_their_turn_are_shown_and_can_be_removed(
    browser: Browser,
) -> None:
    gate = asyncio.Event()
    async with playing(browser, gated_graph(gate, InMemorySaver())) as (page, _):
        await connected(page)
        await say(page, "one")
        await expect(page.locator(".outcome")).to_have_text("Working · end")
        for text in ("two", "three"):
            await say(page, text)
            await expect(page.locator("#waiting .user").last).to_have_text(text)
        second = await page.context.new_page()
        await second.goto(page.url)
        await page.get_by_role("button", name="Remove", exact=True).first.click()
        await expect(page.locator("#waiting .user")).to_have_text(["three"])
        gate.set()
        for tab in (page, second):
            await expect(tab.locator(".user")).to_have_text(["one", "three"])
            await expect(tab.locator(".message")).to_have_count(4)


def gated_graph(gate: asyncio.Event, saver: InMemorySaver) -> Any:
    """Says something, and goes on when the gate is open."""
    model = ScriptedModel([Reply(text="The first half")])

    async def begin(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def end(state: MessagesState) -> dict[str, Any]:
        await gate.wait()
        return {"messages": [AIMessage("and the second half.")]}

    graph = StateGraph(MessagesState)
    graph.add_sequence([("begin", begin), ("end", end)])
    graph.add_edge(START, "begin")
    return graph.compile(checkpointer=saver)


@asynccontextmanager
async def restarted(
    browser: Browser, before: Any, after: Any
) -> AsyncIterator[tuple[Page, Callable[[], Awaitable[None]]]]:
    """A page, and what puts another server in the place of the one that it has come from."""
    async with (
        serving(before, playground=True, drain_timeout=0.1) as one,
        serving(after, playground=True) as two,
        Switch(one.port).serving() as switch,
        context_of(browser, switch.port) as context,
    ):
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{switch.port}/ws")
        await connected(page)

        async def restart() -> None:
            await switch.to(two.port)
            await expect(page.locator("#connection")).not_to_have_attribute("data-status", "open")
            await page.get_by_role("button", name="Try now").click()
            await connected(page)

        yield page, restart


@needs_browser
async def test_a_server_that_restarts_and_forgets_leaves_the_conversation_on_the_page(
    browser: Browser,
) -> None:
    gate, opened = asyncio.Event(), asyncio.Event()
    opened.set()
    graphs = [gated_graph(one, InMemorySaver()) for one in (gate, opened)]
    async with restarted(browser, *graphs) as (page, restart):
        await say(page, "go")
        await expect(page.locator('[data-node="end"]')).to_have_attribute("data-state", "started")
        await restart()
        loss = page.locator(".loss")
        await expect(loss).to_contain_text("The server was restarted in the middle of this run")
        await expect(loss).to_contain_text("no longer knows what was said here")
        await expect(page.locator(".user")).to_have_text(["go"])
        await expect(page.locator(".message")).to_contain_text(["The first half"])
        await expect(page.locator("#announcer")).to_contain_text("Run lost")
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        await expect(page.locator(".pulse, .writing")).to_have_count(0)
        await expect(page.locator("#welcome")).to_be_hidden()
        await expect(page.get_by_role("button", name="Edit")).to_be_hidden()

        await loss.get_by_role("button", name="Send it again").click()
        await expect(page.locator(".message").last).to_contain_text("and the second half.")
        await expect(page.locator(".user")).to_have_text(["go", "go"])
        await expect(page.locator(".message")).to_have_count(3)
        await expect(loss.get_by_role("button", name="Send it again")).to_be_hidden()
        await page.reload()
        await expect(page.locator(".user")).to_have_text(["go"])
        await expect(page.locator(".message")).to_have_count(2)


@needs_browser
async def test_a_tool_of_a_run_that_was_lost_is_not_at_work_any_more(browser: Browser) -> None:
    @tool
    async def wait() -> str:
        """Wait for ever."""
        await asyncio.Event().wait()
        return "never"

    async def think(state: MessagesState) -> dict[str, Any]:
        model = ScriptedModel([Reply(text="Wait.", tool_calls=[call("wait")])])
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_sequence([("think", think), ("tools", ToolNode([wait]))])
    graph.add_edge(START, "think")
    async with restarted(browser, graph.compile(), graph.compile()) as (page, restart):
        await say(page, "go")
        await expect(page.locator(".tool-state")).to_have_text("at work …")
        await restart()
        await expect(page.locator(".tool-state")).to_have_text("not finished")


@needs_browser
async def test_a_run_that_was_lost_goes_on_where_the_server_remembers(browser: Browser) -> None:
    gate, opened, saver = asyncio.Event(), asyncio.Event(), InMemorySaver()
    opened.set()
    graphs = [gated_graph(one, saver) for one in (gate, opened)]
    async with restarted(browser, *graphs) as (page, restart):
        await say(page, "go")
        await expect(page.locator('[data-node="end"]')).to_have_attribute("data-state", "started")
        await restart()
        loss = page.locator(".loss")
        await expect(loss).to_contain_text("The server was restarted in the middle of this run")
        await expect(loss).not_to_contain_text("no longer knows")
        await expect(page.locator(".message")).to_contain_text(["The first half"])
        await loss.get_by_role("button", name="Continue").click()
        await expect(page.locator(".message")).to_contain_text(
            ["The first half", "and the second half."]
        )
        await expect(page.locator(".user")).to_have_text(["go"])


@needs_browser
async def test_an_old_conversation_of_which_nothing_is_left_says_so(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0)) as (page, url):
        await page.goto(f"{url}#thread=gone")
        await expect(page.locator("#welcome")).to_contain_text("Nothing is left")
        await say(page, "both")
        await expect(page.locator(".message")).to_have_count(2)
        await expect(page.locator("#welcome")).to_be_hidden()


@needs_browser
async def test_the_list_of_conversations(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0)) as (page, _):
        await connected(page)
        for text in ("help", "both"):
            await page.get_by_role("button", name="New conversation").click()
            await say(page, text)
            await expect(page.locator(".message")).not_to_have_count(0)
        listed = page.locator("#thread-list a")
        await expect(listed).to_have_text(["both", "help"])
        await listed.last.click()
        await expect(page.locator(".user")).to_have_text("help")
        await page.get_by_role("button", name="Remove “help” from the list").click()
        await expect(listed).to_have_text(["both"])
        await expect(page.locator("#welcome")).to_be_visible()
        await page.reload()
        await expect(listed).to_have_text(["both"])


@needs_browser
async def test_with_the_keyboard_alone(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0.01)) as (page, _):
        await connected(page)
        field = page.get_by_label("Message", exact=True)
        await expect(field).to_be_focused()
        await page.get_by_text("Skip to the message field").focus()
        await page.keyboard.press("Enter")
        await expect(field).to_be_focused()
        await page.keyboard.type("one")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("two")
        await expect(field).to_have_value("one\ntwo")
        await field.fill("")
        await page.keyboard.type("approve")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="yes")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator(".message").last).to_contain_text("I have not sent it")
        await field.focus()
        await page.keyboard.type("long")
        await page.keyboard.press("Enter")
        await expect(page.locator(".message").last).to_contain_text("First chapter")
        await page.keyboard.press("Escape")
        await expect(page.locator(".outcome").last).to_contain_text("Stopped.")
        await expect(page.locator("#announcer")).to_contain_text("cancelled")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_on_a_phone(browser: Browser, scheme: Literal["light", "dark"]) -> None:
    phone = {
        "viewport": {"width": 360, "height": 740},
        "has_touch": True,
        "is_mobile": True,
        "color_scheme": scheme,
        "reduced_motion": "reduce",
    }
    async with playing(browser, demo_graph(delay=0), phone) as (page, _):
        await connected(page)
        await say(page, "What is a superstep?")
        await expect(page.locator(".source")).not_to_have_count(0)
        await page.get_by_role("button", name="Graph and frames").click()
        await expect(page.locator('[data-node="answer"]')).to_be_visible()
        assert await page.evaluate(WIDTHS) <= 360
        await page.keyboard.press("Escape")
        await expect(page.locator("#inside")).to_be_hidden()
        await page.get_by_role("button", name="Conversations").click()
        await expect(page.get_by_role("link", name="What is a superstep?")).to_be_visible()
        await page.get_by_role("link", name="What is a superstep?").click()
        await expect(page.locator("#threads")).to_be_hidden()
        await say(page, "approve")
        await expect(page.get_by_role("button", name="yes")).to_be_in_viewport()
        assert await page.evaluate(WIDTHS) <= 360
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
        assert (lightness < 60) == (scheme == "dark")


WIDTHS = (
    "Math.max(document.documentElement.scrollWidth, document.querySelector('#scroll').scrollWidth)"
)


@needs_browser
async def test_the_frames_are_listed_with_their_time(browser: Browser) -> None:
    async with playing(browser, demo_graph(delay=0)) as (page, _):
        await connected(page)
        await say(page, "both")
        await expect(page.locator(".message")).to_have_count(2)
        await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        await page.locator("#inspector > summary").click()
        await expect(page.locator('#frames [data-type="new_chat"]')).to_have_count(1)
        await expect(page.locator('#frames [data-type="end"] .at')).to_have_text(
            re.compile(r"^\+\d+$")
        )
        await page.locator("#frame-type").select_option("workflow_step")
        rows = page.locator("#frames li")
        await expect(rows).to_have_count(4)
        await rows.first.locator("summary").click()
        await expect(rows.first.locator("pre")).to_contain_text('"status": "started"')
        await page.get_by_role("button", name="Clear").click()
        await expect(rows).to_have_count(0)


# --- graphs that are no chat, several graphs, tokens ------------------------------------------


class Form(TypedDict, total=False):
    topic: str
    count: int
    loud: bool
    tone: Literal["dry", "warm"]
    extra: dict[str, Any]


def form_graph() -> Any:
    class State(Form):
        said: str

    async def write(state: State) -> dict[str, Any]:
        get_stream_writer()({"name": "noted", "payload": state})
        return {"said": f"{state['topic']} {state.get('count')} {state.get('tone')}"}

    graph = StateGraph(State, input_schema=Form)
    graph.add_node("write", write)
    graph.add_edge(START, "write")
    return graph.compile()


@needs_browser
async def test_a_graph_that_is_no_chat_gets_a_form(browser: Browser) -> None:
    async with playing(browser, form_graph(), expose_output=True) as (page, _):
        await connected(page)
        await expect(page.get_by_label("Message", exact=True)).to_be_hidden()
        await page.get_by_label("topic").fill("rain")
        await page.get_by_label("count").fill("many")
        await page.get_by_role("button", name="Run").click()
        await expect(page.get_by_role("alert")).to_have_text("count: expected a whole number")
        await expect(page.get_by_label("count")).to_have_attribute("aria-invalid", "true")
        await page.get_by_label("count").fill("3")
        await page.get_by_label("loud").check()
        await page.get_by_label("tone").select_option("warm")
        await page.get_by_label("extra").fill('{"a": [1]}')
        await page.get_by_role("button", name="Run").click()
        await expect(page.locator(".result")).to_contain_text("rain 3 warm")
        await expect(page.locator(".event")).to_contain_text('extra: {"a":[1]}')
        await expect(page.locator(".event")).to_contain_text("loud: true")
        await expect(page.locator(".user.input")).to_contain_text('"topic": "rain"')
        await expect(page.locator("#thread-list a")).to_have_text("rain")


@needs_browser
async def test_several_graphs_are_chosen_from(browser: Browser) -> None:
    graphs = {"demo": demo_graph(delay=0), "form": form_graph()}
    async with playing(browser, graphs) as (page, _):
        await connected(page)
        await say(page, "both")
        await expect(page.locator(".message")).to_have_count(2)
        await page.get_by_role("combobox", name="Graph").select_option("form")
        await expect(page.get_by_label("topic")).to_be_visible()
        await expect(page.locator(".message")).to_have_count(0)
        await expect(page.locator('[data-node="write"]')).to_be_visible()
        await expect(page.locator("#thread-list a")).to_have_text("bothdemo")
        await page.get_by_role("link", name="both").click()
        await expect(page.locator(".message")).to_have_count(2)
        await expect(page.get_by_role("combobox", name="Graph")).to_have_value("demo")


@needs_browser
async def test_a_token_is_asked_for_where_one_is_needed(browser: Browser) -> None:
    async with serving(
        demo_graph(delay=0), playground=True, authorize_token=authorize_token
    ) as site:
        context = await browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        await page.goto(site.url)
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_be_visible()
        await dialog.get_by_label("Token").fill("wrong")
        await dialog.get_by_label("Token").press("Enter")
        await expect(dialog.get_by_role("alert")).to_have_text("This token was not accepted.")
        await dialog.get_by_label("Token").fill("secret")
        await dialog.get_by_role("button", name="Connect").click()
        await connected(page)
        await say(page, "both")
        await expect(page.locator(".message")).to_have_count(2)
        await page.locator("#inspector > summary").click()
        await expect(page.locator('#frames [data-type="auth"]')).to_have_count(1)
        assert "secret" not in await page.locator("body").inner_text()
        await page.reload()
        await connected(page)
        await expect(page.locator(".message")).to_have_count(2)
        await context.close()


@needs_browser
async def test_behind_a_prefix_and_in_a_sub_application(browser: Browser) -> None:
    inner, outer = web.Application(), web.Application()
    attach_websocket(inner, demo_graph(delay=0), "/chat/ws", playground=True)
    outer.add_subapp("/api", inner)
    async with running(outer) as (port, _), context_of(browser, port) as context:
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{port}/api/chat/ws")
        await connected(page)
        await say(page, "both")
        await expect(page.locator(".message")).to_have_count(2)


@needs_browser
async def test_a_lost_connection_is_told_of_and_mends_itself(browser: Browser) -> None:
    sockets: list[WebSocketRoute] = []

    def passed_on(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    async with (
        serving(demo_graph(delay=0.01), playground=True) as site,
        context_of(browser, site.port) as context,
    ):
        page = await context.new_page()
        await page.route_web_socket(re.compile("/ws$"), passed_on)
        await page.goto(site.url)
        await connected(page)
        await say(page, "long")
        await expect(page.locator(".message").first).to_contain_text("First chapter")
        await sockets[0].close(code=1011, reason="on purpose")
        state = page.locator("#connection")
        await expect(state).to_contain_text("Reconnecting, attempt 1")
        await state.get_by_role("button", name="Try now").click()
        await connected(page)
        await expect(page.locator(".message").last).to_contain_text("as many readers as you like")
        assert len(sockets) == 2


# --- several questions, and what tries to get out ----------------------------------------------


def reviewing_graph() -> Any:
    """Asks what LangChain's HumanInTheLoopMiddleware asks."""

    async def review(state: MessagesState) -> dict[str, Any]:
        actions = [{"name": "send_mail", "args": {"to": "ada"}}]
        configs = [{"action_name": "send_mail", "allowed_decisions": ["approve", "edit"]}]
        answer = interrupt({"action_requests": actions, "review_configs": configs})
        return {"messages": [AIMessage(orjson.dumps(answer).decode())]}

    graph = StateGraph(MessagesState)
    graph.add_node("review", review)
    graph.add_edge(START, "review")
    return graph.compile(checkpointer=InMemorySaver())


@needs_browser
async def test_a_tool_call_is_edited_in_its_review(browser: Browser) -> None:
    async with playing(browser, reviewing_graph()) as (page, _):
        await connected(page)
        await say(page, "go")
        asked = page.get_by_role("group", name=re.compile("The graph asks"))
        await expect(asked.get_by_role("radio")).to_have_count(2)
        await asked.get_by_role("radio", name="Edit").check()
        field = asked.get_by_label("Arguments of send_mail")
        await field.fill("to: bob")
        await page.get_by_role("button", name="Answer").click()
        await expect(page.get_by_role("alert")).to_contain_text("send_mail: expected JSON")
        await field.fill('{"to": "bob"}')
        await page.get_by_role("button", name="Answer").click()
        edited = '{"type":"edit","edited_action":{"name":"send_mail","args":{"to":"bob"}}}'
        await expect(page.locator(".message")).to_contain_text(edited)


def asking_graph() -> Any:
    """Two nodes that ask at the same time, one with a schema."""

    class State(MessagesState):
        pass

    async def first(state: State) -> dict[str, Any]:
        answer = interrupt({"question": "Which colour?"})
        return {"messages": [AIMessage(f"Colour {answer['hue']}")]}

    async def second(state: State) -> dict[str, Any]:
        request = {"name": "send_mail", "args": {"to": "ada"}}
        answer = interrupt({"action_requests": [request], "review_configs": []})
        return {"messages": [AIMessage(f"Decided {answer['decisions'][0]['type']}")]}

    graph = StateGraph(State)
    graph.add_node("first", first)
    graph.add_node("second", second)
    graph.add_edge(START, "first")
    graph.add_edge(START, "second")
    return graph.compile(checkpointer=InMemorySaver())


@needs_browser
async def test_several_questions_are_answered_together(browser: Browser) -> None:
    async with playing(browser, asking_graph()) as (page, _):
        await connected(page)
        await say(page, "go")
        colour = page.get_by_role("group").filter(has_text="Which colour?")
        await colour.get_by_label("Answer", exact=True).fill("{hue: blue}")
        await colour.get_by_label("as JSON").check()
        await page.get_by_role("button", name="Answer all 2").click()
        await expect(page.get_by_role("alert")).to_contain_text("expected JSON")
        await colour.get_by_label("Answer", exact=True).fill('{"hue": "blue"}')
        mail = page.get_by_role("group").filter(has_text="send_mail")
        await expect(mail.get_by_label("Reason to reject send_mail")).to_be_hidden()
        await mail.get_by_role("radio", name="Reject").check()
        await mail.get_by_label("Reason to reject send_mail").fill("not now")
        await page.get_by_role("button", name="Answer all 2").click()
        said = page.locator(".message")
        await expect(said.filter(has_text="Colour blue")).to_have_count(1)
        await expect(said.filter(has_text="Decided reject")).to_have_count(1)


EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"
EVIL_MARKDOWN = f"""# {EVIL}

[click](javascript:alert(3)) [data](data:text/html,<script>alert(4)</script>)
![picture](https://evil.example/beacon.png) <https://evil.example/auto> **{EVIL}**
[ok](https://good.example/) <a href="javascript:alert(5)">x</a> <style>body{{display:none}}</style>

```html
{EVIL}
```

| {EVIL} | b |
|---|---|
| {EVIL} | <svg onload=alert(6)> |

- {EVIL}

> {EVIL}
"""


MARKDOWN = """\
***both*** **strong with *em* in it** 2 * 3 * 4 snake_case_word https://good.example/a_(b).

1. first
   - nested
     1. deep
2. second

   ```sh
   pip install
   ```

- [x] done
- [ ] to do

| left | middle | right |
|:-----|:------:|------:|
| a    | b      | c     |
"""


def saying_graph(text: str) -> Any:
    async def say(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await ScriptedModel([Reply(text=text)]).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("say", say)
    graph.add_edge(START, "say")
    return graph.compile(checkpointer=InMemorySaver())


@needs_browser
async def test_what_models_write_looks_as_they_mean_it(browser: Browser) -> None:
    async with playing(browser, saying_graph(MARKDOWN)) as (page, _):
        await connected(page)
        await say(page, "go")
        await expect(page.locator(".run-state").last).to_contain_text("ms")
        said = page.locator(".message .prose")
        await expect(said.locator("> p strong > em")).to_have_text(["both", "em"])
        await expect(said.locator("> p")).to_contain_text("2 * 3 * 4 snake_case_word")
        await expect(said.locator("> p a")).to_have_attribute("href", "https://good.example/a_(b)")
        await expect(said.locator("> ol > li > ul > li > ol > li")).to_have_text("deep")
        await expect(said.locator("> ol > li")).to_have_count(2)
        assert await said.locator("> ol > li pre").text_content() == "pip install"
        assert [await box.is_checked() for box in await said.get_by_role("checkbox").all()] == [
            True,
            False,
        ]
        sides = "cells => cells.map((cell) => getComputedStyle(cell).textAlign)"
        found = await said.locator("td").evaluate_all(sides)
        assert found == ["left", "center", "right"]


class EvilSearch(BaseRetriever):
    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        urls = ["javascript:alert(7)", "https://evil.example/", f"data:text/html,{EVIL}"]
        return [
            Document(EVIL, id=f"{index}{EVIL}", metadata={"title": EVIL, "url": url})
            for index, url in enumerate(urls)
        ]


@tool
async def search(query: str) -> str:
    """Find what is evil."""
    await EvilSearch().ainvoke(query)
    return EVIL


def evil_graph() -> Any:
    async def think(state: MessagesState) -> dict[str, Any]:
        get_stream_writer()({"name": EVIL, "payload": {EVIL: EVIL}})
        asked = [call("search", "c-1", query=EVIL)]
        model = ScriptedModel([Reply(text="", reasoning=EVIL_MARKDOWN, tool_calls=asked)])
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def answer(state: MessagesState) -> dict[str, Any]:
        model = ScriptedModel([Reply(text=EVIL_MARKDOWN)])
        return {"messages": [await model.ainvoke(state["messages"])]}

    async def ask(state: MessagesState) -> dict[str, Any]:
        interrupt({"question": EVIL_MARKDOWN, "options": [EVIL, "no"], EVIL: EVIL})
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([search]))
    graph.add_node("answer", answer)
    graph.add_node(EVIL, ask)
    graph.add_edge(START, "think")
    graph.add_edge("think", "tools")
    graph.add_edge("tools", "answer")
    graph.add_edge("answer", EVIL)
    return graph.compile(checkpointer=InMemorySaver(), name=EVIL)


@needs_browser
async def test_nothing_that_is_said_becomes_markup_or_leaves_the_page(browser: Browser) -> None:
    async with playing(browser, evil_graph()) as (page, _):
        await connected(page)
        await say(page, EVIL)
        await expect(page.locator("#questions")).to_be_visible()
        await page.locator("#inspector > summary").click()
        for fold in await page.locator(".fold > summary").all():
            await fold.click()
        for row in await page.locator("#frames summary").all():
            await row.evaluate("row => row.click()")
        await expect(page.locator(".source")).to_have_count(3)
        await expect(page.locator("#thread-list a")).to_have_text(EVIL)
        assert await page.locator("img, iframe, object, main style, main script").count() == 0
        addresses = await page.locator("a").evaluate_all("all => all.map((one) => one.href)")
        foreign = {address.split("#")[0] for address in addresses}
        assert all(address.startswith(("https://", "http://127.0.0.1")) for address in foreign)
        assert "https://good.example/" in foreign
        await expect(page.locator(".message .code code")).to_contain_text([EVIL, EVIL])
        await page.reload()
        await expect(page.locator("#questions")).to_be_visible()
        await page.locator("#questions [data-pick]").first.click()
        await expect(page.locator("#questions")).to_be_hidden()


# --- without the playground ------------------------------------------------------------------


@needs_browser
async def test_a_page_of_thirty_lines_talks_to_the_graph(browser: Browser) -> None:
    example = runpy.run_path(str(EXAMPLES / "browser_page.py"))
    assert len((EXAMPLES / "browser_page.html").read_text("utf-8").splitlines()) <= 30
    async with (
        running(example["make_app"](demo_graph(delay=0))) as (port, _),
        context_of(browser, port) as context,
    ):
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{port}/")
        await page.locator("#text").fill("What is a superstep?")
        await page.keyboard.press("Enter")
        await expect(page.locator("#answer")).to_contain_text("one tick of a LangGraph graph")
        await expect(page.locator("#sources li").first).to_contain_text("Supersteps")
