"""What a program prints about itself."""

from __future__ import annotations

import subprocess


def printed(command: list[str]) -> str:
    """Return what a short command prints, to either stream; nothing if it cannot be run."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
