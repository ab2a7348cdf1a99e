"""Sessions of the Centrifuge protocol on fakes, and their clients, for tests."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from typing import Any, Self

from roomcast.auth.tokens import read_verifier
from roomcast.centrifuge.command_queue import begin_session
from roomcast.centrifuge.session_context import SessionContext
from roomcast.centrifuge.session_operations import SessionOperations
from roomcast.config import Settings
from roomcast.connections.connection import Connection, Receiver
from roomcast.deadlines import Deadlines
from roomcast.hooks.interface import (
    ConnectAnswer,
    ConnectedEvent,
    ConnectEvent,
    DisconnectEvent,
    Hook,
    MapPublishAnswer,
    MapPublishEvent,
    MapRemoveAnswer,
    MapRemoveEvent,
    PublishAnswer,
    PublishEvent,
    RefreshAnswer,
    RefreshEvent,
    RpcEvent,
    SubRefreshEvent,
    SubscribeAnswer,
    SubscribeEvent,
)
from roomcast.model.errors import BrokerUnavailable
from roomcast.model.maps import ClientKey, MapMode, MapOptions
from roomcast.model.namespaces import ChannelType, Namespace, Namespaces, Recovery, SlowPolicy, Who
from roomcast.model.positions import Position
from roomcast.model.publications import Kind, Publication
from roomcast.node.hub import Hub
from roomcast.node.survey import Survey
from roomcast.tasks import TaskSet, end
from tests.support.fakes import FakeBroker, RecordingTransport, Schedule
from tests.support.fakes import node as fake_node
from tests.support.map_store import FakeMapStore
from tests.support.tokens import SECRET

GRACE_S = 25.0
NAMESPACES = {
    "room": Namespace(
        may_publish=Who.ANYONE,
        may_see_presence=Who.ANYONE,
        may_read_history=Who.ANYONE,
        presence=True,
        join_leave=True,
        delta=True,
        tags_filter=True,
    ),
    "kept": Namespace(
        history_size=10, history_ttl_s=60.0, recovery=Recovery.STREAM, delta=True, may_read_history=Who.ANYONE
    ),
    "closed": Namespace(may_subscribe=Who.NOBODY),
    "board": Namespace(
        type=ChannelType.MAP,
        map=MapOptions(mode=MapMode.PERSISTENT, page_size=3, min_page_size=1, max_page_size=100),
        history_size=8,
        history_ttl_s=60.0,
        presence=True,
        delta=True,
        tags_filter=True,
        may_publish=Who.ANYONE,
        may_remove=Who.USERS,
        may_see_presence=Who.ANYONE,
        may_read_history=Who.ANYONE,
    ),
    "cursor": Namespace(
        type=ChannelType.MAP,
        map=MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=60.0, page_size=3, min_page_size=1),
        slow=SlowPolicy.LATEST,
        delta=True,
        may_publish=Who.SUBSCRIBERS,
    ),
    "own": Namespace(
        type=ChannelType.MAP,
        map=MapOptions(
            mode=MapMode.EPHEMERAL, key_ttl_s=60.0, client_key=ClientKey.CLIENT_ID, remove_on_unsubscribe=True
        ),
        may_publish=Who.ANYONE,
        may_remove=Who.ANYONE,
    ),
    "mine": Namespace(
        type=ChannelType.MAP,
        map=MapOptions(mode=MapMode.PERSISTENT, client_key=ClientKey.USER_ID),
        may_publish=Who.ANYONE,
        may_remove=Who.ANYONE,
    ),
    "here": Namespace(type=ChannelType.MAP_CLIENTS, map=MapOptions(mode=MapMode.EPHEMERAL, key_ttl_s=60.0)),
    "user": Namespace(may_subscribe=Who.NOBODY, personal=True),
}

ADA = {"sub": "ada"}

Command = dict[str, Any]  # Any: JSON


class Gate(FakeBroker):
    """A broker whose subscriptions to shut channels wait until all are opened."""

    def __init__(self) -> None:
        super().__init__()
        self._shut: dict[str, asyncio.Event] = {}

    def shut(self, channel: str) -> None:
        self._shut.setdefault(channel, asyncio.Event())

    def open(self) -> None:
        for opened in self._shut.values():
            opened.set()
        self._shut.clear()

    async def subscribe(self, channel: str) -> None:
        await super().subscribe(channel)
        if channel in self._shut:
            await self._shut[channel].wait()
        if self.away:
            raise BrokerUnavailable(self.away)


class FakeApplication:
    """Answers each hook as the test has set it; an exception is raised, a function called with the event."""

    def __init__(self) -> None:
        self.headers = frozenset({"cookie"})
        self.is_notified = True
        self.answers: dict[Hook, Any] = {}  # Any: the answer of the hook
        self.asked: list[Any] = []  # Any: events
        self.connected: list[ConnectedEvent] = []
        self.gone: list[DisconnectEvent] = []

    @property
    def handles(self) -> frozenset[Hook]:
        return frozenset(self.answers)

    async def on_connect(self, event: ConnectEvent) -> ConnectAnswer:
        answer: ConnectAnswer = await self._answer(Hook.CONNECT, event)
        return answer

    async def on_subscribe(self, event: SubscribeEvent) -> SubscribeAnswer:
        answer: SubscribeAnswer = await self._answer(Hook.SUBSCRIBE, event)
        return answer

    async def on_publish(self, event: PublishEvent) -> PublishAnswer:
        answer: PublishAnswer = await self._answer(Hook.PUBLISH, event)
        return answer

    async def on_map_publish(self, event: MapPublishEvent) -> MapPublishAnswer:
        answer: MapPublishAnswer = await self._answer(Hook.MAP_PUBLISH, event)
        return answer

    async def on_map_remove(self, event: MapRemoveEvent) -> MapRemoveAnswer:
        answer: MapRemoveAnswer = await self._answer(Hook.MAP_REMOVE, event)
        return answer

    async def on_rpc(self, event: RpcEvent) -> bytes:
        answer: bytes = await self._answer(Hook.RPC, event)
        return answer

    async def on_refresh(self, event: RefreshEvent) -> RefreshAnswer:
        answer: RefreshAnswer = await self._answer(Hook.REFRESH, event)
        return answer

    async def on_sub_refresh(self, event: SubRefreshEvent) -> RefreshAnswer:
        answer: RefreshAnswer = await self._answer(Hook.SUB_REFRESH, event)
        return answer

    def on_connected(self, event: ConnectedEvent) -> None:
        self.connected.append(event)

    def on_disconnect(self, event: DisconnectEvent) -> None:
        self.gone.append(event)

    async def _answer(self, hook: Hook, event: Any) -> Any:
        self.asked.append(event)
        answer = self.answers[hook]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, asyncio.Future):
            return await answer
        return answer(event) if callable(answer) else answer


class Bench:
    """The sessions of a node on fakes. The time is the test's."""

    def __init__(self, map_store: FakeMapStore | None = None, **settings: Any) -> None:  # Any: of Settings
        self.now_s = float(int(time.time()))
        self.broker = Gate()
        self.turn = Schedule()
        self.node = fake_node(Hub(self.turn), self.broker, Namespaces(NAMESPACES), map_store=map_store)
        self.application = FakeApplication()
        self.deadlines = Deadlines(lambda: self.now_s, grace_s=GRACE_S)
        given = {"secret": SECRET, **settings}
        self.settings = Settings(**{name: value for name, value in given.items() if value is not None})
        self.context = SessionContext(
            self.node,
            read_verifier(self.settings, self.node.counts),
            self.application,
            self.deadlines,
            self.settings,
            TaskSet("client"),
        )
        self.operations = SessionOperations(self.context, Survey(self.broker, "n1"))
        self.handlers = self.operations.handlers()
        self._clients: list[Client] = []
        self._tracking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.node.tracker.connected()
        self._tracking = asyncio.create_task(self.node.tracker.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            client.vanish()
        await self.context.tasks.end()
        if self._tracking is not None:
            await end(self._tracking)

    def client(self, *, headers: dict[str, str] | None = None) -> Client:
        """Return a client that has not connected yet."""
        client = Client(self, headers or {})
        self._clients.append(client)
        return client

    async def connected(self, token: str = "") -> Client:
        """Return a connected client. Without a token the node must accept anonymous clients, or be insecure."""
        client = self.client()
        client.send({"id": 1, "connect": {"token": token} if token else {}})
        (reply,) = await client.replies(1)
        assert "connect" in reply, reply
        return client

    def forget(self, client: Client) -> None:
        """Remove a client that has disconnected."""
        self._clients.remove(client)

    def publish(self, channel: str, text: str, *, position: Position | None = None, **members: Any) -> None:
        """Pass the node a publication of another node, and let it be written."""
        self.node.on_event(Publication(channel, json.dumps(text).encode(), Kind.JSON, position, **members))
        self.turn.run()

    def at(self, now_s: float) -> None:
        """Set the time, and call the deadlines that are due."""
        self.now_s = now_s
        self.deadlines.tick()


class Client:
    """A client that speaks JSON on a stream that the test reads."""

    def __init__(self, bench: Bench, headers: dict[str, str]) -> None:
        self._bench = bench
        self.transport = RecordingTransport()
        self.queue = begin_session(bench.context, bench.context.wires.stream_json, headers, self._connection)
        self.session = self.queue.session
        self.connection = self.session.connection
        self._is_there = True
        bench.node.hub.add(self.connection)

    def _connection(self, receiver: Receiver) -> Connection:
        encoding, limit_bytes = self._bench.context.wires.stream_json.encoding, self._bench.settings.max_unsent_bytes
        return Connection(next(_NUMBERS), self.transport, encoding, receiver, max_unsent_bytes=limit_bytes)

    def send(self, *commands: Command) -> None:
        """Send commands in one frame."""
        self.send_text("\n".join(map(json.dumps, commands)))

    def send_text(self, text: str) -> None:
        self.queue.on_message(self.connection, Kind.TEXT, text.encode())

    def got(self) -> list[Any]:
        """Return the messages since the last call, now."""
        lines = b"".join(self.transport.written).splitlines()
        self.transport.written.clear()
        return [json.loads(line) for line in lines]

    async def replies(self, count: int) -> list[Any]:
        """Return the messages since the last call, once there are `count`. Raises: AssertionError if there are not."""
        lines: list[bytes] = []
        await until(lambda: b"".join(self.transport.written).count(b"\n") >= count)
        lines = self.got()
        assert len(lines) == count, lines
        return lines

    def ping(self) -> None:
        """Await a pong from this client."""
        self.connection.awaited_pongs += 1

    @property
    def codes(self) -> list[int]:
        """Return the codes that the connection was closed with."""
        return [disconnect.code for disconnect in self.transport.closed_with]

    def vanish(self) -> None:
        """Disconnect."""
        if self._is_there:
            self._is_there = False
            self._bench.node.leave(self.connection)


_NUMBERS = itertools.count(1)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition is true. Raises: AssertionError after a thousand turns."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition is not true after a thousand turns of the loop")


async def turns(count: int = 20) -> None:
    """Let the loop turn, before a test that something has not happened."""
    for _ in range(count):
        await asyncio.sleep(0)


def subscribe(channel: str, number: int = 2, **params: Any) -> Command:
    """Return a command that subscribes."""
    return {"id": number, "subscribe": {"channel": channel, **params}}


def ids(replies: list[Any]) -> list[int]:
    """Return the ids of replies, 0 of pushes."""
    return [reply.get("id", 0) for reply in replies]
