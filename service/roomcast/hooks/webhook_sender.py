"""The application as the receiver of webhooks: signed batches of events are posted to it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Sequence
from contextlib import suppress

import httpx

from roomcast.bodies import TooLarge, read_chunks

SIGNATURE_HEADER = "X-Roomcast-Signature"
_TIMEOUT_S = 10.0
# Shorter than the keep-alive timeout of servers (http_handlers.py): a batch on a connection that closes is delayed.
_KEEP_ALIVE_S = 1.5
# A reply is read up to here and discarded, so that its connection can be reused.
_MAX_REPLY_BYTES = 64 * 1024


class NotDelivered(Exception):  # noqa: N818  (the result of the batch)
    """The receiver did not confirm a batch; `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def sign(body: bytes, secret: str, *, time_s: int) -> str:
    """Return the signature of a body: `t=<seconds since 1970>,v1=<HMAC-SHA256 of "<t>.<body>", in hex>`."""
    mac = hmac.new(secret.encode(), b"%d.%b" % (time_s, body), hashlib.sha256)
    return f"t={time_s},v1={mac.hexdigest()}"


class WebhookSender:
    """Posts events in their order, as `{"events": [...]}`.

    Redirects are not followed, and proxies of the environment not used.

    Args:
        clock: `time.time`, seconds since 1970; the receiver compares it with its own.
        timeout_s: timeout for the whole request.
    """

    def __init__(self, url: str, secret: str, *, clock: Callable[[], float], timeout_s: float = _TIMEOUT_S) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._timeout_s = timeout_s
        limits = httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S)
        self._http = httpx.AsyncClient(timeout=timeout_s, limits=limits, follow_redirects=False, trust_env=False)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def post(self, events: Sequence[bytes]) -> None:
        """Post events, each a JSON object; return when the receiver has confirmed them: a status from 200 to 299.

        Delivery: at most once; a caller that retries makes it at least once.
        Raises: NotDelivered; the receiver may have received them anyway.
        """
        body = b'{"events":[%b]}' % b",".join(events)
        headers = {
            "Content-Type": "application/json",
            SIGNATURE_HEADER: sign(body, self._secret, time_s=int(self._clock())),
        }
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._http.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                with suppress(TooLarge):
                    await read_chunks(response.aiter_raw(), _MAX_REPLY_BYTES)
        except (TimeoutError, httpx.TimeoutException):
            raise NotDelivered(f"no answer within {self._timeout_s:g} s") from None
        except httpx.HTTPError as exc:
            raise NotDelivered(f"{type(exc).__name__}: {exc}") from None
        if not response.is_success:
            raise NotDelivered(f"status {response.status_code}")
