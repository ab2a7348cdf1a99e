"""A node closes its parts in the reverse order, each once, also after an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from roomcast import app as composition
from roomcast.app import create_app
from roomcast.auth.tokens import TokenVerifier
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.config import Settings
from roomcast.hooks.build import NodeHooks
from roomcast.node.report import NodeReport
from roomcast.redis_access.client import Client, connect
from roomcast.tasks import TaskSet

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

ENDS = {
    "publications": (RedisBroker, "flush"),
    "clients": (TaskSet, "end"),
    "notifications": (NodeHooks, "flush"),
    "tasks": (NodeHooks, "run"),
    "hooks": (NodeHooks, "aclose"),
    "lease": (NodeReport, "retire"),
    "keys": (TokenVerifier, "aclose"),
    "client": (None, "aclose"),
}
# The settling and closing is in the order of ENDS.
WITHOUT_TASKS = [name for name in ENDS if name != "tasks"]


class Shutdown:
    """Records the parts that have ended, and makes one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended: list[str] = []
        self.failing = ""
        for name, (owner, method) in ENDS.items():
            if owner is not None:
                monkeypatch.setattr(owner, method, self._noted(name, getattr(owner, method)))

        def connect_noted(*arguments: Any, **options: Any) -> Client:
            client = connect(*arguments, **options)
            monkeypatch.setattr(client, "aclose", self._noted("client", client.aclose))
            return client

        monkeypatch.setattr(composition, "connect", connect_noted)

    def _noted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:  # Any: of each
        async def noted(*arguments: Any, **options: Any) -> None:
            try:
                await original(*arguments, **options)
            finally:
                is_other_set = name == "clients" and arguments[0]._name != "client"
                if not is_other_set:
                    self.ended.append(name)
            if name == self.failing and not is_other_set:
                raise RuntimeError(f"{name} failed")

        return noted


@pytest.fixture
def shutdown(monkeypatch: pytest.MonkeyPatch) -> Shutdown:
    return Shutdown(monkeypatch)


async def run_node(redis_url: str, prefix: str) -> None:
    settings = Settings(redis_url=redis_url, prefix=prefix)
    app = create_app(settings, node_id="n1", on_failure=lambda: pytest.fail("the node has failed"))
    async with app.router.lifespan_context(app):
        pass


async def test_what_ends_ends_in_its_order(shutdown: Shutdown, redis_url: str, prefix: str) -> None:
    await run_node(redis_url, prefix)

    assert shutdown.ended == list(ENDS)


@pytest.mark.parametrize("failing", WITHOUT_TASKS)
async def test_what_fails_to_end_keeps_nothing_else_from_it(
    shutdown: Shutdown, redis_url: str, prefix: str, failing: str
) -> None:
    shutdown.failing = failing

    with pytest.raises(RuntimeError, match=f"{failing} failed"):
        await run_node(redis_url, prefix)

    assert shutdown.ended == list(ENDS)


@pytest.mark.parametrize(
    ("step", "closed"),
    [
        ("connect", []),
        ("read_verifier", ["client"]),
        ("make_hooks", ["keys", "client"]),
        ("SessionContext", ["hooks", "lease", "keys", "client"]),
        ("ClientServer", ["hooks", "lease", "keys", "client"]),
    ],
)
async def test_a_step_that_fails_closes_what_was_opened_before_it(
    monkeypatch: pytest.MonkeyPatch, shutdown: Shutdown, redis_url: str, prefix: str, *, step: str, closed: list[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"{step} failed")

    monkeypatch.setattr(composition, step, fail)

    with pytest.raises(RuntimeError, match=f"{step} failed"):
        await run_node(redis_url, prefix)

    assert shutdown.ended == closed
