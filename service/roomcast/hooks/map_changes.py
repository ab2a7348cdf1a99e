"""Asks the application about clients' changes of maps, in one way for all doors."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from roomcast.brokers.interface import Once
from roomcast.brokers.map_interface import UNCONDITIONAL, Conditions
from roomcast.hooks.interface import (
    Application,
    Caller,
    Hook,
    MapPublishAnswer,
    MapPublishEvent,
    MapRemoveAnswer,
    MapRemoveEvent,
)
from roomcast.model.maps import Change
from roomcast.model.publications import Kind, Publication, change_of


def is_asked(application: Application, change: Change) -> bool:
    """Return whether the application decides about such a change."""
    return (Hook.MAP_REMOVE if change.is_removed else Hook.MAP_PUBLISH) in application.handles


async def accepted(
    application: Application, caller: Caller, publication: Publication, kind_of: Callable[[bytes], Kind]
) -> tuple[Publication, Conditions]:
    """Return the change that a client may make, as the application answers, and its conditions.

    Call it after the permission check, as `on_publish`. Without a handler the change is returned as it is.

    Args:
        publication: with a change.
        kind_of: returns the kind of the application's data, from its bytes.
    Raises: ApplicationError, ClientError, Refused of the application.
    """
    change = change_of(publication)
    if not is_asked(application, change):
        return publication, UNCONDITIONAL
    if change.is_removed:
        removal = MapRemoveEvent(caller, publication.channel, change.key)
        return _removal(publication, change, await application.on_map_remove(removal))
    caller, data = as_asked(caller, publication) if publication.data else (caller, b"")
    answer = await application.on_map_publish(MapPublishEvent(caller, publication.channel, change.key, data))
    return _set(publication, change, answer, kind_of)


def as_asked(caller: Caller, publication: Publication) -> tuple[Caller, bytes]:
    """Return a client and its data for a handler: a JSON client's text becomes JSON, its binary data stays as it is."""
    data, kind = publication.data, publication.kind
    if caller.encoding != "json" or kind is Kind.JSON:
        return caller, data
    if kind is Kind.BINARY:
        return caller._replace(encoding="binary"), data
    return caller, orjson.dumps(data.decode())


def _set(
    publication: Publication, change: Change, answer: MapPublishAnswer, kind_of: Callable[[bytes], Kind]
) -> tuple[Publication, Conditions]:
    if answer.data is not None:
        publication = publication._replace(data=answer.data, kind=kind_of(answer.data))
    publication = publication._replace(tags=answer.tags, change=change._replace(key=answer.key or change.key))
    once = Once(answer.idempotency_key, answer.version or None, answer.version_epoch)
    return publication, Conditions(once, answer.key_mode)


def _removal(publication: Publication, change: Change, answer: MapRemoveAnswer) -> tuple[Publication, Conditions]:
    changed = publication._replace(change=change._replace(key=answer.key or change.key))
    return changed, Conditions(Once(answer.idempotency_key))
