from __future__ import annotations

import pytest

from roomcast.redis_access.url import Shape, masked_url, parse_redis_url


@pytest.mark.parametrize(
    ("url", "shape", "addresses", "options"),
    [
        ("redis://host", Shape.SINGLE, [("host", 6379)], {}),
        ("redis://host/", Shape.SINGLE, [("host", 6379)], {}),
        ("redis://:p%2Fw@host:1/2", Shape.SINGLE, [("host", 1)], {"password": "p/w", "db": 2}),
        ("redis://app:a:b@[::1]:1", Shape.SINGLE, [("::1", 1)], {"username": "app", "password": "a:b"}),
        ("unix:///run/redis.sock?db=3", Shape.SINGLE, [], {"path": "/run/redis.sock", "db": 3}),
        ("unix://:pw@/run/r.sock", Shape.SINGLE, [], {"password": "pw", "path": "/run/r.sock"}),
        ("redis+sentinel://a,b:1/main/2", Shape.SENTINEL, [("a", 26379), ("b", 1)], {"db": 2}),
        ("redis+sentinel://u:p@a/main", Shape.SENTINEL, [("a", 26379)], {"username": "u", "password": "p"}),
        ("redis+cluster://a:7000,[::1]:7001", Shape.CLUSTER, [("a", 7000), ("::1", 7001)], {}),
        ("redis+cluster://:p@a/0", Shape.CLUSTER, [("a", 6379)], {"password": "p", "db": 0}),
        ("rediss://host?ssl_check_hostname=false", Shape.SINGLE, [("host", 6379)], {"ssl_check_hostname": False}),
        ("rediss+cluster://a?ssl_ca_certs=/ca", Shape.CLUSTER, [("a", 6379)], {"ssl_ca_certs": "/ca"}),
    ],
)
def test_a_url_says_the_shape_where_it_is_and_how_to_connect(
    url: str, shape: Shape, addresses: list[tuple[str, int]], options: dict[str, object]
) -> None:
    where = parse_redis_url(url)

    assert where.shape is shape
    assert list(where.addresses) == addresses
    known = {name: value for name, value in where.options.items() if name != "connection_class"}
    assert known == options


def test_sentinels_are_told_the_password_only_if_that_is_asked_for() -> None:
    without = parse_redis_url("rediss+sentinel://u:p@a/main?ssl_ca_certs=/ca")
    with_password = parse_redis_url("redis+sentinel://u:p@a/main?sentinel_auth=true")

    assert (without.master_name, without.sentinel_options) == ("main", {"ssl": True, "ssl_ca_certs": "/ca"})
    assert with_password.sentinel_options == {"username": "u", "password": "p"}


SECRET = "S3CRET"


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("localhost:6379", "must look like"),
        (f"http://:{SECRET}@localhost", "must look like"),
        (f"redis+sentinel+tls://:{SECRET}@a/m", "must look like"),
        (f"unix+cluster://:{SECRET}@/x", "must look like"),
        (f"unix://:{SECRET}@host/x", "unix:///path"),
        ("unix://", "unix:///path"),
        ("redis://", "host:port"),
        ("redis://host:99999/0", "host:port"),
        ("redis://host:0", "host:port"),
        ("redis://[::1", "host:port"),
        ("redis+cluster://a,,b", "host:port"),
        (f"redis://:{SECRET}/x@host", "special characters"),
        (f"redis://:x?{SECRET}@host", "special characters"),
        (f"redis://:x#{SECRET}@host", "must look like"),
        (f"redis://:{SECRET}", "host:port"),
        (f"redis://:{SECRET}@a,b", "several hosts"),
        (f"redis://:{SECRET}@a/main", "no number"),
        (f"redis+sentinel://:{SECRET}@a", "name of the master"),
        (f"redis+sentinel://:{SECRET}@a/0/main", "no number"),
        (f"redis+cluster://:{SECRET}@a/1", "only 0"),
        (f"redis://host?password={SECRET}", "before the host"),
        (f"redis://host?pasword={SECRET}", "option pasword"),
        (f"redis://host?ssl_ca_certs={SECRET}", "takes none"),
        (f"rediss://host?ssl_check_hostname={SECRET}", "value that cannot be used"),
        (f"rediss://host?ssl_cert_reqs={SECRET}", "value that cannot be used"),
        (f"unix:///x?db={SECRET}", "value that cannot be used"),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(url: str, part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        parse_redis_url(url)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://host/0", "redis://host/0"),
        ("redis://user@host", "redis://user@host"),
        ("redis://:pw@host/0", "redis://:**********@host/0"),
        (
            "rediss+sentinel://app:a:b@a:1,b:2/m?sentinel_auth=true",
            "rediss+sentinel://app:**********@a:1,b:2/m?sentinel_auth=true",
        ),
        ("redis+cluster://:cluster@cluster:cluster@a", "redis+cluster://:**********@a"),
        ("unix://:pw@/run/pw", "unix://:**********@/run/pw"),
    ],
)
def test_a_shown_url_has_no_password(url: str, masked: str) -> None:
    assert masked_url(url) == masked
