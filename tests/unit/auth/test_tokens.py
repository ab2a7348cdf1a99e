from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from roomcast.auth import ConnectionClaims, ExpiredToken, InvalidToken
from roomcast.auth.keys import Key, pem_key, secret_key
from roomcast.auth.tokens import MAX_TOKEN_BYTES, TokenVerifier, read_verifier
from roomcast.config import Settings
from tests.support.tokens import SECRET, now_s, private_key, public_pem, signed

pytestmark = pytest.mark.anyio

OTHER_SECRET = "f" * 64


def verifier(*keys: Key, **options: Any) -> TokenVerifier:
    return TokenVerifier(keys or [secret_key(SECRET)], **options)


async def refusal(token: str, checking: TokenVerifier | None = None) -> str:
    with pytest.raises(InvalidToken) as caught:
        await (checking or verifier()).connection(token)
    return caught.value.reason


def forged(header: dict[str, Any], claims: dict[str, Any], key: bytes = b"") -> str:
    """Return an attacker's token, made without a library that would refuse to."""

    def encode(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    signing_input = encode(json.dumps(header).encode()) + b"." + encode(json.dumps(claims).encode())
    signature = hmac.new(key, signing_input, hashlib.sha256).digest() if key else b""
    return (signing_input + b"." + encode(signature)).decode()


async def test_the_forger_of_these_tests_can_write_a_good_token() -> None:
    token = forged({"alg": "HS256"}, {"sub": "42"}, SECRET.encode())

    assert (await verifier().connection(token)).user == "42"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_token_signed_with_the_secret_is_taken(algorithm: str) -> None:
    claims = await verifier().connection(signed({"sub": "42"}, SECRET, algorithm))

    assert isinstance(claims, ConnectionClaims)
    assert claims.user == "42"


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"])
async def test_a_token_signed_with_the_private_key_is_taken(algorithm: str) -> None:
    key = private_key(algorithm)
    checking = verifier(pem_key(public_pem(key)))

    assert (await checking.connection(signed({"sub": "42"}, key, algorithm))).user == "42"
    stranger = private_key(algorithm)
    assert await refusal(signed({}, stranger, algorithm), checking) == "signed with a key that is none of ours"


async def test_a_secret_too_short_for_an_algorithm_is_not_used_with_it() -> None:
    checking = verifier(secret_key(SECRET[:32]))

    await checking.connection(signed({}, SECRET[:32], "HS256"))

    token = forged({"alg": "HS512"}, {}, SECRET[:32].encode())
    assert await refusal(token, checking) == "signed with 'HS512', for which there is no key here"


async def test_during_a_rotation_both_secrets_hold_and_no_third() -> None:
    checking = verifier(secret_key(SECRET), secret_key(OTHER_SECRET))

    for secret in (SECRET, OTHER_SECRET):
        assert (await checking.connection(signed({"sub": "42"}, secret))).user == "42"
    assert "none of ours" in await refusal(signed({}, "e" * 64), checking)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "HS257", "HMAC", "dir"])
async def test_what_a_token_says_of_its_algorithm_opens_nothing(algorithm: str) -> None:
    for key in (b"", SECRET.encode()):
        assert "no key here" in await refusal(forged({"alg": algorithm, "typ": "JWT"}, {"sub": "admin"}, key))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_public_key_is_no_secret(algorithm: str) -> None:
    """A known attack: the text of the public key is used as an HMAC secret, and `alg` says HS256."""
    pem = public_pem(private_key(algorithm))

    for checking in (verifier(pem_key(pem)), verifier(secret_key(SECRET), pem_key(pem))):
        for key in (pem, pem.strip()):
            await refusal(forged({"alg": "HS256"}, {"sub": "admin"}, key), checking)


async def test_a_key_that_a_token_brings_along_is_not_looked_at() -> None:
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode()}
    header = {"alg": "HS256", "jwk": jwk, "jku": "http://127.0.0.1:1/", "kid": "../../dev/null"}

    assert "none of ours" in await refusal(forged(header, {"sub": "admin"}, b"x" * 32))


async def test_an_extension_that_must_be_understood_is_refused() -> None:
    for name in ("exp2", "x" * 5000):
        reason = await refusal(forged({"alg": "HS256", "crit": [name], name: 1}, {}, SECRET.encode()))

        assert name[:4] in reason
        assert len(reason) <= 120


async def test_an_expired_token_is_told_from_a_bad_one() -> None:
    with pytest.raises(ExpiredToken):
        await verifier().connection(signed({"exp": now_s() - 60}))
    assert "none of ours" in await refusal(signed({"exp": now_s() - 60}, OTHER_SECRET))


async def test_clocks_may_differ_by_the_leeway() -> None:
    late, early = signed({"exp": now_s() - 3}), signed({"nbf": now_s() + 10})

    await verifier(leeway_s=30).connection(late)
    await verifier(leeway_s=30).connection(early)
    with pytest.raises(ExpiredToken):
        await verifier(leeway_s=0).connection(late)
    with pytest.raises(ExpiredToken, match="nbf"):
        await verifier(leeway_s=0).connection(early)


@pytest.mark.parametrize("value", [pytest.param(now_s() + 3600, id="ahead"), "soon", None, 1.5])
async def test_the_time_of_issue_is_no_reason_to_refuse_a_token(value: object) -> None:
    assert (await verifier().connection(forged({"alg": "HS256"}, {"sub": "42", "iat": value}, SECRET.encode()))).user


async def test_a_token_that_is_not_valid_yet_is_answered_as_an_expired_one() -> None:
    for check, claims in ((verifier().connection, {}), (verifier().subscription, {"channel": "room:a"})):
        with pytest.raises(ExpiredToken, match="nbf"):
            await check(signed({"nbf": now_s() + 60, **claims}))


async def test_claims_that_are_null_are_missing() -> None:
    claims = dict.fromkeys(CLAIMS)

    assert (await verifier().connection(forged({"alg": "HS256"}, claims, SECRET.encode()))) == ConnectionClaims(
        user="", subs={}
    )


@pytest.mark.parametrize("space", ["\n", "\r\n", " "])
async def test_a_line_end_behind_a_token_is_no_part_of_it(space: str) -> None:
    assert (await verifier().connection(signed({"sub": "42"}) + space)).user == "42"
    assert await verifier().payload(signed({"sub": "42"}) + space)


# What providers put into access and id tokens, beside `sub`, `iss` and `exp`; shortened.
PROVIDERS: dict[str, dict[str, Any]] = {
    "Auth0": {
        "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "aud": ["rooms", "https://my-domain.auth0.com/userinfo"],
        "azp": "my_client_id",
        "scope": "openid profile",
        "gty": "password",
        "permissions": ["read:items"],
    },
    "Keycloak": {
        "sub": "f:0e0cd1b0:jo",
        "aud": "rooms",
        "nbf": 0,
        "auth_time": 0,
        "typ": "Bearer",
        "acr": "1",
        "allowed-origins": ["*"],
        "realm_access": {"roles": ["user"]},
        "resource_access": {"account": {"roles": ["view-profile"]}},
        "authorization": {"permissions": [{"rsid": "1", "scopes": ["view"]}]},
        "groups": ["/a"],
    },
    "Cognito": {
        "sub": "aaaaaaaa-bbbb-cccc-dddd-example",
        "aud": "rooms",
        "token_use": "id",
        "cognito:groups": ["admins"],
        "identities": [{"userId": "1", "primary": "true"}],
        "email_verified": True,
        "auth_time": 1500009400,
        "event_id": "64f513be",
    },
    "Firebase": {
        "sub": "abc",
        "aud": "rooms",
        "user_id": "abc",
        "firebase": {"identities": {"email": ["a@b.c"]}, "sign_in_provider": "password"},
        "permissions": {"admin": True},
    },
    "Azure AD": {
        "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
        "aud": "rooms",
        "nbf": 1536361411,
        "aio": "AXQAi/8IAAAA",
        "roles": ["Task.Read"],
        "scp": "access_as_user",
        "ver": "2.0",
        "xms_tcdt": 1400000000,
    },
}


@pytest.mark.parametrize("claims", PROVIDERS.values(), ids=PROVIDERS)
async def test_the_tokens_of_identity_providers_are_valid_without_permissions(claims: dict[str, Any]) -> None:
    found = await verifier(audience="rooms").connection(signed({"iat": now_s() + 60, "jti": 5, **claims}))

    assert (found.user, found.grants, found.info, found.channels) == (claims["sub"], (), b"", ())


@pytest.mark.parametrize("claim", ["exp", "nbf"])
@pytest.mark.parametrize("value", ["soon", [], {}, "9" * 5000])
async def test_a_time_that_is_none_is_refused(claim: str, value: object) -> None:
    token = forged({"alg": "HS256"}, {claim: value}, SECRET.encode())

    assert claim in await refusal(token)


@pytest.mark.parametrize(
    ("wanted", "claims", "is_good"),
    [
        ("rooms", {"aud": "rooms"}, True),
        ("rooms", {"aud": ["other", "rooms"]}, True),
        ("rooms", {"aud": "other"}, False),
        ("rooms", {"aud": ["other"]}, False),
        ("rooms", {"aud": 5}, False),
        ("rooms", {}, False),
        (None, {}, True),
        (None, {"aud": "other"}, False),  # RFC 7519 4.1.3: it is not for us
    ],
)
async def test_a_token_is_for_the_audience_that_it_names(
    wanted: str | None, claims: dict[str, Any], is_good: bool
) -> None:
    checking = verifier(audience=wanted)

    if is_good:
        await checking.connection(signed(claims))
    else:
        await refusal(signed(claims), checking)


@pytest.mark.parametrize(
    ("wanted", "claims", "is_good"),
    [
        ("https://id.example", {"iss": "https://id.example"}, True),
        ("https://id.example", {"iss": "https://evil.example"}, False),
        ("https://id.example", {"iss": ["https://id.example"]}, False),
        ("https://id.example", {}, False),
        (None, {"iss": "anyone"}, True),
    ],
)
async def test_a_token_is_of_the_issuer_that_is_wanted(
    wanted: str | None, claims: dict[str, Any], is_good: bool
) -> None:
    checking, token = verifier(issuer=wanted), forged({"alg": "HS256"}, claims, SECRET.encode())

    if is_good:
        await checking.connection(token)
    else:
        assert "iss" in (await refusal(token, checking)).lower()


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "hello",
        "\x00.\x00.\x00",
        "ß.ß.ß",
        "\ud800.\ud800.",
        "e30.e30.",
        "W10.e30.e30",
        "bnVsbA.e30.e30",
        "eyJhbGciOiJIUzI1NiJ9.\ud800.e30",
        "eyJhbGciOiJIUzI1NiJ9.e30.\u00df",
        "eyJhbGciOjF9.e30.e30",
        "eyJhbGciOiJIUzI1NiIsImtpZCI6MX0.e30.e30",
    ],
)
async def test_garbage_is_refused(token: str) -> None:
    await refusal(token)


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"[]", b'"x"', b"{", b'{"sub": NaN}', b'{"sub": "\xff"}', b'{"a":' * 5000, b"[" * 5000]
)
async def test_claims_that_are_no_object_are_refused_though_they_are_signed(payload: bytes) -> None:
    token = jwt.PyJWS().encode(payload, SECRET, "HS256")

    await refusal(token)


async def test_a_token_is_bounded_in_length() -> None:
    assert len(signed({"info": "x" * 900, "meta": "x" * 10_000})) < MAX_TOKEN_BYTES
    await verifier().connection(signed({"info": "x" * 900, "meta": "x" * 10_000}))

    started_s = time.process_time()
    assert await refusal("a" * 1_000_000) == "1000000 characters, at most 16384 are allowed"
    assert "characters, at most" in await refusal(signed({"meta": "x" * 1_000_000}))
    assert time.process_time() - started_s < 0.5


async def test_every_changed_character_is_noticed() -> None:
    token = signed({"sub": "42"})

    for place, character in enumerate(token):
        changed = token[:place] + ("A" if character != "A" else "B") + token[place + 1 :]
        await refusal(changed)


@settings(max_examples=300)
@given(st.text() | st.binary().map(lambda data: base64.urlsafe_b64encode(data).decode() + ".e30.e30"))
async def test_no_text_is_anything_but_refused(text: str) -> None:
    await refusal(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CLAIMS = ["sub", "exp", "iat", "nbf", "aud", "iss", "jti", "info", "b64info", "channels", "subs", "meta", "expire_at"]


@settings(max_examples=400)
@given(
    st.dictionaries(st.sampled_from([*CLAIMS, "permissions", "channel", "data", "override"]), json_values, max_size=4)
)
async def test_whatever_a_signed_token_says_it_is_taken_or_refused(claims: dict[str, Any]) -> None:
    token = forged({"alg": "HS256"}, claims, SECRET.encode())

    for check in (verifier().connection, verifier().subscription):
        try:
            await check(token)
        except (InvalidToken, ExpiredToken):
            continue


async def test_the_settings_make_a_verifier_of_all_their_keys(tmp_path: Path) -> None:
    key = private_key("ES256")
    file = tmp_path / "key.pem"
    file.write_bytes(public_pem(key))
    checking = read_verifier(
        Settings(
            secret=SecretStr(SECRET),
            previous_secret=SecretStr(OTHER_SECRET),
            public_key_file=file,
            token_audience="rooms",
            token_issuer="app",
        )
    )
    claims = {"sub": "42", "aud": "rooms", "iss": "app"}

    for token in (signed(claims), signed(claims, OTHER_SECRET), signed(claims, key, "ES256")):
        assert (await checking.connection(token)).user == "42"
    await refusal(signed({**claims, "aud": "other"}), checking)
    await refusal(signed({**claims, "iss": "other"}), checking)
    await checking.aclose()
