from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomcast.hooks.interface import Caller, Hook, MapPublishAnswer, PublishAnswer, PublishEvent
from roomcast.model.errors import ApplicationError, Disconnect, Refused
from roomcast.model.maps import Change
from roomcast.model.payloads import kind_of_text
from roomcast.model.publications import Kind, Publication
from roomcast.node.hub import Hub
from roomcast.rooms.moderation import ModeratedPublisher
from roomcast.tasks import TaskSet
from tests.support.fakes import FakeBroker, connection, node
from tests.support.sessions import FakeApplication

pytestmark = pytest.mark.anyio

CALLER = Caller("n1-7", "websocket")


class Desk:
    """A moderated publisher, its application, and the publications that a broker has accepted."""

    def __init__(self, answer: Any) -> None:  # Any: as of a FakeApplication
        self.broker = FakeBroker()
        self.application = FakeApplication()
        self.application.answers[Hook.PUBLISH] = answer
        self.tasks = TaskSet("test")
        self.node = node(Hub(lambda _: None), self.broker)
        self.publisher = ModeratedPublisher(self.node, self.application, self.tasks, CALLER)

    async def finish(self) -> list[bytes]:
        await asyncio.wait(set(self.tasks._running))
        return [publication.data for publication in self.broker.published]


async def test_while_many_messages_wait_nothing_is_read_and_all_are_published_in_order() -> None:
    answer: asyncio.Future[PublishAnswer] = asyncio.get_running_loop().create_future()
    desk = Desk(answer)
    ada, to_ada = connection()
    sent = [b'"%d %b"' % (number, b"x" * 1000) for number in range(200)]

    for data in sent:
        desk.publisher.publish_for(ada, Publication("room:a", data, Kind.JSON))
    assert not to_ada.is_reading
    answer.set_result(PublishAnswer())

    assert await desk.finish() == sent
    assert to_ada.is_reading


async def test_a_refusal_drops_what_waits_behind_it_and_closes_the_client() -> None:
    def answer(event: PublishEvent) -> PublishAnswer:
        if event.data == b"2":
            raise Refused(Disconnect(4501, "enough"))
        if event.data == b"0":
            raise ApplicationError(400, "no")
        return PublishAnswer()

    desk = Desk(answer)
    ada, to_ada = connection()
    for number in range(5):
        desk.publisher.publish_for(ada, Publication("room:a", b"%d" % number, Kind.JSON))

    assert await desk.finish() == [b"1"]
    assert to_ada.closed_with == [Disconnect(4501, "enough")]
    assert to_ada.written == [], "plain frames carry no errors"


async def test_the_key_of_a_client_that_has_left_while_the_application_was_asked_is_removed() -> None:
    answer: asyncio.Future[MapPublishAnswer] = asyncio.get_running_loop().create_future()
    desk = Desk(PublishAnswer())
    desk.application.answers[Hook.MAP_PUBLISH] = answer
    ada, _ = connection()
    client = desk.node.roster.client_id(ada)

    desk.publisher.publish_for(ada, Publication("cursors:a", b"{}", Kind.JSON, change=Change(client)))
    await asyncio.sleep(0)
    with desk.node.connected(ada):
        pass
    answer.set_result(MapPublishAnswer())
    await desk.finish()
    desk.node.map_presence.flush()

    page = await desk.node.maps.read("cursors:a")
    assert (page.position.offset, page.entries) == (2, []), "it was set and removed"


@given(st.text())
async def test_a_handler_reads_every_text_as_json_and_unchanged_it_is_published_as_it_was(text: str) -> None:
    desk = Desk(PublishAnswer())
    ada, _ = connection()
    data = text.encode()

    desk.publisher.publish_for(ada, Publication("room:a", data, kind_of_text(data)))

    assert await desk.finish() == [data]
    (event,) = desk.application.asked
    assert event.caller.encoding == "json"
    assert orjson.loads(event.data) == text or event.data == data


@given(st.binary())
async def test_binary_data_is_asked_about_as_it_is(data: bytes) -> None:
    desk = Desk(lambda event: PublishAnswer(event.data + b"!"))
    ada, _ = connection()

    desk.publisher.publish_for(ada, Publication("room:a", data, Kind.BINARY))

    assert await desk.finish() == [data + b"!"]
    assert [publication.kind for publication in desk.broker.published] == [Kind.BINARY]
    assert desk.application.asked == [PublishEvent(CALLER._replace(encoding="binary"), "room:a", data)]
