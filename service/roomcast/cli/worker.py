"""`roomcast worker`: runs a worker, or checks that one is alive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import click

from roomcast.app import make_broker, new_node_id
from roomcast.cli.terminal import Failure, answering_client, settings_of_environment
from roomcast.config import Settings, read_namespaces
from roomcast.config_types import split_names
from roomcast.hooks.build import webhook_sender
from roomcast.presence.node_registry import NodeRegistry
from roomcast.redis_access.client import Client, connect
from roomcast.telemetry.logs import configure_logging, warn_of_settings
from roomcast_workers import ingest, metrics, webhooks
from roomcast_workers.ingest import IngestWorker
from roomcast_workers.metrics import MetricsWorker
from roomcast_workers.runner import Health, Worker, run_worker
from roomcast_workers.webhooks import WebhookWorker


@click.group("worker")
def worker_group() -> None:
    """Run a worker."""


def _check_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--check", is_flag=True, help="Only check that this host's worker is alive.")(command)


@worker_group.command(metrics.NAME)
@_check_option
def metrics_command(*, check: bool) -> None:
    """Publish the dashboard's figures. Of several workers, one is active."""
    _work(metrics.NAME, _metrics_worker, check=check)


@worker_group.command(ingest.NAME)
@_check_option
def ingest_command(*, check: bool) -> None:
    """Publish the entries of the ingest stream. Of several workers, one is active."""
    _work(ingest.NAME, _ingest_worker, check=check)


@worker_group.command(webhooks.NAME)
@_check_option
def webhooks_command(*, check: bool) -> None:
    """Post events to ROOMCAST_WEBHOOK_URL. Of several workers, one is active."""
    if settings_of_environment().webhook_url is None:
        raise click.UsageError("set ROOMCAST_WEBHOOK_URL and ROOMCAST_WEBHOOK_SECRET (docs/applications.md)")
    _work(webhooks.NAME, _webhook_worker, check=check)


def _work(kind: str, make: Callable[[Client, Settings], Worker], *, check: bool) -> None:
    settings = settings_of_environment()
    if check:
        asyncio.run(_check_worker(kind, settings))
    else:
        configure_logging(settings, node_id=settings.worker_name)
        warn_of_settings(settings)
        asyncio.run(_run_worker(make, settings))


async def _check_worker(kind: str, settings: Settings) -> None:
    async with answering_client(settings) as client:
        facts = await Health(client, prefix=settings.prefix, worker=kind, name=settings.worker_name).read()
    if facts is None:
        raise Failure(f"no {kind} worker named {settings.worker_name} gives a sign of life")
    click.echo(facts)


async def _run_worker(make: Callable[[Client, Settings], Worker], settings: Settings) -> None:
    name = f"roomcast-{settings.worker_name}"
    async with connect(settings.redis_url, timeout_s=settings.redis_timeout_s, client_name=name) as client:
        await run_worker(make(client, settings))


def _metrics_worker(client: Client, settings: Settings) -> MetricsWorker:
    return MetricsWorker(
        client,
        make_broker(client, settings, new_node_id()),
        NodeRegistry(client, prefix=settings.prefix),
        read_namespaces(settings),
        prefix=settings.prefix,
        name=settings.worker_name,
        interval_s=settings.metrics_interval_s,
    )


def _ingest_worker(client: Client, settings: Settings) -> IngestWorker:
    broker = make_broker(client, settings, new_node_id())
    return IngestWorker(
        client,
        broker,
        broker.maps,
        read_namespaces(settings),
        prefix=settings.prefix,
        name=settings.worker_name,
        max_message_bytes=settings.max_message_bytes,
        timeout_s=settings.redis_timeout_s,
    )


def _webhook_worker(client: Client, settings: Settings) -> WebhookWorker:
    return WebhookWorker(
        client,
        make_broker(client, settings, new_node_id()),
        webhook_sender(settings),
        frozenset(split_names(settings.webhook_events)),
        prefix=settings.prefix,
        name=settings.worker_name,
        timeout_s=settings.redis_timeout_s,
    )
