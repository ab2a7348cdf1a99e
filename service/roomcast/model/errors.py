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
    METHOD_NOT_FOUND = (104, "method not found", 404)
    ALREADY_SUBSCRIBED = (105, "already subscribed", 400)
    LIMIT_EXCEEDED = (106, "limit exceeded", 413)
    BAD_REQUEST = (107, "bad request", 400)
    NOT_AVAILABLE = (108, "not available", 400)
    TOKEN_EXPIRED = (109, "token expired", 401)
    EXPIRED = (110, "expired", 400)
    TOO_MANY_REQUESTS = (111, "too many requests", 429)
    UNRECOVERABLE_POSITION = (112, "unrecoverable position", 416)

    def __init__(self, code: int, message: str, status: int) -> None:
        self.code = code
        self.message = message
        self.status = status

    @classmethod
    def of(cls, code: int) -> ErrorCode | None:
        """Return the error of a number; None if the table has none."""
        return next((error for error in cls if error.code == code), None)

    @property
    def is_temporary(self) -> bool:
        """Return whether the same request may succeed later: client libraries then try again by themselves."""
        return self in (ErrorCode.INTERNAL, ErrorCode.TOO_MANY_REQUESTS)


class ClientError(Exception):
    """A request that is answered with an error; the message may reach the client, so it holds nothing of ours."""

    def __init__(self, error: ErrorCode, detail: str) -> None:
        super().__init__(f"{error.message}: {detail}")
        self.error = error
        self.detail = detail


class ApplicationError(Exception):
    """A request that the application answers with an error of its own.

    code: 400 to 1999. message: reaches the client; at most 1,024 characters.
    is_temporary: the same request may succeed later; client libraries then try again by themselves.
    Raises: ValueError for a code or a message that no client could be sent.
    """

    def __init__(self, code: int, message: str, *, is_temporary: bool = False) -> None:
        if not 400 <= code <= 1999:
            raise ValueError(f"an application's errors have codes from 400 to 1999, not {code}")
        if len(message) > 1024:
            raise ValueError(f"the message of error {code} has more than 1,024 characters")
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message
        self.is_temporary = is_temporary


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

    @property
    def is_final(self) -> bool:
        """Return whether the client must not come back by itself."""
        return 3500 <= self.code < 4000 or 4500 <= self.code < 5000


class Refused(Exception):  # noqa: N818  (what became of the connection)
    """A connection that the application ends.

    disconnect: its code is 4000 to 4499, then the client comes back by itself, or 4500 to 4999, then it does not; the
        reason has at most 123 bytes. Those of the table below do too.
    Raises: ValueError for any other.
    """

    def __init__(self, disconnect: Disconnect) -> None:
        if not 4000 <= disconnect.code <= 4999 and disconnect not in DISCONNECTS:
            raise ValueError(f"an application's disconnects have codes from 4000 to 4999, not {disconnect.code}")
        if len(disconnect.reason.encode()) > 123:
            raise ValueError(f"the reason of disconnect {disconnect.code} has more than 123 bytes")
        super().__init__(f"{disconnect.code} {disconnect.reason}")
        self.disconnect = disconnect


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Why the server ended a subscription. Clients subscribe again by themselves from code 2500 on."""

    code: int
    reason: str


UNSUPPORTED_DATA = Disconnect(1003, "this endpoint takes text frames only")
SHUTDOWN = Disconnect(3001, "shutdown")
SERVER_ERROR = Disconnect(3004, "internal server error")
EXPIRED = Disconnect(3005, "connection expired")
SUBSCRIPTION_EXPIRED = Disconnect(3006, "subscription expired")
SLOW = Disconnect(3008, "slow")
INSUFFICIENT_STATE = Disconnect(3010, "insufficient state")
NO_PONG = Disconnect(3012, "no pong")
TOO_MANY_REQUESTS = Disconnect(3013, "too many requests")
INVALID_TOKEN = Disconnect(3500, "invalid token")
BAD_REQUEST = Disconnect(3501, "bad request")
STALE = Disconnect(3502, "stale")
FORCE_DISCONNECT = Disconnect(3503, "force disconnect")
CHANNEL_LIMIT = Disconnect(3505, "channel limit")
PERMISSION_DENIED = Disconnect(3507, "permission denied")
NOT_AVAILABLE = Disconnect(3508, "not available")

DISCONNECTS = (
    UNSUPPORTED_DATA,
    SHUTDOWN,
    SERVER_ERROR,
    EXPIRED,
    SUBSCRIPTION_EXPIRED,
    SLOW,
    INSUFFICIENT_STATE,
    NO_PONG,
    TOO_MANY_REQUESTS,
    INVALID_TOKEN,
    BAD_REQUEST,
    STALE,
    FORCE_DISCONNECT,
    CHANNEL_LIMIT,
    PERMISSION_DENIED,
    NOT_AVAILABLE,
)

UNSUBSCRIBED = Unsubscribe(2000, "server unsubscribe")
UNSUBSCRIBED_INSUFFICIENT = Unsubscribe(2500, "insufficient state")
UNSUBSCRIBED_EXPIRED = Unsubscribe(2501, "subscription expired")
