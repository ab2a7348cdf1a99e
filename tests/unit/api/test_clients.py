"""Methods of the server API that survey all nodes, or call the application; both are in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import cent
import httpx
import pytest
from fastapi import FastAPI

from roomcast.api import routes
from roomcast.api.api_context import ApiContext
from roomcast.brokers.interface import ALWAYS, Once, Published
from roomcast.config import Settings
from roomcast.hooks.answer_check import AnswerCheck
from roomcast.hooks.application import HookedApplication
from roomcast.hooks.interface import Hook, RpcEvent
from roomcast.model.errors import ApplicationError, BrokerUnavailable, ClientError, Disconnect, ErrorCode, Refused
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication
from roomcast.node.hub import Hub
from roomcast.node.survey import Survey
from roomcast.tasks import end
from roomcast.web.state import offer
from tests.support.fakes import FakeBroker, Schedule
from tests.support.fakes import node as fake_node
from tests.support.processes import API_KEY

pytestmark = pytest.mark.anyio

Json = Mapping[str, Any]  # Any: JSON


class LoopBroker(FakeBroker):
    """Delivers publications to the surveys, as Redis does."""

    def __init__(self) -> None:
        super().__init__()
        self.surveys: list[Survey] = []

    async def publish(
        self,
        publication: Publication,
        namespace: Namespace,
        *,
        seen: Sequence[Position] = (),
        once: Once = ALWAYS,
        skip_history: bool = False,
    ) -> Published:
        return Published(None, self._bring(publication))

    def submit(
        self,
        publication: Publication,
        namespace: Namespace,
        taken: Callable[[Published | BrokerUnavailable], None],
        *,
        seen: Sequence[Position] = (),
    ) -> None:
        self._bring(publication)

    def _bring(self, publication: Publication) -> int:
        hearing = [survey for survey in self.surveys if publication.channel in survey.channels]
        for survey in hearing:
            survey.on_publication(publication)
        return len(hearing)


class Cluster:
    """The server API of one node, and the handlers of two nodes."""

    def __init__(self) -> None:
        self.broker = LoopBroker()
        self.asked: list[tuple[str, str, Json]] = []  # node, op, params
        self.surveys = {name: Survey(self.broker, name) for name in ("n1", "n2")}
        self.broker.surveys = list(self.surveys.values())

    def handle(self, node_id: str, op: str, *, refuse_with: Exception | None = None) -> None:
        async def handler(params: Json) -> Json:
            self.asked.append((node_id, op, params))
            if refuse_with is not None:
                raise refuse_with
            return {}

        self.surveys[node_id].register({op: handler})

    def app(self, on_rpc: Callable[[RpcEvent], Awaitable[bytes]] | None = None) -> httpx.AsyncClient:
        settings = Settings(api_key=API_KEY)  # type: ignore[arg-type]  # pydantic makes a secret of it
        application = HookedApplication({Hook.RPC: on_rpc} if on_rpc else {}, AnswerCheck(max_message_bytes=1000))
        app = FastAPI()
        app.include_router(routes.router)
        node = fake_node(Hub(Schedule()), self.broker)
        offer(app, ApiContext(node, self.surveys["n1"], settings, application))
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://roomcast.example", headers={"X-API-Key": API_KEY}
        )


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:

    made = Cluster()
    tasks = [asyncio.create_task(survey.run()) for survey in made.surveys.values()]
    yield made
    await end(*tasks)


async def send(http: httpx.AsyncClient, request: Any) -> Any:
    """Send a request as cent does, and read the answer as cent does."""
    response = await http.post(f"/api/{request.api_method}", json=request.api_payload)
    assert response.status_code == 200
    return request.parse_response(response.text).result


EVERYTHING = [
    cent.SubscribeRequest(
        user="ada",
        channel="room:a",
        info={"a": 1},
        client="n1-7",
        session="s",
        data=[1],
        recover_since=cent.StreamPosition(offset=3, epoch="e"),
        override=cent.ChannelOptionsOverride(presence=cent.BoolValue(value=False)),
    ),
    cent.SubscribeRequest(user="ada", channel="room:a", b64info="e30=", b64data="e30="),
    cent.UnsubscribeRequest(user="ada", channel="room:a", client="n1-7", session="s"),
    cent.DisconnectRequest(
        user="ada", client="n1-7", whitelist=["n1-8"], disconnect=cent.Disconnect(code=4000, reason="x")
    ),
    cent.RefreshRequest(user="ada", client="n1-7", session="s", expired=True),
    cent.RefreshRequest(user="ada", expire_at=1_900_000_000),
]


@pytest.mark.parametrize("request_", EVERYTHING)
async def test_every_node_is_asked_with_all_that_the_request_says(cluster: Cluster, request_: Any) -> None:
    op = request_.api_method
    for name in ("n1", "n2"):
        cluster.handle(name, op)

    async with cluster.app() as http:
        answer = await send(http, request_)

    assert answer == request_.__returning__()
    assert sorted(node_id for node_id, _, _ in cluster.asked) == ["n1", "n2"]
    for _, _, params in cluster.asked:
        assert request_.api_payload.items() <= params.items()


async def test_what_one_node_refuses_is_refused_with_its_number_and_words(cluster: Cluster) -> None:
    cluster.handle("n1", "subscribe")
    cluster.handle("n2", "subscribe", refuse_with=ClientError(ErrorCode.LIMIT_EXCEEDED, "too many channels"))

    async with cluster.app() as http:
        with pytest.raises(cent.CentApiResponseError) as refusal:
            await send(http, cent.SubscribeRequest(user="ada", channel="room:a"))

    assert (refusal.value.code, refusal.value.message) == (106, "limit exceeded")


async def rpc(http: httpx.AsyncClient, **body: object) -> Any:
    return (await http.post("/api/rpc", json=body)).json()


async def test_procedures_are_the_application_s(cluster: Cluster) -> None:
    called: list[RpcEvent] = []

    async def total(event: RpcEvent) -> bytes:
        called.append(event)
        return b'{"sum":3}'

    async with cluster.app(total) as http:
        assert await rpc(http, method="sum", params=[1, 2]) == {"result": {"data": {"sum": 3}}}
    assert (called[0].method, called[0].data, called[0].caller.transport) == ("sum", b"[1,2]", "api")

    async with cluster.app() as http:
        assert (await rpc(http, method="sum"))["error"]["code"] == 108


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (
            ApplicationError(1000, "not in stock", is_temporary=True),
            {"code": 1000, "message": "not in stock", "temporary": True},
        ),
        (Refused(Disconnect(4500, "banned")), {"code": 103, "message": "permission denied", "detail": "banned"}),
    ],
)
async def test_an_application_s_own_error_is_answered_as_it_is(
    cluster: Cluster, fault: Exception, error: dict[str, Any]
) -> None:
    async def refuse(event: RpcEvent) -> bytes:
        raise fault

    async with cluster.app(refuse) as http:
        assert await rpc(http, method="buy") == {"error": error}
        in_a_batch = await http.post("/api/batch", json={"commands": [{"rpc": {"method": "buy"}}]})
        assert in_a_batch.json() == {"replies": [{"error": error}]}
        transport = {"X-Roomcast-Error-Mode": "transport"}
        as_status = await http.post("/api/rpc", json={"method": "buy"}, headers=transport)
        assert as_status.status_code == (400 if error["code"] == 1000 else 403)


@pytest.mark.parametrize("answer", [b"{", b"\xff"])
async def test_an_answer_that_is_no_json_is_an_error_and_no_broken_response(cluster: Cluster, answer: bytes) -> None:
    async def broken(event: RpcEvent) -> bytes:
        return answer

    async with cluster.app(broken) as http:
        assert (await rpc(http, method="m"))["error"]["code"] == 100


async def test_a_procedure_may_answer_nothing(cluster: Cluster) -> None:
    async def nothing(event: RpcEvent) -> bytes:
        return b""

    async with cluster.app(nothing) as http:
        assert await rpc(http, method="m") == {"result": {"data": None}}


async def test_an_outage_is_temporary_in_either_mode(cluster: Cluster) -> None:
    cluster.broker.surveys = []  # no node receives it

    async with cluster.app() as http:
        answer = (await http.post("/api/info", json={})).json()
        as_status = await http.post("/api/info", json={}, headers={"X-Centrifugo-Error-Mode": "transport"})

    assert (answer["error"]["code"], answer["error"]["temporary"]) == (100, True)
    assert (as_status.status_code, as_status.json()) == (500, answer["error"])
