"""The server API as a client of maps calls it."""

from __future__ import annotations

from typing import Any

import httpx


class MapApi:
    """Calls methods of one node."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def __call__(self, method: str, channel: str, **wanted: Any) -> Any:
        """Return the result of a method."""
        answer = await self.answer(method, {"channel": channel, **wanted})
        assert list(answer) == ["result"], answer
        return answer["result"]

    async def error(self, method: str, **wanted: Any) -> int:
        """Return the code of the error of a method."""
        answer = await self.answer(method, wanted)
        assert list(answer) == ["error"], answer
        code: int = answer["error"]["code"]
        return code

    async def answer(self, method: str, wanted: Any) -> Any:
        response = await self.client.post(f"/api/{method}", json=wanted)
        assert response.status_code == 200
        return response.json()

    async def entries(self, channel: str, **wanted: Any) -> list[Any]:
        """Return entries without their times."""
        found: list[Any] = (await self("map_read_state", channel, **{"limit": -1, **wanted})).get("entries", [])
        return [{name: value for name, value in entry.items() if name != "time"} for entry in found]
