"""Python handlers: functions of the application that run in the node's process."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from roomcast.config import ENV_PREFIX, ConfigError, Settings
from roomcast.hooks.interface import Handlers, Hook, NoAnswer
from roomcast.model.errors import ApplicationError, ClientError, ErrorCode, Refused

log = structlog.get_logger(__name__)

# Any: the answers of an application's function are validated when it is called (`hooks.answer_check`).
Function = Callable[[Any], Any]

# Maximum number of calls that wait for a thread; more would time out anyway.
_MAX_WAITING = 1000


def load_functions(settings: Settings) -> dict[Hook, Function]:
    """Import the functions that the settings name. Raises: ConfigError that names the setting."""
    paths: dict[Hook, str | None] = {hook: getattr(settings, f"on_{hook}") for hook in Hook}
    return {hook: _load(f"{ENV_PREFIX}ON_{hook.upper()}", path) for hook, path in paths.items() if path is not None}


def _load(setting: str, path: str) -> Function:
    module_name, _, name = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)  # Any: a module, then its attributes
    except Exception as exc:
        # The application's code may raise any exception while it is imported.
        raise ConfigError(f"{setting}: cannot import {module_name!r}: {type(exc).__name__}: {exc}") from exc
    try:
        for part in name.split("."):
            target = getattr(target, part)
    except AttributeError as exc:
        raise ConfigError(f"{setting}: {path!r} is not there: {exc}") from None
    if not callable(target):
        raise ConfigError(f"{setting}: {path!r} is no function")
    with suppress(ValueError):  # a C function without a signature
        try:
            inspect.signature(target).bind(None)
        except TypeError as exc:
            raise ConfigError(f"{setting}: {path!r} must take one argument, the event: {exc}") from None
    function: Function = target
    return function


class PythonHandlers:
    """Calls an application's functions: asynchronous ones are awaited, others run in a thread.

    A function in a thread cannot be stopped: after the timeout its client receives an error, but the thread is busy
    until the function returns. While all threads are busy, up to 1,000 calls wait; more are rejected (111).

    Args:
        functions: each takes the event of its hook.
        timeout_s: timeout for an answer.
    """

    def __init__(self, functions: Mapping[Hook, Function], *, timeout_s: float, thread_count: int) -> None:
        self._functions = functions
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(thread_count, thread_name_prefix="hook")
        self._free_threads = asyncio.Semaphore(thread_count)
        self._waiting_count = 0

    def handlers(self) -> Handlers:
        """Return a handler for each function."""
        return {hook: self._handler(hook, function) for hook, function in self._functions.items()}

    def close(self) -> None:
        """Stop the threads; a busy one ends when its function returns."""
        self._threads.shutdown(wait=False)

    def _handler(self, hook: Hook, function: Function) -> Callable[[Any], Awaitable[Any]]:  # Any: see Function
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
        return partial(self._wait_for, hook, function if is_async else partial(self._run_in_thread, function))

    async def _wait_for(self, hook: Hook, call: Function, event: Any) -> Any:  # Any: see Function
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

    async def _run_in_thread(self, function: Function, event: Any) -> Any:  # Any: see Function
        if self._waiting_count >= _MAX_WAITING:
            raise ClientError(ErrorCode.TOO_MANY_REQUESTS, "too many requests wait for the application")
        self._waiting_count += 1
        try:
            await self._free_threads.acquire()
        finally:
            self._waiting_count -= 1
        loop = asyncio.get_running_loop()
        running = self._threads.submit(function, event)
        # Released when the function returns, not when the wait ends: until then its thread is busy.
        running.add_done_callback(lambda _: self._thread_is_free(loop))
        return await asyncio.wrap_future(running)

    def _thread_is_free(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop is closed, because the node has ended
            loop.call_soon_threadsafe(self._free_threads.release)
