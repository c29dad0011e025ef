"""One question and everything that the graph says to it: python client_callbacks.py [url [text]]"""

import asyncio
import sys

from langgraph_ws.client import RunFailedError, connect


class Screen:
    """Prints what comes; the texts are all of the text so far."""

    def __init__(self):
        self.shown = 0

    def on_text(self, text, message):
        print(text[self.shown :], end="", flush=True)
        self.shown = len(text)

    def on_message(self, message):
        print("\n" if self.shown else "", end="")
        self.shown = 0

    def on_sources(self, sources, message):
        for source in sources[-message.added :]:
            print(f"  [{source.id}] {source.title} {source.url or ''}")

    def on_workflow_step(self, step, message):
        print(f"· {step} {message.status}")

    def on_tool_result(self, message):
        print(f"· {message.name} {message.status}")

    def on_error(self, error):
        print(f"! {error}")

    def on_end(self, status, message):
        print(f"· the run is {status}")


async def main(url="ws://127.0.0.1:8765/ws", text="Hello"):
    screen = Screen()
    callbacks = {name: getattr(screen, name) for name in dir(screen) if name.startswith("on_")}
    async with connect(url, **callbacks) as client:
        run = await client.new_chat(text)
        try:
            result = await run.result()
            while result.interrupts:  # the graph asks
                answers = {}
                for asked in result.interrupts:
                    answers[asked.id] = await asyncio.to_thread(input, f"{asked.value} ")
                run = await run.answer(answers)
                result = await run.result()
        except RunFailedError:  # on_error has told it
            return None
        return result


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
