"""Handlers in Python: the application's own functions, in the node's process."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from roomcast.config import ENV_PREFIX, ConfigError
from roomcast.hooks import Handlers, Hook, NoAnswer
from roomcast.model.errors import ApplicationError, ClientError, ErrorCode, Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from roomcast.config import Settings

log = structlog.get_logger(__name__)

# Any: what an application's function takes and returns is checked when it is called (`hooks.answers`).
Function = Callable[[Any], Any]

# Calls that may wait for a thread: they are given up after the timeout anyway.
_MAX_WAITING = 1000


def load_functions(settings: Settings) -> dict[Hook, Function]:
    """Import the functions that the settings name. Raises: ConfigError that names the setting."""
    paths = {
        Hook.CONNECT: settings.on_connect,
        Hook.SUBSCRIBE: settings.on_subscribe,
        Hook.PUBLISH: settings.on_publish,
        Hook.RPC: settings.on_rpc,
        Hook.REFRESH: settings.on_refresh,
        Hook.SUB_REFRESH: settings.on_sub_refresh,
        Hook.DISCONNECT: settings.on_disconnect,
    }
    return {hook: _load(f"{ENV_PREFIX}ON_{hook.upper()}", path) for hook, path in paths.items() if path is not None}


def _load(setting: str, path: str) -> Function:
    module_name, _, name = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)  # Any: a module, then whatever is in it
    except Exception as exc:
        # Whatever the application's code raises while it is imported.
        raise ConfigError(f"{setting}: cannot import {module_name!r}: {type(exc).__name__}: {exc}") from exc
    try:
        for part in name.split("."):
            target = getattr(target, part)
    except AttributeError as exc:
        raise ConfigError(f"{setting}: {path!r} is not there: {exc}") from None
    if not callable(target):
        raise ConfigError(f"{setting}: {path!r} is no function")
    with suppress(ValueError):  # a function of C code that does not tell what it takes
        try:
            inspect.signature(target).bind(None)
        except TypeError as exc:
            raise ConfigError(f"{setting}: {path!r} must take one argument, the event: {exc}") from None
    function: Function = target
    return function


class PythonHandlers:
    """Calls an application's functions: asynchronous ones are awaited, others run in a thread.

    A function in a thread cannot be stopped: past the timeout its client has its error, its thread is busy for as long
    as it takes. While all threads are, calls wait; more than 1,000 are refused (111).

    Args:
        functions: each takes its hook's event.
        timeout_s: longest wait for an answer.
    """

    def __init__(self, functions: Mapping[Hook, Function], *, timeout_s: float, thread_count: int) -> None:
        self._functions = functions
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(thread_count, thread_name_prefix="hook")
        self._free_threads = asyncio.Semaphore(thread_count)
        self._waiting_count = 0

    def handlers(self) -> Handlers:
        """Return a handler for each function."""
        return Handlers(
            connect=self._handler(Hook.CONNECT),
            subscribe=self._handler(Hook.SUBSCRIBE),
            publish=self._handler(Hook.PUBLISH),
            rpc=self._handler(Hook.RPC),
            refresh=self._handler(Hook.REFRESH),
            sub_refresh=self._handler(Hook.SUB_REFRESH),
            disconnect=self._handler(Hook.DISCONNECT),
        )

    def close(self) -> None:
        """Let the threads go; who is in one ends when its function does."""
        self._threads.shutdown(wait=False)

    def _handler(self, hook: Hook) -> Callable[[Any], Awaitable[Any]] | None:  # Any: see Function
        function = self._functions.get(hook)
        if function is None:
            return None
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
        call = function if is_async else self._in_thread(function)

        async def handle(event: Any) -> Any:  # Any: see Function
            return await self._wait_for(call, event, hook)

        return handle

    async def _wait_for(
        self, call: Callable[[Any], Awaitable[Any]], event: Any, hook: Hook
    ) -> Any:  # Any: see Function
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                return await call(event)
        except (ApplicationError, ClientError, Refused):
            raise
        except Exception as exc:
            if isinstance(exc, TimeoutError) and deadline.expired():
                log.warning("hook.timed_out", hook=hook, timeout_s=self._timeout_s)
            else:
                log.exception("hook.raised", hook=hook)
            raise NoAnswer(type(exc).__name__) from exc

    def _in_thread(self, function: Function) -> Callable[[Any], Awaitable[Any]]:  # Any: see Function
        async def call(event: Any) -> Any:  # Any: see Function
            if self._waiting_count >= _MAX_WAITING:
                raise ClientError(ErrorCode.TOO_MANY_REQUESTS, "too many requests wait for the application")
            self._waiting_count += 1
            try:
                await self._free_threads.acquire()
            finally:
                self._waiting_count -= 1
            loop = asyncio.get_running_loop()
            running = self._threads.submit(function, event)
            # Not when the wait ends, but when the function does: until then its thread is busy.
            running.add_done_callback(lambda _: self._thread_is_free(loop))
            return await asyncio.wrap_future(running)

        return call

    def _thread_is_free(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the node has ended meanwhile
            loop.call_soon_threadsafe(self._free_threads.release)
