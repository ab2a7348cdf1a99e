"""The commands of one client, executed in their order: one at a time, while those behind it wait."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog
from typing_extensions import override

from roomcast.centrifuge import expiry
from roomcast.centrifuge.codec import TOO_DEEP, Command, MalformedFrame, Members
from roomcast.centrifuge.command_handlers import HANDLERS
from roomcast.centrifuge.request_order import RequestOrder
from roomcast.centrifuge.session import Session
from roomcast.centrifuge.session_context import SessionContext
from roomcast.centrifuge.wire import Wire
from roomcast.connections.connection import Connection, Pause, Receiver, State
from roomcast.deadlines import Expiring
from roomcast.hooks.interface import DisconnectEvent
from roomcast.model.errors import (
    BAD_REQUEST,
    INSUFFICIENT_STATE,
    SERVER_ERROR,
    STALE,
    TOO_MANY_REQUESTS,
    UNSUBSCRIBED_INSUFFICIENT,
    ApplicationError,
    BrokerUnavailable,
    ClientError,
    ErrorCode,
    Refused,
)
from roomcast.model.publications import Kind

log = structlog.get_logger(__name__)

# How long a client may take to send `connect`.
CONNECT_TIMEOUT_S = 10.0
# Limits of the commands, and of the bytes of their frames, that wait for one that waits for Redis or the application.
# Beyond them reading pauses.
_MAX_WAITING = 64
_MAX_WAITING_BYTES = 128 * 1024
# A request takes some ms through Redis; one that is later than this is lost, as a rule.
_OVERTAKEN_TIMEOUT_S = 0.2
# The size of a command in memory; on the wire it may have three bytes.
_COMMAND_BYTES = 150
# Commands of a frame that are executed in one turn of the loop, some 5 ms: more would make all other clients wait.
_TURN_COMMANDS = 128


def begin_session(
    context: SessionContext, wire: Wire, headers: Mapping[str, str], connection_of: Callable[[Receiver], Connection]
) -> CommandQueue:
    """Return the queue of a new session, which has 10 s to connect.

    Args:
        headers: of the client's request.
        connection_of: makes the client's connection with the given receiver.
    """
    queue = CommandQueue()
    connection = connection_of(queue)
    session = queue.session = Session(context, wire, connection, queue, headers)
    context.by_id[session.id] = connection
    context.deadlines.add_in(CONNECT_TIMEOUT_S, queue)
    return queue


class CommandQueue(Receiver, Expiring):
    """The commands of a client in their order, the pauses between them, and the end and expiry of its session."""

    __slots__ = ("_overtaken", "_requests", "_task", "_waiting", "_waiting_bytes", "session")

    session: Session

    def __init__(self) -> None:
        self._requests: RequestOrder | None = None  # of a client that sends requests
        self._overtaken: asyncio.TimerHandle | None = None  # while a request waits for one that it overtook
        self._waiting: deque[Command] | None = None  # an empty one would be 760 bytes of each idle client
        self._waiting_bytes = 0  # of the frames and commands that have come while a command runs
        self._task: asyncio.Task[None] | None = None  # runs a command

    @property
    def is_executing(self) -> bool:
        """Return whether a command is executed; those that come meanwhile wait."""
        return self._task is not None

    @override
    def on_message(self, connection: Connection, kind: Kind, data: bytes) -> None:
        codec = self.session.wire.codec
        if kind is not codec.kind:
            self.session.disconnect(BAD_REQUEST)
            return
        if not self._admit(len(data)):
            self.session.disconnect(TOO_MANY_REQUESTS)
            return
        try:
            for number, command in enumerate(codec.commands(data)):
                self._put(command, is_late=number >= _TURN_COMMANDS)
        except MalformedFrame as exc:
            log.debug("session.malformed_frame", conn=connection.id, reason=str(exc))
            self.session.disconnect(BAD_REQUEST)

    def on_request(self, data: bytes) -> None:
        """Execute the commands of a request, after those of requests that it has overtaken: they have 0.2 s to come."""
        if self._requests is None:
            self._requests = RequestOrder()
        order = self._requests
        self._on_frames(order.put(self.session.wire.codec, data))
        if not order.is_waiting:
            self._stop_waiting_for_overtaken()
        elif self._overtaken is None:
            loop = asyncio.get_running_loop()
            self._overtaken = loop.call_later(_OVERTAKEN_TIMEOUT_S, self._give_up_on_overtaken)

    def _on_frames(self, frames: list[bytes]) -> None:
        for each in frames:
            self.on_message(self.session.connection, self.session.wire.codec.kind, each)

    def _stop_waiting_for_overtaken(self) -> None:
        if self._overtaken is not None:
            self._overtaken.cancel()
            self._overtaken = None

    def _give_up_on_overtaken(self) -> None:
        self._overtaken = None
        if self._requests is not None:
            self._on_frames(self._requests.give_up())

    @override
    def on_lost(self, connection: Connection, channel: str) -> None:
        # The client subscribes again; the reply then says that it could not recover.
        subscription = self.session.subscriptions.get(channel)
        if subscription is None or not subscription.is_positioned:
            return
        if subscription.is_of_server:
            self.session.disconnect(INSUFFICIENT_STATE)
        else:
            self.session.unsubscribe(channel, UNSUBSCRIBED_INSUFFICIENT)

    @override
    def on_closed(self, connection: Connection) -> None:
        self._waiting = self._requests = None
        self._stop_waiting_for_overtaken()
        if self._task is not None:
            self._task.cancel()
        session = self.session
        for channel in session.loads:
            session.end_load(channel)
        session.context.by_id.pop(session.id, None)
        session.context.deadlines.forget(self)
        if session.is_connected:
            code = connection.transport.close_code()
            session.context.application.on_disconnect(DisconnectEvent(session.caller, code, ""))

    @override
    def on_deadline(self, now_s: float, grace_s: float) -> None:
        if self.session.is_connected:
            expiry.end_expired(self.session, now_s, grace_s)
        elif self._task is None:
            self.session.disconnect(STALE)
        else:  # the client has sent `connect`, and Redis or the application takes long
            self.session.context.deadlines.add_in(CONNECT_TIMEOUT_S, self)

    def _admit(self, size_bytes: int) -> bool:
        """Count a frame; return whether it fits into the limits: pausing does not stop a client that sends requests."""
        connection = self.session.connection
        most_bytes = 2 * _MAX_WAITING_BYTES + connection.max_unsent_bytes
        if self._task is not None:
            self._waiting_bytes += size_bytes
            if self._waiting_bytes > _MAX_WAITING_BYTES:
                connection.pause_reading(Pause.COMMANDS)
        return self._waiting_bytes <= most_bytes and connection.unpublished_bytes <= most_bytes

    def _put(self, command: Command, *, is_late: bool) -> None:
        """Execute a command now or in its turn; `is_late`: its frame has had its share of this turn of the loop."""
        if not command.id and not command.method:
            self._pong()  # at once: the next ping does not wait for commands
        elif self._task is not None:
            if command.method == "unsubscribe" and command.params.get("channel") in self.session.loads:
                # It waits for its turn, but not for Redis: the request of the map that is under way ends at once.
                self.session.loads[command.params["channel"]].abort()
            self._waiting_bytes += _COMMAND_BYTES
            if self._wait(command) == _MAX_WAITING:
                self.session.connection.pause_reading(Pause.COMMANDS)
        elif is_late:
            self._wait(command)
            self._task = self.session.context.tasks.spawn(self._finish_all())
        elif (outcome := self._begin(command)) is not None:
            self._task = self.session.context.tasks.spawn(self._finish_all(command, outcome))
            # If the client goes before the task begins, the coroutine would never be awaited.
            self._task.add_done_callback(lambda _: outcome.close())

    def _wait(self, command: Command) -> int:
        """Let a command wait for its turn; return how many wait."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(command)
        return len(self._waiting)

    def _begin(self, command: Command) -> Coroutine[Any, Any, Members | None] | None:
        """Execute a command, or return the part of it that has to be awaited."""
        session = self.session
        if session.connection.state in (State.CLOSING, State.CLOSED):
            return None
        # Exactly the commands that want an answer have an id; `connect` is the first command, once.
        if (command.id == 0) != (command.method == "send") or session.is_connected == (command.method == "connect"):
            session.disconnect(BAD_REQUEST)
            return None
        handler = HANDLERS.get(command.method)
        if handler is None:
            is_too_deep = command.method == TOO_DEEP
            session.refuse(command, ErrorCode.LIMIT_EXCEEDED if is_too_deep else ErrorCode.METHOD_NOT_FOUND)
            return None
        try:
            return handler(session, command)
        except ClientError as exc:
            session.refuse(command, exc.error)
            return None

    async def _finish(self, command: Command, outcome: Coroutine[Any, Any, Members | None]) -> None:
        session = self.session
        try:
            # A command that reads or asks the application sees the publications of the commands before it.
            await session.context.node.client_publisher.settled(session.connection)
            result = await outcome
            if result is not None:
                session.reply(command, result)
        except ClientError as exc:
            log.debug("session.refused", conn=session.connection.id, method=command.method, reason=exc.detail)
            session.refuse(command, exc.error)
        except BrokerUnavailable:
            session.refuse(command, ErrorCode.INTERNAL)
        except ApplicationError as exc:
            session.refuse(command, exc)
        except Refused as exc:
            session.disconnect(exc.disconnect)
        except Exception:
            log.exception("session.failed", conn=session.connection.id, method=command.method)
            session.disconnect(SERVER_ERROR)
        finally:
            outcome.close()  # if the client goes before it began

    async def _finish_all(
        self, command: Command | None = None, outcome: Coroutine[Any, Any, Members | None] | None = None
    ) -> None:
        """Finish a command, then execute the commands that wait."""
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
            self.session.connection.resume_reading(Pause.COMMANDS)

    def _pong(self) -> None:
        if self.session.connection.awaited_pongs:
            self.session.connection.awaited_pongs -= 1
        else:
            self.session.disconnect(BAD_REQUEST)
