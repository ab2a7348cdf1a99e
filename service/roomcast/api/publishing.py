"""Methods of the server API that publish: to one channel, or to many."""

from __future__ import annotations

import asyncio

from roomcast.api.api_context import ApiContext
from roomcast.api.request_models import BroadcastRequest, PublishRequest
from roomcast.brokers.interface import Once
from roomcast.model import json
from roomcast.model.channels import check_channel
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.json import Json, JsonObject
from roomcast.model.payloads import decode_base64, is_json
from roomcast.model.publications import Kind, Publication
from roomcast.model.tags import check_tags
from roomcast.web.failures import failure_of


async def publish(context: ApiContext, wanted: PublishRequest) -> JsonObject:
    """Publish to every subscriber of a channel, on every node.

    Returns the position when Redis has confirmed it, or an empty result in a channel without a history. Delivery: see
    docs/guarantees.md. After error 100 it may have been published: retry with the same `idempotency_key`.
    """
    return await _publish(context, wanted, wanted.channel, *payload(context, wanted.data, wanted.b64data))


async def broadcast(context: ApiContext, wanted: BroadcastRequest) -> JsonObject:
    """Publish the same data to many channels; each has its own result, in the same order.

    Delivery: as of publish, in each channel. The idempotency key applies to each channel separately.
    """
    kind, data = payload(context, wanted.data, wanted.b64data)

    async def one(channel: str) -> JsonObject:
        try:
            return {"result": await _publish(context, wanted, check_channel(channel), kind, data)}
        except (ClientError, BrokerUnavailable) as exc:
            return {"error": failure_of(exc).body}

    return {"responses": await asyncio.gather(*map(one, wanted.channels))}


async def _publish(
    context: ApiContext, wanted: PublishRequest | BroadcastRequest, channel: str, kind: Kind, data: bytes
) -> JsonObject:
    once = Once(wanted.idempotency_key, wanted.version or None, wanted.version_epoch)
    publication = Publication(channel, data, kind, tags=check_tags(wanted.tags))
    published = await context.node.publish(publication, once=once, skip_history=wanted.skip_history)
    return {} if published.position is None else published.position._asdict()


def payload(context: ApiContext, value: Json, b64data: str) -> tuple[Kind, bytes]:
    """Return the data to publish and its kind: those of `b64data` if it is not empty, or of a JSON value.

    Raises: ClientError 107 for invalid data, 106 for too much.
    """
    kind, data = _decoded(b64data) if b64data else (Kind.JSON, _encoded(value))
    max_bytes = context.settings.max_message_bytes
    if len(data) > max_bytes:
        detail = f"data has {len(data)} bytes, at most {max_bytes} are allowed"
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, detail)
    return kind, data


def _encoded(data: object) -> bytes:
    try:
        return json.dumps(data)
    except json.InvalidJson as exc:
        raise ClientError(ErrorCode.BAD_REQUEST, f"data: {exc}") from None


def _decoded(text: str) -> tuple[Kind, bytes]:
    """Return the bytes and their kind: JSON stays JSON, because clients with JSON encoding receive it as it is."""
    try:
        data = decode_base64(text)
    except ValueError:
        raise ClientError(ErrorCode.BAD_REQUEST, "b64data is not base64") from None
    return Kind.JSON if is_json(data) else Kind.BINARY, data
