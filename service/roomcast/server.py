"""One node as a process: uvicorn, configured for many long connections."""

from __future__ import annotations

import resource
import signal
import socket
from functools import partial

import structlog
import uvicorn
from fastapi import FastAPI

from roomcast.app import create_app, new_node_id
from roomcast.config import Settings
from roomcast.telemetry.foreign_protocols import ForeignProtocols
from roomcast.telemetry.logs import configure_logging, warn_of_settings
from roomcast.transports.http_protocol import HttpProtocol
from roomcast.transports.websocket.uvicorn_protocol import WebSocketProtocol
from roomcast.web.client_server import ClientServer
from roomcast.web.state import find_in

log = structlog.get_logger(__name__)

_BACKLOG = 4096


class NodeServer(uvicorn.Server):
    """uvicorn's server, which drains the node before it closes the connections.

    uvicorn runs lifespan shutdown only after every connection is gone, so a drain cannot live there.
    """

    def __init__(self, config: uvicorn.Config, node_app: FastAPI) -> None:
        super().__init__(config)
        self._node_app = node_app
        self.has_failed = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain the node, then shut down as uvicorn does."""
        find_in(self._node_app, ClientServer).node.drain()
        await super().shutdown(sockets)

    def fail(self) -> None:
        """End the process soon, with exit code 1."""
        self.has_failed = True
        self.should_exit = True


def listen(host: str, port: int, *, settings: Settings) -> socket.socket:
    """Return a listening socket whose connections the kernel closes when the peer is dead.

    WebSockets have pings as well; an event stream or a half-sent request has only this.
    Raises: OSError if the address is taken or not of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        give_up_s = settings.ping_interval_s + settings.ping_timeout_s
        for option, value in {
            "TCP_KEEPIDLE": max(1, round(settings.ping_interval_s)),
            "TCP_KEEPALIVE": max(1, round(settings.ping_interval_s)),  # macOS's name for it
            "TCP_KEEPINTVL": max(1, round(settings.ping_timeout_s / 3)),
            "TCP_KEEPCNT": 3,
            "TCP_USER_TIMEOUT": max(1, round(give_up_s * 1000)),  # ms; Linux only
        }.items():
            if hasattr(socket, option):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _raise_open_files() -> int:
    """Raise the limit of open files, one per client, to the hard limit. Returns: the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS reports "unlimited" but refuses it
        log.debug("node.open_files_not_raised")
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _warn(settings: Settings) -> None:
    """Log what is dangerous or without effect in the settings."""
    if settings.insecure:
        log.warning("node.insecure", effect="no client is checked: each is who it says, and needs no token")
    if settings.insecure_api:
        log.warning("node.insecure_api", effect="everyone who reaches this node may call the server API")
    warn_of_settings(settings)


def serve(listener: socket.socket, settings: Settings) -> int:
    """Run one node on a listening socket until SIGINT or SIGTERM, and shut it down cleanly.

    Returns: 1 after an internal error of the node, 130 after SIGINT. After SIGTERM and the cleanup the process ends by
        the signal, as supervisors expect (143 in a shell).
    """
    node_id = new_node_id()
    configure_logging(settings, node_id=node_id)
    app = create_app(settings, node_id=node_id, on_failure=lambda: server.fail())  # noqa: PLW0108  (`server` is defined below)

    def on_foreign(protocol: str, address: str) -> None:
        find_in(app, ForeignProtocols).note(protocol, address)

    server = NodeServer(
        uvicorn.Config(
            app,
            http=partial(HttpProtocol, on_foreign=on_foreign),  # type: ignore[arg-type]  # uvicorn only calls it
            ws=WebSocketProtocol,
            ws_max_size=settings.max_message_bytes,
            ws_per_message_deflate=settings.compression,
            access_log=False,  # it prints query strings
            log_config=None,
            backlog=_BACKLOG,
            server_header=False,
            lifespan="on",
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
        ),
        app,
    )
    host, port = listener.getsockname()[:2]
    log.info("node.listening", host=host, port=port, max_open_files=_raise_open_files())
    _warn(settings)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 1 if server.has_failed else 0
