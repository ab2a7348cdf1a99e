"""The two closed tables of the wire: errors that answer a request, and disconnects that end a connection.

The numbers are those of the Centrifuge protocol, so that existing client libraries know what they mean: an error is
answered and the connection lives on; a disconnect of 3000-3499 asks the client to come back, one of 3500-3999 does not.
Codes of 1000-1015 are RFC 6455's own. A close reason is at most 123 bytes (RFC 6455 5.5.1).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ErrorCode(enum.Enum):
    """The table of reply errors: number, message, and the HTTP status that carries it."""

    INTERNAL = (100, "internal server error", 500)
    UNAUTHORIZED = (101, "unauthorized", 401)
    UNKNOWN_CHANNEL = (102, "unknown channel", 404)
    PERMISSION_DENIED = (103, "permission denied", 403)
    LIMIT_EXCEEDED = (106, "limit exceeded", 413)
    BAD_REQUEST = (107, "bad request", 400)
    NOT_AVAILABLE = (108, "not available", 400)
    UNRECOVERABLE_POSITION = (112, "unrecoverable position", 416)

    def __init__(self, code: int, message: str, status: int) -> None:
        self.code = code
        self.message = message
        self.status = status


class ClientError(Exception):
    """A request that is answered with an error; the message may reach the client, so it holds nothing of ours."""

    def __init__(self, error: ErrorCode, detail: str) -> None:
        super().__init__(f"{error.message}: {detail}")
        self.error = error
        self.detail = detail


class BrokerUnavailable(Exception):  # noqa: N818  (the noun of the field, as in the docstrings)
    """Redis did not take or confirm something in time; `reason` says what is known, without addresses or secrets."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Why a connection ends: the close code and the reason that go to the client."""

    code: int
    reason: str


UNSUPPORTED_DATA = Disconnect(1003, "this endpoint takes text frames only")
SHUTDOWN = Disconnect(3001, "shutdown")
SLOW = Disconnect(3008, "slow")
NO_PONG = Disconnect(3012, "no pong")
PERMISSION_DENIED = Disconnect(3507, "permission denied")

DISCONNECTS = (UNSUPPORTED_DATA, SHUTDOWN, SLOW, NO_PONG, PERMISSION_DENIED)
