"""Listening: one connection to a Redis server, subscribed to what is wanted, made anew whenever it fails.

Source: redis-py's own PubSub resubscribes silently after a lost connection, so that a gap shows nowhere
(tests/failures/test_processes.py::test_redis_killed_and_restarted_delivers_again). Here a connection is used until it
fails, then a new one is made and told the whole set of wanted channels, and both are events.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoPermissionError

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, is_master, outage_reason
from roomcast.tasks import run_together

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis.asyncio
    from redis.asyncio.connection import AbstractConnection

log = structlog.get_logger(__name__)

_BACKOFF_BASE_S = 0.1
_BACKOFF_CAP_S = 2.0
# How long a subscription waits for a connection that was just lost: most are back by then.
_PATIENCE_S = 1.0
_SUBSCRIBE_CHUNK = 1000
# A master that Sentinel has replaced was seen to go on taking writes, which are lost, for 10 s (Valkey 9.1).
_MASTER_CHECK_S = 1.0


class Listening(Protocol):
    """Who is told what a listener hears. Called in its task: must not block, await or raise."""

    def on_message(self, channel: str, message: bytes) -> None:
        """Take a message of a wanted channel."""

    def on_connected(self, *, is_again: bool) -> None:
        """Take note that all that is wanted is subscribed; `is_again`: after a connection was lost."""

    def on_disconnected(self) -> None:
        """Take note that the connection is lost; from now on nothing is heard until `on_connected`."""


class Subscriptions(Protocol):
    """What keeps channels subscribed: one `Listener`, or in a cluster `Shards` with one for each shard."""

    def reason_not_ready(self) -> str | None:
        """See `Broker.reason_not_ready`."""

    async def subscribe(self, channel: str) -> None:
        """See `Broker.subscribe`."""

    def unsubscribe(self, channel: str) -> None:
        """See `Broker.unsubscribe`."""

    async def run(self) -> None:
        """Listen through every outage; end only when cancelled."""


class ChannelMoved(BrokerUnavailable):
    """Another shard of the cluster has the channel's slot."""


class _Sent(NamedTuple):
    """A command that subscribes (or unsubscribes) topics, those of them that are not answered yet."""

    subscribes: bool
    topics: deque[bytes]


def longest_backoff_s(attempt: int) -> float:
    """Return the longest pause before a connection is tried again, after `attempt` failures in a row."""
    # The exponent is bounded too: after 1,024 failures the power would be more than a float holds.
    return min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * (1 << min(attempt, 10)))


class Listener:
    """Keeps one connection subscribed to the wanted channels.

    Args:
        client: from `brokers.client.connect`; one connection of its pool listens.
        own_topic: on which the listener hears its own canary.
        topic_of: returns the pub/sub name of a channel.
        timeout_s: how long a subscription or a canary may take.
        quiet_s: after this much silence the connection must prove that it lives: the listener publishes to its own
            topic and must hear it. A half-open connection gives no other sign.
        linger_s: how long a channel that nobody wants stays subscribed, for a client that only reloads its page.
        on_moved: in a cluster; makes the listener subscribe to sharded topics, and is told of a wanted channel whose
            subscription the server has ended or refused because another shard has its slot.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        listening: Listening,
        *,
        own_topic: str,
        topic_of: Callable[[str], str],
        timeout_s: float,
        quiet_s: float,
        linger_s: float,
        on_moved: Callable[[str], None] | None = None,
    ) -> None:
        self._client = client
        self._listening = listening
        self._on_moved = on_moved
        self._verb_prefix = "" if on_moved is None else "S"
        self._own_topic = own_topic
        self._topic_of = topic_of
        self._timeout_s = timeout_s
        self._quiet_s = quiet_s
        self._linger_s = linger_s

        self._wanted: set[str] = set()
        self._joining: dict[str, None] = {}  # wanted, and no SUBSCRIBE sent on this connection yet
        self._leaving: dict[str, float] = {}  # channel nobody wants -> loop time at which it is unsubscribed
        self._changed = asyncio.Event()
        self._confirming: dict[str, asyncio.Event] = {}
        self._refused: dict[str, str] = {}  # channel that the ACL forbids -> why, until it is asked for again or left
        self._moved: set[str] = set()  # channel that another shard has, until it is asked for again or left
        self._reason_not_ready: str | None = "Redis is not connected yet"
        self._session_count = 0
        self._forget_session()

    def reason_not_ready(self) -> str | None:
        """See `Broker.reason_not_ready`."""
        return self._reason_not_ready

    def is_wanted(self) -> bool:
        """Return whether any channel is to be heard."""
        return bool(self._wanted)

    def patience_s(self) -> float:
        """Return how long a client waits for Redis: not long while it is known to be away, other nodes may have it."""
        return self._timeout_s if self._reason_not_ready is None else min(_PATIENCE_S, self._timeout_s)

    async def subscribe(self, channel: str) -> None:
        """See `Broker.subscribe`."""
        self._wanted.add(channel)
        self._leaving.pop(channel, None)
        if channel in self._confirmed:
            return
        self._refused.pop(channel, None)
        self._moved.discard(channel)
        if channel not in self._subscribed:
            self._joining[channel] = None
            self._changed.set()
        confirmed = self._confirming.setdefault(channel, asyncio.Event())
        patience_s = self.patience_s()
        try:
            async with asyncio.timeout(patience_s):
                await confirmed.wait()
        except TimeoutError:
            reason = self._reason_not_ready or f"Redis did not confirm the subscription within {patience_s:g} s"
            raise BrokerUnavailable(reason) from None
        if channel in self._refused:
            raise BrokerUnavailable(self._refused[channel])
        if channel in self._moved or channel not in self._wanted:
            raise ChannelMoved("the channel is on another shard of the cluster")

    def unsubscribe(self, channel: str) -> None:
        """See `Broker.unsubscribe`."""
        if channel not in self._wanted:
            return
        self._wanted.discard(channel)
        self._refused.pop(channel, None)
        self._moved.discard(channel)
        self._joining.pop(channel, None)
        waiting = self._confirming.pop(channel, None)
        if waiting is not None:
            waiting.set()
        self._leaving[channel] = asyncio.get_running_loop().time() + self._linger_s
        self._changed.set()

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
                self._listening.on_disconnected()
            self._forget_session()
            attempt = 0 if self._session_count > sessions_before else attempt + 1
            # Full jitter, so that many nodes do not come back in the same instant.
            delay_s = random.uniform(0, longest_backoff_s(attempt))  # noqa: S311
            # Once an outage: a node would otherwise log it every second for as long as it lasts.
            level = logging.WARNING if attempt == 0 else logging.DEBUG
            log.log(level, "broker.disconnected", error=error, retry_in_s=round(delay_s, 3))
            await asyncio.sleep(delay_s)

    async def _session(self) -> None:
        """Listen on one connection until it fails. Raises: one of OUTAGES."""
        pool = self._client.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py
        try:
            await run_together(
                read=self._read(connection),
                subscribe=self._subscribe_wanted(connection),
                watch=self._watch_silence(),
                watch_master=self._watch_master(connection),
            )
        finally:
            await connection.disconnect(nowait=True)
            await pool.release(connection)

    def _forget_session(self) -> None:
        self._confirmed: set[str] = set()
        self._asked: Counter[str] = Counter()  # SUBSCRIBEs sent and not yet confirmed, by channel
        self._unanswered: deque[_Sent] = deque()  # in the order of sending
        self._alone: list[str] = []  # channels of a refused SUBSCRIBE, to be asked for one by one
        self._subscribed: set[str] = set()  # channels whose last command on this connection was SUBSCRIBE
        self._channel_by_topic: dict[bytes, str] = {}
        self._joining = dict.fromkeys(self._wanted)
        self._leaving.clear()
        self._heard = asyncio.Event()

    async def _read(self, connection: AbstractConnection) -> None:
        channel_by_topic = self._channel_by_topic
        on_message = self._listening.on_message
        message_event = f"{self._verb_prefix.lower()}message".encode()
        while True:
            # Does not give the loop back while data is buffered: see Hub on why that matters.
            try:
                event, topic, message = await connection.read_response(timeout=math.inf, push_request=True)
            except NoPermissionError as exc:
                self._on_refused(exc)
                continue
            except MovedError as exc:
                self._on_redirected(exc)
                continue
            self._heard.set()
            if event == message_event:
                channel = channel_by_topic.get(topic)
                if channel is not None:
                    on_message(channel, message)
            elif event in {b"subscribe", b"ssubscribe"}:
                self._on_answered()
                if topic == self._own_topic.encode():
                    self._on_session_ready()
                else:
                    self._on_confirmed(topic)
            elif event in {b"unsubscribe", b"sunsubscribe"}:
                head = self._unanswered[0] if self._unanswered else None
                if head is None or head.subscribes or head.topics[0] != topic:
                    self._on_ended(topic)
                else:
                    self._on_answered()
                    self._on_unsubscribed(topic)

    def _on_answered(self) -> None:
        """Note that the oldest command is answered for one of its topics."""
        head = self._unanswered[0]
        head.topics.popleft()
        if not head.topics:
            self._unanswered.popleft()

    def _on_session_ready(self) -> None:
        """Note that all that was wanted when this connection was made is subscribed again."""
        self._session_count += 1
        self._reason_not_ready = None
        log.info("broker.connected", channels=len(self._confirmed))
        self._listening.on_connected(is_again=self._session_count > 1)

    def _on_confirmed(self, topic: bytes) -> None:
        channel = self._channel_by_topic[topic]
        self._asked[channel] -= 1
        if self._asked[channel] > 0:
            return  # the channel left and came back: this confirmation is of the first time
        del self._asked[channel]
        if channel not in self._subscribed:
            return  # it has left since
        self._confirmed.add(channel)
        waiting = self._confirming.pop(channel, None)
        if waiting is not None:
            waiting.set()

    def _on_unsubscribed(self, topic: bytes) -> None:
        channel = self._channel_by_topic.get(topic)
        # It may have come back since, and left again: as long as a SUBSCRIBE is unanswered, its topic must be known.
        if channel is not None and channel not in self._subscribed and channel not in self._asked:
            del self._channel_by_topic[topic]

    def _on_refused(self, exc: NoPermissionError) -> None:
        """Note that the oldest SUBSCRIBE is refused: of many channels each is asked for alone, of one it is told.

        Raises: the refusal itself if it is of the node's own topic, without which there is no canary.
        """
        topics = self._unanswered.popleft().topics
        if topics[0] == self._own_topic.encode():
            raise exc
        channels = [self._channel_by_topic[topic] for topic in topics]
        for channel in channels:
            self._subscribed.discard(channel)
            self._asked[channel] -= 1
            if not self._asked[channel]:
                del self._asked[channel]
        if len(channels) > 1:
            self._alone += channels
            self._changed.set()
            return
        log.warning("broker.subscription_refused", channel=channels[0], error=str(exc))
        waiting = self._confirming.pop(channels[0], None)
        if waiting is not None:
            self._refused[channels[0]] = outage_reason(exc)
            waiting.set()

    def _on_redirected(self, exc: MovedError) -> None:
        """Note that the slot of the oldest command's topic is on another shard.

        If it is not that topic's slot, this answers an SUNSUBSCRIBE that the server had already carried out by itself
        (`_on_ended`): what it sent then was taken for the answer.
        """
        if not self._unanswered or key_slot(self._unanswered[0].topics[0]) != exc.slot_id:
            return
        subscribes, (topic,) = self._unanswered.popleft()
        if not subscribes:
            self._on_unsubscribed(topic)
            return
        channel = self._channel_by_topic[topic]
        self._asked[channel] -= 1
        if not self._asked[channel]:
            del self._asked[channel]
            self._on_ended(topic)

    def _on_ended(self, topic: bytes) -> None:
        """Note that the server has ended a subscription by itself: the topic's slot is on another shard."""
        channel = self._channel_by_topic.get(topic)
        if channel is None or self._on_moved is None:
            return
        self._confirmed.discard(channel)
        if channel in self._asked:
            return  # a later SSUBSCRIBE is under way: its answer tells
        is_lost = channel in self._subscribed
        self._subscribed.discard(channel)
        del self._channel_by_topic[topic]
        if is_lost and channel in self._wanted:
            self._moved.add(channel)
            self._on_moved(channel)
            waiting = self._confirming.pop(channel, None)
            if waiting is not None:
                waiting.set()

    async def _subscribe_wanted(self, connection: AbstractConnection) -> None:
        """Make Redis equal to the wanted set, in order: all of it first, then each change."""
        await self._send_subscribes(connection)
        self._unanswered.append(_Sent(True, deque([self._own_topic.encode()])))
        await connection.send_command("SUBSCRIBE", self._own_topic)
        while True:
            await self._wait_for_change()
            await self._send_subscribes(connection)
            await self._send_unsubscribes(connection)

    async def _wait_for_change(self) -> None:
        due_at = next(iter(self._leaving.values()), None)  # insertion order is the order of leaving
        try:
            async with asyncio.timeout_at(due_at):
                await self._changed.wait()
        except TimeoutError:
            return  # a channel is due to be unsubscribed
        self._changed.clear()

    async def _send_subscribes(self, connection: AbstractConnection) -> None:
        while self._joining:
            chunk = list(self._joining)[:_SUBSCRIBE_CHUNK]
            for channel in chunk:
                del self._joining[channel]
            await self._send_subscribe(connection, chunk)
        alone, self._alone = self._alone, []
        for channel in alone:
            if channel in self._wanted:
                await self._send_subscribe(connection, [channel])

    async def _send_subscribe(self, connection: AbstractConnection, channels: list[str]) -> None:
        topics = [self._topic_of(channel) for channel in channels]
        for channel, topic in zip(channels, topics, strict=True):
            self._subscribed.add(channel)
            self._asked[channel] += 1
            self._channel_by_topic[topic.encode()] = channel
        await self._send(connection, topics, subscribes=True)

    async def _send_unsubscribes(self, connection: AbstractConnection) -> None:
        now = asyncio.get_running_loop().time()
        due = [channel for channel, due_at in self._leaving.items() if due_at <= now]
        for channel in due:
            del self._leaving[channel]
        # A channel that left between two connections was never subscribed on this one.
        leaving = [channel for channel in due if channel in self._subscribed]
        self._subscribed.difference_update(leaving)
        self._confirmed.difference_update(leaving)
        if leaving:
            await self._send(connection, [self._topic_of(channel) for channel in leaving], subscribes=False)

    async def _send(self, connection: AbstractConnection, topics: list[str], *, subscribes: bool) -> None:
        verb = f"{self._verb_prefix}{'SUBSCRIBE' if subscribes else 'UNSUBSCRIBE'}"
        # The topics of a command in a cluster must be of one slot: each has a command of its own.
        commands = [topics] if self._on_moved is None else [[topic] for topic in topics]
        self._unanswered += [_Sent(subscribes, deque(topic.encode() for topic in command)) for command in commands]
        packed = connection.pack_commands([(verb, *command) for command in commands])
        await connection.send_packed_command(packed)

    async def _watch_silence(self) -> None:
        """Raise TimeoutError when the server is silent and does not bring back the node's own canary."""
        while True:
            self._heard.clear()
            await asyncio.sleep(self._quiet_s)
            if self._heard.is_set():
                continue
            await self._client.publish(self._own_topic, b"")
            async with asyncio.timeout(self._timeout_s):
                await self._heard.wait()

    async def _watch_master(self, connection: AbstractConnection) -> None:
        """Raise ConnectionError when Sentinel names another master."""
        while True:
            await asyncio.sleep(_MASTER_CHECK_S)
            if not await is_master(self._client, connection):
                raise RedisConnectionError("another server is the master now")
