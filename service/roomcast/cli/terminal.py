"""Shared by the commands: settings, arguments, a client of a Redis that answers, lines of output and of errors."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from redis.exceptions import AuthenticationError, ResponseError
from typing_extensions import override

from roomcast.brokers.interface import Sink
from roomcast.config import ConfigError, Settings, read_namespaces, read_settings
from roomcast.model.channels import check_channel, is_of_nodes
from roomcast.model.errors import ClientError
from roomcast.model.json import InvalidJson, check
from roomcast.model.namespaces import Namespace
from roomcast.model.publications import BrokerEvent
from roomcast.redis_access.client import OUTAGES, Client, ask, connect
from roomcast.telemetry.logs import configure_logging


class Failure(click.ClickException):
    """An expected error, printed as one line that says how to fix it."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the exception, not from its class


def settings_of_environment() -> Settings:
    """Return the settings. Raises: UsageError that names the invalid setting."""
    try:
        settings = read_settings()
        read_namespaces(settings)
    except ConfigError as exc:
        raise click.UsageError(f"{exc} (docs/settings.md)") from exc
    return settings


def channel_of(name: str) -> str:
    """Return an argument that is the name of a channel. Raises: UsageError."""
    try:
        return check_channel(name)
    except ClientError as exc:
        raise click.UsageError(exc.detail) from exc


def namespace_of(settings: Settings, channel: str) -> Namespace:
    """Return a channel's namespace. Raises: UsageError."""
    try:
        return read_namespaces(settings).of(channel)
    except ClientError as exc:
        hint = f" (the room {channel} is room:{channel}; for {channel} itself set ROOMCAST_DEFAULT_NAMESPACE=true)"
        is_plain = ":" not in channel and not is_of_nodes(channel)
        raise click.UsageError(f"{exc.detail}{hint}" if is_plain else exc.detail) from exc


def json_of(settings: Settings, name: str, argument: str) -> bytes:
    """Return an argument that is JSON to publish, as it was typed. Raises: UsageError, which calls it `name`."""
    payload = os.fsencode(argument)  # also where that is not valid UTF-8
    if len(payload) > settings.max_message_bytes:
        raise click.UsageError(f"{name} has more than {settings.max_message_bytes} bytes (ROOMCAST_MAX_MESSAGE_BYTES)")
    try:
        check(payload)
    except InvalidJson as exc:
        raise click.UsageError(f"{name} is not JSON ({exc}); a text needs quotes inside, for example '\"hi\"'") from exc
    return payload


class Lines:
    """Prints lines to stdout until its reader has gone, as behind `| head`."""

    def __init__(self) -> None:
        self._is_unread = asyncio.Event()

    @property
    def is_unread(self) -> bool:
        """Return whether the reader of stdout has gone."""
        return self._is_unread.is_set()

    async def until_unread(self) -> None:
        """Wait until the reader of stdout has gone."""
        await self._is_unread.wait()

    def print(self, line: str) -> None:
        """Print a line. A payload may contain escape sequences, which a terminal would execute: they are escaped."""
        if sys.stdout.isatty() and not line.isprintable():
            line = "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in line)
        try:
            click.echo(line, color=True)  # otherwise click removes some sequences where stdout is no terminal
        except BrokenPipeError:
            # The line stays buffered, and writing it again at the exit would end the process with code 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._is_unread.set()


class Reporter(Sink):
    """Reports on stderr what happens to a broker's connection; subclasses use the events."""

    @override
    def on_event(self, event: BrokerEvent) -> None: ...

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


def configure_cli_logging(settings: Settings) -> None:
    """Log warnings and errors only, in lines for a terminal."""
    readable = settings.model_copy(update={"log_format": "console", "log_level": "warning"})
    configure_logging(readable, node_id="cli")


@asynccontextmanager
async def answering_client(settings: Settings) -> AsyncIterator[Client]:
    """Yield a client of a Redis that answers. Raises: Failure."""
    configure_cli_logging(settings)
    async with connect(settings.redis_url, timeout_s=settings.redis_timeout_s, client_name="roomcast-cli") as client:
        try:
            await ask(client, "PING")
        except OUTAGES as exc:
            verb = "refuses" if isinstance(exc, AuthenticationError | ResponseError) else "does not answer"
            raise Failure(f"Redis {verb} ({exc}); is ROOMCAST_REDIS_URL right?") from exc
        yield client
