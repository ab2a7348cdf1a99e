"""Reading and removing the histories of channels, on fakes."""

from __future__ import annotations

import pytest

from roomcast.brokers.interface import Read
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.namespaces import DEFAULTS, Namespace, Namespaces
from roomcast.model.positions import Position
from roomcast.model.publications import History, Jump
from roomcast.node.histories import Histories
from tests.support.fakes import FakeBroker

pytestmark = pytest.mark.anyio


async def test_a_history_is_read_on_from_a_position_and_back_from_it() -> None:
    broker = FakeBroker()
    histories = Histories(broker, Namespaces())
    room, here = DEFAULTS["room"], Position(0, "e")

    for newest in (False, True):
        await histories.read("room:a", limit=7, since=here, newest=newest)
        await histories.read("room:a", limit=7, since=None, newest=newest)

    assert broker.reads == [
        Read("room:a", room, since=here, limit=7),
        Read("room:a", room, limit=7),
        Read("room:a", room, before=here, limit=7, newest=True),
        Read("room:a", room, limit=7, newest=True),
    ]


@pytest.mark.parametrize("newest", [False, True])
async def test_of_another_epoch_no_history_is_read_in_either_direction(newest: bool) -> None:
    histories = Histories(FakeBroker(), Namespaces())

    with pytest.raises(ClientError) as caught:
        await histories.read("room:a", limit=7, since=Position(0, "other"), newest=newest)

    assert caught.value.error is ErrorCode.UNRECOVERABLE_POSITION


@pytest.mark.parametrize("newest", [False, True])
async def test_from_a_publication_that_redis_has_lost_no_history_is_read_in_either_direction(newest: bool) -> None:
    broker = FakeBroker()
    broker.histories["room:a"] = History(Position(1000, "e"), 0, [], (Jump(90, 1000),))
    histories = Histories(broker, Namespaces())

    for offset in (91, 999):
        with pytest.raises(ClientError) as caught:
            await histories.read("room:a", limit=7, since=Position(offset, "e"), newest=newest)
        assert caught.value.error is ErrorCode.UNRECOVERABLE_POSITION
    for offset in (90, 1000):
        await histories.read("room:a", limit=7, since=Position(offset, "e"), newest=newest)


async def test_a_history_is_removed_where_there_is_one() -> None:
    broker = FakeBroker()
    histories = Histories(broker, Namespaces({"room": DEFAULTS["room"], "none": Namespace()}))

    await histories.remove("room:a")
    with pytest.raises(ClientError) as caught:
        await histories.remove("none:a")

    assert broker.removed == ["room:a"]
    assert caught.value.error is ErrorCode.NOT_AVAILABLE


@pytest.mark.parametrize("newest", [False, True])
async def test_changes_of_a_map_are_read_and_a_history_is_not(newest: bool) -> None:
    broker = FakeBroker()
    broker.histories["state:a"] = History(Position(5, "e"), 0, [])
    histories, since = Histories(broker, Namespaces()), Position(5, "")

    found = await histories.read_changes("state:a", limit=7, since=since, newest=newest)
    assert found.position == Position(5, "e")
    with pytest.raises(ClientError) as future:
        await histories.read_changes("state:a", limit=7, since=Position(6, "e"), newest=newest)
    assert future.value.error is ErrorCode.UNRECOVERABLE_POSITION
    with pytest.raises(ClientError) as ephemeral:
        await histories.read_changes("cursors:a", limit=7, since=None, newest=newest)
    assert ephemeral.value.error is ErrorCode.NOT_AVAILABLE
    for refused in (
        histories.read("state:a", limit=7, since=None, newest=newest),
        histories.remove("state:a"),
    ):
        with pytest.raises(ClientError) as caught:
            await refused
        assert caught.value.error is ErrorCode.NOT_AVAILABLE
