"""Reading and removing the histories of channels."""

from __future__ import annotations

from roomcast.brokers.interface import Broker, Read
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.namespaces import Namespace, Namespaces
from roomcast.model.positions import Position
from roomcast.model.publications import History
from roomcast.node.recovery import is_in_jump


class Histories:
    """The histories of all channels that have one."""

    def __init__(self, broker: Broker, namespaces: Namespaces) -> None:
        self._broker = broker
        self._namespaces = namespaces

    async def read(self, channel: str, *, limit: int, since: Position | None, newest: bool) -> History:
        """Return a channel's position, and up to `limit` publications of its history, in their order.

        Args:
            newest: the newest ones instead of the oldest.
            since: only those after it; with `newest` only those before it. With an empty epoch: in the present one.
        Raises: ClientError 108 for a channel without a history, or a map; 112 if `since` is of another epoch or of a
            publication that Redis has lost; BrokerUnavailable.
        """
        return await self._read(channel, self._namespace(channel), limit=limit, since=since, newest=newest)

    async def read_changes(self, channel: str, *, limit: int, since: Position | None, newest: bool) -> History:
        """Return a map's position, and up to `limit` changes of those that are kept, in their order; args as of `read`.

        Raises: ClientError 108 for a map that keeps none; 112 also if `since` is after the newest change;
            BrokerUnavailable.
        """
        namespace = self._namespaces.of(channel)
        if not namespace.history_size:
            raise ClientError(ErrorCode.NOT_AVAILABLE, "an ephemeral map keeps no changes")
        found = await self._read(channel, namespace, limit=limit, since=since, newest=newest)
        if since is not None and since.offset > found.position.offset:
            raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, f"the newest offset is {found.position.offset}")
        return found

    async def _read(
        self, channel: str, namespace: Namespace, *, limit: int, since: Position | None, newest: bool
    ) -> History:
        if since is not None and not since.epoch:
            since = Position(since.offset, (await self._ask(Read(channel, namespace))).position.epoch)
        after, before = (None, since) if newest else (since, None)
        found = await self._ask(Read(channel, namespace, since=after, before=before, limit=limit, newest=newest))
        if since is not None and since.epoch != found.position.epoch:
            raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, f"the epoch is {found.position.epoch} now")
        if since is not None and is_in_jump(found.jumps, since.offset):
            raise ClientError(ErrorCode.UNRECOVERABLE_POSITION, "Redis has lost the publication at this offset")
        return found

    async def remove(self, channel: str) -> None:
        """Remove a history: `Broker.remove_history`. Raises: ClientError 108 if there is none; BrokerUnavailable."""
        self._namespace(channel)
        await self._broker.remove_history(channel)

    async def _ask(self, read: Read) -> History:
        (found,) = await self._broker.read([read])
        if isinstance(found, BrokerUnavailable):
            raise found
        return found

    def _namespace(self, channel: str) -> Namespace:
        namespace = self._namespaces.of(channel)
        if not namespace.history_size or namespace.map is not None:
            raise ClientError(ErrorCode.NOT_AVAILABLE, "this channel has no history")
        return namespace
