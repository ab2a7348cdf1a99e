"""All methods of the server API by name, and batches of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from roomcast.api import clients, maps, publishing, reading
from roomcast.api.api_context import ApiContext
from roomcast.api.map_requests import (
    MapPublishRequest,
    MapReadStateRequest,
    MapReadStreamRequest,
    MapRemoveRequest,
    MapRequest,
)
from roomcast.api.request_models import (
    ApiRequest,
    BatchRequest,
    BroadcastRequest,
    ChannelRequest,
    ChannelsRequest,
    DisconnectRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PublishRequest,
    RefreshRequest,
    RpcRequest,
    SubscribeRequest,
    UnsubscribeRequest,
    validated,
)
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.json import Json, JsonObject
from roomcast.web.failures import FAILURES, failure_of

# Commands of a parallel batch that run at once.
_CONCURRENCY = 64
# After this time a batch starts no further command: each of them may wait for Redis or for other nodes.
_BATCH_TIMEOUT_S = 30.0


class Method(NamedTuple):
    """A method: its request, and the function that performs it."""

    request: type[ApiRequest]
    # Any: its request. Raises: ClientError, BrokerUnavailable.
    perform: Callable[[ApiContext, Any], Awaitable[JsonObject]]


METHODS: Mapping[str, Method] = {
    "publish": Method(PublishRequest, publishing.publish),
    "broadcast": Method(BroadcastRequest, publishing.broadcast),
    "history": Method(HistoryRequest, reading.history),
    "history_remove": Method(ChannelRequest, reading.history_remove),
    "presence": Method(PresenceRequest, reading.presence),
    "presence_stats": Method(ChannelRequest, reading.presence_stats),
    "subscribe": Method(SubscribeRequest, clients.subscribe),
    "unsubscribe": Method(UnsubscribeRequest, clients.unsubscribe),
    "disconnect": Method(DisconnectRequest, clients.disconnect),
    "refresh": Method(RefreshRequest, clients.refresh),
    "channels": Method(ChannelsRequest, clients.channels),
    "info": Method(InfoRequest, clients.info),
    "rpc": Method(RpcRequest, clients.rpc),
    "map_publish": Method(MapPublishRequest, maps.map_publish),
    "map_remove": Method(MapRemoveRequest, maps.map_remove),
    "map_read_state": Method(MapReadStateRequest, maps.map_read_state),
    "map_read_stream": Method(MapReadStreamRequest, maps.map_read_stream),
    "map_stats": Method(MapRequest, maps.map_stats),
    "map_clear": Method(MapRequest, maps.map_clear),
}
# Methods that Centrifugo has and Roomcast does not have.
ABSENT = ("shared_poll_publish",)


async def call(context: ApiContext, name: str, wanted: Json) -> JsonObject:
    """Call a method, and return its result.

    Args:
        wanted: its request as received, not validated.
    Raises: ClientError 107 for an invalid request, 104 for an unknown method; the exceptions of the method.
    """
    if name in ABSENT:
        raise ClientError(ErrorCode.NOT_AVAILABLE, f"there are no shared poll channels here ({name})")
    method = METHODS.get(name)
    if method is None:
        raise ClientError(ErrorCode.METHOD_NOT_FOUND, name)
    return await method.perform(context, validated(method.request, wanted))


async def batch(context: ApiContext, wanted: BatchRequest) -> JsonObject:
    """Call many methods, each with its own reply in the same order: `{"<method>": result}` or `{"error": ...}`.

    They run one after the other, or with `parallel` at once; then two publications to one channel are in any order.
    Delivery: that of each method. A command that has not started after 30 s is not performed, and gets error 100.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _BATCH_TIMEOUT_S
    permits = asyncio.Semaphore(_CONCURRENCY if wanted.parallel else 1)

    async def one(command: JsonObject) -> JsonObject:
        async with permits:
            try:
                if loop.time() > deadline_s:
                    raise BrokerUnavailable(f"not done: the batch has taken {_BATCH_TIMEOUT_S:g} s")
                if len(command) != 1:
                    raise ClientError(ErrorCode.BAD_REQUEST, "a command is {method: request}")
                ((name, request),) = command.items()
                return {name: await call(context, name, request)}
            except FAILURES as exc:
                return {"error": failure_of(exc).body}

    if not wanted.parallel:
        return {"replies": [await one(command) for command in wanted.commands]}
    return {"replies": await asyncio.gather(*map(one, wanted.commands))}
