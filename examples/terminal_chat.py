"""Chat in the terminal over plain aiohttp: python terminal_chat.py [ws://127.0.0.1:8765/ws]"""

import asyncio
import contextlib
import sys
import uuid

import aiohttp

LINES = {"workflow_step": "· {step}", "tool_result": "· {name} {status}", "error": "! {message}"}


class Chat:
    def __init__(self, url="ws://127.0.0.1:8765/ws"):
        self.url, self.seen = url, {"thread_id": str(uuid.uuid4())}
        self.asked, self.speaker, self.said = {}, None, 0

    async def turn(self, request):  # sent again with the same run_id, it starts nothing twice
        request, self.asked = {"id": 1, "run_id": str(uuid.uuid4())} | self.seen | request, {}
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with aiohttp.ClientSession() as http, http.ws_connect(self.url) as ws:
                    await ws.send_json({"type": "attach"} | self.seen)  # go on where we were
                    await ws.send_json(request)
                    async for message in ws:
                        if self.show(message.json(), request["run_id"]):
                            return
            print("\n! not connected, trying again", flush=True)
            await asyncio.sleep(1)

    def show(self, frame, run_id):  # true for the message that ends the turn
        kind, data = frame["type"], frame["data"]
        if kind == "text" and self.speaker in (None, data["message_id"]):
            print(data["text"][self.said :], end="", flush=True)
            self.speaker, self.said = data["message_id"], len(data["text"])
        elif kind == "message" and self.speaker in (data["message_id"], data.get("streamed_id")):
            self.speaker, self.said = print(), 0
        elif kind == "message" and data["role"] == "assistant" and self.speaker:
            print("\n|", *(block.get("text", "") for block in data["content"]))
        elif kind == "sources":
            print(*(f"  [{s['id']}] {s.get('title')}" for s in data["sources"]), sep="\n")
        elif kind in LINES and data.get("status") not in ("finished", "interrupted"):
            print(LINES[kind].format(**data))
        self.asked |= {data["id"]: data["value"]} if kind == "interrupt" else {}
        self.seen |= {"epoch": data["epoch"]} if kind == "run" else {}
        if kind == "snapshot" or "seq" in frame:
            self.seen["after"] = (data if kind == "snapshot" else frame)["seq"]
        return {"end": frame.get("run_id") == run_id, "error": "request_id" in frame}.get(kind)


if __name__ == "__main__":
    chat = Chat(*sys.argv[1:])
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            request = {"type": "resume_chat"}  # an empty line goes on after a failure
            if chat.asked:
                request["resume"] = {key: input(f"{asked} ") for key, asked in chat.asked.items()}
            elif text := input("> "):
                request = {"type": "new_chat", "messages": [{"role": "user", "content": text}]}
            asyncio.run(chat.turn(request))
