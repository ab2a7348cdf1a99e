"""Requests of the server API's methods for maps: what they accept."""

from __future__ import annotations

from typing import Any

import pytest

from roomcast.api.map_requests import (
    MapPublishRequest,
    MapReadStateRequest,
    MapReadStreamRequest,
    MapRemoveRequest,
    MapRequest,
)
from roomcast.api.request_models import ApiRequest, validated
from roomcast.model.errors import ClientError, ErrorCode
from roomcast.model.maps import KeyMode

WRITE = {"channel": "state:a", "key": "k"}
READ = {"channel": "state:a"}
# The largest offset, and the largest key.
TOP, LONG = 2**53 - 2, "ö" * 127 + "k"

BAD: list[tuple[type[ApiRequest], dict[str, Any], str]] = [
    (MapPublishRequest, {"channel": "", "key": "k"}, "channel must be 1 to 255 bytes"),
    (MapPublishRequest, {"key": "k"}, "channel: Field required"),
    (MapPublishRequest, READ, "key: Field required"),
    (MapPublishRequest, WRITE | {"key": ""}, "key must be 1 to 255 bytes, this one has 0"),
    (MapPublishRequest, WRITE | {"key": LONG + "k"}, "key must be 1 to 255 bytes, this one has 256"),
    (MapPublishRequest, WRITE | {"key": "a\0b"}, "key holds a control character"),
    (MapPublishRequest, WRITE | {"key": "a\x85b"}, "key holds a control character"),
    (MapPublishRequest, WRITE | {"key": 7}, "key: Input should be a valid string"),
    (MapPublishRequest, WRITE | {"key": None}, "key: Field required"),
    (MapPublishRequest, WRITE | {"key_mode": "if_old"}, "key_mode: Input should be '', 'if_new' or 'if_exists'"),
    (MapPublishRequest, WRITE | {"key_mode": 1}, "key_mode: "),
    (MapPublishRequest, WRITE | {"version": -1}, "version: "),
    (MapPublishRequest, WRITE | {"version": 2**53}, "version: "),
    (MapPublishRequest, WRITE | {"version_epoch": "e" * 65}, "version_epoch: "),
    (MapPublishRequest, WRITE | {"idempotency_key": "i" * 129}, "idempotency_key: "),
    (MapPublishRequest, WRITE | {"expected_offset": -1}, "expected_offset: "),
    (MapPublishRequest, WRITE | {"expected_offset": TOP + 1}, "expected_offset: "),
    (MapPublishRequest, WRITE | {"expected_offset": 1, "expected_epoch": "e" * 33}, "expected_epoch: "),
    (MapPublishRequest, WRITE | {"expected_epoch": "e"}, "expected_epoch needs expected_offset"),
    (MapPublishRequest, WRITE | {"tags": ["a"]}, "tags: "),
    (MapPublishRequest, WRITE | {"tags": {"a": 1}}, "tags.a: "),
    (MapPublishRequest, WRITE | {"b64data": 1}, "b64data: "),
    (MapRemoveRequest, WRITE | {"key": ""}, "key must be 1 to 255 bytes"),
    (MapRemoveRequest, WRITE | {"expected_epoch": "e"}, "expected_epoch needs expected_offset"),
    (MapReadStateRequest, READ | {"limit": -2}, "limit: "),
    (MapReadStateRequest, READ | {"limit": 1001}, "limit: "),
    (MapReadStateRequest, READ | {"limit": "all"}, "limit: "),
    (MapReadStateRequest, READ | {"cursor": "c" * 256}, "key must be 1 to 255 bytes"),
    (MapReadStateRequest, READ | {"cursor": 1}, "cursor: "),
    (MapReadStateRequest, READ | {"key": "a\nb"}, "key holds a control character"),
    (MapReadStateRequest, READ | {"revision_offset": -1}, "revision_offset: "),
    (MapReadStreamRequest, READ | {"limit": 1001}, "limit: "),
    (MapReadStreamRequest, READ | {"since_offset": -1}, "since_offset: "),
    (MapReadStreamRequest, READ | {"since_epoch": "e" * 33}, "since_epoch: "),
    (MapReadStreamRequest, READ | {"reverse": "maybe"}, "reverse: "),
    (MapRequest, {"channel": "state:"}, "channel has no name behind its namespace"),
]


@pytest.mark.parametrize(("model", "wanted", "detail"), BAD)
def test_a_request_with_a_fault_is_error_107_that_names_it(
    model: type[ApiRequest], wanted: dict[str, Any], detail: str
) -> None:
    with pytest.raises(ClientError) as refused:
        validated(model, wanted)

    assert refused.value.error is ErrorCode.BAD_REQUEST
    assert detail in refused.value.detail


def test_the_limits_themselves_are_accepted() -> None:
    write = validated(
        MapPublishRequest, WRITE | {"key": LONG, "version": 2**53 - 1, "expected_offset": TOP, "key_mode": "if_new"}
    )
    assert (write.key, write.key_mode, write.expected_offset) == (LONG, KeyMode.IF_NEW, TOP)
    assert validated(MapReadStateRequest, READ | {"limit": 1000, "cursor": LONG}).limit == 1000


@pytest.mark.parametrize(
    ("members", "has_data"),
    [({}, False), ({"data": None}, True), ({"data": ""}, True), ({"b64data": "AA=="}, True), ({"b64data": ""}, False)],
)
def test_null_is_a_value_and_only_without_data_there_is_none(members: dict[str, Any], has_data: bool) -> None:
    assert validated(MapPublishRequest, WRITE | members).has_data is has_data


def test_null_is_as_absent_and_fields_of_other_servers_are_ignored() -> None:
    nulls = dict.fromkeys(["tags", "key_mode", "version", "expected_offset", "expected_epoch", "idempotency_key"])
    ours = validated(MapPublishRequest, WRITE | nulls | {"score": 5, "stream_data": {}, "b64stream_data": "?"})

    assert ours == validated(MapPublishRequest, WRITE)
    assert validated(MapReadStateRequest, READ | {"asc": True}) == validated(MapReadStateRequest, READ)
