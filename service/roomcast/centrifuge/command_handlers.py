"""The commands. A handler returns the result of the reply, or None if it replies by itself, now or later."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from roomcast.auth.permissions import Action, may
from roomcast.centrifuge import connect, map_publish, subscribe
from roomcast.centrifuge.codec import Command, Members, client_members, since_of
from roomcast.centrifuge.session import Session
from roomcast.hooks.interface import Hook, PublishEvent, RpcEvent
from roomcast.model.channels import check_channel
from roomcast.model.errors import NOT_AVAILABLE, ClientError, ErrorCode
from roomcast.model.namespaces import MAX_RECOVERED
from roomcast.model.publications import Publication
from roomcast.node.client_publisher import Result
from roomcast.presence.interface import MAX_PAGE_LENGTH

Outcome = Coroutine[Any, Any, Members | None] | None
Handler = Callable[[Session, Command], Outcome]


def _permitted_channel(session: Session, command: Command, action: Action) -> str:
    """Return the channel of a command if the client may do this there. Raises: ClientError 102, 103, 107."""
    channel = check_channel(command.params.get("channel", ""))
    namespace = session.context.node.namespaces.of(channel)
    may(action, channel, namespace, session.client, is_subscribed=channel in session.subscriptions)
    return channel


def publish(session: Session, command: Command) -> Outcome:
    """Publish, or change a map, in the order of the commands; the reply comes when Redis has it."""
    if map_publish.is_of_map(session, command):
        publication = map_publish.wanted_change(session, command)
        if map_publish.is_asked(session, publication):
            return map_publish.write_if_allowed(session, publication)
    else:
        if "data" not in command.params:
            raise ClientError(ErrorCode.BAD_REQUEST, "no data")
        if Hook.PUBLISH in session.context.application.handles:
            return _publish_if_allowed(session, command)
        publication = _publication(session, command)

    def reply(result: Result) -> None:
        if isinstance(result, Exception):
            session.refuse(command, result.error if isinstance(result, ClientError) else ErrorCode.INTERNAL)
        else:
            session.reply(command, {})

    session.context.node.client_publisher.publish_for(session.connection, publication, reply)
    return None


async def _publish_if_allowed(session: Session, command: Command) -> Members:
    publication = _publication(session, command)
    event = PublishEvent(session.caller, publication.channel, publication.data)
    answer = await session.context.application.on_publish(event)
    if answer.data is not None:
        publication = publication._replace(data=answer.data, kind=session.wire.kind_of(answer.data))
    await session.context.node.publish(publication, skip_history=answer.skip_history)
    return {}


def _publication(session: Session, command: Command) -> Publication:
    """Return the publication that a client wants and may make. Raises: ClientError 102, 103, 106, 107."""
    channel, data = _permitted_channel(session, command, Action.PUBLISH), command.params["data"]
    if len(data) > session.context.settings.max_message_bytes:
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, "too much data")
    info = session.context.node.roster.info(session.connection, channel)
    return Publication(channel, data, session.wire.kind_of(data), info=info)


async def presence(session: Session, command: Command) -> Members:
    """Return the clients in a channel: about a thousand."""
    channel = _channel_with_presence(session, command)
    page = await session.context.node.presence.page(channel, limit=MAX_PAGE_LENGTH)
    return {"presence": {info.client: client_members(info) for info in page.clients}}


async def presence_stats(session: Session, command: Command) -> Members:
    """Return how many clients and users are in a channel."""
    counts = await session.context.node.presence.count(_channel_with_presence(session, command))
    return {"num_clients": counts.client_count, "num_users": counts.user_count}


def _channel_with_presence(session: Session, command: Command) -> str:
    channel = _permitted_channel(session, command, Action.PRESENCE)
    if not session.context.node.namespaces.of(channel).presence:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "no presence in this namespace")
    return channel


async def history(session: Session, command: Command) -> Members:
    """Return entries of a channel's history; without a limit only its position, with -1 as many as are allowed.

    If the publications are large, the reply has fewer, because it has to fit into the client's buffer. The client can
    read on from the last one.
    """
    channel = check_channel(command.params.get("channel", ""))
    if session.context.node.namespaces.of(channel).map is not None:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "a map has entries, which clients read by a subscription")
    channel = _permitted_channel(session, command, Action.HISTORY)
    params = command.params
    limit = params.get("limit", 0)
    found = await session.context.node.histories.read(
        channel,
        limit=MAX_RECOVERED if limit < 0 else min(limit, MAX_RECOVERED),
        since=None if params.get("since") is None else since_of(params["since"]),
        newest=params.get("reverse", False),
    )
    publications = found.publications[::-1] if params.get("reverse", False) else found.publications
    publications = _at_most(publications, session.connection.max_unsent_bytes // 2)
    return {
        "publications": session.wire.publications(publications),
        "epoch": found.position.epoch,
        "offset": found.position.offset,
    }


def _at_most(publications: list[Publication], size_bytes: int) -> list[Publication]:
    """Return the first publications, up to a size together, but at least one."""
    found: list[Publication] = []
    for publication in publications:
        size_bytes -= len(publication.data)
        if found and size_bytes < 0:
            break
        found.append(publication)
    return found


async def rpc(session: Session, command: Command) -> Members:
    """Return the application's answer; an empty one is not JSON, so it is left out."""
    data = await _call(session, command.params.get("method", ""), command.params.get("data", b""))
    return {"data": data} if data else {}


async def send(session: Session, command: Command) -> None:
    """Pass the application a message without an answer: it is a call of the method ""."""
    if Hook.RPC not in session.context.application.handles:
        session.disconnect(NOT_AVAILABLE)
        return
    await _call(session, "", command.params.get("data", b""))


async def _call(session: Session, method: str, data: bytes) -> bytes:
    application = session.context.application
    if Hook.RPC not in application.handles:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "no application answers here")
    return await application.on_rpc(RpcEvent(session.caller, method, data))


def ping(session: Session, command: Command) -> None:
    """Reply."""
    session.reply(command, {})


HANDLERS: dict[str, Handler] = {
    "connect": connect.connect,
    "refresh": connect.refresh,
    "subscribe": subscribe.subscribe,
    "unsubscribe": subscribe.unsubscribe,
    "sub_refresh": subscribe.refresh,
    "publish": publish,
    "presence": presence,
    "presence_stats": presence_stats,
    "history": history,
    "rpc": rpc,
    "send": send,
    "ping": ping,
}
