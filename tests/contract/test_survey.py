"""Asking the nodes of a cluster, on every shape of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.errors import BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.namespaces import Namespace
from roomcast.model.publications import MAX_CONTROL_BYTES, BrokerEvent, Publication
from roomcast.node import survey as survey_module
from roomcast.node.survey import Handler, Survey, UnknownNode
from roomcast.redis_access.client import Client
from roomcast.tasks import end, run_together
from tests.support.fakes import FakeBroker
from tests.support.processes import eventually

pytestmark = pytest.mark.anyio

Json = Mapping[str, Any]  # Any: JSON


class Ear:
    """Passes publications from a broker to a survey, as a node does."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self.malformed: list[str] = []

    def on_event(self, event: BrokerEvent) -> None:
        assert isinstance(event, Publication)
        assert event.channel in self.survey.channels
        self.survey.on_publication(event)

    def on_malformed(self, channel: str, reason: str) -> None:
        self.malformed.append(reason)

    def on_disconnected(self) -> None: ...

    def on_connected(self, *, is_again: bool) -> None: ...


@asynccontextmanager
async def node(server: Client, prefix: str, node_id: str, **handlers: Handler) -> AsyncIterator[Survey]:
    """Give the survey of a node, once the others can ask it."""
    broker = RedisBroker(server, prefix=prefix, node_id=node_id, max_message_bytes=1000, linger_s=0.0)
    survey = Survey(broker, node_id)
    survey.register(handlers)
    task = asyncio.create_task(run_together(survey=survey.run(), broker=broker.run(Ear(survey))))

    async def is_there() -> bool:
        try:
            return node_id in await survey.ask("is it there", {}, node_id=node_id)
        except (ClientError, BrokerUnavailable):
            return False

    try:
        await eventually(is_there)
        yield survey
    finally:
        await end(task)


async def echo(params: Json) -> Json:
    return {"echo": params}


async def hang(params: Json) -> Json:
    for_ever: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
    return await for_ever


async def test_every_node_answers_the_one_that_asks_too(server: Client, prefix: str) -> None:
    async with node(server, prefix, "n1", echo=echo) as survey, node(server, prefix, "n2", echo=echo):
        answers = await survey.ask("echo", {"text": "größe", "list": [1, None]}, within_s=10)

    echoed = {"echo": {"text": "größe", "list": [1, None]}}
    assert answers == {"n1": echoed, "n2": echoed}
    assert answers.missing_count == 0


async def test_one_node_is_asked_and_no_other_hears_it(server: Client, prefix: str) -> None:
    heard: list[str] = []

    def noting(name: str) -> Handler:
        async def note(params: Json) -> Json:
            heard.append(name)
            return {}

        return note

    async with node(server, prefix, "n1", note=noting("n1")) as survey, node(server, prefix, "n2", note=noting("n2")):
        answers = await survey.ask("note", {}, node_id="n2", within_s=10)

    assert answers == {"n2": {}}
    assert heard == ["n2"]


async def test_a_node_that_is_not_there_is_told_apart(server: Client, prefix: str) -> None:
    async with node(server, prefix, "n1", echo=echo) as survey:
        with pytest.raises(UnknownNode, match="n9"):
            await survey.ask("echo", {}, node_id="n9")


@pytest.mark.redis
@pytest.mark.parametrize(
    "server", ["valkey", "sentinel", "cluster"], indirect=True
)  # the fake counts subscribers that have left
async def test_a_node_that_has_ended_is_not_waited_for(server: Client, prefix: str) -> None:
    async with node(server, prefix, "n1", echo=echo) as survey:
        async with node(server, prefix, "n2", echo=echo):
            assert set(await survey.ask("echo", {}, within_s=10)) == {"n1", "n2"}

        async def is_alone() -> bool:
            answers = await survey.ask("echo", {}, within_s=5)
            return set(answers) == {"n1"} and not answers.missing_count

        await eventually(is_alone)


async def test_who_does_not_answer_in_time_is_counted_and_the_others_answers_are_there(
    server: Client, prefix: str
) -> None:
    async with node(server, prefix, "n1", ask=echo) as survey, node(server, prefix, "n2", ask=hang):
        answers = await survey.ask("ask", {}, within_s=0.5)

    assert answers == {"n1": {"echo": {}}}
    assert answers.missing_count == 1


async def test_a_megabyte_goes_there_and_back_whatever_clients_may_send(server: Client, prefix: str) -> None:
    text = "x" * (MAX_CONTROL_BYTES - 200)

    async with node(server, prefix, "n1") as survey, node(server, prefix, "n2", echo=echo):
        answers = await survey.ask("echo", {"text": text}, node_id="n2", within_s=10)
        with pytest.raises(ClientError, match="limit exceeded"):
            await survey.ask("echo", {"text": text + "x" * 200})

    assert answers == {"n2": {"echo": {"text": text}}}


@pytest.fixture
def loop_back() -> tuple[Survey, FakeBroker]:
    """A survey on a broker that takes everything and brings nothing: the test brings it."""
    broker = FakeBroker()
    survey = Survey(broker, "n1")
    survey.register({"echo": echo, "hang": hang, "fail": _fail, "refuse": _refuse, "grow": _grow})
    return survey, broker


async def _fail(params: Json) -> Json:
    raise KeyError("a fault of ours")


async def _refuse(params: Json) -> Json:
    raise ClientError(ErrorCode.UNKNOWN_CHANNEL, "no namespace 'x'")


async def _grow(params: Json) -> Json:
    return {"text": "x" * MAX_CONTROL_BYTES}


def question(op: str) -> Publication:
    asked = {"question": 1, "from": "n2", "op": op, "params": {}}
    return Publication("control", orjson.dumps(asked))


async def answer(loop_back: tuple[Survey, FakeBroker]) -> Json:
    _, broker = loop_back

    async def published() -> list[Publication]:
        return broker.published

    (publication,) = await eventually(published)
    assert publication.channel == "control.n2"
    answered: Json = orjson.loads(publication.data)
    assert (answered["answer"], answered["from"]) == (1, "n1")
    return answered["result"]  # type: ignore[no-any-return]  # JSON


@pytest.mark.parametrize(
    ("op", "code", "words"),
    [
        ("refuse", 102, "no namespace 'x'"),
        ("unheard of", 104, "unheard of"),
        ("fail", 100, "internal server error"),
        ("grow", 106, "limit exceeded"),
    ],
)
async def test_what_a_handler_raises_travels_back_by_number(
    loop_back: tuple[Survey, FakeBroker], op: str, code: int, words: str
) -> None:
    loop_back[0].on_publication(question(op))

    result = await answer(loop_back)

    assert result["error"]["code"] == code
    assert words in result["error"]["message"]
    assert "fault of ours" not in result["error"]["message"]


async def test_an_op_of_several_is_done_by_each_and_their_answers_are_joined(
    loop_back: tuple[Survey, FakeBroker],
) -> None:
    survey, _ = loop_back

    async def count(params: Json) -> Json:
        return {"count": len(params)}

    survey.register({"echo": count})
    survey.on_publication(question("echo"))

    assert await answer(loop_back) == {"echo": {}, "count": 0}


async def test_past_the_bound_a_question_is_answered_with_111_and_handlers_end_with_the_survey(
    loop_back: tuple[Survey, FakeBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    survey, broker = loop_back
    monkeypatch.setattr(survey_module, "_MAX_RUNNING", 3)
    running = asyncio.create_task(survey.run())

    async def is_running() -> bool:
        return set(broker.subscribed) == set(survey.channels)

    await eventually(is_running)
    for _ in range(3):
        survey.on_publication(question("hang"))

    survey.on_publication(question("echo"))

    assert (await answer(loop_back))["error"]["code"] == 111
    await end(running)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "survey hang"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"1", b'{"question": "x"}', b'{"answer": 1, "from": 2, "result": {}}', b'"\xff"']
)
async def test_what_is_neither_question_nor_answer_is_dropped(
    loop_back: tuple[Survey, FakeBroker], data: bytes
) -> None:
    survey, _ = loop_back

    survey.on_publication(Publication("control", data))
    survey.on_publication(Publication("control.n1", b'{"answer": 99, "from": "n2", "result": {}}'))
    survey.on_publication(question("echo"))

    assert await answer(loop_back) == {"echo": {}}


async def test_without_redis_nothing_is_asked_and_that_is_told(server: Client, prefix: str) -> None:
    broker = RedisBroker(server, prefix=prefix, node_id="n1", max_message_bytes=1000)
    survey = Survey(broker, "n1")  # nothing runs

    with pytest.raises(BrokerUnavailable):
        await survey.ask("echo", {}, within_s=0.1)


async def test_channels_of_the_nodes_have_no_namespace_so_that_no_client_can_have_them() -> None:
    survey = Survey(FakeBroker(), "host-1a2b3c")

    assert survey.channels == ("control", "control.host-1a2b3c")
    assert not any(":" in channel for channel in survey.channels)
    assert Namespace().history_size == 0
