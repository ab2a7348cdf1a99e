"""`subscribe`, `unsubscribe` and `sub_refresh`, and what the server subscribes its clients to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from roomcast.auth import InvalidToken, Override, SubscriptionOptions
from roomcast.auth.permissions import Action, is_limited, may
from roomcast.centrifuge import filters
from roomcast.centrifuge.codec import since_of
from roomcast.centrifuge.held import Held
from roomcast.hooks import Hook, SubRefreshEvent, SubscribeEvent
from roomcast.model.channels import check_channel
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.namespaces import Recovery
from roomcast.model.publications import Publication, Resumption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from roomcast.auth import SubscriptionClaims
    from roomcast.centrifuge.codec import Command, Members
    from roomcast.centrifuge.filters import Filter
    from roomcast.centrifuge.session import Session
    from roomcast.hooks import SubscribeAnswer
    from roomcast.model.namespaces import Namespace
    from roomcast.model.publications import Position

_DELTA = "fossil"
# Bits of the member `flag`.
_REJECT_UNRECOVERED = 2
# Of what a client missed, in one reply: it has all of a reply or nothing, and of a large one on a slow line nothing.
_REPLY_BYTES = 64 * 1024


class _Wanted(NamedTuple):
    """What a client asked of a subscription.

    since: what it has, if it is recovering. rejects_unrecovered: it would rather not be subscribed than begin anew.
    """

    since: Position | None = None
    rejects_unrecovered: bool = False
    tells_members: bool = True
    is_delta: bool = False
    tags: Filter | None = None


class _Terms(NamedTuple):
    """On which terms a subscription is made: what is told of it, and until when."""

    options: SubscriptionOptions
    expire_at_s: float


async def subscribe(session: Session, command: Command) -> None:
    """Subscribe; the reply tells where the client is and what it missed, and comes before any push."""
    params = command.params
    channel = check_channel(params.get("channel", ""))
    namespace = session.sessions.node.namespaces.of(channel)
    if channel in session.subscriptions:
        raise ClientError(ErrorCode.ALREADY_SUBSCRIBED, channel)
    if len(session.subscriptions) >= session.sessions.settings.channel_limit:
        raise ClientError(ErrorCode.LIMIT_EXCEEDED, "too many subscriptions")
    wanted = _wanted(params, namespace)
    terms = await _terms(session, channel, namespace, params)
    namespace = overridden(namespace, terms.options.override)
    is_kept = not params.get("token") and Hook.SUB_REFRESH in session.sessions.application.handles
    held = Held(expire_at_s=terms.expire_at_s, is_kept_by_application=is_kept)

    def greet(result: Members) -> None:
        if not is_kept:
            result.update(session.sessions.expiry(terms.expire_at_s))
        held.is_positioned = result.get("positioned", False)
        session.reply(command, result)
        session.hold(channel, held)

    await _subscribe(session, channel, namespace, wanted=wanted, options=terms.options, greet=greet)


async def subscribe_by_server(
    session: Session,
    channel: str,
    options: SubscriptionOptions,
    recovering: Members | None = None,
    *,
    expire_at_s: float = 0,
    greet: Callable[[Members], None] | None = None,
) -> Members:
    """Subscribe a client that has not asked for it; return what it is told of it.

    Args:
        recovering: what the client says that it has of the channel, as in `subscribe`.
        greet: takes the result when the client hears everything from then on.
    Raises: ClientError, BrokerUnavailable.
    """
    found: Members = {}
    namespace = overridden(session.sessions.node.namespaces.of(check_channel(channel)), options.override)
    wanted = _Wanted(since=_since(recovering or {}))

    def take(result: Members) -> None:
        found.update(result)
        held = Held(expire_at_s=expire_at_s, is_of_server=True)
        held.is_positioned = result.get("positioned", False)
        session.hold(channel, held)
        if greet is not None:
            greet(result)

    await _subscribe(session, channel, namespace, wanted=wanted, options=options, greet=take)
    return found


async def _subscribe(
    session: Session,
    channel: str,
    namespace: Namespace,
    *,
    wanted: _Wanted,
    options: SubscriptionOptions,
    greet: Callable[[Members], None],
) -> None:
    are_told = session.sessions.node.namespaces.of(channel).join_leave
    tells_members = are_told and _wants_members(wanted, options.override)
    encoding = session.wire.encoding_of(tells_members=tells_members, is_delta=wanted.is_delta, tags=wanted.tags)

    is_recovering = wanted.since is not None and namespace.recovery is not None

    def take(greeting: Sequence[Publication | Resumption]) -> None:
        result = _beginning(greeting, wanted, is_recovering=is_recovering)
        found = [event for event in greeting if isinstance(event, Publication)] if is_recovering else []
        count = _count_in_reply(found) if session.is_connected else len(found)
        if is_recovering:
            missed = session.wire.publications(found[:count], is_delta=wanted.is_delta, tags=wanted.tags)
            result["publications"] = missed
        if wanted.is_delta:
            result["delta"] = True
        if options.data:
            result["data"] = options.data
        greet(result)
        if rest := found[count:]:
            session.connection.send(b"".join(map(encoding.encode, rest)))

    await session.sessions.node.subscribe(
        session.connection,
        channel,
        namespace=namespace,
        encoding=encoding,
        info=options.info,
        since=wanted.since,
        wants_missed=wanted.since is not None,
        greet=take,
    )


def unsubscribe(session: Session, command: Command) -> None:
    """End a subscription that the client asked for, if there is one."""
    channel = command.params.get("channel", "")
    held = session.subscriptions.get(channel)
    if not channel or (held is not None and held.is_of_server):
        raise ClientError(ErrorCode.BAD_REQUEST, "no subscription of the client's own")
    session.drop(channel)
    session.reply(command, {})


async def refresh(session: Session, command: Command) -> Members:
    """Let a subscription go on longer, by a new token, or by what the application says."""
    channel, token = command.params.get("channel", ""), command.params.get("token", "")
    held, application = session.subscriptions.get(channel), session.sessions.application
    if held is None or held.is_of_server:
        raise ClientError(ErrorCode.BAD_REQUEST, "no subscription of the client's own")
    if token:
        held.expire_at_s = (await _claims(session, channel, token)).expire_at_s or 0
    elif Hook.SUB_REFRESH in application.handles:
        answer = await application.on_sub_refresh(SubRefreshEvent(session.caller, channel))
        if answer.is_expired:
            raise ClientError(ErrorCode.EXPIRED, "the application lets the subscription expire")
        held.expire_at_s = answer.expire_at_s
    else:
        raise ClientError(ErrorCode.BAD_REQUEST, "no token")
    session.sessions.deadlines.add(held.expire_at_s, session)
    return session.sessions.expiry(held.expire_at_s)


def options_of(answer: SubscriptionClaims | SubscribeAnswer) -> SubscriptionOptions:
    """Return how a client is subscribed, by what its token or the application says."""
    return SubscriptionOptions(info=answer.info, data=answer.data, override=answer.override)


def overridden(namespace: Namespace, override: Override | None) -> Namespace:
    """Return what a channel has for one subscription."""
    if override is None:
        return namespace
    presence = namespace.presence if override.presence is None else override.presence
    recovery = namespace.recovery
    if override.recover is not None or override.position is not None:
        is_told = bool(override.recover or override.position) and namespace.history_size > 0
        recovery = (namespace.recovery or Recovery.STREAM) if is_told else None
    join_leave = namespace.join_leave if override.join_leave is None else override.join_leave
    return replace(namespace, presence=presence, join_leave=presence and join_leave, recovery=recovery)


def _wanted(params: Members, namespace: Namespace) -> _Wanted:
    """Return what a client asks for. Raises: ClientError 107, 108."""
    delta, tf = params.get("delta", ""), params.get("tf")
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
    """Return what a client has, if it is recovering. Raises: ClientError 107."""
    since = since_of(params)
    return since if params.get("recover", False) else None


async def _terms(session: Session, channel: str, namespace: Namespace, params: Members) -> _Terms:
    """Return the terms of a subscription that the client may have. Raises: ClientError 103, 109."""
    token, application = params.get("token", ""), session.sessions.application
    claims = await _claims(session, channel, token) if token and not session.sessions.settings.insecure else None
    # An application decides in the place of the namespace, but not against what a channel's name says.
    is_asked = claims is None and Hook.SUBSCRIBE in application.handles and not is_limited(channel)
    if not is_asked:
        may(Action.SUBSCRIBE, channel, namespace, session.client, is_subscribed=False, has_token=claims is not None)
    if claims is not None:
        return _Terms(options_of(claims), claims.expire_at_s or 0)
    if is_asked:
        answer = await application.on_subscribe(SubscribeEvent(session.caller, channel, params.get("data", b"")))
        return _Terms(options_of(answer), answer.expire_at_s)
    return _Terms(SubscriptionOptions(), 0)


async def _claims(session: Session, channel: str, token: str) -> SubscriptionClaims:
    """Return what a subscription token says, if it is for this client and channel. Raises: ClientError 103, 109."""
    try:
        claims = await session.sessions.verifier.subscription(token)
    except InvalidToken as exc:
        session.sessions.refused_token(session, exc.reason)
        raise ClientError(ErrorCode.PERMISSION_DENIED, exc.reason) from None
    if claims.channel != channel or claims.user != session.client.user:
        raise ClientError(ErrorCode.PERMISSION_DENIED, "the subscription token is of another channel or user")
    return claims


def _wants_members(wanted: _Wanted, override: Override | None) -> bool:
    is_told_anyway = None if override is None else override.push_join_leave
    return wanted.tells_members if is_told_anyway is None else is_told_anyway


def _count_in_reply(found: Sequence[Publication]) -> int:
    """Return how many of the publications that a client missed stand in the reply; the rest follows as pushes."""
    size_bytes = 0
    for count, publication in enumerate(found, 1):
        size_bytes += len(publication.data)
        if size_bytes > _REPLY_BYTES:
            return count
    return len(found)


def _beginning(greeting: Sequence[Publication | Resumption], wanted: _Wanted, *, is_recovering: bool) -> Members:
    """Return where a subscription begins, as the schema says it. Raises: ClientError 112."""
    result: Members = {}
    is_recovered = False
    for event in greeting:
        if isinstance(event, Resumption) and event.position is not None:
            result = {"recoverable": True, "positioned": True, **event.position._asdict()}
            is_recovered = event.is_recovered
    if is_recovering:
        result["was_recovering"] = True
        if is_recovered:
            result["recovered"] = True
        elif wanted.rejects_unrecovered:
            raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, "something is lost since this position")
    return result
