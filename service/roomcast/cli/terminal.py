"""What the commands have in common: settings, a server that answers, and how a fault is told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click
from redis.exceptions import AuthenticationError, ResponseError

from roomcast.config import ConfigError, Settings, read_namespaces, read_settings
from roomcast.redis_access.client import OUTAGES, ask, connect
from roomcast.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from roomcast.redis_access.client import Client


class Failure(click.ClickException):
    """An expected fault: one line that says what to do."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the exception, not from its class


def settings_of_environment() -> Settings:
    """Return the settings. Raises: UsageError that names what is wrong with them."""
    try:
        settings = read_settings()
        read_namespaces(settings)
    except ConfigError as exc:
        raise click.UsageError(f"{exc} (docs/settings.md)") from exc
    return settings


def configure_cli_logging(settings: Settings) -> None:
    """Log what goes wrong alone, for people."""
    for_people = settings.model_copy(update={"log_format": "console", "log_level": "warning"})
    configure_logging(for_people, node_id="cli")


@asynccontextmanager
async def answering_client(settings: Settings) -> AsyncIterator[Client]:
    """Give a client of a server that answers. Raises: Failure."""
    configure_cli_logging(settings)
    async with connect(settings.redis_url, timeout_s=settings.redis_timeout_s, client_name="roomcast-cli") as client:
        try:
            await ask(client, "PING")
        except OUTAGES as exc:
            what = "refuses" if isinstance(exc, AuthenticationError | ResponseError) else "does not answer"
            raise Failure(f"Redis {what} ({exc}); is ROOMCAST_REDIS_URL right?") from exc
        yield client
