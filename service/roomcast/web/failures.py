"""How an error is answered: by number, and by the HTTP status that goes with it where that is wanted."""

from __future__ import annotations

from typing import Any, NamedTuple

from roomcast.model.errors import ApplicationError, BrokerUnavailable, ClientError, ErrorCode

# What a method of the server API may raise.
FAILURES = (ClientError, BrokerUnavailable, ApplicationError)


class Failure(NamedTuple):
    """An error as it is answered.

    body: `{"code": 102, "message": "unknown channel: ..."}`, and `"temporary": true` if it may not last.
    """

    body: dict[str, Any]  # Any: JSON
    status: int


def failure_of(exc: ClientError | BrokerUnavailable | ApplicationError) -> Failure:
    """Return how an exception is answered."""
    if isinstance(exc, ApplicationError):
        code, message, status, is_temporary = exc.code, exc.message, 400, exc.is_temporary
    else:
        error = exc.error if isinstance(exc, ClientError) else ErrorCode.INTERNAL
        message = str(exc) if isinstance(exc, ClientError) else exc.reason
        code, status, is_temporary = error.code, error.status, error.is_temporary
    body: dict[str, Any] = {"code": code, "message": message}
    return Failure({**body, "temporary": True} if is_temporary else body, status)
