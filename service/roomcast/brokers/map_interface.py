"""Keeps the maps of channels: the interface, to whose docstrings tests hold every implementation."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from roomcast.brokers.interface import ALWAYS, Once
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.maps import KeyMode
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication


class Suppressed(enum.Enum):
    """Why a write has changed nothing. The values are those of the server API."""

    IDEMPOTENCY = "idempotency"  # a write with this key was made before: its position is the result's
    VERSION = "version"  # the key has this version, or a newer one
    KEY_EXISTS = "key_exists"
    KEY_NOT_FOUND = "key_not_found"
    POSITION_MISMATCH = "position_mismatch"


class Conditions(NamedTuple):
    """Conditions of a write, checked in the same step, in this order.

    once: as of publications, but without a lease; the version is that of the key, and a write without one keeps it.
    mode: about the key. expected: the position of the key's last write; offset 0: the key is absent; with an empty
        epoch: in any epoch. None: any.
    """

    once: Once = ALWAYS
    mode: KeyMode = KeyMode.REPLACE
    expected: Position | None = None


UNCONDITIONAL = Conditions()


class Written(NamedTuple):
    """The result of a write. position: of the map after it. suppressed: None if it was made."""

    position: Position
    suppressed: Suppressed | None = None


class MapSubmission(NamedTuple):
    """A write to be made with others; see `MapStore.write`."""

    publication: Publication
    namespace: Namespace
    conditions: Conditions = UNCONDITIONAL


class MapRead(NamedTuple):
    """A query of a map.

    after: select keys after this one, in the order of their bytes; "": from the first on.
    limit: the most entries, at least 1. key: select this key alone. seen: as of a `Read`.
    """

    channel: str
    namespace: Namespace
    after: str = ""
    limit: int = 1000
    key: str = ""
    seen: Sequence[Position] = ()


class MapPage(NamedTuple):
    """A part of a map.

    position: of the map at this read. entries: in the order of the keys' bytes; the position of each is that of its
    last write. cursor: the key after which the next page begins; "" after the last one. A page that is not the last has
    fewer entries than the limit if they are large or malformed.
    """

    position: Position
    entries: list[Publication]
    cursor: str = ""


class MapStore(Protocol):
    """Keeps maps, and publishes each change of one as a publication of its channel: positions, histories and delivery
    are those of `Broker`. Ephemeral maps have positions, but no history.
    """

    __slots__ = ()

    async def write(
        self,
        publication: Publication,
        namespace: Namespace,
        *,
        conditions: Conditions = UNCONDITIONAL,
        seen: Sequence[Position] = (),
    ) -> Written:
        """Set the key of the publication's change, or remove it, and publish that, in one step.

        A removal is published with the tags of the value that it removes.
        Delivery: at most once per subscriber, in the order of the calls; see docs/guarantees.md.
        Raises: ClientError 106 if the map would have too many keys or bytes; 108 if another program has written the
            map's keys in Redis; BrokerUnavailable: the write may have been made anyway.
        """

    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        on_done: Callable[[Written | ClientError | BrokerUnavailable], None],
        *,
        conditions: Conditions = UNCONDITIONAL,
        seen: Sequence[Position] = (),
    ) -> None:
        """Write without waiting; `on_done` receives the result or exception of `write` once, now or later."""

    async def write_all(self, submissions: Sequence[MapSubmission]) -> list[Written | ClientError | BrokerUnavailable]:
        """Write many at once, in their order; return the result of each.

        All may be repeated: the result of a write with an idempotency key is final for 5 minutes, also one that changed
        nothing. Else a condition could hold because of a write that came after it.
        Raises: BrokerUnavailable; any of them may have been made.
        """

    async def read(self, read: MapRead) -> MapPage:
        """Return some entries of a map, and its position; a map without a position gets one.

        Keys whose time is over are removed first, as by `expire`. Malformed entries are left out and reported.
        Raises: ClientError 108 as `write`, BrokerUnavailable.
        """

    async def count(self, channel: str, namespace: Namespace) -> int:
        """Return the number of keys. Raises: as `read`."""

    async def expire(self, channel: str, namespace: Namespace) -> float | None:
        """Remove the keys whose time is over, and publish each removal; any number of nodes may call it at once.

        Returns: the seconds until the next key expires, 0 if some are over still; None if none will.
        Raises: as `read`.
        """

    async def touch(self, channel: str, namespace: Namespace, keys: Sequence[str]) -> list[str]:
        """Let keys expire as late as after a write; nothing is published. Return those that are absent.

        Raises: as `read`.
        """

    async def clear(self, channel: str, namespace: Namespace) -> None:
        """Remove all keys and the history, start another epoch, and notify the nodes: their subscribers load again.

        Raises: as `read`.
        """
