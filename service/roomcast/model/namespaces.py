"""Namespaces: what channels of one kind have, who may do what in them. `room:lobby` is of the namespace `room`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from roomcast.model.errors import ClientError, ErrorCode

# In front of a private channel: `$room:board` (service/roomcast/auth/permissions.py).
PRIVATE = "$"

# A client that missed more reads the history in pages, or begins anew.
MAX_RECOVERED = 300


class SlowPolicy(enum.Enum):
    """What happens to a client that takes its publications more slowly than they come."""

    DISCONNECT = "disconnect"  # it is closed with 3008 past its bound, and may come back
    DROP_OLDEST = "drop_oldest"  # it misses the oldest, and is told how many
    LATEST = "latest"  # it gets the newest of each channel when it can: figures, cursors, game states


class Recovery(enum.Enum):
    """What a client that comes back gets."""

    STREAM = "stream"  # all that it missed
    CACHE = "cache"  # the newest publication alone


class Who(enum.Enum):
    """Who may do something in a channel; other services may do everything."""

    NOBODY = "nobody"
    SUBSCRIBERS = "subscribers"
    USERS = "users"  # clients whose user is known
    ANYONE = "anyone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """What the channels of a namespace have.

    history_size: publications kept, 0: none. history_ttl_s: for how long after the newest one.
    recovery: None: positions are not told, clients begin anew.
    presence: who is in the channel can be asked. join_leave: its subscribers are told of each other.
    delta: clients that ask for it get differences to the publication before (fossil). tags_filter: clients may say by
        which tags they want publications.
    personal: every client whose user is known is subscribed to `<namespace>:#<user>` when it connects.
    """

    # pydantic, which reads the file, refuses what is misspelt.
    __pydantic_config__: ClassVar[Mapping[str, object]] = {"extra": "forbid"}

    history_size: int = 0
    history_ttl_s: float = 0.0
    recovery: Recovery | None = None
    presence: bool = False
    join_leave: bool = False
    delta: bool = False
    tags_filter: bool = False
    personal: bool = False
    slow: SlowPolicy = SlowPolicy.DISCONNECT
    may_subscribe: Who = Who.ANYONE
    may_publish: Who = Who.NOBODY
    may_read_history: Who = Who.NOBODY
    may_see_presence: Who = Who.NOBODY

    def __post_init__(self) -> None:
        """Refuse what contradicts itself. Raises: ValueError."""
        if not 0 <= self.history_size <= 100_000:
            raise ValueError("history_size must be 0 to 100000")
        if not 0 <= self.history_ttl_s <= 366 * 24 * 3600:
            raise ValueError("history_ttl_s must be 0 to 366 days")
        if bool(self.history_size) != bool(self.history_ttl_s):
            raise ValueError("history needs both history_size and history_ttl_s")
        if self.recovery and not self.history_size:
            raise ValueError("recovery needs a history")
        if self.join_leave and not self.presence:
            raise ValueError("join_leave needs presence")

    @property
    def window_size(self) -> int:
        """Return how many publications a client that comes back may get."""
        return 1 if self.recovery is Recovery.CACHE else min(self.history_size, MAX_RECOVERED)


DEFAULTS: Mapping[str, Namespace] = {
    "room": Namespace(
        history_size=300,
        history_ttl_s=300.0,
        recovery=Recovery.STREAM,
        presence=True,
        join_leave=True,
        may_publish=Who.ANYONE,
        may_read_history=Who.ANYONE,
        may_see_presence=Who.ANYONE,
    ),
    "metrics": Namespace(
        history_size=300,
        history_ttl_s=600.0,
        recovery=Recovery.CACHE,
        slow=SlowPolicy.LATEST,
        may_read_history=Who.ANYONE,
    ),
    "draw": Namespace(
        history_size=300,
        history_ttl_s=3600.0,
        recovery=Recovery.STREAM,
        presence=True,
        slow=SlowPolicy.DROP_OLDEST,
        may_publish=Who.SUBSCRIBERS,
        may_read_history=Who.SUBSCRIBERS,
        may_see_presence=Who.SUBSCRIBERS,
    ),
    "game": Namespace(
        history_size=1,
        history_ttl_s=60.0,
        recovery=Recovery.CACHE,
        presence=True,
        join_leave=True,
        slow=SlowPolicy.LATEST,
        may_see_presence=Who.SUBSCRIBERS,
    ),
    "notify": Namespace(history_size=100, history_ttl_s=24 * 3600.0, recovery=Recovery.STREAM),
    "user": Namespace(
        history_size=100, history_ttl_s=24 * 3600.0, recovery=Recovery.STREAM, may_subscribe=Who.NOBODY, personal=True
    ),
}


class Namespaces:
    """All namespaces by name."""

    def __init__(self, by_name: Mapping[str, Namespace] = DEFAULTS) -> None:
        self._by_name = dict(by_name)

    def of(self, channel: str) -> Namespace:
        """Return the namespace of a channel; that of `$room:board`, a private one, is `room`.

        Raises: ClientError 102 if there is none of its name.
        """
        name, colon, _ = channel.removeprefix(PRIVATE).partition(":")
        namespace = self._by_name.get(name) if colon else None
        if namespace is None:
            what = f"no namespace {name!r}" if colon else "no namespace: a channel is written namespace:name"
            raise ClientError(ErrorCode.UNKNOWN_CHANNEL, what)
        return namespace

    def personal(self) -> list[str]:
        """Return the names of the namespaces in which each user has a channel of its own."""
        return [name for name, namespace in self._by_name.items() if namespace.personal]
