"""What is kept of a channel, and who is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.namespaces import MAX_RECOVERED
from roomcast.model.publications import Kind, Position
from roomcast.presence import MAX_PAGE_LENGTH
from roomcast.rooms.encodings import client_members, envelope

if TYPE_CHECKING:
    from collections.abc import Iterable

    from roomcast.api.context import ApiContext
    from roomcast.api.request_models import HistoryRemoveRequest, HistoryRequest, PresenceRequest, PresenceStatsRequest
    from roomcast.model.json import JsonObject
    from roomcast.model.publications import ClientInfo, Publication

# Whoever wants more asks for pages: an answer is made in memory.
MAX_PRESENT = 10_000


async def history(context: ApiContext, wanted: HistoryRequest) -> JsonObject:
    """Return a channel's position, and what is kept of it.

    After `since`, oldest first; or with `reverse` before it, newest first. A payload that is no JSON is `text` or
    `base64`, and its `data` null. Errors: 108 for a channel without a history, 112 if `since` is of another epoch.
    """
    since = None if wanted.since is None else Position(wanted.since.offset, wanted.since.epoch)
    limit = MAX_RECOVERED if wanted.limit < 0 else wanted.limit
    found = await context.node.histories.read(wanted.channel, limit=limit, since=since, newest=wanted.reverse)
    publications = found.publications[::-1] if wanted.reverse else found.publications
    return {**found.position._asdict(), "publications": [_publication(each) for each in publications]}


async def history_remove(context: ApiContext, wanted: HistoryRemoveRequest) -> JsonObject:
    """Remove what is kept of a channel; its position stays, and goes on.

    A client that comes back and is behind it is told that something is lost. Errors: 108 for a channel without a
    history.
    """
    await context.node.histories.remove(wanted.channel)
    return {}


async def presence(context: ApiContext, wanted: PresenceRequest) -> JsonObject:
    """Return who is in a channel, on whatever node: all, or with `limit` or `cursor` a page of them.

    The cursor of a page is that of the next one, empty after the last. Who is there all the while is on some page; who
    comes or goes meanwhile may be missing, or there twice. Errors: 108 for a channel without presence, 106 for more
    than 10,000 clients at once.
    """
    if wanted.is_paged:
        return await presence_page(context, wanted)
    channel = _present_channel(context, wanted.channel)
    clients: dict[str, Any] = {}
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
    """Return a page of who is in a channel; see `presence`."""
    page = await context.node.presence.page(
        _present_channel(context, wanted.channel), cursor=wanted.cursor, limit=wanted.limit
    )
    return {"presence": _clients(page.clients), "cursor": page.cursor}


async def presence_stats(context: ApiContext, wanted: PresenceStatsRequest) -> JsonObject:
    """Return how many clients and users are in a channel.

    Several clients of one user are one user, and so are all those that name none. Errors are those of presence.
    """
    counts = await context.node.presence.count(_present_channel(context, wanted.channel))
    return {"num_clients": counts.client_count, "num_users": counts.user_count}


def _present_channel(context: ApiContext, channel: str) -> str:
    """Return the channel if it is one with presence. Raises: ClientError 102, 108."""
    if not context.node.namespaces.of(channel).presence:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "the channel's namespace has no presence")
    return channel


def _publication(publication: Publication) -> orjson.Fragment:
    text = envelope(publication)
    # cent wants `data` in every publication.
    return orjson.Fragment(text if publication.kind is Kind.JSON else b'{"data":null,' + text[1:])


def _clients(clients: Iterable[ClientInfo]) -> dict[str, Any]:  # Any: JSON
    return {each.client: client_members(each) for each in clients}
