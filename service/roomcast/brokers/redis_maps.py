"""Maps in Redis (or Valkey)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from typing_extensions import override

from roomcast.brokers.map_interface import (
    UNCONDITIONAL,
    Conditions,
    MapPage,
    MapRead,
    MapStore,
    MapSubmission,
    Written,
)
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication


class RedisMaps(MapStore):
    """The maps of channels, on the connections of the broker."""

    @override
    async def write(
        self,
        publication: Publication,
        namespace: Namespace,
        *,
        conditions: Conditions = UNCONDITIONAL,
        seen: Sequence[Position] = (),
    ) -> Written:
        raise NotImplementedError

    @override
    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        on_done: Callable[[Written | ClientError | BrokerUnavailable], None],
        *,
        conditions: Conditions = UNCONDITIONAL,
        seen: Sequence[Position] = (),
    ) -> None:
        raise NotImplementedError

    @override
    async def write_all(self, submissions: Sequence[MapSubmission]) -> list[Written | ClientError | BrokerUnavailable]:
        raise NotImplementedError

    @override
    async def read(self, read: MapRead) -> MapPage:
        raise NotImplementedError

    @override
    async def count(self, channel: str, namespace: Namespace) -> int:
        raise NotImplementedError

    @override
    async def expire(self, channel: str, namespace: Namespace) -> float | None:
        raise NotImplementedError

    @override
    async def touch(self, channel: str, namespace: Namespace, keys: Sequence[str]) -> list[str]:
        raise NotImplementedError

    @override
    async def clear(self, channel: str, namespace: Namespace) -> None:
        raise NotImplementedError
