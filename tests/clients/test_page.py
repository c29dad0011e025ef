"""The page of `examples/react_usestream`, as Vite builds it, in a real browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.browser import PATIENCE_MS, launched, needs_browser
from tests.clients.conftest import ROOT, Server, serving
from tests.clients.graphs import AFTER, BEFORE
from tests.node import hosts_named, node, run
from tests.proxy import Switch

with suppress(ImportError):  # then nothing that needs them is run
    from playwright.async_api import Browser, BrowserContext, Page, expect

EXAMPLE = ROOT / "examples" / "react_usestream"
HALF = f"slow: {BEFORE}"
pytestmark = [needs_browser, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has the built page."""
    where = tmp_path_factory.mktemp("page")
    path = node(EXAMPLE)
    vite = EXAMPLE / "node_modules" / "vite" / "bin" / "vite.js"
    out = ("--base", "./", "--outDir", str(where / "dist"))
    run(path, str(vite), "build", *out, cwd=EXAMPLE, timeout=100)
    with serving(where, "--pages", str(where / "dist")) as started:
        yield started


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    async with launched() as started:
        yield started


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser profile in which no page may have failed in the end."""
    made = await browser.new_context()
    made.set_default_timeout(PATIENCE_MS)
    failures: list[str] = []
    made.on("weberror", lambda error: failures.append(str(error.error)))
    yield made
    await made.close()
    assert not failures


class Chat:
    """A page that is open."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.messages = page.get_by_role("list", name="Messages").get_by_role("listitem")
        self.tools = page.get_by_role("list", name="Tools").get_by_role("listitem")
        self.stop = page.get_by_role("button", name="Stop")

    async def send(self, text: str) -> None:
        await self.page.get_by_role("textbox", name="Message").fill(text)
        await self.page.get_by_role("button", name="Send").click()

    async def shows(self, *texts: str) -> None:
        await expect(self.messages).to_have_text(list(texts))

    async def ended(self) -> None:
        await expect(self.stop).to_have_count(0)

    async def thread_id(self) -> str:
        return str(await self.page.evaluate("location.hash.slice(1)"))


async def opened(context: BrowserContext, site: Server, graph: str, query: str = "") -> Chat:
    page = await context.new_page()
    await page.goto(site.at(f"/page/index.html?graph={graph}{query}"))
    return Chat(page)


async def test_a_conversation(context: BrowserContext, site: Server) -> None:
    chat = await opened(context, site, "chat")
    await chat.send("hi")
    await chat.shows("hi", "Turn 1: hi")
    await chat.send("again")
    await chat.shows("hi", "Turn 1: hi", "again", "Turn 2: again")
    await chat.ended()


async def test_tools_are_shown(context: BrowserContext, site: Server) -> None:
    chat = await opened(context, site, "adder")
    await chat.send("hi")
    await expect(chat.tools).to_have_text(['add({"a":1,"b":2}) finished'])
    await expect(chat.messages.last).to_have_text("Results: 3")


async def test_a_reload_in_mid_run_and_a_second_page(context: BrowserContext, site: Server) -> None:
    chat = await opened(context, site, "gated")
    await chat.send("slow")
    await chat.shows("slow", HALF)
    await expect(chat.stop).to_be_visible()
    await chat.page.reload()
    await chat.shows("slow", HALF)
    await expect(chat.stop).to_be_visible()
    other = await opened(context, site, "gated", f"#{await chat.thread_id()}")
    await other.shows("slow", HALF)
    site.open(await chat.thread_id(), "slow")
    for page in (chat, other):
        await page.shows("slow", HALF + AFTER)
        await page.ended()
    await chat.send("next")
    await chat.shows("slow", HALF + AFTER, "next", "Quick answer to next.")


async def test_an_interrupt_is_answered_after_a_reload(
    context: BrowserContext, site: Server
) -> None:
    chat = await opened(context, site, "ask")
    await chat.send("hi")
    legend = chat.page.locator("legend")
    await expect(legend).to_have_text('{"question":"Send hi?"}')
    await chat.page.reload()
    await expect(legend).to_have_text('{"question":"Send hi?"}')
    await chat.page.get_by_role("button", name="Yes").click()
    await chat.shows("hi", "You said yes.")
    await expect(legend).to_have_count(0)


async def test_stop_and_go_on(context: BrowserContext, site: Server) -> None:
    chat = await opened(context, site, "gated")
    await chat.send("slow")
    await chat.shows("slow", HALF)
    await chat.stop.click()
    await chat.ended()
    await chat.send("again")
    await expect(chat.messages.get_by_text("Quick answer to again.")).to_be_visible()
    await chat.page.reload()
    await chat.shows("slow", "again", "Quick answer to again.")


async def test_a_failure_is_shown(context: BrowserContext, site: Server) -> None:
    chat = await opened(context, site, "failing")
    await chat.send("hi")
    await expect(chat.page.get_by_role("alert")).to_be_visible()
    await chat.ended()


async def test_nothing_is_lost_when_the_connection_is_reset(
    context: BrowserContext, site: Server
) -> None:
    async with Switch(site.port).serving() as proxy:
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{proxy.port}/page/index.html?graph=gated")
        chat = Chat(page)
        await chat.send("slow")
        await chat.shows("slow", HALF)
        await proxy.to(site.port)
        site.open(await chat.thread_id(), "slow")
        await chat.shows("slow", HALF + AFTER)
        await chat.ended()
        await page.close()


@asynccontextmanager
async def elsewhere(context: BrowserContext, site: Server, api: str) -> AsyncIterator[Chat]:
    """The page, served from another origin than that of the API."""
    async with Switch(site.port).serving() as proxy:
        page = await context.new_page()
        where = f"http://127.0.0.1:{proxy.port}/page/index.html"
        await page.goto(f"{where}?graph=chat&api={site.at(api)}")
        yield Chat(page)
        await page.close()


async def test_a_page_of_another_origin_needs_to_be_allowed(
    context: BrowserContext, site: Server
) -> None:
    async with elsewhere(context, site, "/shared") as chat:
        await chat.send("hi")
        await chat.shows("hi", "Turn 1: hi")
        await chat.page.reload()
        await chat.shows("hi", "Turn 1: hi")  # this time read over HTTP


def test_the_example_is_small_and_its_packages_are_pinned() -> None:
    assert len((EXAMPLE / "main.jsx").read_text(encoding="utf-8").splitlines()) < 60
    assert "://" not in (EXAMPLE / "index.html").read_text(encoding="utf-8")
    assert hosts_named(EXAMPLE / "package-lock.json") == []
    package: dict[str, Any] = json.loads((EXAMPLE / "package.json").read_text(encoding="utf-8"))
    for kind in ("dependencies", "devDependencies"):
        assert all(version[0].isdigit() for version in package[kind].values())
