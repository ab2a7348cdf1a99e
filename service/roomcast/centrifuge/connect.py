"""`connect` and `refresh`: who a client is, what the server subscribes it to, how long it may stay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from roomcast.auth import ConnectionClaims, InvalidToken, SubscriptionOptions
from roomcast.auth.permissions import Client, personal_channel
from roomcast.centrifuge import subscribe
from roomcast.hooks import ConnectedEvent, ConnectEvent, Hook, RefreshEvent
from roomcast.model.errors import CHANNEL_LIMIT, INVALID_TOKEN, BrokerUnavailable, ClientError, ErrorCode
from roomcast.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from roomcast.centrifuge.codec import Command, Members
    from roomcast.centrifuge.session import Session
    from roomcast.hooks import ConnectAnswer


async def connect(session: Session, command: Command) -> None:
    """Let the client in. Its reply comes before any push, and its connection is open from then on."""
    params, sessions = command.params, session.sessions
    claims = await _claims(session, params.get("token", ""))
    if claims is None:
        return
    answer: ConnectAnswer | None = None
    token_user = claims.user
    session.client = Client(claims.user, claims.grants, is_trusted=sessions.settings.insecure)
    session.meta = claims.meta
    if Hook.CONNECT in sessions.application.handles:
        answer = await sessions.application.on_connect(_event(session, claims, params))
        claims = _answered(claims, answer)
        session.client = replace(session.client, user=claims.user)
        session.meta = claims.meta
    session.token_user = token_user if params.get("token") else claims.user
    expiry = sessions.expiry(claims.expire_at_s or 0)
    # A client that was told would look for a token, and end without one.
    session.is_kept_by_application = not params.get("token") and Hook.REFRESH in sessions.application.handles
    if session.is_kept_by_application:
        expiry = {}
    session.connection.info = claims.info
    sessions.node.hub.identify(session.connection, claims.user)
    options = _server_subscriptions(session, claims)
    if len(options) > sessions.settings.channel_limit:
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
    sessions.application.on_connected(ConnectedEvent(session.caller))


async def refresh(session: Session, command: Command) -> Members | None:
    """Let the client stay longer, by a new token, or by what the application says."""
    token, sessions = command.params.get("token", ""), session.sessions
    if token:
        claims = await _claims(session, token)
        if claims is None:
            return None
        if claims.user != session.token_user:
            session.disconnect(INVALID_TOKEN)
            return None
        session.client = replace(session.client, grants=claims.grants)
        expire_at_s, info = claims.expire_at_s or 0, claims.info
    elif Hook.REFRESH in sessions.application.handles:
        answer = await sessions.application.on_refresh(RefreshEvent(session.caller))
        if answer.is_expired:
            raise ClientError(ErrorCode.EXPIRED, "the application lets the connection expire")
        expire_at_s, info = answer.expire_at_s, session.connection.info if answer.info is None else answer.info
    else:
        raise ClientError(ErrorCode.BAD_REQUEST, "no token")
    session.connection.info = info
    session.expire_at(expire_at_s)
    return {"client": session.client_id, "version": __version__, **sessions.expiry(expire_at_s)}


async def _claims(session: Session, token: str) -> ConnectionClaims | None:
    """Return what a token says, or what holds without one; None if the connection ends for it.

    Raises: ClientError 101 for a missing token, 109 for an expired one; BrokerUnavailable while its key is unknown.
    """
    settings = session.sessions.settings
    if settings.insecure:
        return ConnectionClaims(user="", subs={})
    if not token:
        if settings.anonymous or Hook.CONNECT in session.sessions.application.handles:
            return ConnectionClaims(user="", subs={})
        raise ClientError(ErrorCode.UNAUTHORIZED, "no token")
    try:
        return await session.sessions.verifier.connection(token)
    except InvalidToken as exc:
        session.sessions.refused_token(session, exc.reason)
        session.disconnect(INVALID_TOKEN)
        return None


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
    """Return what holds after the application has had its say."""
    subs = {channel: subscribe.options_of(each) for channel, each in answer.channels.items()}
    return ConnectionClaims(
        user=claims.user if answer.user is None else answer.user,
        expire_at_s=claims.expire_at_s if answer.expire_at_s is None else answer.expire_at_s or None,
        info=claims.info if answer.info is None else answer.info,
        channels=claims.channels,
        subs={**claims.subs, **subs},
        meta=claims.meta if answer.meta is None else answer.meta,
        grants=claims.grants,
    )


def _server_subscriptions(session: Session, claims: ConnectionClaims) -> dict[str, SubscriptionOptions]:
    """Return what the client is subscribed to without asking: by its token, the application, and as a user."""
    options = dict.fromkeys(claims.channels, SubscriptionOptions())
    options.update(claims.subs)
    for name in session.sessions.node.namespaces.personal():
        channel = personal_channel(name, claims.user)
        if channel is not None:
            options.setdefault(channel, SubscriptionOptions())
    return options


async def _subscribe_all(
    session: Session, options: Mapping[str, SubscriptionOptions], recovering: Mapping[str, Members]
) -> Members:
    """Return what the client is told of each subscription. Raises: ClientError, BrokerUnavailable; then it has none."""
    subs: Members = {}
    try:
        for channel, each in options.items():
            subs[channel] = await subscribe.subscribe_by_server(session, channel, each, recovering.get(channel))
    except (ClientError, BrokerUnavailable):
        for channel in subs:
            session.drop(channel)
        raise
    return subs


def _result(session: Session, expiry: Members) -> Members:
    sessions = session.sessions
    return {
        "client": session.client_id,
        "version": __version__,
        **expiry,
        "ping": sessions.ping_interval_s,
        "pong": True,
        "session": session.id,
        "node": sessions.node.id,
    }
