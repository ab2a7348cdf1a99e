"""Sessions, the server API, and a Redis that takes its time, at random: in the end nothing is left of any client."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from random import Random

import pytest

from roomcast.model.errors import BrokerUnavailable, ClientError
from roomcast.model.publications import Resumption
from tests.support.fakes import FakePresence
from tests.support.sessions import Bench, Client, turns
from tests.support.tokens import signed

pytestmark = pytest.mark.anyio

CHANNELS = ("room:a", "room:b", "closed:a")
USERS = ("ada", "bob")


class Churn:
    """One random run."""

    def __init__(self, bench: Bench, random: Random) -> None:
        self.bench = bench
        self.random = random
        self.clients: list[Client] = []
        self.services: list[asyncio.Future[object]] = []
        self.steps = [self.come, self.go, self.say, self.say, self.say, self.serve, self.slow_down, self.speed_up]
        self.steps += [self.lose, self.pass_time]

    async def run(self) -> None:
        for _ in range(120):
            self.random.choice(self.steps)()
            for client in [client for client in self.clients if client.codes]:
                self.clients.remove(client)
                client.vanish()
            await turns(self.random.randrange(4))
        self.speed_up()
        await turns()
        for client in self.clients:
            assert set(client.session.subscriptions) == set(client.connection.subscriptions)
            client.vanish()
        for service in self.services:
            with suppress(ClientError, BrokerUnavailable):
                await service

    def come(self) -> None:
        client = self.bench.client()
        self.clients.append(client)
        channels = self.random.sample(CHANNELS, self.random.randrange(3))
        claims = {"exp": int(self.bench.now_s) + 30, "channels": channels}
        client.send({"id": 1, "connect": {"token": signed({"sub": self.random.choice(USERS), **claims})}})

    def go(self) -> None:
        if self.clients:
            self.clients.pop(self.random.randrange(len(self.clients))).vanish()

    def say(self) -> None:
        if self.clients:
            method = self.random.choice(["subscribe", "unsubscribe", "presence", "publish"])
            params = {"channel": self.random.choice(CHANNELS), **({"data": 1} if method == "publish" else {})}
            self.random.choice(self.clients).send({"id": 2, method: params})

    def serve(self) -> None:
        handler = self.bench.handlers[self.random.choice(["subscribe", "unsubscribe"])]
        params = {"user": self.random.choice(USERS), "channel": self.random.choice(CHANNELS)}
        self.services.append(asyncio.ensure_future(handler(params)))

    def slow_down(self) -> None:
        self.bench.broker.shut(self.random.choice(CHANNELS))

    def speed_up(self) -> None:
        self.bench.broker.open()

    def lose(self) -> None:
        self.bench.node.hub.broadcast(Resumption(self.random.choice(CHANNELS), None, is_recovered=False))

    def pass_time(self) -> None:
        self.bench.at(self.bench.now_s + self.random.choice([1, 20]))


@pytest.mark.parametrize("seed", range(40))
async def test_nothing_is_left_of_clients_whatever_they_and_services_did(seed: int) -> None:
    async with Bench(anonymous=True, channel_limit=4) as bench:
        await Churn(bench, Random(seed)).run()
        await turns()
        gc.collect()  # a coroutine that was never awaited warns as it goes, and warnings are errors

        node = bench.node
        assert (node.hub.connections, len(node.hub.channels()), node.hub.user_count()) == (set(), 0, 0)
        assert isinstance(node.presence, FakePresence)
        assert node.presence.occupied == set()
        assert not any(node.presence.members.values())
        assert set(bench.broker.unsubscribed) == set(bench.broker.subscribed)
        assert not node.interest.channels()
