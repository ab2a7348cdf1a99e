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
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


def read_script(package: str, name: str) -> Script:
    """Return the script of a file that lies in a package, with `ask` of ask.lua before it."""
    ask = files("roomcast.redis_access").joinpath("ask.lua").read_text(encoding="utf-8")
    text = ask + files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
