"""The publisher: another service that publishes to Redis at an even rate."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass

import redis

from tests.bench.companions import Pipe
from tests.bench.messages import message
from tests.bench.percentile import percentile

# One pipeline a tick with all that is due: at 1,000 messages/s one message, never a burst.
_TICK_NS = 1_000_000
_TIMEOUT_S = 10.0


class Ready:
    """The publisher is connected and waits for `Start`."""


@dataclass(frozen=True, slots=True)
class Start:
    """Begin at this time of the monotonic clock."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Published:
    """What was published.

    per_s: from the first to the last message.
    late_p99_ms: between the time when a message was due and the time when it was given to Redis.
    unheard_count: messages that Redis had no subscriber for, which no contender can deliver.
    """

    count: int
    per_s: float
    late_p99_ms: float
    unheard_count: int


def run(pipe: Pipe, *, redis_url: str, topic: str, rate_per_s: int, count: int, size_bytes: int) -> None:
    """Publish `count` messages after `Start`, evenly; say `Published` at the end."""
    late_ns = array("q")
    unheard_count = 0
    with redis.Redis.from_url(redis_url, socket_timeout=_TIMEOUT_S) as client:
        client.ping()
        pipeline = client.pipeline(transaction=False)
        pipe.send(Ready())
        start_ns: int = pipe.recv().at_ns
        sent_count = 0
        while sent_count < count:
            _sleep_until(start_ns + sent_count * 1_000_000_000 // rate_per_s)
            now_ns = time.monotonic_ns()
            due_count = min(count, (now_ns - start_ns) * rate_per_s // 1_000_000_000 + 1)
            for number in range(sent_count, due_count):
                pipeline.publish(topic, message(number, now_ns, size_bytes=size_bytes))
                late_ns.append(now_ns - start_ns - number * 1_000_000_000 // rate_per_s)
            unheard_count += pipeline.execute().count(0)
            sent_count = due_count
            _sleep_until(now_ns + _TICK_NS)
    took_s = (now_ns - start_ns) / 1e9
    pipe.send(
        Published(
            count=count,
            per_s=(count - 1) / took_s if took_s else 0.0,
            late_p99_ms=percentile(sorted(late_ns), 99) / 1e6,
            unheard_count=unheard_count,
        )
    )


def _sleep_until(at_ns: int) -> None:
    left_ns = at_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
