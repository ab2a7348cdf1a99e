"""What Redis refuses changes nothing: each script, with a command forbidden, with full memory, without replicas."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis

from roomcast.brokers.history_commands import HistoryCommands
from roomcast.brokers.interface import ALWAYS, Once, Read
from roomcast.brokers.map_commands import MapCommands
from roomcast.brokers.map_interface import Conditions, MapRead, MapSubmission
from roomcast.model.client_info import ClientInfo
from roomcast.model.maps import Change, KeyMode, MapMode, MapOptions
from roomcast.model.namespaces import DEFAULTS, ChannelType, Namespace
from roomcast.model.positions import Position
from roomcast.model.publications import Publication
from roomcast.presence.presence_commands import PresenceCommands
from roomcast.redis_access.keys import ChannelKeys
from roomcast.redis_access.pipeline import run_pipeline
from roomcast.redis_access.scripts import Command, read_script
from tests.support.presence import ADA, BOB, NAMESPACES

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KEYS = ChannelKeys("refused:")
KEPT = Namespace(history_size=3, history_ttl_s=60.0)
HISTORY = HistoryCommands(
    KEYS, publish_command="PUBLISH", max_message_bytes=1000, on_malformed=lambda channel, reason: None
)
MAPS = MapCommands(KEYS, publish_command="PUBLISH", max_message_bytes=1000, on_malformed=lambda channel, reason: None)
PRESENCE = PresenceCommands(KEYS, NAMESPACES, publish_command="PUBLISH")
OFFER, BURY = read_script("roomcast.hooks", "offer"), read_script("roomcast.redis_access", "bury")
ACQUIRE, RELEASE, OCCUPANCY = (read_script("roomcast_workers", name) for name in ("acquire", "release", "occupancy"))
REPORT, END = (read_script("roomcast.presence", name) for name in ("report", "end"))
SCRIPTS = [*HISTORY.scripts, *MAPS.scripts, *PRESENCE.scripts, OFFER, BURY, ACQUIRE, RELEASE, OCCUPANCY, REPORT, END]
META, STREAM, QUEUE, DEAD, LEASE, REPORTED = (
    KEYS.key("room:a", name) for name in ("meta", "stream", "queue", "dead", "lease", "reported")
)
TEXT = Publication("room:a", b"new", tags={"a": "b"}, info=ClientInfo("n1-1", "ada"))


def publish(once: Once = ALWAYS, seen: Sequence[Position] = (), *, skip_history: bool = False) -> Command:
    return HISTORY.publish(TEXT, KEPT, seen, once, about=b"{}", skip_history=skip_history)


def read(**options: Any) -> Command:  # Any: the fields of Read
    return HISTORY.read(Read("room:a", KEPT, **options))


EPHEMERAL, PERSISTENT = DEFAULTS["cursors"], DEFAULTS["state"]
RECOVERABLE = Namespace(
    type=ChannelType.MAP, map=MapOptions(mode=MapMode.RECOVERABLE, key_ttl_s=60.0, max_keys=2), tags_filter=True
)


def put(namespace: Namespace, key: str = "k", once: Once = ALWAYS, mode: KeyMode = KeyMode.REPLACE) -> Command:
    publication = Publication("room:a", b"new", tags={"a": "b"}, change=Change(key))
    return MAPS.write(MapSubmission(publication, namespace, Conditions(once, mode)), [])


def drop(namespace: Namespace) -> Command:
    return MAPS.write(MapSubmission(Publication("room:a", b"", change=Change("k", is_removed=True)), namespace), [])


def page(namespace: Namespace, *seen: Position) -> Command:
    return MAPS.read(MapRead("room:a", namespace), seen)


FILL: list[Command] = [
    *[("XADD", STREAM, f"{number}-0", "k", "t", "d", "old") for number in (1, 2, 3)],
    ("HSET", META, "epoch", "e", "offset", 3, "base", 0, "home", ""),
]
JOINED = [PRESENCE.join("room:a", "n1.1", [ADA, BOB]), PRESENCE.occupy("room:a", "n1.1")]
HELD: Command = ("SET", LEASE, "me")
ENTRY: Command = ("XADD", QUEUE, "1-0", "channel", "?")
LOST = Position(9, "e")
DUE: Command = ("ZADD", KEYS.key("room:a", "deadlines"), "XX", 1, "k")


class Case(NamedTuple):
    """The commands before, the one that is tried, and what it does without."""

    before: Sequence[Command]
    command: Command
    goes_without: frozenset[str] = frozenset({"info"})
    needs_memory: bool = True


READS = frozenset({"info", "pexpire"})
# A known position is read where nothing may be written; what has changed of it is written by the next one that may.
KNOWN_READS = READS | {"hset"}
LATER_READS = frozenset({"info", "pttl", "persist", "del"})
PERSISTENT_READS = KNOWN_READS | LATER_READS
# Where nothing may be written, keys whose time is over are left in.
DUE_READS = KNOWN_READS | {"xadd", "hdel", "zrem", "publish"}
ONCE = Once(key="k", version=2, lease_owner="me")
CASES: Mapping[str, Case] = {
    "publish": Case(FILL, publish()),
    "publish the first": Case([], publish()),
    "publish into a new epoch": Case(FILL, publish(seen=[LOST])),
    "publish where a stream is left over": Case(FILL[:3], publish()),
    "publish once": Case([*FILL, HELD], publish(ONCE)),
    "publish the first once": Case([HELD], publish(ONCE)),
    "publish once, not kept": Case([*FILL, HELD], publish(ONCE, skip_history=True)),
    "publish behind a foreign entry": Case([*FILL, ("XADD", STREAM, "9-0", "a", "b")], publish()),
    "publish behind the last entry": Case([*FILL, ("XADD", STREAM, f"{2**64 - 1}-{2**64 - 1}", "a", "b")], publish()),
    "publish where no stream is": Case([FILL[-1], ("SET", STREAM, "x")], publish()),
    "read": Case(FILL, read(since=Position(1, "e"), limit=10), KNOWN_READS, needs_memory=False),
    "read backwards": Case(FILL, read(newest=True, limit=10), KNOWN_READS, needs_memory=False),
    "read where no stream is": Case([FILL[-1], ("SET", STREAM, "x")], read(limit=10), KNOWN_READS, needs_memory=False),
    "read the first": Case([], read(limit=10), READS),
    "read where a stream is left over": Case(FILL[:3], read(limit=10), READS),
    "read after a lost tail": Case(FILL, read(seen=[LOST], since=LOST, limit=10), READS),
    "remove": Case(FILL, HISTORY.remove("room:a"), needs_memory=False),
    "put the first": Case([], put(PERSISTENT)),
    "put the first, ephemeral": Case([], put(EPHEMERAL)),
    "put again": Case([put(RECOVERABLE)], put(RECOVERABLE)),
    "put again, ephemeral": Case([put(EPHEMERAL)], put(EPHEMERAL)),
    "put where another map is left over": Case([put(PERSISTENT), ("DEL", META)], put(PERSISTENT)),
    "put once": Case([put(RECOVERABLE)], put(RECOVERABLE, once=Once("i", 2))),
    "put behind a foreign entry": Case([put(PERSISTENT), ("XADD", STREAM, "9-0", "a", "b")], put(PERSISTENT)),
    "put where no stream is": Case([put(PERSISTENT), ("DEL", STREAM), ("SET", STREAM, "x")], put(PERSISTENT)),
    "put where the time is over": Case([put(RECOVERABLE), DUE], put(RECOVERABLE, mode=KeyMode.IF_NEW)),
    "put where time makes room": Case([put(RECOVERABLE), put(RECOVERABLE, "l"), DUE], put(RECOVERABLE, "m")),
    "drop": Case([put(PERSISTENT)], drop(PERSISTENT)),
    "drop, ephemeral": Case([put(EPHEMERAL)], drop(EPHEMERAL), needs_memory=False),
    "drop what is not there": Case([], drop(PERSISTENT)),
    "page": Case([put(RECOVERABLE)], page(RECOVERABLE), KNOWN_READS, needs_memory=False),
    "page of a persistent map": Case([put(PERSISTENT)], page(PERSISTENT), PERSISTENT_READS, needs_memory=False),
    "page where no key expires": Case(
        [put(PERSISTENT)], page(RECOVERABLE), KNOWN_READS | {"zadd", "zrange"}, needs_memory=False
    ),
    "page of the first": Case([], page(RECOVERABLE)),
    "page after a lost tail": Case(
        [put(PERSISTENT)], page(PERSISTENT, LOST), frozenset({"info", "pttl", "persist", "del"})
    ),
    "page where the time is over": Case([put(RECOVERABLE), DUE], page(RECOVERABLE), DUE_READS, needs_memory=False),
    "expire": Case([put(RECOVERABLE), DUE], MAPS.expire("room:a", RECOVERABLE, [])),
    "expire, ephemeral": Case([put(EPHEMERAL), DUE], MAPS.expire("room:a", EPHEMERAL, []), needs_memory=False),
    "touch": Case([put(EPHEMERAL)], MAPS.touch("room:a", EPHEMERAL, ["k"])),
    "clear a map": Case([put(RECOVERABLE)], MAPS.clear("room:a", RECOVERABLE, []), needs_memory=False),
    "join": Case([], PRESENCE.join("room:a", "n1.1", [ADA, BOB])),
    "join again": Case(JOINED, PRESENCE.join("room:a", "n1.2", [ADA, BOB])),
    "leave": Case(JOINED, PRESENCE.leave("room:a", "n1.1", [ADA.client]), needs_memory=False),
    "sweep": Case(JOINED, PRESENCE.sweep("room:a", "n1.1"), needs_memory=False),
    "join where members were lost": Case(
        [*JOINED, ("DEL", KEYS.key("room:a", "members"))],
        PRESENCE.join("room:a", "n1.2", [ADA, BOB]),
        needs_memory=False,
    ),
    "check where users were lost": Case(
        [*JOINED, ("DEL", KEYS.key("room:a", "users"))], PRESENCE.occupy("room:a", "n1.1", 2), needs_memory=False
    ),
    "sweep where the lease's set was lost": Case(
        [*JOINED, ("DEL", KEYS.key("room:a", "members:n1.1"))], PRESENCE.sweep("room:a", "n1.1")
    ),
    "report": Case([], REPORT.call([LEASE], ["5 1", 60_000, "ended"])),
    "report again": Case([HELD], REPORT.call([LEASE], ["5 1", 60_000, "ended"])),
    "end a lease": Case([HELD], END.call([LEASE], ["me", "ended", 60_000])),
    "occupy": Case([], PRESENCE.occupy("room:a", "n1.1")),
    "occupy again": Case(JOINED, PRESENCE.occupy("room:a", "n2.1")),
    "offer": Case([], OFFER.call([QUEUE], [10, "1", "2"])),
    "bury": Case([ENTRY], BURY.call([QUEUE, DEAD], ["1-0", "bad", 10, 10])),
    "acquire": Case([], ACQUIRE.call([LEASE], ["me", 60_000, 60_000])),
    "acquire again": Case([HELD], ACQUIRE.call([LEASE], ["me", 60_000, 60_000])),
    "release": Case([HELD], RELEASE.call([LEASE], ["me"]), needs_memory=False),
    "report occupancy": Case(
        [HELD, ("SADD", REPORTED, "b")],
        OCCUPANCY.call([QUEUE, REPORTED, LEASE], [10, "me", "1", "b", "SREM", "1", "a", "SADD", "2"]),
    ),
}


@pytest.fixture(
    params=["redis_url", pytest.param("docker_redis_url", marks=pytest.mark.docker)], ids=["valkey", "redis"]
)
async def admin(request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    async with Redis.from_url(request.getfixturevalue(request.param)) as admin:
        await run(admin, [("SCRIPT", "LOAD", script.text) for script in SCRIPTS])
        yield admin
        await clear(admin)
        await admin.acl_deluser("limited")


async def run(client: Redis, commands: Sequence[Command]) -> None:
    replies = await run_pipeline(client, commands, SCRIPTS)
    assert not [reply for reply in replies if isinstance(reply, Exception)], replies


async def keys(admin: Redis) -> list[bytes]:
    return sorted([key async for key in admin.scan_iter("*refused:*", count=1000)])


async def clear(admin: Redis) -> None:
    for key in await keys(admin):
        await admin.delete(key)


async def prepare(admin: Redis, case: Case) -> None:
    await clear(admin)
    for command in case.before:  # a pipeline keeps the order of each key only
        await run(admin, [command])
    for key in await keys(admin):
        await admin.pexpire(key, 1_000_000)  # a TTL that no script sets


async def dump(admin: Redis) -> dict[bytes, tuple[bytes | None, bool]]:
    return {key: (await admin.dump(key), 900_000 < await admin.pttl(key) <= 1_000_000) for key in await keys(admin)}


async def used(admin: Redis, command: Command) -> set[str]:
    """Run a command; return the commands that its script has called."""
    await admin.config_resetstat()
    await run(admin, [command])
    stats = await admin.info("commandstats")
    names = {name.removeprefix("cmdstat_").partition("|")[0] for name, stat in stats.items() if stat["calls"]}
    return names - {"evalsha", "config", "client", "hello"}


@asynccontextmanager
async def silence(admin: Redis) -> AsyncIterator[None]:
    """Check that no message is published."""
    async with admin.pubsub() as pubsub:
        await pubsub.psubscribe("*refused:*")
        yield
        await pubsub.ping()
        heard = [message async for message in until_pong(pubsub)]
        assert heard == []


async def until_pong(pubsub: Any) -> AsyncIterator[dict[str, Any]]:  # Any: redis-py's types
    async for message in pubsub.listen():
        if message["type"] == "pong":
            return
        if message["type"] == "pmessage":
            yield message


@pytest.mark.parametrize("name", CASES)
async def test_a_script_with_a_forbidden_command_changes_nothing(admin: Redis, name: str) -> None:
    case = CASES[name]
    await prepare(admin, case)
    called = await used(admin, case.command)
    assert called - {"info"}

    for forbidden in sorted(called):
        await prepare(admin, case)
        before = await dump(admin)
        await admin.acl_setuser(
            "limited",
            enabled=True,
            nopass=True,
            reset=True,
            keys=["*"],
            channels=["*"],
            categories=["+@all"],
            commands=[f"-{forbidden}"],
        )
        options = admin.connection_pool.connection_kwargs
        async with Redis(host=options["host"], port=options["port"], username="limited", password="x") as limited:
            if forbidden in case.goes_without:
                await run(limited, [case.command])
                continue
            async with silence(admin):
                (reply,) = await run_pipeline(limited, [case.command], ())
        assert isinstance(reply, Exception), f"{forbidden}: {reply}"
        assert re.search("(?i)permission|may not run", str(reply)), reply
        assert await dump(admin) == before, forbidden


@pytest.mark.parametrize(("setting", "value", "usual"), [("maxmemory", 1, 0), ("min-replicas-to-write", 1, 0)])
@pytest.mark.parametrize("name", CASES)
async def test_a_script_whose_writes_are_refused_changes_nothing(
    admin: Redis, name: str, setting: str, value: int, usual: int
) -> None:
    case = CASES[name]
    await prepare(admin, case)
    before = await dump(admin)
    await admin.config_set(setting, value)
    try:
        if not case.needs_memory and (setting == "maxmemory" or case.goes_without >= KNOWN_READS):
            await run(admin, [case.command])
            return
        async with silence(admin):
            (reply,) = await run_pipeline(admin, [case.command], ())
    finally:
        await admin.config_set(setting, usual)
    assert isinstance(reply, Exception), reply
    assert re.search("OOM|memory|replicas", str(reply)), reply
    assert await dump(admin) == before
