"""Handlers of an application that decides about plain clients too; tests name them in settings."""

from __future__ import annotations

import sys
import time

import orjson

from roomcast import (
    ApplicationError,
    ConnectAnswer,
    ConnectEvent,
    Disconnect,
    DisconnectEvent,
    Override,
    PublishAnswer,
    PublishEvent,
    RefreshAnswer,
    RefreshEvent,
    Refused,
    SubscribeAnswer,
    SubscribeEvent,
)


def _check(word: str) -> None:
    """Raise as a word says: a test names its wish."""
    if word == "error":
        raise ApplicationError(400, "not you")
    if word == "later":
        raise ApplicationError(401, "later", is_temporary=True)
    if word == "closed":
        raise Refused(Disconnect(4501, "log in first"))
    if word == "again":
        raise Refused(Disconnect(4001, "try again"))
    if word == "bug":
        raise RuntimeError("SECRET")


async def on_connect(event: ConnectEvent) -> ConnectAnswer:
    user = event.caller.headers.get("x-user", "")
    _check(user)
    expire_at_s = int(time.time()) + 1 if user.startswith("brief") else None
    channels = {"user:invited": SubscribeAnswer()} if user == "guest" else {}
    meta = orjson.dumps([event.caller.transport, event.caller.user])
    return ConnectAnswer(user=user, info=b'"checked"', meta=meta, channels=channels, expire_at_s=expire_at_s)


async def on_subscribe(event: SubscribeEvent) -> SubscribeAnswer:
    word = event.channel.rpartition("-")[2]
    _check(word)
    override = Override(presence=False) if word == "hidden" else Override()
    return SubscribeAnswer(info=event.caller.meta, override=override)


async def on_publish(event: PublishEvent) -> PublishAnswer:
    if event.caller.encoding == "binary":
        return PublishAnswer(event.data[::-1])
    message = orjson.loads(event.data)
    if isinstance(message, str):
        _check(message)
    if message == "same":
        return PublishAnswer()
    return PublishAnswer(orjson.dumps([event.caller.user, message]), skip_history=message == "unkept")


async def on_refresh(event: RefreshEvent) -> RefreshAnswer:
    return RefreshAnswer(is_expired=event.caller.user == "brief-over")


def on_disconnect(event: DisconnectEvent) -> None:
    line = {"event": "gone", "transport": event.caller.transport, "user": event.caller.user, "code": event.code}
    print(orjson.dumps({**line, "level": "info"}).decode(), file=sys.stderr, flush=True)
