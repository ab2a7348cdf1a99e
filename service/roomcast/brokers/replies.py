"""What the replies of Redis about a channel mean: values, outages, and keys that another program has written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.redis_access.client import outage_reason
from roomcast.redis_access.envelope import MalformedMessage
from roomcast.redis_access.refusals import kind_of

T = TypeVar("T")


class ForeignKeys(BrokerUnavailable):
    """Another program has written a channel's keys."""


class Forbidden(BrokerUnavailable):
    """The user of Redis may not use a channel, or a command."""


class Replies:
    """Parses replies.

    Args:
        on_malformed: called with a channel and the reason.
    """

    def __init__(self, on_malformed: Callable[[str, str], None]) -> None:
        self._on_malformed = on_malformed

    def parsed(
        self, channel: str, reply: Any, parse: Callable[[Any], T]
    ) -> T | BrokerUnavailable:  # Any: redis-py's reply, or the exception in its place
        """Return what a reply says; keys that another program has written are reported, and fail this channel only."""
        if isinstance(reply, BrokerUnavailable) and isinstance(reply.__cause__, ResponseError):
            reply = reply.__cause__
        try:
            if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
                raise MalformedMessage("the channel's keys in Redis hold something else")
            if isinstance(reply, BrokerUnavailable):
                return reply
            if isinstance(reply, Exception):
                refusal = Forbidden if kind_of(reply) == "NOPERM" else BrokerUnavailable
                return refusal(outage_reason(reply))
            return parse(reply)
        except MalformedMessage as exc:
            self._on_malformed(channel, str(exc))
            return ForeignKeys(str(exc))


def for_good(result: T | BrokerUnavailable) -> T | ClientError | BrokerUnavailable:
    """Return a ClientError for a refusal that does not end; any other may end: out of memory, a replica."""
    if isinstance(result, ForeignKeys):
        return ClientError(ErrorCode.NOT_AVAILABLE, result.reason)
    if isinstance(result, Forbidden):
        return ClientError(ErrorCode.PERMISSION_DENIED, result.reason)
    return result
