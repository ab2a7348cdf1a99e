"""Running a contender's server process, alone on its core, for as long as a block runs."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from tests.bench.bus import Bus
from tests.bench.contenders import Contender
from tests.bench.cores import Cores
from tests.bench.errors import BenchError
from tests.bench.place import HOST, Place, find_place

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Server:
    """A contender that runs and listens."""

    pid: int
    place: Place

    def memory_bytes(self) -> int:
        """Return the process's memory: PSS, or RSS where the system does not know it."""
        facts = psutil.Process(self.pid).memory_full_info()
        memory: int = getattr(facts, "pss", facts.rss)
        return memory


@contextmanager
def running_server(contender: Contender, bus: Bus, cores: Cores) -> Iterator[Server]:
    """Run a contender's server.

    Raises: BenchError, with the end of its output, if it does not listen in time.
    """
    # The user's settings must not change the measurement.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROOMCAST_")}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        place = find_place(Path(folder))
        process = subprocess.Popen(
            contender.command(place, bus),
            env={**environment, **contender.environment(bus)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the bench alone, which then ends the others in order
        )
        try:
            cores.pin_server(process.pid)
            _wait_until_listening(contender, place.port, process, log)
            yield Server(process.pid, place)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_listening(contender: Contender, port: int, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            socket.create_connection((HOST, port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
    raise BenchError(f"{contender.name} does not listen; it printed:\n{log.read().decode(errors='replace')}")
