"""What RFC 6455 demands of a server, case by case on a bare socket, and where it is not so.

Where we differ it is listed, with the reason; a difference that vanishes is an error too, so that
the list stays true.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from langgraph_ws import Limits
from tests.graphs import chat
from tests.rawsocket import CLOSE, PING, PONG, TEXT, RawClient, frame
from tests.serving import serving

CONTINUATION = 0
PATIENCE_S = 5.0
LIMIT = 64 * 2**10
PING_MESSAGE = b'{"type": "ping", "id": "x"}'
UNICODE_MESSAGE = '{"type": "ping", "id": "κόσμε 🕐"}'.encode()
ALIVE = "answers"
"""The connection goes on: a `ping` message is answered."""


def head(first: int, size: int, *, mask: bytes | None = b"\0\0\0\0") -> bytes:
    """The head of a frame, whatever is in its first byte, in the shortest form of its length."""
    masked = 0 if mask is None else 0x80
    if size < 126:
        sent = struct.pack("!BB", first, masked | size)
    elif size < 2**16:
        sent = struct.pack("!BBH", first, masked | 126, size)
    else:
        sent = struct.pack("!BBQ", first, masked | 127, size)
    return sent + (mask or b"")


def raw(first: int, payload: bytes = b"", *, mask: bytes | None = b"\0\0\0\0") -> bytes:
    """A frame with this first byte; its mask changes nothing."""
    return head(first, len(payload), mask=mask) + payload


def pieces(payload: bytes, *sizes: int) -> bytes:
    """A text in several frames of these sizes, and one more."""
    sent, first = b"", TEXT
    for size in sizes:
        sent += raw(first, payload[:size])
        payload, first = payload[size:], CONTINUATION
    return sent + raw(0x80 | first, payload)


def closing(code: int, reason: bytes = b"") -> bytes:
    return raw(0x80 | CLOSE, struct.pack("!H", code) + reason)


def bomb(size: int) -> bytes:
    """Zeros as permessage-deflate has them (RFC 7692), about a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(size)) + packer.flush(zlib.Z_SYNC_FLUSH)
    return raw(0xC0 | TEXT, packed.removesuffix(b"\0\0\xff\xff"))


@dataclass(frozen=True)
class Case:
    """What is sent, and the close code (or `ALIVE`, or the opcode of an answer) that must come."""

    name: str
    section: str
    sent: Sequence[bytes]
    expected: int | str
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: tuple[int, bytes] | None = None


DEFLATE = {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"}
BAD_UTF8 = {
    "a byte that begins nothing": b"\xff",
    "a character cut off": b"\xe2\x82",
    "an overlong form": b"\xc0\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
}
CASES = [
    Case("a text", "5.6", [raw(0x80 | TEXT, PING_MESSAGE)], ALIVE),
    Case("a text of several languages", "5.6", [raw(0x80 | TEXT, UNICODE_MESSAGE)], ALIVE),
    Case("a mask", "5.3", [frame(TEXT, PING_MESSAGE)], ALIVE),
    Case("a text in two frames", "5.4", [pieces(PING_MESSAGE, 5)], ALIVE),
    Case("a text in frames of a byte", "5.4", [pieces(UNICODE_MESSAGE, *[1] * 40)], ALIVE),
    Case("an empty frame in between", "5.4", [pieces(PING_MESSAGE, 5, 0, 5)], ALIVE),
    Case("byte by byte", "5.2", [bytes([it]) for it in raw(0x80 | TEXT, PING_MESSAGE)], ALIVE),
    Case("a ping", "5.5.2", [raw(0x80 | PING, b"p")], ALIVE, answer=(PONG, b"p")),
    Case("an empty ping", "5.5.2", [raw(0x80 | PING)], ALIVE, answer=(PONG, b"")),
    Case("a ping of 125", "5.5", [raw(0x80 | PING, b"p" * 125)], ALIVE, answer=(PONG, b"p" * 125)),
    Case("a pong that nobody asked for", "5.5.3", [raw(0x80 | PONG, b"p")], ALIVE),
    Case(
        "a ping within a text",
        "5.4",
        [raw(TEXT, PING_MESSAGE[:5]), raw(0x80 | PING, b"p"), raw(0x80, PING_MESSAGE[5:])],
        ALIVE,
        answer=(PONG, b"p"),
    ),
    Case("the largest message", "10.4", [raw(0x81, b'"' + b"x" * (LIMIT - 2) + b'"')], ALIVE),
    Case("one byte more", "10.4", [raw(0x81, b"x" * (LIMIT + 1))], 1009),
    Case("one byte more in pieces", "10.4", [pieces(b"x" * (LIMIT + 1), LIMIT // 2)], 1009),
    Case("a ping of 126", "5.5", [raw(0x80 | PING, b"p" * 126)], 1002),
    Case("a ping in two frames", "5.5", [raw(PING, b"p"), raw(0x80, b"p")], 1002),
    Case("a close in two frames", "5.5", [raw(CLOSE, b"\x03\xe8"), raw(0x80, b"x")], 1002),
    Case("nothing to continue", "5.4", [raw(0x80, b"x")], 1002),
    Case("nothing to continue, at first", "5.4", [raw(CONTINUATION, b"x")], 1002),
    Case("a text within a text", "5.4", [raw(TEXT, b"x"), raw(0x80 | TEXT, b"y")], 1002),
    Case(
        "a text within a text that is empty yet",
        "5.4",
        [raw(TEXT), raw(0x80 | TEXT, PING_MESSAGE)],
        1002,
    ),
    *(
        Case(f"reserved bit {number}", "5.2", [raw(0x81 | 0x80 >> number, PING_MESSAGE)], 1002)
        for number in (1, 2, 3)
    ),
    *(
        Case(f"reserved bit 1, {what}", "5.2", [raw(0xC1, b"\0\xff")], 1002, headers)
        for what, headers in {"nothing offered": {}, "deflate offered": DEFLATE}.items()
    ),
    *(
        Case(f"reserved opcode {opcode:#x}", "5.2", [raw(0x80 | opcode)], 1002)
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ),
    Case("a frame without a mask", "5.1", [raw(0x81, PING_MESSAGE, mask=None)], 1002),
    Case("a length of 2**63", "5.2", [struct.pack("!BBQ", 0x81, 0xFF, 2**63) + b"mask"], 1002),
    Case("a length of 2**62", "10.4", [struct.pack("!BBQ", 0x81, 0xFF, 2**62) + b"mask"], 1009),
    Case(
        "a length that is longer than it need be",
        "5.2",
        [struct.pack("!BBH", 0x81, 0xFE, len(PING_MESSAGE)) + b"\0\0\0\0" + PING_MESSAGE],
        1002,
    ),
    Case("a bomb of deflate", "10.4", [bomb(8 * 2**20)], 1002),
    Case("a bomb of deflate that was offered", "10.4", [bomb(8 * 2**20)], 1002, DEFLATE),
    *(Case(f"{name} in a text", "8.1", [raw(0x81, it)], 1007) for name, it in BAD_UTF8.items()),
    *(
        Case(f"{name} in pieces", "8.1", [pieces(b"x" + it, 2)], 1007)
        for name, it in BAD_UTF8.items()
    ),
    Case("bad UTF-8, before the text is whole", "8.1", [raw(TEXT, b"\xff")], 1007),
    Case("bad UTF-8 in the reason of a close", "8.1", [closing(1000, b"\xff")], 1007),
    Case("a close without a code", "5.5.1", [raw(0x80 | CLOSE)], 1000),
    Case("a close of one byte", "5.5.1", [raw(0x80 | CLOSE, b"\x03")], 1002),
    *(
        Case(f"a close of {code}", "7.4", [closing(code, b"bye")], code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    ),
    *(
        Case(f"a close of {code}", "7.4", [closing(code)], 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    ),
    Case("two closes", "5.5.1", [closing(1000), closing(1001)], 1000),
    Case("a text after a close", "5.5.1", [closing(1000), raw(0x81, PING_MESSAGE)], 1000),
]

DEVIATIONS: dict[str, int | str] = {
    # Where RFC 6455 says "MUST", and aiohttp (3.14.4 and 3.14.5), which reads the frames, does not.
    # None of them lets anybody see or do more than a good frame would.
    "a frame without a mask": ALIVE,
    "a length that is longer than it need be": ALIVE,
    "a text within a text that is empty yet": ALIVE,
    # It is closed, with another code.
    "a length of 2**63": 1009,
    # The text is looked at when it is whole: here what comes next closes the connection.
    "bad UTF-8, before the text is whole": 1002,
    # A handshake of HTTP/1.0 is taken for one of HTTP/1.1.
    "HTTP/1.0": 101,
}
"""What comes instead of what is expected."""


@dataclass(frozen=True)
class Handshake:
    """Lines of a request instead of those of a good one, and the status that must come."""

    name: str
    section: str
    request: str
    status: int


KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
GOOD = "Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" + KEY
GET = "GET /ws HTTP/1.1\r\n"


def but(old: str, new: str) -> str:
    """A good handshake with something else in place of this."""
    return GET + GOOD.replace(old, new, 1)


HANDSHAKES = [
    Handshake("as it is to be", "4.1", but("", ""), 101),
    Handshake(
        "upper and lower case", "4.2.1", but("Upgrade: websocket", "uPGRADE: WebSocket"), 101
    ),
    Handshake("two connection options", "4.2.1", but("n: Up", "n: keep-alive, Up"), 101),
    Handshake("no upgrade", "4.2.1", but("Upgrade: websocket", "X: y"), 426),
    Handshake("no connection", "4.2.1", but("Connection: Upgrade", "X: y"), 426),
    Handshake("another upgrade", "4.2.1", but("websocket", "h2c"), 426),
    Handshake("no version", "4.2.1", but("Version: 13", "X: y"), 400),
    Handshake("another version", "4.4", but("13", "12"), 400),
    Handshake("no key", "4.2.1", but(KEY, "X: y"), 400),
    Handshake("a short key", "4.2.1", but("AAAA", ""), 400),
    Handshake("a key that is no base64", "4.2.1", but("AAAA", "****"), 400),
    Handshake("another method", "4.2.1", f"POST /ws HTTP/1.1\r\n{GOOD}", 405),
    Handshake("no host", "4.2.1", but("Host: a", "X: y"), 400),
    Handshake("HTTP/1.0", "4.2.1", f"GET /ws HTTP/1.0\r\n{GOOD}", 400),
]


async def closed_or_alive(port: int, case: Case) -> int | str:
    """The code that the server closes with; `ALIVE`, when it answers a `ping` message instead."""
    client = await RawClient.connect(port, **case.headers)
    try:
        assert client.status == 101
        assert "sec-websocket-extensions" not in client.headers
        with suppress(ConnectionError):
            for piece in case.sent:
                await client.write(piece)
                if len(case.sent) > 3:
                    await asyncio.sleep(0)  # in packets of their own
            await client.write(raw(0x80 | TEXT, b'{"type": "ping", "id": "alive"}'))
        answers = []
        async with asyncio.timeout(PATIENCE_S):
            while True:
                opcode, payload = await client.receive_frame()
                answers.append((opcode, payload))
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2])
                if b'"request_id":"alive"' in payload:
                    assert case.answer is None or case.answer in answers
                    return ALIVE
    finally:
        client.close()


async def status_of(port: int, handshake: Handshake) -> int:
    """The HTTP status that a handshake is answered with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{handshake.request}\r\n\r\n".encode("latin-1"))
        line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
        return int(line.split()[1])
    finally:
        writer.close()
        await writer.wait_closed()


async def check() -> str:
    """Every case; what comes is what must come, or what is listed."""
    found: dict[str, tuple[int | str, int | str]] = {}
    limits = Limits(message_bytes=LIMIT, message_burst=1_000)
    async with serving(chat("x"), limits=limits) as site:
        for case in CASES:
            found[case.name] = case.expected, await closed_or_alive(site.port, case)
        for handshake in HANDSHAKES:
            found[handshake.name] = handshake.status, await status_of(site.port, handshake)
    assert len(found) == len(CASES) + len(HANDSHAKES), "two cases have the same name"
    deviations = {name: came for name, (expected, came) in found.items() if came != expected}
    assert deviations == DEVIATIONS
    return f"{len(found)} cases, {len(deviations)} listed deviations, no other"
