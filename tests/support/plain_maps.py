"""Clients of the plain doors of maps, as a page without a library is one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
from websockets.asyncio.client import ClientConnection

from tests.support.processes import API_KEY, DEADLINE_S, NodeProcess, http_client, receive

Message = dict[str, Any]


class PlainMap:
    """A client's copy of a map. place: where it continues from; None: it needs the whole map. last_id: of an event."""

    def __init__(self, socket: ClientConnection | None = None, response: httpx.Response | None = None) -> None:
        self.socket = socket
        self.copy: dict[str, Any] = {}
        self.place: dict[str, Any] | None = None
        self.messages: list[Message] = []
        self.last_id = ""
        self._received = _of_socket(socket) if socket is not None else self._of_stream(response)

    async def next(self) -> Message:
        """Return the next message; it is applied."""
        async with asyncio.timeout(DEADLINE_S):
            message = await anext(self._received)
        self.messages.append(message)
        self._apply(message)
        return message

    async def until_synced(self) -> list[Message]:
        """Return the messages up to the next `synced`, without it."""
        found = []
        while not (message := await self.next()).get("synced"):
            found.append(message)
        return found

    async def until(self, copy: dict[str, Any]) -> None:
        """Wait until the copy is this one."""
        while self.copy != copy:
            await self.next()

    async def until_offset(self, offset: int) -> None:
        """Wait for the change with an offset."""
        while (await self.next()).get("offset") != offset:
            pass

    async def send(self, **members: Any) -> None:
        assert self.socket is not None
        await self.socket.send(json.dumps(members))

    def _apply(self, message: Message) -> None:
        if message.get("reset"):
            self.copy, self.place = {}, None
        elif message.get("synced"):
            self.place = {"epoch": message.get("epoch")}
        elif message.get("removed"):
            self.copy.pop(message["key"], None)
        elif "key" in message:
            self.copy[message["key"]] = next(
                (message[name] for name in ("data", "text", "base64") if name in message), None
            )
        if self.place is not None and "offset" in message:
            self.place["offset"] = message["offset"]

    async def _of_stream(self, response: httpx.Response | None) -> AsyncIterator[Message]:
        assert response is not None
        data, name = "", "message"
        async for line in response.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                self.last_id = value
            elif field == "data":
                data += value
            elif field == "event":
                name = value
            elif not line:
                if data and name == "message":
                    yield json.loads(data)
                elif data:
                    yield {name: json.loads(data)}
                data, name = "", "message"


async def _of_socket(socket: ClientConnection) -> AsyncIterator[Message]:
    while True:
        yield json.loads(await receive(socket))


def since(place: dict[str, Any] | None) -> str:
    """Return the query of a client that continues."""
    return "" if place is None else f"since={place['offset']}&epoch={place['epoch']}"


@asynccontextmanager
async def following(
    node: NodeProcess, door: str, channel: str, query: str = "", *, last_id: str = "", **headers: str
) -> AsyncIterator[PlainMap]:
    """Follow a map by the door `ws` or `sse`."""
    path = f"/{door}/maps/{quote(channel, safe='')}?{query}"
    if door == "ws":
        async with node.connect(path) as socket:
            yield PlainMap(socket)
        return
    sent = {**headers, **({"Last-Event-ID": last_id} if last_id else {})}
    async with http_client(timeout=DEADLINE_S) as http, http.stream("GET", node.http(path), headers=sent) as response:
        assert response.status_code == 200, await response.aread()
        yield PlainMap(response=response)


class Service:
    """A service that reads and writes maps over HTTP, with the API key."""

    def __init__(self, node: NodeProcess, http: httpx.AsyncClient) -> None:
        self._node = node
        self._http = http

    def url(self, channel: str, key: str | None = None) -> str:
        path = f"/maps/{quote(channel, safe='')}"
        return self._node.http(path if key is None else f"{path}/{quote(key, safe='')}")

    async def get(self, channel: str, key: str | None = None, query: str = "", **headers: str) -> httpx.Response:
        url = self.url(channel, key)
        return await self._http.get(f"{url}?{query}" if query else url, headers=_named(headers))

    async def put(self, channel: str, key: str, body: Any, **headers: str) -> httpx.Response:
        """Set a key, to bytes or to the JSON of anything else."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._http.put(self.url(channel, key), content=content, headers=_named(headers))

    async def delete(self, channel: str, key: str, **headers: str) -> httpx.Response:
        return await self._http.delete(self.url(channel, key), headers=_named(headers))

    async def call(self, method: str, **params: Any) -> Any:
        """Call the server API."""
        answer = await self._http.post(self._node.http(f"/api/{method}"), json=params)
        return answer.json()["result"]


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@asynccontextmanager
async def service(node: NodeProcess, **headers: str) -> AsyncIterator[Service]:
    """Give a service; with other headers, a client."""
    async with http_client(timeout=DEADLINE_S, headers=headers or {"X-API-Key": API_KEY}) as http:
        yield Service(node, http)


async def ticket_query(node: NodeProcess, Authorization: str) -> str:  # noqa: N803  (the header)
    """Return the query with the ticket of a client."""
    async with http_client() as http:
        answer = await http.post(node.http("/api/ticket"), headers={"Authorization": Authorization})
    return f"ticket={answer.json()['result']['ticket']}"
