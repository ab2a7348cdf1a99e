"""A client that sends single JSON commands of the Centrifuge protocol, also ones that no SDK would send."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.support.processes import API_KEY, DEADLINE_S, NodeProcess, http_client

Json = dict[str, Any]  # Any: JSON


class Speaker:
    """One connection; pings are answered while something is waited for, unless it `is_mute`.

    Args:
        receive: returns the next lines. Raises: ConnectionClosed.
        send: takes lines.
    """

    def __init__(self, receive: Callable[[], Awaitable[str]], send: Callable[[str], Awaitable[None]]) -> None:
        self.is_mute = False
        self._receive = receive
        self._send = send
        self._ids = itertools.count(1)
        self._lines: deque[Json] = deque()
        self.pushes: deque[Json] = deque()
        self.welcome: Json = {}  # the reply to `connect`

    async def say(self, text: str) -> None:
        """Send a frame as it is."""
        await self._send(text)

    async def send(self, *commands: Json) -> None:
        """Send commands in one frame."""
        await self._send("\n".join(map(json.dumps, commands)))

    async def ask(self, method: str, **params: Any) -> Json:
        """Return the reply to a command: its result, or the error under `error`; pushes are kept."""
        number = next(self._ids)
        await self.send({"id": number, method: params})
        return await self.reply(number, method)

    async def reply(self, number: int, method: str) -> Json:
        """Return the reply with this id, as `ask`; others before it are dropped, pushes are kept."""
        while True:
            line = await self.line()
            if "push" in line:
                self.pushes.append(line["push"])
            elif line.get("id") == number:
                return {"error": line["error"]} if "error" in line else line.get(method, {})

    async def push(self, kind: str) -> Json:
        """Return the next push of a kind; others are dropped."""
        while True:
            push = self.pushes.popleft() if self.pushes else (await self.line()).get("push", {})
            if kind in push:
                return dict(push)

    async def line(self) -> Json:
        """Return the next line that is not a ping."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                while not self._lines:
                    await self._read()
                line = self._lines.popleft()
                if line:
                    return line
                if not self.is_mute:
                    await self.send({})

    async def ping(self) -> None:
        """Wait for a ping, and answer it; lines before it are dropped."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                while not self._lines:
                    await self._read()
                if not self._lines.popleft():
                    await self.send({})
                    return

    async def _read(self) -> None:
        text = await self._receive()
        self._lines.extend(json.loads(line) for line in text.split("\n") if line)

    async def end(self) -> tuple[int, str]:
        """Return the code and reason with which the server ends the connection."""
        try:
            while True:
                line = await self.line()
                if "disconnect" in line.get("push", {}):
                    disconnect = line["push"]["disconnect"]
                    return disconnect["code"], disconnect["reason"]
        except ConnectionClosed as exc:
            if exc.rcvd is None:
                raise
            return exc.rcvd.code, exc.rcvd.reason


@asynccontextmanager
async def websocket(node: NodeProcess) -> AsyncIterator[Speaker]:
    """Give a client on a WebSocket that has not connected yet."""
    async with node.connect("/connection/websocket") as socket:
        yield on(socket)


def on(socket: ClientConnection) -> Speaker:
    """Return a client on an open WebSocket."""

    async def receive() -> str:
        message = await socket.recv()
        assert isinstance(message, str)
        return message

    return Speaker(receive, socket.send)


@asynccontextmanager
async def connected(node: NodeProcess, token: str = "", **params: Any) -> AsyncIterator[Speaker]:
    """Give a client on a WebSocket that is in."""
    async with websocket(node) as client:
        client.welcome = await client.ask("connect", token=token, **params)
        assert "client" in client.welcome, client.welcome
        yield client


@asynccontextmanager
async def streaming(node: NodeProcess, token: str = "", *, by: NodeProcess | None = None) -> AsyncIterator[Speaker]:
    """Give a client that is in by http_stream; its commands go to the node `by`."""
    url = (by or node).http("/emulation")
    connect = {"id": 0xFFFF, "connect": {"token": token}}
    async with (
        http_client(timeout=DEADLINE_S) as http,
        http.stream("POST", node.http("/connection/http_stream"), json=connect) as response,
    ):
        assert response.status_code == 200
        lines = response.aiter_lines()

        async def receive() -> str:
            return await anext(lines)

        async def send(text: str) -> None:
            place = {name: client.welcome[name] for name in ("node", "session")}
            answer = await http.post(url, json={**place, "data": text})
            assert answer.status_code == 204 or text == "{}", answer.text  # a pong may come after the session's end

        client = Speaker(receive, send)
        client.welcome = await client.reply(0xFFFF, "connect")
        yield client


async def call_api(node: NodeProcess, method: str, **params: Any) -> Json:
    """Call the server API, and return the result."""
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        response = await http.post(node.http(f"/api/{method}"), json=params)
    result: Json = response.json()["result"]
    return result
