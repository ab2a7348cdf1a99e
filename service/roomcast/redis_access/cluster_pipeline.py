"""Pipelines in a cluster: each command goes to the node of its key, and follows the key when its slot moves."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, SlotNotCoveredError, TryAgainError

from roomcast.redis_access.client import OUTAGES
from roomcast.redis_access.scripts import Command, Script, first_key

# While a slot moves, commands on keys of both sides must wait: usually for milliseconds.
ATTEMPTS = 20
_PAUSE_S = 0.05


async def execute_in_cluster(
    cluster: RedisCluster, commands: Sequence[Command], attempts: int
) -> list[Any]:  # Any: redis-py's replies
    """Return each command's reply, or the exception in its place; those of one key are run in their order.

    A shard that is away fails its own commands only. redis-py's own pipeline would fail all of them, would ask (ASKING)
    on one connection and send the command on another, and would repeat commands that may have been executed.
    Raises: one of OUTAGES, if no node returns the topology.
    """
    await cluster.initialize()
    replies: list[Any] = [None] * len(commands)
    await _send(cluster, range(len(commands)), commands, replies)
    waiting = [number for number, reply in enumerate(replies) if is_moving(reply)]
    for attempt in range(1, attempts):
        if not waiting:
            break
        if attempt > 1:
            await asyncio.sleep(_PAUSE_S)
        for number in waiting:
            if isinstance(replies[number], MovedError):
                await cluster.nodes_manager.move_slot(replies[number])
        await _send_again(cluster, waiting, commands, replies)
        waiting = [number for number in waiting if is_moving(replies[number])]
    return replies


async def _send_again(
    cluster: RedisCluster, waiting: Sequence[int], commands: Sequence[Command], replies: list[Any]
) -> None:
    """Send commands that were redirected: the first one of each slot, and where it is executed those behind it.

    Together they might go to both sides of the move, and a later one be executed before it.
    """
    by_slot: dict[int, list[int]] = defaultdict(list)
    for number in waiting:
        by_slot[slot_of(commands[number])].append(number)
    ways = {slot: replies[numbers[0]] for slot, numbers in by_slot.items()}
    await _send(cluster, [numbers[0] for numbers in by_slot.values()], commands, replies)
    rest: list[int] = []
    for slot, (first, *others) in by_slot.items():
        if not is_moving(replies[first]):
            rest += others
            for number in others:
                replies[number] = ways[slot]
    await _send(cluster, rest, commands, replies)


async def _send(cluster: RedisCluster, numbers: Iterable[int], commands: Sequence[Command], replies: list[Any]) -> None:
    """Run commands on their nodes; each one's reply, or the exception, is put in its place."""
    batches: dict[ClusterNode, list[int]] = defaultdict(list)
    for number in numbers:
        try:
            batches[_node(cluster, commands[number], replies[number])].append(number)
        except SlotNotCoveredError as exc:
            replies[number] = exc
    await asyncio.gather(*[_run(node, numbers, commands, replies) for node, numbers in batches.items()])


def is_moving(reply: object) -> bool:
    """Return whether a command was not executed because its slot moves between two shards."""
    return isinstance(reply, AskError | TryAgainError)  # MovedError is an AskError


def slot_of(command: Command) -> int:
    """Return the slot of a command's first key."""
    return int(key_slot(str(first_key(command)).encode()))


async def load_in_cluster(cluster: RedisCluster, scripts: Sequence[Script]) -> None:
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
