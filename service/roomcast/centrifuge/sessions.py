"""The sessions of one node: how they begin, and what reaches them from elsewhere in the cluster."""

from __future__ import annotations

import asyncio
import base64
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from roomcast.auth.claims import subscription_options
from roomcast.centrifuge import subscribe
from roomcast.centrifuge.json_codec import JsonCodec
from roomcast.centrifuge.protobuf_codec import ProtobufCodec
from roomcast.centrifuge.session import Session
from roomcast.centrifuge.wire import Wire
from roomcast.model.errors import CHANNEL_LIMIT, EXPIRED, UNSUBSCRIBED, BrokerUnavailable, ClientError, ErrorCode
from roomcast.model.publications import Kind
from roomcast.node.node import Overtaken
from roomcast.node.survey import UnknownNode
from roomcast.tasks import end
from roomcast.transports.command_stream import CommandStream
from roomcast.transports.websocket import frames

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from roomcast.auth.tokens import TokenVerifier
    from roomcast.centrifuge.codec import Members
    from roomcast.config import Settings
    from roomcast.connections.connection import Connection
    from roomcast.deadlines import Deadlines
    from roomcast.hooks import Application
    from roomcast.model.json import JsonObject
    from roomcast.node.node import Node
    from roomcast.node.survey import Handler, Survey

log = structlog.get_logger(__name__)

# How long a client may take to say who it is.
CONNECT_TIMEOUT_S = 10.0
# The schema has 32 bits for it, and some languages take one of them for the sign: 68 years.
_MAX_TTL_S = 2**31 - 1


class Sessions:
    """Everything that sessions share.

    websocket_json, websocket_protobuf, stream_json, stream_protobuf, sse: the wires, one per transport and encoding.
    """

    def __init__(
        self,
        node: Node,
        *,
        verifier: TokenVerifier,
        application: Application,
        deadlines: Deadlines,
        survey: Survey,
        settings: Settings,
    ) -> None:
        self._survey = survey
        self.node = node
        self.verifier = verifier
        self.application = application
        self.deadlines = deadlines
        self.settings = settings
        # Clients count in whole seconds, and wait a few more.
        self.ping_interval_s = math.ceil(settings.ping_interval_s)
        json, protobuf = JsonCodec(), ProtobufCodec()
        self.websocket_json = Wire("json", json, lambda message: frames.message_frame(Kind.TEXT, message))
        self.websocket_protobuf = Wire("protobuf", protobuf, lambda message: frames.message_frame(Kind.BINARY, message))
        self.stream_json = Wire("json", json, lambda message: message + b"\n")
        self.stream_protobuf = Wire("protobuf", protobuf, lambda message: message)
        self.sse = Wire("json", json, lambda message: b"data: %b\n\n" % message)
        self._by_id: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, wire: Wire, headers: Mapping[str, str]) -> Session:
        """Return a new session, which has 10 s to connect; its connection is to be set at once."""
        wanted = self.application.headers
        session = Session(self, wire, {name: headers[name] for name in wanted if name in headers})
        self._by_id[session.id] = session
        self.await_connect(session)
        return session

    def await_connect(self, session: Session) -> None:
        """Give a client 10 s to connect."""
        self.deadlines.add_in(CONNECT_TIMEOUT_S, session)

    def forget(self, session: Session) -> None:
        """Let go of a session whose client is gone."""
        self._by_id.pop(session.id, None)
        self.deadlines.forget(session)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what a session has to wait for, until its client is gone or the node ends."""
        task = asyncio.create_task(work, name="session")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end(self) -> None:
        """End what still runs."""
        await end(*self._tasks)

    def expiry(self, expire_at_s: float) -> Members:
        """Return what a client is told of a Unix time at which something ends. Raises: ClientError 110 if it has."""
        if not expire_at_s:
            return {}
        ttl_s = expire_at_s - self.deadlines.now_s()
        if ttl_s <= -self.settings.token_leeway_s:
            raise ClientError(ErrorCode.EXPIRED, "the time is over")
        # Where a clock that is behind has set the time, a second is left to refresh in.
        return {"expires": True, "ttl": min(max(math.ceil(ttl_s), 1), _MAX_TTL_S)}

    def session_id_of(self, connection: Connection) -> str:
        """Return the id of a connection's session, "" if it has none."""
        return connection.receiver.id if isinstance(connection.receiver, Session) else ""

    def refused_token(self, session: Session, reason: str) -> None:
        """Log why a token was rejected; never the token."""
        log.info("session.refused_token", conn=session.connection.id, reason=reason)

    # What other nodes, and the server API on whatever node, ask of this one.

    def handlers(self) -> dict[str, Handler]:
        """Return what this node does when it is asked, by op."""
        return {
            "emulate": self._emulate,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "refresh": self._refresh,
        }

    async def emulate(self, node_id: str, session_id: str, data: bytes) -> bool:
        """Give commands to a session whose replies stream from some node; return whether there is such a session.

        Delivery: at most once. Raises: BrokerUnavailable; then nobody knows.
        """
        if node_id == self.node.id:
            return self._do(session_id, data)
        params = {"session": session_id, "data": base64.b64encode(data).decode()}
        try:
            answers = await self._survey.ask("emulate", params, node_id=node_id)
        except UnknownNode:
            return False
        if answers.missing_count:
            raise BrokerUnavailable("the client's node does not answer")
        return any(answer.get("found", False) for answer in answers.values())

    async def _emulate(self, params: JsonObject) -> Members:
        """Do commands that a client has sent to another node. `data`: base64."""
        return {"found": self._do(params["session"], base64.b64decode(params["data"]))}

    def _do(self, session_id: str, data: bytes) -> bool:
        session = self._by_id.get(session_id)
        stream = None if session is None else session.connection.transport
        if session is None or not isinstance(stream, CommandStream):
            return False
        stream.has_been_heard = True
        session.on_request(data)
        return True

    async def _subscribe(self, params: JsonObject) -> Members:
        """Subscribe a user's clients to a channel, and tell them."""
        channel = params["channel"]
        options = subscription_options(params)
        since = params.get("recover_since")
        recovering = None if since is None else {"recover": True, **since}
        count = 0
        for session in self._sessions_of(params):
            if channel in session.subscriptions:
                continue
            if len(session.subscriptions) >= self.settings.channel_limit:
                session.disconnect(CHANNEL_LIMIT)
                continue
            with suppress(Overtaken):
                await subscribe.subscribe_by_server(
                    session,
                    channel,
                    options,
                    recovering,
                    expire_at_s=params.get("expire_at") or 0,
                    greet=lambda result, session=session: _tell(session, channel, result),  # type: ignore[misc]
                )
                count += 1
        return {"count": count}

    async def _unsubscribe(self, params: JsonObject) -> Members:
        """End the subscriptions of a user's clients to a channel, and tell them."""
        for session in self._sessions_of(params):
            session.unsubscribe(params["channel"], UNSUBSCRIBED)
        return {}

    async def _refresh(self, params: JsonObject) -> Members:
        """Let the connections of a user end now, or at another time, and tell them."""
        info = subscription_options(params).info
        for session in self._sessions_of(params):
            if params.get("expired"):
                session.disconnect(EXPIRED)
                continue
            expire_at_s = params.get("expire_at") or 0
            expiry = self.expiry(expire_at_s)
            if info:
                session.connection.info = info
            session.expire_at(expire_at_s)
            session.push("", "refresh", expiry)
        return {}

    def _sessions_of(self, params: JsonObject) -> list[Session]:
        """Return the connected sessions of a user: all, or the one with this client id, or session id."""
        session_id = params.get("session", "")
        return [
            receiver
            for connection in self.node.roster.named(params["user"], params.get("client", ""))
            if isinstance(receiver := connection.receiver, Session)
            and receiver.is_connected
            and session_id in {"", receiver.id}
        ]


def _tell(session: Session, channel: str, result: Members) -> None:
    told: Members = {
        name: result[name] for name in ("recoverable", "epoch", "offset", "positioned", "data") if name in result
    }
    session.push(channel, "subscribe", told)
    for publication in result.get("publications", ()):
        session.push(channel, "pub", publication)
