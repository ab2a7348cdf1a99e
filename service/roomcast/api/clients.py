"""Methods of the server API that manage clients, on all nodes."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from roomcast.api.api_context import ApiContext
from roomcast.api.request_models import (
    ChannelsRequest,
    DisconnectRequest,
    InfoRequest,
    RefreshRequest,
    RpcRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)
from roomcast.hooks.interface import Caller, Hook, RpcEvent
from roomcast.model import json
from roomcast.model.channel_patterns import compile_glob
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode, Refused
from roomcast.model.json import JsonObject
from roomcast.node.survey import Answers
from roomcast.presence.interface import MAX_PAGE_LENGTH

# Larger results need pages: a result is made in memory, and every node iterates over all its channels.
MAX_CHANNELS = 10_000


async def subscribe(context: ApiContext, wanted: SubscribeRequest) -> JsonObject:
    """Subscribe a user's connections to a channel, on all nodes. Plain clients have one channel, and are skipped.

    Delivery: done on every node when it returns; error 100 if a node has not answered within 3 s.
    """
    if context.node.namespaces.of(wanted.channel).map is not None:
        raise ClientError(ErrorCode.BAD_REQUEST, "clients subscribe to maps by themselves")
    await _ask_all(context, "subscribe", wanted.model_dump(exclude_none=True))
    return {}


async def unsubscribe(context: ApiContext, wanted: UnsubscribeRequest) -> JsonObject:
    """Unsubscribe a user's connections from a channel, on all nodes. A plain client is disconnected (3503).

    Delivery: as of subscribe.
    """
    context.node.namespaces.of(wanted.channel)
    await _ask_all(context, "unsubscribe", wanted.model_dump(exclude_none=True))
    return {}


async def disconnect(context: ApiContext, wanted: DisconnectRequest) -> JsonObject:
    """Disconnect a user's connections, on all nodes, plain ones too.

    Delivery: as of subscribe.
    """
    await _ask_all(context, "disconnect", wanted.model_dump(exclude_none=True))
    return {}


async def refresh(context: ApiContext, wanted: RefreshRequest) -> JsonObject:
    """Change when a user's connections expire, on all nodes.

    Delivery: as of subscribe.
    """
    await _ask_all(context, "refresh", wanted.model_dump(exclude_none=True))
    return {}


async def info(context: ApiContext, _wanted: InfoRequest) -> JsonObject:
    """Return figures of every node; `missing_nodes` is the number of nodes that did not answer within 3 s, if any.

    cpu is the percentage of one core since the previous request.
    """
    answers = await context.survey.ask("info", {})
    _check_answers(answers)
    missing = {"missing_nodes": answers.missing_count} if answers.missing_count else {}
    return {"nodes": [answers[node_id] for node_id in sorted(answers)], **missing}


async def channels(context: ApiContext, wanted: ChannelsRequest) -> JsonObject:
    """Return the channels that have subscribers, and their numbers: all, or with `limit` or `cursor` a page.

    A page is sorted by name; its cursor selects the next page, and is empty on the last one. Errors: 107 for an invalid
    pattern, 106 for more than 10,000 channels without pages, 100 if a node has not answered within 3 s.
    """
    compile_glob(wanted.pattern)
    if wanted.is_paged:
        counts, cursor = await _channels_page(context, wanted.pattern, wanted.cursor, wanted.limit)
        return {"channels": _channel_infos(counts), "cursor": cursor}
    counts, cursor = await _channels_page(context, wanted.pattern, "", MAX_PAGE_LENGTH)
    while cursor:
        page, cursor = await _channels_page(context, wanted.pattern, cursor, MAX_PAGE_LENGTH)
        counts |= page
        if len(counts) > MAX_CHANNELS:
            detail = f"more than {MAX_CHANNELS} channels: ask for pages, with a limit"
            raise ClientError(ErrorCode.LIMIT_EXCEEDED, detail)
    return {"channels": _channel_infos(counts)}


async def rpc(context: ApiContext, wanted: RpcRequest) -> JsonObject:
    """Call one of the application's procedures, and return its result as `data`.

    Errors: 108 if the application has no procedures, and the application's own.
    """
    if Hook.RPC not in context.application.handles:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "the application has no procedures")
    caller = Caller(client="", transport="api")
    try:
        data = await context.application.on_rpc(RpcEvent(caller, wanted.method, json.dumps(wanted.params)))
    except Refused as exc:  # would close a client's connection
        raise ClientError(ErrorCode.PERMISSION_DENIED, exc.disconnect.reason) from None
    return {"data": orjson.Fragment(data or b"null")}


async def _ask_all(context: ApiContext, op: str, params: JsonObject) -> Answers:
    """Return the answers of all nodes. Raises: ClientError, BrokerUnavailable."""
    answers = await context.survey.ask(op, params)
    _check_answers(answers)
    if answers.missing_count:
        count = answers.missing_count + len(answers)
        raise BrokerUnavailable(f"{answers.missing_count} of {count} nodes have not answered in time")
    return answers


async def _channels_page(context: ApiContext, pattern: str, cursor: str, limit: int) -> tuple[dict[str, int], str]:
    """Return the number of subscribers by channel, and the cursor of the next page."""
    answers = await _ask_all(context, "channels", {"pattern": pattern, "cursor": cursor, "limit": limit})
    counts: dict[str, int] = {}
    for answer in answers.values():
        for channel, count in answer["channels"].items():
            counts[channel] = counts.get(channel, 0) + count
    # A node with more channels has reported none after its last one, so counts are complete only up to there.
    end = min((max(answer["channels"]) for answer in answers.values() if answer["has_more"]), default=None)
    known = sorted(channel for channel in counts if end is None or channel <= end)
    page = known[:limit]
    is_last = end is None and len(known) <= limit
    return {channel: counts[channel] for channel in page}, "" if is_last else page[-1]


def _channel_infos(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    # 0: its last subscriber has left meanwhile.
    return {channel: {"num_clients": count} for channel, count in counts.items() if count}


def _check_answers(answers: Answers) -> None:
    """Raise the first error in the answers: ClientError."""
    for answer in answers.values():
        error = answer.get("error")
        if error is not None:
            kind = ErrorCode.of(error["code"]) or ErrorCode.INTERNAL
            raise ClientError(kind, error["message"].removeprefix(f"{kind.message}: "))
