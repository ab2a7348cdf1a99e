"""The application's own server, as the nodes know it: it signs tokens, and publishes by the server API."""

from __future__ import annotations

import time
from typing import Any

import httpx
import jwt

from tests.cluster import API_KEY

SECRET = "a-secret-of-the-tests-0123456789abcdef"  # noqa: S105  (of nodes that live for one test run)


def token(user: str, *, ttl_s: int = 3600, **claims: Any) -> str:
    """Return a connection token, or with the claim `channel` a subscription token. ttl_s: negative, it has expired."""
    return jwt.encode({"sub": user, "exp": int(time.time()) + ttl_s, **claims}, SECRET, algorithm="HS256")


async def publish(url: str, channel: str, data: Any, *, tags: dict[str, str] | None = None) -> None:
    """Publish by the server API at a node's URL. Raises: AssertionError if it is refused."""
    body = {"channel": channel, "data": data, **({} if tags is None else {"tags": tags})}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{url}/api/publish", json=body, headers={"X-API-Key": API_KEY})
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.json(), answer.text
