"""Commands and nodes read and write UTF-8, whatever the locale says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from websockets.sync.client import connect

from tests.support.bare_machine import missing
from tests.support.command_line import assert_one_line, roomcast
from tests.support.processes import DEADLINE_S, Cluster, bare_environment

pytestmark = pytest.mark.redis

TEXT = '{"text": "größe 😀"}'


def ascii_locale(_: Path) -> dict[str, str]:
    return {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}


def latin1_locale(path: Path) -> dict[str, str]:
    if shutil.which("localedef") is None:
        missing("localedef is not installed")
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(path / "de_DE.ISO-8859-1")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        missing(f"the locale de_DE.ISO-8859-1 cannot be made: {made.stderr}")
    return {"LOCPATH": str(path), "LC_ALL": "de_DE.ISO-8859-1"}


@pytest.mark.parametrize("make_locale", [ascii_locale, latin1_locale])
def test_a_node_and_the_commands_speak_utf_8(
    make_locale: Callable[[Path], dict[str, str]], redis_url: str, prefix: str, tmp_path: Path
) -> None:
    namespaces = tmp_path / "größe.toml"
    namespaces.write_text("# 😀\n[sizes]\n", encoding="utf-8-sig")  # as editors on Windows do
    with Cluster(redis_url, f"{prefix}ö:", namespaces_file=str(namespaces)) as cluster:
        cluster.environment |= make_locale(tmp_path)
        command = [sys.executable, "-m", "roomcast"]
        environment = bare_environment() | cluster.environment
        with subprocess.Popen(
            [*command, "subscribe", "room:ä"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as reader:
            try:
                node = cluster.start_node()
                assert reader.stdout is not None
                assert reader.stderr is not None
                assert reader.stderr.readline() == "subscribed to room:ä\n"
                with connect(node.ws(f"/ws/rooms/{quote('ä')}"), proxy=None) as ada:
                    done = subprocess.run(
                        [*command, "publish", "room:ä", TEXT],
                        env=environment,
                        capture_output=True,
                        encoding="utf-8",
                        check=True,
                    )
                    assert done.stdout == "published to room:ä at offset 1; 2 subscribed nodes took it\n"
                    assert ada.recv(timeout=DEADLINE_S) == TEXT
                    assert reader.stdout.readline() == f"{TEXT}\n"
                assert node.faults() == []
            finally:
                reader.kill()


def test_bytes_that_are_not_utf_8_are_an_error_of_one_line() -> None:
    text = os.fsdecode(b'"\xff"')

    assert_one_line(roomcast("publish", "room:a", text), 2, "DATA is not JSON (not UTF-8)")
    assert_one_line(roomcast("publish", text, "1"), 2, "channel is not valid UTF-8")
    assert_one_line(roomcast("subscribe", text), 2, "channel is not valid UTF-8")
    assert_one_line(roomcast("token", "--user", text, secret="x" * 32), 2, "user is not valid UTF-8")
    assert_one_line(roomcast("check", prefix=text), 2, "ROOMCAST_PREFIX")
