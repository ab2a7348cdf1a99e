"""Ends the processes of `roomcast dev` if it was killed. Run as a file, because the package takes long to import."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import IO

import psutil

_STOP_TIMEOUT_S = 15.0


class Guard:
    """A process beside `roomcast dev` that learns the pids of the others by a pipe, and ends them at its end.

    The kernel closes the pipe however `roomcast dev` ends, on Linux and macOS.
    """

    def __init__(self) -> None:
        self._pipe: IO[bytes] | None = None

    def start(self) -> None:
        """Start it, within a tenth of a second."""
        command, none = [sys.executable, __file__], subprocess.DEVNULL
        process = subprocess.Popen(  # noqa: S603  (this file)
            command, stdin=subprocess.PIPE, stdout=none, stderr=none, start_new_session=True
        )
        self._pipe = process.stdin
        process.wait()  # the guard itself is a fork of it, and no child of ours

    def close(self) -> None:
        """Let it end what is still running, and itself."""
        if self._pipe is not None:
            with suppress(OSError):
                self._pipe.close()

    def watch(self, pid: int) -> None:
        """End a process when `roomcast dev` has ended, if it is still running then."""
        if self._pipe is not None:
            with suppress(OSError):  # the guard was killed
                self._pipe.write(b"%d\n" % pid)
                self._pipe.flush()


def _main() -> None:
    if os.fork():
        return
    processes = []
    for line in sys.stdin:
        with suppress(psutil.Error):
            processes.append(psutil.Process(int(line)))  # by its start too: the kernel may give its pid to another one
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_STOP_TIMEOUT_S)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    _main()
