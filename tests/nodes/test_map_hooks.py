"""The application's part in maps: over HTTP, and through a real node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from starlette.responses import Response

from roomcast.hooks.answer_check import AnswerCheck
from roomcast.hooks.application import HookedApplication
from roomcast.hooks.http_handlers import ProxyHandlers
from roomcast.hooks.interface import (
    Caller,
    Hook,
    MapPublishAnswer,
    MapPublishEvent,
    MapRemoveAnswer,
    MapRemoveEvent,
)
from roomcast.model.errors import ApplicationError, ClientError, ErrorCode, Refused
from roomcast.model.maps import KeyMode
from tests.support.http_backend import Asked, Backend, json_response

pytestmark = pytest.mark.anyio

ADA = Caller("n-1", "websocket", user="42", meta=b'{"plan":"pro"}')
BINARY = Caller("n-2", "websocket", "protobuf")


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@pytest.fixture
async def application(backend: Backend) -> AsyncIterator[HookedApplication]:
    backend.asked.clear()
    events = frozenset({Hook.MAP_PUBLISH, Hook.MAP_REMOVE})
    proxy = ProxyHandlers(backend.url, events, timeout_s=5.0, max_message_bytes=1000)
    yield HookedApplication(proxy.handlers(), AnswerCheck(max_message_bytes=1000))
    await proxy.aclose()


def answer(backend: Backend, body: Any) -> None:
    async def reply(_: Asked) -> Response:
        return json_response(body)

    backend.answer = reply


async def test_questions_have_centrifugos_shapes(backend: Backend, application: HookedApplication) -> None:
    answer(backend, {"result": {}})
    await application.on_map_publish(MapPublishEvent(ADA, "state:a", "k", b'{"x":1}'))
    await application.on_map_publish(MapPublishEvent(ADA, "state:a", "k"))
    await application.on_map_publish(MapPublishEvent(BINARY, "state:a", "k", b"\xff"))
    await application.on_map_remove(MapRemoveEvent(ADA, "state:a", "k"))

    shared = {"transport": "websocket", "channel": "state:a", "key": "k"}
    ada = {**shared, "client": "n-1", "protocol": "json", "encoding": "json", "user": "42", "meta": {"plan": "pro"}}
    assert [(asked.path, asked.json) for asked in backend.asked] == [
        ("/map_publish", {**ada, "data": {"x": 1}}),
        ("/map_publish", ada),
        (
            "/map_publish",
            {**shared, "client": "n-2", "protocol": "protobuf", "encoding": "binary", "b64data": "/w=="},
        ),
        ("/map_remove", ada),
    ]


async def test_results_are_read(backend: Backend, application: HookedApplication) -> None:
    result = {
        "key": "other",
        "data": {"x": 2},
        "tags": {"team": "red"},
        "key_mode": "if_exists",
        "idempotency_key": "once",
        "delta": True,
        "version": 7,
        "version_epoch": "day 1",
        "score": 5,
        "stream_data": "ignored",
    }
    answer(backend, {"result": result})

    value = await application.on_map_publish(MapPublishEvent(ADA, "state:a", "k", b"1"))
    removed = await application.on_map_remove(MapRemoveEvent(ADA, "state:a", "k"))

    assert value == MapPublishAnswer(
        "other", b'{"x":2}', {"team": "red"}, KeyMode.IF_EXISTS, "once", version=7, version_epoch="day 1"
    )
    assert removed == MapRemoveAnswer("other", "once")


async def test_data_in_base64_is_read(backend: Backend, application: HookedApplication) -> None:
    answer(backend, {"result": {"b64data": "/w=="}})

    assert (await application.on_map_publish(MapPublishEvent(BINARY, "state:a", "k", b"1"))).data == b"\xff"


@pytest.mark.parametrize(
    "body", [{}, {"result": None}, {"result": {}}, {"result": {"key": None, "tags": None, "key_mode": None}}]
)
async def test_an_empty_result_changes_nothing(backend: Backend, application: HookedApplication, body: Any) -> None:
    answer(backend, body)

    assert await application.on_map_publish(MapPublishEvent(ADA, "state:a", "k", b"1")) == MapPublishAnswer()
    assert await application.on_map_remove(MapRemoveEvent(ADA, "state:a", "k")) == MapRemoveAnswer()


async def test_errors_and_disconnects_of_the_application_reach_the_client(
    backend: Backend, application: HookedApplication
) -> None:
    answer(backend, {"error": {"code": 409, "message": "taken"}})
    with pytest.raises(ApplicationError, match="409 taken"):
        await application.on_map_publish(MapPublishEvent(ADA, "state:a", "k", b"1"))
    answer(backend, {"disconnect": {"code": 4501, "reason": "banned"}})
    with pytest.raises(Refused):
        await application.on_map_remove(MapRemoveEvent(ADA, "state:a", "k"))

    assert application.counts == {(Hook.MAP_PUBLISH, "refused"): 1, (Hook.MAP_REMOVE, "refused"): 1}


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"key_mode": "sometimes"}, "key_mode: Value error, must be if_new or if_exists"),
        ({"key_mode": 1}, "key_mode: Value error, must be if_new or if_exists"),
        ({"key_mode": ["if_new"]}, "key_mode: Value error, must be if_new or if_exists"),
        ({"key": "a\u0000"}, "key holds a control character"),
        ({"key": "k" * 256}, "key must be 1 to 255 bytes"),
        ({"key": 7}, "key: "),
        ({"tags": {"a": 1}}, "tags.a: "),
        ({"version": -1}, "version must be 0 to "),
        ({"version": "7"}, "version: "),
        ({"b64data": "?"}, "b64data: Value error"),
        ({"data": "x" * 1000}, "data has 1002 bytes"),
    ],
)
async def test_an_invalid_answer_is_error_100_and_in_the_log(
    backend: Backend, application: HookedApplication, result: Any, reason: str
) -> None:
    answer(backend, {"result": result})

    with structlog.testing.capture_logs() as log, pytest.raises(ClientError) as failed:
        await application.on_map_publish(MapPublishEvent(ADA, "state:a", "k", b"1"))

    assert failed.value.error is ErrorCode.INTERNAL
    assert [reason in line["reason"] for line in log] == [True]
