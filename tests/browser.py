"""A headless Chromium, driven by Playwright; where one of the two is missing, tests are skipped."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

try:
    from playwright.async_api import Browser, async_playwright
except ImportError:
    async_playwright = None  # type: ignore[assignment]

CHROMIUM = Path("/usr/bin/chromium")
WITHOUT = async_playwright is None or not CHROMIUM.exists()
needs_browser = pytest.mark.skipif(
    WITHOUT and os.environ.get("CI") != "true", reason="playwright or Chromium is not installed"
)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PATIENCE_MS = 15_000


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """A browser that lives as long as this block."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()
