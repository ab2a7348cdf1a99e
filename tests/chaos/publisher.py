"""Publishers: each publishes one after the other by the API, and asks again, of any node, until it is answered."""

from __future__ import annotations

import asyncio
import random

import httpx

from tests.chaos.fleet import Fleet
from tests.chaos.journal import Acknowledged, Name, Place, payload
from tests.support.processes import API_KEY

_TIMEOUT_S = 5.0
_BACKOFF_BASE_S = 0.1
_BACKOFF_CAP_S = 2.0
_MAX_PADDING_BYTES = 1500


def backoff_s(chance: random.Random, attempt: int) -> float:
    """Return the pause before another attempt: full jitter, two seconds at most."""
    return chance.uniform(0, min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * (1 << min(attempt, 10))))


class Publisher:
    """One service that publishes into a room, each publication after the one before is acknowledged."""

    def __init__(self, name: str, room: str, fleet: Fleet, chance: random.Random) -> None:
        self.room = room
        self.acknowledged: list[Acknowledged] = []
        self.retry_count = 0
        self._name = name
        self._fleet = fleet
        self._chance = chance

    async def run(self, *, rate_per_s: float, until_stopped: asyncio.Event) -> None:
        """Publish at random times until it is stopped; a publication under way is finished."""
        async with httpx.AsyncClient(headers={"X-API-Key": API_KEY}, timeout=_TIMEOUT_S, trust_env=False) as http:
            number = 0
            while not until_stopped.is_set():
                number += 1
                name = Name(self._name, number)
                place = await self._publish(http, name)
                self.acknowledged.append(Acknowledged(name, place))
                await asyncio.sleep(self._chance.expovariate(rate_per_s))

    async def _publish(self, http: httpx.AsyncClient, name: Name) -> Place:
        padding = "x" * self._chance.randrange(_MAX_PADDING_BYTES)
        body = (
            f'{{"channel":"room:{self.room}","idempotency_key":"{name.publisher}-{name.number}",'
            f'"data":{payload(name, padding)}}}'
        )
        attempt = 0
        while True:
            try:
                response = await http.post(self._fleet.any_node().http("/api/publish"), content=body)
            except httpx.TransportError:
                pass  # it may have been published: the idempotency key makes it one publication
            else:
                answer = response.json()
                if "result" in answer:
                    return Place(answer["result"]["epoch"], answer["result"]["offset"])
                assert answer["error"]["temporary"], f"{response.status_code} {response.text}"
            attempt += 1
            self.retry_count += 1
            await asyncio.sleep(backoff_s(self._chance, attempt))
