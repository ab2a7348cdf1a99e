"""The composition root: it connects the classes, and has no logic."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from roomcast.api import health_and_metrics, map_values, room_reads, routes, tickets
from roomcast.api.api_context import ApiContext
from roomcast.api.node_operations import NodeOperations
from roomcast.auth.tickets import Tickets
from roomcast.auth.tokens import read_verifier
from roomcast.brokers.redis_broker import RedisBroker
from roomcast.centrifuge import endpoints as centrifuge_endpoints
from roomcast.centrifuge.session_context import SessionContext
from roomcast.centrifuge.session_operations import SessionOperations, session_id_of
from roomcast.config import Settings, read_namespaces
from roomcast.config_types import split_names
from roomcast.deadlines import Deadlines
from roomcast.hooks.build import NodeHooks, make_hooks
from roomcast.hooks.interface import Hook
from roomcast.model.errors import Refused, Rejected
from roomcast.node.flush_pace import Pace
from roomcast.node.hub import Hub
from roomcast.node.node import Node
from roomcast.node.report import NodeReport
from roomcast.node.roster import HubRoster
from roomcast.node.survey import Survey
from roomcast.node.tracker import Tracker
from roomcast.presence.node_registry import NodeRegistry
from roomcast.presence.redis_presence import RedisPresence
from roomcast.redis_access.client import Client, connect
from roomcast.rooms import event_streams, map_streams, poll, websockets
from roomcast.rooms.admission import Admission
from roomcast.rooms.authentication import Authenticator
from roomcast.rooms.expiry import Expiries
from roomcast.tasks import TaskSet, end, run_together
from roomcast.telemetry.foreign_protocols import ForeignProtocols
from roomcast.telemetry.metrics import HookCollector, NodeCollector, registry_of
from roomcast.transports.heartbeat import Heartbeat
from roomcast.version import __version__
from roomcast.web.client_server import ClientServer, address_of
from roomcast.web.docs_pages import add_docs_pages
from roomcast.web.failures import FAILURES, refuse
from roomcast.web.http_rules import add_http_rules
from roomcast.web.origins import AllowedPages
from roomcast.web.page import add_page
from roomcast.web.state import find, offer

log = structlog.get_logger(__name__)

# Clients refresh their tokens at the last moment.
_EXPIRY_GRACE_S = 25.0
_SETTLE_TIMEOUT_S = 1.0
# Publications wait for missing ones as long as so many reads may take.
_PATIENCE = 6
_API = (
    "The HTTP endpoints. Clients: the Centrifuge protocol without WebSockets, rooms by event streams and polls, maps. "
    "Services: the server API, with the node's key (Authorize). The WebSocket endpoints are in the README."
)

_ROUTERS = (
    websockets.router,
    event_streams.router,
    poll.router,
    map_streams.router,
    centrifuge_endpoints.router,
    routes.router,
    room_reads.router,
    map_values.router,
    tickets.router,
    health_and_metrics.router,
)


def new_node_id() -> str:
    """Return a node id: the host's name, and a random part for each start."""
    return f"{socket.gethostname()}-{secrets.token_hex(3)}"


def create_app(settings: Settings, *, node_id: str, on_failure: Callable[[], None]) -> FastAPI:
    """Return the ASGI app of one node.

    Args:
        on_failure: called after an unexpected exception of the node's tasks was logged. It should end the process: a
            half-dead node is worse than a restart.
    """
    lifespan = partial(_run_node, settings=settings, node_id=node_id, on_failure=on_failure)
    app = FastAPI(
        title="Roomcast",
        version=__version__,
        lifespan=lifespan,
        description=_API,
        root_path=settings.root_path,
        docs_url=None,  # FastAPI's own page loads its script from a CDN, and is empty where there is none
        redoc_url=None,
    )
    if origins := split_names(settings.allowed_origins):
        app.add_middleware(AllowedPages, names=origins)
    for router in _ROUTERS:
        app.include_router(router)
    for failure in (*FAILURES, Refused):  # Starlette sends the answer, or refuses a WebSocket's handshake with it
        app.add_exception_handler(failure, _refuse)
    app.add_exception_handler(WebSocketDisconnect, _ignore_disconnect)
    app.add_exception_handler(ClientDisconnect, _ignore_disconnect)
    add_docs_pages(app)
    add_page(app)
    add_http_rules(app)
    return app


@asynccontextmanager
async def _run_node(
    app: FastAPI, *, settings: Settings, node_id: str, on_failure: Callable[[], None]
) -> AsyncIterator[None]:
    """Run a node behind an app. Its parts are closed in the reverse order of their opening, after any exception too."""

    def on_done(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.critical("node.failed", exc_info=task.exception())
            on_failure()

    async with AsyncExitStack() as stack:
        client = connect(settings.redis_url, timeout_s=settings.redis_timeout_s, client_name=f"roomcast-{node_id}")
        stack.push_async_callback(client.aclose)
        registry = NodeRegistry(client, prefix=settings.prefix)
        node = _node(client, registry, settings, node_id)
        verifier = read_verifier(settings, node.counts)
        stack.push_async_callback(verifier.aclose)
        report = NodeReport(node.hub, node.presence, registry)
        hooks = make_hooks(settings, client)
        stack.push_async_callback(report.retire)
        stack.push_async_callback(hooks.aclose)
        deadlines = Deadlines(time.time, grace_s=_EXPIRY_GRACE_S, steady=time.monotonic)
        sessions = SessionContext(node, verifier, hooks.application, deadlines, settings, TaskSet("client"))
        authenticator = Authenticator(
            verifier,
            Tickets(client, prefix=settings.prefix),
            settings,
            asks_application=Hook.CONNECT in hooks.application.handles,
        )
        work = _offer_parts(app, report, hooks, authenticator, sessions)
        running = asyncio.create_task(work, name="node")
        running.add_done_callback(on_done)
        stack.push_async_callback(end, running)
        # While the tasks run: the last messages of clients that have left are published and the application notified.
        stack.push_async_callback(hooks.flush)
        stack.push_async_callback(sessions.tasks.end)
        stack.push_async_callback(node.broker.flush, within_s=_SETTLE_TIMEOUT_S)
        stack.callback(node.map_presence.flush)
        yield


def _offer_parts(
    app: FastAPI, report: NodeReport, hooks: NodeHooks, authenticator: Authenticator, sessions: SessionContext
) -> Coroutine[Any, Any, None]:  # Any: as in tasks.py
    """Let the endpoints find the parts that they need; return what runs them all."""
    node, settings = sessions.node, sessions.settings
    survey = Survey(node.broker, node.id)
    session_operations = SessionOperations(sessions, survey)
    node_operations = NodeOperations(
        node.hub, node.roster, node_id=node.id, version=__version__, session_id_of=session_id_of
    )
    survey.register(session_operations.handlers())
    survey.register(node_operations.handlers())
    node.listen(survey.channels, survey.on_publication)
    heartbeat = Heartbeat(
        ping_interval_s=settings.ping_interval_s, ping_timeout_s=settings.ping_timeout_s, clock=time.monotonic
    )
    foreign_protocols = ForeignProtocols(time.monotonic)
    server = ClientServer(node, heartbeat, settings)
    offer(
        app,
        settings,
        authenticator,
        server,
        Admission(authenticator, server, hooks.application, sessions.tasks),
        Expiries(sessions.deadlines, sessions.tasks),
        ApiContext(node, survey, settings, hooks.application),
        sessions,
        session_operations,
        foreign_protocols,
        registry_of(NodeCollector(node, report), HookCollector(hooks), foreign_protocols),
    )
    return run_together(
        node=node.run(),
        report=report.run(),
        heartbeat=heartbeat.run(),
        survey=survey.run(),
        deadlines=sessions.deadlines.run(),
        hooks=hooks.run(),
    )


def make_broker(client: Client, settings: Settings, node_id: str) -> RedisBroker:
    """Return the broker that the settings describe."""
    return RedisBroker(
        client,
        prefix=settings.prefix,
        node_id=node_id,
        max_message_bytes=settings.max_message_bytes,
        timeout_s=settings.redis_timeout_s,
    )


def _node(client: Client, registry: NodeRegistry, settings: Settings, node_id: str) -> Node:
    broker = make_broker(client, settings, node_id)
    loop = asyncio.get_running_loop()
    pace = Pace(loop.call_soon, loop.call_later, time.monotonic, max_pause_s=settings.flush_interval_ms / 1000)
    hub = Hub(schedule=pace.schedule)
    namespaces = read_namespaces(settings)
    roster = HubRoster(hub, node_id)
    return Node(
        node_id,
        hub,
        broker,
        namespaces=namespaces,
        tracker=Tracker(broker, hub.broadcast, time.monotonic, patience_s=_PATIENCE * settings.redis_timeout_s),
        presence=RedisPresence(client, registry, roster, namespaces, prefix=settings.prefix, node_id=node_id),
        roster=roster,
        map_store=broker.maps,
    )


async def _refuse(connection: HTTPConnection, exc: Exception) -> Response:
    if isinstance(exc, Rejected):
        find(connection, ClientServer).node.rejections.note(exc.rejection, address_of(connection), exc.reason)
    return await refuse(connection, exc)


async def _ignore_disconnect(_connection: HTTPConnection, _exc: Exception) -> None:
    """Handle a client that disconnects during its handshake or request; no error is logged."""
