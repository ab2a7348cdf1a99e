"""The application of a node: calls the handler of each hook, validates and counts its answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from typing_extensions import override

from roomcast.hooks.answer_check import AnswerCheck
from roomcast.hooks.interface import (
    Application,
    Caller,
    ConnectAnswer,
    ConnectedEvent,
    ConnectEvent,
    DisconnectEvent,
    Handlers,
    Hook,
    MapPublishAnswer,
    MapPublishEvent,
    MapRemoveAnswer,
    MapRemoveEvent,
    NoAnswer,
    PublishAnswer,
    PublishEvent,
    RefreshAnswer,
    RefreshEvent,
    RpcEvent,
    SubRefreshEvent,
    SubscribeAnswer,
    SubscribeEvent,
)
from roomcast.hooks.webhook_stream import WebhookOutbox
from roomcast.model.errors import ApplicationError, ClientError, ErrorCode, Refused
from roomcast.tasks import run_together

log = structlog.get_logger(__name__)

# Events that wait for the disconnect handler: when a balancer dies, as many clients disconnect at once.
_MAX_WAITING = 10_000
# Disconnect events that are handled at once: a handler that writes to a database would be too slow one by one.
_NOTIFIERS = 16
T = TypeVar("T")


class HookedApplication(Application):
    """The application that consists of handlers.

    Args:
        headers: see `Application.headers`.
        webhooks: also receives connects and disconnects.
    Attributes:
        counts: how often each hook was "answered", "refused" by the application, or "failed"; disconnect events that
            found the queue full are "dropped".
    """

    def __init__(
        self,
        handlers: Handlers,
        check: AnswerCheck,
        *,
        headers: frozenset[str] = frozenset(),
        webhooks: WebhookOutbox | None = None,
    ) -> None:
        self._handles = frozenset(handlers)
        self._headers = headers
        self.counts: Counter[tuple[Hook, str]] = Counter()
        self._handlers = handlers
        self._check = check
        self._webhooks = webhooks
        self._gone: asyncio.Queue[DisconnectEvent] = asyncio.Queue(_MAX_WAITING)

    async def run(self) -> None:
        """Notify of disconnects until cancelled."""
        await run_together(**{f"notify{number}": self._notify_forever() for number in range(_NOTIFIERS)})

    async def flush(self, *, within_s: float) -> None:
        """Wait at most `within_s` until all disconnect events are handled; `run` must be running."""
        try:
            async with asyncio.timeout(within_s):
                await self._gone.join()
        except TimeoutError:
            log.warning("hooks.untold", count=self._gone.qsize())

    @property
    @override
    def handles(self) -> frozenset[Hook]:
        return self._handles

    @property
    @override
    def is_notified(self) -> bool:
        return Hook.DISCONNECT in self._handles or self._webhooks is not None

    @property
    @override
    def headers(self) -> frozenset[str]:
        return self._headers

    @override
    async def on_connect(self, event: ConnectEvent) -> ConnectAnswer:
        return await self._ask(Hook.CONNECT, event, self._check.connect)

    @override
    async def on_subscribe(self, event: SubscribeEvent) -> SubscribeAnswer:
        return await self._ask(Hook.SUBSCRIBE, event, self._check.subscribe)

    @override
    async def on_publish(self, event: PublishEvent) -> PublishAnswer:
        return await self._ask(Hook.PUBLISH, event, self._check.publish)

    @override
    async def on_map_publish(self, event: MapPublishEvent) -> MapPublishAnswer:
        return await self._ask(Hook.MAP_PUBLISH, event, self._check.map_publish)

    @override
    async def on_map_remove(self, event: MapRemoveEvent) -> MapRemoveAnswer:
        return await self._ask(Hook.MAP_REMOVE, event, self._check.map_remove)

    @override
    async def on_rpc(self, event: RpcEvent) -> bytes:
        return await self._ask(Hook.RPC, event, self._check.rpc)

    @override
    async def on_refresh(self, event: RefreshEvent) -> RefreshAnswer:
        return await self._ask(Hook.REFRESH, event, self._check.refresh)

    @override
    async def on_sub_refresh(self, event: SubRefreshEvent) -> RefreshAnswer:
        return await self._ask(Hook.SUB_REFRESH, event, self._check.refresh)

    @override
    def on_connected(self, event: ConnectedEvent) -> None:
        if self._webhooks is not None:
            self._webhooks.connected(event)

    @override
    def on_disconnect(self, event: DisconnectEvent) -> None:
        if self._webhooks is not None:
            self._webhooks.disconnected(event)
        if Hook.DISCONNECT not in self._handles:
            return
        try:
            self._gone.put_nowait(event)
        except asyncio.QueueFull:
            self.counts[Hook.DISCONNECT, "dropped"] += 1

    async def _ask(self, hook: Hook, event: Any, check: Callable[[object, Caller], T]) -> T:  # Any: of the hook
        if hook not in self._handles:
            raise ClientError(ErrorCode.NOT_AVAILABLE, f"the application takes no part in {hook}")
        try:
            answered = await self._handlers[hook](event)
        except (ApplicationError, ClientError, Refused):
            self.counts[hook, "refused"] += 1
            raise
        except NoAnswer:
            raise self._failed(hook) from None
        try:
            answer = check(answered, event.caller)
        except NoAnswer as exc:
            log.warning("hook.unusable_answer", hook=hook, reason=exc.reason)
            raise self._failed(hook) from None
        self.counts[hook, "answered"] += 1
        return answer

    def _failed(self, hook: Hook) -> ClientError:
        self.counts[hook, "failed"] += 1
        return ClientError(ErrorCode.INTERNAL, "the application gave no answer")

    async def _notify_forever(self) -> None:
        while True:
            event = await self._gone.get()
            try:
                await self._handlers[Hook.DISCONNECT](event)
                self.counts[Hook.DISCONNECT, "answered"] += 1
            except (ApplicationError, ClientError, NoAnswer, Refused):
                self.counts[Hook.DISCONNECT, "failed"] += 1
            finally:
                self._gone.task_done()
