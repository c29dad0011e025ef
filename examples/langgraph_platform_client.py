"""A script for LangGraph Platform, which works here as it is: `langgraph_sdk` asks and answers.

Run `react_usestream.py`, and then this with what to say; "approve" makes the graph ask back.
"""

import asyncio
import sys

from langgraph_sdk import get_client


async def show(message):
    async for text in message.text:
        print(text, end="", flush=True)
    print()


async def read(thread):
    """Print messages as they come, until the run has ended or asks for something."""
    async with asyncio.TaskGroup() as group:  # the SDK wants a task for each message
        async for message in thread.messages:
            group.create_task(show(message))


async def main(url, said, answer=input):
    async with (
        get_client(url=url) as client,
        client.threads.stream(assistant_id="agent", transport="websocket") as thread,
    ):
        reader = asyncio.create_task(read(thread))
        await thread.run.start(input={"messages": [{"role": "user", "content": said}]})
        await reader
        answered = set()
        while waiting := [
            each for each in thread.interrupts if each["interrupt_id"] not in answered
        ]:
            asked = waiting[0]
            answered.add(asked["interrupt_id"])
            reader = asyncio.create_task(read(thread))
            await thread.run.respond(
                answer(f"{asked['value']} "), interrupt_id=asked["interrupt_id"]
            )
            await reader
        state = await thread.output
        return [message["content"] for message in state["messages"]]


if __name__ == "__main__":
    asyncio.run(main("http://127.0.0.1:8765/agent", " ".join(sys.argv[1:]) or "Hi"))
