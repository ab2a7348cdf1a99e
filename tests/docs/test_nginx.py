"""The balancer of compose.yaml while no node answers: nginx alone."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.paths import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("docker")]

CONFIGURATION = f"{ROOT / 'deploy' / 'nginx.conf'}:/etc/nginx/nginx.conf:ro"
DEADLINE_S = 20.0


def run(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()


@pytest.fixture(scope="module")
def url(docker: None) -> Iterator[str]:
    name = f"roomcast-test-{secrets.token_hex(4)}"
    run("network", "create", name)  # with a DNS that knows no node
    try:
        container = run(
            "run", "-d", "--rm", "--network", name, "-p", "127.0.0.1::80", "-v", CONFIGURATION, "nginx:stable"
        )
        try:
            yield f"http://{run('port', container, '80')}"
        finally:
            run("stop", "--time", "1", container)
    finally:
        run("network", "rm", name)


def get(url: str, accept: str) -> httpx.Response:
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return httpx.get(f"{url}/sse/rooms/a", headers={"Accept": accept}, timeout=DEADLINE_S, trust_env=False)
        except httpx.TransportError:  # nginx starts
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def test_while_no_node_answers_event_sources_try_again_at_different_times(url: str) -> None:
    answers = [get(url, "text/event-stream") for _ in range(12)]

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["content-type"] for answer in answers} == {"text/event-stream"}
    assert len({answer.text for answer in answers}) > 1
    assert all(answer.text.startswith("retry: ") for answer in answers)
    assert get(url, "*/*").status_code == 502
