"""`roomcast dev` as a process, and its output."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Self

import psutil

from tests.support.ports import free_ports
from tests.support.processes import IGNORING_SIGINT, bare_environment

# Generous: a loaded machine needs several seconds to start seven Python processes.
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 40.0


class DevCluster:
    """Two nodes on free ports and a balancer, from `__enter__` to `__exit__`.

    environment: added to that of the tests, which has no settings.
    is_ignoring_sigint: whether it starts as behind `nohup` or a script's `&`.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, is_ignoring_sigint: bool = False) -> None:
        self.port = free_ports(2)[0]
        self.output = ""
        self._command = [
            *(IGNORING_SIGINT if is_ignoring_sigint else []),
            *(sys.executable, "-m", "roomcast", "dev", "--port", str(self.port), "--balancer-port", "0"),
        ]
        self._environment = bare_environment() | dict(environment or {})
        self._has_more = threading.Condition()
        self._is_over = False
        self._seen = 0

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.end()

    def wait_for(self, pattern: str, *, within_s: float = START_TIMEOUT_S) -> re.Match[str]:
        """Return the next match in its output; `^` and `$` are the ends of lines.

        Raises: AssertionError if there is none in time.
        """
        deadline_s = time.monotonic() + within_s
        with self._has_more:
            while (match := re.compile(pattern, re.MULTILINE).search(self.output, self._seen)) is None:
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"no {pattern!r} in time: {self.output!r}"
                assert not self._is_over, f"no {pattern!r}: {self.output!r}"
                self._has_more.wait(left_s)
            self._seen = match.end()
            return match

    def greeting(self) -> str:
        """Return all that it prints once it serves."""
        self.wait_for("Ctrl-C ends all of it")
        return self.output

    def family(self) -> list[psutil.Process]:
        """Return every process that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def nodes(self) -> list[psutil.Process]:
        """Return the nodes' processes, by their ports."""
        nodes = [each for each in self.family() if "node" in each.cmdline()]
        return sorted(nodes, key=lambda node: node.cmdline()[-1])

    def child(self, part: str) -> psutil.Process:
        """Return the one process with this part in its command line."""
        (found,) = [each for each in self.family() if part in " ".join(each.cmdline())]
        return found

    def end(self) -> int:
        """Wait until it has ended, and return its exit code."""
        try:
            return self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(END_TIMEOUT_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                with self._has_more:
                    self.output += line
                    self._has_more.notify_all()
        with self._has_more:
            self._is_over = True
            self._has_more.notify_all()
