from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from roomcast.config import ConfigError, Settings
from roomcast.hooks.answer_check import AnswerCheck
from roomcast.hooks.application import HookedApplication
from roomcast.hooks.interface import (
    Caller,
    ConnectEvent,
    DisconnectEvent,
    Hook,
    MapPublishAnswer,
    MapPublishEvent,
    MapRemoveAnswer,
    MapRemoveEvent,
    PublishEvent,
    RefreshEvent,
    RpcEvent,
    SubRefreshEvent,
    SubscribeEvent,
)
from roomcast.hooks.python_handlers import PythonHandlers, load_functions
from roomcast.model.errors import ApplicationError, ClientError, ErrorCode, Refused
from roomcast.model.maps import KeyMode
from tests.support import application
from tests.support.processes import eventually

pytestmark = pytest.mark.anyio

CALLER = Caller("n-1", "websocket", user="42", headers={"x-user": "ada"})
EVERY = {f"on_{hook}": f"tests.support.application:on_{hook}" for hook in Hook}


@asynccontextmanager
async def app(*, timeout_s: float = 5.0, thread_count: int = 2, **paths: str) -> AsyncIterator[HookedApplication]:
    settings = Settings.model_validate(paths or EVERY)
    python = PythonHandlers(load_functions(settings), timeout_s=timeout_s, thread_count=thread_count)
    application.release.clear()
    try:
        yield HookedApplication(python.handlers(), AnswerCheck(max_message_bytes=1000))
    finally:
        application.release.set()
        python.close()


async def test_asynchronous_handlers_are_awaited_and_others_run_in_threads() -> None:
    async with app() as it:
        assert (await it.on_connect(ConnectEvent(CALLER))).user == "ada"
        assert (await it.on_subscribe(SubscribeEvent(CALLER, "room:a"))).data.startswith(b'"hook')
        assert (await it.on_publish(PublishEvent(CALLER, "room:a", b"[1]"))).data == b'{"from":"42","said":[1]}'
        value = await it.on_map_publish(MapPublishEvent(CALLER, "state:a", "k", b"1"))
        assert value == MapPublishAnswer("42-k", tags={"team": "red"}, key_mode=KeyMode.IF_NEW)
        assert await it.on_map_remove(MapRemoveEvent(CALLER, "state:a", "k")) == MapRemoveAnswer("42-k", "once")
        assert await it.on_rpc(RpcEvent(CALLER, "echo", b"{}")) == b"{}"
        assert (await it.on_refresh(RefreshEvent(CALLER))).expire_at_s == 2_000_000_000
        assert (await it.on_sub_refresh(SubRefreshEvent(CALLER, "room:old"))).is_expired

    assert it.handles == set(Hook)
    assert it.counts[Hook.RPC, "answered"] == 1


async def test_objects_and_their_methods_are_handlers_too() -> None:
    async with app(on_rpc="tests.support.application:procedures") as it:
        assert await it.on_rpc(RpcEvent(CALLER, "x")) == b'"object"'
    async with app(on_rpc="tests.support.application:procedures.sleepy") as it:
        assert await it.on_rpc(RpcEvent(CALLER, "x")) == b"1"

    assert it.handles == {Hook.RPC}


async def test_a_hook_without_a_handler_is_not_available() -> None:
    async with app(on_rpc="tests.support.application:on_rpc") as it:
        with pytest.raises(ClientError) as refused:
            await it.on_publish(PublishEvent(CALLER, "room:a", b"1"))
        it.on_disconnect(DisconnectEvent(CALLER, 1000, ""))

    assert refused.value.error is ErrorCode.NOT_AVAILABLE


async def test_errors_of_the_application_reach_the_client() -> None:
    async with app() as it:
        with pytest.raises(ApplicationError, match="403 members only"):
            await it.on_subscribe(SubscribeEvent(CALLER, "room:secret"))
        with pytest.raises(ClientError) as unknown:
            await it.on_subscribe(SubscribeEvent(CALLER, "room:none"))
        with pytest.raises(Refused) as refused:
            await it.on_connect(ConnectEvent(CALLER, data=b'"refuse"'))

    assert unknown.value.error is ErrorCode.UNKNOWN_CHANNEL
    assert (refused.value.disconnect.code, refused.value.disconnect.reason) == (4501, "not today")
    assert it.counts == {(Hook.SUBSCRIBE, "refused"): 2, (Hook.CONNECT, "refused"): 1}


@pytest.mark.parametrize(
    ("method", "event", "level"),
    [
        ("raise", "hook.raised", "error"),
        ("time out", "hook.raised", "error"),
        ("hang", "hook.timed_out", "warning"),
        ("none", "hook.unusable_answer", "warning"),
    ],
)
async def test_a_handler_that_fails_is_logged_once_and_the_client_learns_nothing(
    method: str, event: str, level: str
) -> None:
    async with app(timeout_s=0.05) as it:
        with structlog.testing.capture_logs() as log, pytest.raises(ClientError) as failed:
            await it.on_rpc(RpcEvent(CALLER, method))

    assert failed.value.error is ErrorCode.INTERNAL
    assert "SECRET" not in str(failed.value)
    assert [(line["event"], line["log_level"], line["hook"]) for line in log] == [(event, level, "rpc")]
    assert bool(log[0].get("exc_info")) is (level == "error"), "with its traceback"
    assert it.counts == {(Hook.RPC, "failed"): 1}


async def test_a_function_that_hangs_keeps_its_thread_and_no_more_are_made() -> None:
    async with app(timeout_s=0.05, on_rpc="tests.support.application:procedures.blocking") as it:
        for _ in range(5):
            with pytest.raises(ClientError):
                await it.on_rpc(RpcEvent(CALLER, "x"))
        assert it.counts[Hook.RPC, "failed"] == 5

        application.release.set()

        async def answers() -> bool:
            try:
                return await it.on_rpc(RpcEvent(CALLER, "x")) == b'"released"'
            except ClientError:
                return False

        await eventually(answers)


async def test_calls_wait_for_a_thread_and_too_many_are_refused() -> None:
    async with app(thread_count=1, on_rpc="tests.support.application:procedures.blocking") as it:
        calls = [asyncio.create_task(it.on_rpc(RpcEvent(CALLER, "x"))) for _ in range(1002)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        application.release.set()
        results = await asyncio.gather(*calls, return_exceptions=True)

    refused = [result for result in results if isinstance(result, ClientError)]
    assert [one.error for one in refused] == [ErrorCode.TOO_MANY_REQUESTS]
    assert results.count(b'"released"') == 1001


async def test_a_disconnect_is_told_and_a_handler_that_raises_is_logged() -> None:
    application.gone.clear()
    told = DisconnectEvent(CALLER, 3001, "shutdown")
    async with app() as it:
        running = asyncio.create_task(it.run())
        with structlog.testing.capture_logs() as log:
            it.on_disconnect(DisconnectEvent(CALLER, 4000, "raises"))
            it.on_disconnect(told)
            await it.flush(within_s=5)
        running.cancel()

    assert application.gone == [told]
    assert [line["event"] for line in log] == ["hook.raised"]


async def test_disconnects_that_find_the_queue_full_are_counted_and_what_is_untold_is_logged() -> None:
    async with app() as it:
        with structlog.testing.capture_logs() as log:
            for _ in range(10_003):
                it.on_disconnect(DisconnectEvent(CALLER, 1000, ""))
            await it.flush(within_s=0.01)

    assert it.counts == {(Hook.DISCONNECT, "dropped"): 3}
    assert [(line["event"], line["count"]) for line in log] == [("hooks.untold", 10_000)]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("tests.nowhere:on_rpc", "cannot import 'tests.nowhere': ModuleNotFoundError"),
        ("broken_handlers:on_rpc", "cannot import 'broken_handlers': ZeroDivisionError"),
        ("tests.support.application:on_nothing", "is not there"),
        ("tests.support.application:procedures.none", "is not there"),
        ("tests.support.application:NO_FUNCTION", "is no function"),
        ("tests.support.application:takes_nothing", "must take one argument, the event"),
        ("tests.support.application:takes_two", "must take one argument, the event"),
    ],
)
def test_a_path_that_is_no_handler_is_refused_by_its_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str, reason: str
) -> None:
    (tmp_path / "broken_handlers.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    paths: dict[str, Any] = {"on_rpc": path}

    with pytest.raises(ConfigError, match=r"^ROOMCAST_ON_RPC: ") as refused:
        load_functions(Settings.model_validate(paths))

    assert reason in str(refused.value)
    sys.modules.pop("broken_handlers", None)
