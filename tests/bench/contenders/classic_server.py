"""The well-known connection manager on FastAPI: a list of connections and a loop that awaits each send.

Run as `python -m tests.bench.contenders.classic_server PORT REDIS_URL TOPIC`. uvicorn has its defaults, but neither
compression nor access log, as our node has neither.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from redis.asyncio import Redis
from redis.asyncio.client import PubSub


class ConnectionManager:
    """The connections of this process, in a list."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket) -> None:
        self.active_connections.remove(websocket)

    async def broadcast(self, message: str) -> None:
        for connection in self.active_connections:
            await connection.send_text(message)


def create_app(redis_url: str, topic: str) -> FastAPI:
    """Return an app that sends each message of one topic to every connection on /ws."""
    manager = ConnectionManager()
    client = Redis.from_url(redis_url)

    async def read(pubsub: PubSub) -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                await manager.broadcast(message["data"].decode())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with client, client.pubsub() as pubsub:
            await pubsub.subscribe(topic)
            reader = asyncio.create_task(read(pubsub))
            yield
            reader.cancel()
            await asyncio.wait([reader])

    app = FastAPI(lifespan=lifespan)

    @app.websocket("/ws")
    async def room(websocket: WebSocket) -> None:
        await manager.connect(websocket)
        try:
            while True:
                await client.publish(topic, await websocket.receive_text())
        except WebSocketDisconnect:
            manager.disconnect(websocket)

    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        except WebSocketDisconnect:
            return

    return app


def main() -> None:
    """Serve until SIGTERM."""
    port, redis_url, topic = sys.argv[1:]
    app = create_app(redis_url, topic)
    uvicorn.run(app, host="127.0.0.1", port=int(port), ws_per_message_deflate=False, log_level="warning")


if __name__ == "__main__":
    main()
