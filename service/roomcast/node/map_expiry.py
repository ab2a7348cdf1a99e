"""The expiry of maps' keys: the nodes that receive a map remove its keys in Redis when their time is over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from roomcast.brokers.map_interface import MapStore
from roomcast.model.namespaces import Namespace
from roomcast.node.channel_timers import ChannelTimers


class MapExpiry:
    """The timers of the maps whose keys expire, while this node receives them.

    A map without keys has no timer, and one with keys has it at the first deadline in Redis: no command is sent while
    nothing can be due. All nodes that receive a map have such a timer; the first one removes the keys, the others find
    nothing. A map that no node receives has no subscriber to notify: a read removes its keys.
    """

    def __init__(self, store: MapStore) -> None:
        self._store = store
        self._namespaces: dict[str, Namespace] = {}
        self._timers = ChannelTimers(self._expire)

    async def run(self) -> None:
        """Remove keys when they expire; end only when cancelled."""
        await self._timers.run()

    def begin(self, channel: str, namespace: Namespace) -> Callable[[], None] | None:
        """Watch a channel until `end`. Return what is to be called at each of its changes; None if no key expires."""
        if namespace.map is None or not namespace.map.key_ttl_s:
            return None
        self._namespaces[channel] = namespace
        self._timers.call_in(channel, 0)
        # Of a map without a timer it is the first key, so no deadline is earlier than its own.
        return partial(self._timers.call_in, channel, namespace.map.key_ttl_s)

    def end(self, channel: str) -> None:
        """Watch a channel no longer."""
        if self._namespaces.pop(channel, None) is not None:
            self._timers.forget(channel)

    async def _expire(self, channel: str) -> float | None:
        namespace = self._namespaces.get(channel)
        if namespace is None:
            return None
        next_s = await self._store.expire(channel, namespace)
        return next_s if channel in self._namespaces else None
