"""Maps in Redis (or Valkey)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from typing_extensions import override

from roomcast.brokers.known_positions import KnownPositions
from roomcast.brokers.map_commands import MapCommands
from roomcast.brokers.map_interface import (
    UNCONDITIONAL,
    Conditions,
    MapPage,
    MapRead,
    MapStore,
    MapSubmission,
    Written,
)
from roomcast.brokers.outbox import Outbox
from roomcast.brokers.pipelines import Pipelines
from roomcast.brokers.replies import ForeignKeys, Replies, for_good
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication
from roomcast.redis_access.pipeline import batches
from roomcast.redis_access.scripts import Command

T = TypeVar("T")

_TOUCHED_AT_ONCE = 1000


class RedisMaps(MapStore):
    """The maps of channels, on the connections of the broker.

    Args:
        outbox: takes writes, with publications in one order.
    """

    def __init__(
        self,
        commands: MapCommands,
        outbox: Outbox,
        pipelines: Pipelines,
        known: KnownPositions,
        replies: Replies,
    ) -> None:
        self._commands = commands
        self._outbox = outbox
        self._known = known
        self._replies = replies
        self._pipelines = pipelines

    @override
    async def write(
        self,
        publication: Publication,
        namespace: Namespace,
        *,
        conditions: Conditions = UNCONDITIONAL,
        seen: Sequence[Position] = (),
    ) -> Written:
        done: asyncio.Future[Written | ClientError | BrokerUnavailable] = asyncio.get_running_loop().create_future()

        def on_done(result: Written | ClientError | BrokerUnavailable) -> None:
            if not done.done():  # its caller was cancelled
                done.set_result(result)

        self.submit(publication, namespace, on_done, conditions=conditions, seen=seen)
        result = await done
        if not isinstance(result, Written):
            raise result
        return result

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
        submission = MapSubmission(publication, namespace, conditions)
        command = self._write_command(submission, seen)

        def parse(reply: Any | BrokerUnavailable) -> None:  # Any: redis-py's reply
            on_done(_answer(self._written(submission, reply)))

        self._outbox.submit(command, self._commands.size_of(command), parse)

    @override
    async def write_all(self, submissions: Sequence[MapSubmission]) -> list[Written | ClientError | BrokerUnavailable]:
        commands = [self._write_command(each, (), is_final=True) for each in submissions]
        replies = await self._pipelines.execute_quickly(commands)
        return [for_good(self._written(each, reply)) for each, reply in zip(submissions, replies, strict=True)]

    @override
    async def read(self, read: MapRead) -> MapPage:
        after, parse = b"", partial(self._page_and_last, read.channel)
        while True:
            page, after = await self._ask_map(read, parse, after)
            self._known.note(read.channel, page.position)
            # Without an entry the caller would not know where the next page begins.
            if page.entries or not after:
                return page

    @override
    async def count(self, channel: str, namespace: Namespace) -> int:
        return await self._ask_map(MapRead(channel, namespace, limit=0), self._commands.count)

    @override
    async def expire(self, channel: str, namespace: Namespace) -> float | None:
        if not namespace.map_options.key_ttl_s:
            return None
        command = self._commands.expire(channel, namespace, self._known.added_to((), channel))
        return await self._ask(channel, command, self._commands.expires_in_s)

    @override
    async def touch(self, channel: str, namespace: Namespace, keys: Sequence[str]) -> list[str]:
        absent = []
        for some in batches(keys, _TOUCHED_AT_ONCE):
            command = self._commands.touch(channel, namespace, some)
            absent += await self._ask(channel, command, self._commands.absent)
        return absent

    @override
    async def clear(self, channel: str, namespace: Namespace) -> None:
        command = self._commands.clear(channel, namespace, self._known.added_to((), channel))
        await self._ask(channel, command, self._commands.cleared)

    def _page_and_last(self, channel: str, reply: Any) -> tuple[MapPage, bytes]:  # Any: redis-py's reply
        return self._commands.page(channel, reply), self._commands.last_key(reply)

    async def _ask_map(
        self, read: MapRead, parse: Callable[[Any], T], after: bytes = b""
    ) -> T:  # Any: redis-py's reply
        """Return what a read after a key says; it is repeated until no keys are due."""
        while True:
            command = self._commands.read(read, self._known.added_to(read.seen, read.channel), after)
            reply = await self._ask(read.channel, command, lambda reply: reply)
            if not self._commands.are_more_due(reply):
                return self._value(read.channel, reply, parse)

    async def _ask(self, channel: str, command: Command, parse: Callable[[Any], T]) -> T:  # Any: redis-py's reply
        """Return the parsed reply. Raises: ClientError 108, BrokerUnavailable."""
        (reply,) = await self._pipelines.execute([command])
        return self._value(channel, reply, parse)

    def _value(self, channel: str, reply: Any, parse: Callable[[Any], T]) -> T:  # Any: redis-py's reply
        result = _answer(self._replies.parsed(channel, reply, parse))
        if isinstance(result, ClientError | BrokerUnavailable):
            raise result
        return result

    def _write_command(self, submission: MapSubmission, seen: Sequence[Position], *, is_final: bool = False) -> Command:
        channel = submission.publication.channel
        return self._commands.write(submission, self._known.added_to(seen, channel), is_final=is_final)

    def _written(
        self, submission: MapSubmission, reply: Any
    ) -> Written | ClientError | BrokerUnavailable:  # Any: redis-py's reply, or the exception in its place
        channel, options = submission.publication.channel, submission.namespace.map_options
        written = self._replies.parsed(channel, reply, partial(self._commands.written, options))
        if isinstance(written, Written) and written.suppressed is None:
            self._known.note(channel, written.position)
        return written


def _answer(result: T | BrokerUnavailable) -> T | ClientError | BrokerUnavailable:
    """Return a ClientError for keys that another program has written."""
    return ClientError(ErrorCode.NOT_AVAILABLE, result.reason) if isinstance(result, ForeignKeys) else result
