"""Serving one client: how a connection that is refused ends."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from functools import partial
from typing import Any

import pytest
from starlette.websockets import WebSocket

from roomcast.centrifuge.command_queue import begin_session
from roomcast.config import Settings
from roomcast.connections.connection import State
from roomcast.model.errors import ClientError
from roomcast.transports.heartbeat import Heartbeat
from roomcast.web.client_server import ClientServer
from tests.support.fakes import RecordingTransport
from tests.support.sessions import Bench

pytestmark = pytest.mark.anyio


async def test_nothing_is_kept_of_a_page_s_connection_that_may_not_come_in() -> None:
    async with Bench(anonymous=True) as bench:
        settings = Settings(insecure=True, allowed_origins="https://app.example.com")
        heartbeat = Heartbeat(ping_interval_s=25, ping_timeout_s=8, clock=time.monotonic)
        server, transport = ClientServer(bench.node, heartbeat, settings), RecordingTransport()
        socket = WebSocket({"type": "websocket", "headers": [(b"origin", b"https://evil.example.com")]}, _read, _write)
        wire = bench.context.wires.websocket_json
        connection_of = partial(server.connection, transport, wire.encoding)
        connection = begin_session(bench.context, wire, socket.headers, connection_of).session.connection

        with pytest.raises(ClientError):
            await server.serve(socket, connection, is_open=False)
        bench.at(bench.now_s + 60)

        assert connection.state is State.CLOSED
        assert transport.closed_with == [], "nobody waits for it to say who it is"


async def _read() -> MutableMapping[str, Any]:  # Any: ASGI's
    raise AssertionError("nothing is read")


async def _write(_message: MutableMapping[str, Any]) -> None:
    raise AssertionError("nothing is written")
