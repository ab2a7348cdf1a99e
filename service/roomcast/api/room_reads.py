"""History and presence of rooms and other channels for plain clients with the permission. Errors have HTTP statuses."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from roomcast.api.api_context import ApiContext
from roomcast.api.reading import history, presence_page
from roomcast.api.request_models import HistoryRequest, PresenceRequest, validated
from roomcast.auth.permissions import Action, may
from roomcast.model.channels import check_channel, room_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.json import JsonObject
from roomcast.rooms.admission import Admission
from roomcast.web.state import find

router = APIRouter(tags=["rooms"])


@router.get("/rooms/{name}/history", response_class=Response, summary="Read the history of a room.")
async def room_history(request: Request, name: str) -> Response:
    """Return the history of a room, if the client may read it: `?limit=10&reverse=true`, `?limit=10&since=1&epoch=`.

    Results and errors are those of `/api/history`, and 103 without the permission; errors have HTTP statuses.
    """
    return await _history(request, room_channel(name))


@router.get("/channels/{channel:path}/history", response_class=Response, summary="Read the history of a channel.")
async def channel_history(request: Request, channel: str) -> Response:
    """As `/rooms/{name}/history`, for a channel of any namespace."""
    return await _history(request, check_channel(channel))


async def _history(request: Request, channel: str) -> Response:
    await _check_permission(request, channel, Action.HISTORY)
    query: dict[str, Any] = dict(request.query_params)
    if "since" in query or "epoch" in query:
        query["since"] = {"offset": query.get("since", ""), "epoch": query.pop("epoch", "")}
    wanted = validated(HistoryRequest, {**query, "channel": channel})
    if wanted.since is not None and not wanted.since.epoch:
        raise ClientError(ErrorCode.BAD_REQUEST, "since needs an epoch")
    return _result(await history(find(request, ApiContext), wanted))


@router.get("/rooms/{name}/presence", response_class=Response, summary="List the clients in a room.")
async def room_presence(request: Request, name: str) -> Response:
    """Return a page of the clients in a room, if the client may see them: `?limit=100&cursor=`.

    Results and errors are those of `/api/presence`, and 103 without the permission; errors have HTTP statuses.
    """
    return await _presence(request, room_channel(name))


@router.get("/channels/{channel:path}/presence", response_class=Response, summary="List the clients in a channel.")
async def channel_presence(request: Request, channel: str) -> Response:
    """As `/rooms/{name}/presence`, for a channel of any namespace."""
    return await _presence(request, check_channel(channel))


async def _presence(request: Request, channel: str) -> Response:
    await _check_permission(request, channel, Action.PRESENCE)
    wanted = validated(PresenceRequest, {**request.query_params, "channel": channel})
    return _result(await presence_page(find(request, ApiContext), wanted))


async def _check_permission(request: Request, channel: str, action: Action) -> None:
    """Return if this client has the permission. Raises: ClientError 101, 102, 103, 109."""
    identity = await find(request, Admission).reader(request)
    may(action, channel, find(request, ApiContext).node.namespaces.of(channel), identity.client, is_subscribed=False)


def _result(result: JsonObject) -> Response:
    return Response(orjson.dumps({"result": result}), media_type="application/json")
