"""Keys from a URL: a real HTTP server whose responses, and a clock whose time, the test controls."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from roomcast.auth import InvalidToken, KeysUnavailable
from roomcast.auth.jwks import MIN_FETCH_INTERVAL_S, REFRESH_INTERVAL_S, KeySet
from roomcast.auth.tokens import TokenVerifier
from tests.support.fakes import Clock
from tests.support.processes import eventually
from tests.support.tokens import SECRET, PrivateKey, private_key, public_jwk, public_pem, signed

pytestmark = pytest.mark.anyio


class Provider(ThreadingHTTPServer):
    """An identity provider: publishes keys, counts requests; `gate` delays its responses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/keys"
        self.status = 200
        self.body = b""
        self.request_count = 0
        self.gate = threading.Event()
        self.gate.set()
        self.publish()

    def publish(self, **keys: PrivateKey) -> None:
        """Publish these keys, by their ids, and no others."""
        self.body = json.dumps({"keys": [public_jwk(key, kid=name) for name, key in keys.items()]}).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        self.server.request_count += 1
        self.server.gate.wait(10)
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        try:
            self.wfile.write(self.server.body)
        except OSError:  # the client has read enough
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name there)
        """Keep quiet."""


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield provider
        provider.gate.set()
        provider.shutdown()
        thread.join()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def one() -> PrivateKey:
    return private_key("ES256")


@pytest.fixture(scope="module")
def two() -> PrivateKey:
    return private_key("ES256")


async def test_a_token_is_checked_with_the_key_that_it_names(
    provider: Provider, clock: Clock, one: PrivateKey, two: PrivateKey
) -> None:
    provider.publish(one=one, two=two)
    checking = TokenVerifier([], key_set=KeySet(provider.url, clock=clock))

    for name, key in (("one", one), ("two", two)):
        assert (await checking.connection(signed({"sub": name}, key, "ES256", kid=name))).user == name
    with pytest.raises(InvalidToken):
        await checking.connection(signed({}, one, "ES256", kid="two"))
    assert provider.request_count == 1
    await checking.aclose()


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "ES384", "ES512", "EdDSA"])
async def test_every_kind_of_key_is_taken(provider: Provider, clock: Clock, algorithm: str) -> None:
    key = private_key(algorithm)
    provider.publish(a=key)
    checking = TokenVerifier([], key_set=KeySet(provider.url, clock=clock))

    assert (await checking.connection(signed({"sub": "42"}, key, algorithm, kid="a"))).user == "42"
    await checking.aclose()


async def test_a_key_that_comes_later_is_found_and_one_that_went_is_not(
    provider: Provider, clock: Clock, one: PrivateKey, two: PrivateKey
) -> None:
    provider.publish(one=one)
    checking = TokenVerifier([], key_set=KeySet(provider.url, clock=clock))
    old, new = (signed({}, key, "ES256", kid=name) for name, key in (("one", one), ("two", two)))
    await checking.connection(old)

    provider.publish(two=two)
    clock.now_s += MIN_FETCH_INTERVAL_S
    await checking.connection(new)

    clock.now_s += MIN_FETCH_INTERVAL_S
    with pytest.raises(InvalidToken):
        await checking.connection(old)
    await checking.aclose()


async def test_unknown_keys_are_asked_for_once_in_ten_seconds(
    provider: Provider, clock: Clock, one: PrivateKey, two: PrivateKey
) -> None:
    """Until then an unknown key is not invalid: the client may reconnect, and is not rejected for good."""
    provider.publish(one=one)
    keys = KeySet(provider.url, clock=clock)

    assert await keys.find("two", "ES256") is None
    for _ in range(5):
        clock.now_s += MIN_FETCH_INTERVAL_S / 6
        with pytest.raises(KeysUnavailable):
            await keys.find("two", "ES256")
    assert provider.request_count == 1

    provider.publish(one=one, two=two)
    clock.now_s += MIN_FETCH_INTERVAL_S
    assert await keys.find("two", "ES256") is not None
    assert provider.request_count == 2
    await keys.aclose()


async def test_all_who_wait_share_one_fetch_and_one_who_leaves_does_not_end_it(
    provider: Provider, clock: Clock, one: PrivateKey
) -> None:
    provider.publish(one=one)
    provider.gate.clear()
    keys = KeySet(provider.url, clock=clock)
    waiting = [asyncio.create_task(keys.find("one", "ES256")) for _ in range(100)]

    async def is_asked() -> bool:
        return provider.request_count == 1

    await eventually(is_asked)
    waiting[0].cancel()
    provider.gate.set()

    assert all(key is not None for key in await asyncio.gather(*waiting[1:]))
    assert provider.request_count == 1
    await keys.aclose()


async def test_old_keys_are_fetched_anew_and_a_withdrawn_one_is_not_taken_once_more(
    provider: Provider, clock: Clock, one: PrivateKey, two: PrivateKey
) -> None:
    provider.publish(one=one)
    keys = KeySet(provider.url, clock=clock)
    assert await keys.find("one", "ES256") is not None

    provider.publish(two=two)
    clock.now_s += REFRESH_INTERVAL_S

    assert await keys.find("one", "ES256") is None
    assert provider.request_count == 2
    await keys.aclose()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (404, b"{}"),
        (302, b'{"keys": []}'),
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"keys": {}}'),
        (200, b'{"keys": [1]}'),
        (200, json.dumps({"keys": [{}] * 101}).encode()),
        (200, b'{"keys": [' + b" " * 300_000 + b"]}"),
    ],
)
async def test_keys_are_kept_while_the_url_gives_none(
    provider: Provider, clock: Clock, one: PrivateKey, status: int, body: bytes
) -> None:
    provider.publish(one=one)
    keys = KeySet(provider.url, clock=clock)
    assert await keys.find("one", "ES256") is not None

    provider.status, provider.body = status, body
    for _ in range(3):
        clock.now_s += REFRESH_INTERVAL_S
        assert await keys.find("one", "ES256") is not None
        with pytest.raises(KeysUnavailable):
            await keys.find("two", "ES256")
    await keys.aclose()


async def test_while_the_url_is_down_nobody_waits_for_keys_that_are_known(
    provider: Provider, clock: Clock, one: PrivateKey
) -> None:
    provider.publish(one=one)
    keys = KeySet(provider.url, clock=clock)
    await keys.find("one", "ES256")
    provider.status = 503
    clock.now_s += REFRESH_INTERVAL_S
    await keys.find("one", "ES256")

    provider.gate.clear()
    clock.now_s += MIN_FETCH_INTERVAL_S
    async with asyncio.timeout(1):
        assert await keys.find("one", "ES256") is not None

    await keys.aclose()  # ends the fetch that hangs


async def test_a_url_that_nobody_serves_is_temporary(clock: Clock, one: PrivateKey) -> None:
    checking = TokenVerifier([], key_set=KeySet("http://127.0.0.1:1/keys", clock=clock))

    with pytest.raises(KeysUnavailable):
        await checking.connection(signed({}, one, "ES256", kid="one"))
    await checking.aclose()


async def test_symmetric_keys_and_those_for_other_uses_are_ignored(
    provider: Provider, clock: Clock, one: PrivateKey, two: PrivateKey
) -> None:
    provider.body = json.dumps(
        {
            "keys": [
                {"kty": "oct", "kid": "s", "alg": "HS256", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"},
                public_jwk(one, kid="one", use="enc"),
                public_jwk(two, kid="two", use="sig", alg="ES256"),
            ]
        }
    ).encode()
    checking = TokenVerifier([], key_set=KeySet(provider.url, clock=clock))

    await checking.connection(signed({}, two, "ES256", kid="two"))

    with pytest.raises(InvalidToken, match="no key here"):
        await checking.connection(signed({}, "0123456789abcdef0123456789abcdef", "HS256", kid="s"))
    clock.now_s += MIN_FETCH_INTERVAL_S
    with pytest.raises(InvalidToken):
        await checking.connection(signed({}, one, "ES256", kid="one"))
    await checking.aclose()


async def test_a_token_without_a_key_id_is_taken_while_there_is_only_one_key_for_it(
    provider: Provider, clock: Clock, one: PrivateKey, two: PrivateKey
) -> None:
    provider.publish(one=one, other=private_key("RS256"))
    checking = TokenVerifier([], key_set=KeySet(provider.url, clock=clock))
    token = signed({}, one, "ES256")

    await checking.connection(token)

    provider.publish(one=one, two=two)
    clock.now_s += REFRESH_INTERVAL_S
    with pytest.raises(InvalidToken):
        await checking.connection(token)
    await checking.aclose()


async def test_an_algorithm_of_secrets_asks_nobody(provider: Provider, clock: Clock) -> None:
    checking = TokenVerifier([], key_set=KeySet(provider.url, clock=clock))

    for algorithm in ("HS256", "HS512"):
        with pytest.raises(InvalidToken, match="no key here"):
            await checking.connection(signed({}, SECRET, algorithm, kid="one"))

    assert provider.request_count == 0
    await checking.aclose()


async def test_the_public_key_of_a_set_is_no_secret(provider: Provider, clock: Clock, one: PrivateKey) -> None:
    provider.publish(one=one)
    checking = TokenVerifier([], key_set=KeySet(provider.url, clock=clock))
    await checking.connection(signed({}, one, "ES256", kid="one"))

    for text in (public_pem(one).decode()[27:], json.dumps(public_jwk(one, kid="one"))[1:]):
        with pytest.raises(InvalidToken, match="no key here"):
            await checking.connection(signed({"sub": "admin"}, text, "HS256", kid="one"))
    await checking.aclose()
