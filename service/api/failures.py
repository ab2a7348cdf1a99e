"""How an error is answered: by number, and by the HTTP status that goes with it where that is wanted."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.errors import BrokerUnavailable, ClientError, ErrorCode


class Failure(NamedTuple):
    """An error as it is answered.

    body: `{"code": 102, "message": "unknown channel: ..."}`, and `"temporary": true` if it may not last.
    """

    body: dict[str, Any]  # Any: JSON
    status: int


def failure_of(exc: ClientError | BrokerUnavailable) -> Failure:
    """Return how an exception is answered."""
    error = exc.error if isinstance(exc, ClientError) else ErrorCode.INTERNAL
    message = str(exc) if isinstance(exc, ClientError) else exc.reason
    body: dict[str, Any] = {"code": error.code, "message": message}
    if error.is_temporary:
        body["temporary"] = True
    return Failure(body, error.status)
