"""Operations of other nodes and the server API on the sessions of this node, by a `Survey`."""

from __future__ import annotations

import base64
from contextlib import suppress

from roomcast.auth.claims import subscription_options
from roomcast.centrifuge import subscribe
from roomcast.centrifuge.codec import Members
from roomcast.centrifuge.command_queue import CommandQueue
from roomcast.centrifuge.session import Session
from roomcast.centrifuge.session_context import SessionContext
from roomcast.connections.connection import Connection
from roomcast.model.errors import CHANNEL_LIMIT, EXPIRED, UNSUBSCRIBED, BrokerUnavailable
from roomcast.model.json import JsonObject
from roomcast.node.node import SubscribeSuperseded
from roomcast.node.survey import Handler, Survey, UnknownNode
from roomcast.transports.command_stream import CommandStream


class SessionOperations:
    """Answers the questions `emulate`, `subscribe`, `unsubscribe` and `refresh` of a survey, and asks `emulate`."""

    def __init__(self, context: SessionContext, survey: Survey) -> None:
        self._context = context
        self._survey = survey

    def handlers(self) -> dict[str, Handler]:
        """Return the handler of each question."""
        return {
            "emulate": self._emulate,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "refresh": self._refresh,
        }

    async def emulate(self, node_id: str, session_id: str, data: bytes) -> bool:
        """Send a session, on any node, commands that came by a request; return whether there is such a session.

        Delivery: at most once. Raises: BrokerUnavailable; then the commands may have arrived or not.
        """
        if node_id == self._context.node.id:
            return self._execute(session_id, data)
        params = {"session": session_id, "data": base64.b64encode(data).decode()}
        try:
            answers = await self._survey.ask("emulate", params, node_id=node_id)
        except UnknownNode:
            return False
        if answers.missing_count:
            raise BrokerUnavailable("the client's node does not answer")
        return any(answer.get("found", False) for answer in answers.values())

    async def _emulate(self, params: JsonObject) -> Members:
        """Execute commands that a client has sent to another node. `data`: base64."""
        return {"found": self._execute(params["session"], base64.b64decode(params["data"]))}

    def _execute(self, session_id: str, data: bytes) -> bool:
        match self._context.by_id.get(session_id):
            case Connection(transport=CommandStream() as stream, receiver=CommandQueue() as queue):
                stream.has_answered = True
                queue.on_request(data)
                return True
        return False

    async def _subscribe(self, params: JsonObject) -> Members:
        """Subscribe a user's clients to a channel, and notify them."""
        channel = params["channel"]
        options = subscription_options(params)
        since = params.get("recover_since")
        recovering = None if since is None else {"recover": True, **since}
        expire_at_s = params.get("expire_at") or 0
        count = 0
        for session in self._sessions_of(params):
            if channel in session.subscriptions:
                continue
            if len(session.subscriptions) + len(session.loads) >= self._context.settings.channel_limit:
                session.disconnect(CHANNEL_LIMIT)
                continue
            with suppress(SubscribeSuperseded):
                async with subscribe.subscribing_by_server(
                    session, channel, options, recovering, expire_at_s
                ) as result:
                    _push_subscription(session, channel, result)
                count += 1
        return {"count": count}

    async def _unsubscribe(self, params: JsonObject) -> Members:
        """End the subscriptions of a user's clients to a channel, and notify them."""
        for session in self._sessions_of(params):
            session.unsubscribe(params["channel"], UNSUBSCRIBED)
        return {}

    async def _refresh(self, params: JsonObject) -> Members:
        """Let a user's connections expire now, or at another time, and notify them."""
        info = subscription_options(params).info
        for session in self._sessions_of(params):
            if params.get("expired"):
                session.disconnect(EXPIRED)
                continue
            expire_at_s = params.get("expire_at") or 0
            expiry = self._context.expiry(expire_at_s)
            if info:
                session.connection.info = info
            session.expire_at(expire_at_s)
            session.push("", "refresh", expiry)
        return {}

    def _sessions_of(self, params: JsonObject) -> list[Session]:
        """Return the connected sessions of a user: all, or the one with this client id, or session id."""
        session_id = params.get("session", "")
        return [
            queue.session
            for connection in self._context.node.roster.named(params["user"], params.get("client", ""))
            if isinstance(queue := connection.receiver, CommandQueue)
            and queue.session.is_connected
            and session_id in {"", queue.session.id}
        ]


def session_id_of(connection: Connection) -> str:
    """Return the id of a connection's session, "" if it has none."""
    return connection.receiver.session.id if isinstance(connection.receiver, CommandQueue) else ""


def _push_subscription(session: Session, channel: str, result: Members) -> None:
    names = ("recoverable", "epoch", "offset", "positioned", "data")
    session.push(channel, "subscribe", {name: result[name] for name in names if name in result})
    for publication in result.get("publications", ()):
        session.push(channel, "pub", publication)
