"""Reads a story to its end, whichever process tells it: python client.py [url]"""

import asyncio
import sys

from langgraph_ws.client import Reconnect, connect


class Screen:
    """Prints the chapters; those that are being told again begin anew."""

    def __init__(self):
        self.shown = {}

    def on_text(self, text, message):
        before = self.shown.get(message.message_id, "")
        print(text[len(before) :], end="", flush=True)
        self.shown[message.message_id] = text

    def on_attempt(self, attempt):
        print(f"\n· another process goes on (attempt {attempt.attempt})", flush=True)


async def main(url):
    screen = Screen()
    rules = Reconnect(delay=0.1, max_delay=1, max_attempts=None)
    async with connect(url, reconnect=rules) as client:
        run = await client.new_chat(
            "Tell me a story.", on_text=screen.on_text, on_attempt=screen.on_attempt
        )
        result = await run.result()
        print(f"\n\n{result.status}:")
        for message in run.messages:
            if message.role == "assistant":
                print(message.text)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/ws"))
