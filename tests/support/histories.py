"""Publications with positions, through the server API."""

from __future__ import annotations

from typing import Any

from tests.support.processes import API_KEY, NodeProcess, http_client


async def publish(node: NodeProcess, channel: str, data: object, **options: object) -> dict[str, Any]:
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        answer = await http.post(node.http("/api/publish"), json={"channel": channel, "data": data, **options})
    result: dict[str, Any] = answer.json()["result"]
    return result


def after(line: dict[str, Any]) -> str:
    """Return the parameters of a URL that continue after a publication."""
    return f"since={line['offset']}&epoch={line['epoch']}"


async def call(node: NodeProcess, method: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with http_client(headers={"X-API-Key": API_KEY}) as http:
        answer = await http.post(node.http(f"/api/{method}"), json=body)
    return answer.status_code, answer.json()
