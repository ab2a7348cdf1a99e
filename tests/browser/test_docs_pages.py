"""The pages of the HTTP API in a real browser without internet access, behind a proxy that strips a prefix."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.browser import running_browser
from tests.support.processes import Cluster

pytestmark = [pytest.mark.browser, pytest.mark.redis]

RENDERED = {
    "docs": "return document.querySelectorAll('.opblock').length > 10",
    "redoc": "return document.querySelectorAll('[data-section-id]').length > 10",
}


class StrippingProxy(BaseHTTPRequestHandler):
    """Serves a node below `/rt/`."""

    node_port = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self.path.startswith("/rt/"):
            self.send_error(404)
            return
        node = HTTPConnection("127.0.0.1", self.node_port, timeout=10)
        node.request("GET", self.path.removeprefix("/rt"))
        with closing(node), node.getresponse() as answer:
            body = answer.read()
            self.send_response(answer.status)
            for name in ("Content-Type", "Content-Security-Policy"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url(redis_server: object) -> Iterator[str]:
    redis_url = f"redis://127.0.0.1:{redis_server.port}/0"  # type: ignore[attr-defined]
    with Cluster(redis_url, "docs-pages:") as cluster:
        StrippingProxy.node_port = cluster.start_node().port
        with ThreadingHTTPServer(("127.0.0.1", 0), StrippingProxy) as proxy:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{proxy.server_port}/rt"
            proxy.shutdown()


@pytest.fixture(scope="module")
def offline(chromium: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    names = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with running_browser(chromium, tmp_path_factory.mktemp("offline"), names) as driver:
        yield driver


@pytest.mark.parametrize("page", RENDERED)
def test_a_page_is_rendered_and_asks_nobody_else(url: str, offline: webdriver.Chrome, page: str) -> None:
    offline.get(f"{url}/{page}")

    WebDriverWait(offline, 15, poll_frequency=0.05).until(lambda _: offline.execute_script(RENDERED[page]))
    # Names of other hosts are unknown, and the page's policy forbids them: each attempt is an error.
    assert offline.get_log("browser") == []  # type: ignore[no-untyped-call]  # Selenium's
    loaded = offline.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert len(loaded) >= 2
    assert [each for each in loaded if not each.startswith((url, "data:", "blob:"))] == []
