"""Permissions of a client in a channel: checked for each subscription, publication and read. No I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NoReturn

from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.namespaces import PRIVATE, Namespace, Who

# The users after the last one in a channel's name may subscribe: `dialog:#42,43`.
_USERS = "#"
_ANY = "*"


class Action(enum.Enum):
    """An action of a client in a channel."""

    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    REMOVE = "remove"
    HISTORY = "history"
    PRESENCE = "presence"


@dataclass(frozen=True, slots=True)
class Grant:
    """Actions that a token allows in all channels whose name matches a pattern.

    In a pattern `*` matches any number of characters, also none: `room:*`, `draw:team-42-*`. A private channel matches
    only a pattern that starts with `$`.
    """

    pattern: str
    actions: frozenset[Action]

    def allows(self, action: Action, channel: str) -> bool:
        """Return whether this is granted, in a time that depends only on the lengths of pattern and name."""
        return action in self.actions and _fits(self.pattern, channel)


@dataclass(frozen=True, slots=True)
class Client:
    """The client whose permissions are checked.

    user: "" is anonymous. is_trusted: clients are not authenticated (ROOMCAST_INSECURE), so `$` and `#` restrict no
        channel; the permissions of namespaces still apply.
    """

    user: str = ""
    grants: tuple[Grant, ...] = ()
    is_trusted: bool = False


def may(
    action: Action, channel: str, namespace: Namespace, client: Client, *, is_subscribed: bool, has_token: bool = False
) -> None:
    """Return if the client may do this in the channel.

    Args:
        namespace: the channel's.
        is_subscribed: the client is subscribed to the channel now.
        has_token: it has a valid subscription token for this channel and this user.
    Raises: ClientError 103 with the missing permission.
    """
    if action is Action.SUBSCRIBE:
        _may_subscribe(channel, namespace, client, has_token=has_token)
    else:
        _may_do(action, channel, namespace, client, is_subscribed=is_subscribed)


def is_limited(channel: str) -> bool:
    """Return whether a channel's name restricts its subscribers."""
    return channel.startswith(PRIVATE) or users_of(channel) is not None


def users_of(channel: str) -> frozenset[str] | None:
    """Return the users to which a channel such as `dialog:#42,43` is restricted; None if it is not."""
    _, separator, names = channel.rpartition(_USERS)
    return frozenset(names.split(",")) - {""} if separator else None


def personal_channel(namespace_name: str, user: str) -> str | None:
    """Return a user's personal channel, such as `user:#42`, or `#42` in the namespace "".

    Returns: None for a name with `,` or `#`, which would admit others, and in "" with `:`, which ends a namespace.
    """
    if not user or set(",#") & set(user) or (not namespace_name and ":" in user):
        return None
    return f"{namespace_name}:{_USERS}{user}" if namespace_name else f"{_USERS}{user}"


def _may_subscribe(channel: str, namespace: Namespace, client: Client, *, has_token: bool) -> None:
    is_granted = _is_granted(Action.SUBSCRIBE, channel, client)
    if channel.startswith(PRIVATE) and not (has_token or is_granted or client.is_trusted):
        _refuse("a private channel needs a subscription token")
    if has_token:
        return
    users = users_of(channel)
    if users is not None:
        if client.user in users:  # "" is in none
            return
        if not client.is_trusted:
            _refuse("this channel is of other users")
    if is_granted:
        return
    who = namespace.may_subscribe
    if who is Who.NOBODY:
        _refuse("clients do not subscribe to this channel by themselves")
    if who is Who.USERS and not client.user:
        _refuse("clients of this channel must say who they are")


def _may_do(action: Action, channel: str, namespace: Namespace, client: Client, *, is_subscribed: bool) -> None:
    is_granted = _is_granted(action, channel, client)
    if not (is_subscribed or client.is_trusted):
        if users_of(channel) is not None:
            _refuse("only subscribers may, in a channel of certain users")
        if channel.startswith(PRIVATE) and not is_granted:
            _refuse("only subscribers may, in a private channel")
    if is_granted:
        return
    who = _who_may(action, namespace)
    if who is Who.NOBODY:
        _refuse("clients may not, in this namespace")
    if who is Who.SUBSCRIBERS and not is_subscribed:
        _refuse("only subscribers may, in this namespace")
    if who is Who.USERS and not client.user:
        _refuse("only clients may whose user is known, in this namespace")


def _who_may(action: Action, namespace: Namespace) -> Who:
    if action is Action.PUBLISH:
        return namespace.may_publish
    if action is Action.REMOVE:
        return namespace.may_remove
    return namespace.may_read_history if action is Action.HISTORY else namespace.may_see_presence


def _fits(pattern: str, channel: str) -> bool:
    """Return whether a name matches. Not a regular expression: with many `*` its time is a power of the length."""
    start, star, rest = pattern.partition(_ANY)
    if not channel.startswith(start):
        return False
    if not star:
        return channel == pattern
    if not start and channel.startswith(PRIVATE):
        return False
    *middle, last = rest.split(_ANY)
    at, end = len(start), len(channel) - len(last)
    if at > end or not channel.endswith(last):
        return False
    for part in middle:  # the first match of each leaves the most room for the next
        found = channel.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _is_granted(action: Action, channel: str, client: Client) -> bool:
    return any(grant.allows(action, channel) for grant in client.grants)


def _refuse(reason: str) -> NoReturn:
    raise ClientError(ErrorCode.PERMISSION_DENIED, reason)
