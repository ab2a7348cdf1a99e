"""The broker on Redis (or Valkey): pub/sub between the nodes, streams for histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from typing_extensions import override

from roomcast.brokers.history_commands import HistoryCommands
from roomcast.brokers.interface import ALWAYS, Broker, Once, Published, Read, Sink, Submission
from roomcast.brokers.known_positions import KnownPositions
from roomcast.brokers.map_commands import MapCommands
from roomcast.brokers.outbox import Outbox
from roomcast.brokers.pipelines import Pipelines
from roomcast.brokers.pubsub_listener import ListenerOptions, ListenerSink
from roomcast.brokers.readiness import Readiness, names_on_shards
from roomcast.brokers.redis_maps import RedisMaps
from roomcast.brokers.replies import Replies, for_good
from roomcast.brokers.sharded_pubsub_listener import make_listener
from roomcast.model.channels import is_of_nodes
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import MAX_CONTROL_BYTES, History, Publication
from roomcast.redis_access.client import (
    OUTAGES,
    Client,
    publish_verb,
    refusals_of,
    shard_of,
)
from roomcast.redis_access.envelope import MalformedMessage, pack, pack_about, unpack
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import batches, run_pipeline
from roomcast.redis_access.scripts import Command
from roomcast.tasks import run_together

_OUTBOX_BYTES = 8 * 1024 * 1024
_READS_AT_ONCE = 200
_PROBE_TTL_MS = 10_000
_PROBED = Namespace(history_size=1, history_ttl_s=_PROBE_TTL_MS / 1000)


class _Received(ListenerSink):
    """Passes on what the listener receives."""

    __slots__ = ("_max_message_bytes", "_on_malformed", "sink")

    def __init__(self, max_message_bytes: int, on_malformed: Callable[[str, str], None]) -> None:
        self.sink: Sink
        self._max_message_bytes = max_message_bytes
        self._on_malformed = on_malformed

    @override
    def on_message(self, channel: str, message: bytes) -> None:
        try:
            max_bytes = MAX_CONTROL_BYTES if is_of_nodes(channel) else self._max_message_bytes
            event = unpack(channel, message, max_message_bytes=max_bytes)
        except MalformedMessage as exc:
            self._on_malformed(channel, str(exc))
        else:
            self.sink.on_event(event)

    @override
    def on_connected(self, *, is_again: bool) -> None:
        self.sink.on_connected(is_again=is_again)

    @override
    def on_disconnected(self) -> None:
        self.sink.on_disconnected()


class RedisBroker(Broker):
    """The broker on one server, on a master named by Sentinel, or on a cluster.

    Args:
        client: from `redis_access.client.connect`; one connection listens (in a cluster one for each shard), others
            publish and read.
        node_id: names the topic of the node's own canary.
        timeout_s, quiet_s, linger_s: see `ListenerOptions`.
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str,
        node_id: str,
        max_message_bytes: int,
        timeout_s: float = 5.0,
        quiet_s: float = 5.0,
        linger_s: float = 1.0,
    ) -> None:
        self._client = client
        self._received = _Received(max_message_bytes, self._on_malformed)
        self._keys = ChannelKeys(prefix)
        self._verb = publish_verb(client)
        self._history = HistoryCommands(
            self._keys,
            publish_command=self._verb,
            max_message_bytes=max_message_bytes,
            on_malformed=self._on_malformed,
        )
        maps = MapCommands(
            self._keys,
            publish_command=self._verb,
            max_message_bytes=max_message_bytes,
            on_malformed=self._on_malformed,
        )
        self._scripts = (*self._history.scripts, *maps.scripts)
        self._pipelines = Pipelines(client, self._scripts)
        self._replies = Replies(self._on_malformed)
        # Eight MiB, or four messages, may wait for Redis before publishing is refused.
        self._outbox = Outbox(client, self._scripts, max_unsent_bytes=max(_OUTBOX_BYTES, 4 * max_message_bytes))
        options = ListenerOptions(f"{prefix}node:{node_id}", self._keys.topic, timeout_s, quiet_s, linger_s)
        self._listener = make_listener(client, self._received, options)
        self._refusals = refusals_of(client)
        self._probe_channel = f"node:{node_id}"  # its topic is the listener's own
        self._known = KnownPositions()
        self.readiness = Readiness(self._refusals, self._probe, self._listener.reconnect)
        self.maps = RedisMaps(maps, self._outbox, self._pipelines, self._known, self._replies)
        self._is_running = False  # a worker only publishes, and reports its entries itself

    @override
    async def run(self, sink: Sink) -> None:
        self._received.sink, self._is_running = sink, True
        await run_together(listen=self._listener.run(), publish=self._outbox.run(), probe=self.readiness.run())

    @override
    def reason_not_ready(self) -> str | None:
        return self._listener.reason_not_ready() or self.readiness.reason_not_ready()

    @override
    def refusals(self) -> Mapping[str, int]:
        return self._refusals.counts

    @override
    async def subscribe(self, channel: str) -> None:
        await self._listener.subscribe(channel)

    @override
    def unsubscribe(self, channel: str) -> None:
        self._listener.unsubscribe(channel)

    @override
    async def publish(
        self,
        publication: Publication,
        namespace: Namespace,
        *,
        seen: Sequence[Position] = (),
        once: Once = ALWAYS,
        skip_history: bool = False,
    ) -> Published:
        about = pack_about(publication)
        command = self._publish_command(publication, namespace, seen, once, about=about, skip_history=skip_history)
        reply = await self._outbox.send(command, len(publication.data) + len(about))
        published = self._published(publication.channel, reply)
        if isinstance(published, BrokerUnavailable):
            raise published
        return published

    @override
    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        on_done: Callable[[Published | BrokerUnavailable], None],
        *,
        seen: Sequence[Position] = (),
    ) -> None:
        about = pack_about(publication)
        command = self._publish_command(publication, namespace, seen, ALWAYS, about=about)

        def parse(reply: Any | BrokerUnavailable) -> None:  # Any: redis-py's reply
            on_done(self._published(publication.channel, reply))

        self._outbox.submit(command, len(publication.data) + len(about), parse)

    @override
    async def publish_all(self, submissions: Sequence[Submission]) -> list[Published | ClientError | BrokerUnavailable]:
        commands = [
            self._publish_command(
                publication, namespace, (), once, about=pack_about(publication), skip_history=skip_history
            )
            for publication, namespace, once, skip_history in submissions
        ]
        replies = await self._pipelines.execute_quickly(commands)
        return [
            for_good(self._published(submission.publication.channel, reply))
            for submission, reply in zip(submissions, replies, strict=True)
        ]

    @override
    def shard_of(self, channel: str) -> str:
        return shard_of(self._client, self._keys.topic(channel))

    @override
    async def flush(self, *, within_s: float) -> None:
        await self._outbox.flush(within_s=within_s)

    @override
    async def read(self, reads: Sequence[Read]) -> list[History | BrokerUnavailable]:
        found: list[History | BrokerUnavailable] = []
        for some in batches(reads, _READS_AT_ONCE):
            commands = [
                self._history.read(read._replace(seen=self._known.added_to(read.seen, read.channel))) for read in some
            ]
            try:
                replies = await run_pipeline(self._client, commands, self._scripts)
            except OUTAGES as exc:
                replies = [exc] * len(some)
            for read, reply in zip(some, replies, strict=True):
                history = self._replies.parsed(read.channel, reply, partial(self._history.history, read.channel))
                if isinstance(history, History):
                    self._known.note(read.channel, history.position)
                found.append(history)
        return found

    @override
    async def sync(self, channels: set[str]) -> set[str]:
        return await self._listener.sync(channels)

    @override
    async def remove_history(self, channel: str) -> None:
        await self._outbox.send(self._history.remove(channel), 0)

    def _published(
        self, channel: str, reply: Any
    ) -> Published | BrokerUnavailable:  # Any: redis-py's reply, or the exception in its place
        published = self._replies.parsed(channel, reply, self._history.published)
        if isinstance(published, Published) and published.position is not None and published.receiver_count >= 0:
            self._known.note(channel, published.position)
        return published

    def _on_malformed(self, channel: str, reason: str) -> None:
        if self._is_running:
            self._received.sink.on_malformed(channel, reason)

    async def _probe(self) -> list[Any]:  # Any: redis-py's replies
        """Publish as clients do, on channels of the node. Raises: one of OUTAGES."""
        commands: list[Command] = []
        for channel in names_on_shards(self._client, self._probe_channel, self._keys.topic):
            commands += [
                self._history.publish(Publication(channel, b"1"), _PROBED, (), ALWAYS),
                # A script may get around a full memory that a plain write meets.
                ("SET", self._keys.key(channel, "probe"), "", "PX", _PROBE_TTL_MS),
                ("PEXPIRE", self._keys.key(channel, "meta"), _PROBE_TTL_MS),
                (self._verb, self._keys.topic(channel), b""),
            ]
        return await run_pipeline(self._client, commands, self._scripts)

    def _publish_command(
        self,
        publication: Publication,
        namespace: Namespace,
        seen: Sequence[Position],
        once: Once,
        *,
        about: bytes,
        skip_history: bool = False,
    ) -> Command:
        if namespace.history_size or once != ALWAYS:
            seen = self._known.added_to(seen, publication.channel)
            return self._history.publish(publication, namespace, seen, once, about=about, skip_history=skip_history)
        return (self._verb, self._keys.topic(publication.channel), pack(publication, about))
