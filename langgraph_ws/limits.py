"""How much of everything a client, and all of them together, may use."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one attached route.

    Attributes:
        message_bytes: The longest message that a client may send; a longer one closes with 1009.
        messages_per_second: Messages of one connection, on average.
        message_burst: Messages of one connection at once.
        connections: Connections of this process; more are refused with HTTP 503.
        connections_per_identity: Connections of one identity (not of anonymous ones); more are
            refused with HTTP 429.
        connections_per_address: Connections from one peer address (see `forwarded_headers` for
            servers behind a proxy); more are refused with HTTP 429.
        threads_per_connection: Threads that one connection may follow at once.
        runs: Active runs of this process; more are refused as `overloaded`.
        runs_per_identity: Active runs of one identity (not of anonymous ones) in this process.
        queued_runs_per_thread: Runs that may wait for one thread.
        pending_frames: Frames of one run that may wait for the log; one that makes more fails with
            `log_failed`.
        pending_bytes: The same in bytes of text, roughly.
    """

    message_bytes: int = 64 * 2**10
    messages_per_second: float = 30.0
    message_burst: int = 60
    connections: int = 10_000
    connections_per_identity: int = 20
    connections_per_address: int = 1_000
    threads_per_connection: int = 32
    runs: int = 1_000
    runs_per_identity: int = 10
    queued_runs_per_thread: int = 10
    pending_frames: int = 20_000
    pending_bytes: int = 8 * 2**20
