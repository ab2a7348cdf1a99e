"""`roomcast publish` and `roomcast subscribe`."""

from __future__ import annotations

import asyncio
import signal

import click
from typing_extensions import override

from roomcast.app import make_broker, new_node_id
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
from roomcast.model.errors import BrokerUnavailable
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
    payload = json_of(settings, "DATA", data)
    publication = Publication(channel_of(channel), payload, Kind.JSON)
    namespace = namespace_of(settings, publication.channel)
    if namespace.map is not None:
        raise click.UsageError(f"{channel} is a map: set its keys with roomcast map set")
    asyncio.run(_publish(settings, publication, namespace))


@click.command("subscribe")
@click.argument("channel")
def subscribe_command(channel: str) -> None:
    """Print each publication to CHANNEL on a line, until Ctrl-C."""
    settings = settings_of_environment()
    name = channel_of(channel)
    if namespace_of(settings, name).map is not None:
        raise click.UsageError(f"{channel} is a map: print its changes with roomcast map watch")
    subscribing = _subscribe(settings, name)
    if asyncio.run(run_until_signal(subscribing, signal.SIGINT)):
        click.echo(err=True)


class _Printer(Reporter):
    """Prints publications to stdout."""

    def __init__(self) -> None:
        self.lines = Lines()

    @override
    def on_event(self, event: BrokerEvent) -> None:
        if isinstance(event, Publication):
            is_binary = event.kind is Kind.BINARY
            self.lines.print(f"(binary, {len(event.data)} bytes)" if is_binary else event.data.decode())


async def _publish(settings: Settings, publication: Publication, namespace: Namespace) -> None:
    async with answering_client(settings) as client:
        broker = make_broker(client, settings, new_node_id())
        running = asyncio.create_task(broker.run(Reporter()))
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
        together = run_together(broker=broker.run(printer), printer=printer.lines.until_unread())
        running = asyncio.create_task(together)
        try:
            await broker.subscribe(channel)
            click.echo(f"subscribed to {channel}", err=True)
            await running
        except BrokerUnavailable as exc:
            raise Failure(exc.reason) from exc
        finally:
            await end(running)
