"""A real HTTP server on 127.0.0.1 that answers as a test says: the application's side of hooks."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.support.processes import DEADLINE_S


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    client_port: int = 0

    @property
    def json(self) -> Any:  # Any: JSON
        return orjson.loads(self.body)


async def accept(asked: Asked) -> Response:
    """Answer with an empty result."""
    return json_response({"result": {}})


async def hang(asked: Asked) -> Response:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


def json_response(document: Any) -> Response:  # Any: JSON
    return Response(orjson.dumps(document), media_type="application/json")


@dataclass
class Backend:
    """Answers by `answer`, in a thread of its own; keeps the requests. It may be stopped and started again."""

    answer: Callable[[Asked], Awaitable[Response]] = accept
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._serve, interface="asgi3", lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=0
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        asked = Asked(request.url.path, dict(request.headers), await request.body(), scope["client"][1])
        self.asked.append(asked)
        response = await self.answer(asked)
        await response(scope, receive, send)
