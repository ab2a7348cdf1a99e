"""Which maps a node watches, and when their keys expire, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from roomcast.brokers.redis_maps import RedisMaps
from roomcast.model.maps import MapMode, MapOptions
from roomcast.model.namespaces import DEFAULTS, ChannelType, Namespace
from roomcast.node.map_expiry import MapExpiry
from roomcast.tasks import end
from tests.support.virtual_time import BACKEND

pytestmark = pytest.mark.anyio

CURSORS = Namespace(type=ChannelType.MAP, map=MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=15))


@pytest.fixture
def anyio_backend() -> tuple[str, Mapping[str, object]]:
    return BACKEND


class Keys(RedisMaps):
    """The deadlines of a map's keys. A key is removed with others, at most two at once."""

    def __init__(self) -> None:
        self.deadlines_s: dict[str, float] = {}
        self.calls_s: list[float] = []
        self.removed_s: dict[str, float] = {}

    async def expire(self, channel: str, namespace: Namespace) -> float | None:
        now_s = asyncio.get_running_loop().time()
        self.calls_s.append(now_s)
        due = sorted((at_s, key) for key, at_s in self.deadlines_s.items() if at_s <= now_s)
        for _, key in due[:2]:
            del self.deadlines_s[key]
            self.removed_s[key] = now_s
        await asyncio.sleep(0.001)
        return max(0.0, min(self.deadlines_s.values()) - now_s) if self.deadlines_s else None


@asynccontextmanager
async def running(keys: Keys) -> AsyncIterator[MapExpiry]:
    """Yield the expiry of these keys, whose task runs."""
    expiry = MapExpiry(keys)
    task = asyncio.create_task(expiry.run())
    try:
        yield expiry
    finally:
        await end(task)


@pytest.mark.parametrize("namespace", [DEFAULTS["room"], DEFAULTS["state"]])
async def test_channels_whose_keys_do_not_expire_are_not_watched(namespace: Namespace) -> None:
    keys = Keys()
    async with running(keys) as expiry:
        assert expiry.begin("a", namespace) is None
        await asyncio.sleep(1000)
        expiry.end("a")

    assert keys.calls_s == []


async def test_an_empty_map_costs_one_call_and_a_change_one_more_at_its_deadline() -> None:
    keys = Keys()
    async with running(keys) as expiry:
        on_change = expiry.begin("cursors:a", CURSORS)
        assert on_change is not None
        await asyncio.sleep(100)
        assert keys.calls_s == [0]

        keys.deadlines_s["ada"] = 115
        on_change()
        await asyncio.sleep(1000)

    assert keys.calls_s[1:] == [pytest.approx(115, abs=0.11)]
    assert set(keys.removed_s) == {"ada"}


async def test_keys_that_are_refreshed_all_the_time_cost_few_calls() -> None:
    keys = Keys()
    async with running(keys) as expiry:
        on_change = expiry.begin("cursors:a", CURSORS)
        assert on_change is not None
        for second in range(150):
            for user in range(10):
                keys.deadlines_s[f"user-{user}"] = second + 15
                on_change()
            await asyncio.sleep(1)

        assert not keys.removed_s
        assert len(keys.calls_s) <= 13, "one for each lifetime of a key, not one for each change"
        await asyncio.sleep(100)
    assert len(keys.removed_s) == 10
    assert max(keys.removed_s.values()) < 164.2


async def test_a_map_without_subscribers_here_is_not_swept() -> None:
    keys = Keys()
    async with running(keys) as expiry:
        keys.deadlines_s["ada"] = 10
        expiry.begin("cursors:a", CURSORS)
        await asyncio.sleep(1)
        expiry.end("cursors:a")
        await asyncio.sleep(1000)
        assert keys.calls_s == [0]

        expiry.begin("cursors:a", CURSORS)
        expiry.end("cursors:a")
        await asyncio.sleep(1000)
        assert keys.calls_s == [0]

        expiry.begin("cursors:a", CURSORS)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        expiry.end("cursors:a")  # during a call
        keys.deadlines_s["bob"] = 1e6
        await asyncio.sleep(1000)

    assert len(keys.calls_s) == 2
    assert set(keys.removed_s) == {"ada"}
