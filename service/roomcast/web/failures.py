"""Errors as answers: code, message, and the HTTP status for endpoints that use it."""

from __future__ import annotations

from typing import NamedTuple

from roomcast.model.errors import ApplicationError, BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.json import JsonObject

# The exceptions of the server API's methods.
FAILURES = (ClientError, BrokerUnavailable, ApplicationError)


class Failure(NamedTuple):
    """The answer to a request that failed.

    body: `{"code": 102, "message": "unknown channel: ..."}`, and `"temporary": true` if a retry may succeed.
    """

    body: JsonObject
    status: int


def failure_of(exc: ClientError | BrokerUnavailable | ApplicationError) -> Failure:
    """Return the answer for an exception."""
    if isinstance(exc, ApplicationError):
        code, message, status, is_temporary = exc.code, exc.message, 400, exc.is_temporary
    else:
        error = exc.error if isinstance(exc, ClientError) else ErrorCode.INTERNAL
        message = str(exc) if isinstance(exc, ClientError) else exc.reason
        code, status, is_temporary = error.code, error.status, error.is_temporary
    body: JsonObject = {"code": code, "message": message}
    return Failure({**body, "temporary": True} if is_temporary else body, status)
