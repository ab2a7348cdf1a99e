from __future__ import annotations

from typing import Any

import pytest

from roomcast.model.errors import ClientError
from roomcast.model.maps import ClientKey, MapMode, MapOptions, check_key

EPHEMERAL = {"mode": MapMode.EPHEMERAL, "key_ttl_s": 15.0}
PERSISTENT = {"mode": MapMode.PERSISTENT}


def test_the_defaults_are_those_of_the_protocols_reference() -> None:
    options = MapOptions(mode=MapMode.PERSISTENT)

    assert (options.min_page_size, options.page_size, options.max_page_size) == (100, 100, 1000)
    assert options.catch_up_timeout_s == 5
    assert options.client_key is ClientKey.ANY
    assert not options.remove_on_unsubscribe
    assert (options.max_keys, options.max_map_bytes) == (10_000, 16 * 1024 * 1024)


@pytest.mark.parametrize("mode", [MapMode.EPHEMERAL, MapMode.RECOVERABLE])
@pytest.mark.parametrize("key_ttl_s", [0.1, 366 * 24 * 3600])
def test_keys_of_a_map_that_is_not_persistent_live_for_a_time(mode: MapMode, key_ttl_s: float) -> None:
    assert MapOptions(mode=mode, key_ttl_s=key_ttl_s, meta_ttl_s=key_ttl_s).key_ttl_s == key_ttl_s


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PERSISTENT | {"key_ttl_s": 1.0}, "a persistent map has neither key_ttl_s nor meta_ttl_s"),
        (PERSISTENT | {"meta_ttl_s": 1.0}, "a persistent map has neither key_ttl_s nor meta_ttl_s"),
        ({"mode": MapMode.EPHEMERAL}, "key_ttl_s of a map in mode ephemeral must be 0.1 s to 366 days"),
        ({"mode": MapMode.RECOVERABLE}, "key_ttl_s of a map in mode recoverable must be 0.1 s to 366 days"),
        (EPHEMERAL | {"key_ttl_s": 0.09}, "must be 0.1 s to 366 days"),
        (EPHEMERAL | {"key_ttl_s": -1.0}, "must be 0.1 s to 366 days"),
        (EPHEMERAL | {"key_ttl_s": float("nan")}, "must be 0.1 s to 366 days"),
        (EPHEMERAL | {"key_ttl_s": 366 * 24 * 3600 + 1.0}, "must be 0.1 s to 366 days"),
        (EPHEMERAL | {"meta_ttl_s": 14.9}, "meta_ttl_s must be at least key_ttl_s, and 732 days at most"),
        (EPHEMERAL | {"meta_ttl_s": -1.0}, "meta_ttl_s must be at least key_ttl_s"),
        (EPHEMERAL | {"meta_ttl_s": 733 * 24 * 3600.0}, "732 days at most"),
        (PERSISTENT | {"min_page_size": 0}, "1 <= min_page_size"),
        (PERSISTENT | {"min_page_size": 101}, "1 <= min_page_size <= page_size <= max_page_size <= 10000"),
        (PERSISTENT | {"page_size": 99}, "min_page_size <= page_size"),
        (PERSISTENT | {"page_size": 1001}, "page_size <= max_page_size"),
        (PERSISTENT | {"max_page_size": 99}, "page_size <= max_page_size"),
        (PERSISTENT | {"max_page_size": 10_001}, "max_page_size <= 10000"),
        (PERSISTENT | {"catch_up_timeout_s": 0.0}, "catch_up_timeout_s must be 0.1 to 3600"),
        (PERSISTENT | {"catch_up_timeout_s": 3601.0}, "catch_up_timeout_s must be 0.1 to 3600"),
        (PERSISTENT | {"max_keys": 0}, "max_keys must be 1 to 1000000"),
        (PERSISTENT | {"max_keys": 1_000_001}, "max_keys must be 1 to 1000000"),
        (PERSISTENT | {"max_map_bytes": 1023}, "max_map_bytes must be 1024 to 1073741824"),
        (PERSISTENT | {"max_map_bytes": 1024**3 + 1}, "max_map_bytes must be 1024 to 1073741824"),
    ],
)
def test_a_bad_option_is_refused_by_its_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MapOptions(**options)


@pytest.mark.parametrize(("wanted", "length"), [(0, 40), (1, 20), (20, 20), (30, 30), (60, 60), (61, 60), (10**9, 60)])
def test_a_page_is_as_long_as_the_client_asks_within_the_limits(wanted: int, length: int) -> None:
    options = MapOptions(mode=MapMode.PERSISTENT, min_page_size=20, page_size=40, max_page_size=60)

    assert options.page_length(wanted) == length


@pytest.mark.parametrize("key", ["a", "a/b:c d{1}", "ä" * 127, "x" * 255, "\u2028", "😀"])
def test_a_key_is_any_short_text(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "key must be 1 to 255 bytes, this one has 0"),
        ("x" * 256, "this one has 256"),
        ("ä" * 128, "this one has 256"),
        ("a\x00", "key holds a control character"),
        ("a\n", "key holds a control character"),
        ("\x7f", "key holds a control character"),
        ("\x85", "key holds a control character"),
        ("\ud800", "key is not valid UTF-8"),
    ],
)
def test_other_keys_are_a_bad_request(key: str, message: str) -> None:
    with pytest.raises(ClientError, match=message) as refused:
        check_key(key)

    assert refused.value.error.code == 107
