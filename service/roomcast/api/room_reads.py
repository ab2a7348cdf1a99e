"""History and presence of a room for plain clients with the permission. Errors have HTTP statuses."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from roomcast.api.api_context import ApiContext
from roomcast.api.reading import history, presence_page
from roomcast.api.request_models import HistoryRequest, PresenceRequest, validated
from roomcast.auth.permissions import Action, may
from roomcast.model.channels import room_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.json import JsonObject
from roomcast.rooms.authentication import Authenticator
from roomcast.web.state import find

router = APIRouter(tags=["rooms"])


@router.get("/rooms/{name}/history", response_class=Response, summary="Read the history of a room.")
async def room_history(request: Request, name: str) -> Response:
    """Return the history of a room, if the client may read it: `?limit=10&reverse=true`, `?limit=10&since=1&epoch=`.

    Results and errors are those of `/api/history`, and 103 without the permission; errors have HTTP statuses.
    """
    channel = await _permitted_channel(request, name, Action.HISTORY)
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
    channel = await _permitted_channel(request, name, Action.PRESENCE)
    wanted = validated(PresenceRequest, {**request.query_params, "channel": channel})
    return _result(await presence_page(find(request, ApiContext), wanted))


async def _permitted_channel(request: Request, name: str, action: Action) -> str:
    """Return the channel of a room if this client has the permission. Raises: ClientError 107, 103, 101, 109."""
    channel = room_channel(name)
    identity = await find(request, Authenticator).required(request)
    may(action, channel, find(request, ApiContext).node.namespaces.of(channel), identity.client, is_subscribed=False)
    return channel


def _result(result: JsonObject) -> Response:
    return Response(orjson.dumps({"result": result}), media_type="application/json")
