"""The kinds of what Redis refuses, in the words of each server version."""

from __future__ import annotations

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError

from roomcast.redis_access.refusals import Refusals, kind_of


def parsed(answer: str) -> Exception:
    exc: Exception = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]  # redis-py
    return exc


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("OOM command not allowed. script: 1f, on @user_script:12.", "OOM"),
        ("ERR Error running script (call to f_1f): @user_script:1: -OOM command not allowed when used memory", "OOM"),
        ("READONLY You can't write against a read only replica.", "READONLY"),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", "MISCONF"),
        ("NOPERM User default has no permissions to run the 'xadd' command", "NOPERM"),
        ("ERR ACL failure in script: User default has no permissions to run the 'xadd' command", "NOPERM"),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", "BUSY"),
        ("LOADING Redis is loading the dataset in memory", "LOADING"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "MASTERDOWN"),
        ("CLUSTERDOWN The cluster is down", "CLUSTERDOWN"),
        ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
        ("NOAUTH Authentication required.", "NOAUTH"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "WRONGPASS"),
        ("ERR unknown command 'EVALSHA', with args beginning with: 'f00'", "UNKNOWN_COMMAND"),
        ("ERR Unknown Redis command called from script script: 1f, on @user_script:1.", "UNKNOWN_COMMAND"),
        ("ERR max number of clients reached", "MAXCLIENTS"),
        ("ERR value is not an integer or out of range", "ERR"),
        ("something else", "ERR"),
    ],
)
def test_an_answer_has_a_kind_and_is_counted(answer: str, kind: str) -> None:
    refusals = Refusals()
    exc = parsed(answer)

    refusals.note(exc, 0)

    assert kind_of(exc) == kind
    assert refusals.counts == {kind: 1}
    assert refusals.suspected.is_set()


@pytest.mark.parametrize(
    "answer", ["NOSCRIPT No matching script.", "MOVED 1 a:1", "ASK 1 a:1", "WRONGTYPE Operation", "TRYAGAIN Multiple"]
)
def test_an_answer_of_every_day_is_no_refusal(answer: str) -> None:
    refusals = Refusals()
    refusals.note(parsed(answer), 0)

    assert refusals.counts == {}
    assert not refusals.suspected.is_set()


def test_a_server_that_is_away_refuses_nothing() -> None:
    assert kind_of(RedisConnectionError("reset")) is None
    assert kind_of(TimeoutError()) is None


def test_the_first_answer_of_a_demoted_server_outdates_the_connections_of_before() -> None:
    refusals = Refusals()
    for answer in ("READONLY a", "MASTERDOWN b"):
        refusals.note(parsed(answer), 0)

    assert refusals.generation == 1
