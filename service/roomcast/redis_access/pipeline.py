"""Pipelines: many commands to a round trip, and those of one key in their order, whatever the server has forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError

from roomcast.redis_access.client import Client
from roomcast.redis_access.cluster_pipeline import ATTEMPTS, execute_in_cluster, is_moving, load_in_cluster
from roomcast.redis_access.scripts import Command, Script, first_key, is_call, joined

T = TypeVar("T")

# A call takes Redis some 15 us, and nothing else is done meanwhile.
_MAX_JOINED = 100
# Another one may forget the scripts again.
_LOADS = 3
# Of `run_pipeline`: no other command waits for one whose slot moves.
QUICK = 2
_LATER = ("later",)


class _Round:
    """Commands that are sent together. No key has two, so that none can overtake another while scripts are missing.

    The calls of one script and one key are joined: they are executed or missing together.
    """

    def __init__(self) -> None:
        self._sent: list[tuple[list[int], list[Command]]] = []
        self._calls: dict[tuple[Any, ...], tuple[list[int], list[Command]]] = {}  # Any: the script, the sizes, the key
        self._kinds: dict[Any, tuple[Any, ...]] = {}

    def add(self, number: int, command: Command) -> bool:
        """Add a command; return False if it, and later ones of its key, have to wait for the next round."""
        key = first_key(command)
        kind = (command[1], command[2], len(command), key) if is_call(command) else ()
        if self._kinds.setdefault(key, kind) != kind:
            self._kinds[key] = _LATER
            return False
        if kind in self._calls:
            numbers, calls = self._calls[kind]
            numbers.append(number)
            calls.append(command)
            if len(calls) == _MAX_JOINED:
                self._kinds[key] = _LATER
            return True
        self._sent.append(([number], [command]))
        if kind:
            self._calls[kind] = self._sent[-1]
        return True

    async def execute(
        self, client: Client, scripts: Sequence[Script], replies: list[Any], attempts: int
    ) -> dict[Any, Any]:
        """Put each command's reply, or the exception, in its place; return keys whose slot moves, with that reply."""
        sent = [(numbers, joined(calls)) for numbers, calls in self._sent]
        found = await _execute_loaded(client, [command for _, command in sent], scripts, attempts)
        moving = {}
        for (numbers, command), reply in zip(sent, found, strict=True):
            is_one = len(numbers) == 1 or isinstance(reply, Exception)
            for number, each in zip(numbers, [reply] * len(numbers) if is_one else reply, strict=True):
                replies[number] = each
            if is_moving(reply):
                moving[first_key(command)] = reply
        return moving


async def run_pipeline(
    client: Client, commands: Iterable[Command], scripts: Sequence[Script], *, attempts: int = ATTEMPTS
) -> list[Any]:  # Any: redis-py's replies
    """Return each command's reply, or the exception in its place.

    The commands of one key are executed in their order: the first argument, or the first key of a script.
    Args:
        attempts: of commands whose slot moves; with `QUICK` no other command waits for them.
    Raises: one of OUTAGES; any of them may have been executed.
    """
    commands = list(commands)
    if len({first_key(command) for command in commands}) == len(commands):  # usual, and 2 us a command cheaper
        return await _execute_loaded(client, commands, scripts, attempts)
    waiting = list(enumerate(commands))
    replies: list[Any] = [None] * len(waiting)
    while waiting:
        sent = _Round()
        later = [(number, command) for number, command in waiting if not sent.add(number, command)]
        moving = await sent.execute(client, scripts, replies, attempts)
        waiting = []
        for number, command in later:
            if first_key(command) in moving:
                replies[number] = moving[first_key(command)]
            else:
                waiting.append((number, command))
    return replies


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Return parts of a sequence, in order: one pipeline would take too long, or too much memory."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def run_all(
    client: Client, commands: Iterable[Command], scripts: Sequence[Script]
) -> list[Any]:  # Any: redis-py's replies
    """Return each command's reply; see `run_pipeline`. Raises: also the first exception among the replies."""
    replies = await run_pipeline(client, commands, scripts)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def _execute_loaded(
    client: Client, commands: Sequence[Command], scripts: Sequence[Script], attempts: int
) -> list[Any]:  # Any: redis-py's replies
    """Execute commands; load the scripts and repeat the calls if the server does not have them."""
    found = await _execute(client, commands, attempts)
    for _ in range(_LOADS):
        missing = [place for place, reply in enumerate(found) if isinstance(reply, NoScriptError)]
        if not missing:
            break
        # The server has restarted or is new.
        again = await _load_and_execute(client, scripts, [commands[place] for place in missing], attempts)
        for place, reply in zip(missing, again, strict=True):
            found[place] = reply
    return found


async def _load_and_execute(
    client: Client, scripts: Sequence[Script], commands: Sequence[Command], attempts: int
) -> list[Any]:  # Any: redis-py's replies
    """Load the scripts, because the server has restarted or is new, and execute commands that call them."""
    if isinstance(client, RedisCluster):
        await load_in_cluster(client, scripts)
        return await execute_in_cluster(client, commands, attempts)
    loads: list[Command] = [("SCRIPT", "LOAD", script.text) for script in scripts]
    return (await _execute(client, [*loads, *commands], attempts))[len(loads) :]


async def _execute(client: Client, commands: Sequence[Command], attempts: int) -> list[Any]:  # Any: redis-py's replies
    if isinstance(client, RedisCluster):
        return await execute_in_cluster(client, commands, attempts)
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)
