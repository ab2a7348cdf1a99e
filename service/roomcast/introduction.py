"""A plain WebSocket whose client has not said who it is: its first message does, within 10 s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from roomcast.model.errors import (
    BAD_REQUEST,
    EXPIRED,
    INVALID_TOKEN,
    PERMISSION_DENIED,
    SERVER_ERROR,
    STALE,
    BrokerUnavailable,
    ClientError,
    ErrorCode,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from roomcast.connections.connection import Connection
    from roomcast.model.publications import Kind

_DISCONNECTS = {ErrorCode.UNAUTHORIZED: INVALID_TOKEN, ErrorCode.TOKEN_EXPIRED: EXPIRED}


class Introduction:
    """Implements `Receiver` until the client is let in: `{"token": "..."}` is all that it may send.

    Args:
        spawn: runs what has to wait, until the node ends.
        admit: lets in whom a token names, and gives the connection another receiver.
            Raises: ClientError, BrokerUnavailable.
    """

    connection: Connection

    def __init__(
        self, spawn: Callable[[Coroutine[Any, Any, None]], object], admit: Callable[[Connection, str], Awaitable[None]]
    ) -> None:
        self._spawn = spawn
        self._admit = admit
        self._has_introduced_itself = False

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:  # noqa: ARG002  (as in Receiver)
        """Take the token; anything else, or anything more, ends the connection."""
        token = _token_in(data)
        if token is None or self._has_introduced_itself:
            connection.close(BAD_REQUEST)
            return
        self._has_introduced_itself = True
        self._spawn(self._let_in(connection, token))

    def on_lost(self, connection: Connection, channel: str) -> None:
        """It is subscribed to nothing yet."""

    def on_closed(self, connection: Connection) -> None:
        """Nobody is told."""

    def on_deadline(self, now_s: float, grace_s: float) -> None:  # noqa: ARG002  (as in Expiring)
        """End a connection that has said nothing."""
        if self.connection.receiver is self:
            self.connection.close(STALE)

    async def _let_in(self, connection: Connection, token: str) -> None:
        try:
            await self._admit(connection, token)
        except ClientError as exc:
            connection.close(_DISCONNECTS.get(exc.error, PERMISSION_DENIED))
        except BrokerUnavailable:
            connection.close(SERVER_ERROR)


def _token_in(data: bytes) -> str | None:
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    token = message.get("token") if type(message) is dict else None
    return token if type(token) is str else None
