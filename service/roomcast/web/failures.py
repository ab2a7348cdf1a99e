"""Errors as answers: code, message, and the HTTP status for endpoints that use it."""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from roomcast.model.errors import (
    SERVER_ERROR,
    ApplicationError,
    BrokerUnavailable,
    ClientError,
    Disconnect,
    ErrorCode,
    Refused,
)
from roomcast.model.json import JsonObject
from roomcast.transports.event_stream import goodbye, retry
from roomcast.web.streaming import STREAM_HEADERS

# The exceptions of the server API's methods.
FAILURES = (ClientError, BrokerUnavailable, ApplicationError)


class Failure(NamedTuple):
    """The answer to a request that failed.

    body: `{"code": 102, "message": "unknown channel", "detail": ""}`, and `"temporary": true` if a retry may succeed.
        The message is that of the protocol, because programs compare it.
    """

    body: JsonObject
    status: int

    @property
    def brief(self) -> JsonObject:
        """Return the body without the detail, for a message to a client."""
        return {name: value for name, value in self.body.items() if name != "detail"}


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


def is_retried(connection: HTTPConnection, exc: ClientError | BrokerUnavailable | ApplicationError) -> bool:
    """Return whether this is an event stream that a browser should open again later."""
    return "temporary" in failure_of(exc).body and "text/event-stream" in connection.headers.get("accept", "")


def disconnected(disconnect: Disconnect) -> Response:
    """Return the answer to a request of a client that is disconnected: 503 if it may come again, or else 403."""
    error = {"code": disconnect.code, "message": disconnect.reason}
    return JSONResponse({"error": error}, 403 if disconnect.is_final else 503)


async def refuse(connection: HTTPConnection, exc: Exception) -> Response:
    """Return the answer to a request or handshake that failed.

    Browsers reopen an event stream after status 200 alone: what is temporary is answered as a stream that ends.
    """
    if isinstance(exc, Refused):
        return disconnected(exc.disconnect)
    assert isinstance(exc, FAILURES)  # noqa: S101  (for the type checker; registered for these)
    failure = failure_of(exc)
    if is_retried(connection, exc):
        return Response(retry() + goodbye(SERVER_ERROR), media_type="text/event-stream", headers=STREAM_HEADERS)
    if isinstance(exc, BrokerUnavailable):
        return JSONResponse({"error": failure.body}, 503, headers={"Retry-After": "1"})
    return JSONResponse({"error": failure.body}, failure.status)
