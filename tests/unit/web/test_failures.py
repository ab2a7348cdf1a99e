from __future__ import annotations

import pytest
from starlette.requests import Request

from roomcast.model.errors import ApplicationError, BrokerUnavailable, ClientError, ErrorCode
from roomcast.web.failures import failure_of, refuse


@pytest.mark.parametrize("error", ErrorCode)
def test_the_message_of_an_error_is_the_protocols(error: ErrorCode) -> None:
    temporary = {"temporary": True} if error.is_temporary else {}

    assert failure_of(ClientError(error, "the reason")) == (
        {"code": error.code, "message": error.message, "detail": "the reason", **temporary},
        error.status,
    )


def test_an_outage_of_redis_is_an_internal_error_with_its_reason() -> None:
    body = {"code": 100, "message": "internal server error", "detail": "Redis is away", "temporary": True}

    assert failure_of(BrokerUnavailable("Redis is away")) == (body, 500)


def test_an_applications_error_is_its_own() -> None:
    assert failure_of(ApplicationError(404, "gone")) == ({"code": 404, "message": "gone"}, 400)


def request(accept: str) -> Request:
    return Request({"type": "http", "headers": [(b"accept", accept.encode())], "path": "/", "query_string": b""})


TEMPORARY = [
    BrokerUnavailable("Redis is away"),
    ClientError(ErrorCode.TOO_MANY_REQUESTS, "x"),
    ClientError(ErrorCode.INTERNAL, "x"),
    ApplicationError(1000, "later", is_temporary=True),
]


@pytest.mark.anyio
@pytest.mark.parametrize("failure", TEMPORARY)
async def test_a_temporary_failure_never_closes_an_event_source(failure: Exception) -> None:
    answer = await refuse(request("text/event-stream"), failure)

    assert (answer.status_code, answer.media_type) == (200, "text/event-stream")
    assert bytes(answer.body).startswith(b"retry: ")
    assert b"id:" not in bytes(answer.body), "the client keeps its position and key"
    assert (await refuse(request("*/*"), failure)).status_code in {400, 429, 500, 503}


@pytest.mark.anyio
@pytest.mark.parametrize("error", [error for error in ErrorCode if not error.is_temporary])
async def test_what_a_retry_does_not_change_closes_it(error: ErrorCode) -> None:
    answer = await refuse(request("text/event-stream"), ClientError(error, "x"))

    assert answer.status_code == error.status
