"""Tokens: how SDKs present them, and get others when they expire."""

from __future__ import annotations

import asyncio

import pytest

from tests.sdk import Client, SdkError
from tests.support.tokens import token

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


async def test_tokens_that_have_expired_are_replaced(clients: list[Client], prefix: str) -> None:
    private = f"$room:{prefix}"
    for client in clients:
        await client.connect(tokens=[token("ada", ttl_s=-60), token("ada")])
        await client.subscribe(
            private, tokens=[token("ada", ttl_s=-60, channel=private), token("ada", channel=private)]
        )

        assert len(await client.events("getToken")) == 2
        present = (await client.perform("presence", channel=private))["clients"]
        assert {info["user"] for info in present.values()} == {"ada"}


async def test_tokens_are_renewed_before_they_expire(clients: list[Client], prefix: str) -> None:
    """The second renewal shows that the first was taken: only its answer says when the next is due."""
    private = f"$room:{prefix}"

    async def stays(client: Client) -> None:
        await client.connect(tokens=[token("ada", ttl_s=ttl_s) for ttl_s in (2, 4, 3600)])
        tokens = [token("ada", ttl_s=ttl_s, channel=private) for ttl_s in (2, 4, 3600)]
        await client.subscribe(private, tokens=tokens)
        await client.heard("getToken", 2, channel=private)
        await client.heard("getToken", 4)
        await client.perform("publish", channel=private, data="still here")
        await client.heard("publication", channel=private, data="still here")
        assert (len(await client.events("connecting")), len(await client.events("subscribing"))) == (1, 1)

    await asyncio.gather(*(stays(client) for client in clients))


async def test_a_forged_token_ends_the_connection_for_good(clients: list[Client]) -> None:
    for client in clients:
        await client.open(tokens=[token("ada")[:-4] + "AAAA", ""])
        await client.perform("connect")

        gone = await client.heard("disconnected")
        assert gone["code"] == 3500


async def test_a_private_channel_is_closed_to_who_has_no_token_for_it(clients: list[Client], prefix: str) -> None:
    private, others = f"$room:{prefix}", f"$room:others-{prefix}"
    for client in clients:
        await client.connect(tokens=[token("ada"), ""])
        await client.perform("subscribe", channel=private, options={})
        await client.perform(
            "subscribe", channel=others, options={}, tokens=[token("bob", channel=others), token("ada")]
        )

        for channel in (private, others):
            refused = await client.heard("unsubscribed", channel=channel)
            assert refused["code"] == 103
        with pytest.raises(SdkError, match="103"):
            await client.perform("publish", channel=private, data=1)


async def test_the_user_s_own_channel_is_there_without_being_asked_for(clients: list[Client], prefix: str) -> None:
    user = f"ada-{prefix}".rstrip(":")
    for client in clients:
        await client.connect(tokens=[token(user, channels=[f"notify:{prefix}"]), ""])

        for channel in (f"user:#{user}", f"notify:{prefix}"):
            assert (await client.heard("subscribed", channel=channel))["recoverable"]
        with pytest.raises(SdkError, match="103"):
            await client.perform("publish", channel=f"user:#{user}", data=1)


async def test_clients_whose_new_token_has_expired_too_get_another_one_and_come_back(
    clients: list[Client], prefix: str
) -> None:
    """A token that took long on a slow network, or was kept by a sleeping laptop."""
    private = f"$room:{prefix}"

    async def comes_back(client: Client) -> None:
        await client.connect(tokens=[token("ada", ttl_s=ttl_s) for ttl_s in (2, -60, 3600)])
        tokens = [token("ada", ttl_s=ttl_s, channel=private) for ttl_s in (4, -60, 3600)]
        await client.subscribe(private, tokens=tokens)
        await client.heard("getToken", 2, channel=private)
        await client.heard("getToken", 4)
        await client.heard("subscribed", 2, channel=private)
        await client.perform("publish", channel=private, data="back")
        await client.heard("publication", channel=private, data="back")

    await asyncio.gather(*(comes_back(client) for client in clients))
