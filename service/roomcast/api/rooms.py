"""What clients may read of a room, where they may; their token is in a header. Errors have HTTP statuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from roomcast.api.context import ApiContext
from roomcast.api.reading import history, presence_page
from roomcast.api.request_models import HistoryRequest, PresenceRequest, validated
from roomcast.auth.permissions import Action, may
from roomcast.model.channels import room_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.rooms.authentication import Admission
from roomcast.web.state import find

if TYPE_CHECKING:
    from roomcast.model.json import JsonObject

router = APIRouter(tags=["rooms"])


@router.get("/rooms/{name}/history", response_class=Response, summary="Read what is kept of a room.")
async def room_history(request: Request, name: str) -> Response:
    """Return what is kept of a room, where any client may: `?limit=10&reverse=true`, `?limit=10&since=1&epoch=`.

    Answers and errors are those of `/api/history`, and 103 where clients may not; errors have HTTP statuses.
    """
    channel = await _permitted_channel(request, name, Action.HISTORY)
    query: dict[str, Any] = dict(request.query_params)
    if "since" in query or "epoch" in query:
        query["since"] = {"offset": query.get("since", ""), "epoch": query.pop("epoch", "")}
    wanted = validated(HistoryRequest, {**query, "channel": channel})
    if wanted.since is not None and not wanted.since.epoch:
        raise ClientError(ErrorCode.BAD_REQUEST, "since needs an epoch")
    return _result(await history(find(request, ApiContext), wanted))


@router.get("/rooms/{name}/presence", response_class=Response, summary="See who is in a room.")
async def room_presence(request: Request, name: str) -> Response:
    """Return who is in a room, where any client may see it, a page at a time: `?limit=100&cursor=`.

    Answers and errors are those of `/api/presence`, and 103 where clients may not; errors have HTTP statuses.
    """
    channel = await _permitted_channel(request, name, Action.PRESENCE)
    wanted = validated(PresenceRequest, {**request.query_params, "channel": channel})
    return _result(await presence_page(find(request, ApiContext), wanted))


async def _permitted_channel(request: Request, name: str, action: Action) -> str:
    """Return the channel of a room if this client may do this there. Raises: ClientError 107, 103, 101, 109."""
    channel = room_channel(name)
    visitor = await find(request, Admission).required(request)
    may(action, channel, find(request, ApiContext).node.namespaces.of(channel), visitor.client, is_subscribed=False)
    return channel


def _result(result: JsonObject) -> Response:
    return Response(orjson.dumps({"result": result}), media_type="application/json")
