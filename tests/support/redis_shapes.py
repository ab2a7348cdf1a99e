"""The shapes that a deployment's Redis has: one server, a primary behind an address, Sentinels, a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import redis

from tests.support.ports import HOST, free_ports
from tests.support.redis_cluster import Cluster
from tests.support.redis_servers import DURABLE, FORMATION_TIMEOUT_S, RedisError, Server, Shape, until

MASTER_NAME = "mymaster"

# A master without its replicas accepts no more writes. Otherwise it would acknowledge writes for seconds that are lost
# once Sentinel demotes it.
_CAREFUL = {**DURABLE, "min-replicas-to-write": "1", "min-replicas-max-lag": "2"}
# Data is lost with its server, which is soon replaced.
_FLEETING = {"save": '""'}
_SOON_DOWN_AFTER_MS = 1000


class Servers(Protocol):
    """The servers of one shape, running from `__enter__` to `__exit__`."""

    name: str

    @property
    def url(self) -> str:
        """Return the value of ROOMCAST_REDIS_URL for a node."""

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


class Single(Shape):
    """One server."""

    name = "single"

    def _form(self) -> None:
        self.server = self._start("redis", free_ports(1)[0], self._options)

    @property
    def url(self) -> str:
        return self._url("", [self.server.port], "/0")

    def primaries(self) -> Sequence[Server]:
        return [self.server]

    def failover(self) -> None:
        raise redis.ResponseError("there is no replica")

    def wait_until_whole(self) -> None:
        """It is whole as soon as it has started."""

    def client(self) -> redis.Redis:
        return self.server.client()


class OneAddress(Shape):
    """A primary and its replica, as managed services have them: clients use one address, which follows the primary."""

    name = "address"

    def _form(self) -> None:
        self._primary, self._replica = (
            self._start(f"redis-{number}", port, self._options) for number, port in enumerate(free_ports(2))
        )
        # Not by its options: as the primary it may be killed, and must start as the primary again.
        self._replica.call("REPLICAOF", HOST, self._primary.port)
        self.wait_until_whole()

    @property
    def url(self) -> str:
        return self._url("", [self._primary.port], "/0")

    def primaries(self) -> Sequence[Server]:
        return [self._primary]

    def failover(self) -> None:
        """Promote the replica and demote the primary, whose connections stay open."""
        self._replica.call("REPLICAOF", "NO", "ONE")
        self._primary, self._replica = self._replica, self._primary
        self._replica.call("REPLICAOF", HOST, self._primary.port)

    def wait_until_whole(self) -> None:
        until(self._is_whole, within_s=FORMATION_TIMEOUT_S)

    def client(self) -> redis.Redis:
        return self._primary.client()

    def _is_whole(self) -> bool:
        try:
            return bool(self._replica.call("INFO", "replication")["master_link_status"] == "up")
        except RedisError:
            return False


class Sentinel(Shape):
    """A master, its replicas, and the Sentinels that watch them."""

    name = "sentinel"

    def __init__(
        self,
        folder: Path,
        *,
        replica_count: int = 2,
        sentinel_count: int = 3,
        options: Mapping[str, str] = _CAREFUL,
        **others: Any,  # Any: see `Shape`
    ) -> None:
        super().__init__(folder, options=options, **others)
        self._replica_count = replica_count
        self._sentinel_count = sentinel_count

    def _form(self) -> None:
        # One more: no server listens on the first address of the URL, and a client must try the next.
        self._nobody, master_port, *ports = free_ports(2 + self._replica_count + self._sentinel_count)
        self.servers = [self._start("redis-0", master_port, self._options)]
        for port in ports[: self._replica_count]:
            replica = {**self._options, "replicaof": f"{HOST} {master_port}"}
            self.servers.append(self._start(f"redis-{len(self.servers)}", port, replica))
        watched = {
            "sentinel": f"monitor {MASTER_NAME} {HOST} {master_port} {self._sentinel_count // 2 + 1}\n"
            f"sentinel down-after-milliseconds {MASTER_NAME} {self._down_after_ms}\n"
            f"sentinel failover-timeout {MASTER_NAME} {3 * self._down_after_ms}",
        }
        self.sentinels = [
            self._start(f"sentinel-{port}", port, watched, is_sentinel=True) for port in ports[self._replica_count :]
        ]
        self.wait_until_whole()
        until(self._can_fail_over, within_s=FORMATION_TIMEOUT_S)

    @property
    def url(self) -> str:
        ports = [self._nobody, *[sentinel.port for sentinel in self.sentinels]]
        return self._url("+sentinel", ports, f"/{MASTER_NAME}/0")

    def master(self) -> Server:
        """Return the master that the Sentinels name. Raises: RedisError."""
        with self.sentinels[0].client() as client:
            _, port = client.sentinel_get_master_addr_by_name(MASTER_NAME)
        return next(server for server in self.servers if server.port == int(port))

    def primaries(self) -> Sequence[Server]:
        return [self.master()]

    def failover(self) -> None:
        self.sentinels[0].call("SENTINEL", "FAILOVER", MASTER_NAME)

    def wait_until_whole(self) -> None:
        until(self._is_whole, within_s=FORMATION_TIMEOUT_S)

    def client(self) -> redis.Redis:
        return self.master().client()

    def _is_whole(self) -> bool:
        try:
            for sentinel in self.sentinels:
                with sentinel.client() as client:
                    master = client.sentinel_master(MASTER_NAME)
                if master["num-slaves"] < self._replica_count:
                    return False
                if master["num-other-sentinels"] < self._sentinel_count - 1 or master["flags"] != "master":
                    return False
            with self.client() as client:
                return int(client.info("replication")["connected_slaves"]) == self._replica_count
        except RedisError:
            return False

    def _can_fail_over(self) -> bool:
        """Return whether the Sentinels know of replicas that they would promote."""
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                replicas = client.sentinel_slaves(MASTER_NAME)
            if not all(each["flags"] == "slave" and each["master-link-status"] == "ok" for each in replicas):
                return False
        return True


SHAPES: Mapping[str, Callable[[Path], Servers]] = {
    "single": Single,
    "address": OneAddress,
    "sentinel": Sentinel,
    "cluster": Cluster,
}


def quick_sentinel(folder: Path, *, image: str | None = None, with_tls: bool = False) -> Sentinel:
    """Return a master and a replica that one Sentinel puts in its place within about two seconds."""
    return Sentinel(
        folder,
        replica_count=1,
        sentinel_count=1,
        options=_FLEETING,
        down_after_ms=_SOON_DOWN_AFTER_MS,
        image=image,
        with_tls=with_tls,
    )


def quick_cluster(folder: Path, *, image: str | None = None, with_tls: bool = False) -> Cluster:
    """Return a cluster that replaces a dead primary within about three seconds."""
    # Meanwhile the others serve their slots. A replica is promoted however long its primary has been silent.
    options = {**_FLEETING, "cluster-require-full-coverage": "no", "cluster-replica-validity-factor": "0"}
    return Cluster(folder, options=options, down_after_ms=_SOON_DOWN_AFTER_MS, image=image, with_tls=with_tls)
