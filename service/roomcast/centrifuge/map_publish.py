"""`publish` into maps: a client sets a key, or removes it."""

from __future__ import annotations

from roomcast.auth.permissions import Action, may
from roomcast.centrifuge.codec import Command, Members
from roomcast.centrifuge.session import Session
from roomcast.hooks import map_changes
from roomcast.model.channels import check_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import Change, MapOptions, check_key
from roomcast.model.publications import Publication

_STREAM, _MAP = 0, 1


def is_of_map(session: Session, command: Command) -> bool:
    """Return whether a client writes into a map. Raises: ClientError 102, 103 for the type of another channel, 107."""
    wanted = command.params.get("type", _STREAM)
    if wanted not in (_STREAM, _MAP):
        raise ClientError(ErrorCode.BAD_REQUEST, "type is 0, or 1 for maps")
    channel = check_channel(command.params.get("channel", ""))
    is_map = session.context.node.namespaces.of(channel).map is not None
    if is_map != (wanted == _MAP):
        raise ClientError(ErrorCode.PERMISSION_DENIED, "this channel is a map" if is_map else "this channel is no map")
    return is_map


def wanted_change(session: Session, command: Command) -> Publication:
    """Return the change that a client wants and may make. Raises: ClientError 102, 103, 106, 107."""
    params = command.params
    channel, is_removed = params["channel"], params.get("removed", False)
    namespace = session.context.node.namespaces.of(channel)
    action = Action.REMOVE if is_removed else Action.PUBLISH
    may(action, channel, namespace, session.client, is_subscribed=channel in session.subscriptions)
    key = _key(session, namespace.map_options, params.get("key", ""))
    data = b"" if is_removed else params.get("data", b"")
    if len(data) > session.context.settings.max_message_bytes:
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, "too much data")
    info = session.context.node.roster.info(session.connection, channel)
    change = Change(key, is_removed, time_ms=int(session.context.deadlines.now_s() * 1000))
    return Publication(channel, data, session.wire.kind_of(data), info=info, change=change)


def is_asked(session: Session, publication: Publication) -> bool:
    """Return whether the application decides about a change."""
    return publication.change is not None and map_changes.is_asked(session.context.application, publication.change)


async def write_if_allowed(session: Session, publication: Publication) -> Members:
    """Make a change that the application allows; a condition of its answer may suppress it."""
    application, node = session.context.application, session.context.node
    publication, conditions = await map_changes.accepted(application, session.caller, publication, session.wire.kind_of)
    try:
        await node.maps.write(publication, conditions=conditions)
    finally:  # the client may leave meanwhile, and Redis may have a write that seems to fail
        node.map_presence.wrote(session.connection, publication)
    return {}


def _key(session: Session, options: MapOptions, wanted: str) -> str:
    """Return the key that a client writes. Raises: ClientError 103, 107."""
    own = options.own_key(session.client_id, session.client.user)
    return check_key(wanted) if own is None else own
