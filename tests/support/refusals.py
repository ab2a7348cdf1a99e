"""Making a real server refuse what nodes ask of it, and letting it accept again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from tests.support.ports import HOST, free_ports
from tests.support.redis_servers import Server

Act = Callable[[Server], Awaitable[None]]


async def fill_memory(server: Server) -> None:
    await server.command("CONFIG", "SET", "maxmemory", "100kb")


async def free_memory(server: Server) -> None:
    await server.command("CONFIG", "SET", "maxmemory", "0")


async def fill_disk(server: Server) -> None:
    """Let a snapshot fail: the server then refuses writes, as it does when its disk is full."""
    await server.command("CONFIG", "SET", "save", "900 1")
    snapshot = await _snapshot(server)
    if snapshot.is_file():
        snapshot.unlink()
    snapshot.mkdir()  # no snapshot can replace a folder
    await server.command("BGSAVE")


async def free_disk(server: Server) -> None:
    snapshot = await _snapshot(server)
    if snapshot.is_dir():
        snapshot.rmdir()
    await server.command("BGSAVE")


async def forbid(server: Server, command: str) -> None:
    await server.command("ACL", "SETUSER", "default", f"-{command}")


async def allow(server: Server, command: str) -> None:
    await server.command("ACL", "SETUSER", "default", f"+{command}")


async def _demand_replicas(server: Server, *, count: int) -> None:
    await server.command("CONFIG", "SET", "min-replicas-to-write", count)


async def _demote(server: Server) -> None:
    await server.command("REPLICAOF", HOST, free_ports(1)[0])


async def _promote(server: Server) -> None:
    await server.command("REPLICAOF", "NO", "ONE")


async def _snapshot(server: Server) -> Path:
    (folder,) = (await server.command("CONFIG", "GET", "dir")).values()
    return Path(folder.decode()) / "dump.rdb"


# By the error that the server answers: how it starts to refuse, and how it accepts again.
REFUSALS: Mapping[str, tuple[Act, Act]] = {
    "MISCONF": (fill_disk, free_disk),
    "NOPERM": (partial(forbid, command="evalsha"), partial(allow, command="evalsha")),
    "NOREPLICAS": (partial(_demand_replicas, count=1), partial(_demand_replicas, count=0)),
    "OOM": (fill_memory, free_memory),
    "READONLY": (_demote, _promote),
}
