"""The errors of requests and the disconnects of connections: all that clients can receive.

The numbers are those of the Centrifuge protocol, so existing client libraries know them. An error answers a request and
the connection stays open. A disconnect closes it: clients reconnect after 3000-3499 and 4000-4499, and do not after
3500-3999 and 4500-4999. Codes 1000-1015 are those of RFC 6455. A close reason has at most 123 bytes (RFC 6455 5.5.1).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ErrorCode(enum.Enum):
    """The reply errors: number, message, and the HTTP status that carries it."""

    # Redis, the application or the keys of tokens did not answer, or an internal error on another node.
    INTERNAL = (100, "internal server error", 500)
    # The request needs a token, ticket or API key and has none, or one that is invalid.
    UNAUTHORIZED = (101, "unauthorized", 401)
    # No namespace has the channel.
    UNKNOWN_CHANNEL = (102, "unknown channel", 404)
    # The client, or the page's origin, may not do this; the subscription token is invalid; or the channel is of another
    # type (a map, or not).
    PERMISSION_DENIED = (103, "permission denied", 403)
    # No command, API method or node operation has this name.
    METHOD_NOT_FOUND = (104, "method not found", 404)
    # The client subscribes to a channel that it is already subscribed to.
    ALREADY_SUBSCRIBED = (105, "already subscribed", 400)
    # The data, body, tags, subscriptions or clients in the answer are more than the limit.
    LIMIT_EXCEEDED = (106, "limit exceeded", 413)
    # The request is malformed; the detail says how.
    BAD_REQUEST = (107, "bad request", 400)
    # The channel has no history, presence or tag filter; no handler, method or node exists for this; or another program
    # wrote the channel's keys in Redis.
    NOT_AVAILABLE = (108, "not available", 400)
    # The token has expired; client libraries get a new one.
    TOKEN_EXPIRED = (109, "token expired", 401)
    # The application expires the connection or subscription, or has set an expiry that is over.
    EXPIRED = (110, "expired", 400)
    # More requests wait for the application, or more operations run on a node, than the limit.
    TOO_MANY_REQUESTS = (111, "too many requests", 429)
    # The history does not have all publications since this position: they were removed, or the epoch is another one. Of
    # a map: the client loads it from the beginning.
    UNRECOVERABLE_POSITION = (112, "unrecoverable position", 416)

    def __init__(self, code: int, message: str, status: int) -> None:
        self.code = code
        self.message = message
        self.status = status

    @classmethod
    def of(cls, code: int) -> ErrorCode | None:
        """Return the error of a number; None if there is none."""
        return next((error for error in cls if error.code == code), None)

    @property
    def is_temporary(self) -> bool:
        """Return whether client libraries retry the request by themselves."""
        return self in (ErrorCode.INTERNAL, ErrorCode.TOO_MANY_REQUESTS)


# Errors of a request whose token, or whose application's answer, is over.
EXPIRED_ERRORS = frozenset({ErrorCode.TOKEN_EXPIRED, ErrorCode.EXPIRED})


class ClientError(Exception):
    """A request that is answered with an error. The detail may reach the client: it must not hold secrets."""

    def __init__(self, error: ErrorCode, detail: str) -> None:
        super().__init__(f"{error.message}: {detail}")
        self.error = error
        self.detail = detail


class Rejection(enum.Enum):
    """Why a client or service is rejected: the label in metrics and logs."""

    ORIGIN = "origin"
    NO_TOKEN = "no_token"  # noqa: S105  (no secret)
    INVALID_TOKEN = "invalid_token"  # noqa: S105
    EXPIRED_TOKEN = "expired_token"  # noqa: S105
    INVALID_TICKET = "invalid_ticket"
    NO_API_KEY = "no_api_key"
    WRONG_API_KEY = "wrong_api_key"

    @property
    def subject(self) -> str:
        """Return what was rejected: origin, token, ticket or key."""
        return self.value.rpartition("_")[2]


class Rejected(ClientError):  # noqa: N818  (the result)
    """A client or service that is rejected. reason: for the log alone; as `detail` if it is empty."""

    def __init__(self, rejection: Rejection, error: ErrorCode, detail: str, *, reason: str = "") -> None:
        super().__init__(error, detail)
        self.rejection = rejection
        self.reason = reason or detail


class ApplicationError(Exception):
    """A request that the application answers with an error of its own.

    code: 400 to 1999. message: reaches the client; at most 1,024 characters.
    is_temporary: client libraries retry the request by themselves.
    Raises: ValueError for any other code, or a longer message.
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
    """Redis did not accept or confirm a command in time; `reason` holds no addresses and no secrets."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The close code and reason of a connection."""

    code: int
    reason: str

    @property
    def is_final(self) -> bool:
        """Return whether clients do not reconnect."""
        return 3500 <= self.code <= 3999 or 4500 <= self.code <= 4999


class Refused(Exception):  # noqa: N818  (the name that handlers import)
    """A connection that the application closes.

    disconnect: one of DISCONNECTS, or of the application's own: the client reconnects after codes 4000 to 4499 and does
        not after 4500 to 4999. The reason has at most 123 bytes.
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
    """The code and reason with which the server ends a subscription. Clients resubscribe after codes from 2500."""

    code: int
    reason: str


# The classic chat or the echo endpoint received a binary frame.
UNSUPPORTED_DATA = Disconnect(1003, "this endpoint takes text frames only")
# The node shuts down.
SHUTDOWN = Disconnect(3001, "shutdown")
# A command of a Centrifuge client raised an internal error; or Redis is unavailable at a plain client's first message.
SERVER_ERROR = Disconnect(3004, "internal server error")
# The token of a plain client expired, a Centrifuge client did not refresh its own, or a service or the application ends
# the connection as expired.
EXPIRED = Disconnect(3005, "connection expired")
# A server-side subscription expired and was not refreshed.
SUBSCRIPTION_EXPIRED = Disconnect(3006, "subscription expired")
# More than `max_unsent_bytes` are unsent, the client accepted no bytes for 10 s, or asked too late for a page of a map.
SLOW = Disconnect(3008, "slow")
# Publications of a server-side subscription with positions are lost, or a new token has other ones; or changes of a
# plain client's map are lost.
INSUFFICIENT_STATE = Disconnect(3010, "insufficient state")
# The client sent nothing within `ping_timeout_s` of a ping.
NO_PONG = Disconnect(3012, "no pong")
# More than 1.25 MiB of commands over http_stream or sse wait for an earlier one.
TOO_MANY_REQUESTS = Disconnect(3013, "too many requests")
# The token of `connect`, `refresh` or a plain client's first message is invalid, or is of another user.
INVALID_TOKEN = Disconnect(3500, "invalid token")
# A frame is malformed, `connect` is not the first command or is repeated, a pong answers no ping; or a plain client
# sends anything else than one token as its first message.
BAD_REQUEST = Disconnect(3501, "bad request")
# No `connect`, or no first message of a plain client, came in time.
STALE = Disconnect(3502, "stale")
# A service disconnects the client, or unsubscribes a plain one.
FORCE_DISCONNECT = Disconnect(3503, "force disconnect")
# The token, the application or a service gives the client more server-side subscriptions than `channel_limit`.
CHANNEL_LIMIT = Disconnect(3505, "channel limit")
# A plain client published without permission, or its first message's token does not permit the room.
PERMISSION_DENIED = Disconnect(3507, "permission denied")
# A client sent `send`, and the application has no handler for `rpc`.
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

# A service ends the subscription.
UNSUBSCRIBED = Unsubscribe(2000, "server unsubscribe")
# Publications of a subscription with positions are lost, or the client's new token does not permit the channel.
UNSUBSCRIBED_INSUFFICIENT = Unsubscribe(2500, "insufficient state")
# The subscription expired and was not refreshed.
UNSUBSCRIBED_EXPIRED = Unsubscribe(2501, "subscription expired")
