"""A replica that was promoted without the newest publications: their numbers must not be taken for those of others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomcast.brokers.history_commands import HistoryCommands
from roomcast.brokers.interface import ALWAYS, Published, Read
from roomcast.model.namespaces import DEFAULTS
from roomcast.model.publications import History, Publication
from roomcast.redis_access.client import connect
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_pipeline
from tests.support.ports import HOST, free_ports
from tests.support.processes import DEADLINE_S, eventually
from tests.support.redis_servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

CHANNEL = "room:a"
ROOM = DEFAULTS["room"]
COMMANDS = HistoryCommands(
    ChannelKeys("test:"), publish_command="PUBLISH", max_message_bytes=1000, on_malformed=lambda *_: None
)


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "master", free_ports(1)[0], {"save": '""', "repl-diskless-sync-delay": "0"})
    server.start()
    yield server
    server.stop()


@pytest.fixture
def replica(tmp_path: Path, master: Server) -> Iterator[Server]:
    options = {"save": '""', "replicaof": f"{HOST} {master.port}"}
    server = Server(tmp_path / "replica", free_ports(1)[0], options)
    server.start()
    yield server
    server.stop()


async def publish(server: Server, *texts: str) -> Published:
    """Publish as a node that has seen no position of the channel. Returns: the result of the last one."""
    commands = [COMMANDS.publish(Publication(CHANNEL, text.encode()), ROOM, (), ALWAYS) for text in texts]
    return COMMANDS.published((await _run(server, commands))[-1])


async def read(server: Server, wanted: Read) -> History:
    return COMMANDS.history(CHANNEL, (await _run(server, [COMMANDS.read(wanted)]))[0])


async def _run(server: Server, commands: list[tuple[object, ...]]) -> list[object]:
    async with connect(f"redis://{HOST}:{server.port}/0", timeout_s=5.0, client_name="test") as client:
        return await run_pipeline(client, commands, COMMANDS.scripts)


def promote(replica: Server, master: Server) -> None:
    """Let the replica have all that the master has now, and be its own master from then on."""
    with master.client() as of_master, replica.client() as client:
        # Not WAIT: it knows of no writes but those of its own connection.
        wanted = of_master.info("replication")["master_repl_offset"]
        deadline_s = time.monotonic() + DEADLINE_S
        while (state := client.info("replication"))["master_link_status"] != "up" or state[
            "slave_repl_offset"
        ] < wanted:
            assert time.monotonic() < deadline_s, state
            time.sleep(0.02)
        client.replicaof("NO", "ONE")


async def test_after_a_promotion_the_epoch_is_another_even_if_nobody_that_asks_has_seen_the_tail(
    master: Server, replica: Server
) -> None:
    await publish(master, "1", "2", "3")
    promote(replica, master)
    lost = (await publish(master, "lost 4", "lost 5")).position

    anew = (await publish(replica, "4", "5", "6")).position

    assert lost is not None
    assert anew is not None
    assert (lost.offset, anew.offset) == (5, 6)
    assert anew.epoch != lost.epoch
    history = await read(replica, Read(CHANNEL, ROOM, seen=[lost], since=lost, limit=100))
    assert (history.position, history.base) == (anew, 3)
    assert [publication.data for publication in history.publications] == [b"4", b"5", b"6"]


async def test_a_promotion_changes_the_epoch_once(master: Server, replica: Server) -> None:
    before = (await publish(master, "1")).position
    promote(replica, master)

    first = await read(replica, Read(CHANNEL, ROOM))
    second = await publish(replica, "2")
    third = await read(replica, Read(CHANNEL, ROOM))

    assert before is not None
    assert second.position is not None
    assert before.epoch != first.position.epoch == second.position.epoch == third.position.epoch
    assert first.base == third.base == 1


@pytest.mark.parametrize("has_replica", [False, True])
async def test_a_start_with_all_data_leaves_the_epoch(tmp_path: Path, *, has_replica: bool) -> None:
    """A master that has a replica writes its replication id into its dump, and starts as if it had been promoted."""
    with_file = {"appendonly": "yes", "appendfsync": "always", "save": '""'}
    server = Server(tmp_path / "redis", free_ports(1)[0], {"save": "3600 1"} if has_replica else with_file)
    server.start()
    replica = Server(tmp_path / "replica", free_ports(1)[0], {"save": '""', "replicaof": f"{HOST} {server.port}"})
    try:
        if has_replica:
            replica.start()
            await eventually(lambda: is_attached(server))
        before = (await publish(server, "1")).position
        server.stop()
        server.start()
        after = (await publish(server, "2")).position
        replication = server.call("INFO", "replication")
    finally:
        replica.stop()
        server.stop()

    assert before is not None
    assert after is not None
    assert after.epoch == before.epoch
    assert after.offset > before.offset + 10**9, "a lost publication may have had any number up to here"
    assert (str(replication["master_replid2"]).strip("0") != "") == has_replica


async def is_attached(server: Server) -> bool:
    replication = await server.command("INFO", "replication")
    return bool(replication["connected_slaves"] and replication["slave0"]["state"] == "online")
