from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm
from pydantic import SecretStr

from roomcast.auth.keys import jwk_key, local_keys, pem_key, secret_key
from roomcast.config import ConfigError, Settings
from tests.support.tokens import SECRET, private_key, public_jwk, public_pem

RSA = {"RS256", "RS384", "RS512"}


@pytest.mark.parametrize(
    ("length", "algorithms"),
    [(32, {"HS256"}), (48, {"HS256", "HS384"}), (64, {"HS256", "HS384", "HS512"})],
)
def test_a_secret_is_used_with_the_hashes_that_are_no_longer(length: int, algorithms: set[str]) -> None:
    assert secret_key("x" * length).algorithms == algorithms


def test_a_short_secret_is_used_with_every_hash_where_that_is_allowed() -> None:
    assert secret_key("secret").algorithms == frozenset()
    assert secret_key("secret", may_be_short=True).algorithms == {"HS256", "HS384", "HS512"}


def test_a_secret_that_is_a_public_key_is_refused() -> None:
    for text in (public_pem(private_key("ES256")).decode(), '{"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}'):
        with pytest.raises(ValueError, match="another kind"):
            secret_key(text)


@pytest.mark.parametrize(
    ("algorithm", "algorithms"),
    [("RS256", RSA), ("ES256", {"ES256"}), ("ES384", {"ES384"}), ("ES512", {"ES512"}), ("EdDSA", {"EdDSA"})],
)
def test_a_public_key_is_for_the_algorithms_of_its_kind(algorithm: str, algorithms: set[str]) -> None:
    key = private_key(algorithm)

    assert pem_key(public_pem(key)).algorithms == algorithms
    assert jwk_key(public_jwk(key)).algorithms == algorithms
    assert jwk_key(public_jwk(key, alg=algorithm, use="sig", key_ops=["verify"])).algorithms == {algorithm}


def spki_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def test_a_pem_that_is_no_usable_public_key_is_refused() -> None:
    key = private_key("ES256")
    private_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    weak = public_pem(private_key("RS256", bits=1024))

    for pem, reason in [
        (b"", "no public key"),
        (b"hello", "no public key"),
        (private_pem, "no public key"),
        (weak, "1024 bits"),
        (spki_pem(ec.generate_private_key(ec.SECP256K1())), "another kind"),
        (spki_pem(X25519PrivateKey.generate()), "another kind"),
    ]:
        with pytest.raises(ValueError, match=reason):
            pem_key(pem)


@pytest.mark.parametrize(
    "members",
    [
        {"kty": "oct", "k": "AAAA"},
        {"kty": None},
        {"kty": "XYZ"},
        {"d": "AAAA"},
        {"use": "enc"},
        {"use": 5},
        {"key_ops": ["sign"]},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": "RS512"},
        {"alg": "ES384"},
        {"alg": 5},
        {"alg": []},
        {"kty": []},
        {"key_ops": "verify"},
        {"x": "AAAA"},
        {"x": 5},
        {"crv": "P-999"},
        {"crv": "P-384"},
    ],
)
def test_a_jwk_that_is_no_public_key_for_signatures_is_refused(members: dict[str, Any]) -> None:
    jwk = public_jwk(private_key("ES256")) | members

    with pytest.raises(ValueError, match=r"."):
        jwk_key(jwk)


def test_a_private_key_in_a_set_is_refused() -> None:
    """It is published by mistake: every reader could sign with it."""
    whole = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1())))

    assert jwk_key({name: value for name, value in whole.items() if name != "d"}).algorithms
    with pytest.raises(ValueError, match="not a public key"):
        jwk_key(whole)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "alg", "key_ops", "kid"]),
        st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "sig", "verify", ""])
        | st.none()
        | st.integers()
        | st.lists(st.text(max_size=3), max_size=2)
        | st.text(max_size=5),
    )
)
def test_any_object_is_a_key_or_refused(jwk: dict[str, Any]) -> None:
    try:
        jwk_key(jwk)
    except ValueError as exc:
        assert str(exc)  # noqa: PT017  (any other exception fails the test)


def test_keys_that_openssl_makes_are_taken(tmp_path: Path) -> None:
    commands = {
        "RSA": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "EC": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "ED25519": ["genpkey", "-algorithm", "ED25519"],
    }
    for name, command in commands.items():
        private, public = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        subprocess.run(["openssl", *command, "-out", str(private)], check=True, capture_output=True)
        subprocess.run(["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)], check=True)

        (key,) = local_keys(Settings(public_key_file=public))
        assert key.algorithms


def test_settings_whose_keys_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("hello")

    for path in (tmp_path / "bad.pem", tmp_path / "none.pem", tmp_path):
        with pytest.raises(ConfigError, match=r"^ROOMCAST_PUBLIC_KEY_FILE: .*"):
            local_keys(Settings(public_key_file=path))
    jwk = '{"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}'
    with pytest.raises(ConfigError, match=r"^ROOMCAST_SECRET: "):
        local_keys(Settings(secret=SecretStr(jwk)))
    with pytest.raises(ConfigError, match=r"^ROOMCAST_PREVIOUS_SECRET: ") as caught:
        local_keys(Settings(secret=SecretStr(SECRET), previous_secret=SecretStr(jwk)))
    assert "AAAA" not in str(caught.value)
