"""Handlers over HTTP: an application in any language answers POST requests of Centrifugo's proxy protocol."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import structlog

from roomcast.bodies import TooLarge, read_chunks
from roomcast.hooks.circuit import Circuit, CircuitOpen, CircuitState
from roomcast.hooks.interface import Handlers, Hook, NoAnswer
from roomcast.hooks.proxy_messages import RESULTS, question, read_reply
from roomcast.model.errors import ClientError, ErrorCode

log = structlog.get_logger(__name__)

_MAX_CONNECTIONS = 100
# Requests that are sent or wait for a connection; more are rejected (111).
_MAX_REQUESTS = 1000
# Shorter than the keep-alive timeout of servers: gunicorn 2 s, uvicorn and Node.js 5 s.
_KEEP_ALIVE_S = 1.5
# Not 500, which the data of one client may cause: it could open the circuit for all clients.
_AWAY = {502, 503, 504}
# In addition to the data of a message: info, meta, options of many channels.
_REPLY_BYTES = 256 * 1024


class _Unreachable(NoAnswer):
    """The application is down or overloaded: no connection, no answer in time, or status 502, 503 or 504."""


class ProxyHandlers:
    """Posts to `<url>/connect`, `/subscribe`, `/publish`, `/map_publish` ... (the names of hooks), without retries.

    Each path has its own circuit, so that failing procedures do not stop clients from connecting. While it is open,
    requests fail at once. Redirects are not followed, and proxies of the environment not used.

    Args:
        url: with or without a slash at its end.
        events: the paths that are used.
        timeout_s: timeout for the whole request, up to the last byte of the answer.
        max_message_bytes: maximum size of `data` in an answer.
        clock, jitter: `time.monotonic`, `random.random`.
    Attributes:
        circuits: by hook.
    """

    def __init__(
        self,
        url: str,
        events: frozenset[Hook],
        *,
        timeout_s: float,
        max_message_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.circuits = {hook: _circuit(hook, clock, jitter) for hook in sorted(events)}
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        # JSON that escapes every character is 6 times as long as the data; base64 is shorter.
        self._max_reply_bytes = 6 * max_message_bytes + _REPLY_BYTES
        self._request_count = 0
        # Last in, first out, because the connection that was used last is open. Not one client with many connections:
        # its pool iterates over all for each request, which takes 1.9 ms of CPU with 100 requests; this takes 0.55 ms.
        self._free: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        self._all = _connections(timeout_s)
        for connection in self._all:
            self._free.put_nowait(connection)

    def handlers(self) -> Handlers:
        """Return a handler for each event."""
        return {hook: partial(self._ask, hook) for hook in self.circuits}

    async def aclose(self) -> None:
        """Close the connections."""
        for connection in self._all:
            await connection.aclose()

    async def _ask(self, hook: Hook, event: Any) -> Any:  # Any: the event of the hook, and its answer
        if self._request_count >= _MAX_REQUESTS:
            raise ClientError(ErrorCode.TOO_MANY_REQUESTS, "too many requests wait for the application")
        body = question(event)
        self._request_count += 1
        try:
            with self.circuits[hook].attempt():
                return read_reply(await self._post(hook, event.caller.headers, body), RESULTS[hook]).answer()
        except CircuitOpen:
            raise NoAnswer("the circuit is open") from None
        except NoAnswer as exc:
            log.warning("proxy.failed", hook=hook, reason=exc.reason)
            raise
        finally:
            self._request_count -= 1

    async def _post(self, hook: Hook, headers: Mapping[str, str], body: bytes) -> bytes:
        """Return the body of the response. Raises: NoAnswer."""
        fields = [
            *((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()),
            (b"content-type", b"application/json"),
            (b"accept-encoding", b"identity"),  # compressed data can expand to any size
        ]
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._connection() as connection,
                connection.stream("POST", f"{self._url}/{hook}", content=body, headers=fields) as response,
            ):
                _check_status(response)
                return await read_chunks(response.aiter_raw(), self._max_reply_bytes)
        except (TimeoutError, httpx.TimeoutException):
            raise _Unreachable(f"no answer within {self._timeout_s:g} s") from None
        except (TooLarge, httpx.LocalProtocolError) as exc:
            # The latter for an invalid header of the client, which must not count as a failure of the application.
            raise NoAnswer(str(exc)) from None
        except httpx.HTTPError as exc:
            raise _Unreachable(f"{type(exc).__name__}: {exc}") from None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        connection = await self._free.get()
        try:
            yield connection
        finally:
            self._free.put_nowait(connection)


def _connections(timeout_s: float) -> list[httpx.AsyncClient]:
    """Return clients of one connection each."""
    tls = httpx.create_ssl_context(trust_env=False)  # once, because it reads all certificates
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEP_ALIVE_S)
    return [
        httpx.AsyncClient(verify=tls, timeout=timeout_s, limits=limits, follow_redirects=False, trust_env=False)
        for _ in range(_MAX_CONNECTIONS)
    ]


def _check_status(response: httpx.Response) -> None:
    if response.status_code in _AWAY:
        raise _Unreachable(f"status {response.status_code}")
    if response.status_code != 200:
        raise NoAnswer(f"status {response.status_code}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise NoAnswer("a compressed answer to a request that takes none")


def _circuit(hook: Hook, clock: Callable[[], float], jitter: Callable[[], float]) -> Circuit:
    def on_change(state: CircuitState) -> None:
        level = log.info if state is CircuitState.CLOSED else log.warning if state is CircuitState.OPEN else log.debug
        level("proxy.circuit", hook=hook, state=state.value)

    return Circuit(_Unreachable, clock=clock, random=jitter, on_change=on_change)
