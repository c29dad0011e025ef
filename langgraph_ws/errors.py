"""Every error that this package raises.

::

    LangGraphWSError
    ├── ConfigurationError      the application passed something wrong (also a ValueError)
    ├── RequestError            a client asked for something that it cannot have
    │   └── InvalidRequest      … because a field of the message is missing or wrong
    ├── GapError                a position in the log cannot be resumed from
    ├── LogClosed               the thread log has been closed
    └── LogFailed               the frames of a run could not be stored
        ├── LogUnavailable      … because the log cannot be reached
        └── LeaseLost           … because another process carries the run by now

The faults of a client (`RequestError`) carry a code and a text that may be shown to it. What goes
wrong on our side is logged with an id, and the client is given the id.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "ConfigurationError",
    "ErrorCode",
    "GapError",
    "GapReason",
    "InvalidRequest",
    "LangGraphWSError",
    "LeaseLost",
    "LogClosed",
    "LogFailed",
    "LogUnavailable",
    "RequestError",
    "refused_by",
]

ErrorCode = Literal[
    # what a client sent
    "bad_message",
    "unknown_type",
    "invalid_field",
    "unauthorized",
    "forbidden",
    "rate_limited",
    "limit_exceeded",
    # what it asked for
    "unknown_graph",
    "not_found",
    "conflict",
    "thread_busy",
    "no_checkpointer",
    "no_checkpoint",
    "nothing_to_continue",
    "stale_interrupt",
    "ambiguous_interrupt",
    "overloaded",
    "draining",
    # how a run failed
    "graph_failed",
    "mapper_failed",
    "recursion_limit",
    "log_failed",
    "drained",
    "lost",
    # ours
    "internal_error",
]
"""The `code` of an `error` message; PROTOCOL.md says when each is sent."""

GapReason = Literal["epoch", "ahead", "trimmed", "unknown"]
"""Why a position cannot be resumed from.

`epoch`: the log was lost since; `ahead`: it lies after the last entry; `trimmed`: the next entry
is no longer held; `unknown`: the log knows nothing of the thread.
"""


class LangGraphWSError(Exception):
    """The base of every error that this package raises."""


class ConfigurationError(LangGraphWSError, ValueError):
    """The application passed something wrong; the message names the argument."""


class RequestError(LangGraphWSError):
    """A client asked for something that it cannot have.

    Args:
        code: What went wrong, for programs.
        message: What went wrong, for people; it may be shown to the client.
        retryable: Whether the same request may succeed later.
        error_id: What the cause is found under in the log, where the fault is ours.
        retry_after_ms: How long to wait before the same request; None where nobody knows.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retryable: bool = False,
        error_id: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.retryable = retryable
        self.error_id = error_id
        self.retry_after_ms = retry_after_ms


class InvalidRequest(RequestError):
    """A field of a message is missing or wrong.

    Args:
        field: The field, as the client wrote it (`messages.0.role`).
        message: What was expected.
    """

    def __init__(self, field: str, message: str, *, code: ErrorCode = "invalid_field") -> None:
        super().__init__(code, message)
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class GapError(LangGraphWSError):
    """A position in the log cannot be resumed from.

    Args:
        reason: Why.
        requested: The `seq` that was asked for.
        first: The first `seq` that the log still holds (head + 1 when it holds none).
        head: The last `seq` of the thread, 0 when there is none.
        epoch: The epoch that the log is in now.
    """

    def __init__(
        self, reason: GapReason, *, requested: int, first: int, head: int, epoch: str
    ) -> None:
        super().__init__(f"cannot resume after {requested}: {reason} (held: {first} to {head})")
        self.reason: GapReason = reason
        self.requested = requested
        self.first = first
        self.head = head
        self.epoch = epoch


class LogClosed(LangGraphWSError):
    """The thread log has been closed."""


class LogFailed(LangGraphWSError):
    """The frames of a run could not be stored: the log failed, or did not keep up."""


class LogUnavailable(LogFailed):
    """The log cannot be reached: what was to be stored may be stored later, or elsewhere."""


class LeaseLost(LogFailed):
    """Another process carries the run by now."""


def refused_by(error: LogClosed | LogFailed) -> RequestError:
    """What a client is told that asked for something while the log is closed or away."""
    if isinstance(error, LogClosed):
        return RequestError("draining", "the server is going away", retryable=True)
    return RequestError("log_failed", "the server cannot reach its log", retryable=True)
