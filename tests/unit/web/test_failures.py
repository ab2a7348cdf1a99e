from __future__ import annotations

import pytest

from roomcast.model.errors import ApplicationError, BrokerUnavailable, ClientError, ErrorCode
from roomcast.web.failures import failure_of


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
