"""The application as sessions see it: asks whoever handles a hook, checks and counts what is answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from roomcast.hooks import Hook, NoAnswer
from roomcast.hooks.answer_check import AnswerCheck
from roomcast.model.errors import ApplicationError, ClientError, ErrorCode, Refused
from roomcast.tasks import run_together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from roomcast.hooks import (
        Caller,
        ConnectAnswer,
        ConnectedEvent,
        ConnectEvent,
        DisconnectEvent,
        Handlers,
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

log = structlog.get_logger(__name__)

# What waits for the handler of disconnects: as many clients as may go at once when a balancer dies.
_MAX_WAITING = 10_000
# So many disconnects are told at once: a handler that writes to a database is not to be told one by one.
_TELLERS = 16


class _Event(Protocol):
    @property
    def caller(self) -> Caller: ...


E = TypeVar("E", bound=_Event)
T = TypeVar("T")


class HookedApplication:
    """Implements `roomcast.hooks.Application`.

    Args:
        headers: see `Application.headers`.
        webhooks: who also hears that clients come and go; None: nobody.
    Attributes:
        counts: how often each hook was "answered", "refused" (by the application's own word) or "failed"; a disconnect
            that was not told is "dropped".
    """

    def __init__(
        self,
        handlers: Handlers,
        check: AnswerCheck,
        *,
        headers: frozenset[str] = frozenset(),
        webhooks: WebhookOutbox | None = None,
    ) -> None:
        self.handles = frozenset(Hook(name) for name, handler in handlers._asdict().items() if handler is not None)
        self.headers = headers
        self.counts: Counter[tuple[Hook, str]] = Counter()
        self._handlers = handlers
        self._check = check
        self._webhooks = webhooks
        self._gone: asyncio.Queue[DisconnectEvent] = asyncio.Queue(_MAX_WAITING)

    async def run(self) -> None:
        """Tell of disconnects; end only when cancelled."""
        await run_together(**{f"tell{number}": self._tell_forever() for number in range(_TELLERS)})

    async def flush(self, *, within_s: float) -> None:
        """Wait until all disconnects are told, `within_s` at most; `run` must run."""
        try:
            async with asyncio.timeout(within_s):
                await self._gone.join()
        except TimeoutError:
            log.warning("hooks.untold", count=self._gone.qsize())

    async def on_connect(self, event: ConnectEvent) -> ConnectAnswer:
        """See `Application.on_connect`."""
        return await self._ask(Hook.CONNECT, self._handlers.connect, event, self._check.connect)

    async def on_subscribe(self, event: SubscribeEvent) -> SubscribeAnswer:
        """See `Application.on_subscribe`."""
        return await self._ask(Hook.SUBSCRIBE, self._handlers.subscribe, event, self._check.subscribe)

    async def on_publish(self, event: PublishEvent) -> PublishAnswer:
        """See `Application.on_publish`."""
        return await self._ask(Hook.PUBLISH, self._handlers.publish, event, self._check.publish)

    async def on_rpc(self, event: RpcEvent) -> bytes:
        """See `Application.on_rpc`."""
        return await self._ask(Hook.RPC, self._handlers.rpc, event, self._check.rpc)

    async def on_refresh(self, event: RefreshEvent) -> RefreshAnswer:
        """See `Application.on_refresh`."""
        return await self._ask(Hook.REFRESH, self._handlers.refresh, event, self._check.refresh)

    async def on_sub_refresh(self, event: SubRefreshEvent) -> RefreshAnswer:
        """See `Application.on_sub_refresh`."""
        return await self._ask(Hook.SUB_REFRESH, self._handlers.sub_refresh, event, self._check.refresh)

    def on_connected(self, event: ConnectedEvent) -> None:
        """See `Application.on_connected`."""
        if self._webhooks is not None:
            self._webhooks.connected(event)

    def on_disconnect(self, event: DisconnectEvent) -> None:
        """See `Application.on_disconnect`."""
        if self._webhooks is not None:
            self._webhooks.disconnected(event)
        if self._handlers.disconnect is None:
            return
        try:
            self._gone.put_nowait(event)
        except asyncio.QueueFull:
            self.counts[Hook.DISCONNECT, "dropped"] += 1

    async def _ask(
        self,
        hook: Hook,
        handler: Callable[[E], Awaitable[T]] | None,
        event: E,
        check: Callable[[object, Caller], T],
    ) -> T:
        if handler is None:
            raise ClientError(ErrorCode.NOT_AVAILABLE, f"the application takes no part in {hook}")
        try:
            answered = await handler(event)
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

    async def _tell_forever(self) -> None:
        while True:
            event = await self._gone.get()
            try:
                if self._handlers.disconnect is not None:
                    await self._handlers.disconnect(event)
                self.counts[Hook.DISCONNECT, "answered"] += 1
            except (ApplicationError, ClientError, NoAnswer, Refused):
                self.counts[Hook.DISCONNECT, "failed"] += 1
            finally:
                self._gone.task_done()
