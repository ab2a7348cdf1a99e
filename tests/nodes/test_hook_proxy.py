from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import RedirectResponse, Response, StreamingResponse

from roomcast.auth import Override
from roomcast.hooks.answer_check import AnswerCheck
from roomcast.hooks.application import HookedApplication
from roomcast.hooks.circuit import CircuitState
from roomcast.hooks.http_handlers import ProxyHandlers
from roomcast.hooks.interface import (
    Caller,
    ConnectAnswer,
    ConnectEvent,
    Hook,
    NoAnswer,
    NoConnectAnswer,
    PublishAnswer,
    PublishEvent,
    RefreshAnswer,
    RefreshEvent,
    RpcEvent,
    SubRefreshEvent,
    SubscribeAnswer,
    SubscribeEvent,
)
from roomcast.hooks.proxy_messages import ConnectResult, read_reply
from roomcast.model.errors import ApplicationError, ClientError, ErrorCode, Refused
from tests.support.fakes import Clock
from tests.support.http_backend import Asked, Backend, hang, json_response
from tests.support.processes import DEADLINE_S

pytestmark = pytest.mark.anyio

ADA = Caller("n-1", "websocket", user="42", meta=b'{"plan":"pro"}')
BINARY = Caller("n-2", "websocket", "protobuf")
EVENTS = frozenset(Hook) - {Hook.DISCONNECT}
MAX_MESSAGE_BYTES = 1000
ECHO = RpcEvent(ADA, "echo", b"[1]")


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@asynccontextmanager
async def asking(
    url: str, *, events: frozenset[Hook] = EVENTS, timeout_s: float = 5.0, clock: Callable[[], float] | None = None
) -> AsyncIterator[tuple[HookedApplication, ProxyHandlers]]:
    proxy = ProxyHandlers(
        url,
        events,
        timeout_s=timeout_s,
        max_message_bytes=MAX_MESSAGE_BYTES,
        clock=clock or Clock(),
        jitter=lambda: 1.0,
    )
    try:
        yield HookedApplication(proxy.handlers(), AnswerCheck(max_message_bytes=MAX_MESSAGE_BYTES)), proxy
    finally:
        await proxy.aclose()


def answer(document: Any) -> Callable[[Asked], Awaitable[Response]]:
    return reply(json_response(document))


def reply(response: Response) -> Callable[[Asked], Awaitable[Response]]:
    async def answer(_: Asked) -> Response:
        return response

    return answer


async def failure(application: HookedApplication) -> ClientError:
    with pytest.raises(ClientError) as failed:
        await application.on_rpc(ECHO)
    assert str(failed.value) == "internal server error: the application gave no answer"
    return failed.value


async def test_questions_have_centrifugos_shapes(backend: Backend) -> None:
    async with asking(f"{backend.url}/hooks/") as (it, _):
        backend.answer = answer({"result": {}})
        who = ADA._replace(user="", meta=b"")
        await it.on_connect(ConnectEvent(who, b"{}", b'{"a":1}', "js", "5.7", ("room:a",)))
        await it.on_connect(ConnectEvent(who))
        await it.on_subscribe(SubscribeEvent(ADA, "room:a", b"null"))
        await it.on_publish(PublishEvent(BINARY, "room:a", b"\xff"))
        await it.on_rpc(ECHO)
        await it.on_refresh(RefreshEvent(ADA))
        await it.on_sub_refresh(SubRefreshEvent(ADA, "room:a"))

    client = {"client": "n-1", "transport": "websocket", "protocol": "json", "encoding": "json"}
    ada = {**client, "user": "42", "meta": {"plan": "pro"}}
    assert [(asked.path, asked.json) for asked in backend.asked] == [
        ("/hooks/connect", {**client, "data": {"a": 1}, "name": "js", "version": "5.7", "channels": ["room:a"]}),
        ("/hooks/connect", client),
        ("/hooks/subscribe", {**ada, "channel": "room:a", "data": None}),
        (
            "/hooks/publish",
            {
                "client": "n-2",
                "transport": "websocket",
                "protocol": "protobuf",
                "encoding": "binary",
                "channel": "room:a",
                "b64data": "/w==",
            },
        ),
        ("/hooks/rpc", {**ada, "method": "echo", "data": [1]}),
        ("/hooks/refresh", ada),
        ("/hooks/sub_refresh", {**ada, "channel": "room:a"}),
    ]
    assert backend.asked[0].headers["content-type"] == "application/json"


async def test_headers_of_the_handshake_go_along_and_cannot_change_what_is_sent(backend: Backend) -> None:
    headers = {"cookie": "session=größe", "x-real-ip": "192.0.2.1"}
    async with asking(backend.url) as (it, _):
        await it.on_rpc(ECHO._replace(caller=ADA._replace(headers=headers)))

    sent = backend.asked[0].headers
    assert sent["cookie"].encode("latin-1") == "session=größe".encode("latin-1")
    assert sent["x-real-ip"] == "192.0.2.1"
    assert sent["accept-encoding"] == "identity"


async def test_a_header_that_cannot_be_sent_fails_that_call_and_opens_no_circuit(backend: Backend) -> None:
    bad = ECHO._replace(caller=ADA._replace(headers={"cookie": "a\nb"}))
    async with asking(backend.url) as (it, proxy):
        for _ in range(6):
            with pytest.raises(ClientError):
                await it.on_rpc(bad)

    assert proxy.circuits[Hook.RPC].state is CircuitState.CLOSED
    assert backend.asked == []


async def test_results_are_read(backend: Backend) -> None:
    in_base64 = base64.b64encode(b'{"b":1}').decode()
    news = {"info": {"r": 1}, "b64data": in_base64, "expire_at": 7, "override": {"presence": {"value": True}}}
    results: dict[str, Any] = {
        "/connect": {
            "user": "56",
            "expire_at": 9,
            "info": {"n": 1},
            "data": [1],
            "meta": {"m": 1},
            "channels": ["room:a"],
            "subs": {"room:news": news, "room:b": None},
            "caps": ["ignored"],
        },
        "/subscribe": news,
        "/publish": {"data": {"x": "ö"}, "skip_history": True},
        "/rpc": {"b64data": in_base64},
        "/refresh": {"expire_at": 5, "info": {"n": 2}},
        "/sub_refresh": {"expired": True},
    }

    async def by_path(asked: Asked) -> Response:
        return json_response({"result": results[asked.path]})

    backend.answer = by_path
    subscribed = SubscribeAnswer(b'{"r":1}', b'{"b":1}', 7, Override(presence=True))
    async with asking(backend.url) as (it, _):
        assert await it.on_connect(ConnectEvent(ADA)) == ConnectAnswer(
            "56",
            b'{"n":1}',
            b"[1]",
            b'{"m":1}',
            {**dict.fromkeys(["room:a", "room:b"], SubscribeAnswer()), "room:news": subscribed},
            9,
        )
        assert await it.on_subscribe(SubscribeEvent(ADA, "room:news")) == subscribed
        published = await it.on_publish(PublishEvent(ADA, "room:a", b"1"))
        assert published == PublishAnswer('{"x":"ö"}'.encode(), skip_history=True)
        assert await it.on_rpc(ECHO) == b'{"b":1}'
        assert await it.on_refresh(RefreshEvent(ADA)) == RefreshAnswer(5, info=b'{"n":2}')
        assert await it.on_sub_refresh(SubRefreshEvent(ADA, "room:a")) == RefreshAnswer(is_expired=True)


_NULLS = ("user", "info", "b64info", "data", "b64data", "meta", "channels", "subs", "expire_at", "override", "expired")


async def test_a_connect_without_a_result_is_told_apart_from_an_empty_one(backend: Backend) -> None:
    async with asking(backend.url) as (it, _):
        for body, expected in (
            ({}, NoConnectAnswer),
            ({"result": None}, NoConnectAnswer),
            ({"result": {}}, ConnectAnswer),
        ):
            backend.answer = answer(body)
            assert type(await it.on_connect(ConnectEvent(ADA))) is expected


@pytest.mark.parametrize(
    "body",
    [
        {"result": {}},
        {},
        {"result": None},
        {"result": None, "error": None, "disconnect": None},
        {"result": dict.fromkeys([*_NULLS, "skip_history"])},
    ],
)
async def test_an_empty_result_changes_nothing(backend: Backend, body: dict[str, Any]) -> None:
    backend.answer = answer(body)
    async with asking(backend.url) as (it, _):
        assert await it.on_connect(ConnectEvent(ADA)) == ConnectAnswer()
        assert await it.on_subscribe(SubscribeEvent(ADA, "room:a", b"")) == SubscribeAnswer()
        assert await it.on_publish(PublishEvent(ADA, "room:a", b"1")) == PublishAnswer()
        assert await it.on_rpc(ECHO) == b""
        assert await it.on_refresh(RefreshEvent(ADA)) == RefreshAnswer()
        assert await it.on_sub_refresh(SubRefreshEvent(ADA, "room:a")) == RefreshAnswer()


async def test_errors_and_disconnects_of_the_application_reach_the_client(backend: Backend) -> None:
    async with asking(backend.url) as (it, proxy):
        for _ in range(6):
            backend.answer = answer({"error": {"code": 404, "message": "gone", "temporary": True}})
            with pytest.raises(ApplicationError) as error:
                await it.on_rpc(ECHO)
        backend.answer = answer({"error": {"code": 103, "message": "no"}})
        with pytest.raises(ClientError) as known:
            await it.on_rpc(ECHO)
        backend.answer = answer({"disconnect": {"code": 4501, "reason": "banned"}})
        with pytest.raises(Refused) as refused:
            await it.on_rpc(ECHO)

    assert (error.value.code, error.value.message, error.value.is_temporary) == (404, "gone", True)
    assert known.value.error is ErrorCode.PERMISSION_DENIED
    assert (refused.value.disconnect.code, refused.value.disconnect.reason) == (4501, "banned")
    assert proxy.circuits[Hook.RPC].state is CircuitState.CLOSED
    assert it.counts == {(Hook.RPC, "refused"): 8}


class Endless:
    """A body that never ends, each time it is sent."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)


GARBAGE: list[tuple[Response, str]] = [
    (Response(b""), "not JSON"),
    (Response(b"<html>"), "not JSON"),
    (Response(b"[]"), "the reply: "),
    (Response(b"null"), "the reply: "),
    (Response(b'{"result": []}'), "result: "),
    (Response(b'{"result": {"data": 1, "b64data": "?"}}'), "b64data: Value error, Only base64"),
    (Response(b'{"result": {"b64data": "bm8ganNvbg=="}}'), "data is not JSON"),
    (Response(b'{"error": {"code": 200, "message": "x"}}'), "codes from 400 to 1999, not 200"),
    (Response(b'{"error": {"code": "404"}}'), "error.code: "),
    (Response(b'{"disconnect": {"code": 1000}}'), "codes from 4000 to 4999, not 1000"),
    (json_response({"disconnect": {"code": 4000, "reason": "x" * 124}}), "more than 123 bytes"),
    (json_response({"error": {"code": 400, "message": "x" * 1025}}), "more than 1,024 characters"),
    (json_response({"result": {"data": "x" * MAX_MESSAGE_BYTES}}), "data has 1002 bytes"),
    (Response(b"nobody", 404), "status 404"),
    (Response(b'{"result": {}}', 201), "status 201"),
    (Response(b"what one client sent made it fail", 500), "status 500"),
    (Response(b"", 200, {"content-encoding": "gzip"}), "compressed"),
    (StreamingResponse(Endless()), "more than 268144 bytes"),
]


@pytest.mark.parametrize(("response", "reason"), GARBAGE)
async def test_garbage_is_error_100_and_in_the_log_and_opens_no_circuit(
    backend: Backend, response: Response, reason: str
) -> None:
    backend.answer = reply(response)
    async with asking(backend.url) as (it, proxy):
        with structlog.testing.capture_logs() as log:
            for _ in range(6):
                assert (await failure(it)).error is ErrorCode.INTERNAL

    assert len(log) == 6
    assert all(reason in line["reason"] for line in log)
    assert it.counts == {(Hook.RPC, "failed"): 6}
    assert proxy.circuits[Hook.RPC].state is CircuitState.CLOSED


async def test_redirects_are_not_followed(backend: Backend) -> None:
    backend.answer = reply(RedirectResponse(f"{backend.url}/elsewhere"))
    async with asking(backend.url) as (it, _):
        await failure(it)

    assert [asked.path for asked in backend.asked] == ["/rpc"]


async def drip() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("answering", [hang, reply(StreamingResponse(drip()))])
async def test_a_slow_answer_ends_at_the_timeout(
    backend: Backend, answering: Callable[[Asked], Awaitable[Response]]
) -> None:
    backend.answer = answering
    async with asking(backend.url, timeout_s=0.2) as (it, _):
        with structlog.testing.capture_logs() as log:
            async with asyncio.timeout(5):
                await failure(it)

    assert [line["reason"] for line in log] == ["no answer within 0.2 s"]


async def test_what_is_no_http_is_a_failure() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server, asking(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as (it, _):
        await failure(it)


async def test_the_circuit_opens_lets_one_through_and_closes(backend: Backend) -> None:
    clock = Clock()
    backend.answer = reply(Response(b"", 503))
    async with asking(backend.url, clock=clock) as (it, proxy):
        circuit = proxy.circuits[Hook.RPC]
        with structlog.testing.capture_logs() as log:
            for _ in range(8):
                await failure(it)
            assert len(backend.asked) == 5, "nothing is asked while it is open"

            clock.now_s += 1
            await failure(it)
            assert len(backend.asked) == 6

            backend.answer = answer({"result": {"data": 1}})
            clock.now_s += 1.9
            await failure(it)
            clock.now_s += 0.1
            assert await it.on_rpc(ECHO) == b"1"

    assert circuit.state is CircuitState.CLOSED
    states = [line["state"] for line in log if line["event"] == "proxy.circuit"]
    assert states == ["open", "half-open", "open", "half-open", "closed"]
    assert it.counts == {(Hook.RPC, "failed"): 10, (Hook.RPC, "answered"): 1}


async def test_each_path_has_a_circuit_of_its_own(backend: Backend) -> None:
    async def only_rpc_fails(asked: Asked) -> Response:
        return Response(b"", 503) if asked.path == "/rpc" else json_response({"result": {}})

    backend.answer = only_rpc_fails
    async with asking(backend.url) as (it, proxy):
        for _ in range(5):
            await failure(it)
        await it.on_connect(ConnectEvent(ADA))

    assert proxy.circuits[Hook.RPC].state is CircuitState.OPEN


async def test_an_application_that_is_away_and_comes_back(backend: Backend) -> None:
    clock = Clock()
    async with asking(backend.url, clock=clock) as (it, _):
        await it.on_rpc(ECHO)
        backend.stop()
        for _ in range(6):
            await failure(it)
        backend.start()
        clock.now_s += 1

        assert await it.on_rpc(ECHO) == b""


async def test_a_client_that_goes_while_it_waits_leaves_the_circuit_half_open_to_the_next(backend: Backend) -> None:
    clock = Clock()
    backend.answer = reply(Response(b"", 503))
    async with asking(backend.url, clock=clock) as (it, _):
        for _ in range(5):
            await failure(it)
        clock.now_s += 1
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def arrive_and_hang(asked: Asked) -> Response:
            loop.call_soon_threadsafe(arrived.set)
            return await hang(asked)

        backend.answer = arrive_and_hang
        waiting = asyncio.create_task(it.on_rpc(ECHO))
        async with asyncio.timeout(DEADLINE_S):
            await arrived.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        backend.answer = answer({"result": {}})

        assert await it.on_rpc(ECHO) == b""


async def test_more_than_a_thousand_questions_at_once_are_refused(backend: Backend) -> None:
    backend.answer = hang
    async with asking(backend.url) as (it, _):
        calls = [asyncio.create_task(it.on_rpc(ECHO)) for _ in range(1001)]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)

    (refused,) = [call.exception() for call in done]
    assert isinstance(refused, ClientError)
    assert refused.error is ErrorCode.TOO_MANY_REQUESTS


async def test_what_is_not_listed_is_not_asked(backend: Backend) -> None:
    async with asking(backend.url, events=frozenset({Hook.CONNECT})) as (it, _):
        with pytest.raises(ClientError) as refused:
            await it.on_rpc(ECHO)

    assert it.handles == {Hook.CONNECT}
    assert refused.value.error is ErrorCode.NOT_AVAILABLE
    assert backend.asked == []


WORDS = ["result", "error", "disconnect", "code", "message", "user", "subs", "channels", "info", "b64info", "data"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner),
    max_leaves=10,
)


@given(JSON.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=50))
def test_any_reply_is_read_or_refused(body: bytes) -> None:
    try:
        answered = read_reply(body, ConnectResult).answer()
        AnswerCheck(max_message_bytes=MAX_MESSAGE_BYTES).connect(answered, ADA)
    except (NoAnswer, ApplicationError, ClientError, Refused):
        return
