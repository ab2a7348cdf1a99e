"""Pipelines. In a cluster each command goes to the node of its key, and follows the key when its slot moves."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.exceptions import AskError, MovedError, NoScriptError, SlotNotCoveredError, TryAgainError

from roomcast.redis_access.client import OUTAGES, Client
from roomcast.redis_access.scripts import Command, Script, first_key, is_call, joined

# While a slot moves, commands on keys of both sides must wait: usually for milliseconds.
_ATTEMPTS = 20
_PAUSE_S = 0.05
# A call takes Redis some 15 us, and nothing else is done meanwhile.
_MAX_JOINED = 100
# Another one may forget the scripts again.
_LOADS = 3


async def _execute_in_cluster(
    cluster: RedisCluster, commands: Sequence[Command]
) -> list[Any]:  # Any: redis-py's replies
    """Return each command's reply, or the exception in its place; those of one key are run in their order.

    A shard that is away fails its own commands only. redis-py's own pipeline would fail all of them, would ask (ASKING)
    on one connection and send the command on another, and would repeat commands that may have been executed.
    Raises: one of OUTAGES, if no node returns the topology.
    """
    await cluster.initialize()
    replies: list[Any] = [None] * len(commands)
    waiting: Iterable[int] = range(len(commands))
    for attempt in range(_ATTEMPTS):
        if attempt > 1:
            await asyncio.sleep(_PAUSE_S)
        batches: dict[ClusterNode, list[int]] = defaultdict(list)
        for number in waiting:
            try:
                batches[_node(cluster, commands[number], replies[number])].append(number)
            except SlotNotCoveredError as exc:
                replies[number] = exc
        await asyncio.gather(*[_run(node, numbers, commands, replies) for node, numbers in batches.items()])
        waiting = [n for n in waiting if isinstance(replies[n], AskError | TryAgainError)]  # MovedError is an AskError
        for number in waiting:
            if isinstance(replies[number], MovedError):
                await cluster.nodes_manager.move_slot(replies[number])
        if not waiting:
            break
    return replies


async def _load_in_cluster(cluster: RedisCluster, scripts: Sequence[Script]) -> None:
    """Send the scripts to every primary that can be reached."""
    commands: list[Command] = [("SCRIPT", "LOAD", script.text) for script in scripts]
    numbers = list(range(len(commands)))
    await asyncio.gather(*[_run(node, numbers, commands, [None] * len(commands)) for node in cluster.get_primaries()])


def _node(cluster: RedisCluster, command: Command, before: Any) -> ClusterNode:  # Any: the reply of the last attempt
    """Return the node for a command. Raises: SlotNotCoveredError."""
    if isinstance(before, AskError) and not isinstance(before, MovedError):
        node = cluster.get_node(before.host, before.port)
        if node is not None:
            return node
    node = cluster.get_node_from_key(first_key(command))
    if node is None:
        raise SlotNotCoveredError
    return node


async def _run(node: ClusterNode, numbers: list[int], commands: Sequence[Command], replies: list[Any]) -> None:
    """Run commands on a node, in one pipeline; each one's reply, or the exception, is put in its place."""
    pipeline: list[PipelineCommand] = []
    sent: list[PipelineCommand] = []
    for number in numbers:
        if isinstance(replies[number], AskError) and not isinstance(replies[number], MovedError):
            pipeline.append(PipelineCommand(len(pipeline), "ASKING"))
        sent.append(PipelineCommand(len(pipeline), *commands[number]))
        pipeline.append(sent[-1])
    try:
        await node.execute_pipeline(pipeline)
    except OUTAGES as exc:
        for command in sent:
            command.result = exc
    for number, command in zip(numbers, sent, strict=True):
        replies[number] = command.result


class _Round:
    """Commands that are sent together. No key has two, so that none can overtake another while scripts are missing.

    The calls of one script and one key are joined: they are executed or missing together.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[Any, ...], tuple[list[int], list[Command]]] = {}  # Any: the script, the sizes, the key
        self._keys: dict[Any, tuple[Any, ...]] = {}
        self._plain: list[tuple[int, Command]] = []

    def add(self, number: int, command: Command) -> bool:
        """Add a command, and return whether it belongs into this round."""
        key = first_key(command)
        kind = (command[1], command[2], len(command), key) if is_call(command) else ()
        if self._keys.setdefault(key, kind) != kind:
            return False
        if not kind:
            self._plain.append((number, command))
            return True
        numbers, calls = self._calls.setdefault(kind, ([], []))
        if len(calls) == _MAX_JOINED:
            return False
        numbers.append(number)
        calls.append(command)
        return True

    async def execute(self, client: Client, scripts: Sequence[Script], replies: list[Any]) -> None:
        """Put the reply to each command, or the exception, in its place."""
        sent = [([number], command) for number, command in self._plain]
        sent += [(numbers, joined(calls)) for numbers, calls in self._calls.values()]
        found = await _execute(client, [command for _, command in sent])
        for _ in range(_LOADS):
            missing = [place for place, reply in enumerate(found) if isinstance(reply, NoScriptError)]
            if not missing:
                break
            # The server has restarted or is new.
            if isinstance(client, RedisCluster):
                await _load_in_cluster(client, scripts)
            else:
                await _execute(client, [("SCRIPT", "LOAD", script.text) for script in scripts])
            again = await _execute(client, [sent[place][1] for place in missing])
            for place, reply in zip(missing, again, strict=True):
                found[place] = reply
        for (numbers, _), reply in zip(sent, found, strict=True):
            if len(numbers) == 1:
                replies[numbers[0]] = reply
                continue
            each = [reply] * len(numbers) if isinstance(reply, Exception) else reply
            for number, one in zip(numbers, each, strict=True):
                replies[number] = one


async def run_pipeline(
    client: Client, commands: Iterable[Command], scripts: Sequence[Script]
) -> list[Any]:  # Any: redis-py's replies
    """Return each command's reply, or the exception in its place.

    The commands of one key are run in their order: the first argument, or the first key of a script.
    Raises: one of OUTAGES; any of them may have been executed.
    """
    commands = list(commands)
    replies: list[Any] = [None] * len(commands)
    gathered = _Round()
    for number, command in enumerate(commands):
        if not gathered.add(number, command):
            await gathered.execute(client, scripts, replies)
            gathered = _Round()
            gathered.add(number, command)
    await gathered.execute(client, scripts, replies)
    return replies


async def run_all(
    client: Client, commands: Iterable[Command], scripts: Sequence[Script]
) -> list[Any]:  # Any: redis-py's replies
    """Return each command's reply; see `run_pipeline`. Raises: also the first exception among the replies."""
    replies = await run_pipeline(client, commands, scripts)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def _execute(client: Client, commands: Sequence[Command]) -> list[Any]:  # Any: as above
    if isinstance(client, RedisCluster):
        return await _execute_in_cluster(client, commands)
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)
