"""Who a client is, what it was given, and what keeps it out: values that tokens make and sessions use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from roomcast.auth.permissions import Grant


class InvalidToken(Exception):  # noqa: N818  (the noun of the field)
    """A token that is not signed with a known key, or has an invalid claim.

    reason: for logs and for the service that issues tokens, never for the client. Each endpoint answers in its own way:
        error 101, close code 3500, or error 103 for a subscription token.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ExpiredToken(ClientError):  # noqa: N818  (as above)
    """A token that has expired (error 109): its client should get a new one."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.TOKEN_EXPIRED, "get a new one")


class KeysUnavailable(BrokerUnavailable):
    """A token that cannot be validated now (error 100), because its key could not be fetched; the client retries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What a subscription has in another way than its namespace says; None: as the namespace says.

    presence: others see the client in the channel. join_leave: others are told when it comes and goes.
    push_join_leave: the client is told of others, though it did not ask. position, recover: the same for its position,
        and for what it missed.
    """

    presence: bool | None = None
    join_leave: bool | None = None
    push_join_leave: bool | None = None
    position: bool | None = None
    recover: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionOptions:
    """How a client is subscribed to a channel by the server.

    info: JSON that others see of the client in this channel, or empty. data: JSON for the client itself, or empty.
    """

    info: bytes = b""
    data: bytes = b""
    override: Override | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClaims:
    """What a connection token says.

    user: "" is nobody known. expire_at_s: Unix time at which the connection ends unless it is refreshed; None: never.
    info: JSON that others see of the client, or empty. meta: JSON that only the application's handlers see, or empty.
    channels, subs: what the client is subscribed to as it connects. grants: what it may do beside its namespaces.
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
    """What a subscription token says: this user may subscribe to this channel.

    expire_at_s: Unix time at which the subscription ends unless it is refreshed; None: never.
    info, data, override: as in `SubscriptionOptions`.
    """

    user: str
    channel: str
    expire_at_s: int | None = None
    info: bytes = b""
    data: bytes = b""
    override: Override | None = None
