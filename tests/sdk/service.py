"""The application's own server: it signs tokens, and publishes by the server API."""

from __future__ import annotations

import time
from typing import Any, Self

import httpx
import jwt

from tests.cluster import API_KEY

SECRET = "a-secret-of-the-tests-0123456789abcdef"


def token(user: str, *, ttl_s: int = 3600, **claims: Any) -> str:
    """Return a connection token, or with the claim `channel` a subscription token. ttl_s: negative, it has expired."""
    return jwt.encode({"sub": user, "exp": int(time.time()) + ttl_s, **claims}, SECRET, algorithm="HS256")


class Service:
    """Publishes by the server API of whatever node the balancer, or the test, chooses; until the block ends."""

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
