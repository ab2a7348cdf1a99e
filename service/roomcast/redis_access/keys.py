"""The names of keys and topics in Redis."""

from __future__ import annotations

from functools import lru_cache


class ChannelKeys:
    """The names of a channel in Redis."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        # Building them costs more than looking them up.
        self.of_channel = lru_cache(maxsize=4096)(self._of_channel)
        self.of_map = lru_cache(maxsize=4096)(self._of_map)

    def topic(self, channel: str) -> str:
        """Return the pub/sub name that carries a channel."""
        return self._prefix + channel

    def key(self, channel: str, name: str) -> str:
        """Return a key of a channel."""
        return f"{{{self._prefix}{channel}}}:{name}"

    def _of_channel(self, channel: str) -> tuple[str, str, str]:
        """Return the topic, and the keys of the position and of the stream."""
        return self.topic(channel), self.key(channel, "meta"), self.key(channel, "stream")

    def _of_map(self, channel: str) -> tuple[str, ...]:
        """Return the topic, and the keys of the position, of the stream, of the entries, their order and deadlines."""
        names = ("meta", "stream", "state", "keys", "deadlines")
        return self.topic(channel), *(self.key(channel, name) for name in names)
