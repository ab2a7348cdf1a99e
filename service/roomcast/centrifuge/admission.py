"""Whether a client may subscribe, and on which terms: by its token, the application or the namespace."""

from __future__ import annotations

from roomcast.auth import ExpiredToken, InvalidToken, SubscriptionClaims, SubscriptionOptions
from roomcast.auth.permissions import Action, is_limited, may
from roomcast.centrifuge import filters
from roomcast.centrifuge.codec import Members
from roomcast.centrifuge.session import Session, SessionSubscription
from roomcast.centrifuge.terms import Terms, View
from roomcast.hooks.interface import Hook, SubscribeAnswer, SubscribeEvent
from roomcast.model.errors import ClientError, ErrorCode, Rejection
from roomcast.model.namespaces import Namespace

_DELTA = "fossil"


def check_count(session: Session) -> None:
    """Check that the client may subscribe to one more channel; loads of maps count too. Raises: ClientError 106."""
    limit = session.context.settings.channel_limit
    if len(session.subscriptions) + len(session.loads) >= limit:
        for channel, loading in session.loads.items():
            if loading.is_late:
                session.end_load(channel)
    if len(session.subscriptions) + len(session.loads) >= limit:
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, "too many subscriptions")


def view_of(params: Members, namespace: Namespace) -> View:
    """Return the view that a client wants. Raises: ClientError 107, 108."""
    delta, tf = params.get("delta", ""), params.get("tf")
    if delta not in {"", _DELTA}:
        raise ClientError(ErrorCode.BAD_REQUEST, "the only difference is fossil")
    if tf is not None and not namespace.tags_filter:
        raise ClientError(ErrorCode.NOT_AVAILABLE, "no filtering by tags in this namespace")
    return View(bool(delta) and namespace.delta and tf is None, None if tf is None else filters.parse(tf))


async def terms_of(session: Session, channel: str, namespace: Namespace, params: Members) -> Terms:
    """Return the terms of a subscription that the client may have. Raises: ClientError 103, 109."""
    token, application = params.get("token", ""), session.context.application
    claims = await claims_of(session, channel, token) if token and not session.context.settings.insecure else None
    # The application decides instead of the namespace, but a name that limits its users (`$`, `#`) holds.
    is_asked = claims is None and Hook.SUBSCRIBE in application.handles and not is_limited(channel)
    if not is_asked:
        may(Action.SUBSCRIBE, channel, namespace, session.client, is_subscribed=False, has_token=claims is not None)
    if claims is not None:
        return Terms(options_of(claims), claims.expire_at_s or 0)
    is_refreshed = not token and Hook.SUB_REFRESH in application.handles
    if is_asked:
        answer = await application.on_subscribe(SubscribeEvent(session.caller, channel, params.get("data", b"")))
        return Terms(options_of(answer), answer.expire_at_s, is_refreshed_by_application=is_refreshed)
    return Terms(SubscriptionOptions(), is_by_permission=True, is_refreshed_by_application=is_refreshed)


async def claims_of(session: Session, channel: str, token: str) -> SubscriptionClaims:
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


def subscription_of(session: Session, terms: Terms) -> tuple[SessionSubscription, Members]:
    """Return a client's subscription by these terms, and the members of its reply about its expiry.

    Raises: ClientError 110 if it has expired.
    """
    is_refreshed = terms.is_refreshed_by_application
    subscription = SessionSubscription(
        expire_at_s=terms.expire_at_s,
        is_refreshed_by_application=is_refreshed,
        is_by_permission=terms.is_by_permission,
    )
    return subscription, {} if is_refreshed else session.context.expiry(terms.expire_at_s)


def options_of(answer: SubscriptionClaims | SubscribeAnswer) -> SubscriptionOptions:
    """Return the options of a subscription by a token's claims, or by the application's answer."""
    return SubscriptionOptions(info=answer.info, data=answer.data, override=answer.override)
