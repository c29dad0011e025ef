"""What can be counted, and who counts it: nobody by default, OpenTelemetry if you like.

Pass an object with these methods as `attach_websocket(…, metrics=…)`. Each is called in one place,
in the event loop, and has to be quick. Labels have few values: names of graphs and protocols, fixed
reasons, statuses and close codes; nothing that a client chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langgraph_ws.errors import GapReason
from langgraph_ws.frames import RunStatus
from langgraph_ws.log import LogSize

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["Metrics", "OpenTelemetryMetrics", "RunLabels"]

Refusal = Literal[
    "draining",
    "error",
    "forbidden",
    "origin",
    "overloaded",
    "subprotocol",
    "too_many",
    "unauthorized",
]
"""Why a handshake was refused."""

_CODES = frozenset(
    {1000, 1001, 1002, 1006, 1007, 1009, 1011, 1012, 1013}
    | {4400, 4401, 4403, 4408, 4429, 4440, 4450}
)
"""The close codes that are told apart; a client may send any, and they would all be labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLabels:
    """What a run is told apart by: `graph` in metrics, the ids in traces only."""

    graph: str
    run_id: str
    thread_id: str


class Metrics:
    """Counts nothing. Derive from it and override what you want to know."""

    def connection_refused(self, reason: Refusal) -> None:
        """A handshake was refused."""

    def connection_opened(self, protocol: str, seconds: float) -> None:
        """A handshake was accepted, `seconds` after the request came."""

    def connection_closed(self, protocol: str, code: int, seconds: float) -> None:
        """A connection ended with this close code, `seconds` after it was accepted."""

    def messages_sent(self, protocol: str, messages: int, size: int) -> None:
        """So many messages went out, of `size` bytes before compression (about once a second)."""

    def frames_conflated(self, protocol: str, frames: int) -> None:
        """So many frames went out as part of another's message (told about once a second)."""

    def frames_replayed(self, protocol: str, frames: int) -> None:
        """A client attached, and so many frames had been logged before."""

    def gap(self, reason: GapReason) -> None:
        """A position could not be resumed from."""

    def connection_stalled(self, protocol: str) -> None:
        """A client was dropped because it took nothing for too long."""

    def cursor_lag(self, entries: int) -> None:
        """How many entries the slowest connection is behind (told about once a second)."""

    def log_size(self, size: LogSize) -> None:
        """What the log holds (told about once a second)."""

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop came to a timer (told about once a second)."""

    def run_started(self, run: RunLabels) -> None:
        """A run began here, or was to begin, or goes on here after another process."""

    def first_frame(self, run: RunLabels, seconds: float) -> None:
        """A run said something for the first time, `seconds` after it was accepted."""

    def run_finished(self, run: RunLabels, status: RunStatus, seconds: float) -> None:
        """A run ended here, `seconds` after it began; called within its span.

        Args:
            run: The run.
            status: How it ended; `drained` also where other processes go on with it, `failed` also
                where it was refused.
            seconds: How long it took.
        """

    def run_span(
        self, run: RunLabels, carrier: Mapping[str, str]
    ) -> AbstractContextManager[object]:
        """A context to run the graph in.

        Args:
            run: The run.
            carrier: The trace context of the client's handshake (`traceparent`, `tracestate`;
                W3C Trace Context), where it had one.
        """
        del run, carrier
        return nullcontext()


class OpenTelemetryMetrics(Metrics):
    """Counts with OpenTelemetry, and makes a span for each run. Needs the extra `otel`.

    Args:
        meter_provider: Where instruments are made; None: the global one.
        tracer_provider: Where spans are made; None: the global one.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        from opentelemetry import metrics, propagate, trace

        meter = metrics.get_meter("langgraph_ws", meter_provider=meter_provider)
        self._tracer = trace.get_tracer("langgraph_ws", tracer_provider=tracer_provider)
        self._trace: Any = trace
        self._extract: Any = propagate.extract

        def counter(name: str, description: str, unit: str = "1") -> Any:
            return meter.create_counter(f"langgraph_ws.{name}", unit, description)

        def level(name: str, description: str) -> Any:
            return meter.create_up_down_counter(f"langgraph_ws.{name}", "1", description)

        def seconds(name: str, description: str) -> Any:
            return meter.create_histogram(f"langgraph_ws.{name}", "s", description)

        def gauge(name: str, description: str, unit: str = "1") -> Any:
            return meter.create_gauge(f"langgraph_ws.{name}", unit, description)

        self._attempts = counter("connection.attempts", "Handshakes, by outcome")
        self._open = level("connections", "Connections that are open")
        self._accept = seconds("connection.accept.duration", "From request to acceptance")
        self._closed = counter("connection.closed", "Connections that ended, by close code")
        self._stalled = counter("connection.stalled", "Clients dropped for taking nothing")
        self._messages = counter("messages.sent", "Messages that went out")
        self._bytes = counter("messages.sent.size", "Bytes of messages that went out", "By")
        self._conflated = counter("frames.conflated", "Frames sent as part of another's message")
        self._replayed = counter("frames.replayed", "Frames that were sent again, or late")
        self._gaps = counter("gaps", "Positions that could not be resumed from")
        self._lag = gauge("cursor.lag", "Entries that the slowest connection is behind")
        self._log_threads = gauge("log.threads", "Threads in the log")
        self._log_entries = gauge("log.entries", "Entries in the log")
        self._log_bytes = gauge("log.size", "Bytes in the log", "By")
        self._loop_lag = seconds("loop.lag", "How late the event loop came to a timer")
        self._running = level("runs", "Runs that are active")
        self._started = counter("run.started", "Runs that began")
        self._finished = counter("run.finished", "Runs that ended, by status")
        self._duration = seconds("run.duration", "From the beginning of a run to its end")
        self._first = seconds("run.first_frame.duration", "From acceptance to the first word")

    def connection_refused(self, reason: Refusal) -> None:
        """Count the attempt."""
        self._attempts.add(1, {"outcome": reason})

    def connection_opened(self, protocol: str, seconds: float) -> None:
        """Count the attempt and the connection."""
        labels = {"protocol": protocol}
        self._attempts.add(1, {"outcome": "opened"})
        self._open.add(1, labels)
        self._accept.record(seconds, labels)

    def connection_closed(self, protocol: str, code: int, seconds: float) -> None:
        """Count the end."""
        del seconds
        self._open.add(-1, {"protocol": protocol})
        label = str(code) if code in _CODES else "other"
        self._closed.add(1, {"protocol": protocol, "code": label})

    def messages_sent(self, protocol: str, messages: int, size: int) -> None:
        """Count messages and bytes."""
        labels = {"protocol": protocol}
        self._messages.add(messages, labels)
        self._bytes.add(size, labels)

    def frames_conflated(self, protocol: str, frames: int) -> None:
        """Count them."""
        self._conflated.add(frames, {"protocol": protocol})

    def frames_replayed(self, protocol: str, frames: int) -> None:
        """Count them."""
        self._replayed.add(frames, {"protocol": protocol})

    def gap(self, reason: GapReason) -> None:
        """Count it."""
        self._gaps.add(1, {"reason": reason})

    def connection_stalled(self, protocol: str) -> None:
        """Count it."""
        self._stalled.add(1, {"protocol": protocol})

    def cursor_lag(self, entries: int) -> None:
        """Set the gauge."""
        self._lag.set(entries)

    def log_size(self, size: LogSize) -> None:
        """Set the gauges."""
        self._log_threads.set(size.threads)
        self._log_entries.set(size.entries)
        self._log_bytes.set(size.bytes)

    def loop_lag(self, seconds: float) -> None:
        """Record it."""
        self._loop_lag.record(max(seconds, 0.0))

    def run_started(self, run: RunLabels) -> None:
        """Count it."""
        labels = {"graph": run.graph}
        self._running.add(1, labels)
        self._started.add(1, labels)

    def first_frame(self, run: RunLabels, seconds: float) -> None:
        """Record it."""
        self._first.record(seconds, {"graph": run.graph})

    def run_finished(self, run: RunLabels, status: RunStatus, seconds: float) -> None:
        """Count it, record how long it took, and tell the span."""
        self._running.add(-1, {"graph": run.graph})
        labels = {"graph": run.graph, "status": status}
        self._finished.add(1, labels)
        self._duration.record(seconds, labels)
        span = self._trace.get_current_span()
        span.set_attribute("langgraph_ws.status", status)
        if status in ("failed", "lost"):
            span.set_status(self._trace.StatusCode.ERROR)

    def run_span(
        self, run: RunLabels, carrier: Mapping[str, str]
    ) -> AbstractContextManager[object]:
        """A span `langgraph_ws.run` with the ids, below the client's own where it sent one."""
        return self._tracer.start_as_current_span(
            "langgraph_ws.run",
            context=self._extract(dict(carrier)) if carrier else None,
            attributes={
                "langgraph_ws.graph": run.graph,
                "langgraph_ws.run_id": run.run_id,
                "langgraph_ws.thread_id": run.thread_id,
            },
        )
