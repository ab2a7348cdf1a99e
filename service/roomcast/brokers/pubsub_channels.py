"""The channels of one listener: wanted, asked for on its connection, confirmed. No I/O."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

import structlog
from redis.crc import key_slot
from redis.exceptions import MovedError, NoPermissionError

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import outage_reason
from roomcast.redis_access.scripts import Command

log = structlog.get_logger(__name__)

_SUBSCRIBE_CHUNK = 1000


class ChannelMoved(BrokerUnavailable):
    """Another shard of the cluster has the channel's slot."""


class _Sent(NamedTuple):
    """A command that subscribes (or unsubscribes) topics: those that are not answered yet."""

    subscribes: bool
    topics: deque[bytes]


class ChannelStates:
    """The state of each channel.

    wanted, confirmed: channels. changed: set when a command has to be sent.
    channel_by_topic: of the present connection; another dict after `start_session`.

    Args:
        own_topic: subscribed last, so that its confirmation says that all others are subscribed.
        topic_of: returns the pub/sub name of a channel.
        on_moved: in a cluster; see `Listener`.
    """

    def __init__(self, own_topic: str, topic_of: Callable[[str], str], on_moved: Callable[[str], None] | None) -> None:
        self._own_topic = own_topic
        self._topic_of = topic_of
        self._on_moved = on_moved
        self._verb_prefix = "" if on_moved is None else "S"

        self.changed = asyncio.Event()
        self.wanted: set[str] = set()
        self._leaving: dict[str, float] = {}  # unwanted channel -> loop time at which it is unsubscribed
        self._waiting: dict[str, asyncio.Event] = {}  # channel -> set when its subscription is answered
        self._refused: dict[str, str] = {}  # channel that the ACL forbids -> why, until it is wanted again or unwanted
        self._moved: set[str] = set()  # channel that another shard has, until it is wanted again or unwanted
        self.start_session()

    def start_session(self) -> None:
        """Reset the state of the last connection: every wanted channel is to be subscribed again."""
        self.channel_by_topic: dict[bytes, str] = {}
        self._joining = dict.fromkeys(self.wanted)  # wanted, and no SUBSCRIBE sent on this connection yet
        self.confirmed: set[str] = set()
        self._asked: Counter[str] = Counter()  # SUBSCRIBEs sent and not yet confirmed, by channel
        self._unanswered: deque[_Sent] = deque()  # in the order of sending
        self._alone: list[str] = []  # channels of a refused SUBSCRIBE, to be asked for one by one
        self._subscribed: set[str] = set()  # channels whose last command on this connection was SUBSCRIBE
        self._own_asked = 0  # SUBSCRIBEs of the own topic that are not answered yet
        self.is_own_due = True  # it is to be subscribed once all channels are asked for
        self._is_ready = False  # its last one is answered
        self._leaving.clear()

    def want(self, channel: str) -> asyncio.Event | None:
        """Want a channel; return the event that is set when `check` can say whether it is subscribed; None: it is."""
        self.wanted.add(channel)
        self._leaving.pop(channel, None)
        if channel in self.confirmed:
            return None
        self._refused.pop(channel, None)
        self._moved.discard(channel)
        if channel not in self._subscribed:
            self._joining[channel] = None
            self.changed.set()
        return self._waiting.setdefault(channel, asyncio.Event())

    def check(self, channel: str) -> None:
        """Check that an answered subscription was confirmed. Raises: BrokerUnavailable, ChannelMoved among them."""
        if channel in self._refused:
            raise BrokerUnavailable(self._refused[channel])
        if channel in self._moved or channel not in self.wanted:
            raise ChannelMoved("the channel is on another shard of the cluster")

    def unwant(self, channel: str, *, leave_at: float) -> None:
        """Want a channel no longer; it is unsubscribed at a loop time."""
        if channel not in self.wanted:
            return
        self.wanted.discard(channel)
        self._refused.pop(channel, None)
        self._moved.discard(channel)
        self._joining.pop(channel, None)
        self._wake(channel)
        self._leaving[channel] = leave_at
        self.changed.set()

    def next_leave_at(self) -> float | None:
        """Return the loop time at which the next channel is unsubscribed."""
        return next(iter(self._leaving.values()), None)  # insertion order is the order of leaving

    # Commands.

    def next_subscribes(self) -> list[Command]:
        """Return the commands that subscribe some of the wanted channels; none when all are asked for."""
        chunk = list(self._joining)[:_SUBSCRIBE_CHUNK]
        for channel in chunk:
            del self._joining[channel]
        while not chunk and self._alone:
            channel = self._alone.pop(0)
            chunk = [channel] if channel in self.wanted else []
        topics = [self._topic_of(channel) for channel in chunk]
        for channel, topic in zip(chunk, topics, strict=True):
            self._subscribed.add(channel)
            self._asked[channel] += 1
            self.channel_by_topic[topic.encode()] = channel
        return self._commands(topics, subscribes=True)

    def own_subscribe(self) -> Command:
        """Return the command that subscribes the listener's own topic; in a cluster too it is not a sharded one."""
        self.is_own_due = False
        self._own_asked += 1
        self._unanswered.append(_Sent(True, deque([self._own_topic.encode()])))
        return ("SUBSCRIBE", self._own_topic)

    def due_unsubscribes(self, now: float) -> list[Command]:
        """Return the commands that unsubscribe the channels due at a loop time."""
        due = [channel for channel, leave_at in self._leaving.items() if leave_at <= now]
        for channel in due:
            del self._leaving[channel]
        # A channel that left between two connections was never subscribed on this one.
        leaving = [channel for channel in due if channel in self._subscribed]
        self._subscribed.difference_update(leaving)
        self.confirmed.difference_update(leaving)
        return self._commands([self._topic_of(channel) for channel in leaving], subscribes=False)

    def _commands(self, topics: list[str], *, subscribes: bool) -> list[Command]:
        if not topics:
            return []
        verb = f"{self._verb_prefix}{'SUBSCRIBE' if subscribes else 'UNSUBSCRIBE'}"
        # The topics of a command in a cluster must be of one slot: each has a command of its own.
        commands = [topics] if self._on_moved is None else [[topic] for topic in topics]
        self._unanswered += [_Sent(subscribes, deque(topic.encode() for topic in command)) for command in commands]
        return [(verb, *command) for command in commands]

    # Answers of the server.

    def on_subscribed(self, topic: bytes) -> bool:
        """Note a confirmed subscription; return whether it is the own topic's, and so all are subscribed."""
        self._answered()
        if topic == self._own_topic.encode():
            self._own_asked -= 1
            self._is_ready = not self._own_asked and not self.is_own_due
            return self._is_ready
        channel = self.channel_by_topic[topic]
        # Not if the channel was left and wanted again: then this confirms the first SUBSCRIBE.
        if self._count_answer(channel) and channel in self._subscribed:
            self.confirmed.add(channel)
            self._wake(channel)
        return False

    def on_unsubscribed(self, topic: bytes) -> None:
        """Note an ended subscription: one that was asked for, or that the server has ended by itself."""
        head = self._unanswered[0] if self._unanswered else None
        if head is None or head.subscribes or head.topics[0] != topic:
            self._ended(topic)
        else:
            self._answered()
            self._left(topic)

    def on_refused(self, exc: NoPermissionError) -> None:
        """Note that the oldest SUBSCRIBE is refused: one of many channels is repeated for each of them alone.

        Raises: the refusal itself if it is of the listener's own topic, without which there is no canary.
        """
        topics = self._unanswered.popleft().topics
        if topics[0] == self._own_topic.encode():
            raise exc
        channels = [self.channel_by_topic[topic] for topic in topics]
        for channel in channels:
            self._subscribed.discard(channel)
            self._count_answer(channel)
        if len(channels) > 1:
            self._alone += channels
            self.is_own_due = not self._is_ready  # behind these
            self.changed.set()
            return
        log.warning("broker.subscription_refused", channel=channels[0], error=str(exc))
        if channels[0] in self._waiting:
            self._refused[channels[0]] = outage_reason(exc)
            self._wake(channels[0])

    def on_redirected(self, exc: MovedError) -> None:
        """Note that the slot of the oldest command's topic is on another shard.

        If it is not that topic's slot, this answers an SUNSUBSCRIBE that the server had already carried out by itself:
        its message of then was taken for the answer.
        """
        if not self._unanswered or key_slot(self._unanswered[0].topics[0]) != exc.slot_id:
            return
        subscribes, (topic,) = self._unanswered.popleft()
        if not subscribes:
            self._left(topic)
            return
        channel = self.channel_by_topic[topic]
        if self._count_answer(channel):
            self._ended(topic)

    def _count_answer(self, channel: str) -> bool:
        """Note that a SUBSCRIBE is answered; return whether it is the channel's last one."""
        self._asked[channel] -= 1
        if self._asked[channel] > 0:
            return False
        del self._asked[channel]
        return True

    def _answered(self) -> None:
        """Note that the oldest command is answered for one of its topics."""
        head = self._unanswered[0]
        head.topics.popleft()
        if not head.topics:
            self._unanswered.popleft()

    def _left(self, topic: bytes) -> None:
        channel = self.channel_by_topic.get(topic)
        # As long as a later SUBSCRIBE is unanswered, its topic must be known.
        if channel is not None and channel not in self._subscribed and channel not in self._asked:
            del self.channel_by_topic[topic]

    def _ended(self, topic: bytes) -> None:
        """Note that the server has ended a subscription by itself: the topic's slot is on another shard."""
        channel = self.channel_by_topic.get(topic)
        if channel is None or self._on_moved is None:
            return
        self.confirmed.discard(channel)
        if channel in self._asked:
            return  # a later SSUBSCRIBE is unanswered: its answer says where the channel is
        is_lost = channel in self._subscribed
        self._subscribed.discard(channel)
        del self.channel_by_topic[topic]
        if is_lost and channel in self.wanted:
            self._moved.add(channel)
            self._on_moved(channel)
            self._wake(channel)

    def _wake(self, channel: str) -> None:
        waiting = self._waiting.pop(channel, None)
        if waiting is not None:
            waiting.set()
