"""A Redis Cluster of real servers, whose primaries a test may kill and whose slots it may move."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import redis

from tests.support.ports import HOST, free_ports
from tests.support.redis_servers import FORMATION_TIMEOUT_S, RedisError, Server, Shape, until

SLOT_COUNT = 16384
_PRIMARY_COUNT = 3


class Cluster(Shape):
    """Three primaries with a third of the slots each, and a replica of each."""

    name = "cluster"

    def _form(self) -> None:
        # One more: no server listens on the first address of the URL, and a client must try the next.
        self._nobody, *ports = free_ports(1 + 4 * _PRIMARY_COUNT)
        options = {
            **self._options,
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(self._down_after_ms),
            **({"tls-cluster": "yes"} if self._tls else {}),
        }
        self._bus_ports = ports[2 * _PRIMARY_COUNT :]
        self.servers = [
            self._start(f"redis-{number}", port, {**options, "cluster-port": str(bus_port)})
            for number, (port, bus_port) in enumerate(zip(ports, self._bus_ports, strict=False))
        ]
        self._join()

    @property
    def url(self) -> str:
        return self._url("+cluster", [self._nobody, self.servers[0].port, self.servers[1].port], "")

    def primaries(self) -> Sequence[Server]:
        return [server for server in self.servers if _role(server) == "master"]

    def failover(self) -> None:
        for server in self.servers:
            if _role(server) == "slave":
                server.call("CLUSTER", "FAILOVER")
                return
        raise redis.ResponseError("there is no replica")

    def wait_until_whole(self) -> None:
        until(self._is_whole, within_s=FORMATION_TIMEOUT_S)

    def client(self) -> redis.RedisCluster:
        return redis.RedisCluster(host=HOST, port=self.servers[0].port)

    def slots(self, asked: Server | None = None) -> list[tuple[int, int, list[Server]]]:
        """Return the ranges of slots with their servers, the primary first."""
        by_port = {server.port: server for server in self.servers}
        living = asked or next(server for server in self.servers if server.is_running)
        return [
            (int(first), int(last), [by_port[int(node[1])] for node in nodes])
            for first, last, *nodes in living.call("CLUSTER", "SLOTS")
        ]

    def shard_of(self, slot: int, asked: Server | None = None) -> list[Server]:
        """Return the servers of a slot: the primary, then its replicas."""
        return next(servers for first, last, servers in self.slots(asked) if first <= slot <= last)

    def migrate_slot(self, slot: int, *, pause_s: float = 0.0) -> None:
        """Move a slot with its keys to another shard, key by key, as a rebalance does."""
        source, target, others = self._sides(slot)
        ids = {server: server.call("CLUSTER", "MYID").decode() for server in (source, target)}
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 1):
            time.sleep(pause_s)
            source.call("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
        time.sleep(pause_s)
        for server in (target, source, *others):
            server.call("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        self._wait_until_all_agree(slot, target)

    def migrate_slot_at_once(self, slot: int) -> None:
        """Move a slot as Valkey 9 can: in the background, then all of it in one step."""
        source, target, _ = self._sides(slot)
        target_id = target.call("CLUSTER", "MYID").decode()
        source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target_id)
        self._wait_until_all_agree(slot, target)

    def _wait_until_all_agree(self, slot: int, owner: Server) -> None:
        def do_all_agree() -> bool:
            return all(self.shard_of(slot, server)[0] is owner for server in self.servers)

        until(do_all_agree, within_s=FORMATION_TIMEOUT_S)

    def _sides(self, slot: int) -> tuple[Server, Server, set[Server]]:
        """Return the primary that has a slot, another one, and the rest of them."""
        source = self.shard_of(slot)[0]
        primaries = {servers[0] for _, _, servers in self.slots()}
        target = next(server for server in self.servers if server in primaries and server is not source)
        return source, target, primaries - {source, target}

    def _join(self) -> None:
        primaries, replicas = self.servers[:_PRIMARY_COUNT], self.servers[_PRIMARY_COUNT:]
        for number, server in enumerate(self.servers):
            server.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.call("CLUSTER", "MEET", HOST, self.servers[0].port, self._bus_ports[0])
        for number, server in enumerate(primaries):
            start, end = (SLOT_COUNT * step // _PRIMARY_COUNT for step in (number, number + 1))
            server.call("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        for primary, replica in zip(primaries, replicas, strict=True):
            # Refused until both know of each other.
            replicate = partial(_accepts, replica, "CLUSTER", "REPLICATE", primary.call("CLUSTER", "MYID").decode())
            until(replicate, within_s=FORMATION_TIMEOUT_S)
        self.wait_until_whole()

    def _is_whole(self) -> bool:
        roles = [_role(server) for server in self.servers]
        if roles.count("master") != _PRIMARY_COUNT or roles.count("slave") != _PRIMARY_COUNT:
            return False
        try:
            for server, role in zip(self.servers, roles, strict=True):
                with server.client() as client:
                    is_linked = role == "master" or client.info("replication")["master_link_status"] == "up"
                state = bytes(server.call("CLUSTER", "INFO")).decode()
                facts = ("cluster_state:ok", f"cluster_slots_ok:{SLOT_COUNT}", f"cluster_known_nodes:{len(roles)}")
                if not is_linked or not all(fact in state for fact in facts):
                    return False
                if not all(len(servers) > 1 for _, _, servers in self.slots(server)):
                    return False
        except RedisError:
            return False
        return True


def _role(server: Server) -> str:
    """Return the role that a server reports, or nothing while it does not answer."""
    try:
        with server.client() as client:
            return str(client.info("replication")["role"])
    except RedisError:
        return ""


def _accepts(server: Server, *command: str) -> bool:
    try:
        server.call(*command)
    except RedisError:
        return False
    return True
