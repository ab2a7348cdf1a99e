"""One client of the Centrifuge protocol: its commands, done one after the other, and how long it may stay."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog

from roomcast.auth.permissions import Client
from roomcast.centrifuge import expiry
from roomcast.centrifuge.codec import MalformedFrame
from roomcast.centrifuge.commands import HANDLERS
from roomcast.centrifuge.request_order import RequestOrder
from roomcast.connections.connection import Pause, State
from roomcast.hooks import Caller, DisconnectEvent
from roomcast.model.errors import (
    BAD_REQUEST,
    INSUFFICIENT_STATE,
    SERVER_ERROR,
    SLOW,
    STALE,
    TOO_MANY_REQUESTS,
    UNSUBSCRIBED_INSUFFICIENT,
    ApplicationError,
    BrokerUnavailable,
    ClientError,
    ErrorCode,
    Refused,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from roomcast.centrifuge.codec import Command, Members
    from roomcast.centrifuge.held import Held
    from roomcast.centrifuge.sessions import Sessions
    from roomcast.centrifuge.wire import Wire
    from roomcast.connections.connection import Connection
    from roomcast.model.errors import Disconnect, Unsubscribe
    from roomcast.model.publications import Kind

log = structlog.get_logger(__name__)

# So many commands, or frames of so many bytes, may wait for one that waits for Redis, or for the application, before
# reading pauses.
_MAX_WAITING = 64
_MAX_WAITING_BYTES = 128 * 1024
# A request goes through Redis in some ms; one that is later than that is lost, as a rule.
_OVERTAKEN_TIMEOUT_S = 0.2
# What a command takes in memory, which may be of three bytes on the wire.
_COMMAND_BYTES = 150
# So many of a frame are done in one turn of the loop, some 5 ms: without a pause nobody else would be served meanwhile.
_TURN_COMMANDS = 128


class Session:
    """Implements `Receiver`. Its connection counts as open once `connect` has been answered.

    id: a secret: who knows it may send commands, also through other nodes (`/emulation`).
    """

    __slots__ = (
        "_headers",
        "_overtaken",
        "_requests",
        "_task",
        "_waiting",
        "_waiting_bytes",
        "client",
        "connection",
        "expire_at_s",
        "id",
        "is_connected",
        "is_kept_by_application",
        "meta",
        "sessions",
        "subscriptions",
        "token_user",
        "wire",
    )

    connection: Connection

    def __init__(self, sessions: Sessions, wire: Wire, headers: Mapping[str, str]) -> None:
        self.sessions = sessions
        self.wire = wire
        self.id = secrets.token_urlsafe(16)
        self.client = Client()
        self.meta = b""  # JSON that only the application sees
        self.token_user = ""  # whom tokens that refresh it name; the application may know the client by another name
        self.is_connected = False
        self.expire_at_s = 0.0  # Unix time, 0: never
        self.is_kept_by_application = False  # it is asked then; the client has no token to refresh with
        self.subscriptions: dict[str, Held] = {}
        self._headers = headers
        self._requests: RequestOrder | None = None  # of a client that sends requests
        self._overtaken: asyncio.TimerHandle | None = None  # while a request waits for one that it overtook
        self._waiting: deque[Command] | None = None  # an empty one would be 760 bytes of each idle client
        self._waiting_bytes = 0  # of the frames and commands that have come since something waits
        self._task: asyncio.Task[None] | None = None

    @property
    def client_id(self) -> str:
        """Return what names this client in the cluster."""
        return self.sessions.node.roster.client_id(self.connection)

    @property
    def caller(self) -> Caller:
        """Return this client as the application is told of it."""
        return Caller(
            self.client_id,
            self.connection.transport.name,
            self.wire.encoding_name,
            self.client.user,
            self.meta,
            self._headers,
        )

    # What the transport tells.

    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:  # noqa: ARG002  (as in Receiver)
        """Do the commands of a frame, in their order."""
        codec = self.wire.codec
        if kind is not codec.kind:
            self.disconnect(BAD_REQUEST)
            return
        if not self._may_go_on(len(data)):
            self.disconnect(TOO_MANY_REQUESTS)
            return
        try:
            for number, command in enumerate(codec.commands(data)):
                self._take(command, is_late=number >= _TURN_COMMANDS)
        except MalformedFrame as exc:
            log.debug("session.malformed_frame", conn=self.connection.id, reason=str(exc))
            self.disconnect(BAD_REQUEST)

    def on_request(self, data: bytes) -> None:
        """Do the commands of a request, after those of requests that it has overtaken: they have 0.2 s to come."""
        if self._requests is None:
            self._requests = RequestOrder()
        order = self._requests
        for each in order.put(self.wire.codec, data):
            self.on_message(self.connection, self.wire.codec.kind, each)
        if not order.is_waiting:
            self._stop_waiting_for_overtaken()
        elif self._overtaken is None:
            loop = asyncio.get_running_loop()
            self._overtaken = loop.call_later(_OVERTAKEN_TIMEOUT_S, self._give_up_on_overtaken)

    def _stop_waiting_for_overtaken(self) -> None:
        if self._overtaken is not None:
            self._overtaken.cancel()
            self._overtaken = None

    def _give_up_on_overtaken(self) -> None:
        self._overtaken = None
        for each in self._requests.give_up() if self._requests is not None else ():
            self.on_message(self.connection, self.wire.codec.kind, each)

    def on_lost(self, connection: Connection, channel: str) -> None:  # noqa: ARG002  (as in Receiver)
        """Let the client subscribe again: then it is told that it could not recover."""
        held = self.subscriptions.get(channel)
        if held is None or not held.is_positioned:
            return
        if held.is_of_server:
            self.disconnect(INSUFFICIENT_STATE)
        else:
            self.unsubscribe(channel, UNSUBSCRIBED_INSUFFICIENT)

    def on_closed(self, connection: Connection) -> None:
        """Drop what waits, and tell the application."""
        self._waiting = self._requests = None
        self._stop_waiting_for_overtaken()
        if self._task is not None:
            self._task.cancel()
        self.sessions.forget(self)
        if self.is_connected:
            code = connection.transport.close_code()
            self.sessions.application.on_disconnect(DisconnectEvent(self.caller, code, ""))

    # What commands and the server do.

    def disconnect(self, disconnect: Disconnect) -> None:
        """End the connection, and everything that waits."""
        self._waiting = None
        self.connection.close(disconnect)

    def reply(self, command: Command, result: Mapping[str, Any]) -> None:
        """Answer a command that was done."""
        self.write(self.wire.codec.reply(command.id, command.method, result))

    def refuse(self, command: Command, error: ErrorCode | ApplicationError) -> None:
        """Answer a command that was not done. The details are not for clients: they have the code.

        One without an id has no answer: clients take it for a ping, and a pong to that ends the connection.
        """
        if command.id:
            self.write(self.wire.codec.error(command.id, error.code, error.message, is_temporary=error.is_temporary))

    def push(self, channel: str, kind: str, fields: Mapping[str, Any]) -> None:
        """Tell the client something that it did not ask for."""
        self.write(self.wire.codec.push(channel, kind, fields))

    def write(self, message: bytes) -> None:
        """Send a message of the codec; before the connection is open, past what waits for that."""
        if self.connection.state is State.CONNECTING:
            self.connection.transport.write(self.wire.frame(message))
            if self.connection.transport.unsent_bytes() > self.connection.max_unsent_bytes:
                self.disconnect(SLOW)
        else:
            self.connection.send(self.wire.frame(message))

    def hold(self, channel: str, held: Held) -> None:
        """Note a subscription that was made."""
        self.subscriptions[channel] = held
        self.await_end(held.expire_at_s, at_once=held.is_kept_by_application)

    def drop(self, channel: str) -> bool:
        """End a subscription; return whether there was one."""
        if self.subscriptions.pop(channel, None) is None:
            return False
        self.sessions.node.unsubscribe(self.connection, channel)
        return True

    def unsubscribe(self, channel: str, reason: Unsubscribe) -> None:
        """End a subscription, and tell the client."""
        if self.drop(channel):
            self.push(channel, "unsubscribe", {"code": reason.code, "reason": reason.reason})

    def expire_at(self, unix_s: float) -> None:
        """Let the connection end at a Unix time, unless it is refreshed; 0: never."""
        self.expire_at_s = unix_s
        self.await_end(unix_s, at_once=self.is_kept_by_application)

    def on_deadline(self, now_s: float, grace_s: float) -> None:
        """End a client that has not said who it is, or what has been left to expire."""
        if self.is_connected:
            expiry.end_expired(self, now_s, grace_s)
        elif self._task is None:
            self.disconnect(STALE)
        else:  # it has said who it is, and we are the ones who take so long
            self.sessions.await_connect(self)

    def await_end(self, unix_s: float, *, at_once: bool) -> None:
        """Look at a Unix time what has expired, or later, when clients have had time to refresh it; 0: never."""
        if self.connection.state is State.CLOSED:  # the application was asked, and the client has gone meanwhile
            return
        self.sessions.deadlines.add(unix_s, self, at_once=at_once)

    # How commands are done.

    def _may_go_on(self, size_bytes: int) -> bool:
        """Return whether one more frame may come; requests come also to who does not read."""
        most_bytes = 2 * _MAX_WAITING_BYTES + self.connection.max_unsent_bytes
        if self._task is not None:
            self._waiting_bytes += size_bytes
            if self._waiting_bytes > _MAX_WAITING_BYTES:
                self.connection.pause_reading(Pause.COMMANDS)
        return self._waiting_bytes <= most_bytes and self.connection.unpublished_bytes <= most_bytes

    def _take(self, command: Command, *, is_late: bool) -> None:
        if command.is_pong:
            self._pong()  # at once: the next ping does not wait for what waits
        elif self._task is not None:
            self._waiting_bytes += _COMMAND_BYTES
            if self._wait(command) == _MAX_WAITING:
                self.connection.pause_reading(Pause.COMMANDS)
        elif is_late:
            self._wait(command)
            self._task = self.sessions.spawn(self._finish_all())
        elif (outcome := self._begin(command)) is not None:
            self._task = self.sessions.spawn(self._finish_all(command, outcome))
            # A client that goes before the task begins leaves nothing that was never awaited.
            self._task.add_done_callback(lambda _: outcome.close())

    def _wait(self, command: Command) -> int:
        """Let a command wait for its turn; return how many wait."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(command)
        return len(self._waiting)

    def _begin(self, command: Command) -> Coroutine[Any, Any, Members | None] | None:
        """Do a command, or return what is left of it that has to wait."""
        if self.connection.state in (State.CLOSING, State.CLOSED):
            return None
        # A command that wants an answer has an id, and only that.
        if (command.id == 0) != (command.method == "send") or self.is_connected == (command.method == "connect"):
            self.disconnect(BAD_REQUEST)
            return None
        handler = HANDLERS.get(command.method)
        if handler is None:
            self.refuse(command, ErrorCode.METHOD_NOT_FOUND)
            return None
        try:
            return handler(self, command)
        except ClientError as exc:
            self.refuse(command, exc.error)
            return None

    async def _finish(self, command: Command, outcome: Coroutine[Any, Any, Members | None]) -> None:
        try:
            result = await outcome
            if result is not None:
                self.reply(command, result)
        except ClientError as exc:
            log.debug("session.refused", conn=self.connection.id, method=command.method, reason=exc.detail)
            self.refuse(command, exc.error)
        except BrokerUnavailable:
            self.refuse(command, ErrorCode.INTERNAL)
        except ApplicationError as exc:
            self.refuse(command, exc)
        except Refused as exc:
            self.disconnect(exc.disconnect)
        except Exception:
            log.exception("session.failed", conn=self.connection.id, method=command.method)
            self.disconnect(SERVER_ERROR)

    async def _finish_all(
        self, command: Command | None = None, outcome: Coroutine[Any, Any, Members | None] | None = None
    ) -> None:
        """Finish a command, and do those that wait."""
        try:
            if command is not None and outcome is not None:
                await self._finish(command, outcome)
            for number in itertools.count(1):
                if not self._waiting:
                    break
                command = self._waiting.popleft()
                if (outcome := self._begin(command)) is not None:
                    await self._finish(command, outcome)
                if number % _TURN_COMMANDS == 0:
                    await asyncio.sleep(0)
        finally:
            self._task = self._waiting = None
            self._waiting_bytes = 0
            self.connection.resume_reading(Pause.COMMANDS)

    def _pong(self) -> None:
        if self.connection.awaited_pongs:
            self.connection.awaited_pongs -= 1
        else:
            self.disconnect(BAD_REQUEST)
