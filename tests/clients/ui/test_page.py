"""The page of `examples/react_usechat`, as Vite builds it, in a real browser."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.browser import PATIENCE_MS, launched, needs_browser
from tests.clients.ui.conftest import ROOT, serving
from tests.node import node, run

with suppress(ImportError):  # then nothing that needs them is run
    from playwright.async_api import Page, expect

EXAMPLE = ROOT / "examples" / "react_usechat"
pytestmark = [needs_browser, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that has the built page."""
    where = tmp_path_factory.mktemp("page")
    path = node(EXAMPLE)
    vite = str(EXAMPLE / "node_modules" / "vite" / "bin" / "vite.js")
    options = ("--base", "./", "--outDir", str(where), "--emptyOutDir", "--logLevel", "warn")
    run(path, vite, "build", *options, cwd=EXAMPLE, timeout=100)
    assert (where / "index.html").is_file()
    with serving(str(where)) as url:
        yield url


@asynccontextmanager
async def opened(site: str, graph: str, chat: str) -> AsyncIterator[Page]:
    """The page with a chat, in a browser of its own; it may not complain about anything."""
    async with launched() as browser:
        context = await browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page = await context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        await page.goto(address(site, graph, chat))
        try:
            yield page
        finally:
            assert faults == []


def address(site: str, graph: str, chat: str) -> str:
    return f"{site}/page/index.html?url=/{graph}/aisdk&chat={chat}"


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()


async def test_a_question_is_answered_with_thoughts_tools_and_sources(site: str) -> None:
    async with opened(site, "demo", "q") as page:
        await say(page, "What is a superstep?")
        answer = page.locator("article.assistant")
        await expect(answer).to_contain_text("A superstep is one tick of a LangGraph graph.")
        await expect(answer.locator("summary").first).to_have_text("Thoughts")
        await expect(answer.locator("code").first).to_have_text(
            "search_documents: output-available"
        )
        await expect(answer.get_by_role("link").first).to_have_text("Supersteps")
        await expect(page.locator("output")).to_have_text("ready")
        await expect(page.locator("article.user")).to_have_text("What is a superstep?")


async def test_a_person_answers_what_the_graph_asks(site: str) -> None:
    async with opened(site, "demo", "ask") as page:
        await say(page, "approve")
        await expect(page.locator("legend")).to_have_text("May I send this summary?")
        await page.get_by_role("button", name="yes").click()
        await expect(page.locator("article.assistant")).to_contain_text("Sent!")
        await expect(page.locator("article")).to_have_count(2)
        await expect(page.locator("fieldset")).to_have_count(0)


async def test_a_page_that_is_loaded_again_in_mid_run_sees_all_of_it(site: str) -> None:
    async with opened(site, "slow", "again") as page:
        await say(page, "go")
        await expect(page.locator("article.assistant")).to_have_text("Before. ")
        await page.reload()
        await expect(page.locator("article.assistant")).to_have_text("Before. ")
        async with opened(site, "slow", "again") as second:
            await expect(second.locator("article.assistant")).to_have_text("Before. ")
            let_go_on(site, "again")
            for each in (page, second):
                await expect(each.locator("article.assistant")).to_have_text("Before. After.")
                await expect(each.locator("output")).to_have_text("ready")


async def test_stop_and_again(site: str) -> None:
    async with opened(site, "slow", "stop") as page:
        await say(page, "go")
        await expect(page.locator("article.assistant")).to_have_text("Before. ")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("output")).to_have_text("ready")
        let_go_on(site, "stop")
        await page.get_by_role("button", name="Again").click()
        await expect(page.locator("article.assistant")).to_have_text("Before. After.")


async def test_a_failure_is_shown(site: str) -> None:
    async with opened(site, "fail", "f") as page:
        await say(page, "go")
        await expect(page.get_by_role("alert")).to_contain_text("The graph failed.")


def let_go_on(site: str, chat: str) -> None:
    request = urllib.request.Request(f"{site}/go-on/{chat}", method="POST")
    with urllib.request.urlopen(request) as response:
        assert response.status == 200


def test_the_example_fits_on_a_page() -> None:
    for path in (EXAMPLE / "main.jsx", *Path(ROOT / "examples" / "agui_websocket").glob("*.mjs")):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("//")
        assert len(lines) <= 60
