"""The chaos test's short form: nodes, Redis and clients fail at random, and no promise is broken."""

from __future__ import annotations

import os

import pytest

from tests.chaos.broken import DROP_CHANGES, DROP_OFFSET, SKIP_REPAIR
from tests.chaos.map_checker import DIFFERENT
from tests.chaos.map_subscriber import MapWay
from tests.chaos.redis_faults import OLDER_DATA
from tests.chaos.report import markdown, text
from tests.chaos.run import Plan, run

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SECONDS = 60.0 if os.environ.get("CI") else 15.0
SEED = 4
OF_REDIS = ("memory full", "disk full", "permission missing", "EVALSHA renamed", "failover", OLDER_DATA)


async def test_nothing_is_lost_and_nothing_comes_twice_whatever_dies() -> None:
    outcome = await run(Plan(shape="single", seconds=SECONDS, seed=SEED))

    assert outcome.is_good, text(outcome)
    assert sum(outcome.faults.values()) > SECONDS / 5
    assert outcome.verdict.delivery_count == outcome.publication_count * outcome.plan.subscriber_count
    assert "| lost | 0 |" in markdown(outcome)
    assert "| map differences | 0 |" in markdown(outcome)
    assert outcome.map_verdict.note_count
    assert outcome.map_verdict.copy_count >= len(outcome.plan.maps) * len(MapWay)


async def test_nothing_is_lost_in_silence_when_redis_refuses_fails_over_or_has_older_data() -> None:
    plan = Plan(shape="address", seconds=5.0, seed=SEED, only=OF_REDIS, longest_pause_s=0.5, longest_fault_s=1.5)

    outcome = await run(plan)

    assert outcome.is_good, text(outcome)
    assert set(outcome.faults) >= set(OF_REDIS)
    assert outcome.verdict.announced, "failovers and older data end the epochs"


@pytest.mark.parametrize(
    ("bug", "fault"),
    [(SKIP_REPAIR, "node cut off from Redis silently"), (DROP_OFFSET, "clients changed their network")],
)
async def test_a_bug_put_in_on_purpose_is_found(bug: str, fault: str) -> None:
    # Where nothing is published while something is broken there is nothing to find: on a busy machine a run may be so.
    for seed in range(SEED, SEED + 8):
        plan = Plan(
            shape="single",
            seconds=3.0,
            seed=seed,
            room_count=1,
            rate_per_s=60.0,
            maps=(),
            longest_pause_s=0.5,
            longest_fault_s=4.0,
            catch_up_timeout_s=5.0,
            only=(fault,),
            bug=bug,
        )
        outcome = await run(plan)
        if outcome.verdict.counts()["lost"]:
            break

    assert outcome.verdict.counts()["silent losses"], text(outcome)
    assert outcome.verdict.counts()["lost"], text(outcome)
    assert f"--seed {seed}" in text(outcome)


async def test_a_bug_of_maps_put_in_on_purpose_is_found() -> None:
    found = set()
    for seed in range(SEED, SEED + 8):  # as above
        plan = Plan(
            shape="single",
            seconds=3.0,
            seed=seed,
            node_count=1,
            room_count=0,
            maps=("lasting:map", "staying:map"),
            map_writer_count=4,
            map_rate_per_s=40.0,
            longest_pause_s=0.5,
            catch_up_timeout_s=1.0,
            only=("clients changed their network",),
            bug=DROP_CHANGES,
        )
        outcome = await run(plan)
        assert not outcome.verdict.offences
        found |= {offence.subscriber.partition(":")[0] for offence in outcome.map_verdict.offences}
        if len(found) == 2:
            break

    # The copies of the first are held against its changes at any moment, those of the second against Redis at the stop.
    assert found == {"lasting", "staying"}, text(outcome)
    assert outcome.map_verdict.counts()[DIFFERENT], text(outcome)
    assert f"--seed {seed}" in text(outcome)
