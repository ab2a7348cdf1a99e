"""`connect` and `refresh`: the identity of a client, its subscriptions by the server, the time when it expires."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from roomcast.auth import ConnectionClaims, ExpiredToken, InvalidToken, SubscriptionOptions
from roomcast.auth.permissions import Client, personal_channel
from roomcast.centrifuge import subscribe
from roomcast.centrifuge.admission import options_of
from roomcast.centrifuge.codec import Command, Members
from roomcast.centrifuge.session import Session
from roomcast.centrifuge.terms import REPLY_BYTES
from roomcast.hooks.interface import ConnectAnswer, ConnectedEvent, ConnectEvent, Hook, NoConnectAnswer, RefreshEvent
from roomcast.model.errors import (
    BAD_REQUEST,
    CHANNEL_LIMIT,
    EXPIRED,
    EXPIRED_ERRORS,
    INSUFFICIENT_STATE,
    INVALID_TOKEN,
    BrokerUnavailable,
    ClientError,
    ErrorCode,
    Refused,
    Rejection,
)
from roomcast.version import __version__


async def connect(session: Session, command: Command) -> None:
    """Accept the client. Its reply comes before any push, and its connection is open from then on."""
    params, context = command.params, session.context
    claims = await _claims(session, params.get("token", ""))
    if claims is None:
        return
    answer: ConnectAnswer | None = None
    token_user, token_channels = claims.user, _channels_of(claims)
    session.client = Client(claims.user, claims.grants, is_trusted=context.settings.insecure)
    session.meta = claims.meta
    if Hook.CONNECT in context.application.handles:
        answer = await _ask(session, claims, params)
        claims = _answered(claims, answer)
        session.client = replace(session.client, user=claims.user)
        session.meta = claims.meta
    session.token_user = token_user if params.get("token") else claims.user
    session.token_channels = token_channels
    expiry = context.expiry(claims.expire_at_s or 0)
    # A client that knew when it expires would look for a token, and disconnect without one.
    session.is_refreshed_by_application = not params.get("token") and Hook.REFRESH in context.application.handles
    if session.is_refreshed_by_application:
        expiry = {}
    session.connection.info = claims.info
    context.node.hub.identify(session.connection, claims.user)
    options = _server_subscriptions(session, claims)
    if len(options) > context.settings.channel_limit:
        session.disconnect(CHANNEL_LIMIT)
        return
    subs = await _subscribe_all(session, options, params.get("subs", {}))
    result = _result(session, expiry)
    if answer is not None and answer.data:
        result["data"] = answer.data
    if subs:
        result["subs"] = subs
    session.is_connected = True
    session.expire_at(claims.expire_at_s or 0)
    session.reply(command, result)
    session.connection.open()
    context.application.on_connected(ConnectedEvent(session.caller))


async def refresh(session: Session, command: Command) -> None:
    """Let the connection expire later, by a new token or the application's answer.

    If that has expired too, the connection is closed: client libraries then get a new token and reconnect. An error
    reply would end them for good.
    """
    try:
        await _refresh(session, command)
    except ClientError as exc:
        if exc.error not in EXPIRED_ERRORS:
            raise
        session.disconnect(EXPIRED)


async def _refresh(session: Session, command: Command) -> None:
    """As `refresh`. Raises: ClientError 109 or 110 for what has expired; then nothing is changed."""
    token, context = command.params.get("token", ""), session.context
    grants = session.client.grants
    if token:
        claims = await _claims(session, token)
        if claims is None:
            return
        if claims.user != session.token_user:
            session.disconnect(INVALID_TOKEN)
            return
        if _channels_of(claims) != session.token_channels:
            session.disconnect(INSUFFICIENT_STATE)  # the client reconnects, and is subscribed to what it may have now
            return
        expire_at_s, info, grants = claims.expire_at_s or 0, claims.info, claims.grants
    elif Hook.REFRESH in context.application.handles:
        answer = await context.application.on_refresh(RefreshEvent(session.caller))
        if answer.is_expired:
            raise ClientError(ErrorCode.EXPIRED, "the application lets the connection expire")
        expire_at_s, info = answer.expire_at_s, session.connection.info if answer.info is None else answer.info
    else:
        raise ClientError(ErrorCode.BAD_REQUEST, "no token")
    expiry = context.expiry(expire_at_s)
    session.connection.info = info
    session.expire_at(expire_at_s)
    session.reply(command, {"client": session.client_id, "version": __version__, **expiry})
    if grants != session.client.grants:
        session.client = replace(session.client, grants=grants)
        subscribe.end_forbidden(session)


def _channels_of(claims: ConnectionClaims) -> tuple[str, ...]:
    """Return the channels that a token subscribes its client to, in order."""
    return tuple(sorted({*claims.channels, *claims.subs}))


async def _claims(session: Session, token: str) -> ConnectionClaims | None:
    """Return the claims of a token, or of a client without one; None if the token is invalid: the connection is closed.

    Raises: ClientError 101 for a missing token, 109 for an expired one; BrokerUnavailable without its key.
    """
    settings = session.context.settings
    needs_token = not settings.anonymous and Hook.CONNECT not in session.context.application.handles
    if settings.insecure or not (token or needs_token):
        return ConnectionClaims(user="", subs={})
    if not token:
        session.context.rejected(session.connection, Rejection.NO_TOKEN, "no token")
        raise ClientError(ErrorCode.UNAUTHORIZED, "no token")
    try:
        return await session.context.verifier.connection(token)
    except InvalidToken as exc:
        session.context.rejected(session.connection, Rejection.INVALID_TOKEN, exc.reason)
        session.disconnect(INVALID_TOKEN)
        return None
    except ExpiredToken as exc:
        session.context.rejected(session.connection, exc.rejection, exc.reason)
        raise


async def _ask(session: Session, claims: ConnectionClaims, params: Members) -> ConnectAnswer:
    """Return the application's answer. Raises: Refused also without a token and an answer that decides."""
    context = session.context
    answer = await context.application.on_connect(_event(session, claims, params))
    is_admitted = params.get("token") or context.settings.anonymous or context.settings.insecure
    if isinstance(answer, NoConnectAnswer) and not is_admitted:
        context.rejected(session.connection, Rejection.NO_TOKEN, "no token, and no result of the application")
        raise Refused(BAD_REQUEST)
    return answer


def _event(session: Session, claims: ConnectionClaims, params: Members) -> ConnectEvent:
    return ConnectEvent(
        session.caller,
        claims.info,
        params.get("data", b""),
        params.get("name", ""),
        params.get("version", ""),
        tuple(params.get("subs", {})),
    )


def _answered(claims: ConnectionClaims, answer: ConnectAnswer) -> ConnectionClaims:
    """Return the claims with the application's answer in front of the token's."""
    subs = {channel: options_of(each) for channel, each in answer.channels.items()}
    return replace(
        claims,
        user=claims.user if answer.user is None else answer.user,
        expire_at_s=claims.expire_at_s if answer.expire_at_s is None else answer.expire_at_s or None,
        info=claims.info if answer.info is None else answer.info,
        subs={**claims.subs, **subs},
        meta=claims.meta if answer.meta is None else answer.meta,
    )


def _server_subscriptions(session: Session, claims: ConnectionClaims) -> dict[str, SubscriptionOptions]:
    """Return the channels that the server subscribes the client to: by its claims, and as a user."""
    options = dict.fromkeys(claims.channels, SubscriptionOptions())
    options.update(claims.subs)
    for name in session.context.node.namespaces.personal():
        channel = personal_channel(name, claims.user)
        if channel is not None:
            options.setdefault(channel, SubscriptionOptions())
    return options


async def _subscribe_all(
    session: Session, options: Mapping[str, SubscriptionOptions], recovering: Mapping[str, Members]
) -> Members:
    """Return the member `subs` of the reply. Raises: ClientError, BrokerUnavailable; then there are none."""
    subs: Members = {}
    reply_bytes = REPLY_BYTES // max(1, len(options))  # all are in one reply
    try:
        for channel, each in options.items():
            since = recovering.get(channel)
            async with subscribe.subscribing_by_server(
                session, channel, each, since, reply_bytes=reply_bytes
            ) as result:
                subs[channel] = result
    except (ClientError, BrokerUnavailable):
        session.connection.discard_held()
        for channel in subs:
            session.remove_subscription(channel)
        raise
    return subs


def _result(session: Session, expiry: Members) -> Members:
    context = session.context
    return {
        "client": session.client_id,
        "version": __version__,
        **expiry,
        "ping": math.ceil(context.settings.ping_interval_s),  # clients count in whole seconds
        "pong": True,
        "session": session.id,
        "node": context.node.id,
    }
