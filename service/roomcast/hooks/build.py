"""Makes the application of a node, and the receiver of webhooks, from the settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from roomcast.config import ConfigError, Settings
from roomcast.config_types import split_names
from roomcast.hooks.answer_check import AnswerCheck
from roomcast.hooks.application import HookedApplication
from roomcast.hooks.http_handlers import ProxyHandlers
from roomcast.hooks.interface import Hook
from roomcast.hooks.python_handlers import PythonHandlers, load_functions
from roomcast.hooks.webhook_sender import WebhookSender
from roomcast.hooks.webhook_stream import WebhookOutbox, WebhookStream
from roomcast.redis_access.client import Client
from roomcast.tasks import run_together

_FLUSH_TIMEOUT_S = 1.0


class NodeHooks:
    """The application of one node, with its proxy and webhook outbox, each None if the settings have none."""

    def __init__(
        self,
        application: HookedApplication,
        python: PythonHandlers,
        proxy: ProxyHandlers | None,
        outbox: WebhookOutbox | None,
    ) -> None:
        self.application = application
        self.proxy = proxy
        self.outbox = outbox
        self._python = python

    async def run(self) -> None:
        """Notify the application of events until cancelled."""
        running: dict[str, Coroutine[Any, Any, None]] = {"application": self.application.run()}  # Any: as in `tasks`
        if self.outbox is not None:
            running["outbox"] = self.outbox.run()
        await run_together(**running)

    async def flush(self) -> None:
        """Wait at most a second until all events are delivered; `run` must be running."""
        await asyncio.gather(
            self.application.flush(within_s=_FLUSH_TIMEOUT_S),
            *([self.outbox.flush(within_s=_FLUSH_TIMEOUT_S)] if self.outbox is not None else []),
        )

    async def aclose(self) -> None:
        """Close threads and connections, after `run` has ended."""
        self._python.close()
        if self.proxy is not None:
            await self.proxy.aclose()


def make_hooks(settings: Settings, client: Client) -> NodeHooks:
    """Return the application in the settings; a Python handler takes precedence over the proxy.

    Raises: ConfigError that names the setting with an unusable handler.
    """
    python = PythonHandlers(
        load_functions(settings), timeout_s=settings.hook_timeout_s, thread_count=settings.hook_threads
    )
    handlers, proxy = python.handlers(), None
    if settings.proxy_url is not None:
        proxy = ProxyHandlers(
            settings.proxy_url,
            frozenset(Hook(name) for name in split_names(settings.proxy_events)),
            timeout_s=settings.proxy_timeout_s,
            max_message_bytes=settings.max_message_bytes,
        )
        handlers = {**proxy.handlers(), **handlers}
    outbox = _outbox(settings, client)
    application = HookedApplication(
        handlers,
        AnswerCheck(max_message_bytes=settings.max_message_bytes),
        headers=frozenset(name.lower() for name in split_names(settings.hook_headers)),
        webhooks=outbox,
    )
    return NodeHooks(application, python, proxy, outbox)


def webhook_sender(settings: Settings) -> WebhookSender:
    """Return the receiver of webhooks. Raises: ConfigError if the settings have none."""
    if settings.webhook_url is None or settings.webhook_secret is None:
        raise ConfigError("ROOMCAST_WEBHOOK_URL and ROOMCAST_WEBHOOK_SECRET are not set")
    return WebhookSender(settings.webhook_url, settings.webhook_secret.get_secret_value(), clock=time.time)


def _outbox(settings: Settings, client: Client) -> WebhookOutbox | None:
    if settings.webhook_url is None:
        return None
    stream = WebhookStream(client, prefix=settings.prefix)
    return WebhookOutbox(stream, frozenset(split_names(settings.webhook_events)), clock=time.time)
