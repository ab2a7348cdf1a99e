"""Maps and their values over plain HTTP, for services with the API key and for clients. Errors have HTTP statuses."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.responses import JSONResponse

from roomcast.api.api_context import ApiContext
from roomcast.api.api_key import check_sent_key, has_api_key
from roomcast.api.map_conditions import conditions_of, etag_of, is_unchanged
from roomcast.api.maps import position_members, whole_map
from roomcast.auth.permissions import Action, may
from roomcast.bodies import read_body
from roomcast.brokers.map_interface import UNCONDITIONAL, Conditions, Suppressed, Written
from roomcast.hooks.interface import Caller
from roomcast.model.channels import check_channel
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import Change, ClientKey, KeyMode, MapOptions, check_key
from roomcast.model.namespaces import Namespace
from roomcast.model.payloads import kind_of_payload
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Publication, change_of
from roomcast.rooms.admission import Admission
from roomcast.rooms.authentication import Identity
from roomcast.rooms.map_encodings import entry
from roomcast.rooms.map_writer import key_of
from roomcast.web.state import find

router = APIRouter(tags=["maps"])

_TYPES = {
    Kind.JSON: "application/json",
    Kind.TEXT: "text/plain; charset=utf-8",
    Kind.BINARY: "application/octet-stream",
}
# Values are of clients: a browser must not take one for a page of this host.
_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
# A browser may keep what it has read, and asks whether it is the newest each time.
_ASK_AGAIN = {"Cache-Control": "private, no-cache"}
_PREFIX = "/maps/"
_Client = tuple[Caller, Identity]

_CHANNEL = {"name": "channel", "in": "path", "required": True, "schema": {"type": "string"}, "example": "state:board"}
_KEY = {"name": "key", "in": "path", "required": True, "schema": {"type": "string"}, "example": "a1"}
_QUERY = [
    {"name": "limit", "in": "query", "schema": {"type": "integer"}, "description": "entries of a page"},
    {"name": "after", "in": "query", "schema": {"type": "string"}, "description": "the cursor of the page before"},
]
_CONDITIONS = [
    {
        "name": "If-Match",
        "in": "header",
        "schema": {"type": "string"},
        "description": "*, or the ETag of the last write",
    },
    {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}, "description": "at most 128 characters"},
]
_IF_NEW = {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}, "description": "*: the key is absent"}
_BODY: dict[str, Any] = {"content": {"application/json": {}, "text/plain": {}, "application/octet-stream": {}}}


@router.get(
    "/maps/{channel}",
    response_class=Response,
    summary="Read a map.",
    openapi_extra={"parameters": [_CHANNEL, *_QUERY]},
)
async def read_map(request: Request) -> Response:
    """Return all entries of a map in the order of their keys, or a page of them with `?limit=100&after=<cursor>`.

    Answers `{"entries":[{"key":"a","offset":7,"data":1}],"cursor":"","offset":9,"epoch":"5f0c2a91"}`. The cursor of a
    page selects the next one, and is empty on the last. `ETag` has the position too; `If-None-Match` is answered 304.
    Without `limit` all entries are of one moment. Pages are complete with the changes since the first page's position,
    such as those of `/ws/maps/{channel}?since=`. Ephemeral maps have no positions. The client may subscribe to the map,
    or is a service with the API key. Errors: 106 without `limit` for more than 10,000 keys.
    """
    return await _get(request)


@router.get(
    "/maps/{channel}/{key:path}",
    response_class=Response,
    summary="Read a value of a map.",
    openapi_extra={"parameters": [_CHANNEL, _KEY]},
)
async def read_value(request: Request) -> Response:
    """Return the value of a key: the data with its type, and the position of its last write in `ETag`.

    A key that is absent is answered 404 with the code 108. `If-None-Match` is answered 304.
    """
    return await _get(request)


@router.put(
    "/maps/{channel}/{key:path}",
    response_class=Response,
    summary="Set a key of a map.",
    openapi_extra={"parameters": [_CHANNEL, _KEY, _IF_NEW, *_CONDITIONS], "requestBody": _BODY},
)
async def set_value(request: Request) -> Response:
    """Set a key to the body: JSON, text or other bytes, as it is; without a body it has no value.

    Answers the position, `{"offset":8,"epoch":"5f0c2a91"}`, also in `ETag`; with status 201 if the key was absent by a
    condition. Conditions: `If-None-Match: *` (the key is absent), `If-Match: *` (it is not), `If-Match: "<ETag>"` (its
    last write is this one); 412 has the reason and the map's position. With an `Idempotency-Key` a write that is
    repeated within 5 minutes is made once. Delivery: see docs/guarantees.md.
    """
    channel, key = _named(request)
    namespace = find(request, ApiContext).node.namespaces.of_map(channel)
    client = await _writer(request, channel, Action.PUBLISH)
    key = _own_key(namespace.map_options, key, client)
    data = await read_body(request, find(request, ApiContext).settings.max_message_bytes)
    change = Publication(channel, data, kind_of_payload(data), info=_info(client), change=Change(key))
    return await _write(request, client, namespace, change)


@router.delete(
    "/maps/{channel}/{key:path}",
    response_class=Response,
    summary="Remove a key of a map.",
    openapi_extra={"parameters": [_CHANNEL, _KEY, *_CONDITIONS]},
)
async def remove_value(request: Request) -> Response:
    """Remove a key. Answers and conditions are those of `PUT`; without one an absent key is answered 404 (108)."""
    channel, key = _named(request)
    namespace = find(request, ApiContext).node.namespaces.of_map(channel)
    client = await _writer(request, channel, Action.REMOVE)
    key = _own_key(namespace.map_options, key, client)
    removal = Publication(channel, b"", Kind.JSON, info=_info(client), change=Change(key, is_removed=True))
    return await _write(request, client, namespace, removal)


async def _get(request: Request) -> Response:
    channel, key = _named(request)
    namespace = find(request, ApiContext).node.namespaces.of_map(channel)
    if not has_api_key(request):
        admission = find(request, Admission)
        await admission.check_subscribe(*await admission.visitor(request), channel)
    else:
        check_sent_key(request)
    if key is not None:
        return await _value(request, channel, check_key(key), namespace)
    return await _entries(request, channel, namespace)


async def _value(request: Request, channel: str, key: str, namespace: Namespace) -> Response:
    page = await find(request, ApiContext).node.maps.read(channel, key=key, limit=1)
    if not page.entries:
        return _absent()
    (found,) = page.entries
    headers = _etag(found.position, namespace)
    if is_unchanged(request, headers):
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type=_TYPES[found.kind], headers={**headers, **_NO_SNIFFING})


async def _entries(request: Request, channel: str, namespace: Namespace) -> Response:
    maps, query = find(request, ApiContext).node.maps, request.query_params
    if "limit" in query or "after" in query:
        after = check_key(query["after"]) if query.get("after") else ""
        page = await maps.read(channel, after=after, limit=_limit_of(query.get("limit"), namespace.map_options))
    else:
        page = await whole_map(find(request, ApiContext), channel)
    position, entries, cursor = page
    headers = _etag(position, namespace)
    if is_unchanged(request, headers):
        return Response(status_code=304, headers=headers)
    about = orjson.dumps({"cursor": cursor, **position_members(position, namespace)})
    texts = [entry(each, with_offset=namespace.tells_positions) for each in entries]
    body = b'{"entries":[%b],%b' % (b",".join(texts), about[1:])
    return Response(body, media_type="application/json", headers=headers)


def _limit_of(text: str | None, options: MapOptions) -> int:
    if text is None:
        return options.page_size
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0
    if not 1 <= limit <= options.max_page_size:
        raise ClientError(ErrorCode.BAD_REQUEST, f"limit is a number from 1 to {options.max_page_size}")
    return limit


async def _writer(request: Request, channel: str, action: Action) -> _Client | None:
    """Return the client that writes; None for a service. Raises: ClientError 101, 103 ..., as `Admission.visitor`."""
    if has_api_key(request):
        check_sent_key(request)
        return None
    caller, identity = await find(request, Admission).visitor(request)
    namespace = find(request, ApiContext).node.namespaces.of(channel)
    may(action, channel, namespace, identity.client, is_subscribed=False)
    return caller, identity


def _info(client: _Client | None) -> ClientInfo | None:
    if client is None:
        return None
    caller, identity = client
    return ClientInfo(caller.client, caller.user, identity.info)


def _own_key(options: MapOptions, key: str | None, client: _Client | None) -> str:
    info = _info(client)
    if info is None:
        return check_key(key or "")
    if options.client_key is ClientKey.CLIENT_ID:
        raise ClientError(ErrorCode.PERMISSION_DENIED, "a client's key is the id of its connection: write by /ws/maps")
    return key_of(options, key or "", info)


async def _write(request: Request, client: _Client | None, namespace: Namespace, change: Publication) -> Response:
    """Make a write that is permitted; the application is asked about that of a client."""
    user = None if client is None else client[0].user
    wanted = conditions_of(request, user=user, tells_positions=namespace.tells_positions)
    conditions = wanted
    if client is not None:
        change, answered = await find(request, Admission).accepted(client[0], change)
        conditions = _both(wanted, answered)
    written = await find(request, ApiContext).node.maps.write(change, conditions=conditions)
    has_condition = wanted.mode is not KeyMode.REPLACE or wanted.expected is not None
    is_new = conditions.mode is KeyMode.IF_NEW
    return _answer(change, written, namespace, is_new=is_new, has_condition=has_condition)


def _both(wanted: Conditions, answered: Conditions) -> Conditions:
    """Return the client's conditions, replaced by those of the application that it has chosen."""
    return Conditions(
        once=answered.once._replace(key=answered.once.key or wanted.once.key),
        mode=answered.mode if answered.mode != UNCONDITIONAL.mode else wanted.mode,
        expected=wanted.expected,
    )


def _answer(
    change: Publication, written: Written, namespace: Namespace, *, is_new: bool, has_condition: bool
) -> Response:
    """Return the answer to a write.

    Args:
        is_new: it was for an absent key. has_condition: the client chose one about the key.
    """
    position, suppressed = written
    is_removal = change_of(change).is_removed
    body = {**position_members(position, namespace)}
    headers = _etag(None if is_removal else position, namespace)
    if suppressed is None:
        return JSONResponse(body, 201 if is_new and not is_removal else 200, headers=headers)
    body |= {"suppressed": True, "suppress_reason": suppressed.value}
    if suppressed is Suppressed.IDEMPOTENCY:
        return JSONResponse(body, headers=headers)  # of the write that was made
    if has_condition:
        return JSONResponse(body, 412)
    # By a condition of the application, a client is answered as for a write that was made.
    return _absent() if is_removal else JSONResponse(body)


def _etag(position: Position | None, namespace: Namespace) -> dict[str, str]:
    if position is None or not namespace.tells_positions:
        return {}
    return {"ETag": etag_of(position), **_ASK_AGAIN}


def _absent() -> Response:
    error = ErrorCode.NOT_AVAILABLE
    return JSONResponse({"error": {"code": error.code, "message": error.message, "detail": "the key is absent"}}, 404)


def _named(request: Request) -> tuple[str, str | None]:
    """Return the channel and the key in the URL; None without one. Raises: ClientError 107.

    In the raw path, because `/` in a channel's name is there as `%2F`. A key is all the rest.
    """
    scope = request.scope
    path = scope.get("raw_path", scope["path"].encode()).decode("ascii", "replace")
    path = path.removeprefix(scope.get("root_path", ""))
    channel, slash, key = path.removeprefix(_PREFIX).partition("/")
    return check_channel(_decoded(channel)), _decoded(key) if slash else None


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ClientError(ErrorCode.BAD_REQUEST, "the path is not valid UTF-8") from None
