"""How connections and subscriptions expire; those of clients without a token are refreshed by the application."""

from __future__ import annotations

from collections.abc import Awaitable

from roomcast.centrifuge.session import Session, SessionSubscription
from roomcast.hooks.interface import RefreshAnswer, RefreshEvent, SubRefreshEvent, refreshed
from roomcast.model.errors import EXPIRED, SUBSCRIPTION_EXPIRED, UNSUBSCRIBED_EXPIRED, Refused


def end_expired(session: Session, now_s: float, grace_s: float) -> None:
    """End expired connections and subscriptions `grace_s` after their time, because clients refresh at the last moment.

    Those that the application refreshes have no grace: it is asked at their time.
    """

    def is_expired(it: Session | SessionSubscription) -> bool:
        return 0 < it.expire_at_s <= (now_s if it.is_refreshed_by_application else now_s - grace_s)

    tasks = session.context.tasks
    if not is_expired(session):
        session.check_expiry_of(session)
    elif session.is_refreshed_by_application:
        session.expire_at_s = 0
        tasks.spawn(_refresh_connection(session))
    else:
        session.disconnect(EXPIRED)
        return
    for channel, subscription in tuple(session.subscriptions.items()):
        if not is_expired(subscription):
            session.check_expiry_of(subscription)
        elif subscription.is_refreshed_by_application:
            subscription.expire_at_s = 0
            tasks.spawn(_refresh_subscription(session, channel, subscription))
        elif subscription.is_of_server:
            session.disconnect(SUBSCRIPTION_EXPIRED)
            return
        else:
            session.unsubscribe(channel, UNSUBSCRIBED_EXPIRED)


async def _refresh_connection(session: Session) -> None:
    """Ask the application whether a connection may stay; without an answer it ends, and the client may reconnect."""
    answer = await _answer(session, session.context.application.on_refresh(RefreshEvent(session.caller)))
    if answer is None:
        session.disconnect(EXPIRED)
        return
    if answer.info is not None:
        session.connection.info = answer.info
    session.expire_at(answer.expire_at_s)


async def _refresh_subscription(session: Session, channel: str, subscription: SessionSubscription) -> None:
    """Ask the application whether a subscription may stay; without an answer the client has to subscribe again."""
    event = SubRefreshEvent(session.caller, channel)
    answer = await _answer(session, session.context.application.on_sub_refresh(event))
    if session.subscriptions.get(channel) is not subscription:
        return
    if answer is None:
        session.unsubscribe(channel, UNSUBSCRIBED_EXPIRED)
    else:
        subscription.expire_at_s = answer.expire_at_s
        session.add_subscription(channel, subscription)


async def _answer(session: Session, asked: Awaitable[RefreshAnswer]) -> RefreshAnswer | None:
    """Return the application's answer; None: it refuses, fails, or answers a time that is over."""
    try:
        return await refreshed(asked, session.context.deadlines.now_s)
    except Refused as exc:
        session.disconnect(exc.disconnect)
        return None
