"""The parts of a node that all sessions of the Centrifuge protocol share."""

from __future__ import annotations

import math

import structlog

from roomcast.auth.tokens import TokenVerifier
from roomcast.centrifuge.codec import Members
from roomcast.centrifuge.wire import Wires
from roomcast.config import Settings
from roomcast.connections.connection import Connection
from roomcast.deadlines import Deadlines, Expiring
from roomcast.hooks import Application
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.node.node import Node
from roomcast.tasks import TaskSet

log = structlog.get_logger(__name__)

# How long a client may take to send `connect`.
CONNECT_TIMEOUT_S = 10.0
# The schema has 32 bits for it, and some languages take one of them for the sign: 68 years.
_MAX_TTL_S = 2**31 - 1


class SessionContext:
    """Made once per node.

    by_id: the connections of the sessions of this node, by session id.
    tasks: the commands and refreshes that wait for Redis or the application.
    """

    def __init__(
        self,
        node: Node,
        *,
        verifier: TokenVerifier,
        application: Application,
        deadlines: Deadlines,
        settings: Settings,
        tasks: TaskSet,
    ) -> None:
        self.node = node
        self.verifier = verifier
        self.application = application
        self.deadlines = deadlines
        self.settings = settings
        self.wires = Wires()
        self.by_id: dict[str, Connection] = {}
        self.tasks = tasks

    def await_connect(self, expiring: Expiring) -> None:
        """Call it in 10 s, unless it is forgotten before."""
        self.deadlines.add_in(CONNECT_TIMEOUT_S, expiring)

    def forget(self, session_id: str, expiring: Expiring) -> None:
        """Remove a session whose client has disconnected, and its deadline."""
        self.by_id.pop(session_id, None)
        self.deadlines.forget(expiring)

    def expiry(self, expire_at_s: float) -> Members:
        """Return the members of a result that tell when something expires, at a Unix time; 0: never.

        Raises: ClientError 110 if it has expired.
        """
        if not expire_at_s:
            return {}
        ttl_s = expire_at_s - self.deadlines.now_s()
        if ttl_s <= -self.settings.token_leeway_s:
            raise ClientError(ErrorCode.EXPIRED, "the time is over")
        # If the clock that set the time is behind, a second remains to refresh in.
        return {"expires": True, "ttl": min(max(math.ceil(ttl_s), 1), _MAX_TTL_S)}

    def refused_token(self, connection: Connection, reason: str) -> None:
        """Log why a token is invalid; never the token itself."""
        log.info("session.refused_token", conn=connection.id, reason=reason)
