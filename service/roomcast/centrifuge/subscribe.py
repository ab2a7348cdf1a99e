"""`subscribe`, `unsubscribe` and `sub_refresh`, and subscriptions by the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

from roomcast.auth import ExpiredToken, InvalidToken, SubscriptionClaims, SubscriptionOptions
from roomcast.auth.overrides import overridden
from roomcast.auth.permissions import Action, is_limited, may
from roomcast.centrifuge import filters
from roomcast.centrifuge.codec import Command, Members, since_of
from roomcast.centrifuge.filters import Filter
from roomcast.centrifuge.session import Session, SessionSubscription
from roomcast.hooks.interface import Hook, SubRefreshEvent, SubscribeAnswer, SubscribeEvent
from roomcast.model.channels import check_channel
from roomcast.model.errors import (
    EXPIRED_ERRORS,
    UNSUBSCRIBED_EXPIRED,
    UNSUBSCRIBED_INSUFFICIENT,
    ClientError,
    ErrorCode,
    Rejection,
)
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication, Resumption

_DELTA = "fossil"
# Bits of the member `flag`.
_REJECT_UNRECOVERED = 2
# Of missed publications in one reply: a client that disconnects before it has all of a reply has none of it.
REPLY_BYTES = 64 * 1024


class _Wanted(NamedTuple):
    """A client's wishes for a subscription.

    since: its position, if it is recovering.
    rejects_unrecovered: without a recovery from there it does not want the subscription.
    reply_bytes: of missed publications in the reply, at most.
    """

    since: Position | None = None
    rejects_unrecovered: bool = False
    tells_members: bool = False
    is_delta: bool = False
    tags: Filter | None = None
    reply_bytes: int = REPLY_BYTES


class _Terms(NamedTuple):
    """A subscription that the client may have; `is_by_permission` as of a SessionSubscription."""

    options: SubscriptionOptions
    expire_at_s: float = 0
    is_by_permission: bool = False


async def subscribe(session: Session, command: Command) -> None:
    """Subscribe; the reply has the position and the missed publications, and comes before any push."""
    params = command.params
    channel = check_channel(params.get("channel", ""))
    namespace = session.context.node.namespaces.of(channel)
    if channel in session.subscriptions:
        raise ClientError(ErrorCode.ALREADY_SUBSCRIBED, channel)
    if len(session.subscriptions) >= session.context.settings.channel_limit:
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, "too many subscriptions")
    wanted = _wanted(params, namespace)
    terms = await _terms(session, channel, namespace, params)
    options, expire_at_s = terms.options, terms.expire_at_s
    is_refreshed = not params.get("token") and Hook.SUB_REFRESH in session.context.application.handles
    subscription = SessionSubscription(
        expire_at_s=expire_at_s, is_refreshed_by_application=is_refreshed, is_by_permission=terms.is_by_permission
    )
    async with _subscribing(session, channel, subscription, wanted, options) as result:
        if not is_refreshed:
            result.update(session.context.expiry(expire_at_s))
        session.reply(command, result)


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
    pushes = None if options.override is None else options.override.push_join_leave
    is_forced = namespace.force_push_join_leave if pushes is None else pushes
    tells_members = of_channel.join_leave and (is_forced or wanted.tells_members)
    encoding = wire.encoding_of(tells_members=tells_members, is_delta=wanted.is_delta, tags=wanted.tags)
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
        count = 0 if session.connection.is_congested else _count_in_reply(found, wanted.reply_bytes)
        if is_recovering:
            result["publications"] = wire.publications(found[:count], is_delta=wanted.is_delta, tags=wanted.tags)
        if wanted.is_delta:
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
    """End the subscriptions that the client may not have with its permissions now, and notify it."""
    for channel, subscription in tuple(session.subscriptions.items()):
        if subscription.is_by_permission:
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
        expire_at_s: float = (await _claims(session, channel, token)).expire_at_s or 0
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


def options_of(answer: SubscriptionClaims | SubscribeAnswer) -> SubscriptionOptions:
    """Return the options of a subscription by a token's claims, or by the application's answer."""
    return SubscriptionOptions(info=answer.info, data=answer.data, override=answer.override)


def _wanted(params: Members, namespace: Namespace) -> _Wanted:
    """Return a client's wishes. Raises: ClientError 107, 108."""
    delta, tf = params.get("delta", ""), params.get("tf")
    if params.get("type", 0):
        raise ClientError(ErrorCode.NOT_AVAILABLE, "only streams: no map and no shared poll subscriptions")
    if delta not in {"", _DELTA}:
        raise ClientError(ErrorCode.BAD_REQUEST, "the only difference is fossil")
    if tf is not None and not namespace.tags_filter:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "no filtering by tags in this namespace")
    return _Wanted(
        since=_since(params),
        rejects_unrecovered=bool(params.get("flag", 0) & _REJECT_UNRECOVERED),
        tells_members=params.get("join_leave", False),
        is_delta=bool(delta) and namespace.delta and tf is None,
        tags=None if tf is None else filters.parse(tf),
    )


def _since(params: Members) -> Position | None:
    """Return a client's position, if it is recovering. Raises: ClientError 107."""
    since = since_of(params)
    return since if params.get("recover", False) else None


async def _terms(session: Session, channel: str, namespace: Namespace, params: Members) -> _Terms:
    """Return the terms of a subscription that the client may have. Raises: ClientError 103, 109."""
    token, application = params.get("token", ""), session.context.application
    claims = await _claims(session, channel, token) if token and not session.context.settings.insecure else None
    # The application decides instead of the namespace, but a name that limits its users (`$`, `#`) holds.
    is_asked = claims is None and Hook.SUBSCRIBE in application.handles and not is_limited(channel)
    if not is_asked:
        may(Action.SUBSCRIBE, channel, namespace, session.client, is_subscribed=False, has_token=claims is not None)
    if claims is not None:
        return _Terms(options_of(claims), claims.expire_at_s or 0)
    if is_asked:
        answer = await application.on_subscribe(SubscribeEvent(session.caller, channel, params.get("data", b"")))
        return _Terms(options_of(answer), answer.expire_at_s)
    return _Terms(SubscriptionOptions(), is_by_permission=True)


async def _claims(session: Session, channel: str, token: str) -> SubscriptionClaims:
    """Return the claims of a token for this client and channel. Raises: ClientError 103, 109; BrokerUnavailable."""
    try:
        claims = await session.context.verifier.subscription(token)
    except InvalidToken as exc:
        session.context.rejected(session.connection, Rejection.INVALID_TOKEN, exc.reason)
        raise ClientError(ErrorCode.PERMISSION_DENIED, exc.reason) from None
    except ExpiredToken as exc:
        session.context.rejected(session.connection, exc.rejection, exc.reason)
        raise
    if claims.channel != channel or claims.user != session.client.user:
        reason = "the subscription token is of another channel or user"
        session.context.rejected(session.connection, Rejection.INVALID_TOKEN, reason)
        raise ClientError(ErrorCode.PERMISSION_DENIED, reason)
    return claims


def _count_in_reply(found: Sequence[Publication], reply_bytes: int) -> int:
    """Return how many of the missed publications are in the reply; the rest follows as pushes."""
    size_bytes = 0
    for count, publication in enumerate(found):
        size_bytes += len(publication.data)
        if size_bytes > reply_bytes:
            return count
    return len(found)


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
