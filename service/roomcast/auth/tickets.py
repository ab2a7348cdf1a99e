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
# How long an event stream opens again after it was opened last.
STREAM_TTL_S = 24 * 3600
_TICKET_BYTES = 32
_TICKET_LENGTH = 43  # of that many bytes in URL-safe base64


class Tickets:
    """Tickets in Redis: issued by any node, valid for one connection to any node.

    Redis holds only their hashes, so that a reader of Redis cannot use them. An event stream opens again with its
    ticket and a key that only its client has received.
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
        return _claims(await self._run("GETDEL", self._key(ticket))) if _may_be_ticket(ticket) else None

    async def redeem_for_stream(self, ticket: str) -> tuple[JsonObject, str] | None:
        """As `redeem`; return also the key with which `reopen` accepts the ticket again.

        Raises: BrokerUnavailable; if Redis refuses, the ticket can still be used.
        """
        text = await self._run("GET", self._key(ticket)) if _may_be_ticket(ticket) else None
        claims, key = _claims(text), secrets.token_urlsafe(_TICKET_BYTES)
        if claims is None:
            return None
        await self._run("SET", self._key(ticket + key), text, "EX", STREAM_TTL_S)
        if not await self._run("DEL", self._key(ticket)):  # another connection was faster
            await self._run("DEL", self._key(ticket + key))
            return None
        return claims, key

    async def reopen(self, ticket: str, key: str) -> JsonObject | None:
        """Return the claims of a ticket whose stream has this key; None if there is none. Raises: BrokerUnavailable."""
        if not (_may_be_ticket(ticket) and _may_be_ticket(key)):
            return None
        return _claims(await self._run("GETEX", self._key(ticket + key), "EX", STREAM_TTL_S))

    def _key(self, ticket: str) -> str:
        return f"{self._prefix}ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"

    async def _run(self, *command: Any) -> Any:  # Any: redis-py's argument and reply
        with outages_reported():
            return (await run_all(self._client, [command], ()))[0]


def _may_be_ticket(text: str) -> bool:
    return len(text) == _TICKET_LENGTH and text.isascii()


def _claims(text: Any) -> JsonObject | None:  # Any: redis-py's reply
    try:
        found = None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError:  # written by another program
        return None
    return found if isinstance(found, dict) else None
