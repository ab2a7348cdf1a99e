"""Methods of the server API for maps, on a store in memory."""

from __future__ import annotations

from typing import Any

import pytest

from roomcast.api.api_context import ApiContext
from roomcast.api.map_requests import MAX_KEYS, MapReadStateRequest
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
from roomcast.model.publications import Kind, Publication
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
    broker = FakeBroker()
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
