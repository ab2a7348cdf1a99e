"""The `roomcast` command in a process of its own, forked from one that has read all of it: a new one needs a second."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.processes import bare_environment

_TIMEOUT_S = 30.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["__main__", "roomcast.cli.main"])


def roomcast(*arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Return the output and exit code of a command. Args: settings by their names without ROOMCAST_."""
    environment = bare_environment() | {f"ROOMCAST_{name.upper()}": value for name, value in settings.items()}
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stdin").write_text(stdin)
        process = _FORKS.Process(target=_run, args=(arguments, environment, folder))
        process.start()
        process.join(_TIMEOUT_S)
        exit_code = process.exitcode
        process.kill()
        assert exit_code is not None, f"roomcast {' '.join(arguments)} has not ended after {_TIMEOUT_S:g} s"
        return subprocess.CompletedProcess(
            arguments, exit_code, (folder / "stdout").read_text(), (folder / "stderr").read_text()
        )


def assert_one_line(result: subprocess.CompletedProcess[str], exit_code: int, *parts: str) -> None:
    """Assert that a command printed one line about an error."""
    assert result.returncode == exit_code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("roomcast: ")
    for part in parts:
        assert part in result.stderr


def _run(arguments: tuple[str, ...], environment: dict[str, str], folder: Path) -> None:
    from roomcast.cli.main import run

    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(os.open(folder / name, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing has put another one in its place
    sys.argv = ["roomcast", *arguments]
    run()
