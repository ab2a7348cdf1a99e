"""`roomcast publish` and `roomcast subscribe`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import click
from typing_extensions import override

from roomcast.app import make_broker, new_node_id
from roomcast.brokers.interface import Sink
from roomcast.cli.terminal import Failure, answering_client, settings_of_environment
from roomcast.config import Settings, read_namespaces
from roomcast.model.channels import check_channel, is_of_nodes
from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.json import InvalidJson, check
from roomcast.model.namespaces import Namespace
from roomcast.model.publications import BrokerEvent, Kind, Publication
from roomcast.tasks import end, run_together, run_until_signal


@click.command("publish")
@click.argument("channel")
@click.argument("data")
def publish_command(channel: str, data: str) -> None:
    """Publish a JSON value to a channel.

    For example: roomcast publish room:lobby '{"text": "hi"}'
    """
    settings = settings_of_environment()
    payload = os.fsencode(data)  # as it was typed, even where that is not valid UTF-8
    if len(payload) > settings.max_message_bytes:
        raise click.UsageError(f"DATA has more than {settings.max_message_bytes} bytes (ROOMCAST_MAX_MESSAGE_BYTES)")
    try:
        check(payload)
    except InvalidJson as exc:
        raise click.UsageError(f"DATA is not JSON ({exc}); a text needs quotes inside, for example '\"hi\"'") from exc
    publication = Publication(_channel(channel), payload, Kind.JSON)
    asyncio.run(_publish(settings, publication, _namespace(settings, publication.channel)))


@click.command("subscribe")
@click.argument("channel")
def subscribe_command(channel: str) -> None:
    """Print each publication to CHANNEL on a line, until Ctrl-C."""
    settings = settings_of_environment()
    name = _channel(channel)
    _namespace(settings, name)
    subscribing = _subscribe(settings, name)
    if asyncio.run(run_until_signal(subscribing, signal.SIGINT)):
        click.echo(err=True)


def _channel(name: str) -> str:
    try:
        return check_channel(name)
    except ClientError as exc:
        raise click.UsageError(exc.detail) from exc


def _namespace(settings: Settings, channel: str) -> Namespace:
    try:
        return read_namespaces(settings).of(channel)
    except ClientError as exc:
        hint = f" (the room {channel} is room:{channel}; for {channel} itself set ROOMCAST_DEFAULT_NAMESPACE=true)"
        is_plain = ":" not in channel and not is_of_nodes(channel)
        raise click.UsageError(f"{exc.detail}{hint}" if is_plain else exc.detail) from exc


class _Printer(Sink):
    """Prints publications to stdout, everything else to stderr."""

    def __init__(self) -> None:
        self._is_unread = asyncio.Event()

    async def until_unread(self) -> None:
        """Wait until the reader of stdout has gone, as behind `| head`."""
        await self._is_unread.wait()

    @override
    def on_event(self, event: BrokerEvent) -> None:
        if not isinstance(event, Publication):
            return
        if event.kind is Kind.BINARY:
            line = f"(binary, {len(event.data)} bytes)"
        else:
            line = event.data.decode()
            # A payload may contain escape sequences that a terminal would execute.
            if sys.stdout.isatty() and not line.isprintable():
                line = json.dumps(line, ensure_ascii=False)[1:-1]
        try:
            click.echo(line)
        except BrokenPipeError:
            self._is_unread.set()

    @override
    def on_malformed(self, channel: str, reason: str) -> None:
        click.echo(f"dropped a message in {channel}: {reason}", err=True)

    @override
    def on_disconnected(self) -> None:
        click.echo("Redis is away; publications may be missing from here on", err=True)

    @override
    def on_connected(self, *, is_again: bool) -> None:
        if is_again:
            click.echo("back again", err=True)


async def _publish(settings: Settings, publication: Publication, namespace: Namespace) -> None:
    async with answering_client(settings) as client:
        broker = make_broker(client, settings, new_node_id())
        running = asyncio.create_task(broker.run(_Printer()))
        try:
            published = await broker.publish(publication, namespace)
        except BrokerUnavailable as exc:
            raise Failure(exc.reason) from exc
        finally:
            await end(running)
    count = published.receiver_count
    nodes = "1 subscribed node" if count == 1 else f"{count} subscribed nodes"
    where = "" if published.position is None else f" at offset {published.position.offset}"
    click.echo(f"published to {publication.channel}{where}; {nodes} took it")


async def _subscribe(settings: Settings, channel: str) -> None:
    async with answering_client(settings) as client:
        broker, printer = make_broker(client, settings, new_node_id()), _Printer()
        together = run_together(broker=broker.run(printer), printer=printer.until_unread())
        running = asyncio.create_task(together)
        try:
            await broker.subscribe(channel)
            click.echo(f"subscribed to {channel}", err=True)
            await running
        except BrokerUnavailable as exc:
            raise Failure(exc.reason) from exc
        finally:
            await end(running)
