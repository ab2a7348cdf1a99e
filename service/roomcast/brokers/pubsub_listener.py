"""One connection to a Redis server that is subscribed to the wanted channels, and replaced whenever it fails.

Source: redis-py's own PubSub resubscribes silently after a lost connection, so that a gap shows nowhere
(tests/failures/test_processes.py::test_redis_killed_and_restarted_delivers_again). Here a connection is used until it
fails; then the next one subscribes to all wanted channels, and both are events.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

import redis.asyncio
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoPermissionError

from roomcast.brokers.pubsub_channels import ChannelStates
from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, is_master, outage_reason, refusals_of
from roomcast.redis_access.scripts import Command
from roomcast.tasks import run_together

log = structlog.get_logger(__name__)

_BACKOFF_BASE_S = 0.1
_BACKOFF_CAP_S = 0.5
# How long a subscription waits while Redis, or a shard, is away: most clients reconnect within it.
_PATIENCE_S = 1.0
# A master that Sentinel has replaced was seen to accept writes, which are lost, for 10 s (Valkey 9.1).
_MASTER_CHECK_S = 1.0


class ListenerSink(Protocol):
    """Receives the events of a listener. Called in its task: must not block, await or raise."""

    __slots__ = ()

    def on_message(self, channel: str, message: bytes) -> None:
        """Receive a message of a wanted channel."""

    def on_connected(self, *, is_again: bool) -> None:
        """All wanted channels are subscribed; `is_again`: after a connection was lost."""

    def on_disconnected(self) -> None:
        """The connection is lost: nothing is received until `on_connected`."""


class ListenerOptions(NamedTuple):
    """Options of a listener.

    own_topic: the topic of the listener's own canary. topic_of: returns the pub/sub name of a channel.
    timeout_s: the longest wait for a subscription or a canary.
    quiet_s: after this much silence the listener publishes to its own topic and must receive it. A half-open connection
        gives no other sign.
    linger_s: how long an unwanted channel stays subscribed, for a client that only reloads its page.
    """

    own_topic: str
    topic_of: Callable[[str], str]
    timeout_s: float
    quiet_s: float
    linger_s: float

    def patience_s(self, reason_not_ready: str | None) -> float:
        """Return how long a client waits for Redis: shorter while it is away, because another node may be connected."""
        return self.timeout_s if reason_not_ready is None else min(_PATIENCE_S, self.timeout_s)


def longest_backoff_s(attempt: int) -> float:
    """Return the longest pause before a connection is tried again, after `attempt` failures in a row."""
    # The exponent is bounded too: after 1,024 failures the power would be more than a float holds.
    return min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * (1 << min(attempt, 10)))


class Listener:
    """Keeps one connection subscribed to the wanted channels; methods are as in `Broker`.

    Args:
        client: from `redis_access.client.connect`; one connection of its pool listens.
        on_moved: in a cluster; makes the listener subscribe to sharded topics. Called with a wanted channel whose
            subscription the server has ended or refused because another shard has its slot.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        sink: ListenerSink,
        options: ListenerOptions,
        on_moved: Callable[[str], None] | None = None,
    ) -> None:
        self._client = client
        self._sink = sink
        self._options = options
        self._message_event = b"message" if on_moved is None else b"smessage"
        self._channels = ChannelStates(options.own_topic, options.topic_of, on_moved)
        self._received = asyncio.Event()
        self._replaced = asyncio.Event()
        self._refusals = refusals_of(client)
        self._reason_not_ready: str | None = "Redis is not connected yet"
        self._session_count = 0
        self._syncs: dict[bytes, asyncio.Future[bool]] = {}  # by the message that is awaited

    def reason_not_ready(self) -> str | None:
        """Return why nothing can be received now, or None."""
        return self._reason_not_ready

    def is_wanted(self) -> bool:
        """Return whether any channel is wanted."""
        return bool(self._channels.wanted)

    async def subscribe(self, channel: str) -> None:
        """Subscribe to a channel; return once the server has confirmed it. Raises: BrokerUnavailable."""
        answered = self._channels.want(channel)
        if answered is None:
            return
        patience_s = self._options.patience_s(self._reason_not_ready)
        try:
            async with asyncio.timeout(patience_s):
                await answered.wait()
        except TimeoutError:
            reason = self._reason_not_ready or f"Redis did not confirm the subscription within {patience_s:g} s"
            raise BrokerUnavailable(reason) from None
        self._channels.check(channel)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel, after `linger_s`."""
        self._channels.unwant(channel, leave_at=asyncio.get_running_loop().time() + self._options.linger_s)

    async def sync(self, channels: set[str]) -> set[str]:
        """Return the channels, once all that was published before was received; none if the connection is lost."""
        if self._reason_not_ready is not None:
            return set()
        # Random: in a cluster, a message on the own topic reaches the listeners of all shards.
        message = b"sync %x" % random.getrandbits(64)
        received = self._syncs[message] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._options.timeout_s):
                await self._client.publish(self._options.own_topic, message)
                return channels if await received else set()
        except OUTAGES:
            return set()
        finally:
            del self._syncs[message]

    async def run(self) -> None:
        """Listen through every outage; end only when cancelled."""
        attempt = -1
        while True:
            sessions_before = self._session_count
            error = "the session ended"
            try:
                await self._session()
            except OUTAGES as exc:
                self._reason_not_ready = outage_reason(exc)
                error = str(exc)
            if self._session_count > sessions_before:
                self._sink.on_disconnected()
            for received in self._syncs.values():
                if not received.done():
                    received.set_result(False)
            self._channels.start_session()
            attempt = 0 if self._session_count > sessions_before else attempt + 1
            # Full jitter, so that many nodes do not reconnect in the same instant.
            delay_s = random.uniform(0, longest_backoff_s(attempt))  # noqa: S311
            # Once an outage: a node would otherwise log it every second for as long as it lasts.
            level = logging.WARNING if attempt == 0 else logging.DEBUG
            log.log(level, "broker.disconnected", error=error, retry_in_s=round(delay_s, 3))
            await self._wait_for_server(delay_s)

    def reconnect(self) -> None:
        """Replace the connection: its server may have been demoted."""
        self._replaced.set()

    async def _wait_for_server(self, delay_s: float) -> None:
        """Wait for a time, or until any other connection of the client is made: then the server is back."""
        try:
            async with asyncio.timeout(delay_s):
                await self._refusals.connected.wait()
        except TimeoutError:
            return

    async def _session(self) -> None:
        """Listen on one connection until it fails. Raises: one of OUTAGES."""
        pool = self._client.connection_pool
        self._replaced.clear()
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py
        try:
            await run_together(
                read=self._read(connection),
                subscribe=self._subscribe_wanted(connection),
                watch=self._watch_silence(),
                watch_master=self._watch_master(connection),
                watch_failover=self._watch_failover(),
            )
        finally:
            await connection.disconnect(nowait=True)
            await pool.release(connection)

    async def _read(self, connection: AbstractConnection) -> None:
        channels, channel_by_topic = self._channels, self._channels.channel_by_topic
        on_message, message_event = self._sink.on_message, self._message_event
        while True:
            # Does not yield to the loop while data is buffered: see Hub for the reason.
            try:
                event, topic, message = await connection.read_response(timeout=math.inf, push_request=True)
            except NoPermissionError as exc:
                channels.on_refused(exc)
                continue
            except MovedError as exc:
                channels.on_redirected(exc)
                continue
            self._received.set()
            if event == message_event:
                channel = channel_by_topic.get(topic)
                if channel is not None:
                    on_message(channel, message)
                    continue
            if event == b"message":
                self._on_own_message(message)
            elif event in {b"subscribe", b"ssubscribe"}:
                if channels.on_subscribed(topic):
                    self._on_session_ready()
            elif event in {b"unsubscribe", b"sunsubscribe"}:
                channels.on_unsubscribed(topic)

    def _on_own_message(self, message: bytes) -> None:
        received = self._syncs.get(message)
        if received is not None and not received.done():
            received.set_result(True)

    def _on_session_ready(self) -> None:
        """Note that everything that was wanted when this connection was made is subscribed again."""
        self._session_count += 1
        self._reason_not_ready = None
        log.info("broker.connected", channels=len(self._channels.confirmed))
        self._sink.on_connected(is_again=self._session_count > 1)

    async def _subscribe_wanted(self, connection: AbstractConnection) -> None:
        """Make Redis equal to the wanted set, in order: all of it first, then each change."""
        while True:
            await self._send_subscribes(connection)
            if self._channels.is_own_due:
                await self._send(connection, [self._channels.own_subscribe()])
            await self._send(connection, self._channels.due_unsubscribes(asyncio.get_running_loop().time()))
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        try:
            async with asyncio.timeout_at(self._channels.next_leave_at()):
                await self._channels.changed.wait()
        except TimeoutError:
            return  # a channel is due to be unsubscribed
        self._channels.changed.clear()

    async def _send_subscribes(self, connection: AbstractConnection) -> None:
        while commands := self._channels.next_subscribes():
            await self._send(connection, commands)

    async def _send(self, connection: AbstractConnection, commands: list[Command]) -> None:
        if commands:
            await connection.send_packed_command(connection.pack_commands(commands))

    async def _watch_silence(self) -> None:
        """Raise TimeoutError when the server is silent and does not deliver the listener's own canary."""
        while True:
            self._received.clear()
            await asyncio.sleep(self._options.quiet_s)
            if self._received.is_set():
                continue
            await self._client.publish(self._options.own_topic, b"")
            async with asyncio.timeout(self._options.timeout_s):
                await self._received.wait()

    async def _watch_master(self, connection: AbstractConnection) -> None:
        """Raise ConnectionError when Sentinel names another master."""
        while True:
            await asyncio.sleep(_MASTER_CHECK_S)
            if not await is_master(self._client, connection):
                raise RedisConnectionError("another server is the master now")

    async def _watch_failover(self) -> None:
        """Raise ConnectionError when the address has led to a demoted server."""
        await self._replaced.wait()
        raise RedisConnectionError("another server is the primary now")
