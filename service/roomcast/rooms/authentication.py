"""Who a client of the plain endpoints is: by a token, by a ticket, as nobody, or, where nobody is checked, as it says.

A token never stands in a URL, where logs and histories keep it: it comes among the WebSocket's subprotocols, as
`new WebSocket(url, ["roomcast", "token." + token])`, in a header (`Authorization: Bearer`), or as the first message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from roomcast.auth import ConnectionClaims, InvalidToken
from roomcast.auth.claims import connection_claims
from roomcast.auth.permissions import Client
from roomcast.model.channels import check_name
from roomcast.model.client_info import check_info
from roomcast.model.errors import ClientError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import HTTPConnection

    from roomcast.auth.tickets import Tickets
    from roomcast.auth.tokens import TokenVerifier
    from roomcast.config import Settings

log = structlog.get_logger(__name__)

SUBPROTOCOL = "roomcast"
_TOKEN_PREFIX = "token."  # noqa: S105  (no secret)
_BEARER = "bearer "


class Visitor(NamedTuple):
    """A client that may come in.

    info: JSON that others see, or empty. expire_at_s: Unix time at which it has to go, 0: never.
    """

    client: Client
    info: bytes = b""
    expire_at_s: int = 0


class Admission:
    """Says who a client is, before its connection is made, or by its first message."""

    def __init__(self, verifier: TokenVerifier, tickets: Tickets, settings: Settings) -> None:
        self._verifier = verifier
        self._tickets = tickets
        self._is_insecure = settings.insecure
        self._lets_anonymous_in = settings.anonymous

    async def visitor(self, connection: HTTPConnection) -> Visitor | None:
        """Return who a client is by its request; None if the request does not say it.

        Raises: ClientError 101 for a token or ticket that is refused, 109 for one that has expired, 107 for claims that
            nobody checks; BrokerUnavailable.
        """
        query = connection.query_params
        if self._is_insecure:
            return _believed(query.get("user", ""), query.get("info", ""))
        if "user" in query or "info" in query:
            raise ClientError(ErrorCode.BAD_REQUEST, "user and info stand in the token")
        if token := _token_of(connection):
            return await self.by_token(token)
        if ticket := query.get("ticket", ""):
            return await self._by_ticket(ticket)
        return Visitor(Client()) if self._lets_anonymous_in else None

    async def required(self, connection: HTTPConnection) -> Visitor:
        """Return who a client is. Raises: as `visitor`, and ClientError 101 if the request does not say it."""
        visitor = await self.visitor(connection)
        if visitor is None:
            raise ClientError(ErrorCode.UNAUTHORIZED, "send a token as Authorization: Bearer, or a ticket")
        return visitor

    async def by_token(self, token: str) -> Visitor:
        """Return who a token says that a client is. Raises: ClientError 101, 109; BrokerUnavailable without its key."""
        try:
            return _visitor(await self._verifier.connection(token))
        except InvalidToken as exc:
            log.info("admission.refused_token", reason=exc.reason)  # never the token
            raise ClientError(ErrorCode.UNAUTHORIZED, "the token is not good") from None

    async def ticket_for_bearer(self, connection: HTTPConnection) -> str | None:
        """Return a ticket for who sends a token in the header; None without a token. Raises: as `by_token`."""
        token = _token_of(connection)
        if not token or self._is_insecure:
            return None
        await self.by_token(token)
        return await self._tickets.issue(await self._verifier.payload(token))

    async def ticket_for(self, claims: Mapping[str, Any]) -> str:  # Any: JSON
        """Return a ticket for whom such claims are. Raises: ClientError 107 if they are none; BrokerUnavailable."""
        try:
            connection_claims(claims)
        except InvalidToken as exc:
            raise ClientError(ErrorCode.BAD_REQUEST, exc.reason) from None
        return await self._tickets.issue(claims)

    async def _by_ticket(self, ticket: str) -> Visitor:
        claims = await self._tickets.redeem(ticket)
        if claims is None:
            raise ClientError(ErrorCode.UNAUTHORIZED, "the ticket was used, or is older than 30 s")
        return _visitor(connection_claims(claims))


def _token_of(connection: HTTPConnection) -> str:
    for name in connection.scope.get("subprotocols", ()):
        if name.startswith(_TOKEN_PREFIX):
            return str(name).removeprefix(_TOKEN_PREFIX)
    header = connection.headers.get("authorization", "")
    return header[len(_BEARER) :].strip() if header[: len(_BEARER)].lower() == _BEARER else ""


def _visitor(claims: ConnectionClaims) -> Visitor:
    return Visitor(Client(claims.user, claims.grants), claims.info, claims.expire_at_s or 0)


def _believed(user: str, info: str) -> Visitor:
    if user:
        check_name(user, "user")
    return Visitor(Client(user, is_trusted=True), check_info(info) if info else b"")
