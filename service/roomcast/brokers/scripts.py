"""Lua scripts on a server: called by their hash, many to a round trip, loaded where they are missing."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError

from roomcast.brokers import cluster

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from roomcast.brokers.client import Client

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
    """Return the script of a file that lies in a package."""
    text = files(package).joinpath(f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


async def run_pipeline(
    client: Client, commands: Iterable[Command], scripts: Sequence[Script]
) -> list[Any]:  # Any: redis-py's replies
    """Return each command's reply, or the exception in its place; the commands are run in their order.

    In a cluster those of one key are: the first argument, or the first key of a script.
    Raises: one of OUTAGES; then nobody knows which were run.
    """
    commands = list(commands)
    replies = await _execute(client, commands)
    missing = [number for number, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if missing:  # the server is new, or has forgotten: either way it has run none of them
        if isinstance(client, RedisCluster):
            await cluster.load(client, scripts)
        else:
            await _execute(client, [("SCRIPT", "LOAD", script.text) for script in scripts])
        for number, reply in zip(missing, await _execute(client, [commands[n] for n in missing]), strict=True):
            replies[number] = reply
    return replies


async def run_all(
    client: Client, commands: Iterable[Command], scripts: Sequence[Script]
) -> list[Any]:  # Any: redis-py's replies
    """Return each command's reply; see `run_pipeline`. Raises: the first exception in the place of a reply, too."""
    replies = await run_pipeline(client, commands, scripts)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def _execute(client: Client, commands: Sequence[Command]) -> list[Any]:  # Any: as above
    if isinstance(client, RedisCluster):
        return await cluster.execute(client, commands)
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)
