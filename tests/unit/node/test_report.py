from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from roomcast.model.errors import BrokerUnavailable
from roomcast.node.hub import Hub
from roomcast.node.report import NodeReport
from roomcast.presence.interface import LeaseState
from roomcast.redis_access.work_queue import StreamCounts
from roomcast.tasks import end
from tests.support.fakes import FakePresence, FakeRegistry, Schedule, connection
from tests.support.sessions import until

pytestmark = pytest.mark.anyio


class Leases(FakePresence):
    """Presence whose lease can end and be retired."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[LeaseState] = []
        self.is_away = False

    def reported(self, state: LeaseState) -> None:
        self.states.append(state)
        if state is LeaseState.ENDED:
            self.lease = "n1.2"

    async def retire(self) -> None:
        if self.is_away:
            raise BrokerUnavailable("Redis is away")


class Registry(FakeRegistry):
    """A registry that has swept the first lease, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False

    async def report(self, lease: str, connection_count: int, *, ttl_s: float) -> LeaseState:
        await super().report(lease, connection_count, ttl_s=ttl_s)
        return LeaseState.ENDED if lease == "n1.1" else LeaseState.STARTED

    async def ingest_counts(self) -> StreamCounts:
        if self.is_away:
            raise BrokerUnavailable("Redis is away")
        return StreamCounts(3, 1)


@pytest.fixture
async def running() -> AsyncIterator[tuple[NodeReport, Leases, Registry]]:
    hub, presence, registry = Hub(Schedule()), Leases(), Registry()
    hub.add(connection()[0])
    report = NodeReport(hub, presence, registry)
    task = asyncio.create_task(report.run())
    yield report, presence, registry
    await end(task)


async def test_a_lease_that_has_ended_is_replaced_and_reported_at_once(
    running: tuple[NodeReport, Leases, Registry],
) -> None:
    report, presence, registry = running

    await until(lambda: report.ingest is not None)

    assert (presence.states, registry.counts["n1.2"]) == ([LeaseState.ENDED, LeaseState.STARTED], 1)
    assert report.ingest == StreamCounts(3, 1)


async def test_without_redis_the_counts_are_unknown() -> None:
    registry = Registry()
    registry.is_away = True
    report = NodeReport(Hub(Schedule()), Leases(), registry)
    report.ingest = StreamCounts(0, 0)
    task = asyncio.create_task(report.run())

    await until(lambda: report.ingest is None)

    await end(task)


async def test_retiring_ends_the_lease_also_where_redis_leaves_in_the_middle(
    running: tuple[NodeReport, Leases, Registry],
) -> None:
    report, presence, registry = running
    await until(lambda: report.ingest is not None)
    presence.is_away = True

    await report.retire()

    assert "n1.2" not in registry.counts
