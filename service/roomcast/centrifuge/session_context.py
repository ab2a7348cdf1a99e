"""The parts of a node that all sessions of the Centrifuge protocol share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from roomcast.auth.tokens import TokenVerifier
from roomcast.centrifuge.codec import Members
from roomcast.centrifuge.wire import Wires
from roomcast.config import Settings
from roomcast.connections.connection import Connection
from roomcast.deadlines import Deadlines
from roomcast.hooks.interface import Application
from roomcast.model.errors import ClientError, ErrorCode, Rejection
from roomcast.node.node import Node
from roomcast.tasks import TaskSet

# The schema has 32 bits for it, and some languages take one of them for the sign: 68 years.
_MAX_TTL_S = 2**31 - 1


@dataclass(slots=True, eq=False)
class SessionContext:
    """Made once per node.

    tasks: the commands and refreshes that wait for Redis or the application.
    by_id: the connections of the sessions of this node, by session id.
    """

    node: Node
    verifier: TokenVerifier
    application: Application
    deadlines: Deadlines
    settings: Settings
    tasks: TaskSet
    wires: Wires = field(default_factory=Wires)
    by_id: dict[str, Connection] = field(default_factory=dict)

    def expiry(self, expire_at_s: float) -> Members:
        """Return the members of a result that tell an expiry; 0: never. Raises: ClientError 110 if it has expired."""
        if not expire_at_s:
            return {}
        ttl_s = expire_at_s - self.deadlines.now_s()
        if ttl_s <= -self.settings.token_leeway_s:
            raise ClientError(ErrorCode.EXPIRED, "the time is over")
        # If the clock that set the time is behind, a second remains to refresh in.
        return {"expires": True, "ttl": min(max(math.ceil(ttl_s), 1), _MAX_TTL_S)}

    def rejected(self, connection: Connection, rejection: Rejection, reason: str) -> None:
        """Count and log why a client is rejected; never its token."""
        self.node.rejections.note(rejection, connection.address, reason, conn=connection.id)
