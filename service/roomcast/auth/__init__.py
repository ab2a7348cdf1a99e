"""Authentication and authorization of clients: the claims of tokens, and the errors of invalid ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from roomcast.auth.permissions import Grant
from roomcast.model.errors import BrokerUnavailable, ErrorCode, Rejected, Rejection


class InvalidToken(Exception):  # noqa: N818  (the noun of the field)
    """A token that is not signed with a known key, or has an invalid claim.

    reason: for logs and for the service that issues tokens, never for the client. Each endpoint answers in its own way:
        error 101, close code 3500, or error 103 for a subscription token.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ExpiredToken(Rejected):
    """A token that is not valid now (error 109): its client should get a new one."""

    def __init__(self, reason: str = "it has expired") -> None:
        super().__init__(Rejection.EXPIRED_TOKEN, ErrorCode.TOKEN_EXPIRED, reason)


class KeysUnavailable(BrokerUnavailable):
    """A token that cannot be validated now (error 100), because its key could not be fetched; the client retries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Options of the namespace that are overridden for one subscription; None: as in the namespace.

    presence: the client is listed in the channel's presence. join_leave: its joins and leaves are published.
    push_join_leave: it receives joins and leaves of others without asking. position: it receives positions.
    recover: it can recover missed publications.
    """

    presence: bool | None = None
    join_leave: bool | None = None
    push_join_leave: bool | None = None
    position: bool | None = None
    recover: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionOptions:
    """Options of a subscription that the server makes for a client.

    info: JSON about the client for others in this channel, or empty. data: JSON for the client itself, or empty.
    """

    info: bytes = b""
    data: bytes = b""
    override: Override | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClaims:
    """Claims of a connection token.

    user: "" is an anonymous client. info: JSON about the client for others, or empty.
    expire_at_s: Unix time at which the connection expires unless it is refreshed; None: never.
    meta: JSON that only the application's handlers receive, or empty.
    channels, subs: server-side subscriptions. grants: permissions in addition to those of the namespaces.
    """

    user: str
    expire_at_s: int | None = None
    info: bytes = b""
    channels: tuple[str, ...] = ()
    subs: Mapping[str, SubscriptionOptions]
    meta: bytes = b""
    grants: tuple[Grant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionClaims:
    """Claims of a subscription token: this user may subscribe to this channel.

    expire_at_s: Unix time at which the subscription expires unless it is refreshed; None: never.
    info, data, override: as in `SubscriptionOptions`.
    """

    user: str
    channel: str
    expire_at_s: int | None = None
    info: bytes = b""
    data: bytes = b""
    override: Override | None = None
