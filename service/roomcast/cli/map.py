"""`roomcast map`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import click

from roomcast.app import make_broker, new_node_id
from roomcast.brokers.interface import Sink
from roomcast.brokers.map_interface import Conditions, MapRead, Suppressed
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.cli.map_watch import MapWatch, entry_line
from roomcast.cli.terminal import (
    Failure,
    Lines,
    Reporter,
    answering_client,
    channel_of,
    json_of,
    namespace_of,
    settings_of_environment,
)
from roomcast.config import Settings
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.maps import Change, KeyMode, check_key
from roomcast.model.namespaces import Namespace
from roomcast.model.positions import MAX_OFFSET, Position
from roomcast.model.publications import Kind, Publication, change_of
from roomcast.tasks import end, run_together, run_until_signal

_REASONS = {
    Suppressed.KEY_EXISTS: "the key exists",
    Suppressed.KEY_NOT_FOUND: "there is no such key",
    Suppressed.POSITION_MISMATCH: "the key has another offset",
}
_Function = TypeVar("_Function", bound=Callable[..., None])


def _with_expected(function: _Function) -> _Function:
    """Add the option --expected."""
    offset = click.IntRange(0, MAX_OFFSET)
    text = "Only if this is the offset of the key's last write; 0: only if there is no such key."
    return click.option("--expected", type=offset, help=text)(function)


@click.group("map")
def map_group() -> None:
    """Read, change and watch maps, such as state:board."""


@map_group.command("get")
@click.argument("channel")
@click.argument("key", required=False)
def get_command(channel: str, key: str | None) -> None:
    """Print the entries of a map, or of one KEY, as JSON, one on a line.

    A large map is read in parts, between which it may change.
    """
    settings = settings_of_environment()
    name, namespace = _map_of(settings, channel)
    asyncio.run(_get(settings, name, namespace, None if key is None else _key(key)))


@map_group.command("set")
@click.argument("channel")
@click.argument("key")
@click.argument("value")
@click.option("--if-new", "mode", flag_value="if_new", help="Only if there is no such key.")
@click.option("--if-exists", "mode", flag_value="if_exists", help="Only if the key exists.")
@_with_expected
def set_command(channel: str, key: str, value: str, mode: str | None, expected: int | None) -> None:
    """Set a key of a map to a JSON value.

    For example: roomcast map set state:board a1 '{"color": "red"}'
    """
    settings = settings_of_environment()
    name, namespace = _map_of(settings, channel)
    publication = Publication(name, json_of(settings, "VALUE", value), Kind.JSON, change=Change(_key(key)))
    conditions = Conditions(mode=KeyMode(mode or ""), expected=_position(namespace, expected))
    asyncio.run(_write(settings, publication, namespace, conditions))


@map_group.command("remove")
@click.argument("channel")
@click.argument("key")
@_with_expected
def remove_command(channel: str, key: str, expected: int | None) -> None:
    """Remove a key of a map."""
    settings = settings_of_environment()
    name, namespace = _map_of(settings, channel)
    removal = Publication(name, b"", Kind.JSON, change=Change(_key(key), is_removed=True))
    asyncio.run(_write(settings, removal, namespace, Conditions(expected=_position(namespace, expected))))


@map_group.command("watch")
@click.argument("channel")
def watch_command(channel: str) -> None:
    """Print the entries of a map, then each change, as JSON, one on a line, until Ctrl-C.

    A key that is removed is printed as {"key": ..., "removed": true}. While Redis is away nothing is printed. Then
    follows each key that differs from its last line.
    """
    settings = settings_of_environment()
    name, namespace = _map_of(settings, channel)
    if asyncio.run(run_until_signal(_watch(settings, name, namespace), signal.SIGINT)):
        click.echo(err=True)


def _map_of(settings: Settings, channel: str) -> tuple[str, Namespace]:
    name = channel_of(channel)
    namespace = namespace_of(settings, name)
    if namespace.map is None:
        raise click.UsageError(f'{name} is not a map: its namespace has no type = "map"')
    return name, namespace


def _key(key: str) -> str:
    try:
        return check_key(key)
    except ClientError as exc:
        raise click.UsageError(exc.detail) from exc


def _position(namespace: Namespace, offset: int | None) -> Position | None:
    if offset is None:
        return None
    try:
        return namespace.map_options.expected(Position(offset, ""))
    except ClientError as exc:
        raise click.UsageError(exc.detail) from exc


@asynccontextmanager
async def _running_broker(settings: Settings, sink: Sink) -> AsyncIterator[RedisBroker]:
    """Yield a broker that runs. Raises: Failure for what a map's reads and writes raise in the body."""
    async with answering_client(settings) as client:
        broker = make_broker(client, settings, new_node_id())
        running = asyncio.create_task(broker.run(sink))
        try:
            yield broker
        except BrokerUnavailable as exc:
            raise Failure(exc.reason) from exc
        except ClientError as exc:
            raise Failure(exc.detail) from exc
        finally:
            await end(running)


async def _get(settings: Settings, channel: str, namespace: Namespace, key: str | None) -> None:
    lines = Lines()
    async with _running_broker(settings, Reporter()) as broker:
        read = MapRead(channel, namespace, key=key or "")
        while not lines.is_unread:
            page = await broker.maps.read(read)
            for entry in page.entries:
                lines.print(entry_line(entry, namespace))
            if key is not None and not page.entries:
                raise Failure(f"there is no key {key!r} in {channel}")
            if not page.cursor:
                return
            read = read._replace(after=page.cursor)


async def _write(settings: Settings, publication: Publication, namespace: Namespace, conditions: Conditions) -> None:
    change = change_of(publication)
    done = "removed" if change.is_removed else "set"
    async with _running_broker(settings, Reporter()) as broker:
        written = await broker.maps.write(publication, namespace, conditions=conditions)
    if written.suppressed is not None:
        raise Failure(f"not {done}: {_REASONS[written.suppressed]}")
    where = f" at offset {written.position.offset}" if namespace.tells_positions else ""
    click.echo(f"{done} {change.key} in {publication.channel}{where}")


async def _watch(settings: Settings, channel: str, namespace: Namespace) -> None:
    lines = Lines()
    watch = MapWatch(lines, channel, namespace)
    async with _running_broker(settings, watch) as broker:
        await broker.subscribe(channel)
        await run_together(watch=watch.run(broker.maps), lines=lines.until_unread())
