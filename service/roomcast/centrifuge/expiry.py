"""How connections and subscriptions expire; those of clients without a token the application keeps, or lets end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomcast.hooks import RefreshEvent, SubRefreshEvent
from roomcast.model.errors import (
    EXPIRED,
    SUBSCRIPTION_EXPIRED,
    UNSUBSCRIBED_EXPIRED,
    ApplicationError,
    ClientError,
    Refused,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from roomcast.centrifuge.held import Held
    from roomcast.centrifuge.session import Session
    from roomcast.hooks import RefreshAnswer


def end_expired(session: Session, now_s: float, grace_s: float) -> None:
    """End what has been left to expire, `grace_s` after its time: clients refresh at the last moment.

    What the application keeps is its to decide, at its time.
    """

    def is_over(expire_at_s: float, *, is_kept: bool) -> bool:
        return 0 < expire_at_s <= (now_s if is_kept else now_s - grace_s)

    if not is_over(session.expire_at_s, is_kept=session.is_kept_by_application):
        session.await_end(session.expire_at_s, at_once=session.is_kept_by_application)
    elif session.is_kept_by_application:
        session.expire_at_s = 0
        session.sessions.spawn(keep_connection(session))
    else:
        session.disconnect(EXPIRED)
        return
    for channel, held in tuple(session.subscriptions.items()):
        if not is_over(held.expire_at_s, is_kept=held.is_kept_by_application):
            session.await_end(held.expire_at_s, at_once=held.is_kept_by_application)
        elif held.is_kept_by_application:
            held.expire_at_s = 0
            session.sessions.spawn(keep_subscription(session, channel, held))
        elif held.is_of_server:
            session.disconnect(SUBSCRIPTION_EXPIRED)
            return
        else:
            session.unsubscribe(channel, UNSUBSCRIBED_EXPIRED)


async def keep_connection(session: Session) -> None:
    """Let a connection go on, if the application says so; without an answer it ends, and may come back."""
    answer = await _answer(session, session.sessions.application.on_refresh(RefreshEvent(session.caller)))
    if answer is None:
        session.disconnect(EXPIRED)
        return
    if answer.info is not None:
        session.connection.info = answer.info
    session.expire_at(answer.expire_at_s)


async def keep_subscription(session: Session, channel: str, held: Held) -> None:
    """Let a subscription go on, if the application says so; without an answer the client has to subscribe again."""
    answer = await _answer(
        session, session.sessions.application.on_sub_refresh(SubRefreshEvent(session.caller, channel))
    )
    if session.subscriptions.get(channel) is not held:
        return
    if answer is None:
        session.unsubscribe(channel, UNSUBSCRIBED_EXPIRED)
    else:
        held.expire_at_s = answer.expire_at_s
        session.hold(channel, held)


async def _answer(session: Session, asked: Awaitable[RefreshAnswer]) -> RefreshAnswer | None:
    """Return what the application says; None if it lets it end, or says nothing that keeps it."""
    try:
        answer = await asked
    except Refused as exc:
        session.disconnect(exc.disconnect)
        return None
    except (ApplicationError, ClientError):
        return None
    is_over = answer.is_expired or 0 < answer.expire_at_s <= session.sessions.deadlines.now_s()
    return None if is_over else answer
