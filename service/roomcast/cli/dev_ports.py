"""The ports of `roomcast dev`: whether they are free, and whether the process that answers there is ours."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import psutil

from roomcast.cli.terminal import Failure

REDIS_HOST = "127.0.0.1"
_REDIS_PORT = 6379
_LAST_PORT = 65535

_ANSWER_TIMEOUT_S = 2.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (no address to listen on: it is replaced)


def claim_ports(host: str, ports: Sequence[int], balancer_port: int) -> tuple[socket.socket, int]:
    """Check that all ports are free, by binding them. Returns: the balancer's socket, bound, and a port for Redis.

    Raises: Failure that names all ports that are in use.
    """
    with ExitStack() as probes:  # all are bound at once, so that none is chosen twice
        taken = []
        for port in (*ports, balancer_port):
            try:
                listener = probes.enter_context(_bind(host, port))
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    reason = exc.strerror or exc
                    raise Failure(
                        f"cannot listen on {host} port {port}: {reason}; choose with --host and --port"
                    ) from exc
                taken.append(port)
        if taken:
            raise Failure(_advice(ports, balancer_port, taken))
        try:
            redis = _bind(REDIS_HOST, _REDIS_PORT)
        except OSError:
            redis = _bind(REDIS_HOST, 0)
        redis_port = port_of(probes.enter_context(redis))
        return listener.dup(), redis_port  # the probe's own descriptor is closed here, the socket stays bound


def _advice(ports: Sequence[int], balancer_port: int, taken: Sequence[int]) -> str:
    options = []
    if set(taken) & set(ports):
        options.append(f"--port {_another(ports[0])}")
    if balancer_port in taken:
        options.append(f"--balancer-port {_another(balancer_port)}")
    what = f"port {taken[0]} is" if len(taken) == 1 else f"ports {', '.join(map(str, taken))} are"
    return f"{what} in use; choose others with: {sys.argv[0]} dev {' '.join(options)}"


def _another(port: int) -> int:
    return port + 100 if port + 200 <= _LAST_PORT else port - 100


def _bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet. Raises: OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def port_of(bound: socket.socket) -> int:
    """Return the port of a bound socket."""
    port: int = bound.getsockname()[1]
    return port


def reachable(host: str) -> str:
    """Return the host by which a client on this machine reaches a server that listens on `host`."""
    return _LOOPBACK.get(host, host)


def url_of(host: str, port: int) -> str:
    """Return the address for a browser on this machine."""
    name = reachable(host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


async def answers(pid: int, host: str, port: int, question: bytes, answer: bytes) -> bool:
    """Return whether a process listens on a port and the first line of its answer begins as expected.

    The listener is looked up first, because another process may answer there.
    """
    if not _listens(pid, port):
        return False
    with suppress(OSError):
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(reachable(host), port)
            try:
                writer.write(question)
                return (await reader.readline()).startswith(answer)
            finally:
                writer.close()
    return False


def _listens(pid: int, port: int) -> bool:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:  # it has ended
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)
