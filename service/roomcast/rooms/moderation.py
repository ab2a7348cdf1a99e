"""Publishing the messages of a plain client that the application accepts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import orjson
import structlog
from typing_extensions import override

from roomcast.brokers.interface import Published
from roomcast.connections.connection import Connection, Pause, State
from roomcast.hooks.interface import Application, Caller, PublishEvent
from roomcast.hooks.map_changes import accepted, as_asked
from roomcast.model.errors import ApplicationError, BrokerUnavailable, ClientError, Refused
from roomcast.model.publications import Kind, Publication
from roomcast.node.node import Node
from roomcast.rooms.encodings import in_envelope, text_frame
from roomcast.rooms.receivers import Outcome, Publisher
from roomcast.tasks import TaskSet
from roomcast.web.failures import failure_of

log = structlog.get_logger(__name__)

# While more wait for the application, nothing is read from the client.
_MAX_WAITING_BYTES = 128 * 1024
# The cost of a waiting message beside its payload.
_OVERHEAD_BYTES = 512

_OnResult = Callable[[Outcome], None] | None


class ModeratedPublisher(Publisher):
    """Asks the application about the messages of one client, one after the other, and publishes them in their order.

    A rejected message is dropped. Without `on_result`, clients with envelopes receive
    `{"error":{"code":400,"message":"no spam"}}`.

    Args:
        caller: the client.
    """

    def __init__(self, node: Node, application: Application, tasks: TaskSet, caller: Caller) -> None:
        self._node = node
        self._application = application
        self._tasks = tasks
        self._caller = caller
        self._waiting: deque[tuple[Publication, _OnResult]] | None = (
            None  # an empty one would be 760 bytes of each idle client
        )
        self._waiting_bytes = 0

    @override
    def publish_for(self, connection: Connection, publication: Publication, on_result: _OnResult = None) -> None:
        if self._waiting is None:
            self._waiting = deque()
            self._tasks.spawn(self._publish_all(connection, self._waiting))
        self._waiting.append((publication, on_result))
        self._waiting_bytes += _size_bytes(publication)
        if self._waiting_bytes > _MAX_WAITING_BYTES:
            connection.pause_reading(Pause.COMMANDS)

    async def _publish_all(self, connection: Connection, waiting: deque[tuple[Publication, _OnResult]]) -> None:
        try:
            while waiting:
                publication, on_result = waiting.popleft()
                if not await self._publish(connection, publication, on_result or partial(_report, connection)):
                    waiting.clear()
                    self._waiting_bytes = _size_bytes(publication)
                self._waiting_bytes -= _size_bytes(publication)
                if self._waiting_bytes <= _MAX_WAITING_BYTES:
                    connection.resume_reading(Pause.COMMANDS)
        finally:
            self._waiting = None

    async def _publish(
        self, connection: Connection, publication: Publication, on_result: Callable[[Outcome], None]
    ) -> bool:
        """Publish a message if the application accepts it; return False if it closes the client."""
        try:
            if publication.change is None:
                on_result(await self._publish_accepted(publication))
            else:
                kind = _kind_of_answer(publication)
                change, conditions = await accepted(self._application, self._caller, publication, lambda _: kind)
                try:
                    written = await self._node.maps.write(change, conditions=conditions)
                finally:  # the client may leave meanwhile, and Redis may have a write that seems to fail
                    self._node.map_presence.wrote(connection, change)
                on_result(written)
        except Refused as exc:
            connection.close(exc.disconnect)
            return False
        except (ApplicationError, BrokerUnavailable, ClientError) as exc:
            on_result(exc)
        except Exception:
            log.exception("moderation.failed", conn=connection.id)
        return True

    async def _publish_accepted(self, publication: Publication) -> Published:
        caller, data = as_asked(self._caller, publication)
        answer = await self._application.on_publish(PublishEvent(caller, publication.channel, data))
        if answer.data is not None:
            publication = publication._replace(data=answer.data, kind=_kind_of_answer(publication))
        return await self._node.publish(publication, skip_history=answer.skip_history)


def _kind_of_answer(publication: Publication) -> Kind:
    """Return the kind of the data with which the application replaces that of a publication."""
    return Kind.BINARY if publication.kind is Kind.BINARY else Kind.JSON


def _report(connection: Connection, outcome: Outcome) -> None:
    """Send a client with envelopes the error of a message."""
    if isinstance(outcome, Exception) and in_envelope(connection.encoding) and connection.state is State.OPEN:
        text = orjson.dumps({"error": failure_of(outcome).brief})
        connection.send(text_frame(connection.encoding, text))


def _size_bytes(publication: Publication) -> int:
    return len(publication.data) + _OVERHEAD_BYTES
