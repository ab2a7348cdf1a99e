"""The Redis client: its connection to each shape of Redis, and its failures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import hiredis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import ClusterError, InvalidResponse, RedisClusterException, ResponseError, SlotNotCoveredError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.refusals import Refusals, kind_of
from roomcast.redis_access.topology import primaries
from roomcast.redis_access.url import RedisUrl, Shape, parse_redis_url

# A server, the master that Sentinel names, or a cluster: single commands are the same, several at once go through
# `pipeline.run_pipeline`.
Client = redis.asyncio.Redis | RedisCluster

# Raised for a lost, silent or refusing server; any other exception is an internal error and ends the process.
OUTAGES = (
    RedisConnectionError,
    RedisTimeoutError,
    InvalidResponse,
    ResponseError,
    ClusterError,
    RedisClusterException,
    OSError,
    TimeoutError,
)

# A Sentinel answers from memory; after this time the next one in the list is asked.
_SENTINEL_TIMEOUT_S = 1.0


def connect(url: str, *, timeout_s: float, client_name: str) -> Client:
    """Return a client that is not connected yet; each of its waits ends after `timeout_s`.

    No retries: a PUBLISH repeated after a lost reply would be delivered twice.
    RESP2, because redis-py formats a log line for every pub/sub message on RESP3.
    """
    where = parse_redis_url(url)
    options: dict[str, Any] = {  # Any: redis-py's arguments
        **where.options,
        "client_name": client_name,
        "protocol": 2,
        "retry": _no_retry(),
        "socket_connect_timeout": timeout_s,
        "socket_timeout": timeout_s,
    }
    if where.shape is Shape.SENTINEL:
        return _connect_by_sentinel(where, options, timeout_s=timeout_s)
    if where.shape is Shape.CLUSTER:
        return _connect_to_cluster(where, options)
    for host, port in where.addresses:
        options |= {"host": host, "port": port}
    return _client_of(redis.asyncio.ConnectionPool(**options))


async def ask(client: Client, *command: str) -> Any:  # Any: redis-py's reply
    """Return the reply to a command without a key, in a cluster of any node. Raises: one of OUTAGES."""
    if not isinstance(client, RedisCluster):
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
    await client.initialize()
    return await client.execute_command(*command, target_nodes=client.get_default_node())


async def ask_for_key(client: Client, key: str, *command: Any) -> Any:  # Any: redis-py's arguments and reply
    """Return the reply to a command on a key that is not its first argument. Raises: one of OUTAGES."""
    if not isinstance(client, RedisCluster):
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
    await client.initialize()
    # The server is named: to find the key redis-py would ask any server, also one that is away.
    return await client.execute_command(*command, target_nodes=client.get_node_from_key(key))


def publish_verb(client: Client) -> str:
    """Return the command that publishes: in a cluster PUBLISH goes to all of it, SPUBLISH to the topic's shard."""
    return "SPUBLISH" if isinstance(client, RedisCluster) else "PUBLISH"


def shard_of(client: Client, key: str) -> str:
    """Return the name of the server that has a key's slot; empty if that is not known, and without a cluster."""
    if not isinstance(client, RedisCluster):
        return ""
    with suppress(SlotNotCoveredError):
        node = client.get_node_from_key(key)
        return "" if node is None else str(node.name)
    return ""


def describe(client: Client) -> str:
    """Return a description of a used client's server, without user and password."""
    if isinstance(client, RedisCluster):
        return f"a cluster of {len(primaries(client))} shards"
    pool = client.connection_pool
    if isinstance(pool, _MasterPool) and pool.master_address:
        return f"the master {pool.service_name}, by Sentinel at {pool.master_address[0]}:{pool.master_address[1]}"
    return "a single server"


def connect_to_node(node: ClusterNode) -> redis.asyncio.Redis:
    """Return a client of one node of a cluster."""
    pool = redis.asyncio.ConnectionPool(
        connection_class=node.connection_class, **{**node.connection_kwargs, "retry": _no_retry()}
    )
    return redis.asyncio.Redis.from_pool(pool)


async def is_master(client: redis.asyncio.Redis, connection: AbstractConnection) -> bool:
    """Return whether a connection is to the server to which new ones would be made; without Sentinel it always is.

    Sentinel cuts the clients of a master that it demotes, but not those of one that it cannot reach.
    """
    pool = client.connection_pool
    if not isinstance(pool, _MasterPool):
        return True
    try:
        address = await pool.get_master_address()
    except OUTAGES:
        return True  # no Sentinel answers, or there is no master: the connection is used as long as it lasts
    return bool(address == (connection.host, connection.port))  # type: ignore[attr-defined]  # a TCP connection


def outage_reason(exc: BaseException) -> str:
    """Return the reason of a failed Redis call, without address, user and password."""
    kind = kind_of(exc)
    if kind is not None:
        return f"Redis refuses a command ({kind})"
    return f"Redis is away ({type(exc).__name__})"


def refusals_of(client: Client) -> Refusals:
    """Return what a client's connections have been refused."""
    if isinstance(client, RedisCluster):
        kind = client.nodes_manager.connection_kwargs["connection_class"]
    else:
        kind = client.connection_pool.connection_class
    # A client that `connect` did not make, as in tests, notes nothing.
    return getattr(kind, "refusals", None) or Refusals()


@contextmanager
def outages_reported() -> Iterator[None]:
    """Raise BrokerUnavailable instead of one of OUTAGES."""
    try:
        yield
    except OUTAGES as exc:
        raise BrokerUnavailable(outage_reason(exc)) from exc


class _Guard(AbstractConnection):
    """Turns a RuntimeError of uvloop into an outage, notes refusals, and is not used again after a failover.

    The pool considers a reset connection alive (it checks for the end of the stream only); writing to it is a
    RuntimeError on uvloop, which ended the whole node
    (tests/failures/test_processes.py::test_a_node_whose_redis_connections_are_reset_lives_on).

    Behind one address a failover leaves the connections to the demoted server open. The first of them that is answered
    so outdates them all: the pool replaces each before it is used again.
    """

    refusals: Refusals  # of the client; set by `_guarded`
    _generation = 0
    _is_greeting = False

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        # A name for the server's list of clients is not worth a connection, but redis-py gives up without CLIENT.
        name, self.client_name = self.client_name, None
        # The parser makes exceptions of errors only, so that noting them costs other replies nothing.
        self._parser.parse_error = self._parse_error  # type: ignore[method-assign]  # of this parser alone
        self._is_greeting = True
        try:
            await super().on_connect_check_health(check_health)
            if name:
                await self.send_command("CLIENT", "SETNAME", name, check_health=check_health)
                with suppress(ResponseError):
                    await self.read_response()
        finally:
            self.client_name = name
            self._is_greeting = False
        # Not before the greeting: another connection may be refused during it, and the pool replaces only once.
        self._generation = self.refusals.generation
        self.refusals.on_connected()

    def _parse_error(self, response: str) -> Exception:
        exc: Exception = type(self._parser).parse_error(response)  # type: ignore[no-untyped-call]  # redis-py
        # What redis-py tells about itself may be refused; a connection error, such as LOADING, ends the greeting.
        if not (self._is_greeting and isinstance(exc, ResponseError)):
            self.refusals.note(exc, self._generation)
        return exc

    async def can_read(self, *args: Any, **kwargs: Any) -> bool:  # Any: redis-py's arguments
        """Return whether the pool must replace the connection, which it takes unread data for."""
        return self._is_outdated() or bool(await super().can_read(*args, **kwargs))

    def should_reconnect(self) -> bool:
        """Return whether the pool must close the connection when it is free."""
        return self._is_outdated() or bool(super().should_reconnect())  # type: ignore[no-untyped-call]  # redis-py

    def _is_outdated(self) -> bool:
        return self._generation != self.refusals.generation

    def pack_command(self, *args: Any) -> list[bytes]:  # Any: as redis-py takes them
        """Return the bytes of a command as redis-py does. hiredis takes a seventh of its time, 3 us instead of 24 for a
        write to a map."""
        try:
            if " " not in args[0]:  # redis-py splits such names
                return [hiredis.pack_command(args)]
        except TypeError:  # redis-py takes more types, and has an exception for the others
            pass
        return super().pack_command(*args)

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        task = asyncio.current_task()
        cancellations = task.cancelling() if task else 0
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as exc:
            raise RedisConnectionError("the connection was reset") from exc
        if task and task.cancelling() > cancellations:
            # On Python 3.11 `asyncio.wait_for`, in which redis-py sends, swallows a cancellation that arrives as its
            # wait ends (cpython #86296). A busy worker swallowed most of them, and outlived its SIGTERM.
            await self.disconnect(nowait=True)  # as after any other cancellation
            raise asyncio.CancelledError


class _MasterPool(SentinelConnectionPool):
    """Connections to the master that Sentinel names; those to a former master are closed once they are free."""

    async def get_master_address(self) -> tuple[str, int]:
        """Return where the master is. Raises: redis-py's ConnectionError."""
        before = self.master_address
        try:
            address: tuple[str, int] = await super().get_master_address()  # type: ignore[no-untyped-call]  # redis-py
        except MasterNotFoundError:  # its text has details about each Sentinel
            raise RedisConnectionError(f"no Sentinel that answers knows a living master {self.service_name}") from None
        if before not in (None, address):
            await self.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py
        return address

    async def aclose(self) -> None:
        """Close the connections to the Sentinels too."""
        await super().aclose()
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


class _Cluster(RedisCluster):
    """Connects on first use, as `Redis` does, and not in `__aenter__`."""

    async def __aenter__(self) -> _Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; after a failure redis-py would keep them until it has found the cluster again."""
        await super().aclose()
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")


def _connect_by_sentinel(
    where: RedisUrl,
    options: dict[str, Any],  # Any: redis-py's arguments
    *,
    timeout_s: float,
) -> redis.asyncio.Redis:
    if options.get("connection_class") is SSLConnection:
        options["connection_class"] = SentinelManagedSSLConnection
    sentinel_timeout_s = min(timeout_s, _SENTINEL_TIMEOUT_S)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py
        where.addresses,
        sentinel_kwargs={
            **where.sentinel_options,
            "protocol": 2,
            "retry": _no_retry(),
            "socket_connect_timeout": sentinel_timeout_s,
            "socket_timeout": sentinel_timeout_s,
        },
    )
    pool = _MasterPool(where.master_name, sentinel, **options)  # type: ignore[no-untyped-call]  # redis-py
    return _client_of(pool)


def _client_of(pool: redis.asyncio.ConnectionPool) -> redis.asyncio.Redis:
    pool.connection_class = _guarded(pool.connection_class, Refusals())
    return redis.asyncio.Redis.from_pool(pool)


def _guarded(kind: type[AbstractConnection], refusals: Refusals) -> type[AbstractConnection]:
    """Return a kind of connection whose every failure is one of OUTAGES, and every refusal noted."""
    return type(f"Guarded{kind.__name__}", (_Guard, kind), {"refusals": refusals})


def _connect_to_cluster(where: RedisUrl, options: dict[str, Any]) -> RedisCluster:  # Any: redis-py's arguments
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    cluster = _Cluster(
        startup_nodes=[ClusterNode(host, port) for host, port in where.addresses],
        require_full_coverage=False,
        # Else every fifth MOVED would close all connections, even those in use; `ShardedListener` reads the topology.
        reinitialize_steps=0,
        **options,
    )
    # redis-py has no option for the connection class of a cluster: it is set for present and future connections.
    refusals = Refusals()
    for node in cluster.nodes_manager.startup_nodes.values():
        node.connection_class = _guarded(node.connection_class, refusals)  # type: ignore[assignment]  # a subclass of it
    future = cluster.nodes_manager.connection_kwargs
    future["connection_class"] = _guarded(future["connection_class"], refusals)
    return cluster


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)
