"""A bot that follows a thread for ever and misses nothing: python reconnecting_bot.py THREAD [url]

It keeps its position in a file: killed and started again, it goes on where it stopped. While it
runs, the client connects again by itself, however long the server is away.
"""

import asyncio
import json
import sys
from pathlib import Path

from langgraph_ws.client import Position, Reconnect, connect


def load(file):
    return Position(*json.loads(file.read_text())) if file.exists() else None


def save(file, position):
    new = file.with_suffix(".new")
    new.write_text(json.dumps(position))
    new.replace(file)  # a bot that is killed here still has the old one


def show(state):
    print(f"· {state.status} {state.reason}".rstrip(), flush=True)


async def follow(thread_id, url, file, act=print):
    """Call `act` with each message that the graph finishes, at least once."""
    rules = Reconnect(delay=0.5, max_delay=60, max_attempts=None)
    async with connect(url, reconnect=rules, on_state=show) as client:
        thread = await client.attach(thread_id, after=load(file))
        epoch = thread.position.epoch
        async for message in thread:
            if message.type == "message" and message.role == "assistant":
                act(f"{message.run_id}: {message.text}")
            elif message.type == "gap":
                act(f"missed something ({message.reason})")
            elif message.type == "snapshot":
                act(f"the thread has {len(message.messages)} messages")
            epoch = getattr(message, "epoch", epoch)
            if message.type in ("message", "end", "snapshot"):
                save(file, Position(epoch, message.seq))


if __name__ == "__main__":
    thread_id, url = (*sys.argv[1:], "ws://127.0.0.1:8765/ws")[:2]
    asyncio.run(follow(thread_id, url, Path(f"{thread_id}.position.json")))
