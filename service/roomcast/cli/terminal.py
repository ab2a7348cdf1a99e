"""Shared by the commands: settings, a client of a Redis that answers, and errors as one line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from redis.exceptions import AuthenticationError, ResponseError

from roomcast.config import ConfigError, Settings, read_namespaces, read_settings
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
