"""The page in a real browser: two windows, one per node, with only Redis between them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import psutil
import pytest
import redis
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from roomcast.redis_access.keys import ChannelKeys
from tests.support.command_line import roomcast
from tests.support.ports import free_ports

pytestmark = pytest.mark.browser

WAIT_S = 15.0
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0

FIGURES = ("Connections", "Nodes", "Response", "CPU", "Memory")
INJECTION = '<img src=x onerror="window.injected = true">'
# Handshakes are refused, as by a proxy that knows no WebSockets.
NO_WEBSOCKETS = """
window.WebSocket = class extends WebSocket {
  constructor(url) { super(new URL("/not-a-websocket", url)); }
};
"""


@dataclass(frozen=True, slots=True)
class DevCluster:
    """The addresses of a running `roomcast dev`."""

    node_urls: tuple[str, str]
    redis_url: str
    process_id: int

    def kill_node(self, number: int) -> None:
        """Kill a node as `kill -9` does; `roomcast dev` starts it again."""
        port = self.node_urls[number].rpartition(":")[2].strip("/")
        for process in psutil.Process(self.process_id).children(recursive=True):
            if {"node", port} <= set(process.cmdline()):
                process.kill()

    def forget(self, room: str) -> None:
        """Remove a room's history, and with it its positions."""
        with closing(redis.Redis.from_url(self.redis_url)) as client:
            client.delete(*ChannelKeys("roomcast:").of_channel(f"room:{room}")[1:])

    def publish(self, room: str, data: object) -> None:
        """Publish as any other service may: plain PUBLISH, nothing of ours."""
        with closing(redis.Redis.from_url(self.redis_url)) as client:
            client.publish(f"roomcast:room:{room}", orjson.dumps(data))


_ROOMS = itertools.count(1)


class Window:
    """One window of the browser, on one node."""

    def __init__(self, driver: webdriver.Chrome, handle: str, room: str) -> None:
        self._driver = driver
        self._handle = handle
        self.room = room

    @property
    def driver(self) -> webdriver.Chrome:
        """The driver, looking at this window."""
        if self._driver.current_window_handle != self._handle:
            self._driver.switch_to.window(self._handle)
        return self._driver

    # Any: JSON, of the script's own making.
    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def open(self, url: str) -> None:
        self.driver.get("about:blank")  # a URL that differs only behind the # would not load anything
        self.driver.get(url)
        self.wait_for_state("open")

    def wait_for(self, what: str, script: str, *arguments: object) -> None:
        """Wait until the script returns something true."""
        message = f"waited for {what}; the log says {self.said()}"
        WebDriverWait(self.driver, WAIT_S, poll_frequency=0.05).until(lambda _: self.run(script, *arguments), message)

    def wait_for_state(self, state: str) -> None:
        self.wait_for(state, "return document.getElementById('status').dataset.state === arguments[0]", state)

    def wait_for_text(self, text: str) -> None:
        self.wait_for(text, "return document.getElementById('log').textContent.includes(arguments[0])", text)

    def wait_for_figures(self) -> None:
        values = "[...document.querySelectorAll('.value')]"
        self.wait_for("figures", f"return {values}.every((each) => /\\d/.test(each.textContent))")

    def write(self, field_id: str, text: str) -> None:
        """Replace the text of a field. Not with clear(), because the page reacts to its change event."""
        self.driver.find_element(By.ID, field_id).send_keys(Keys.CONTROL, "a", Keys.NULL, text)

    def say(self, text: str, *, name: str | None = None) -> None:
        if name is not None:
            self.write("name", name)
        self.driver.find_element(By.ID, "message").send_keys(text, Keys.ENTER)

    def join(self, room: str) -> None:
        self.write("room", room + Keys.ENTER)
        self.wait_for(room, "return document.title.startsWith(arguments[0])", room)
        self.wait_for_state("open")

    def said(self) -> list[str]:
        texts: list[str] = self.run("return [...document.querySelectorAll('.said')].map((e) => e.textContent)")
        return texts

    def notices(self) -> list[str]:
        texts: list[str] = self.run("return [...document.querySelectorAll('.notice')].map((e) => e.textContent)")
        return texts

    def figures(self) -> dict[str, float]:
        texts: list[list[str]] = self.run(
            "return [...document.querySelectorAll('.tile')]"
            ".map((e) => [e.querySelector('dt').textContent, e.querySelector('.value').textContent])"
        )
        return {label: float(value.replace(",", "")) for label, value in texts}


@contextmanager
def running_cluster() -> Iterator[DevCluster]:
    """Run `roomcast dev`; Ctrl-C must then end it and everything it started."""
    port = free_ports(2)[0]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROOMCAST_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "roomcast", "dev", "--port", str(port), "--balancer-port", "0"],
        env=environment | {"ROOMCAST_METRICS_INTERVAL_S": "0.5"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            redis_url = _greeting(process)["Redis"]
            yield DevCluster((f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port + 1}/"), redis_url, process.pid)
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
            _, left_over = psutil.wait_procs(children, timeout=1)
            for each in left_over:
                each.kill()
    assert left_over == []
    assert len(children) >= 4, "two nodes, the worker and the server"
    assert process.returncode == 0


def _greeting(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the lines of the greeting, by their first word. Fails if it is not printed in time."""
    assert process.stdout is not None
    lines: dict[str, str] = {}
    watchdog = threading.Timer(START_TIMEOUT_S, process.send_signal, [signal.SIGINT])
    watchdog.start()
    try:
        for line in process.stdout:
            word, _, rest = line.strip().partition(" ")
            lines[word] = rest.strip()
            if word == "Ctrl-C":
                return lines
    finally:
        watchdog.cancel()
    pytest.fail(f"roomcast dev did not start: {lines}")


@pytest.fixture(scope="module")
def dev_cluster(browser: webdriver.Chrome) -> Iterator[DevCluster]:
    with running_cluster() as running:
        yield running


@pytest.fixture
def windows(browser: webdriver.Chrome, dev_cluster: DevCluster) -> Iterator[tuple[Window, Window]]:
    """Two windows, one per node, freshly loaded, in a room of their own."""
    first_handle = browser.current_window_handle
    browser.switch_to.new_window("window")
    second_handle = browser.current_window_handle
    room = f"room {next(_ROOMS)}"
    first, second = Window(browser, first_handle, room), Window(browser, second_handle, room)
    first.open(f"{dev_cluster.node_urls[0]}?room={room}")
    second.open(f"{dev_cluster.node_urls[1]}?room={room}")
    yield first, second
    second.driver.close()
    browser.switch_to.window(first_handle)


def test_two_windows_on_two_nodes_chat_with_each_other(windows: tuple[Window, Window]) -> None:
    first, second = windows

    first.say("hello from the first node", name="Ada")
    second.wait_for_text("hello from the first node")
    second.say("and from the second", name="Grace")
    first.wait_for_text("and from the second")

    expected = ["hello from the first node", "and from the second"]
    assert first.said() == second.said() == expected
    names = "return [...document.querySelectorAll('.from')].map((e) => e.textContent)"
    assert first.run(names) == second.run(names) == ["Ada", "Grace"]
    own = "return [...document.querySelectorAll('.own .said')].map((e) => e.textContent)"
    assert (first.run(own), second.run(own)) == (expected[:1], expected[1:])


def test_a_name_is_given_and_remembered(windows: tuple[Window, Window], dev_cluster: DevCluster) -> None:
    window, _ = windows
    read_name = "return document.getElementById('name').value"

    window.run("localStorage.clear()")
    window.open(dev_cluster.node_urls[0])
    assert " " in window.run(read_name), "an adjective and an animal"
    window.say("", name="Ada")
    window.open(dev_cluster.node_urls[0])

    assert window.run(read_name) == "Ada"


def test_dashboard_shows_every_figure_on_both_nodes(windows: tuple[Window, Window]) -> None:
    enough = "return Number(document.querySelector('.value').textContent) >= arguments[0]"

    for window in windows:
        window.wait_for_figures()
        window.wait_for("four connections", enough, 4)

        figures = window.figures()
        assert tuple(figures) == FIGURES
        assert figures["Nodes"] == 2
        assert figures["Response"] > 0
        assert 0 < figures["Memory"] <= 100
        assert 0 <= figures["CPU"] <= 100
        window.wait_for("a line", "return document.querySelector('.line').getAttribute('d').includes('L')")
        assert window.driver.find_element(By.ID, "source").text.startswith("from worker ")


def test_a_pause_without_pages_is_no_interval(windows: tuple[Window, Window], dev_cluster: DevCluster) -> None:
    for window in windows:
        window.driver.get("about:blank")
    kept = roomcast("publish", "metrics:system", '{"time": 1}', redis_url=dev_cluster.redis_url)
    assert kept.returncode == 0
    windows[0].open(dev_cluster.node_urls[0])

    every = "/every ([\\d.]+) s/.exec(document.getElementById('source').textContent)"
    windows[0].wait_for("an interval", f"return {every}")
    assert windows[0].run(f"return Number({every}[1])") < 10


def test_what_redis_publishes_appears_in_both(windows: tuple[Window, Window], dev_cluster: DevCluster) -> None:
    for data in ({"text": "hi"}, "a text", {"build": 418, "ok": True}, {"from": "a service", "text": 42}, None):
        dev_cluster.publish(windows[0].room, data)

    for window in windows:
        window.wait_for_text("null")
        assert window.said() == ["hi", "a text", '{"build":418,"ok":true}', "42", "null"]


def test_markup_is_shown_as_text_and_runs_nothing(windows: tuple[Window, Window], dev_cluster: DevCluster) -> None:
    first, second = windows

    first.say(INJECTION, name=INJECTION[:40])
    second.wait_for_text(INJECTION)
    dev_cluster.publish(windows[0].room, {"from": "<b>x</b>", "text": INJECTION})
    dev_cluster.publish(windows[0].room, {INJECTION: INJECTION})
    dev_cluster.publish(windows[0].room, "the last")

    for window in windows:
        window.wait_for_text("the last")
        assert window.said()[:2] == [INJECTION, INJECTION]
        assert window.run("return document.querySelectorAll('#log img, #log b').length") == 0
        assert window.run("return window.injected") is None


def test_rooms_are_apart(windows: tuple[Window, Window], dev_cluster: DevCluster) -> None:
    first, second = windows

    first.join("quiet room")
    second.say("for the other room only")
    second.wait_for_text("for the other room only")
    dev_cluster.publish("quiet room", {"text": "for the quiet room only"})
    first.wait_for_text("for the quiet room only")

    assert first.said() == ["for the quiet room only"]
    assert second.said() == ["for the other room only"]
    for url in ("#quiet%20room", "?room=quiet+room"):
        second.open(dev_cluster.node_urls[1] + url)
        assert second.run("return document.getElementById('room').value") == "quiet room"


def test_names_that_no_room_can_have_are_refused_by_the_field(windows: tuple[Window, Window]) -> None:
    window, _ = windows

    for room in ("a/b", "..", "x" * 129):
        window.write("room", room + Keys.ENTER)

        assert not window.run("return document.getElementById('room').validity.valid")
        assert window.run("return document.title") == f"{window.room} \u00b7 Roomcast"


def test_an_address_with_a_name_that_no_room_can_have_says_what_is_wrong(
    windows: tuple[Window, Window], dev_cluster: DevCluster
) -> None:
    window, _ = windows
    braces = "No slashes, braces or control characters, please."
    for address, fault in (
        ("#{team}", braces),
        ("?room={team}", braces),
        ("#a%2Fb", braces),
        ("#%ff", "This is not valid text."),
        ("#" + "x" * 129, "This is too long: at most 128 bytes."),
    ):
        window.driver.get("about:blank")
        window.driver.get(dev_cluster.node_urls[0] + address)
        window.wait_for_state("refused")

        (notice,) = window.notices()
        assert notice.endswith(f"cannot be the name of a room. {fault}"), address
        assert window.run("return document.getElementById('room').validationMessage") == fault
        assert not window.driver.find_element(By.ID, "send").is_enabled()

    window.join("a good name")
    assert window.notices() == []


def test_lost_connection_comes_back_and_says_what_may_be_missing(windows: tuple[Window, Window]) -> None:
    first, second = windows

    # Longer than the limit: the node closes the connection (1009), and no client receives it.
    first.run("document.getElementById('message').value = 'x'.repeat(70_000)")
    first.say("")
    first.wait_for_text("Connected again")
    first.say("back again")

    second.wait_for_text("back again")
    first.wait_for_text("so it may be lost")
    assert first.said() == second.said() == ["back again"]


def test_after_the_kill_of_its_node_the_page_recovers_what_it_missed(
    windows: tuple[Window, Window], dev_cluster: DevCluster
) -> None:
    first, second = windows
    first.say("before")
    second.wait_for_text("before")

    dev_cluster.kill_node(1)
    second.wait_for("a lost connection", "return document.getElementById('status').dataset.state !== 'open'")
    for text in ("one", "two", "three"):
        first.say(text)
    second.wait_for_text("three")
    second.wait_for_state("open")
    first.say("after")
    second.wait_for_text("after")

    assert second.said() == ["before", "one", "two", "three", "after"]
    assert second.notices() == ["Connected again."]


def test_what_cannot_be_recovered_is_said(windows: tuple[Window, Window], dev_cluster: DevCluster) -> None:
    first, second = windows
    first.say("before")
    second.wait_for_text("before")

    dev_cluster.kill_node(1)
    second.wait_for("a lost connection", "return document.getElementById('status').dataset.state !== 'open'")
    dev_cluster.forget(first.room)

    second.wait_for_text("Some messages are missing here")
    assert second.said() == ["before"]


def test_a_reload_keeps_what_the_rooms_history_has(windows: tuple[Window, Window], dev_cluster: DevCluster) -> None:
    first, second = windows
    first.say("one", name="Ada")
    first.say("two")
    second.wait_for_text("two")

    second.driver.refresh()
    second.wait_for_text("two")
    first.say("three")
    second.wait_for_text("three")

    assert second.said() == ["one", "two", "three"]
    assert second.notices() == []


def test_without_websockets_the_page_receives_by_events_and_says_so(
    windows: tuple[Window, Window], dev_cluster: DevCluster
) -> None:
    _, window = windows

    window.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": NO_WEBSOCKETS})
    window.driver.refresh()
    window.wait_for_state("receiving")
    dev_cluster.publish(windows[0].room, {"text": "one way"})

    window.wait_for_text("one way")
    window.wait_for_figures()
    assert not window.driver.find_element(By.ID, "send").is_enabled()
    assert "you can read, but not send" in window.driver.find_element(By.ID, "hint").text


def test_page_fits_a_small_phone(windows: tuple[Window, Window], dev_cluster: DevCluster) -> None:
    _, window = windows

    metrics = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    window.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    dev_cluster.publish(windows[0].room, {"text": "w" * 500})
    window.wait_for_text("w" * 500)

    assert window.run("return document.documentElement.scrollWidth") == 360
    for element in window.driver.find_elements(By.CSS_SELECTOR, "input, button, .tile"):
        assert element.rect["width"] >= 60
        assert element.rect["x"] >= 12
        assert element.rect["x"] + element.rect["width"] <= 360 - 12
    overflowing = (
        "return [...document.querySelectorAll('.panel')].filter((e) => e.scrollHeight > e.clientHeight).length"
    )
    assert window.run(overflowing) == 0


def test_reload_leaves_no_error_in_the_console(windows: tuple[Window, Window]) -> None:
    for window in windows:
        window.driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium; clears the log
        window.driver.refresh()
        window.wait_for_state("open")
        window.wait_for_figures()

        entries = window.driver.get_log("browser")  # type: ignore[no-untyped-call]  # selenium
        assert [entry for entry in entries if entry["level"] == "SEVERE"] == []
