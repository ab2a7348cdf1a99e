"""Methods of the server API for maps, on a store in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from roomcast.api.api_context import ApiContext
from roomcast.api.map_requests import MAX_ENTRIES, MAX_KEYS, MapReadStateRequest
from roomcast.api.maps import entry_members, map_read_state
from roomcast.api.request_models import validated
from roomcast.config import Settings
from roomcast.hooks.answer_check import AnswerCheck
from roomcast.hooks.application import HookedApplication
from roomcast.model import json
from roomcast.model.client_info import ClientInfo
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import Change
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.positions import Position
from roomcast.model.publications import History, Kind, Publication
from roomcast.node.hub import Hub
from roomcast.node.survey import Survey
from tests.support.fakes import FakeBroker
from tests.support.fakes import node as fake_node
from tests.support.map_store import FakeMapStore

pytestmark = pytest.mark.anyio

STATE = DEFAULTS["state"]
ADA = ClientInfo("n1-7", "ada")
HERE = Position(7, "e")


@pytest.fixture
def context() -> ApiContext:
    return context_on(FakeBroker())


def context_on(broker: FakeBroker) -> ApiContext:
    node, application = fake_node(Hub(lambda _: None), broker), HookedApplication({}, AnswerCheck(max_message_bytes=1))
    return ApiContext(node, Survey(broker, "n1"), Settings(insecure=True), application)


async def fill(context: ApiContext, count: int) -> None:
    assert isinstance(context.node.maps.store, FakeMapStore)
    for number in range(count):
        publication = Publication("state:a", b"1", Kind.JSON, change=Change(f"k{number:05}"))
        await context.node.maps.store.write(publication, STATE)


async def test_more_keys_than_a_result_may_have_need_pages(context: ApiContext) -> None:
    await fill(context, MAX_KEYS + 1)

    with pytest.raises(ClientError) as refused:
        await map_read_state(context, validated(MapReadStateRequest, {"channel": "state:a", "limit": -1}))
    assert refused.value.error is ErrorCode.LIMIT_EXCEEDED
    wanted = {"channel": "state:a", "limit": 1000, "cursor": "k09000"}
    page = await map_read_state(context, validated(MapReadStateRequest, wanted))
    assert [entry["key"] for entry in page["entries"]] == [f"k{number:05}" for number in range(9001, 10_001)]
    assert "cursor" not in page


class LateBroker(FakeBroker):
    """Delivers changes at `sync`."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Publication] = []
        self.on_event: Callable[[Publication], None] = self.late.append

    async def sync(self, channels: set[str]) -> set[str]:
        while self.late:
            self.on_event(self.late.pop(0))
        return channels


async def test_all_of_a_large_map_has_what_the_caller_wrote_before() -> None:
    """Of the last write the node's copy knows nothing yet."""
    broker = LateBroker()
    broker.histories["state:a"] = History(Position(0, "e0"), 0, [])
    context = context_on(broker)
    broker.on_event = context.node.on_event
    store = context.node.maps.store
    assert isinstance(store, FakeMapStore)
    store.on_change = broker.late.append
    kept = await context.node.maps.load("state:a")
    await fill(context, MAX_ENTRIES + 1)
    await broker.sync({"state:a"})
    assert kept.is_current
    assert len(kept.copy) == MAX_ENTRIES + 1

    await store.write(Publication("state:a", b"2", Kind.JSON, change=Change("k00000")), STATE)
    result = await map_read_state(context, validated(MapReadStateRequest, {"channel": "state:a", "limit": -1}))

    assert kept.is_current, "the same copy was read"
    assert json.loads(json.dumps(result["entries"][0]))["data"] == 2
    assert (len(result["entries"]), result["offset"]) == (MAX_ENTRIES + 1, MAX_ENTRIES + 2)


@pytest.mark.parametrize(
    ("publication", "members"),
    [
        (
            Publication("state:a", b"", Kind.JSON, HERE, None, ADA, Change("k")),
            {"info": {"client": "n1-7", "user": "ada"}},
        ),
        (Publication("state:a", b"null", Kind.JSON, HERE, change=Change("k", time_ms=5)), {"data": None, "time": 5}),
        (Publication("state:a", b"text", Kind.TEXT, HERE, change=Change("k")), {"b64data": "dGV4dA=="}),
        (Publication("state:a", b"", Kind.TEXT, HERE, change=Change("k", is_removed=True)), {"removed": True}),
    ],
)
def test_an_entry_has_what_is_not_empty(publication: Publication, members: dict[str, Any]) -> None:
    found = json.loads(json.dumps(entry_members(publication, STATE)))

    assert found == {"key": "k", "offset": 7, **members}
