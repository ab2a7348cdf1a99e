"""The server API for other services, and what operators ask a node: health, readiness, metrics."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.brokers import MAX_KEY_LENGTH, MAX_VERSION, MAX_VERSION_EPOCH_LENGTH, Once
from service.channels import check_channel
from service.endpoints import server_of
from service.errors import ClientError, ErrorCode
from service.messages import Publication

router = APIRouter()

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


@router.post(
    "/api/publish",
    tags=["server API"],
    dependencies=[Depends(_check_api_key)],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": PublishRequest.model_json_schema()}},
        },
    },
)
async def publish(request: Request) -> dict[str, Any]:
    """Publish to every subscriber of a channel, on every node.

    Delivery: see docs/guarantees.md. Answers with the position once Redis has taken it, `{"result": {"offset": 1,
    "epoch": "5f0c2a91"}}` (`{}` without a history), 400 (error 107) for a body that is no publication, 404 (102) for
    a channel of no namespace, 401 (101) without the right key, 413 (106) for too much, 503 while Redis is away.
    """
    server = server_of(request)
    settings = server.settings
    body = await _read_body(request, settings.max_message_bytes + _ENVELOPE_BYTES)
    try:
        wanted = PublishRequest.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"the body is not JSON: {exc.msg}") from None
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise ClientError(ErrorCode.BAD_REQUEST, f"{where}: {first['msg']}") from None
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


def _json(status: int, content: dict[str, str]) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")
