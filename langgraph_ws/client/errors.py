"""What goes wrong for a client of the chat protocol.

::

    LangGraphWSError
    └── ClientError
        ├── ConnectionLostError     there is no connection; the client tries again
        ├── ConnectionFailedError   there is no connection, and there will be none
        ├── RequestRefused          the server refused a message
        ├── RunFailedError          a run failed, was drained, or was lost
        └── ProtocolError           the server sent something that cannot be understood
"""

from __future__ import annotations

from langgraph_ws.errors import LangGraphWSError

__all__ = [
    "ClientError",
    "ConnectionFailedError",
    "ConnectionLostError",
    "ProtocolError",
    "RequestRefused",
    "RunFailedError",
]


class ClientError(LangGraphWSError):
    """The base of the errors of the client."""


class ConnectionLostError(ClientError):
    """A connection was lost, or could not be made; the client tries again.

    Args:
        reason: Why.
        code: The close code, 1006 where there was none; None where the connection was never open.
        http_status: The status of an HTTP refusal.
        cause: The error behind it, where there is one.
    """

    def __init__(
        self,
        reason: str,
        *,
        code: int | None = None,
        http_status: int | None = None,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.http_status = http_status
        self.cause = cause


class ConnectionFailedError(ClientError):
    """There is no connection, and there will be none.

    Args:
        reason: Why the client gave up, or that it was closed.
        code: As in `ConnectionLostError`.
        http_status: As in `ConnectionLostError`.
        cause: The last error, where there is one.
    """

    def __init__(
        self,
        reason: str,
        *,
        code: int | None = None,
        http_status: int | None = None,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.http_status = http_status
        self.cause = cause


class RequestRefused(ClientError):
    """The server refused a message, and nothing else happened.

    Args:
        code: What is wrong with it, for programs; one of PROTOCOL.md's error codes.
        message: The same for people.
        field: The field that is wrong, where one is.
        retryable: Whether the same message may be accepted later.
        retry_after: In how many seconds, where the server knows.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.field = field
        self.retryable = retryable
        self.retry_after = retry_after


class RunFailedError(ClientError):
    """A run did not come to a good end.

    Args:
        code: Why: one of PROTOCOL.md's error codes, or `lost`: the server knows it no longer.
        message: The same for people.
        error_id: What the failure is called in the server's log.
        retryable: Whether `resume_chat` may go on with the thread.
        run_id: The run.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        error_id: str | None = None,
        retryable: bool = False,
        run_id: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.run_id = run_id
        self.code = code
        self.message = message
        self.error_id = error_id
        self.retryable = retryable


class ProtocolError(ClientError):
    """The server sent something that cannot be understood; it was passed over."""
