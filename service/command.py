"""The `roomcast` command."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click
import orjson
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from service import __version__, dev
from service.app import new_node_id
from service.auth.keys import local_keys
from service.brokers.client import OUTAGES, ask, connect, describe
from service.brokers.redis import RedisBroker
from service.brokers.registry import NodeRegistry
from service.channels import check_channel
from service.config import (
    ConfigError,
    Settings,
    masked,
    read_namespaces,
    read_settings,
    require_auth,
    unknown_variables,
)
from service.errors import BrokerUnavailable, ClientError
from service.hooks.build import webhook_receiver
from service.hooks.python import load_functions
from service.messages import Heard, Kind, Publication
from service.server import listen, serve
from service.setting_types import split_names
from service.tasks import end, run_together
from service.telemetry import configure_logging
from service.token_command import token_command
from workers import ingest, metrics, webhooks
from workers.ingest import IngestWorker
from workers.metrics import MetricsWorker
from workers.runner import Health, run_until_told
from workers.webhooks import WebhookWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.brokers.client import Client
    from service.namespaces import Namespace
    from workers.runner import Worker

_LAST_PORT = 65535


class Failure(click.ClickException):
    """An expected fault: one line that says what to do, exit code 1."""

    exit_code = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="roomcast")
def cli() -> None:
    """Broadcast to every browser on every node.

    Settings come from the environment (ROOMCAST_...); `roomcast check` shows them.
    """


@cli.command("dev")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port of the first node.")
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(1, 16), help="How many nodes.")
def dev_command(host: str, port: int, nodes: int) -> None:
    """Run a whole cluster on this machine."""
    settings = _settings()
    if port + nodes - 1 > _LAST_PORT:
        raise click.UsageError(f"{nodes} nodes from port {port} on need ports beyond {_LAST_PORT}")
    try:
        dev.run(settings, host=host, port=port, node_count=nodes)
    except dev.DevError as exc:
        raise Failure(str(exc)) from exc


@cli.command("node")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
def node_command(host: str, port: int) -> None:
    """Run one node."""
    settings = _settings()
    _check_handlers(settings)
    try:
        require_auth(settings)
        local_keys(settings)
    except ConfigError as exc:
        raise click.UsageError(f"{exc} (docs/auth.md)") from exc
    try:
        listener = listen(host, port, settings=settings)
    except OSError as exc:
        raise Failure(f"cannot listen on {host} port {port}: {exc.strerror}; choose with --host and --port") from exc
    sys.exit(serve(listener, settings))


@cli.group("worker")
def worker_group() -> None:
    """Run a worker."""


def _check_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--check", is_flag=True, help="Only say whether this host's worker lives.")(command)


@worker_group.command(metrics.NAME)
@_check_option
def metrics_command(*, check: bool) -> None:
    """Publish the dashboard's figures; of several workers, one does."""
    _work(metrics.NAME, _metrics_worker, check=check)


@worker_group.command(ingest.NAME)
@_check_option
def ingest_command(*, check: bool) -> None:
    """Publish what services add to the ingest stream; of several workers, one does."""
    _work(ingest.NAME, _ingest_worker, check=check)


@worker_group.command(webhooks.NAME)
@_check_option
def webhooks_command(*, check: bool) -> None:
    """Post what has happened to ROOMCAST_WEBHOOK_URL; of several workers, one does."""
    if _settings().webhook_url is None:
        raise click.UsageError("set ROOMCAST_WEBHOOK_URL and ROOMCAST_WEBHOOK_SECRET (docs/applications.md)")
    _work(webhooks.NAME, _webhook_worker, check=check)


@cli.command("publish")
@click.argument("channel")
@click.argument("data")
def publish_command(channel: str, data: str) -> None:
    """Publish a JSON value to a channel.

    For example: roomcast publish room:lobby '{"text": "hi"}'
    """
    settings = _settings()
    if len(data.encode()) > settings.max_message_bytes:
        raise click.UsageError(f"DATA has more than {settings.max_message_bytes} bytes (ROOMCAST_MAX_MESSAGE_BYTES)")
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise click.UsageError(
            f"DATA is not JSON ({exc.msg}); a text needs quotes inside, for example '\"hi\"'"
        ) from exc
    publication = Publication(_channel(channel), data.encode())
    asyncio.run(_publish(settings, publication, _namespace(settings, publication.channel)))


@cli.command("subscribe")
@click.argument("channel")
def subscribe_command(channel: str) -> None:
    """Print what is published to CHANNEL, a line each, until Ctrl-C."""
    settings = _settings()
    try:
        asyncio.run(_subscribe(settings, _channel(channel)))
    except KeyboardInterrupt:
        click.echo(err=True)


@cli.command("check")
def check_command() -> None:
    """Print the settings, secrets masked, and whether Redis answers."""
    settings = _settings()
    for name, value in masked(settings).items():
        click.echo(f"{name}={value}")
    for name in unknown_variables():
        click.echo(f"{name} is set, but no setting has this name", err=True)
    asyncio.run(_check_redis(settings))


cli.add_command(token_command)


def run() -> None:
    """Run the command: exit code 0, 1 for a failure, 2 for wrong use; each error is one line."""
    try:
        sys.exit(cli.main(prog_name="roomcast", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message())
        sys.exit(0)
    except click.ClickException as exc:
        hint = ""
        if isinstance(exc, click.UsageError) and exc.ctx is not None:
            hint = f" (see: {exc.ctx.command_path} --help)"
        click.echo(f"roomcast: {exc.format_message()}{hint}", err=True)
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


def _settings() -> Settings:
    try:
        settings = read_settings()
        read_namespaces(settings)
    except ConfigError as exc:
        raise click.UsageError(f"{exc} (docs/settings.md)") from exc
    return settings


def _check_handlers(settings: Settings) -> None:
    """Import the application's handlers, also from the working directory, as uvicorn does."""
    sys.path.insert(0, "")
    try:
        load_functions(settings)
    except ConfigError as exc:
        raise click.UsageError(f"{exc} (docs/applications.md)") from exc


def _channel(name: str) -> str:
    try:
        return check_channel(name)
    except ClientError as exc:
        raise click.UsageError(exc.detail) from exc


def _namespace(settings: Settings, channel: str) -> Namespace:
    try:
        return read_namespaces(settings).of(channel)
    except ClientError as exc:
        hint = "" if ":" in channel else f" (the room {channel} is room:{channel})"
        raise click.UsageError(f"{exc.detail}{hint}") from exc


@asynccontextmanager
async def _client(settings: Settings) -> AsyncIterator[Client]:
    """Give a client of a server that answers. Raises: Failure."""
    for_people = settings.model_copy(update={"log_format": "console", "log_level": "warning"})
    configure_logging(for_people, node_id="cli")
    async with connect(settings.redis_url, timeout_s=settings.redis_timeout_s, client_name="roomcast-cli") as client:
        try:
            await ask(client, "PING")
        except OUTAGES as exc:
            what = "refuses" if isinstance(exc, AuthenticationError | ResponseError) else "does not answer"
            raise Failure(f"Redis {what} ({exc}); is ROOMCAST_REDIS_URL right?") from exc
        yield client


def _broker(client: Client, settings: Settings, node_id: str) -> RedisBroker:
    return RedisBroker(
        client,
        prefix=settings.prefix,
        node_id=node_id,
        max_message_bytes=settings.max_message_bytes,
        timeout_s=settings.redis_timeout_s,
    )


def _is_unsafe(text: str) -> bool:
    return sys.stdout.isatty() and not text.isprintable()


class _Printer:
    """The `Sink` of a terminal: publications to stdout, everything else to stderr."""

    def __init__(self) -> None:
        self._is_unread = asyncio.Event()

    async def until_unread(self) -> None:
        """Wait until nobody reads what is printed any more, as behind `| head`."""
        await self._is_unread.wait()

    def on_event(self, event: Heard) -> None:
        if not isinstance(event, Publication):
            return
        publication = event
        try:
            if publication.kind is Kind.TEXT:
                text = publication.data.decode()
                # What clients sent may hold anything; a terminal must not obey it.
                click.echo(json.dumps(text, ensure_ascii=False)[1:-1] if _is_unsafe(text) else text)
            else:
                click.echo(f"(binary, {len(publication.data)} bytes)")
        except BrokenPipeError:
            self._is_unread.set()

    def on_malformed(self, channel: str, reason: str) -> None:
        click.echo(f"dropped a message in {channel}: {reason}", err=True)

    def on_disconnected(self) -> None:
        click.echo("Redis is away; publications may be missing from here on", err=True)

    def on_connected(self, *, is_again: bool) -> None:
        if is_again:
            click.echo("back again", err=True)


async def _publish(settings: Settings, publication: Publication, namespace: Namespace) -> None:
    async with _client(settings) as client:
        broker = _broker(client, settings, new_node_id())
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
    async with _client(settings) as client:
        broker, printer = _broker(client, settings, new_node_id()), _Printer()
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


async def _check_redis(settings: Settings) -> None:
    async with _client(settings) as client:
        started_s = time.perf_counter()
        await ask(client, "PING")
        took_ms = (time.perf_counter() - started_s) * 1000
        try:
            info = await ask(client, "INFO", "server")
        except NoPermissionError:
            info = {"redis_version": "of unknown version: the user may not ask"}
        mode = info.get("redis_mode") or info.get("server_mode")
        if mode == "sentinel":
            raise Failure(
                "this is a Sentinel; ROOMCAST_REDIS_URL must be redis+sentinel://host:port/name-of-the-master"
            )
        if mode == "cluster" and not isinstance(client, RedisCluster):
            raise Failure("this is a node of a cluster; ROOMCAST_REDIS_URL must be redis+cluster://host:port")
        what = describe(client)
    server = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    click.echo(f"Redis answers in {took_ms:.1f} ms ({server}, {what})")


def _work(kind: str, make: Callable[[Client, Settings], Worker], *, check: bool) -> None:
    settings = _settings()
    if check:
        asyncio.run(_check_worker(kind, settings))
    else:
        configure_logging(settings, node_id=settings.worker_name)
        asyncio.run(_run_worker(make, settings))


async def _check_worker(kind: str, settings: Settings) -> None:
    async with _client(settings) as client:
        facts = await Health(client, prefix=settings.prefix, worker=kind, name=settings.worker_name).read()
    if facts is None:
        raise Failure(f"no {kind} worker named {settings.worker_name} gives a sign of life")
    click.echo(facts)


async def _run_worker(make: Callable[[Client, Settings], Worker], settings: Settings) -> None:
    name = f"roomcast-{settings.worker_name}"
    async with connect(settings.redis_url, timeout_s=settings.redis_timeout_s, client_name=name) as client:
        await run_until_told(make(client, settings))


def _metrics_worker(client: Client, settings: Settings) -> MetricsWorker:
    return MetricsWorker(
        client,
        _broker(client, settings, new_node_id()),
        NodeRegistry(client, prefix=settings.prefix),
        read_namespaces(settings),
        prefix=settings.prefix,
        name=settings.worker_name,
        interval_s=settings.metrics_interval_s,
    )


def _ingest_worker(client: Client, settings: Settings) -> IngestWorker:
    return IngestWorker(
        client,
        _broker(client, settings, new_node_id()),
        read_namespaces(settings),
        prefix=settings.prefix,
        name=settings.worker_name,
        max_message_bytes=settings.max_message_bytes,
        timeout_s=settings.redis_timeout_s,
    )


def _webhook_worker(client: Client, settings: Settings) -> WebhookWorker:
    return WebhookWorker(
        client,
        _broker(client, settings, new_node_id()),
        webhook_receiver(settings),
        frozenset(split_names(settings.webhook_events)),
        prefix=settings.prefix,
        name=settings.worker_name,
        timeout_s=settings.redis_timeout_s,
    )
