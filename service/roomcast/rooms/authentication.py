"""Authentication of plain clients: by a token, by a ticket, as anonymous; with ROOMCAST_INSECURE by the query.

A token is never in a URL, because logs and histories keep URLs. It is a subprotocol of the WebSocket
(`new WebSocket(url, ["roomcast", "token." + token])`), a header (`Authorization: Bearer`), or the first message.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from starlette.requests import HTTPConnection

from roomcast.auth import ConnectionClaims, ExpiredToken, InvalidToken
from roomcast.auth.claims import connection_claims
from roomcast.auth.permissions import Client
from roomcast.auth.tickets import Tickets
from roomcast.auth.tokens import TokenVerifier
from roomcast.config import Settings
from roomcast.hooks.interface import SubscribeAnswer
from roomcast.model.channels import check_name
from roomcast.model.client_info import check_info
from roomcast.model.errors import ClientError, ErrorCode, Rejected, Rejection
from roomcast.model.json import JsonObject
from roomcast.web.event_ids import last_event_id

SUBPROTOCOL = "roomcast"
_TOKEN_PREFIX = "token."  # noqa: S105  (no secret)
_BEARER = "bearer "
_USED = "the ticket was used, or is older than 30 s"


class Identity(NamedTuple):
    """An authenticated client.

    info: JSON for other clients, or empty. expire_at_s: Unix time at which the connection is closed, 0: never.
    stream_key: with it the client's ticket opens the event stream again, or empty.
    has_token: it was identified by a token or ticket. meta, channels: see `ConnectAnswer`.
    """

    client: Client
    info: bytes = b""
    expire_at_s: int = 0
    stream_key: str = ""
    has_token: bool = False
    meta: bytes = b""
    channels: Mapping[str, SubscribeAnswer] = MappingProxyType({})


class Authenticator:
    """Authenticates plain clients, by their request or by their first message.

    Args:
        asks_application: the application accepts clients, so those without credentials are anonymous.
    """

    def __init__(
        self, verifier: TokenVerifier, tickets: Tickets, settings: Settings, *, asks_application: bool
    ) -> None:
        self._verifier = verifier
        self._tickets = tickets
        self._is_insecure = settings.insecure
        self._accepts_anonymous = settings.anonymous or asks_application

    async def authenticate(self, connection: HTTPConnection, *, is_stream: bool = False) -> Identity | None:
        """Return the identity of a client by its request; None if it has no credentials and needs some.

        Args:
            is_stream: its ticket opens an event stream, and opens it again with the key in its last event's id.
        Raises: ClientError 101 for an invalid token or ticket, 109 for an expired token, 107 for a user or info in the
            query; BrokerUnavailable.
        """
        query = connection.query_params
        if self._is_insecure:
            return _claimed(query.get("user", ""), query.get("info", ""))
        if "user" in query or "info" in query:
            raise ClientError(ErrorCode.BAD_REQUEST, "user and info stand in the token")
        if token := _token_of(connection):
            return await self.by_token(token)
        if ticket := query.get("ticket", ""):
            return await (self._by_stream_ticket(connection, ticket) if is_stream else self._by_ticket(ticket))
        return Identity(Client()) if self._accepts_anonymous else None

    async def required(self, connection: HTTPConnection, *, is_stream: bool = False) -> Identity:
        """Return the identity of a client. Raises: as `authenticate`, and ClientError 101 without credentials."""
        identity = await self.authenticate(connection, is_stream=is_stream)
        if identity is None:
            raise _rejected(Rejection.NO_TOKEN, "send a token as Authorization: Bearer, or a ticket")
        return identity

    async def by_token(self, token: str) -> Identity:
        """Return the identity in a token. Raises: ClientError 101, 109; BrokerUnavailable without its key."""
        try:
            return _identity(await self._verifier.connection(token))
        except InvalidToken as exc:
            raise _rejected(Rejection.INVALID_TOKEN, "the token is not good", exc.reason) from None

    async def ticket_for_bearer(self, connection: HTTPConnection) -> str | None:
        """Return a ticket for the client whose token is in the header; None without one. Raises: as `by_token`."""
        token = _token_of(connection)
        if not token or self._is_insecure:
            return None
        await self.by_token(token)
        return await self._tickets.issue(await self._verifier.payload(token))

    async def ticket_for(self, claims: JsonObject) -> str:
        """Return a ticket for these claims. Raises: ClientError 107 for invalid claims; BrokerUnavailable."""
        try:
            connection_claims(claims)
        except InvalidToken as exc:
            raise ClientError(ErrorCode.BAD_REQUEST, exc.reason) from None
        return await self._tickets.issue(claims)

    async def _by_ticket(self, ticket: str) -> Identity:
        claims = await self._tickets.redeem(ticket)
        if claims is None:
            raise _rejected(Rejection.INVALID_TICKET, _USED)
        return _identity(connection_claims(claims))

    async def _by_stream_ticket(self, connection: HTTPConnection, ticket: str) -> Identity:
        key = last_event_id(connection).key
        if key:
            claims = await self._tickets.reopen(ticket, key)
        else:
            claims, key = await self._tickets.redeem_for_stream(ticket) or (None, "")
        if claims is None:
            raise _rejected(Rejection.INVALID_TICKET, _USED)
        identity = _identity(connection_claims(claims))
        ends = [float(end) for end in (identity.expire_at_s, claims.get("exp")) if isinstance(end, int | float) and end]
        if ends and min(ends) <= time.time():
            raise ExpiredToken
        return identity._replace(stream_key=key)


def _rejected(rejection: Rejection, detail: str, reason: str = "") -> Rejected:
    return Rejected(rejection, ErrorCode.UNAUTHORIZED, detail, reason=reason)


def _token_of(connection: HTTPConnection) -> str:
    for name in connection.scope.get("subprotocols", ()):
        if name.startswith(_TOKEN_PREFIX):
            return str(name).removeprefix(_TOKEN_PREFIX)
    header = connection.headers.get("authorization", "")
    return header[len(_BEARER) :].strip() if header[: len(_BEARER)].lower() == _BEARER else ""


def _identity(claims: ConnectionClaims) -> Identity:
    client = Client(claims.user, claims.grants)
    return Identity(client, claims.info, claims.expire_at_s or 0, has_token=True, meta=claims.meta)


def _claimed(user: str, info: str) -> Identity:
    if user:
        check_name(user, "user")
    return Identity(Client(user, is_trusted=True), check_info(info) if info else b"")
