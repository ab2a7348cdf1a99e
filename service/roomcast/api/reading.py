"""Methods of the server API that read: history and presence of a channel."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from roomcast.api.api_context import ApiContext
from roomcast.api.request_models import ChannelRequest, HistoryRequest, PresenceRequest
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.json import Json, JsonObject
from roomcast.model.namespaces import MAX_RECOVERED
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Publication
from roomcast.presence.interface import MAX_PAGE_LENGTH
from roomcast.rooms.encodings import client_members, envelope

# Larger results need pages: a result is made in memory.
MAX_PRESENT = 10_000


async def history(context: ApiContext, wanted: HistoryRequest) -> JsonObject:
    """Return a channel's position, and publications of its history.

    Those after `since`, oldest first; or with `reverse` those before it, newest first. Data that is not JSON is in
    `text` or `base64`, and `data` is null. Errors: 108 for a channel without a history, 112 if `since` is of another
    epoch or of a publication that Redis has lost.
    """
    since = None if wanted.since is None else Position(wanted.since.offset, wanted.since.epoch)
    limit = MAX_RECOVERED if wanted.limit < 0 else wanted.limit
    found = await context.node.histories.read(wanted.channel, limit=limit, since=since, newest=wanted.reverse)
    publications = found.publications[::-1] if wanted.reverse else found.publications
    return {**found.position._asdict(), "publications": [_publication(each) for each in publications]}


async def history_remove(context: ApiContext, wanted: ChannelRequest) -> JsonObject:
    """Remove all publications of a channel's history; its position continues.

    A client that reconnects from an earlier position cannot recover. Errors: 108 for a channel without a history.
    """
    await context.node.histories.remove(wanted.channel)
    return {}


async def presence(context: ApiContext, wanted: PresenceRequest) -> JsonObject:
    """Return the clients in a channel, on all nodes: all, or with `limit` or `cursor` a page.

    The cursor of a page selects the next one, and is empty on the last. A client that stays is on some page; one that
    joins or leaves meanwhile may be missing or listed twice. Errors: 108 for a channel without presence, 106 for more
    than 10,000 clients without pages.
    """
    if wanted.is_paged:
        return await presence_page(context, wanted)
    channel = _present_channel(context, wanted.channel)
    clients: dict[str, Json] = {}
    cursor = ""
    while True:
        page = await context.node.presence.page(channel, cursor=cursor, limit=MAX_PAGE_LENGTH)
        clients |= _clients(page.clients)
        if len(clients) > MAX_PRESENT:
            raise ClientError(ErrorCode.LIMIT_EXCEEDED, f"more than {MAX_PRESENT} clients: ask for pages, with a limit")
        cursor = page.cursor
        if not cursor:
            return {"presence": clients}


async def presence_page(context: ApiContext, wanted: PresenceRequest) -> JsonObject:
    """Return a page of the clients in a channel; see `presence`."""
    page = await context.node.presence.page(
        _present_channel(context, wanted.channel), cursor=wanted.cursor, limit=wanted.limit
    )
    return {"presence": _clients(page.clients), "cursor": page.cursor}


async def presence_stats(context: ApiContext, wanted: ChannelRequest) -> JsonObject:
    """Return the numbers of clients and users in a channel.

    All anonymous clients count as one user. Errors: as of presence.
    """
    counts = await context.node.presence.count(_present_channel(context, wanted.channel))
    return {"num_clients": counts.client_count, "num_users": counts.user_count}


def _present_channel(context: ApiContext, channel: str) -> str:
    """Return the channel if it has presence. Raises: ClientError 102, 108."""
    if not context.node.namespaces.of(channel).presence:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "the channel's namespace has no presence")
    return channel


def _publication(publication: Publication) -> orjson.Fragment:
    text = envelope(publication)
    # cent requires `data` in every publication.
    return orjson.Fragment(text if publication.kind is Kind.JSON else b'{"data":null,' + text[1:])


def _clients(clients: Iterable[ClientInfo]) -> dict[str, Json]:
    return {each.client: client_members(each) for each in clients}
