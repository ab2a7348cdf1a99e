"""Tickets: each authenticates one connection of a client that can put a credential only into the URL."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import orjson

from roomcast.model.json import JsonObject
from roomcast.redis_access.client import Client, outages_reported
from roomcast.redis_access.pipeline import run_all

# Time for a page to connect after it got a ticket. A URL may end up in logs, where the ticket must be useless.
TICKET_TTL_S = 30
_TICKET_BYTES = 32
_TICKET_LENGTH = 43  # of that many bytes in URL-safe base64


class Tickets:
    """Tickets in Redis: issued by any node, valid for one connection to any node.

    Redis holds only their hashes, so that a reader of Redis cannot use them.
    """

    def __init__(self, client: Client, *, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def issue(self, claims: JsonObject) -> str:
        """Return a new ticket for these claims, 43 URL-safe characters, valid for 30 s. Raises: BrokerUnavailable."""
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        await self._run("SET", self._key(ticket), orjson.dumps(claims), "EX", TICKET_TTL_S)
        return ticket

    async def redeem(self, ticket: str) -> JsonObject | None:
        """Return the claims of a ticket and delete it, atomically; None if it is used, expired or unknown.

        Raises: BrokerUnavailable; the ticket may be deleted anyway.
        """
        if len(ticket) != _TICKET_LENGTH or not ticket.isascii():
            return None
        claims = await self._run("GETDEL", self._key(ticket))
        try:
            found = None if claims is None else orjson.loads(claims)
        except orjson.JSONDecodeError:  # written by another program
            return None
        return found if isinstance(found, dict) else None

    def _key(self, ticket: str) -> str:
        return f"{self._prefix}ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"

    async def _run(self, *command: Any) -> Any:  # Any: redis-py's argument and reply
        with outages_reported():
            return (await run_all(self._client, [command], ()))[0]
