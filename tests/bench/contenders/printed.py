"""The output of short commands, such as `--version`."""

from __future__ import annotations

import subprocess


def printed(command: list[str]) -> str:
    """Return the output of a short command on both streams; empty if it cannot be run."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
