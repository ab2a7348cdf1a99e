"""The connections to Redis."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import ReadOnlyError

from roomcast.redis_access.client import connect, refusals_of

pytestmark = pytest.mark.anyio


async def test_a_connection_that_is_made_while_another_one_is_refused_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # The pool replaces an outdated connection once; where the new one was outdated too, the command failed.
    client = connect("redis://127.0.0.1:1", timeout_s=1, client_name="")
    refusals = refusals_of(client)

    async def greet(connection: Connection, check_health: bool = True) -> None:
        refusals.note(ReadOnlyError("READONLY You can't write against a read only replica."), refusals.generation)

    monkeypatch.setattr(Connection, "on_connect_check_health", greet)
    connection = client.connection_pool.make_connection()  # type: ignore[union-attr]  # of one server

    await connection.on_connect_check_health()

    assert not connection.should_reconnect()
    refusals.note(ReadOnlyError("READONLY"), refusals.generation)
    assert connection.should_reconnect()
