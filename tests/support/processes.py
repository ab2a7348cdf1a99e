"""Real node and worker processes for tests, and waiting for their effects."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect

API_KEY = "0123456789abcdef-test"
DEADLINE_S = 30.0
# Starts a command as `nohup` and a script's `&` do.
IGNORING_SIGINT = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]

T = TypeVar("T")
# Tests talk to this machine alone; a context that reads all certificates would cost each client 23 ms.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def eventually(condition: Callable[[], Awaitable[T]], *, within_s: float = DEADLINE_S) -> T:
    """Return the condition's first true result. Raises: AssertionError after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while True:
        result = await condition()
        if result:
            return result
        assert time.monotonic() < deadline_s, f"still {result!r} after {within_s} s"
        await asyncio.sleep(0.02)


def http_client(**options: Any) -> httpx.AsyncClient:  # Any: of httpx
    """Return a client for HTTP on this machine."""
    return httpx.AsyncClient(verify=_NO_CERTIFICATES, **options)


def bare_environment() -> dict[str, str]:
    """Return the environment without the user's own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ROOMCAST_")}


class RoomcastProcess:
    """One `roomcast ...` process; its JSON log lines are kept."""

    def __init__(self, arguments: list[str], environment: dict[str, str], *, module: str = "roomcast") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**bare_environment(), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the next log line of this event. Raises: AssertionError if it does not come."""
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {event} in the log: {self.log}") from None
            if line["event"] == event:
                return line

    def faults(self) -> list[dict[str, Any]]:
        """Return unexpected log lines: errors, and lines that are not JSON."""
        return [line for line in self.log if line.get("level") not in {"debug", "info", "warning"}]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """End the process as an operator would, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(DEADLINE_S)
            if self.process.stderr is not None:
                self.process.stderr.close()
        return self.process.returncode

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "not json", "line": line}
            self.log.append(entry)
            self._lines.put(entry)


class NodeProcess(RoomcastProcess):
    """One node on a free port; `module`: run instead of `roomcast`."""

    def __init__(self, environment: dict[str, str], *, module: str = "roomcast") -> None:
        super().__init__(["node", "--port", "0"], environment, module=module)
        try:
            self.port: int = self.wait_for("node.listening")["port"]
        except AssertionError:
            self.end()
            raise

    def ws(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def http(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def connect(self, path: str) -> connect:
        """Return websockets' connection to this node, to be entered or awaited."""
        return connect(self.ws(path), compression=None, ping_interval=None, proxy=None, close_timeout=1.0)


class Cluster:
    """Nodes and workers on one Redis; all of them end with the block."""

    def __init__(self, redis_url: str, prefix: str, **settings: str) -> None:
        self.environment = {
            "ROOMCAST_REDIS_URL": redis_url,
            "ROOMCAST_PREFIX": prefix,
            "ROOMCAST_API_KEY": API_KEY,
            **({} if "secret" in settings else {"ROOMCAST_INSECURE": "true"}),
            **{f"ROOMCAST_{name.upper()}": value for name, value in settings.items()},
        }
        self.prefix = prefix
        self.nodes: list[NodeProcess] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_node(self, *, module: str = "roomcast", **settings: str) -> NodeProcess:
        node = NodeProcess(self._environment(settings), module=module)
        self._stack.callback(node.end)
        node.wait_for("broker.connected")
        self.nodes.append(node)
        return node

    def start_nodes(self, count: int) -> None:
        """Start nodes at the same time."""
        with ThreadPoolExecutor(count) as threads:
            for starting in [threads.submit(self.start_node) for _ in range(count)]:
                starting.result()

    def start_worker(self, kind: str = "metrics", **settings: str) -> RoomcastProcess:
        worker = RoomcastProcess(["worker", kind], self._environment(settings))
        self._stack.callback(worker.end)
        return worker

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        return {**self.environment, **{f"ROOMCAST_{name.upper()}": value for name, value in settings.items()}}


async def receive(socket: ClientConnection, within_s: float = DEADLINE_S) -> str | bytes:
    """Return the next message. Raises: TimeoutError, and websockets' ConnectionClosed."""
    async with asyncio.timeout(within_s):
        return await socket.recv()
