"""The application's own server: it publishes by the server API."""

from __future__ import annotations

from typing import Any, Self

import httpx

from tests.support.processes import API_KEY


class Service:
    """Publishes by the server API of a node that the balancer, or the test, chooses; until the block ends."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.AsyncClient(headers={"X-API-Key": API_KEY})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def publish(self, channel: str, data: Any, **options: Any) -> None:
        """Publish. Options: as of the API, such as tags. Raises: AssertionError if it is refused."""
        body = {"channel": channel, "data": data, **options}
        answer = await self._client.post(f"{self.url}/api/publish", json=body)
        assert answer.status_code == 200, answer.text
        assert "error" not in answer.json(), answer.text
