"""python-socketio's ASGI server with its Redis manager, as its documentation shows it.

Run as `python socket_io_server.py PORT REDIS_URL TOPIC`, by its path: it may run on another interpreter.
"""

from __future__ import annotations

import sys
from typing import Any

import socketio  # type: ignore[import-not-found,unused-ignore]  # not the project's: see socket_io.py
import uvicorn


def main() -> None:
    """Serve until SIGTERM."""
    port, redis_url, topic = sys.argv[1:]
    manager = socketio.AsyncRedisManager(redis_url, channel=topic)
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, transports=["websocket"])

    @server.on("m")  # type: ignore[untyped-decorator,unused-ignore]  # no types where it is not installed
    async def publish(_sid: str, data: dict[str, Any]) -> None:  # Any: JSON
        await server.emit("m", data)

    uvicorn.run(
        socketio.ASGIApp(server),
        host="127.0.0.1",
        port=int(port),
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
