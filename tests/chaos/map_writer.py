"""Writers of maps: each sets and removes keys by the API, and asks again, of any node, until it is answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from typing import Any

import httpx

from tests.chaos.fleet import Fleet
from tests.chaos.journal import Place
from tests.chaos.map_journal import Write
from tests.chaos.publisher import backoff_s
from tests.support.processes import API_KEY

# So few that each is written often, by all writers, and so many that a load takes several pages.
KEYS = [f"key{number:02}" for number in range(40)]

_TIMEOUT_S = 5.0
_REMOVED_SHARE = 0.3
_MAX_PADDING_BYTES = 300


class MapWriter:
    """One service that writes into a map, each key after the one before is acknowledged."""

    def __init__(self, name: str, channel: str, fleet: Fleet, chance: random.Random) -> None:
        self.writes: list[Write] = []
        self.retry_count = 0
        self._name = name
        self._channel = channel
        self._fleet = fleet
        self._chance = chance
        self._count = 0

    async def run(self, *, rate_per_s: float, until_stopped: asyncio.Event) -> None:
        """Write at random times until it is stopped; a write under way is finished."""
        async with httpx.AsyncClient(headers={"X-API-Key": API_KEY}, timeout=_TIMEOUT_S, trust_env=False) as http:
            while not until_stopped.is_set():
                self._count += 1
                await self._write(http, self._chance.choice(KEYS))
                await asyncio.sleep(self._chance.expovariate(rate_per_s))

    async def _write(self, http: httpx.AsyncClient, key: str) -> None:
        body: dict[str, Any] = {  # Any: JSON
            "channel": self._channel,
            "key": key,
            "idempotency_key": f"{self._name}-{self._count}",
        }
        value: str | None = None
        if self._chance.random() < _REMOVED_SHARE:
            method = "map_remove"
        else:
            method = "map_publish"
            padding = "x" * self._chance.randrange(_MAX_PADDING_BYTES)
            body["data"] = {"writer": self._name, "number": self._count, "padding": padding}
            value = text_of(body["data"])
        sent_s = time.monotonic()
        result = await self._post(http, method, json.dumps(body))
        place = Place(result.get("epoch", ""), result.get("offset", 0))
        is_idle = result.get("suppress_reason") == "key_not_found"
        self.writes.append(Write(self._channel, key, value, place, sent_s, time.monotonic(), is_idle))

    async def _post(self, http: httpx.AsyncClient, method: str, body: str) -> Mapping[str, Any]:
        attempt = 0
        while True:
            try:
                response = await http.post(self._fleet.any_node().http(f"/api/{method}"), content=body)
            except httpx.TransportError:
                pass  # it may have been made: the idempotency key makes it one write
            else:
                answer = response.json()
                if "result" in answer:
                    return dict(answer["result"])
                assert answer["error"]["temporary"], f"{response.status_code} {response.text}"
            attempt += 1
            self.retry_count += 1
            await asyncio.sleep(backoff_s(self._chance, attempt))


def text_of(data: object) -> str:
    """Return a value as the logs have it."""
    return json.dumps(data, separators=(",", ":"))
