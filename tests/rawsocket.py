"""A WebSocket client on a bare socket: it reads only when told to and answers nothing itself."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
import zlib
from typing import Any

import orjson

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class RawClient:
    """One connection; `status` and `headers` are those of the answer to the upgrade.

    `payload` counts the bytes of what came in frames, before they are inflated.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""
        self._inflate: Any = None
        self.payload = 0
        self.status = 0
        self.headers: dict[str, str] = {}

    @classmethod
    async def connect(
        cls, port: int, path: str = "/ws", *, receive_buffer: int | None = None, **headers: str
    ) -> RawClient:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        client = cls(sock)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        given = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        await client.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = (await client._until(b"\r\n\r\n")).decode().split("\r\n")
        client.status = int(head[0].split()[1])
        client.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])
        }
        if "sec-websocket-extensions" in client.headers:
            client._inflate = zlib.decompressobj(-15)
        return client

    async def send(self, message: Any) -> None:
        await self.send_frame(TEXT, orjson.dumps(message))

    async def send_frame(
        self, opcode: int, payload: bytes = b"", *, compressed: bool = False
    ) -> None:
        await self.write(frame(opcode | (0x40 if compressed else 0), payload))

    async def receive_frame(self) -> tuple[int, bytes]:
        """The opcode and payload of the next frame."""
        while (taken := first_frame(self._data)) is None:
            await self._more()
        first, payload, self._data = taken
        assert first & 0x80, "a fragment"
        self.payload += len(payload)
        if first & 0x70:
            assert first & 0x70 == 0x40, "another extension is in use"
            assert self._inflate is not None, "an extension is in use"
            payload = self._inflate.decompress(payload + b"\0\0\xff\xff")
        return first & 15, payload

    async def receive(self, kind: str) -> Any:
        """The next message of this type, whatever comes before."""
        while True:
            opcode, payload = await self.receive_frame()
            if opcode == TEXT and (message := orjson.loads(payload))["type"] == kind:
                return message
            assert opcode != CLOSE, payload

    async def receive_close(self) -> int:
        """The code of the close frame, whatever comes before."""
        while True:
            opcode, payload = await self.receive_frame()
            if opcode == CLOSE:
                return int(struct.unpack("!H", payload[:2])[0])

    async def dropped(self) -> bool:
        """Read on to the end of the connection; whether it came with no close frame."""
        try:
            while True:
                if (await self.receive_frame())[0] == CLOSE:
                    return False
        except (EOFError, ConnectionError):
            return True

    async def pass_on(self, protocol: asyncio.Protocol) -> None:
        """Have a protocol take the connection, and what comes from now on."""
        assert not self._data, "something came that nobody has read"
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=self._sock)

    def close(self) -> None:
        self._sock.close()

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._data:
            await self._more()
        head, _, self._data = self._data.partition(mark)
        return head

    async def _more(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._sock, 65_536)
        if not data:
            raise EOFError
        self._data += data


def first_frame(data: bytes) -> tuple[int, bytes, bytes] | None:
    """The first byte of the first (unmasked) frame, its payload, and what comes after it."""
    if len(data) < 2:
        return None
    start, size = 2, data[1] & 127
    if size > 125:
        start += 2 if size == 126 else 8
        if len(data) < start:
            return None
        size = int.from_bytes(data[2:start], "big")
    end = start + size
    return None if len(data) < end else (data[0], data[start:end], data[end:])


def frame(opcode: int, payload: bytes) -> bytes:
    """A masked frame."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 2**16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
