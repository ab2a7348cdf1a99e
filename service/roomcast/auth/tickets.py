"""Tickets: a way into one connection, for clients that have no place for a token but the URL."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any

import orjson

from roomcast.model.errors import BrokerUnavailable
from roomcast.redis_access.client import OUTAGES, outage_reason
from roomcast.redis_access.pipeline import run_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from roomcast.redis_access.client import Client

# Between the page's request for a ticket and its connection. A URL may end up in logs; by then it opens nothing.
TICKET_TTL_S = 30
_TICKET_BYTES = 32
_TICKET_LENGTH = 43  # of that many bytes in URL-safe base64


class Tickets:
    """Tickets in Redis: issued by any node, good for one connection to any node.

    Redis has only their hashes: who can read it cannot use them.
    """

    def __init__(self, client: Client, *, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def issue(self, claims: Mapping[str, Any]) -> str:  # Any: JSON
        """Return a new ticket for these claims, 43 URL-safe characters, good for 30 s. Raises: BrokerUnavailable."""
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        await self._run("SET", self._key(ticket), orjson.dumps(claims), "EX", TICKET_TTL_S)
        return ticket

    async def redeem(self, ticket: str) -> dict[str, Any] | None:  # Any: JSON
        """Return the claims of a ticket and end it, in one step; None if it was used, is too old, or never was one.

        Raises: BrokerUnavailable; the ticket may have been ended all the same.
        """
        if len(ticket) != _TICKET_LENGTH or not ticket.isascii():
            return None
        claims = await self._run("GETDEL", self._key(ticket))
        return None if claims is None else dict(orjson.loads(claims))

    def _key(self, ticket: str) -> str:
        return f"{self._prefix}ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"

    async def _run(self, *command: Any) -> Any:  # Any: redis-py's argument and reply
        try:
            (reply,) = await run_all(self._client, [command], ())
        except OUTAGES as exc:
            raise BrokerUnavailable(outage_reason(exc)) from exc
        return reply
