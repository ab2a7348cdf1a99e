"""Timers of channels: a function is called for each channel when its time has come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.tasks import end

log = structlog.get_logger(__name__)

_MIN_INTERVAL_S = 0.25
_MAX_JITTER_S = 0.1
_FIRST_RETRY_S = 0.5
# Soon after an outage: keys whose time is over stay at live clients until then.
_MAX_RETRY_S = 2.0
# So many channels at once: they share round trips, and a shard that does not answer holds up no others.
_MAX_CALLS = 200


class ChannelTimers:
    """Calls a function for each channel at its earliest time, and again so long after as it returns.

    A channel is called at most every 0.25 s, unless the function returns 0: it has more to do. A call that fails is
    repeated after a growing delay. Without times nothing runs.

    Args:
        work: returns the seconds until its next call for this channel; None: there is none, as far as it knows.
            Raises: BrokerUnavailable, ClientError.
        random_s: returns what is added to a delay, so that the nodes do not call at the same moment.
    """

    def __init__(
        self,
        work: Callable[[str], Awaitable[float | None]],
        *,
        random_s: Callable[[], float] = lambda: random.uniform(0, _MAX_JITTER_S),  # noqa: S311
    ) -> None:
        self._work = work
        self._random_s = random_s
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._due: dict[str, None] = {}  # in order
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._retries_s: dict[str, float] = {}  # the last delay, of channels whose call has failed
        self._wake = asyncio.Event()

    def call_in(self, channel: str, delay_s: float) -> None:
        """Call for a channel after a delay, or at its time if that is earlier."""
        if channel in self._due:
            return
        if not delay_s:
            self._make_due(channel)
            return
        loop = asyncio.get_running_loop()
        delay_s = max(delay_s, _MIN_INTERVAL_S)
        timer = self._timers.get(channel)
        if timer is not None:
            if timer.when() <= loop.time() + delay_s:
                return
            timer.cancel()
        self._timers[channel] = loop.call_later(delay_s + self._random_s(), self._make_due, channel)

    def forget(self, channel: str) -> None:
        """Drop a channel and its time; a call that is under way continues."""
        timer = self._timers.pop(channel, None)
        if timer is not None:
            timer.cancel()
        self._due.pop(channel, None)
        self._retries_s.pop(channel, None)

    async def run(self) -> None:
        """Call when it is time; end only when cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                for channel in [channel for channel, call in self._calls.items() if call.done()]:
                    call = self._calls.pop(channel)
                    if not call.cancelled():
                        call.result()
                for channel in [channel for channel in self._due if channel not in self._calls]:
                    if len(self._calls) == _MAX_CALLS:
                        break
                    del self._due[channel]
                    call = self._calls[channel] = asyncio.create_task(self._call(channel), name="channel_timers")
                    call.add_done_callback(lambda _: self._wake.set())
        finally:
            await end(*self._calls.values())

    def _make_due(self, channel: str) -> None:
        timer = self._timers.pop(channel, None)
        if timer is not None:
            timer.cancel()
        self._due[channel] = None
        self._wake.set()

    async def _call(self, channel: str) -> None:
        try:
            delay_s = await self._work(channel)
        except (BrokerUnavailable, ClientError) as exc:
            retry_s = self._retries_s.get(channel)
            if retry_s is None:
                log.warning("channel_timers.failed", channel=channel, reason=str(exc))
            self._retries_s[channel] = delay_s = min(2 * retry_s if retry_s else _FIRST_RETRY_S, _MAX_RETRY_S)
        else:
            self._retries_s.pop(channel, None)
        if delay_s is not None:
            self.call_in(channel, delay_s)
