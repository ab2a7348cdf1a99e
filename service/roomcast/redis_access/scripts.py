"""Lua scripts on a server: called by their hash, many to a round trip, loaded where they are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

# One command with its arguments, as redis-py takes them.
Command = tuple[Any, ...]  # Any: bytes, str, int or float, in any order


class Script(NamedTuple):
    """A script and its hash."""

    text: str
    sha: str

    def call(self, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> Command:
        """Return the command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args, 1)


def is_call(command: Command) -> bool:
    """Return whether a command calls a script."""
    return bool(command[0] == "EVALSHA")


def first_key(command: Command) -> Any:  # Any: as redis-py takes it
    """Return the key that says where a command belongs."""
    return command[3] if is_call(command) else command[1]


def joined(calls: Sequence[Command]) -> Command:
    """Return one command for calls of one script, each with as many keys and arguments; it replies with a list."""
    if len(calls) == 1:
        return calls[0]
    _, sha, key_count, *_ = calls[0]
    end = 3 + key_count
    keys = [key for call in calls for key in call[3:end]]
    args = [arg for call in calls for arg in call[end:-1]]
    return ("EVALSHA", sha, len(keys), *keys, *args, len(calls))


def read_script(package: str, *names: str) -> Script:
    """Return the script of files that lie in a package: the last one, after those with the functions that it calls.

    ask.lua goes before it and run.lua behind it.
    """
    ask, run = (
        files("roomcast.redis_access").joinpath(name).read_text(encoding="utf-8") for name in ("ask.lua", "run.lua")
    )
    *functions, body = (files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names)
    text = "".join([ask, *functions, "local function run(KEYS, ARGV)\n", body, "end\n", run])
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
