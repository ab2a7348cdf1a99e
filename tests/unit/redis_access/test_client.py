"""The connections to Redis."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection
from redis.exceptions import DataError, ReadOnlyError

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


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.binary() | st.integers() | st.floats()))
@example([memoryview(b"view"), bytearray(b"array")])
@example(["x" * 100_000])
async def test_commands_are_packed_as_redis_py_packs_them(args: list[object]) -> None:
    client = connect("redis://127.0.0.1:1", timeout_s=1, client_name="")
    connection = client.connection_pool.make_connection()  # type: ignore[union-attr]  # of one server

    for name in ("SET", b"SET", "CONFIG GET"):
        packed = b"".join(connection.pack_command(name, *args))
        assert packed == b"".join(Connection().pack_command(name, *args))  # type: ignore[arg-type]  # also other types


@pytest.mark.parametrize("wrong", [None, True, object()])
async def test_an_argument_that_redis_py_refuses_is_refused_as_it_does(wrong: object) -> None:
    client = connect("redis://127.0.0.1:1", timeout_s=1, client_name="")
    connection = client.connection_pool.make_connection()  # type: ignore[union-attr]  # of one server

    with pytest.raises(DataError):
        connection.pack_command("SET", wrong)
