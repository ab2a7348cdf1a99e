"""`subscribe`, `unsubscribe` and `sub_refresh`, and subscriptions by the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

from roomcast.auth import SubscriptionOptions
from roomcast.auth.overrides import is_told_members, overridden
from roomcast.auth.permissions import Action, may
from roomcast.centrifuge import map_subscribe
from roomcast.centrifuge.admission import check_count, claims_of, subscription_of, terms_of, view_of
from roomcast.centrifuge.codec import Command, Members, since_of
from roomcast.centrifuge.session import Session, SessionSubscription
from roomcast.centrifuge.terms import REPLY_BYTES, View, count_in_reply
from roomcast.hooks.interface import Hook, SubRefreshEvent
from roomcast.model.channels import check_channel
from roomcast.model.errors import (
    EXPIRED_ERRORS,
    UNSUBSCRIBED_EXPIRED,
    UNSUBSCRIBED_INSUFFICIENT,
    ClientError,
    ErrorCode,
)
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication, Resumption

# Bits of the member `flag`.
_REJECT_UNRECOVERED = 2


class _Wanted(NamedTuple):
    """A client's wishes for a subscription.

    since: its position, if it is recovering.
    rejects_unrecovered: without a recovery from there it does not want the subscription.
    reply_bytes: of missed publications in the reply, at most.
    """

    since: Position | None = None
    rejects_unrecovered: bool = False
    tells_members: bool = False
    view: View = View()
    reply_bytes: int = REPLY_BYTES


async def subscribe(session: Session, command: Command) -> None:
    """Subscribe; the reply has the position and the missed publications, and comes before any push."""
    params = command.params
    channel = check_channel(params.get("channel", ""))
    namespace = session.context.node.namespaces.of(channel)
    if params.get("type", 0) != namespace.type.number:
        raise ClientError(ErrorCode.PERMISSION_DENIED, f"this channel is of type {namespace.type.number}")
    if namespace.map is not None:
        await map_subscribe.subscribe(session, command, channel, namespace)
        return
    if channel in session.subscriptions:
        raise ClientError(ErrorCode.ALREADY_SUBSCRIBED, channel)
    check_count(session)
    wanted = _wanted(params, namespace)
    terms = await terms_of(session, channel, namespace, params)
    subscription, expiry = subscription_of(session, terms)
    async with _subscribing(session, channel, subscription, wanted, terms.options) as result:
        session.reply(command, {**result, **expiry})


def subscribing_by_server(
    session: Session,
    channel: str,
    options: SubscriptionOptions,
    recovering: Members | None,
    expire_at_s: float = 0,
    *,
    reply_bytes: int = REPLY_BYTES,
) -> AbstractAsyncContextManager[Members]:
    """Subscribe a client without its command. The body sends it the result, as of `subscribe`; it must not await.

    Args:
        recovering: the client's position in the channel, as in `subscribe`.
        reply_bytes: the most bytes of missed publications in the result.
    Raises: ClientError, BrokerUnavailable.
    """
    if session.context.node.namespaces.of(channel).map is not None:
        raise ClientError(ErrorCode.PERMISSION_DENIED, "only clients themselves subscribe to maps")
    subscription = SessionSubscription(expire_at_s=expire_at_s, is_of_server=True)
    wanted = _Wanted(since=_since(recovering or {}), reply_bytes=reply_bytes)
    return _subscribing(session, check_channel(channel), subscription, wanted, options)


@asynccontextmanager
async def _subscribing(
    session: Session, channel: str, subscription: SessionSubscription, wanted: _Wanted, options: SubscriptionOptions
) -> AsyncIterator[Members]:
    """Subscribe; the body sends the result, and publications follow. Missed ones beyond a reply's size come first."""
    node, wire = session.context.node, session.wire
    of_channel = node.namespaces.of(channel)
    namespace = overridden(of_channel, options.override)
    tells_members = is_told_members(of_channel, options.override, asks=wanted.tells_members)
    is_delta, tags = wanted.view
    encoding = wire.encoding_of(tells_members=tells_members, is_delta=is_delta, tags=tags)
    is_recovering = wanted.since is not None and namespace.recovery is not None
    async with node.subscribing(
        session.connection,
        channel,
        namespace=namespace,
        encoding=encoding,
        info=options.info,
        since=wanted.since,
        wants_missed=wanted.since is not None,
    ) as start:
        result = _beginning(start, wanted, is_recovering=is_recovering)
        found = [event for event in start if isinstance(event, Publication)] if is_recovering else []
        # A client that has not read what it was sent gets more in pieces only: replies may not wait for it.
        count = 0 if session.connection.is_congested else count_in_reply(found, wanted.reply_bytes)
        if is_recovering:
            result["publications"] = wire.publications(found[:count], is_delta=is_delta, tags=tags)
        if is_delta:
            result["delta"] = True
        if options.data:
            result["data"] = options.data
        yield result
        subscription.is_positioned = result.get("positioned", False)
        session.add_subscription(channel, subscription)
        if rest := found[count:]:
            session.connection.send_missed(map(encoding.encode, rest))


def unsubscribe(session: Session, command: Command) -> None:
    """End a subscription that the client asked for, if there is one."""
    channel = command.params.get("channel", "")
    subscription = session.subscriptions.get(channel)
    if not channel or (subscription is not None and subscription.is_of_server):
        raise ClientError(ErrorCode.BAD_REQUEST, "no subscription of the client's own")
    session.remove_subscription(channel)
    session.reply(command, {})


async def refresh(session: Session, command: Command) -> None:
    """Let a subscription expire later, by a new token or the application's answer.

    If that has expired too, the subscription ends with a push: client libraries then get a new token and subscribe
    again. An error reply would end the subscription for good.
    """
    channel = command.params.get("channel", "")
    subscription = session.subscriptions.get(channel)
    try:
        expiry = await _refresh(session, command)
    except ClientError as exc:
        if exc.error not in EXPIRED_ERRORS:
            raise
        session.reply(command, {})
        if session.subscriptions.get(channel) is subscription:
            session.unsubscribe(channel, UNSUBSCRIBED_EXPIRED)
    else:
        session.reply(command, expiry)


def end_forbidden(session: Session) -> None:
    """End the subscriptions and loads that the client may not have with its permissions now, and notify it."""
    loads = [(channel, loading.terms.is_by_permission) for channel, loading in session.loads.items()]
    subscriptions = [(channel, each.is_by_permission) for channel, each in session.subscriptions.items()]
    for channel, is_by_permission in loads + subscriptions:
        if is_by_permission:
            namespace = session.context.node.namespaces.of(channel)
            try:
                may(Action.SUBSCRIBE, channel, namespace, session.client, is_subscribed=False)
            except ClientError:
                session.unsubscribe(channel, UNSUBSCRIBED_INSUFFICIENT)


async def _refresh(session: Session, command: Command) -> Members:
    """As `refresh`; returns the reply. Raises: ClientError 109 or 110 for what has expired; then nothing is changed."""
    channel, token = command.params.get("channel", ""), command.params.get("token", "")
    subscription, context = session.subscriptions.get(channel), session.context
    if subscription is None or subscription.is_of_server:
        raise ClientError(ErrorCode.BAD_REQUEST, "no subscription of the client's own")
    if token:
        expire_at_s: float = (await claims_of(session, channel, token)).expire_at_s or 0
    elif Hook.SUB_REFRESH in context.application.handles:
        answer = await context.application.on_sub_refresh(SubRefreshEvent(session.caller, channel))
        if answer.is_expired:
            raise ClientError(ErrorCode.EXPIRED, "the application lets the subscription expire")
        expire_at_s = answer.expire_at_s
    else:
        raise ClientError(ErrorCode.BAD_REQUEST, "no token")
    expiry = context.expiry(expire_at_s)
    subscription.expire_at_s = expire_at_s
    session.check_expiry_of(subscription)
    return expiry


def _wanted(params: Members, namespace: Namespace) -> _Wanted:
    """Return a client's wishes. Raises: ClientError 107, 108."""
    return _Wanted(
        since=_since(params),
        rejects_unrecovered=bool(params.get("flag", 0) & _REJECT_UNRECOVERED),
        tells_members=params.get("join_leave", False),
        view=view_of(params, namespace),
    )


def _since(params: Members) -> Position | None:
    """Return a client's position, if it is recovering. Raises: ClientError 107."""
    since = since_of(params)
    return since if params.get("recover", False) else None


def _beginning(start: Sequence[Publication | Resumption], wanted: _Wanted, *, is_recovering: bool) -> Members:
    """Return the members of the result about position and recovery. Raises: ClientError 112."""
    result: Members = {}
    is_recovered = False
    for event in start:
        if isinstance(event, Resumption) and event.position is not None:
            result = {"recoverable": True, "positioned": True, **event.position._asdict()}
            is_recovered = bool(event.is_recovered)
    if wanted.since is not None:
        result["was_recovering"] = True
    if is_recovering:
        if is_recovered:
            result["recovered"] = True
        elif wanted.rejects_unrecovered:
            raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, "something is lost since this position")
    return result
