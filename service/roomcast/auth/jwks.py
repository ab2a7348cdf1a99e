"""Public keys of the token issuer, fetched from a URL (JWKS, RFC 7517) and cached."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import httpx
import orjson
import structlog

from roomcast.auth import KeysUnavailable
from roomcast.auth.keys import Key, jwk_key
from roomcast.bodies import read_chunks
from roomcast.tasks import end

log = structlog.get_logger(__name__)

REFRESH_INTERVAL_S = 3600.0
# Tokens with unknown key ids cannot make a node fetch more often than this.
MIN_FETCH_INTERVAL_S = 10.0
_FETCH_TIMEOUT_S = 5.0
# Providers publish two or three keys, of 1 to 3 KB each with their certificates.
_MAX_BYTES = 256 * 1024
_MAX_KEYS = 100


class KeySet:
    """The keys of one URL, by their ids. Fetched keys are kept while the URL is unavailable."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._http = httpx.AsyncClient(timeout=_FETCH_TIMEOUT_S)
        self._keys: list[tuple[str | None, Key]] = []
        self._is_stale_at_s = -math.inf
        self._next_fetch_at_s = -math.inf
        self._has_failed = False  # the last time
        self._fetching: asyncio.Task[bool] | None = None

    async def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the key with this id for this algorithm, or None; without an id, the only key for the algorithm.

        Waits for a fetch if the key is unknown, and once when the keys are an hour old; concurrent calls share it.
        Raises: KeysUnavailable if the key is unknown and the keys could not be fetched now.
        """
        key, is_current = self._known(key_id, algorithm), False
        if key is None or self._clock() >= self._is_stale_at_s:
            is_current = await self._refresh(is_awaited=key is None or not self._has_failed)
            key = self._known(key_id, algorithm)
        if key is None and not is_current:
            raise KeysUnavailable("the key of this token could not be fetched now")
        return key

    async def aclose(self) -> None:
        """Cancel a fetch and close the connections."""
        if self._fetching is not None:
            await end(self._fetching)
        await self._http.aclose()

    def _known(self, key_id: str | None, algorithm: str) -> Key | None:
        found = [key for name, key in self._keys if key_id in (None, name) and algorithm in key.algorithms]
        return None if not found or (key_id is None and len(found) > 1) else found[0]

    async def _refresh(self, *, is_awaited: bool) -> bool:
        """Fetch the keys unless that was tried in the last 10 s; return whether they were fetched while this waited."""
        if self._fetching is None:
            if self._clock() < self._next_fetch_at_s:
                return False
            self._next_fetch_at_s = self._clock() + MIN_FETCH_INTERVAL_S
            self._fetching = asyncio.create_task(self._fetch(), name="jwks")
        return is_awaited and await asyncio.shield(self._fetching)

    async def _fetch(self) -> bool:
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT_S):
                self._keys = _read(await self._download())
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TimeoutError) as exc:
            self._has_failed = True
            log.warning("jwks.fetch_failed", reason=f"{type(exc).__name__}: {exc}", keys=len(self._keys))
        else:
            self._has_failed = False
            self._is_stale_at_s = self._clock() + REFRESH_INTERVAL_S
            log.info("jwks.fetched", keys=len(self._keys))
        finally:
            self._fetching = None
        return not self._has_failed

    async def _download(self) -> bytes:
        # Uncompressed, so that the limit applies to the decoded size too.
        async with self._http.stream("GET", self._url, headers={"Accept-Encoding": "identity"}) as response:
            response.raise_for_status()
            return await read_chunks(response.aiter_raw(), _MAX_BYTES)


def _read(document: bytes) -> list[tuple[str | None, Key]]:
    """Return the usable keys of a JWKS with their ids. Raises: ValueError for anything but a JWKS."""
    jwks = orjson.loads(document)
    entries = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise ValueError(f"no JWKS: an object with `keys`, a list of {_MAX_KEYS} at most")
    keys: list[tuple[str | None, Key]] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise ValueError("no JWKS: a key is no object")
        try:
            key = jwk_key(entry)
        except ValueError as exc:
            log.info("jwks.key_ignored", reason=str(exc))  # providers publish keys for other uses in the same set
            continue
        key_id = entry.get("kid")
        keys.append((key_id if isinstance(key_id, str) else None, key))
    return keys
