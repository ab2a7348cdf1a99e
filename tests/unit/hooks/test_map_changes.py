from __future__ import annotations

import pytest

from roomcast.brokers.interface import Once
from roomcast.brokers.map_interface import UNCONDITIONAL, Conditions
from roomcast.hooks.interface import (
    Caller,
    Hook,
    MapPublishAnswer,
    MapPublishEvent,
    MapRemoveAnswer,
    MapRemoveEvent,
)
from roomcast.hooks.map_changes import accepted, is_asked
from roomcast.model.errors import ApplicationError
from roomcast.model.maps import Change, KeyMode
from roomcast.model.payloads import kind_of_text
from roomcast.model.publications import Kind, Publication
from tests.support.sessions import FakeApplication

pytestmark = pytest.mark.anyio

ADA = Caller("n1-7", "websocket", user="ada")
SET = Publication("state:a", b"[1]", Kind.JSON, change=Change("k"))
REMOVAL = Publication("state:a", b"", Kind.JSON, change=Change("k", is_removed=True))


@pytest.fixture
def application() -> FakeApplication:
    return FakeApplication()


async def test_without_a_handler_a_change_stays_as_it_is(application: FakeApplication) -> None:
    application.answers[Hook.PUBLISH] = None

    assert await accepted(application, ADA, SET, kind_of_text) == (SET, UNCONDITIONAL)
    assert await accepted(application, ADA, REMOVAL, kind_of_text) == (REMOVAL, UNCONDITIONAL)
    assert application.asked == []


@pytest.mark.parametrize("hook", [Hook.MAP_PUBLISH, Hook.MAP_REMOVE])
def test_each_kind_of_change_has_its_own_handler(application: FakeApplication, hook: Hook) -> None:
    application.answers[hook] = None

    assert is_asked(application, Change("k")) is (hook is Hook.MAP_PUBLISH)
    assert is_asked(application, Change("k", is_removed=True)) is (hook is Hook.MAP_REMOVE)


async def test_an_empty_answer_changes_nothing(application: FakeApplication) -> None:
    application.answers |= {Hook.MAP_PUBLISH: MapPublishAnswer(), Hook.MAP_REMOVE: MapRemoveAnswer()}

    assert await accepted(application, ADA, SET, kind_of_text) == (SET, UNCONDITIONAL)
    assert await accepted(application, ADA, REMOVAL, kind_of_text) == (REMOVAL, UNCONDITIONAL)
    assert application.asked == [MapPublishEvent(ADA, "state:a", "k", b"[1]"), MapRemoveEvent(ADA, "state:a", "k")]


async def test_an_answer_replaces_key_and_data_and_adds_tags_and_conditions(application: FakeApplication) -> None:
    answer = MapPublishAnswer("ada", b"text", {"team": "red"}, KeyMode.IF_NEW, "once", 7, "day 1")
    application.answers |= {Hook.MAP_PUBLISH: answer, Hook.MAP_REMOVE: MapRemoveAnswer("ada", "once")}

    changed, conditions = await accepted(application, ADA, SET, kind_of_text)
    assert changed == Publication("state:a", b"text", Kind.TEXT, tags={"team": "red"}, change=Change("ada"))
    assert conditions == Conditions(Once("once", 7, "day 1"), KeyMode.IF_NEW)
    changed, conditions = await accepted(application, ADA, REMOVAL, kind_of_text)
    assert changed == REMOVAL._replace(change=Change("ada", is_removed=True))
    assert conditions == Conditions(Once("once"))


async def test_an_answer_can_take_the_data_away(application: FakeApplication) -> None:
    application.answers[Hook.MAP_PUBLISH] = MapPublishAnswer(data=b"")

    changed, _ = await accepted(application, ADA, SET, kind_of_text)

    assert changed.data == b""


async def test_a_refusal_reaches_the_caller(application: FakeApplication) -> None:
    application.answers[Hook.MAP_PUBLISH] = ApplicationError(409, "taken")

    with pytest.raises(ApplicationError):
        await accepted(application, ADA, SET, kind_of_text)


PROTOBUF = ADA._replace(encoding="protobuf")


@pytest.mark.parametrize(
    ("caller", "data", "kind", "asked"),
    [
        (ADA, b"hello", Kind.TEXT, ("json", b'"hello"')),
        (ADA, b"\xff", Kind.BINARY, ("binary", b"\xff")),
        (ADA, b"", Kind.TEXT, ("json", b"")),
        (PROTOBUF, b"hello", Kind.TEXT, ("protobuf", b"hello")),
        (PROTOBUF, b"\xff", Kind.BINARY, ("protobuf", b"\xff")),
    ],
)
async def test_handlers_of_json_clients_receive_json_or_bytes(
    application: FakeApplication, caller: Caller, data: bytes, kind: Kind, asked: tuple[str, bytes]
) -> None:
    application.answers[Hook.MAP_PUBLISH] = MapPublishAnswer()

    await accepted(application, caller, SET._replace(data=data, kind=kind), kind_of_text)

    (event,) = application.asked
    assert (event.caller.encoding, event.data) == asked
