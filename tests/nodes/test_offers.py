"""Requests that offer HTTP/2 or another protocol, as JDK clients and `curl --http2` send them: answered by HTTP/1.1."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bare_machine import missing
from tests.support.paths import ROOT
from tests.support.processes import API_KEY, Cluster, NodeProcess

pytestmark = pytest.mark.redis

KEY = f"X-API-Key: {API_KEY}"
H2C = "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nConnection: Upgrade, HTTP2-Settings\r\n"
OFFERS = (
    "",
    H2C,
    "connection: keep-alive,upgrade\r\nupgrade: TLS/1.2, h2c\r\n",
    "Upgrade: h2c\r\n",
    "Connection: Upgrade\r\nUpgrade: foo/3\r\nConnection: keep-alive\r\n",
)


@pytest.fixture(scope="module")
def node(redis_server: object) -> Iterator[NodeProcess]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"  # type: ignore[attr-defined]
    with Cluster(url, "offers:") as cluster:
        yield cluster.start_node()


def asked(node: NodeProcess, method: str, path: str, body: str = "") -> Any:  # Any: JSON
    connection = HTTPConnection("127.0.0.1", node.port, timeout=5)
    connection.request(method, path, body, {"X-API-Key": API_KEY})
    with closing(connection), connection.getresponse() as answer:
        return json.load(answer)


def published(node: NodeProcess, room: str) -> list[object]:
    answer = asked(node, "POST", "/api/history", json.dumps({"channel": f"room:{room}", "limit": 100}))
    return [each["data"] for each in answer["result"]["publications"]]


def publish(room: str, data: object, offer: str, *, is_chunked: bool, is_last: bool) -> bytes:
    body = json.dumps({"channel": f"room:{room}", "data": data}).encode()
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
    last = "Connection: close\r\n" if is_last else ""
    head = f"POST /api/publish HTTP/1.1\r\nHost: x\r\n{KEY}\r\n{offer}{framing}\r\n{last}\r\n".encode()
    return head + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body)


def converse(node: NodeProcess, pieces: list[bytes]) -> bytes:
    """Send pieces, each after the node has read the one before, and return all that it answers."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=5) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
            if len(pieces) > 1:
                asked(node, "GET", "/healthz")
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("cut", ["none", "body", "head"])
def test_a_request_that_offers_another_protocol_is_answered_once(
    node: NodeProcess, room: str, offer: str, cut: str
) -> None:
    request = publish(room, {"text": "hi"}, offer, is_chunked=False, is_last=True)
    at = {"none": len(request), "body": request.index(b"\r\n\r\n") + 4, "head": 40}[cut]

    answer = converse(node, [piece for piece in (request[:at], request[at:]) if piece])

    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["result"]["offset"] == 1
    assert published(node, room) == [{"text": "hi"}]


_REQUEST = st.tuples(st.sampled_from(OFFERS), st.booleans(), st.text(max_size=20))


@settings(max_examples=60)
@given(requests=st.lists(_REQUEST, min_size=1, max_size=4), cuts=st.lists(st.integers(0, 1500), max_size=3))
def test_requests_with_and_without_offers_follow_each_other_however_they_are_cut(
    node: NodeProcess, requests: list[tuple[str, bool, str]], cuts: list[int]
) -> None:
    room, wanted = secrets.token_hex(4), [text for _, _, text in requests]
    data = b"".join(
        publish(room, text, offer, is_chunked=is_chunked, is_last=number == len(requests))
        for number, (offer, is_chunked, text) in enumerate(requests, 1)
    )
    places = [0, *sorted(cut % len(data) for cut in cuts), len(data)]

    answer = converse(node, [data[start:end] for start, end in pairwise(places) if end > start])

    assert answer.count(b"HTTP/1.1 200 ") == answer.count(b"HTTP/1.1 ") == len(requests)
    assert published(node, room) == wanted


def test_a_thousand_offers_in_one_read_are_answered(node: NodeProcess) -> None:
    request = f"GET /healthz HTTP/1.1\r\nHost: x\r\n{H2C}\r\n".encode()
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    assert converse(node, [request * 1000 + last]).count(b'{"status":"ok"}') == 1001


def test_a_tunnel_is_refused_and_nothing_behind_it_is_a_request(node: NodeProcess) -> None:
    answer = converse(node, [b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])

    assert answer.startswith(b"HTTP/1.1 501 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_curl_that_offers_http2_publishes(node: NodeProcess, room: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        missing("curl is not installed")
    body = json.dumps({"channel": f"room:{room}", "data": 1})
    command = [curl, "--http2", "--noproxy", "*", "-sS", "-H", KEY, "-d", body, node.http("/api/publish")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)

    assert json.loads(done.stdout or done.stderr)["result"]["offset"] == 1


def test_a_jdk_client_with_its_defaults_publishes_and_streams(node: NodeProcess, room: str) -> None:
    java = shutil.which("java")
    if java is None or shutil.which("javac") is None:
        missing("no JDK is installed (Debian: apt-get install default-jdk-headless)")
    program = ROOT / "tests" / "java" / "Offers.java"

    done = subprocess.run(
        [java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", str(program), node.http(""), API_KEY, room],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == ["200 text/event-stream", *["200 result"] * 3, "data: 1", "data: 2", "data: 3"]
