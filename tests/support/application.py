"""An application as users write them: handlers that tests name in settings."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import orjson

from roomcast.hooks.interface import (
    ConnectAnswer,
    ConnectEvent,
    DisconnectEvent,
    MapPublishAnswer,
    MapPublishEvent,
    MapRemoveAnswer,
    MapRemoveEvent,
    PublishAnswer,
    PublishEvent,
    RefreshAnswer,
    RefreshEvent,
    RpcEvent,
    SubRefreshEvent,
    SubscribeAnswer,
    SubscribeEvent,
)
from roomcast.model.errors import ApplicationError, ClientError, Disconnect, ErrorCode, Refused
from roomcast.model.maps import KeyMode

NO_FUNCTION = 1
release = threading.Event()


async def on_connect(event: ConnectEvent) -> ConnectAnswer:
    if event.data == b'"refuse"':
        raise Refused(Disconnect(4501, "not today"))
    return ConnectAnswer(user=event.caller.headers.get("x-user", "nobody"), channels={"room:news": SubscribeAnswer()})


def on_subscribe(event: SubscribeEvent) -> SubscribeAnswer:
    if event.channel == "room:secret":
        raise ApplicationError(403, "members only")
    if event.channel == "room:none":
        raise ClientError(ErrorCode.UNKNOWN_CHANNEL, "no such room")
    return SubscribeAnswer(data=orjson.dumps(threading.current_thread().name))


def on_publish(event: PublishEvent) -> PublishAnswer:
    return PublishAnswer(orjson.dumps({"from": event.caller.user, "said": orjson.loads(event.data)}))


def on_map_publish(event: MapPublishEvent) -> MapPublishAnswer:
    if event.key == "king":
        raise ApplicationError(409, "there is one already")
    return MapPublishAnswer(f"{event.caller.user}-{event.key}", tags={"team": "red"}, key_mode=KeyMode.IF_NEW)


async def on_map_remove(event: MapRemoveEvent) -> MapRemoveAnswer:
    return MapRemoveAnswer(f"{event.caller.user}-{event.key}", "once")


async def on_rpc(event: RpcEvent) -> Any:
    match event.method:
        case "hang":
            await asyncio.Event().wait()
        case "time out":
            raise TimeoutError("the database")
        case "raise":
            raise RuntimeError("SECRET")
        case "none":
            return None
    return event.data


class Procedures:
    async def __call__(self, event: RpcEvent) -> bytes:
        return b'"object"'

    def blocking(self, event: RpcEvent) -> bytes:
        release.wait(30)
        return b'"released"'

    def sleepy(self, event: RpcEvent) -> bytes:
        time.sleep(0.02)
        return b"1"


procedures = Procedures()


def on_refresh(event: RefreshEvent) -> RefreshAnswer:
    return RefreshAnswer(expire_at_s=2_000_000_000)


def on_sub_refresh(event: SubRefreshEvent) -> RefreshAnswer:
    return RefreshAnswer(is_expired=event.channel == "room:old")


gone: list[DisconnectEvent] = []


async def on_disconnect(event: DisconnectEvent) -> None:
    if event.code == 4000:
        raise RuntimeError("SECRET")
    gone.append(event)


def takes_nothing() -> None: ...


def takes_two(event: Any, other: Any) -> None: ...
