"""The machine and the versions that figures belong to; no host names, no paths."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "websockets", "redis", "hiredis")


def describe_machine() -> dict[str, str]:
    """Return the processor, the system and Python."""
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def describe_versions(valkey_version: str) -> dict[str, str]:
    """Return the versions of all that takes part."""
    return {**{package: version(package) for package in _PACKAGES}, "Valkey": valkey_version}


def _cpu_model() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
