"""`roomcast check`: whether a node could start and publish with these settings."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections.abc import Mapping

import click
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError
from typing_extensions import override

from roomcast.app import make_broker, new_node_id
from roomcast.auth.keys import local_keys
from roomcast.brokers.interface import Sink
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.cli.terminal import Failure, answering_client, settings_of_environment
from roomcast.config import (
    ConfigError,
    Settings,
    masked,
    nearest_variable,
    require_auth,
    short_keys,
    unknown_variables,
)
from roomcast.hooks.python_handlers import load_functions
from roomcast.model.errors import BrokerUnavailable
from roomcast.model.publications import BrokerEvent
from roomcast.presence.occupancy import EVENTS
from roomcast.redis_access.client import Client, ask, describe
from roomcast.redis_access.refusals import kind_of
from roomcast.tasks import end

# docs/redis.md
_OLDEST = (6, 2)
_OLDEST_IN_CLUSTER = (7, 0)  # sharded pub/sub


@click.command("check")
def check_command() -> None:
    """Print the settings, secrets masked, and check that a node could start with them and publish."""
    settings = settings_of_environment()
    for name, value in masked(settings).items():
        click.echo(f"{name}={value}")
    for name in unknown_variables():
        nearest = nearest_variable(name)
        hint = "" if nearest is None else f"; did you mean {nearest}?"
        click.echo(f"{name} is set, but no setting has this name{hint}", err=True)
    for name in short_keys(settings):
        click.echo(f"{name} is short enough to be guessed", err=True)
    asyncio.run(_check_redis(settings))
    check_node_settings(settings)


def check_node_settings(settings: Settings) -> None:
    """Check what a node needs before it starts: the application's handlers, and keys for its clients' tokens.

    Raises: UsageError that names the setting.
    """
    sys.path.insert(0, "")  # handlers in the working directory are found too, as uvicorn does
    try:
        load_functions(settings)
    except ConfigError as exc:
        raise click.UsageError(f"{exc} (docs/applications.md)") from exc
    try:
        require_auth(settings)
        local_keys(settings)
    except ConfigError as exc:
        raise click.UsageError(f"{exc} (docs/auth.md)") from exc


async def _check_redis(settings: Settings) -> None:
    """Print which server answers. Raises: Failure if a node could not work with it."""
    async with answering_client(settings) as client:
        started_s = time.perf_counter()
        await ask(client, "PING")
        took_ms = (time.perf_counter() - started_s) * 1000
        try:
            info = await ask(client, "INFO", "server")
        except ResponseError as exc:
            info = {"redis_version": f"of unknown version: it refuses INFO, {kind_of(exc)}"}
        _check_server(client, info)
        await _check_broker(make_broker(client, settings, new_node_id()))
        what = describe(client)
    click.echo(f"Redis answers in {took_ms:.1f} ms ({_version(info)}, {what})")


async def _check_broker(broker: RedisBroker) -> None:
    """Publish and subscribe as a node does. Raises: Failure."""
    logging.getLogger().setLevel(logging.ERROR)  # the failure below names the reason, in one line
    running = asyncio.create_task(broker.run(_Nobody()))
    try:
        await broker.readiness.check()
        await broker.subscribe(EVENTS)
    except BrokerUnavailable as exc:
        raise Failure(f"a node could not work with this server: {exc.reason} (docs/redis.md)") from exc
    finally:
        await end(running)


class _Nobody(Sink):
    """Receives nothing."""

    @override
    def on_event(self, event: BrokerEvent) -> None: ...

    @override
    def on_malformed(self, channel: str, reason: str) -> None: ...

    @override
    def on_disconnected(self) -> None: ...

    @override
    def on_connected(self, *, is_again: bool) -> None: ...


def _check_server(client: Client, info: Mapping[str, str]) -> None:
    """Check the kind and version of a server. Raises: Failure."""
    is_cluster = isinstance(client, RedisCluster)
    mode = info.get("redis_mode") or info.get("server_mode")
    if mode == "sentinel":
        raise Failure("this is a Sentinel; ROOMCAST_REDIS_URL must be redis+sentinel://host:port/name-of-the-master")
    if mode == "cluster" and not is_cluster:
        raise Failure("this is a node of a cluster; ROOMCAST_REDIS_URL must be redis+cluster://host:port")
    found = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version", "")))
    oldest = _OLDEST_IN_CLUSTER if is_cluster else _OLDEST
    if found is not None and (int(found[1]), int(found[2])) < oldest:
        raise Failure(f"{_version(info)} is too old: {oldest[0]}.{oldest[1]} or newer is needed (docs/redis.md)")


def _version(info: Mapping[str, str]) -> str:
    return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info.get('redis_version')}"
