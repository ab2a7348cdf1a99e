"""Errors as answers: code, message, and the HTTP status for endpoints that use it."""

from __future__ import annotations

from typing import NamedTuple

from roomcast.model.errors import ApplicationError, BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.json import JsonObject

# The exceptions of the server API's methods.
FAILURES = (ClientError, BrokerUnavailable, ApplicationError)


class Failure(NamedTuple):
    """The answer to a request that failed.

    body: `{"code": 102, "message": "unknown channel", "detail": ""}`, and `"temporary": true` if a retry may succeed.
        The message is that of the protocol, because programs compare it.
    """

    body: JsonObject
    status: int


def failure_of(exc: ClientError | BrokerUnavailable | ApplicationError) -> Failure:
    """Return the answer for an exception."""
    body: JsonObject
    if isinstance(exc, ApplicationError):
        body, status, is_temporary = {"code": exc.code, "message": exc.message}, 400, exc.is_temporary
    else:
        error = exc.error if isinstance(exc, ClientError) else ErrorCode.INTERNAL
        detail = exc.detail if isinstance(exc, ClientError) else exc.reason
        body = {"code": error.code, "message": error.message, "detail": detail}
        status, is_temporary = error.status, error.is_temporary
    return Failure({**body, "temporary": True} if is_temporary else body, status)
