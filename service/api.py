"""What is asked by HTTP: by other services (the server API), by clients of a room, by operators."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any, Literal, TypeVar

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.brokers import MAX_KEY_LENGTH, MAX_VERSION, MAX_VERSION_EPOCH_LENGTH, Once
from service.channels import check_channel, room_channel
from service.encodings import envelope
from service.endpoints import server_of
from service.errors import ClientError, ErrorCode
from service.messages import Position, Publication
from service.namespaces import MAX_RECOVERED, Who
from service.presence import MAX_PAGE_LENGTH
from service.recovery import MAX_OFFSET

router = APIRouter()

Body = TypeVar("Body", bound=BaseModel)

# What a publish body may hold beside its data.
_ENVELOPE_BYTES = 4096
_BODY_TIMEOUT_S = 5.0

_api_key_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="the node's ROOMCAST_API_KEY")


async def _check_api_key(request: Request, key: Annotated[str | None, Depends(_api_key_header)]) -> None:
    api_key = server_of(request).settings.api_key
    if api_key is None:
        raise ClientError(ErrorCode.UNAUTHORIZED, "the server API is off; start the node with ROOMCAST_API_KEY set")
    if key is None:
        raise ClientError(ErrorCode.UNAUTHORIZED, "send the header X-API-Key")
    if not secrets.compare_digest(key.encode(), api_key.get_secret_value().encode()):
        raise ClientError(ErrorCode.UNAUTHORIZED, "wrong X-API-Key")


class PublishRequest(BaseModel):
    """What is to be published, and where."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"channel": "room:lobby", "data": {"text": "hi"}}]})

    channel: str = Field(description="for example room:lobby")
    data: Any = Field(description="any JSON value; every subscriber gets it as compact JSON text")  # Any: JSON
    idempotency_key: str = Field(
        "", max_length=MAX_KEY_LENGTH, description="the same key within 5 minutes publishes once"
    )
    version: int | None = Field(None, ge=0, le=MAX_VERSION, description="not higher than the newest: dropped")
    version_epoch: str = Field(
        "", max_length=MAX_VERSION_EPOCH_LENGTH, description="another one begins counting versions anew"
    )


class PositionRequest(BaseModel):
    """A place in a history."""

    offset: int = Field(ge=0, le=MAX_OFFSET)
    epoch: str = Field(min_length=1, max_length=32)


class HistoryRequest(BaseModel):
    """What is wanted of a history."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"channel": "room:lobby", "limit": 10, "reverse": True}]})

    channel: str = Field(description="for example room:lobby")
    limit: int = Field(0, ge=0, le=MAX_RECOVERED, description="so many publications at most; 0: the position alone")
    since: PositionRequest | None = Field(None, description="those after this position; reversed, those before it")
    reverse: bool = Field(default=False, description="the newest ones, newest first")


class PresenceRequest(BaseModel):
    """Which channel's clients are asked for, and which page of them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"channel": "room:lobby", "limit": 100}]})

    channel: str = Field(description="for example room:lobby")
    limit: int = Field(100, ge=1, le=MAX_PAGE_LENGTH, description="about how many; a page may hold some more")
    cursor: str = Field("", description="of the page before; empty for the first one")


class PresenceStatsRequest(BaseModel):
    """Which channel's clients are counted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"channel": "room:lobby"}]})

    channel: str = Field(description="for example room:lobby")


def _takes(model: type[BaseModel]) -> dict[str, Any]:  # Any: a part of the OpenAPI document
    """Return what the API page says of a request that is read here and not by FastAPI."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


@router.post(
    "/api/publish",
    tags=["server API"],
    dependencies=[Depends(_check_api_key)],
    openapi_extra=_takes(PublishRequest),
)
async def publish(request: Request) -> dict[str, Any]:
    """Publish to every subscriber of a channel, on every node.

    Delivery: see docs/guarantees.md. Answers with the position once Redis has taken it, `{"result": {"offset": 1,
    "epoch": "5f0c2a91"}}` (`{}` without a history), 400 (error 107) for a body that is no publication, 404 (102) for
    a channel of no namespace, 401 (101) without the right key, 413 (106) for too much, 503 while Redis is away.
    """
    server = server_of(request)
    settings = server.settings
    wanted = await _read(request, PublishRequest, settings.max_message_bytes + _ENVELOPE_BYTES)
    try:
        data = orjson.dumps(wanted.data)
    except orjson.JSONEncodeError as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"data: {exc}") from None
    if len(data) > settings.max_message_bytes:
        detail = f"data has {len(data)} bytes, at most {settings.max_message_bytes} are allowed"
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, detail)
    once = Once(wanted.idempotency_key, wanted.version, wanted.version_epoch)
    published = await server.node.publish(Publication(check_channel(wanted.channel), data), once=once)
    if published.position is None:
        return {"result": {}}
    return {"result": published.position._asdict()}


@router.post(
    "/api/history",
    tags=["server API"],
    dependencies=[Depends(_check_api_key)],
    openapi_extra=_takes(HistoryRequest),
)
async def history(request: Request) -> Response:
    """Return what is kept of a channel, and its position.

    Answers `{"result": {"offset": 2, "epoch": "5f0c2a91", "publications": [{"offset": 1, "epoch": "5f0c2a91", "data":
    ...}, ...]}}`; a payload that is no JSON is `text` or `base64` in the place of `data`. 400 (error 108) for a channel
    without a history, 404 (102) for one of no namespace, 416 (112) if `since` is of another epoch.
    """
    return await _history(request, await _read(request, HistoryRequest, _ENVELOPE_BYTES))


async def _history(request: Request, wanted: HistoryRequest) -> Response:
    since = None if wanted.since is None else Position(wanted.since.offset, wanted.since.epoch)
    found = await server_of(request).node.history(
        check_channel(wanted.channel), limit=wanted.limit, since=since, newest=wanted.reverse
    )
    publications = found.publications[::-1] if wanted.reverse else found.publications
    result = {**found.position._asdict(), "publications": [orjson.Fragment(envelope(each)) for each in publications]}
    return _json(200, {"result": result})


@router.post(
    "/api/presence",
    tags=["server API"],
    dependencies=[Depends(_check_api_key)],
    openapi_extra=_takes(PresenceRequest),
)
async def presence(request: Request) -> Response:
    """Return who is in a channel, on whatever node, a page at a time.

    Answers `{"result": {"presence": {"n1-7": {"client": "n1-7", "user": "ada", "conn_info": null}}, "cursor": ""}}`;
    the cursor is that of the next page, empty after the last one. Who is there all the while is on some page; who comes
    or goes meanwhile may be missing, or there twice. Errors are those of publish, and 400 (108) for a channel without
    presence.
    """
    return await _presence(request, await _read(request, PresenceRequest, _ENVELOPE_BYTES))


async def _presence(request: Request, wanted: PresenceRequest) -> Response:
    channel = _present_channel(request, wanted.channel)
    page = await server_of(request).node.presence.page(channel, cursor=wanted.cursor, limit=wanted.limit)
    clients = {
        each.client: {"client": each.client, "user": each.user, "conn_info": orjson.Fragment(each.info or b"null")}
        for each in page.clients
    }
    return _json(200, {"result": {"presence": clients, "cursor": page.cursor}})


@router.post(
    "/api/presence_stats",
    tags=["server API"],
    dependencies=[Depends(_check_api_key)],
    openapi_extra=_takes(PresenceStatsRequest),
)
async def presence_stats(request: Request) -> Response:
    """Return how many clients and users are in a channel: `{"result": {"num_clients": 3, "num_users": 2}}`.

    Several clients of one user are one user, and so are all those that name none. Errors are those of presence.
    """
    wanted = await _read(request, PresenceStatsRequest, _ENVELOPE_BYTES)
    counts = await server_of(request).node.presence.count(_present_channel(request, wanted.channel))
    return _json(200, {"result": {"num_clients": counts.client_count, "num_users": counts.user_count}})


@router.get("/rooms/{name}/history", tags=["rooms"])
async def room_history(request: Request, name: str) -> Response:
    """Return what is kept of a room, where any client may: `?limit=10&reverse=true`, `?limit=10&since=1&epoch=`.

    Answers and errors are those of `/api/history`, and 403 (103) where clients may not.
    """
    channel = _open_channel(request, name, "may_read_history")
    query = dict(request.query_params)
    if "since" in query or "epoch" in query:
        query["since"] = {"offset": query.get("since"), "epoch": query.pop("epoch", None)}  # type: ignore[assignment]
    return await _history(request, _validated(HistoryRequest, {**query, "channel": channel}))


@router.get("/rooms/{name}/presence", tags=["rooms"])
async def room_presence(request: Request, name: str) -> Response:
    """Return who is in a room, where any client may see it: `?limit=100&cursor=`.

    Answers and errors are those of `/api/presence`, and 403 (103) where clients may not.
    """
    channel = _open_channel(request, name, "may_see_presence")
    return await _presence(request, _validated(PresenceRequest, {**request.query_params, "channel": channel}))


@router.get("/healthz", tags=["operations"])
async def healthz() -> dict[str, str]:
    """Say that the process lives. Redis does not matter here: restarting a node does not bring Redis back."""
    return {"status": "ok"}


@router.get("/readyz", tags=["operations"])
async def readyz(request: Request) -> Response:
    """Say whether the node can deliver: 200, or 503 with the reason while Redis is away."""
    reason = server_of(request).node.reason_not_ready()
    if reason is None:
        return _json(200, {"status": "ready"})
    return _json(503, {"status": "not ready", "reason": reason})


@router.get("/metrics", tags=["operations"])
async def metrics(request: Request) -> Response:
    """The node's counters and gauges in Prometheus's text format."""
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)


def _open_channel(request: Request, name: str, option: Literal["may_read_history", "may_see_presence"]) -> str:
    """Return the channel of a room if everyone may do this there. Raises: ClientError 107, 103."""
    channel = room_channel(name)
    if getattr(server_of(request).node.namespaces.of(channel), option) is not Who.ANYONE:
        raise ClientError(ErrorCode.PERMISSION_DENIED, f"{option} is not for anyone here")
    return channel


def _present_channel(request: Request, name: str) -> str:
    """Return the name if it is a channel with presence. Raises: ClientError 107, 102, 108."""
    channel = check_channel(name)
    if not server_of(request).node.namespaces.of(channel).presence:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "the channel's namespace has no presence")
    return channel


async def _read(request: Request, model: type[Body], max_bytes: int) -> Body:
    """Return what a request asks for. Raises: ClientError 107, or 106 for too much."""
    body = await _read_body(request, max_bytes)
    try:
        return _validated(model, orjson.loads(body))
    except orjson.JSONDecodeError as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"the body is not JSON: {exc.msg}") from None


def _validated(model: type[Body], wanted: object) -> Body:
    """Return what was asked for. Raises: ClientError 107 that names what is wrong."""
    try:
        return model.model_validate(wanted)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise ClientError(ErrorCode.BAD_REQUEST, f"{where}: {first['msg']}") from None


async def _read_body(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise ClientError(ErrorCode.LIMIT_EXCEEDED, f"the body has more than {max_bytes} bytes")
    except TimeoutError:
        raise ClientError(ErrorCode.BAD_REQUEST, f"the body did not come within {_BODY_TIMEOUT_S:g} s") from None
    return bytes(body)


def _json(status: int, content: dict[str, Any]) -> Response:  # Any: JSON
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")
