"""The Autobahn test suite against a connection of ours, where its program `wstest` is at hand."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from langgraph_ws import Limits
from langgraph_ws.commands import Answer, Snapshot
from langgraph_ws.errors import GapError, RequestError
from langgraph_ws.log import Entry, Position
from langgraph_ws.session import Action, Reply, Retry, Session
from tests.graphs import chat
from tests.serving import serving

LIMITS = Limits(message_bytes=32 * 2**20, messages_per_second=1e9, message_burst=10**9)
CASES = ["1.1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.*", "9.3.*", "10.*"]
"""All but those of binary messages, which no protocol of ours answers, and of compression."""
DEVIATIONS = {
    # Text is looked at when it is whole: what is wrong in it is seen later, not missed.
    **dict.fromkeys(("6.4.1", "6.4.2", "6.4.3", "6.4.4"), "NON-STRICT"),
    # Of several pings that wait, the last is answered (RFC 6455, 5.5.3, allows it).
    **dict.fromkeys(("2.10", "2.11"), "FAILED"),
    # What the suite only tells, for the RFC leaves it open.
    **dict.fromkeys(("7.1.6", "7.13.1", "7.13.2"), "INFORMATIONAL"),
}
RACES = frozenset(
    {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}
)
"""Good messages, then a bad frame at once: the close may come before the last answers do."""


class Echo(Session):
    """Says what it is told."""

    name: ClassVar[str] = "echo"

    def receive(self, text: str) -> list[Action]:
        return [Reply(text.encode())]

    def done(self, token: int, outcome: Answer | RequestError) -> list[bytes]:
        return []

    def send(self, thread_id: str, entries: Sequence[Entry]) -> list[bytes]:
        return []

    def gap(self, thread_id: str, gap: GapError, snapshot: Snapshot) -> list[bytes] | None:
        return None

    def refuse(self, text: str, error: RequestError) -> list[bytes]:
        return []

    def heartbeat(
        self, time_ms: int, heads: Mapping[str, Position], *, degraded: bool = False
    ) -> list[bytes]:
        return []

    def bye(self, reason: str, retry: Retry, after_ms: int) -> list[bytes]:
        return []


async def check(wstest: str) -> str:
    """Every case behaves, but for those that are listed."""
    with tempfile.TemporaryDirectory() as place:
        async with serving(chat("x"), limits=LIMITS) as site:
            site.attachment._sessions = {Echo.name: Echo}
            spec = {
                "options": {"failByDrop": True},
                "outdir": place,
                "servers": [{"agent": "ours", "url": f"ws://127.0.0.1:{site.port}/ws"}],
                "cases": CASES,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
            path = Path(place) / "spec.json"
            path.write_text(json.dumps(spec))
            process = await asyncio.create_subprocess_exec(
                *(wstest, "--mode", "fuzzingclient", "--spec", str(path)),
                stdout=asyncio.subprocess.DEVNULL,
                cwd=place,
            )
            assert await process.wait() == 0
        report: dict[str, Any] = json.loads((Path(place) / "index.json").read_text())["ours"]
    found = {}
    for case, result in report.items():
        outcomes = {result["behavior"], result["behaviorClose"]} - {"OK"}
        if outcomes and not (case in RACES and outcomes == {"NON-STRICT"}):
            found[case] = " ".join(sorted(outcomes))
    assert found == DEVIATIONS, found
    return f"{len(report)} cases, {len(found)} listed deviations, no other"
