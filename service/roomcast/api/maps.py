"""Methods of the server API that write and read maps. Empty members are left out of results, as by Centrifugo."""

from __future__ import annotations

import base64

import orjson

from roomcast.api.api_context import ApiContext
from roomcast.api.map_requests import (
    MAX_ENTRIES,
    MAX_KEYS,
    MapPublishRequest,
    MapReadStateRequest,
    MapReadStreamRequest,
    MapRemoveRequest,
    MapRequest,
)
from roomcast.api.publishing import payload
from roomcast.brokers.interface import Once
from roomcast.brokers.map_interface import Conditions, MapPage, Written
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.json import JsonObject
from roomcast.model.maps import Change
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Publication, change_of, offset_of
from roomcast.model.tags import check_tags
from roomcast.rooms.encodings import client_members

_ATTEMPTS = 3


async def map_publish(context: ApiContext, wanted: MapPublishRequest) -> JsonObject:
    """Set a key of a map, and publish it to every subscriber.

    Returns the position; a write that a condition prevents has `suppressed` and the reason: `idempotency`, `version`,
    `key_exists`, `key_not_found` or `position_mismatch`, checked in this order. Errors: 106 for a map that is full.
    After error 100 it may have been made: retry with the same `idempotency_key`.
    """
    namespace = context.node.namespaces.of_map(wanted.channel)
    kind, data = payload(context, wanted.data, wanted.b64data) if wanted.has_data else (Kind.JSON, b"")
    publication = Publication(wanted.channel, data, kind, tags=check_tags(wanted.tags), change=Change(wanted.key))
    once = Once(wanted.idempotency_key, wanted.version or None, wanted.version_epoch)
    conditions = Conditions(once, wanted.key_mode, _expected(wanted, namespace))
    return _written(await context.node.maps.write(publication, conditions=conditions), namespace)


async def map_remove(context: ApiContext, wanted: MapRemoveRequest) -> JsonObject:
    """Remove a key of a map, and publish that to every subscriber.

    Returns: as of map_publish; without the key nothing is published, and the reason is `key_not_found`.
    """
    namespace = context.node.namespaces.of_map(wanted.channel)
    removal = Publication(wanted.channel, b"", Kind.JSON, change=Change(wanted.key, is_removed=True))
    conditions = Conditions(Once(wanted.idempotency_key), expected=_expected(wanted, namespace))
    return _written(await context.node.maps.write(removal, conditions=conditions), namespace)


async def map_read_state(context: ApiContext, wanted: MapReadStateRequest) -> JsonObject:
    """Return a map's position, and entries in the order of their keys: one, a page, or all.

    The cursor of a page selects the next one; the last page has none. With `limit` -1 all entries are of one moment.
    Errors: 112 if the epoch is not `revision_epoch`, 106 for all of a map with more than 10,000 keys.
    """
    namespace = context.node.namespaces.of_map(wanted.channel)
    if wanted.limit < 0 and not wanted.key:
        position, entries, cursor = await whole_map(context, wanted.channel, wanted.cursor)
    else:
        position, entries, cursor = await context.node.maps.read(
            wanted.channel, after=wanted.cursor, limit=max(wanted.limit, 1), key=wanted.key
        )
        if not (wanted.limit or wanted.key):
            entries, cursor = [], ""
    _check_epoch(wanted.revision_epoch, position.epoch if namespace.tells_positions else "")
    return _present(
        entries=[entry_members(each, namespace) for each in entries],
        **position_members(position, namespace),
        cursor=cursor,
    )


async def map_read_stream(context: ApiContext, wanted: MapReadStreamRequest) -> JsonObject:
    """Return a map's position, and its newest changes that are kept.

    Those after `since_offset`, oldest first; or with `reverse` those before it, newest first. Errors: 108 for an
    ephemeral map, which keeps no changes; 112 if the position is of another epoch, was lost, or is yet to come.
    """
    namespace = context.node.namespaces.of_map(wanted.channel)
    if namespace.map_options.key_ttl_s:
        await context.node.maps.count(wanted.channel)  # which removes keys whose time is over first
    found = await context.node.histories.read_changes(
        wanted.channel,
        limit=MAX_ENTRIES if wanted.limit < 0 else wanted.limit,
        since=Position(wanted.since_offset, wanted.since_epoch) if wanted.since_offset else None,
        newest=wanted.reverse,
    )
    _check_epoch(wanted.since_epoch, found.position.epoch)
    changes = found.publications[::-1] if wanted.reverse else found.publications
    return _present(
        entries=[entry_members(each, namespace) for each in changes], **position_members(found.position, namespace)
    )


async def map_stats(context: ApiContext, wanted: MapRequest) -> JsonObject:
    """Return the number of a map's keys.

    It is left out if there are none.
    """
    return _present(num_keys=await context.node.maps.count(wanted.channel))


async def map_clear(context: ApiContext, wanted: MapRequest) -> JsonObject:
    """Remove all keys of a map and its changes, and start a new epoch.

    No removals are published: subscribers load the map again.
    """
    await context.node.maps.clear(wanted.channel)
    return {}


async def whole_map(context: ApiContext, channel: str, after: str = "") -> MapPage:
    """Return all entries after a key, of one moment.

    Raises: ClientError 106 for more than MAX_KEYS; and as `Maps.load`.
    """
    node = context.node
    page = await node.maps.read(channel, after=after, limit=MAX_ENTRIES)
    if not page.cursor:
        return page
    if await node.maps.count(channel) > MAX_KEYS:
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, f"more than {MAX_KEYS} keys: ask for pages, with a limit")
    # Pages would be of different moments. The node's copy is of one, and shared with clients that load the map.
    for _ in range(_ATTEMPTS):
        load = await node.maps.load(channel)
        try:
            if load.copy.position < page.position:  # writes that the caller may know of are on their way
                await node.broker.sync({channel})
                await node.tracker.wait_resolved(channel)
            if load.is_current and load.copy.position >= page.position:
                entries = load.copy.entries()
                return MapPage(load.copy.position, [entries[key] for key in sorted(entries) if key > after])
        finally:
            load.close()
    raise BrokerUnavailable("the map changes too fast to be read")


def _expected(wanted: MapPublishRequest | MapRemoveRequest, namespace: Namespace) -> Position | None:
    if wanted.expected_offset is None:
        return None
    return namespace.map_options.expected(Position(wanted.expected_offset, wanted.expected_epoch))


def _check_epoch(wanted: str, epoch: str) -> None:
    if wanted and wanted != epoch:
        raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, f"the epoch is {epoch} now" if epoch else "no epoch")


def _written(written: Written, namespace: Namespace) -> JsonObject:
    return _present(
        **position_members(written.position, namespace),
        suppressed=written.suppressed is not None,
        suppress_reason="" if written.suppressed is None else written.suppressed.value,
    )


def position_members(position: Position, namespace: Namespace) -> JsonObject:
    """Return the members of a position, which clients of ephemeral maps do not receive."""
    return position._asdict() if namespace.tells_positions else {}


def entry_members(publication: Publication, namespace: Namespace) -> JsonObject:
    """Return the members of an entry or change, for `orjson.dumps`; `b64data` for a value that is not JSON."""
    change, data = change_of(publication), publication.data
    is_json = publication.kind is Kind.JSON
    return _present(
        key=change.key,
        data=orjson.Fragment(data) if is_json and data else None,
        b64data="" if is_json else base64.b64encode(data).decode(),
        tags=publication.tags,
        info=None if publication.info is None else client_members(publication.info),
        offset=offset_of(publication) if namespace.tells_positions else 0,
        removed=change.is_removed,
        time=change.time_ms,
    )


def _present(**members: object) -> JsonObject:
    """Return the members that are not empty."""
    return {name: value for name, value in members.items() if value}
